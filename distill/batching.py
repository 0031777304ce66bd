"""How a student's training reads contexts and tables: windows of sequences, rows of items."""

from __future__ import annotations

from typing import Any

from distill.config import Config
from distill.data.dataset import TRAIN, Dataset
from distill.errors import UserError
from distill.extensions import extension_settings
from distill.objectives.by_sets import NAMES as ON_HALVES
from distill.objectives.objective import Objective
from distill.progress import say
from distill.recipes import Recipe
from distill.windows.cut import Windows
from distill.windows.halves import Halves

LONG = 1000.0  # a pool's time constant from which on it hardly knows an order
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


def windows_of(config: Config, recipe: Recipe, dataset: Dataset, student: Any) -> Windows | Halves | None:
    """The train sequences in windows or halves, where `fit` asks for them.

    Raises:
        UserError: Either together with what needs contexts one by one; `order: shuffled` without windows; halves for a
            student that reads an order.
    """
    settings, key = recipe.fit, "fit" if recipe.taught else "control_fit"
    lists = dataset.lists(TRAIN, TRAIN)
    if settings.order == "halves":
        refuse_contexts(config, recipe, f"'{key}.order' is 'halves'", ON_HALVES, f"{key}.order: given")
        refuse_order(recipe, student, key)
        return Halves(lists, dataset.n_items, settings.max_length, config.seed)
    if settings.order == "given" and not dataset.ordered and not recipe.taught:
        say(
            f"{recipe.name.replace('_', ' ')}: the events have no order, and are read in that of the file. "
            f"{key}.order=halves with student.decays=[10000] reads them as sets: see docs/students.md."
        )
    if settings.windows <= 0:
        if settings.order != "given":
            raise UserError(f"'{key}.order' is '{settings.order}', which needs windows. Set {key}.windows: 32.")
        return None
    refuse_contexts(config, recipe, f"'{key}.windows' is {settings.windows}", ON_WINDOWS, f"{key}.windows: 0")
    seed = config.seed if settings.order == "shuffled" else None
    return Windows.of(lists, dataset.n_items, settings.windows, settings.max_length, seed)


def refuse_contexts(config: Config, recipe: Recipe, found: str, losses: tuple[str, ...], instead: str) -> None:
    """Raises a UserError where something needs contexts one by one, and `found` reads many at once."""
    others = [loss.name for loss in recipe.losses if loss.name not in losses]
    for what, given in (
        (f"the loss {', '.join(others)}", bool(others)),
        ("fit.empty_share", recipe.fit.empty_share > 0),
        ("user_side and heads", bool(extension_settings(config))),
    ):
        if given:
            raise UserError(
                f"{found}, but {what} needs contexts one by one. It is for losses on labels: {', '.join(losses)}. "
                f"Set {instead}."
            )


def refuse_order(recipe: Recipe, student: Any, key: str) -> None:
    """Raises a UserError where a student or loss can't be trained on sets."""
    name = recipe.student.name
    if not hasattr(student, "log_decay") or hasattr(student, "all_corrections"):
        raise UserError(f"'{key}.order' is 'halves', but student '{name}' reads no sets. Take mf or hybrid_cf.")
    if float(student.log_decay.detach().exp().min()) < LONG:
        raise UserError(
            f"'{key}.order' is 'halves', for histories without an order, but the pools of student '{name}' forget "
            f"({student.log_decay.detach().exp().tolist()} items). Set student.decays=[10000]."
        )
    if recipe.fit.compile:
        raise UserError(f"'{key}.order' is 'halves', whose batches have all sizes. Set {key}.compile: false.")
    for loss in recipe.losses:
        if loss.gate or loss.strata or loss.head == "auxiliary" or loss.arguments.get("smoothing"):
            raise UserError(
                f"'{key}.order' is 'halves', which the loss '{loss.name}' doesn't take with these settings."
            )
