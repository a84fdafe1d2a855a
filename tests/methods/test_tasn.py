"""TASN as a method: its terms, who learns from which, its maps, and every row of the ablation."""

import pytest
import torch
import torch.nn.functional as F

from fgvc_lib.backbones import resnet
from fgvc_lib.layers.attention_sampler import sampling_grid
from fgvc_lib.losses.distillation import distillation_loss
from fgvc_lib.methods import METHODS
from fgvc_lib.methods.tasn import RELEASED

NET = {"backbone": "resnet", "depth": "small", "width": 8, "strides": [1, 1, 2]}
SMALL = {"attention": {"backbone": NET, "input_size": 16}, "input_size": 16}
NO_DISTILLATION = {"distillation": {"weight": 0.0}}

ROWS = {
    "resize": {"structure": "resize", "detail": None},
    "uniform": {"structure": "uniform", "detail": "uniform"},
    "structure": {"detail": None},
    "detail": NO_DISTILLATION,
    "average": {**NO_DISTILLATION, "predict": "average"},
    "concat": {**NO_DISTILLATION, "predict": "concat"},
    "distillation": {},
    "three details": {"num_details": 3, "predict": "concat"},
    "no norms": {"attention": {"spatial_norm": False, "relation_norm": False}},
    "no dilations": {"attention": {"dilations": []}},
    "no attention loss": {"attention_weight": 0.0},
    "gradient": {"sampling": {"gradient": True}},
    "no limit": {"sampling": {"limit": None}},
    "non-square": {"input_size": [16, 24], "attention": {"input_size": [8, 16]}},
    "released": RELEASED,
}


def small(**arguments):
    attention = {**SMALL["attention"], **arguments.pop("attention", {})}
    return METHODS["tasn"](resnet("small", width=8), 3, **{**SMALL, **arguments, "attention": attention})


def batch(n=4, size=(32, 32)):
    return torch.randn(n, 3, *size), torch.arange(n) % 3


def reached(method, term):
    """Names of the parameters that a term gives a gradient that is not zero."""
    grads = torch.autograd.grad(term, list(method.parameters()), retain_graph=True, allow_unused=True)
    return {k for (k, _), g in zip(method.named_parameters(), grads, strict=True) if g is not None and g.any()}


@pytest.mark.parametrize("row", ROWS)
def test_every_row_trains_with_a_gradient_for_every_parameter_and_predicts(row):
    method = small(**ROWS[row])
    images, labels = batch(3, (32, 40))
    out = method(images, labels)
    assert out.loss.isfinite()
    out.loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in method.parameters())
    method.eval()
    out, labelled = method(images[:1]), method(images[:1], labels[:1])
    assert out.logits.shape == (1, 3)
    assert out.terms == out.state == {}
    assert torch.equal(out.logits, labelled.logits)
    assert out.maps.keys() == labelled.maps.keys()
    assert all(torch.equal(out.maps[k], labelled.maps[k]) for k in out.maps)
    assert not any(m.requires_grad for m in out.maps.values())


def test_terms_are_the_papers():
    method, (images, labels) = (
        small(attention_weight=0.2, master_weight=0.6, part_weight=0.4, distillation={"weight": 3.0}),
        batch(),
    )
    method.seed(1)
    out = method(images, labels)
    assert list(out.terms) == ["ce_attention", "ce_master", "ce_part", "distill"]
    method.seed(1)
    inputs = torch.cat([out.maps["structure_image"], out.maps["detail_image"][:, 0]])
    pooled = method.backbone(inputs)["layer3"].mean((2, 3))
    master, part = method.master_head(pooled[:4]), method.part_head(pooled[4:])
    torch.testing.assert_close(out.logits, master)
    torch.testing.assert_close(out.terms["ce_master"], 0.6 * F.cross_entropy(master, labels))
    torch.testing.assert_close(out.terms["ce_part"], 0.4 * F.cross_entropy(part, labels))
    torch.testing.assert_close(out.terms["distill"], 3 * distillation_loss(master, part))
    torch.testing.assert_close(out.terms["ce_attention"], 0.2 * F.cross_entropy(method.attend(images)[1], labels))


def test_every_term_trains_what_it_should_and_nothing_else():
    method, (images, labels) = small(), batch()
    names = {k for k, _ in method.named_parameters()}
    attention = {k for k in names if k.startswith("attention_net.")}
    convolutions = {k for k in names if k.startswith("backbone.")}
    part, master = ({k for k in names if k.startswith(f"{net}_head.")} for net in ("part", "master"))
    terms = method(images, labels).terms
    assert reached(method, terms["ce_attention"]) == attention
    assert reached(method, terms["ce_master"]) == convolutions | master
    assert reached(method, terms["ce_part"]) == convolutions | part
    # the convolutions' part of the teacher is detached, the student's trains them
    assert reached(method, terms["distill"]) == convolutions | master
    method = small(distillation={"detach_teacher": False})
    assert reached(method, method(images, labels).terms["distill"]) == convolutions | master | part


