"""The study from the command line.

python -m fgvc_study plan 03_mutual_channel_loss -f profiles/quick/03_mutual_channel_loss.yaml > runs.jsonl
python -m fgvc_study train runs.jsonl --jobs 2
python -m fgvc_study reproduce 03_mutual_channel_loss --profile quick
python -m fgvc_study tables
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import yaml

from fgvc_lib.config import Config
from fgvc_lib.train import distributed
from fgvc_lib.train.machine import pick_device
from fgvc_study import dry_run, folders, plan, reproduce
from fgvc_study.experiment import table_path, table_text
from fgvc_study.training import best_device, measure


def profile_parameters(path: Path) -> dict[str, Any]:
    """The parameter values of a profile's file, which may be empty."""
    found = yaml.safe_load(path.read_text(encoding="utf8")) or {}
    if not isinstance(found, dict):
        raise ValueError(f"{path} must hold a mapping of parameters, got {type(found).__name__}")
    return found


def plan_command(arguments: argparse.Namespace) -> int:
    """Print the runs of a chapter that have no record yet, a line of JSON each, with an estimate of their cost."""
    parameters = {}
    if arguments.file is not None:
        parameters = profile_parameters(arguments.file)
    runs = list(plan.missing(arguments.chapter, plan.read(arguments.chapter, parameters)))
    if arguments.dry_run:
        return 0 if dry_run.report(runs, tflops=arguments.tflops, processes=arguments.processes) else 1
    for run in runs:
        config = Config.from_dict(run["config"])
        cost = dry_run.cost(config, flops_per_second=dry_run.throughput(best_device()))
        seconds = None if cost.seconds is None else round(cost.seconds)
        print(json.dumps({**run, "seconds": seconds, "bytes": cost.memory}, ensure_ascii=False))
    return 0


def train_command(arguments: argparse.Namespace) -> int:
    """Train the runs of a plan, and write their records to ``data/results``.

    Several processes may take the same lines: each run is trained by one of them.
    """
    text = sys.stdin.read() if arguments.runs == "-" else Path(arguments.runs).read_text(encoding="utf8")
    lines = text.splitlines()
    runs = list(plan.parse_lines(lines))
    if arguments.jobs > 1:
        command = [sys.executable, "-m", "fgvc_study", "train", "-"]
        command += ["--device", arguments.device] if arguments.device else []
        threads = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
        workers = []
        for _ in range(arguments.jobs):
            worker = subprocess.Popen(command, stdin=subprocess.PIPE, text=True, env={**os.environ, **threads})
            assert worker.stdin is not None
            worker.stdin.write("\n".join(lines))
            worker.stdin.close()
            workers.append(worker)
        return max(worker.wait() for worker in workers)
    with distributed.process_group(pick_device(arguments.device)):
        for run in runs:
            start = time.monotonic()
            record = measure(
                run["config"],
                chapter=run["chapter"],
                metrics=run["metrics"],
                device=arguments.device,
                place=folders.results(),
            )
            if record is not None and distributed.rank() == 0:
                accuracy = f"{100 * record.final['test_accuracy']:.2f} %" if not record.diverged else "diverged"
                name = f"{run['chapter']}/{run['experiment']} | {run['variant']} | seed {record.seed}"
                print(f"{name} | {accuracy} | {time.monotonic() - start:.0f} s", flush=True)
    return 0


def reproduce_command(arguments: argparse.Namespace) -> int:
    """Measure a chapter's experiments again from nothing, and compare with the committed records."""
    path = folders.root() / "profiles" / arguments.profile / f"{arguments.chapter}.yaml"
    chapter = plan.read(arguments.chapter, profile_parameters(path))
    return 0 if reproduce.report(arguments.chapter, chapter, only=arguments.only, device=arguments.device) else 1


def tables_command(arguments: argparse.Namespace) -> int:
    """Write ``data/experiments``: what each chapter asks for in each profile."""
    for path in sorted((folders.root() / "profiles").glob("*/*.yaml")):
        profile, chapter = path.parent.name, path.stem
        if profile == "smoke":
            continue
        target = table_path(profile, chapter)
        text = table_text(plan.read(chapter, profile_parameters(path)))
        if arguments.check and (not target.is_file() or target.read_text(encoding="utf8") != text):
            print(f"{target} is out of step with the chapter: run `python -m fgvc_study tables`")
            return 1
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf8")
    return 0


def main() -> int:
    """Parse the command line and run one command."""
    parser = argparse.ArgumentParser(prog="python -m fgvc_study", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)

    one = commands.add_parser("plan", help=plan_command.__doc__)
    one.add_argument("chapter", help="03_mutual_channel_loss, say")
    one.add_argument("-f", "--file", type=Path, help="YAML file of parameter values, such as a profile's")
    one.add_argument("--dry-run", action="store_true", help="look for data and weights, and print a table of costs")
    one.add_argument("--tflops", type=float, default=10.0, help="of one device, for the dry run (default 10)")
    one.add_argument("--processes", type=int, default=1, help="devices that train together, for the dry run")
    one.set_defaults(command=plan_command)

    one = commands.add_parser("train", help=train_command.__doc__)
    one.add_argument(
        "runs", nargs="?", default="-", help="file of lines that `plan` printed; standard input by default"
    )
    one.add_argument("--jobs", type=int, default=1, help="processes side by side, one thread each on a CPU")
    one.add_argument("--device", help="cpu or cuda; by default the best there is")
    one.set_defaults(command=train_command)

    one = commands.add_parser("reproduce", help=reproduce_command.__doc__)
    one.add_argument("chapter")
    one.add_argument("--profile", default="quick")
    one.add_argument("--only", default="", help="points that start so, experiment/variant/seed")
    one.add_argument("--device", help="cpu or cuda; by default the best there is")
    one.set_defaults(command=reproduce_command)

    one = commands.add_parser("tables", help=tables_command.__doc__)
    one.add_argument("--check", action="store_true", help="only say whether a file is out of step")
    one.set_defaults(command=tables_command)

    arguments = parser.parse_args()
    try:
        return int(arguments.command(arguments))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
