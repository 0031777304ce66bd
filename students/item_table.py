"""Item tables: free id vectors, or a trainable projection of text vectors plus an id part."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class ItemTable(nn.Module):
    """Vectors of N items: `text @ projection + id`.

    The projection starts at the first principal components of the text vectors and the id part at zero, so a new table
    is the text's own geometry; training moves both. Without text vectors the id part starts at random. The sum folds
    into one plain table at export.
    """

    def __init__(self, n_items: int, dim: int, text: Tensor | None = None) -> None:
        """Builds the table.

        Args:
            n_items: N.
            dim: D, the width of the table.
            text: Text vectors (N, T) or None.
        """
        super().__init__()
        if text is None:
            self.text = None
            self.identity = nn.Parameter(torch.randn(n_items, dim) / math.sqrt(dim))
            return
        centred = text.float() - text.float().mean(0)
        _, _, components = torch.linalg.svd(centred, full_matrices=False)
        start = components[:dim].T.contiguous()
        if start.shape[1] < dim:
            start = torch.nn.functional.pad(start, (0, dim - start.shape[1]))
        lengths = (centred @ start).norm(dim=1)
        self.register_buffer("text", centred / lengths.mean().clamp_min(1e-6), persistent=False)
        self.projection = nn.Parameter(start)
        self.identity = nn.Parameter(torch.zeros(n_items, dim))

    def forward(self) -> Tensor:
        """The whole table (N, D)."""
        return self.identity if self.text is None else self.identity + self.text @ self.projection
