"""The command `distill recommend`: lists with titles from an exported bundle, for a known user or for any history."""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.table import Table

from distill.errors import UserError
from distill.plugins import nearest
from distill.progress import console
from distill.serving.runtime import BUNDLE, Bundle

EXAMPLES = """\
examples:
  distill recommend runs/quickstart --user 42
  distill recommend runs/quickstart --history 1,260,1196 -k 5
  distill recommend runs/quickstart --titles "Toy Story (1995); Heat (1995)" --json
  distill recommend runs/mine --history "" --about "age=24; gender=F"
"""


@dataclass(frozen=True)
class Place:
    """One place of a list, as it is shown."""

    rank: int
    item_id: str
    title: str
    score: float
    heads: dict[str, float]


def recommend_command(arguments: list[str]) -> int:
    """Recommends from a bundle and prints a table, or JSON.

    Args:
        arguments: What follows `distill recommend`.

    Raises:
        UserError: There is no bundle, or the user, an item or a title is unknown.
    """
    chosen = make_parser().parse_args(arguments)
    bundle = Bundle.open(bundle_folder(chosen.folder), chosen.variant)
    history, user = asked_history(chosen, bundle)
    ids, scores = bundle.recommend_one(history, chosen.k, user=user)
    values = {} if bundle.heads is None else bundle.predict([history], ids[None], None if user is None else user[None])
    places = [
        Place(
            rank,
            bundle.items.ids[item],
            bundle.items.titles[item],
            float(score),
            {name: float(found[0, rank - 1]) for name, found in values.items()},
        )
        for rank, (item, score) in enumerate(zip(ids, scores, strict=True), start=1)
        if item >= 0
    ]
    show = print_json if chosen.json else print_table
    answers = bool(len(history)) or (user is not None and bool(user.any()) and bundle.answers_empty)
    show(bundle, history, places, answers)
    return 0


