"""Bytes of a text file, whatever its compression and encoding: gzip and zstd are unpacked, everything becomes UTF-8."""

from __future__ import annotations

import codecs
import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import pyarrow as pa

from distill.errors import UserError
from distill.progress import say

SAMPLE_BYTES = 1 << 20  # how much of a file is looked at to tell its form
GZIP, ZSTD, PARQUET = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"PAR1"
UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
UNREADABLE = {b"PK\x03\x04": "a zip archive", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"%PDF": "a PDF"}
COMPRESSED_ENDINGS = (".gz", ".zst")
UNPACKING = (OSError, EOFError, zlib.error)


def starts_with(path: Path, magic: bytes) -> bool:
    """Whether the file begins with these bytes."""
    with path.open("rb") as file:
        return file.read(len(magic)) == magic


def compression(path: Path) -> str:
    """'gzip', 'zstd' or '' by the file's first bytes; its name doesn't matter."""
    return "gzip" if starts_with(path, GZIP) else "zstd" if starts_with(path, ZSTD) else ""


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """The file's content as a stream of bytes, unpacked on the way.

    Raises:
        UserError: The compressed data are damaged or cut off.
    """
    packed = compression(path)
    try:
        if packed == "gzip":
            with gzip.open(path) as file:
                yield file  # type: ignore[misc]
        elif packed == "zstd":
            with pa.CompressedInputStream(str(path), "zstd") as file:
                yield file
        else:
            with path.open("rb") as file:
                yield file
    except UNPACKING as error:
        if not packed:
            raise
        raise UserError(f"{path} is damaged {packed} data ({error}). Is the download complete?") from error


def sample_of(path: Path) -> bytes:
    """The first bytes of a file's content.

    Raises:
        UserError: There is no such file, it can't be read, or it is damaged.
    """
    if path.is_dir():
        raise UserError(f"{path} is a folder, but a file was expected there. Give one of its files.")
    try:
        with opened(path) as file:
            return file.read(SAMPLE_BYTES)
    except FileNotFoundError as error:
        raise UserError(f"There is no file '{path}'.") from error
    except OSError as error:
        raise UserError(f"{path} could not be read: {error}. Check its permissions and the disk.") from error


def refuse_binary(path: Path, sample: bytes) -> None:
    """Raises a UserError that says what the file is, where it is no text."""
    for magic, form in UNREADABLE.items():
        if sample.startswith(magic):
            raise UserError(
                f"{path} is {form}, which isn't read. Unpack or convert it to text, JSON lines, Parquet, .gz or .zst."
            )
    if sample.startswith(UTF16):
        return
    strange = sum(sample.count(byte) for byte in range(32) if byte not in b"\t\n\r\x0b\x0c\x1f")
    if b"\0" in sample or strange > len(sample) // 100:
        raise UserError(
            f"{path} is binary data of an unknown form. Expected delimited text, JSON lines or Parquet, "
            "or .gz and .zst of these."
        )


def utf8(path: Path) -> Path | bytes:
    """The path itself where its (unpacked) content is UTF-8, so that polars can stream it; else the content as UTF-8.

    Of other encodings UTF-16 is known by its first bytes; bytes that aren't UTF-8 are read as Windows-1252 one by one,
    so that a file of mixed encodings comes out right too. Where the first such line is, is said.
    """
    sample = sample_of(path)
    if not sample.startswith(UTF16) and _is_utf8(path):
        return path
    with opened(path) as file:
        content = file.read()
    if content.startswith(UTF16):
        return content.decode("utf-16", errors="replace").encode()
    try:
        content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        say(f"{path.name} is not all UTF-8 (first at line {line}); the bytes that aren't are read as Windows-1252.")
    return content.decode("utf-8", errors=WINDOWS).encode()


def content_of(path: Path) -> bytes:
    """The whole unpacked content as UTF-8, for the few forms that can't be streamed."""
    found = utf8(path)
    if isinstance(found, bytes):
        return found
    with opened(found) as file:
        return file.read()


def _is_utf8(path: Path) -> bool:
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:
        with opened(path) as file:
            while block := file.read(SAMPLE_BYTES):
                decoder.decode(block)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True


def _as_windows(error: UnicodeError) -> tuple[str, int]:
    """A codec's error handler: the bytes that aren't UTF-8 as Windows-1252, or Latin-1 where that has no character."""
    if not isinstance(error, UnicodeDecodeError):
        raise error
    wrong = error.object[error.start : error.end]
    try:
        return wrong.decode("cp1252"), error.end
    except UnicodeDecodeError:
        return wrong.decode("latin-1"), error.end


WINDOWS = "taildistill.windows"
codecs.register_error(WINDOWS, _as_windows)
