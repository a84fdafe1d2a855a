"""From a configuration to a method with fresh weights, from a trained method to a file, and back."""

from __future__ import annotations

import hashlib
import inspect
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from fgvc_lib import __version__
from fgvc_lib.backbones import BACKBONES, Backbone
from fgvc_lib.config import Config, check_arguments
from fgvc_lib.data import ImageData
from fgvc_lib.methods import METHODS, Method
from fgvc_lib.train.checkpoint import Checkpoints, load_checked, write_atomically


def check_settings(config: Config) -> None:
    """Refuse a method or backbone that does not exist, and arguments that it does not take.

    Raises:
        ValueError: the name or the argument, what was expected and what came.
    """
    if config.method not in METHODS:
        raise ValueError(f"no method {config.method!r}: choose from {', '.join(METHODS)}")
    if config.backbone not in BACKBONES:
        raise ValueError(f"no backbone {config.backbone!r}: choose from {', '.join(BACKBONES)}")
    backbone: Any = BACKBONES[config.backbone]
    check_arguments(backbone, config.backbone_args, f"backbone {config.backbone!r}")
    check_arguments(METHODS[config.method], config.method_args, f"method {config.method!r}", given=2)


def build(config: Config, data: ImageData) -> Method:
    """The configured method, with fresh weights drawn from ``config.seed``.

    ``in_channels`` and ``image_size`` of the backbone come from ``data`` unless ``config.backbone_args`` has them.
    The caller's global random state is left as it was.

    Raises:
        ValueError: an unknown method or backbone, or arguments that it does not take.
    """
    method = build_for(config, num_classes=len(data.classes), channels=len(data.mean), image_size=data.image_size)
    for module in method.modules():
        if isinstance(module, Backbone):
            module.expect(data.mean, data.std)
    return method


def build_for(config: Config, *, num_classes: int, channels: int, image_size: int) -> Method:
    """:func:`build` from the three numbers of a data set that decide a method's shape."""
    check_settings(config)
    make_backbone: Any = BACKBONES[config.backbone]
    make_method: Any = METHODS[config.method]
    accepted = inspect.signature(make_backbone).parameters
    from_data = {"in_channels": channels, "image_size": image_size}
    backbone_args = {k: v for k, v in from_data.items() if k in accepted} | config.backbone_args
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        method: Method = make_method(make_backbone(**backbone_args), num_classes, **config.method_args)
    method.label_smoothing = config.label_smoothing
    method.seed(config.seed)
    return method


@dataclass(frozen=True)
class Info:
    """What a trained method needs to meet a new image.

    Attributes:
        config: of the run, plain data.
        data: name of the set, and its fingerprint.
        classes: names that the logits index.
        mean, std: per channel, of images scaled to [0, 1]; their number is the number of channels.
        image_size: side in pixels.
        version: of the library that saved it.
    """

    config: dict[str, Any]
    data: dict[str, str]
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    image_size: int
    version: str

    @property
    def resize(self) -> int:
        """Side in pixels that an image is resized to, before its center of ``image_size`` is cut out."""
        return int(self.config.get("data_args", {}).get("resize") or self.image_size)

    @property
    def letterbox(self) -> bool:
        """Whether an image keeps its proportions, between gray bars."""
        return bool(self.config.get("data_args", {}).get("letterbox"))


def describe(config: Config, data: ImageData) -> Info:
    """The :class:`Info` of a run."""
    return Info(
        config=config.to_dict(),
        data={"name": data.name, "fingerprint": data.fingerprint},
        classes=data.classes,
        mean=data.mean,
        std=data.std,
        image_size=data.image_size,
        version=__version__,
    )


def start_from(method: Method, path: str | Path) -> str:
    """Give ``method`` the weights of a trained one, as far as names and shapes agree; the classifier is fresh for other
    classes.

    Returns:
        A hash of the weights that were read.

    Raises:
        FileNotFoundError, ValueError: see :func:`load_trained`; or no weight of the backbone fits.
    """
    trained, _ = load_trained(path)
    here, there = method.state_dict(), trained.state_dict()
    same = {name: value for name, value in there.items() if name in here and here[name].shape == value.shape}
    layers = [name for name in same if name.startswith("backbone.blocks.")]
    if not layers:
        raise ValueError(f"{path} has no layer of this backbone: start from a run with the same backbone")
    method.load_state_dict(same, strict=False)
    seen = hashlib.sha256()
    for name, value in sorted(there.items()):
        seen.update(name.encode() + value.cpu().contiguous().numpy().tobytes())
    return seen.hexdigest()[:16]


def run_folder(config: Config) -> Path:
    """``runs/<data>-<method>-<hash>``, for a run that was given no folder: the same settings find it again."""
    data = Path(config.data_args.get("root", "")).name if config.data == "folder" else config.data
    data = re.sub(r"[^\w.-]+", "_", data)
    settings = hashlib.sha256(json.dumps(config.to_dict(), sort_keys=True).encode()).hexdigest()[:8]
    return Path("runs") / f"{data}-{config.method}-{settings}"


def save_trained(path: Path, method: Method, info: Info) -> None:
    """Write ``method`` with its :class:`Info`, atomically."""
    weights = {name: value.cpu() for name, value in method.state_dict().items()}
    write_atomically({"info": asdict(info), "weights": weights}, path)


def load_trained(path: str | Path) -> tuple[Method, Info]:
    """A trained method from ``model.pt``, or from the folder that ``fit`` wrote to.

    In the folder of a run that has not ended, it is taken from the newest checkpoint, as it would be evaluated.

    Returns:
        The method on the CPU in evaluation mode, and its :class:`Info`.

    Raises:
        FileNotFoundError: no such file, or a folder without one.
        ValueError: a file that is damaged or something else.
    """
    path = Path(path)
    if path.is_dir() and not (path / "model.pt").exists():
        for file, content in Checkpoints(path, {}).intact():
            state = content["state"]
            weights = state["method"]
            if state["ema"] is not None:  # AveragedModel keeps the method under "module" and its own count beside it
                weights = {k.removeprefix("module."): v for k, v in state["ema"].items() if k.startswith("module.")}
            return _rebuild(file, {"info": state["info"], "weights": weights})
    file = path / "model.pt" if path.is_dir() else path
    if not file.is_file():
        raise FileNotFoundError(f"no trained model at {path}: train one with a folder, which then holds model.pt")
    try:
        content = load_checked(file)
    except Exception as error:  # whatever a damaged file makes the unpickler raise
        raise ValueError(f"{file} is damaged or not a trained model ({type(error).__name__})") from error
    return _rebuild(file, content)


def _rebuild(file: Path, content: Any) -> tuple[Method, Info]:
    try:
        fields: dict[str, Any] = dict(content["info"])
        info = Info(**fields)
        config = Config.from_dict(_without_pretrained(info.config))
        method = build_for(config, num_classes=len(info.classes), channels=len(info.mean), image_size=info.image_size)
        method.load_state_dict(content["weights"])
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"{file} is not a model saved by this version of the library ({reason})") from error
    return method.eval(), info


def _without_pretrained(settings: dict[str, Any]) -> dict[str, Any]:
    """The same settings without ``pretrained``, however deep: the weights are in the file, no need to fetch others."""
    return {
        key: _without_pretrained(value) if isinstance(value, dict) else value
        for key, value in settings.items()
        if key != "pretrained"
    }
