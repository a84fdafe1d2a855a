"""Which source files a piece of code reaches, read off the code itself, and a hash of what a source does.

Imports are followed by name, so ``from fgvc_lib.losses import center_loss`` reaches the one file that defines it, not
every file that the package's ``__init__`` hands on. A table in an ``__init__`` (``METHODS = {"center": Center, …}``) is
followed for the keys that occur as a string somewhere in the code reached: what trains ``method="center"`` does not
depend on the other methods. Nothing is imported or run.
"""

from __future__ import annotations

import ast
import hashlib
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

LIBRARY = "fgvc_lib"
ROOT = Path(__file__).resolve().parents[1]
"""The folder that holds the package."""

PROSE = {"caption", "alt"}  # keyword arguments of a figure that a page shows as text
ALIGNMENT = {"ha", "va", "loc", "align", "horizontalalignment", "verticalalignment"}  # "center" here is no method


def digest(text: str) -> str:
    """A short hash of ``text``."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class _WithoutProse(ast.NodeTransformer):
    """Removes what cannot change a result: bare strings (docstrings) and literal captions."""

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        is_text = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return None if is_text else self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        node.keywords = [k for k in node.keywords if not (k.arg in PROSE and isinstance(k.value, ast.Constant))]
        return self.generic_visit(node)


@cache
def code_digest(source: str) -> str:
    """A hash of what ``source`` does: the same for another layout, comment, docstring or literal caption."""
    try:
        tree = _WithoutProse().visit(ast.parse(source))
    except SyntaxError:  # a shell or magic line
        return digest(source)
    return digest(ast.dump(tree))


@cache
def _file(module: str) -> Path | None:
    """The file of a library module, or None where there is none of that name."""
    base = ROOT.joinpath(*module.split("."))
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf8"), filename=str(path.relative_to(ROOT)))


def _imports(tree: ast.AST, module: str, is_package: bool) -> Iterator[tuple[str, str | None, str | None]]:
    """Every import as (module, name taken from it, name it is bound to); no name for ``import module``."""
    hidden = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in (getattr(node.test, k, None) for k in ("id", "attr"))
        for statement in node.body
        for child in ast.walk(statement)
    }
    for node in ast.walk(tree):
        if id(node) in hidden:
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, None, alias.asname) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            origin = node.module or ""
            if node.level:
                package = module.split(".")[: len(module.split(".")) - node.level + is_package]
                origin = ".".join([*package, *([origin] if origin else [])])
            yield from ((origin, alias.name, alias.asname or alias.name) for alias in node.names)


def _strings(tree: ast.AST) -> set[str]:
    """The strings in ``tree`` that could name something: no docstring, no alignment of a plot."""
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    prose |= {
        id(k.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        for k in node.keywords
        if k.arg in ALIGNMENT
    }
    constants = (node for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in prose)
    return {node.value for node in constants if isinstance(node.value, str)}


class _Module:
    """One file of the library, read once."""

    def __init__(self, name: str, path: Path) -> None:
        tree = ast.parse(path.read_text(encoding="utf8"), filename=str(path.relative_to(ROOT)))
        self.path = path
        self.is_package = path.name == "__init__.py"
        self.imports = list(_imports(tree, name, self.is_package))
        self.strings = _strings(tree)
        self.used = Counter(node.id for node in ast.walk(tree) if isinstance(node, ast.Name))
        self.tables: dict[str, dict[str, str]] = {}
        """Name of a module-level dictionary → listed name → key, where it maps strings to plain names."""
        for node in tree.body:
            if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Dict):
                target = node.targets[0] if isinstance(node, ast.Assign) else node.target
                pairs = zip(node.value.keys, node.value.values, strict=True)
                self.tables[ast.unparse(target)] = {
                    item.id: key.value
                    for key, item in pairs
                    if isinstance(key, ast.Constant) and isinstance(key.value, str) and isinstance(item, ast.Name)
                }

    def handed_on(self, name: str) -> tuple[str, str] | None:
        """Where a package's ``__init__`` imports ``name`` from, if it does."""
        found = ((origin, original) for origin, original, bound in self.imports if bound == name and original)
        return next(found, None) if self.is_package else None


@cache
def _module(name: str) -> _Module | None:
    """The library's module of that name, or None where there is none."""
    base = ROOT.joinpath(*name.split("."))
    path = next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)
    return _Module(name, path) if path else None


class Reach:
    """What a piece of code reaches, by import and by name in a table.

    Args:
        code: Python source, of a chapter say.
        words: strings that it is given beside its own: the values of parameters or of a configuration.

    Attributes:
        modules: of this package, name → file.
        packages: top-level names of everything else that is imported on the way.
        words: all strings that could name an entry of a table.
    """

    def __init__(self, code: str, words: set[str]) -> None:
        self.modules: dict[str, Path] = {}
        self.packages: set[str] = set()
        self.words: set[str] = set()
        self._open: set[str] = set()
        self._waiting: set[tuple[str, str, str]] = set()  # (key, module, name): followed once the key is a word
        tree = ast.parse(code)
        self._read(words | _strings(tree))
        for module, name, _ in _imports(tree, "", False):
            self._follow(module, name, iterated=True)
        while ready := {entry for entry in self._waiting if entry[0] in self.words}:
            self._waiting -= ready
            for _, module, name in ready:
                self._follow(module, name)

    def _read(self, words: set[str]) -> None:
        self.words |= words
        for module in (word.split(":")[0] for word in words if word.startswith(f"{LIBRARY}.")):
            self._add(module, everything=True)

    def _follow(self, module: str, name: str | None, *, iterated: bool = False) -> None:
        """Follow ``from module import name``, or ``import module`` where there is no name.

        The library looks single names up in its tables; the code itself, ``iterated``, may go through all of one.
        """
        if module.split(".")[0] != LIBRARY:
            self.packages.add(module.split(".")[0])
            return
        source = _module(module)
        if name and _module(f"{module}.{name}"):
            self._add(f"{module}.{name}", everything=True)
        elif source and name and (origin := source.handed_on(name)):
            self._follow(*origin, iterated=iterated)
        elif source:
            self._add(module, everything=name in (None, "*") or (iterated and name in source.tables))

    def _add(self, module: str, *, everything: bool) -> None:
        """Take in a module and what it imports.

        Of a package's ``__init__``, from which one name only is taken, what it merely hands on is left out, and the
        entries of its tables wait for their key; ``everything`` leaves nothing out.
        """
        source = _module(module)
        if source is None or module in self._open or (module in self.modules and not everything):
            return
        everything = everything or not source.is_package
        if everything:
            self._open.add(module)
        self.modules[module] = source.path
        keys = {} if everything else {name: key for table in source.tables.values() for name, key in table.items()}
        self._read(source.strings - set(keys.values()))
        for origin, name, bound in source.imports:
            if everything or name is None or bound is None:
                self._follow(origin, name)
            elif bound in keys and source.used[bound] == 1:
                self._waiting.add((keys[bound], origin, name))
            elif source.used[bound]:
                self._follow(origin, name)


def texts(value: Any) -> set[str]:
    """Every string in plain data."""
    if isinstance(value, str):
        return {value}
    if isinstance(value, dict):
        return {text for pair in value.items() for part in pair for text in texts(part)}
    if isinstance(value, list):
        return {text for part in value for text in texts(part)}
    return set()
