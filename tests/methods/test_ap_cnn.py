"""AP-CNN: its terms, what trains what, the second pass, the switches, and evaluation."""

import pytest
import torch
import torch.nn.functional as F

from fgvc_lib.backbones import lenet_pp, resnet, vgg
from fgvc_lib.layers.roi_drop import roi_drop
from fgvc_lib.layers.roi_zoom import roi_zoom
from fgvc_lib.methods import METHODS

NAMES = ("level3", "level4", "level5")


def small(**arguments):
    pyramid = {"channels": 8, "gate_reduction": 2, **arguments.pop("pyramid", {})}
    return METHODS["ap_cnn"](resnet("small", width=8), 3, **{"pyramid": pyramid, "hidden": 6, **arguments})


def batch(n=4, size=(32, 32)):
    return torch.randn(n, 3, *size), torch.arange(n) % 3


def reached(method, term):
    grads = torch.autograd.grad(term, list(method.parameters()), retain_graph=True, allow_unused=True)
    named = zip(method.named_parameters(), grads, strict=True)
    return {name for (name, _), g in named if g is not None and g.any()}


def test_eight_terms_and_all_maps():
    out = small()(*batch())
    assert set(out.terms) == {f"ce_stage{s}_{head}" for s in (1, 2) for head in (*NAMES, "concat")}
    shapes = {name: tuple(x.shape) for name, x in out.maps.items()}
    assert shapes == {
        "mask_level3": (4, 1, 16, 16),
        "mask_level4": (4, 1, 8, 8),
        "mask_level5": (4, 1, 4, 4),
        "boxes_level3": (4, 5, 4),
        "boxes_level4": (4, 3, 4),
        "boxes_level5": (4, 1, 4),
        "union_box": (4, 1, 4),
        "dropped_box": (4, 1, 4),
        "refined": (4, 8, 16, 16),
        "features": (4, 32, 4, 4),
        "stage_logits": (4, 2, 3),
    }
    assert not any(x.requires_grad for x in out.maps.values())
    assert out.logits.shape == (4, 3)
    assert out.state == {}


def test_terms_are_cross_entropies_of_the_heads():
    method, (images, labels) = small(stages=1), batch()
    outputs = method.backbone(images)
    _, logits = method.stage(outputs)
    out = method(images, labels)
    for head, x in logits.items():
        torch.testing.assert_close(out.terms[f"ce_stage1_{head}"], F.cross_entropy(x, labels))
    torch.testing.assert_close(out.logits, torch.stack(list(logits.values())).mean(0))


def test_every_term_trains_its_head_its_gates_and_the_backbone():
    method = small()
    out = method(*batch())
    for s in (1, 2):
        for k, name in enumerate(NAMES):
            names = reached(method, out.terms[f"ce_stage{s}_{name}"])
            assert {p for p in names if p.startswith("heads")} >= {f"heads.{name}.1.weight", f"heads.{name}.4.weight"}
            assert not any(p.startswith("heads") and name not in p for p in names)
            gates = {p for p in names if p.startswith("attention.spatial")}
            assert gates == {f"attention.spatial_gates.{k}.conv.{p}" for p in ("weight", "bias")}
            assert "backbone.blocks.layer1.0.weight" in names
        concat = reached(method, out.terms[f"ce_stage{s}_concat"])
        assert not any(p.startswith("attention") for p in concat)  # it classifies the unattended levels
        assert "pyramid.layer_blocks.0.0.weight" in concat


@pytest.mark.parametrize(
    "switches",
    [
        {},
        {"pyramid": {"levels": 1}},
        {"pyramid": {"levels": 2}},
        {"stages": 1},
        {"pyramid": {"spatial_gate": False}},
        {"pyramid": {"channel_gate": False}},
        {"pyramid": {"spatial_gate": False, "channel_gate": False}},
        {"pyramid": {"pathway": False}},
        {"zoom": None},
        {"zoom": "center"},
        {"drop": None},
        {"average": "probabilities"},
        {"reduction": "mean"},
        {"drop": {"rates": [0.3, 0.4, 0.3]}, "boxes": {"border": 0.2, "mean_with_border": False}},
        {"boxes": {"random": True}},
        {"boxes": {"merge": True, "released_border": True}},
    ],
)
def test_every_switch_gives_every_parameter_a_gradient_and_a_finite_loss(switches):
    method = small(**switches)
    out = method(*batch(3))
    assert out.loss.isfinite()
    assert len(out.terms) == switches.get("stages", 2) * (switches.get("pyramid", {}).get("levels", 3) + 1)
    out.loss.backward()
    assert [name for name, p in method.named_parameters() if p.grad is None] == []
    method.eval()
    assert method(batch(1)[0]).logits.shape == (1, 3)


