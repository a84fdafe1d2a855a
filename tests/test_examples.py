"""The examples of the page "Lift one loss into your own loop": each runs as it stands, learns, and is short."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = sorted((ROOT / "book" / "examples").glob("*.py"))
PAGE = (ROOT / "book" / "lift.md").read_text(encoding="utf8")
MARK = "# ---- lifted ----"


def halves(path):
    """What is there already, and what is lifted."""
    before, after = path.read_text(encoding="utf8").split(MARK)
    return before, after


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_parameter_learns_and_the_loss_is_finite(path):
    before, after = halves(path)
    names: dict = {}
    exec(compile(before + after, str(path), "exec"), names)
    torch.testing.assert_close(names["loss"].isfinite(), torch.tensor(True))
    parameters = [p for group in names["optimizer"].param_groups for p in group["params"]]
    assert parameters
    assert all(p.grad is not None and p.grad.isfinite().all() for p in parameters)
    unmoved = [tuple(p.shape) for p in parameters if not p.grad.any() and p.ndim > 1]
    assert unmoved == []


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_lifted_part_is_some_ten_lines_and_on_the_page_with_the_rest(path):
    lines = [line for line in halves(path)[1].splitlines() if line.strip()]
    assert 7 <= len(lines) <= 18
    assert f"```{{literalinclude}} examples/{path.name}" in PAGE
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf8")))


def test_the_page_includes_nothing_else():
    included = re.findall(r"```{literalinclude} examples/(\S+)", PAGE)
    assert sorted(included) == [path.name for path in EXAMPLES]


def test_center_loss_moves_its_centres_as_the_last_line_says():
    before, after = halves(ROOT / "book" / "examples" / "center_loss.py")
    names: dict = {}
    exec(before + after, names)
    assert len(names["center"].centers) == 10
    assert not list(names["center"].parameters())
    x, y = names["features"].detach(), names["labels"]
    was = names["center"].centers.clone()
    names["center"].update(x, y)
    assert not torch.equal(names["center"].centers, was)


@pytest.mark.parametrize("name", re.findall(r"^ *cp fgvc_lib/losses/(\w+\.py)", PAGE, re.M))
def test_a_copied_file_works_alone(name, tmp_path):
    """The command that the page gives: one file in a folder without the library."""
    (tmp_path / name).write_text((ROOT / "fgvc_lib" / "losses" / name).read_text(encoding="utf8"))
    code = f"import sys; sys.path[:0] = [{str(tmp_path)!r}]; import {name[:-3]}; assert 'fgvc_lib' not in sys.modules"
    subprocess.run([sys.executable, "-I", "-c", code], check=True, cwd=tmp_path)
