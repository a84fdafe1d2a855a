"""Run one chapter with papermill, after checking that the parameters fit, and keep the notebook only if it finished.

    python -m pipeline.execute 02_center_loss --profile quick

writes ``build/quick/executed/02_center_loss.ipynb``. A chapter that fails leaves its half-run notebook in
``build/quick/failed/`` for a look, and nothing in ``executed/``.
"""

from __future__ import annotations

import argparse
import ast
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

from pipeline import status
from pipeline.project import (
    ROOT,
    PipelineError,
    build_folder,
    clean_notebook,
    defaults,
    executed_path,
    files,
    parameters,
)
from pipeline.sync import place

LIBRARY = ("fgvc_lib/**/*.py", "fgvc_study/**/*.py")
HEARTBEAT = 15  # seconds between two lines of progress


def names_read(cells: Iterable[NotebookNode], chapter: str) -> set[str]:
    """The names whose value some of the code cells uses; shell and magic lines aside."""
    found = set()
    for cell in cells:
        lines = ("pass" if line.startswith(("%", "!")) else line for line in cell.source.splitlines())
        try:
            tree = ast.parse("\n".join(lines))
        except SyntaxError as error:
            raise PipelineError(f"notebooks/{chapter}: {error.msg}: {(error.text or '').strip()}") from None
        found |= {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Load)}
    return found


def names_bound(cells: Iterable[NotebookNode]) -> set[str]:
    """The names that some of the code cells bind at their own level, not inside a function or comprehension."""
    inner = (ast.FunctionDef, ast.Lambda, ast.ListComp, ast.DictComp, ast.SetComp, ast.GeneratorExp)

    def walk(node: ast.AST) -> Iterator[str]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef):
                yield child.name
            if isinstance(child, ast.Name) and isinstance(child.ctx, ast.Store):
                yield child.id
            if not isinstance(child, inner):
                yield from walk(child)

    lines = ("\n".join("pass" if x.startswith(("%", "!")) else x for x in cell.source.splitlines()) for cell in cells)
    return {name for source in lines for name in walk(ast.parse(source))}


def given(profile: str, chapter: str, notebook: NotebookNode) -> dict[str, Any]:
    """What ``profile`` sets in ``chapter``.

    Raises:
        PipelineError: the notebook has no parameter of that name, or has one that no later cell reads, or that one
            binds anew. (Types are checked by the chapter itself, see :func:`pipeline.sync.parse_cell`.)
    """
    known = defaults(notebook, chapter)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    (at,) = (n for n, cell in enumerate(code) if "parameters" in cell.metadata.get("tags", []))
    if unread := set(known) - names_read(code[at + 1 :], chapter):
        raise PipelineError(f"notebooks/{chapter}: no cell reads the parameter {', '.join(sorted(unread))}")
    if bound := set(known) & names_bound(code[at + 1 :]):
        raise PipelineError(
            f"notebooks/{chapter}: a later cell gives the parameter {', '.join(sorted(bound))} another value: "
            "use another name there"
        )
    values = parameters(profile, chapter)
    for name in values:
        if name not in known:
            raise PipelineError(
                f"notebooks/{chapter} has no parameter {name!r}, which profile {profile} sets: "
                f"it has {', '.join(known)}"
            )
    return values


def code(chapter: str) -> str:
    """The text of a chapter's code cells."""
    return "\n".join(cell.source for cell in clean_notebook(chapter).cells if cell.cell_type == "code")


def inputs(chapter: str) -> list[str]:
    """The files that a chapter's results depend on beside its own code and parameters.

    These are the library, the versions of packages, and the committed records of this chapter and of those that its
    header names: ``records: [02_center_loss]`` or ``records: all``.
    """
    named = clean_notebook(chapter).metadata.get("records", [])
    shown = ["*"] if named == "all" else [chapter, *named]
    records = [f"data/{kind}" for name in shown for kind in (f"results/{name}/*", f"experiments/*/{name}.json")]
    return files(*LIBRARY, "requirements.lock", "data/*.yaml", "data/benchmarks/*", *records)


def provenance() -> dict[str, str]:
    """The commit and whether the tree differs from it, from the environment or from git; empty without either."""
    if "FGVC_COMMIT" in os.environ:
        return {name: os.environ[name] for name in ("FGVC_COMMIT", "FGVC_DIRTY") if name in os.environ}

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=ROOT, check=True, capture_output=True, text=True).stdout.strip()

    try:
        return {"FGVC_COMMIT": git("rev-parse", "HEAD"), "FGVC_DIRTY": str(int(bool(git("status", "--porcelain"))))}
    except (OSError, subprocess.CalledProcessError):
        return {}


