"""Is a run with two threads another run? The same seeds, trained with one thread and with two.

    python benchmarks/threads.py        # on a CPU; a quarter of an hour

The plain network of the comparison on the birds in chapter 8. Nothing is timed: accuracies are kept, seed by seed.
Writes data/benchmarks/threads-cpu.json.
"""

from __future__ import annotations

import argparse
import statistics
from itertools import combinations

import timing
import torch

from fgvc_lib.data import load
from fgvc_lib.train import fit
from fgvc_study.experiment import table

ROW = "plain, linear head"


def main() -> None:
    """Run, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10, help="the first so many of the comparison")
    parser.add_argument("--note", default="", help="for the record")
    args = parser.parse_args()
    configs = table("quick", "08_evidence")["compare"].variants[ROW][: args.seeds]
    data = load(configs[0].data, **configs[0].data_args)  # the same for all seeds
    accuracy: dict[int, list[float]] = {}
    for threads in (1, 2):
        torch.set_num_threads(threads)
        accuracy[threads] = [fit(config, data=data, device="cpu").final["test_accuracy"] for config in configs]
        print(threads, accuracy[threads], flush=True)
    results = {"points": distances(accuracy[1], accuracy[2]), "test_accuracy": accuracy}
    timing.write("threads", torch.device("cpu"), {"row": ROW, **results}, note=args.note)


def distances(one: list[float], two: list[float]) -> dict[str, float]:
    """How far the two runs of a seed lie apart, beside how far seeds do, in points of accuracy."""
    apart = [100 * abs(a - b) for a, b in zip(one, two, strict=True)]
    return {
        "of the two runs of a seed, mean": statistics.mean(apart),
        "of the two runs of a seed, largest": max(apart),
        "of two seeds with one thread, mean": statistics.mean(100 * abs(a - b) for a, b in combinations(one, 2)),
        "change of the mean over seeds": 100 * (statistics.mean(two) - statistics.mean(one)),
    }


if __name__ == "__main__":
    main()
