"""Checkpoint files: whole or not there, the last two, and never another run's."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest
import torch

from fgvc_lib.train.checkpoint import CheckpointError, Checkpoints, write_atomically

HERE: dict[str, Any] = {"config": {"lr": 0.1, "method_args": {"weight": 1}}, "data": "abc"}


def state(step: int) -> dict[str, Any]:
    return {"run": {"step": step}, "weights": torch.full((3,), float(step))}


def test_the_newest_comes_back_and_two_are_kept(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "run", HERE)
    assert checkpoints.load() is None
    for step in (5, 10, 15):
        checkpoints.save(step, state(step))
    assert checkpoints.steps() == [10, 15]
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["checkpoint-00000010.pt", "checkpoint-00000015.pt"]
    loaded = Checkpoints(tmp_path / "run", HERE).load()
    assert loaded is not None
    assert torch.equal(loaded["weights"], torch.full((3,), 15.0))


def damage_by_truncation(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def damage_by_a_flipped_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    place = content.index(torch.full((3,), 10.0).numpy().tobytes())
    content[place + 2] ^= 1
    path.write_bytes(content)


def damage_by_emptying(path: Path) -> None:
    path.write_bytes(b"")


def damage_by_another_file(path: Path) -> None:
    torch.save([1, 2], path)


def damage_by_code(path: Path) -> None:
    torch.save({"identity": HERE, "state": os.system}, path)


@pytest.mark.parametrize(
    "damage",
    [
        damage_by_truncation,
        damage_by_a_flipped_bit,
        damage_by_emptying,
        damage_by_another_file,
        damage_by_code,
    ],
)
def test_a_damaged_checkpoint_is_refused_and_the_one_before_it_used(tmp_path: Path, damage: Any) -> None:
    checkpoints = Checkpoints(tmp_path, HERE)
    for step in (5, 10):
        checkpoints.save(step, state(step))
    damage(checkpoints.path(10))
    with pytest.warns(UserWarning, match=r"checkpoint-00000010.pt cannot be read \(\w+: .*\): not used"):
        loaded = checkpoints.load()
    assert loaded is not None
    assert loaded["run"]["step"] == 5


def test_a_foreign_checkpoint_is_refused_with_what_differs(tmp_path: Path) -> None:
    other = {"config": {"lr": 0.2, "method_args": {"weight": 2}}, "data": "abc"}
    Checkpoints(tmp_path, HERE).save(5, state(5))
    Checkpoints(tmp_path, other).save(10, state(10))
    with pytest.warns(UserWarning, match=r"another run \(config.lr is 0.2 instead of 0.1; config.method_args"):
        loaded = Checkpoints(tmp_path, HERE).load()
    assert loaded is not None
    assert loaded["run"]["step"] == 5


def test_a_folder_of_another_run_is_not_mixed_with_this_one(tmp_path: Path) -> None:
    Checkpoints(tmp_path, {**HERE, "data": "def"}).save(5, state(5))
    with (
        pytest.warns(UserWarning, match="not used"),
        pytest.raises(CheckpointError, match=r"\(data is 'def' instead of 'abc'\): choose another folder or empty it"),
    ):
        Checkpoints(tmp_path, HERE).load()


def test_only_damaged_checkpoints_mean_a_fresh_start(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, HERE)
    damage_by_emptying(checkpoints.save(5, state(5)))
    with pytest.warns(UserWarning, match="cannot be read"):
        assert checkpoints.load() is None


def test_files_of_later_steps_are_not_deleted(tmp_path: Path) -> None:
    Checkpoints(tmp_path, {"data": "other"}).save(90, state(90))
    checkpoints = Checkpoints(tmp_path, HERE)
    for step in (1, 2, 3):
        checkpoints.save(step, state(step))
    assert checkpoints.steps() == [2, 3, 90]


def test_content_and_name_reach_the_disk_in_this_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    fsync, replace = os.fsync, os.replace

    def flush(descriptor: int) -> None:
        order.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "content")
        fsync(descriptor)

    def rename(old: Path, new: Path) -> None:
        order.append("name")
        replace(old, new)

    monkeypatch.setattr(os, "fsync", flush)
    monkeypatch.setattr(os, "replace", rename)
    write_atomically({"x": 1}, tmp_path / "file.pt")
    assert order == ["content", "name", *["folder"] * (os.name == "posix")]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file.pt"
    write_atomically({"x": 1}, path)
    with pytest.raises(AttributeError):
        write_atomically({"x": lambda: None}, path)
    assert torch.load(path, weights_only=True) == {"x": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["file.pt"]
