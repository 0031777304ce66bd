"""The most popular items for everybody: the control that every recommender must beat."""

from __future__ import annotations

import torch
from torch import Tensor

from distill.data.contexts import ContextBatch
from teachers.closed_form import ClosedForm
from teachers.protocol import Inputs


class Popularity(ClosedForm):
    """log(train count + 1) of each item, whatever the history."""

    def prepare(self, inputs: Inputs) -> None:
        """Counts train interactions."""
        self.table = torch.log1p(torch.from_numpy(inputs.dataset.popularity).float())

    def score(self, batch: ContextBatch) -> Tensor:
        """The same row (B, N) for everyone."""
        return self.table.expand(len(batch.row_id), -1).clone()
