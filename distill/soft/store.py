"""The soft-score store: sharded safetensors files that are looked up by row id.

    store.json               what it is: rows, k, temperatures, fingerprints, and each shard's first row and sha256
    shard-00000.safetensors  row_id i64[R]; items i32[R,K]; scores f16[R,K] raw, best first; logz f32[R,T];
                             with a sampled tail: tail_items i32[R,S]; tail_scores f16[R,S]; tail_logq f32[R,S];
                             with context vectors: hidden f16[R,H]

Rows of a shard are consecutive, so a lookup is arithmetic; reading is memory-mapped. A shard is written under a
temporary name, flushed and renamed: one that is present is whole, and a killed run goes on with the first that is
missing. A row that no teacher was asked about has items -1 throughout.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from distill.errors import UserError
from distill.runs import sha256, write_json
from distill.soft.shards import REMEDY, damage, map_shard, write_shard

FORMAT = 1
REBUILD = "Rebuild the store with: distill score-teacher CONFIG"
INDEX = "store.json"
CONTEXTS = "contexts.parquet"  # lies beside the store: what the row ids mean
ABSENT = -6e4  # score of the padding -1 in `items`; finite in half precision
INTEGERS = ("items", "tail_items")
TAIL = ("tail_items", "tail_scores", "tail_logq")


@dataclass(frozen=True)
class StoreHeader:
    """What a store holds and what it belongs to.

    Attributes:
        k: Items a row.
        temperatures: Where log-sum-exp over the unmasked catalogue is stored; column order of `logz`.
        tail: Sampled items a row outside the top k.
        n_items: Catalogue size.
        item_vocabulary, data, teacher: Fingerprints; a store is refused wherever one of them differs.
        hidden: Width of the teacher's context vectors; 0 where none are stored.
    """

    k: int
    temperatures: list[float]
    tail: int
    n_items: int
    item_vocabulary: str
    data: str
    teacher: str
    hidden: int = 0


@dataclass
class StoreWriter:
    """Writes shards; `close` (in one process) seals the store."""

    folder: Path
    header: StoreHeader

    def path(self, shard: int) -> Path:
        """Where a shard lies."""
        return self.folder / f"shard-{shard:05d}.safetensors"

    def has(self, shard: int) -> bool:
        """Whether a shard is there already, from a run that was stopped."""
        return self.path(shard).is_file()

    def write(self, shard: int, row_id: np.ndarray, arrays: dict[str, np.ndarray]) -> None:
        """Writes one shard of consecutive rows: of `arrays` what the header promises.

        Raises:
            UserError: A score is NaN or too large for half precision: a store must not hide a broken teacher.
        """
        write_shard(self.path(shard), row_id, {name: arrays[name] for name in stored_fields(self.header)})

    def close(self, starts: list[int], rows: int) -> None:
        """Writes store.json over all shards, whose first rows are `starts`."""
        shards = [
            {"file": self.path(n).name, "first_row": first, "sha256": sha256(self.path(n))}
            for n, first in enumerate(starts)
        ]
        write_json(self.folder / INDEX, {"format": FORMAT, "rows": rows, **asdict(self.header), "shards": shards})


class Store:
    """Random access to a finished store by row id.

    Attributes:
        folder: Where it lies.
        rows: Number of rows.
        header: What it holds and belongs to.
        starts: First row of each shard, int64.
        shards: The arrays of each shard by name, memory-mapped.
        fields: Names that can be looked up.
    """

    def __init__(self, folder: Path, about: dict[str, Any]) -> None:
        self.folder, self.rows = folder, int(about["rows"])
        self.header = header_of(about)
        self.fields = stored_fields(self.header)
        self._paths = [folder / s["file"] for s in about["shards"]]
        self.starts = np.array([s["first_row"] for s in about["shards"]], dtype=np.int64)
        self.shards = [map_shard(path) for path in self._paths]
        self._check_rows()

    @classmethod
    def open(
        cls,
        folder: Path,
        item_vocabulary: str | None = None,
        data: str | None = None,
        teacher: str | None = None,
        verify: bool = False,
    ) -> Store:
        """Opens a store.

        Args:
            folder: Holds store.json.
            item_vocabulary, data, teacher: Fingerprints that must match, where given.
            verify: Recomputes the sha256 of every shard.

        Raises:
            UserError: No store, another format, a shard missing, truncated or altered (named), or the scores of another
                data set, item order or teacher.
        """
        about = read_index(folder)
        for name, wanted in (("item_vocabulary", item_vocabulary), ("data", data), ("teacher", teacher)):
            if wanted is not None and about[name] != wanted:
                raise UserError(
                    f"{folder} was made for another {name.replace('_', ' ')}: {about[name][:12]}, expected "
                    f"{wanted[:12]}. {MEANING[name]} {REBUILD}"
                )
        if verify:
            for file, what in damaged_shards(folder, about):
                raise UserError(f"{folder / file} {DAMAGE[what]}. {REMEDY}")
        return cls(folder, about)

    def _check_rows(self) -> None:
        """Each shard must hold the rows that the index says, or a lookup would give another row's scores."""
        for first, last, shard, path in zip(
            self.starts, [*self.starts[1:], self.rows], self.shards, self._paths, strict=True
        ):
            rows = shard["row_id"]
            if len(rows) != last - first or rows[0] != first or rows[-1] != last - 1:
                raise UserError(
                    f"{path} holds rows {rows[0]}..{rows[-1]}, expected {first}..{last - 1}: it belongs to another "
                    f"store. {REMEDY}"
                )

    def require(self, names: Iterable[str]) -> None:
        """Checks that fields are stored.

        Raises:
            UserError: One is not; it says which setting stores it.
        """
        for name in names:
            if name not in self.fields:
                setting = "scores.hidden=MEMBER" if name == "hidden" else "scores.tail_samples=64"
                what = "context vectors" if name == "hidden" else f"'{name}'"
                raise UserError(
                    f"{self.folder} holds no {what} (it holds {', '.join(self.fields)}). Store them with: "
                    f"distill score-teacher CONFIG {setting}"
                )

    def lookup(self, row_id: np.ndarray, names: tuple[str, ...] = ("items", "scores", "logz")) -> dict[str, np.ndarray]:
        """Arrays of the given rows, in that order: items (B, K), scores (B, K), logz (B, T), hidden (B, H) …

        Raises:
            UserError: A row id that the store doesn't hold, or a field that it doesn't hold.
        """
        row_id = np.asarray(row_id, np.int64)
        if len(row_id) and (row_id.min() < 0 or row_id.max() >= self.rows):
            raise UserError(f"{self.folder} holds rows 0..{self.rows - 1}; asked for {row_id.min()}..{row_id.max()}.")
        if any(name not in self.fields for name in names):
            self.require(names)
        shard = np.searchsorted(self.starts, row_id, side="right") - 1
        order = np.argsort(shard, kind="stable")  # rows of one shard lie side by side: one gather a shard and array
        local = (row_id - self.starts[shard])[order]
        bounds = [0, *(np.flatnonzero(np.diff(shard[order])) + 1).tolist(), len(row_id)] if len(row_id) else []
        numbers = shard[order[bounds[:-1]]].tolist()
        gathered = {n: np.empty((len(row_id), *self.shards[0][n].shape[1:]), self.shards[0][n].dtype) for n in names}
        for number, (first, last) in zip(numbers, itertools.pairwise(bounds), strict=True):
            arrays, wanted = self.shards[number], local[first:last]
            for name, out in gathered.items():
                arrays[name].take(wanted, 0, out[first:last], "clip")  # "clip" spares a buffer; all rows are inside
        place = np.empty(len(order), np.int64)
        place[order] = np.arange(len(order))
        return {name: out[place] for name, out in gathered.items()}


