"""`distill tune` on a small run: equal budgets, going on after a kill, the files it leaves, refusals."""

from __future__ import annotations

import csv
import dataclasses
import json

import pytest

import distill.train_student
from distill.config import Loss, Spec, from_tree, load, parse
from distill.errors import UserError
from distill.plugins import resolve
from distill.prepare import main as prepare
from distill.recipes import CONTROL, STUDENT, recipe_of
from distill.score_teacher import main as score_teacher
from distill.train_teacher import main as train_teacher
from distill.tune import TARGETS, make_parser, tune, tune_command
from distill.tune_space import applied, default_space, present, read_range, space_of

optuna = pytest.importorskip("optuna")

CONFIG = """\
run: {name: small, tracker: none}
data: {path: demo, min_user_events: 5, min_item_events: 150}
teacher:
  members:
    ease: {name: ease, l2: 50, decay: 10}
  item_vectors: ""
scores: {k: 20, drops: 0, rollouts: 1, appends: 0}
student: {name: hybrid_cf, dim: 8, hidden: 16, item_dropout: 0.1}
losses:
  - {name: cross_entropy, weight: 0.1}
  - {name: listwise_kl}
fit: {epochs: 2, rows_per_epoch: 1500, batch_size: 256, learning_rate: 0.01, checkpoint_steps: 0}
control_fit: {epochs: 2, rows_per_epoch: 1500, batch_size: 256, learning_rate: 0.01, checkpoint_steps: 0, windows: 16}
tune:
  trials: 3
  startup: 1
  space:
    fit.learning_rate: {low: 0.002, high: 0.02, log: true}
    fit.batch_size: null
    student.hidden: {choices: [16, 32]}
    losses.1.weight: {low: 0.5, high: 2.0}
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A config whose run has data, a teacher and scores."""
    folder = tmp_path_factory.mktemp("runs")
    path = folder / "small.yaml"
    path.write_text(CONFIG)
    tree = parse(CONFIG)
    tree["run"]["folder"] = str(folder)
    config = dataclasses.replace(from_tree(tree), source=str(path), overrides=(f"run.folder={folder}",))
    for stage in (prepare, train_teacher, score_teacher):
        stage(config)
    return config


def results(config):
    found = json.loads((config.folder / "tune" / "tune.json").read_text())["searches"]
    return {search["target"]: search for search in found}


class Killed(Exception):
    pass


def test_a_search_that_is_killed_goes_on_as_if_it_had_not_been(run, monkeypatch):
    """The third trial of four is interrupted in its first evaluation; then the search goes on to six."""
    short = dataclasses.replace(run, tune=dataclasses.replace(run.tune, trials=2))
    real, calls = distill.train_student.train_one, []

    def train_one(*arguments, watch, **more):
        calls.append(arguments)
        if len(calls) == 3:
            raise Killed
        return real(*arguments, watch=watch, **more)

    monkeypatch.setattr(distill.train_student, "train_one", train_one)
    with pytest.raises(Killed):
        tune(short)
    first = {name: to_settings(run, name) for name in TARGETS}
    assert tune(short) == 0
    found = results(run)
    assert {name: len(search["trials"]) for name, search in found.items()} == {CONTROL: 2, STUDENT: 2}
    for name in TARGETS:
        trials = found[name]["trials"]
        assert trials[0]["settings"] == first[name]  # the experiment's own settings come first
        assert all(trial["seconds"] > 0 for trial in trials)
        assert found[name]["best"] == max(t["validation"] for t in trials if t["state"] == "complete")
    whole = {name: [trial["settings"] for trial in search["trials"]] for name, search in found.items()}
    trained = len(calls)
    assert tune(short) == 0
    assert len(calls) == trained, "a spent budget trains nothing"
    assert {n: [t["settings"] for t in s["trials"]] for n, s in results(run).items()} == whole

    tune(run)  # one more trial each
    found = results(run)
    assert all(len(search["trials"]) == 3 for search in found.values())
    check_files(run, found)
    with pytest.raises(UserError, match="holds a search with other settings"):
        tune(dataclasses.replace(run, seed=5))


def to_settings(config, name):
    recipe = recipe_of(config, name)
    return present(recipe, space_of(recipe, config.tune.space))


def check_files(config, found):
    folder = config.folder / "tune"
    rows = list(csv.DictReader((folder / "tune.csv").open()))
    assert [row["target"] for row in rows] == [CONTROL] * 3 + [STUDENT] * 3
    assert f"`{STUDENT}`, best settings:" in (folder / "tune.md").read_text()
    best = load(config.source, (*config.overrides, f"@{folder / 'best.yaml'}"))
    for name, search in found.items():
        recipe = applied(recipe_of(config, name), search["settings"])
        assert recipe_of(best, name) == dataclasses.replace(recipe, student=recipe_of(best, name).student)
        assert recipe_of(best, name).student.arguments == recipe.student.arguments
        assert (folder / name / "best" / "model.safetensors").is_file()
        assert [path.name for path in (folder / name).iterdir()] == ["best"]


