"""The benchmark of held-out items: its split, its baselines, its figures."""

import dataclasses

import numpy as np
import pytest
import torch

from benchmarks.cold_baselines import at_random, by_category, category_matrix, neighbours, raised
from benchmarks.cold_items import LEVELS, balance, highest, lists, markdown, recall, with_latest
from distill.ask import contexts_of
from distill.contracts.worlds import checkerboard, share_in_own_half
from distill.data.attributes import Attributes
from distill.data.dataset import TEST, TRAIN, VALID, Dataset
from distill.data.features import Features
from distill.data.lots import item_cold_start
from distill.data.ragged import Lists
from distill.data.split import check_leaks
from distill.errors import UserError
from distill.ranking.cases import cases_of


def held_out_world() -> Dataset:
    """A checkerboard with a fifth of its items held out for test, a tenth for validation; its halves are categories."""
    board = checkerboard(n_users=60, events=9)
    parts = item_cold_start(board.items, [0.7, 0.1, 0.2], seed=1)
    order = np.lexsort((np.arange(len(parts)), parts, board.event_users()))
    halves = Lists(np.arange(25), np.repeat([0, 1], 12).astype(np.int32))
    features = Features(Attributes({}, {"half": halves}, {"half": ["left", "right"]}), categories="half")
    return with_latest(dataclasses.replace(board, items=board.items[order], parts=parts[order], features=features))


def test_held_out_items_have_no_train_event_and_nothing_is_lost():
    board, made = checkerboard(n_users=60, events=9), held_out_world()
    assert np.array_equal(np.sort(board.items), np.sort(made.items))
    assert not [leak for leak in check_leaks(made) if "more than one part" in leak]
    cold = made.popularity == 0
    assert cold.sum() >= 7
    for part in (VALID, TEST):
        later = made.items[made.parts == part]
        assert cold[later].any() and (~cold)[later].any(), "both kinds of items are asked for"
    users = made.event_users()
    for user in range(made.n_users):
        parts = made.parts[users == user]
        assert (np.diff(parts.astype(int)) >= 0).all()
        assert (parts == TRAIN).any()


def test_the_latest_events_of_other_items_are_asked_for():
    board = checkerboard(n_users=4)
    board = dataclasses.replace(board, parts=np.zeros(len(board.items), np.uint8))
    made = with_latest(board)
    for user in range(4):
        events = slice(7 * user, 7 * user + 7)
        assert list(made.parts[events]) == [TRAIN] * 5 + [VALID, TEST]
        assert np.array_equal(made.items[events], board.items[events])


def test_category_popularity_knows_the_half_and_lends_it_to_new_items():
    world = held_out_world()
    cases = cases_of(world, TEST)
    cold = world.popularity == 0
    batch = contexts_of(cases).batch(np.arange(len(cases)), 50)
    found = by_category(world, 20.0, seed=0)(batch)
    best = found.topk(5).indices.numpy()
    assert share_in_own_half(best, cases.users) == 1.0
    left = np.flatnonzero(cold[:12])
    warm = np.flatnonzero(~cold[:12])
    row = np.flatnonzero(cases.users % 2 == 0)[0]
    weight = float(found[row][warm[0]]) / world.popularity[warm[0]]
    assert np.allclose(found[row][left], weight * world.popularity[warm].mean(), rtol=1e-3)
    assert np.allclose(category_matrix(world).sum(1), 1.0)
    bare = dataclasses.replace(world, features=Features())
    with pytest.raises(UserError, match="no categories"):
        category_matrix(bare)


def test_text_neighbours_find_what_is_alike():
    world = held_out_world()
    text = torch.eye(2)[(torch.arange(24) >= 12).long()] + 0.1 * torch.randn(
        24, 2, generator=torch.Generator().manual_seed(0)
    )
    cases = cases_of(world, TEST)
    batch = contexts_of(cases).batch(np.arange(len(cases)), 50)
    best = neighbours(torch.nn.functional.normalize(text, dim=-1), 4.0)(batch).topk(8).indices.numpy()
    assert share_in_own_half(best, cases.users) == 1.0


def test_figures_of_a_scorer_that_knows_and_of_one_that_does_not():
    world = held_out_world()
    cases = cases_of(world, TEST)
    cold = world.popularity == 0
    truth = torch.zeros(world.n_users, 24)
    truth[cases.truth.row_numbers(), cases.truth.items] = 1.0

    def knows(batch):
        return truth[torch.from_numpy(batch.user)]

    ranked = lists(knows, cases)
    assert recall(ranked, cases, cold) == recall(ranked, cases, ~cold) == balance(knows, cases, cold) == 1.0
    chance = lists(at_random(24, 0), cases)
    assert 0.2 < recall(chance, cases, cold) < 0.7
    among = lists(knows, cases, cold)
    assert cold[among[among >= 0]].all() and recall(among, cases, cold) == 1.0
    up = lists(raised(knows, cold, 9.0), cases)
    assert cold[up[:, 0]].all() and not cold[ranked[:, 0]].all() and recall(up, cases, cold) == 1.0


def test_cold_items_are_raised_as_far_as_the_others_allow():
    world = held_out_world()
    cases, cold = cases_of(world, VALID), world.popularity == 0
    table = torch.rand(world.n_users, 24, generator=torch.Generator().manual_seed(3))

    def score(batch):
        return table[torch.from_numpy(batch.user)]

    def of_others(level):
        return recall(lists(raised(score, cold, float(level)), cases), cases, ~cold)

    least = of_others(0.5)
    found = highest(score, cases, cold, least)
    assert 0.5 <= found < LEVELS[-1] and of_others(found) >= least
    assert all(of_others(level) < least for level in LEVELS[found < LEVELS])
    assert highest(score, cases, cold, 2.0) == LEVELS[0], "what can't be reached"


def test_the_table_has_means_and_deviations():
    rows = [{"cold": 0.1, "among": 0.2, "warm": 0.3, "all": 0.4}, {"cold": 0.3, "among": 0.2, "warm": 0.3, "all": 0.4}]
    assert markdown({"mine": rows})[-1].startswith("| `mine` | 0.2000 ± 0.1414 | 0.2000 ± 0.0000 |")