def test_both_stages_share_weights_and_the_second_starts_at_the_refined_feature():
    method, (images, labels) = small(), batch()
    out = method(images, labels)
    assert all(parameter.grad is None for parameter in method.parameters())
    assert sum(p.numel() for p in method.parameters()) == sum(p.numel() for p in small(stages=1).parameters())
    stage2 = torch.stack([out.terms[f"ce_stage2_{h}"] for h in (*NAMES, "concat")]).sum()
    assert reached(method, stage2) == set(dict(method.named_parameters()))

    method.eval()
    out = method(images)
    refined = out.maps["refined"]
    outputs = {"layer1": refined, **method.backbone.resume("layer1", refined)}
    expected = torch.stack(list(method.stage(outputs)[1].values())).mean(0)
    torch.testing.assert_close(out.maps["stage_logits"][:, 1], expected)
    torch.testing.assert_close(out.logits, out.maps["stage_logits"].mean(1))


@pytest.mark.parametrize("zooms", ["union", None])
def test_the_refined_feature_is_dropped_from_in_training_and_zoomed(zooms):
    method = small(zoom=zooms, boxes={"sizes": [0.1, 0.1, 0.2]}, drop={"rates": [1.0, 0.0, 0.0]})
    images, labels = batch()
    out = method(images, labels)
    union, dropped = out.maps["union_box"][:, 0], out.maps["dropped_box"][:, 0]
    assert (union[:, 2] - union[:, 0] < 32).any()
    low = method.backbone(images)["layer1"]
    low = roi_drop(low, dropped, union if zooms else None, (32, 32))
    expected = roi_zoom(low, union, (32, 32)) if zooms else low
    torch.testing.assert_close(out.maps["refined"], expected)
    assert not torch.allclose(expected, method.backbone(images)["layer1"])

    if zooms:
        out = method.eval()(images)
        expected = roi_zoom(method.backbone(images)["layer1"], out.maps["union_box"][:, 0], (32, 32))
        torch.testing.assert_close(out.maps["refined"], expected)


def test_running_statistics_of_shared_layers_move_twice_a_step():
    method = small()
    method(*batch())
    counts = {name: int(b) for name, b in method.named_buffers() if name.endswith("num_batches_tracked")}
    lower = {name for name in counts if name.startswith("backbone.blocks.layer1")}
    assert lower
    assert all(count == (1 if name in lower else 2) for name, count in counts.items())


def test_an_image_without_boxes_is_seen_whole():
    method = small(boxes={"border": 0.0, "sizes": [0.2, 0.2, 0.2]}).eval()
    with torch.no_grad():
        for gate in method.attention.spatial_gates:
            gate.conv.weight.zero_()
    out = method(batch()[0])
    assert out.maps["boxes_level3"].isnan().all()
    torch.testing.assert_close(out.maps["stage_logits"][:, 0], out.maps["stage_logits"][:, 1])


def test_settings_reach_their_layers():
    boxes = {
        "border": 0.2,
        "released_border": True,
        "mean_with_border": False,
        "iou": 0.3,
        "merge": True,
    }
    method = small(
        boxes={**boxes, "top_k": [2, 2, 1], "sizes": [0.1, 0.2, 0.3]}, pyramid={"momentum": 0.3, "pathway": False}
    )
    assert method.rois.boxes.keywords == boxes
    assert (method.rois.top_k, method.rois.sizes) == ((2, 2, 1), (0.1, 0.2, 0.3))
    assert method.pyramid.inner_blocks[-1].local[1].momentum == 0.3
    assert not method.attention.pathway
    assert method.attention.channel_gates[0].layers[0].out_channels == 4  # 8 channels over 2
    assert method.heads["level3"][1].out_features == 6


