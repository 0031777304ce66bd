"""Training with the compressed table: the student learns to say in few bytes what it said in float32."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from distill.export.codecs import Codec
from distill.export.encoder import Exportable
from distill.export.rounding import Moments, bias_shift

BATCH = 256
AGAIN = 20  # steps after which the table is compressed again
SAMPLE = 2048  # queries that calibrate it
LEARNING_RATE = 1e-3


def finetuned(student: Exportable, table: Codec, histories: np.ndarray, steps: int, seed: int = 0) -> Exportable:
    """A copy of a student, trained with its item table compressed in every forward pass.

    The target is the student itself in float32: loss = KL(softmax(float scores) || softmax(compressed scores)) over the
    whole catalogue. What compression adds to the table is measured anew every 20 steps and is a constant in between, so
    that gradients pass through it unchanged (Bengio et al. 2013, the straight-through estimator).

    Args:
        student: A student in evaluation mode; it is left as it is.
        table: How its item table will be stored.
        histories: Train histories (Q, L), padded on the left with N.
        steps: Steps of 256 histories.
        seed: Of the order of the histories.

    Returns:
        The trained copy, in evaluation mode.
    """
    tuned: Any = copy.deepcopy(student)
    parameters = [p for p in tuned.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, LEARNING_RATE, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, steps))
    random = np.random.default_rng(seed)

    def draw(rows: int) -> Tensor:
        return torch.from_numpy(histories[random.choice(len(histories), min(rows, len(histories)), replace=False)])

    with torch.no_grad():
        before, bias = student.item_table(), student.item_bias()
    for step in range(steps):
        history, items = draw(BATCH), tuned.item_table()
        if step % AGAIN == 0:
            change, shift = compression_error(items, tuned.encode(draw(SAMPLE)), table)
        with torch.no_grad():
            wanted = functional.linear(student.encode(history), before, bias).log_softmax(-1)
        scores = functional.linear(tuned.encode(history), items + change, tuned.item_bias() + shift)
        loss = functional.kl_div(scores.log_softmax(-1), wanted, reduction="batchmean", log_target=True)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
    return tuned.eval()


@torch.no_grad()
def compression_error(items: Tensor, queries: Tensor, table: Codec) -> tuple[Tensor, Tensor]:
    """What a codec, calibrated by queries (Q, D), adds to a table (N, D) and to its biases (N,)."""
    matrix, moments = items.numpy(), Moments.of(queries.numpy())
    stored = table("items", matrix, moments).value
    return torch.from_numpy(stored - matrix), torch.from_numpy(bias_shift(matrix, stored, moments))
