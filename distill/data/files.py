"""Writing a file whole or not at all."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from distill.errors import UserError

FULL = (errno.ENOSPC, errno.EDQUOT)


def write_atomically(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Writes a file under a temporary name, has the disk take it, then gives it its name.

    Args:
        path: The file.
        write: Gets the open temporary file.

    Raises:
        UserError: The disk is full; the half of a file that fitted is removed.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        # polars wraps the system's error in one of its own and keeps only the words
        if getattr(error, "errno", None) in FULL or "No space left on device" in str(error):
            raise UserError(
                f"The disk is full: {path} could not be written. Nothing half-written was left. Free some space, or "
                "write elsewhere with run.folder=…, and run the same command again."
            ) from error
        raise
