"""What holds for every loss, at any size, for any type of number: one table of losses, a property a test."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fgvc_lib import losses
from fgvc_lib.losses._mutual_channel_kernel import FastMutualChannelLoss
from fgvc_lib.losses._mutual_channel_kernel import mutual_channel_loss as kernel
from fgvc_lib.losses.center import CenterLoss, center_loss, update_centers
from fgvc_lib.losses.contrastive import ContrastiveLoss, contrastive_loss
from fgvc_lib.losses.distillation import DistillationLoss, distillation_loss
from fgvc_lib.losses.mutual_channel import MutualChannelLoss, MutualChannelTerms, channel_mask, mutual_channel_loss
from fgvc_lib.losses.pairs import all_triplets, disjoint_pairs
from fgvc_lib.losses.pairwise_confusion import PairwiseConfusion, pairwise_confusion


class Case(NamedTuple):
    """A loss at a size: float64 inputs that want a gradient, the function of them, and its module twin."""

    inputs: tuple[Tensor, ...]
    function: Callable[..., Tensor]
    module: Callable[..., Tensor]


def floats(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def center(size: int, classes: int, width: int, draw: Callable[..., float]) -> Case:
    reduction = draw(st.sampled_from(["mean", "sum"]))
    labels, module = torch.randint(classes, (size,)), CenterLoss(classes, width, reduction=reduction)
    return Case(
        (floats(size, width),),
        lambda x: center_loss(x, labels, module.centers, reduction=reduction),
        lambda x: module(x, labels),
    )


def contrastive(size: int, classes: int, width: int, draw: Callable[..., float]) -> Case:
    same, margin = torch.rand(size) < 0.5, draw(st.floats(0.01, 10))
    return Case(
        (floats(size, width), floats(size, width)),
        lambda a, b: contrastive_loss(a, b, same, margin=margin),
        lambda a, b: ContrastiveLoss(margin=margin)(a, b, same),
    )


def distillation(size: int, classes: int, width: int, draw: Callable[..., float]) -> Case:
    options = {"temperature": draw(st.floats(0.5, 50)), "square_temperature": draw(st.booleans())}
    return Case(
        (floats(size, classes), floats(size, classes)),
        lambda student, teacher: distillation_loss(student, teacher, detach_teacher=False, **options),
        lambda student, teacher: DistillationLoss(detach_teacher=False, **options)(student, teacher),
    )


def confusion(size: int, classes: int, width: int, draw: Callable[..., float]) -> Case:
    labels = torch.randint(classes, (size,))
    return Case(
        (floats(size, classes),), lambda x: pairwise_confusion(x, labels), lambda x: PairwiseConfusion()(x, labels)
    )


def mutual_channel(size: int, classes: int, width: int, draw: Callable[..., float]) -> Case:
    return _mutual_channel(size, classes, width, draw, mutual_channel_loss, MutualChannelLoss)


def mutual_channel_kernel(size: int, classes: int, width: int, draw: Callable[..., float]) -> Case:
    return _mutual_channel(size, classes, width, draw, kernel, FastMutualChannelLoss)


def _mutual_channel(
    size: int,
    classes: int,
    width: int,
    draw: Callable[..., float],
    loss: Callable[..., MutualChannelTerms],
    twin: type[MutualChannelLoss],
) -> Case:
    channels = classes + draw(st.integers(0, 2 * classes + 1))  # equal groups or of two sizes
    labels, drop = torch.randint(classes, (size,)), draw(st.sampled_from([0.0, 0.4, 0.5]))
    cross = draw(st.sampled_from(["max", "avg"]))
    weighting = draw(st.sampled_from(["paper", "share", "released"]))
    module = twin(classes, mu=2, lam=3, drop=drop, cross_channel=cross, weighting=weighting)
    keep = channel_mask(channels, classes, drop=drop, generator=torch.Generator().manual_seed(1))

    def function(x: Tensor) -> Tensor:
        terms = loss(x, labels, classes, keep=keep, cross_channel=cross, weighting=weighting)
        return 2 * terms.dis - 6 * terms.div

    return Case(
        (floats(size, channels, width, draw(st.integers(1, 4))),),
        function,
        lambda x: torch.stack([*module(x, labels, torch.Generator().manual_seed(1)).values()]).sum(),
    )


@st.composite
def cases(draw: Callable[..., int], make: Callable[..., Case], least: int = 1, most: int = 6) -> Case:
    torch.manual_seed(draw(st.integers(0, 2**20)))
    return make(draw(st.integers(least, most)), draw(st.integers(1, 5)), draw(st.integers(1, 5)), draw)


LOSSES = [center, contrastive, distillation, confusion, mutual_channel, mutual_channel_kernel]
every_loss = pytest.mark.parametrize("make", LOSSES, ids=lambda make: make.__name__)
ROUNDED = [torch.float32, torch.float16, torch.bfloat16]


@every_loss
@given(data=st.data())
@settings(max_examples=15)
def test_the_type_of_the_input_changes_the_value_by_rounding_only(
    make: Callable[..., Case], data: st.DataObject
) -> None:
    """float64 stays float64; all else is computed in float32, so halves lose nothing but their own digits."""
    case = data.draw(cases(make))
    assert case.function(*case.inputs).dtype == torch.float64
    for dtype in ROUNDED:
        rounded = [x.to(dtype) for x in case.inputs]
        value = case.function(*rounded)
        assert value.dtype == torch.float32
        assert value.shape == ()
        exact = case.function(*(x.double() for x in rounded))
        torch.testing.assert_close(value.double(), exact, rtol=1e-4, atol=1e-4)


@every_loss
@given(data=st.data())
@settings(max_examples=15)
def test_every_input_gets_a_finite_gradient_of_its_own_shape_and_type(
    make: Callable[..., Case], data: st.DataObject
) -> None:
    case = data.draw(cases(make))
    for dtype in [torch.float64, *ROUNDED]:
        inputs = [x.to(dtype).requires_grad_() for x in case.inputs]
        before = [x.detach().clone() for x in inputs]
        for x, slope in zip(inputs, torch.autograd.grad(case.function(*inputs), inputs), strict=True):
            assert (slope.shape, slope.dtype) == (x.shape, dtype)
            assert slope.isfinite().all()
        assert all(torch.equal(x, old) for x, old in zip(inputs, before, strict=True))  # nothing is changed in place


@every_loss
@given(data=st.data())
@settings(max_examples=15)
def test_the_module_is_the_function_and_the_layout_in_memory_is_no_matter(
    make: Callable[..., Case], data: st.DataObject
) -> None:
    case = data.draw(cases(make))
    expected = case.function(*case.inputs)
    torch.testing.assert_close(case.module(*case.inputs), expected)
    turned = [x.transpose(0, -1).contiguous().transpose(0, -1) for x in case.inputs]
    strided = [torch.stack([x, x], dim=-1)[..., 0] for x in case.inputs]
    for inputs in (turned, strided):
        torch.testing.assert_close(case.function(*inputs), expected)


@every_loss
@given(data=st.data())
@settings(max_examples=5)
def test_the_gradient_is_that_of_finite_differences(make: Callable[..., Case], data: st.DataObject) -> None:
    case = data.draw(cases(make))
    assert torch.autograd.gradcheck(case.function, [x.requires_grad_() for x in case.inputs])


@every_loss
@given(data=st.data())
@settings(max_examples=5)
def test_so_is_the_second_gradient(make: Callable[..., Case], data: st.DataObject) -> None:
    """By ``torch.autograd.grad``, which steps over what refuses, and beside another term."""
    case = data.draw(cases(make))
    inputs = [x.requires_grad_() for x in case.inputs]
    both = lambda *x: case.function(*x) + sum(y.pow(3).sum() for y in x)  # noqa: E731
    assert torch.autograd.gradgradcheck(both, inputs)


@every_loss
@given(data=st.data())
@settings(max_examples=5)
def test_activation_checkpointing_changes_nothing(make: Callable[..., Case], data: st.DataObject) -> None:
    case = data.draw(cases(make))
    inputs = [x.requires_grad_() for x in case.inputs]
    expected = torch.autograd.grad(case.function(*inputs), inputs)
    again = torch.autograd.grad(checkpoint(case.function, *inputs, use_reentrant=False), inputs)
    torch.testing.assert_close(again, expected)


@every_loss
@given(data=st.data())
@settings(max_examples=5)
def test_autocast_changes_nothing(make: Callable[..., Case], data: st.DataObject) -> None:
    case = data.draw(cases(make))
    inputs = [x.float() for x in case.inputs]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = case.function(*inputs)
    torch.testing.assert_close(inside, case.function(*inputs), rtol=0, atol=0)


@every_loss
@given(data=st.data())
@settings(max_examples=5)
def test_an_empty_batch_has_no_loss_and_no_gradient(make: Callable[..., Case], data: st.DataObject) -> None:
    """0 with a graph, for every loss: a selection that happens to be empty does not stop a run or spoil it."""
    case = data.draw(cases(make, 0, 0))
    inputs = [x.requires_grad_() for x in case.inputs]
    loss = case.function(*inputs)
    assert loss.item() == 0
    assert [x.shape for x in torch.autograd.grad(loss, inputs)] == [x.shape for x in inputs]


@every_loss
@given(data=st.data())
@settings(max_examples=3)
def test_compiles_into_one_graph_with_sizes_left_open(make: Callable[..., Case], data: st.DataObject) -> None:
    case = data.draw(cases(make, 2, 6))
    torch.compiler.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the compiler itself, about the machine
        compiled = torch.compile(case.function, fullgraph=True, dynamic=True, backend="eager")
        torch.testing.assert_close(compiled(*case.inputs), case.function(*case.inputs))


@pytest.mark.parametrize("make", [m for m in LOSSES if m is not mutual_channel_kernel], ids=lambda make: make.__name__)
@given(data=st.data())
@settings(max_examples=5)
def test_function_transforms_give_the_gradients_one_by_one(make: Callable[..., Case], data: st.DataObject) -> None:
    case = data.draw(cases(make))
    arguments = tuple(range(len(case.inputs)))
    stacked = [torch.stack([x, 2 * x]) for x in case.inputs]
    together = torch.func.vmap(torch.func.grad(case.function, argnums=arguments))(*stacked)
    for i in (0, 1):
        alone = [x[i].clone().requires_grad_() for x in stacked]
        expected = torch.autograd.grad(case.function(*alone), alone)
        torch.testing.assert_close([x[i] for x in together], list(expected))


# --------------------------------------------------------------------------------------------------------------- labels

INTEGERS = [getattr(torch, f"{sign}int{bits}") for sign in ("", "u") for bits in (8, 16, 32, 64)]
LABELS = torch.tensor([2, 1, 1, 0, 2])


def _of_labels(name: str, labels: Tensor) -> Tensor:
    """What ``name`` gives for ``labels`` in [0, 3), everything else fixed."""
    torch.manual_seed(0)
    features, logits, maps = torch.randn(5, 4), torch.randn(5, 3), torch.randn(5, 7, 2, 2)
    results: dict[str, Callable[[], Tensor]] = {
        "center": lambda: center_loss(features, labels, torch.randn(3, 4)),
        "centers": lambda: update_centers(torch.randn(3, 4), features, labels),
        "confusion": lambda: pairwise_confusion(logits, labels),
        "mutual_channel": lambda: torch.stack(mutual_channel_loss(maps, labels, 3)),
        "mutual_channel_kernel": lambda: torch.stack(kernel(maps, labels, 3)),
        "pairs": lambda: torch.stack(disjoint_pairs(labels, generator=torch.Generator().manual_seed(0))),
        "triplets": lambda: torch.stack(all_triplets(labels)),
    }
    return results[name]()


with_labels = pytest.mark.parametrize(
    "name", ["center", "centers", "confusion", "mutual_channel", "mutual_channel_kernel", "pairs", "triplets"]
)


@with_labels
@pytest.mark.parametrize("dtype", INTEGERS, ids=str)
def test_labels_are_integers_of_any_type(name: str, dtype: torch.dtype) -> None:
    torch.testing.assert_close(_of_labels(name, LABELS.to(dtype)), _of_labels(name, LABELS), rtol=0, atol=0)


@with_labels
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bool], ids=str)
def test_other_labels_are_refused(name: str, dtype: torch.dtype) -> None:
    with pytest.raises(ValueError, match=rf"labels must be integers of shape .* got {dtype}"):
        _of_labels(name, LABELS.to(dtype))


# ---------------------------------------------------------------------------------------------------------------- files

FILES = [path for path in sorted(Path(losses.__path__[0]).glob("*.py")) if not path.name.startswith("_")]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_file_needs_torch_only(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf8"))
    imported = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    imported += [("." * node.level) + str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert {name.split(".")[0] for name in imported} <= {"torch", *sys.stdlib_module_names}


def test_the_mutual_channel_loss_copied_alone_trains(tmp_path: Path) -> None:
    (tmp_path / "lifted.py").write_bytes(next(path for path in FILES if path.stem == "mutual_channel").read_bytes())
    program = f"""if True:
        import sys; sys.path[:0] = [{str(tmp_path)!r}]
        import torch, lifted
        features = torch.rand(4, 11, 3, 3, requires_grad=True)
        sum(lifted.MutualChannelLoss(4)(features, torch.arange(4)).values()).backward()
        assert features.grad.any() and "fgvc_lib" not in sys.modules
    """
    subprocess.run([sys.executable, "-I", "-c", program], check=True, cwd=tmp_path)


def test_the_package_hands_on_every_module_and_what_it_names() -> None:
    names = [m.name for m in pkgutil.iter_modules(losses.__path__) if not m.name.startswith("_")]
    files = [importlib.import_module(f"{losses.__name__}.{name}") for name in names]
    found = {
        name
        for file in files
        for name, value in vars(file).items()
        if isinstance(value, type) and issubclass(value, nn.Module) and value.__module__ == file.__name__
    }
    assert found <= set(losses.__all__)
    assert all(hasattr(losses, name) for name in losses.__all__)
