"""What lies on the user's disk to raw tables of interactions, items and users: tells its form and reads it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any

import polars as pl

from distill.config import Columns, Data
from distill.data import hub, named, tables
from distill.data.catalogue import read_items
from distill.data.columns import bare, interaction_columns, sequence_column, user_id_column
from distill.data.dataset import ORDER
from distill.data.forms import BY_NAME, EXPECTED, FORMS, JSON_LINES, TABLE, TABLES, Form, Read, matching
from distill.data.lists import exploded, neighbour, read_sequences
from distill.data.tables import Table, parts_of
from distill.data.values import UNIT_NAMES, Order, clean_ids, clean_order, clean_ratings
from distill.errors import UserError
from distill.plugins import nearest

DEMO = "demo"


@dataclass(frozen=True)
class Source:
    """The raw files of a data set and how each is opened."""

    form: str
    interactions: Path
    items: Path | None
    read_interactions: Read
    read_items: Read
    beside: tuple[Path, ...] = ()
    users: Path | None = None
    read_users: Read = tables.scan

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file that is read, those of a folder one by one."""
        named_ones = [self.interactions, *[p for p in (self.items, self.users) if p], *self.beside]
        found = [file for path in named_ones for file in (hub.files_of(path) or parts_of(path) or [path])]
        return tuple(dict.fromkeys(found))


@dataclass(frozen=True)
class Raw:
    """Raw data with one meaning a column, in file order.

    Attributes:
        events: user_id and item_id (strings, or integers where the file has integers), rating (float) and order (int or
            float) where the file has them; null where a value is missing.
        items: item_id, title, text and more (see `catalogue.read_items`), or None without an items file.
        path: The interactions file, for messages.
        order_place: The same with its order column.
        users: user_id and every column of the users file under its own name, each id once; None without one.
        order_ticks: Ticks a second of `order` where it is a time since 1970 (UTC); 0 where it is a position.
    """

    events: pl.DataFrame
    items: pl.DataFrame | None
    path: Path
    order_place: str
    users: pl.DataFrame | None = None
    order_ticks: int = 0


def locate(data: Data) -> Source:
    """Finds the files of a data set and tells their form; fetches a public set only where data.download says so.

    Raises:
        UserError: The path isn't there, nothing in the folder is known, or several files could be meant.
    """
    path = _resolved(data)
    chosen = _named_form(data.form)
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if not p.name.startswith("."))
        form, interactions = _recognise(path, files, chosen)
    elif path.is_file():
        files = sorted(path.parent.iterdir())
        form = chosen or next((form for form in FORMS if matching([path], form.interactions)), TABLE)
        interactions = path
    else:
        siblings = [str(p) for p in path.parent.iterdir()] if path.parent.is_dir() else []
        hint = nearest(str(path), siblings) if siblings else ""
        raise UserError(f"There is no file or folder '{path}' (data.path){hint}. '{DEMO}' is the bundled set.")
    if form.name == "sequences" and not chosen and not _has_header(interactions):
        form = replace(form, read_interactions=read_sequences)
    if data.delimiter:
        separator = {"tab": "\t", "blank": " "}.get(data.delimiter, data.delimiter)
        form = replace(form, read_interactions=partial(tables.scan, separator=separator))
    source = Source(form.name, interactions, None, form.read_interactions, form.read_items)
    users = _given(data.users, "data.users", "a user") or _beside(form, form.users, interactions, files, "users")
    if users:
        source = replace(source, users=users, read_users=_form_of(users, form, "users").read_users)
    items = _given(data.items, "data.items", "an item") or _beside(form, form.items, interactions, files, "items")
    if items is None:
        return source
    items_form = _form_of(items, form, "items")
    beside = tuple(neighbour(items, name) for name in items_form.beside)
    for other in beside:
        if not other.is_file():
            raise UserError(f"{items} needs {other.name} beside it, which is not there.")
    return replace(source, items=items, read_items=items_form.read_items, beside=beside)


