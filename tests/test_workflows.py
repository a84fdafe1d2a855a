"""The workflows: valid, pinned, with few rights, and calling what people call."""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
TARGETS = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
# What a job may write, and which job may
WRITES = {
    ("main", "deploy"): {"pages", "id-token"},
    ("main", "release"): {"contents"},
    ("weekly", "report"): {"issues"},
    ("gpu", "measure"): {"contents", "pull-requests"},
}
each = pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)


def read(path):
    found = yaml.safe_load(path.read_text())
    return found, found[True]  # YAML 1.1 reads the key `on` as true


def steps(workflow):
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


def test_all_four_are_there():
    assert [path.stem for path in WORKFLOWS] == ["gpu", "main", "pull_request", "weekly"]


@each
def test_every_action_is_pinned_to_a_commit_with_its_version_beside_it(path):
    used = [line for line in path.read_text().splitlines() if "uses:" in line]
    for line in used:
        assert re.search(r"uses: [\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$", line), line
    assert len(used) == sum("uses" in step for step in steps(read(path)[0]))


def test_one_action_has_one_version_everywhere():
    used = {tuple(found) for path in WORKFLOWS for found in re.findall(r"uses: (\S+)@(\S+) # (\S+)", path.read_text())}
    assert len({name for name, *_ in used}) == len(used), sorted(used)


@each
def test_rights_are_to_read_and_more_only_where_listed(path):
    workflow, _ = read(path)
    assert workflow["permissions"] == {"contents": "read"}
    for name, job in workflow["jobs"].items():
        rights = job.get("permissions", {})
        assert {right for right, kind in rights.items() if kind == "write"} == WRITES.get((path.stem, name), set())
        assert set(rights.values()) <= {"read", "write"}


@each
def test_checkouts_keep_no_credentials_and_jobs_end(path):
    workflow, _ = read(path)
    for step in steps(workflow):
        if "actions/checkout" in step.get("uses", ""):
            assert step["with"]["persist-credentials"] is False
    assert all(job["timeout-minutes"] for job in workflow["jobs"].values())
    assert workflow["concurrency"]


@each
def test_a_script_takes_nothing_from_outside_as_code(path):
    """An expression in a script is pasted into it before the shell reads it: values come as variables."""
    for step in steps(read(path)[0]):
        assert "${{" not in step.get("run", ""), step["run"]


@each
def test_they_call_the_targets_that_people_call(path):
    scripts = [step["run"] for step in steps(read(path)[0]) if "run" in step]
    called = {
        word
        for script in scripts
        for line in re.findall(r"^make (.*)$", script, re.MULTILINE)
        for word in line.split("#")[0].split()
        if re.fullmatch(r"[a-z-]+", word)
    }
    assert called <= TARGETS, f"the Makefile has no {', '.join(sorted(called - TARGETS))}"
    assert called


def test_what_starts_each():
    on = {path.stem: set(read(path)[1]) for path in WORKFLOWS}
    assert on == {
        "pull_request": {"pull_request"},  # never pull_request_target, which has rights and runs others' code
        "main": {"push"},
        "weekly": {"schedule", "workflow_dispatch"},
        "gpu": {"workflow_dispatch"},
    }
