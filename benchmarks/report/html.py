"""HTML that is escaped by default: a tag builder, tables and phrases. Nothing else in the report writes markup."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.report.shape import printable
from benchmarks.report.text import anything, phrase

VOID = {"br", "meta", "wbr"}


class Html(str):
    """Markup that is already safe; every other string is text and gets escaped."""

    __slots__ = ()


Child = str | None | Iterable["Child"]


def tag(name: str, /, *children: Child, **attributes: Any) -> Html:
    """One element.

    Args:
        name: Element name.
        children: Text (escaped), `Html` (kept), nested sequences of both, or None (left out).
        attributes: `class_` is class and `aria_label` is aria-label; None and False leave an attribute out, True makes
            it bare.
    """
    start = "".join(
        _attribute(key, value) for key, value in attributes.items() if value is not None and value is not False
    )
    if name in VOID:
        return Html(f"<{name}{start}>")
    return Html(f"<{name}{start}>{join(children)}</{name}>")


def join(children: Child) -> Html:
    """Children one after the other, escaped where they are text."""
    if children is None:
        return Html("")
    if isinstance(children, Html):
        return children
    if isinstance(children, str):
        return Html(html.escape(printable(children)))
    return Html("".join(join(child) for child in children))


def section(identity: str, title: str, *children: Child, note: Child = None) -> Html:
    """A landmark with a second-level heading."""
    heading = tag("h2", title, id=f"{identity}-title")
    about = tag("p", note, class_="note") if note else None
    return tag("section", heading, about, *children, id=identity, aria_labelledby=f"{identity}-title")


def scroll_box(label: str, table: Html) -> Html:
    """A table in a box of its own that scrolls sideways, also by keyboard, so that the page never does."""
    return tag("div", table, class_="scroll", role="region", aria_label=label, tabindex="0")


def wide_caption(text: str) -> Html:
    """A caption that stays in sight, and wraps at the width of the screen, while its table scrolls sideways."""
    return tag("caption", tag("span", text))


def data_table(
    caption: str, header: Sequence[Child], rows: Iterable[Sequence[Child]], class_: str | None = None
) -> Html:
    """A table with a caption, whose first cell of each row is the row's heading.

    Args:
        caption: What the table holds; also the name of its scroll box.
        header: Headings of the columns.
        rows: Cells of each row.
        class_: Extra class of the table.
    """
    head = tag("tr", [tag("th", cell, scope="col") for cell in header])
    body = [tag("tr", tag("th", first, scope="row"), [tag("td", cell) for cell in rest]) for first, *rest in rows]
    table = tag("table", wide_caption(caption), tag("thead", head), tag("tbody", body), class_=class_)
    return scroll_box(caption, table)


def record_table(caption: str, first: str, records: Mapping[str, Any]) -> Html | None:
    """A table of named records that share most keys, such as the strata of a gate; None where there are none."""
    rows = {str(name): value if isinstance(value, Mapping) else {"value": value} for name, value in records.items()}
    keys = list(dict.fromkeys(key for row in rows.values() for key in row))
    if not rows or not keys:
        return None
    body = [[name, *(_cell(key, row.get(key)) for key in keys)] for name, row in rows.items()]
    return data_table(caption, [first, *(phrase(key) for key in keys)], body)


def plain_text(children: Child) -> str:
    """The text of children without its tags; small print goes into brackets."""
    text = re.sub(r"<small>(.*?)</small>", r" (\1)", join(children))
    return html.unescape(re.sub(r"<[^>]+>", "", text))


def code(name: str) -> Html:
    """An exact name, which may break after its underscores."""
    head, *rest = name.split("_")
    return tag("code", head, [["_", tag("wbr"), part] for part in rest])


def facts(pairs: Iterable[tuple[str, Child]]) -> Html:
    """A list of terms and values."""
    return tag("dl", [tag("div", tag("dt", term), tag("dd", value)) for term, value in pairs], class_="facts")


def _cell(key: str, value: Any) -> Child:
    text = anything(key, value)
    return tag("span", text, class_="yes" if value else "no") if isinstance(value, bool) else text


def _attribute(key: str, value: Any) -> str:
    name = key.rstrip("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{html.escape(printable(value), quote=True)}"'
