"""The road from raw files to a `Dataset`: read, clean, k-core, order, split, index, item texts, leak check, summary."""

from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl

from distill.config import Data
from distill.data import cleaning, split
from distill.data.dataset import Dataset
from distill.data.readers import locate, read
from distill.errors import UserError

NO_ITEMS = {"item_id": pl.String, "title": pl.String, "text": pl.String}


def build_dataset(data: Data) -> Dataset:
    """Reads, cleans and splits the raw files that `data` names.

    Users are numbered in order of first appearance in the interactions file; items as the items file has them, then
    those that only the interactions have, in order of first appearance. With `min_item_events` of 1 or more the
    catalogue holds only items that have so many events; with 0 it holds every item of the items file.

    Raises:
        UserError: Files are missing, unreadable or unfit, or settings leave nothing; the text says how to mend it.
    """
    summary: dict[str, Any] = {}
    raw = read(locate(data), data.columns, summary)
    timed = "order" in raw.events.columns
    summary["order within a user"] = (
        "by the order column, ties in file order" if timed else "rows of the file (no order column)"
    )
    events = cleaning.drop_incomplete(raw.events, summary)
    cleaning.require_events(events, raw.path, summary)
    events, user_ids, item_ids = cleaning.encode(events)
    if data.split.name == "temporal" and timed:  # before repeats are dropped, which leaves gaps in positions
        split.check_comparable(events["user"].to_numpy(), events["order"].to_numpy(), raw.order_place)
    events = cleaning.sort_by_time(events)
    events = cleaning.drop_repeats(events, data.duplicates, summary)
    events = cleaning.drop_low_ratings(events, data.min_rating, raw.path, summary)
    events = cleaning.keep_core(events, data.min_user_events, data.min_item_events, summary)
    cleaning.require_events(events, raw.path, summary)

    codes, users = np.unique(events["user"].to_numpy(), return_inverse=True)
    indptr = np.concatenate([[0], np.cumsum(np.bincount(users))]).astype(np.int64)
    by_user = np.argsort(users, kind="stable")
    order = events["order"].to_numpy()[by_user] if timed else None
    catalogue, items = _index_items(
        events["item"].to_numpy()[by_user], item_ids, raw.items, data.min_item_events, summary
    )
    dataset = Dataset(
        user_ids=user_ids.gather(codes).to_numpy(),
        item_ids=catalogue["item_id"].to_numpy(),
        titles=catalogue["title"].to_list(),
        texts=catalogue["text"].to_list(),
        indptr=indptr,
        items=items,
        parts=split.split_events(indptr, order, data.split),
        summary=summary,
    )
    leaks = split.check_leaks(dataset)
    if leaks:
        raise UserError("The split leaks: " + " ".join(leaks))
    summary |= split.describe(dataset)
    return dataset


def _index_items(
    codes: np.ndarray, seen_ids: pl.Series, described: pl.DataFrame | None, min_events: int, summary: dict[str, Any]
) -> tuple[pl.DataFrame, np.ndarray]:
    """The catalogue in index order (item_id, title, text), and the index of each event's item, int32 (E,).

    Args:
        codes: Item of each event as a number into `seen_ids`, int (E,).
        seen_ids: Item ids of the interactions in order of first appearance.
        described: Items of the items file, or None.
        min_events: 0 keeps items without events.
        summary: Gets the counts.
    """
    used = np.unique(codes)
    seen = pl.DataFrame({"item_id": seen_ids.gather(used)}).with_columns(title="item_id", text=pl.lit(""))
    listed = described if described is not None else pl.DataFrame(schema=NO_ITEMS)
    undescribed = seen.join(listed, on="item_id", how="anti", maintain_order="left")
    unused = listed.join(seen, on="item_id", how="anti")
    if described is not None:
        _require_overlap(seen, listed, undescribed)
        summary["items that are not in the items file (kept, title = id)"] = undescribed.height
        summary["events of items that are not in the items file"] = int(
            np.isin(codes, _positions(undescribed, seen_ids)).sum()
        )
        fate = "kept" if min_events < 1 else "dropped"
        summary[f"items without an event ({fate})"] = unused.height
    catalogue = pl.concat([listed, undescribed])
    if min_events >= 1:
        catalogue = catalogue.join(seen, on="item_id", how="semi", maintain_order="left")
    summary["items without text"] = catalogue.filter(pl.col("text") == "").height
    index = np.full(len(seen_ids), -1, np.int32)
    place = (
        catalogue.select("item_id").with_row_index("index").join(seen, on="item_id", how="semi", maintain_order="left")
    )
    index[_positions(place, seen_ids)] = place["index"].to_numpy()
    return catalogue, index[codes]


def _positions(frame: pl.DataFrame, ids: pl.Series) -> np.ndarray:
    """Where each item_id of `frame` stands in `ids`, int (rows,)."""
    numbered = pl.DataFrame({"item_id": ids}).with_row_index("position")
    return (
        frame.select("item_id").join(numbered, on="item_id", how="left", maintain_order="left")["position"].to_numpy()
    )


def _require_overlap(seen: pl.DataFrame, listed: pl.DataFrame, undescribed: pl.DataFrame) -> None:
    if undescribed.height == seen.height:
        raise UserError(
            f"None of the {seen.height:,} items in the interactions is in the items file: ids there are like "
            f"{listed['item_id'].head(3).to_list()}, here like {seen['item_id'].head(3).to_list()}. "
            "Check data.columns.item_id, or give the right file as data.items."
        )
