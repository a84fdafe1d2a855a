"""The wheel outside the checkout: it works, shows the committed records, and leaves a supported torch alone."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def installed(make_environment, wheel):
    environment = make_environment(without=("fgvc-lib",))
    done = environment.run("-m", "pip", "install", "--quiet", "--no-deps", wheel, cwd=environment.home)
    assert done.returncode == 0, done.stderr
    # as `.venv` in a project of somebody's own
    git = ("git", "-C", str(environment.folder), "-c", "user.name=a", "-c", "user.email=a@example.org")
    subprocess.run([*git, "init", "--quiet"], check=True)
    subprocess.run([*git, "commit", "--quiet", "--allow-empty", "--message", "theirs"], check=True)
    return environment


def names(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_it_holds_the_library_and_the_committed_records_and_nothing_else(source, wheel):
    held = {name for name in names(wheel) if ".dist-info/" not in name}
    modules = {
        str(path.relative_to(source)) for name in ("lib", "study") for path in source.glob(f"fgvc_{name}/**/*.py")
    }
    modules |= {"fgvc_lib/data/cub100.txt", "fgvc_lib/report.html"}
    records = {
        f"fgvc_study/recorded/{path.relative_to(source / 'data')}"
        for pattern in ("*.yaml", "results/*/*.json", "results/*/*.npz", "experiments/*/*.json", "benchmarks/*.json")
        for path in (source / "data").glob(pattern)
    }
    assert held == modules | records
    assert not (ROOT / "fgvc_study" / "recorded").exists()  # the copy is made in the wheel, never in the tree
    assert wheel.stat().st_size < 20e6


def test_no_requirement_has_an_upper_bound(wheel):
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("/METADATA"))
        metadata = archive.read(name).decode()
    lines = [line.removeprefix("Requires-Dist: ") for line in metadata.splitlines() if line.startswith("Requires-Dist")]
    required = [found for found in map(Requirement, lines) if found.marker is None]
    assert "torch" in {found.name for found in required}
    assert {operator.operator for found in required for operator in found.specifier} == {">="}


@pytest.mark.parametrize("present", [{}, {"torch": "2.11.0+cu128", "torchvision": "0.26.0+cu128"}])
def test_pip_would_install_nothing_else(make_environment, wheel, present):
    environment = make_environment(without=("fgvc-lib",))
    environment.pretend(**present)
    torch = present.get("torch", importlib.metadata.version("torch"))
    asked = ("--dry-run", "--quiet", "--report", "-", wheel, f"torch=={torch}")
    done = environment.run("-m", "pip", "install", *asked, cwd=environment.home)
    assert done.returncode == 0, done.stderr
    assert [item["metadata"]["name"] for item in json.loads(done.stdout)["install"]] == ["fgvc-lib"]


def test_pip_refuses_to_pair_it_with_a_torch_that_is_too_old(make_environment, wheel):
    environment = make_environment(without=("fgvc-lib",))
    environment.pretend(torch="2.10.0", torchvision="0.25.0")
    done = environment.run("-m", "pip", "install", "--dry-run", wheel, "torch==2.10.0", cwd=environment.home)
    assert done.returncode != 0
    assert "fgvc-lib 0.1.0 depends on torch>=2.11" in done.stdout


def test_the_command_line_works_anywhere(installed, tmp_path):
    fgvc = installed.python.with_name("fgvc")
    done = subprocess.run([fgvc, "datasets"], cwd=tmp_path, env=installed.variables(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "birds" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_records_experiments_and_claims_come_with_it(installed, source, tmp_path, monkeypatch):
    script = """
import json, fgvc_study
from fgvc_study import experiment, folders, ledger, provenance, record
found = [record.read(path) for path in sorted(folders.results().rglob("*.json"))]
print(json.dumps({
    "package": fgvc_study.__file__,
    "records": [r.id for r in found],
    "arrays": sum(len(r.load_arrays()) for r in found),
    "experiments": sorted(experiment.table("quick", "02_center_loss")),
    "verdicts": {c.id: ledger.judge(c).verdict for c in ledger.claims()},
    "commit": provenance.commit(),
    "new": str(folders.build()),
}))
"""
    # old packages beside newer ones use what those deprecate
    done = installed.run("-W", "error", "-W", "ignore::DeprecationWarning", "-c", script, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    there = json.loads(done.stdout)
    assert there["package"].startswith(str(installed.site))

    from fgvc_study import experiment, folders, ledger, record

    monkeypatch.chdir(source)
    here = [record.read(path) for path in sorted(folders.results().rglob("*.json"))]
    assert here
    assert there["records"] == [r.id for r in here]
    assert there["arrays"] == sum(len(r.load_arrays()) for r in here)
    assert there["experiments"] == sorted(experiment.table("quick", "02_center_loss"))
    assert there["verdicts"] == {c.id: ledger.judge(c).verdict for c in ledger.claims()}
    assert there["new"] == str(tmp_path / "build" / "local")  # never into the package
    # the commit of the repository around the environment is not the library's
    assert there["commit"] == [f"release {importlib.metadata.version('fgvc-lib')}", False]
