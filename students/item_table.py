"""Item tables: free id vectors, text vectors with a trainable projection, or text with ids in its null space."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from distill.errors import UserError

TextUse = Literal["init", "null_space", "none"]
Start = Literal["events", "random"]
SEMANTIC_SHARE = 0.5  # of the columns, in a null-space table
Origin = tuple[Tensor, Tensor]  # mean (T,) and length () of the text vectors that a table was built from
SMALL_START = 0.1  # expected length of the random part of a row, where the text or what the events say has 1


class ItemTable(nn.Module):
    """Vectors of N items; whatever the form, the parts fold into one plain table at export.

    - `none`, or no text vectors: free rows that start at random, or, with the start "events", near vectors that the
      train events give (`begin`).
    - `init`: `text @ projection + id`. The projection starts at the first principal components of the text vectors and
      the id part at zero, so a new table is the text's own geometry; training moves both.
    - `null_space`: the first principal components of the text stay as they are in half of the columns; ids are learned
      in the other half alone, orthogonal to them. Training can add to what the text says and never unlearn it.

    With `buckets`, ids share rows: an id vector is the sum of two rows chosen by two hashes of the item's index, so
    that two items rarely share both, and the id part costs buckets x D numbers whatever N is.

    References:
        Hu et al. 2025, "AlphaFuse: Learn ID embeddings for sequential recommendation in null space of language
        embeddings" (here without whitening the text part). Svenstrup et al. 2017, "Hash embeddings for efficient word
        representations", with equal weights.
    """

    bucket: Tensor | None
    text: Tensor | None
    fixed: Tensor | None

    def __init__(
        self,
        n_items: int,
        dim: int,
        text: Tensor | None = None,
        use: TextUse = "init",
        buckets: int = 0,
        start: Start = "random",
    ) -> None:
        """Builds the table.

        Args:
            n_items: N.
            dim: D, the width of the table.
            text: Text vectors (N, T) or None.
            use: What the text vectors are for.
            buckets: Rows of the id part; 0 is one an item.
            start: Whether `begin` is wanted; without effect on tables with text, or where ids share buckets.
        """
        super().__init__()
        chosen = torch.stack([_hash(n_items, buckets, salt) for salt in (1, 2)]) if buckets else None
        self.register_buffer("bucket", chosen, persistent=False)  # (2, N)
        self.register_buffer("text", None, persistent=False)
        self.register_buffer("fixed", None)
        rows = buckets or n_items
        if text is None or use == "none":
            identity = torch.randn(rows, dim) / math.sqrt(2 * dim if buckets else dim)
        elif use == "init":
            self.text, directions, self.origin = principal(text, dim)
            self.projection = nn.Parameter(directions)
            identity = torch.zeros(rows, dim)
        else:
            semantic = min(round(SEMANTIC_SHARE * dim), *text.shape)
            centred, directions, _ = principal(text, semantic)
            self.fixed = centred @ directions  # saved: the signs of principal components differ from machine to machine
            free = dim - semantic
            # Not at zero: history and candidates would both be zero there, and so would all gradients.
            identity = SMALL_START * torch.randn(rows, free) / math.sqrt(max(1, free))
        self.identity = nn.Parameter(identity)
        self.waits = start == "events" and not self.has_text and not buckets

    @property
    def has_text(self) -> bool:
        """Whether rows hold something beside ids."""
        return self.text is not None or self.fixed is not None

    def forward(self, shown: Tensor | None = None) -> Tensor:
        """The whole table (N, D).

        Args:
            shown: Items that show their id part, bool (N,); the others are what their text says. None: all.
        """
        identity: Tensor = self.identity
        if self.bucket is not None:
            identity = functional.embedding(self.bucket, identity).sum(0)
        if shown is not None:
            identity = identity * shown[:, None].to(identity.dtype)
        if self.fixed is not None:
            return torch.cat([self.fixed, identity], 1)
        return identity if self.text is None else identity + self.text @ self.projection

    def rows(self, items: Tensor) -> Tensor:
        """Rows (M, D) of some items, int64 (M,); the gradient of the ids holds these rows alone."""
        if self.bucket is not None:
            identity = functional.embedding(self.bucket[:, items], self.identity).sum(0)
        else:
            identity = functional.embedding(items, self.identity, sparse=True)
        if self.fixed is not None:
            return torch.cat([self.fixed[items], identity], 1)
        return identity if self.text is None else identity + self.text[items] @ self.projection

    @torch.no_grad()
    def begin(self, vectors: Tensor) -> None:
        """Moves the id part to vectors (N, D) of mean length 1; a tenth of the random start remains."""
        self.identity.mul_(SMALL_START).add_(vectors.to(self.identity.dtype))
        self.waits = False

    def grow(self, vectors: Tensor) -> None:
        """Adds items whose rows are what their text vectors (M, T) say, with an id part of zero.

        Raises:
            UserError: The table has no projection of text vectors.
        """
        if self.text is None:
            raise UserError("Only item tables with text: init have a projection that gives new items their vectors.")
        self.text = torch.cat([self.text, placed(vectors, self.origin)])
        if self.bucket is not None:
            chosen = [_hash(len(self.text), len(self.identity), salt) for salt in (1, 2)]
            self.bucket = torch.stack(chosen)
        else:
            self.identity = nn.Parameter(functional.pad(self.identity.detach(), (0, 0, 0, len(vectors))))


def item_tables(
    n_items: int, dim: int, text: Tensor | None, use: TextUse, buckets: int, tied: bool, start: Start = "random"
) -> tuple[ItemTable, ItemTable]:
    """The tables of the history and of the candidates; one and the same where they are tied."""
    inputs = ItemTable(n_items, dim, text, use, buckets, start)
    return inputs, inputs if tied else ItemTable(n_items, dim, text, use, buckets, start)


def principal(text: Tensor, dim: int) -> tuple[Tensor, Tensor, Origin]:
    """Text vectors (N, T) as tables hold them, and directions that bring them to principal components of mean length 1.

    Returns:
        Centred and scaled text (N, T), directions (T, D), and what `placed` needs to do the same to further items.
    """
    mean = text.float().mean(0)
    centred = text.float() - mean
    _, _, components = torch.linalg.svd(centred, full_matrices=False)
    start = components[:dim].T.contiguous()
    if start.shape[1] < dim:
        start = functional.pad(start, (0, dim - start.shape[1]))
    length = (centred @ start).norm(dim=1).mean().clamp_min(1e-6)
    return centred / length, start, (mean, length)


def placed(vectors: Tensor, origin: Origin) -> Tensor:
    """Text vectors (M, T) of further items, centred and scaled as the first ones were."""
    mean, length = origin
    return (vectors.float() - mean) / length


def _hash(n_items: int, buckets: int, salt: int) -> Tensor:
    """A bucket for each item (N,), by multiplication and shift (a splitmix64 step), the same on every machine."""
    mixed = np.arange(n_items, dtype=np.uint64) + np.uint64(salt * 0x9E3779B97F4A7C15 % 2**64)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    return torch.from_numpy(((mixed ^ (mixed >> np.uint64(31))) % np.uint64(buckets)).astype(np.int64))