def environment(profile: str, threads: int) -> dict[str, str]:
    """What a chapter's kernel finds in its environment, beside what is there already."""
    build = build_folder(profile)
    return {
        "FGVC_BUILD": str(build),
        **provenance(),
        **{name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")},
        "PYTHONHASHSEED": "0",
        "TQDM_DISABLE": "1",
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        # the reader's own start-up files, matplotlib style and kernels do not reach the book
        "IPYTHONDIR": str(build / "ipython"),
        "MPLCONFIGDIR": str(ROOT / "build" / "matplotlib"),
        "JUPYTER_PREFER_ENV_PATH": "1",
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",
    }


class Progress:
    """A line of progress every few seconds while a chapter runs."""

    def __init__(self, chapter: str, cells: int) -> None:
        self.chapter, self.cells, self.cell = chapter, cells, 0
        self._start, self._done = time.monotonic(), threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> Progress:
        self.say("started")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def say(self, text: str) -> None:
        print(f"{self.chapter}: {text}", flush=True)

    def seconds(self) -> float:
        return time.monotonic() - self._start

    def _beat(self) -> None:
        while not self._done.wait(HEARTBEAT):
            self.say(f"cell {self.cell} of {self.cells}, {self.seconds():.0f} s")


def run(chapter: str, profile: str, threads: int) -> Path:
    """Execute ``chapter`` and return the path of the executed notebook."""
    notebook = clean_notebook(chapter)
    values = given(profile, chapter, notebook)
    source = ROOT / "notebooks" / f"{chapter}.ipynb"

    build = build_folder(profile)
    done, part = executed_path(profile, chapter), build / "failed" / f"{chapter}.ipynb"
    work = build / "work" / chapter  # an empty folder: a chapter that needs its checkout would not run on Colab
    for folder in (done.parent, part.parent, work):
        folder.mkdir(parents=True, exist_ok=True)
    os.environ.update(environment(profile, threads))

    # slow to import: after the cheap checks
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.engines import NBClientEngine, papermill_engines
    from papermill.exceptions import PapermillExecutionError
    from traitlets.config import Config

    progress = Progress(chapter, len(notebook.cells) + 1)  # papermill adds the cell with the parameters

    class Engine(NBClientEngine):  # type: ignore[misc]
        """Papermill's own, telling ``progress`` which cell it has come to."""

        @classmethod
        def execute_managed_notebook(cls, nb_man: Any, kernel_name: str, **kwargs: Any) -> Any:
            start = nb_man.cell_start

            def cell_start(cell: NotebookNode, cell_index: int | None = None, **more: Any) -> None:
                progress.cell = (cell_index or 0) + 1
                start(cell, cell_index, **more)

            nb_man.cell_start = cell_start
            # sockets in the file system: no port that others on the machine could connect to
            config = Config({"KernelManager": {"transport": "ipc"}})
            quiet = ["--log-level=50"]  # of the kernel itself: the interrupt that ends it is no news
            return super().execute_managed_notebook(nb_man, kernel_name, config=config, extra_arguments=quiet, **kwargs)

    papermill_engines.register("progress", Engine)
    with progress:
        try:
            papermill.execute_notebook(
                source, part, values, engine_name="progress", kernel_name="python3", cwd=work, progress_bar=False
            )
        except PapermillExecutionError as error:
            cell = next((cell for cell in notebook.cells if cell.source == error.source), None)
            where = place(notebook, cell) if cell else "the cell with the parameters"
            said = (error.evalue or "").splitlines()
            raise PipelineError(
                f"notebooks/{chapter}, {where}: {error.ename}{': ' * bool(said)}{said[0] if said else ''}\n"
                f"       the run up to there: {part.relative_to(ROOT)}"
            ) from None
        except DeadKernelError:
            raise PipelineError(
                f"notebooks/{chapter}, about cell {progress.cell}: its Python process ended (out of memory?)"
            ) from None
        executed = nbformat.read(part, as_version=4)
        executed.metadata["fgvc"] = {"profile": profile, **status.machine(), **_lower(provenance())}
        nbformat.write(executed, part)
        part.replace(done)
    progress.say(f"done in {progress.seconds():.0f} s")
    return done


def _lower(variables: Mapping[str, str]) -> dict[str, str]:
    return {name.removeprefix("FGVC_").lower(): value for name, value in variables.items()}


def _interrupt(*_: object) -> None:
    logging.disable()  # a kernel that dies of the same Ctrl-C is no news
    raise KeyboardInterrupt


def main() -> None:
    """Execute one chapter in one profile."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.execute", description=main.__doc__)
    parser.add_argument("chapter")
    parser.add_argument("--profile", default="quick")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="torch threads")
    arguments = parser.parse_args()
    signal.signal(signal.SIGINT, _interrupt)
    try:
        run(arguments.chapter, arguments.profile, arguments.threads)
    except (PipelineError, OSError) as error:  # a full disk, a folder that is not ours
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(f"{arguments.chapter}: interrupted")


if __name__ == "__main__":
    main()
