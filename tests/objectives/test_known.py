"""What losses know: neighbours of users and rows, item pairs, and the budget of a training."""

import numpy as np
import pytest
import torch

from distill.config import Fit, Loss, Spec
from distill.data.contexts import Contexts, Kind
from distill.errors import UserError
from distill.known import item_pairs, user_neighbours
from distill.recipes import Recipe
from distill.tensors import nearest_rows
from distill.train_student import rows_of


def contexts(kinds, users, targets):
    count = len(kinds)
    return Contexts(
        n_items=9,
        items=np.arange(count, dtype=np.int32) % 9,
        start=np.arange(count, dtype=np.int64),
        stop=np.arange(1, count + 1, dtype=np.int64),
        user=np.array(users, np.int32),
        target=np.array(targets, np.int32),
        kind=np.array(kinds, np.uint8),
    )


def test_nearest_rows_against_every_pair():
    vectors = torch.randn(50, 7, generator=torch.Generator().manual_seed(1))
    unit = vectors / vectors.norm(dim=1, keepdim=True)
    similar = unit @ unit.T - 9 * torch.eye(50)
    expected = similar.argsort(dim=1, descending=True)[:, :4]
    for block in (1, 16, 64):
        assert torch.equal(nearest_rows(vectors, 4, block), expected)


def test_a_single_row_is_its_own_neighbour():
    assert nearest_rows(torch.ones(1, 3), 1).tolist() == [[0]]


def test_item_pairs_do_not_cross_users():
    items, rows = np.array([3, 5, 3, 5, 8]), np.array([0, 0, 0, 1, 1])
    pairs, counts = item_pairs(items, rows, n_items=9)
    assert dict(zip(map(tuple, pairs.T.tolist()), counts.tolist(), strict=True)) == {(3, 5): 1, (5, 3): 1, (5, 8): 1}
    pairs, counts = item_pairs(np.array([1, 2, 1, 2]), np.zeros(4, int), n_items=9)
    assert counts[pairs[0] == 1].tolist() == [2]


class FakeVectors:
    """A teacher whose vector of a row is told to it."""

    rows, temperatures, hidden = 6, (1.0,), 2

    def __init__(self, vectors):
        self.vectors = torch.tensor(vectors)

    def lookup(self, rows):
        return {"hidden": self.vectors[torch.from_numpy(rows)]}


def test_users_are_compared_by_their_whole_history():
    real, drop = int(Kind.REAL), int(Kind.DROP)
    rows = contexts([real, real, real, real, real, drop], [0, 0, 1, 2, 3, 0], [4, -1, -1, -1, -1, -1])
    east, north = [1.0, 0.0], [0.0, 1.0]
    near = user_neighbours(rows, FakeVectors([north, east, east, north, [0.1, 1.0], north]), n_users=5)
    assert near.shape == (5, 3)
    assert near[0, 0] == 1 and near[1, 0] == 0  # user 0's last real row is row 1: east, as user 1's
    assert near[2, 0] == 3 and near[3, 0] == 2
    assert near[4].tolist() == [4, 4, 4]  # no event: nobody but itself


def recipe(taught, *kinds):
    return Recipe("student", Spec("hybrid_cf"), [Loss("cross_entropy")], Fit(kinds=list(kinds)), taught=taught)


def test_rows_of_a_student_without_a_teacher_are_the_labelled_ones():
    rows = contexts([0, 0, 1, 4], [0, 0, 0, 0], [3, -1, -1, -1])
    assert rows_of(rows, recipe(False)).tolist() == [0]
    assert rows_of(rows, recipe(True)).tolist() == [0, 1, 2, 3]
    assert rows_of(rows, recipe(True, "real", "rollout")).tolist() == [0, 1, 3]


@pytest.mark.parametrize(
    ("kinds", "words"), [(["rolout"], "did you mean 'rollout'"), (["crop"], "no context of the kinds")]
)
def test_kinds_that_are_not_there(kinds, words):
    with pytest.raises(UserError, match=words):
        rows_of(contexts([0], [0], [3]), recipe(True, *kinds))


def test_nobody_has_two_events():
    with pytest.raises(UserError, match="no next item to learn"):
        rows_of(contexts([0], [0], [-1]), recipe(False))
