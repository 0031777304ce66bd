"""The command `distill similar`: items like an item, by the vectors that a student ranks with."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from distill.errors import UserError
from distill.progress import console, say
from distill.ranking.topk import top_k
from distill.recommend import bundle_folder, escaped
from distill.serving.catalogue import Catalogue
from distill.serving.item_vectors import item_vectors
from distill.serving.runtime import checked, read_about

EXAMPLES = """\
examples:
  distill similar runs/quickstart "Toy Story (1995)"
  distill similar runs/quickstart 1 260 "heat (1995)" -k 5 --json
  distill similar runs/quickstart 1 --diversify 0.5
  distill similar runs/quickstart --all --output similar.parquet
"""
AT_ONCE = 2**25  # similarities that are held at once: 128 MB
POOL = 5  # candidates for each place of a diversified list
Block = tuple[np.ndarray, np.ndarray, np.ndarray]  # items, their neighbours, the cosines


def similar_command(arguments: list[str]) -> int:
    """Prints the items most similar to some items, or writes those of the whole catalogue to a file.

    Args:
        arguments: What follows `distill similar`.

    Raises:
        UserError: There is no bundle, an item is unknown, or a setting is out of range.
    """
    parser = make_parser()
    chosen = parser.parse_args(arguments)
    if bool(chosen.items) == chosen.all:
        parser.error("name one or more items, or all of them with --all")
    if chosen.all != bool(chosen.output):
        parser.error("--all and --output FILE belong together")
    check(chosen)
    folder = bundle_folder(chosen.folder)
    about = read_about(folder)
    checked(folder, about["items"], about["files"])
    items = Catalogue.read(folder / about["items"])
    vectors, source = item_vectors(folder, about)
    units = unit_rows(vectors)
    wanted = np.arange(len(items)) if chosen.all else np.array([index_of(words, items) for words in chosen.items])
    found = neighbours(units, wanted, chosen.k, chosen.diversify)
    if chosen.all:
        write_neighbours(chosen.output, items, found)
    elif chosen.json:
        print_json(items, found, source)
    else:
        print_tables(items, found, source)
    return 0


def make_parser() -> argparse.ArgumentParser:
    """The arguments of `distill similar`."""
    parser = argparse.ArgumentParser(
        prog="distill similar",
        description="Items whose vectors point the same way, by cosine, exactly; torch is not needed.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, help="a run's folder (runs/x), or a bundle's (runs/x/export)")
    parser.add_argument("items", nargs="*", metavar="ITEM", help="an item's id, its title, or a part of its title")
    parser.add_argument("-k", "--k", type=int, default=10, help="items in each list (default 10)")
    parser.add_argument(
        "--diversify",
        type=float,
        default=0.0,
        metavar="SHARE",
        help="0 to 1: how much being unlike the items above counts (maximal marginal relevance; default 0)",
    )
    parser.add_argument("--all", action="store_true", help="every item of the catalogue, written to --output")
    parser.add_argument("--output", type=Path, metavar="FILE", help="a .parquet or .csv file")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    return parser


def check(chosen: argparse.Namespace) -> None:
    """Finds settings that are out of range before anything is read."""
    if chosen.k < 1:
        raise UserError(f"Lists of k = {chosen.k} items were asked for; expected 1 or more.")
    if not 0 <= chosen.diversify <= 1:
        raise UserError(f"--diversify is {chosen.diversify}, expected a share from 0 to 1.")
    if chosen.output is not None and chosen.output.suffix not in (".parquet", ".csv"):
        raise UserError(f"--output is '{chosen.output}', expected a file that ends in .parquet or .csv.")


def index_of(words: str, items: Catalogue) -> int:
    """The index of an item by its id, or else by its title or a part of it.

    Raises:
        UserError: Neither fits, with the nearest of both; or several titles do.
    """
    try:
        return items.index_of_id(words)
    except UserError as no_id:
        try:
            return items.index_of_title(words)
        except UserError as no_title:
            if "fits" in str(no_title) and "No title" not in str(no_title):
                raise
            raise UserError(f"{no_id} {no_title}") from None


def unit_rows(vectors: np.ndarray) -> np.ndarray:
    """Rows of length 1, float32 (N, D); zero rows stay zero."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.ascontiguousarray(vectors / np.where(lengths > 0, lengths, 1.0), np.float32)


