"""One file to one table: delimited text of any separator, JSON lines or Parquet, gzipped or not, told by its content.

Delimited text and JSON are read as strings only, so that the id "007" stays "007"; what a column means comes later.
"""

from __future__ import annotations

import codecs
import gzip
import json
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import polars as pl

from distill.errors import UserError
from distill.progress import say

SAMPLE_BYTES = 1 << 20  # how much of a file is looked at to tell its form
SEPARATORS = ("\t", ",", ";", "|")
UNIT = "\x1f"  # stands for "::", since polars separates by one byte
GZIP, PARQUET = b"\x1f\x8b", b"PAR1"
UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
UNREADABLE = {
    b"PK\x03\x04": "a zip archive",
    b"BZh": "bzip2",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"%PDF": "a PDF",
}
QUOTED_FIELD = re.compile(r'(?:^|(?<=[\t\n]))"(?P<rest>(?:[^"]|"")*+"(?=[\t\r\n]|\Z))?')


@dataclass(frozen=True)
class Table:
    """A file that is known how to read, not read yet.

    Attributes:
        path: The file, for messages.
        frame: All its columns, lazily.
        separator: What separates its columns; "" for Parquet and JSON.
    """

    path: Path
    frame: pl.LazyFrame
    separator: str = ""

    @property
    def names(self) -> list[str]:
        """Column names as the file has them."""
        try:
            return self.frame.collect_schema().names()
        except pl.exceptions.PolarsError as error:
            raise UserError(f"{self.path} could not be read: {_first_line(error)}") from error

    def read(self, columns: Sequence[str]) -> pl.DataFrame:
        """The given columns of all rows, in file order.

        Raises:
            UserError: The file is damaged, or rows have more fields than the first line (the first such are named).
        """
        try:
            return self.frame.select(columns).collect()
        except (pl.exceptions.PolarsError, OSError) as error:
            raise UserError(f"{self.path} could not be read: {_first_line(error)}{self._long_lines()}") from error

    def _long_lines(self) -> str:
        if not self.separator:
            return ""
        separator, long = self.separator.encode(), []
        with gzip.open(self.path) if _starts_with(self.path, GZIP) else self.path.open("rb") as lines:
            expected = next(iter(lines), b"").count(separator)
            long = list(islice((i for i, line in enumerate(lines, start=2) if line.count(separator) > expected), 3))
        if not long:
            return ""
        numbers = ", ".join(map(str, long))
        return (
            f" Line(s) {numbers} have more than line 1's {expected + 1} fields: quote fields that hold the separator."
        )


def scan(path: Path, names: Sequence[str] = (), quotes: bool | None = None) -> Table:
    """Opens a table.

    Args:
        path: The file.
        names: Column names of a delimited file without a header line.
        quotes: Whether '"' encloses fields of delimited text (else it is a character like others); None: by content.

    Raises:
        UserError: The file is empty, binary, damaged, or of a form that can't be read.
    """
    sample = _sample(path)
    if not sample.strip():
        raise UserError(f"{path} is empty. Expected a header line and one row an interaction or item.")
    if sample.startswith(PARQUET):
        return Table(path, pl.scan_parquet(path))
    if path.suffix == ".parquet":
        raise UserError(f"{path} is not a Parquet file: it doesn't begin with 'PAR1'. Is the download complete?")
    _refuse_binary(path, sample)
    if sample.lstrip()[:1] in (b"{", b"["):
        return _scan_json(path, sample)
    return _scan_text(path, sample, names, quotes)


def lines(path: Path) -> pl.Series:
    """The lines of a text file, without their ends, empty ones included."""
    _refuse_binary(path, _sample(path))
    content = _utf8(path)
    text = content.decode() if isinstance(content, bytes) else content.read_text("utf-8")
    return pl.Series(text.splitlines(), dtype=pl.String)


def _scan_text(path: Path, sample: bytes, names: Sequence[str], quotes: bool | None) -> Table:
    text = sample.decode("utf-16" if sample.startswith(UTF16) else "utf-8", errors="replace").lstrip("\ufeff")
    first = text.lstrip("\r\n").split("\n", 1)[0].rstrip("\r")
    separator = sniff_separator(first)
    source = _utf8(path)
    if separator == "::":
        content = source if isinstance(source, bytes) else source.read_bytes()
        source = content.replace(b"::", UNIT.encode())
    if quotes is None:
        quotes = separator != "::" and (separator != "\t" or encloses_fields(text))
    columns = None
    if names:
        found = len(first.split(separator)) if separator else 1
        columns = [*names[:found], *(f"column_{i + 1}" for i in range(len(names), found))]
    try:
        frame = pl.scan_csv(
            source,
            separator=UNIT if separator == "::" else separator or ",",
            quote_char='"' if quotes else None,
            has_header=not names,
            new_columns=columns,
            infer_schema=False,
        )
        header = frame.collect_schema().names()
    except pl.exceptions.PolarsError as error:
        raise UserError(f"{path} could not be read as a table: {_first_line(error)}") from error
    stripped = [name.strip() for name in header]
    if len(set(stripped)) < len(stripped):
        raise UserError(f"{path}: two columns have one name; its columns are {', '.join(stripped)}. Rename one.")
    return Table(path, frame.rename(dict(zip(header, stripped, strict=True))), separator)


