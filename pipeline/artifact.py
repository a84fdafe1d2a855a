"""The built book as one archive, with its checksum and a manifest: what a release attaches.

    python -m pipeline.artifact --profile quick

writes ``dist/fgvc-book-<profile>-<commit>.tar.gz``, ``….sha256`` and ``….manifest.json``. The same pages of the same
commit give the same archive, byte for byte.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import json
import sys
import tarfile
from pathlib import Path
from typing import Any

import nbformat

from pipeline.execute import provenance
from pipeline.project import ROOT, PipelineError, build_folder, chapters, executed_path, write_if_changed


def archive(folder: Path, top: str) -> bytes:
    """A ``.tar.gz`` of ``folder`` whose bytes depend on names and contents alone."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for path in sorted(p for p in folder.rglob("*") if p.is_file()):
            entry = tarfile.TarInfo(f"{top}/{path.relative_to(folder)}")
            entry.size, entry.mode = path.stat().st_size, 0o644
            with path.open("rb") as file:
                tar.addfile(entry, file)
    return gzip.compress(packed.getvalue(), mtime=0)


def manifest(profile: str, folder: Path) -> dict[str, Any]:
    """What the archive holds and where it comes from: commit, chapters with device and versions, files with hashes."""
    runs = {}
    for chapter in chapters():
        metadata = nbformat.read(executed_path(profile, chapter), as_version=4).metadata
        ours, run = metadata.get("fgvc", {}), metadata["papermill"]
        runs[chapter] = {
            "started": run["start_time"],
            "seconds": round(run["duration"]),
            **{key: ours[key] for key in ("commit", "dirty", "device", "versions") if key in ours},
        }
    hashes = {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    made_from = {name.removeprefix("FGVC_").lower(): value for name, value in provenance().items()}
    return {**made_from, "profile": profile, "chapters": runs, "file_count": len(hashes), "files": hashes}


def write(profile: str) -> list[Path]:
    """Write archive, checksum and manifest to ``dist/``."""
    folder = build_folder(profile) / "html"
    if not (folder / "index.html").exists():
        raise PipelineError(f"there is no book of profile {profile} yet: make book PROFILE={profile}")
    about = manifest(profile, folder)
    name = f"fgvc-book-{profile}-{about.get('commit', 'unknown')[:10]}{'-changed' * (about.get('dirty') == '1')}"
    packed = archive(folder, name)
    written = {
        f"{name}.tar.gz": packed,
        f"{name}.tar.gz.sha256": f"{hashlib.sha256(packed).hexdigest()}  {name}.tar.gz\n".encode(),
        f"{name}.manifest.json": (json.dumps(about, indent=1) + "\n").encode(),
    }
    for file, content in written.items():
        write_if_changed(ROOT / "dist" / file, content)
    return [ROOT / "dist" / file for file in written]


def main() -> None:
    """Pack the built book."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.artifact", description=main.__doc__)
    parser.add_argument("--profile", default="quick")
    try:
        for path in write(parser.parse_args().profile):
            print(f"wrote {path.relative_to(ROOT)}")
    except PipelineError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
