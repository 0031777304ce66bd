"""LightGCN: propagation against the dense formula, folding in, a checkerboard."""

import numpy as np
import pytest
import torch
from member_samples import N, checked, fitted, inputs, ranked

from distill.closed_form.interactions import interaction_matrix
from distill.contracts.worlds import checkerboard, share_in_own_half
from distill.data.contexts import history_contexts
from distill.data.dataset import VALID
from teachers.lightgcn import LightGCN, LightGCNModel

DATA = checkerboard()
SETTINGS = {"dim": 8, "batch_size": 64, "epochs": 4, "learning_rate": 0.02}


def dense(matrix):
    """The normalised adjacency of users and items together, (U + N, U + N)."""
    x = torch.from_numpy(matrix.toarray())
    users, items = (x.sum(d).clamp_min(1.0).rsqrt() for d in (1, 0))
    block = users[:, None] * x * items
    top = torch.cat([torch.zeros(len(x), len(x)), block], 1)
    return torch.cat([top, torch.cat([block.T, torch.zeros(x.shape[1], x.shape[1])], 1)])


@pytest.mark.parametrize("layers", [1, 3])
def test_propagation_against_the_dense_formula(layers):
    matrix = interaction_matrix(DATA)
    torch.manual_seed(0)
    model = LightGCNModel(matrix, 6, layers, 12.0, 0.0)
    with torch.no_grad():
        state = torch.cat([model.users, model.items])
        every, adjacency = [state], dense(matrix)
        for _ in range(layers):
            every.append(adjacency @ every[-1])
        users, items, before = model.propagated()
    expected = torch.stack(every).mean(0)
    assert torch.allclose(users, expected[: len(users)], atol=1e-5)
    assert torch.allclose(items, expected[len(users) :], atol=1e-5)
    assert torch.allclose(before, torch.stack(every[:-1]).sum(0)[len(users) :] / len(every), atol=1e-5)


def test_folding_in_gives_a_user_its_vector_but_for_its_own_part():
    member = LightGCN(**{**SETTINGS, "decay": float("inf")})
    member.prepare(inputs(DATA))
    with torch.no_grad():
        member.refresh(member.model, None)
        users, _, _ = member.model.propagated()
        own = member.model.users / (member.layers + 1)
    row = np.arange(DATA.n_users)
    folded = member.context_vectors(history_contexts(DATA, row, VALID).batch(row, 99))
    cosine = torch.nn.functional.cosine_similarity(folded, (users - own).detach())
    assert cosine.min() > 0.9999


def test_a_batch_masks_the_users_other_items():
    member = LightGCN(**SETTINGS)
    member.prepare(inputs(DATA))
    rows = np.array([0, 7, 100, 479])
    batch = member._collate(rows)
    for user, label, seen in zip(*(batch[name].numpy() for name in ("user", "label", "seen")), strict=True):
        own = set(member.matrix[user].indices)
        assert label in own
        assert set(seen[seen < N]) == own - {label}
        assert seen[-1] < N, "padding comes first"


def test_recommendations_stay_inside_the_users_half(tmp_path):
    assert share_in_own_half(*ranked(fitted(tmp_path, "lightgcn", DATA, **SETTINGS), DATA)) > 0.98


@pytest.mark.parametrize("settings", [{}, {"layers": 1}, {"decay": float("inf"), "rows_per_epoch": 100}], ids=str)
def test_the_contract(tmp_path, settings):
    member = checked(tmp_path, "lightgcn", DATA, **{**SETTINGS, "epochs": 1, **settings})
    assert member.item_vectors().norm(dim=1).tolist() == pytest.approx([1.0] * N, abs=1e-5)


def test_the_seed_decides_the_result(tmp_path):
    tables = [
        fitted(tmp_path / str(n), "lightgcn", DATA, seed, **{**SETTINGS, "epochs": 1}).table
        for n, seed in enumerate([0, 0, 1])
    ]
    assert torch.equal(tables[0], tables[1])
    assert not torch.equal(tables[0], tables[2])
