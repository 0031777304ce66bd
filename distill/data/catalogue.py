"""An items file to the catalogue: ids, display titles, and one text an item for the language model."""

from __future__ import annotations

import html
import re
from typing import Any

import polars as pl

from distill.config import Columns
from distill.data.columns import NAMES, bare, canonical, find, guess, item_id_column
from distill.data.tables import Table
from distill.data.values import clean_ids, present
from distill.errors import UserError

ID_NAME = re.compile(r"(?:^|[\s_\-])ids?$|[a-z](?:Id|ID)s?$|^id$", re.ASCII)
URL_NAME = re.compile(r"(?:url|uri|link|href|image|picture|thumbnail)s?$")
NO_GENRES = "(no genres listed)"  # MovieLens's way to say nothing
ENTITY = r"&(?:#\d+|#[xX][0-9a-fA-F]+|[A-Za-z][A-Za-z0-9]*);"  # &amp; &#39; &#x27;
COLUMN = "column:"  # before the names of the items file's own columns


def read_items(table: Table, columns: Columns, interactions_name: str, summary: dict[str, Any]) -> pl.DataFrame:
    """Reads an items file into the columns item_id, title and text, in file order, each id once.

    Besides these there are `row`, the row of the file from 0, and every column of the file as it is, its name after
    "column:".

    Without `columns.text` the text is the title, then every other column that holds words in file order; ids, addresses
    and numbers (other than years) are left out. With `columns.text` it is exactly those columns in that order. Values
    that aren't empty are joined by ". ". HTML entities become characters, and white space one blank.

    Raises:
        UserError: A named column isn't there, or no id column can be found, or there are no rows.
    """
    names = table.names
    id_column = item_id_column(names, columns, table.path, interactions_name)
    title = find(columns.title, names, table.path, "title") if columns.title else guess("title", names)
    chosen = [find(name, names, table.path, "text") for name in columns.text]
    frame = table.read(names)
    if not frame.height:
        raise UserError(f"{table.path} has a header but no rows. Expected one row an item.")
    words = {name: words_of(frame[name]) for name in frame.columns if name != id_column}
    described = chosen or [name for name, column in words.items() if name == title or _describes(name, column)]
    described = [name for name in described if name in words]
    if title is None:
        title = next(iter(described), None)
    if not chosen and title is not None:
        described = [title, *(name for name in described if name != title)]
    ids = clean_ids(frame[id_column])
    nothing = pl.Series([None] * frame.height, dtype=pl.String)
    items = pl.DataFrame(
        {"item_id": ids, "title": nothing if title is None or title == id_column else words[title]}
        | {f"text_{i}": words[name] for i, name in enumerate(described)}
    )
    text = pl.concat_str([f"text_{i}" for i in range(len(described))], separator=". ", ignore_nulls=True)
    items = items.select("item_id", "title", text=(text if described else pl.lit("")).fill_null(""))
    items = items.with_row_index("row").select("item_id", "title", "text", "row")
    items = items.hstack([frame[name].alias(COLUMN + bare(name)) for name in frame.columns])
    named = items.filter(pl.col("item_id").is_not_null())
    unique = named.unique("item_id", keep="first", maintain_order=True)
    summary["item rows read"] = items.height
    summary["item rows without an id (dropped)"] = items.height - named.height
    summary["item rows with an id seen before (dropped)"] = named.height - unique.height
    summary["item text columns"] = ", ".join(bare(name) for name in described) or "none"
    return unique.with_columns(pl.col("title").fill_null(pl.col("item_id")))


def words_of(column: pl.Series) -> pl.Series:
    """A column as text, null where there is nothing; lists of strings are joined by ", ".

    HTML entities become characters and white space is collapsed.
    """
    kind = column.dtype
    if isinstance(kind, pl.List) and kind.inner == pl.String:
        column = column.list.drop_nulls().list.join(", ")
    elif kind.is_nested() or kind in (pl.Boolean, pl.Binary):
        return pl.Series(column.name, [None] * len(column), dtype=pl.String)
    text = column.cast(pl.String, strict=False)
    coded = text.str.contains(ENTITY).fill_null(False)
    if coded.any():
        plain = text.filter(coded).map_elements(html.unescape, return_dtype=pl.String)
        text = text.scatter(coded.arg_true(), plain)
    text = present(text.str.replace_all(r"\s+", " "))
    return text.set(text == NO_GENRES, None)


def _describes(name: str, words: pl.Series) -> bool:
    """Whether a column says something about its item in words (or its year)."""
    plain = canonical(name)
    if plain in NAMES["item_id"] or plain in NAMES["user_id"] or ID_NAME.search(bare(name)) or URL_NAME.search(plain):
        return False
    values = words.drop_nulls()
    if not len(values) or values.str.contains(r"^(?:https?://|www\.)").all():
        return False
    if "year" in plain:
        return True
    is_number = values.cast(pl.Float64, strict=False).is_not_null()
    return not (is_number | values.str.to_lowercase().is_in(["true", "false"])).all()
