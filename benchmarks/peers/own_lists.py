"""Our side of the comparison with other libraries: students from ids alone, on labels alone, under a limit of time."""

from __future__ import annotations

import contextlib
import dataclasses
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import set_seed

from benchmarks.peers.student_settings import ON_SETS, SOLVED
from distill.ask import quality, row_scorer
from distill.config import Fit, Loss
from distill.data.contexts import ContextBatch, train_contexts
from distill.data.dataset import TEST, TRAIN, VALID, Dataset
from distill.engine.local import Local
from distill.engine.loop import best_weights, fit
from distill.job import Batch
from distill.known import knowledge_of
from distill.objectives.objective import Objective
from distill.ranking.cases import Cases, cases_of
from distill.ranking.evaluator import rank
from distill.tensors import next_item_batch
from distill.train_student import job_of
from distill.windows.cut import Windows
from distill.windows.halves import Halves
from students.checkpoint import build_student
from students.protocol import scores as student_scores

K = 10
FIT = Fit(epochs=8, batch_size=1024, max_length=100, patience=3, windows=32)
SMALL = Fit(epochs=25, batch_size=256, max_length=100, patience=3, windows=32)  # below FEW train events
SETS = Fit(epochs=40, batch_size=8192, max_length=2000, patience=3, order="halves")  # events without an order
FEW = 50_000
LONG = 10_000.0  # a time constant that forgets nothing


def usual(dataset: Dataset, name: str) -> tuple[Fit, dict[str, Any]]:
    """The training that a student gets, and settings that the data ask for.

    Small data need more epochs and smaller batches to make enough steps; without an order there is nothing to decay.
    """
    if not dataset.ordered:
        if name in SOLVED:
            return SETS, {"decay": LONG}
        if name in ON_SETS:
            return SETS, {"decays": [LONG]}
        return dataclasses.replace(FIT, order="shuffled"), {"decays": [LONG]} if name == "neumf" else {}
    return SMALL if (dataset.parts == TRAIN).sum() < FEW else FIT, {}


class Enough(Exception):
    """A training that has used its seconds, or made its epochs."""


def train(
    dataset: Dataset, name: str, arguments: dict[str, Any], settings: Fit, seed: int, seconds: float
) -> dict[str, Any]:
    """Trains or solves one student on train events.

    Args:
        dataset: Prepared.
        name: Of the student.
        arguments: Its settings.
        settings: Of the training.
        seed: Of the start and the batches.
        seconds: Of processor time, after which no further epoch counts.

    Returns:
        "validation" ndcg@10, and the best "epoch" (0 where it is solved).
    """
    student, score, valid = *started(dataset, name, arguments, settings, seed), cases_of(dataset, VALID)
    if hasattr(student, "fit_closed_form"):
        student.fit_closed_form(dataset, seed)
        return {"validation": worth_of(score, valid), "epoch": 0}
    begin, curve = time.process_time(), list[float]()

    def validate(_: torch.nn.Module) -> float:
        if curve and time.process_time() - begin > seconds:
            raise Enough
        curve.append(worth_of(score, valid))
        return curve[-1]

    fitted(student, name, dataset, settings, seed, validate)
    return {"validation": max(curve), "epoch": int(np.argmax(curve)) + 1}


def refit(
    dataset: Dataset, name: str, arguments: dict[str, Any], settings: Fit, seed: int, epoch: int
) -> dict[str, Any]:
    """Trains or solves a student on all events before test, as long as `train` found best; its "test" lists (U, 10)."""
    parts = np.where(dataset.parts == VALID, TRAIN, dataset.parts).astype(dataset.parts.dtype)
    known, test = dataclasses.replace(dataset, parts=parts), cases_of(dataset, TEST)
    student, score = started(known, name, arguments, settings, seed)
    if hasattr(student, "fit_closed_form"):
        student.fit_closed_form(known, seed)
    else:
        epochs = iter(range(1, settings.epochs + 1))

        def validate(_: torch.nn.Module) -> float:
            if (made := next(epochs)) > epoch:
                raise Enough
            return float(made)  # the latest weights are the best

        student.load_state_dict(fitted(student, name, known, settings, seed, validate))
    return {"test": rank(row_scorer(score, test), test, K)}


def started(
    dataset: Dataset, name: str, arguments: dict[str, Any], settings: Fit, seed: int
) -> tuple[Any, Callable[[ContextBatch], torch.Tensor]]:
    """A student before its training, and what scores contexts with it."""
    set_seed(seed)
    student: Any = build_student(name, arguments, dataset.n_items, None, seed)
    if hasattr(student, "attach"):
        student.attach(dataset)

    def score(batch: ContextBatch) -> torch.Tensor:
        return student_scores(student.eval(), torch.from_numpy(batch.seen[:, -settings.max_length :]))

    return student, score


def worth_of(score: Any, cases: Cases) -> float:
    """ndcg@10 of the cases."""
    return quality(score, cases).values["ndcg@10"]


def fitted(
    student: Any,
    name: str,
    dataset: Dataset,
    settings: Fit,
    seed: int,
    validate: Callable[[torch.nn.Module], float],
) -> dict[str, torch.Tensor]:
    """Trains on train events until `validate` has `Enough`; the weights of the epoch that it valued most."""
    contexts, losses = train_contexts(dataset), [Loss("cross_entropy")]
    rows = np.flatnonzero(contexts.target >= 0)
    knowledge = knowledge_of(dataset, student, losses, None, contexts, None, lambda _: None)
    objective = Objective(student, losses, knowledge)
    windows: Windows | Halves | None = None
    lists, drawn = dataset.lists(TRAIN, TRAIN), seed if settings.order == "shuffled" else None
    if settings.order == "halves":
        windows = Halves(lists, dataset.n_items, settings.max_length, seed)
    elif settings.windows:
        windows = Windows.of(lists, dataset.n_items, settings.windows, settings.max_length, drawn)

    def collate(chosen: np.ndarray) -> Batch:
        return windows.batch(chosen) if windows else next_item_batch(contexts, chosen, settings.max_length)

    job = job_of(settings, rows, collate, objective, seed, windows)
    with tempfile.TemporaryDirectory() as folder:
        with contextlib.suppress(Enough):
            fit(job, Local(), Path(folder), validate, name)
        kept = best_weights(Path(folder))
    return {k.removeprefix("student."): v for k, v in kept.items() if k.startswith("student.")}
