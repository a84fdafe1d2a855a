"""The reference's list of modules, read off the library's folders, so that a new file is on its page by itself."""

from __future__ import annotations

import ast
from pathlib import Path

from pipeline.project import ROOT

PAGES = {
    "losses": ["fgvc_lib.losses"],
    "layers": ["fgvc_lib.layers"],
    "methods": ["fgvc_lib.methods", "fgvc_lib.backbones"],
    "data": ["fgvc_lib.data"],
    "train": ["fgvc_lib.config", "fgvc_lib.fine_tuning", "fgvc_lib.train", "fgvc_lib.report", "fgvc_lib.export"],
    "study": ["fgvc_study"],
    "metrics": ["fgvc_study.metrics"],
}
"""Page under ``book/api`` → the packages and modules that it shows."""

INTERNAL = {"fgvc_lib.data.bird_drawing", "fgvc_lib.data.shapes", "fgvc_lib.data.cache"}
"""Shown nowhere: what other modules use and nobody else would."""


def pages() -> dict[str, str]:
    """Name of each list → its markdown."""
    return {f"api_{page}.md": "\n".join(map(_package, shown)) for page, shown in PAGES.items()}


def modules(name: str) -> list[str]:
    """The modules of a package, or the module of that name itself."""
    stems = (path.stem for path in sorted(ROOT.joinpath(*name.split(".")).glob("*.py")))
    found = [f"{name}.{stem}" for stem in stems if not stem.startswith("_")]
    return [module for module in found or [name] if module not in INTERNAL]


def _package(name: str) -> str:
    lines = []
    if ROOT.joinpath(*name.split(".")).is_dir():  # an anchor for links to the package
        lines += ["```{eval-rst}", f".. module:: {name}", "```", ""]
    for module in modules(name):
        shown = module.removeprefix("fgvc_lib.")
        lines += [f"## `{shown}`", "", "```{eval-rst}", f".. automodule:: {module}", "   :members:"]
        if fields := _fields(ROOT.joinpath(*module.split(".")).with_suffix(".py")):
            lines.append(f"   :exclude-members: {', '.join(fields)}")
        lines += ["```", ""]
    return "\n".join(lines)


def _fields(path: Path) -> list[str]:
    """Fields of the named tuples in a file: their class describes them, "alias for field number 0" would not."""
    classes = [node for node in ast.parse(path.read_text(encoding="utf8")).body if isinstance(node, ast.ClassDef)]
    tuples = [node for node in classes if any(ast.unparse(base) == "NamedTuple" for base in node.bases)]
    fields = [item.target for node in tuples for item in node.body if isinstance(item, ast.AnnAssign)]
    return list(dict.fromkeys(ast.unparse(field) for field in fields))
