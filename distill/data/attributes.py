"""Columns of an items or users file to attributes and vectors, in the order of the data set."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from distill.data.catalogue import COLUMN, words_of
from distill.data.columns import canonical
from distill.data.features import Attributes
from distill.data.ragged import Lists
from distill.data.values import clean_ids
from distill.errors import UserError
from distill.plugins import nearest

CATEGORY_NAMES = ("genres", "genre", "categories", "category", "class")
VALUE_SEPARATOR = r"\s*[|,;]\s*"
EMBEDDING_NAME = re.compile(r"[A-Za-z0-9_-]+")


def category_column(frame: pl.DataFrame, wanted: str, place: str) -> str:
    """The column that holds an item's categories: the one that the user named, else by a common name, else "".

    Raises:
        UserError: The named column isn't there.
    """
    names = own_columns(frame)
    if wanted:
        _require(wanted, names, "data.categories", place)
        return wanted
    plain = {canonical(name): name for name in reversed(names)}
    found = next((plain[name] for name in CATEGORY_NAMES if name in plain), "")
    return found if found and words_of(frame[COLUMN + found]).null_count() < frame.height else ""


def own_columns(frame: pl.DataFrame) -> list[str]:
    """Names of the items file's own columns."""
    return [name.removeprefix(COLUMN) for name in frame.columns if name.startswith(COLUMN)]


def attributes_of(columns: Mapping[str, pl.Series], wanted: Sequence[str], key: str, place: str) -> Attributes:
    """Columns as numbers where every value is one, else as categories; several values in a cell are separated.

    Args:
        columns: All columns by name, in the order of the data set, null where a row has none.
        wanted: Which of them.
        key, place: The setting and the file, for messages.

    Raises:
        UserError: A column isn't there, or holds nothing.
    """
    numbers: dict[str, np.ndarray] = {}
    lists: dict[str, Lists] = {}
    vocabularies: dict[str, list[str]] = {}
    for name in dict.fromkeys(wanted):
        _require(name, list(columns), key, place)
        column = columns[name]
        values = _numbers(column)
        if values is not None:
            numbers[name] = values
            continue
        lists[name], vocabularies[name] = categories_of(column, blanks=canonical(name) in CATEGORY_NAMES)
        if not vocabularies[name]:
            raise UserError(f"{place}: the column '{name}' ({key}) holds nothing that could be an attribute.")
    return Attributes(numbers, lists, vocabularies)


def categories_of(column: pl.Series, blanks: bool = False) -> tuple[Lists, list[str]]:
    """Codes of each row's values, without repeats, and the sorted vocabulary; "a|b", "a, b" and lists are several.

    Args:
        column: One cell a row.
        blanks: Blanks may separate values too, as in RecBole's files: they do where nothing else does and the words
            are less than half as many as the cells' different texts. So "Comedy Drama" beside "Drama", "Comedy War" …
            is two genres, while "Home Decor" is one category.
    """
    kind = column.dtype
    if isinstance(kind, pl.List) and kind.inner == pl.String:
        split = column.list.drop_nulls()
    else:
        words = words_of(column)
        split = words.str.replace_all(VALUE_SEPARATOR, "|").str.split("|")
        if blanks and not words.str.contains(r"[|,;]").any():
            apart = words.str.split(" ")
            if 2 * apart.explode().n_unique() < words.n_unique():
                split = apart
    rows = pl.DataFrame({"row": np.arange(len(column)), "value": split}).explode("value")
    rows = rows.with_columns(pl.col("value").str.strip_chars()).filter(pl.col("value").fill_null("") != "")
    rows = rows.unique(maintain_order=True)
    vocabulary = rows["value"].unique().sort()
    codes = np.zeros(0, np.int64)
    if len(rows):
        codes = np.searchsorted(vocabulary.to_numpy().astype(str), rows["value"].to_numpy().astype(str))
    counts = np.bincount(rows["row"].to_numpy(), minlength=len(column))
    indptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return Lists(indptr, codes.astype(np.int32)), vocabulary.to_list()


def read_embeddings(wanted: Mapping[str, str], catalogue: pl.DataFrame, rows_of_file: int) -> dict[str, np.ndarray]:
    """Ready-made item vectors, in catalogue order; zero rows where an item has none.

    Args:
        wanted: Name to source: an .npy array with one row a row of the items file; a Parquet file with item_id and one
            column of vectors; or "column:NAME", a column of lists in the items file.
        catalogue: item_id, row (null where an item isn't in the items file) and the file's columns.
        rows_of_file: Rows of the items file.

    Raises:
        UserError: A name can't be part of a file name; a file is missing, holds objects or no matrix, has another
            number of rows than the items file, or vectors of differing widths or with nan.
    """
    found = {}
    for name, source in wanted.items():
        key = f"data.embeddings.{name}"
        if not EMBEDDING_NAME.fullmatch(str(name)):
            raise UserError(f"{key}: '{name}' can't name a file; use letters, digits, '_' and '-'.")
        if not isinstance(source, str):
            raise UserError(f"{key} is {source!r}, expected a file or 'column:NAME'.")
        if source.startswith(COLUMN):
            _require(source.removeprefix(COLUMN), own_columns(catalogue), key, "the items file")
            vectors = _matrix_of_lists(catalogue[source], key)
        elif source.endswith(".npy"):
            vectors = _from_npy(Path(source).expanduser(), catalogue, rows_of_file, key)
        else:
            vectors = _from_parquet(Path(source).expanduser(), catalogue, key)
        if not np.isfinite(vectors).all():
            raise UserError(f"{key}: {source} holds nan or infinite values. Leave items without a vector out instead.")
        if not vectors.any():
            raise UserError(f"{key}: no item of the catalogue has a vector in {source}. Check its item ids.")
        found[name] = vectors
    return found


