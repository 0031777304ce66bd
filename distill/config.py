"""One YAML an experiment, read into frozen dataclasses; `a.b=1` overrides; strict keys and types."""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from distill.errors import UserError
from distill.plugins import check_arguments, describe, matches, nearest


@dataclass(frozen=True)
class Spec:
    """A plug-in by name with its own settings: `{name: ease, l2: 50}`."""

    name: str
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """Where results go: `<folder>/<name>/<stage>/`."""

    name: str = "run"
    folder: str = "runs"
    tracker: Literal["tensorboard", "wandb", "none"] = "tensorboard"


@dataclass(frozen=True)
class Columns:
    """Names of the columns in the user's files; empty ones are guessed from common names."""

    user_id: str = ""
    item_id: str = ""
    rating: str = ""
    order: str = ""
    title: str = ""
    text: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Split:
    """How events are divided into train, validation and test.

    `user_ratio`: each user's events in time order, cut at `ratios`; `leave_one_out`: the last event is test and the one
    before it validation, users with fewer than three events train only; `temporal`: one cut in time for all users.
    """

    name: Literal["user_ratio", "leave_one_out", "temporal"] = "user_ratio"
    ratios: list[float] = field(default_factory=lambda: [0.7, 0.1, 0.2])


@dataclass(frozen=True)
class Data:
    """Raw files and what to do with them. `path` is a folder or an interactions file; `demo` is the bundled set."""

    path: str = "demo"
    items: str = ""
    columns: Columns = field(default_factory=Columns)
    min_rating: float | None = None
    duplicates: Literal["first", "last"] = "first"
    min_user_events: int = 1
    min_item_events: int = 0
    split: Split = field(default_factory=Split)


@dataclass(frozen=True)
class Fusion:
    """How the members' log-scores are weighted on validation: maximise ndcg@10 + tail_weight * tail_ndcg@10."""

    tail_weight: float = 0.0
    rounds: int = 3


@dataclass(frozen=True)
class Teacher:
    """Members by their own name in the order they are fitted, fused late into one teacher.

    `item_vectors` names the member whose vectors students start from; empty, it is the first that has any.
    """

    members: dict[str, Spec] = field(default_factory=dict)
    item_vectors: str = ""
    fusion: Fusion = field(default_factory=Fusion)


@dataclass(frozen=True)
class Scores:
    """The soft-score store and the transfer set that it covers.

    Attributes:
        k: Items stored a row (the teacher's top k outside the history).
        temperatures: Temperatures at which log-sum-exp over the catalogue is stored.
        tail_samples: Items outside the top k stored a row, with their proposal log-probability.
        shard_rows: Rows in a shard file.
        drops, crops: Synthetic copies of each user's train sequence.
        singles: Every item as a history of its own.
        rollouts: Histories extended by an item drawn from the teacher's top k with probability p ** rollout_power.
        appends: Histories extended by a uniformly drawn item.
        max_prefixes: At most so many (the latest) prefixes of a synthetic sequence become contexts.
    """

    k: int = 100
    temperatures: list[float] = field(default_factory=lambda: [1.0])
    tail_samples: int = 0
    shard_rows: int = 16384
    drops: int = 1
    crops: int = 0
    singles: bool = True
    rollouts: int = 6
    rollout_power: float = 0.7
    appends: int = 3
    max_prefixes: int = 5


@dataclass(frozen=True)
class Loss:
    """One term of the total loss: a loss by name, its weight, and its own settings."""

    name: str
    weight: float = 1.0
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Fit:
    """Training of the student, distilled or not.

    An epoch is a random sample of at most `rows_per_epoch` contexts (0: all), which bounds the time on large data.
    """

    epochs: int = 5
    rows_per_epoch: int = 100_000
    batch_size: int = 512
    learning_rate: float = 3e-3
    warmup: float = 0.1
    weight_decay: float = 0.0
    clip: float = 1.0
    max_length: int = 50
    patience: int = 0
    checkpoint_steps: int = 500
    evaluations_per_epoch: int = 1
    precision: Literal["fp32", "bf16"] = "fp32"


@dataclass(frozen=True)
class Export:
    """Which ONNX variants are written, and how far they may be from the torch student.

    Attributes:
        variants: "fp32", "int8".
        k: Length of the lists that the bundle gives by default.
        min_overlap: Least mean overlap of the top 10 with torch's (fp32: always 0.999).
        min_retention: Least share of torch's ndcg@10 on validation.
        min_tail_retention: The same for tail_ndcg@10 and tail_coverage@10, within two standard errors.
    """

    variants: list[str] = field(default_factory=lambda: ["fp32", "int8"])
    k: int = 100
    min_overlap: float = 0.9
    min_retention: float = 0.98
    min_tail_retention: float = 0.9


