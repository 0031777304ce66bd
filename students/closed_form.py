"""Students without gradient training: popularity, neighbour lists (ItemKNN, EASE), iALS."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from distill.closed_form.interactions import decay_weights, interaction_matrix
from distill.closed_form.item_item import ease_table, similarities, strongest
from distill.closed_form.least_squares import factorise
from distill.data.dataset import Dataset
from distill.errors import UserError

GATHERED = 2**23  # entries of neighbour lists added up at once
SHORT = 2**15  # catalogues below have item numbers that fit 16 bits


class Popularity(nn.Module):
    """log(train count + 1) of each item, whatever the history."""

    table: Tensor

    def __init__(self, n_items: int, item_vectors: Tensor | None = None) -> None:
        """Builds the student.

        Args:
            n_items: Catalogue size N.
            item_vectors: Not used.
        """
        super().__init__()
        self.n_items = n_items
        self.register_buffer("table", torch.zeros(n_items, 1))

    def fit_closed_form(self, dataset: Dataset, seed: int = 0) -> None:
        """Counts train interactions."""
        self.table.copy_(torch.log1p(torch.from_numpy(dataset.popularity).float())[:, None])

    def encode(self, history: Tensor) -> Tensor:
        """A one for each history (B, 1)."""
        return torch.ones_like(history[:, :1]).to(self.table.dtype)

    def item_table(self) -> Tensor:
        """Log counts (N, 1)."""
        return self.table

    def item_bias(self) -> Tensor:
        """Zeros (N,)."""
        return torch.zeros_like(self.table[:, 0])


class NeighbourLists(nn.Module):
    """s_i = sum_j exp(-age_j / decay) B[item_j, i], of each row of B the strongest entries alone.

    It is no dot product of small vectors, so it scores the catalogue by itself: the lists of the history's items are
    looked up and added up. A file holds M numbers and M item numbers an item, and a query costs L M additions.
    """

    neighbours: Tensor
    strengths: Tensor

    def __init__(self, n_items: int, neighbours: int, decay: float) -> None:
        """Builds the student.

        Args:
            n_items: Catalogue size N.
            neighbours: M, neighbours kept an item.
            decay: Time constant of the recency weights, in items.

        Raises:
            UserError: There are no neighbours, or `decay` isn't positive.
        """
        super().__init__()
        if neighbours < 1 or not decay > 0:
            raise UserError(f"neighbours is {neighbours} and decay {decay}; expected 1 or more, and more than 0.")
        self.n_items, self.decay = n_items, decay
        count = min(neighbours, n_items)
        kind = torch.int16 if n_items < SHORT else torch.int32
        self.register_buffer("neighbours", torch.full((n_items, count), n_items, dtype=kind))
        self.register_buffer("strengths", torch.zeros(n_items, count))

    def keep(self, neighbours: Tensor, strengths: Tensor) -> None:
        """Takes over lists (N, M) of neighbours, N for none, and their strengths."""
        self.neighbours.copy_(neighbours)
        self.strengths.copy_(strengths)

    def catalogue_scores(self, history: Tensor) -> Tensor:
        """Scores (B, N) for histories (B, L)."""
        if torch.compiler.is_compiling():
            return self._added(history)
        step = max(1, GATHERED // max(1, history.shape[1] * self.neighbours.shape[1]))
        return torch.cat([self._added(part) for part in history.split(step)])

    def _added(self, history: Tensor) -> Tensor:
        index = torch.where(history < self.n_items, history, 0)
        weights = decay_weights(history, self.n_items, self.decay)
        added = functional.embedding(index, self.strengths) * weights[:, :, None]
        places = self.neighbours[index].long()
        scores = torch.zeros(history.shape[0], self.n_items + 1, dtype=added.dtype)
        return scores.scatter_add(1, places.flatten(1), added.flatten(1))[:, :-1]


class ItemKNN(NeighbourLists):
    """Item-based nearest neighbours: s_ij = c_ij / ((n_i n_j)^alpha + shrink), see `similarities`."""

    def __init__(
        self,
        n_items: int,
        alpha: float = 0.75,
        shrink: float = 10.0,
        neighbours: int = 200,
        decay: float = 4.0,
        item_vectors: Tensor | None = None,
    ) -> None:
        """Builds the student.

        Args:
            n_items: Catalogue size N.
            alpha: Exponent of the popularity normalisation; 0.5 is cosine.
            shrink: Added to the denominator, against chance co-occurrence.
            neighbours: M, neighbours kept an item.
            decay: Time constant of the recency weights, in items.
            item_vectors: Not used.
        """
        super().__init__(n_items, neighbours, decay)
        self.alpha, self.shrink = alpha, shrink

    def fit_closed_form(self, dataset: Dataset, seed: int = 0) -> None:
        """Counts co-occurrences on train and normalises them; memory that of the sparse matrix."""
        similar = similarities(interaction_matrix(dataset, weighted=True), self.alpha, self.shrink)
        index, values = strongest(similar, self.neighbours.shape[1])
        self.keep(index, values / values.max().clamp_min(1e-12))


class Ease(NeighbourLists):
    """EASE, the closed-form item-item autoencoder, its rows cut to the entries of largest size."""

    def __init__(
        self,
        n_items: int,
        l2: float = 100.0,
        neighbours: int = 200,
        decay: float = 4.0,
        item_vectors: Tensor | None = None,
    ) -> None:
        """Builds the student.

        Args:
            n_items: Catalogue size N.
            l2: Ridge strength; larger for sparser or larger data.
            neighbours: M, entries kept a row, the negative ones too; N or more keeps all.
            decay: Time constant of the recency weights, in items.
            item_vectors: Not used.
        """
        super().__init__(n_items, neighbours, decay)
        self.l2 = l2

    def fit_closed_form(self, dataset: Dataset, seed: int = 0) -> None:
        """Inverts the Gram matrix (N, N), see `ease_table`."""
        self.keep(*strongest(ease_table(interaction_matrix(dataset, weighted=True), self.l2), self.neighbours.shape[1]))


class ImplicitALS(nn.Module):
    """iALS; the user's vector is solved from the history by steps of conjugate gradients, in the exported graph too.

    u = (a0 V'V + sum_j w_j v_j v_j' + ridge I)^-1 sum_j w_j v_j, w_j = exp(-age_j / decay); score_i = u' v_i.

    All but the history's part is known beforehand: with a0 V'V + ridge I = R R' and the vectors R^-1 v_j the matrix is
    the identity plus one rank for each item of the history, on which a handful of steps are enough. Scores stay what
    they were, since both sides change together.

    References:
        Takács, Pilászy & Tikk 2011, "Applications of the conjugate gradient method for implicit feedback collaborative
        filtering", with this preconditioning. For the loss see `distill.closed_form.least_squares.solve_rows`. The
        recency weights are this project's.
    """

    table: Tensor
    shrinkage: Tensor
    usual: Tensor

    def __init__(
        self,
        n_items: int,
        dim: int = 64,
        l2: float = 0.003,
        unobserved: float = 0.1,
        frequency: float = 1.0,
        sweeps: int = 10,
        decay: float = 10.0,
        steps: int = 4,
        item_vectors: Tensor | None = None,
    ) -> None:
        """Builds the student.

        Args:
            n_items: Catalogue size N.
            dim: Width D of the vectors.
            l2: Ridge strength.
            unobserved: a0, the weight of every pair; an observed pair weighs 1 more.
            frequency: nu, the exponent of the regularisation by frequency.
            sweeps: Alternations between users and items.
            decay: Time constant of the recency weights, in items.
            steps: Of conjugate gradients.
            item_vectors: Not used.

        Raises:
            UserError: `decay` isn't positive, or there is no step.
        """
        super().__init__()
        if steps < 1 or not decay > 0:
            raise UserError(f"student 'ials': steps is {steps}, decay {decay}; expected 1 or more, and more than 0.")
        self.n_items, self.dim, self.l2, self.unobserved = n_items, dim, l2, unobserved
        self.frequency, self.sweeps, self.decay, self.steps = frequency, sweeps, decay, steps
        self.register_buffer("table", torch.zeros(n_items, dim))  # R^-1 v, (N, D)
        self.register_buffer("shrinkage", torch.eye(dim))  # R^-1 R'^-1
        self.register_buffer("usual", torch.zeros(()))  # the ridge that R holds

    def fit_closed_form(self, dataset: Dataset, seed: int = 0) -> None:
        """Alternates between users and items; time a sweep 2 E D^2 + (U + N) D^3."""
        users = interaction_matrix(dataset)
        vectors = factorise(users, self.dim, self.unobserved, self.l2, self.frequency, self.sweeps, seed)
        lasting = torch.arange(max(1, int(users.nnz / max(1, users.shape[0]))))
        usual = self._ridge(torch.exp(-lasting / self.decay).sum())
        known = (self.unobserved * vectors.T @ vectors + usual.clamp_min(1e-8) * torch.eye(self.dim)).double()
        inverse = torch.linalg.inv(torch.linalg.cholesky(known))
        self.table.copy_((vectors.double() @ inverse.T).float())
        self.shrinkage.copy_((inverse @ inverse.T).float())
        self.usual.copy_(usual)

    def encode(self, history: Tensor) -> Tensor:
        """Users' vectors (B, D) for histories (B, L)."""
        index = torch.where(history < self.n_items, history, 0)
        weights = decay_weights(history, self.n_items, self.decay)
        rows = functional.embedding(index, self.table)  # (B, L, D)
        weighted = (rows * weights[:, :, None]).transpose(1, 2)
        shift = (self._ridge(weights.sum(1)) - self.usual)[:, None]
        residual = weighted.sum(2)
        direction, found = residual, torch.zeros_like(residual)
        size = residual.square().sum(1, keepdim=True)
        for _ in range(self.steps):
            seen = (weighted @ (rows @ direction[:, :, None]))[:, :, 0]
            turned = direction + seen + shift * functional.linear(direction, self.shrinkage)
            step = size / (direction * turned).sum(1, keepdim=True).clamp_min(1e-20)
            found, residual = found + step * direction, residual - step * turned
            before, size = size, residual.square().sum(1, keepdim=True)
            direction = residual + size / before.clamp_min(1e-20) * direction
        return found

    def item_table(self) -> Tensor:
        """Items' vectors (N, D)."""
        return self.table

    def item_bias(self) -> Tensor:
        """Zeros (N,)."""
        return torch.zeros_like(self.table[:, 0])

    def _ridge(self, count: Tensor) -> Tensor:
        return self.l2 * (count + self.unobserved * self.n_items) ** self.frequency
