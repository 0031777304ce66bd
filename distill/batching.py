"""How a student's training reads contexts and tables: windows of sequences, rows of items."""

from __future__ import annotations

from distill.config import Config
from distill.data.dataset import TRAIN, Dataset
from distill.errors import UserError
from distill.extensions import extension_settings
from distill.objectives.objective import Objective
from distill.progress import say
from distill.recipes import Recipe
from distill.windows import Windows

ON_WINDOWS = ("cross_entropy", "sampled_softmax", "in_batch_softmax", "bpr", "bce")


def read_by_rows(recipe: Recipe, objective: Objective, processes: int) -> None:
    """Lets the student read the rows of a batch's items alone, where optimiser and losses need no more."""
    if recipe.fit.optimiser == "adamw" or not objective.forms or processes > 1:
        return
    read = getattr(objective.student, "train_by_rows", None)
    if read is None or not read():
        say(
            f"{recipe.student.name} reads its whole item tables in each step: fit.optimiser spares the optimiser's "
            "memory alone"
        )


def windows_of(config: Config, recipe: Recipe, dataset: Dataset) -> Windows | None:
    """The train sequences cut into windows, where `fit.windows` asks for it.

    Raises:
        UserError: Windows together with what needs contexts one by one; `order: shuffled` without windows.
    """
    settings, key = recipe.fit, "fit" if recipe.taught else "control_fit"
    if settings.windows <= 0:
        if settings.order != "given":
            raise UserError(f"'{key}.order' is '{settings.order}', which needs windows. Set {key}.windows: 32.")
        return None
    others = [loss.name for loss in recipe.losses if loss.name not in ON_WINDOWS]
    for what, given in (
        (f"the loss {', '.join(others)}", bool(others)),
        ("fit.empty_share", settings.empty_share > 0),
        ("user_side and heads", bool(extension_settings(config))),
    ):
        if given:
            raise UserError(
                f"'{key}.windows' is {settings.windows}, but {what} needs contexts one by one. Windows are for losses "
                f"on labels: {', '.join(ON_WINDOWS)}. Set {key}.windows: 0."
            )
    seed = config.seed if settings.order == "shuffled" else None
    return Windows.of(dataset.lists(TRAIN, TRAIN), dataset.n_items, settings.windows, settings.max_length, seed)