def test_an_image_that_would_keep_too_little_keeps_its_box():
    method, (images, labels) = small(zoom=None, drop={"rates": [1.0, 0.0, 0.0], "min_kept": 1.0}), batch()
    maps = method(images, labels).maps
    assert not maps["dropped_box"].isnan().any()
    torch.testing.assert_close(maps["refined"], method.backbone(images)["layer1"])


def test_random_boxes_are_as_many_and_as_large_and_evaluation_repeats_them():
    plain, random = small().eval(), small(boxes={"random": True}).eval()
    random.load_state_dict(plain.state_dict())
    images = batch()[0]
    found, drawn, again = plain(images).maps, random(images).maps, random(images).maps
    for name in NAMES:
        side, other = (m[f"boxes_{name}"][..., 2:] - m[f"boxes_{name}"][..., :2] for m in (found, drawn))
        torch.testing.assert_close(side, other, equal_nan=True)
        assert not torch.equal(found[f"boxes_{name}"].nan_to_num(), drawn[f"boxes_{name}"].nan_to_num())
        torch.testing.assert_close(drawn[f"boxes_{name}"], again[f"boxes_{name}"], equal_nan=True)
    random.train()
    assert not torch.equal(*(random(*batch()).maps["boxes_level3"] for _ in range(2)))


def test_the_center_crop_has_the_size_of_the_union():
    plain, center = (small(zoom=zoom, boxes={"sizes": [0.1, 0.1, 0.2]}).eval() for zoom in ("union", "center"))
    center.load_state_dict(plain.state_dict())
    images = batch(size=(32, 40))[0]
    union, box = (method(images).maps["union_box"][:, 0] for method in (plain, center))
    torch.testing.assert_close(box[:, 2:] - box[:, :2], union[:, 2:] - union[:, :2])
    torch.testing.assert_close((box[:, 2:] + box[:, :2]) / 2, torch.tensor([[20.0, 16.0]]).expand(4, 2))
    expected = roi_zoom(center.backbone(images)["layer1"], box, (32, 40))
    torch.testing.assert_close(center(images).maps["refined"], expected)


@pytest.mark.parametrize("stages", [1, 2])
def test_the_mean_of_the_losses_is_their_sum_over_their_number(stages):
    summed, mean = (small(reduction=reduction, stages=stages) for reduction in ("sum", "mean"))
    mean.load_state_dict(summed.state_dict())
    images, labels = batch()
    torch.testing.assert_close(mean(images, labels).loss, summed(images, labels).loss / (4 * stages))


def test_no_drop_in_evaluation_and_training_drops_by_the_generator():
    method, (images, labels) = small(drop={"rates": [1.0, 0.0, 0.0], "min_kept": 0.01}), batch()
    method.seed(5)
    first = method(images, labels)
    assert not first.maps["dropped_box"].isnan().any()
    method.seed(5)
    again = method(images, labels)
    assert torch.equal(first.maps["dropped_box"], again.maps["dropped_box"])
    assert torch.equal(first.loss, again.loss)
    assert all((first.maps["boxes_level3"][i] == first.maps["dropped_box"][i]).all(1).any() for i in range(4))
    state = method.rank_generator.get_state()
    assert "dropped_box" not in method.eval()(images).maps
    assert torch.equal(state, method.rank_generator.get_state())


def test_labels_change_nothing_in_evaluation():
    method, (images, labels) = small().eval(), batch()
    with_labels, without = method(images, labels), method(images)
    assert with_labels.terms == with_labels.state == without.terms == {}
    assert torch.equal(with_labels.logits, without.logits)
    assert set(with_labels.maps) == set(without.maps)
    for name, x in without.maps.items():
        assert torch.equal(with_labels.maps[name].nan_to_num(-1), x.nan_to_num(-1))


