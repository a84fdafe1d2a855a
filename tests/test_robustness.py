"""What goes wrong outside of the program ends in one sentence that says what to do, and leaves nothing half-made.

Settings that cannot be meant, files that are not to be trusted, disks that are full, networks that are not there.
Damaged checkpoints and archives are tested beside their readers.
"""

from __future__ import annotations

import errno
import itertools
import os
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import requests
import torch
from filelock import FileLock
from hypothesis import given
from hypothesis import strategies as st

from fgvc_lib.config import Config
from fgvc_lib.data import load
from fgvc_lib.train import checkpoint
from fgvc_lib.train.model import check_settings

Call = Callable[..., tuple[int, str, str]]
SHORT = ["--quiet", "--device", "cpu", "--epochs", "1", "-s", "batch_size=16"]
SHORT += ["--backbone", "resnet", "-s", "backbone_args.width=8"]


def refused(result: tuple[int, str, str], *parts: str) -> None:
    """One line on stderr that holds ``parts``, exit status 2, and no result."""
    status, out, err = result
    assert (status, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1, err
    for part in parts:
        assert part in err


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join(['*' + before] * 9)}]\n" for before, name in itertools.pairwise("abcdefghi")
)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (b"lr: 0.1\n  epochs: 3\n", ["run.yaml is not valid YAML: mapping values are not allowed here"]),
        (b"lr: [0.1\n", ["run.yaml is not valid YAML", "expected ',' or ']'", "line 2"]),
        (b"- lr\n", ["run.yaml must hold a mapping of settings, got ['lr']"]),
        (b"", ["run.yaml must hold a mapping of settings, got None"]),
        (b"lr: \xff\n", ["run.yaml is not valid YAML: 'utf-8' codec can't decode byte 0xff in position 4"]),
        (b"lr: \x00\n", ["run.yaml is not valid YAML"]),
        (b"learning_rate: 0.1\n", ["unknown setting learning_rate: choose from method,"]),
        (b"epochs: many\n", ["epochs must be a valid integer, got 'many'"]),
        (b"epochs: 1.5\n", ["epochs must be a valid integer, got 1.5"]),
        (b"epochs: 0\n", ["epochs must be greater than or equal to 1, got 0"]),
        (b"compile: 1\n", ["compile must be a valid boolean, got 1"]),
        (b"milestones: 0.5\n", ["milestones must be a list, got 0.5"]),
        (b"method_args: [head]\n", ["method_args must be a mapping, got ['head']"]),
        (b"backbone_args: 3\n", ["backbone_args must be a mapping, got 3"]),
        (b"backbone_args: {width: wide}\n", ["backbone 'resnet': width must be a valid integer, got 'wide'"]),
        (b"backbone_args: {strides: 2}\n", ["backbone 'resnet': strides must be a list, got 2"]),
        (
            b"method_args: {head: bn_elu, hidden: many}\n",
            ["method 'baseline': hidden must be a valid integer, got 'many'"],
        ),
        (b"method_args: {head: large}\n", ["method 'baseline': head must be 'linear' or 'bn_elu', got 'large'"]),
        (b"data_args: {seed: x}\n", ["data set 'digits': seed must be a valid integer, got 'x'"]),
        (b"data: [digits]\n", ["data must be a valid string, got ['digits']"]),
        (
            b"seed: !!python/object/apply:os.mkdir [made]\n",
            ["run.yaml is not valid YAML", "python/object/apply:os.mkdir"],
        ),
        (BOMB.encode(), ["unknown settings a, b, c, d, e, f, g, h, i: choose from method,"]),
        (BOMB.encode() + b"lr: *i\n", ["unknown settings a, b,"]),
        (b"1: 2\n", ["run.yaml must hold a mapping of settings, got {1: 2}"]),
        (b"lr: " + b"[" * 5000 + b"]" * 5000, ["run.yaml is not valid YAML: maximum recursion depth exceeded"]),
    ],
)
def test_settings_that_cannot_be_meant(
    text: bytes, parts: list[str], fgvc: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yaml").write_bytes(text)
    refused(fgvc("train", "--config", "run.yaml", "--folder", "run"), *parts)
    assert [path.name for path in tmp_path.iterdir()] == ["run.yaml"]


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists, max_leaves=5))
def test_an_argument_is_taken_or_refused_by_name_whatever_it_is(value: Any) -> None:
    config = Config(method="mutual_channel", backbone="vgg", backbone_args={"depth": 11}, method_args={"xi": value})
    if value is None or type(value) is int:
        check_settings(config)
    else:
        with pytest.raises(ValueError, match=r"^method 'mutual_channel': xi must be a valid integer, got"):
            check_settings(config)


