"""Losses from rows alone, windows, and gradients of rows: each the same as contexts one by one on all scores."""

import numpy as np
import pytest
import torch

from distill.config import Loss
from distill.data.contexts import Kind, prefixes
from distill.data.ragged import Lists
from distill.objectives.knowledge import Knowledge
from distill.objectives.objective import Objective
from distill.tensors import history_pools, next_item_batch, window_pools
from distill.windows import Windows
from students.checkpoint import build_student

N, DIM, LENGTH = 60, 8, 5
ROWS = [
    Loss("sampled_softmax", arguments={"negatives": 40}),
    Loss("sampled_softmax", arguments={"negatives": 40, "proposal": "popularity"}),
    Loss("in_batch_softmax"),
    Loss("bpr", arguments={"negatives": 3}),
    Loss("bpr", arguments={"negatives": 30, "shared": True}),
]
WHOLE = [Loss("cross_entropy"), Loss("bce", arguments={"negatives": 0})]


def title(loss):
    return "-".join([loss.name, *map(str, loss.arguments.values())])


def sequences(repeats=False):
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 30, 12)
    lengths[0] = 0
    draw = (lambda n: rng.integers(0, N, n)) if repeats else (lambda n: rng.permutation(N)[:n])
    items = np.concatenate([draw(n) for n in lengths]).astype(np.int32)
    return Lists(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64), items)


def one_by_one(lists):
    contexts = prefixes(lists, N, Kind.REAL, np.arange(len(lists)))
    return next_item_batch(contexts, np.flatnonzero(contexts.target >= 0), LENGTH)


def in_windows(lists):
    windows = Windows.of(lists, N, 7, LENGTH)
    return windows.batch(np.arange(len(windows)))


def objective(loss, name="hybrid_cf"):
    student = build_student(name, {"dim": DIM, "dropout": 0.0, "item_dropout": 0.0}, N, None, 0)
    for parameter in student.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    share = torch.rand(N, generator=torch.Generator().manual_seed(1))
    return Objective(student, [loss], Knowledge(DIM, N, 12, torch.arange(N) * 4 // N, share / share.sum()))


def step(module, batch):
    """The loss and every gradient, with one seed for the draws."""
    module.zero_grad()
    torch.manual_seed(3)
    loss = module(batch)["loss"]
    loss.backward()
    return loss.detach(), {n: p.grad.to_dense().clone() for n, p in module.named_parameters() if p.grad is not None}


def assert_same(found, expected):
    assert torch.allclose(found[0], expected[0], atol=1e-5)
    assert found[1].keys() == expected[1].keys()
    for name, gradient in expected[1].items():
        assert torch.allclose(found[1][name], gradient, atol=1e-5), name


@pytest.mark.parametrize("loss", ROWS, ids=title)
@pytest.mark.parametrize("repeats", [False, True], ids=["distinct", "repeats"])
def test_a_loss_by_rows_is_the_loss_on_all_scores(loss, repeats):
    module, batch = objective(loss), one_by_one(sequences(repeats))
    assert module.forms
    by_rows = step(module, batch)
    module.forms = []
    assert_same(by_rows, step(module, batch))


@pytest.mark.parametrize("name", ["hybrid_cf", "mf", "mlp_only"])
@pytest.mark.parametrize("loss", [ROWS[0], ROWS[4], *WHOLE], ids=title)
def test_windows_hold_the_contexts_of_all_prefixes(name, loss):
    lists, module = sequences(), objective(loss, name)
    assert_same(step(module, in_windows(lists)), step(module, one_by_one(lists)))


@pytest.mark.parametrize("batch_of", [one_by_one, in_windows])
@pytest.mark.parametrize("loss", [ROWS[0], ROWS[3]], ids=title)
def test_gradients_of_rows_are_those_of_the_tables(batch_of, loss):
    module, batch = objective(loss), batch_of(sequences())
    dense = step(module, batch)
    assert module.student.train_by_rows()
    assert_same(step(module, batch), dense)
    assert module.student.inputs.identity.grad.is_sparse and module.student.outputs.identity.grad.is_sparse


def test_window_pools_are_history_pools():
    table, decays = torch.randn(N, DIM), torch.tensor([0.7, 4.0, 1e4])
    windows = torch.randint(N, (3, 9))
    windows[0, :4] = windows[1, 7:] = N
    found = window_pools(windows, table, decays, width=5).view(5, 3, 3, DIM)
    for place in range(5):
        history = windows[:, place : place + 5]
        assert torch.allclose(found[place, :2], history_pools(history, table, decays)[:2], atol=1e-4)


def test_an_order_of_its_own_for_every_epoch():
    lists = sequences()
    windows = Windows.of(lists, N, 7, LENGTH, shuffle=4)

    def labels(epoch):
        batches = windows.batches(10_000, seed=1, epoch=epoch)
        assert len(batches) == 1
        batch = windows.batch(np.sort(batches[0]))
        return batch["label"], batch

    first, again, other = labels(0)[0], labels(0)[0], labels(1)[0]
    assert torch.equal(first, again) and not torch.equal(first, other)
    label, batch = labels(2)
    for place in (label >= 0).nonzero()[:, 0].tolist():
        assert label[place] in lists[int(batch["user"][place])]
    whole = windows.batches(20, seed=1, epoch=3, most=40)
    assert len(whole) == 2 and len(np.unique(np.concatenate(whole))) == len(np.concatenate(whole))


def test_a_whole_catalogue_of_negatives_has_no_form_by_rows():
    assert not objective(Loss("sampled_softmax", arguments={"negatives": 0})).forms
    assert not objective(Loss("bpr", strata=True)).forms
    assert not objective(Loss("bpr", head="auxiliary")).forms


@pytest.mark.parametrize("batch_of", [one_by_one, in_windows])
@pytest.mark.parametrize("repeats", [False, True], ids=["distinct", "repeats"])
def test_seen_items_are_found_in_large_catalogues_too(batch_of, repeats, monkeypatch):
    """Beyond `FEW` cells no table of all items is laid out."""
    module, batch = objective(Loss("bpr", arguments={"negatives": 5})), batch_of(sequences(repeats))
    expected = step(module, batch)
    monkeypatch.setattr("distill.windows.FEW", 0)
    assert_same(step(module, batch), expected)
