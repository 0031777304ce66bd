"""How well a student's further heads predict the test events, beside the mean and the bias model."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch.nn.functional import embedding

from distill.config import Config
from distill.data.contexts import history_contexts
from distill.data.dataset import TEST, TRAIN, Dataset
from distill.data.outcomes import Outcomes
from distill.extensions import binary
from distill.ranking.ratings import auc, log_loss, mae, rmse
from distill.recipes import CONTROL, STUDENT
from distill.tensors import query_of
from students.checkpoint import load_student

USERS_AT_ONCE = 1024


def head_quality(config: Config, dataset: Dataset) -> dict[str, Any]:
    """Errors on the events of the test part, by head and predictor; {} without heads.

    Predictors are the student, its control, `biases` (base + item + user, damped means of the train part) and `mean`.
    Ratings have mae and rmse, binary heads log_loss and auc.
    """
    if not config.heads or dataset.weights is None:
        return {}
    events = Outcomes.of_part(dataset, TEST)
    train = Outcomes.of_part(dataset, TRAIN)
    found: dict[str, Any] = {name: {"events": len(events.keys)} for name in config.heads}
    for label, fit in ((STUDENT, config.fit), (CONTROL, config.control_fit)):
        student = load_student(config.folder / label)
        for name, (predicted, biases) in predictions(student, dataset, events, fit.max_length).items():
            least = config.heads[name].least
            actual = binary(events.values, least)
            mean = np.full(len(actual), binary(train.values, least).mean())
            found[name][label] = errors(predicted, actual, least)
            found[name].setdefault("biases", errors(biases, actual, least))
            found[name].setdefault("mean", errors(mean, actual, least))
    return found


@torch.no_grad()
def predictions(
    student: Any, dataset: Dataset, events: Outcomes, max_length: int
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """A student's values of test events, and the bias model's, (E,) each, by head; probabilities of binary heads.

    Args:
        student: With heads, in evaluation mode.
        dataset: The data; histories are all that is known before the test part.
        events: The events.
        max_length: The student reads the last so many items.
    """
    users, rows = np.unique(events.users, return_inverse=True)
    contexts = history_contexts(dataset, users, TEST)
    queries = torch.cat(
        [
            query_of(student, torch.from_numpy(batch.history), torch.from_numpy(batch.user))
            for batch in (
                contexts.batch(np.arange(start, min(start + USERS_AT_ONCE, len(users))), max_length)
                for start in range(0, len(users), USERS_AT_ONCE)
            )
        ]
    )
    items, who = torch.from_numpy(events.items), torch.from_numpy(events.users)
    vectors, table = queries[torch.from_numpy(rows)], student.item_table()
    found = {}
    for name, about in student.heads.settings.items():
        values = [
            student.heads(name, vectors, embedding(items, table), items, who),
            student.heads.biases(name, items, who),
        ]
        if about["least"] is not None:
            values = [value.sigmoid() for value in values]
        found[name] = (values[0].numpy(), values[1].numpy())
    return found


def errors(predicted: np.ndarray, actual: np.ndarray, least: float | None) -> dict[str, float]:
    """mae and rmse of values; log_loss and auc of probabilities."""
    if least is None:
        return {"mae": mae(predicted, actual), "rmse": rmse(predicted, actual)}
    return {"log_loss": log_loss(predicted, actual), "auc": auc(predicted, actual)}
