"""A study trains what has no record, shows what has one, and says what is not measured."""

import pytest
import torch

from fgvc_lib.config import Config
from fgvc_lib.data import load
from fgvc_lib.methods import METHODS
from fgvc_lib.train import NonFiniteLoss
from fgvc_study import Study, folders, training, vary
from fgvc_study.record import find, read
from fgvc_study.training import measure

CONFIG = Config(method="center", backbone="lenet_pp", epochs=1, max_steps=1, data_args={"val_fraction": 0.5})


@pytest.fixture
def trainings(repository, monkeypatch):
    """Configurations that were trained."""
    fit, trained = training.fit, []
    monkeypatch.setattr(training, "fit", lambda config, **more: trained.append(config) or fit(config, **more))
    return trained


def test_mappings_are_merged_key_by_key():
    start = Config(method="center", method_args={"alpha": 0.5, "weight": 1.0}, data_args={"val_fraction": 0.1})
    found = vary(start, method_args={"weight": 2.0}, lr=0.3)
    assert found.method_args == {"alpha": 0.5, "weight": 2.0}
    assert found.data_args == {"val_fraction": 0.1}
    assert found.lr == 0.3
    assert start.method_args["weight"] == 1.0


def test_an_experiment_is_trained_once_and_found_again(trainings, capsys):
    variants = {"one": CONFIG, "two": CONFIG.replace(lr=0.02)}
    runs = Study("02_center_loss", seeds=[0, 1], device="cpu").run("x", variants, metrics=["compactness"])
    assert list(runs["variant"]) == ["one", "one", "two", "two"]
    assert list(runs["seed"]) == [0, 1, 0, 1]
    assert runs["measured"].all()
    assert runs["test_accuracy"].between(0, 1).all()
    assert runs["compactness/ratio"].notna().all()
    assert len(trainings) == 4
    assert "x: 4 runs to train, about" in capsys.readouterr().out

    study = Study("08_evidence", seeds=[0], device="cpu")  # another chapter, that asks for less
    again = study.run("y", {"first": CONFIG})
    assert len(trainings) == 4
    assert again["test_accuracy"].item() == runs["test_accuracy"].iloc[0]
    (record,) = study.records(again)
    assert record.chapter == "02_center_loss"
    assert record.commit == "f" * 40
    assert record.dataset["train"] == len(load("digits", val_fraction=0.5).train)
    assert record.revision == METHODS["center"].revision
    assert "1 run; digits" in study.foot(again)

    study.run("z", {"first": CONFIG}, metrics=["features_2d"])  # a metric that the record lacks
    assert len(trainings) == 5
    record = find(CONFIG)
    assert (record.chapter, record.metrics) == ("02_center_loss", ["compactness", "features_2d"])
    assert len(list(folders.build().rglob(f"results/*/{record.id}.json"))) == 1
    assert not list((folders.build() / "runs").glob("*/checkpoint*"))


def test_variants_may_have_seeds_of_their_own(repository):
    study = Study("02_center_loss", seeds=[0, 1], train="never")
    variants = {"one": CONFIG, "two": CONFIG.replace(lr=0.02)}
    runs = study.run("x", variants, seeds={"two": [0, 5, 6]})
    assert list(zip(runs["variant"], runs["seed"], strict=True)) == [
        *(("one", 0), ("one", 1)),
        *(("two", 0), ("two", 5), ("two", 6)),
    ]
    assert list(study.run("y", variants, seeds=[3])["seed"]) == [3, 3]


def test_never_shows_what_there_is_and_all_measures_again(trainings):
    shown = Study("x", seeds=[0], train="never")
    runs = shown.run("x", {"one": CONFIG})
    assert not runs["measured"].any()
    assert shown.foot(runs) == "1 run not measured yet."
    assert trainings == []
    Study("x", seeds=[0], device="cpu").run("x", {"one": CONFIG})
    Study("x", seeds=[0], device="cpu", train="all").run("x", {"one": CONFIG})
    assert len(trainings) == 2
    assert Study("x", seeds=[0], train="never").run("x", {"one": CONFIG}, metrics=["compactness"])["measured"].all()


def test_a_network_to_look_inside_is_trained_on_the_page_and_kept(trainings):
    study = Study("02_center_loss", seeds=[3], device="cpu", train="never")
    network = study.live("pair", {"one": CONFIG}, metrics=["features_2d"])["one"]
    assert trainings == [CONFIG.replace(seed=3)]
    assert not network.method.training
    assert network.record.load_arrays()["features_2d/test"].shape[1] == 2
    assert find(CONFIG.replace(seed=3)) is None  # a page's own network is no evidence
    again = study.live("pair", {"one": CONFIG}, metrics=["features_2d"])["one"]
    assert len(trainings) == 1
    images = torch.randn(2, 1, 28, 28)
    torch.testing.assert_close(again.method(images).logits, network.method(images).logits)
    frame = study.live_frame({"one": again})
    assert frame["variant"].item() == "one"
    assert study.foot(frame).startswith("1 run; digits")
    Study("02_center_loss", seeds=[3], device="cpu", train="all").live("pair", {"one": CONFIG})
    assert len(trainings) == 2


