"""The wheel carries the committed records, so that a chapter far from the checkout, on Colab say, can show them.

Setuptools calls this when it builds a wheel (``pyproject.toml``). The copy is made then and never committed.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from setuptools.command.build_py import build_py

RECORDS = ("*.yaml", "results/*/*.json", "results/*/*.npz", "experiments/*/*.json", "benchmarks/*.json")
"""What of ``data/`` goes to ``fgvc_study/recorded/``, where ``fgvc_study.folders`` looks for it."""


class BuildWithRecords(build_py):  # type: ignore[misc]
    """Setuptools' own step for Python files, and the records after it; an editable install has the checkout's."""

    def run(self) -> None:
        """Copy modules, then records."""
        super().run()
        if self.editable_mode:
            return
        source, target = Path("data"), Path(self.build_lib) / "fgvc_study" / "recorded"
        shutil.rmtree(target, ignore_errors=True)  # records that an earlier build left there
        for path in sorted(path for pattern in RECORDS for path in source.glob(pattern)):
            copy = target / path.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
