"""What lies on the user's disk to raw interactions and items: tells the form of a folder or file and reads it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import polars as pl

from distill.config import Columns, Data
from distill.data.catalogue import read_items
from distill.data.columns import bare, interaction_columns
from distill.data.forms import ANY, EXPECTED, FORMS, JSON_LINES, TABLES, Form, matching, neighbour
from distill.data.tables import Table
from distill.data.values import clean_ids, clean_order, clean_ratings
from distill.errors import UserError
from distill.plugins import nearest

DEMO = "demo"


@dataclass(frozen=True)
class Source:
    """The raw files of a data set and how each is opened."""

    form: str
    interactions: Path
    items: Path | None
    read_interactions: Callable[[Path], Table]
    read_items: Callable[[Path], Table]
    beside: tuple[Path, ...] = ()

    @property
    def files(self) -> tuple[Path, ...]:
        """Every file that is read."""
        return (self.interactions, *([self.items] if self.items else []), *self.beside)


@dataclass(frozen=True)
class Raw:
    """Raw data with one meaning a column, in file order.

    Attributes:
        events: user_id and item_id (strings), rating (float) and order (int or float) where the file has them; null
            where a value is missing.
        items: item_id, title and text (see `catalogue.read_items`), or None without an items file.
        path: The interactions file, for messages.
        order_place: The same with its order column.
    """

    events: pl.DataFrame
    items: pl.DataFrame | None
    path: Path
    order_place: str


def locate(data: Data) -> Source:
    """Finds the files of a data set and tells their form.

    Raises:
        UserError: The path isn't there, nothing in the folder is known, or several files could be meant.
    """
    path = Path(str(resources.files("distill.data.demo"))) if data.path == DEMO else Path(data.path).expanduser()
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if p.is_file() and not p.name.startswith("."))
        form, interactions = _recognise(path, files)
    elif path.is_file():
        files = sorted(p for p in path.parent.iterdir() if p.is_file())
        form = next((form for form in FORMS if matching([path], form.interactions)), ANY)
        interactions = path
    else:
        siblings = [str(p) for p in path.parent.iterdir()] if path.parent.is_dir() else []
        hint = nearest(str(path), siblings) if siblings else ""
        raise UserError(f"There is no file or folder '{path}' (data.path){hint}. '{DEMO}' is the bundled set.")
    items = Path(data.items).expanduser() if data.items else _items_beside(form, interactions, files)
    if items is None:
        return Source(form.name, interactions, None, form.read_interactions, form.read_items)
    if not items.is_file():
        raise UserError(f"There is no file '{items}' (data.items). Expected a table with one row an item.")
    items_form = next((form for form in FORMS if matching([items], form.items)), TABLES)
    beside = tuple(neighbour(items, name) for name in items_form.beside)
    for other in beside:
        if not other.is_file():
            raise UserError(f"{items} needs {other.name} beside it, which is not there.")
    return Source(form.name, interactions, items, form.read_interactions, items_form.read_items, beside)


def read(source: Source, columns: Columns, summary: dict[str, Any]) -> Raw:
    """Reads a data set's raw files; what was read is noted in `summary`.

    Raises:
        UserError: A file is empty or damaged, a column is missing, or a time can't be read.
    """
    path = source.interactions
    table = source.read_interactions(path)
    chosen = interaction_columns(table.names, columns, path)
    frame = table.read(list(chosen.values()))
    if not frame.height:
        raise UserError(f"{path} has a header but no rows. Expected one row an interaction.")
    summary["form"] = source.form
    summary["interactions file"] = path.name
    summary["items file"] = source.items.name if source.items else "none"
    summary["columns"] = ", ".join(f"{role}: {bare(name)}" for role, name in chosen.items())
    summary["rows read"] = frame.height
    place = f"{path}, column '{bare(chosen['order'])}'" if "order" in chosen else str(path)
    values = {role: clean_ids(frame[chosen[role]]) for role in ("user_id", "item_id")}
    if "rating" in chosen:
        values["rating"] = clean_ratings(frame[chosen["rating"]])
    if "order" in chosen:
        values["order"] = clean_order(frame[chosen["order"]], place)
    items = None
    if source.items:
        items = read_items(source.read_items(source.items), columns, chosen["item_id"], summary)
    elif columns.title or columns.text:
        raise UserError(
            f"data.columns.title and .text name columns of an items file, but {path} has none: set data.items."
        )
    return Raw(pl.DataFrame(values), items, path, place)


def _recognise(folder: Path, files: Sequence[Path]) -> tuple[Form, Path]:
    """The first form that has an interactions file among `files`, and that file."""
    for form in FORMS:
        candidates = matching(files, form.interactions)
        if form is JSON_LINES:
            items = matching(files, form.items)
            candidates = [p for p in candidates if p not in items]
        if len(candidates) > 1:
            names = ", ".join(p.name for p in candidates)
            raise UserError(f"{folder} has several interactions files: {names}. Give one of them as data.path.")
        if candidates:
            return form, candidates[0]
    found = ", ".join(p.name for p in files[:20]) + (" …" if len(files) > 20 else "")
    raise UserError(
        f"{folder} holds no known data set: found {found or 'no files'}. "
        f"Expected {EXPECTED}. Or give a file as data.path."
    )


def _items_beside(form: Form, interactions: Path, files: Sequence[Path]) -> Path | None:
    candidates = [p for p in matching(files, form.items) if p != interactions]
    if form is JSON_LINES:  # Amazon's meta_Books.jsonl belongs to Books.jsonl
        candidates = [p for p in candidates if p.name == f"meta_{interactions.name}"] or candidates
    if len(candidates) > 1:
        names = ", ".join(p.name for p in candidates)
        raise UserError(f"{interactions.parent} has several items files: {names}. Give one of them as data.items.")
    return candidates[0] if candidates else None
