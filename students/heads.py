"""What the built-in students share: two item tables, decayed pools, cosine logits, a bias, a ridge."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from distill.closed_form.interactions import interaction_matrix
from distill.closed_form.spectral import spectral_vectors
from distill.data.dataset import Dataset
from distill.errors import UserError
from distill.tensors import history_pools
from distill.windows.pools import window_pools
from distill.windows.set_means import set_means
from students.item_table import ItemTable
from students.tail_expert import TailExpert

COLD_SHIFTS = (0.0, 0.5, -0.5, 1.0, -1.0, 2.0, -2.0, 3.0, -3.0, 5.0, -5.0)  # of logits


class TableStudent(nn.Module):
    """Base of students: a history is read from one item table and scored against another, or the same one.

    score_i = query . out_i + bias_i, with query = scale * norm(raw query) and unit rows out_i where `cosine` is on,
    query = scale * raw query and the rows as they are where it is off. The scale is learned; the biases start at zero,
    so popularity has to be earned by the data and not inherited.

    With `cold`, items without a train event are recommended from their text. Three things belong together: their biases
    are -inf in training, so that no softmax pushes them away as negatives; a share of the other items' ids is left out
    of each step, so that the text part has to stand on its own; and they are served from the text part alone, with the
    mean of the other items' biases and a shift that `calibrate` chooses. `attach` tells which items these are.

    References:
        Volkovs et al. 2017, "DropoutNet: addressing cold start in recommender systems", for training with ids left out.
    """

    warm: Tensor | None
    cold_shift: Tensor

    def __init__(
        self,
        n_items: int,
        inputs: nn.Module,
        outputs: nn.Module,
        decays: Sequence[float] = (),
        scale: float = 16.0,
        cosine: bool = True,
        item_dropout: float = 0.0,
        l2: float = 0.0,
        cold: bool = False,
        id_dropout: float = 0.0,
    ) -> None:
        """Builds the shared part.

        Args:
            n_items: Catalogue size N.
            inputs: A call without arguments gives the history side's vectors (N, D).
            outputs: The same for the candidates; `inputs` itself ties them.
            decays: Starting time constants of the pools, in items; none for students without pools.
            scale: Starting value of the learned logit scale.
            cosine: Unit rows and queries.
            item_dropout: Share of history items left out in training.
            l2: Ridge strength on the rows of the tables, see `ridge`.
            cold: Serve items without train events from their text; without effect where the tables hold no text.
            id_dropout: With `cold`, the share of items whose id part is left out of a training step.
        """
        super().__init__()
        self.n_items = n_items
        self.inputs, self.outputs = inputs, outputs
        self.bias = nn.Parameter(torch.zeros(n_items))
        if decays:
            self.log_decay = nn.Parameter(torch.tensor(list(decays)).log())
        self.log_scale = nn.Parameter(torch.tensor(float(scale)).log())
        self.cosine, self.item_dropout, self.l2, self.id_dropout = cosine, item_dropout, l2, id_dropout
        cold = cold and any(isinstance(part, ItemTable) and part.has_text for part in outputs.modules())
        self.register_buffer("warm", torch.ones(n_items, dtype=torch.bool) if cold else None)
        self.register_buffer("cold_shift", torch.zeros(()) if cold else None)
        self.window = 0  # contexts of a window, while windows are read
        self.sets: tuple[Tensor, int] | None = None  # the set of each item and their number, while sets are read
        self.by_rows = False  # whether training reads rows of the tables, and never a whole one

    def attach(self, dataset: Dataset) -> None:
        """Takes from the train part what the student has to know of its items; called once, before training."""
        events = torch.from_numpy(dataset.popularity)
        if self.warm is not None:
            self.warm.copy_(events > 0)
        for part in self.modules():
            if isinstance(part, TailExpert):
                part.attach(events)
        waiting = [part for part in self.modules() if isinstance(part, ItemTable) and part.waits]
        for width in {part.identity.shape[1] for part in waiting}:
            vectors = spectral_vectors(interaction_matrix(dataset), width)
            for part in waiting:
                if part.identity.shape[1] == width:
                    part.begin(vectors)

    def calibrate(self, worth: Callable[[], float]) -> None:
        """Chooses what is added to the biases of cold items; called after training, in evaluation mode.

        No softmax compares cold items with the others, so how high they are scored is settled by validation.

        Args:
            worth: A figure of the student as it is, on validation; the larger the better. Equal figures leave the
                shift nearest to 0.
        """
        if self.warm is None or bool(self.warm.all()):
            return
        found = []
        for shift in COLD_SHIFTS:
            self.cold_shift.fill_(shift)
            found.append(worth())
        self.cold_shift.fill_(COLD_SHIFTS[found.index(max(found))])

    def grow(self, vectors: Tensor) -> None:
        """Adds items after training: they are cold, and their text vectors (M, T) are all that is known of them.

        Raises:
            UserError: The student was not trained with `cold`, or has no projection of text vectors.
        """
        if self.warm is None:
            raise UserError(
                f"{type(self).__name__} was trained without 'cold: true' or without text vectors, so it can't place "
                "items that it hasn't seen. Train it with student.cold=true and a teacher that has item vectors."
            )
        for table in {id(table): table for table in (self.inputs, self.outputs)}.values():
            table.grow(vectors)  # type: ignore[operator]
        self.bias = nn.Parameter(functional.pad(self.bias.detach(), (0, len(vectors))))
        self.warm = functional.pad(self.warm, (0, len(vectors)))
        self.n_items += len(vectors)

    def history_vectors(self) -> Tensor:
        """The vectors (N, D) that histories are read from."""
        tied = self.inputs is self.outputs  # then the candidates' side carries the ridge
        return self._rows(self.inputs, 0.0 if tied else self.l2)

    def item_table(self) -> Tensor:
        """Item vectors (N, D) to multiply with the query; unit rows where cosine is on."""
        return self._rows(self.outputs, self.l2)

    def item_bias(self) -> Tensor:
        """Item biases (N,); of cold items -inf in training, after it the mean of the others' and a shift."""
        if self.warm is None:
            return self.bias
        mean = (self.bias * self.warm).sum() / self.warm.sum().clamp_min(1)
        return torch.where(self.warm, self.bias, -torch.inf if self.training else mean + self.cold_shift)

    def pools(self, history: Tensor, dropout: float = 0.0) -> Tensor:
        """Decayed means (B, K, D) of the history's vectors, some items left out in training.

        Args:
            history: Histories (B, L).
            dropout: Share of the means' numbers set to zero in training.
        """
        noise = dropout if self.training else 0.0
        if self.window:
            return self._of_windows(history, torch.zeros_like(self.log_decay), noise)[1]
        pools = self._of_histories(history)
        return functional.dropout(pools, noise) if noise else pools

    def pools_and_mean(self, history: Tensor, mix: Tensor, dropout: float = 0.0) -> tuple[Tensor, Tensor]:
        """The sum (B, D) of `pools`, weighted by `mix` (K,), and the pools themselves (B, K, D)."""
        if self.window:
            return self._of_windows(history, mix, dropout if self.training else 0.0)
        pools = self.pools(history, dropout)
        return (mix[:, None] * pools).sum(1), pools

    def mean_pool(self, history: Tensor, mix: Tensor) -> Tensor:
        """The sum (B, D) alone, without dropout."""
        if self.window:
            return self._of_windows(history, mix, means_alone=True)[0]
        return (mix[:, None] * self._of_histories(history)).sum(1)

    def _of_histories(self, history: Tensor) -> Tensor:
        history, table = self._vectors_of(history)
        dropped = self.item_dropout if self.training else 0.0
        if self.sets is None:
            return history_pools(history, table, self.log_decay.exp(), dropped)
        means = set_means(history, *self.sets, table, dropped) + 0.0 * self.log_decay.sum()  # has a gradient, of 0
        return means[:, None].expand(-1, len(self.log_decay), -1)

    def _of_windows(
        self, history: Tensor, mix: Tensor, noise: float = 0.0, means_alone: bool = False
    ) -> tuple[Tensor, Tensor]:
        history, table = self._vectors_of(history)
        dropped = self.item_dropout if self.training else 0.0
        return window_pools(history, table, self.log_decay.exp(), mix, self.window, dropped, noise, means_alone)

    def encode_windows(self, history: Tensor, width: int) -> Tensor:
        """Queries (W * S, D) of all contexts of windows (S, T), see `distill.windows.cut`.

        Raises:
            UserError: The student reads no pools.
        """
        if not hasattr(self, "log_decay"):
            raise UserError(f"{type(self).__name__} can't be trained on windows (fit.windows): it has no pools.")
        self.window = width
        try:
            return self.encode(history)  # type: ignore[operator]
        finally:
            self.window = 0

    def encode_sets(self, items: Tensor, row: Tensor, count: int) -> Tensor:
        """Queries (S, D) of histories without an order, see `distill.windows.halves`: all pools are plain means.

        Args:
            items: Items of all histories (H,).
            row: The history of each, ascending (H,).
            count: S.
        """
        self.sets = row, count
        try:
            return self.encode(items)  # type: ignore[operator]
        finally:
            self.sets = None

    def item_rows(self, items: Tensor) -> Tensor:
        """Rows (M, D) of `item_table` for some items, int64 (M,)."""
        return self._some(self.outputs, items, self.l2)

    def train_by_rows(self) -> bool:
        """From now on training reads the rows of a batch's items alone, as large catalogues need.

        Returns:
            False where nothing changes: rows are read from plain tables by students with pools, without `cold`.
        """
        plain = all(isinstance(table, ItemTable) for table in (self.inputs, self.outputs))
        self.by_rows = plain and self.warm is None and hasattr(self, "log_decay")
        return self.by_rows

    def _vectors_of(self, history: Tensor) -> tuple[Tensor, Tensor]:
        """A history and the table it is read from; by rows, the batch's items renumbered and their rows alone."""
        if not (self.by_rows and self.training):
            return history, self.history_vectors()
        number = torch.zeros(self.n_items + 1, dtype=torch.int64, device=history.device)
        number[history] = 1
        items = number[: self.n_items].nonzero()[:, 0]
        number[:] = len(items)
        number[items] = torch.arange(len(items), device=history.device)
        tied = self.inputs is self.outputs
        return number[history], self._some(self.inputs, items, 0.0 if tied else self.l2)

    def _some(self, table: nn.Module, items: Tensor, l2: float) -> Tensor:
        rows: Tensor = table.rows(items)  # type: ignore[operator]
        if l2 and self.training:
            rows = ridge(rows, l2)
        return functional.normalize(rows, dim=-1) if self.cosine else rows

    def scaled(self, query: Tensor) -> Tensor:
        """Queries (B, D) times the logit scale, of unit length before it where cosine is on."""
        return self.log_scale.exp() * (functional.normalize(query, dim=-1) if self.cosine else query)

    def _rows(self, table: nn.Module, l2: float) -> Tensor:
        rows = table() if self.warm is None else table(self._shown(self.warm))
        if l2 and self.training:
            rows = ridge(rows, l2)
        return functional.normalize(rows, dim=-1) if self.cosine else rows

    def _shown(self, warm: Tensor) -> Tensor:
        """Which items show their id part (N,): those with train events, in training a part of them."""
        if not (self.training and self.id_dropout):
            return warm
        return warm & (torch.rand(warm.shape, device=warm.device) >= self.id_dropout)


