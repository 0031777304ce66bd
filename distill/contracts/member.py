"""The contract of a teacher's member."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from distill.contracts.checks import require, require_close
from distill.data.contexts import ContextBatch, history_contexts
from distill.data.dataset import VALID, Dataset
from distill.job import Job


def check_member(member: Any, dataset: Dataset, inputs: Any = None, fit: Callable[[Job], Any] | None = None) -> None:
    """The contract of `teachers.protocol.Member`.

    Args:
        member: A new member, made with its settings; the check trains it.
        dataset: A small data set with a validation part.
        inputs: What `prepare` gets; by default `teachers.protocol.Inputs` without earlier members' vectors, seed 0.
        fit: Trains a job and returns its best weights; needed where `job()` gives one, such as
            `lambda job: (fit(job, Local(), folder, None, "check"), best_weights(folder))[1]` with the project's engine.

    Raises:
        AssertionError: Wrong shapes; scores that aren't finite, that depend on padding or on the other rows of the
            batch, or that change from call to call; item vectors of a wrong shape.
    """
    if inputs is None:
        from teachers.protocol import Inputs

        inputs = Inputs(dataset, {}, 0, torch.device("cpu"))
    member.prepare(inputs)
    job = member.job()
    if job is not None:
        require(fit is not None, "this member has a job to train: pass `fit`")
        assert fit is not None
        require(job.epochs >= 1 and len(job.batches(0)) >= 1, "the member's job has nothing to train on")
        require(
            all(np.array_equal(a, b) for a, b in zip(job.batches(0), job.batches(0), strict=True)),
            "the job's batches(0) differ from call to call: they may depend on the seed and the epoch alone",
        )
        losses = job.model(job.collate(job.batches(0)[0]))
        require("loss" in losses, f"the job's model returns {sorted(losses)}, expected a loss named 'loss'")
        member.finish(fit(job))
    _check_scores(member, dataset)
    vectors = member.item_vectors()
    if vectors is not None:
        require(
            vectors.ndim == 2 and vectors.shape[0] == dataset.n_items,
            f"item_vectors() is {tuple(vectors.shape)}, expected ({dataset.n_items}, d)",
        )
        require(bool(torch.isfinite(vectors).all()), "item_vectors() holds NaN or infinity")


def check_reload(member: Any, again: Any, dataset: Dataset) -> None:
    """A fitted member and one made with the same settings: after `save` and `load` their scores are equal.

    Args:
        member: Fitted, for instance by `check_member`.
        again: New, made with the same settings.
        dataset: The data set that `member` was fitted on.

    Raises:
        AssertionError: Other scores or item vectors, or a file that needs pickle.
    """
    batch = _validation_batch(dataset)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        member.save(folder)
        pickled = [p.name for p in folder.rglob("*") if p.suffix in (".pt", ".pth", ".bin", ".pkl", ".pickle")]
        require(not pickled, f"save() wrote {pickled}: only safetensors, JSON and text may be written")
        loaded = again.load(folder)
        require(loaded is not None, "load() returned None, expected the member itself")
        with torch.no_grad():
            require_close(loaded.score(batch), member.score(batch), "scores differ after saving and loading")
        before, after = member.item_vectors(), loaded.item_vectors()
        require((before is None) == (after is None), "item_vectors() is there before saving or after loading alone")
        if before is not None:
            require_close(after, before, "item_vectors() differs after saving and loading")


def _validation_batch(dataset: Dataset) -> ContextBatch:
    users = np.arange(min(8, dataset.n_users))
    return history_contexts(dataset, users, VALID).batch(users, 1_000_000)


@torch.no_grad()
def _check_scores(member: Any, dataset: Dataset) -> None:
    batch = _validation_batch(dataset)
    rows, n_items = len(batch.row_id), dataset.n_items
    found = member.score(batch)
    require(tuple(found.shape) == (rows, n_items), f"score() is {tuple(found.shape)}, expected {(rows, n_items)}")
    require(bool(torch.isfinite(found).all()), "score() holds NaN or infinity; seen items are masked by the caller")
    kept = found.clone()
    found.mul_(2.0)  # the caller may write into what it was given
    require_close(member.score(batch), kept, "score() changes from call to call, or hands out its own memory")
    pad = np.full((rows, 2), n_items)
    wider = replace(batch, history=np.hstack([pad, batch.history]), seen=np.hstack([pad, batch.seen]))
    require_close(member.score(wider), kept, "score() changes with more padding on the left")
    for row in range(rows):
        require_close(
            member.score(_row(batch, row))[0], kept[row], "score() of a context depends on the rest of the batch"
        )
    empty = replace(_row(batch, 0), history=np.full((1, 1), n_items), seen=np.full((1, 1), n_items))
    require(bool(torch.isfinite(member.score(empty)).all()), "score() isn't finite for an empty history")


def _row(batch: ContextBatch, row: int) -> ContextBatch:
    return ContextBatch(**{name: value[row : row + 1] for name, value in vars(batch).items()})
