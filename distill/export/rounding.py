"""Rounding that knows what the numbers are multiplied with: scales, clipping and error compensation.

A row x of a table is only ever used as u . x with the queries u of real histories. Its rounding error e = x' - x then
costs E[(u . e)^2] = e' C e + (mean . e)^2, where C is the covariance of the queries; the second part is the same for
all users and is given back to the item's bias (Nagel et al. 2019, "Data-free quantization", bias correction). What is
left, e' C e, is made small by rounding the entries one after the other, each making up for the errors of those before
it (Frantar et al. 2022, "GPTQ", equations 2 and 3), and then by coordinate descent until no single entry can do better.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

DAMPING = 0.03  # share of the mean variance added to the diagonal: directions that no calibration query has shown
DESCENTS = 3
CLIPS = (1.0, 0.93, 0.86, 0.8, 0.74, 0.68, 0.62)  # steps tried, as shares of the one that clips nothing
SMALLEST_HALF, LARGEST_HALF = 6.2e-5, 6.0e4  # normal numbers of float16


@dataclass(frozen=True)
class Moments:
    """What is known of the vectors that a matrix is multiplied with.

    Attributes:
        mean: (C,).
        covariance: (C, C).
    """

    mean: np.ndarray
    covariance: np.ndarray

    @classmethod
    def of(cls, vectors: np.ndarray) -> Moments:
        """Moments of the rows of (Q, C)."""
        mean = vectors.mean(axis=0, dtype=np.float64)
        centred = vectors - mean
        return cls(mean, centred.T @ centred / max(1, len(vectors)))

    def damped(self) -> np.ndarray:
        """The covariance, positive definite."""
        size = len(self.covariance)
        lift = DAMPING * np.trace(self.covariance) / size
        return self.covariance + (lift if lift > 0 else 1.0) * np.eye(size)

    def projected(self, basis: np.ndarray) -> Moments:
        """Moments of basis @ u, for a basis (r, C)."""
        return Moments(basis @ self.mean, basis @ self.covariance @ basis.T)


def half(values: np.ndarray) -> np.ndarray:
    """Positive numbers as float16 where all of them are its normal numbers, else as float32."""
    fits = len(values) == 0 or (values.min() >= SMALLEST_HALF and values.max() <= LARGEST_HALF)
    return values.astype(np.float16 if fits else np.float32)


def steps_of(matrix: np.ndarray, limit: int, group: int = 0, moments: Moments | None = None) -> np.ndarray:
    """The distance between neighbouring codes, for each row and group of columns.

    With a coarse code (limit below 64) several clipping points are tried and the one with the least error is taken:
    many small errors may cost more than one large one.

    Args:
        matrix: Finite floats (R, C).
        limit: Largest code; codes go from -limit to limit.
        group: Columns that share a step; 0 for all of them.
        moments: Weighs the errors of the columns.

    Returns:
        (R, ceil(C / group)) in float16, or in float32 where that can't hold them; a group of zeros has step 1.
    """
    blocks = _blocks(np.asarray(matrix, np.float32), group)  # (R, G, group)
    widest = np.abs(blocks).max(axis=2, initial=0.0) / np.float32(limit)
    widest = np.where(widest > 0, widest, np.float32(1))
    if limit >= 64:
        return half(widest)
    weights = np.ones(matrix.shape[1]) if moments is None else np.diag(moments.damped())
    weights = _blocks(weights[None].astype(np.float32), group)
    errors = np.stack([_error(blocks, widest * np.float32(clip), limit, weights) for clip in CLIPS])
    return half(widest * np.asarray(CLIPS, np.float32)[errors.argmin(axis=0)])


def spread(steps: np.ndarray, columns: int) -> np.ndarray:
    """Steps of groups (R, G) as a step for each entry, float32 (R, C)."""
    width = -(-columns // steps.shape[1])
    return np.repeat(steps.astype(np.float32), width, axis=1)[:, :columns]


def round_rows(matrix: np.ndarray, step: np.ndarray, limit: int, moments: Moments | None = None) -> np.ndarray:
    """Codes of a matrix, x ~ code * step.

    Args:
        matrix: Finite floats (R, C).
        step: Step of each entry, (R, C) or what broadcasts to it.
        limit: Largest code.
        moments: Of the vectors that the rows are multiplied with; None rounds each entry by itself.

    Returns:
        int8 (R, C) in -limit..limit.
    """
    matrix = np.asarray(matrix, np.float32)
    step = np.broadcast_to(step, matrix.shape)
    if moments is None:
        return np.clip(np.rint(matrix / step), -limit, limit).astype(np.int8)
    covariance = moments.damped()
    codes = _compensated(matrix, step, limit, covariance)
    return _descended(matrix, step, limit, covariance, codes).astype(np.int8)


def bias_shift(matrix: np.ndarray, stored: np.ndarray, moments: Moments | None) -> np.ndarray:
    """What to add to the biases so that the mean score of each item stays what it was, float32 (R,)."""
    if moments is None:
        return np.zeros(len(matrix), np.float32)
    return ((matrix - stored) @ moments.mean).astype(np.float32)


def _compensated(matrix: np.ndarray, step: np.ndarray, limit: int, covariance: np.ndarray) -> np.ndarray:
    """GPTQ: entries in the order of their weight, each error passed on to the entries that are still open."""
    order = np.argsort(-np.diag(covariance), kind="stable")
    inverse = np.linalg.inv(covariance[np.ix_(order, order)])
    factor = np.linalg.cholesky(inverse).T  # upper
    left = matrix[:, order].astype(np.float64)
    codes = np.empty_like(left)
    for place in range(len(order)):  # a loop over columns, at most a few hundred; rows go together
        width = step[:, order[place]]
        codes[:, place] = np.clip(np.rint(left[:, place] / width), -limit, limit)
        error = (left[:, place] - codes[:, place] * width) / factor[place, place]
        left[:, place + 1 :] -= error[:, None] * factor[place, place + 1 :]
    return codes[:, np.argsort(order)]


def _descended(
    matrix: np.ndarray, step: np.ndarray, limit: int, covariance: np.ndarray, codes: np.ndarray
) -> np.ndarray:
    """Coordinate descent on e' C e: each entry takes the best code, given all others."""
    error = codes * step - matrix
    for _ in range(DESCENTS):
        for place in range(matrix.shape[1]):
            slope = error @ covariance[:, place] / covariance[place, place]
            better = np.clip(codes[:, place] - np.rint(slope / step[:, place]), -limit, limit)
            error[:, place] += (better - codes[:, place]) * step[:, place]
            codes[:, place] = better
    return codes


def _blocks(matrix: np.ndarray, group: int) -> np.ndarray:
    """(R, C) as (R, G, group), filled up with zeros."""
    columns = matrix.shape[1]
    width = group or max(1, columns)
    groups = max(1, -(-columns // width))
    return np.pad(matrix, ((0, 0), (0, groups * width - columns))).reshape(len(matrix), groups, width)


def _error(blocks: np.ndarray, step: np.ndarray, limit: int, weights: np.ndarray) -> np.ndarray:
    codes = np.clip(np.rint(blocks / step[:, :, None]), -limit, limit)
    return (np.square(codes * step[:, :, None] - blocks) * weights).sum(axis=2)
