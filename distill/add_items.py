"""Command `add-items`: items that are new since the training, recommended from their text, in a bundle of their own."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from distill.config import Columns, Config, load
from distill.data.catalogue import COLUMN, read_items, words_of
from distill.data.dataset import Dataset
from distill.data.features import Features
from distill.data.tables import scan
from distill.data.text_template import fill
from distill.errors import UserError
from distill.export_student import build_bundle
from distill.plugins import resolve
from distill.progress import say
from distill.runs import open_stage
from students.checkpoint import load_student

DESCRIPTION = """Adds items to a trained run's catalogue without training: the teacher's text tower reads their texts,
the student's projection turns these into item vectors, and a new bundle holds the old items and the new ones behind
them. It passes the same parity gate as any export. The student must have been trained with `cold: true` (`two_tower`
is, unless told otherwise), on the vectors of a `text_tower`."""
EXAMPLES = """examples:
  distill add-items configs/mine.yaml new_items.csv
  distill add-items configs/mine.yaml new_items.csv --output bundles/with_new_items
  distill recommend runs/mine/export_with_new_items --history 17,204"""


def add_items_command(arguments: Sequence[str]) -> int:
    """`distill add-items`: writes the bundle and returns 0.

    Raises:
        UserError: The run isn't trained, its student or teacher can't read new texts, an item is there already or has
            no text, or a file fails the parity gate.
    """
    chosen = make_parser().parse_args(arguments)
    config = load(chosen.config, chosen.overrides)
    folder = Path(chosen.output) if chosen.output else config.folder / "export_with_new_items"
    count = add_items(config, Path(chosen.items), folder)
    say(f"{count} items added, {folder} holds the bundle")
    return 0


def add_items(config: Config, path: Path, folder: Path) -> int:
    """Writes a bundle of the run's items and of those in a file; returns how many were added.

    Args:
        config: Of a run with the stages `data`, `teacher` and `student`.
        path: Items in the form of the data set's items file.
        folder: Where the bundle goes.

    Raises:
        UserError: See `add_items_command`.
    """
    for stage in ("data", "teacher", "student"):
        open_stage(config.folder / stage, config.source)
    dataset: Dataset = Dataset.read(config.folder / "data")
    items = new_items(config, path, dataset)
    student: Any = load_student(config.folder / "student")
    if not hasattr(student, "grow") or hasattr(student, "core"):
        raise UserError(
            f"{type(student).__name__} can't be given new items. Students of item tables can, without a user side and "
            "further heads: two_tower, hybrid_cf, mf, mlp_only, sasrec_small, gru4rec_small."
        )
    student.grow(text_vectors(config, items["text"].to_list()))
    folder.mkdir(parents=True, exist_ok=True)
    whole = dataclasses.replace(
        dataset,
        item_ids=np.concatenate([dataset.item_ids.astype(str), items["item_id"].to_numpy().astype(str)]),
        titles=[*dataset.titles, *items["title"].to_list()],
        texts=[*dataset.texts, *items["text"].to_list()],
        features=Features(),
    )
    build_bundle(config, whole, student, folder)
    return len(items)


def new_items(config: Config, path: Path, dataset: Dataset) -> pl.DataFrame:
    """The items of a file with item_id, title and text, the text made of the columns that the data set's is made of.

    Raises:
        UserError: The file can't be read, holds an item of the data set, or one without text.
    """
    if not path.is_file():
        raise UserError(f"There is no file '{path}'. Expected items like those of the data set's items file.")
    columns, made_of = config.data.columns, str(dataset.summary.get("item text columns", ""))
    if not columns.text and made_of not in ("", "none"):
        columns = dataclasses.replace(columns, text=made_of.split(", "))
    items = read_items(scan(path), _known(columns), "item_id", {})
    if config.data.text_template:
        words = {name.removeprefix(COLUMN): words_of(items[name]) for name in items.columns if name.startswith(COLUMN)}
        items = items.with_columns(text=fill(config.data.text_template, words, path))
    there = items.filter(pl.col("item_id").is_in(dataset.item_ids.astype(str).tolist()))["item_id"].to_list()
    if there:
        raise UserError(
            f"{path}: {len(there)} of {len(items)} items are in the catalogue already, the first is '{there[0]}'. "
            "Leave them out: what is learned of them can't be replaced without training."
        )
    bare = items.filter(pl.col("text").str.strip_chars() == "")["item_id"].to_list()
    if bare:
        raise UserError(f"{path}: {len(bare)} items have no text, the first is '{bare[0]}'. A new item is its text.")
    return items.select("item_id", "title", "text")


def _known(columns: Columns) -> Columns:
    """Only what is said of the items file."""
    return Columns(item_id=columns.item_id, title=columns.title, text=columns.text)


def text_vectors(config: Config, texts: list[str]) -> torch.Tensor:
    """Vectors (M, T) of new texts, in the space of the vectors that the student was built from.

    Raises:
        UserError: These came from something that reads no texts, or had features joined to them.
    """
    if config.teacher.item_features:
        raise UserError("teacher.item_features joins features to the text vectors; new items would have none.")
    for name, spec in config.teacher.members.items():
        if config.teacher.item_vectors not in ("", name):
            continue
        member = resolve("teacher", spec.name)(**spec.arguments).load(config.folder / "teacher" / name)
        if member.item_vectors() is None:
            continue
        if not hasattr(member, "encode"):
            raise UserError(
                f"The student's item vectors come from '{name}' ({spec.name}), which reads no new texts. Train with "
                "teacher.item_vectors set to a text_tower."
            )
        return member.encode(texts)
    raise UserError("No member of the teacher has item vectors, so new items can't be placed. Add a text_tower.")


def make_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser(
        prog="distill add-items",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", metavar="CONFIG", help="the experiment's YAML")
    parser.add_argument("items", metavar="ITEMS", help="a file with the new items, columns as in the items file")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings in place of the file's")
    parser.add_argument("--output", default="", help="the bundle's folder; <run>/export_with_new_items by default")
    return parser
