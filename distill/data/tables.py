"""One file to one table: delimited text, JSON lines or Parquet, compressed or not, told by its content.

Delimited text and JSON are read as strings only, so that the id "007" stays "007"; what a column means comes later.
Tables are lazy: what isn't asked for isn't read, and polars streams files that are UTF-8 already.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import polars as pl

from distill.data.encoding import PARQUET, UTF16, content_of, opened, refuse_binary, sample_of, utf8
from distill.data.json_lines import first_bad_line, scan_json
from distill.errors import UserError

SEPARATORS = ("\t", ",", ";", "|")
UNIT = "\x1f"  # stands for separators of several bytes, such as "::", since polars separates by one
QUOTED_FIELD = re.compile(r'(?:^|(?<=[\t\n]))"(?P<rest>(?:[^"]|"")*+"(?=[\t\r\n]|\Z))?')


@dataclass(frozen=True)
class Table:
    """A file that is known how to read, not read yet.

    Attributes:
        path: The file (or the folder of its parts), for messages.
        frame: All its columns, lazily.
        separator: What separates its columns; "" for Parquet and JSON.
        explain: Says which rows are wrong where reading fails.
        fallback: The same more loosely, for files whose later rows differ from the first ones.
    """

    path: Path
    frame: pl.LazyFrame
    separator: str = ""
    explain: Callable[[Path], str] | None = None
    fallback: pl.LazyFrame | None = None

    @property
    def names(self) -> list[str]:
        """Column names as the file has them."""
        try:
            return self.frame.collect_schema().names()
        except (pl.exceptions.PolarsError, OSError) as error:
            raise UserError(f"{self.path} could not be read: {_first_line(error)}. {_whole(self.path)}") from error

    def read(self, columns: Sequence[str]) -> pl.DataFrame:
        """The given columns of all rows, in file order.

        Raises:
            UserError: The file is damaged, or rows have more fields than the first line (the first such are named).
        """
        try:
            return self.frame.select(columns).collect()
        except (pl.exceptions.PolarsError, OSError) as error:
            if self.fallback is not None:
                return replace(self, frame=self.fallback, fallback=None).read(columns)
            rows = self.explain(self.path) if self.explain else ""
            reason = f"{self.path} could not be read: {_first_line(error)}.{rows}"
            raise UserError(reason if rows else f"{reason} {_whole(self.path)}") from error


def scan(
    path: Path,
    names: Sequence[str] = (),
    quotes: bool | None = None,
    separator: str = "",
    number_lists: bool = False,
    rewrite: Callable[[bytes], bytes] | None = None,
) -> Table:
    """Opens a table.

    Args:
        path: The file, or a folder of Parquet parts.
        names: Column names of a delimited file without a header line.
        quotes: Whether '"' encloses fields of delimited text (else it is a character like others); None: by content.
        separator: What separates fields of delimited text, one character or more; "": by the first line.
        number_lists: Whether JSON's lists of numbers are kept (as '[1, 2]'); lists of strings always are.
        rewrite: Mends the content of delimited text before it is parsed.

    Raises:
        UserError: The file is empty, binary, damaged, or of a form that can't be read.
    """
    if path.is_dir():
        return scan_parts(path)
    sample = sample_of(path)
    if not sample.strip():
        raise UserError(f"{path} is empty. Expected a header line and one row an interaction or item.")
    if sample.startswith(PARQUET):
        return Table(path, pl.scan_parquet(path))
    if path.suffix == ".parquet":
        raise UserError(f"{path} is not a Parquet file: it doesn't begin with 'PAR1'. Is the download complete?")
    refuse_binary(path, sample)
    if not separator and sample.lstrip()[:1] in (b"{", b"["):
        frame, fallback = scan_json(path, sample, number_lists)
        return Table(path, frame, explain=first_bad_line, fallback=fallback)
    return _scan_text(path, sample, names, quotes, separator, rewrite)


def parts_of(folder: Path) -> list[Path]:
    """The Parquet files of a folder and of folders in it, by name; hidden files and Spark's marks are left out."""
    found = sorted(p for p in folder.rglob("*.parquet") if p.is_file())
    return [p for p in found if not any(part.startswith((".", "_")) for part in p.relative_to(folder).parts)]