@dataclass(frozen=True)
class Benchmark:
    """What is compared, and how it is timed."""

    baselines: list[str] = field(default_factory=lambda: ["popularity", "itemknn", "ease"])
    seeds: int = 1
    resamples: int = 1000
    latency_calls: int = 2000
    teacher_latency_calls: int = 200


@dataclass(frozen=True)
class Config:
    """A whole experiment. See docs/configuration.md for every key."""

    run: Run = field(default_factory=Run)
    seed: int = 0
    data: Data = field(default_factory=Data)
    teacher: Teacher = field(default_factory=Teacher)
    scores: Scores = field(default_factory=Scores)
    student: Spec = field(default_factory=lambda: Spec("hybrid_cf"))
    losses: list[Loss] = field(default_factory=lambda: [Loss("cross_entropy")])
    control_losses: list[Loss] = field(default_factory=lambda: [Loss("cross_entropy")])
    fit: Fit = field(default_factory=Fit)
    control_fit: Fit = field(default_factory=Fit)
    export: Export = field(default_factory=Export)
    benchmark: Benchmark = field(default_factory=Benchmark)
    source: str = ""
    overrides: tuple[str, ...] = ()

    @property
    def folder(self) -> Path:
        """The run's folder, which holds one folder a stage."""
        return Path(self.run.folder) / self.run.name


def load(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Reads a YAML experiment and applies `a.b=value` overrides (values are YAML).

    Raises:
        UserError: The file is missing or isn't YAML; a key is unknown; a value has the wrong type.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"There is no config file '{path}'. The bundled ones are in configs/.")
    try:
        tree = parse(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(tree, dict):
        raise UserError(f"{path}: expected sections such as 'data:' and 'teacher:', found {type(tree).__name__}.")
    for override in overrides:
        apply_override(tree, override)
    return dataclasses.replace(from_tree(tree, source=str(path)), overrides=tuple(overrides))


def parse(text: str) -> Any:
    """Reads YAML. Unlike YAML 1.1 it takes `1e-3` for a number, as people who write learning rates do."""
    return _Loader(text).get_single_data()


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
    config = dataclasses.replace(_build(Config, tree, ""), source=source)
    if "control_fit" not in tree:
        config = dataclasses.replace(config, control_fit=config.fit)
    _check(config)
    return config


def to_tree(value: Any) -> Any:
    """The plain nested dicts and lists of a config or a part of it: what goes into a manifest."""
    if isinstance(value, Spec | Loss):
        rest = {"weight": value.weight} if isinstance(value, Loss) else {}
        return {"name": value.name, **rest, **to_tree(value.arguments)}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_tree(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {k: to_tree(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [to_tree(v) for v in value]
    return value


def _build(kind: type, tree: Any, where: str) -> Any:
    if not isinstance(tree, dict):
        raise UserError(f"'{where or 'config'}' is {tree!r}, expected a section with keys.")
    if kind in (Spec, Loss):
        if not isinstance(tree.get("name"), str):
            raise UserError(f"'{where}' needs a 'name'.")
        own = {"name", "weight"} if kind is Loss else {"name"}
        taken = {k: tree[k] for k in own if k in tree}
        if "weight" in taken and not matches(taken["weight"], float):
            raise UserError(f"'{where}.weight' is {taken['weight']!r}, expected a number.")
        return kind(**taken, arguments={k: v for k, v in tree.items() if k not in own})
    hints = typing.get_type_hints(kind)
    known = {f.name for f in dataclasses.fields(kind)}
    values = {}
    for key, value in tree.items():
        place = f"{where}.{key}" if where else str(key)
        if key not in known:
            raise UserError(f"Unknown key '{place}'{nearest(str(key), known)}.")
        values[key] = _value(hints[key], value, place)
    return kind(**values)


def _value(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return _build(typing.cast(type, hint), value, where)
    arguments = typing.get_args(hint)
    if typing.get_origin(hint) is list and arguments[0] is Loss:
        if not isinstance(value, list):
            raise UserError(f"'{where}' is {value!r}, expected a list of losses, each with a name.")
        return [_build(Loss, v, f"{where}.{i}") for i, v in enumerate(value)]
    if typing.get_origin(hint) is dict and arguments[1] is Spec:
        if not isinstance(value, dict):
            raise UserError(f"'{where}' is {value!r}, expected sections, each with a name.")
        return {k: _build(Spec, v, f"{where}.{k}") for k, v in value.items()}
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
    for loss in (*config.losses, *config.control_losses):
        check_arguments("loss", loss.name, loss.arguments, PROVIDED["loss"])
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


class _Loader(yaml.SafeLoader):
    """SafeLoader with `1e-3` as a number."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9][0-9_]*(?:\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)

MEMBER_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]*")

# Constructor parameters that the pipeline supplies; a config can't set them.
PROVIDED = {
    "student": ("n_items", "item_vectors"),
    "loss": ("scores", "target", "batch"),
}
