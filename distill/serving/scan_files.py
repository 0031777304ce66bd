"""The files of an exact scan: their names, their hashes, and arrays that stay on disk."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from distill.errors import UserError

FILES = {"scan": "exact.scan.onnx", "table": "exact.table.npy", "bias": "exact.bias.npy", "items": "exact.items.npy"}
MARGINS = "exact.margins.npy"  # of small catalogues
ENCODER = "exact.encoder.onnx"
ALL_GROUPS, BEST_GROUPS = "all", "best"  # what a query looks at: said by the graph under "looks_at"


def check_file(path: Path, expected: str | None) -> None:
    """Checks that a file is there and is what was exported; `expected` is its sha256, None for any content.

    Raises:
        UserError: It is missing, altered or damaged.
    """
    if not path.is_file():
        raise UserError(f"{path} is missing. Export the bundle again with: distill export-student CONFIG")
    if expected is None:
        return
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected:
        raise UserError(
            f"{path} was altered or damaged: its sha256 is {found}, the bundle says {expected}. Copy the bundle again, "
            "or export it again with: distill export-student CONFIG"
        )


def mapped_array(path: Path) -> np.ndarray:
    """An array that is read from disk where it is used.

    Raises:
        UserError: The file holds no plain numpy array.
    """
    try:
        return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))  # still mapped, without memmap's overhead
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}. Export the bundle again.") from error
