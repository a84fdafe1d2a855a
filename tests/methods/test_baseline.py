"""The plain network: pool, head, cross-entropy, and nothing else."""

import pytest
import torch
import torch.nn.functional as F

from fgvc_lib.backbones import resnet
from fgvc_lib.methods import Baseline


@pytest.mark.parametrize("pool", ["avg", "max"])
@pytest.mark.parametrize("head", ["linear", "bn_elu"])
def test_the_last_stage_is_pooled_and_classified(pool, head):
    method = Baseline(resnet("small", width=4), 5, head=head, hidden=6, pool=pool).eval()
    images, labels = torch.randn(3, 3, 32, 32), torch.tensor([0, 4, 2])
    out, features = method(images), method.backbone(images)["layer3"]
    assert torch.equal(out.maps["features"], features)
    pooled = features.mean((2, 3)) if pool == "avg" else features.amax((2, 3))
    torch.testing.assert_close(out.logits, method.head(pooled))
    if head == "bn_elu":
        assert method.head[1].out_features == 6
    trained = method.train()(images, labels)
    assert list(trained.terms) == ["ce"]
    torch.testing.assert_close(trained.loss, F.cross_entropy(trained.logits, labels))


def test_bad_arguments_are_refused():
    for arguments, message in (
        ({"head": "mlp"}, "Baseline: head must be 'linear' or 'bn_elu', got 'mlp'"),
        ({"pool": "sum"}, "Baseline: pool must be 'avg' or 'max', got 'sum'"),
        ({"heads": 1}, "Baseline: unknown argument heads: choose from"),
    ):
        with pytest.raises(ValueError, match=message):
            Baseline(resnet("small", width=4), 5, **arguments)
