"""A problem small enough to work by hand: two contexts, five items, a teacher's top three."""

import math

import torch

from distill.soft.target import SoftTarget

SCORES = [[0.5, -1.0, 2.0, 0.0, 1.0], [1.5, 0.2, -0.3, 0.7, -2.0]]
SEEN = [[3], [0, 4]]
ITEMS = [[2, 0, 4], [1, 3, -1]]
TEACHER = [[1.2, 0.4, -0.5], [0.9, -0.1, -6e4]]
LABEL = [2, 3]
STRATA = [0, 1, 0, 1, 1]
POPULARITY = [0.4, 0.1, 0.3, 0.15, 0.05]
LOGZ = [1.9, 1.6]


def student_scores():
    """(2, 5) in float64, seen items at -inf."""
    scores = torch.tensor(SCORES, dtype=torch.float64)
    for row, items in enumerate(SEEN):
        scores[row, items] = -torch.inf
    return scores


def target(**other):
    return SoftTarget(
        **{
            "label": torch.tensor(LABEL),
            "items": torch.tensor(ITEMS),
            "scores": torch.tensor(TEACHER, dtype=torch.float64),
            "logz": torch.tensor(LOGZ, dtype=torch.float64)[:, None],
            "strata": torch.tensor(STRATA),
            "popularity": torch.tensor(POPULARITY, dtype=torch.float64),
            **other,
        }
    )


def one(items, teacher, **other):
    """A target of one context."""
    return SoftTarget(
        **{
            "label": torch.tensor([items[0]]),
            "items": torch.tensor([items]),
            "scores": torch.tensor([teacher], dtype=torch.float64),
            **other,
        }
    )


def row(*scores):
    """Student scores of one context."""
    return torch.tensor([scores], dtype=torch.float64)


def softmax(values):
    total = sum(math.exp(v) for v in values)
    return [math.exp(v) / total for v in values]


def sigmoid(value):
    return 1 / (1 + math.exp(-value))


def softplus(value):
    return math.log(1 + math.exp(value))


def standardised(values):
    mean = sum(values) / len(values)
    deviation = math.sqrt(sum((v - mean) ** 2 for v in values) / len(values))
    return [(v - mean) / deviation for v in values]


def unseen(context):
    return [i for i in range(5) if i not in SEEN[context]]


def real(context):
    """The teacher's (item, score) pairs."""
    return [(i, t) for i, t in zip(ITEMS[context], TEACHER[context], strict=True) if i >= 0]
