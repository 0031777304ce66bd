"""Item vectors without text begin near what the train events say of the items."""

import numpy as np
import pytest
import torch
from scipy import sparse
from student_samples import SMALL, N, vectors

from distill.closed_form.interactions import interaction_matrix
from distill.closed_form.spectral import DAMPING, spectral_vectors
from distill.contracts.worlds import checkerboard
from students.checkpoint import build_student
from students.item_table import SMALL_START, ItemTable

BEGINNERS = ["mf", "hybrid_cf", "mlp_only", "lightgcn", "neumf", "sasrec_small", "gru4rec_small"]


def events(users=40, n_items=30, seed=0):
    rng = np.random.default_rng(seed)
    seen = (rng.random((users, n_items)) < 0.2).astype(np.float32)
    seen[:, 7] = 0
    return sparse.csr_matrix(seen)


def test_directions_are_those_of_the_damped_matrix():
    matrix = events()
    dense = matrix.toarray()
    users, items = (np.maximum(dense.sum(axis), 1) ** -DAMPING for axis in (1, 0))
    _, values, right = np.linalg.svd(users[:, None] * dense * items)
    wanted = right[:5].T * np.sqrt(values[:5])
    wanted = torch.from_numpy(wanted / np.linalg.norm(wanted[np.arange(30) != 7], axis=1).mean())
    found, wanted = spectral_vectors(matrix, 5), wanted.float()
    assert torch.allclose(found @ found.T, wanted @ wanted.T, atol=2e-2), "signs of directions are free"
    assert not found[7].any(), "an item without events"


def test_the_same_seed_gives_the_same_vectors_and_leaves_other_draws_alone():
    torch.manual_seed(1)
    before = torch.rand(1)
    torch.manual_seed(1)
    first, second = spectral_vectors(events(), 4, seed=2), spectral_vectors(events(), 4, seed=2)
    assert torch.equal(first, second) and torch.equal(torch.rand(1), before)


def test_columns_beyond_the_rank_are_zeros():
    found = spectral_vectors(events(users=3), 8)
    assert found.shape == (30, 8) and torch.isfinite(found).all() and not found[:, 3:].any()
    assert not spectral_vectors(sparse.csr_matrix((4, 6), dtype=np.float32), 3).any()


@pytest.mark.parametrize("name", BEGINNERS)
def test_tables_without_text_begin_at_the_events(name):
    dataset = checkerboard()
    made, left = (build_student(name, {**SMALL, "start": start}, N, None, 0) for start in ("events", "random"))
    for student in (made, left):
        student.attach(dataset)
    wanted = spectral_vectors(interaction_matrix(dataset), SMALL["dim"])
    for side in ("inputs", "outputs"):
        table, other = (getattr(getattr(student, side), "table", getattr(student, side)) for student in (made, left))
        expected = wanted + SMALL_START * other.identity
        assert torch.allclose(table.identity, expected, atol=1e-6)


@pytest.mark.parametrize(("item_vectors", "settings"), [(vectors(), {}), (None, {"buckets": 6})])
def test_tables_with_text_or_shared_rows_stay_as_they_are(item_vectors, settings):
    made, left = (
        build_student("hybrid_cf", {**SMALL, **settings, "start": start}, N, item_vectors, 0)
        for start in ("events", "random")
    )
    made.attach(checkerboard())
    assert torch.equal(made.item_table(), left.item_table())


def test_a_table_begins_once():
    table = ItemTable(N, 4, start="events")
    assert table.waits and not ItemTable(N, 4).waits
    table.begin(torch.ones(N, 4))
    assert not table.waits
