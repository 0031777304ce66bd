"""`distill gate` on a world whose order decides: who passes, who doesn't, resuming, and the report."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.report import write_report
from benchmarks.tuning import budget_of
from distill.cli import main as command_line
from distill.config import load
from distill.contracts.worlds import ring
from distill.errors import UserError
from distill.gate import Tuner, gate_command, refresh_report
from distill.gate_runs import config_of_run, keep_finished_trials
from distill.prepare import main as prepare
from distill.ranking.gate import read_gate
from distill.recipes import CONTROL
from distill.runs import open_stage, read_manifest, run_stage
from distill.train_teacher import main as train_teacher

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
CONFIG = """\
run: {{name: {name}, tracker: none}}
data: {{path: {data}, split: {{name: leave_one_out}}}}
teacher:
  members: {{only: {member}}}
student: {{name: hybrid_cf, dim: 8, hidden: 16}}
fit: {{epochs: 1, batch_size: 128, learning_rate: 0.01}}
"""
GOOD = "{name: sasrec, dim: 16, epochs: 30, learning_rate: 0.01}"
WEAK = "{name: popularity}"
QUICK = f"popularity,{CONTROL}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Users who begin anywhere on a ring of items and take one after the other."""
    folder = tmp_path_factory.mktemp("gate")
    world = ring(n_users=150, events=9)
    lines = [f"{u},{i},{t}" for t, (u, i) in enumerate(zip(world.event_users(), world.items, strict=True))]
    (folder / "data").mkdir()
    (folder / "data" / "interactions.csv").write_text("\n".join(["user_id,item_id,timestamp", *lines]))
    return folder


def trained(folder, name, member):
    path = folder / f"{name}.yaml"
    path.write_text(CONFIG.format(name=name, data=folder / "data", member=member))
    config = load(path, [f"run.folder={folder}"])
    prepare(config)
    train_teacher(config)
    return [str(path), f"run.folder={folder}"], folder / name


@pytest.fixture(scope="module")
def good(folder):
    """Arguments and run of a teacher that reads the order, and the exit code of its gate."""
    words, run = trained(folder, "good", GOOD)
    return words, run, command_line(["gate", *words, "--models", QUICK, "--trials", "3"])


@pytest.fixture(scope="module")
def weak(folder):
    words, run = trained(folder, "weak", WEAK)
    return words, run, command_line(["gate", *words, "--models", "ease,sasrec", "--trials", "2"])


def test_a_teacher_that_knows_more_passes(good):
    _, run, code = good
    gate = read_gate(run)
    assert code == 0 and gate["passed"] and all(row["low"] > 0 for row in gate["baselines"].values())
    assert set(gate["baselines"]) == set(QUICK.split(",")) == set(gate["tuned"]) == set(gate["by_stratum"])
    assert gate["tuned"]["popularity"] | {"seconds": 0} == {
        "settings": {}, "ranges": {}, "trials": 1, "seconds": 0, "validation": gate["tuned"]["popularity"]["validation"]
    }  # fmt: skip
    assert gate["tuned"][CONTROL]["ranges"]["dropout"] == "0 to 0.6"
    assert set(gate["by_stratum"]["popularity"]) >= {"tail items", "light users"}
    manifest = open_stage(run / "gate")
    assert manifest["result"]["passed"] and "passes the gate" in manifest["result"]["verdict"]
    assert set(manifest["inputs"]) == {"data", "teacher"}


def test_the_tables_and_the_picture_hold_its_numbers(good):
    run, gate = good[1], read_gate(good[1])
    page = (run / "gate" / "gate.md").read_text()
    assert page.splitlines()[2].startswith("The teacher passes the gate") and f"| `{CONTROL}` |" in page
    rows = list(csv.DictReader((run / "gate" / "gate.csv").open()))
    overall = {row["baseline"]: float(row["difference"]) for row in rows if row["stratum"] == "overall"}
    assert overall == pytest.approx({name: row["difference"] for name, row in gate["baselines"].items()})
    picture = (run / "gate" / "gate.svg").read_text()
    assert picture.startswith("<svg") and "Undistilled student" in picture
    with np.load(run / "gate" / "lists.npz") as lists:
        assert set(lists) == {"teacher", *gate["baselines"]} and lists["popularity"].shape == (150, 10)