def _from_npy(path: Path, catalogue: pl.DataFrame, rows_of_file: int, key: str) -> np.ndarray:
    _require_file(path, key)
    try:
        matrix = np.load(path, allow_pickle=False, mmap_mode="r")
    except (ValueError, OSError, EOFError) as error:
        raise UserError(f"{key}: {path} is no .npy file of numbers ({error}).") from error
    if matrix.ndim != 2 or matrix.dtype.kind not in "fiu":
        raise UserError(f"{key}: {path} is {matrix.shape} of {matrix.dtype}, expected numbers of shape (items, width).")
    if len(matrix) != rows_of_file:
        raise UserError(
            f"{key}: {path} has {len(matrix):,} rows, but the items file has {rows_of_file:,}; row i must belong to "
            "the file's i-th item. Or give a Parquet file with item_id and the vectors."
        )
    rows = catalogue["row"]
    known = rows.is_not_null().to_numpy()
    out = np.zeros((catalogue.height, matrix.shape[1]), np.float32)
    out[known] = matrix[rows.drop_nulls().to_numpy().astype(np.int64)]
    return out


def _from_parquet(path: Path, catalogue: pl.DataFrame, key: str) -> np.ndarray:
    _require_file(path, key)
    try:
        frame = pl.read_parquet(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        first = str(error).splitlines()[0]
        raise UserError(f"{key}: {path} could not be read as Parquet ({first}). Expected .npy or Parquet.") from error
    vectors = [name for name, kind in frame.schema.items() if isinstance(kind, pl.List | pl.Array)]
    if "item_id" not in frame.columns or len(vectors) != 1:
        raise UserError(
            f"{key}: {path} has the columns {', '.join(frame.columns)}; expected item_id and one column of vectors."
        )
    keyed = pl.DataFrame({"item_id": clean_ids(frame["item_id"]), "vector": frame[vectors[0]]}).unique("item_id")
    joined = catalogue.select("item_id").join(keyed, on="item_id", how="left", maintain_order="left")
    return _matrix_of_lists(joined["vector"], key)


def _matrix_of_lists(column: pl.Series, key: str) -> np.ndarray:
    """A column of lists of one length as float32 (N, d); null rows are zero."""
    if isinstance(column.dtype, pl.Array):
        column = column.cast(pl.List(column.dtype.inner))
    if not isinstance(column.dtype, pl.List) or not column.dtype.inner.is_numeric():  # type: ignore[union-attr]
        raise UserError(f"{key}: the column holds {column.dtype}, expected lists of numbers of one length.")
    widths = column.list.len().drop_nulls().unique()
    if len(widths) != 1 or widths[0] == 0:
        raise UserError(f"{key}: vectors have the lengths {widths.sort().to_list()[:5]}, expected one length.")
    out = np.zeros((len(column), int(widths[0])), np.float32)
    known = column.is_not_null().to_numpy()
    flat = column.drop_nulls().explode().cast(pl.Float32).fill_null(float("nan")).to_numpy()
    out[known] = flat.reshape(-1, int(widths[0]))
    return out


def _numbers(column: pl.Series) -> np.ndarray | None:
    """The column as float32 (R,), nan where missing, where every value is a number; else None."""
    if column.dtype == pl.Boolean:
        column = column.cast(pl.Int8)
    if column.dtype.is_nested() or column.dtype.is_temporal():
        return None
    words = column if column.dtype.is_numeric() else words_of(column)
    values = words.cast(pl.Float64, strict=False)
    if values.null_count() > words.null_count() or values.null_count() == len(values):
        return None
    finite = values.is_finite().fill_null(False)
    return values.set(~finite, None).fill_null(float("nan")).cast(pl.Float32).to_numpy()


def _require(name: str, names: Sequence[str], key: str, place: str) -> None:
    if name not in names:
        raise UserError(
            f"{place} has no column '{name}' ({key}){nearest(name, names)}. Its columns are: {', '.join(names)}."
        )


def _require_file(path: Path, key: str) -> None:
    if not path.is_file():
        raise UserError(f"{key}: there is no file '{path}'.")


def drop_revealing(attributes: Attributes, summary: dict[str, Any]) -> Attributes:
    """Leaves out categories of users that name people or are free text: values that fewer than five users share.

    Args:
        attributes: Of the users.
        summary: Gets the names of what was left out.
    """
    revealing = [
        name for name, lists in attributes.lists.items() if np.bincount(lists.items).min(initial=5) < FEWEST_SHARING
    ]
    summary["user attributes left out, as they could reveal users"] = ", ".join(revealing) or "none"
    return Attributes(
        attributes.numbers,
        {name: lists for name, lists in attributes.lists.items() if name not in revealing},
        {name: values for name, values in attributes.vocabularies.items() if name not in revealing},
    )


FEWEST_SHARING = 5