def test_with_the_sampling_gradient_the_task_trains_the_attention_net():
    images, labels = batch()
    for term in ("ce_master", "ce_part"):
        method = small(sampling={"gradient": True})
        touched = reached(method, method(images, labels).terms[term])
        assert "attention_net.backbone.blocks.layer1.0.weight" in touched
        assert "attention_net.widen.2.weight" in touched
        assert not any(k.startswith("attention_net.head") for k in touched)


def test_maps():
    method, (images, labels) = small(num_details=2, input_size=[16, 12]), batch(size=(32, 40))
    maps = method(images, labels).maps
    assert {k: tuple(v.shape) for k, v in maps.items()} == {
        "attention": (4, 32, 4, 4),
        "structure_map": (4, 1, 4, 4),
        "structure_image": (4, 3, 16, 12),
        "structure_grid": (4, 16, 12, 2),
        "detail_map": (4, 2, 4, 4),
        "detail_image": (4, 2, 3, 16, 12),
        "detail_grid": (4, 2, 16, 12, 2),
        "features": (4, 32, 2, 2),
    }
    torch.testing.assert_close(maps["structure_map"][:, 0], maps["attention"].mean(1))
    for k in range(2):
        same = (maps["detail_map"][:, k, None] == maps["attention"]).flatten(2).all(2)
        assert (same.sum(1) >= 1).all()
        by_grid = F.grid_sample(images, maps["detail_grid"][:, k], align_corners=True)
        torch.testing.assert_close(maps["detail_image"][:, k], by_grid)
    assert set(method.eval()(images).maps) == {
        "attention",
        "structure_map",
        "structure_image",
        "structure_grid",
        "features",
    }
    both = small(predict="average").eval()(images).maps
    torch.testing.assert_close(both["detail_map"], both["structure_map"])


def test_passes_through_the_networks_do_not_grow_with_the_number_of_maps():
    """Images that pass through the backbone: two a training image whatever the number of maps, one at test."""
    for width in (8, 16):  # 32 and 64 attention maps
        method, (images, labels) = small(attention={"backbone": {**NET, "width": width}}), batch()
        seen = {"backbone": 0, "attention": 0}
        method.backbone.register_forward_pre_hook(lambda _, x, n=seen: n.update(backbone=n["backbone"] + len(x[0])))
        method.attention_net.register_forward_pre_hook(
            lambda _, x, n=seen: n.update(attention=n["attention"] + len(x[0]))
        )
        assert method(images, labels).maps["attention"].shape[1] == 4 * width
        assert seen == {"backbone": 8, "attention": 4}
        method.eval()(images)
        assert seen == {"backbone": 8 + 4, "attention": 4 + 4}


def test_detail_choice_is_the_rank_generators():
    method, (images, labels) = small(), batch()
    drawn = []
    for seed, rank in ((0, 0), (0, 0), (1, 0), (0, 1)):
        method.seed(seed, rank)
        drawn.append(method(images, labels).maps["detail_image"])
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert not torch.equal(drawn[0], drawn[3])


def test_uniform_and_resized_inputs():
    images, _ = batch()
    uniform, resized = (small(structure=s, detail=None).eval() for s in ("uniform", "resize"))
    assert uniform.attention_net is None
    expected = F.interpolate(images, (16, 16), mode="bilinear", align_corners=True)
    torch.testing.assert_close(uniform(images).maps["structure_image"], expected, atol=1e-5, rtol=1e-5)
    expected = F.interpolate(images, (16, 16), mode="bilinear", antialias=True)
    torch.testing.assert_close(resized(images).maps["structure_image"], expected)
    # images that already have the size go in as they are
    assert torch.equal(resized(images[..., :16, :16]).maps["structure_image"], images[..., :16, :16])
    with pytest.raises(ValueError, match="there is no attention net"):
        uniform.attend(images)


def test_prediction_by_average_and_by_concatenation():
    images, labels = batch()
    average = small(predict="average").eval()
    out = average(images)
    pooled = [
        average.backbone(out.maps[k].view(4, 3, 16, 16))["layer3"].mean((2, 3))
        for k in ("structure_image", "detail_image")
    ]
    expected = (average.master_head(pooled[0]) + average.part_head(pooled[1])) / 2
    torch.testing.assert_close(out.logits, expected)
    concat = small(predict="concat", **NO_DISTILLATION)
    out = concat(images, labels)
    torch.testing.assert_close(out.terms["ce_concat"], F.cross_entropy(out.logits, labels))
    touched = reached(concat, out.terms["ce_concat"])
    assert {"concat_head.weight", "backbone.blocks.layer1.0.weight"} <= touched
    assert "master_head.weight" not in touched


