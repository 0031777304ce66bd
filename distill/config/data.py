"""Settings of the section `data`: what is read, how it is cleaned and divided."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True)
class Columns:
    """Names of the columns in the user's files; empty ones are guessed from common names."""

    user_id: str = ""
    item_id: str = ""
    rating: str = ""
    order: str = ""
    sequence: str = ""
    title: str = ""
    text: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Split:
    """How events are divided into train, validation and test; `ratios` are the shares of the three.

    In time: `user_ratio`: each user's events, cut at `ratios`; `leave_one_out`: the last event is test and the one
    before it validation, users with fewer than three events train only; `temporal`: one cut in time for all users, at
    `ratios` or at the dates `valid_from` and `test_from`.
    By lot, drawn from `seed`: `random`: each user's events in any order; `user_holdout`: whole users, whose first
    `history` events are their history and the rest what is asked; `item_cold_start`: whole items.
    """

    name: Literal["user_ratio", "leave_one_out", "temporal", "random", "user_holdout", "item_cold_start"] = "user_ratio"
    ratios: list[float] = field(default_factory=lambda: [0.7, 0.1, 0.2])
    valid_from: str = ""
    test_from: str = ""
    history: int = 5
    seed: int = 0


@dataclass(frozen=True)
class Bots:
    """What makes a user improbable: more events a minute, steps of one length at such a share, or a count above such a
    quantile of all users (0 or 1 turns a rule off)."""

    events_per_minute: float = 60.0
    equal_intervals: float = 0.9
    quantile: float = 1.0


@dataclass(frozen=True)
class Privacy:
    """Pseudonyms for users: keyed hashes (HMAC-SHA-256) whose key is in a file or an environment variable."""

    hash_ids: bool = False
    key_file: str = ""
    key_variable: str = "TAILDISTILL_ID_KEY"
    times: Literal["day", "hour", "second"] = "day"


@dataclass(frozen=True)
class Data:
    """Raw files and what to do with them. `path` is a folder or an interactions file; `demo` is the bundled set."""

    path: str = "demo"
    dataset: str = ""
    download: bool = False
    form: str = ""
    delimiter: str = ""
    items: str = ""
    users: str = ""
    columns: Columns = field(default_factory=Columns)
    min_rating: float | None = None
    weight: Literal["none", "rating", "log"] = "none"
    duplicates: Literal["first", "last", "sum"] = "first"
    min_user_events: int = 1
    min_item_events: int = 0
    max_user_events: int = 0
    max_item_events: int = 0
    drop_bots: bool = False
    bots: Bots = field(default_factory=Bots)
    split: Split = field(default_factory=Split)
    text_template: str = ""
    categories: str = ""
    item_attributes: list[str] = field(default_factory=list)
    user_attributes: list[str] = field(default_factory=list)
    embeddings: dict[str, str] = field(default_factory=dict)
    privacy: Privacy = field(default_factory=Privacy)
