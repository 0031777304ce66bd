"""What `distill gate` needs of a run: settings out of its manifests, its undistilled student at any settings."""

from __future__ import annotations

import dataclasses
import inspect
import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.tuning import STUDENT_RANGES, Range, Settings
from distill.ask import ContextScorer
from distill.config import Config, from_tree, to_tree
from distill.data.contexts import ContextBatch
from distill.errors import UserError
from distill.plugins import resolve
from distill.recipes import CONTROL, Recipe, deciding, recipe_of
from distill.runs import PARTIAL, STARTED, open_stage, read_manifest, write_json
from distill.train_student import train_one
from students.checkpoint import load_student
from students.protocol import scores as student_scores

FIT = "fit."  # settings of the training, beside those of the student


def config_of_run(run: Path, with_student: bool = True) -> Config:
    """The settings of a finished run, read from its manifests: seed, teacher and undistilled student.

    Args:
        run: A folder with the stages `data` and `teacher`.
        with_student: The undistilled student's settings are needed too.

    Raises:
        UserError: A stage is missing or damaged.
    """
    settings = open_stage(run / "teacher")["settings"]
    tree = {
        "run": {"name": run.resolve().name, "folder": str(run.parent), "tracker": "none"},
        "seed": settings["seed"],
        "teacher": settings["teacher"],
    }
    control = (read_manifest(run / CONTROL) or {}).get("settings")
    if with_student and control is None:
        raise UserError(
            f"{run} has no undistilled student yet, so its settings aren't known. Train it (distill train-student "
            "CONFIG), give the CONFIG in place of the folder, or leave it out with --models."
        )
    if control is not None:
        tree |= {"student": control["student"], "control_losses": control["losses"], "control_fit": control["fit"]}
    return from_tree(tree)


def control_recipe(config: Config) -> list[Any]:
    """All settings of the undistilled student, plain: what its trials belong to."""
    recipe = recipe_of(config, CONTROL)
    return [to_tree(recipe.student), to_tree(recipe.losses), deciding(recipe.fit)]


def keep_finished_trials(folder: Path, settings: dict[str, Any]) -> None:
    """Lets a gate that was stopped go on with another budget or other baselines; the stage would begin anew otherwise.

    Trials depend on those before them, on data, seed and the undistilled student's recipe, and not on the budget. Where
    seed or recipe differ nothing is done, and where the data do the stage itself begins anew. Baselines that aren't
    asked for any more lose their trials, as they do in a finished gate.

    Args:
        folder: Of the gate, beside which the stopped one lies.
        settings: Of the gate that is about to run, as its manifest will have them.
    """
    partial = folder.with_name(folder.name + PARTIAL)
    if not (partial / STARTED).is_file():
        return
    wanted = json.loads(json.dumps(settings))
    started = json.loads((partial / STARTED).read_text(encoding="utf-8"))
    before = started["settings"]
    recipes = [found["control"] for found in (before, wanted) if found["control"]]
    if before["seed"] != wanted["seed"] or recipes[1:] not in ([], recipes[:1]):
        return
    for name in set(before["models"]) - set(wanted["models"]):
        shutil.rmtree(partial / name, ignore_errors=True)
    write_json(partial / STARTED, {**started, "settings": wanted})


def tuned_student(
    config: Config,
) -> tuple[Settings, dict[str, Range], Callable[[Settings, Path, int], ContextScorer]]:
    """The undistilled student as something to tune: where it starts, its ranges, and how it is trained.

    The start is the run's own recipe. Ranges that the student has no setting for are left out; its width is kept, for
    it is to be the same student.

    Returns:
        Settings, ranges, and a function of settings, a folder and the trial's number that trains (or loads) and gives a
        scorer of contexts. Trial 0 is the run's own undistilled student where there is one.
    """
    recipe = recipe_of(config, CONTROL)
    usual = {key: p.default for key, p in inspect.signature(resolve("student", recipe.student.name)).parameters.items()}
    known = {**usual, **recipe.student.arguments}
    known |= {FIT + field.name: getattr(recipe.fit, field.name) for field in dataclasses.fields(recipe.fit)}
    ranges = {key: spread for key, spread in STUDENT_RANGES.items() if key in known}
    return {key: known[key] for key in ranges}, ranges, partial(_scorer, config, recipe)


def _scorer(config: Config, recipe: Recipe, settings: Settings, folder: Path, number: int) -> ContextScorer:
    own = config.folder / CONTROL
    if number == 0 and _is_current(config, own):
        trained = own
    else:
        fit: dict[str, Any] = {key.removeprefix(FIT): value for key, value in settings.items() if key.startswith(FIT)}
        rest = {key: value for key, value in settings.items() if not key.startswith(FIT)}
        spec = dataclasses.replace(recipe.student, arguments={**recipe.student.arguments, **rest})
        changed = dataclasses.replace(recipe, student=spec, fit=dataclasses.replace(recipe.fit, **fit))
        folder.parent.mkdir(parents=True, exist_ok=True)
        quiet = dataclasses.replace(config, run=dataclasses.replace(config.run, tracker="none"))
        trained = train_one(quiet, changed, 0, folder)
    student: Any = load_student(trained)

    @torch.no_grad()
    def score(batch: ContextBatch) -> torch.Tensor:
        history = torch.from_numpy(batch.seen[:, -recipe.fit.max_length :])
        return student_scores(student, history, torch.from_numpy(batch.user))

    return score


def _is_current(config: Config, folder: Path) -> bool:
    """Whether the run's own undistilled student was trained on the run's present data and teacher."""
    made = (read_manifest(folder) or {}).get("inputs")
    wanted = {name: (read_manifest(config.folder / name) or {}).get("fingerprint") for name in ("data", "teacher")}
    return made is not None and {name: made.get(name) for name in wanted} == wanted
