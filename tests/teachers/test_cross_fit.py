"""Cross-fitted labels: who answers for whom, and that memorising is undone."""

import dataclasses

import numpy as np
import pytest
import torch
from test_closed_form import N, random_data

from distill.closed_form.interactions import interaction_matrix
from distill.data.contexts import train_contexts
from distill.data.dataset import HISTORY, TRAIN, VALID
from distill.plugins import resolve
from distill.tensors import mask_seen
from teachers.cross_fit import CrossFitted, can_cross_fit, folds_of, without
from teachers.protocol import Inputs

DATA = random_data(users=60)
FOLDS = 4


def fitted(name, dataset, **settings):
    member = resolve("teacher", name)(**settings)
    member.prepare(Inputs(dataset, {}, 0, torch.device("cpu")))
    return member


def cross_fitted(name, **settings):
    fold = folds_of(DATA.n_users, FOLDS, 0)
    parts = [fitted(name, without(DATA, fold == number), **settings) for number in range(FOLDS)]
    return CrossFitted(fitted(name, DATA, **settings), parts, fold)


def test_folds_are_equal_in_size_and_decided_by_the_seed():
    fold = folds_of(103, 5, 7)
    assert np.bincount(fold).tolist() == [21, 21, 21, 20, 20]
    assert np.array_equal(fold, folds_of(103, 5, 7)) and not np.array_equal(fold, folds_of(103, 5, 8))


def test_users_left_out_are_known_but_not_trained_on():
    users = np.arange(DATA.n_users) % 3 == 0
    rest = without(DATA, users)
    matrix, whole = interaction_matrix(rest).toarray(), interaction_matrix(DATA).toarray()
    assert not matrix[users].any() and np.array_equal(matrix[~users], whole[~users])
    assert rest.popularity.sum() < DATA.popularity.sum()
    assert ((rest.parts == HISTORY) == (users[DATA.event_users()] & (DATA.parts == TRAIN))).all()
    assert np.array_equal(rest.history(VALID).items, DATA.history(VALID).items), "histories stay"


@pytest.mark.parametrize("name", ["ease", "itemknn", "ials"])
def test_each_context_is_answered_by_the_member_without_its_user(name):
    teacher = cross_fitted(name)
    contexts = train_contexts(DATA)
    contexts = dataclasses.replace(contexts, user=np.where(np.arange(len(contexts)) % 7, contexts.user, -1))
    batch = contexts.batch(np.arange(len(contexts)), 99)
    found = teacher.score(batch)
    answers = [member.score(batch) for member in (*teacher.parts, teacher.whole)]
    for row, user in enumerate(batch.user):
        expected = answers[teacher.fold[user] if user >= 0 else -1][row]
        assert torch.allclose(found[row], expected, atol=1e-6)
    one = contexts.batch(np.array([1]), 99)
    assert torch.allclose(teacher.score(one)[0], found[1], atol=1e-5)


def test_memorised_labels_lose_their_lead():
    """In noise there is nothing to learn, so the rank of the true next item shows what was only remembered."""
    teacher = cross_fitted("ease", l2=1.0, decay=100.0)
    contexts = train_contexts(DATA)
    rows = np.flatnonzero(contexts.target >= 0)
    batch = contexts.batch(rows, 99)
    target = torch.from_numpy(batch.target)[:, None]

    def rank_of(member):
        scores = mask_seen(member.score(batch), torch.from_numpy(batch.seen))
        return float((scores > scores.gather(1, target)).float().sum(1).mean())

    assert rank_of(teacher.whole) < rank_of(teacher) - 1.0
    free = float((N - torch.from_numpy((batch.seen < N).sum(1))).float().mean())
    assert rank_of(teacher) > 0.35 * free, "no better than chance"


def test_who_is_cross_fitted():
    assert all(can_cross_fit(resolve("teacher", name)()) for name in ("ease", "itemknn", "ials", "popularity"))
    assert not can_cross_fit(resolve("teacher", "sasrec")())

    class Own:
        cross_fit = True

    assert can_cross_fit(Own())
