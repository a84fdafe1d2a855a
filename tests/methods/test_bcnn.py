"""Bilinear CNN as a method."""

import pytest
import torch
import torch.nn.functional as F

from fgvc_lib.backbones import resnet, vgg
from fgvc_lib.methods import METHODS, BilinearCNN

SECOND = {"backbone": "vgg", "depth": 11, "width": 8, "blocks": 2}


def small(classes=3, **arguments):
    return BilinearCNN(resnet("small", width=4), classes, **arguments)


def batch(n=4, size=(16, 16)):
    return torch.randn(n, 3, *size), torch.arange(n) % 3


def test_one_stream_is_the_formula():
    method, (images, labels) = small(eps=1e-12).double(), batch()
    images = images.double()
    out = method(images, labels)
    x = out.maps["features"]  # (4, 16, 2, 2)
    phi = torch.einsum("bmhw,bnhw->bmn", x, x) / 4
    torch.testing.assert_close(out.maps["bilinear"], phi)
    z = F.normalize((phi.sign() * phi.abs().sqrt()).flatten(1))
    logits = z @ method.head.weight.T + method.head.bias
    torch.testing.assert_close(out.logits, logits, atol=1e-4, rtol=0)
    torch.testing.assert_close(out.loss, F.cross_entropy(out.logits, labels))


def test_two_streams_of_different_channels_and_strides():
    method, (images, labels) = small(second=SECOND), batch()
    out = method(images, labels)
    a, b = out.maps["features"], out.maps["features_second"]
    assert a.shape[1:] == (16, 2, 2)
    assert b.shape[1:] == (16, 8, 8)
    b = F.avg_pool2d(b, 4)
    torch.testing.assert_close(out.maps["bilinear"], torch.einsum("bmhw,bnhw->bmn", a, b) / 4)
    wider = small(second={**SECOND, "width": 4})
    assert wider(images, labels).maps["bilinear"].shape == (4, 16, 8)
    out.loss.backward()
    assert all(p.grad is not None and p.grad.any() for p in method.second.parameters() if p.ndim > 1)


@pytest.mark.parametrize("second", [None, SECOND])
def test_every_parameter_gets_a_gradient_on_any_map(second):
    method, (images, labels) = small(second=second), batch(5, (16, 24))
    method(images, labels).loss.backward()
    assert all(p.grad is not None for p in method.parameters())


def test_two_phases_head_first():
    method = small(head_fraction=0.25, head_lr_scale=100.0)
    head, everything = method.phases()
    assert (head.fraction, head.name) == (0.25, "head")
    assert [p.shape for p in head.groups[0]["params"]] == [(3, 256), (3,)]
    assert head.groups[0]["lr_scale"] == 100.0
    assert everything.fraction == 0.75
    assert len(everything.groups[0]["params"]) == len(list(method.parameters()))
    (only,) = small(head_fraction=0).phases()
    assert only.fraction == 1


def test_first_phase_moves_the_head_only():
    method, (images, labels) = small(), batch()
    phase = method.phases()[0]
    before = {k: v.clone() for k, v in method.named_parameters()}
    optimizer = torch.optim.SGD([{**g, "lr": 0.1 * g.pop("lr_scale")} for g in phase.groups])
    first = method(images, labels).loss
    for _ in range(5):
        optimizer.zero_grad()
        loss = method(images, labels).loss
        loss.backward()
        optimizer.step()
    assert loss < first
    moved = {k for k, v in method.named_parameters() if not torch.equal(v, before[k])}
    assert moved == {"head.weight", "head.bias"}


def test_evaluation_ignores_labels_and_takes_one_image():
    method, (images, labels) = small().eval(), batch(1)
    with_labels, without = method(images, labels), method(images)
    assert torch.equal(with_labels.logits, without.logits)
    assert with_labels.terms == {} == with_labels.state
    assert with_labels.logits.shape == (1, 3)


def test_orderless():
    # a 1×1 network sees no neighborhood, so shuffling pixels must leave the prediction alone
    from torch import nn

    from fgvc_lib.backbones import Backbone

    net = Backbone({"only": nn.Conv2d(3, 5, 1)}, {"only": 5}, {"only": 1})
    method, images = BilinearCNN(net, 2).eval(), torch.randn(2, 3, 4, 4)
    shuffled = images.flatten(2)[:, :, torch.randperm(16)].view_as(images)
    torch.testing.assert_close(method(shuffled).logits, method(images).logits)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_inside_autocast(dtype):
    method, (images, labels) = small(), batch()
    with torch.autocast("cpu", dtype=dtype):
        out = method(images, labels)
    out.loss.backward()
    assert out.maps["bilinear"].dtype == torch.float32
    assert all(p.grad.isfinite().all() for p in method.parameters())


def test_from_plain_data():
    assert METHODS["bcnn"] is BilinearCNN
    method = METHODS["bcnn"](vgg(11, width=8, blocks=3), 3, second=SECOND, root=False, normalize=False)
    assert method(*batch()).logits.shape == (4, 3)


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="head_fraction must be less than 1, got"):
        small(head_fraction=1.5)
    with pytest.raises(ValueError, match="head_lr_scale must be greater than 0, got 0"):
        small(head_lr_scale=0)
    with pytest.raises(ValueError, match=r"second must name its backbone, one of resnet.*got \{'depth': 11\}"):
        small(second={"depth": 11})
