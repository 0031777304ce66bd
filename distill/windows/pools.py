"""Decayed means of all contexts of windows, each from the one before, in blocks that stay in the cache."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from distill.windows.noise import is_large, kept_
from distill.windows.scatter import summed_by

BLOCK = 2**19  # numbers that a block of places holds: two megabytes


def window_pools(
    items: Tensor,
    table: Tensor,
    decays: Tensor,
    mix: Tensor,
    width: int,
    dropped: float = 0.0,
    noise: float = 0.0,
    means_alone: bool = False,
) -> tuple[Tensor, Tensor]:
    """`history_pools` of all contexts of windows, and their weighted sums: no history is laid out or summed twice.

    Context w of a window has read the L columns from w on, L = T - width + 1, so with e_c the vector in column c
    P_w = f P_(w-1) + e_(L-1+w) - f^L e_(w-1), f = exp(-1 / decay).

    Args:
        items: Windows (S, T), padded with N or more.
        table: Item vectors (N, D).
        decays: Time constants in items (K,).
        mix: Weights of the pools in their sum (K,).
        width: Contexts of a window, W.
        dropped: Share of items left out at random, for all contexts of a window alike; the first of a window stays.
        noise: Share of the pools' numbers that are set to zero at random, as by `torch.nn.Dropout`.
        means_alone: The pools themselves aren't wanted.

    Returns:
        sum_k mix_k pool_k (W * S, D), and the pools (W * S, K, D), empty where they aren't wanted; window s at place w
        in row w * S + s.
    """
    index = items.T.contiguous()
    inside = index < table.shape[0]
    kept = inside.to(table.dtype)
    if dropped:
        opening = inside & (inside.cumsum(0) == 1)
        kept = kept * ((torch.rand_like(kept) >= dropped) | opening)
    rows = _gathered(table, index, kept)
    weights = _weights(len(index), decays, width)
    share = (weights @ kept).clamp_min(1e-6).reciprocal() / (1 - noise)  # (W, K, S)
    if torch.compiler.is_compiling():
        pools = (weights.flatten(0, 1) @ rows.flatten(1)).view(*share.shape, -1) * share[..., None]
        pools = _noised(pools.transpose(1, 2), noise)
        return (mix[:, None] * pools).sum(2).flatten(0, 1), pools.flatten(0, 1)
    means, pools = _Pools.apply(rows, torch.exp(-1 / decays), share, mix, noise, means_alone)
    return means.flatten(0, 1), pools.flatten(0, 1)


def _gathered(table: Tensor, index: Tensor, kept: Tensor) -> Tensor:
    """Rows of the table (T, S, D), zeros where nothing is kept."""
    if torch.compiler.is_compiling():
        return functional.embedding(torch.where(kept > 0, index, 0), table) * kept[:, :, None]
    return _Gather.apply(table, torch.where(kept > 0, index, len(table)))


class _Gather(torch.autograd.Function):
    """Rows of a table at an index whose number N stands for zeros: without a product by a mask on either way."""

    @staticmethod
    def forward(context: Any, table: Tensor, index: Tensor) -> Tensor:
        missing = index.flatten() == len(table)
        rows = table.index_select(0, index.flatten().masked_fill(missing, 0))
        rows.index_fill_(0, missing.nonzero()[:, 0], 0.0)
        context.save_for_backward(index)
        context.count = len(table)
        return rows.view(*index.shape, -1)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (index,), of_rows = context.saved_tensors, gradients[0].flatten(0, 1)
        return summed_by(index.flatten(), of_rows.contiguous(), context.count + 1)[:-1], None


def _noised(pools: Tensor, noise: float) -> Tensor:
    return pools * torch.empty_like(pools).bernoulli_(1 - noise) if noise else pools


def _weights(columns: int, decays: Tensor, width: int) -> Tensor:
    """Weight of column c in the history of place w (W, K, T): exp(-age / decay) of the L columns up to the latest."""
    length = columns - width + 1
    places = torch.arange(width, device=decays.device)[:, None]
    age = places + (length - 1) - torch.arange(columns, device=decays.device)
    weights = torch.exp(-age.clamp_min(0).to(decays.dtype) / decays[:, None, None])  # (K, W, T)
    return (weights * ((age >= 0) & (age < length))).transpose(0, 1)


def _blocks(width: int, size: int) -> list[tuple[int, int]]:
    """Ranges of places that hold about `BLOCK` numbers, `size` a place."""
    step = max(1, BLOCK // max(1, size))
    return [(first, min(first + step, width)) for first in range(0, width, step)]


class _Pools(torch.autograd.Function):
    """pool_wk = share_wk * noise_wk * P_wk, and sum_k mix_k pool_wk, as (W, S, K, D) and (W, S, D)."""

    @staticmethod
    def forward(
        context: Any, rows: Tensor, factor: Tensor, share: Tensor, mix: Tensor, noise: float, means_alone: bool
    ) -> tuple[Tensor, Tensor]:
        width, count, windows = share.shape
        scan = _Scan(rows, factor, width)
        means = rows.new_empty(width, windows, rows.shape[2])
        pools = rows.new_empty(0 if means_alone else width, windows, count, rows.shape[2])
        kept = rows.new_empty(width if noise else 0, windows, count, rows.shape[2])
        by, large = mix[:, None, None], is_large(width * windows, rows.device)
        for first, stop in _blocks(width, count * means[0].numel()):
            sums, shares = scan.forward(first, stop), share[first:stop, :, :, None]
            if means_alone:
                torch.sum(sums * (shares * by), 1, out=means[first:stop])
                continue
            pool = sums * shares
            if noise:  # drawn in the order of the result, as dropout would
                drawn = kept[first:stop]
                drawn = kept_(drawn, noise) if large else drawn.bernoulli_(1 - noise)
                pool *= drawn.transpose(1, 2)
            pools[first:stop] = pool.transpose(1, 2)
            torch.sum(pool.mul_(by), 1, out=means[first:stop])
        context.scan, context.kept, context.means_alone = scan, kept if noise else None, means_alone
        context.save_for_backward(share, mix)
        return means, pools

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (share, mix), scan, kept = context.saved_tensors, context.scan, context.kept
        scan.start_backward()
        of_share, by_mean = torch.empty_like(share), torch.empty_like(share)
        by = mix[:, None, None]
        for first, stop in reversed(_blocks(len(share), share.shape[1] * gradients[0][0].numel())):
            of_mean, sums = gradients[0][first:stop, None], scan.sums[first:stop]
            if kept is not None:
                sums = sums * kept[first:stop].transpose(1, 2)
            torch.sum(of_mean * sums, -1, out=by_mean[first:stop])
            flow = of_mean * by
            if not context.means_alone:
                of_pool = gradients[1][first:stop].transpose(1, 2)
                torch.sum(of_pool * sums, -1, out=of_share[first:stop])
                flow += of_pool
            if kept is not None:
                flow *= kept[first:stop].transpose(1, 2)
            scan.backward(first, stop, flow.mul_(share[first:stop, :, :, None]))
        of_mix = (by_mean * share).sum((0, 2))
        by_mean *= mix[:, None]
        of_share = by_mean if context.means_alone else of_share.add_(by_mean)
        return scan.of_rows, scan.of_factor, of_share, of_mix, None, None


class _Scan:
    """P_w of `window_pools` (W, K, S, D) for columns (T, S, D), and its gradients, block by block."""

    def __init__(self, rows: Tensor, factor: Tensor, width: int) -> None:
        self.rows, self.factor, self.width = rows, factor, width
        self.length = len(rows) - width + 1
        self.by = factor[:, None, None]
        self.lost = self.by**self.length
        age = torch.arange(
            self.length - 2, -1, -1, device=rows.device, dtype=rows.dtype
        )  # of all but the latest column
        self.age, self.powers = age, factor[:, None] ** age
        self.start = (self.powers @ rows[: self.length - 1].flatten(1)).view(len(factor), *rows.shape[1:])
        self.sums = rows.new_empty(width, len(factor), *rows.shape[1:])

    def forward(self, first: int, stop: int) -> Tensor:
        """The sums of places `first` to `stop`; called in order."""
        out, new = self.sums[first:stop], self.rows[self.length - 1 + first : self.length - 1 + stop]
        if first == 0:
            torch.addcmul(new[0], self.start, self.by, out=out[0])
        after = max(first, 1)
        torch.addcmul(
            new[after - first :, None],
            self.rows[after - 1 : stop - 1, None],
            self.lost,
            value=-1,
            out=out[after - first :],
        )
        for place in range(after, stop):
            self.sums[place].addcmul_(self.sums[place - 1], self.by)
        return out

    def start_backward(self) -> None:
        """Makes room for the gradients."""
        self.of_rows = torch.zeros_like(self.rows)
        self.of_factor, self.of_lost = (torch.zeros_like(self.factor) for _ in range(2))
        self.flow: Tensor | None = None

    def backward(self, first: int, stop: int, gradient: Tensor) -> None:
        """Takes the gradient of the sums of places `first` to `stop`, which it overwrites; called from the last on."""
        flow = gradient
        for place in range(stop - 1, first - 1, -1):
            if self.flow is not None:
                flow[place - first].addcmul_(self.flow, self.by)
            self.flow = flow[place - first]
        self.of_rows[self.length - 1 + first : self.length - 1 + stop] += flow.sum(1)
        after = max(first, 1)
        later = flow[after - first :]
        old = self.rows[after - 1 : stop - 1]
        self.of_factor += _dots(later, self.sums[after - 1 : stop - 1])
        self.of_lost -= _dots(later, old[:, None].expand_as(later))
        self.of_rows[after - 1 : stop - 1] -= (later * self.lost).sum(1)
        self.flow = self.flow.clone() if self.flow is not None else None  # the block's memory is used again
        if first == 0:
            self._of_start(flow[0])

    def _of_start(self, flow: Tensor) -> None:
        self.of_factor += (flow * self.start).sum((1, 2))
        of_start = (flow * self.by).flatten(1)
        old = self.rows[: self.length - 1].flatten(1)
        self.of_rows[: self.length - 1] += (self.powers.T @ of_start).view(-1, *self.rows.shape[1:])
        of_powers = of_start @ old.T
        self.of_factor += (of_powers * self.age * self.factor[:, None] ** (self.age - 1)).sum(1)
        self.of_factor += self.of_lost * self.length * self.factor ** (self.length - 1)


def _dots(left: Tensor, right: Tensor) -> Tensor:
    """sum over places, windows and columns of the products (P, K, S, D): (K,)."""
    return (left * right).sum((0, 2, 3))
