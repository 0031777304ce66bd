"""Zip and tar archives of public sets, unpacked into one folder and nowhere else."""

from __future__ import annotations

import os
import shutil
import tarfile
import zipfile
from pathlib import Path, PurePosixPath

from distill.errors import UserError

ENDINGS = (".zip", ".tar", ".tar.gz", ".tgz")


def is_archive(path: Path) -> bool:
    """Whether the file's name is that of an archive that `unpack` takes."""
    return path.name.lower().endswith(ENDINGS)


def unpack(archive: Path, folder: Path) -> Path:
    """Unpacks an archive into `folder`, which appears only when it is whole; an earlier one is replaced.

    Plain files and folders are unpacked. A member that would lie outside the folder, a link or a device file is refused
    before anything is written, and so is an archive that holds more than the disk has room for.

    Raises:
        UserError: The archive is damaged, unsafe, or too large.
    """
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as file:
                entries = file.infolist()
                links = [e.filename for e in entries if (e.external_attr >> 16) & 0o170000 == 0o120000]
                _check(archive, partial, [e.filename for e in entries], links, sum(e.file_size for e in entries))
                file.extractall(partial)
        else:
            with tarfile.open(archive) as file:
                members = file.getmembers()
                strange = [m.name for m in members if not (m.isfile() or m.isdir())]
                _check(archive, partial, [m.name for m in members], strange, sum(m.size for m in members))
                file.extractall(partial, filter="data")
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, OSError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise UserError(f"{archive} could not be unpacked: {error}. Is the download complete?") from error
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(partial, folder)
    return folder


def _check(archive: Path, folder: Path, names: list[str], strange: list[str], size: int) -> None:
    for name in names:
        path = PurePosixPath(name.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts or ":" in (path.parts[0] if path.parts else ""):
            raise UserError(f"{archive} holds '{name}', which would lie outside its folder. It was not unpacked.")
    if strange:
        raise UserError(f"{archive} holds '{strange[0]}', which is a link or a device. It was not unpacked.")
    free = shutil.disk_usage(folder).free
    if size > free:
        raise UserError(f"{archive} holds {size:,} bytes, but {folder.parent} has {free:,} left. Free some space.")
