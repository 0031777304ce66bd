"""The road from raw tables to a `Dataset`: clean, k-core, order, split, index, item texts, features, leak check."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl

from distill.config import Data
from distill.data import attributes, cleaning, split
from distill.data.bots import treat_bots
from distill.data.catalogue import COLUMN, words_of
from distill.data.dataset import FILE_ORDER, HISTORY, ORDER, TRAIN, Dataset
from distill.data.features import Features
from distill.data.privacy import pseudonyms, read_key
from distill.data.readers import Raw
from distill.data.text_template import fields_of, fill
from distill.data.times import COARSE, to_seconds
from distill.errors import UserError

NO_ITEMS = {"item_id": pl.String, "title": pl.String, "text": pl.String}


def assemble(raw: Raw, data: Data, summary: dict[str, Any]) -> Dataset:
    """Cleans and splits raw tables.

    Users are numbered in order of first appearance in the interactions file; items as the items file has them, then
    those that only the interactions have, in order of first appearance. With `min_item_events` of 1 or more the
    catalogue holds only items that have so many events; with 0 it holds every item of the items file.

    Args:
        raw: What was read.
        data: The settings.
        summary: Counts so far; gets those of every step.

    Raises:
        UserError: Settings leave nothing, don't fit the files, or the split leaks; the text says how to mend it.
    """
    key = read_key(data.privacy) if data.privacy.hash_ids else None
    if data.text_template:
        fields_of(data.text_template)  # a mistake shows before the cleaning
    events, user_ids, item_ids = clean(raw, data, summary)
    counts = np.bincount(events["user"].to_numpy(), minlength=len(user_ids))
    codes = np.flatnonzero(counts)
    indptr = np.concatenate([[0], np.cumsum(counts[codes])]).astype(np.int64)
    order = events["order"].to_numpy() if "order" in events.columns else None
    weights = events["weight"].to_numpy() if "weight" in events.columns else None
    event_items = events["item"].to_numpy()
    del events
    catalogue, items = index_items(event_items, item_ids, raw.items, data.min_item_events, summary)
    del event_items
    catalogue = _with_template(catalogue, data.text_template, raw, summary)
    parts = split.split_events(indptr, order, data.split, items)
    times = to_seconds(order, raw.order_ticks)
    if data.split.name in split.BY_LOT:
        items, parts, times, weights = _by_part(indptr, items, parts, times, weights)
    names = user_ids.gather(codes)
    users = _user_table(raw, names)
    features = _features(catalogue, users, data, raw, summary)
    if key is not None:
        names = pl.Series(pseudonyms(names, key), dtype=pl.String)
        features = Features(
            features.items, attributes.drop_revealing(features.users, summary), features.embeddings, features.categories
        )
        times = times if times is None else times - times % COARSE[data.privacy.times]
        summary["user ids"] = f"keyed hashes; times by the {data.privacy.times}"
    dataset = Dataset(
        user_ids=names.to_numpy(),
        item_ids=catalogue["item_id"].to_numpy(),
        titles=catalogue["title"].to_list(),
        texts=catalogue["text"].to_list(),
        indptr=indptr,
        items=items,
        parts=parts,
        summary=summary,
        times=times,
        weights=weights,
        features=features,
    )
    leaks = split.check_leaks(dataset)
    if leaks:
        raise UserError("The split leaks: " + " ".join(leaks))
    summary |= split.describe(dataset)
    return dataset


def clean(raw: Raw, data: Data, summary: dict[str, Any]) -> tuple[pl.DataFrame, pl.Series, pl.Series]:
    """The clean events by user and time, with `user` and `item` as numbers, and the ids of the numbers.

    Raises:
        UserError: Nothing is left, or a setting needs a column that the file hasn't.
    """
    timed = "order" in raw.events.columns
    summary[ORDER] = "by the order column, ties in file order" if timed else summary.get(ORDER, FILE_ORDER)
    events = cleaning.drop_incomplete(raw.events, summary)
    if data.min_rating is None and data.weight == "none" and data.duplicates != "sum":
        events = cleaning.forget_ratings(events)
    cleaning.require_events(events, raw.path, summary)
    events, user_ids, item_ids = cleaning.encode(events)
    if data.split.name == "temporal" and timed:  # before repeats are dropped, which leaves gaps in positions
        split.check_comparable(events["user"].to_numpy(), events["order"].to_numpy(), raw.order_place)
    events = cleaning.sort_events(events)
    seconds = to_seconds(events["order"].to_numpy(), raw.order_ticks) if timed else None
    events = treat_bots(events, seconds, data.bots, data.drop_bots, summary)
    del seconds
    events = cleaning.drop_repeats(events, data.duplicates, summary)
    events = cleaning.drop_low_ratings(events, data.min_rating, raw.path, summary)
    events = cleaning.weigh(events, data.weight, raw.path, summary)
    events = events.drop("rating", strict=False)
    events = cleaning.cap(events, data.max_user_events, data.max_item_events, summary)
    events = cleaning.keep_core(events, data.min_user_events, data.min_item_events, summary)
    cleaning.require_events(events, raw.path, summary)
    return events, user_ids, item_ids


def index_items(
    codes: np.ndarray, seen_ids: pl.Series, described: pl.DataFrame | None, min_events: int, summary: dict[str, Any]
) -> tuple[pl.DataFrame, np.ndarray]:
    """The catalogue in index order, and the index of each event's item, int32 (E,).

    Args:
        codes: Item of each event as a number into `seen_ids`, int (E,).
        seen_ids: Item ids of the interactions in order of first appearance.
        described: Items of the items file, or None.
        min_events: 0 keeps items without events.
        summary: Gets the counts.

    Returns:
        The catalogue has item_id, title, text and, for items of the items file, its row and columns.
    """
    counts = np.bincount(codes, minlength=len(seen_ids))
    seen = pl.DataFrame({"item_id": seen_ids, "events": counts, "code": np.arange(len(seen_ids), dtype=np.int32)})
    seen = seen.filter(pl.col("events") > 0)
    listed = described if described is not None else pl.DataFrame(schema=NO_ITEMS)
    undescribed = seen.join(listed, on="item_id", how="anti", maintain_order="left")
    if described is not None:
        _require_overlap(seen, listed, undescribed)
        unused = listed.join(seen, on="item_id", how="anti").height
        summary["items that are not in the items file (kept, title = id)"] = undescribed.height
        summary["events of items that are not in the items file"] = int(undescribed["events"].sum())
        fate = "kept" if min_events < 1 else "dropped"
        summary[f"items without an event ({fate})"] = unused
    bare = undescribed.select("item_id", title="item_id", text=pl.lit(""))
    catalogue = pl.concat([listed, bare], how="diagonal")
    if min_events >= 1:
        catalogue = catalogue.join(seen, on="item_id", how="semi", maintain_order="left")
    summary["items without text"] = catalogue.filter(pl.col("text") == "").height
    place = catalogue.select("item_id").with_row_index("index").join(seen, on="item_id", how="inner")
    index = np.full(len(seen_ids), -1, np.int32)
    index[place["code"].to_numpy()] = place["index"].to_numpy()
    return catalogue, index[codes]


def _require_overlap(seen: pl.DataFrame, listed: pl.DataFrame, undescribed: pl.DataFrame) -> None:
    if undescribed.height == seen.height:
        raise UserError(
            f"None of the {seen.height:,} items in the interactions is in the items file: ids there are like "
            f"{listed['item_id'].head(3).to_list()}, here like {seen['item_id'].head(3).to_list()}. "
            "Check data.columns.item_id, or give the right file as data.items."
        )


def _with_template(catalogue: pl.DataFrame, template: str, raw: Raw, summary: dict[str, Any]) -> pl.DataFrame:
    """The catalogue with texts from the template, where there is one; items that the file hasn't keep none."""
    if not template:
        return catalogue
    if raw.items is None:
        raise UserError(f"data.text_template needs an items file, but {raw.path} has none beside it: set data.items.")
    words = {name: words_of(catalogue[COLUMN + name]) for name in attributes.own_columns(catalogue)}
    catalogue = catalogue.with_columns(text=fill(template, words, raw.path))
    summary["item text"] = template
    summary["items without text"] = catalogue.filter(pl.col("text") == "").height
    return catalogue