def make_parser() -> argparse.ArgumentParser:
    """The arguments of `distill recommend`."""
    parser = argparse.ArgumentParser(
        prog="distill recommend",
        description="Recommend from an exported bundle with onnxruntime; torch is not needed.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, help="a run's folder (runs/x), or a bundle's (runs/x/export)")
    who = parser.add_mutually_exclusive_group(required=True)
    who.add_argument(
        "--user", metavar="ID", help="a user of the run's data; all of his or her known items are the history"
    )
    who.add_argument("--history", metavar="IDS", help="item ids, oldest first, with commas between them")
    who.add_argument(
        "--titles", metavar="TITLES", help="titles or parts of titles, oldest first, with semicolons between them"
    )
    parser.add_argument(
        "--about",
        metavar="ATTRIBUTES",
        help="attributes of the person, name=value with semicolons between them, for a student with a user side",
    )
    parser.add_argument("-k", type=int, default=10, help="length of the list (default 10)")
    parser.add_argument("--variant", default="", help="fp32, int8, … (default int8 where the bundle has it)")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    return parser


def bundle_folder(folder: Path) -> Path:
    """The bundle in a run's folder, or the folder itself where it is one."""
    return folder if (folder / BUNDLE).is_file() else folder / "export"


def asked_history(chosen: argparse.Namespace, bundle: Bundle) -> tuple[np.ndarray, np.ndarray | None]:
    """The history that the arguments ask for, item indices int64 (L,), and what is known of the user (D,) or None."""
    user = None if chosen.about is None else described_user(chosen.about, bundle)
    if chosen.user is not None:
        history, known = known_user(bundle_folder(chosen.folder).parent / "data", chosen.user, bundle)
        return history, known if user is None else user
    items = bundle.items
    if chosen.history is not None:
        found = [items.index_of_id(word.strip()) for word in chosen.history.split(",") if word.strip()]
    else:
        found = [items.index_of_title(words) for words in chosen.titles.split(";") if words.strip()]
    return np.array(found, np.int64), user


def described_user(words: str, bundle: Bundle) -> np.ndarray:
    """What "name=value; name=value" adds to the query (D,).

    Raises:
        UserError: The words aren't of that form, the bundle's student knows no attributes, or none of that name.
    """
    if bundle.users is None or not bundle.users.columns:
        raise UserError(
            "--about needs a student that reads attributes of users; this bundle's doesn't. Train it with "
            "user_side.attributes=true and data.user_attributes."
        )
    attributes = {}
    for pair in filter(None, (pair.strip() for pair in words.split(";"))):
        name, sign, value = pair.partition("=")
        if not sign:
            raise UserError(f"--about holds '{pair}', expected name=value with semicolons between them.")
        attributes[name.strip()] = value.strip()
    return bundle.users.vector(attributes)


def known_user(data: Path, user_id: str, bundle: Bundle) -> tuple[np.ndarray, np.ndarray | None]:
    """All known items of a user in time order (L,), and what else is known (D,), None for a student that reads no more.

    Raises:
        UserError: The prepared data is missing or is another data set than the bundle's, or the user isn't in it.
    """
    from distill.data.dataset import HISTORY, TRAIN, Dataset  # polars is needed for known users only

    if not (data / "dataset.json").is_file():
        raise UserError(
            f"--user needs the run's prepared data, and {data} holds none. "
            "Give the history itself with --history or --titles."
        )
    dataset = Dataset.read(data)
    if dataset.fingerprint != bundle.about["data"]:
        raise UserError(
            f"The bundle was exported from the data set {bundle.about['data'][:12]}, but {data} holds "
            f"{dataset.fingerprint[:12]}. Run the stages again with: distill run CONFIG"
        )
    users = [str(user) for user in dataset.user_ids]
    if user_id not in users:
        raise UserError(
            f"There is no user '{user_id}' in {data}{nearest(user_id, users) if len(users) < 20_000 else '.'}"
        )
    place, known = users.index(user_id), None
    if bundle.users is not None and bundle.users.knows(user_id):
        known = bundle.users.vector(user=user_id)
    elif bundle.users is not None and bundle.users.columns:
        known = dataset.features.users.matrix()[place] @ bundle.users.table
    return dataset.lists(TRAIN, HISTORY)[place].astype(np.int64), known


def print_table(bundle: Bundle, history: np.ndarray, places: list[Place], answers: bool) -> None:
    """Prints the end of the history and the list."""
    last = [bundle.items.titles[item] for item in history[-5:]]
    if last:
        more = f"{len(history) - len(last)} more, then " if len(history) > len(last) else ""
        console.print(f"history: {more}{'; '.join(last)}", markup=False)
    elif answers:
        console.print("no history: popular items, tilted by what is known of the user", markup=False)
    else:
        console.print("no history: the most popular items, with their train interactions as scores", markup=False)
    table = Table(title=f"recommended ({bundle.variant})")
    heads = [] if bundle.heads is None else bundle.heads.names
    left = ("item id", "title")
    for name in ("rank", *left, "score", *heads):
        table.add_column(escaped(name), justify="left" if name in left else "right", overflow="fold")
    for place in places:
        values = [f"{place.heads[name]:.2f}" for name in heads]
        table.add_row(str(place.rank), escaped(place.item_id), escaped(place.title), f"{place.score:.3f}", *values)
    console.print(table)


def print_json(bundle: Bundle, history: np.ndarray, places: list[Place], answers: bool) -> None:
    """Prints the same as one JSON object."""
    answer: dict[str, Any] = {
        "variant": bundle.variant,
        "source": "student" if len(history) else "popularity and attributes" if answers else "popularity",
        "history": [{"item_id": bundle.items.ids[item], "title": bundle.items.titles[item]} for item in history],
        "recommendations": [
            {name: value for name, value in vars(place).items() if name != "heads" or value} for place in places
        ],
    }
    print(json.dumps(answer, indent=2, ensure_ascii=False))


def escaped(text: str) -> str:
    """Text whose square brackets rich leaves alone."""
    from rich.markup import escape

    return escape(text)
