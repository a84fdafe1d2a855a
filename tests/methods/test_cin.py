"""CIN, its ablation rows, and its blocks inside other methods."""

import copy

import pytest
import torch
import torch.nn.functional as F

from fgvc_lib.backbones import resnet, vgg
from fgvc_lib.layers.channel_interaction import SelfChannelInteraction
from fgvc_lib.losses.contrastive import contrastive_loss
from fgvc_lib.losses.pairs import disjoint_pairs
from fgvc_lib.methods import CIN, METHODS

ROWS = {
    "baseline": {"block": "none", "contrast": "none"},
    "phi": {"block": "phi", "contrast": "none"},
    "mean": {"block": "mean", "contrast": "none"},
    "se": {"block": "se", "contrast": "none"},
    "non_local": {"block": "non_local", "contrast": "none"},
    "pos_sci": {"block": "pos_sci", "contrast": "none"},
    "sci": {"block": "sci", "contrast": "none"},
    "sci_cont": {"block": "sci", "contrast": "features"},
    "sci_cci": {},
    "triplet": {"contrast": "triplet", "margin": 0.2},
    "confusion": {"contrast": "confusion", "alpha": 10.0},
    "flattened": {"map_size": [2, 2]},
    "unscaled": {"block_args": {"scale": "none"}},
    "published": {"block_args": {"scale": "none", "normalize": False}, "normalize": False},
}
BASES = {
    "baseline": {"head": "bn_elu", "hidden": 8},
    "bcnn": {"head_fraction": 0},
    "center": {},
}


def small(**arguments):
    torch.manual_seed(0)
    return CIN(resnet("small", width=4), 3, embedding=8, **arguments)


def batch(classes=3, images=2):
    return torch.randn(classes * images, 3, 16, 16), torch.arange(classes).repeat_interleave(images)


@pytest.mark.parametrize("row", ROWS)
def test_every_row_from_plain_data(row):
    method, (images, labels) = small(**ROWS[row]), batch()
    out = method(images, labels)
    out.loss.backward()
    assert all(p.grad is not None for p in method.parameters())
    name = {"sci_cont": "contrastive", "triplet": "triplet", "confusion": "confusion"}.get(row, "contrastive")
    contrast = ROWS[row].get("contrast") != "none"
    assert set(out.terms) == ({"ce", name} if contrast else {"ce"})
    assert out.loss.isfinite()
    assert method.sampler == (4, 5)


def test_rows_start_from_the_same_network():
    images, _ = batch()
    plain = small(**ROWS["baseline"]).base.state_dict()
    for arguments in ROWS.values():
        state = small(**arguments).base.state_dict()
        assert all(torch.equal(state[key], value) for key, value in plain.items())
    baseline = METHODS["baseline"](resnet("small", width=4), 3).eval()
    baseline.load_state_dict(plain)
    torch.testing.assert_close(baseline(images).logits, small(**ROWS["baseline"]).eval()(images).logits)


def test_classification_is_of_z_and_contrast_of_z_prime():
    method, (images, labels) = small(alpha=3.0, margin=0.7, normalize=False).double(), batch()
    images = images.double()
    twin = copy.deepcopy(method)
    out = method(images, labels)
    x, z = out.maps["block_input"], out.maps["block_output"]
    sci = twin.attached.block
    torch.testing.assert_close(z, sci(x))
    torch.testing.assert_close(out.logits, twin.base.head(z.mean((2, 3))))
    torch.testing.assert_close(out.terms["ce"], F.cross_entropy(out.logits, labels))
    generator = torch.Generator()
    generator.set_state(twin.rank_generator.get_state())
    a, b = disjoint_pairs(labels, generator=generator)
    left, right = twin.cci(sci, x, a, b)
    expected = contrastive_loss(
        twin.project(left.mean((2, 3))), twin.project(right.mean((2, 3))), labels[a] == labels[b], margin=0.7
    )
    torch.testing.assert_close(out.terms["contrastive"], 3 * expected)


