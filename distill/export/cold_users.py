"""Users without a history: how their attributes tilt popularity, solved on a trained student's item vectors."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from distill.data.dataset import TRAIN, Dataset

STEPS, LEARNING_RATE = 100, 0.05
AT_ONCE = 2**22  # scores of one step
MOST_USERS = 1024  # of one step
RIDGE = 0.01


def cold_table(dataset: Dataset, items: Tensor, seed: int = 0) -> Tensor:
    """A table T (A, D): users with attributes x choose by softmax_i(log(1 + events_i) + x T . e_i).

    It is the multinomial model of the train events in which popularity is given and the item vectors e are the
    student's, so it has A x D numbers and a ridge on them. The query's own attribute table isn't the answer: it was
    learned beside histories, which say most of what attributes say. What users have in common is popularity already:
    the mean over users is taken out of each attribute's rows, so that an attribute that isn't known says nothing.

    Args:
        dataset: Users with train events are learned from, each with the same weight.
        items: Item vectors (N, D).
        seed: Of the order of the users.

    Returns:
        float32 (A, D); zeros without users to learn from.

    References:
        Rendle 2010, "Factorization machines": an attribute's effect on an item as a product of low-rank vectors.
    """
    attributes = dataset.features.users.matrix()
    lists = dataset.lists(TRAIN, TRAIN)
    users = np.flatnonzero(lists.lengths > 0)
    table = torch.zeros(attributes.shape[1], items.shape[1], requires_grad=True)
    if not len(users):
        return table.detach()
    mean = torch.from_numpy(attributes[users].mean(0))
    centred = torch.from_numpy(attributes) - mean
    prior = torch.from_numpy(np.log1p(dataset.popularity)).float()
    optimizer = torch.optim.Adam([table], LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    random = np.random.default_rng(seed)
    size = max(1, min(len(users), MOST_USERS, AT_ONCE // len(items)))
    for _ in range(STEPS):
        chosen = random.choice(users, size, replace=False)
        some = lists.take(chosen)
        rows = torch.from_numpy(some.row_numbers())
        share = torch.from_numpy(1.0 / some.lengths).float()[rows]
        scores = (prior + centred[chosen] @ table @ items.T).log_softmax(-1)
        likelihood = (scores[rows, torch.from_numpy(some.items).long()] * share).sum() / size
        loss = RIDGE * table.square().sum() - likelihood
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return _centred(table.detach(), mean, [len(c.get("values", [])) for c in dataset.features.users.columns()])


def _centred(table: Tensor, mean: Tensor, values: list[int]) -> Tensor:
    """The table (A, D) with (x - mean) T worked into its rows, as the shares of a category add up to 1.

    Args:
        table: T.
        mean: Mean attributes (A,).
        values: Columns of each category in order, 0 for a number, which has one column and the mean 0.
    """
    whole, start = table.clone(), 0
    for count in values:
        part = slice(start, start + count)
        whole[part] -= mean[part] @ table[part]
        start += max(1, count)
    return whole
