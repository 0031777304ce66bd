"""What a student reads besides histories and predicts besides the next item: built from the data, given to training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from distill.config import Config, Head, UserSide, to_tree
from distill.data.contexts import Contexts
from distill.data.dataset import TRAIN, Dataset
from distill.data.features import ATTRIBUTES, item_matrix
from distill.data.outcomes import Outcomes, damped_biases
from distill.errors import UserError
from distill.job import Batch
from students.checkpoint import extend
from students.extended import Extended

OTHER_FORMS = ("all_corrections", "catalogue_scores", "served_state", "fit_closed_form")  # of students, see protocol


def extension_settings(config: Config) -> dict[str, Any]:
    """What a student's stage folder has to know of the two sections; {} where they are off."""
    parts = {"user_side": config.user_side if config.user_side else None, "heads": config.heads or None}
    return {name: to_tree(part) for name, part in parts.items() if part is not None}


def extended(student: Any, config: Config, dataset: Dataset) -> Any:
    """The student with the user side and the heads that the config asks for; itself where it asks for none.

    Raises:
        UserError: The student has no plain query; the data set has no attributes, no item features or no weights, but
            they are asked for; or a binary head has one kind of outcome alone.
    """
    if not extension_settings(config):
        return student
    if any(hasattr(student, name) for name in OTHER_FORMS):
        raise UserError(
            f"The student {type(student).__name__} takes no user side and no heads: they go with a query that a dot "
            "product ranks with. Take hybrid_cf, or leave 'user_side' and 'heads' out."
        )
    attributes, features = _user_inputs(config.user_side, dataset)
    whole = extend(
        student,
        {
            "user_side": _user_side_arguments(config.user_side, dataset, attributes, features),
            "heads": {"users": dataset.n_users, "heads": to_tree(config.heads)} if config.heads else None,
        },
    )
    if whole.user_side is not None:
        whole.user_side.fill(*(None if found is None else torch.from_numpy(found) for found in (attributes, features)))
    if whole.heads is not None:
        _fill_heads(whole, config.heads, dataset)
    return whole


def outcomes_of(config: Config, dataset: Dataset) -> Outcomes | None:
    """The weights of the train events, where there are heads."""
    return Outcomes.of_part(dataset, TRAIN) if config.heads else None


def with_outcome(batch: Batch, outcomes: Outcomes, contexts: Contexts, rows: np.ndarray) -> Batch:
    """A batch with the weights of its labels' events, `outcome` (B,), nan where there is none."""
    found = outcomes.of(contexts.user[rows], contexts.target[rows])
    return {**batch, "outcome": torch.from_numpy(found)}


def without_some_histories(batch: Batch, share: float, rows: np.ndarray, n_items: int, seed: int) -> Batch:
    """A batch in which a share of the labelled contexts has an empty history, and nothing is seen.

    The draw depends on the seed and on the batch's rows alone, so that a resumed training repeats it.

    Args:
        batch: history (B, L), seen (B, S), label (B,).
        share: Of the labelled contexts.
        rows: Row ids (B,).
        n_items: N, the padding index.
        seed: Of the training.
    """
    if not share:
        return batch
    drawn = np.random.default_rng([seed, *rows[:8]]).random(len(rows)) < share
    emptied = (torch.from_numpy(drawn) & (batch["label"] >= 0))[:, None]
    return {**batch, **{name: batch[name].masked_fill(emptied, n_items) for name in ("history", "seen")}}


def binary(values: np.ndarray, least: float | None) -> np.ndarray:
    """Outcomes of a head: the values themselves, or 1 where they are at least `least`, else 0."""
    return values if least is None else (values >= least).astype(np.float32)


def bias_model(head: Head, outcomes: Outcomes, n_users: int, n_items: int) -> tuple[float, np.ndarray, np.ndarray]:
    """Base and biases of items (N,) and users (U,); of a binary head on the logit scale.

    A probability's biases b become logits by b / (p (1 - p)), the slope of the logit at the mean p.
    """
    values = binary(outcomes.values, head.least)
    base, of_items, of_users = damped_biases(outcomes.users, outcomes.items, values, n_users, n_items)
    if head.least is None:
        return base, of_items, of_users
    slope = 1.0 / (base * (1.0 - base))
    return float(np.log(base / (1.0 - base))), of_items * slope, of_users * slope


def _fill_heads(whole: Extended, heads: Mapping[str, Head], dataset: Dataset) -> None:
    if dataset.weights is None:
        raise UserError(
            "Heads predict the weights of events, but the data set has none. Set data.weight: rating (the interactions "
            "need a rating column, or data.columns.rating names it) and prepare again."
        )
    outcomes = Outcomes.of_part(dataset, TRAIN)
    assert whole.heads is not None
    for name, head in heads.items():
        share = float(binary(outcomes.values, head.least).mean()) if head.least is not None else 0.5
        if share in (0.0, 1.0):
            low, high = outcomes.values.min(), outcomes.values.max()
            raise UserError(
                f"heads.{name}: {'every' if share else 'no'} train event has a weight of at least {head.least:g}, so "
                f"there is nothing to tell apart. Weights go from {low:g} to {high:g}; choose 'least' between them."
            )
        base, items, users = bias_model(head, outcomes, dataset.n_users, dataset.n_items)
        whole.heads.fill(name, base, torch.from_numpy(items), torch.from_numpy(users))


def _user_inputs(wanted: UserSide, dataset: Dataset) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Attributes of the users (U, A) and features of the items (N, C), where they are wanted."""
    if wanted.attributes and not dataset.features.users:
        raise UserError(
            "user_side.attributes is on, but the data set has no attributes of users. Name columns of the users file "
            "in data.user_attributes and prepare again."
        )
    if wanted.recent and not dataset.features.items:
        raise UserError(
            "user_side.recent is on, but the data set has no attributes or categories of items. Name columns of the "
            "items file in data.item_attributes or data.categories and prepare again."
        )
    attributes = dataset.features.users.matrix() if wanted.attributes else None
    return attributes, item_matrix(dataset.features, [ATTRIBUTES]) if wanted.recent else None


def _user_side_arguments(
    wanted: UserSide, dataset: Dataset, attributes: np.ndarray | None, features: np.ndarray | None
) -> dict[str, Any] | None:
    if not wanted:
        return None
    return {
        "users": dataset.n_users,
        "attributes": 0 if attributes is None else attributes.shape[1],
        "recent": 0 if features is None else features.shape[1],
        "factor": wanted.factor,
        "dropout": wanted.dropout,
    }
