"""iALS: the equations it solves, histories folded in, a checkerboard."""

import dataclasses

import numpy as np
import pytest
import torch
from member_samples import N, checked, fitted, inputs, ranked
from scipy import sparse

from distill.closed_form.interactions import interaction_matrix
from distill.closed_form.least_squares import solve_rows
from distill.contracts.worlds import checkerboard, share_in_own_half
from distill.data.contexts import history_contexts
from distill.data.dataset import VALID
from teachers.ials import ImplicitALS

DATA = checkerboard()


def matrix(rows=9, columns=6, seed=0):
    found = np.random.default_rng(seed).random((rows, columns)) < 0.4
    found[2] = False  # a row without anything
    return sparse.csr_matrix(found.astype(np.float32))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("frequency", [0.0, 0.5, 1.0])
def test_a_half_step_solves_each_rows_ridge_regression(frequency, weighted):
    x, v = matrix(), torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    if weighted:
        x.data *= np.random.default_rng(1).uniform(0.5, 3, x.nnz).astype(np.float32)
    solved = solve_rows(x, v, 0.2, 0.05, frequency).numpy()
    other = v.numpy().astype(np.float64)
    for row, found in zip(x.toarray(), solved, strict=True):
        ridge = 0.05 * (row.sum() + 0.2 * 6) ** frequency
        normal = 0.2 * other.T @ other + (other * row[:, None]).T @ other + ridge * np.eye(3)
        np.testing.assert_allclose(found, np.linalg.solve(normal, other.T @ row), atol=1e-5)


def test_blocks_of_any_size_give_the_same_result(monkeypatch):
    x, v = matrix(40, 30), torch.randn(30, 4, generator=torch.Generator().manual_seed(0))
    whole = solve_rows(x, v, 0.1, 0.01, 1.0)
    monkeypatch.setattr("distill.closed_form.least_squares.GATHERED", 1)
    assert torch.allclose(solve_rows(x, v, 0.1, 0.01, 1.0), whole, atol=1e-5)


def test_the_loss_never_rises():
    x = interaction_matrix(DATA)
    items, losses = torch.randn(N, 4, generator=torch.Generator().manual_seed(0)) * 0.1, []
    observed = torch.from_numpy(x.toarray())
    ridge_users, ridge_items = (0.02 * (observed.sum(d) + 0.1 * observed.shape[d]) for d in (1, 0))
    for _ in range(4):
        users = solve_rows(x, items, 0.1, 0.02, 1.0)
        items = solve_rows(x.T.tocsr(), users, 0.1, 0.02, 1.0)
        found = users @ items.T
        loss = (observed * (found - 1) ** 2).sum() + 0.1 * (found**2).sum()
        losses.append(loss + (ridge_users * users.square().sum(1)).sum() + (ridge_items * items.square().sum(1)).sum())
    assert torch.stack(losses).diff().max() <= 1e-3
    assert losses[-1] < losses[0]


def test_weights_of_events_count():
    ones = dataclasses.replace(DATA, weights=np.ones(len(DATA.items), np.float32))
    heavy = dataclasses.replace(DATA, weights=np.where(DATA.items < N // 4, 5.0, 1.0).astype(np.float32))
    tables = []
    for dataset in (DATA, ones, heavy):
        member = ImplicitALS(dim=4)
        member.prepare(inputs(dataset))
        tables.append(member.table)
    assert torch.allclose(tables[0], tables[1], atol=1e-4) and not torch.allclose(tables[0], tables[2], atol=1e-2)


def test_recommendations_stay_inside_the_users_half(tmp_path):
    member = fitted(tmp_path, "ials", DATA, dim=4)
    assert share_in_own_half(*ranked(member, DATA)) > 0.98


def test_without_decay_a_history_is_folded_in_as_in_training(tmp_path):
    member = fitted(tmp_path, "ials", DATA, dim=4, decay=float("inf"))
    users = np.arange(DATA.n_users)
    found = member.score(history_contexts(DATA, users, VALID).batch(users, 99))
    solved = solve_rows(interaction_matrix(DATA), member.table, member.unobserved, member.l2, member.frequency)
    expected = torch.log((solved @ member.table.T).clamp_min(0) + member.floor)
    assert torch.allclose(found, expected, atol=1e-3)


@pytest.mark.parametrize("settings", [{}, {"dim": 5, "frequency": 0.0}, {"decay": float("inf")}], ids=str)
def test_the_contract(tmp_path, settings):
    member = checked(tmp_path, "ials", DATA, **{"dim": 8, **settings})
    assert member.item_vectors().shape == (N, settings.get("dim", 8))


def test_the_seed_decides_the_result():
    tables = []
    for seed, own in [(0, 0), (0, 0), (1, 0), (0, 1)]:
        member = ImplicitALS(dim=4, sweeps=2, seed=own)
        member.prepare(inputs(DATA, seed))
        tables.append(member.table)
    assert torch.equal(tables[0], tables[1]) and torch.equal(tables[2], tables[3])
    assert not torch.equal(tables[0], tables[2])
