"""Item texts from a template such as "{title} ({year}). {genres}"."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from string import Formatter

import polars as pl

from distill.errors import UserError
from distill.plugins import nearest


def fields_of(template: str) -> list[tuple[str, str]]:
    """A template as (literal text, field name) pairs; the last may have an empty name.

    Raises:
        UserError: Braces don't match, or a field is more than a name.
    """
    try:
        pieces = list(Formatter().parse(template))
    except ValueError as error:
        raise UserError(
            f"data.text_template '{template}' can't be read ({error}). Expected column names in braces, such as "
            "'{title} ({year}). {genres}'; a brace itself is written twice."
        ) from error
    found = []
    for literal, name, form, conversion in pieces:
        if name is not None and (not name.strip() or form or conversion):
            shown = f"{{{name}{'!' + conversion if conversion else ''}{':' + form if form else ''}}}"
            raise UserError(f"data.text_template has the field '{shown}'; expected only a column's name in the braces.")
        found.append((literal, (name or "").strip()))
    if not any(name for _, name in found):
        raise UserError(f"data.text_template '{template}' names no column, so that all items would have one text.")
    return found


def fill(template: str, columns: Mapping[str, pl.Series], path: Path) -> pl.Series:
    """One text an item. What is missing leaves no empty brackets and no stray punctuation behind.

    Args:
        template: Text with column names in braces.
        columns: The words of each column, null where missing.
        path: The items file, for the message.

    Raises:
        UserError: A field is no column of the items file.
    """
    pieces = fields_of(template)
    for _, name in pieces:
        if name and name not in columns:
            raise UserError(
                f"{path} has no column '{name}' (data.text_template){nearest(name, columns)}. "
                f"Its columns are: {', '.join(columns)}."
            )
    used = list(dict.fromkeys(name for _, name in pieces if name))
    frame = pl.DataFrame({f"column_{i}": columns[name] for i, name in enumerate(used)})
    names = {name: pl.col(f"column_{i}").fill_null("") for i, name in enumerate(used)}
    parts = [part for literal, name in pieces for part in (pl.lit(literal), names.get(name, pl.lit("")))]
    text = frame.select(text=pl.concat_str(parts))["text"]
    text = text.str.replace_all(r"\(\s*\)|\[\s*\]|\{\s*\}", "").str.replace_all(r"\s+([.,;:!?)\]])", "$1")
    text = text.str.replace_all(r"([.!?])(?:\s*[.,;:])+(\s|$)", "$1$2").str.replace_all(r"[,;:](?:\s*[,;:])+", ",")
    text = text.str.replace_all(r"\s+", " ").str.strip_chars(" ,;:|-").str.strip_chars_start(". ")
    nothing = frame.select(nothing=pl.all_horizontal(pl.all().fill_null("").str.strip_chars() == ""))["nothing"]
    return text.set(nothing, "")
