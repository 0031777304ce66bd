"""Propagation of vectors over the graph of users and items."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from scipy import sparse
from torch import Tensor


class Propagate(torch.autograd.Function):
    """matrix @ dense, whose transpose is at hand: torch would make it anew in each backward pass, six times slower."""

    @staticmethod
    def forward(context: Any, matrix: Tensor, transpose: Tensor, dense: Tensor) -> Tensor:
        """The product (R, D) of a sparse matrix (R, C) and a dense one (C, D)."""
        context.transpose = transpose
        return matrix @ dense

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[None, None, Tensor]:
        """Of the dense matrix alone."""
        return None, None, context.transpose @ gradients[0]


def normalised(matrix: sparse.csr_matrix) -> sparse.csr_matrix:
    """matrix_ui / sqrt(c_u c_i), c the degrees: sums of a row or column, so weighted where the entries are weights.

    A user or item without any weight keeps its zeros.

    Args:
        matrix: Entries of 0 or more (U, N).

    References:
        He et al. 2020, "LightGCN: simplifying and powering graph convolution network for recommendation", eq. 3.
    """
    users, items = (np.asarray(matrix.sum(axis)).ravel() for axis in (1, 0))
    users, items = (np.where(degrees > 0, degrees, 1.0) for degrees in (users, items))
    found = (sparse.diags(users**-0.5) @ matrix @ sparse.diags(items**-0.5)).tocsr()
    found.sort_indices()
    return found


def compressed(matrix: sparse.csr_matrix) -> Tensor:
    """The same matrix as torch holds it."""
    indptr, indices = (torch.from_numpy(part.astype(np.int64)) for part in (matrix.indptr, matrix.indices))
    values = torch.from_numpy(matrix.data.astype(np.float32))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that torch's compressed rows are a beta
        return torch.sparse_csr_tensor(indptr, indices, values, matrix.shape, check_invariants=True)