@pytest.mark.parametrize("size", [(32, 32), (40, 28)])
def test_a_batch_equals_its_images_one_at_a_time(size):
    method = small()
    for _ in range(2):  # give BatchNorm something to normalize with
        method(*batch(size=size))
    method.eval()
    images = batch(size=size)[0]
    together = method(images)
    for i in range(4):
        alone = method(images[i : i + 1])
        torch.testing.assert_close(alone.logits[0], together.logits[i], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(alone.maps["union_box"][0], together.maps["union_box"][i])


def test_averages_of_logits_and_of_probabilities():
    method, (images, _) = small().eval(), batch()
    stages = []
    for head in method.heads.values():
        head.register_forward_hook(lambda _module, _inputs, x: stages.append(x.detach()))
    out = method(images)
    assert len(stages) == 8
    torch.testing.assert_close(out.logits, torch.stack(stages).mean(0))
    stages.clear()
    method.average = "probabilities"
    out = method(images)
    torch.testing.assert_close(out.logits.softmax(-1), torch.stack(stages).softmax(-1).mean(0))
    torch.testing.assert_close(out.logits.exp().sum(-1), torch.ones(4))


def test_inference_may_stop_after_stage_one():
    both, first = small().eval(), small(inference_stages=1).eval()
    first.load_state_dict(both.state_dict())
    images = batch()[0]
    torch.testing.assert_close(first(images).logits, both(images).maps["stage_logits"][:, 0])
    assert first(images).maps["stage_logits"].shape == (4, 1, 3)
    assert len(first.train()(*batch()).terms) == 8


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_is_finite(dtype):
    method = small()
    with torch.autocast("cpu", dtype=dtype):
        out = method(*batch())
    assert out.loss.isfinite()
    assert out.logits.dtype == torch.float32
    out.loss.backward()
    assert all(p.grad.isfinite().all() for p in method.parameters())


@pytest.mark.parametrize(
    ("backbone", "channels", "size"),
    [(vgg(11, width=8), 3, 32), (resnet(18, width=8), 3, 64), (lenet_pp(), 1, 28)],
)
def test_other_backbones(backbone, channels, size):
    method = METHODS["ap_cnn"](backbone, 3, pyramid={"channels": 4, "gate_reduction": 2}, hidden=4)
    out = method(torch.randn(2, channels, size, size), torch.tensor([0, 2]))
    out.loss.backward()
    assert all(p.grad is not None for p in method.parameters())
    assert method.refined_stage == backbone.stages[-3]


def test_lower_layers_may_learn_slower():
    method = small(lower_lr_scale=0.1)
    ((slow, rest),) = (phase.groups for phase in method.phases())
    assert slow["lr_scale"] == 0.1
    names = {id(p): name for name, p in method.named_parameters()}
    below = {name for name in names.values() if name.startswith(("backbone.blocks.layer1", "backbone.blocks.layer2"))}
    assert {names[id(p)] for p in slow["params"]} == below
    assert {names[id(p)] for p in rest["params"]} == set(names.values()) - below
    assert len(small().phases()[0].groups) == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pyramid": {"levels": 4}}, "levels must be 1 to 3, the stages of this backbone, got 4"),
        ({"stages": 3}, "APCNN: stages must be 1 or 2, got 3"),
        ({"stages": 1, "inference_stages": 2}, "inference_stages must be at most stages, 1, got 2"),
        ({"zoom": None, "drop": None}, "need zoom or drop"),
        ({"zoom": "crop"}, "zoom must be 'union' or 'center', got 'crop'"),
        ({"reduction": "none"}, "reduction must be 'sum' or 'mean', got 'none'"),
        ({"boxes": {"shares": [0.1]}}, "APCNN: unknown argument boxes.shares: choose from sizes, top_k,"),
        ({"drop": {"rates": 0.3}}, "drop.rates must be a list, got 0.3"),
        ({"average": "votes"}, "average must be 'logits' or 'probabilities', got 'votes'"),
        ({"boxes": {"top_k": [5, 3]}}, "top_k needs a number for each of 3 levels, got 2"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        small(**arguments)


def test_one_image_is_refused_in_training():
    with pytest.raises(ValueError, match="at least 2 images, got 1"):
        small()(*batch(1))