def test_a_larger_budget_goes_on_from_a_smaller_one(good):
    words, run, _ = good
    home = run / "gate" / CONTROL
    before = json.loads((home / "trials.json").read_text())["trials"]
    assert command_line(["gate", *words, "--models", QUICK, "--trials", "6"]) in (0, 1)
    after = json.loads((home / "trials.json").read_text())["trials"]
    assert len(before) == 1 and len(after) == 2 and after[:1] == before, "the seconds too: it wasn't run again"
    assert after[1]["settings"] != after[0]["settings"]
    assert len(list(home.glob("trial-*"))) == 1, "weights of the best trial alone are kept"


def kill_in_trial(monkeypatch, number):
    """The process ends in the middle of a trial of the undistilled student, after the baselines before it."""
    trained = Tuner.scorer

    def scorer(self, at, settings):
        if self.name == CONTROL and at == number:
            raise KeyboardInterrupt
        return trained(self, at, settings)

    monkeypatch.setattr(Tuner, "scorer", scorer)


@pytest.mark.parametrize("budget", [["--trials", "9"], ["--trials", "4", "--seconds", "500"]], ids=["more", "less"])
def test_a_killed_gate_keeps_its_trials_under_another_budget(good, folder, monkeypatch, budget):
    words = [*good[0], f"run.name=killed{len(budget)}"]
    run = folder / f"killed{len(budget)}"
    config = load(words[0], words[1:])
    prepare(config)
    train_teacher(config)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        kill_in_trial(patch, 2)
        gate_command([*words, "--models", f"ease,{CONTROL}", "--trials", "8"])
    partial = run / "gate.partial"
    before = {name: json.loads((partial / name / "trials.json").read_text()) for name in ("ease", CONTROL)}
    assert [len(kept["trials"]) for kept in before.values()] == [8, 2]
    made = {path: path.stat().st_mtime_ns for path in partial.glob(f"{CONTROL}/trial-*/manifest.json")}
    assert len(made) == 2
    with monkeypatch.context() as patch:
        seen = []
        tried = Tuner.scorer
        patch.setattr(Tuner, "scorer", lambda self, at, s: seen.append((self.name, at)) or tried(self, at, s))
        assert gate_command([*words, "--models", f"ease,{CONTROL}", *budget]) in (0, 1)
    trials = int(budget[1])
    assert read_gate(run)["budget"] == {"trials": trials, "seconds": float(budget[3]) if budget[2:] else 0}
    assert read_gate(run)["tuned"]["ease"]["trials"] == trials
    for name, kept in before.items():
        after = json.loads((run / "gate" / name / "trials.json").read_text())
        most = min(len(kept["trials"]), trials)
        assert after["trials"][:most] == kept["trials"][:most], "the seconds too: it wasn't run again"
    again = {at for name, at in seen if name == CONTROL and at < 2}
    within = min(2, budget_of(CONTROL, trials))
    best = max(range(within), key=lambda at: before[CONTROL]["trials"][at]["quality"])
    assert again <= {best}, "the best is loaded for its lists; nothing else is looked at again"
    for path in (run / "gate").glob(f"{CONTROL}/trial-*/manifest.json"):
        was = made.get(partial / path.relative_to(run / "gate"))
        assert was in (None, path.stat().st_mtime_ns), "not trained again"


