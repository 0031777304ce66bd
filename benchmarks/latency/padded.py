"""A bundle with a larger catalogue: `python -m benchmarks.latency.padded BUNDLE FOLDER ITEMS`.

The item tables of the exported graphs get synthetic rows behind the real ones: per column as the real rows are
distributed, with lengths drawn from theirs. Everything else stays, so that the same student is measured on a catalogue
of another size. That the query doesn't change is checked.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from distill.errors import UserError
from distill.runs import sha256, write_json
from distill.serving.runtime import BUNDLE, checked, read_about
from distill.serving.session import open_session


def main() -> int:
    """Writes the larger bundle."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("bundle", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("items", type=int)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    try:
        pad_bundle(chosen.bundle, chosen.folder, chosen.items, chosen.seed)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


def pad_bundle(bundle: Path, folder: Path, n_items: int, seed: int = 0) -> None:
    """Writes a copy of a bundle whose catalogue has `n_items` items, the real ones first.

    Only graphs that rank are copied, and of them only those whose query stays the same.

    Raises:
        UserError: There is no whole bundle, the catalogue is larger already, or none of its graphs can be padded.
    """
    about = read_about(bundle)
    old = about["n_items"]
    if n_items < old:
        raise UserError(f"The catalogue of {bundle} has {old} items already; it can't be padded to {n_items}.")
    folder.mkdir(parents=True, exist_ok=True)
    items = json.loads(checked(bundle, about["items"], about["files"]))
    names = [f"synthetic {number}" for number in range(n_items - old)]
    items = {"ids": items["ids"] + names, "titles": items["titles"] + names, "popularity": items["popularity"]}
    items["popularity"] = items["popularity"] + [0] * (n_items - old)
    write_json(folder / about["items"], items, indent=None)
    variants = {}
    for variant, entry in about["variants"].items():
        path = folder / entry["file"]
        model = onnx.load_from_string(checked(bundle, entry["file"], about["files"]))
        pad_graph(model, old, n_items, np.random.default_rng(seed))
        path.write_bytes(model.SerializeToString())
        if same_query(bundle / entry["file"], path, old, n_items):
            variants[variant] = {"file": entry["file"], "bytes": path.stat().st_size}
    if not variants:
        raise UserError(f"{bundle} can't be padded: the query of a history changes with the size of the catalogue.")
    kept = [about["items"], *(entry["file"] for entry in variants.values())]
    files = {name: sha256(folder / name) for name in kept}
    about |= {"n_items": n_items, "padding": n_items, "variants": variants, "files": files}
    write_json(folder / BUNDLE, about)


def pad_graph(model: onnx.ModelProto, old: int, new: int, rng: np.random.Generator) -> None:
    """Pads every table of N or N + 1 rows in place, and the number N itself wherever the graph compares with it.

    The last row of a table of N + 1 rows belongs to padding and stays last.
    """
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.ndim and len(values) in (old, old + 1):
            real, last = values[:old], values[old:]
            padded = np.concatenate([real, more_rows(real, new - old, rng), last])
            tensor.CopyFrom(numpy_helper.from_array(padded, tensor.name))
        elif values.dtype == np.int64 and values.size == 1 and int(values.reshape(())) == old:
            tensor.CopyFrom(numpy_helper.from_array(np.full_like(values, new), tensor.name))


def more_rows(real: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Synthetic rows like the real ones, of the same type.

    Vectors (N, D) are drawn normally with the mean and deviation of each column and scaled to lengths of real rows;
    numbers (N,), such as biases and scales, are drawn from the real ones.
    """
    if real.ndim == 1:
        return rng.choice(real, count)
    values = real.astype(np.float32)
    mean, deviation = values.mean(0), values.std(0)
    drawn = rng.standard_normal((count, values.shape[1]), np.float32) * deviation + mean
    lengths = rng.choice(np.linalg.norm(values, axis=1), count)
    drawn *= (lengths / np.maximum(np.linalg.norm(drawn, axis=1), 1e-9))[:, None]
    if real.dtype.kind == "f":
        return drawn.astype(real.dtype)
    return np.clip(np.rint(drawn), real.min(), real.max()).astype(real.dtype)


def same_query(before: Path, after: Path, old: int, new: int) -> bool:
    """Whether both graphs give the same query for the same history.

    They don't where a graph holds the number of items in a form that `pad_graph` doesn't know.
    """
    found = []
    for path, n_items in ((before, old), (after, new)):
        history = np.array([[n_items, 0, old - 1], [n_items, n_items, 0]], np.int64)
        inputs = {"history": history, "seen": history, "k": np.array([1], np.int64)}
        found.append(open_session(path.read_bytes()).run(["query"], inputs)[0])
    before_query, after_query = found
    return np.allclose(before_query, after_query, rtol=1e-4, atol=1e-5)


if __name__ == "__main__":
    sys.exit(main())
