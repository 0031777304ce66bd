"""The user side of a bundle: what attributes and known users add to the query, and the check that files agree on it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import linear

from distill.config import Export
from distill.data.dataset import VALID, Dataset, Lists
from distill.errors import UserError
from distill.export.bundle import write_array
from distill.export.cold_users import cold_table
from distill.export.gate import FLOAT32, TOLERANCE, K, overlap
from distill.ranking.cases import Cases, cases_of
from distill.ranking.evaluator import evaluate, rank
from distill.runs import write_json
from distill.serving.users import IDS, KNOWN, TABLE, tilted_popularity

FEWEST = 20  # validation users without train events who suffice to choose who answers such users
WEIGHTS = (0.0, 0.5, 1.0, 1.5)
COMPARED = 200  # users whose lists are compared


@torch.no_grad()
def write_user_side(folder: Path, student: Any, dataset: Dataset) -> tuple[dict[str, Any], list[Path]]:
    """Writes the user side of a student beside its model files.

    Args:
        folder: The bundle's.
        student: In evaluation mode.
        dataset: Its data.

    Returns:
        The entry `user` of bundle.json and the files, {} and [] for a student that reads histories alone.
    """
    if not getattr(student, "user_width", 0):
        return {}, []
    side, items, files = student.user_side, student.item_table().float(), []
    users = np.flatnonzero(dataset.activity > 0)
    table, cold = side.attribute_table(), torch.zeros(len(users), items.shape[1])
    weight: dict[str, Any] = {"empty_weight": 0.0}
    if table is not None:
        with torch.enable_grad():
            of_cold = cold_table(dataset, items)
        write_array(torch.cat([table.float(), of_cold], 1).numpy(), folder / TABLE)
        files.append(folder / TABLE)
        weight = empty_weight(of_cold, items, dataset)
        cold = torch.from_numpy(dataset.features.users.matrix()[users]) @ of_cold
    known = side.factor is not None
    if known:
        vectors = student.user_vectors(torch.from_numpy(users)).float()
        write_array(torch.cat([vectors, cold], 1).numpy(), folder / KNOWN)
        write_json(folder / IDS, [str(dataset.user_ids[user]) for user in users], indent=None)
        files += [folder / KNOWN, folder / IDS]
    return {
        "dim": student.user_width,
        "attributes": [] if table is None else dataset.features.users.columns(),
        "known": known,
        **weight,
    }, files


def empty_weight(table: Tensor, items: Tensor, dataset: Dataset) -> dict[str, Any]:
    """How much attributes count for users without a history: the weight with the largest ndcg@10 on validation.

    Validation users without train events are asked about where there are at least 20, else all of them, as if their
    histories were empty; nothing is masked. Weight 0 is popularity alone, and wins ties.
    """
    cases = cases_of(dataset, VALID)
    cold = np.flatnonzero(cases.activity == 0)
    cases = without_histories(cases.take(cold) if len(cold) >= FEWEST else cases)
    known = (torch.from_numpy(dataset.features.users.matrix()[cases.users]) @ table @ items.T).numpy()
    found = {}
    for weight in WEIGHTS:
        scores = tilted_popularity(cases.popularity, known, np.zeros_like(known[:1]), weight)
        ranked = rank(lambda rows, scores=scores: scores[rows], cases, min(K, cases.n_items))  # type: ignore[misc]
        found[weight] = evaluate(ranked, cases, ["ndcg@10"]).values["ndcg@10"]
    best = max(found, key=lambda weight: found[weight])
    return {"empty_weight": best, "empty_validation": {"users": len(cases), "ndcg@10": found}}


def without_histories(cases: Cases) -> Cases:
    """The same users and targets, but nothing is known of them and nothing is masked."""
    return dataclasses.replace(cases, seen=Lists(np.zeros(len(cases) + 1, np.int64), np.zeros(0, np.int32)))


@torch.no_grad()
def check_users(student: Any, graphs: Mapping[str, Any], dataset: Dataset, limits: Export) -> dict[str, float]:
    """Compares exported files with the torch student where both know the users.

    Args:
        student: In evaluation mode, with a user side.
        graphs: `serving.session.Graph` or what answers as it does, by variant.
        dataset: Its data.
        limits: What is tolerated.

    Returns:
        The overlap of the top 10 by variant.

    Raises:
        UserError: fp32 differs in a score, or another variant in more of the lists than `export.min_overlap` allows.
    """
    cases = cases_of(dataset, VALID)
    cases = cases.take(np.linspace(0, len(cases) - 1, min(COMPARED, len(cases))).astype(np.int64))
    history = np.full((len(cases), 8), dataset.n_items, np.int64)
    for row in range(len(cases)):
        latest = cases.seen[row][-8:]
        history[row, 8 - len(latest) :] = latest
    users = torch.from_numpy(cases.users)
    query = student.encode(torch.from_numpy(history)) + student.user_vectors(users)
    wanted = linear(query, student.item_table(), student.item_bias()).numpy()
    vectors = student.user_vectors(users).numpy()
    places, found = min(K, dataset.n_items), {}
    best = np.argsort(-wanted, axis=1, kind="stable")[:, :places]
    nothing = np.empty((len(history), 0), np.int64)
    for name, graph in graphs.items():
        ids, scores = graph.top(history, nothing, places, vectors)
        found[name] = overlap(ids, best)
        error = float(np.abs(scores - np.take_along_axis(wanted, best, axis=1)).max())
        if name in FLOAT32 and error > 2 * TOLERANCE * max(1.0, float(np.abs(wanted).max())):
            raise UserError(f"The file '{name}' differs from torch by {error:.2g} where users are known; report it.")
        if found[name] < (1 - 1e-2 if name in FLOAT32 else limits.min_overlap):
            raise UserError(
                f"Where users are known, '{name}' lists {found[name]:.3f} of torch's top {K}; export.min_overlap is "
                f"{limits.min_overlap}. Leave the variant out of export.variants."
            )
    return found
