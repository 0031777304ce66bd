"""What a finished stage tells the tracker: its settings, its figures, and the hash of every file that it made."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distill.config import Config
from distill.engine.accelerator import make_accelerator, start_tracking, stop_tracking
from distill.progress import is_main_process
from distill.runs import read_manifest

LOGGED = "logged.txt"  # holds the fingerprint of the result that was logged last


def log_stage(config: Config, folder: Path) -> None:
    """Logs a stage through Accelerate's trackers, into `<run>/logs/stages/<stage>/`; once for each result.

    Args:
        config: The run; `run.tracker` decides where it goes.
        folder: The stage's folder, finished.

    Raises:
        UserError: The tracker isn't installed.
    """
    manifest = read_manifest(folder)
    if config.run.tracker == "none" or not is_main_process() or manifest is None:
        return
    home = config.folder / "logs" / "stages" / folder.name
    mark = home / LOGGED
    if mark.is_file() and mark.read_text() == manifest["fingerprint"]:
        return
    home.mkdir(parents=True, exist_ok=True)
    accelerator = make_accelerator(config.run.tracker, home)
    start_tracking(accelerator, f"{config.run.name}-{folder.name}", plain(flat(manifest["settings"])))
    try:
        figures = flat({"result": manifest["result"], "seconds": manifest["seconds"]})
        accelerator.log({name: float(value) for name, value in figures.items() if is_figure(value)}, step=0)
        hashes = {f"sha256/{name}": value for name, value in manifest["files"].items()}
        accelerator.log({**hashes, "fingerprint": manifest["fingerprint"]}, step=0)
    finally:
        stop_tracking(accelerator)
    mark.write_text(manifest["fingerprint"])


def flat(tree: Any, prefix: str = "") -> dict[str, Any]:
    """Nested dicts and lists with their keys joined by slashes."""
    pairs: Any = tree.items() if isinstance(tree, Mapping) else enumerate(tree) if isinstance(tree, list) else None
    if pairs is None:
        return {prefix: tree}
    found: dict[str, Any] = {}
    for key, inner in pairs:
        found |= flat(inner, f"{prefix}/{key}" if prefix else str(key))
    return found


def plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values as every tracker takes them: numbers and texts."""
    return {name: v if isinstance(v, bool | int | float | str) else str(v) for name, v in values.items()}


def is_figure(value: Any) -> bool:
    """Whether a value is a number."""
    return isinstance(value, int | float) and not isinstance(value, bool)
