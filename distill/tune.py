"""Command `tune`: a search for settings on validation, with one budget for the student and for its control."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from distill.config import Config, load
from distill.errors import UserError
from distill.progress import say
from distill.recipes import CONTROL, STUDENT, Recipe, deciding, recipe_of
from distill.runs import digest
from distill.tune_space import Range, applied, present, space_of

JOURNAL = "trials.journal"
TARGETS = (CONTROL, STUDENT)


def tune_command(arguments: Sequence[str]) -> int:
    """`distill tune CONFIG [--trials N] [--seconds S] [KEY=VALUE ...]`."""
    chosen = make_parser().parse_intermixed_args(list(arguments))
    config = load(chosen.config, chosen.overrides)
    given = {k: v for k in ("trials", "seconds") if (v := getattr(chosen, k)) is not None}
    return tune(dataclasses.replace(config, tune=dataclasses.replace(config.tune, **given)), chosen.only)


def make_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = argparse.ArgumentParser(
        prog="distill tune",
        description="Search for the settings of the student, its training and its losses on validation, with the same "
        "budget for the student without distillation, which is the fair control. Needs the stages prepare, "
        "train-teacher and score-teacher. Writes <run>/tune/best.yaml and a table of all trials. Run it again, after a "
        "kill or with more trials, to go on where it stopped. The test part is never looked at.",
        epilog="Then: distill run CONFIG @<run>/tune/best.yaml. "
        "Example: distill tune configs/quickstart.yaml --trials 20 --seconds 600. "
        "Own ranges: the section 'tune' of the config, see docs/tuning.md.",
    )
    parser.add_argument("config", metavar="CONFIG")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--trials", type=int, help="trainings of each of the two (default: tune.trials, 20)")
    parser.add_argument("--seconds", type=float, help="no further trial of one of the two after so many seconds")
    parser.add_argument("--only", choices=TARGETS, help="one of the two alone")
    return parser


def tune(config: Config, only: str | None = None) -> int:
    """Runs trials until the budget of each target is spent, then writes the best settings and the table.

    Raises:
        UserError: Optuna isn't installed; a range doesn't fit; the search was begun with other settings.
    """
    from distill.tune_table import write_results

    optuna = _optuna()
    if config.tune.trials < 1:
        raise UserError(f"tune.trials is {config.tune.trials}, expected 1 or more.")
    folder = config.folder / "tune"
    folder.mkdir(parents=True, exist_ok=True)
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(folder / JOURNAL)))
    searches = [Search(config, name, storage, optuna) for name in TARGETS if only in (None, name)]
    turns = True
    while turns:  # in turns, so that a budget that runs out has been spent evenly
        turns = False
        for search in searches:
            if search.open:
                search.turn()
                turns = True
    write_results(config, folder, [search.summary() for search in searches])
    return 0


class Search:
    """The trials of one target."""

    def __init__(self, config: Config, target: str, storage: Any, optuna: Any) -> None:
        """Opens the study, or goes on with it.

        Args:
            config: The experiment.
            target: The student or its control.
            storage: Optuna's, in the run's folder.
            optuna: The package.

        Raises:
            UserError: The study on disk was made for other data, teacher, settings or ranges.
        """
        self.config, self.target, self.optuna = config, target, optuna
        self.recipe = recipe_of(config, target)
        if hasattr(_student_class(self.recipe), "fit_closed_form"):
            name = self.recipe.student.name
            raise UserError(f"student '{name}' is solved in closed form: there is no training to tune.")
        self.space: dict[str, Range] = space_of(self.recipe, config.tune.space)
        applied(self.recipe, {key: _any_value(limits) for key, limits in self.space.items()})  # fail before training
        self.folder = config.folder / "tune" / target
        self.study = storage_study(optuna, storage, target)
        self._check_fingerprint()
        for trial in self.study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
            self.study.tell(trial.number, state=optuna.trial.TrialState.FAIL)  # a kill interrupted it
            self.study.enqueue_trial(trial.params)

    @property
    def finished(self) -> list[Any]:
        """Trials that count: whole ones, those stopped early, and those whose training failed."""
        return [trial for trial in self.study.get_trials(deepcopy=False) if "seconds" in trial.user_attrs]

    @property
    def seconds(self) -> float:
        """Spent on training so far."""
        return sum(trial.user_attrs["seconds"] for trial in self.finished)

    @property
    def open(self) -> bool:
        """Whether its budget leaves room for another trial."""
        settings = self.config.tune
        return len(self.finished) < settings.trials and not (settings.seconds and self.seconds >= settings.seconds)

    @property
    def best(self) -> Any | None:
        """The whole trial with the highest validation figure."""
        whole = [t for t in self.finished if t.state == self.optuna.trial.TrialState.COMPLETE]
        return max(whole, key=lambda trial: (trial.value, -trial.number), default=None)

    def turn(self) -> None:
        """One trial. The first is the experiment's own settings."""
        optuna, settings = self.optuna, self.config.tune
        number = len(self.finished)
        # A sampler of its own for each trial: a search that was interrupted draws what it would have drawn.
        self.study.sampler = optuna.samplers.TPESampler(
            seed=int(digest([self.config.seed, self.target, number])[:8], 16), n_startup_trials=settings.startup
        )
        pruners = optuna.pruners
        self.study.pruner = pruners.MedianPruner(settings.startup) if settings.prune else pruners.NopPruner()
        waiting = self.study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.WAITING,))
        if not number and not waiting:
            self.study.enqueue_trial(present(self.recipe, self.space))
        trial = self.study.ask()
        values = {key: limits.suggest(trial, key) for key, limits in self.space.items()}
        begin = time.perf_counter()
        outcome, value = self._train(trial, applied(self.recipe, values))
        trial.set_user_attr("seconds", round(time.perf_counter() - begin, 3))
        self.study.tell(trial, value, state=outcome)
        words = {"PRUNED": "stopped early", "FAIL": "failed"}.get(outcome.name, f"validation ndcg@10 {value or 0:.4f}")
        best = self.best
        beside = f", best {best.value:.4f}" if best else ""
        say(f"[{number + 1}/{settings.trials}] {self.target.replace('_', ' ')}: {words}{beside}")
        if best is not None and best.number == trial.number:
            shutil.rmtree(self.folder / "best", ignore_errors=True)
            (self.folder / "trial").rename(self.folder / "best")
        shutil.rmtree(self.folder / "trial", ignore_errors=True)
        shutil.rmtree(self.folder / "trial.partial", ignore_errors=True)

    def _train(self, trial: Any, recipe: Recipe) -> tuple[Any, float | None]:
        """The state that a trial ends in, and its validation figure where it is whole."""
        from distill.runs import read_manifest
        from distill.train_student import train_one

        state = self.optuna.trial.TrialState
        for name in ("trial", "trial.partial"):
            shutil.rmtree(self.folder / name, ignore_errors=True)
        quiet = dataclasses.replace(self.config, run=dataclasses.replace(self.config.run, tracker="none"))
        try:
            folder = train_one(quiet, recipe, 0, self.folder / "trial", watch=watcher(trial))
        except Stopped:
            return state.PRUNED, None
        except UserError as error:
            trial.set_user_attr("error", str(error))
            say(f"{self.target}: a trial failed: {error}")
            return state.FAIL, None
        manifest = read_manifest(folder)
        assert manifest is not None
        value = float(manifest["result"]["validation"]["ndcg@10"])
        return (state.COMPLETE, value) if math.isfinite(value) else (state.FAIL, None)

    def _check_fingerprint(self) -> None:
        from distill.config import to_tree
        from distill.runs import read_manifest

        found = {name: read_manifest(self.config.folder / name) for name in ("data", "teacher")}
        inputs = {name: manifest["fingerprint"] for name, manifest in found.items() if manifest is not None}
        about = {
            "space": {key: dataclasses.asdict(limits) for key, limits in self.space.items()},
            "recipe": {**to_tree(dataclasses.asdict(self.recipe)), "fit": deciding(self.recipe.fit)},
            "seed": self.config.seed,
            **inputs,
        }
        mine = digest(json.loads(json.dumps(about, default=str)))
        known = self.study.user_attrs.get("fingerprint")
        if known is None:
            self.study.set_user_attr("fingerprint", mine)
        elif known != mine:
            raise UserError(
                f"{self.config.folder / 'tune'} holds a search with other settings, ranges, data or teacher. Delete "
                "that folder to start anew, or take another run.name."
            )

    def summary(self) -> dict[str, Any]:
        """What the table shows: the budget spent, the first and the best trial, and all of them."""
        states = [trial.state.name for trial in self.finished]
        best = self.best
        trials = [
            {
                "number": place,
                "state": trial.state.name.lower(),
                "validation": trial.value,
                "evaluations": [round(v, 6) for _, v in sorted(trial.intermediate_values.items())],
                "seconds": trial.user_attrs["seconds"],
                "settings": trial.params,
                **({"error": trial.user_attrs["error"]} if "error" in trial.user_attrs else {}),
            }
            for place, trial in enumerate(self.finished, start=1)
        ]
        return {
            "target": self.target,
            "whole": states.count("COMPLETE"),
            "stopped early": states.count("PRUNED"),
            "failed": states.count("FAIL"),
            "seconds": round(self.seconds, 1),
            "first": trials[0]["validation"] if trials else None,
            "best": best.value if best is not None else None,
            "settings": best.params if best is not None else {},
            "recipe": applied(self.recipe, best.params) if best is not None else None,
            "trials": trials,
        }


class Stopped(Exception):
    """A trial that isn't worth finishing."""


def watcher(trial: Any) -> Callable[[float], None]:
    """Tells Optuna each validation figure.

    Raises:
        Stopped: The pruner gives the trial up.
    """
    seen = 0

    def watch(value: float) -> None:
        nonlocal seen
        trial.report(value, seen)
        seen += 1
        if trial.should_prune():
            raise Stopped

    return watch


def storage_study(optuna: Any, storage: Any, name: str) -> Any:
    """The study of a target, made where it isn't there."""
    return optuna.create_study(storage=storage, study_name=name, direction="maximize", load_if_exists=True)


def _any_value(limits: Range) -> Any:
    return limits.choices[0] if limits.choices else limits.low


def _student_class(recipe: Recipe) -> Any:
    from distill.plugins import resolve

    return resolve("student", recipe.student.name)


def _optuna() -> Any:
    try:
        import optuna
    except ImportError as error:
        raise UserError(
            "distill tune needs Optuna, which isn't installed. Install it with: pip install taildistill[tune]"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def best_folder(config: Config, target: str) -> Path:
    """Where the best student of a target lies."""
    return config.folder / "tune" / target / "best"