def test_triplet_term_is_the_mean_over_all_triplets_of_unit_embeddings():
    method, (images, labels) = small(contrast="triplet", margin=0.9, alpha=3.0), batch()
    out = method(images, labels)
    e = F.normalize(method.project(out.maps["block_output"].mean((2, 3))), dim=1).detach()
    losses = [
        max(0.0, float((e[a] - e[p]).norm() - (e[a] - e[n]).norm()) + 0.9)
        for a in range(6)
        for p in range(6)
        for n in range(6)
        if a != p and labels[a] == labels[p] != labels[n]
    ]
    assert len(losses) == 6 * 1 * 4
    assert out.terms["triplet"].item() == pytest.approx(3 * sum(losses) / len(losses), rel=1e-4)


@pytest.mark.parametrize("row", ["sci_cont", "sci_cci", "triplet"])
@pytest.mark.parametrize("normalize", [True, False])
def test_the_size_of_h_matters_only_where_it_is_not_normalized(row, normalize):
    images, labels = batch()
    losses = []
    for factor in (1, 3):
        method = small(**{**ROWS[row], "margin": 0.9, "normalize": normalize})
        with torch.no_grad():
            method.project.weight.mul_(factor)
            method.project.bias.mul_(factor)
        losses.append(list(method(images, labels).terms.values())[-1])
    assert torch.allclose(*losses) == normalize


def test_control_blocks_are_sci_with_a_relation_that_is_known():
    x = torch.rand(2, 16, 3, 3)
    mean = x.mean(1, keepdim=True).expand_as(x)
    for name, y in (("phi", x), ("mean", mean)):
        block = small(block=name, contrast="none").attached.block
        torch.testing.assert_close(block(x), x + block.phi(y) / 4)


@pytest.mark.parametrize("row", ROWS)
def test_float64_stays_and_halves_predict(row):
    images, labels = batch()
    terms = small(**ROWS[row]).double()(images.double(), labels).terms
    assert all(value.dtype == torch.float64 for name, value in terms.items() if name != "ce")
    for dtype in (torch.bfloat16, torch.float16):
        logits = small(**ROWS[row]).to(dtype).eval()(images.to(dtype)).logits
        assert logits.dtype == dtype
        assert logits.isfinite().all()


@pytest.mark.parametrize("row", ROWS)
def test_no_images_give_no_predictions(row):
    assert small(**ROWS[row]).eval()(torch.zeros(0, 3, 16, 16)).logits.shape == (0, 3)


@pytest.mark.parametrize("row", ["sci_cont", "sci_cci", "triplet", "confusion"])
def test_every_term_reaches_what_it_trains(row):
    method, (images, labels) = small(**{"margin": 5.0, **ROWS[row]}), batch()
    term = list(method(images, labels).terms.values())[-1]
    grads = torch.autograd.grad(term, list(method.parameters()), allow_unused=True)
    reached = {k for (k, _), g in zip(method.named_parameters(), grads, strict=True) if g is not None and g.any()}
    assert "base.backbone.blocks.layer1.0.weight" in reached
    assert any(".block.phi" in key for key in reached)
    assert ("cci.psi.weight" in reached) == (row == "sci_cci")
    assert ("project.weight" in reached) == (row != "confusion")
    assert ("base.head.weight" in reached) == (row == "confusion")


def test_both_kinds_of_pairs_move_the_backbone():
    torch.manual_seed(0)
    method, (images, _) = CIN(resnet("small", width=4), 6, embedding=8, margin=5.0), batch()
    weight = method.base.backbone.blocks["layer1"][0].weight
    for labels in (torch.zeros(6, dtype=torch.int64), torch.arange(6)):  # positive pairs only, negative pairs only
        (g,) = torch.autograd.grad(method(images, labels).terms["contrastive"], weight)
        assert g.any()


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("make", [lambda: resnet("small", width=4), lambda: vgg(11, width=8, blocks=3)])
def test_plugs_into_any_stage_of_any_method(base, make):
    images, labels = batch()
    for stage in make().stages:
        backbone = make()
        method = CIN(backbone, 3, base=base, base_args=BASES[base], stage=stage, embedding=8)
        out = method(images, labels)
        assert out.maps["block_output"].shape[1] == backbone.channels[stage]
        assert "contrastive" in out.terms
        plain = METHODS[base](make(), 3, **BASES[base])(images, labels)
        assert set(out.terms) == {*plain.terms, "contrastive"}
        assert set(out.state) == set(plain.state)
        out.loss.backward()
        assert all(p.grad is not None for p in method.parameters())
        method.after_step([out.state])
        assert method.eval()(images[:1]).logits.shape == (1, 3)


