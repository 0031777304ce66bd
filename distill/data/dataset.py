"""A prepared data set: who did what in which order, in which part of the split, and what the items say."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from distill.data.features import Features
from distill.data.files import write_atomically
from distill.data.ragged import Lists

__all__ = ["FILE_ORDER", "FORMAT", "HISTORY", "ORDER", "PARTS", "TEST", "TRAIN", "VALID", "Dataset", "Lists"]

# HISTORY is known before validation and test, but not trained on: the first events of users who are held out.
TRAIN, VALID, TEST, HISTORY = 0, 1, 2, 3
PARTS = {"train": TRAIN, "valid": VALID, "test": TEST}
ORDER, FILE_ORDER = "order within a user", "rows of the file (no order column)"  # a line of the summary
FORMAT = 2  # 1: no times, weights and features, and texts don't count in the fingerprint; still readable


@dataclass(frozen=True)
class Dataset:
    """Interactions sorted by user and, within a user, by part and time; HISTORY stands with TRAIN.

    Splits in time keep each user's events in time order; splits by lot put the train events first.

    Attributes:
        user_ids: User ids as strings, (U,): the original ones, or pseudonyms.
        item_ids: Original item ids as strings, (N,); N is the catalogue, items without interactions included.
        titles: One display title an item, (N,).
        texts: One text an item for the language model ("title. other columns"), (N,); may be "".
        indptr: Where each user's events start, int64 (U + 1,).
        items: Item index of each event, int32 (E,).
        parts: Part of each event, uint8 (E,): TRAIN, VALID, TEST or HISTORY.
        summary: What preparation found and did (counts), shown to the user and kept in the manifest.
        times: Seconds since 1970 of each event, int64 (E,); None where the files have positions or nothing.
        weights: Weight of each event, float32 (E,), where `data.weight` asked for it; else None.
        features: Attributes of items and users, and item vectors.
        format: Version of the format it was written in.
    """

    user_ids: np.ndarray
    item_ids: np.ndarray
    titles: list[str]
    texts: list[str]
    indptr: np.ndarray
    items: np.ndarray
    parts: np.ndarray
    summary: dict[str, Any] = field(default_factory=dict)
    times: np.ndarray | None = None
    weights: np.ndarray | None = None
    features: Features = field(default_factory=Features)
    format: int = FORMAT

    @property
    def n_users(self) -> int:
        """U, the number of users."""
        return len(self.user_ids)

    @property
    def n_items(self) -> int:
        """N, the size of the catalogue; also the padding index of histories."""
        return len(self.item_ids)

    @property
    def categories(self) -> Lists | None:
        """Category codes of each item (rows = items), or None where the data set has no categories."""
        return self.features.items.lists.get(self.features.categories)

    @property
    def ordered(self) -> bool:
        """False where the files had no time or position, so that a user's events stand as the rows stood."""
        return self.summary.get(ORDER) != FILE_ORDER

    def event_users(self) -> np.ndarray:
        """User of each event, int64 (E,)."""
        return np.repeat(np.arange(self.n_users), np.diff(self.indptr))

    @cached_property
    def popularity(self) -> np.ndarray:
        """Train interactions of each item, int64 (N,)."""
        return np.bincount(self.items[self.parts == TRAIN], minlength=self.n_items)

    @cached_property
    def activity(self) -> np.ndarray:
        """Train interactions of each user, int64 (U,); 0 is a cold user."""
        return self.lists(TRAIN, TRAIN).lengths

    @cached_property
    def rows_digest(self) -> str:
        """sha256 over ids, events and parts: two data sets with one digest have the same rows and item order."""
        digest = hashlib.sha256()
        for names in (self.user_ids, self.item_ids):
            digest.update("\x1f".join(map(str, names)).encode())
            digest.update(b"\x1e")
        for array, kind in ((self.indptr, "<i8"), (self.items, "<i4"), (self.parts, "u1")):
            digest.update(np.ascontiguousarray(array, dtype=kind).tobytes())
        return digest.hexdigest()

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over everything that decides a result: rows, titles, texts, times, weights and features."""
        if self.format < 2:
            return self.rows_digest
        digest = hashlib.sha256(self.rows_digest.encode())
        for words in (self.titles, self.texts):
            digest.update("\x1f".join(words).encode())
            digest.update(b"\x1e")
        arrays = [("times", self.times), ("weights", self.weights), *self.features.arrays()]
        for name, array in arrays:
            if array is not None:
                digest.update(f"{name} {array.dtype.str} {array.shape}\x1e".encode())
                digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    @cached_property
    def item_vocabulary(self) -> str:
        """sha256 of the item ids in order: scores of another vocabulary or order can't be mistaken for this one's."""
        return hashlib.sha256("\x1f".join(map(str, self.item_ids)).encode()).hexdigest()

    def lists(self, first: int, last: int) -> Lists:
        """Events of parts `first`..`last` (both included), one row a user, in stored order."""
        return self._rows((self.parts >= first) & (self.parts <= last))

    def history(self, part: int) -> Lists:
        """Events known before `part` (VALID or TEST), one row a user: train, fold-in histories, and earlier parts."""
        return self._rows((self.parts < part) | (self.parts == HISTORY))

    def _rows(self, keep: np.ndarray) -> Lists:
        before = np.concatenate([[0], np.cumsum(keep)]).astype(np.int64)
        return Lists(before[self.indptr], self.items[keep])

    def write(self, folder: Path) -> None:
        """Writes interactions.parquet, items.parquet, users.parquet, dataset.json and the features into `folder`.

        `train_events` of items and users is 0 for those that are cold.

        Raises:
            UserError: The disk is full.
        """
        events: dict[str, Any] = {"user": self.event_users().astype(np.int32), "item": self.items, "part": self.parts}
        events |= {} if self.times is None else {"time": self.times}
        events |= {} if self.weights is None else {"weight": self.weights}
        items = {"item_id": self.item_ids.astype(str), "title": self.titles, "text": self.texts}
        users = {"user_id": self.user_ids.astype(str)}
        tables = {
            "interactions": events,
            "items": items | {"train_events": self.popularity},
            "users": users | {"train_events": self.activity},
        }
        for name, columns in tables.items():
            write_atomically(folder / f"{name}.parquet", pl.DataFrame(columns).write_parquet)
        if self.features:
            self.features.write(folder)
        about = {
            "format": self.format,
            "fingerprint": self.fingerprint,
            "item_vocabulary": self.item_vocabulary,
            "summary": self.summary,
        }
        text = json.dumps(about, indent=2, ensure_ascii=False)
        write_atomically(folder / "dataset.json", lambda file: file.write(text.encode()))

    @classmethod
    def read(cls, folder: Path) -> Dataset:
        """Reads what `write` wrote."""
        events = pl.read_parquet(folder / "interactions.parquet")
        items = pl.read_parquet(folder / "items.parquet")
        user_ids = pl.read_parquet(folder / "users.parquet")["user_id"].to_numpy()
        counts = np.bincount(events["user"].to_numpy(), minlength=len(user_ids))
        about = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
        return cls(
            user_ids=user_ids,
            item_ids=items["item_id"].to_numpy(),
            titles=items["title"].to_list(),
            texts=items["text"].to_list(),
            indptr=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            items=events["item"].to_numpy().astype(np.int32),
            parts=events["part"].to_numpy().astype(np.uint8),
            summary=about["summary"],
            times=events["time"].to_numpy() if "time" in events.columns else None,
            weights=events["weight"].to_numpy() if "weight" in events.columns else None,
            features=Features.read(folder),
            format=about.get("format", 1),
        )
