"""What `distill tune` searches: the settings of a student, its training and its losses, and their ranges."""

from __future__ import annotations

import dataclasses
import inspect
from dataclasses import dataclass
from typing import Any

from distill.config import Fit, Loss, Schedule, Spec, build_section, check_loss_settings, to_tree
from distill.errors import UserError
from distill.plugins import check_arguments, nearest, resolve
from distill.recipes import Recipe

SECTIONS = ("student", "fit", "losses", "control_losses")


@dataclass(frozen=True)
class Range:
    """The values of one setting: between two ends, or one of several.

    Attributes:
        low, high: Ends, both included; whole numbers are drawn where both ends are whole.
        log: Draw evenly on a logarithmic scale.
        choices: The only values.
    """

    low: float = 0.0
    high: float = 0.0
    log: bool = False
    choices: tuple[Any, ...] = ()

    def suggest(self, trial: Any, key: str) -> Any:
        """A value for an Optuna trial."""
        if self.choices:
            return trial.suggest_categorical(key, list(self.choices))
        if isinstance(self.low, int) and isinstance(self.high, int):
            return trial.suggest_int(key, self.low, self.high, log=self.log)
        return trial.suggest_float(key, self.low, self.high, log=self.log)

    def holds(self, value: Any) -> bool:
        """Whether a value can be drawn."""
        if self.choices:
            return value in self.choices
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number and self.low <= value <= self.high


FIT = {
    "learning_rate": Range(5e-4, 3e-2, log=True),
    "batch_size": Range(choices=(128, 256, 512, 1024)),
}
STUDENT = {  # those of them that the student's constructor takes
    "dropout": Range(0.0, 0.5),
    "item_dropout": Range(0.0, 0.5),
    "scale": Range(8.0, 24.0),
    "tied": Range(choices=(False, True)),
    "hidden": Range(choices=(64, 128, 256)),
    "blocks": Range(choices=(1, 2)),
    "l2": Range(1e-6, 1e-2, log=True),
}
OWN = {"mf": ("dropout", "item_dropout", "scale", "tied")}  # a ridge is nothing beside cosine logits
LOSSES = {
    "cross_entropy": {"logit_adjustment": Range(0.0, 0.5)},
    "sampled_softmax": {"negatives": Range(choices=(128, 256, 512))},
    "bpr": {"negatives": Range(choices=(1, 4, 16, 64)), "shared": Range(choices=(False, True))},
    "listwise_kl": {"sharpening": Range(1.0, 4.0), "rest": Range(0.05, 0.5)},
    "stratified_kl": {"sharpening": Range(1.0, 4.0)},
}
WEIGHT = Range(0.02, 2.0, log=True)


def default_space(recipe: Recipe) -> dict[str, Range]:
    """Ranges for a recipe: its training, the settings its student takes, and its losses."""
    taken = inspect.signature(resolve("student", recipe.student.name)).parameters
    wanted = OWN.get(recipe.student.name, tuple(STUDENT))
    space = {f"fit.{key}": found for key, found in FIT.items()}
    space |= {f"student.{key}": STUDENT[key] for key in wanted if key in taken}
    section = losses_section(recipe)
    for number, loss in enumerate(recipe.losses):
        if number and not isinstance(loss.weight, Schedule):  # the first keeps its weight: only ratios matter
            space[f"{section}.{number}.weight"] = WEIGHT
        for key, found in LOSSES.get(loss.name, {}).items():
            if not isinstance(loss.arguments.get(key), Schedule):
                space[f"{section}.{number}.{key}"] = found
    return space


def losses_section(recipe: Recipe) -> str:
    """Where an experiment's YAML has the recipe's losses."""
    return "losses" if recipe.taught else "control_losses"