def neighbours(units: np.ndarray, wanted: np.ndarray, k: int, diversify: float = 0.0) -> Iterator[Block]:
    """The k items of largest cosine with each wanted item, itself left out; ties by lower index.

    Args:
        units: Unit rows (N, D).
        wanted: Item indices (W,), worked off in blocks.
        k: Places; fewer where the catalogue ends.
        diversify: Share d of maximal marginal relevance: each place goes to the item with the largest
            (1 - d) * cosine with the wanted item - d * largest cosine with an item above, among the 5 k nearest.

    Yields:
        Items (B,), their neighbours (B, k) best first, and the cosines (B, k).

    References:
        Carbonell and Goldstein 1998, "The use of MMR, diversity-based reranking for reordering documents".
    """
    places = min(k, len(units) - 1)
    pool = min(POOL * places, len(units) - 1) if diversify else places
    rows = max(1, AT_ONCE // (len(units) + pool * (units.shape[1] + pool) * bool(diversify)))
    for start in range(0, len(wanted), rows):
        block = wanted[start : start + rows]
        if not places:
            yield block, np.zeros((len(block), 0), np.int32), np.zeros((len(block), 0), np.float32)
            continue
        cosine = units[block] @ units.T
        cosine[np.arange(len(block)), block] = -np.inf
        best = top_k(cosine, pool)
        values = np.take_along_axis(cosine, best, axis=1)
        if diversify:
            order = diversified(units[best], values, places, diversify)
            best, values = np.take_along_axis(best, order, 1), np.take_along_axis(values, order, 1)
        yield block, best, values


def diversified(near: np.ndarray, relevance: np.ndarray, k: int, share: float) -> np.ndarray:
    """Places int64 (B, k) by maximal marginal relevance among candidates, best first.

    Args:
        near: Unit rows of the candidates (B, C, D).
        relevance: Their cosines with the wanted item (B, C).
        k: How many to choose.
        share: How much being unlike those above counts.
    """
    alike = near @ near.transpose(0, 2, 1)
    rows = np.arange(len(near))
    closest, left = np.zeros_like(relevance), np.ones(relevance.shape, bool)
    chosen = np.empty((len(near), k), np.int64)
    for place in range(k):
        chosen[:, place] = np.where(left, (1 - share) * relevance - share * closest, -np.inf).argmax(1)
        left[rows, chosen[:, place]] = False
        nearest = alike[rows, chosen[:, place]]
        closest = np.maximum(closest, nearest) if place else nearest
    return chosen


def lists_of(items: Catalogue, blocks: Iterator[Block]) -> Iterator[dict[str, Any]]:
    """The lists as they are shown."""
    for block in blocks:
        for item, others, values in zip(*block, strict=True):
            places = [
                {"rank": rank, "item_id": items.ids[other], "title": items.titles[other], "similarity": float(value)}
                for rank, (other, value) in enumerate(zip(others, values, strict=True), start=1)
            ]
            yield {"item_id": items.ids[item], "title": items.titles[item], "similar": places}


def print_tables(items: Catalogue, blocks: Iterator[Block], source: str) -> None:
    """A table for each item."""
    for one in lists_of(items, blocks):
        table = Table(title=f"like {escaped(one['title'])} ({source})")
        for name, side in (("rank", "right"), ("item id", "left"), ("title", "left"), ("similarity", "right")):
            table.add_column(name, justify=side, overflow="fold")  # type: ignore[arg-type]
        for place in one["similar"]:
            name, title = escaped(place["item_id"]), escaped(place["title"])
            table.add_row(str(place["rank"]), name, title, f"{place['similarity']:.3f}")
        console.print(table)


def print_json(items: Catalogue, blocks: Iterator[Block], source: str) -> None:
    """One JSON object with a list for each item."""
    answer = {"vectors": source, "items": list(lists_of(items, blocks))}
    print(json.dumps(answer, indent=2, ensure_ascii=False))


def write_neighbours(path: Path, items: Catalogue, blocks: Iterator[Block]) -> None:
    """Writes item_id, rank, similar_id and similarity of all lists, a Parquet or CSV file, whole or not at all."""
    import polars as pl

    from distill.data.files import write_atomically

    wanted, others, values = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
    ids, places = np.array(items.ids), others.shape[1]
    frame = pl.DataFrame(
        {
            "item_id": np.repeat(ids[wanted], places),
            "rank": np.tile(np.arange(1, places + 1, dtype=np.int32), len(wanted)),
            "similar_id": ids[others.reshape(-1)],
            "similarity": values.reshape(-1),
        }
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, frame.write_parquet if path.suffix == ".parquet" else frame.write_csv)
    say(f"{path}: {len(frame):,} rows, {len(wanted):,} items")