def test_seconds_bound_each_of_the_two(run, tmp_path):
    folder = tmp_path / "runs"
    (folder / "small").mkdir(parents=True)
    for stage in ("data", "teacher", "scores"):
        (folder / "small" / stage).symlink_to(run.folder / stage)
    changed = dataclasses.replace(run.run, folder=str(folder))
    config = dataclasses.replace(run, run=changed, tune=dataclasses.replace(run.tune, trials=9, seconds=1e-3))
    tune(config)
    assert {name: len(search["trials"]) for name, search in results(config).items()} == {CONTROL: 1, STUDENT: 1}


def test_a_trial_below_the_median_is_stopped():
    from distill.tune import Stopped, watcher

    study = optuna.create_study(direction="maximize", pruner=optuna.pruners.MedianPruner(1))
    first = study.ask()
    watcher(first)(0.5)
    study.tell(first, 0.5)
    with pytest.raises(Stopped):
        watcher(study.ask())(0.1)
    watcher(study.ask())(0.6)


@pytest.mark.parametrize("name", ["hybrid_cf", "mf", "sasrec_small", "gru4rec_small", "two_tower", "mlp_only"])
def test_default_ranges_are_settings_that_the_student_has(name):
    config = from_tree({"student": {"name": name}, "losses": [{"name": "cross_entropy"}, {"name": "listwise_kl"}]})
    for target in TARGETS:
        recipe = recipe_of(config, target)
        space = default_space(recipe)
        assert {"fit.learning_rate", "student.dropout"} <= set(space)
        changed = applied(recipe, {key: (r.choices or (r.low,))[-1] for key, r in space.items()})
        resolve("student", name)(n_items=5, **changed.student.arguments)
        assert ("losses.1.sharpening" in space) == (target == STUDENT)
        assert set(present(recipe, space)) <= set(space)


@pytest.mark.parametrize(
    ("space", "words"),
    [
        ({"fit.learning_rat": {"low": 1, "high": 2}}, "learning_rate"),
        ({"student.dim": {"low": 8}}, "low must be less"),
        ({"student.dim": {"low": 8, "high": 9, "choices": [1]}}, "either low and high, or choices"),
        ({"student.dim": {}}, "either low and high, or choices"),
        ({"student.dim": {"low": 0, "high": 9, "log": True}}, "above 0 with log"),
        ({"student.dim": {"hgih": 9}}, "high"),
        ({"studnet.dim": {"choices": [8]}}, "student"),
        ({"losses.7.weight": {"low": 0.1, "high": 1.0}}, "no loss number 7"),
        ({"student.wings": {"choices": [2]}}, "wings"),
    ],
)
def test_ranges_that_fit_nothing_are_refused(space, words):
    recipe = recipe_of(from_tree({}), STUDENT)
    with pytest.raises(UserError, match=words):
        found = space_of(recipe, space)
        applied(recipe, {key: (r.choices or (r.low,))[0] for key, r in found.items()})


def test_a_range_knows_its_values():
    assert read_range({"low": 1, "high": 3}, "x").holds(2) and not read_range({"low": 1, "high": 3}, "x").holds(4)
    assert read_range({"choices": [True, False]}, "x").holds(False)


def test_the_control_may_have_a_student_of_its_own():
    config = from_tree({"student": {"name": "hybrid_cf"}, "control_student": {"name": "mf", "dim": 32}})
    assert recipe_of(config, CONTROL).student == Spec("mf", {"dim": 32})
    assert recipe_of(config, STUDENT).student.name == recipe_of(from_tree({}), CONTROL).student.name == "hybrid_cf"
    with pytest.raises(UserError, match="dmi"):
        from_tree({"control_student": {"name": "mf", "dmi": 32}})


def test_an_overlay_replaces_lists_and_students_and_keeps_the_rest(tmp_path):
    (tmp_path / "a.yaml").write_text("student: {name: mf, dim: 8}\nfit: {epochs: 3}\nrun: {name: a}\n")
    (tmp_path / "b.yaml").write_text("student: {name: mf, tied: true}\nfit: {clip: 2.0}\nlosses: [{name: bpr}]\n")
    config = load(tmp_path / "a.yaml", [f"@{tmp_path / 'b.yaml'}", "fit.warmup=0.2"])
    assert config.student == Spec("mf", {"tied": True}) and config.losses == [Loss("bpr")]
    assert (config.fit.epochs, config.fit.clip, config.fit.warmup, config.run.name) == (3, 2.0, 0.2, "a")
    with pytest.raises(UserError, match=r"no config file"):
        load(tmp_path / "a.yaml", ["@nowhere.yaml"])


def test_help_teaches(capsys):
    with pytest.raises(SystemExit):
        tune_command(["--help"])
    text = capsys.readouterr().out
    assert "--trials" in text and "best.yaml" in text and "validation" in text
    assert make_parser().prog == "distill tune"
