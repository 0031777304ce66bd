"""Files with one list a line: users with their items, items with their tags; and columns that hold lists."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl

from distill.data import tables
from distill.data.encoding import COMPRESSED_ENDINGS
from distill.data.json_lines import JSON_LIST
from distill.data.tables import Table
from distill.errors import UserError

TOKENS = r"[^\s,;|\[\]()]+"


def neighbour(path: Path, name: str) -> Path:
    """The file `name` in the folder of `path`, or its compressed form where only that is there."""
    plain = path.with_name(name)
    packed = [path.with_name(name + ending) for ending in COMPRESSED_ENDINGS]
    return plain if plain.is_file() else next((p for p in packed if p.is_file()), plain)


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


def read_sequences(path: Path) -> Table:
    """One line a user or session without a header: its id, then its items in order, separated by blanks or commas.

    Raises:
        UserError: A line has an id but no item.
    """
    fields = tables.lines(path).str.extract_all(TOKENS)
    frame = pl.DataFrame({"line": pl.int_range(1, len(fields) + 1, eager=True), "fields": fields})
    frame = frame.filter(pl.col("fields").list.len() > 0)
    short = frame.filter(pl.col("fields").list.len() == 1)
    if not frame.height or short.height:
        found = f"line {short['line'][0]} has one field" if short.height else "there is no line"
        raise UserError(
            f"{path}: {found}. Expected one line a user: the user's id, then item ids in order, separated by blanks."
        )
    pairs = frame.select(user_id=pl.col("fields").list.first(), item_id=pl.col("fields").list.slice(1))
    return Table(path, pairs.explode("item_id").lazy())


def exploded(table: Table, sequence: str, others: Sequence[str]) -> Table:
    """A table of one row a user to one row an event.

    Args:
        table: One row a user or session.
        sequence: Its column that holds the items in order: a list, or text such as "1 2 3", "1,2,3" or '["a", "b"]'.
        others: Columns that may hold lists of the same length (times, ratings); single values stand for every item.

    Raises:
        UserError: Lists of one row differ in length (the first such row is named).
    """
    schema = table.frame.collect_schema()
    listed = [sequence, *(name for name in others if _is_listed(table, name, schema[name]))]
    frame = table.frame.with_columns([_as_list(name, schema[name]) for name in listed])
    lengths = frame.select([pl.col(name).list.len().alias(str(i)) for i, name in enumerate(listed)]).collect()
    for i, name in enumerate(listed[1:], start=1):
        wrong = (lengths["0"] != lengths[str(i)]).fill_null(True).arg_true()
        if len(wrong):
            row = wrong[0]
            raise UserError(
                f"{table.path}: row {row + 1} has {lengths['0'][row] or 0} items in '{sequence}' but "
                f"{lengths[str(i)][row] or 0} values in '{name}'. Expected as many."
            )
    return Table(table.path, frame.explode(listed), table.separator, table.explain)


def _is_listed(table: Table, name: str, kind: pl.DataType) -> bool:
    """Whether a column beside a sequence holds lists itself, by its first value."""
    if kind == pl.String:
        first = table.frame.select(pl.col(name).drop_nulls().first()).collect().item() or ""
        return first.lstrip().startswith("[") or len(first.split(",")) > 1
    return isinstance(kind, pl.List | pl.Array)


def _as_list(name: str, kind: pl.DataType) -> pl.Expr:
    column = pl.col(name)
    if kind != pl.String:
        return column.cast(pl.List(kind.inner)) if isinstance(kind, pl.Array) else column
    # JSON lists keep ids with blanks whole; what Python prints for a list of strings (['a']) is no JSON.
    is_json = column.str.contains(JSON_LIST)
    decoded = pl.when(is_json).then(column).str.json_decode(pl.List(pl.String))
    words = column.str.replace_all(r"""['"]""", "").str.extract_all(TOKENS)
    return pl.when(is_json).then(decoded).otherwise(words).alias(name)
