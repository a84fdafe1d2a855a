"""A run that is killed, terminated or split over two processes ends like one that was left in peace.

One program forks all runs (before torch has started any thread), because they end in signals; the tests look at what
they have left behind.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

COMMON = '''
import json, os, signal, sys
import numpy as np, torch, torch.distributed as dist
from torch import nn
from fgvc_lib.backbones import BACKBONES, Backbone
from fgvc_lib.config import Config
from fgvc_lib.data import ImageData, Split
from fgvc_lib.methods import METHODS, Method, Output, Phase
from fgvc_lib.train import NonFiniteLoss, fit
from fgvc_lib.train import checkpoint as checkpoint_file
from fgvc_lib.train import trainer

torch.set_num_threads(1)
folder = sys.argv[1]
NORM = {"batch": nn.BatchNorm2d, "group": lambda c: nn.GroupNorm(2, c)}

def tiny(norm):
    block = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), NORM[norm](4), nn.ReLU())
    top = nn.Sequential(nn.Conv2d(4, 8, 3, 2, 1), NORM[norm](8), nn.ReLU())
    return Backbone({"low": block, "top": top}, {"low": 4, "top": 8}, {"low": 2, "top": 4})

class Probe(Method):
    """Draws from its own generators and torch's, and moves buffers of its own."""
    hook = None   # called with the number of optimizer steps that have moved the buffer

    def __init__(self, backbone, num_classes, *, noise=0.0, poison_rank=None):
        super().__init__()
        self.backbone, self.noise, self.poison_rank = backbone, noise, poison_rank
        self.head = nn.Linear(8, num_classes)
        self.register_buffer("center", torch.zeros(8))
        self.register_buffer("taken", torch.zeros((), dtype=torch.int64))

    def phases(self):
        head = [{"params": list(self.head.parameters())}]
        return [Phase(head, 1 / 3, "head"), Phase([{"params": list(self.parameters())}], 2 / 3, "all")]

    def forward(self, images, labels=None):
        x = self.backbone(images)["top"].mean((2, 3))
        if not self.training or labels is None:
            return Output(self.head(x))
        shared = torch.rand(8, generator=self.shared_generator)
        own = torch.rand(x.shape, generator=self.rank_generator)
        x = x * (1 + self.noise * (shared + own + torch.rand(8)))
        logits = self.head(x)
        pull = 0.1 * (x - self.center).square().mean()
        if self.poison_rank is not None and self.taken == 2 and dist.get_rank() == self.poison_rank:
            pull = pull * float("nan")
        state = {"mean": x.detach().mean(0)}
        return Output(logits, {"ce": self.cross_entropy(logits, labels), "pull": pull}, state=state)

    def after_step(self, states):
        mean = torch.stack([s["mean"] for s in states]).mean(0)
        if dist.is_initialized():
            dist.all_reduce(mean)
            mean /= dist.get_world_size()
        self.center += 0.5 * (mean - self.center)
        self.taken += 1
        if Probe.hook is not None:
            Probe.hook(int(self.taken))

METHODS["probe"], BACKBONES["tiny"] = Probe, tiny

def split(n, seed):
    pixels = np.random.default_rng(seed).integers(0, 255, (n, 3, 8, 8), dtype=np.uint8)
    return Split(pixels, torch.arange(n) % 3)

DATA = ImageData("tiny", "0", ("a", "b", "c"), split(24, 0), split(7, 1), split(5, 2), (0.5,) * 3, (0.3,) * 3,
                 augment=("crop", "flip"))

def child(work):
    """The wait status of a process that runs ``work``."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except SystemExit as stop:
            os._exit(stop.code)
        except BaseException:
            import traceback
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return pid

def write(fitted, name):
    history = [{k: v for k, v in row.items() if k != "seconds"} for row in fitted.history]
    steps = {k: v for k, v in fitted.timing.items() if "steps" in k}
    torch.save({"weights": fitted.method.state_dict(), "history": history, "final": fitted.final, "steps": steps},
               f"{folder}/{name}.pt")
'''

KILLED = """
config = Config(method="probe", method_args={"noise": 0.1}, backbone="tiny", backbone_args={"norm": "batch"},
                batch_size=8, grad_accum_steps=2, epochs=3, ema_decay=0.8, lr=0.1, warmup=0.2,
                grad_clip_norm=1.0)   # 9 steps

