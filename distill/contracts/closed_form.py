"""The contract of a student that is solved instead of trained."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from distill.contracts.checks import require, require_close
from distill.contracts.student import histories
from distill.contracts.worlds import checkerboard


@torch.no_grad()
def check_closed_form(make: Callable[[int], nn.Module]) -> None:
    """The contract of `students.protocol.ClosedFormStudent`.

    Args:
        make: Catalogue size N to a new student.

    Raises:
        AssertionError: Scores of a wrong shape, or that aren't finite for a new user or a cold item; a result that
            depends on padding or on the other rows of the batch; another solution from the same data and seed; a state
            that safetensors can't carry, or that doesn't hold the whole solution.
    """
    dataset = checkerboard(cold=[3])
    n_items = dataset.n_items
    student: Any = make(n_items)
    require(isinstance(student, nn.Module), f"a student is a torch.nn.Module, found {type(student).__name__}")
    require(getattr(student, "n_items", None) == n_items, f"student.n_items isn't {n_items}")
    student.fit_closed_form(dataset, 0)
    student.eval()
    history = histories(n_items)
    found = _scores(student, history)
    require(tuple(found.shape) == (len(history), n_items), f"scores are {tuple(found.shape)}, expected (B, N)")
    require(bool(torch.isfinite(found).all()), "a score is NaN or infinite (one of the histories was empty)")
    padded = torch.cat([torch.full((len(history), 3), n_items), history], 1)
    require_close(_scores(student, padded), found, "scores change with more padding on the left")
    for row in range(len(history)):
        alone = _scores(student, history[row : row + 1])[0]
        require_close(alone, found[row], "the scores of a row depend on the rest of the batch")
    again: Any = make(n_items)
    again.fit_closed_form(dataset, 0)
    for name, value in student.state_dict().items():
        require(torch.equal(value, again.state_dict()[name]), f"'{name}' isn't decided by the data and the seed")
    other: Any = make(n_items)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        save_file({k: v.detach().clone().contiguous() for k, v in student.state_dict().items()}, path)
        other.load_state_dict(load_file(path))
    require_close(_scores(other.eval(), history), found, "scores differ after saving and loading")


def _scores(student: Any, history: Tensor) -> Tensor:
    if hasattr(student, "catalogue_scores"):
        found: Tensor = student.catalogue_scores(history)
        return found
    return nn.functional.linear(student.encode(history), student.item_table(), student.item_bias())
