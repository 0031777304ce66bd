"""LightGCN as a student: propagation against dense matrices, and tables that are saved without the graph."""

import dataclasses

import numpy as np
import pytest
import torch
from student_samples import N, histories, trained, vectors

from distill.closed_form.interactions import interaction_matrix
from distill.contracts.worlds import checkerboard
from distill.data.dataset import TRAIN, Dataset
from students.checkpoint import build_student, load_student, save_student, served
from students.protocol import scores


def attached(layers=2, item_vectors=None, **settings):
    student = build_student("lightgcn", {"dim": 8, "layers": layers, **settings}, N, item_vectors, 0).eval()
    student.attach(checkerboard())
    return student


def test_propagation_is_the_formula_with_dense_matrices():
    student = attached(layers=2)
    matrix = interaction_matrix(checkerboard()).toarray()
    users, items = np.maximum(matrix.sum(1), 1), np.maximum(matrix.sum(0), 1)
    adjacency = matrix / np.sqrt(users)[:, None] / np.sqrt(items)
    together = adjacency.T @ adjacency
    start = student.inputs.table().detach().double().numpy()
    wanted = (start + together @ start + together @ together @ start) / 3
    np.testing.assert_allclose(student.inputs().detach().numpy(), wanted, atol=1e-5)


def rated(weights):
    """Two users: the first chose items 0 and 1, the second item 0; item 2 has no event."""
    return Dataset(
        user_ids=np.array(["u0", "u1"]),
        item_ids=np.array(["i0", "i1", "i2"]),
        titles=["i0", "i1", "i2"],
        texts=["i0", "i1", "i2"],
        indptr=np.array([0, 2, 3]),
        items=np.array([0, 1, 0], np.int32),
        parts=np.full(3, TRAIN, np.uint8),
        weights=None if weights is None else np.array(weights, np.float32),
    )


def propagated(weights):
    """What one layer makes of each of three items (row) out of each of them (column)."""
    student = build_student("lightgcn", {"dim": 3, "layers": 1}, 3, None, 0).eval()
    student.attach(rated(weights))
    with torch.no_grad():
        student.inputs.table.identity.copy_(torch.eye(3))
        return student.inputs().numpy()


# Weights 1 and 3 of user 0, 4 of user 1: degrees 4 and 4 of users, 5 and 3 of items. A'A of item 0 with itself is
# 1 / 20 + 16 / 20, of item 1 with itself 9 / 12, of both 1 * 3 / (4 * sqrt(5 * 3)).
KNOWN = [[0.85, 3 / (4 * 15**0.5), 0.0], [3 / (4 * 15**0.5), 0.75, 0.0], [0.0, 0.0, 0.0]]


@pytest.mark.parametrize("unit", [1.0, 0.05], ids=["ratings", "degrees below 1"])
def test_weights_of_events_are_edges_of_the_graph(unit):
    found = propagated([1 * unit, 3 * unit, 4 * unit])
    np.testing.assert_allclose(found, (np.eye(3) + KNOWN) / 2, rtol=1e-5)


def test_even_weights_are_no_weights_and_an_edge_of_zero_is_none():
    np.testing.assert_allclose(propagated([2.0, 2.0, 2.0]), propagated(None), rtol=1e-6)
    alone = propagated([1.0, 0.0, 1.0])
    np.testing.assert_allclose(alone, np.diag([1.0, 0.5, 0.5]), atol=1e-6)


def test_a_repeated_event_adds_its_weights():
    once = rated([1.0, 3.0, 4.0])
    twice = dataclasses.replace(
        once,
        indptr=np.array([0, 3, 4]),
        items=np.array([0, 1, 1, 0], np.int32),
        parts=np.full(4, TRAIN, np.uint8),
        weights=np.array([1.0, 1.0, 2.0, 4.0], np.float32),
    )
    students = [build_student("lightgcn", {"dim": 3, "layers": 1}, 3, None, 0).eval() for _ in range(2)]
    with torch.no_grad():
        found = [
            student.attach(data) or student.inputs() for student, data in zip(students, (once, twice), strict=True)
        ]
    torch.testing.assert_close(found[0], found[1])


def test_without_layers_it_is_hybrid_cf():
    student, plain = attached(layers=0), build_student("hybrid_cf", {"dim": 8}, N, None, 0).eval()
    plain.attach(checkerboard())
    with torch.no_grad():
        assert torch.equal(scores(student, histories()), scores(plain, histories()))


def test_gradients_pass_through_the_graph():
    student = attached(layers=1).train()
    rows = student.inputs()
    (gradient,) = torch.autograd.grad(rows[0].sum(), student.inputs.table.identity)
    neighbours = interaction_matrix(checkerboard()).toarray()
    together = neighbours.T @ neighbours
    assert torch.equal(gradient.any(1), torch.from_numpy(together[0] > 0))


def test_what_is_worked_out_in_evaluation_is_forgotten_when_weights_change():
    student = attached()
    with torch.no_grad():
        before = scores(student, histories())
        assert student.inputs() is student.inputs()
        changed = {name: value + 0.1 * torch.randn_like(value) for name, value in student.state_dict().items()}
        student.load_state_dict(changed)
        after = scores(student, histories())
        assert not torch.allclose(before, after)
        student.train()
        for weight in student.parameters():
            weight.mul_(1.5)
        student.eval()
        assert not torch.allclose(scores(student, histories()), after)


def test_a_saved_student_needs_neither_graph_nor_text(tmp_path):
    for tied in (True, False):
        student = trained(tmp_path, "lightgcn", vectors(), epochs=1, tied=tied)
        weights, text = served(student, student.state_dict(), vectors())
        assert text is None and not any("projection" in name for name in weights)
        save_student(tmp_path, "lightgcn", {"dim": 8, "tied": tied}, N, weights, text)
        loaded = load_student(tmp_path)
        assert loaded.inputs.graph is None
        with torch.no_grad():
            assert torch.equal(scores(loaded, histories()), scores(student, histories()))
