"""The contract of a student."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from distill.contracts.checks import require, require_close

N_ITEMS = 23
TEXT_WIDTH = 12
MakeStudent = Callable[[int, Tensor | None], nn.Module]


def check_student(make: MakeStudent, n_items: int = N_ITEMS) -> None:
    """The contract of `students.protocol.Student` and, where there is a `correction`, of `PairwiseStudent`.

    Args:
        make: (n_items, item_vectors) to a new student; item_vectors is float (N, T) or None.
        n_items: Catalogue size to check with.

    Raises:
        AssertionError: Wrong shapes or types; a result that depends on padding, on the other rows of the batch, or on
            chance in evaluation mode; no finite answer for a new user; nothing that training can reach; a state that
            safetensors can't carry; other weights from the same seed; corrections of some items that differ from those
            of all.
    """
    for text in (None, torch.randn(n_items, TEXT_WIDTH, generator=torch.Generator().manual_seed(1))):
        torch.manual_seed(0)
        student = make(n_items, text)
        require(isinstance(student, nn.Module), f"a student is a torch.nn.Module, found {type(student).__name__}")
        require(
            getattr(student, "n_items", None) == n_items,
            f"student.n_items is {getattr(student, 'n_items', None)}, expected {n_items}",
        )
        _check_shapes(student, n_items)
        _check_encoding(student, n_items)
        _check_gradients(student, n_items)
        _check_state(student, partial(make, n_items, text), n_items)
        if hasattr(student, "correction"):
            _check_pairs(student, n_items)


def histories(n_items: int, rows: int = 5, length: int = 6) -> Tensor:
    """Right-aligned histories (B, L) of 0, 1, …, L items, padded with n_items."""
    drawn = torch.stack(
        [torch.randperm(n_items, generator=torch.Generator().manual_seed(r))[:length] for r in range(rows)]
    )
    lengths = torch.arange(rows) * length // max(1, rows - 1)
    return torch.where(torch.arange(length) >= length - lengths[:, None], drawn, n_items)


def _check_shapes(student: Any, n_items: int) -> None:
    history = histories(n_items)
    query, table, bias = student.encode(history), student.item_table(), student.item_bias()
    require(
        table.ndim == 2 and table.shape[0] == n_items, f"item_table() is {tuple(table.shape)}, expected ({n_items}, D)"
    )
    wanted = (len(history), table.shape[1])
    fits = query.shape == wanted
    if hasattr(student, "correction"):
        fits = query.ndim == 2 and len(query) == len(history) and query.shape[1] >= table.shape[1]
    require(fits, f"encode() is {tuple(query.shape)}, expected (B, D) = {wanted}")
    require(tuple(bias.shape) == (n_items,), f"item_bias() is {tuple(bias.shape)}, expected ({n_items},)")
    for name, value in (("encode()", query), ("item_table()", table), ("item_bias()", bias)):
        require(value.is_floating_point(), f"{name} is {value.dtype}, expected a floating-point type")
        require(bool(torch.isfinite(value).all()), f"{name} holds NaN or infinity (one of the histories was empty)")


@torch.no_grad()
def _check_encoding(student: Any, n_items: int) -> None:
    student.eval()
    history = histories(n_items)
    query = student.encode(history)
    require_close(student.encode(history), query, "encode() in evaluation mode isn't deterministic")
    padded = torch.cat([torch.full((len(history), 3), n_items), history], 1)
    require_close(student.encode(padded), query, "encode() changes with more padding on the left")
    order = torch.arange(len(history) - 1, -1, -1)
    require_close(student.encode(history[order]), query[order], "encode() of a row depends on its place in the batch")
    for row in range(len(history)):
        require_close(
            student.encode(history[row : row + 1])[0], query[row], "encode() of a row depends on the rest of the batch"
        )
    longer = student.encode(histories(n_items, length=11))
    require(bool(torch.isfinite(longer).all()), "encode() isn't finite for longer histories")


def _check_gradients(student: Any, n_items: int) -> None:
    """A step on a labelled batch must lower the loss, and must keep every gradient finite."""
    student.eval()  # without dropout, so that the loss before and after a step are of one function
    history, label = histories(n_items), torch.arange(5) % n_items
    trainable = [p for p in student.parameters() if p.requires_grad]
    require(bool(trainable), "the student has no trainable parameter")

    def loss() -> Tensor:
        state, table = student.encode(history), student.item_table()
        scores = state[:, : table.shape[1]] @ table.T + student.item_bias()
        if hasattr(student, "correction"):
            scores = scores + student.all_corrections(state)
        return nn.functional.cross_entropy(scores, label)

    before = loss()
    before.backward()
    gradients = [p.grad for p in trainable if p.grad is not None]
    require(any(bool(g.any()) for g in gradients), "no parameter has a gradient")
    require(all(bool(torch.isfinite(g).all()) for g in gradients), "a gradient is NaN or infinite")
    with torch.no_grad():
        saved = [p.clone() for p in trainable]
        size = torch.sqrt(torch.stack([g.square().sum() for g in gradients]).sum())
        for parameter in trainable:
            if parameter.grad is not None:
                parameter.sub_(1e-3 * parameter.grad / size)
        after = loss()
        for parameter, value in zip(trainable, saved, strict=True):
            parameter.copy_(value)
    before = before.detach()
    require(float(after) < float(before), f"a small gradient step raises the loss from {before:.6f} to {after:.6f}")
    student.zero_grad(set_to_none=True)


def _check_state(student: Any, again: Callable[[], nn.Module], n_items: int) -> None:
    torch.manual_seed(0)
    twin = again()
    for name, value in student.state_dict().items():
        require(torch.equal(value, twin.state_dict()[name]), f"'{name}' isn't decided by torch.manual_seed")
    torch.manual_seed(1)
    other: Any = again()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        save_file({k: v.detach().clone().contiguous() for k, v in student.state_dict().items()}, path)
        other.load_state_dict(load_file(path))
    other.eval()
    student.eval()
    history = histories(n_items)
    with torch.no_grad():
        require_close(other.encode(history), student.encode(history), "encode() differs after saving and loading")
        require_close(other.item_table(), student.item_table(), "item_table() differs after saving and loading")
        require_close(other.item_bias(), student.item_bias(), "item_bias() differs after saving and loading")


def _check_pairs(student: Any, n_items: int) -> None:
    """Some corrections and all of them must agree, in value and in the gradient of the state."""
    student.eval()
    require(getattr(student, "candidates", 0) >= 1, "student.candidates is the number of items to rerank, 1 or more")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():  # a correction that starts at zero would agree with anything
        saved = [p.clone() for p in student.parameters()]
        for parameter in student.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator).to(parameter))
    state = student.encode(histories(n_items)).detach().requires_grad_(True)
    items = torch.stack([torch.randperm(n_items, generator=generator)[:4] for _ in range(len(state))])
    some, every = student.correction(state, items), student.all_corrections(state)
    require(tuple(every.shape) == (len(state), n_items), f"all_corrections() is {tuple(every.shape)}, expected (B, N)")
    require_close(every.gather(1, items), some, "correction() and all_corrections() differ")
    (of_some,) = torch.autograd.grad(some.sum(), state)
    (of_every,) = torch.autograd.grad(every.gather(1, items).sum(), state)
    require_close(of_every, of_some, "the gradients of correction() and all_corrections() differ")
    with torch.no_grad():
        for parameter, value in zip(student.parameters(), saved, strict=True):
            parameter.copy_(value)
