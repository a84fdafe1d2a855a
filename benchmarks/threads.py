"""Is a run with two threads another run? The same seeds, trained with one thread and with two.

    python benchmarks/threads.py        # on a CPU; half an hour

Two rows of the comparison on the birds in chapter 8. Nothing is timed: the test accuracies are kept, seed by seed.
Writes data/benchmarks/threads-cpu.json.
"""

from __future__ import annotations

import argparse

import timing
import torch

from fgvc_lib.train import fit
from fgvc_study.experiment import table

ROWS = ("plain, linear head", "Bilinear CNN")
THREADS = (1, 2)


def main() -> None:
    """Run, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10, help="the first so many of the comparison")
    parser.add_argument("--note", default="", help="for the record")
    args = parser.parse_args()
    compared = table("quick", "08_evidence")["compare"].variants
    accuracy: dict[str, dict[str, list[float]]] = {}
    for row in ROWS:
        accuracy[row] = {}
        for threads in THREADS:
            torch.set_num_threads(threads)
            runs = (fit(config, device="cpu") for config in compared[row][: args.seeds])
            accuracy[row][str(threads)] = [run.final["test_accuracy"] for run in runs]
            print(row, threads, accuracy[row][str(threads)], flush=True)
    timing.write("threads", torch.device("cpu"), {"test_accuracy": accuracy}, note=args.note)


if __name__ == "__main__":
    main()
