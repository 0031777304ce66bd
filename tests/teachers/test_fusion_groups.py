"""Weights by group: found where they are true, refused where they are noise, and applied as they were fitted."""

import dataclasses

import numpy as np
import pytest
import torch

from distill.data.contexts import ContextBatch
from teachers.fusion import FusedTeacher, fit_weights
from teachers.fusion_groups import finer, fit_groups, prove
from teachers.grouped import Grouped, activity_groups, tertiles

USERS, N = 600, 60


def world(kind, seed=0):
    """Scores of two members, a value a user, strata and lengths; each member knows a half of what there is to know.

    kind: "users" where a knows the light users and b the others, "items" where b knows the tail, "same" where both know
    equally much of everything.
    """
    rng = torch.Generator().manual_seed(seed)
    taste = 1.5 * torch.randn(USERS, N, generator=rng)
    labels = torch.multinomial(taste.softmax(1), 1, generator=rng)[:, 0]
    lengths = torch.arange(USERS) % 30 + 1
    strata = torch.arange(N) * 3 // N
    noise = [4.0 * torch.randn(USERS, N, generator=rng) for _ in range(2)]
    weak = torch.ones(2, USERS, N)
    if kind == "users":
        light = lengths <= 10
        weak[0, ~light], weak[1, light] = 0.0, 0.0
    if kind == "items":
        weak[0, :, strata == 2], weak[1, :, strata < 2] = 0.0, 0.0
    scores = {n: w * taste + (1.6 - 1.2 * w) * e for n, w, e in zip("ab", weak, noise, strict=True)}
    if kind == "same":
        scores = {n: taste + 0.3 * e for n, e in zip("ab", noise, strict=True)}

    def values(fused, rows):
        chosen = labels[torch.from_numpy(rows)][:, None]
        return (1.0 / (1 + (fused > fused.gather(1, chosen)).sum(1))).numpy().astype(float)

    return scores, values, strata, lengths


@pytest.mark.parametrize(("kind", "by"), [("users", "user_activity"), ("items", "item_stratum")])
def test_weights_that_differ_between_groups_are_found(kind, by):
    scores, values, strata, lengths = world(kind)
    common, _ = fit_weights(scores, lambda f: float(values(f, np.arange(USERS)).mean()), 2)
    groups, tried = fit_groups("auto", scores, common, strata, lengths, values, 2, 0)
    assert groups is not None and groups.by == by and tried[by]["accepted"]
    assert tried[by]["gain"] > 0.02
    light = groups.weights["a"][0] / max(groups.weights["b"][0], 1e-9)
    heavy = groups.weights["a"][-1] / max(groups.weights["b"][-1], 1e-9)
    assert light > 2 * heavy, "the member that knows a group weighs more in it"


def test_without_a_difference_the_common_weights_stay():
    accepted = []
    for seed in range(3):
        scores, values, strata, lengths = world("same", seed)
        common, _ = fit_weights(scores, lambda f, v=values: float(v(f, np.arange(USERS)).mean()), 1)
        groups, tried = fit_groups("auto", scores, common, strata, lengths, values, 1, seed)
        assert set(tried) == {"item_stratum", "user_activity"}
        assert (groups is None) == (not any(t["accepted"] for t in tried.values()))
        accepted.append(groups is not None)
    assert not all(accepted)


def test_none_tries_nothing_and_few_users_prove_nothing():
    scores, values, strata, lengths = world("same")
    assert fit_groups("none", scores, {"a": 1.0, "b": 1.0}, strata, lengths, values, 1, 0) == (None, {})
    few = {name: s[:3] for name, s in scores.items()}
    assert not prove("user_activity", few, strata, lengths[:3], values, 1, 0)["accepted"]


def test_finer_weights_never_lose_on_what_they_are_fitted_on():
    for kind in ("users", "items", "same"):
        scores, values, strata, lengths = world(kind, 3)
        weights = {"a": 0.5, "b": 0.5}
        plain = sum(s * weights[n] for n, s in scores.items())
        every = np.arange(USERS)
        for by in ("item_stratum", "user_activity"):
            found = finer(
                by, scores, weights, strata, lengths, tertiles(lengths), lambda f, r, v=values: v(f, r.numpy()).mean()
            )
            assert values(found.fuse(scores, strata, lengths), every).mean() >= values(plain, every).mean() - 1e-6


def test_groups_by_length():
    assert activity_groups(torch.tensor([1, 4, 5, 9, 10, 99]), [4, 9]).tolist() == [0, 0, 1, 1, 2, 2]
    assert tertiles(torch.tensor([1, 1, 2, 2, 3, 3])) == [1, 2]


class Fixed:
    def __init__(self, scores):
        self.scores = scores

    def score(self, batch):
        return self.scores[batch.row_id].clone()


@pytest.mark.parametrize("by", ["item_stratum", "user_activity"])
def test_the_fused_teacher_applies_them_to_each_row_and_item(by):
    generator = torch.Generator().manual_seed(1)
    scores = {name: torch.randn(4, 6, generator=generator) for name in "abc"}
    strata = torch.tensor([0, 1, 2, 0, 1, 2])
    weights = {"a": [1.0, 2.0, 3.0], "b": [0.0, 0.5, 0.0], "c": [0.0, 0.0, 0.0]}
    groups = Grouped(by, weights, [0.1, 0.0, -0.1] if by == "item_stratum" else [], [1, 2])
    seen = np.array([[6, 6, 6], [6, 6, 0], [6, 1, 2], [3, 4, 5]])
    rows = np.arange(4)
    batch = ContextBatch(rows, rows, seen, seen, rows, rows)
    common = {name: 1.0 for name in scores}
    prior = torch.linspace(0, 1, 6)
    members = {name: Fixed(s) for name, s in scores.items()}
    teacher = FusedTeacher(members, common, 2.0, 0.5, prior, groups, strata)
    expected = torch.zeros(4, 6)
    for row, length in enumerate((0, 1, 2, 3)):
        for item in range(6):
            group = int(strata[item]) if by == "item_stratum" else (0 if length <= 1 else length - 1)
            value = sum(weights[name][group] * float(scores[name][row, item]) for name in scores)
            shift = groups.offsets[group] if groups.offsets else 0.0
            expected[row, item] = 2.0 * (value + shift - 0.5 * float(prior[item]))
    assert torch.allclose(teacher.score(batch), expected, atol=1e-5)
    unfused = groups.fuse(scores, strata, torch.tensor([0, 1, 2, 3])) - 0.5 * prior
    assert torch.allclose(2.0 * unfused, expected, atol=1e-5), "fitted and served alike"
    assert Grouped(**dataclasses.asdict(groups)) == groups
