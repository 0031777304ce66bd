"""Two stages: an earlier member picks a few candidates, a slower one puts them in order."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from distill.data.contexts import ContextBatch, Kind, from_lists
from distill.data.dataset import VALID, Dataset
from distill.errors import UserError
from distill.plugins import nearest, resolve
from distill.ranking.cases import Cases, cases_of
from distill.ranking.evaluator import evaluate, rank_array
from distill.tensors import mask_seen
from teachers.protocol import Inputs, Member

FILE = "retriever.json"
GRID = (0.0, 0.05, 0.1, 0.2, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 4.0, 8.0, 32.0, 1000.0)
WHOLE = 1_000_000


class Shortlist(NamedTuple):
    """What the retriever says of some contexts, and the candidates it picks.

    Attributes:
        scores: Its log-scores (B, N).
        items: Candidates, best first, int64 (B, K).
        valid: False where a context has fewer than K unseen items (B, K).
    """

    scores: Tensor
    items: Tensor
    valid: Tensor

    def reordered(self, judged: Tensor, weight: float) -> Tensor:
        """The retriever's log-scores (B, N), with its mass on the candidates divided anew among them.

        Outside the K candidates the score is the retriever's r_i. Inside it is
        log sum_k exp(r_k) + log softmax_k(r_k + weight * c_k), sums and softmax over the candidates: what the second
        stage says moves mass from one candidate to another, never into or out of the K. With weight 0 the scores are
        the retriever's own.

        Args:
            judged: What the second stage says of each candidate, c (B, K).
            weight: Of the second stage.
        """
        own = self.scores.gather(1, self.items)
        hidden = own.masked_fill(~self.valid, -torch.inf)
        moved = (own + weight * judged).masked_fill(~self.valid, -torch.inf)
        inside = moved - torch.logsumexp(moved, 1, keepdim=True) + torch.logsumexp(hidden, 1, keepdim=True)
        return self.scores.scatter(1, self.items, torch.where(self.valid, inside, own))


@dataclass
class FirstStage:
    """The member that picks candidates.

    Attributes:
        member: It.
        label: Its name in the config.
        kind: Short name or dotted path of its class.
        arguments: Its settings.
        k: Candidates.
    """

    member: Member
    label: str
    kind: str
    arguments: dict[str, Any]
    k: int

    @classmethod
    def named(cls, who: str, label: str, k: int, inputs: Inputs) -> FirstStage:
        """The earlier member called `label`.

        Raises:
            UserError: None is named, there is no such member, or `k` is below 2 or above the size of the catalogue.
        """
        known = ", ".join(inputs.members) or "none yet; it must come before this member"
        if not label:
            raise UserError(f"{who}: name the member that picks its candidates: 'retriever: …' (there are: {known}).")
        if label not in inputs.members:
            hint = nearest(label, inputs.members) if inputs.members else f" (there are: {known})"
            raise UserError(f"{who}: 'retriever: {label}' names no earlier member{hint}.")
        n_items = inputs.dataset.n_items
        if not 2 <= k <= n_items:
            raise UserError(f"{who}: candidates is {k}, expected 2 to {n_items}, the size of the catalogue.")
        found = inputs.members[label]
        return cls(found.member, label, found.name, found.arguments, k)

    @torch.no_grad()
    def shortlist(self, batch: ContextBatch) -> Shortlist:
        """The K best unseen items of each context."""
        scores = self.member.score(batch).float().cpu()
        masked = mask_seen(scores.clone(), torch.from_numpy(batch.seen))
        best = masked.topk(self.k, dim=1)
        return Shortlist(scores, best.indices, best.values > -torch.inf)

    def save(self, folder: Path) -> None:
        """Notes which member it is; where that member has no folder beside this one, it is saved inside."""
        if not (folder.parent / self.label / "member.json").is_file():
            place = folder / "retriever"
            place.mkdir(parents=True, exist_ok=True)
            self.member.save(place)
        about = {"label": self.label, "name": self.kind, "arguments": self.arguments, "candidates": self.k}
        (folder / FILE).write_text(json.dumps(about, indent=2))

    @classmethod
    def load(cls, folder: Path) -> FirstStage:
        """Reads what `save` wrote.

        Raises:
            UserError: The retriever's folder is gone.
        """
        about = json.loads((folder / FILE).read_text())
        inside, beside = folder / "retriever", folder.parent / about["label"]
        place = inside if inside.is_dir() else beside
        if not place.is_dir():
            raise UserError(f"{folder}: its retriever '{about['label']}' isn't beside it. Run train-teacher again.")
        member = resolve("teacher", about["name"])(**about["arguments"]).load(place)
        return cls(member, about["label"], about["name"], about["arguments"], about["candidates"])


def validation(dataset: Dataset, users: int, seed: int) -> tuple[Cases, ContextBatch]:
    """At most `users` validation cases, drawn by seed, and their contexts."""
    cases = cases_of(dataset, VALID)
    if len(cases) > users:
        cases = cases.take(np.sort(np.random.default_rng(seed).choice(len(cases), users, replace=False)))
    contexts = from_lists(cases.seen, cases.n_items, Kind.REAL, cases.users)
    return cases, contexts.batch(np.arange(len(cases)), WHOLE)


def best_weight(short: Shortlist, judged: Tensor, cases: Cases) -> tuple[float, dict[str, float]]:
    """The weight of the second stage that gives the best ndcg@10 on validation; 0 where it only does harm.

    The grid is in units of the ratio of both stages' spreads inside the candidates.

    Args:
        short: The candidates of the cases.
        judged: What the second stage says of them (B, K).
        cases: The validation cases.

    Returns:
        The weight, and ndcg@10 of the retriever alone, of both, and of the second stage alone inside the candidates.
    """
    own = short.scores.gather(1, short.items)
    unit = float(own.std(1).mean()) / max(float(judged.std(1).mean()), 1e-9)

    def quality(scores: Tensor) -> float:
        return evaluate(rank_array(scores.numpy(), cases, 10), cases, ["ndcg@10"]).values["ndcg@10"]

    found = {step: quality(short.reordered(judged, step * unit)) for step in GRID}
    best = max(found, key=lambda step: found[step])
    alone = quality(short.reordered(judged, 1e4 * unit))
    figures = {"retriever": found[0.0], "both": found[best], "second_stage_alone": alone}
    return best * unit, {f"ndcg@10 {name}": round(value, 6) for name, value in figures.items()}


def neutral(judged: Tensor, known: Tensor) -> Tensor:
    """Gives candidates of which nothing can be said the mean of the others in their row, or 0.

    Args:
        judged: Scores (B, K).
        known: Whether each candidate could be judged (B, K).
    """
    total = judged.masked_fill(~known, 0).sum(1, keepdim=True) / known.sum(1, keepdim=True).clamp_min(1)
    return torch.where(known, judged, total)