def test_a_network_is_trained_anew_when_its_data_or_its_method_changed(trainings, monkeypatch):
    study = Study("x", seeds=[0], device="cpu")
    study.live("a", {"one": CONFIG})
    monkeypatch.setattr(training, "load", lambda name, **arguments: load(name, **arguments, seed=1))
    study.live("a", {"one": CONFIG})
    assert len(trainings) == 2
    monkeypatch.setattr(METHODS["center"], "revision", METHODS["center"].revision + 1)
    study.live("a", {"one": CONFIG})
    assert len(trainings) == 3


def test_a_network_that_another_version_saved_is_trained_anew(trainings):
    study = Study("x", seeds=[0], device="cpu")
    study.live("a", {"one": CONFIG})
    (model,) = (folders.build() / "live").rglob("model.pt")
    content = torch.load(model, weights_only=False)
    content["weights"].popitem()
    torch.save(content, model)
    assert study.live("a", {"one": CONFIG})["one"].method is not None
    assert len(trainings) == 2


def test_a_run_that_diverges_is_recorded_and_a_network_that_does_is_refused(repository, monkeypatch):
    attempts = []

    def diverge(*arguments, **options):
        attempts.append(1)
        raise NonFiniteLoss("loss term ce is not finite", step=6)

    monkeypatch.setattr(training, "fit", diverge)
    study = Study("x", seeds=[0], device="cpu")
    with pytest.raises(NonFiniteLoss, match="center diverged at step 7: a page needs a network that trains"):
        study.live("a", {"one": CONFIG})
    runs = study.run("b", {"one": CONFIG}, metrics=["compactness"])
    assert runs["diverged"].all()
    assert runs["measured"].all()
    (record,) = study.records(runs)
    assert record.final == {"diverged_at_step": 7}
    assert read(record.path) == record
    assert study.run("b", {"one": CONFIG}, metrics=["compactness"])["diverged"].all()
    assert len(attempts) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"train": "sometimes"}, "train must be 'missing', 'all' or 'never', got 'sometimes'"),
        ({"seeds": 0}, r"seeds must be a list of at least one integer such as \[0, 1, 2\], got 0"),
        ({"seeds": []}, "seeds must be a list"),
        ({"seeds": "0"}, "seeds must be a list"),
    ],
)
def test_what_makes_no_study_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Study("x", **arguments)


def test_two_processes_train_one_run_once(repository, forked):
    program = """
        from fgvc_lib.config import Config
        from fgvc_study import training
        fit, trainings = training.fit, []
        training.fit = lambda *a, **k: trainings.append(1) or fit(*a, **k)
        config = Config(backbone="lenet_pp", epochs=1, max_steps=1)
        while training.find(config) is None:
            training.measure(config, chapter="x")
        print(len(trainings))
    """
    both = [forked(program, repository, name) for name in ("one", "two")]
    assert sorted(int(process.wait().split()[-1]) for process in both) == [0, 1]


def test_processes_that_share_a_run_leave_one_record(repository, run_ranks):
    def together(rank, world_size):
        from pathlib import Path

        from fgvc_lib.config import Config
        from fgvc_study.training import measure

        config = Config(method="center", backbone="lenet_pp", max_steps=2)
        first = measure(config, chapter="x", metrics=["compactness"], device="cpu", place=Path("data/results"))
        again = measure(config, chapter="y", metrics=["compactness"], device="cpu", place=Path("data/results"))
        return [(r.id, r.chapter, r.final, r.device["processes"]) for r in (first, again)]

    first, second = run_ranks(together)
    assert first == second
    assert first[0] == first[1]
    (path,) = repository.glob("data/results/*/*.json")
    assert path.stem == first[0][0]
    assert read(path).device["processes"] == 2
    assert {"test_accuracy", "compactness/ratio"} <= set(read(path).final)


def test_a_run_that_another_process_trains_is_passed_over(repository):
    folder = folders.build() / "runs" / training.run_id(CONFIG)
    folder.parent.mkdir(parents=True)
    with training.FileLock(f"{folder}.lock"):
        assert measure(CONFIG, chapter="x", device="cpu") is None


def test_commit_falls_back_to_the_release(monkeypatch):
    from fgvc_study import provenance

    monkeypatch.delenv("FGVC_COMMIT", raising=False)
    monkeypatch.setattr(provenance, "PACKAGE", provenance.Path("/nowhere/fgvc_lib"))
    assert provenance.commit()[0].startswith("release ")
