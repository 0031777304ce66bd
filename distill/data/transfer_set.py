"""Which contexts a teacher is asked about, as the settings and the budget say."""

from __future__ import annotations

import numpy as np

from distill.config import Scores
from distill.data.augment import last_real_rows, static_contexts
from distill.data.contexts import Contexts, Kind, concatenate
from distill.data.dataset import Dataset
from distill.data.edits import edited_contexts
from distill.data.select import select, wanted_count


def first_pass(dataset: Dataset, settings: Scores, seed: int) -> tuple[Contexts, np.ndarray, int | None]:
    """The contexts that need no teacher, and for which of them it is asked.

    Real contexts always stay: without an answer they keep their label. Synthetic ones have nothing else, so those that
    the budget doesn't reach are left out.

    Returns:
        Contexts, a mask over them (R,), and what the budget leaves for contexts drawn later; None without a budget.
    """
    whole = static_contexts(
        dataset, seed, settings.drops, settings.crops, settings.singles, settings.max_prefixes, settings.mixes
    )
    edits = {Kind.MASK: settings.masks, Kind.REORDER: settings.reorders, Kind.SUBSTITUTE: settings.substitutes}
    edited = edited_contexts(dataset, seed, edits, settings.similar, settings.max_prefixes)
    contexts = concatenate([whole, *edited])
    later = second_pass_size(contexts, settings, None)
    budget = wanted_count(settings.budget, len(contexts) + later)
    if budget == len(contexts) + later:
        return contexts, np.ones(len(contexts), bool), None
    now = round(budget * len(contexts) / (len(contexts) + later))
    asked = np.zeros(len(contexts), bool)
    asked[select(dataset, contexts, now, settings.select, seed)] = True
    kept = asked | (contexts.kind == Kind.REAL)
    return contexts.take(kept), asked[kept], budget - now


def second_pass_size(first: Contexts, settings: Scores, left: int | None) -> int:
    """How many roll-outs and appends there will be at most."""
    drawn = len(last_real_rows(first)) * (settings.rollouts + settings.appends)
    return drawn if left is None else min(left, drawn)


def count_kinds(contexts: Contexts) -> dict[str, int]:
    """How many contexts there are of each kind."""
    counts = np.bincount(contexts.kind, minlength=len(Kind))
    return {kind.name.lower(): int(counts[kind]) for kind in Kind if counts[kind]}
