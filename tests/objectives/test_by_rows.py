"""Losses from rows alone, windows, and gradients of rows: each the same as contexts one by one on all scores."""

import numpy as np
import pytest
import torch

from distill.config import Loss
from distill.data.contexts import Kind, prefixes
from distill.data.ragged import Lists
from distill.objectives.knowledge import Knowledge
from distill.objectives.objective import Objective
from distill.tensors import history_pools, next_item_batch
from distill.windows.cut import Windows
from distill.windows.noise import dropout
from distill.windows.pools import window_pools
from students.checkpoint import build_student
from students.hidden_layer import hidden_layer

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


def windows_and_histories():
    """Windows of 5 places, padded on either side, and the histories that they stand for, place by place."""
    windows = torch.randint(N, (3, 9))
    windows[0, :4] = windows[1, 7:] = N
    return windows, torch.cat([windows[:, place : place + 5] for place in range(5)])


def pooled(windows, table, decays, mix, block, **settings):
    """Pools and their sum, in blocks of so many numbers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("distill.windows.pools.BLOCK", block)
        return window_pools(windows, table, decays, mix, width=5, **settings)


@pytest.mark.parametrize("block", [1, 200, 10_000], ids=["a place", "some places", "all places"])
def test_window_pools_are_history_pools_and_so_are_their_gradients(block):
    torch.manual_seed(0)
    windows, histories = windows_and_histories()
    table, decays = torch.randn(N, DIM, dtype=torch.float64), torch.tensor([0.7, 4.0, 1e4], dtype=torch.float64)
    mix = torch.randn(3, dtype=torch.float64)
    weights = torch.randn(15, DIM, dtype=torch.float64), torch.randn(15, 3, DIM, dtype=torch.float64)
    inside = (histories < N).any(1)
    given = [part.requires_grad_() for part in (table, decays, mix)]

    def gradients(mean, pools):
        total = (mean * weights[0])[inside].sum() + (pools * weights[1])[inside].sum()
        return torch.autograd.grad(total, given, retain_graph=True)

    mean, pools = pooled(windows, *given, block)
    wanted = history_pools(histories, table, decays)
    torch.testing.assert_close(pools[inside], wanted[inside])
    torch.testing.assert_close(mean[inside], (mix[:, None] * wanted).sum(1)[inside])
    summed = (mix[:, None] * wanted).sum(1)
    expected = gradients(summed, wanted)
    for found, other in zip(gradients(mean, pools), expected, strict=True):
        torch.testing.assert_close(found, other)
    alone, nothing = pooled(windows, *given, block, means_alone=True)
    assert not len(nothing)
    torch.testing.assert_close(alone, mean)
    both = gradients(alone, 0 * wanted.detach()), gradients(mean, 0 * wanted.detach())
    for found, other in zip(*both, strict=True):
        torch.testing.assert_close(found, other)


@pytest.mark.parametrize("block", [1, 10_000], ids=["a place", "all places"])
def test_noise_on_window_pools_is_dropout(block):
    windows, _ = windows_and_histories()
    given = torch.randn(N, DIM).requires_grad_(), torch.tensor([0.7, 4.0]), torch.tensor([0.3, 0.9]).requires_grad_()
    torch.manual_seed(5)
    mean, pools = pooled(windows, *given, block, noise=0.4)
    torch.manual_seed(5)
    plain = torch.nn.functional.dropout(pooled(windows, *given, block)[1], 0.4)
    torch.testing.assert_close(pools, plain)
    wanted = (given[2][:, None] * plain).sum(1)
    torch.testing.assert_close(mean, wanted)
    found, expected = (torch.autograd.grad((part**2).sum(), [given[0], given[2]]) for part in (mean, wanted))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_large_batches_have_a_dropout_of_their_own():
    torch.manual_seed(0)
    x = torch.ones(4000, 50).requires_grad_()
    out = dropout(x, 0.05)
    assert out.detach().unique().tolist() == pytest.approx([0.0, 1 / 0.95])
    assert float((out == 0).double().mean()) == pytest.approx(0.05, abs=0.002)
    assert float(out.mean()) == pytest.approx(1, abs=0.002)
    columns = (out == 0).double().mean(0)  # four numbers of one draw are no more alike than others
    assert columns.min() > 0.035 and columns.max() < 0.065
    assert abs(float(torch.corrcoef((out == 0)[:, :2].double().T)[0, 1])) < 0.06
    (gradient,) = torch.autograd.grad(out.sum(), x)
    assert torch.equal(gradient, out)
    torch.manual_seed(1)
    small = dropout(torch.ones(100, 3), 0.5)
    torch.manual_seed(1)
    assert torch.equal(small, torch.nn.functional.dropout(torch.ones(100, 3), 0.5))
    assert torch.equal(dropout(small, 0.0), small)


def test_a_hidden_layer_in_blocks_is_the_layer():
    torch.manual_seed(0)
    expand, contract = torch.nn.Linear(6, 5), torch.nn.Linear(5, 4)
    x, weight = torch.randn(2500, 6).requires_grad_(), torch.randn(2500, 4)
    wanted = contract(torch.nn.functional.gelu(expand(x)))
    found = hidden_layer(x, expand, contract)
    torch.testing.assert_close(found, wanted)
    given = [x, *expand.parameters(), *contract.parameters()]
    gradients = [torch.autograd.grad((out * weight).sum(), given) for out in (found, wanted)]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("loss", ROWS, ids=title)
def test_blocks_of_any_size_give_the_same(loss, monkeypatch):
    module, batch = objective(loss), in_windows(sequences(repeats=True))
    expected = step(module, batch)
    monkeypatch.setattr("distill.objectives.shared_sample.BLOCK", 1)
    monkeypatch.setattr("distill.windows.pools.BLOCK", 1)
    assert_same(step(module, batch), expected)


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
    monkeypatch.setattr("distill.windows.seen.FEW", 0)
    assert_same(step(module, batch), expected)