def test_released_code_squares_the_resized_map_and_predicts_by_the_shared_classifier():
    method, (images, labels) = small(**RELEASED), batch()
    out = method(images, labels)
    assert list(out.terms) == ["ce_attention", "ce_master", "ce_master_shared", "ce_part", "ce_part_shared", "distill"]
    torch.testing.assert_close(out.terms["ce_master_shared"], 0.5 * F.cross_entropy(out.logits, labels))
    parts = method.backbone(torch.cat([out.maps["structure_image"], out.maps["detail_image"][:, 0]]))["layer3"]
    parts = method.shared_head(parts.mean((2, 3))[4:])
    torch.testing.assert_close(out.terms["ce_part_shared"], 0.5 * F.cross_entropy(parts, labels))
    assert out.maps["structure_map"].shape == out.maps["detail_map"].shape == (4, 1, 32, 32)
    plain = small(**{**RELEASED, "sampling": {**RELEASED["sampling"], "structure_power": 1.0}})
    plain.load_state_dict(method.state_dict())
    torch.testing.assert_close(
        plain.eval()(images).maps["structure_map"] ** 2, method.eval()(images).maps["structure_map"]
    )


def test_maps_are_resized_with_their_corners_and_limited_as_set():
    sampling = {"resize_map": True, "limit": 1.5, "equal_zoom": True}
    method, images = small(sampling=sampling).eval(), batch()[0]
    maps = method(images).maps
    resized = F.interpolate(maps["attention"].mean(1, keepdim=True), (32, 32), mode="bilinear", align_corners=True)
    torch.testing.assert_close(maps["structure_map"], resized)
    grid = sampling_grid(resized[:, 0], (16, 16), limit=1.5, equal_zoom=True)
    torch.testing.assert_close(maps["structure_grid"], grid)


def test_at_test_the_detail_map_counts_equal_maps_as_often_as_they_are():
    method, images = small(predict="average", attention={"unique": True}).eval(), batch()[0]
    method.attention_net.register_forward_hook(
        lambda _net, _images, out: (out[0] * (torch.arange(32) < 3)[:, None, None], out[1])
    )
    maps = method(images).maps
    torch.testing.assert_close(maps["detail_map"][:, 0], maps["attention"].mean(1))
    assert not torch.allclose(maps["structure_map"], maps["detail_map"])


def test_settings_reach_their_layers():
    attention = {"spatial_norm": False, "relation_norm": False, "dilations": [[1], [3]]}
    distillation = {"temperature": 3.0, "detach_teacher": False, "square_temperature": True}
    method = small(attention=attention, distillation=distillation)
    assert (method.trilinear.spatial_norm, method.trilinear.relation_norm) == (False, False)
    assert small(attention={"scale": 7.0}).trilinear.scale == 7
    assert [m.dilations for m in method.attention_net.widen if hasattr(m, "dilations")] == [(1,), (3,)]
    assert {name: getattr(method.distillation, name) for name in distillation} == distillation


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_finite_inside_autocast(dtype):
    method, (images, labels) = small(sampling={"gradient": True}), batch()
    with torch.autocast("cpu", dtype=dtype):
        out = method(images, labels)
    assert out.maps["structure_grid"].dtype == torch.float32
    out.loss.backward()
    assert all(p.grad.isfinite().all() for p in method.parameters())


def test_a_batch_of_one_trains():
    images, labels = batch(1)
    small()(images, labels).loss.backward()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"structure": "random"}, "structure must be 'attention', 'uniform' or 'resize', got 'random'"),
        ({"structure": None}, "TASN: structure must be .* got None"),
        ({"detail": "none"}, "detail must be .* got 'none'"),
        ({"predict": "part"}, "predict must be 'master', 'average' or 'concat', got 'part'"),
        ({"predict": "average", "detail": None}, "predict='average' needs a part net"),
        ({"attention": {"widen": 2}}, "unknown argument attention.widen: choose from backbone,"),
        ({"sampling": {"limit": "four"}}, "sampling.limit must be a valid number, .*got 'four'"),
        ({"attention": {"backbone": {"depth": 18}}}, "attention.backbone must name its backbone, one of resnet"),
        ({"num_details": 33}, "must be 1 to the attention net's 32, got 33"),
        ({"input_size": [8, 8, 8]}, r"input_size must be .* got \[8, 8, 8\]"),
        ({"distillation": {"temperature": 0}}, "distillation.temperature must be greater than 0, got 0"),
        ({"sampling": {"limit": 0.5}}, "limit must be at least 1"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        small(**arguments).eval()(batch()[0])
