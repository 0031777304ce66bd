"""The forms in which data sets lie on disk: file names, and how each file becomes a table with named columns."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

import polars as pl

from distill.data import tables
from distill.data.tables import Table
from distill.errors import UserError

TABLE_ENDINGS = ("csv", "tsv", "txt", "parquet", "jsonl", "ndjson", "json")
JSON_ENDINGS = TABLE_ENDINGS[-3:]
RATING_COLUMNS = ("user_id", "item_id", "rating", "timestamp")
# fmt: off
GENRES = (  # in the order of ml-100k's u.item
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy",
    "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
)
# fmt: on


@dataclass(frozen=True)
class Form:
    """One way in which data sets lie on disk.

    Attributes:
        name: What it is called in messages.
        interactions, items: Patterns of the file names, each also with ".gz".
        read_interactions, read_items: Open such a file as a table with named columns.
        beside: Files next to the items file that belong to it.
    """

    name: str
    interactions: tuple[str, ...]
    items: tuple[str, ...]
    read_interactions: Callable[[Path], Table] = tables.scan
    read_items: Callable[[Path], Table] = tables.scan
    beside: tuple[str, ...] = ()


def _literal(path: Path, names: Sequence[str] = ()) -> Table:
    return tables.scan(path, names, quotes=False)


def _headerless(*names: str) -> Callable[[Path], Table]:
    return lambda path: _literal(path, names)


def read_u_item(path: Path) -> Table:
    """ml-100k's u.item: 19 columns of 0 and 1 become one `genres`."""
    table = _literal(path, ("item_id", "title", "release_date", "video_release_date", "imdb_url", *GENRES))
    missing = [genre for genre in GENRES if genre not in table.names]
    if missing:
        raise UserError(
            f"{path}: expected 24 fields a line separated by '|', as in ml-100k; {len(missing)} are missing."
        )
    flags = [pl.when(pl.col(genre).str.strip_chars() == "1").then(pl.lit(genre)) for genre in GENRES]
    genres = pl.concat_str(flags, separator="|", ignore_nulls=True)
    return Table(path, table.frame.select("item_id", "title", genres=genres), table.separator)


def neighbour(path: Path, name: str) -> Path:
    """The file `name`, or its gzipped form where only that is there, in the folder of `path`."""
    zipped = path.with_name(name + ".gz")
    return zipped if zipped.is_file() and not path.with_name(name).is_file() else path.with_name(name)


def read_user_lists(path: Path) -> Table:
    """One line a user: a count, then so many item ids (CiteULike). The user id is the line number from 0."""
    lists = _counted_lists(path)
    pairs = lists.select("item_id", user_id="row").explode("item_id").filter(pl.col("item_id").is_not_null())
    return Table(path, pairs.select(pl.col("user_id").cast(pl.String), "item_id").lazy())


def read_item_tags(path: Path) -> Table:
    """One line an item: a count, then so many tag numbers, which are line numbers of tags.dat beside it (CiteULike)."""
    tags_path = neighbour(path, "tags.dat")
    names = tables.lines(tags_path).str.strip_chars().str.replace_all(r"[_\-]+", " ")
    lists = _counted_lists(path)
    numbers = lists.explode("item_id").with_columns(tag=pl.col("item_id").cast(pl.Int64, strict=False))
    wrong = numbers.filter(
        pl.col("item_id").is_not_null() & ~pl.col("tag").is_between(0, len(names) - 1).fill_null(False)
    )
    if wrong.height:
        row, tag = wrong.row(0)[:2]
        raise UserError(
            f"{path}: line {row + 1} has the tag {tag!r}, but {tags_path.name} has tags 0 to {len(names) - 1}."
        )
    words = pl.DataFrame({"tag": pl.int_range(len(names), eager=True), "word": names})
    tagged = numbers.join(words, on="tag", how="left", maintain_order="left").group_by("row", maintain_order=True)
    tags = tagged.agg(tags=pl.col("word").drop_nulls().str.join(", "))
    items = lists.select("row").join(tags, on="row", how="left", maintain_order="left")  # items without tags too
    return Table(path, items.select(item_id=pl.col("row").cast(pl.String), tags="tags").lazy())


def _counted_lists(path: Path) -> pl.DataFrame:
    """Lines of "count id id …" as row (from 0) and item_id (a list of strings)."""
    fields = tables.lines(path).str.extract_all(r"\S+")
    frame = pl.DataFrame({"row": pl.int_range(len(fields), eager=True), "fields": fields})
    frame = frame.select("row", count=pl.col("fields").list.first(), item_id=pl.col("fields").list.slice(1))
    expected = pl.col("count").cast(pl.Int64, strict=False)
    wrong = frame.filter((expected != pl.col("item_id").list.len()).fill_null(True))
    if wrong.height:
        row, count, ids = wrong.row(0)
        raise UserError(
            f"{path}: line {row + 1} begins with {count!r} but has {len(ids or [])} ids after it. "
            "Expected one line a user: the number of ids, then the ids, separated by blanks."
        )
    return frame.select("row", "item_id")


def _named(stem: str) -> tuple[str, ...]:
    return tuple(f"{stem}.{ending}" for ending in TABLE_ENDINGS)


TABLES = Form("tables", _named("interactions"), _named("items"))
JSON_LINES = Form(
    "JSON lines", tuple(f"*.{end}" for end in JSON_ENDINGS), tuple(f"meta_*.{end}" for end in JSON_ENDINGS)
)
FORMS = (
    Form(
        "MovieLens 100K", ("u.data",), ("u.item",), _headerless(*RATING_COLUMNS), read_u_item
    ),  # before RecBole, whose *.item is also u.item
    Form("RecBole atomic files", ("*.inter",), ("*.item",), _literal, _literal),
    TABLES,
    Form("MovieLens CSV", ("ratings.csv",), ("movies.csv",)),
    Form(
        "MovieLens 1M",
        ("ratings.dat",),
        ("movies.dat",),
        _headerless(*RATING_COLUMNS),
        _headerless("item_id", "title", "genres"),
    ),
    Form("HetRec Last.fm", ("user_artists.dat",), ("artists.dat",), _literal, _literal),
    Form(
        "one line a user (CiteULike)", ("users.dat",), ("item-tag.dat",), read_user_lists, read_item_tags, ("tags.dat",)
    ),
    JSON_LINES,
)
ANY = Form("table", (), ())  # a file of any name, given as data.path
EXPECTED = (
    "interactions.csv|tsv|parquet|jsonl with items.* beside it, RecBole's *.inter and *.item, MovieLens' ratings.csv, "
    "ratings.dat or u.data, Last.fm's user_artists.dat, CiteULike's users.dat, or one *.jsonl (with meta_*.jsonl); "
    "each may be gzipped"
)


def matching(files: Iterable[Path], patterns: Sequence[str]) -> list[Path]:
    """Files whose name, without ".gz" and case, fits one of the patterns."""
    return [p for p in files if any(fnmatch(p.name.lower().removesuffix(".gz"), pattern) for pattern in patterns)]
