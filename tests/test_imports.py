"""Arrows between the packages: the library knows nothing of the study, and inside it they point one way."""

import ast
import importlib
from pathlib import Path

import pytest
from torch import nn

ROOT = Path(__file__).resolve().parents[1]
ARROWS = {  # part of the library → the parts that it may import
    "losses": set(),
    "layers": {"losses", "backbones"},
    "backbones": set(),
    "methods": {"losses", "layers", "backbones", "config"},
    "data": {"config"},
    "train": {"backbones", "methods", "data", "config"},
}


def imported(path):
    """The modules that a file imports, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize(
    ("package", "others"),
    [("fgvc_lib", ("fgvc_study", "pipeline", "benchmarks")), ("fgvc_study", ("pipeline", "benchmarks"))],
)
def test_a_package_imports_nothing_that_stands_on_it(package, others):
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    found = [f"{p.relative_to(ROOT)}: {name}" for p in files for name in imported(p) if name.split(".")[0] in others]
    assert found == []


@pytest.mark.parametrize("part", ARROWS)
def test_arrows_inside_the_library_point_one_way(part):
    folder = ROOT / "fgvc_lib" / part
    files = sorted(folder.glob("*.py")) if folder.is_dir() else [folder.with_suffix(".py")]
    used = {name.split(".")[1] for path in files for name in imported(path) if name.startswith("fgvc_lib.")}
    assert used - {part, "__version__"} <= ARROWS[part]


@pytest.mark.parametrize("part", ["losses", "layers", "methods"])
def test_a_module_of_torch_is_imported_from_the_package_that_holds_its_file(part):
    package = importlib.import_module(f"fgvc_lib.{part}")
    missing = []
    for path in sorted((ROOT / "fgvc_lib" / part).glob("[a-z]*.py")):
        module = importlib.import_module(f"fgvc_lib.{part}.{path.stem}")
        own = [value for value in vars(module).values() if getattr(value, "__module__", "") == module.__name__]
        classes = [value for value in own if isinstance(value, type) and issubclass(value, nn.Module)]
        missing += [c.__name__ for c in classes if c.__name__[0] != "_" and not hasattr(package, c.__name__)]
    assert missing == []
