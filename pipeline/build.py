"""The whole way, as ``make book`` goes it: sync, run what changed, check, render.

    python -m pipeline.build --profile quick --cores 2

Snakemake decides what is to be done (``Snakefile``). Here are the things around it: one build at a time, every
chapter's parameters checked before the first one runs, cores shared out, times and the page's address printed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys

import nbformat
from filelock import FileLock, Timeout

from pipeline import sync
from pipeline.execute import defaults, provenance, validate
from pipeline.project import (
    ROOT,
    PipelineError,
    build_folder,
    chapters,
    clean_notebook,
    executed_path,
    parameters,
    profiles,
    write_if_changed,
)
from pipeline.sources import write_keys


def prepare(profile: str) -> list[str]:
    """Bring notebooks and keys up to date and check parameters; returns the chapters that must run."""
    for path, text in sync.drifted().items():
        write_if_changed(ROOT / path, text)
        print(f"wrote {path}")
    for chapter in chapters():
        validate(chapter, profile, parameters(profile, chapter), defaults(clean_notebook(chapter), chapter))
    return write_keys(profile)


def snakemake(profile: str, cores: int, stale: list[str]) -> int:
    """Run the workflow; torch threads × chapters at once = cores."""
    threads = max(1, cores // max(1, min(cores, len(stale))))
    command = [sys.executable, "-m", "snakemake", "--cores", str(cores), "--quiet", "all", "--nolock"]
    command += ["--rerun-triggers", "mtime", "--rerun-incomplete", "--keep-going"]
    command += ["--config", f"profile={profile}", f"threads={threads}", "keys_written=true"]
    with subprocess.Popen(command, cwd=ROOT, env={**os.environ, **provenance()}) as process:
        try:
            return process.wait()
        except KeyboardInterrupt:  # reached Snakemake and the chapters too: let them end in order
            process.wait()
            raise


def times(profile: str, ran: list[str]) -> list[str]:
    """A line for each chapter: how long it took and whether that was now."""
    lines = []
    for chapter in chapters():
        path = executed_path(profile, chapter)
        if path.exists():
            run = nbformat.read(path, as_version=4).metadata["papermill"]
            kept = "" if chapter in ran else "  (kept from before)"
            lines.append(f"{chapter:<24}{run['duration']:6.0f} s{kept}")
    return lines


def build(profile: str, cores: int) -> None:
    """Build the book of ``profile`` on ``cores`` cores."""
    if profile not in profiles():
        raise PipelineError(f"there is no profile {profile!r}: choose from {', '.join(profiles())}")
    (ROOT / "build").mkdir(exist_ok=True)
    try:
        with FileLock(ROOT / "build" / ".lock", timeout=0):
            stale = prepare(profile)
            print(f"profile {profile}: {', '.join(stale) or 'no chapter'} to run on {cores} cores", flush=True)
            if snakemake(profile, cores, stale):
                raise PipelineError("the book was not built; the first error above says why")
    except Timeout:
        raise PipelineError("another build is running in this folder: wait for it or stop it") from None
    print("\n".join(times(profile, stale)))
    print(f"The book: {(build_folder(profile) / 'html' / 'index.html').relative_to(ROOT)}")


def main() -> None:
    """Build the book."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.build", description=main.__doc__)
    parser.add_argument("--profile", default="quick")
    parser.add_argument("--cores", type=int, default=len(os.sched_getaffinity(0)))
    arguments = parser.parse_args()
    try:
        build(arguments.profile, arguments.cores)
    except (PipelineError, OSError) as error:  # a full disk, a folder that is not ours
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command goes on from here")


if __name__ == "__main__":
    main()
