"""Mutual-Channel Loss through the interface that the training loop sees."""

import pytest
import torch
import torch.nn.functional as F

from fgvc_lib.backbones import resnet, vgg
from fgvc_lib.losses.mutual_channel import channel_mask, mutual_channel_loss
from fgvc_lib.losses.pairwise_confusion import pairwise_confusion
from fgvc_lib.methods import METHODS, Baseline, MutualChannel
from fgvc_lib.methods.mutual_channel import class_maps

CLASSES = 4


def small(channels=12, **arguments):
    return MutualChannel(resnet("small", width=4, last_channels=channels), CLASSES, hidden=8, **arguments)


def batch(n=4, size=32):
    return torch.randn(n, 3, size, size), torch.arange(n) % CLASSES


def test_terms_are_cross_entropy_and_the_weighted_loss_on_the_map():
    method, (images, labels) = small(xi=3, mu=0.5, lam=4.0), batch()
    method.seed(7)
    keep = channel_mask(12, CLASSES, generator=torch.Generator().manual_seed(7))
    out = method(images, labels)
    raw = mutual_channel_loss(out.maps["features"], labels, CLASSES, keep=keep)
    assert list(out.terms) == ["ce", "dis", "div"]
    torch.testing.assert_close(out.terms["ce"], F.cross_entropy(out.logits, labels))
    torch.testing.assert_close(out.terms["dis"], 0.5 * raw.dis)
    torch.testing.assert_close(out.terms["div"], -2.0 * raw.div)
    assert out.state == {}


@pytest.mark.parametrize("channels", [12, 14])
def test_every_term_reaches_what_it_should_train(channels):
    method, (images, labels) = small(channels, confusion=1.0), batch()
    out, backbone = method(images, labels), list(method.backbone.parameters())
    head = list(method.head.parameters())
    for name, term in out.terms.items():
        grads = torch.autograd.grad(term, backbone + head, retain_graph=True, allow_unused=True)
        in_backbone = [g is not None and bool(g.abs().max() > 1e-9) for g in grads[: len(backbone)]]
        in_head = [g is not None and bool(g.any()) for g in grads[len(backbone) :]]
        assert all(in_backbone), name
        assert any(in_head) is (name in ("ce", "confusion")), name
    out.loss.backward()
    assert all(p.grad is not None for p in method.parameters())


def test_uneven_groups_of_a_backbone_that_keeps_its_channels():
    out = small(14)(*batch())
    assert out.loss.isfinite()
    assert out.maps["features"].shape == (4, 14, 4, 4)


def test_without_its_weight_it_is_the_baseline_with_the_same_head():
    images, labels = batch()
    ours = small(mu=0.0)
    plain = Baseline(ours.backbone, CLASSES, head="bn_elu", hidden=8, pool="max")
    plain.head.load_state_dict(ours.head.state_dict())
    before = ours.shared_generator.get_state()
    out = ours(images, labels)
    assert list(out.terms) == ["ce"]
    assert torch.equal(ours.shared_generator.get_state(), before)
    torch.testing.assert_close(out.terms["ce"], plain(images, labels).terms["ce"])


def test_ablations():
    images, labels = batch()
    assert list(small(parts="dis")(images, labels).terms) == ["ce", "dis"]
    assert list(small(parts="div")(images, labels).terms) == ["ce", "div"]
    for arguments in (
        {"cross_channel": "avg"},
        {"drop": 0.0},
        {"weighting": "released"},
        {"head": "linear"},
        {"pool": "avg"},
    ):
        assert small(**arguments)(images, labels).loss.isfinite()
    out = small(mu=0.0, confusion=10.0)(images, labels)
    assert list(out.terms) == ["ce", "confusion"]
    torch.testing.assert_close(out.terms["confusion"], 10 * pairwise_confusion(out.logits, labels))


def test_vgg_with_the_released_grid_head_on_a_map_that_is_not_square():
    net = vgg(11, width=8, blocks=3, last_channels=12)
    method = METHODS["mutual_channel"](net, CLASSES, xi=3, hidden=8, pool="grid", map_size=[4, 6])
    images, labels = torch.randn(3, 3, 16, 24), torch.arange(3)
    out = method(images, labels)
    assert out.maps["features"].shape == (3, 12, 4, 6)
    assert method.head[0].num_features == 12 * 2 * 3
    out.loss.backward()
    with pytest.raises(ValueError, match=r"map_size=\(4, 6\).*give a map of \(4, 4\)"):
        method(images[..., :16], labels)


def test_evaluation_ignores_labels_draws_nothing_and_takes_one_image():
    method, (images, labels) = small().eval(), batch(1)
    before = method.shared_generator.get_state()
    with_labels, without = method(images, labels), method(images)
    assert torch.equal(with_labels.logits, without.logits)
    assert with_labels.maps.keys() == without.maps.keys()
    assert with_labels.terms == {} == with_labels.state
    assert torch.equal(method.shared_generator.get_state(), before)
    predicted = int(without.logits.argmax())
    expected = without.maps["features"][:, 3 * predicted : 3 * predicted + 3]
    assert torch.equal(without.maps["attention"], expected)


def test_the_mask_is_the_same_on_every_rank_and_changes_from_step_to_step():
    images, labels = batch()
    dis = []
    for rank in (0, 1):
        torch.manual_seed(0)
        method = small()
        method.seed(3, rank)
        torch.manual_seed(100 + rank)  # the global state plays no part
        dis.append([method(images, labels).terms["dis"].item() for _ in range(4)])
    assert dis[0] == dis[1]
    assert len(set(dis[0])) > 1


def test_class_maps_of_uneven_groups():
    features = torch.arange(1.0, 12).view(1, 11, 1, 1).repeat(4, 1, 1, 1)  # classes of 2, 3, 3, 3 channels
    picked = class_maps(features, torch.arange(4), 4).flatten(1)
    assert picked.tolist() == [[1, 2, 0], [3, 4, 5], [6, 7, 8], [9, 10, 11]]
    assert class_maps(features[:, :8], torch.arange(4), 4).flatten(1).tolist() == [[1, 2], [3, 4], [5, 6], [7, 8]]


def test_runs_under_autocast():
    method, (images, labels) = small(), batch()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = method(images, labels)
    assert {term.dtype for term in out.terms.values()} == {torch.float32}
    out.loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in method.parameters())


def test_a_backbone_or_arguments_that_do_not_fit_are_refused_with_what_to_do():
    with pytest.raises(
        ValueError, match=r"4 classes of ξ = 3 need 12 channels.*has 16: build it with last_channels=12"
    ):
        small(16, xi=3)
    with pytest.raises(ValueError, match="4 classes, 3 channels"):
        small(3)
    with pytest.raises(ValueError, match="head must be 'linear' or 'bn_elu', got 'mlp'"):
        small(head="mlp")
    for arguments in ({"pool": "grid"}, {"map_size": (4, 4)}):
        with pytest.raises(ValueError, match="map_size belongs to pool='grid', got pool="):
            small(**arguments)
    with pytest.raises(ValueError, match="pool must be 'max', 'avg' or 'grid', got 'sum'"):
        small(pool="sum")
    with pytest.raises(ValueError, match="confusion must be greater than or equal to 0, got -1"):
        small(confusion=-1)
