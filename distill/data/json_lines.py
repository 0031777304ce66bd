"""Files of one JSON object a line, read as strings; also the Python literals that older sets of the same form hold."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import polars as pl

from distill.data.encoding import SAMPLE_BYTES, content_of, opened, utf8
from distill.errors import UserError

ADVICE = "Expected JSON lines: one object a line"
JSON_VALUE = r'(?:"(?:[^"\\]|\\.)*"|-?\d[\d.eE+-]*|null)'
JSON_LIST = rf"^\s*\[\s*(?:{JSON_VALUE}(?:\s*,\s*{JSON_VALUE})*)?\s*\]\s*$"  # of strings and numbers


def scan_json(path: Path, sample: bytes, number_lists: bool = False) -> tuple[pl.LazyFrame, pl.LazyFrame]:
    """JSON lines as strings: numbers as written, lists of strings joined by ", "; nested objects are left out.

    Args:
        path: The file, perhaps compressed.
        sample: Its first bytes, unpacked: the keys of these records are the columns.
        number_lists: Keep lists, those of numbers too, as lists.

    Returns:
        The table, and the same for files that have single values where the sample has lists only: polars then hands
        lists over as text in which backslashes are lost, so it is for files that can't be read otherwise.

    Raises:
        UserError: It is one JSON list, or a line of the sample is no object.
    """
    if sample.lstrip()[:1] == b"[":
        raise UserError(f"{path} holds one JSON list. {ADVICE} (for instance: jq -c '.[]' {path.name} > rows.jsonl).")
    whole = sample.splitlines()
    if len(sample) == SAMPLE_BYTES and len(whole) > 1:
        whole = whole[:-1]
    loose = _is_literal(next(line for line in whole if line.strip()))
    kinds: dict[str, set[type]] = {}
    for number, line in enumerate(whole, start=1):
        if line.strip():
            for key, value in _record(path, number, line, loose).items():
                kinds.setdefault(key, set()).update(_kinds(value, number_lists))
    flat = [key for key, found in kinds.items() if not found & {dict, bool}]
    source = _to_json(path) if loose else utf8(path)
    lists = [key for key in flat if kinds[key] == {list}]
    mixed = [key for key in flat if list in kinds[key] and key not in lists]
    frame = pl.scan_ndjson(source, schema={key: pl.List(pl.String) if key in lists else pl.String for key in flat})
    loose_frame = pl.scan_ndjson(source, schema={key: pl.String for key in flat})
    if number_lists:
        return frame, loose_frame
    joined = [pl.col(key).list.drop_nulls().list.join(", ") for key in lists]
    return (
        frame.with_columns(*joined, *[_join_list(key) for key in mixed]),
        loose_frame.with_columns([_join_list(key) for key in (*lists, *mixed)]),
    )


def first_bad_line(path: Path) -> str:
    """A sentence that names the first line that isn't a JSON object; "" where all are."""
    with opened(path) as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                try:
                    _record(path, number, line, loose=False)
                except UserError as error:
                    return f" {error}"
    return ""


def _record(path: Path, number: int, line: bytes, loose: bool) -> dict[str, Any]:
    try:
        record = ast.literal_eval(line.decode("utf-8", "replace")) if loose else json.loads(line)
    except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
        form = "a Python literal" if loose else "JSON"
        raise UserError(f"{path}: line {number} is not {form} ({error}). {ADVICE}.") from error
    if not isinstance(record, dict):
        raise UserError(f"{path}: line {number} is a {type(record).__name__}. {ADVICE}.")
    return {str(key): value for key, value in record.items()}


def _is_literal(line: bytes) -> bool:
    """Whether a line is a Python dictionary as print() writes it ({u'a': 'b'}), and no JSON."""
    try:
        json.loads(line)
    except ValueError:
        return line.lstrip().startswith((b"{'", b"{u'", b'{u"'))
    return False


def _to_json(path: Path) -> bytes:
    """Python literals as JSON lines; literals hold no code, so nothing is executed."""
    lines = content_of(path).splitlines()
    records = (_record(path, number, line, True) for number, line in enumerate(lines, start=1) if line.strip())
    return b"\n".join(json.dumps(record, default=str).encode() for record in records)


def _kinds(value: object, number_lists: bool) -> set[type]:
    """The types in a JSON value; a list of anything but strings (or numbers, where asked) counts as an object."""
    if isinstance(value, list):
        plain = (str, int, float) if number_lists else (str,)
        return {list} if all(isinstance(v, plain) and not isinstance(v, bool) for v in value) else {dict}
    return set() if value is None else {type(value)}


def _join_list(key: str) -> pl.Expr:
    column = pl.col(key)
    is_list = column.str.contains(JSON_LIST)
    items = pl.when(is_list).then(column).str.json_decode(pl.List(pl.String))
    return pl.when(is_list).then(items.list.drop_nulls().list.join(", ")).otherwise(column).alias(key)