def scan_parts(folder: Path) -> Table:
    """A folder of Parquet parts (as Spark, pandas and polars write them) as one table, parts in order of their names.

    Raises:
        UserError: There is no part, or parts differ in their columns.
    """
    parts = parts_of(folder)
    if not parts:
        raise UserError(f"{folder} is a folder without Parquet files. Expected a file, or a folder of *.parquet parts.")
    frame = pl.scan_parquet(parts, hive_partitioning=True)
    table = Table(folder, frame)
    first = set(_schema(parts[0]))
    for part in parts[1:]:
        if difference := first ^ set(_schema(part)):
            raise UserError(
                f"{part} and {parts[0].name} differ in the column(s) {', '.join(sorted(difference))}: "
                f"not parts of one table. Give one of them as data.path, or move the others away."
            )
    return table


def _schema(part: Path) -> list[str]:
    return Table(part, pl.scan_parquet(part, hive_partitioning=False)).names


def lines(path: Path) -> pl.Series:
    """The lines of a text file, without their ends, empty ones included."""
    refuse_binary(path, sample_of(path))
    return pl.Series(content_of(path).decode().splitlines(), dtype=pl.String)


def _scan_text(
    path: Path,
    sample: bytes,
    names: Sequence[str],
    quotes: bool | None,
    separator: str,
    rewrite: Callable[[bytes], bytes] | None,
) -> Table:
    text = sample.decode("utf-16" if sample.startswith(UTF16) else "utf-8", errors="replace").lstrip("\ufeff")
    first = text.lstrip("\r\n").split("\n", 1)[0].rstrip("\r")
    separator = separator or sniff_separator(first)
    source = utf8(path)
    long = len(separator.encode()) > 1
    if long or rewrite:
        content = source if isinstance(source, bytes) else content_of(path)
        content = rewrite(content) if rewrite else content
        source = content.replace(separator.encode(), UNIT.encode()) if long else content
    if quotes is None:
        quotes = not long and (separator != "\t" or encloses_fields(text))
    columns = None
    if names:
        found = len(first.split(separator)) if separator else 1
        columns = [*names[:found], *(f"column_{i + 1}" for i in range(len(names), found))]
    try:
        frame = pl.scan_csv(
            source,
            separator=UNIT if long else separator or ",",
            quote_char='"' if quotes else None,
            has_header=not names,
            new_columns=columns,
            infer_schema=False,
        )
        header = frame.collect_schema().names()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise UserError(f"{path} could not be read as a table: {_first_line(error)}. {_whole(path)}") from error
    stripped = [name.strip() for name in header]
    if len(set(stripped)) < len(stripped):
        raise UserError(f"{path}: two columns have one name; its columns are {', '.join(stripped)}. Rename one.")
    frame = frame.rename(dict(zip(header, stripped, strict=True)))
    return Table(path, frame, separator, lambda path: long_lines(path, separator))


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


def long_lines(path: Path, separator: str) -> str:
    """A sentence that names the first lines with more fields than the first line has; "" where there are none."""
    if not separator:
        return ""
    mark = separator.encode()
    with opened(path) as file:
        expected = next(iter(file), b"").count(mark)
        long = list(islice((i for i, line in enumerate(file, start=2) if line.count(mark) > expected), 3))
    if not long:
        return ""
    numbers = ", ".join(map(str, long))
    return f" Line(s) {numbers} have more than line 1's {expected + 1} fields: quote fields that hold the separator."


def _whole(path: Path) -> str:
    return f"Is {path.name} complete (a whole download, a finished export)?"


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0].rstrip(".")
