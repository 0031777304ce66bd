"""Students in closed form inside `train-student`: solved at once, without losses, teacher or control."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from distill.ask import quality
from distill.config import Config
from distill.data.contexts import ContextBatch
from distill.data.dataset import Dataset
from distill.plugins import resolve
from distill.progress import is_main_process, say
from distill.ranking.cases import Cases
from distill.recipes import CONTROL, Recipe
from students.checkpoint import save_student
from students.protocol import scores as student_scores

_last: dict[str, dict[str, Tensor]] = {}  # the standing control and the student are one model: solved once


def recipe_to_solve(recipe: Recipe) -> Recipe:
    """The recipe itself, or for a student in closed form one that asks for no losses, no teacher and no vectors."""
    if not hasattr(resolve("student", recipe.student.name), "fit_closed_form"):
        return recipe
    return dataclasses.replace(recipe, losses=(), use_vectors=False, taught=False)


@torch.no_grad()
def solve(
    config: Config, recipe: Recipe, student: Any, dataset: Dataset, cases: Cases, folder: Path, label: str
) -> dict[str, Any]:
    """Solves for a student, saves it into `folder` and returns its validation figure.

    Args:
        config: Of the run; its seed starts what needs a start.
        recipe: From `recipe_to_solve`.
        student: New.
        dataset: Its train part is solved for.
        cases: Validation cases.
        folder: Where it goes.
        label: Its name in messages.
    """
    name, arguments = recipe.student.name, recipe.student.arguments
    key = json.dumps([name, arguments, dataset.fingerprint, config.seed], sort_keys=True)
    if key in _last:
        student.load_state_dict(_last[key])
    else:
        student.fit_closed_form(dataset, config.seed)
        _last.clear()
        _last[key] = student.state_dict()
        say(f"{name} is solved in closed form: distillation changes nothing, and '{CONTROL}' is the same model")
    if is_main_process():
        save_student(folder, name, arguments, dataset.n_items, student.state_dict(), None)

    def score(batch: ContextBatch) -> Tensor:
        return student_scores(student.eval(), torch.from_numpy(batch.seen[:, -recipe.fit.max_length :]))

    found = quality(score, cases).values["ndcg@10"]
    say(f"{label}: validation ndcg@10 {found:.4f}")
    return {"curve": [], "closed_form": True, "validation": {"ndcg@10": found}}
