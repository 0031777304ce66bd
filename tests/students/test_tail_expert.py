"""The tail expert: rows of rare items from their text, routed by popularity, folded at export."""

from functools import partial

import pytest
import torch
from student_samples import SMALL, N, all_parts_matter, histories, trained, vectors

from distill.contracts import check_student
from distill.contracts.worlds import checkerboard
from students.checkpoint import build_student, load_student, save_student
from students.hybrid_cf import HybridCF
from students.protocol import scores
from students.tail_expert import TailExpert

SWITCHED = {**SMALL, "tail_expert": True}


@pytest.mark.parametrize("settings", [{}, {"tied": True}, {"cold": True}, {"text": "null_space"}], ids=str)
def test_it_keeps_the_contract(settings):
    make = partial(HybridCF, **SWITCHED, **settings)
    check_student(lambda n_items, item_vectors: make(n_items=n_items, item_vectors=item_vectors))


def test_rare_items_are_routed_to_their_text():
    student = build_student("hybrid_cf", SWITCHED, N, vectors(), 0)
    student.attach(checkerboard(cold=[3]))
    expert = student.outputs
    assert isinstance(expert, TailExpert)
    share = expert.routed().detach()
    order = expert.events.argsort()
    assert (share[order].diff() <= 0).all(), "more events, less of the text"
    assert share[3] == share.max() and expert.events[3] == 0
    with torch.no_grad():
        expert.table.identity.fill_(100.0)
        expert.level.fill_(50.0)  # everything is tail
        expert.slope.zero_()
    assert torch.allclose(expert(), expert.text @ expert.projection, atol=1e-4)
    with torch.no_grad():
        expert.level.fill_(-50.0)
    assert torch.allclose(expert(), expert.table(), atol=1e-4)


def test_the_route_is_learned_and_saved(tmp_path):
    student = trained(tmp_path, "hybrid_cf", vectors(), epochs=2, tail_expert=True)
    fresh = build_student("hybrid_cf", SWITCHED, N, vectors(), 0)
    assert student.outputs.slope != fresh.outputs.slope and student.outputs.level != fresh.outputs.level
    student.attach(checkerboard())
    save_student(tmp_path, "hybrid_cf", SWITCHED, N, student.state_dict(), vectors())
    loaded = load_student(tmp_path)
    assert torch.equal(loaded.outputs.events, student.outputs.events) and loaded.outputs.events.any()
    with torch.no_grad():
        assert torch.equal(scores(loaded, histories()), scores(student, histories()))


def test_one_expert_where_the_tables_are_one():
    tied, untied = (build_student("hybrid_cf", {**SWITCHED, "tied": t}, N, vectors(), 0) for t in (True, False))
    assert tied.inputs is tied.outputs and untied.inputs is not untied.outputs


def test_without_text_it_changes_nothing():
    with_it, without = (build_student("hybrid_cf", {**SMALL, "tail_expert": t}, N, None, 0) for t in (True, False))
    assert list(with_it.state_dict()) == list(without.state_dict())


def test_it_folds_into_a_plain_table_at_export():
    import numpy as np

    from distill.export.graph import build_graphs
    from distill.serving.session import Graph

    student = all_parts_matter(build_student("hybrid_cf", {**SWITCHED, "cold": True}, N, vectors(), 0))
    student.attach(checkerboard(cold=[3]))
    model = build_graphs(student, ["fp32"], 9)["fp32"]
    assert not any("text" in tensor.name or "projection" in tensor.name for tensor in model.graph.initializer)
    history = histories()
    seen = np.full((len(history), 1), N)
    ids, found, _ = Graph(model.SerializeToString(), N).session.run(
        ["ids", "scores", "query"], {"history": history.numpy(), "seen": seen, "k": np.array([N])}
    )
    with torch.no_grad():
        wanted = scores(student, history)
    assert torch.allclose(torch.from_numpy(found), wanted.gather(1, torch.from_numpy(ids)), atol=1e-4)
