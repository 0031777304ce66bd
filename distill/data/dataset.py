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

TRAIN, VALID, TEST = 0, 1, 2
PARTS = {"train": TRAIN, "valid": VALID, "test": TEST}


@dataclass(frozen=True)
class Lists:
    """Ragged rows of item indices (CSR without values).

    Attributes:
        indptr: Where each row starts, int64 (R + 1,).
        items: Item indices, int32 (indptr[-1],).
    """

    indptr: np.ndarray
    items: np.ndarray

    def __len__(self) -> int:
        return len(self.indptr) - 1

    def __getitem__(self, row: int) -> np.ndarray:
        return self.items[self.indptr[row] : self.indptr[row + 1]]

    @property
    def lengths(self) -> np.ndarray:
        """Items in each row, int64 (R,)."""
        return np.diff(self.indptr)

    def row_numbers(self) -> np.ndarray:
        """The row that each entry of `items` belongs to, int64 (indptr[-1],)."""
        return np.repeat(np.arange(len(self)), self.lengths)

    def take(self, rows: np.ndarray) -> Lists:
        """The given rows, in that order."""
        lengths = self.lengths[rows]
        indptr = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        offsets = np.arange(indptr[-1]) - np.repeat(indptr[:-1] - self.indptr[rows], lengths)
        return Lists(indptr, self.items[offsets])


@dataclass(frozen=True)
class Dataset:
    """Interactions sorted by user and, within a user, by time; parts never go back in time within a user.

    Attributes:
        user_ids: Original user ids as strings, (U,).
        item_ids: Original item ids as strings, (N,); N is the catalogue, items without interactions included.
        titles: One display title an item, (N,).
        texts: One text an item for the language model ("title. other columns"), (N,); may be "".
        indptr: Where each user's events start, int64 (U + 1,).
        items: Item index of each event, int32 (E,).
        parts: Part of each event, uint8 (E,): TRAIN, VALID or TEST.
        summary: What preparation found and did (counts), shown to the user and kept in the manifest.
    """

    user_ids: np.ndarray
    item_ids: np.ndarray
    titles: list[str]
    texts: list[str]
    indptr: np.ndarray
    items: np.ndarray
    parts: np.ndarray
    summary: dict[str, Any] = field(default_factory=dict)

    @property
    def n_users(self) -> int:
        """U, the number of users."""
        return len(self.user_ids)

    @property
    def n_items(self) -> int:
        """N, the size of the catalogue; also the padding index of histories."""
        return len(self.item_ids)

    @cached_property
    def popularity(self) -> np.ndarray:
        """Train interactions of each item, int64 (N,)."""
        return np.bincount(self.items[self.parts == TRAIN], minlength=self.n_items)

    @cached_property
    def fingerprint(self) -> str:
        """sha256 over ids, events and parts: two data sets with one fingerprint have the same rows and item order."""
        digest = hashlib.sha256()
        for names in (self.user_ids, self.item_ids):
            digest.update("\x1f".join(map(str, names)).encode())
            digest.update(b"\x1e")
        for array, kind in ((self.indptr, "<i8"), (self.items, "<i4"), (self.parts, "u1")):
            digest.update(np.ascontiguousarray(array, dtype=kind).tobytes())
        return digest.hexdigest()

    @cached_property
    def item_vocabulary(self) -> str:
        """sha256 of the item ids in order: scores of another vocabulary or order can't be mistaken for this one's."""
        return hashlib.sha256("\x1f".join(map(str, self.item_ids)).encode()).hexdigest()

    def lists(self, first: int, last: int) -> Lists:
        """Events of parts `first`..`last` (both included), one row a user, in time order."""
        keep = (self.parts >= first) & (self.parts <= last)
        counts = np.add.reduceat(np.append(keep, False).astype(np.int64), self.indptr[:-1]) if len(keep) else None
        counts = (
            np.where(np.diff(self.indptr) > 0, counts, 0) if counts is not None else np.zeros(self.n_users, np.int64)
        )
        return Lists(np.concatenate([[0], np.cumsum(counts)]).astype(np.int64), self.items[keep])

    def write(self, folder: Path) -> None:
        """Writes interactions.parquet, items.parquet, users.parquet and dataset.json into `folder`."""
        users = np.repeat(np.arange(self.n_users, dtype=np.int32), np.diff(self.indptr))
        pl.DataFrame({"user": users, "item": self.items, "part": self.parts}).write_parquet(
            folder / "interactions.parquet"
        )
        items = {"item_id": self.item_ids.astype(str), "title": self.titles, "text": self.texts}
        pl.DataFrame(items).write_parquet(folder / "items.parquet")
        pl.DataFrame({"user_id": self.user_ids.astype(str)}).write_parquet(folder / "users.parquet")
        about = {"fingerprint": self.fingerprint, "item_vocabulary": self.item_vocabulary, "summary": self.summary}
        (folder / "dataset.json").write_text(json.dumps(about, indent=2, ensure_ascii=False))

    @classmethod
    def read(cls, folder: Path) -> Dataset:
        """Reads what `write` wrote."""
        events = pl.read_parquet(folder / "interactions.parquet")
        items = pl.read_parquet(folder / "items.parquet")
        user_ids = pl.read_parquet(folder / "users.parquet")["user_id"].to_numpy()
        counts = np.bincount(events["user"].to_numpy(), minlength=len(user_ids))
        return cls(
            user_ids=user_ids,
            item_ids=items["item_id"].to_numpy(),
            titles=items["title"].to_list(),
            texts=items["text"].to_list(),
            indptr=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            items=events["item"].to_numpy().astype(np.int32),
            parts=events["part"].to_numpy().astype(np.uint8),
            summary=json.loads((folder / "dataset.json").read_text())["summary"],
        )