def peace():
    write(fit(config, data=DATA), "peace")

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def killed_after_step(n):
    Probe.hook = lambda taken: die() if taken == n else None
    fit(config, data=DATA, folder=f"{folder}/run", save_every=2)

def killed_while_writing(step):
    replace = os.replace
    checkpoint_file.os.replace = lambda a, b: die() if f"{step:08d}" in str(b) else replace(a, b)
    fit(config, data=DATA, folder=f"{folder}/run", save_every=2)

def killed_in_evaluation():
    trainer.evaluate = lambda *a, **k: die()
    fit(config, data=DATA, folder=f"{folder}/run", save_every=2)

def terminated(n):
    Probe.hook = lambda taken: os.kill(os.getpid(), signal.SIGTERM) if taken == n else None
    fit(config, data=DATA, folder=f"{folder}/run")

def interrupted(n):
    Probe.hook = lambda taken: os.kill(os.getpid(), signal.SIGINT) if taken == n else None
    fit(config, data=DATA, folder=f"{folder}/run")

def finish():
    write(fit(config, data=DATA, folder=f"{folder}/run", save_every=2), "resumed_alone")

def again():
    write(fit(config, data=DATA, folder=f"{folder}/run"), "again")

ends = {}
for name, work in [("peace", peace), ("step 1", lambda: killed_after_step(1)), ("step 3", lambda: killed_after_step(3)),
                   ("epoch 1", killed_in_evaluation), ("write 4", lambda: killed_while_writing(4)),
                   ("term 4", lambda: terminated(4)), ("step 6", lambda: killed_after_step(6)),
                   ("write 6", lambda: killed_while_writing(6)), ("int 6", lambda: interrupted(6)),
                   ("step 8", lambda: killed_after_step(8)),
                   ("finish", finish), ("again", again)]:
    status = os.waitpid(child(work), 0)[1]
    steps = sorted(f for f in os.listdir(f"{folder}/run")) if os.path.isdir(f"{folder}/run") else []
    ends[name] = [-os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status), steps]
"""


RANKS = """
import socket
with socket.socket() as s:
    s.bind(("127.0.0.1", 0))
    port = s.getsockname()[1]

def config(norm, **changes):
    return Config(method="probe", backbone="tiny", backbone_args={"norm": norm},
                  **{"batch_size": 8, "grad_accum_steps": 2, "epochs": 3, "lr": 0.1, "ema_decay": 0.5, **changes})

def as_rank(rank, work):
    def run():
        os.environ.update(RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank), MASTER_ADDR="127.0.0.1",
                          MASTER_PORT=str(port))
        work(rank)
    return child(run)

def both(work):
    global port
    pids = [as_rank(rank, work) for rank in range(2)]
    port += 1
    return [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]

def equal(rank):
    write(fit(config("group"), data=DATA), f"group{rank}")

noisy = config("group", grad_accum_steps=1, batch_size=4, method_args={"noise": 0.1})   # each rank draws of its own

def unbroken(rank):
    write(fit(noisy, data=DATA), f"unbroken{rank}")

def killed(rank):   # only rank 1 is told to stop: both must save and leave at the same step
    Probe.hook = lambda taken: os.kill(os.getpid(), signal.SIGTERM) if (rank, taken) == (1, 4) else None
    fit(noisy, data=DATA, folder=f"{folder}/ranks")

def resumed(rank):
    write(fit(noisy, data=DATA, folder=f"{folder}/ranks"), f"resumed{rank}")

def poisoned(rank):
    try:
        fit(config("group", method_args={"poison_rank": 1}), data=DATA)
    except NonFiniteLoss as error:
        assert "pull is not finite at step 3" in str(error), error
        os._exit(7)

def batch(rank):   # without SyncBatchNorm each rank has its own statistics: all must evaluate rank 0's
    write(fit(config("batch", epochs=1), data=DATA), f"batch{rank}")

