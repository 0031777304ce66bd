"""The item vectors of a bundle, read from its files without torch and without the onnx package."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from distill.errors import UserError
from distill.serving.external import fields
from distill.serving.runtime import checked

VECTORS = "items.vectors.npy"
TABLES = ("items", "items.half", "items.int8", "items.scale")  # the scored table in a graph, where it isn't tied
READABLE = ("fp32", "fp16", "int8")
GRAPH, INITIALIZER = 7, 5  # field numbers in ModelProto and GraphProto
DIMS, TYPE, NAME, RAW = 1, 2, 8, 9  # in TensorProto
TYPES: dict[int, np.dtype[Any]] = {1: np.dtype("<f4"), 3: np.dtype("i1"), 10: np.dtype("<f2")}


def item_vectors(folder: Path, about: dict[str, Any]) -> tuple[np.ndarray, str]:
    """The vectors float32 (N, D) that queries are multiplied with, and where they come from.

    From items.vectors.npy where the bundle has it, else from the most exact of its models.

    Args:
        folder: The bundle's.
        about: Its bundle.json.

    Raises:
        UserError: A file is missing or altered, or no variant stores the table in a form that is read here.
    """
    if VECTORS in about["files"]:
        content = checked(folder, VECTORS, about["files"])
        return np.load(BytesIO(content), allow_pickle=False), VECTORS
    for word in READABLE:
        if word in about["variants"]:
            name = about["variants"][word]["file"]
            found = _table(checked(folder, name, about["files"]), about["n_items"], about["student"]["dim"])
            if found is not None:
                return found, word
    raise UserError(
        f"{folder} has the variants {', '.join(about['variants'])}; item vectors are read from {', '.join(READABLE)}. "
        "Add one of them to export.variants, or query to export.graphs, and export again."
    )


def _table(model: bytes, n_items: int, dim: int) -> np.ndarray | None:
    """The scored table (N, D) of a model: the one called `items`, or the only one of that shape (tied tables)."""
    tensors = _initializers(memoryview(model), n_items)
    by_name = {name: values for name, values in tensors.items() if name in TABLES}
    whole = _joined(by_name or tensors)
    fitting = [values for values in whole if len(values) >= n_items and values.shape[1:] == (dim,)]
    return fitting[0][:n_items] if len(fitting) == 1 else None


def _joined(tensors: dict[str, np.ndarray]) -> list[np.ndarray]:
    """Float matrices; codes are multiplied with the scales of their rows, halves made float32."""
    found = []
    for name, values in tensors.items():
        if values.dtype == np.int8:
            scale = tensors.get(name.removesuffix(".int8") + ".scale")
            if scale is not None:
                found.append(values.astype(np.float32) * scale.reshape(len(values), -1).astype(np.float32))
        elif values.ndim == 2 and values.shape[1] > 1:
            found.append(values.astype(np.float32))
    return found


def _initializers(model: memoryview, n_items: int) -> dict[str, np.ndarray]:
    """The model's tensors with a row an item, by name."""
    found = {}
    for number, graph in fields(model):
        if number != GRAPH or not isinstance(graph, memoryview):
            continue
        for inner, tensor in fields(graph):
            if inner == INITIALIZER and isinstance(tensor, memoryview):
                name, values = _tensor(tensor, n_items)
                if values is not None:
                    found[name] = values
    return found


def _tensor(tensor: memoryview, n_items: int) -> tuple[str, np.ndarray | None]:
    name, kind, shape, raw = "", 0, list[int](), b""
    for number, value in fields(tensor):
        if number == DIMS and isinstance(value, int):
            shape.append(value)
        elif number == TYPE and isinstance(value, int):
            kind = value
        elif number == NAME and isinstance(value, memoryview):
            name = bytes(value).decode()
        elif number == RAW and isinstance(value, memoryview):
            raw = bytes(value)
    size = int(np.prod(shape)) if shape else 0
    if kind not in TYPES or not shape or shape[0] < n_items or len(raw) != size * TYPES[kind].itemsize:
        return name, None
    return name, np.frombuffer(raw, TYPES[kind]).reshape(shape)
