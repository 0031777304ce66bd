"""Heads beside the ranking: they begin as the bias model, learn what vectors add, and leave the ranking alone."""

import dataclasses

import numpy as np
import pytest
import torch
from student_samples import N, histories, vectors

from distill.config import Config, Head, Run, UserSide
from distill.contracts.worlds import checkerboard
from distill.data.contexts import train_contexts
from distill.data.dataset import TRAIN, VALID
from distill.data.features import Attributes, Features
from distill.data.outcomes import Outcomes, damped_biases
from distill.data.ragged import Lists
from distill.errors import UserError
from distill.extensions import extended, with_outcome, without_some_histories
from distill.head_quality import errors, predictions
from distill.objectives.knowledge import Knowledge
from distill.objectives.objective import Objective
from distill.tensors import next_item_batch, query_of
from students.checkpoint import build_student, load_student, save_student

HEADS = {"rating": Head(0.5), "like": Head(0.5, least=4.0)}


def rated(seed=0, n_users=80):
    """Users of two kinds choose from all items; ratings are 5 in their own half and 2 in the other, ± 1 at random."""
    rng = np.random.default_rng(seed)
    dataset = checkerboard(n_users=n_users, events=9)
    rows = np.stack([rng.permutation(N)[:9] for _ in range(n_users)])
    items = rows.reshape(-1).astype(np.int32)
    own = (items >= N // 2) == (np.repeat(np.arange(n_users), 9) % 2 == 1)
    weights = np.where(own, 5.0, 2.0) - rng.integers(0, 2, len(items))
    return dataclasses.replace(dataset, items=items, weights=weights.astype(np.float32))


def with_kinds(dataset):
    """The same, with the users' kind as an attribute."""
    kinds = Lists(np.arange(dataset.n_users + 1, dtype=np.int64), (np.arange(dataset.n_users) % 2).astype(np.int32))
    return dataclasses.replace(
        dataset, features=Features(users=Attributes(lists={"kind": kinds}, vocabularies={"kind": ["a", "b"]}))
    )


def student_with(dataset, heads=HEADS, side=None, dim=8):
    config = Config(run=Run(name="x"), heads=heads, user_side=side or UserSide())
    return extended(build_student("hybrid_cf", {"dim": dim}, N, None, 0), config, dataset)


def knowledge():
    return Knowledge(8, N, 80, torch.zeros(N, dtype=torch.int64), torch.full((N,), 1 / N))


def test_outcomes_are_found_by_user_and_item():
    dataset = rated()
    outcomes = Outcomes.of_part(dataset, TRAIN)
    users, items = dataset.event_users(), dataset.items.astype(np.int64)
    train = dataset.parts == TRAIN
    found = outcomes.of(users, items)
    np.testing.assert_array_equal(found[train], dataset.weights[train])
    assert np.isnan(found[~train]).all()
    assert np.isnan(outcomes.of(np.array([-1, 3]), np.array([5, -1]))).all()


def test_damped_biases_by_hand():
    base, items, users = damped_biases(np.array([0, 0, 1]), np.array([0, 1, 0]), np.array([5.0, 3.0, 4.0]), 3, 2)
    assert base == 4.0
    np.testing.assert_allclose(items, [1 / 12, -1 / 11], atol=1e-6)
    np.testing.assert_allclose(users, [(1 - 1 / 12 - 1 + 1 / 11) / 12, -1 / 12 / 11, 0.0], atol=1e-6)


def test_heads_begin_as_the_bias_model():
    dataset = rated()
    student = student_with(dataset).eval()
    outcomes = Outcomes.of_part(dataset, TRAIN)
    base, items, users = damped_biases(outcomes.users, outcomes.items, outcomes.values, 80, N)
    with torch.no_grad():
        for name, (value, biases) in predictions(student, dataset, Outcomes.of_part(dataset, VALID), 9).items():
            np.testing.assert_array_equal(value, biases)
            if name == "rating":
                valid = Outcomes.of_part(dataset, VALID)
                np.testing.assert_allclose(value, base + items[valid.items] + users[valid.users], atol=1e-5)


def test_the_objective_adds_the_heads_and_rows_without_an_outcome_do_not_count():
    dataset = rated()
    student, contexts = student_with(dataset), train_contexts(dataset)
    objective = Objective(student, Config().losses, knowledge()).eval()
    rows = np.arange(40)
    batch = next_item_batch(contexts, rows, 9)
    batch["user"] = torch.from_numpy(contexts.user[rows].astype(np.int64))
    batch = with_outcome(batch, Outcomes.of_part(dataset, TRAIN), contexts, rows)
    labelled = batch["label"] >= 0
    assert torch.equal(batch["outcome"].isfinite(), labelled) and not labelled.all()
    named = objective(batch)
    assert torch.allclose(named["loss"], named["cross_entropy"] + 0.5 * (named["head_rating"] + named["head_like"]))
    with torch.no_grad():
        items, users = batch["label"][labelled], batch["user"][labelled]
        predicted = student.heads.biases("rating", items, users)
        assert torch.allclose(named["head_rating"], (predicted - batch["outcome"][labelled]).square().mean())
    blind = {**batch, "outcome": torch.full_like(batch["outcome"], torch.nan)}
    assert float(objective(blind)["head_rating"].detach()) == 0.0
    without = {key: value for key, value in batch.items() if key != "outcome"}
    assert set(objective(without)) == {"cross_entropy", "loss"}


def test_heads_learn_what_the_biases_cannot_say():
    dataset = with_kinds(rated(n_users=200))
    student, contexts = student_with(dataset, side=UserSide(attributes=True, dropout=0.0)), train_contexts(dataset)
    objective = Objective(student, Config().losses, knowledge()).train()
    rows = np.flatnonzero(contexts.target >= 0)
    batch = next_item_batch(contexts, rows, 9)
    batch["user"] = torch.from_numpy(contexts.user[rows].astype(np.int64))
    batch = with_outcome(batch, Outcomes.of_part(dataset, TRAIN), contexts, rows)
    optimizer = torch.optim.AdamW(student.parameters(), 0.02, weight_decay=0.1)
    torch.manual_seed(0)
    for _ in range(60):
        optimizer.zero_grad()
        objective(batch)["loss"].backward()
        optimizer.step()
    valid = Outcomes.of_part(dataset, VALID)
    for name, head in HEADS.items():
        least = head.least
        actual = valid.values if least is None else (valid.values >= least).astype(np.float32)
        value, biases = predictions(student.eval(), dataset, valid, 9)[name]
        found, plain = errors(value, actual, least), errors(biases, actual, least)
        if least is None:
            assert found["rmse"] < 0.9 * plain["rmse"]
        else:
            assert found["auc"] > plain["auc"] + 0.2


def test_heads_are_saved_with_the_student(tmp_path):
    dataset = rated()
    student = student_with(dataset).eval()
    with torch.no_grad():
        for weight in student.heads.parameters():
            weight.normal_()
    save_student(tmp_path, "hybrid_cf", {"dim": 8}, N, student.state_dict(), None, student.extensions)
    loaded = load_student(tmp_path)
    valid = Outcomes.of_part(dataset, VALID)
    for name, (value, _) in predictions(student, dataset, valid, 9).items():
        np.testing.assert_array_equal(value, predictions(loaded, dataset, valid, 9)[name][0])


def test_some_histories_are_emptied_the_same_ones_each_time():
    contexts = train_contexts(rated())
    rows = np.arange(300)
    batch = next_item_batch(contexts, rows, 9)
    one, two = (without_some_histories(batch, 0.3, rows, N, seed=1) for _ in range(2))
    emptied = (one["history"] == N).all(1)
    assert torch.equal(one["history"], two["history"])
    assert 0.2 < emptied[batch["label"] >= 0].float().mean() < 0.4 and not emptied[batch["label"] < 0].any()
    assert (one["seen"][emptied] == N).all() and torch.equal(one["history"][~emptied], batch["history"][~emptied])
    assert without_some_histories(batch, 0.0, rows, N, seed=1) is batch


@pytest.mark.parametrize(
    ("change", "heads", "side", "message"),
    [
        ({"weights": None}, HEADS, UserSide(), "data.weight: rating"),
        ({}, {"like": Head(0.1, least=9.0)}, UserSide(), "no train event has a weight of at least 9"),
        ({}, {"like": Head(0.1, least=0.0)}, UserSide(), "every train event"),
        ({}, {}, UserSide(attributes=True), "data.user_attributes"),
        ({}, {}, UserSide(recent=True), "data.item_attributes"),
    ],
)
def test_what_the_data_lacks_is_named(change, heads, side, message):
    with pytest.raises(UserError, match=message):
        student_with(dataclasses.replace(rated(), **change), heads, side)


@pytest.mark.parametrize("name", ["neumf", "ease", "lightgcn"])
def test_students_of_other_forms_are_refused(name):
    with pytest.raises(UserError, match="takes no user side and no heads"):
        extended(build_student(name, {}, N, None, 0), Config(heads=HEADS), rated())


def test_off_means_off():
    core = build_student("hybrid_cf", {"dim": 8}, N, vectors(), 0)
    assert extended(core, Config(), rated()) is core
    with torch.no_grad():
        assert torch.equal(query_of(core.eval(), histories(), torch.arange(6)), core.encode(histories()))
