"""Matrix factorisation without a user table: the classic small student."""

from __future__ import annotations

from torch import Tensor, nn

from distill.windows.noise import dropout
from students.heads import TableStudent, even_mix
from students.item_table import Start, TextUse, item_tables


class MatrixFactorisation(TableStudent):
    """score_i = u' W out_i + b_i, the user's vector u a decayed mean of free item vectors of the history.

    u = sum_k a_k sum_j w_kj in(item_j), w_kj = exp(-age_j / tau_k) / sum_j exp(-age_j / tau_k), age 0 for the latest.

    A user is what the user did (asymmetric SVD, NSVD, FISM) and not a row of a table, so new users and new clicks need
    no training. W starts at the identity. There is no other weight between the tables: what `hybrid_cf` adds to this
    is its MLP. In the classic form (`cosine: false` and an `l2`) the rows keep their lengths, which learn popularity.

    References:
        Paterek 2007, "Improving regularized singular value decomposition for collaborative filtering", NSVD. Koren
        2008, "Factorization meets the neighborhood", section 4 (asymmetric SVD). Kabbur et al. 2013, "FISM: factored
        item similarity models for top-N recommender systems", eq. 4.
    """

    def __init__(
        self,
        n_items: int,
        dim: int = 64,
        decays: list[float] | tuple[float, ...] = (1.0, 4.0, 20.0),
        scale: float = 16.0,
        cosine: bool = True,
        l2: float = 0.0,
        dropout: float = 0.05,
        item_dropout: float = 0.05,
        tied: bool = False,
        text: TextUse = "init",
        start: Start = "events",
        buckets: int = 0,
        cold: bool = False,
        id_dropout: float = 0.5,
        item_vectors: Tensor | None = None,
    ) -> None:
        """Builds the student.

        Args:
            n_items: Catalogue size N.
            dim: Width D of both item tables.
            decays: Starting time constants of the means, in items; one large number is the plain mean.
            scale: Starting value of the learned logit scale.
            cosine: Queries and item vectors of unit length before the scale; off, plain dot products.
            l2: Ridge strength on the rows of both tables, a step; see `students.heads.ridge`.
            dropout: On the user's vector, in training.
            item_dropout: Share of history items left out in training; one that would be empty stays whole.
            tied: One table for history and candidates.
            text: What `item_vectors` are for, see `ItemTable`.
            start: Where item vectors without text begin: what the train events say of them, or at random.
            buckets: Rows of the hashed id part; 0 is one an item.
            cold: Serve items without train events from their text alone, see `TableStudent`.
            id_dropout: With `cold`, the share of items whose id part is left out of a training step.
            item_vectors: Text vectors (N, T) from the teacher.
        """
        tables = item_tables(n_items, dim, item_vectors, text, buckets, tied, start)
        super().__init__(n_items, *tables, decays, scale, cosine, item_dropout, l2, cold, id_dropout)
        self.mix = even_mix(len(decays))
        self.dropout = nn.Dropout(dropout)
        self.bilinear = nn.Linear(dim, dim, bias=False)
        nn.init.eye_(self.bilinear.weight)

    def encode(self, history: Tensor) -> Tensor:
        """Queries W'u (B, D), already multiplied by the logit scale, for histories (B, L)."""
        user = self.mean_pool(history, self.mix)
        user = dropout(user, self.dropout.p) if self.training else user
        return self.scaled(self.bilinear(user))