def even_mix(count: int) -> nn.Parameter:
    """Weights (K,) of the pools' sum, even at the start."""
    return nn.Parameter(torch.full((count,), 1.0 / count))


def history_rows(history: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
    """The vectors of a history, item by item, for students that read it in order.

    Args:
        history: Item indices (B, L), padded with N or more.
        table: Item vectors (N, D).

    Returns:
        Vectors (B, L, D), zeros where there is no item, and where there is one, bool (B, L).
    """
    inside = history < table.shape[0]
    rows = functional.embedding(torch.where(inside, history, 0), table)
    return rows * inside[:, :, None].to(rows.dtype), inside


def without_some(history: Tensor, n_items: int, dropped: float) -> Tensor:
    """Histories (B, L) with a share of the items replaced by padding; one that would be empty stays whole."""
    if not dropped:
        return history
    inside = history < n_items
    remaining = inside & (torch.rand(history.shape, device=history.device) >= dropped)
    remaining = torch.where(remaining.any(1, keepdim=True), remaining, inside)
    return torch.where(remaining, history, n_items)


class _Ridge(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, rows: Tensor, l2: float) -> Tensor:
        context.save_for_backward(rows)
        context.l2 = l2
        return rows.view_as(rows)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (rows,) = context.saved_tensors
        return gradients[0] + context.l2 * rows, None


def ridge(rows: Tensor, l2: float) -> Tensor:
    """`rows` unchanged, with the gradient of l2 / 2 * |rows|^2 added on the way back.

    Losses see a student's scores only, so a penalty on its vectors has to travel with the vectors. Unlike the
    optimiser's decoupled weight decay, it reaches the folded rows: text part and id part together. Rows that are made
    unit afterwards (cosine logits) score the same at any length; there the ridge acts on the size of the steps alone.
    """
    return _Ridge.apply(rows, l2)