MEANING = {
    "item_vocabulary": "Scores are looked up by item number, so they can't be used.",
    "data": "Scores are looked up by row, so they can't be used.",
    "teacher": "They are what another teacher answered.",
}
DAMAGE = {
    "missing": "is missing",
    "truncated": "is truncated",
    "altered": "was altered or damaged (its sha256 differs)",
}


def stored_fields(header: StoreHeader) -> tuple[str, ...]:
    """Names of the arrays that a store of this header holds, row ids aside."""
    return ("items", "scores", "logz", *(TAIL if header.tail else ()), *(("hidden",) if header.hidden else ()))


def unanswered(rows: int, header: StoreHeader) -> dict[str, np.ndarray]:
    """Arrays of rows that no teacher was asked about: items -1, and numbers that are finite and never read."""
    shapes: dict[str, int] = {"items": header.k, "scores": header.k, "logz": len(header.temperatures)}
    shapes |= dict.fromkeys(TAIL, header.tail) | {"hidden": header.hidden}
    fill = {"items": -1, "tail_items": -1, "scores": ABSENT, "tail_scores": ABSENT}
    return {
        name: np.full((rows, shapes[name]), fill.get(name, 0), np.int32 if name in INTEGERS else np.float32)
        for name in stored_fields(header)
    }


def header_of(about: dict[str, Any]) -> StoreHeader:
    """The header in a store.json; stores written before there were context vectors hold none."""
    return StoreHeader(**{f.name: about[f.name] for f in fields(StoreHeader) if f.name in about})


def read_index(folder: Path) -> dict[str, Any]:
    """What store.json says.

    Raises:
        UserError: There is none, it can't be read, or it is of another format.
    """
    path = folder / INDEX
    if not path.is_file():
        raise UserError(
            f"{folder} holds no finished soft-score store (there is no {INDEX}). "
            "Make it with: distill score-teacher CONFIG"
        )
    try:
        about = json.loads(path.read_text())
    except ValueError as error:
        raise UserError(f"{path} is damaged: it is no JSON. {REBUILD}") from error
    if about.get("format") != FORMAT:
        raise UserError(f"{path}: format {about.get('format')}, this version reads {FORMAT}. {REBUILD}")
    return about


def damaged_shards(folder: Path, about: dict[str, Any] | None = None) -> list[tuple[str, str]]:
    """Every shard that is not what store.json says, with "missing", "truncated" or "altered"; reads all of them."""
    shards = (about or read_index(folder))["shards"]
    found = [(shard["file"], damage(folder / shard["file"], shard["sha256"])) for shard in shards]
    return [(file, what) for file, what in found if what]
