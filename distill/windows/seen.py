"""What each context of a batch has seen, and which items of a sample it therefore leaves out."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from distill.job import Batch

NEVER = 2**24  # place of an event that isn't there; a float32 holds it exactly
FEW = 2**25  # cells of a table of where each window has each item, up to which it is laid out
LOW = -1e30  # what hiding adds to a score


@dataclass(frozen=True)
class HiddenOnes:
    """Columns of a sample that each context leaves out, one by one (B, C)."""

    columns: Tensor

    def blocks(self, size: int) -> list[tuple[int, int]]:
        """Ranges of at most `size` contexts."""
        step = max(1, size)
        return [(first, min(first + step, len(self.columns))) for first in range(0, len(self.columns), step)]

    def hide(self, scores: Tensor, first: int) -> None:
        """Lowers the scores (P, C) that contexts from `first` on leave out, in place."""
        scores.masked_fill_(self.columns[first : first + len(scores)], LOW)

    def counts(self) -> Tensor:
        """Number of columns that each context leaves out (B,)."""
        return self.columns.sum(1)


@dataclass(frozen=True)
class HiddenSince:
    """The same for windows: window s leaves out column c from place `since[s, c]` on.

    Attributes:
        since: int32 (S, C).
        width: W.
        also: One more column of each context (W * S,), its label's; -1 where that isn't in the sample.
    """

    since: Tensor
    width: int
    also: Tensor

    def blocks(self, size: int) -> list[tuple[int, int]]:
        """Ranges of whole places."""
        windows = max(1, len(self.since))
        step = max(1, size // windows)
        return [(first * windows, min(first + step, self.width) * windows) for first in range(0, self.width, step)]

    def hide(self, scores: Tensor, first: int) -> None:
        """Lowers the scores (P, C) that contexts from `first` on leave out, in place."""
        windows = len(self.since)
        for place in range(len(scores) // windows):
            # A product instead of a choice: several times faster than filling by a mask.
            over = (first // windows + place + 1 - self._since).clamp_min_(0)
            scores[place * windows : (place + 1) * windows].add_(over, alpha=LOW)
        also = self.also[first : first + len(scores)]
        context = (also >= 0).nonzero()[:, 0]
        scores[context, also[context]] = LOW

    @property
    def columns(self) -> Tensor:
        """All of them, one by one (W * S, C)."""
        place = torch.arange(self.width, device=self.since.device)
        seen = (self.since[None] <= place[:, None, None]).flatten(0, 1)
        return seen | (self.also[:, None] == torch.arange(seen.shape[1], device=seen.device))

    def counts(self) -> Tensor:
        """Number of columns that each context leaves out (W * S,)."""
        return self.columns.sum(1)

    @cached_property
    def _since(self) -> Tensor:
        return self.since.float()


@dataclass(frozen=True)
class Seen:
    """What each context of a batch has seen, for contexts one by one: items (B, S), padded with N or more."""

    items: Tensor
    n_items: int

    def among(self, place: Tensor, count: int, label: Tensor) -> HiddenOnes:
        """Which of `count` items each context has seen or as its label; `place` (N + 1,) is an item's number, or -1."""
        hidden = torch.zeros(len(self.items), count + 1, dtype=torch.bool, device=self.items.device)
        hidden.scatter_(1, place[self.items.clamp_max(self.n_items)] % (count + 1), True)
        return HiddenOnes(hidden.scatter_(1, place[label][:, None] % (count + 1), True)[:, :count])

    def holds_labels(self, labels: Tensor) -> Tensor:
        """Which of the labels (B,) each context has seen."""
        return self.holds(labels[:, None])[:, 0]

    def holds(self, items: Tensor) -> Tensor:
        """Which of the items (B, J) each context has seen."""
        if len(self.items) * self.n_items > FEW:
            return torch.stack([(self.items == column[:, None]).any(1) for column in items.unbind(1)], 1)
        known = torch.zeros(len(self.items), self.n_items + 1, dtype=torch.bool, device=self.items.device)
        return known.scatter_(1, self.items.clamp_max(self.n_items), True).gather(1, items)


@dataclass(frozen=True)
class WindowSeen:
    """The same for windows: context w of window s has seen the events of row s whose place is below `first[s] + w`.

    Attributes:
        events: Items (F,).
        row: Window of each event (F,).
        place: Its place in the user's sequence, int32 (F,).
        first: (S,).
        width: W.
        n_items: N.
        repeats: Which labels have been seen (W * S,); None: none.
    """

    events: Tensor
    row: Tensor
    place: Tensor
    first: Tensor
    width: int
    n_items: int
    repeats: Tensor | None = None

    @property
    def until(self) -> Tensor:
        """Events that each context has seen (W, S)."""
        return self.first[None, :] + torch.arange(self.width, device=self.first.device)[:, None]

    def among(self, place: Tensor, count: int, label: Tensor) -> HiddenSince:
        """Which of `count` items each context has seen or as its label; `place` (N + 1,) is an item's number, or -1."""
        since = self.first_place(place, count) - self.first[:, None].to(torch.int32)
        return HiddenSince(since, self.width, place[label])

    def holds(self, items: Tensor) -> Tensor:
        """Which of the items (W * S, J) each context has seen."""
        shaped = items.view(self.width, len(self.first), -1)
        if len(self.first) * self.n_items > FEW:
            at = self._search(shaped)
        else:
            where = self.first_place(torch.arange(self.n_items + 1, device=items.device), self.n_items)
            at = where[None].expand(self.width, -1, -1).gather(2, shaped)
        return (at < self.until[:, :, None]).flatten(0, 1)

    def holds_labels(self, labels: Tensor) -> Tensor:
        """Which of the labels (W * S,) each context has seen: known from the sequences, without a look at them."""
        return torch.zeros_like(labels, dtype=torch.bool) if self.repeats is None else self.repeats

    def mask(self, scores: Tensor) -> Tensor:
        """Sets the scores (W * S, N) of seen items to -inf, in place."""
        at = self.first_place(torch.arange(self.n_items + 1, device=scores.device), self.n_items)
        scores.view(self.width, len(at), -1).masked_fill_(at[None] < self.until[:, :, None], -torch.inf)
        return scores

    def first_place(self, place: Tensor, count: int) -> Tensor:
        """Place of the first event of each window with each of `count` items, int32 (S, count); NEVER without one."""
        size = len(self.first) * count
        number = place[self.events]
        cell = torch.where(number < 0, size, self.row * count + number)  # all others into one cell behind the last
        out = torch.full((size + 1,), NEVER, dtype=torch.int32, device=place.device)
        return out.scatter_reduce_(0, cell, self.place, "amin")[:size].view(-1, count)

    def _search(self, items: Tensor) -> Tensor:
        """Place of the first event of each window with each of the items (W, S, J), without a table of all items."""
        rows = torch.arange(len(self.first), device=items.device)[:, None]
        keys = (self.row * self.n_items + self.events).sort(stable=True)
        wanted = rows * self.n_items + items
        at = torch.searchsorted(keys.values, wanted).clamp_max(max(0, len(keys.values) - 1))
        return torch.where(keys.values[at] == wanted, self.place[keys.indices[at]], NEVER)


def seen_of(batch: Batch, n_items: int) -> Seen | WindowSeen:
    """What the contexts of a batch have seen, of either kind."""
    if "window_first" not in batch:
        return Seen(batch["seen"], n_items)
    width = len(batch["label"]) // len(batch["window_first"])
    events, row, place, first = (batch[f"window_{name}"] for name in ("events", "row", "place", "first"))
    return WindowSeen(events, row, place, first, width, n_items, batch.get("window_repeats"))