@pytest.mark.parametrize(
    ("base", "base_args"),
    [
        ("ap_cnn", {"pyramid": {"channels": 8}, "hidden": 8}),
        ("tasn", {"input_size": 16, "attention": {"input_size": 16}}),
    ],
)
def test_plugs_into_methods_with_passes_of_their_own(base, base_args):
    # AP-CNN runs its backbone again from a cropped map; TASN runs it on two samplings stacked
    images, labels = torch.randn(6, 3, 64, 64), torch.arange(6) % 3
    method = CIN(resnet("small", width=4), 3, base=base, base_args=base_args, stage="layer2", embedding=8)
    out = method(images, labels)
    assert {"contrastive", "ce_stage1_concat" if base == "ap_cnn" else "ce_master"} <= set(out.terms)
    out.loss.backward()
    assert all(p.grad is not None for p in method.parameters())
    assert method.eval()(images[:1]).logits.shape == (1, 3)


def test_a_block_that_adds_nothing_leaves_another_method_as_it_was():
    images, _ = batch()
    for base, base_args in BASES.items():
        torch.manual_seed(0)
        plain = METHODS[base](resnet("small", width=4), 3, **base_args).eval()
        plugged = small(base=base, base_args=base_args, stage="layer2").eval()
        for parameter in plugged.attached.block.parameters():
            torch.nn.init.zeros_(parameter)
        torch.testing.assert_close(plugged(images).logits, plain(images).logits)


def test_base_keeps_its_state_smoothing_generators_and_phases():
    images, labels = batch()
    method = small(base="center")
    centers = method.base.center_loss.centers.clone()
    method.after_step([method(images, labels).state])
    assert not torch.equal(method.base.center_loss.centers, centers)
    assert method.base.rank_generator is method.rank_generator
    assert method.base.shared_generator is method.shared_generator
    method.label_smoothing = 0.3
    out = method(images, labels)
    torch.testing.assert_close(out.terms["ce"], F.cross_entropy(out.logits, labels, label_smoothing=0.3))
    head, everything = small(base="bcnn", base_args={"head_fraction": 0.25}).phases()
    assert (head.fraction, everything.fraction) == (0.25, 0.75)
    method = small(base="bcnn", base_args={"head_fraction": 0.25})
    names = {id(p): k for k, p in method.named_parameters()}
    for phase, backbone in zip(method.phases(), (False, True), strict=True):
        trained = [names[id(p)] for group in phase.groups for p in group["params"]]
        assert len(trained) == len(set(trained))
        assert {k for k in names.values() if ".block." in k or k.startswith(("cci", "project"))} <= set(trained)
        assert ("base.backbone.blocks.layer1.0.weight" in trained) == backbone
        assert "base.head.weight" in trained


def test_inference_has_no_cci_and_ignores_labels():
    method, (images, labels) = small().eval(), batch()
    seen = method.rank_generator.get_state()
    with_labels, without = method(images, labels), method(images)
    assert torch.equal(with_labels.logits, without.logits)
    assert with_labels.terms == {} == with_labels.state
    assert torch.equal(method.rank_generator.get_state(), seen)
    del method.cci, method.project
    method.cci = method.project = None
    torch.testing.assert_close(method(images).logits, without.logits)
    for n in (1, 3):
        torch.testing.assert_close(method(images[:n]).logits, without.logits[:n])


@pytest.mark.parametrize("row", ["sci_cont", "sci_cci", "triplet", "confusion"])
@pytest.mark.parametrize("labels", [[0], [0, 1, 2], [0, 0, 0], [0, 0, 1, 1, 2]])
def test_odd_batches_and_missing_kinds_keep_every_gradient(row, labels):
    method = small(**ROWS[row])
    out = method(torch.randn(len(labels), 3, 32, 16), torch.tensor(labels))
    out.loss.backward()
    assert out.loss.isfinite()
    assert all(p.grad is not None for p in method.parameters())


