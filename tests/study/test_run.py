"""Runs are trained once, found again, and made anew when their code changed."""

import json

import pytest
import torch

from fgvc_lib import train
from fgvc_lib.config import Config
from fgvc_lib.data import load
from fgvc_study import find, is_current, read, recorded, run, trained
from fgvc_lib.train import NonFiniteLoss

CONFIG = Config(
    method="center",
    backbone="lenet_pp",
    backbone_args={"feature_dim": 2},
    epochs=1,
    max_steps=1,
    measures=("features_2d", "compactness"),
)


@pytest.fixture
def build(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "runs.yaml").write_text("groups: {}\n")
    monkeypatch.delenv("FGVC_BUILD", raising=False)
    monkeypatch.setenv("FGVC_COMMIT", "f" * 40)
    return tmp_path


def test_a_run_is_recorded_found_and_loaded(build):
    method, record = trained(CONFIG, profile="quick", chapter="02_center_loss")
    assert record.path == build / "build" / "quick" / "results" / "02_center_loss" / f"{record.id}.json"
    assert record.commit == "f" * 40
    assert record.device["name"]
    assert record.dataset["train"] == len(load("digits").train)
    assert {"test_accuracy", "compactness/ratio"} <= set(record.final)
    assert set(record.load_arrays()) >= {"features_2d/test", "features_2d/centers"}
    before = record.path.stat().st_mtime_ns

    # another chapter finds it, and the weights come back from the file
    again = run(CONFIG, profile="quick", chapter="08_evidence")
    assert again == record
    loaded, _ = trained(CONFIG, profile="quick", chapter="08_evidence")
    assert record.path.stat().st_mtime_ns == before
    images = torch.randn(2, 1, 28, 28)
    torch.testing.assert_close(loaded(images).logits, method(images).logits)  # the memory format may differ

    # code that changed since: made again in the build folder, kept and marked when it is evidence
    fields = json.loads(record.path.read_text())
    fields["versions"]["sources"] = "an earlier version"
    record.path.write_text(json.dumps(fields))
    assert not is_current(read(record.path))
    assert find(CONFIG, record.dataset["fingerprint"], profile="quick") is None
    evidence = build / "data" / "results" / "cpu" / "02_center_loss"
    evidence.mkdir(parents=True)
    (evidence / record.path.name).write_text(json.dumps(fields | {"profile": "cpu"}))
    found = find(CONFIG, record.dataset["fingerprint"], profile="cpu")
    assert found is not None
    assert not is_current(found)
    assert [r.id for r in recorded()] == [record.id]


def test_a_run_that_diverges_leaves_a_record_where_records_are_evidence(build, monkeypatch):
    attempts = []

    def diverge(*arguments, **options):
        attempts.append(1)
        raise NonFiniteLoss("loss term ce is not finite", step=6, terms={"ce": float("nan")})

    monkeypatch.setattr(train, "fit", diverge)
    with pytest.raises(NonFiniteLoss):
        run(CONFIG, profile="quick", chapter="02_center_loss")
    with pytest.raises(NonFiniteLoss):  # whose weights would be looked at
        trained(CONFIG, profile="cpu", chapter="02_center_loss")
    assert not list(build.rglob("*.json"))

    record = run(CONFIG, profile="cpu", chapter="02_center_loss", device="cpu")
    assert record.diverged
    assert record.final == {"diverged_at_step": 7}
    assert (record.device["type"], record.commit) == ("cpu", "f" * 40)
    assert read(record.path) == record
    assert run(CONFIG, profile="cpu", chapter="02_center_loss") == record
    assert len(attempts) == 3


def test_two_processes_train_one_run_once(build, forked):
    program = """
        from fgvc_lib import train
        from fgvc_lib.config import Config
        from fgvc_study import run
        fit, trainings = train.fit, []
        train.fit = lambda *a, **k: trainings.append(1) or fit(*a, **k)
        run(Config(backbone="lenet_pp", epochs=1, max_steps=1), profile="quick", chapter="x")
        print(len(trainings))
    """
    both = [forked(program, build, name) for name in ("one", "two")]
    assert sorted(int(process.wait().split()[-1]) for process in both) == [0, 1]


def test_commit_falls_back_to_the_release(monkeypatch):
    from fgvc_study import provenance

    monkeypatch.delenv("FGVC_COMMIT", raising=False)
    monkeypatch.setattr(provenance, "PACKAGE", provenance.Path("/nowhere/fgvc_lib"))
    assert provenance.commit()[0].startswith("release ")


def test_processes_that_share_a_run_leave_one_record(build, run_ranks):
    def measure(rank, world_size):
        from fgvc_lib.config import Config
        from fgvc_study import run
        from fgvc_study.run import trained

        config = Config(method="center", backbone="lenet_pp", max_steps=2, measures=("compactness",))
        record = run(config, profile="cpu", chapter="x", device="cpu")
        again = run(config, profile="cpu", chapter="y", device="cpu")
        _, once_more = trained(config, profile="cpu", chapter="y", device="cpu")
        return [(r.id, r.chapter, r.final, r.device["processes"]) for r in (record, again, once_more)]

    first, second = run_ranks(measure)
    assert first == second
    assert first[0] == first[1] == first[2]
    (path,) = build.glob("data/results/cpu/*/*.json")
    assert path.stem == first[0][0]
    assert read(path).device["processes"] == 2
    assert {"test_accuracy", "compactness/ratio"} <= set(read(path).final)
