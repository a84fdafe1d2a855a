"""Fixtures shared by all tests."""

from __future__ import annotations

import inspect
import multiprocessing
import runpy
import sys
import textwrap
import warnings
from collections.abc import Callable, Iterator
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import settings

# The same examples on every machine and at every run; what a test draws is small, how long it takes is no matter.
settings.register_profile("fixed", derandomize=True, deadline=None, max_examples=30)
settings.load_profile("fixed")


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Every test starts from the same global random state."""
    torch.manual_seed(0)


@pytest.fixture
def fgvc(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., Any]]:
    """The command line: ``fgvc("train", "--seed", 1) -> (exit status, stdout, stderr)``."""
    from fgvc_lib import cli

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["fgvc", *map(str, arguments)])
        with warnings.catch_warnings():
            try:
                cli.main()
                status = 0
            except SystemExit as stop:
                status = int(stop.code or 0)
        return (status, *capsys.readouterr())

    shown = warnings.formatwarning
    yield call
    warnings.formatwarning = shown


class Forked:
    """A program in a process forked from one that has imported the library: it starts at once, not after seconds.

    Args:
        source: of the program.
        folder: for the program and what it prints.
        name: of both files.
        arguments: what it finds in ``sys.argv[1:]``.
        cwd: its working folder.
        env: added to its environment.
    """

    def __init__(
        self, source: str, folder: Path, name: str, *arguments: object, cwd: Path | None = None, **env: str
    ) -> None:
        self.printed = folder / f"{name}.out"
        program = folder / f"{name}.py"
        given = [str(program), *map(str, arguments)]
        environment = {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", **env}  # ranks meet over loopback
        program.write_text(
            textwrap.dedent(f"""\
            import multiprocessing, os, sys
            multiprocessing.set_start_method("fork", force=True)  # else a killed process leaves its locks behind
            printed = os.open({str(self.printed)!r}, os.O_WRONLY | os.O_CREAT)
            os.dup2(printed, 1), os.dup2(printed, 2)
            sys.stdout, sys.stderr = (open(fd, "w", buffering=1, closefd=False) for fd in (1, 2))
            os.chdir({str(cwd or folder)!r})
            os.environ.update({environment!r})
            sys.argv[:] = {given!r}
            import torch
            torch.set_num_threads(1)
            """)
            + textwrap.dedent(source)
        )
        self.process = FORKS.Process(target=runpy.run_path, args=(str(program),), kwargs={"run_name": "__main__"})
        self.process.start()

    def wait(self, *, timeout: float = 300) -> str:
        """What it printed, once it has ended well."""
        self.process.join(timeout)
        output = self.printed.read_text() if self.printed.exists() else ""
        if self.process.exitcode is None:
            self.process.kill()
            pytest.fail(f"not ended after {timeout} s\n{output}")
        assert self.process.exitcode == 0, output
        return output


FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["fgvc_study", "torch.nn.parallel"])


def pytest_collection_finish(session: pytest.Session) -> None:
    """The process to fork from imports the library while the first tests run."""
    if any({"forked", "run_ranks"} & set(getattr(item, "fixturenames", ())) for item in session.items):
        forkserver.ensure_running()


@pytest.fixture(scope="session")
def forked() -> type[Forked]:
    """See :class:`Forked`."""
    return Forked


@pytest.fixture
def run_ranks(tmp_path: Path) -> Callable[..., list[Any]]:
    """Run a self-contained function in several gloo processes: ``run_ranks(f, world_size=2) -> [result of rank 0, …]``.

    The function takes ``(rank, world_size)``, imports what it needs inside, and returns what ``torch.save`` can write.
    """

    def run(function: Callable[[int, int], Any], world_size: int = 2) -> list[Any]:
        source = textwrap.dedent(inspect.getsource(function)) + textwrap.dedent(f"""
            import torch.distributed as dist
            rank = int(sys.argv[1])
            meet = "file://{tmp_path}/rendezvous"
            dist.init_process_group("gloo", init_method=meet, rank=rank, world_size={world_size})
            result = {function.__name__}(rank, {world_size})
            torch.save(result, f"{tmp_path}/rank{{rank}}.pt")
            dist.destroy_process_group()
            """)
        ranks = [Forked(source, tmp_path, f"rank{rank}", rank) for rank in range(world_size)]
        for rank in ranks:
            rank.wait()
        return [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(world_size)]

    return run
