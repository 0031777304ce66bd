"""Stage `prepare`: raw files to a clean, split, fingerprinted data set."""

from __future__ import annotations

if __name__ == "__main__":  # run as a file: the repository root, not distill/, must come first on the path
    import sys
    from pathlib import Path

    sys.path[0] = str(Path(__file__).resolve().parents[1])

import sys
from pathlib import Path
from typing import Any

from rich.table import Table

from distill.config import Config, to_tree
from distill.data.load import build_dataset
from distill.data.readers import locate
from distill.progress import console, is_main_process
from distill.runs import run_stage, sha256


def main(config: Config) -> Path:
    """Prepares the data set of a run: `<run>/data/`, made again when a setting or a raw file changes.

    Raises:
        UserError: The raw files are missing, unreadable or unfit.
    """
    folder = config.folder / "data"
    if not is_main_process():
        return folder

    def build(target: Path) -> dict[str, Any]:
        dataset = build_dataset(config.data)
        dataset.write(target)
        show(dataset.summary)
        return dataset.summary

    source = [[path.name, sha256(path)] for path in locate(config.data).files]
    settings = {"data": to_tree(config.data), "source": source}
    return run_stage(folder, settings, [], build, config.source, command=f"distill prepare {config.source}")


def show(summary: dict[str, Any]) -> None:
    """Prints what preparation found and did, one row a count."""
    table = Table(title="data", show_header=False)
    table.add_column(overflow="fold")
    table.add_column(justify="right", overflow="fold")
    for name, value in summary.items():
        table.add_row(name, f"{value:,}" if isinstance(value, int) else str(value))
    console.print(table)


if __name__ == "__main__":
    from distill.cli import stage_main

    sys.exit(stage_main(main))
