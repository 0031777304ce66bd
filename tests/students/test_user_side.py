"""The user side: zero at the start, additive, left out for someone unknown; learned where it says something."""

from functools import partial

import numpy as np
import onnxruntime
import pytest
import torch
from student_samples import N, all_parts_matter, histories, vectors

from distill.contracts import check_student
from distill.export.graph import build_graphs
from distill.plugins import TABLES
from distill.tensors import query_of
from students.checkpoint import build_student, extend, load_student, save_student
from students.protocol import scores

USERS, DIM = 12, 8
SIDES = {
    "attributes": {"users": USERS, "attributes": 3},
    "factor": {"users": USERS, "factor": True},
    "recent": {"users": USERS, "recent": 4},
    "all": {"users": USERS, "attributes": 3, "factor": True, "recent": 4},
}
DOT_PRODUCT = [name for name in TABLES["student"] if name in ("hybrid_cf", "mf", "sasrec_small", "two_tower")]


def personal(side, n_items=N, text=None, name="hybrid_cf", **settings):
    core = build_student(name, {"dim": DIM, **settings}, n_items, text, 0)
    student = extend(core, {"user_side": side})
    generator = torch.Generator().manual_seed(5)
    about = torch.randn(USERS, side.get("attributes", 0), generator=generator)
    items = torch.randn(n_items, side.get("recent", 0), generator=generator)
    student.user_side.fill(about if side.get("attributes") else None, items if side.get("recent") else None)
    return student.eval()


@pytest.mark.parametrize("side", SIDES)
def test_a_student_with_a_user_side_keeps_the_contract(side):
    def make(n_items, text):
        core = build_student("hybrid_cf", {"dim": DIM}, n_items, text, torch.initial_seed())
        return extend(core, {"user_side": SIDES[side]})

    check_student(make)


@pytest.mark.parametrize("name", DOT_PRODUCT)
def test_training_starts_at_the_student_without_it(name):
    student = personal(SIDES["all"], text=vectors(), name=name)
    users = torch.arange(6)
    with torch.no_grad():
        assert torch.equal(scores(student, histories(), users), scores(student.core, histories()))


@pytest.mark.parametrize("side", ["attributes", "factor", "all"])
def test_known_users_are_added_and_unknown_ones_are_not(side):
    student = all_parts_matter(personal(SIDES[side]))
    history, users = histories(), torch.tensor([3, -1, 0, 5, -1, 11])
    with torch.no_grad():
        query = query_of(student, history, users)
        wanted = student.encode(history) + student.user_vectors(users)
        assert torch.equal(query, wanted)
        assert torch.equal(query[[1, 4]], student.encode(history)[[1, 4]])
        assert not torch.allclose(query[[0, 2]], student.encode(history)[[0, 2]])
    assert student.user_width == DIM and personal(SIDES["recent"]).user_width == 0


def test_recent_features_read_the_history_and_say_nothing_of_an_empty_one():
    student = all_parts_matter(personal(SIDES["recent"]))
    history = histories()
    with torch.no_grad():
        added = student.encode(history) - student.core.encode(history)
    assert not added[0].any() and added[1:].any(1).all()


def test_dropout_leaves_out_attributes_of_some_rows_in_training_alone():
    student = all_parts_matter(personal({"users": USERS, "attributes": 3, "dropout": 0.5}))
    users = torch.zeros(400, dtype=torch.int64)
    torch.manual_seed(0)
    with torch.no_grad():
        assert student.user_vectors(users).any(1).all()
        student.train()
        share = student.user_vectors(users).any(1).float().mean()
    assert 0.4 < share < 0.6


@pytest.mark.parametrize("side", SIDES)
def test_saving_and_loading_needs_no_data(tmp_path, side):
    student = all_parts_matter(personal(SIDES[side], text=vectors()))
    weights = student.state_dict()
    save_student(tmp_path, "hybrid_cf", {"dim": DIM}, N, weights, vectors(), student.extensions)
    loaded, users = load_student(tmp_path), torch.arange(6)
    with torch.no_grad():
        assert torch.equal(scores(loaded, histories(), users), scores(student, histories(), users))


def test_attributes_alone_tell_two_halves_apart():
    """Users of two kinds choose from two halves of the catalogue; without a history the attribute alone says which."""
    student = extend(
        build_student("hybrid_cf", {"dim": DIM}, N, None, 0), {"user_side": {"users": 40, "attributes": 2}}
    )
    kind = torch.arange(40) % 2
    student.user_side.fill(torch.nn.functional.one_hot(kind, 2).float(), None)
    optimizer = torch.optim.AdamW(student.parameters(), 0.02)
    generator = torch.Generator().manual_seed(0)
    empty = torch.full((40, 2), N)
    for _ in range(60):
        label = torch.randint(0, N // 2, (40,), generator=generator) + kind * (N // 2)
        loss = torch.nn.functional.cross_entropy(scores(student.train(), empty, torch.arange(40)), label)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        best = scores(student.eval(), empty[:2], torch.arange(2)).topk(8).indices
    assert (best[0] < N // 2).all() and (best[1] >= N // 2).all()


def test_the_exported_graph_takes_a_user_or_none():
    n_items = 60
    student = all_parts_matter(personal(SIDES["all"], n_items, vectors(20, n_items)))
    history, users = histories(n_items), torch.tensor([3, 1, 0, 5, 2, 11])
    feed = {"history": history.numpy(), "seen": np.full((6, 1), n_items), "k": np.array([n_items])}
    with torch.no_grad():
        known = {**feed, "user": student.user_vectors(users).numpy()}
        for word, graph in build_graphs(student, ["fp32", "int8"], max_length=9).items():
            session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
            for user, feeds in ((None, feed), (users, known)):
                ids, found, query = session.run(["ids", "scores", "query"], feeds)
                expected = scores(student, history, user).numpy()
                close = 1e-4 if word == "fp32" else 0.02 * np.abs(expected).max()
                np.testing.assert_allclose(found, np.take_along_axis(expected, ids, axis=1), atol=close)
                if word == "fp32":
                    np.testing.assert_allclose(query, query_of(student, history, user).numpy(), atol=1e-4)


def test_without_user_inputs_a_student_is_exported_as_before():
    core = build_student("hybrid_cf", {"dim": DIM}, N, vectors(), 0).eval()
    plain = partial(build_graphs, variants=["fp32"], max_length=9)
    graph = plain(core)["fp32"]
    assert [value.name for value in graph.graph.input] == ["history", "seen", "k"]
    wrapped = plain(extend(core, {"heads": {"users": 3, "heads": {"rating": {"weight": 0.1, "least": None}}}}))["fp32"]
    assert [v.name for v in wrapped.graph.input] == ["history", "seen", "k"]
    assert [(n.op_type, len(n.input)) for n in wrapped.graph.node] == [
        (n.op_type, len(n.input)) for n in graph.graph.node
    ]
