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

from distill.config import Config, Data, to_tree
from distill.data.load import build_dataset
from distill.data.privacy import key_mark, read_key
from distill.data.readers import locate
from distill.progress import console, is_main_process, say
from distill.ranking.leaks import split_report
from distill.runs import run_stage, sha256


def main(config: Config) -> Path:
    """Prepares the data set of a run: `<run>/data/`, made again when a setting or a raw file changes.

    Raises:
        UserError: The raw files are missing, unreadable or unfit, the split leaks, or the disk is full.
    """
    folder = config.folder / "data"
    if not is_main_process():
        return folder

    def build(target: Path) -> dict[str, Any]:
        dataset = build_dataset(config.data)
        leaks = split_report(dataset)
        dataset.write(target)
        show(dataset.summary)
        for finding in leaks["findings"]:
            say(f"leak report: {finding}")
        return {**dataset.summary, "leaks": leaks}

    settings = {"data": to_tree(config.data), "source": sources(config.data)}
    if config.data.privacy.hash_ids:
        settings["key"] = key_mark(read_key(config.data.privacy))
    return run_stage(folder, settings, [], build, config.source, command=f"distill prepare {config.source}")


def sources(data: Data) -> list[list[str]]:
    """Name and sha256 of every file that the data set is made from."""
    vectors = (Path(source).expanduser() for source in data.embeddings.values() if isinstance(source, str))
    return [[path.name, sha256(path)] for path in (*locate(data).files, *(path for path in vectors if path.is_file()))]


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
