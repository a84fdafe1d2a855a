"""The command line: ``fgvc train | evaluate | predict | embed | neighbors | export | methods | datasets | cache``.

Everything heavy is imported inside the commands, so that help and mistakes answer at once.
"""

from __future__ import annotations

import csv
import errno
import inspect
import io
import json
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

if TYPE_CHECKING:
    from fgvc_lib.config import Config
    from fgvc_lib.data.images import BadImage
    from fgvc_lib.train import Prediction, Predictor

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    help="Train, evaluate and use fine-grained image classifiers.",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)

PATHS = ("root",)
"""Settings that are text whatever they look like: a folder may be called 2024."""
Batch = Annotated[int, typer.Option(help="Images at once.", metavar="N", min=1)]
Device = Annotated[str | None, typer.Option(help="cpu, cuda or cuda:N; else the best there is.", metavar="D")]
Images = Annotated[list[Path], typer.Argument(help="Image files, or folders of them.", metavar="IMAGE…")]
Model = Annotated[Path, typer.Argument(help="Folder of `fgvc train`, or a model.pt.", metavar="MODEL")]


@app.command()
def train(
    images: Annotated[
        str | None, typer.Argument(help="Photographs, a folder for each class.", metavar="FOLDER")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file of settings.", metavar="FILE")] = None,
    set_: Annotated[
        list[str], typer.Option("--set", "-s", help="Any setting: lr=0.1, data_args.seed=1.", metavar="K=V")
    ] = [],  # noqa: B006 - typer copies it
    method: Annotated[str | None, typer.Option(help="See `fgvc methods`.", metavar="NAME")] = None,
    backbone: Annotated[str | None, typer.Option(help="resnet, vgg, lenet_pp or timm.", metavar="NAME")] = None,
    pretrained: Annotated[
        bool, typer.Option("--pretrained/--no-pretrained", help="Of a folder's network.", show_default=False)
    ] = True,
    data: Annotated[str | None, typer.Option(help="See `fgvc datasets`.", metavar="NAME")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training images.", metavar="N")] = None,
    seed: Annotated[int | None, typer.Option(help="Of everything random.", metavar="N")] = None,
    folder: Annotated[Path | None, typer.Option(help="Keeps the run; by default in runs/.", metavar="DIR")] = None,
    save_every: Annotated[int | None, typer.Option(help="A checkpoint every N steps.", metavar="N")] = None,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Scalars to DIR/tensorboard.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")] = False,
    device: Device = None,
) -> None:
    """Train a method, from ImageNet weights on a FOLDER; the scores are JSON.

    Later settings win: FILE, --set, options. On GPUs: torchrun … -m fgvc_lib
    """
    named = {"method": method, "backbone": backbone, "data": data, "epochs": epochs, "seed": seed}
    from fgvc_lib.config import Config
    from fgvc_lib.fine_tuning import fine_tuning

    if images is not None:
        named["data"] = data = "folder"
        set_ = [*set_, f"data_args.root={images}"]
    given: dict[str, Any] = {}
    _override(given, set_)
    of_folder = "folder" in (data, given.get("data"))
    tuned = of_folder and config is None and backbone is None and "backbone" not in given
    if not pretrained and not tuned:
        raise ValueError(
            "--no-pretrained is for a folder without --config or --backbone: say backbone_args.pretrained=false"
        )
    settings = {} if config is None else Config.from_yaml(config).to_dict()
    if tuned:
        settings = fine_tuning("", pretrained=pretrained).to_dict()
    _override(settings, set_)
    configured = Config.from_dict(settings | {key: value for key, value in named.items() if value is not None})
    if tuned and "batch_size" not in given:
        configured = _fitting_batch(configured)
    from fgvc_lib.train import Stopped, check_settings, fit, run_folder

    check_settings(configured)
    folder = folder or run_folder(configured)
    _check_writable(folder)
    first = int(os.environ.get("RANK", 0)) == 0
    try:
        fitted = fit(
            configured, device=device, folder=folder, save_every=save_every, progress=not quiet, tensorboard=tensorboard
        )
    except Stopped:
        if first:
            print(f"stopped, and saved in {folder}: the same command resumes there", file=sys.stderr)
        raise
    if first:
        result = {"final": fitted.final, "timing": fitted.timing, "memory": fitted.memory, "device": fitted.device}
        print(_json({**result, "folder": str(folder)}, indent=2))


@app.command()
def evaluate(
    model: Model,
    folder: Annotated[
        Path | None, typer.Argument(help="Labeled images to score instead: all of them.", metavar="[FOLDER]")
    ] = None,
    split: Annotated[
        Literal["train", "val", "test"] | None,
        typer.Option(help="train, val or test; by default test, or val without one.", metavar="NAME"),
    ] = None,
    set_: Annotated[list[str], typer.Option("--set", "-s", help="Another data or data_args.KEY.", metavar="K=V")] = [],  # noqa: B006 - typer copies it
    report: Annotated[
        Path | None, typer.Option(help="For the report; by default beside the model.", metavar="DIR")
    ] = None,
    batch_size: Batch = 64,
    device: Device = None,
) -> None:
    """Score a trained model on its data or on another folder: JSON, and a report to open in a browser."""
    if strange := [s for s in set_ if not s.startswith(("data=", "data_args."))]:
        raise ValueError(f"only data and data_args can be set here, got {strange[0]}")
    from fgvc_lib.data import load
    from fgvc_lib.report import write_report
    from fgvc_lib.train import evaluation, load_trained
    from fgvc_lib.train.machine import pick_device

    where = pick_device(device)
    method, info = load_trained(model)
    settings = {"data": info.config["data"], "data_args": dict(info.config["data_args"])}
    _override(settings, set_)
    root = str(folder.absolute()) if folder else settings["data_args"].get("root")
    if folder or (settings["data"] == "folder" and root != info.config["data_args"].get("root")):
        skip_bad = bool(settings["data_args"].get("skip_bad"))
        data, part = evaluation.labeled_folder(info, root, split=split, skip_bad=skip_bad), "test"
        shown = {"data": data.name}
    else:
        data = load(settings["data"], **settings["data_args"])
        evaluation.check_classes(info, data)
        part = split or ("test" if len(data.test) else "val")
        shown = {"data": data.name, "split": part}
        if data.fingerprint != info.data["fingerprint"]:
            print("note: this is not the data that the model was trained on", file=sys.stderr)
    logits, labels = evaluation.predict(method, data, part, batch_size=batch_size, device=where)
    if report is None:
        report = (model if model.is_dir() else model.parent) / f"report-{'-'.join(shown.values())}"
    page = write_report(report, info, data, part, logits, labels)
    scores = evaluation.score(logits, labels, data.classes)
    print(_json({**shown, **scores, "summary": data.summary, "report": str(page)}))


@app.command()
def predict(
    model: Model,
    images: Images,
    top: Annotated[int, typer.Option(help="Classes to show, best first.", metavar="N", min=1)] = 3,
    format: Annotated[
        Literal["text", "json", "csv"], typer.Option(help="text, json (a line per image) or csv.", metavar="F")
    ] = "text",
    overlay: Annotated[
        Path | None, typer.Option(help="Folder for pictures of where the model looked.", metavar="DIR")
    ] = None,
    flips: Annotated[bool, typer.Option("--flips", help="Average with the mirror image.")] = False,
    batch_size: Batch = 32,
    device: Device = None,
) -> None:
    """Name the classes of image files, with probabilities."""
    from fgvc_lib.train import Predictor
    from fgvc_lib.train.machine import pick_device

    predictor = Predictor.load(model, device=pick_device(device), batch_size=batch_size, flips=flips)
    table = csv.writer(sys.stdout, lineterminator="\n")
    for i, found in enumerate(_predictions(predictor, images)):
        file, best, picture = str(found.source), found.best(top), None
        if overlay is not None:
            overlay.mkdir(parents=True, exist_ok=True)
            picture = overlay / f"{i:04d}-{Path(file).stem}.png"
            found.overlay().save(picture)
        if format == "json":
            classes = [{"class": name, "probability": round(value, 6)} for name, value in best]
            shown = {"file": file, "classes": classes}
            print(_json(shown if picture is None else {**shown, "overlay": str(picture)}))
        elif format == "csv":
            if i == 0:
                table.writerow(["file", "rank", "class", "probability"])
            for rank, (name, value) in enumerate(best, 1):
                table.writerow([file, rank, name, f"{value:.6f}"])
        else:
            print(f"{file}: " + ", ".join(f"{name} {value:.1%}" for name, value in best))


@app.command()
def embed(
    model: Model,
    file: Annotated[Path, typer.Argument(help="To write: ends in .npz or .csv.", metavar="FILE")],
    images: Images,
    batch_size: Batch = 32,
    device: Device = None,
) -> None:
    """Write the features of image files, a row each: the arrays `embeddings` and `files`, or a table."""
    if file.suffix not in (".npz", ".csv"):
        raise ValueError(f"embeddings are written to a .npz or a .csv, got {file.name!r}")
    from fgvc_lib.train import Predictor, write_embeddings
    from fgvc_lib.train.machine import pick_device

    predictor = Predictor.load(model, device=pick_device(device), batch_size=batch_size)
    count, length = write_embeddings(file, _predictions(predictor, images))
    print(_json({"file": str(file), "images": count, "length": length}))


@app.command()
def neighbors(
    model: Model,
    images: Images,
    count: Annotated[int, typer.Option(help="Training images to show, the nearest first.", metavar="N", min=1)] = 5,
    pictures: Annotated[
        Path | None, typer.Option(help="Folder for pictures of each image beside them.", metavar="DIR")
    ] = None,
    device: Device = None,
) -> None:
    """Show which training images the model finds most like image files, and how like (the cosine of the features)."""
    from fgvc_lib.data import load
    from fgvc_lib.train import Neighbors, Predictor
    from fgvc_lib.train.machine import pick_device

    predictor = Predictor.load(model, device=pick_device(device))
    near = Neighbors(predictor, load(predictor.info.config["data"], **predictor.info.config["data_args"]))
    for i, prediction in enumerate(_predictions(predictor, images)):
        found = near(prediction, count)
        shown = ", ".join(f"{neighbor.label} {neighbor.similarity:.2f} ({neighbor.name})" for neighbor in found)
        ((name, value),) = prediction.best(1)
        print(f"{prediction.source!s}: {name} {value:.1%}; like {shown}")
        if pictures is not None:
            pictures.mkdir(parents=True, exist_ok=True)
            near.picture(prediction, found).save(pictures / f"{i:04d}-{Path(str(prediction.source)).stem}.png")


@app.command()
def export(
    model: Model,
    file: Annotated[Path, typer.Argument(help="To write: ends in .pt2 (torch.export) or .onnx.", metavar="FILE")],
) -> None:
    """Write a trained model as a file that runs without this library.

    It takes images (B, C, S, S) in [0, 1], any B, and gives logits. It is kept only if it computes what the model does.
    """
    from fgvc_lib import export as exporting
    from fgvc_lib.train import load_trained

    if file.suffix not in exporting.FORMATS:  # before the model is read
        raise ValueError(f"an exported model ends in {' or '.join(exporting.FORMATS)}, got {file.name!r}")
    method, info = load_trained(model)
    exporting.export(method, info, file)
    print(json.dumps({"file": str(file), "bytes": file.stat().st_size, "classes": len(info.classes)}))


@app.command()
def cache(
    clear: Annotated[bool, typer.Option("--clear", help="Remove them; they are made again when needed.")] = False,
) -> None:
    """Show the decoded images that are kept, or remove them."""
    from fgvc_lib.data import cache as kept

    found = kept.clear() if clear else kept.entries()
    for entry, size in found.items():
        print(f"{size / 1e6:>10,.1f} MB  {entry.name}")
    what = "removed from" if clear else "in"
    print(f"{sum(found.values()) / 1e6:>10,.1f} MB {what} {kept.cache_folder()}, which FGVC_CACHE names")


@app.command()
def methods() -> None:
    """List the methods, their arguments and defaults."""
    from fgvc_lib.methods import METHODS

    for name, method in METHODS.items():
        _list(name, method, given=2, more=[])


@app.command()
def datasets() -> None:
    """List the data sets, their arguments and defaults."""
    from fgvc_lib.data import DATASETS, OPTIONS

    for name, make in DATASETS.items():
        _list(name, make, given=0, more=["options …"] if name in OPTIONS else [])


def _predictions(predictor: Predictor, paths: list[Path]) -> Iterator[Prediction]:
    """Of the images among files and folders; says what is passed over and, in the end, what cannot be read.

    Raises:
        BadImage: none of them can be read.
    """
    from fgvc_lib.train import image_files

    files, passed_over = image_files(paths)
    if passed_over:
        print(f"passed over: {passed_over}", file=sys.stderr)
    skipped: list[BadImage] = []
    yield from predictor.stream(files, skipped=skipped)
    if len(skipped) == len(files):
        raise skipped[0]
    for error in skipped:
        print(f"skipped: {error}", file=sys.stderr)
    if skipped:
        print(f"skipped {len(skipped)} of {len(files)} files", file=sys.stderr)


def _json(content: Any, *, indent: int | None = None) -> str:
    """JSON, with null for NaN and infinity, which it has no number for, and letters as the terminal has them."""
    from fgvc_lib.train.evaluation import finite

    ascii_only = "utf" not in (sys.stdout.encoding or "").lower()
    return json.dumps(finite(content), indent=indent, ensure_ascii=ascii_only, allow_nan=False)


def _list(name: str, thing: Any, *, given: int, more: list[str]) -> None:
    """A name, the first sentence of its docstring, and its keyword arguments."""
    doc = " ".join((inspect.getdoc(thing) or "").split("\n\n")[0].split())
    print(f"{name:<16}{doc}")
    arguments = []
    for parameter in list(inspect.signature(thing).parameters.values())[given:]:
        default = "" if parameter.default is parameter.empty else f"={parameter.default!r}"
        if parameter.kind is not parameter.VAR_KEYWORD:
            arguments.append(parameter.name + default)
    print(f"{'':<16}{', '.join(arguments + more)}")


def _check_writable(folder: Path) -> None:
    """Say so now, and not when the first checkpoint is due, where nothing can be written to ``folder``."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if not there.is_dir() or not os.access(there, os.W_OK):
        what = "is not a folder" if not there.is_dir() else "cannot be written to"
        raise ValueError(f"{there} {what}: choose another --folder")


def _fitting_batch(config: Config) -> Config:
    """With a smaller batch where a folder has fewer training images than one takes."""
    from fgvc_lib.data import load

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the run says them
        images = len(load(config.data, **config.data_args).train)
    return config.replace(batch_size=min(config.batch_size, images))


def _override(settings: dict[str, Any], assignments: list[str]) -> None:
    """Apply ``key=value`` texts; a dot in the key goes one level down."""
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not key:
            raise ValueError(f"--set needs key=value, got {assignment!r}")
        *path, last = key.split(".")
        place = settings
        for part in path:
            place = place.setdefault(part, {})
            if not isinstance(place, dict):
                raise ValueError(f"{part} in {key} holds a value, not settings")
        place[last] = text if last in PATHS else _value(text)


def _value(text: str) -> Any:
    """A number, true, false, null or other JSON as what it is; anything else is the text itself."""
    for read in (json.loads, float):
        with suppress(ValueError):
            return read({"True": "true", "False": "false", "None": "null"}.get(text, text))
    return text


def main() -> None:
    """Run; trouble is one sentence, with exit status 2 for a mistake and 1 for a run that failed.

    The environment variable ``FGVC_DEBUG=1`` shows where it was noticed.
    """
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # an ASCII terminal shows ü as \xfc, and does not stop
            stream.reconfigure(errors="backslashreplace")
    try:
        app()
    except Exception as error:
        status = _status(error)
        if status is None or os.environ.get("FGVC_DEBUG"):
            raise
        print(f"error: {' '.join(_sentence(error).split())}", file=sys.stderr)
        sys.exit(status)


def _sentence(error: Exception) -> str:
    """What went wrong and what to do about it."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"{error}: make room and run the same command again, which resumes from the last whole checkpoint"
    return str(error)


def _status(error: Exception) -> int | None:
    """The exit status of an expected error; None for what must be a fault of the program."""
    if isinstance(error, (ValueError, OSError, ModuleNotFoundError)):
        return 2
    import torch

    from fgvc_lib.export import ExportError
    from fgvc_lib.train import CompileError, NonFiniteLoss

    return 1 if isinstance(error, (CompileError, ExportError, NonFiniteLoss, torch.OutOfMemoryError)) else None
