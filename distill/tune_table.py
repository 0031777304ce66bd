"""What `distill tune` leaves behind: the best settings as an overlay, and the table of its trials."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from rich.table import Table

from distill.config import Config, to_tree
from distill.progress import console, is_main_process, say
from distill.recipes import STUDENT, Recipe
from distill.runs import write_json

COLUMNS = ("target", "whole", "stopped early", "failed", "seconds", "first", "best")


def write_results(config: Config, folder: Path, searches: Sequence[dict[str, Any]]) -> None:
    """Writes best.yaml, tune.md, tune.csv and tune.json into `folder`, and prints the table."""
    found = {search["target"]: search["recipe"] for search in searches if search["recipe"] is not None}
    if found:
        text = yaml.safe_dump(best_sections(found), sort_keys=False)
        use = f"{config.command('run')} @{folder / 'best.yaml'}"
        head = f"# Best of {config.command('tune')} on validation.\n#   {use}\n"
        (folder / "best.yaml").write_text(head + text, encoding="utf-8")
    rows = [[_word(search[column]) for column in COLUMNS] for search in searches]
    markdown = ["| " + " | ".join(COLUMNS) + " |", "|---|" + "---:|" * (len(COLUMNS) - 1)]
    markdown += ["| " + " | ".join(row) + " |" for row in rows]
    for search in searches:
        markdown += ["", f"`{search['target']}`, best settings:", ""]
        markdown += [f"- `{key}`: {_word(value)}" for key, value in search["settings"].items()]
    (folder / "tune.md").write_text("\n".join(markdown) + "\n", encoding="utf-8")
    (folder / "tune.csv").write_text(_trials(searches), encoding="utf-8")
    plain = [{key: value for key, value in search.items() if key != "recipe"} for search in searches]
    write_json(folder / "tune.json", {"command": config.command("tune"), "searches": plain})
    if is_main_process():
        table = Table(*COLUMNS, box=None)
        for row in rows:
            table.add_row(*row)
        console.print(table)
    if found:
        say(f"validation ndcg@10; use the best settings with: {config.command('run')} @{folder / 'best.yaml'}")


def best_sections(found: dict[str, Recipe]) -> dict[str, Any]:
    """The sections of a config that the best recipes fill."""
    tree: dict[str, Any] = {}
    for target, recipe in found.items():
        own = target == STUDENT
        tree["student" if own else "control_student"] = to_tree(recipe.student)
        tree["losses" if own else "control_losses"] = to_tree(list(recipe.losses))
        tree["fit" if own else "control_fit"] = to_tree(recipe.fit)
    return tree


def _trials(searches: Sequence[dict[str, Any]]) -> str:
    """All trials as CSV, a column a setting."""
    keys = sorted({key for search in searches for trial in search["trials"] for key in trial["settings"]})
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["target", "number", "state", "validation", "seconds", *keys])
    for search in searches:
        for trial in search["trials"]:
            settings = [trial["settings"].get(key, "") for key in keys]
            known = [trial[column] for column in ("number", "state", "validation", "seconds")]
            writer.writerow([search["target"], *("" if v is None else v for v in known), *settings])
    return out.getvalue()


def _word(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
