"""Histories to queries: which passes of a sequence body answer them, in batches of bounded size."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from distill.data.contexts import ContextBatch
from teachers.sequence_windows import latest, shared

PLACES = 8192  # places of a batch of passes, padding included


def passes(seen: np.ndarray, longest: int, n_items: int, causal: bool) -> Iterator[tuple[np.ndarray, ...]]:
    """The passes that answer some histories.

    In causal order a history that begins another one of the batch needs no pass of its own: the place of its last item
    answers it. A body that reads both ways gets each history by itself, with an item left out after its last one.

    Args:
        seen: Histories (B, S), right-aligned, padded with N.
        longest: Most items that are read.
        n_items: N.
        causal: Whether places read only what comes before them.

    Yields:
        Batches of passes of similar length: windows (P, W), as `SequenceModel` reads them; numbers of the histories
        that they answer (A,); and for each of those, which pass and which place in it (A, 2).
    """
    rows, lengths = latest(seen, longest, n_items, causal)
    if causal:
        ends, answered_by = shared(rows, lengths)
        place = lengths - 1
    else:
        ends = answered_by = np.arange(len(rows))
        rows = np.pad(rows, ((0, 0), (0, 1)), constant_values=n_items + 1)
        rows[ends, lengths] = n_items
        place, lengths = lengths, lengths + 1
    by_length = ends[np.argsort(-lengths[ends], kind="stable")]
    rank = np.empty(len(rows), np.int64)
    rank[by_length] = np.arange(len(by_length))
    number = rank[ends][answered_by]  # of the pass that answers each history, longest first
    order = np.argsort(number, kind="stable")
    at = 0
    while at < len(by_length):
        width = int(lengths[by_length[at]])
        stop = at + max(1, PLACES // width)
        chosen = order[slice(*np.searchsorted(number[order], (at, stop)))]
        yield rows[by_length[at:stop], :width], chosen, np.stack([number[chosen] - at, place[chosen]], 1)
        at = stop


@torch.no_grad()
def ask(model: nn.Module, table: Tensor, seen: np.ndarray, longest: int, causal: bool, bf16: bool) -> Tensor:
    """Scaled queries (B, d) of histories (B, S), asked from a `SequenceModel` or what an engine wrapped around it.

    Every process of a launch must ask the same: split weights are gathered layer by layer.
    """
    device, training = table.device, model.training
    # DeepSpeed holds bf16 weights itself, which autocast breaks.
    autocast = bf16 and next(model.parameters()).dtype == torch.float32
    out = torch.empty(len(seen), table.shape[1], device=device)
    model.eval()
    for history, answered, places in passes(seen, longest, len(table), causal):
        batch = {"history": torch.from_numpy(history).to(device), "places": torch.from_numpy(places).to(device)}
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=autocast):
            out[torch.from_numpy(answered).to(device)] = model(batch | {"table": table})["queries"]
    model.train(training)
    return out


@dataclass(frozen=True)
class Answered:
    """A member that holds its queries of some contexts.

    Attributes:
        row_id: Row ids, ascending (B,).
        queries: (B, d).
        table: Item vectors (N, d).
    """

    row_id: np.ndarray
    queries: Tensor
    table: Tensor

    @torch.no_grad()
    def score(self, batch: ContextBatch) -> Tensor:
        """Scores (b, N) of contexts that are among those it holds."""
        place = np.searchsorted(self.row_id, batch.row_id)
        return self.queries[torch.from_numpy(place).to(self.queries.device)] @ self.table.T
