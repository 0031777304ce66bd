"""Command `distill datasets`: lists known public data sets and fetches one where that is asked for."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from rich.table import Table

from distill.data.download import VARIABLE, store
from distill.data.named import SETS, folder_of, local
from distill.progress import console, say


def datasets_command(arguments: Sequence[str]) -> int:
    """Runs `distill datasets` or `distill datasets get NAME`.

    Raises:
        UserError: The name is unknown, or the set can't be fetched; the text says what to put where.
    """
    parser = make_parser()
    chosen = parser.parse_args(list(arguments))
    if chosen.action == "get":
        if not chosen.name:
            parser.error("get needs the NAME of a set")
        say(f"{chosen.name}: {folder_of(chosen.name, download=True)}")
        return 0
    show()
    return 0


def make_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = argparse.ArgumentParser(
        prog="distill datasets",
        description="List public data sets; with `get NAME`, download one. Nothing is downloaded otherwise.",
        epilog="Then: `distill prepare configs/quickstart.yaml data.dataset=movielens-1m`. Sets of several parts take "
        f"the part too: amazon-reviews-2023/All_Beauty. They lie in {store()}; ${VARIABLE} names another place.",
    )
    parser.add_argument("action", nargs="?", choices=("list", "get"), default="list")
    parser.add_argument("name", nargs="?", metavar="NAME", help="a set's name, as listed")
    return parser


def show() -> None:
    """Prints every known set with size, terms, address, what is to be downloaded, and whether it is on this machine."""
    table = Table(title=f"public data sets (in {store()})", caption="distill datasets get NAME")
    table.add_column("name", no_wrap=True)
    for heading in ("what; interactions, download; terms", "address and files", "here"):
        table.add_column(heading, overflow="fold")
    for name, known in SETS.items():
        about = [known.about, known.size, known.terms]
        if known.parts:
            about.insert(0, f"{name}/PART, with PART one of {', '.join(known.parts)}, …")
        files = [remote.url for remote in known.files]
        by_hand = f"pip install {known.package.replace('_', '-')}" if known.package else "by hand, from its page"
        places = [known.page, *(files or [by_hand])]
        table.add_row(name, "\n".join(about), "\n".join(places), _here(name), end_section=True)
    console.print(table)


def _here(name: str) -> str:
    if not SETS[name].parts:
        return "yes" if local(name) else "no"
    folder = store() / name
    parts = sorted(p.name for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []
    return ", ".join(part for part in parts if local(f"{name}/{part}")) or "no"