def _by_part(
    indptr: np.ndarray, items: np.ndarray, parts: np.ndarray, *values: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, np.ndarray | None]:
    """Within each user train first, then validation, then test, each in time order."""
    users = np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))
    rank = np.where(parts == HISTORY, TRAIN, parts)
    place = np.lexsort((rank, users))
    times, weights = (value if value is None else value[place] for value in values)
    return items[place], parts[place], times, weights


def _user_table(raw: Raw, names: pl.Series) -> Mapping[str, pl.Series]:
    """The columns of the users file in the order of `names`, null where it hasn't the user."""
    if raw.users is None:
        return {}
    joined = pl.DataFrame({"user_id": names}).join(raw.users, on="user_id", how="left", maintain_order="left")
    return {column: joined[column] for column in joined.columns if column != "user_id"}


def _features(
    catalogue: pl.DataFrame, users: Mapping[str, pl.Series], data: Data, raw: Raw, summary: dict[str, Any]
) -> Features:
    """Attributes and vectors that the settings ask for, and the categories where a column is known to hold them."""
    asked = data.item_attributes or data.embeddings or data.categories
    if raw.items is None:
        if asked:
            raise UserError(
                "data.categories, .item_attributes and .embeddings need an items file, but "
                f"{raw.path} has none beside it: set data.items."
            )
        items, embeddings, categories = attributes.Attributes(), {}, ""
    else:
        place = "the items file"
        columns = {name: catalogue[COLUMN + name] for name in attributes.own_columns(catalogue)}
        categories = attributes.category_column(catalogue, data.categories, place)
        items = attributes.attributes_of(columns, data.item_attributes, "data.item_attributes", place)
        if categories and categories not in items.lists:
            lists, vocabulary = attributes.categories_of(columns[categories], blanks=True)
            items = attributes.Attributes(
                items.numbers, {**items.lists, categories: lists}, {**items.vocabularies, categories: vocabulary}
            )
        embeddings = attributes.read_embeddings(data.embeddings, catalogue, summary["item rows read"])
    if data.user_attributes and not users:
        raise UserError("data.user_attributes names columns of a users file, but none was found beside the data.")
    about_users = attributes.attributes_of(users, data.user_attributes, "data.user_attributes", "the users file")
    for kind, found in (("item", items), ("user", about_users)):
        names = [*found.numbers, *(f"{name} ({len(found.vocabularies[name]):,} values)" for name in found.lists)]
        if names:
            summary[f"{kind} attributes"] = ", ".join(names)
    for name, vectors in embeddings.items():
        with_vector = int(np.count_nonzero(vectors.any(1)))
        summary[f"item vectors '{name}'"] = f"{vectors.shape[1]} wide, {with_vector:,} of {len(vectors):,} items"
    return Features(items, about_users, embeddings, categories)