def space_of(recipe: Recipe, changes: dict[str, Any]) -> dict[str, Range]:
    """The default ranges with an experiment's `tune.space` laid over them; keys of the other recipe are left out.

    Raises:
        UserError: A key that no section has; a range that isn't one; nothing is left to search.
    """
    space = default_space(recipe)
    other = {"losses", "control_losses"} - {losses_section(recipe)}
    for key, given in changes.items():
        section = key.partition(".")[0]
        if section not in SECTIONS or "." not in key:
            hint = nearest(section, SECTIONS)
            expected = ", ".join(f"{name}.…" for name in SECTIONS)
            raise UserError(f"tune.space: '{key}' is no setting{hint}; expected {expected}.")
        if section in other:
            continue
        if given is None:
            space.pop(key, None)
        else:
            space[key] = read_range(given, f"tune.space.{key}")
    if not space:
        raise UserError("tune.space leaves nothing to search. Give a setting a range, such as {low: 1e-3, high: 1e-2}.")
    return space


def read_range(given: Any, where: str) -> Range:
    """A range from YAML.

    Raises:
        UserError: It is none.
    """
    ends = {key: value for key, value in given.items() if key != "choices"} if isinstance(given, dict) else given
    found: Range = build_section(Range, ends, where)
    choices = given.get("choices", [])
    if not isinstance(choices, list) or not all(isinstance(c, int | float | str) for c in choices):
        raise UserError(f"'{where}.choices' is {choices!r}, expected a list of numbers, texts or true/false.")
    if bool(choices) == ("low" in given or "high" in given):
        raise UserError(f"'{where}' is {given!r}, expected either low and high, or choices.")
    if not choices and (found.low >= found.high or (found.log and found.low <= 0)):
        raise UserError(
            f"'{where}': low is {found.low:g}, high {found.high:g}; low must be less, and above 0 with log."
        )
    return dataclasses.replace(found, choices=tuple(choices))


def applied(recipe: Recipe, values: dict[str, Any]) -> Recipe:
    """The recipe with some of its settings replaced, checked as a config is.

    Args:
        recipe: What is trained.
        values: By dotted key, as in `tune.space`.

    Raises:
        UserError: A setting that the student, its training or a loss doesn't have.
    """
    section = losses_section(recipe)
    tree: dict[str, Any] = {
        "student": to_tree(recipe.student),
        "fit": to_tree(recipe.fit),
        section: to_tree(list(recipe.losses)),
    }
    for key, value in values.items():
        *parents, last = key.split(".")
        node: Any = tree
        for parent in parents:
            if isinstance(node, list) and not (parent.isdigit() and int(parent) < len(node)):
                raise UserError(f"tune.space: '{key}': {section} has no loss number {parent}, only {len(node)}.")
            node = node[int(parent)] if isinstance(node, list) else node[parent]
        node[last] = value
    student: Spec = build_section(Spec, tree["student"], "student")
    check_arguments("student", student.name, student.arguments, ("n_items", "item_vectors"))
    losses = [build_section(Loss, loss, f"{section}.{place}") for place, loss in enumerate(tree[section])]
    for loss in losses:
        check_loss_settings(loss)
    return dataclasses.replace(recipe, student=student, fit=build_section(Fit, tree["fit"], "fit"), losses=losses)


def present(recipe: Recipe, space: dict[str, Range]) -> dict[str, Any]:
    """The recipe's own values of the settings that are searched, where they lie in their ranges."""
    defaults = inspect.signature(resolve("student", recipe.student.name)).parameters
    found: dict[str, Any] = {}
    for key, limits in space.items():
        where, _, rest = key.partition(".")
        if where == "student":
            default = defaults[rest].default if rest in defaults else None
            value = recipe.student.arguments.get(rest, default)
        elif where == "fit":
            value = getattr(recipe.fit, rest, None)
        else:
            number, _, name = rest.partition(".")
            value = _of_loss(recipe.losses[int(number)], name) if int(number) < len(recipe.losses) else None
        if limits.holds(value):
            found[key] = value
    return found


def _of_loss(loss: Loss, name: str) -> Any:
    if name == "weight":
        return loss.weight
    parameter = inspect.signature(resolve("loss", loss.name)).parameters.get(name)
    return loss.arguments.get(name, parameter.default if parameter is not None else None)
