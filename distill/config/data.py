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
