"""A plan is read off a chapter's cells, names what is missing, and its lines train anywhere."""

import io
import json
import sys

import nbformat
import pytest

from fgvc_study import __main__ as command
from fgvc_study import experiment, plan
from fgvc_study.record import find

CHAPTER = [
    ("parameters", 'lambdas = [0.0, 0.1]\nepochs = 1\nseeds = [0, 1]\ndevice = "cpu"\ntrain = "never"'),
    (
        "setup",
        "from fgvc_lib.config import Config\nfrom fgvc_study import Study, vary\n"
        'study = Study("05_small", seeds=seeds, device=device, train=train)\n'
        'base = Config(method="center", backbone="lenet_pp", epochs=epochs, max_steps=1)',
    ),
    ("experiment", 'live = study.live("pair", {"softmax": vary(base, method_args={"weight": 0.0})})'),
    ("", 'raise AssertionError("cells that show are not executed")'),
    (
        "experiment",
        'variants = {f"{w:g}": vary(base, method_args={"weight": w}) for w in lambdas}\n'
        'runs = study.run("lambda", variants, metrics=["compactness"])\n'
        'first = vary(base, method_args={"weight": lambdas[0]})\n'
        'more = study.run("first", {"base": first}, metrics=["cost"], seeds=[0])',
    ),
]


@pytest.fixture
def chapter(repository):
    cells = [
        nbformat.v4.new_code_cell(source, metadata={"tags": [tag] if tag else []}, id=f"cell-{i}")
        for i, (tag, source) in enumerate(CHAPTER)
    ]
    (repository / "notebooks").mkdir()
    nbformat.write(nbformat.v4.new_notebook(cells=cells), repository / "notebooks" / "05_small.ipynb")
    profile = repository / "profiles" / "quick"
    profile.mkdir(parents=True)
    (profile / "05_small.yaml").write_text("lambdas: [0.5]\nseeds: [7]\n")
    return repository


def run(*arguments):
    sys.argv = ["fgvc_study", *map(str, arguments)]
    return command.main()


def test_a_plan_has_what_the_cells_ask_for_with_the_parameters_given(chapter):
    found = plan.read("05_small")
    assert {name: list(e.variants) for name, e in found.experiments.items()} == {
        "lambda": ["0", "0.1"],
        "first": ["base"],
    }
    assert [c.seed for c in found.experiments["lambda"].variants["0"]] == [0, 1]
    assert list(found.live) == ["pair"]
    assert found.settings == {"device": "cpu", "train": "never"}
    changed = plan.read("05_small", {"lambdas": [2.0], "epochs": 3})
    (config, _) = changed.experiments["lambda"].variants["2"]
    assert (config.method_args, config.epochs) == ({"weight": 2.0}, 3)
    assert experiment.collecting is None
    with pytest.raises(ValueError, match=r"05_small has no parameter mu: choose from lambdas, epochs"):
        plan.read("05_small", {"mu": 1})
    with pytest.raises(FileNotFoundError, match=r"there is no chapter '5' here; the chapters are 05_small"):
        plan.read("5")


def test_a_cell_that_fails_leaves_no_plan_behind(chapter):
    with pytest.raises(TypeError):
        plan.read("05_small", {"lambdas": 3})
    assert experiment.collecting is None


def test_lines_of_a_plan_are_trained_into_records(chapter, capsys, monkeypatch):
    assert run("plan", "05_small") == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4  # the run that two experiments share is one line, with the metrics of both
    first = json.loads(lines[0])
    assert (first["chapter"], first["experiment"], first["variant"]) == ("05_small", "lambda", "0")
    assert first["metrics"] == ["compactness", "cost"]
    assert first["seconds"] >= 0
    assert first["bytes"] > 1000
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines[:1])))
    assert run("train", "--device", "cpu") == 0
    assert "05_small/lambda | 0 | seed 0 | " in capsys.readouterr().out
    (record,) = (find(c) for c in plan.read("05_small").experiments["first"].configs())
    assert record.path.parent == chapter / "data" / "results" / "05_small"
    assert {"compactness/ratio", "cost/parameters"} <= set(record.final)
    assert run("plan", "05_small") == 0
    assert len(capsys.readouterr().out.splitlines()) == 3
    assert run("plan", "05_small", "-f", "profiles/quick/05_small.yaml") == 0
    assert [json.loads(line)["config"]["seed"] for line in capsys.readouterr().out.splitlines()] == [7, 0]


def test_what_is_no_plan_is_refused_in_a_sentence(chapter, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("\n{}\n"))
    assert run("train") == 2
    assert "line 2 is not a run as `python -m fgvc_study plan` prints it" in capsys.readouterr().err
    assert run("plan", "nowhere") == 2
    assert "there is no chapter 'nowhere'" in capsys.readouterr().err


def test_a_chapter_s_experiments_are_kept_in_a_table_for_other_chapters(chapter, capsys):
    assert run("tables", "--check") == 1
    assert run("tables") == 0
    assert run("tables", "--check") == 0
    found = experiment.table("quick", "05_small")
    assert {name: list(e.variants) for name, e in found.items()} == {"lambda": ["0.5"], "first": ["base"]}
    asked = plan.read("05_small", {"lambdas": [0.5], "seeds": [7]}).experiments
    assert found == asked
    assert experiment.table("photos", "05_small") == {}


def test_a_run_is_compared_with_its_record(chapter, capsys):
    assert run("plan", "05_small", "-f", "profiles/quick/05_small.yaml") == 0
    (chapter / "runs.jsonl").write_text(capsys.readouterr().out)
    assert run("reproduce", "05_small") == 1
    assert "0 of 0 runs reproduce; 2 have no record to compare with" in capsys.readouterr().out
    assert run("train", chapter / "runs.jsonl", "--device", "cpu") == 0
    capsys.readouterr()
    assert run("reproduce", "05_small", "--device", "cpu") == 0
    output = capsys.readouterr().out
    assert "2 of 2 runs reproduce; 0 have no record" in output
    record = find(next(plan.read("05_small", {"lambdas": [0.5], "seeds": [7]}).experiments["lambda"].configs()))
    fields = json.loads(record.path.read_text())
    fields["final"]["test_accuracy"] += 0.2
    record.path.write_text(json.dumps(fields))
    assert run("reproduce", "05_small", "--device", "cpu", "--only", "lambda/0.5/7") == 1
    output = capsys.readouterr().out
    assert "FAIL lambda/0.5/7 |" in output
    assert "0 of 1 runs reproduce; 0 have no record" in output
