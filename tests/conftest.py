"""Fixtures shared by all tests."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Every test starts from the same global random state."""
    torch.manual_seed(0)


@pytest.fixture
def run_ranks(tmp_path: Path) -> Callable[..., list[Any]]:
    """Run a self-contained function in several gloo processes: ``run_ranks(f, world_size=2) -> [result of rank 0, …]``.

    The function takes ``(rank, world_size)``, imports what it needs inside, and returns what ``torch.save`` can write.
    """

    def run(function: Callable[[int, int], Any], world_size: int = 2) -> list[Any]:
        script = tmp_path / "ranks.py"
        script.write_text(
            textwrap.dedent(inspect.getsource(function))
            + textwrap.dedent(f"""
            import sys, torch, torch.distributed as dist
            rank = int(sys.argv[1])
            torch.set_num_threads(1)
            meet = "file://{tmp_path}/rendezvous"
            dist.init_process_group("gloo", init_method=meet, rank=rank, world_size={world_size})
            result = {function.__name__}(rank, {world_size})
            torch.save(result, f"{tmp_path}/rank{{rank}}.pt")
            dist.destroy_process_group()
            """)
        )
        # the ranks of this machine meet over loopback
        env = {**os.environ, "GLOO_SOCKET_IFNAME": "lo"}
        ranks = [
            subprocess.Popen([sys.executable, str(script), str(rank)], stderr=subprocess.PIPE, text=True, env=env)
            for rank in range(world_size)
        ]
        errors = [rank.communicate(timeout=120)[1] for rank in ranks]
        for rank, error in zip(ranks, errors, strict=True):
            assert rank.returncode == 0, error
        return [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(world_size)]

    return run
