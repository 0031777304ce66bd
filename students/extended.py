"""Any student with a user side and further heads around it."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from students.multi_task import Heads
from students.user_side import UserSide


class Extended(nn.Module):
    """A student whose query is the core's plus what is known of the user, and which may have heads beside the ranking.

    The item side is the core's. `encode` reads histories alone and keeps the contract of a student; `user_vectors` is
    added to its answer by training, evaluation and serving, and is zero for someone unknown.
    """

    def __init__(
        self, core: Any, user_side: dict[str, Any] | None = None, heads: dict[str, dict[str, Any]] | None = None
    ) -> None:
        """Wraps a student.

        Args:
            core: The student.
            user_side: Arguments of `UserSide` but for `dim` and `items`; None for none.
            heads: `{"users": U, "heads": settings}`, as `Heads` takes them; None for none.
        """
        super().__init__()
        self.extensions: dict[str, Any] = {}
        self.core = core
        self.n_items: int = core.n_items
        dim = core.item_table().shape[1]
        self.user_side = UserSide(dim, items=self.n_items, **user_side) if user_side else None
        self.heads = Heads(dim, self.n_items, **heads) if heads else None  # type: ignore[arg-type]

    def __getattr__(self, name: str) -> Any:
        """What this wrapper hasn't is the core's."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "core":
                raise
            return getattr(self.core, name)

    def encode(self, history: Tensor) -> Tensor:
        """Queries (B, D) for histories (B, L), without what is known of the user."""
        query: Tensor = self.core.encode(history)
        recent = self.user_side.recent_vectors(history) if self.user_side is not None else None
        return query if recent is None else query + recent

    def item_table(self) -> Tensor:
        """Item vectors (N, D) of the core."""
        table: Tensor = self.core.item_table()
        return table

    def item_bias(self) -> Tensor:
        """Item biases (N,) of the core."""
        bias: Tensor = self.core.item_bias()
        return bias

    @property
    def user_width(self) -> int:
        """Width D of the user vectors; 0 where the student reads nothing of the user but the history."""
        side = self.user_side
        return side.dim if side is not None and (side.weights is not None or side.factor is not None) else 0

    def user_vectors(self, users: Tensor) -> Tensor | None:
        """What is added to the queries (B, D) of users int64 (B,), -1 for an unknown one; None without a user side."""
        return self.user_side.user_vectors(users) if self.user_side is not None and self.user_width else None

    def head_losses(self, query: Tensor, table: Tensor, batch: dict[str, Tensor]) -> dict[str, tuple[float, Tensor]]:
        """Weight and loss of each head for a batch with label (B,), user (B,) and outcome (B,); {} without heads."""
        if self.heads is None or "outcome" not in batch:
            return {}
        return self.heads.losses(query, table, batch["label"], batch["user"], batch["outcome"])
