"""Command `distill synthesize`: writes a synthetic data set of any size, for tests and for runs at scale."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from distill.data.synthetic import write_interactions, write_items
from distill.errors import UserError
from distill.progress import say


def synthesize_command(arguments: Sequence[str]) -> int:
    """Runs `distill synthesize`.

    Raises:
        UserError: A number is below 1, or the folder holds something already.
    """
    chosen = make_parser().parse_args(list(arguments))
    synthesize(Path(chosen.out), chosen.users, chosen.items, chosen.interactions, chosen.seed)
    say(f"{chosen.out}: now `distill prepare configs/quickstart.yaml data.path={chosen.out} run.name=synthetic`")
    return 0


def synthesize(folder: Path, users: int, items: int, interactions: int, seed: int = 0) -> None:
    """Writes `interactions.parquet` and `items.parquet` into a new or empty folder, as `prepare` reads them.

    Raises:
        UserError: A number is below 1, the folder holds something already, or the disk is full.
    """
    for name, number in (("users", users), ("items", items), ("interactions", interactions)):
        if number < 1:
            raise UserError(f"--{name} is {number}, expected 1 or more.")
    if seed < 0:
        raise UserError(f"--seed is {seed}, expected 0 or more.")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"'{folder}' (--out) is there and not an empty folder. Give a new one, or remove it.")
    folder.mkdir(parents=True, exist_ok=True)
    write_items(folder / "items.parquet", users, items, seed)
    write_interactions(folder / "interactions.parquet", users, items, interactions, seed)


def make_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = argparse.ArgumentParser(
        prog="distill synthesize",
        description="Write synthetic interactions and items: popularity by Zipf's law, interests of users that drift, "
        "texts that tell an item's interest. The same numbers and seed give the same files.",
        epilog="For instance `distill synthesize --users 200000 --items 50000 --interactions 20000000 --out big`.",
    )
    parser.add_argument("--users", type=int, default=10_000, help="how many users (10,000)")
    parser.add_argument("--items", type=int, default=2_000, help="how many items (2,000)")
    parser.add_argument("--interactions", type=int, default=200_000, help="how many rows (200,000)")
    parser.add_argument("--seed", type=int, default=0, help="of all draws (0)")
    parser.add_argument("--out", required=True, metavar="FOLDER", help="a new folder")
    return parser
