"""A small classification task that the engine's tests train on."""

from collections.abc import Callable

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from distill.job import Batch, Job

ROWS = 96


class Classifier(nn.Module):
    """Two layers with dropout, so that a resumed run must also restore the random state."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 16), nn.GELU(), nn.Dropout(dropout), nn.Linear(16, 3))

    def forward(self, batch: Batch) -> dict[str, torch.Tensor]:
        scores = self.layers(batch["x"])
        loss = functional.cross_entropy(scores, batch["y"])
        return {"loss": loss, "error": (scores.argmax(1) != batch["y"]).float().mean()}


def data() -> tuple[torch.Tensor, torch.Tensor]:
    """Rows (96, 6) and their classes (96,)."""
    rng = np.random.default_rng(3)
    x = torch.from_numpy(rng.normal(size=(ROWS, 6)).astype(np.float32))
    return x, (x[:, 0] > 0).long() + (x[:, 1] > 0).long()


def small_job(
    batch_size: int = 8,
    dropout: float = 0.2,
    before: Callable[[np.ndarray], None] = lambda rows: None,
    shuffle: bool = True,
    **settings: object,
) -> Job:
    """The job; `before` is called with each batch's rows."""
    torch.manual_seed(11)
    x, y = data()

    def batches(epoch: int) -> list[np.ndarray]:
        order = np.random.default_rng([5, epoch]).permutation(ROWS) if shuffle else np.arange(ROWS)
        return np.split(order, range(batch_size, ROWS, batch_size))

    def collate(rows: np.ndarray) -> Batch:
        before(rows)
        return {"x": x[rows], "y": y[rows]}

    given = {"epochs": 3, "learning_rate": 0.01, "weight_decay": 0.01} | settings
    return Job(model=Classifier(dropout), batches=batches, collate=collate, **given)


def accuracy(model: nn.Module) -> float:
    """Share of rows that the model gets right."""
    x, y = data()
    return 1.0 - float(model({"x": x, "y": y})["error"])
