"""Center Loss as a method: Eq. 5 through the interface that the loop sees."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fgvc_lib.backbones import lenet_pp, resnet
from fgvc_lib.config import Config
from fgvc_lib.data import ImageData, Split
from fgvc_lib.methods import METHODS, Center
from fgvc_lib.train import fit


def small(**arguments):
    return Center(lenet_pp(feature_dim=2, image_size=8), 4, **arguments)


def batch(n=6):
    return torch.randn(n, 1, 8, 8), torch.arange(n) % 4


def test_terms_are_cross_entropy_and_weighted_center_loss():
    method, (images, labels) = small(weight=0.3), batch()
    out = method(images, labels)
    x = out.state["features"]
    assert torch.equal(out.state["labels"], labels)
    torch.testing.assert_close(out.terms["ce"], F.cross_entropy(out.logits, labels))
    expected = 0.3 * 0.5 * (x - method.center_loss.centers[labels]).square().sum() / len(labels)
    torch.testing.assert_close(out.terms["center"], expected)
    torch.testing.assert_close(out.loss, out.terms["ce"] + out.terms["center"])


def test_sum_reduction_is_the_batch_times_the_mean():
    images, labels = batch()
    mean, total = small(weight=0.3), small(weight=0.3, reduction="sum")
    total.load_state_dict(mean.state_dict())
    torch.testing.assert_close(total(images, labels).loss, len(labels) * mean(images, labels).loss)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_gradient_accumulation_changes_neither_the_step_nor_the_logged_terms(reduction):
    """One step of 8 images in 1, 2 and 4 micro-batches: the same terms, centers and, as the rate is one, gradients."""
    pixels = np.random.default_rng(0).integers(0, 255, (8, 3, 16, 16), dtype=np.uint8)
    split = Split(pixels, torch.arange(8) % 4)
    data = ImageData(
        name="tiny", fingerprint="0", classes=tuple("abcd"), train=split, val=split, test=split,
        mean=(0.5,) * 3, std=(0.3,) * 3, augment=(),
    )  # fmt: skip
    runs = {}
    for accumulate in (1, 2, 4):
        config = Config(
            method="center", method_args={"weight": 0.5, "reduction": reduction}, backbone="lenet_pp",
            batch_size=8, grad_accum_steps=accumulate, max_steps=1, warmup=0.0, lr=0.01, momentum=0.0, weight_decay=0.0,
        )  # fmt: skip
        fitted = fit(config, data=data)
        runs[accumulate] = {key: fitted.history[0][key] for key in ("ce", "center")} | fitted.method.state_dict()
    for accumulate in (2, 4):
        torch.testing.assert_close(runs[accumulate], runs[1])


def test_inside_channel_interaction_a_sum_stays_one_too():
    images, labels = torch.randn(8, 3, 32, 32), torch.arange(8) % 4
    arguments = {"base": "center", "base_args": {"reduction": "sum"}, "sampler": None}
    method = METHODS["cin"](resnet("small", width=4), 4, **arguments)
    once = method(images, labels).terms
    method.splits = 2
    twice = method(images, labels).terms
    for name in ("ce", "center"):
        torch.testing.assert_close(twice[name], 2 * once[name])


def test_every_term_reaches_the_backbone_and_the_same_parameters_always_get_a_gradient():
    method, (images, labels) = small(), batch()
    out = method(images, labels)
    reached = {}
    for name, term in out.terms.items():
        grads = torch.autograd.grad(term, list(method.parameters()), retain_graph=True, allow_unused=True)
        reached[name] = {
            k for (k, _), g in zip(method.named_parameters(), grads, strict=True) if g is not None and g.any()
        }
    everything = {k for k, _ in method.named_parameters()}
    assert reached["ce"] == everything
    assert reached["center"] == everything - {"classifier.weight"}
    off = small(weight=0.0)
    off(images, labels).loss.backward()
    assert all(p.grad is not None for p in off.parameters())


def test_after_step_uses_all_micro_batches_at_once():
    whole, parts = small(), small()
    parts.load_state_dict(whole.state_dict())
    images, labels = batch(8)
    before = whole.center_loss.centers.clone()
    whole.after_step([whole(images, labels).state])
    parts.after_step([parts(images[:3], labels[:3]).state, parts(images[3:], labels[3:]).state])
    torch.testing.assert_close(parts.center_loss.centers, whole.center_loss.centers)
    assert not torch.equal(whole.center_loss.centers, before)


def test_evaluation_ignores_labels_and_moves_nothing():
    method, (images, labels) = small().eval(), batch(1)
    with_labels, without = method(images, labels), method(images)
    assert torch.equal(with_labels.logits, without.logits)
    assert with_labels.terms == {} == with_labels.state
    assert with_labels.maps["embedding"].shape == (1, 2)
    with pytest.raises(ValueError, match="no loss terms"):
        _ = with_labels.loss


def test_training_without_labels_and_bad_batches_are_refused():
    method, (images, labels) = small(), batch()
    with pytest.raises(ValueError, match="labels are needed in training mode"):
        method(images)
    with pytest.raises(ValueError, match=r"images must be a float tensor"):
        method(images[0], labels)
    with pytest.raises(ValueError, match=r"labels must be integers of shape \(6,\)"):
        method(images, labels[:2])
    with pytest.raises(ValueError, match="weight must be greater than or equal to 0, got -1"):
        small(weight=-1)
    with pytest.raises(ValueError, match="reduction must be 'mean' or 'sum', got 'none'"):
        small(reduction="none")


def test_works_on_any_backbone_with_a_wider_feature():
    method = Center(resnet("small", width=4), 5)
    out = method(torch.randn(2, 3, 32, 32), torch.tensor([0, 4]))
    assert out.state["features"].shape == (2, 16)
    assert method.center_loss.centers.shape == (5, 16)


def test_two_ranks_train_like_one_process(run_ranks):
    """Gradients of both reductions and the centers, DistributedDataParallel against one process."""

    def train(rank, world_size):
        import torch
        from torch.nn.parallel import DistributedDataParallel

        from fgvc_lib.backbones import lenet_pp
        from fgvc_lib.methods import Center

        result = {}
        for reduction in ("mean", "sum"):
            torch.manual_seed(1)
            method = Center(lenet_pp(feature_dim=2, image_size=8), 4, weight=0.5, reduction=reduction)
            method.splits = world_size
            images, labels = torch.randn(8, 1, 8, 8), torch.tensor([0, 1, 2, 0, 3, 3, 1, 0])
            parallel = DistributedDataParallel(method) if world_size > 1 else method
            mine = slice(rank * 8 // world_size, (rank + 1) * 8 // world_size)
            out = parallel(images[mine], labels[mine])
            out.loss.backward()
            method.after_step([out.state])
            result[reduction] = [p.grad for p in method.parameters()] + [method.center_loss.centers]
        return result

    one, two = run_ranks(train, 1)[0], run_ranks(train, 2)
    for reduction in ("mean", "sum"):
        for a, b, c in zip(one[reduction], two[0][reduction], two[1][reduction], strict=True):
            torch.testing.assert_close(b, a)
            assert torch.equal(b, c)