def read(source: Source, columns: Columns, summary: dict[str, Any]) -> Raw:
    """Reads a data set's raw files; what was read is noted in `summary`.

    Raises:
        UserError: A file is empty or damaged, a column is missing, or a time can't be read.
    """
    path = source.interactions
    table = source.read_interactions(path)
    sequence = sequence_column(table.names, columns, path)
    chosen = interaction_columns(table.names, replace(columns, item_id=sequence) if sequence else columns, path)
    if sequence:
        table = exploded(table, sequence, [name for role, name in chosen.items() if role in ("rating", "order")])
    frame = table.read(list(chosen.values()))
    if not frame.height:
        raise UserError(f"{path} has a header but no rows. Expected one row an interaction.")
    summary["form"] = source.form
    summary["interactions file"] = path.name
    summary["items file"] = source.items.name if source.items else "none"
    summary["users file"] = source.users.name if source.users else "none"
    summary["columns"] = ", ".join(f"{role}: {bare(name)}" for role, name in chosen.items())
    summary["rows read"] = frame.height
    if sequence:
        summary[ORDER] = f"as listed in the column {bare(sequence)}"
    place = f"{path}, column '{bare(chosen['order'])}'" if "order" in chosen else str(path)
    # Each raw column is let go when its clean one is there: text takes several times the memory of what it means.
    values = {role: _ids(frame.drop_in_place(chosen[role])) for role in ("user_id", "item_id")}
    _require_ids(values, table, chosen)
    if "rating" in chosen:
        values["rating"] = clean_ratings(frame.drop_in_place(chosen["rating"]))
    order = Order(pl.Series())
    if "order" in chosen:
        order = clean_order(frame.drop_in_place(chosen["order"]), place)
        values["order"] = order.values
        _note_times(order, summary)
    items = None
    if source.items:
        items = read_items(source.read_items(source.items), columns, chosen["item_id"], summary)
    elif columns.title or columns.text:
        raise UserError(
            f"data.columns.title and .text name columns of an items file, but {path} has none: set data.items."
        )
    users = read_users(source.read_users(source.users), columns, chosen["user_id"], summary) if source.users else None
    return Raw(pl.DataFrame(values), items, path, place, users, order.ticks)


def read_users(table: Table, columns: Columns, interactions_name: str, summary: dict[str, Any]) -> pl.DataFrame:
    """A users file: user_id, then every other column under its bare name, in file order, each id once.

    Raises:
        UserError: There are no rows, or no id column can be found.
    """
    name = user_id_column(table.names, columns, table.path, interactions_name)
    frame = table.read(table.names)
    if not frame.height:
        raise UserError(f"{table.path} has a header but no rows. Expected one row a user.")
    others = [frame[other].alias(bare(other)) for other in frame.columns if other != name]
    users = pl.DataFrame([clean_ids(frame[name]).alias("user_id"), *[c for c in others if c.name != "user_id"]])
    unique = users.filter(pl.col("user_id").is_not_null()).unique("user_id", keep="first", maintain_order=True)
    summary["user rows read"] = users.height
    summary["user rows without an id, or with one seen before (dropped)"] = users.height - unique.height
    return unique


def _resolved(data: Data) -> Path:
    if data.dataset:
        if data.path != DEMO:
            raise UserError(f"data.dataset is '{data.dataset}' and data.path is '{data.path}'. Set one of the two.")
        return named.folder_of(data.dataset, data.download)
    if data.path == DEMO:
        return Path(str(resources.files("distill.data.demo")))
    return hub.fetch(data.path, data.download) if hub.is_address(data.path) else Path(data.path).expanduser()


def _named_form(name: str) -> Form | None:
    if name and name not in BY_NAME:
        raise UserError(f"data.form is '{name}', which is no form of data{nearest(name, BY_NAME)}.")
    return BY_NAME[name] if name else None


