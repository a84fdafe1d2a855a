"""The reference's list of modules, read off the library's folders, so that a new file is on its page by itself."""

from __future__ import annotations

import ast
from pathlib import Path

from pipeline.project import ROOT

PAGES = {
    "losses": ["losses"],
    "layers": ["layers"],
    "methods": ["methods", "backbones"],
    "data": ["data"],
    "train": ["config", "train", "export"],
    "results": ["results"],
    "measures": ["measures"],
}
"""Page under ``book/api`` → what of the library it shows."""

INTERNAL = {"data.bird_drawing", "data.shapes", "data.cache"}
"""Shown nowhere: what others of the library use and nobody else would."""


def pages() -> dict[str, str]:
    """Name of each list → its markdown."""
    return {f"api_{page}.md": "\n".join(map(_package, shown)) for page, shown in PAGES.items()}


def modules(name: str) -> list[str]:
    """The modules of a package or module of the library, without the library's own name."""
    folder = ROOT / "fgvc_lib" / name
    found = [f"{name}.{path.stem}" for path in sorted(folder.glob("*.py")) if path.stem != "__init__"]
    return [module for module in found or [name] if module not in INTERNAL]


def _package(name: str) -> str:
    lines = []
    if (ROOT / "fgvc_lib" / name).is_dir():  # an anchor for links to the package
        lines += ["```{eval-rst}", f".. module:: fgvc_lib.{name}", "```", ""]
    for module in modules(name):
        path = ROOT.joinpath("fgvc_lib", *module.split(".")).with_suffix(".py")
        lines += [f"## `{module}`", "", "```{eval-rst}", f".. automodule:: fgvc_lib.{module}", "   :members:"]
        if fields := _fields(path):
            lines.append(f"   :exclude-members: {', '.join(fields)}")
        lines += ["```", ""]
    return "\n".join(lines)


def _fields(path: Path) -> list[str]:
    """Fields of the named tuples in a file: their class describes them, "alias for field number 0" would not."""
    classes = [node for node in ast.parse(path.read_text(encoding="utf8")).body if isinstance(node, ast.ClassDef)]
    tuples = [node for node in classes if any(ast.unparse(base) == "NamedTuple" for base in node.bases)]
    fields = [item.target for node in tuples for item in node.body if isinstance(item, ast.AnnAssign)]
    return list(dict.fromkeys(ast.unparse(field) for field in fields))
