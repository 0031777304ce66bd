"""What is trained under each name: the student, its standing control, and the further controls by one word."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distill.config import Config, Fit, Loss, Spec, to_tree

STUDENT, CONTROL = "student", "student_without_distillation"
SMOOTHING = 0.1
LABELS_ALONE = ("cross_entropy", "sampled_softmax", "in_batch_softmax", "bpr", "bce", "mutual")  # read no teacher
TEACHERS = {
    "self_distillation": "undistilled",
    "popularity_teacher": "popularity",
    "shuffled_teacher": "shuffled",
    "ease_teacher": "ease",
}


@dataclass(frozen=True)
class Recipe:
    """One student to train.

    Attributes:
        name: Folder inside the run, without the seed.
        student: The plug-in and its settings.
        losses: Terms of the total loss.
        fit: How it is trained.
        use_vectors: Whether it starts from the teacher's item vectors.
        taught: Whether it learns from a teacher on the transfer set; else from the labelled contexts alone.
    """

    name: str
    student: Spec
    losses: Sequence[Loss]
    fit: Fit
    use_vectors: bool = True
    taught: bool = True

    @property
    def teachers(self) -> list[str]:
        """Teachers that its losses name, the run's own as ""; none for a student that learns from labels alone."""
        named = list(dict.fromkeys(loss.teacher for loss in self.losses if loss.name not in LABELS_ALONE))
        return (named or [""]) if self.taught else []


def deciding(settings: Fit) -> dict[str, Any]:
    """What of a training's settings decides its result: all but `compile`, so nothing is trained anew for its sake."""
    tree: dict[str, Any] = to_tree(settings)
    return {key: value for key, value in tree.items() if key != "compile"}


def recipe_of(config: Config, name: str) -> Recipe:
    """The recipe of "student", "student_without_distillation", or a control.

    - `no_kd`: labels alone, item tables from scratch.
    - `text_init_only`: labels alone, item tables from the teacher's vectors; the standing control.
    - `label_smoothing`: as before, a tenth of each label spread over the catalogue.
    - `self_distillation`, `popularity_teacher`, `shuffled_teacher`, `ease_teacher`: the student's own losses and
      training, another teacher's answers to the same contexts.
    """
    if name == STUDENT:
        return Recipe(STUDENT, config.student, config.losses, config.fit)
    own = config.control_student if config.control_student.name else config.student
    hard = Recipe(CONTROL, own, config.control_losses, config.control_fit, taught=False)
    if name in (CONTROL, "text_init_only"):
        return hard
    if name == "no_kd":
        return dataclasses.replace(hard, name="control-no_kd", use_vectors=False)
    if name == "label_smoothing":
        return dataclasses.replace(hard, name="control-label_smoothing", losses=_smoothed(config.control_losses))
    losses = [x if x.name in LABELS_ALONE else dataclasses.replace(x, teacher=TEACHERS[name]) for x in config.losses]
    return Recipe(f"control-{name}", config.student, losses, config.fit)


def _smoothed(losses: Sequence[Loss]) -> list[Loss]:
    return [
        dataclasses.replace(x, arguments={**x.arguments, "smoothing": SMOOTHING}) if x.name == "cross_entropy" else x
        for x in losses
    ]


def seed_folder(config: Config, name: str, offset: int) -> Path:
    """Where a student of the seed `config.seed + offset` lies; the first seed's is the one that is exported."""
    return config.folder / (name if offset == 0 else f"{name}-seed{offset}")
