"""Failures of the machine told in words that say what to change."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch

from distill.errors import UserError

CPU_WORDS = ("can't allocate memory", "not enough memory", "CUDA out of memory")


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a tensor found no room, on a GPU or in main memory."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in CPU_WORDS)


@contextlib.contextmanager
def memory_said(label: str, folder: Path) -> Iterator[None]:
    """Turns a failed allocation in training into a message that names the settings to lower.

    Args:
        label: What is in training.
        folder: Where its checkpoints are.

    Raises:
        UserError: A tensor found no room.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        kept = " The run goes on from its last checkpoint." if any(folder.glob("checkpoint*")) else ""
        raise UserError(
            f"{label}: out of memory ({str(error).strip().splitlines()[0][:200]}). Lower batch_size (accumulation: 2 "
            f"with half the batch_size keeps the step), or for a language model max_tokens, or set "
            f"gradient_checkpointing: true.{kept}"
        ) from error
