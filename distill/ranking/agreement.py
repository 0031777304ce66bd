"""How far a student's rankings agree with its teacher's, whatever the truth is."""

from __future__ import annotations

import numpy as np

from distill.errors import UserError
from distill.ranking.accuracy import share
from distill.ranking.cases import contains


def overlap(first: np.ndarray, second: np.ndarray, k: int) -> np.ndarray:
    """overlap@k: items that two lists share among their first k, divided by the longer one's length, float64 (U,).

    Args:
        first, second: Lists, int (U, K) with K >= k, -1 behind the end.
        k: Cutoff.

    Returns:
        Values between 0 and 1; nan where both lists are empty.

    Raises:
        UserError: The lists have different numbers of rows, or fewer than k places.
    """
    if len(first) != len(second) or min(first.shape[1], second.shape[1]) < k or k < 1:
        raise UserError(
            f"overlap@{k} needs two lists of at least {k} >= 1 places a row, got {first.shape} and {second.shape}."
        )
    one, two = (np.asarray(lists)[:, :k].astype(np.int64) for lists in (first, second))
    n_items = int(max(one.max(initial=0), two.max(initial=0))) + 1
    rows = np.arange(len(one))[:, None] * n_items
    keys = np.sort((rows + two)[two >= 0])
    common = (contains(keys, rows + one) & (one >= 0)).sum(1)
    return share(common, np.maximum((one >= 0).sum(1), (two >= 0).sum(1)))


def kl(teacher: np.ndarray, student: np.ndarray, k: int, temperature: float = 1.0) -> np.ndarray:
    """kl@k: KL(teacher || student) in nats over the teacher's k best items, both softmaxes renormalised there, (U,).

    Args:
        teacher, student: Scores (U, N) of the same items; -inf in the teacher's marks masked items.
        k: The teacher's best items that count, ties by item index; 1..N.
        temperature: Both scores are divided by it.

    Raises:
        UserError: The shapes differ or k is out of range.
    """
    if teacher.shape != student.shape or not 1 <= k <= teacher.shape[1]:
        raise UserError(
            f"kl@{k} needs scores of one shape (U, N) and 1 <= k <= N, got {teacher.shape} and {student.shape}."
        )
    best = np.argsort(-np.asarray(teacher, np.float64), axis=1, kind="stable")[:, :k]
    logs = []
    for scores in (teacher, student):
        picked = np.take_along_axis(np.asarray(scores, np.float64), best, axis=1) / temperature
        top = picked.max(1, keepdims=True)
        logs.append(picked - top - np.log(np.exp(picked - top).sum(1, keepdims=True)))
    p = np.exp(logs[0])
    gaps = np.subtract(logs[0], logs[1], out=np.zeros_like(p), where=p > 0)
    return (p * gaps).sum(1)
