"""Files of single publishers that no general reader takes: of MovieLens 100K, MIND and Book-Crossing."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from distill.data import tables
from distill.data.tables import Table
from distill.errors import UserError

# fmt: off
GENRES = (  # in the order of ml-100k's u.item
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy",
    "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
)
# fmt: on
BEHAVIOURS = ("impression_id", "user_id", "time", "history", "impressions")
MIND_TIME = "%m/%d/%Y %I:%M:%S %p"


def read_u_item(path: Path) -> Table:
    """ml-100k's u.item: 19 columns of 0 and 1 become one `genres`."""
    names = ("item_id", "title", "release_date", "video_release_date", "imdb_url", *GENRES)
    table = tables.scan(path, names, quotes=False)
    missing = [genre for genre in GENRES if genre not in table.names]
    if missing:
        raise UserError(
            f"{path}: expected 24 fields a line separated by '|', as in ml-100k; {len(missing)} are missing."
        )
    flags = [pl.when(pl.col(genre).str.strip_chars() == "1").then(pl.lit(genre)) for genre in GENRES]
    genres = pl.concat_str(flags, separator="|", ignore_nulls=True)
    return Table(path, table.frame.select("item_id", "title", genres=genres), table.separator)


def read_mind(path: Path) -> Table:
    """MIND's behaviors.tsv to clicks: each user's history, then the clicked items of their impressions in time order.

    The history has no times of its own, so there is no time column: the order of rows is the order of clicks. A user's
    history is the same in all their impressions and is taken once.

    Raises:
        UserError: A time is unreadable, or the file hasn't five columns.
    """
    table = tables.scan(path, BEHAVIOURS, quotes=False, separator="\t")
    if table.names != list(BEHAVIOURS):
        raise UserError(f"{path}: expected 5 columns separated by tabs ({', '.join(BEHAVIOURS)}), as in MIND.")
    rows = table.read(BEHAVIOURS[1:]).with_row_index("row")
    rows = rows.with_columns(at=pl.col("time").str.strip_chars().str.to_datetime(MIND_TIME, strict=False))
    unreadable = rows.filter(pl.col("at").is_null())
    if unreadable.height:
        row, _, time = unreadable.row(0)[:3]
        raise UserError(f"{path}: line {row + 1} has the time {time!r}. Expected MIND's form: 11/15/2019 8:55:22 AM.")
    rows = rows.sort("at", maintain_order=True)
    clicks = pl.col("impressions").str.extract_all(r"\S+-1").list.eval(pl.element().str.strip_suffix("-1"))
    history = rows.unique("user_id", keep="first", maintain_order=True).select(
        "user_id", item_id=pl.col("history").str.extract_all(r"\S+")
    )
    events = pl.concat([history, rows.select("user_id", item_id=clicks)]).explode("item_id")
    return Table(path, events.filter(pl.col("item_id").is_not_null()).lazy())


def read_mind_news(path: Path) -> Table:
    """MIND's news.tsv; its title, abstract and categories are the item's text."""
    names = ("item_id", "category", "subcategory", "title", "abstract", "url", "title_entities", "abstract_entities")
    table = tables.scan(path, names, quotes=False, separator="\t")
    return Table(path, table.frame.select([n for n in names[:5] if n in table.names]), table.separator)


def read_backslashed(path: Path) -> Table:
    r"""Semicolon-separated text that escapes quotes as \" (Book-Crossing), in whatever encoding."""
    return tables.scan(path, separator=";", rewrite=lambda content: content.replace(b'\\"', b'""'))
