"""How fast the soft-score store writes, opens and reads, beside what the machine does without it.

    python -m benchmarks.store_speed
    python -m benchmarks.store_speed --rows 100000 --open-rows 200000      # a quick look

Reading: random batches from a memory-mapped store, against numpy's own gather of the same bytes from one memory-mapped
array a field: the machine's limit. Writing: shards through the writer (checks, half precision, flush, rename), against
the same number of bytes written to one file and flushed. Ends with one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from rich.table import Table

from distill.progress import console
from distill.soft.store import Store, StoreHeader, StoreWriter
from distill.soft.targets import StoreTargets

N_ITEMS = 50_000
SHARD_ROWS = 16_384
OPEN_SHARD_ROWS = 65_536


def header(k: int) -> StoreHeader:
    """A store with one temperature and no tail."""
    return StoreHeader(k, [1.0], 0, N_ITEMS, "v" * 64, "d" * 64, "t" * 64)


def answers(rows: int, k: int, seed: int) -> dict[str, np.ndarray]:
    """Made-up answers of the right types and shapes."""
    rng = np.random.default_rng(seed)
    return {
        "items": rng.integers(0, N_ITEMS, (rows, k)),
        "scores": -np.sort(rng.random((rows, k), np.float32) * 16, 1),
        "logz": rng.random((rows, 1), np.float32),
    }


def write_store(folder: Path, rows: int, k: int, shard_rows: int) -> float:
    """Writes a store of `rows` rows and returns the seconds that writing alone took."""
    writer, starts = StoreWriter(folder, header(k)), list(range(0, rows, shard_rows))
    block, seconds = answers(min(shard_rows, rows), k, 0), 0.0
    for shard, first in enumerate(starts):
        count = min(shard_rows, rows - first)
        begin = time.perf_counter()
        writer.write(shard, np.arange(first, first + count), {name: value[:count] for name, value in block.items()})
        seconds += time.perf_counter() - begin
    writer.close(starts, rows)
    return seconds


def raw_write(path: Path, size: int) -> float:
    """Seconds to write `size` bytes to one file and flush it."""
    block = np.random.default_rng(0).bytes(8 * 2**20)
    begin = time.perf_counter()
    with path.open("wb") as file:
        for first in range(0, size, len(block)):
            file.write(block[: size - first])
        file.flush()
        os.fsync(file.fileno())
    return time.perf_counter() - begin


def plain_arrays(folder: Path, store: Store) -> dict[str, np.ndarray]:
    """The store's fields as one memory-mapped array each."""
    arrays: dict[str, np.ndarray] = {}
    for name in ("items", "scores", "logz"):
        kind = store.shards[0][name].dtype
        path = folder / f"{name}.raw"
        with path.open("wb") as file:
            for shard in store.shards:
                file.write(np.ascontiguousarray(shard[name]).tobytes())
        arrays[name] = np.memmap(path, kind, "r", shape=(store.rows, store.shards[0][name].shape[1]))
    return arrays


def rows_per_second(read, batches: list[np.ndarray], rounds: int = 3) -> float:
    """Best of some rounds over all batches, after one to warm up."""
    best = np.inf
    for _ in range(rounds + 1):
        begin = time.perf_counter()
        for rows in batches:
            read(rows)
        best = min(best, time.perf_counter() - begin)
    return sum(map(len, batches)) / best


def measure(rows: int, k: int, batch: int, batches: int, open_rows: int, folder: Path) -> dict[str, float]:
    """All figures; see the module's text."""
    stored, other = folder / "store", folder / "raw"
    stored.mkdir()
    other.mkdir()
    seconds = write_store(stored, rows, k, SHARD_ROWS)
    size = sum(path.stat().st_size for path in stored.glob("*.safetensors"))
    raw = raw_write(other / "file", size)
    (other / "file").unlink()
    store = Store.open(stored)
    rng = np.random.default_rng(1)
    drawn = [rng.integers(0, rows, batch) for _ in range(batches)]
    targets, fields = StoreTargets(store), ("items", "scores", "logz")
    plain = plain_arrays(other, store)
    figures = {
        "rows": rows,
        "k": k,
        "batch": batch,
        "bytes_per_row": size / rows,
        "write_rows_per_second": rows / seconds,
        "write_megabytes_per_second": size / seconds / 1e6,
        "raw_write_megabytes_per_second": size / raw / 1e6,
        "lookup_rows_per_second": rows_per_second(store.lookup, drawn),
        "targets_rows_per_second": rows_per_second(targets.lookup, drawn),
        "numpy_rows_per_second": rows_per_second(lambda r: [plain[name][r] for name in fields], drawn),
    }
    if open_rows:
        large = folder / "large"
        large.mkdir()
        write_store(large, open_rows, 1, OPEN_SHARD_ROWS)
        begin = time.perf_counter()
        Store.open(large)
        figures |= {"open_rows": open_rows, "open_seconds": time.perf_counter() - begin}
    return figures | {"peak_megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--k", type=int, default=100)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--batches", type=int, default=500)
    parser.add_argument(
        "--open-rows", type=int, default=10_000_000, help="rows of the store that is only opened; 0: none"
    )
    parser.add_argument("--folder", help="where to write (about 1.3 GB at the defaults); a temporary folder otherwise")
    chosen = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    with tempfile.TemporaryDirectory(dir=chosen.folder) as folder:
        figures = measure(chosen.rows, chosen.k, chosen.batch, chosen.batches, chosen.open_rows, Path(folder))
    table = Table("figure", "value", title="soft-score store")
    for name, value in figures.items():
        table.add_row(name.replace("_", " "), f"{value:,.3f}" if value < 100 else f"{value:,.0f}")
    console.print(table)
    print(json.dumps({name: round(value, 3) for name, value in figures.items()}))


if __name__ == "__main__":
    main()
