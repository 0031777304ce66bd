"""Shard files of the soft-score store: written whole or not at all, mapped into memory, checked for damage.

A shard is a safetensors file (eight bytes of header length, a JSON header, then the raw arrays) of consecutive rows.
"""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from distill.errors import UserError
from distill.runs import sha256

REMEDY = "Make this shard anew, and only it, with: distill score-teacher CONFIG"
HALF_LIMIT = 65504.0  # largest finite float16
NUMPY = {"I64": "<i8", "I32": "<i4", "F16": "<f2", "F32": "<f4"}
STORED = {
    "items": np.int32,
    "scores": np.float16,
    "logz": np.float32,
    "tail_items": np.int32,
    "tail_scores": np.float16,
    "tail_logq": np.float32,
    "hidden": np.float16,
}


def write_shard(path: Path, row_id: np.ndarray, arrays: dict[str, np.ndarray]) -> None:
    """Writes one shard under a temporary name, flushes it to the disk and renames it.

    Args:
        path: Where it goes.
        row_id: Consecutive row ids (R,).
        arrays: Arrays (R, …) by the names in `STORED`, of any number type.

    Raises:
        UserError: NaN, or a number that half precision can't hold (the row is named).
    """
    _check_numbers(row_id, arrays)
    if (np.diff(row_id) != 1).any():
        raise ValueError(f"the rows of {path.name} aren't consecutive")
    tensors = {"row_id": row_id.astype(np.int64)}
    tensors |= {name: np.ascontiguousarray(value, dtype=STORED[name]) for name, value in arrays.items()}
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    with temporary.open("wb") as file:
        file.write(save(tensors))
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    handle = os.open(path.parent, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)


def _check_numbers(row_id: np.ndarray, arrays: dict[str, np.ndarray]) -> None:
    for name, value in arrays.items():
        if STORED[name] == np.int32:
            continue
        broken = np.isnan(value)
        if broken.any():
            raise UserError(
                f"The teacher gave NaN for row {int(row_id[broken.any(1)][0])} ({name}). Train it anew, with a lower "
                "learning rate or in fp32: distill train-teacher CONFIG"
            )
        if STORED[name] == np.float16 and (np.abs(value) > HALF_LIMIT).any():
            what = "a vector with a component of" if name == "hidden" else "scores up to"
            raise UserError(
                f"The teacher gave {what} {np.abs(value).max():.4g}; the store keeps them in half precision, which "
                f"ends at {HALF_LIMIT:g}. Scores should be log-probabilities up to a constant: scale them down."
            )


def map_shard(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a shard, read-only views of one memory map of the file: nothing is loaded before it is looked at.

    Raises:
        UserError: The file is missing, truncated or no safetensors file, or the process may open no more files.
    """
    entries, start = read_header(path)
    try:
        # Plain arrays on the map: indexing them is several times faster than indexing np.memmap objects.
        whole = np.asarray(np.memmap(path, np.uint8, "r"))
    except OSError as error:
        if error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):
            raise
        raise UserError(
            f"{path} can't be opened: this process has as many files open as it may. Raise the limit (ulimit -n) or "
            "make fewer and larger shards (scores.shard_rows)."
        ) from error
    arrays = {}
    for name, entry in entries.items():
        first, last = (start + offset for offset in entry["data_offsets"])
        arrays[name] = whole[first:last].view(NUMPY[entry["dtype"]]).reshape(entry["shape"])
    return arrays


def read_header(path: Path) -> tuple[dict[str, Any], int]:
    """A shard's arrays as the file's header describes them, and the byte at which the first begins.

    Raises:
        UserError: The file is missing, truncated, or no safetensors file.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing. {REMEDY}")
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 + length:
            raise UserError(f"{path} is truncated: {size:,} bytes, its header alone takes {length + 8:,}. {REMEDY}")
        try:
            header = json.loads(file.read(length))
            entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
            needed = 8 + length + max(entry["data_offsets"][1] for entry in entries.values())
            known = all(entry["dtype"] in NUMPY for entry in entries.values())
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path} is no safetensors file: its header can't be read. {REMEDY}") from error
    if size < needed:
        raise UserError(f"{path} is truncated: {size:,} bytes, expected {needed:,}. {REMEDY}")
    if not known:
        raise UserError(f"{path} holds numbers of a type that a store doesn't use. {REMEDY}")
    return entries, 8 + length


def damage(path: Path, digest: str) -> str:
    """What is wrong with a shard whose sha256 should be `digest`: "missing", "truncated", "altered", or ""."""
    try:
        read_header(path)
    except UserError as error:
        return next((word for word in ("missing", "truncated") if f"is {word}" in str(error)), "altered")
    return "" if sha256(path) == digest else "altered"