def alone():
    write(fit(config("group"), data=DATA), "alone")

ranks = [os.waitstatus_to_exitcode(os.waitpid(child(alone), 0)[1]), both(equal), both(unbroken), both(killed),
         both(resumed), both(poisoned), both(batch)]
print(json.dumps({"killed": ends, "ranks": ranks}))
"""

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a POSIX system: runs are forked, end in signals")


class Left(NamedTuple):
    """What the runs left behind: exit codes by name, checkpoint files by name, and a folder of results."""

    killed: dict[str, tuple[int, list[str]]]
    ranks: list[Any]
    folder: Path

    def load(self, name: str) -> dict[str, Any]:
        return torch.load(self.folder / f"{name}.pt", weights_only=True)  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def left(tmp_path_factory: pytest.TempPathFactory, forked: Any) -> Left:
    folder = tmp_path_factory.mktemp("runs")
    printed = forked(COMMON + KILLED + RANKS, folder, "program", folder).wait()
    return Left(**json.loads(printed.splitlines()[-1]), folder=folder)


def test_killed_at_any_step_and_resumed_is_bit_equal_to_never_interrupted(left: Left) -> None:
    for name, (code, _) in left.killed.items():
        expected = {"peace": 0, "finish": 0, "again": 0, "term 4": 143, "int 6": 130}.get(name, -9)
        assert code == expected, (name, left.killed)
    whole = {name: [f for f in files if f.startswith("checkpoint")] for name, (_, files) in left.killed.items()}
    assert whole["step 1"] == []
    assert whole["step 3"] == ["checkpoint-00000002.pt"]
    assert whole["write 4"] == ["checkpoint-00000002.pt", "checkpoint-00000003.pt"]
    assert whole["term 4"][-1] == "checkpoint-00000005.pt"  # told at the end of step 4, saved after the next one
    assert whole["int 6"][-1] == "checkpoint-00000007.pt"
    assert whole["finish"] == ["checkpoint-00000008.pt", "checkpoint-00000009.pt"]

    peace = left.load("peace")
    for name in ("resumed_alone", "again"):
        ended = left.load(name)
        assert peace["weights"].keys() == ended["weights"].keys()
        assert [n for n, value in peace["weights"].items() if not torch.equal(value, ended["weights"][n])] == []
        for part in ("history", "final", "steps"):
            assert peace[part] == ended[part]


def test_two_processes_equal_one(left: Left) -> None:
    assert left.ranks == [0, [0, 0], [0, 0], [143, 143], [0, 0], [7, 7], [0, 0]]
    alone, first, second = left.load("alone"), left.load("group0"), left.load("group1")
    for name, value in alone["weights"].items():  # the method's own buffer among them
        torch.testing.assert_close(first["weights"][name], value, rtol=1e-4, atol=1e-6)
        assert torch.equal(first["weights"][name], second["weights"][name]), name
    assert first["history"] == second["history"]
    assert first["final"] == second["final"] == pytest.approx(alone["final"], rel=1e-4)
    for row, expected in zip(first["history"], alone["history"], strict=True):
        assert row == {k: v if isinstance(v, str) else pytest.approx(v, rel=1e-4) for k, v in expected.items()}


def test_two_processes_that_were_stopped_end_like_two_that_were_not(left: Left) -> None:
    for rank in range(2):
        unbroken, resumed = left.load(f"unbroken{rank}"), left.load(f"resumed{rank}")
        for name, value in unbroken["weights"].items():
            torch.testing.assert_close(resumed["weights"][name], value, rtol=1e-6, atol=1e-7)
        assert resumed["final"] == pytest.approx(unbroken["final"], rel=1e-5)
        assert [row["ce"] for row in resumed["history"]] == pytest.approx([row["ce"] for row in unbroken["history"]])


def test_processes_without_synchronized_statistics_evaluate_those_of_rank_0(left: Left) -> None:
    first, second = left.load("batch0"), left.load("batch1")
    assert first["final"] == second["final"]
    assert all(torch.equal(value, second["weights"][name]) for name, value in first["weights"].items())