def test_a_run_is_a_function_of_its_seed():
    images, labels = batch(3, 4)
    first, again = small(), small()
    first.seed(5), again.seed(5)
    assert torch.equal(first(images, labels).loss, again(images, labels).loss)
    again.seed(5, rank=1)
    first.seed(5)
    assert not torch.equal(first(images, labels).terms["contrastive"], again(images, labels).terms["contrastive"])


def test_no_graph_outlives_the_step():
    method, (images, labels) = small(), batch()
    method(images, labels)
    assert method.attached.seen is None
    copy.deepcopy(method)  # what an averaged copy of the weights needs
    with pytest.raises(ValueError, match="labels are needed"):
        method(images)
    assert method.attached.seen is None


def test_ranks_pair_their_own_images(run_ranks):
    def worker(rank, world_size):
        import torch
        from torch.nn.parallel import DistributedDataParallel

        from fgvc_lib.backbones import resnet
        from fgvc_lib.methods import CIN

        def build():
            torch.manual_seed(0)
            return CIN(resnet("small", width=4), 3, embedding=8, margin=5.0)

        torch.manual_seed(1)
        images = torch.randn(9, 3, 16, 16)
        # rank 1 has neither a positive pair nor an even batch, and must still step with rank 0
        labels = torch.tensor([0, 0, 1, 1, 2, 2, 0, 1, 2])
        share = [slice(0, 6), slice(6, 9)]
        method = build()
        method.seed(3, rank)
        wrapped = DistributedDataParallel(method)
        for _ in range(2):  # a second step would hang or fail if a gradient had been missing
            wrapped.zero_grad()
            method.seed(3, rank)
            wrapped(images[share[rank]], labels[share[rank]]).loss.backward()
        distributed = [p.grad for p in method.parameters()]

        expected = None
        for r in range(world_size):  # in one process: each rank's batch by itself, gradients averaged
            alone = build()
            alone.seed(3, r)
            alone(images[share[r]], labels[share[r]]).loss.backward()
            grads = [p.grad / world_size for p in alone.parameters()]
            expected = grads if expected is None else [e + g for e, g in zip(expected, grads, strict=True)]
        return max(float((d - e).abs().max()) for d, e in zip(distributed, expected, strict=True))

    assert max(run_ranks(worker)) < 1e-5


@pytest.mark.parametrize("row", ["sci_cci", "triplet", "non_local", "se"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_inside_autocast(row, dtype):
    method, (images, labels) = small(**ROWS[row]), batch()
    with torch.autocast("cpu", dtype=dtype):
        loss = method(images, labels).loss
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad.isfinite().all() for p in method.parameters())


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match=r"block must be 'none', 'phi', 'mean', .* or 'sci', got 'cbam'"):
        small(block="cbam")
    with pytest.raises(ValueError, match="contrast must be 'none', 'features', 'cci'"):
        small(contrast="all")
    with pytest.raises(ValueError, match="block must be 'sci' or 'pos_sci', got 'se'"):
        small(block="se")
    with pytest.raises(ValueError, match="stage must be one of layer1, layer2, layer3, got 'layer4'"):
        small(stage="layer4")
    for base in ("nts", "cin"):
        with pytest.raises(ValueError, match=r"base must be 'ap_cnn', .* or 'tasn', got"):
            small(base=base)
    with pytest.raises(ValueError, match="margin must be greater than 0"):
        small(margin=0)
    method = small(map_size=(3, 3))
    with pytest.raises(ValueError, match="set up for maps of 3×3, got 2×2"):
        method(*batch())


def test_shape_of_the_ablation_blocks():
    assert isinstance(small().attached.block, SelfChannelInteraction)
    assert not small().attached.block.positive
    assert small(block="pos_sci").attached.block.positive
    se = small(block="se", contrast="none", block_args={"reduction": 4}).attached.block
    assert se.fc1.out_channels == 4
    assert small(sampler=None).sampler is None
