"""From settings to a `Dataset`: finds and reads the raw files, then cleans and splits what they hold."""

from __future__ import annotations

from typing import Any

from distill.config import Data
from distill.data.assemble import assemble
from distill.data.dataset import Dataset
from distill.data.readers import locate, read


def build_dataset(data: Data) -> Dataset:
    """Reads, cleans and splits the raw files that `data` names; see `assemble`.

    Raises:
        UserError: Files are missing, unreadable or unfit, or settings leave nothing; the text says how to mend it.
    """
    summary: dict[str, Any] = {}
    return assemble(read(locate(data), data.columns, summary), data, summary)
