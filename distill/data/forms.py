"""The forms in which data sets lie on disk: file names, and how each file becomes a table with named columns."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from distill.data import tables
from distill.data.encoding import COMPRESSED_ENDINGS
from distill.data.lists import read_item_tags, read_sequences, read_user_lists
from distill.data.publishers import read_backslashed, read_mind, read_mind_news, read_u_item
from distill.data.tables import Table

TABLE_ENDINGS = ("csv", "tsv", "txt", "parquet", "jsonl", "ndjson", "json")
JSON_ENDINGS = TABLE_ENDINGS[-3:]
RATING_COLUMNS = ("user_id", "item_id", "rating", "timestamp")
Read = Callable[[Path], Table]


def read_events(path: Path) -> Table:
    """Interactions of any kind of table; JSON's lists of numbers are kept, since they may be lists of items."""
    return tables.scan(path, number_lists=True)


@dataclass(frozen=True)
class Form:
    """One way in which data sets lie on disk.

    Attributes:
        name: What it is called in messages and as data.form.
        interactions, items, users: Patterns of the file names in lower case, each also with ".gz" or ".zst".
        read_interactions, read_items, read_users: Open such a file as a table with named columns.
        beside: Files next to the items file that belong to it.
    """

    name: str
    interactions: tuple[str, ...]
    items: tuple[str, ...] = ()
    users: tuple[str, ...] = ()
    read_interactions: Read = read_events
    read_items: Read = tables.scan
    read_users: Read = tables.scan
    beside: tuple[str, ...] = ()


def _literal(path: Path, names: Sequence[str] = ()) -> Table:
    return tables.scan(path, names, quotes=False)


def _headerless(*names: str) -> Read:
    return lambda path: _literal(path, names)


def _named(*stems: str) -> tuple[str, ...]:
    return tuple(f"{stem}.{ending}" for stem in stems for ending in TABLE_ENDINGS)


TABLES = Form("tables", ("interactions", *_named("interactions")), ("items", *_named("items")), _named("users"))
SEQUENCES = Form("sequences", _named("sequences", "sessions"), _named("items"), _named("users"))
JSON_LINES = Form(
    "JSON lines", tuple(f"*.{end}" for end in JSON_ENDINGS), tuple(f"meta_*.{end}" for end in JSON_ENDINGS)
)
TABLE = Form("table", ())  # a file of any name, given as data.path
FORMS = (
    Form(
        "MovieLens 100K",
        ("u.data",),
        ("u.item",),
        ("u.user",),
        _headerless(*RATING_COLUMNS),
        read_u_item,
        _headerless("user_id", "age", "gender", "occupation", "zip_code"),
    ),  # before RecBole, whose *.item is also u.item
    Form("RecBole atomic files", ("*.inter",), ("*.item",), ("*.user",), _literal, _literal, _literal),
    TABLES,
    SEQUENCES,
    Form("MovieLens CSV", ("ratings.csv",), ("movies.csv", "books.csv"), ("users.csv",)),
    Form(
        "MovieLens 1M",
        ("ratings.dat",),
        ("movies.dat",),
        ("users.dat",),
        _headerless(*RATING_COLUMNS),
        _headerless("item_id", "title", "genres"),
        _headerless("user_id", "gender", "age", "occupation", "zip_code"),
    ),
    Form("HetRec Last.fm", ("user_artists.dat",), ("artists.dat",), (), _literal, _literal),
    Form("HetRec MovieLens", ("user_ratedmovies-timestamps.dat",), ("movies.dat",), (), _literal, _literal),
    Form(
        "one line a user (CiteULike)",
        ("users.dat",),
        ("item-tag.dat",),
        read_interactions=read_user_lists,
        read_items=read_item_tags,
        beside=("tags.dat",),
    ),
    Form("MIND", ("behaviors.tsv",), ("news.tsv",), read_interactions=read_mind, read_items=read_mind_news),
    Form(
        "Book-Crossing",
        ("bx-book-ratings.csv",),
        ("bx-books.csv", "bx_books.csv"),
        ("bx-users.csv",),
        read_backslashed,
        read_backslashed,
        read_backslashed,
    ),
    Form("Complete Journey", ("transactions.parquet",), ("products.parquet",), ("demographics.parquet",)),
    Form("Goodreads", ("goodreads_interactions*.json",), ("goodreads_books*.json",)),
    Form("Steam", ("steam_reviews.json",), ("steam_games.json",)),
    Form(
        "Yelp",
        ("yelp_academic_dataset_review.json",),
        ("yelp_academic_dataset_business.json",),
        ("yelp_academic_dataset_user.json",),
    ),
    JSON_LINES,
)
# What data.form may say besides: a file of any name as a table, or as lines of "user item item …" without a header.
BY_NAME = {form.name: form for form in FORMS} | {
    "table": TABLE,
    "sequences": Form("sequences", SEQUENCES.interactions, SEQUENCES.items, SEQUENCES.users, read_sequences),
}
EXPECTED = (
    "interactions.csv|tsv|parquet|jsonl with items.* and users.* beside it, sequences.*, a folder of Parquet parts, "
    "RecBole's *.inter and *.item, MovieLens' ratings.csv, ratings.dat or u.data, Last.fm's user_artists.dat, "
    "CiteULike's users.dat, MIND's behaviors.tsv, one *.jsonl (with meta_*.jsonl), or a folder that Hugging Face "
    "datasets saved; text may be compressed (.gz, .zst)"
)


def plain_name(path: Path) -> str:
    """A file's name in lower case, without the ending of a compressed file."""
    name = path.name.lower()
    return next((name.removesuffix(end) for end in COMPRESSED_ENDINGS if name.endswith(end)), name)


def matching(files: Iterable[Path], patterns: Sequence[str]) -> list[Path]:
    """Files whose name, without ".gz" or ".zst" and case, fits one of the patterns."""
    return [p for p in files if any(fnmatch(plain_name(p), pattern) for pattern in patterns)]
