"""Files from the web: with progress, resumed where they were cut off, checked, and whole or not there at all."""

from __future__ import annotations

import errno
import hashlib
import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from urllib.parse import urlsplit

from distill.errors import UserError
from distill.progress import say, track

BLOCK = 1 << 20
ATTEMPTS = 4
TIMEOUT = 30.0
VARIABLE = "TAILDISTILL_DATA"


class Unreachable(UserError):
    """The file can't be had from its address now; the message says why."""


def store() -> Path:
    """Where public data sets lie: $TAILDISTILL_DATA, else ~/.cache/taildistill."""
    return Path(os.environ.get(VARIABLE) or Path.home() / ".cache" / "taildistill").expanduser()


def fetch(url: str, target: Path, sha256: str = "", pause: float = 1.0) -> Path:
    """Downloads a file; what is there already of an earlier attempt is kept (HTTP Range) if the file hasn't changed.

    Args:
        url: http or https.
        target: Where the whole file comes to lie. Until then it is `<target>.part`.
        sha256: What it must have; "" where none is known.
        pause: Seconds before a second attempt, doubled for each further one.

    Raises:
        Unreachable: No connection, no such file, or it broke off at every attempt.
        UserError: The hash is another (the file is removed), or the disk is full.
    """
    if urlsplit(url).scheme not in ("http", "https"):
        raise UserError(f"'{url}' is no http or https address.")
    if target.is_file():
        check(target, sha256, url)
        return target
    part = target.with_name(target.name + ".part")
    target.parent.mkdir(parents=True, exist_ok=True)
    for attempt in range(ATTEMPTS):
        try:
            _receive(url, part)
            break
        except urllib.error.HTTPError as error:
            if error.code < 500 or attempt == ATTEMPTS - 1:
                raise Unreachable(f"{url} answers {error.code} ({error.reason}).") from error
        except (urllib.error.URLError, HTTPException, TimeoutError, ConnectionError) as error:
            if attempt == ATTEMPTS - 1:
                raise Unreachable(f"{url} could not be reached: {getattr(error, 'reason', error)}.") from error
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise UserError(
                    f"The disk is full: {part} holds what was received. Free some space, or set ${VARIABLE} to a "
                    "folder on another disk, and run the same command again."
                ) from error
            raise
        time.sleep(pause * 2**attempt)
    try:
        check(part, sha256, url)
    except UserError:
        part.unlink()
        raise
    os.replace(part, target)
    _mark(part).unlink(missing_ok=True)
    return target


def check(path: Path, sha256: str, source: str) -> None:
    """Refuses a file whose sha256 isn't the expected one.

    Raises:
        UserError: With both hashes.
    """
    if not sha256:
        return
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        raise UserError(
            f"{path} (from {source}) has the sha256 {found}, expected {sha256}: damaged, or not the published file. "
            "Remove it where it is still there, and run the same command again."
        )


def _receive(url: str, part: Path) -> None:
    """One attempt: goes on behind what `part` holds if the server still has the same file, else begins anew."""
    have = part.stat().st_size if part.is_file() else 0
    headers = {"User-Agent": "taildistill", "Accept-Encoding": "identity"}
    version = _mark(part).read_text() if _mark(part).is_file() else ""
    if have and version:
        headers |= {"Range": f"bytes={have}-", "If-Range": version}
    request = urllib.request.Request(url, headers=headers)
    try:
        response = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # the part is as long as the file, or longer: its hash can't be trusted to be the file's
            part.unlink()
            raise ConnectionError("what was received before doesn't fit the file") from error
        raise
    with response:
        resumed = response.status == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        if response.status == 206 and not resumed:
            part.unlink()
            raise ConnectionError("the server sent another part of the file than was asked for")
        if resumed:
            say(f"{part.stem}: going on behind {have:,} bytes")
        _mark(part).write_text(response.headers.get("ETag") or response.headers.get("Last-Modified") or "")
        length = int(response.headers.get("Content-Length") or -1)
        with part.open("ab" if resumed else "wb") as file:
            blocks = -(-length // BLOCK) if length >= 0 else None
            received = 0
            for block in track(_blocks(response), f"downloading {part.stem}", blocks, unit="MiB"):
                file.write(block)
                received += len(block)
            file.flush()
            os.fsync(file.fileno())
    if 0 <= received < length:
        raise ConnectionError(f"the connection broke off after {received:,} of {length:,} bytes")


def _blocks(response: HTTPResponse) -> Iterator[bytes]:
    while block := response.read(BLOCK):
        yield block


def _mark(part: Path) -> Path:
    """Beside a part lies the version of the file that it belongs to (the server's ETag or date)."""
    return part.with_name(part.name + ".version")