def _has_header(path: Path) -> bool:
    """Whether a file of sequences is a table with named columns, and not bare lines of "user item item …"."""
    if path.is_dir():
        return True
    try:
        return bool(sequence_column(tables.scan(path, number_lists=True).names, Columns(), path))
    except UserError:
        return False


def _ids(column: pl.Series) -> pl.Series:
    """Whole numbers as they are, which takes a fraction of the memory of text; else clean text."""
    return column if column.dtype.is_integer() else clean_ids(column)


def _require_ids(values: dict[str, pl.Series], table: Table, chosen: dict[str, str]) -> None:
    """Refuses a file none of whose rows has an id: nearly always a separator that differs from the header's."""
    for role, ids in values.items():
        if ids.null_count() == len(ids):
            separated = f" separated by {table.separator!r}" if table.separator else ""
            raise UserError(
                f"{table.path}: column '{bare(chosen[role])}' ({role}) is empty in all {len(ids):,} rows; expected an "
                f"id in each. Are the rows{separated} as the header is? Else set data.delimiter."
            )


def _note_times(order: Order, summary: dict[str, Any]) -> None:
    if order.ticks:
        summary["unit of times"] = UNIT_NAMES[order.ticks]
        summary["times before 1970 or after 2099 (read as missing)"] = order.out_of_range
        summary["times in the future (kept)"] = order.in_future


def _recognise(folder: Path, files: Sequence[Path], chosen: Form | None) -> tuple[Form, Path]:
    """The first form that has an interactions file (or folder of parts) among `files`, and that file."""
    if hub.is_saved(folder):
        return hub.FORM, folder
    candidates_of = {form: _candidates(form, files) for form in ([chosen] if chosen else FORMS)}
    for form, candidates in candidates_of.items():
        if len(candidates) > 1:
            names = ", ".join(p.name for p in candidates)
            raise UserError(f"{folder} has several interactions files: {names}. Give one of them as data.path.")
        if candidates:
            return form, candidates[0]
    if (not chosen or chosen is TABLE) and parts_of(folder):
        return TABLE, folder
    found = ", ".join(p.name for p in files[:20]) + (" …" if len(files) > 20 else "")
    raise UserError(
        f"{folder} holds no known data set: found {found or 'no files'}. "
        f"Expected {EXPECTED}. Or give a file as data.path."
    )


def _candidates(form: Form, files: Sequence[Path]) -> list[Path]:
    found = [p for p in matching(files, form.interactions) if p.is_file() or hub.is_saved(p) or parts_of(p)]
    if form is JSON_LINES:
        items = matching(files, form.items)
        found = [p for p in found if p not in items]
    return found


def _given(setting: str, key: str, what: str) -> Path | None:
    """The file that a setting names."""
    if not setting:
        return None
    path = Path(setting).expanduser()
    if path.is_file() or (path.is_dir() and (parts_of(path) or hub.is_saved(path))):
        return path
    kind = " (it is a folder without Parquet files)" if path.is_dir() else ""
    raise UserError(f"There is no file '{path}' ({key}){kind}. Expected a table with one row {what}.")


def _form_of(path: Path, form: Form, side: str) -> Form:
    """The form of an items or users file: that of the interactions where its name fits, else any that its name fits."""
    if hub.is_saved(path):
        return hub.FORM
    return next((f for f in (form, *FORMS) if matching([path], getattr(f, side))), TABLES)


def _beside(form: Form, patterns: Sequence[str], interactions: Path, files: Sequence[Path], what: str) -> Path | None:
    if form is hub.FORM:
        return hub.split_of(interactions, what)
    found = [p for p in matching(files, patterns) if p != interactions]
    if form is JSON_LINES:  # Amazon's meta_Books.jsonl belongs to Books.jsonl
        found = [p for p in found if p.name == f"meta_{interactions.name}"] or found
    if len(found) > 1:
        names = ", ".join(p.name for p in found)
        raise UserError(f"{interactions.parent} has several {what} files: {names}. Give one of them as data.{what}.")
    return found[0] if found else None
