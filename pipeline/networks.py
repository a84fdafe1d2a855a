"""The small networks of ``book/live``: ``python -m pipeline.networks`` trains them into ``data/networks``.

They are chapter 8's, of the birds, each with the seed that was best on validation. Four minutes of two cores in all.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from fgvc_lib.config import Config
from fgvc_lib.train import fit
from fgvc_study import plan, record
from pipeline.project import ROOT

FOLDER = ROOT / "data" / "networks"
NETWORKS = {"plain": "plain, linear head", "mutual_channel": "MC-Loss", "tasn": "TASN", "ap_cnn": "AP-CNN"}
"""Name of the file → variant of chapter 8's comparison."""


def best(variant: str) -> Config:
    """The configuration of ``variant`` whose record has the highest validation accuracy, of equal ones the first."""
    configs = plan.read("08_evidence").experiments["compare"].variants[variant]
    measured = [(found.final["val_accuracy"], config) for config in configs if (found := record.find(config))]
    return max(measured, key=lambda pair: pair[0])[1]


def main() -> None:
    """Train every network whose file is not there."""
    FOLDER.mkdir(exist_ok=True)
    for name, variant in NETWORKS.items():
        if not (FOLDER / f"{name}.pt").exists():
            with tempfile.TemporaryDirectory() as folder:
                fitted = fit(best(variant), folder=folder, device="cpu")
                shutil.copy(Path(folder) / "model.pt", FOLDER / f"{name}.pt")
            print(f"{name}: test accuracy {fitted.final['test_accuracy']:.1%}")


if __name__ == "__main__":
    main()
