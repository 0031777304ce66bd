"""Writing a bundle: model files that load, items.json, and bundle.json last of all."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from distill.data.dataset import Dataset
from distill.errors import UserError
from distill.runs import environment, sha256, write_json
from distill.serving.runtime import BUNDLE, FORMAT

ITEMS = "items.json"
LOAD_SECONDS = 300


def write_model(model: onnx.ModelProto, path: Path) -> None:
    """Writes one self-contained ONNX file, whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        file.write(model.SerializeToString())
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def check_loads(path: Path, n_items: int) -> None:
    """Loads a model and asks it once in a process of its own: onnxruntime may crash on a graph instead of refusing it.

    Args:
        path: A model file, or a folder that holds the files of an exact scan.
        n_items: N.

    Raises:
        UserError: It doesn't load, gives nonsense, or brings its process down; the message says which.
    """
    command = [sys.executable, "-m", "distill.serving.probe", str(path.resolve()), str(n_items)]
    name = "The exact scan" if path.is_dir() else path.name
    root = Path(__file__).resolve().parents[2]
    try:
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=LOAD_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise UserError(f"{name} wasn't loaded and asked within {LOAD_SECONDS} s.") from error
    if done.returncode == 0:
        return
    if done.returncode < 0:
        reason = f"onnxruntime crashed on it ({signal.Signals(-done.returncode).name})"
    else:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    raise UserError(f"{name} can't be served: {reason}. Leave this variant out of export.variants, and report it.")


def write_array(array: np.ndarray, path: Path) -> None:
    """Writes a plain numpy file, whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        np.save(file, array, allow_pickle=False)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def write_bundle(
    folder: Path,
    dataset: Dataset,
    models: Mapping[str, Path],
    student: str,
    dim: int,
    max_length: int,
    k: int,
    graphs: Mapping[str, Mapping[str, Path]] | None = None,
    others: Sequence[Path] = (),
    features: Mapping[str, Any] | None = None,
    user: Mapping[str, Any] | None = None,
    heads: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Writes items.json and bundle.json beside model files that are there already.

    Args:
        folder: Where everything lies.
        dataset: The data set whose items the student ranks.
        models: Model files by variant.
        student: Name of the student's class, for the reader.
        dim: D.
        max_length: The student reads the last so many items.
        k: Places in a list by default.
        graphs: Further graphs ("scores", "query") by variant.
        others: Further files that belong to the bundle.
        features: Statistics of the features that the student reads, where it reads any.
        user: What it knows of users besides histories, see `distill.export.users`; without any the key is left out.
        heads: Its further heads, see `distill.export.head_graph`; likewise.

    Returns:
        What bundle.json says.
    """
    items = {
        "ids": [str(item) for item in dataset.item_ids],
        "titles": list(dataset.titles),
        "popularity": dataset.popularity.tolist(),
    }
    write_json(folder / ITEMS, items, indent=None)
    graph = onnx.load(next(iter(models.values())))
    parts = graphs or {}
    further = [path for some in parts.values() for path in some.values()]
    files = [ITEMS, *(path.name for path in [*models.values(), *further, *others])]
    about = {
        "format": FORMAT,
        "student": {"class": student, "dim": dim},
        "n_items": dataset.n_items,
        "padding": dataset.n_items,
        "max_length": max_length,
        "k": k,
        "seen": "masked in the graph; the whole history unless the caller says otherwise",
        "empty_history": "popularity",
        "items": ITEMS,
        "variants": {
            name: {
                "file": path.name,
                "bytes": path.stat().st_size,
                **({"graphs": {kind: part.name for kind, part in parts[name].items()}} if parts.get(name) else {}),
            }
            for name, path in models.items()
        },
        "files": {name: sha256(folder / name) for name in files},
        "features": dict(features or {}),
        "inputs": {
            "history": "int64 (batch, length), oldest first, padded on the left with n_items",
            "seen": "int64 (batch, seen), padded with n_items",
            "k": "int64 (1,), 1 to n_items",
        },
        "outputs": {
            "ids": "int64 (batch, k), -1 where fewer than k items are left",
            "scores": "float32 (batch, k)",
            "query": "float32 (batch, dim)",
        },
        "opset": graph.opset_import[0].version,
        "ir_version": graph.ir_version,
        "data": dataset.fingerprint,
        "item_vocabulary": dataset.item_vocabulary,
        "environment": environment(),
    }
    if not dim:
        del about["outputs"]["query"]
    if user:
        about["user"] = dict(user)
        about["inputs"]["user"] = "float32 (batch, dim), added to the query; may be left out"
    if heads:
        about["heads"] = dict(heads)
    write_json(folder / BUNDLE, about)
    return about
