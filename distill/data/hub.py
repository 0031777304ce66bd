"""Hugging Face `datasets`: a folder that save_to_disk wrote, or a hub address that is fetched into such a folder.

The package is imported only where such data are read. Code from a hub is never run.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import polars as pl

from distill.data.download import store
from distill.data.forms import Form
from distill.data.tables import Table
from distill.errors import UserError
from distill.progress import say

ADDRESS = "hf://"
SIDES = ("items", "users")


def is_address(path: str) -> bool:
    """Whether a path is a hub address: hf://owner/name, or hf://owner/name/configuration."""
    return path.startswith(ADDRESS)


def is_saved(folder: Path) -> bool:
    """Whether `datasets` saved a data set, or several splits of one, in this folder."""
    return (folder / "dataset_dict.json").is_file() or (
        (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file()
    )


def files_of(folder: Path) -> list[Path]:
    """Every file of a saved data set, by name; empty for any other path."""
    return sorted(p for p in folder.rglob("*") if p.is_file()) if is_saved(folder) else []


def splits_of(folder: Path) -> list[str]:
    """Names of the splits in a saved folder, in the order in which they were saved; empty for a single data set."""
    listing = folder / "dataset_dict.json"
    if not listing.is_file():
        return []
    try:
        return [str(name) for name in json.loads(listing.read_text("utf-8"))["splits"]]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{listing} is damaged ({error}). Save the data set again with save_to_disk.") from error


def split_of(folder: Path, name: str) -> Path | None:
    """The folder of the split called "items" or "users", or None."""
    return folder / name if name in splits_of(folder) else None


def read_saved(folder: Path) -> Table:
    """A saved data set as one table.

    Of several splits it is "interactions" where there is one, else all but "items" and "users" one after the other.

    Raises:
        UserError: The package isn't installed, or the folder is damaged.
    """
    splits = splits_of(folder)
    chosen = ["interactions"] if "interactions" in splits else [name for name in splits if name not in SIDES]
    frames = [_frame(folder / name) for name in chosen] if splits else [_frame(folder)]
    if not frames:
        raise UserError(f"{folder} has only the splits {', '.join(splits)}. Expected one that holds interactions.")
    try:
        return Table(folder, pl.concat(frames, how="vertical").lazy())
    except pl.exceptions.PolarsError as error:
        raise UserError(
            f"{folder}: the splits {', '.join(chosen)} differ in their columns ({error}). "
            "Give the folder of one split as data.path, or call them interactions, items and users."
        ) from error


def _frame(folder: Path) -> pl.DataFrame:
    try:
        dataset = _package().load_from_disk(str(folder))
        frame = pl.from_arrow(dataset.with_format("arrow")[:])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{folder} is no whole data set of Hugging Face `datasets`: {error}") from error
    assert isinstance(frame, pl.DataFrame)
    return frame


def fetch(address: str, download: bool) -> Path:
    """The saved copy of a hub data set; fetched once, and only where that is asked for.

    Args:
        address: hf://owner/name, or hf://owner/name/configuration.
        download: Whether it may be fetched.

    Raises:
        UserError: The address is malformed, the data set isn't here and may not or can't be fetched.
    """
    parts = address.removeprefix(ADDRESS).strip("/").split("/")
    if not 2 <= len(parts) <= 3 or not all(part and part[0] != "." for part in parts):
        raise UserError(f"data.path is '{address}', expected hf://owner/name or hf://owner/name/configuration.")
    folder = store() / "hub" / "--".join(parts)
    if is_saved(folder):
        return folder
    by_hand = f"Or save it elsewhere with datasets' save_to_disk and copy the folder to {folder}."
    if not download:
        raise UserError(f"{address} isn't here. To fetch it from the hub set data.download=true. {by_hand}")
    package = _package()
    say(f"fetching {address} into {folder}")
    try:
        dataset = package.load_dataset("/".join(parts[:2]), *parts[2:])
    except Exception as error:  # the package raises its own, the hub's and the network library's errors
        raise UserError(f"{address} could not be fetched: {type(error).__name__}: {error}. {by_hand}") from error
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_to_disk(str(partial))
    os.replace(partial, folder)
    return folder


def _package() -> ModuleType | Any:
    try:
        import datasets
    except ModuleNotFoundError as error:
        raise UserError("Data sets of Hugging Face need the package `datasets`: pip install datasets.") from error
    datasets.disable_progress_bars()
    return datasets


FORM = Form("Hugging Face datasets", (), read_interactions=read_saved, read_items=read_saved, read_users=read_saved)
