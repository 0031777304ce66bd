"""Messages and progress bars: bars with rate and remaining time in a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

T = TypeVar("T")
console = Console(highlight=False, soft_wrap=True)
QUIET_SECONDS = 15.0


def is_main_process() -> bool:
    """True in the process that may print and write shared files (rank 0, or no launcher at all)."""
    return os.environ.get("RANK", "0") == "0"


def say(message: str) -> None:
    """Prints one line from the main process only."""
    if is_main_process():
        console.print(message, markup=False)


def track(items: Iterable[T], label: str, total: int | None = None, unit: str = "it") -> Iterator[T]:
    """Yields from `items`, showing progress.

    Args:
        items: What to walk over.
        label: Short name of the work.
        total: Number of items; taken from `len(items)` where it is known.
        unit: What one item is called in the rate ("steps", "rows").

    In a terminal this is a bar with rate and remaining time; elsewhere a line every 15 seconds: logs stay short.
    """
    if total is None and hasattr(items, "__len__"):
        total = len(items)  # type: ignore[arg-type]
    if not is_main_process():
        yield from items
        return
    if console.is_terminal:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task(label, total=total, rate="")
            for item in items:
                yield item
                speed = bar.tasks[0].speed
                bar.update(task, advance=1, rate=f"{speed:.1f} {unit}/s" if speed else "")
        return
    start = shown = time.monotonic()
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - shown > QUIET_SECONDS:
            shown = now
            rate = done / (now - start)
            left = f", {(total - done) / rate:.0f} s left" if total else ""
            say(f"{label}: {done}/{total or '?'} ({rate:.1f} {unit}/s{left})")
