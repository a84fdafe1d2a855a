"""Where a number comes from: device, versions, commit."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

import fgvc_lib
from fgvc_lib.train.machine import device_name

PACKAGE = Path(fgvc_lib.__file__).parent


def device_info(device: str | torch.device) -> dict[str, Any]:
    """Kind, model name and how much of it: GPUs, or CPU threads."""
    device = torch.device(device)
    count = 1 if device.type == "cuda" else torch.get_num_threads()
    return {"type": device.type, "name": device_name(device), "count": count}


def versions() -> dict[str, str]:
    """Versions of Python, the library and what its numbers depend on."""
    found = {"python": platform.python_version(), "fgvc_lib": fgvc_lib.__version__}
    for package in ("torch", "torchvision", "numpy", "scikit-learn"):
        found[package] = importlib.metadata.version(package)
    if torch.version.cuda and torch.cuda.is_available():
        found["cuda"] = torch.version.cuda
    return found


def commit() -> tuple[str, bool]:
    """The commit of the running code and whether it had uncommitted changes.

    ``FGVC_COMMIT`` and ``FGVC_DIRTY`` (0 or 1) say so for a machine without the repository. An installed wheel
    names its version instead.
    """
    if os.environ.get("FGVC_COMMIT"):
        return os.environ["FGVC_COMMIT"], os.environ.get("FGVC_DIRTY", "0") not in ("", "0")
    release = f"release {fgvc_lib.__version__}", False
    try:
        if _git("rev-parse", "--show-prefix"):  # installed somewhere inside a repository of somebody else
            return release
        return _git("rev-parse", "HEAD"), bool(_git("status", "--porcelain", "--", "fgvc_lib", "fgvc_study"))
    except (OSError, subprocess.CalledProcessError):
        return release


def _git(*arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], cwd=PACKAGE.parent, capture_output=True, text=True, check=True, timeout=30
    )
    return done.stdout.strip()
