"""LightGCN as a student: propagation against dense matrices, and tables that are saved without the graph."""

import numpy as np
import torch
from student_samples import N, histories, trained, vectors

from distill.closed_form.interactions import interaction_matrix
from distill.contracts.worlds import checkerboard
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


def test_without_layers_it_is_hybrid_cf():
    student, plain = attached(layers=0), build_student("hybrid_cf", {"dim": 8}, N, None, 0).eval()
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