def test_trials_of_another_student_or_seed_are_not_taken_over(tmp_path):
    partial = tmp_path / "gate.partial"
    settings = {"models": ["ease", CONTROL], "trials": 3, "seconds": 0.0, "seed": 1, "control": [{"name": "mf"}]}

    def kept(**changes):
        """What the stopped gate says it is, after a gate with these settings has looked at it."""
        for name in settings["models"]:
            (partial / name).mkdir(parents=True, exist_ok=True)
        (partial / "started.json").write_text(json.dumps({"settings": settings, "inputs": {"data": "d"}}))
        keep_finished_trials(tmp_path / "gate", {**settings, **changes})
        return json.loads((partial / "started.json").read_text())

    assert kept(trials=9)["settings"]["trials"] == 9 and kept(trials=9)["inputs"] == {"data": "d"}
    assert kept(trials=9, seed=2)["settings"]["seed"] == 1
    assert kept(trials=9, control=[{"name": "mf", "dim": 8}])["settings"]["trials"] == 3
    assert (partial / CONTROL).is_dir()
    assert kept(models=["ease"], control=[])["settings"]["models"] == ["ease"]
    assert not (partial / CONTROL).exists() and (partial / "ease").is_dir(), "what isn't asked for isn't sealed"
    keep_finished_trials(tmp_path / "nowhere", settings)


def test_a_teacher_that_knows_less_does_not_pass(weak):
    _, run, code = weak
    gate = read_gate(run)
    assert code == 1 and not gate["passed"] and gate["best_baseline"] in ("ease", "sasrec")
    verdict = read_manifest(run / "gate")["result"]["verdict"]
    assert "does NOT pass the gate" in verdict and ("below EASE" in verdict or "below SASRec" in verdict)
    assert (run / "gate" / "sasrec").is_dir() and not list((run / "gate").rglob("*.work"))


def test_a_finished_run_is_enough(weak):
    words, run, _ = weak
    config = config_of_run(run, with_student=False)
    assert config.folder == run and config.teacher == load(words[0], words[1:]).teacher
    before = (run / "gate" / "manifest.json").stat().st_mtime_ns
    assert gate_command([str(run), "--models", "ease,sasrec", "--trials", "2"]) == 1
    assert (run / "gate" / "manifest.json").stat().st_mtime_ns == before, "up to date"
    with pytest.raises(UserError, match="no undistilled student yet"):
        gate_command([str(run)])
    with pytest.raises(UserError, match="is a finished run; overrides"):
        gate_command([str(run), "seed=1"])
    with pytest.raises(UserError, match=r"unknown baseline 'eas' \(did you mean 'ease'"):
        gate_command([str(run), "--models", "eas"])
    with pytest.raises(UserError, match="at least one model and one trial"):
        gate_command([str(run), "--trials", "0"])


def test_it_says_nothing_about_another_teacher_or_more_baselines(weak, folder):
    run = weak[1]
    assert read_gate(run, ["ease"]) and read_gate(run, ["ease", "popularity"]) is None
    assert read_gate(folder / "nowhere") is None
    manifest = run / "teacher" / "manifest.json"
    kept = manifest.read_text()
    manifest.write_text(json.dumps({**json.loads(kept), "fingerprint": "another"}))
    assert read_gate(run) is None
    manifest.write_text(kept)
    assert read_gate(run) is not None


def test_a_finished_report_takes_the_result_over(weak):
    from sample_report import sample_report

    run, gate = weak[1], read_gate(weak[1])
    report = sample_report()
    report["teacher_gate"]["baselines"] = {"ease": {"difference": 0.1}}
    report.pop("verdict", None)
    run_stage(run / "report", {}, [run / "teacher"], lambda path: write_report(report, path))
    refresh_report(run, gate)
    fresh = json.loads((run / "report" / "report.json").read_text())
    assert fresh["verdict"].startswith("The teacher does NOT pass the gate, each of the 2 baselines tuned")
    assert fresh["verdict"] in (run / "report" / "report.md").read_text().replace("\\", "")
    page = (run / "report" / "report.html").read_text()
    assert "up to 2 trials a baseline" in page and "on the tail" in page and "verdict-failed" in page
    manifest = open_stage(run / "report")
    assert manifest["inputs"]["gate"] == open_stage(run / "gate")["fingerprint"]
    assert manifest["result"]["verdict"] == fresh["verdict"]
    refresh_report(run, {**gate, "baselines": {"sasrec": gate["baselines"]["sasrec"]}})
    assert json.loads((run / "report" / "report.json").read_text()) == fresh, "a gate with fewer baselines is no better"
