"""The soft-score store: sharded safetensors files that are looked up by row id.

    store.json               what it is: rows, k, temperatures, fingerprints, and each shard's first row and sha256
    shard-00000.safetensors  row_id i64[R]; items i32[R,K]; scores f16[R,K] raw, best first; logz f32[R,T];
                             with a sampled tail: tail_items i32[R,S]; tail_scores f16[R,S]; tail_logq f32[R,S]

Rows of a shard are consecutive, so a lookup is arithmetic; reading is memory-mapped. A shard is written under a
temporary name, flushed and renamed: one that is present is whole, and a killed run goes on with the first that is
missing.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from distill.errors import UserError
from distill.runs import sha256, write_json

FORMAT = 1
REMEDY = "Rebuild the store with: distill score-teacher CONFIG"
INDEX = "store.json"
HALF_LIMIT = 65504.0  # largest finite float16
DTYPES = {"I64": "<i8", "I32": "<i4", "F16": "<f2", "F32": "<f4"}


@dataclass(frozen=True)
class StoreHeader:
    """What a store holds and what it belongs to.

    Attributes:
        k: Items a row.
        temperatures: Where log-sum-exp over the unmasked catalogue is stored; column order of `logz`.
        tail: Sampled items a row outside the top k.
        n_items: Catalogue size.
        item_vocabulary, data, teacher: Fingerprints; a store is refused wherever one of them differs.
    """

    k: int
    temperatures: list[float]
    tail: int
    n_items: int
    item_vocabulary: str
    data: str
    teacher: str


@dataclass
class StoreWriter:
    """Writes shards; `close` (in one process) seals the store."""

    folder: Path
    header: StoreHeader
    starts: list[int] = field(default_factory=list)

    def path(self, shard: int) -> Path:
        """Where a shard lies."""
        return self.folder / f"shard-{shard:05d}.safetensors"

    def has(self, shard: int) -> bool:
        """Whether a shard is there already, from a run that was stopped."""
        return self.path(shard).is_file()

    def write(self, shard: int, row_id: np.ndarray, arrays: dict[str, np.ndarray]) -> None:
        """Writes one shard of consecutive rows.

        Raises:
            UserError: A score is NaN: the teacher is broken, and a store must not hide it.
        """
        for name in ("scores", "logz", "tail_scores"):
            if name in arrays and np.isnan(arrays[name]).any():
                row = int(row_id[np.isnan(arrays[name]).any(1)][0])
                raise UserError(
                    f"The teacher gave NaN for row {row} ({name}). Train it anew, with a lower learning rate or in "
                    "fp32: distill train-teacher CONFIG"
                )
        if (np.abs(arrays["scores"]) > HALF_LIMIT).any():
            largest = np.abs(arrays["scores"]).max()
            raise UserError(
                f"The teacher gave scores up to {largest:.4g}; the store keeps them in half precision, which ends at "
                f"{HALF_LIMIT:g}. Scores should be log-probabilities up to a constant: scale them down."
            )
        if (np.diff(row_id) != 1).any():
            raise ValueError(f"the rows of shard {shard} aren't consecutive")
        tensors = {
            "row_id": row_id.astype(np.int64),
            "items": arrays["items"].astype(np.int32),
            "scores": arrays["scores"].astype(np.float16),
            "logz": arrays["logz"].astype(np.float32),
        }
        if self.header.tail:
            tensors["tail_items"] = arrays["tail_items"].astype(np.int32)
            tensors["tail_scores"] = arrays["tail_scores"].astype(np.float16)
            tensors["tail_logq"] = arrays["tail_logq"].astype(np.float32)
        path = self.path(shard)
        temporary = path.with_suffix(f".{os.getpid()}.tmp")
        with temporary.open("wb") as file:
            file.write(save({k: np.ascontiguousarray(v) for k, v in tensors.items()}))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        handle = os.open(self.folder, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)

    def close(self, starts: list[int], rows: int) -> None:
        """Writes store.json over all shards, whose first rows are `starts`."""
        shards = [
            {"file": self.path(n).name, "first_row": first, "sha256": sha256(self.path(n))}
            for n, first in enumerate(starts)
        ]
        write_json(self.folder / INDEX, {"format": FORMAT, "rows": rows, **asdict(self.header), "shards": shards})


class Store:
    """Random access to a finished store by row id."""

    def __init__(self, folder: Path, about: dict[str, Any]) -> None:
        self.folder, self.rows = folder, int(about["rows"])
        self.header = StoreHeader(**{name: about[name] for name in StoreHeader.__dataclass_fields__})
        self._paths = [folder / s["file"] for s in about["shards"]]
        self.starts = np.array([s["first_row"] for s in about["shards"]], dtype=np.int64)
        self.shards = [_map_shard(path) for path in self._paths]
        self._check_rows()

    @classmethod
    def open(
        cls, folder: Path, item_vocabulary: str | None = None, data: str | None = None, verify: bool = False
    ) -> Store:
        """Opens a store.

        Args:
            folder: Holds store.json.
            item_vocabulary, data: Fingerprints that must match, where given.
            verify: Recomputes the sha256 of every shard.

        Raises:
            UserError: No store, another format, a shard missing or altered (named), or another data set's scores.
        """
        path = folder / INDEX
        if not path.is_file():
            raise UserError(
                f"{folder} holds no finished soft-score store (there is no {INDEX}). "
                "Make it with: distill score-teacher CONFIG"
            )
        about = json.loads(path.read_text())
        if about.get("format") != FORMAT:
            raise UserError(f"{path}: format {about.get('format')}, this version reads {FORMAT}. {REMEDY}")
        for name, wanted in (("item_vocabulary", item_vocabulary), ("data", data)):
            if wanted is not None and about[name] != wanted:
                raise UserError(
                    f"{folder} was made for another {name.replace('_', ' ')}: {about[name][:12]}, expected "
                    f"{wanted[:12]}. Scores are looked up by row and item number, so they can't be used. {REMEDY}"
                )
        for shard in about["shards"]:
            file = folder / shard["file"]
            if not file.is_file():
                raise UserError(f"{file} is missing. {REMEDY}")
            if verify and sha256(file) != shard["sha256"]:
                raise UserError(f"{file} was altered or damaged (its sha256 differs). {REMEDY}")
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

    def lookup(self, row_id: np.ndarray, names: tuple[str, ...] = ("items", "scores", "logz")) -> dict[str, np.ndarray]:
        """Arrays of the given rows, in that order: items (B, K), scores (B, K), logz (B, T).

        Raises:
            UserError: A row id that the store doesn't hold.
        """
        row_id = np.asarray(row_id, np.int64)
        if len(row_id) and (row_id.min() < 0 or row_id.max() >= self.rows):
            raise UserError(f"{self.folder} holds rows 0..{self.rows - 1}; asked for {row_id.min()}..{row_id.max()}.")
        shard = np.searchsorted(self.starts, row_id, side="right") - 1
        out = {n: np.empty((len(row_id), *self.shards[0][n].shape[1:]), self.shards[0][n].dtype) for n in names}
        for number in np.unique(shard):
            here = np.flatnonzero(shard == number)
            local = row_id[here] - self.starts[number]
            for name in names:
                out[name][here] = self.shards[number][name][local]
        return out


def _map_shard(path: Path) -> dict[str, np.ndarray]:
    """Memory-maps a safetensors file: eight bytes of header length, a JSON header, then the raw arrays."""
    truncated = UserError(f"{path} is truncated. {REMEDY}")
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 + length:
            raise truncated
        try:
            header = json.loads(file.read(length))
        except ValueError as error:
            raise UserError(f"{path} is no safetensors file: its header can't be read. {REMEDY}") from error
    arrays: dict[str, np.ndarray] = {}
    for name, entry in header.items():
        if name == "__metadata__":
            continue
        first, last = entry["data_offsets"]
        if 8 + length + last > size:
            raise truncated
        arrays[name] = np.memmap(path, DTYPES[entry["dtype"]], "r", 8 + length + first, tuple(entry["shape"]))
    return arrays
