"""Asking scorers: torch scorers of contexts as the evaluator's scorers of rows, and a quick validation figure."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from distill.data.contexts import ContextBatch, Contexts, Kind, from_lists
from distill.ranking.cases import Cases
from distill.ranking.evaluator import Evaluation, evaluate, rank

ContextScorer = Callable[[ContextBatch], Tensor]
VALIDATION_USERS = 5000


def contexts_of(cases: Cases) -> Contexts:
    """One context a case: the masked items in time order are the history."""
    return from_lists(cases.seen, cases.n_items, Kind.REAL, cases.users)


def row_scorer(score: ContextScorer, cases: Cases, max_length: int = 1_000_000) -> Callable[[np.ndarray], np.ndarray]:
    """Turns a scorer of contexts into one of case rows: int (b,) to float32 (b, N)."""
    contexts = contexts_of(cases)

    @torch.no_grad()
    def of_rows(rows: np.ndarray) -> np.ndarray:
        return score(contexts.batch(rows, max_length)).float().cpu().numpy()

    return of_rows


def quality(
    score: ContextScorer, cases: Cases, metrics: Sequence[str] = ("ndcg@10",), k: int = 10, batch_size: int = 512
) -> Evaluation:
    """Ranks the whole catalogue with a torch scorer and evaluates the lists."""
    return evaluate(rank(row_scorer(score, cases), cases, k, batch_size=batch_size), cases, list(metrics))


def sample(cases: Cases, seed: int, users: int = VALIDATION_USERS) -> Cases:
    """At most `users` cases, drawn by seed: validation during training needn't be larger."""
    if len(cases) <= users:
        return cases
    return cases.take(np.sort(np.random.default_rng(seed).choice(len(cases), users, replace=False)))
