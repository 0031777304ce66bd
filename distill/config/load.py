"""YAML to a checked `Config`: strict keys and types; `a.b=1` overrides."""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from distill.config.experiment import Config
from distill.config.grid import Grid
from distill.config.run import Spec
from distill.config.schedule import Schedule, is_schedule, read_schedule
from distill.config.student import Control, Loss
from distill.errors import UserError
from distill.plugins import check_arguments, describe, matches, nearest


def load(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Reads a YAML experiment and applies overrides: `a.b=value` (values are YAML), `@file` (sections laid over).

    Raises:
        UserError: The file is missing or isn't YAML; a key is unknown; a value has the wrong type.
    """
    path = Path(path)
    tree = read_tree(path)
    for override in overrides:
        if override.startswith("@"):
            lay_over(tree, read_tree(Path(override[1:])))
        else:
            apply_override(tree, override)
    return dataclasses.replace(from_tree(tree, source=str(path)), overrides=tuple(overrides))


def read_tree(path: Path) -> dict[str, Any]:
    """The sections of a YAML file.

    Raises:
        UserError: No such file; not YAML; no sections in it.
    """
    if not path.is_file():
        raise UserError(f"There is no config file '{path}'. The bundled ones are in configs/.")
    try:
        tree = parse(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(tree, dict):
        raise UserError(f"{path}: expected sections such as 'data:' and 'teacher:', found {type(tree).__name__}.")
    return tree


def load_grid(path: str | Path) -> Grid:
    """Reads the grid of an ablation.

    Raises:
        UserError: As `load` does; or a control that isn't one.
    """
    grid: Grid = build_section(Grid, read_tree(Path(path)), "")
    for name in grid.controls:
        if name not in CONTROLS:
            raise UserError(f"{path}: unknown control '{name}'{nearest(name, CONTROLS)}.")
    for label, objective in grid.objectives.items():
        for loss in objective.losses:
            try:
                check_loss_settings(loss)
            except UserError as error:
                raise UserError(f"{path}: objectives.{label}: {error}") from error
    return grid


def parse(text: str) -> Any:
    """Reads YAML. Unlike YAML 1.1 it takes `1e-3` for a number, as people who write learning rates do."""
    return _Loader(text).get_single_data()


def lay_over(tree: dict[str, Any], sections: dict[str, Any]) -> None:
    """Lays sections over a nested dict in place, key by key; lists and the students are replaced whole."""
    for key, value in sections.items():
        own = tree.get(key)
        if isinstance(value, dict) and isinstance(own, dict) and key not in ("student", "control_student"):
            lay_over(own, value)
        else:
            tree[key] = value


def apply_override(tree: dict[str, Any], override: str) -> None:
    """Sets one dotted key of a nested dict in place; numbers walk into lists."""
    key, sign, text = override.partition("=")
    if not sign or not key:
        raise UserError(f"Override '{override}' is not of the form section.key=value.")
    *parents, last = key.split(".")
    node: Any = tree
    for parent in parents:
        if isinstance(node, list):
            node = node[_place(node, parent, override)]
        else:
            if node.get(parent) is None:
                node[parent] = {}
            node = node[parent]
        if not isinstance(node, dict | list):
            raise UserError(f"Override '{override}': '{parent}' is a value, not a section.")
    try:
        value = parse(text)
    except yaml.YAMLError as error:
        raise UserError(f"Override '{override}': '{text}' is not valid YAML: {error}") from error
    node[_place(node, last, override) if isinstance(node, list) else last] = value


def _place(values: list[Any], text: str, override: str) -> int:
    if not text.isdigit() or int(text) >= len(values):
        raise UserError(
            f"Override '{override}': '{text}' is no place in a list of {len(values)}; expected 0 to {len(values) - 1}."
        )
    return int(text)


def from_tree(tree: dict[str, Any], source: str = "") -> Config:
    """Builds a checked `Config` from nested dicts."""
    for key in ("source", "overrides"):
        if key in tree:
            raise UserError(f"Unknown key '{key}'.")
    config = dataclasses.replace(build_section(Config, tree, ""), source=source)
    if "control_fit" not in tree:
        config = dataclasses.replace(config, control_fit=config.fit)
    _check(config)
    return config


def to_tree(value: Any) -> Any:
    """The plain nested dicts and lists of a config or a part of it: what goes into a manifest."""
    if isinstance(value, Spec | Loss):
        own = {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if f.name != "arguments"}
        usual = {f.name: f.default for f in dataclasses.fields(value)}
        told = {key: to_tree(v) for key, v in own.items() if key in ("name", "weight") or v != usual[key]}
        return {**told, **to_tree(value.arguments)}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_tree(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {k: to_tree(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [to_tree(v) for v in value]
    return value


def build_section(kind: type, tree: Any, where: str) -> Any:
    """A checked dataclass from a YAML section; `where` is its place in messages."""
    if not isinstance(tree, dict):
        raise UserError(f"'{where or 'config'}' is {tree!r}, expected a section with keys.")
    if kind in (Spec, Loss):
        if not isinstance(tree.get("name"), str):
            raise UserError(f"'{where}' needs a 'name'.")
        return _plug_in(kind, tree, where)
    hints = typing.get_type_hints(kind)
    known = {f.name for f in dataclasses.fields(kind)}
    values = {}
    for key, value in tree.items():
        place = f"{where}.{key}" if where else str(key)
        if key not in known:
            raise UserError(f"Unknown key '{place}'{nearest(str(key), known)}.")
        values[key] = _value(hints[key], value, place)
    return kind(**values)


def _plug_in(kind: type, tree: dict[str, Any], where: str) -> Spec | Loss:
    """A plug-in's section: the program's own keys checked here, the rest left for the plug-in."""
    hints = typing.get_type_hints(kind)
    own: dict[str, Any] = {}
    arguments: dict[str, Any] = {}
    for key, value in tree.items():
        place = f"{where}.{key}"
        if key == "weight" and kind is Loss:
            own[key] = read_schedule(value, place)
        elif key in hints and key != "arguments":
            if not matches(value, hints[key]):
                raise UserError(f"'{place}' is {value!r}, expected {describe(hints[key])}.")
            own[key] = value
        else:
            arguments[key] = read_schedule(value, place) if kind is Loss and is_schedule(value) else value
    return kind(**own, arguments=arguments)


def _value(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return build_section(typing.cast(type, hint), value, where)
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) is list and arguments[0] is Loss:
        if not isinstance(value, list):
            raise UserError(f"'{where}' is {value!r}, expected a list of losses, each with a name.")
        return [build_section(Loss, v, f"{where}.{i}") for i, v in enumerate(value)]
    if typing.get_origin(hint) is dict and dataclasses.is_dataclass(arguments[1]):
        if not isinstance(value, dict):
            raise UserError(f"'{where}' is {value!r}, expected sections, each with a name.")
        return {k: build_section(typing.cast(type, arguments[1]), v, f"{where}.{k}") for k, v in value.items()}
    if not matches(value, hint):
        raise UserError(f"'{where}' is {value!r}, expected {describe(hint)}.")
    return value


def _check(config: Config) -> None:
    for name, spec in config.teacher.members.items():
        if not isinstance(name, str) or not MEMBER_NAME.fullmatch(name):
            raise UserError(f"teacher.members: '{name}' can't name a folder; use letters, digits, '_' and '-'.")
        try:
            check_arguments("teacher", spec.name, spec.arguments)
        except UserError as error:
            raise UserError(f"teacher.members.{name}: {error}") from error
    check_arguments("student", config.student.name, config.student.arguments, PROVIDED["student"])
    if config.control_student.name:
        spec = config.control_student
        check_arguments("student", spec.name, spec.arguments, PROVIDED["student"])
    for loss in (*config.losses, *config.control_losses):
        check_loss_settings(loss)
    for name in config.heads:
        if not HEAD_NAME.fullmatch(name):
            raise UserError(f"heads: '{name}' can't name a head; use letters, digits and '_'.")
    for key, share in (("user_side.dropout", config.user_side.dropout), ("fit.empty_share", config.fit.empty_share)):
        if not 0 <= share < 1:
            raise UserError(f"'{key}' is {share}, expected a share from 0 to below 1.")
    if 1.0 not in config.scores.temperatures:
        raise UserError(
            f"'scores.temperatures' is {config.scores.temperatures}, expected 1.0 among them: losses read the mass of "
            "the teacher's top k at that temperature."
        )
    ratios = config.data.split.ratios
    if len(ratios) != 3 or min(ratios) < 0 or abs(sum(ratios) - 1) > 1e-6:
        raise UserError(
            f"'data.split.ratios' is {ratios}, expected three shares of train, validation and test that add to 1."
        )


def check_loss_settings(loss: Loss) -> None:
    """Checks a loss's own settings against its signature; a schedule stands for a number.

    Raises:
        UserError: An unknown or mistyped setting; a popularity adjustment outside strata.
    """
    first = {k: v.start if isinstance(v, Schedule) else v for k, v in loss.arguments.items()}
    check_arguments("loss", loss.name, first, PROVIDED["loss"])
    if loss.popularity_adjustment and not loss.strata:
        raise UserError(
            f"loss '{loss.name}': popularity_adjustment tilts the teacher's whole list, which costs accuracy; it is "
            "for losses inside popularity strata. Add 'strata: true', or take it away."
        )


class _Loader(yaml.SafeLoader):
    """SafeLoader with `1e-3` as a number."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9][0-9_]*(?:\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)

CONTROLS = [word for word in typing.get_args(Control) if word]
HEAD_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
MEMBER_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*")

# Constructor parameters that the pipeline supplies; a config can't set them.
PROVIDED = {
    "student": ("n_items", "item_vectors"),
    "loss": ("scores", "target", "knowledge", "representation"),
    "paraphrase": ("texts", "seed"),
}
