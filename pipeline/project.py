"""What the pipeline knows of this repository, each fact read from the one file that states it.

====================  ==========================================
chapters, their order  ``_toc.yml``
public address         ``repository`` in ``_config.yml``
profiles               ``profiles/*/``
lowest torch           ``dependencies`` in ``pyproject.toml``
====================  ==========================================
"""

from __future__ import annotations

import ast
import hashlib
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import yaml
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parents[1]


class PipelineError(Exception):
    """A problem with a source or a result that one sentence can state; shown without a traceback."""


@dataclass(frozen=True)
class Repository:
    """The public address; badges, launch links and install cells are made from it."""

    url: str
    branch: str

    @property
    def install(self) -> str:
        """The requirement that pip resolves to this repository's library and what carries its pretrained weights."""
        return f"fgvc-lib[pretrained] @ git+{self.url}@{self.branch}"

    def colab(self, path: str) -> str:
        """The address that opens the notebook at ``path`` in Google Colab."""
        owner_and_name = "/".join(self.url.rstrip("/").split("/")[-2:])
        return f"https://colab.research.google.com/github/{owner_and_name}/blob/{self.branch}/{path}"


def read_yaml(path: Path) -> Any:
    """The content of a YAML file; a :class:`PipelineError` that names the file where it is absent or malformed."""
    shown = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
    try:
        return yaml.safe_load(path.read_text(encoding="utf8"))
    except FileNotFoundError:
        raise PipelineError(f"{shown} does not exist") from None
    except yaml.YAMLError as error:
        raise PipelineError(f"{shown} is not valid YAML: {' '.join(str(error).split())}") from None


def repository() -> Repository:
    """The repository's public address and branch."""
    stated = read_yaml(ROOT / "_config.yml")["repository"]
    return Repository(url=stated["url"].rstrip("/"), branch=stated["branch"])


def chapters() -> list[str]:
    """The chapters in reading order, as ``02_center_loss``."""

    def pages(node: Any) -> list[str]:
        if isinstance(node, list):
            return [page for part in node for page in pages(part)]
        if isinstance(node, dict):
            here = [node[key] for key in ("root", "file") if key in node]
            return here + [page for key in ("parts", "chapters", "sections") for page in pages(node.get(key, []))]
        return []

    found = (Path(page).with_suffix("") for page in pages(read_yaml(ROOT / "_toc.yml")))
    return [page.name for page in found if page.parent == Path("notebooks")]


def profiles() -> list[str]:
    """The names of the profiles."""
    return sorted(path.name for path in (ROOT / "profiles").glob("*/"))


def parameters(profile: str, chapter: str) -> dict[str, Any]:
    """What ``profile`` sets in ``chapter``: ``profiles/<profile>/<chapter>.yaml``."""
    if profile not in profiles():
        raise PipelineError(f"there is no profile {profile!r}: choose from {', '.join(profiles())}")
    path = ROOT / "profiles" / profile / f"{chapter}.yaml"
    settings = read_yaml(path) or {}
    if not isinstance(settings, dict):
        raise PipelineError(f"{path.relative_to(ROOT)} must hold a mapping of parameters")
    return settings


def lowest_torch() -> str:
    """The oldest torch that the library is tested with, as ``2.11``."""
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf8"))["project"]["dependencies"]
    (lowest,) = (found[1] for line in dependencies if (found := re.fullmatch(r"torch>=([\d.]+)", line)))
    return str(lowest)


def build_folder(profile: str) -> Path:
    """Where everything that is built from ``profile`` goes."""
    return ROOT / "build" / profile


def clean_notebook(chapter: str) -> NotebookNode:
    """The committed notebook of a chapter."""
    path = ROOT / "notebooks" / f"{chapter}.ipynb"
    if not path.exists():
        raise PipelineError(f"notebooks/{chapter}.ipynb does not exist: run `make sync`")
    return nbformat.read(path, as_version=4)


def defaults(notebook: NotebookNode, chapter: str) -> dict[str, Any]:
    """What the cell tagged ``parameters`` sets; literals only, since a value derived there would keep its default."""
    tagged = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    if len(tagged) != 1:
        raise PipelineError(f"notebooks/{chapter}: {len(tagged)} cells are tagged 'parameters', there must be one")
    found: dict[str, Any] = {}
    for statement in ast.parse(tagged[0].source).body:
        target = statement.targets[0] if isinstance(statement, ast.Assign) else getattr(statement, "target", None)
        value = getattr(statement, "value", None)
        try:
            if not isinstance(target, ast.Name) or value is None:
                raise ValueError
            found[target.id] = ast.literal_eval(value)
        except ValueError:
            line = ast.unparse(statement)
            raise PipelineError(f"notebooks/{chapter}: the parameters cell holds literals only, not {line!r}") from None
    return found


def executed_path(profile: str, chapter: str) -> Path:
    """Where the executed notebook of a chapter goes."""
    return build_folder(profile) / "executed" / f"{chapter}.ipynb"


def files(*patterns: str) -> list[str]:
    """The files that match, as paths from the root; no caches."""
    found = {path for pattern in patterns for path in ROOT.glob(pattern) if path.is_file()}
    return sorted(str(path.relative_to(ROOT)) for path in found if path.suffix != ".pyc")


def digest(text: str) -> str:
    """A short hash of ``text``."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def write_if_changed(path: Path, content: str | bytes) -> bool:
    """Write ``path`` unless it holds ``content`` already, so that its time says when it last changed."""
    data = content.encode() if isinstance(content, str) else content
    if path.is_file() and path.read_bytes() == data:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_bytes(data)
    part.replace(path)
    return True