# what cannot be written


def test_a_folder_that_cannot_be_written_to_is_told_before_anything_is_loaded(
    fgvc: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fgvc_lib.train.fit", lambda *a, **k: pytest.fail("trained for nothing"))
    (tmp_path / "file").write_text("")
    refused(
        fgvc("train", *SHORT, "--folder", tmp_path / "file" / "run"), "file is not a folder: choose another --folder"
    )
    refused(fgvc("train", *SHORT, "--folder", tmp_path / "file"), "file is not a folder: choose another --folder")
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere
    refused(
        fgvc("train", *SHORT, "--folder", tmp_path / "new" / "run"), "cannot be written to: choose another --folder"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def no_room(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_stops_a_run_and_leaves_the_checkpoints_that_were_whole(
    call: str, fgvc: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = ["train", *SHORT, "-s", "max_steps=4", "--folder", tmp_path / "run", "--save-every", "1"]
    genuine, calls = getattr(os, call), []

    def full_after(count: int) -> Callable[..., Any]:
        def write(*arguments: Any) -> Any:
            calls.append(arguments)
            return genuine(*arguments) if len(calls) <= count else no_room()

        return write

    # one write of a checkpoint is one replace and two fsyncs, of the file and of the folder
    monkeypatch.setattr(checkpoint.os, call, full_after({"replace": 2, "fsync": 4}[call]))
    refused(fgvc(*run), "No space left on device: make room and run the same command again")
    kept = sorted(path.name for path in (tmp_path / "run").iterdir())
    assert kept == ["checkpoint-00000001.pt", "checkpoint-00000002.pt"]
    if call == "replace":  # there is room again: it goes on, and ends
        monkeypatch.setattr(checkpoint.os, call, genuine)
        assert fgvc(*run)[0] == 0
        assert (tmp_path / "run" / "model.pt").is_file()


def test_a_disk_that_fills_while_a_file_is_written_leaves_nothing_of_it(tmp_path: Path, forked: Any) -> None:
    """A limit on the size of files fails real writes half-way, as a full disk does."""
    program = """
        import resource, signal
        import numpy as np
        from fgvc_lib.data.cache import cached
        from fgvc_lib.train.checkpoint import replacing, write_atomically
        from pathlib import Path

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
        def record():
            with replacing(Path("record.json")) as temporary:
                temporary.write_text("x" * 50_000)
        attempts = {
            "checkpoint": lambda: write_atomically({"x": torch.zeros(50_000)}, Path("checkpoint.pt")),
            "cache": lambda: cached("entry", lambda folder: np.save(folder / "a.npy", np.zeros(50_000))),
            "record": record,
        }
        for name, attempt in attempts.items():
            try:
                attempt()
            except (OSError, RuntimeError) as error:
                print(name, "refused")
    """
    work = tmp_path / "work"
    work.mkdir()
    printed = forked(program, tmp_path, "full", cwd=work, FGVC_CACHE=str(work)).wait()
    assert printed.splitlines() == ["checkpoint refused", "cache refused", "record refused"]
    assert [path.name for path in work.iterdir() if path.suffix != ".lock"] == []


# what is not there


def test_data_that_is_not_there(fgvc: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FGVC_DATA", raising=False)
    refused(fgvc("train", *SHORT, "--data", "cub"), "set the environment variable FGVC_DATA", "absolute root")
    refused(fgvc("train", *SHORT, "--data", "folder"), "data set 'folder': the argument root is needed")
    monkeypatch.setenv("FGVC_DATA", str(tmp_path))
    for name, advice in (
        ("cub", "unpack CUB_200_2011.tgz"),
        ("cars", "no longer offered for download"),
        ("flowers", "load with download=True"),
        ("mnist", "load with download=True"),
        ("cars196_crops", "is not there"),
    ):
        refused(fgvc("train", *SHORT, "--data", name, "--folder", tmp_path / "run"), str(tmp_path), advice)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["cub", "mnist", "flowers", "aircraft", "pets"])
def test_a_download_without_a_network(
    name: str, fgvc: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def unreachable(*_: Any, **__: Any) -> Any:
        raise URLError(ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"))

    def refused_connection(*_: Any, **__: Any) -> Any:
        raise requests.ConnectionError("Connection refused")

    monkeypatch.setattr("urllib.request.urlopen", unreachable)
    monkeypatch.setattr(requests, "get", refused_connection)
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between two tries
    monkeypatch.setenv("FGVC_DATA", str(tmp_path))
    status, _, err = fgvc("train", *SHORT, "--data", name, "-s", "data_args.download=true")
    assert status == 2
    assert err.count("\n") == 1
    assert "cannot be downloaded" in err
    assert [path for path in tmp_path.rglob("*") if path.suffix != ".lock"] == []
    with pytest.raises(OSError, match="cannot be downloaded"):
        load(name, download=True)


def test_pretrained_weights_without_a_network(fgvc: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: Any, **__: Any) -> Any:
        raise URLError("Name or service not known")

    monkeypatch.setattr("urllib.request.urlopen", unreachable)
    monkeypatch.setattr(torch.hub, "urlopen", unreachable)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("fgvc_lib.train.trainer.load", lambda *a, **k: load("digits"))
    options = ["-s", 'backbone_args={"depth": 18, "pretrained": true, "in_channels": 3}']
    status, _, err = fgvc("train", "--quiet", "--device", "cpu", *options)
    assert status == 2
    assert err.startswith("error: the weights of resnet18 cannot be fetched (URLError: <urlopen error Name or service")
    assert "without a network there are those of the timm network tf_efficientnet_lite0" in err
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_second_build_does_not_disturb_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline import build

    (tmp_path / "build").mkdir()
    monkeypatch.setattr(build, "ROOT", tmp_path)
    monkeypatch.setattr(build.sync, "write", lambda: pytest.fail("went on beside the other build"))
    monkeypatch.setattr("sys.argv", ["build", "--profile", "smoke", "--cores", "1"])
    with FileLock(tmp_path / "build" / ".lock"), pytest.raises(SystemExit) as stop:
        build.main()
    assert stop.value.code == "error: another build is running in this folder: wait for it or stop it"


def test_a_build_that_cannot_write_says_so_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline import build, execute

    (tmp_path / "build").write_text("a file in the way")
    monkeypatch.setattr(build, "ROOT", tmp_path)
    monkeypatch.setattr("sys.argv", ["build", "--profile", "smoke", "--cores", "1"])
    with pytest.raises(SystemExit, match=r"^error: .*File exists: .*build'$"):
        build.main()
    monkeypatch.setattr(execute, "run", no_room)
    monkeypatch.setattr(execute.signal, "signal", lambda *_: None)
    monkeypatch.setattr("sys.argv", ["execute", "01_primer"])
    with pytest.raises(SystemExit, match=r"^error: .*No space left on device$"):
        execute.main()


# what is not to be trusted


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, made: Path) -> None:
        self.made = made

    def __reduce__(self) -> tuple[Any, ...]:
        return os.makedirs, (str(self.made), 0o777, True)


@pytest.mark.parametrize("name", ["model.pt", "checkpoint-00000001.pt"])
def test_a_model_that_carries_code_is_refused_and_the_code_not_run(name: str, fgvc: Call, tmp_path: Path) -> None:
    folder, made = tmp_path / "run", tmp_path / "made"
    folder.mkdir()
    torch.save({"info": {}, "weights": Payload(made), "identity": {}, "state": Payload(made)}, folder / name)
    if name == "model.pt":
        result = fgvc("evaluate", folder)
    else:
        with pytest.warns(UserWarning, match="cannot be read"):  # the one before it is tried
            result = fgvc("evaluate", folder)
    refused(result, "trained model")
    assert not made.exists()
    torch.load(folder / name, weights_only=False)  # the payload does work
    assert made.exists()


def test_a_plain_pickle_is_no_model(fgvc: Call, tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(pickle.dumps(Payload(tmp_path / "made")))
    refused(fgvc("evaluate", tmp_path / "model.pt"), "model.pt is damaged or not a trained model")
    assert not (tmp_path / "made").exists()


def test_arrays_beside_a_record_hold_no_objects(tmp_path: Path) -> None:
    from fgvc_lib.data.cache import open_array

    np.savez(tmp_path / "a.npz", x=np.array([Payload(tmp_path / "made")], dtype=object))
    with zipfile.ZipFile(tmp_path / "a.npz") as archive:
        archive.extract("x.npy", tmp_path)
    with pytest.raises(ValueError, match=r"allow_pickle|Python objects"):
        open_array(tmp_path / "x.npy")
    assert not (tmp_path / "made").exists()


def png(width: int, height: int) -> bytes:
    """A PNG of a few bytes that says it is ``width`` × ``height``."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = zlib.compress(b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("width", "height"), [(14_000, 14_000), (60_000, 60_000), (2**31 - 1, 2**31 - 1)])
def test_an_image_of_absurd_size_is_refused_by_name(width: int, height: int, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "set" / name).mkdir(parents=True)
        for i in range(3):
            (tmp_path / "set" / name / f"{i}.png").write_bytes(png(width, height))
    with pytest.raises(ValueError, match=r"set/[ab]/\d.png .*bomb"):
        load("folder", root=str(tmp_path / "set"), image_size=8)
