"""Training batches of sequence bodies: windows of users' histories, in which many places are examples at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from distill.data.dataset import Lists
from distill.job import Batch
from teachers.sampled import draw
from teachers.sequence_windows import Windows, rectangle, windows
from teachers.text_pairs import length_batches


@dataclass(frozen=True)
class Sample:
    """How a large catalogue is sampled.

    Attributes:
        cumulative: Cumulative sums of the items' probabilities (N,).
        count: Draws a step.
    """

    cumulative: np.ndarray
    count: int


@dataclass(frozen=True)
class Examples:
    """Windows over users' train sequences.

    Attributes:
        items: Items of all sequences end to end, (M,).
        cuts: The windows.
        end: Where the sequence of each window ends, (W,).
        rows: Windows with something to ask for.
        n_items: N.
        causal: Asks for the item after each place; otherwise for items that are left out.
        mask_share: Share of the items left out; the last one always is.
        sample: Stands for the catalogue where that is large; None for all of it.
        seed: Of orders and draws.
    """

    items: np.ndarray
    cuts: Windows
    end: np.ndarray
    rows: np.ndarray
    n_items: int
    causal: bool
    mask_share: float
    sample: Sample | None
    seed: int

    def batches(self, epoch: int, batch_size: int, most: int = 0) -> list[np.ndarray]:
        """Numbers of windows in batches of similar length, in an order that depends on (seed, epoch) alone."""
        rng = np.random.default_rng([self.seed, epoch])
        rows = rng.permutation(self.rows)
        batches = length_batches(rows, self.cuts.lengths[rows], batch_size, rng)
        return batches[:most] if most else batches

    def collate(self, rows: np.ndarray) -> Batch:
        """What `SequenceModel.forward` trains on; all that is drawn here depends on the rows alone."""
        rng = np.random.default_rng([self.seed, *rows])
        first, stop = self.cuts.first[rows], self.cuts.stop[rows]
        history = rectangle(self.items, first, stop, self.n_items + 1)
        place = np.arange(history.shape[1])
        if self.causal:
            asked = place >= (self.cuts.fresh[rows] - first)[:, None]
            asked &= place + 1 < (self.end[rows] - first)[:, None]
            label = np.where(asked, self.items[np.where(asked, first[:, None] + place + 1, 0)], -1)
        else:
            last = (stop - first)[:, None] - 1
            asked = (place == last) | ((rng.random(history.shape) < self.mask_share) & (place < last))
            label = np.where(asked, history, -1)
            history = np.where(asked, self.n_items, history)
        before = rectangle(self.items, self.cuts.begin[rows], first, self.n_items)
        batch = {"history": history, "label": label.astype(np.int64), "before": before}
        if self.sample is not None:
            batch["items"], batch["log_weight"] = draw(self.sample.cumulative, self.sample.count, rng)
        return {name: torch.from_numpy(value) for name, value in batch.items()}


def examples(
    lists: Lists, n_items: int, longest: int, causal: bool, mask_share: float, sample: Sample | None, seed: int
) -> Examples:
    """Cuts sequences into windows of at most `longest` items; see `Examples` for the rest."""
    cuts = windows(lists.indptr, longest)
    end = lists.indptr[np.searchsorted(lists.indptr, cuts.begin, side="right")]
    rows = np.flatnonzero((cuts.lengths > 1) & (cuts.fresh + 1 < end)) if causal else np.flatnonzero(cuts.lengths > 1)
    return Examples(lists.items, cuts, end, rows, n_items, causal, mask_share, sample, seed)