def sniff_separator(header: str) -> str:
    """What separates the fields of a header line.

    "::" where it occurs, else the most frequent of tab, comma, semicolon and bar outside quotes, "" without any.
    """
    bare = re.sub(r'"[^"]*"', "", header)
    if "::" in bare:
        return "::"
    best = max(SEPARATORS, key=bare.count)
    return best if best in bare else ""


def encloses_fields(text: str) -> bool:
    r"""Whether '"' encloses fields of tab-separated text: every field that begins with it must end with it too.

    Tab-separated files are often written without quoting, where '"Weird Al" Yankovic' is just a name.
    """
    return all(field["rest"] is not None for field in QUOTED_FIELD.finditer(text))


def _scan_json(path: Path, sample: bytes) -> Table:
    """JSON lines as strings: numbers as written, lists of strings joined by ", "; nested objects are left out."""
    advice = "Expected JSON lines: one object a line"
    if sample.lstrip()[:1] == b"[":
        raise UserError(f"{path} holds one JSON list. {advice} (for instance: jq -c '.[]' {path.name} > rows.jsonl).")
    whole = sample.splitlines()
    if len(sample) == SAMPLE_BYTES and len(whole) > 1:
        whole = whole[:-1]
    kinds: dict[str, set[type]] = {}
    for number, line in enumerate(whole, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise UserError(f"{path}: line {number} is not JSON ({error}). {advice}.") from error
        if not isinstance(record, dict):
            raise UserError(f"{path}: line {number} is a {type(record).__name__}. {advice}.")
        for key, value in record.items():
            kinds.setdefault(key, set()).update(_kinds(value))
    flat = [key for key, found in kinds.items() if not found & {dict, bool}]
    content = _utf8(path)
    frame = pl.scan_ndjson(content, schema={key: pl.String for key in flat})
    joined = [_join_list(key) for key in flat if list in kinds[key]]
    return Table(path, frame.with_columns(joined))


def _kinds(value: object) -> set[type]:
    """The types in a JSON value; a list of anything but strings counts as an object."""
    if isinstance(value, list):
        return {list} if all(isinstance(v, str) for v in value) else {dict}
    return set() if value is None else {type(value)}


def _join_list(key: str) -> pl.Expr:
    column = pl.col(key)
    is_list = column.str.starts_with("[")
    items = pl.when(is_list).then(column).str.json_decode(pl.List(pl.String))
    return pl.when(is_list).then(items.list.drop_nulls().list.join(", ")).otherwise(column).alias(key)


def _starts_with(path: Path, magic: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(magic)) == magic


def _sample(path: Path) -> bytes:
    """The first bytes of a file, unzipped where it is gzipped."""
    with path.open("rb") as file:
        start = file.read(SAMPLE_BYTES)
    if not start.startswith(GZIP):
        return start
    try:
        with gzip.open(path) as file:
            return file.read(SAMPLE_BYTES)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} is damaged gzip data ({error}). Is the download complete?") from error


def _refuse_binary(path: Path, sample: bytes) -> None:
    for magic, form in UNREADABLE.items():
        if sample.startswith(magic):
            raise UserError(
                f"{path} is {form}, which isn't read. Unpack or convert it to text, JSON lines, Parquet or .gz."
            )
    if sample.startswith(UTF16):
        return
    strange = sum(sample.count(byte) for byte in range(32) if byte not in b"\t\n\r\x0b\x0c\x1f")
    if b"\0" in sample or strange > len(sample) // 100:
        raise UserError(
            f"{path} is binary data of an unknown form. Expected delimited text, JSON lines, Parquet or .gz of these."
        )


def _utf8(path: Path) -> Path | bytes:
    """The path itself where the file is plain UTF-8, which polars can map into memory; else its content as UTF-8."""
    if _starts_with(path, GZIP):
        try:
            content = gzip.decompress(path.read_bytes())
        except (OSError, EOFError, zlib.error) as error:
            raise UserError(f"{path} is damaged gzip data ({error}). Is the download complete?") from error
    elif _starts_with(path, UTF16[0]) or _starts_with(path, UTF16[1]):
        content = path.read_bytes()
    elif _is_utf8(path):
        return path
    else:
        content = path.read_bytes()
    if content.startswith(UTF16):
        return content.decode("utf-16", errors="replace").encode()
    try:
        content.decode("utf-8")
        return content
    except UnicodeDecodeError:
        say(f"{path.name} is not UTF-8; reading it as Latin-1.")
    try:
        return content.decode("cp1252").encode()
    except UnicodeDecodeError:
        return content.decode("latin-1").encode()


def _is_utf8(path: Path) -> bool:
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        with path.open("rb") as file:
            while block := file.read(SAMPLE_BYTES):
                decoder.decode(block)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0]
