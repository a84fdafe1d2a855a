"""pyproject.toml states ranges, requirements.lock exact versions, environment.yml hands both to conda: one truth."""

import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCK = (ROOT / "requirements.lock").read_text()
CONDA = yaml.safe_load((ROOT / "environment.yml").read_text())
PYTHONS = ("3.11.9", "3.12.9", "3.13.9")


def wanted():
    extras = PROJECT["optional-dependencies"].values()
    return [Requirement(line) for line in [*PROJECT["dependencies"], *(line for extra in extras for line in extra)]]


def locked(python):
    """Name → version, as pip would read the lock under ``python`` on 64-bit Linux."""
    environment = {
        **default_environment(),
        "python_version": ".".join(python.split(".")[:2]),
        "python_full_version": python,
        "sys_platform": "linux",
        "platform_machine": "x86_64",
    }
    lines = [Requirement(line) for line in LOCK.splitlines()]
    return {
        canonicalize_name(line.name): next(iter(line.specifier)).version
        for line in lines
        if line.marker is None or line.marker.evaluate(environment)
    }


def test_the_lock_holds_exact_versions_and_nothing_else():
    for line in LOCK.splitlines():
        requirement = Requirement(line)  # no option, no address
        assert requirement.url is None, line
        assert [s.operator for s in requirement.specifier] == ["=="], line


@pytest.mark.parametrize("python", PYTHONS)
def test_the_lock_fits_every_range(python):
    versions = locked(python)
    for requirement in wanted():
        name = canonicalize_name(requirement.name)
        assert name in versions, f"{name} is not in requirements.lock: run `make lock`"
        assert requirement.specifier.contains(versions[name]), f"{requirement} but {versions[name]} is locked"


def test_conda_gets_the_lock_and_the_pythons_of_the_project():
    (pip,) = (part["pip"] for part in CONDA["dependencies"] if isinstance(part, dict))
    assert pip == ["-r requirements.lock", "-e ."]
    (python,) = (part for part in CONDA["dependencies"] if str(part).startswith("python "))
    allowed = SpecifierSet(python.removeprefix("python "))
    declared = SpecifierSet(PROJECT["requires-python"])
    for version in PYTHONS:
        assert version in allowed
        assert version in declared
    assert "3.10.9" not in allowed
    assert "3.10.9" not in declared


def test_every_dependency_has_a_lower_bound_and_torch_no_upper_one():
    unbounded = {"types-pyyaml", "pandas-stubs"}  # stubs follow what they describe
    for requirement in wanted():
        operators = {s.operator for s in requirement.specifier}
        assert requirement.name in unbounded or ">=" in operators or requirement.name == "sphinx-book-theme"
        if requirement.name in {"torch", "torchvision"}:
            assert operators == {">="}
