"""How fast, and in how much memory, raw interactions become a data set; a plain polars read + sort + write beside it.

    python -m benchmarks.data_speed prepare                    2 and 20 million interactions
    python -m benchmarks.data_speed prepare --events 200000    a smaller size
    python -m benchmarks.data_speed read                       reading alone, CSV and Parquet, beside polars' readers

Interactions are synthetic, as `distill synthesize` makes them. Each measurement runs in a process of its own, so that
its peak memory is its own. Prints a table, then one JSON line.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
from rich.table import Table

from distill.data.synthetic import write_interactions
from distill.progress import console


def synthesize(path: Path, events: int) -> None:
    """Writes interactions as Parquet, with a hundredth as many users and a four-hundredth as many items."""
    write_interactions(path, max(events // 100, 10), max(events // 400, 10), events, seed=0)


def plain(path: Path, folder: Path) -> None:
    """The least that any preparation does: read, sort by user and time, write."""
    pl.read_parquet(path).sort("user_id", "timestamp").write_parquet(folder / "sorted.parquet")


def prepare(path: Path, folder: Path) -> None:
    """The stage without its manifest: read, clean to a 5-core, split, check for leaks, write."""
    from distill.config import Data
    from distill.data.load import build_dataset
    from distill.ranking.leaks import split_report

    dataset = build_dataset(Data(path=str(path), min_user_events=5, min_item_events=5))
    split_report(dataset)
    dataset.write(folder)


def plain_read(path: Path, folder: Path) -> None:
    """What polars alone takes to read the whole file, types inferred."""
    (pl.read_csv if path.suffix == ".csv" else pl.read_parquet)(path)


def read(path: Path, folder: Path) -> None:
    """The reader: form and columns told, ids, ratings and times made what they mean."""
    from distill.config import Columns, Data
    from distill.data import readers

    readers.read(readers.locate(Data(path=str(path))), Columns(), {})


WORK = {"plain": plain, "prepare": prepare, "plain_read": plain_read, "read": read}


def measure(work: str, path: Path) -> dict[str, float]:
    """Seconds of the work and peak memory of its process in GB, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.data_speed", "child", "--work", work, "--path", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{work} failed:\n{done.stdout}{done.stderr}")
    found: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def child(work: str, path: Path) -> dict[str, float]:
    """Does the work here and now."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        begin = time.perf_counter()
        WORK[work](path, Path(folder))
        seconds = time.perf_counter() - begin
    return {"seconds": seconds, "peak_gb": peak_bytes() / 1e9}


def peak_bytes() -> int:
    """Most memory that this process has held; its parent's, which `ru_maxrss` begins with on Linux, doesn't count."""
    status = Path("/proc/self/status")
    if status.is_file():
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM")) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def prepare_half(sizes: Sequence[int], folder: Path) -> dict[str, Any]:
    """Measures both works at every size."""
    rows: dict[str, Any] = {}
    for events in sizes:
        path = folder / f"{events}.parquet"
        synthesize(path, events)
        rows[str(events)] = {work: measure(work, path) for work in ("plain", "prepare")}
        path.unlink()
    table = Table(title="prepare, beside a plain read + sort + write")
    for column in ("interactions", "plain s", "prepare s", "times plain", "plain GB", "prepare GB"):
        table.add_column(column, justify="right")
    for size, found in rows.items():
        ours, least = found["prepare"], found["plain"]
        found["times_plain"] = ours["seconds"] / least["seconds"]
        figures = (least["seconds"], ours["seconds"], found["times_plain"], least["peak_gb"], ours["peak_gb"])
        table.add_row(f"{int(size):,}", *(f"{figure:.2f}" for figure in figures))
    console.print(table)
    return rows


def read_half(sizes: Sequence[int], folder: Path) -> dict[str, Any]:
    """Measures reading alone, of CSV and of Parquet, beside polars' own readers."""
    rows: dict[str, Any] = {}
    table = Table(title="read, beside polars alone")
    for column in ("interactions", "form", "polars rows/s", "rows/s", "times polars", "polars GB", "GB"):
        table.add_column(column, justify="right")
    for events in sizes:
        parquet = folder / f"{events}.parquet"
        synthesize(parquet, events)
        pl.scan_parquet(parquet).sink_csv(parquet.with_suffix(".csv"))
        for path in (parquet.with_suffix(".csv"), parquet):
            least, ours = measure("plain_read", path), measure("read", path)
            times = ours["seconds"] / least["seconds"]
            form = path.suffix.removeprefix(".")
            rows[f"{events} {form}"] = {"polars": least, "read": ours, "times_polars": times}
            speeds = [f"{events / found['seconds']:,.0f}" for found in (least, ours)]
            peaks = [f"{found['peak_gb']:.2f}" for found in (least, ours)]
            table.add_row(f"{events:,}", form, *speeds, f"{times:.2f}", *peaks)
            path.unlink()
    console.print(table)
    return rows


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs what the command line asks for."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.data_speed", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("half", choices=("prepare", "read", "child"))
    parser.add_argument("--events", type=int, nargs="+", default=[2_000_000, 20_000_000], help="sizes to measure")
    parser.add_argument("--folder", default=None, help="where the synthetic files go (a temporary folder)")
    parser.add_argument("--work", choices=tuple(WORK), help=argparse.SUPPRESS)
    parser.add_argument("--path", help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.half == "child":
        print(json.dumps(child(chosen.work, Path(chosen.path))))
        return 0
    with tempfile.TemporaryDirectory(dir=chosen.folder) as folder:
        rows = (read_half if chosen.half == "read" else prepare_half)(chosen.events, Path(folder))
    print(json.dumps({chosen.half: rows, "polars": pl.__version__}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
