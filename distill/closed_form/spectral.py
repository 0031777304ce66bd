"""Item vectors out of train events alone: the strongest directions of the matrix of users and items."""

from __future__ import annotations

import numpy as np
import torch
from scipy import sparse
from torch import Tensor
from torch.nn import functional

from distill.closed_form.graph import compressed

DAMPING = 0.3  # of popularity; .5 is the cosine of users and items, 0 the counts as they are
SPARE = 8  # further directions that are followed and not kept
STEPS = 4


def spectral_vectors(matrix: sparse.csr_matrix, dim: int, seed: int = 0) -> Tensor:
    """Right singular vectors of n_u^-a X n_i^-a, times the roots of their values, mean length 1 (N, D).

    a is `DAMPING`; n are the numbers of events. Items without events have zeros; so have columns beyond the rank that
    `matrix` can have. Time (D + 8) E a step, for 2 * 4 + 1 steps; memory that of (U + N) * (D + 8) numbers.

    Args:
        matrix: Interactions (U, N).
        dim: D.
        seed: Of the random start that the directions are found from.

    References:
        Halko, Martinsson & Tropp 2011, "Finding structure with randomness", algorithm 4.4, as `torch.svd_lowrank` has
        it. Cremonesi, Koren & Turrin 2010, "Performance of recommender algorithms on top-N recommendation tasks",
        section 3.3 (PureSVD), for item vectors that read a history they are part of.
    """
    users, items = (np.asarray(matrix.sum(axis)).ravel() for axis in (1, 0))
    known = torch.from_numpy(items > 0)
    users, items = (np.where(counts > 0, counts, 1.0) ** -DAMPING for counts in (users, items))
    damped = compressed((sparse.diags(users) @ matrix @ sparse.diags(items)).tocsr()).to_sparse_coo()
    rank = min(dim + SPARE, *matrix.shape)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        _, values, directions = torch.svd_lowrank(damped, q=rank, niter=STEPS)
    rows = torch.where(known[:, None], (directions * values.sqrt())[:, :dim], 0.0)
    mean = rows.norm(dim=1).sum() / known.sum().clamp_min(1)
    return functional.pad(rows / mean.clamp_min(1e-12), (0, dim - rows.shape[1]))
