"""What ``make book`` calls: the notebooks made from their sources, the parameters checked, then Snakemake.

    python -m pipeline.build --profile quick --cores 2

One build at a time. What must run, and in which order, is decided by Snakemake (``Snakefile``).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys

from filelock import FileLock, Timeout

from pipeline import sync
from pipeline.execute import given
from pipeline.project import ROOT, PipelineError, chapters, clean_notebook


def build(profile: str, cores: int, threads: int) -> None:
    """Build the book of ``profile`` on ``cores`` cores, each chapter on ``threads`` of them."""
    (ROOT / "build").mkdir(exist_ok=True)
    try:
        with FileLock(ROOT / "build" / ".lock", timeout=0):  # Snakemake's own lock would outlive a killed build
            sync.write()
            for chapter in chapters():
                given(profile, chapter, clean_notebook(chapter))
            command = [sys.executable, "-m", "snakemake", "--cores", str(cores), "--quiet", "all", "--nolock"]
            command += ["--rerun-incomplete", "--keep-going", "--config", f"profile={profile}", f"threads={threads}"]
            with subprocess.Popen(command, cwd=ROOT) as process:
                try:
                    failed = process.wait()
                except KeyboardInterrupt:  # reached Snakemake and the chapters too: let them end in order
                    process.wait()
                    raise
    except Timeout:
        raise PipelineError("another build is running in this folder: wait for it or stop it") from None
    if failed:
        raise PipelineError(
            "the book was not built: the first error above or the newest file in .snakemake/log says why"
        )
    print(f"The book: build/{profile}/html/index.html")


def main() -> None:
    """Build the book."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.build", description=main.__doc__)
    parser.add_argument("--profile", default="quick")
    parser.add_argument("--cores", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--threads", type=int, default=1, help="of each chapter")
    arguments = parser.parse_args()
    try:
        build(arguments.profile, arguments.cores, arguments.threads)
    except (PipelineError, OSError) as error:  # a full disk, a folder that is not ours
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command resumes from here")


if __name__ == "__main__":
    main()
