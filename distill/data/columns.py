"""Which column of a file plays which part: named by the user, or guessed from common names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from distill.config import Columns
from distill.errors import UserError
from distill.plugins import nearest

# Common names without case, underscores and RecBole's ":type"; earlier ones win.
NAMES = {
    "user_id": (
        "userid",
        "user",
        "uid",
        "reviewerid",
        "customerid",
        "visitorid",
        "householdid",
        "username",
        "sessionid",
        "session",
    ),
    "item_id": (
        "itemid",
        "movieid",
        "item",
        "iid",
        "parentasin",
        "asin",
        "artistid",
        "productid",
        "bookid",
        "newsid",
        "trackid",
        "businessid",
        "isbn",
        "sku",
    ),
    "rating": ("rating", "score", "weight", "stars", "overall", "bookrating"),
    "order": (
        "timestamp",
        "time",
        "date",
        "datetime",
        "position",
        "unixreviewtime",
        "transactiontimestamp",
        "eventtime",
        "dateadded",
    ),
    "title": ("title", "name", "movietitle", "booktitle", "appname"),
    "sequence": ("sequence", "items", "itemids", "itemsequence", "itemlist", "history"),
}
REQUIRED = ("user_id", "item_id")


def bare(name: str) -> str:
    """A column name without RecBole's ":type"."""
    return re.sub(r":\w+$", "", name)


def canonical(name: str) -> str:
    """A column name without ":type", case, spaces, underscores and hyphens: what guesses compare."""
    return re.sub(r"[\s_\-]", "", bare(name)).lower()


def guess(role: str, available: Iterable[str]) -> str | None:
    """The column that plays `role` judging by its name, or None."""
    by_name: dict[str, str] = {}
    for name in available:
        by_name.setdefault(canonical(name), name)
    return next((by_name[name] for name in NAMES[role] if name in by_name), None)


def find(wanted: str, available: Sequence[str], path: Path, key: str) -> str:
    """The column that the user named, with or without ":type".

    Raises:
        UserError: The file has no such column; the message gives the nearest and all there are.
    """
    for name in available:
        if wanted in (name, bare(name)):
            return name
    names = [bare(name) for name in available]
    raise UserError(
        f"{path} has no column '{wanted}' (data.columns.{key}){nearest(wanted, names)}. "
        f"Its columns are: {', '.join(names)}."
    )


def interaction_columns(available: Sequence[str], columns: Columns, path: Path) -> dict[str, str]:
    """Part ("user_id", "item_id", "rating", "order") to column of an interactions file; optional parts may be absent.

    Raises:
        UserError: A column that the user named isn't there, there is no user or item column, or one plays two parts.
    """
    chosen: dict[str, str] = {}
    for role in ("user_id", "item_id", "rating", "order"):
        wanted = getattr(columns, role)
        found = find(wanted, available, path, role) if wanted else guess(role, available)
        if found is not None:
            chosen[role] = found
    for role in REQUIRED:
        if role not in chosen:
            names = ", ".join(bare(name) for name in available)
            known = ", ".join(NAMES[role])
            raise UserError(
                f"{path}: no {role} column among: {names}. Name it with data.columns.{role}=…, or use a common name "
                f"({known}). The first line must be a header."
            )
    for role, name in chosen.items():
        twins = [other for other, column in chosen.items() if column == name and other != role]
        if twins:
            raise UserError(
                f"{path}: column '{bare(name)}' can't be both {role} and {twins[0]}. Set data.columns.{role}=…."
            )
    return chosen


def sequence_column(available: Sequence[str], columns: Columns, path: Path) -> str:
    """The column that holds a list of items a row: as named, else by a common name where there is no item column.

    Returns:
        "" where each row is one interaction.

    Raises:
        UserError: The column that the user named isn't there.
    """
    if columns.sequence:
        return find(columns.sequence, available, path, "sequence")
    has_items = columns.item_id or guess("item_id", available)
    return "" if has_items else guess("sequence", available) or ""


def user_id_column(available: Sequence[str], columns: Columns, path: Path, interactions_name: str) -> str:
    """The id column of a users file: named as in the interactions, else by a common name, else "id".

    Raises:
        UserError: None of these is there.
    """
    wanted = {bare(columns.user_id), bare(interactions_name)} - {""}
    same = next((name for name in available if bare(name) in wanted), None)
    found = same or guess("user_id", available) or next((name for name in available if canonical(name) == "id"), None)
    if found is None:
        raise UserError(
            f"{path}: no user id column among: {', '.join(bare(name) for name in available)}. "
            f"Call it as in the interactions file ('{bare(interactions_name)}') or 'user_id'."
        )
    return found


def item_id_column(available: Sequence[str], columns: Columns, path: Path, interactions_name: str) -> str:
    """The id column of an items file: named as in the interactions, else by a common name, else "id".

    Raises:
        UserError: None of these is there.
    """
    for name in available:
        if (columns.item_id and bare(name) == bare(columns.item_id)) or bare(name) == bare(interactions_name):
            return name
    found = guess("item_id", available) or next((name for name in available if canonical(name) == "id"), None)
    if found is None:
        names = ", ".join(bare(name) for name in available)
        raise UserError(
            f"{path}: no item id column among: {names}. "
            f"Call it as in the interactions file ('{bare(interactions_name)}') or 'item_id'."
        )
    return found
