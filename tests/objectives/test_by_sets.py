"""Losses on halves against the same sums written out label by label, and the sums by index that they stand on."""

import numpy as np
import pytest
import torch

from distill.config import Loss
from distill.data.ragged import Lists
from distill.errors import UserError
from distill.objectives import by_sets
from distill.objectives.knowledge import Knowledge
from distill.objectives.objective import Objective
from distill.windows.halves import Halves
from distill.windows.scatter import summed_by, summed_runs
from distill.windows.set_means import set_means
from students.checkpoint import build_student

N, DIM = 60, 8
FLAT = {"dim": DIM, "dropout": 0.0, "item_dropout": 0.0, "decays": [1e6]}


def batch_of(users=8):
    rng = np.random.default_rng(0)
    lengths = rng.integers(2, 20, users)
    items = np.concatenate([rng.permutation(N)[:n] for n in lengths]).astype(np.int32)
    halves = Halves(Lists(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64), items), N, 100)
    return halves.batch(np.concatenate(halves.batches(1000, 0, 0)))


def objective(loss, name="hybrid_cf", **settings):
    student = build_student(name, {**FLAT, **settings}, N, None, 0)
    for parameter in student.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    share = torch.rand(N, generator=torch.Generator().manual_seed(1))
    return Objective(student, [loss], Knowledge(DIM, N, 8, torch.zeros(N, dtype=torch.int64), share / share.sum()))


def sets_of(batch):
    for place in range(len(batch["user"])):
        read = batch["history"][batch["set_row"] == place]
        yield read, batch["label"][batch["label_row"] == place]


def written_out(made, batch, kind, drawn=None, offset=None):
    """The mean loss over labels, with a query and a list of negatives for each."""
    student, losses, number = made.student, [], 0
    table, bias = student.item_table(), student.item_bias()
    for read, labels in sets_of(batch):
        scores = table @ student.encode(read[None])[0] + bias
        mine = set(read.tolist()) | set(labels.tolist())
        for label in labels.tolist():
            if kind == "softmax":
                others = [i for i in range(N) if i not in mine]
                losses.append(-scores[[label, *others]].log_softmax(0)[0])
            elif kind == "sampled":
                terms = [scores[label]] + [scores[i] + offset for i in drawn.tolist() if i not in mine]
                losses.append(-torch.stack(terms).log_softmax(0)[0])
            else:
                chosen = drawn if drawn.ndim == 1 else drawn[number]
                usable = [i for i in chosen.tolist() if i >= 0 and i not in mine]
                if usable:
                    losses.append(-torch.nn.functional.logsigmoid(scores[label] - scores[usable]).mean())
            number += 1
    return torch.stack(losses).mean()


def compared(made, batch, expected):
    """Losses and gradients are the same."""
    torch.manual_seed(5)
    found = made(batch)["loss"]
    assert torch.allclose(found, expected, atol=1e-5)
    weights = [p for name, p in made.named_parameters() if "log_decay" not in name]
    wanted = torch.autograd.grad(expected, weights, allow_unused=True)
    for mine, theirs in zip(torch.autograd.grad(found, weights, allow_unused=True), wanted, strict=True):
        assert (mine is None) == (theirs is None) and (mine is None or torch.allclose(mine, theirs, atol=1e-5))


@pytest.mark.parametrize("name", ["mf", "hybrid_cf", "mlp_only"])
def test_cross_entropy_on_halves(name):
    made, batch = objective(Loss("cross_entropy"), name), batch_of()
    compared(made, batch, written_out(made, batch, "softmax"))


@pytest.mark.parametrize("negatives", [1, 4])
def test_bpr_on_halves(negatives):
    made, batch = objective(Loss("bpr", arguments={"negatives": negatives})), batch_of()
    torch.manual_seed(5)
    drawn = torch.randint(N, (len(batch["label"]), negatives))
    compared(made, batch, written_out(made, batch, "bpr", drawn))


def test_bpr_on_halves_with_shared_negatives():
    made, batch = objective(Loss("bpr", arguments={"negatives": 30, "shared": True})), batch_of()
    torch.manual_seed(5)
    drawn = torch.randint(N, (30,)).unique()
    compared(made, batch, written_out(made, batch, "bpr", drawn))


@pytest.mark.parametrize("shared", [True, False])
def test_items_that_the_student_leaves_out_are_no_negatives(shared):
    made, batch = objective(Loss("bpr", arguments={"negatives": 30, "shared": shared})), batch_of()
    torch.manual_seed(5)
    drawn = torch.randint(N, (30,)).unique() if shared else torch.randint(N, (len(batch["label"]), 30))
    rare = next(i for i in drawn.flatten().tolist() if i not in batch["label"].tolist())
    made.student.bias.data[rare] = -torch.inf
    torch.manual_seed(5)
    loss = made(batch)["loss"]
    assert torch.isfinite(loss)
    made.student.bias.data[rare] = 0.0
    kept = torch.where(drawn == rare, -1, drawn)
    assert torch.allclose(loss, written_out(made, batch, "bpr", kept), atol=1e-5)


def test_sampled_softmax_on_halves():
    made, batch = objective(Loss("sampled_softmax", arguments={"negatives": 40})), batch_of()
    torch.manual_seed(5)
    drawn = torch.randint(N, (40,))
    compared(made, batch, written_out(made, batch, "sampled", drawn, -float(np.log(40 / N))))


def test_a_sample_of_nothing_is_the_whole_catalogue():
    batch = batch_of()
    whole = objective(Loss("cross_entropy"))(batch)["loss"]
    assert torch.equal(objective(Loss("sampled_softmax", arguments={"negatives": 0}))(batch)["loss"], whole)


def test_logit_adjustment_adds_what_it_adds_one_by_one():
    made, batch = objective(Loss("cross_entropy", arguments={"logit_adjustment": 0.5})), batch_of()
    plain, bias = objective(Loss("cross_entropy")), 0.5 * (made.popularity + 0.5 / N).log()
    with torch.no_grad():
        plain.student.bias.add_(bias)
    assert torch.allclose(made(batch)["loss"], plain(batch)["loss"], atol=1e-6)


@pytest.mark.parametrize(
    "loss", [Loss("sampled_softmax", arguments={"negatives": 20}), Loss("bpr", arguments={"negatives": 2})]
)
def test_rows_alone_give_the_same(loss):
    batch, whole, rows = batch_of(), objective(loss), objective(loss)
    assert rows.student.train_by_rows()
    found = []
    for made in (whole, rows):
        torch.manual_seed(5)
        made(batch)["loss"].backward()
        found.append([p.grad.to_dense() for name, p in made.named_parameters() if "log_decay" not in name])
    assert rows.student.outputs.identity.grad.is_sparse
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*found, strict=True))


def test_catalogues_too_large_for_a_table_of_who_has_what_are_searched(monkeypatch):
    loss, batch = Loss("bpr", arguments={"negatives": 3}), batch_of()
    found = []
    for few in (by_sets.FEW, 0):
        monkeypatch.setattr(by_sets, "FEW", few)
        torch.manual_seed(5)
        found.append(objective(loss)(batch)["loss"])
    assert torch.equal(*found)


def test_losses_without_a_form_are_refused():
    with pytest.raises(UserError, match="'bce' has no form for halves"):
        objective(Loss("bce"))(batch_of())


@pytest.mark.parametrize("loss", ["cross_entropy", "sampled_softmax", "bpr"])
def test_a_batch_without_labels_costs_nothing(loss):
    made, batch = objective(Loss(loss)), batch_of()
    none = {**batch, "label": batch["label"][:0], "label_row": batch["label_row"][:0]}
    found = made(none)["loss"]
    assert float(found.detach()) == 0.0
    found.backward()
    assert all(p.grad is None or bool(torch.isfinite(p.grad).all()) for p in made.parameters())


def test_sets_are_read_as_a_history_that_forgets_nothing():
    student, batch = objective(Loss("bpr")).student.eval(), batch_of()
    found = student.encode_sets(batch["history"], batch["set_row"], len(batch["user"]))
    wanted = torch.cat([student.encode(read[None]) for read, _ in sets_of(batch)])
    assert torch.allclose(found, wanted, atol=1e-4)
    assert student.sets is None


def test_items_left_out_leave_no_set_empty():
    table, row = torch.randn(N, DIM), torch.tensor([0, 1, 1, 1, 3])
    items = torch.tensor([4, 5, 6, 7, 8])
    torch.manual_seed(0)
    means = set_means(items, row, 4, table, dropped=0.999)
    assert torch.allclose(means[0], table[4]) and torch.allclose(means[3], table[8]) and not means[2].any()
    assert torch.allclose(means[1], table[5:8].mean(0), atol=1e-6)
    half = torch.stack([set_means(items, row, 4, table, dropped=0.5)[1] for _ in range(400)])
    assert half.std(0).max() > 0.1, "some are left out"
    subsets = [table[5:8][torch.tensor(kept)].mean(0) for kept in ([0], [1], [2], [0, 1], [0, 2], [1, 2], [0, 1, 2])]
    nearest = (half[:, None] - torch.stack(subsets)).abs().amax(2).amin(1)
    assert nearest.max() < 1e-5, "means of those that stay"


def test_sums_by_index_are_those_of_index_add():
    generator = torch.Generator().manual_seed(0)
    index, source = torch.randint(9, (200,), generator=generator), torch.randn(30, 4, generator=generator)
    row, weight = torch.randint(30, (200,), generator=generator), torch.rand(200, generator=generator)
    wanted = torch.zeros(12, 4).index_add_(0, index, source[row] * weight[:, None])
    assert torch.allclose(summed_by(index, source, 12, row, weight), wanted, atol=1e-5)
    doubled = summed_by(index, source.double(), 12, row, weight)
    assert doubled.dtype == torch.float64 and torch.allclose(doubled.float(), wanted, atol=1e-5)
    plain = torch.zeros(12, 4).index_add_(0, index, source.repeat(7, 1)[:200])
    assert torch.allclose(summed_by(index, source.repeat(7, 1)[:200], 12), plain, atol=1e-5)
    ascending = index.sort().values
    wanted = torch.zeros(12, 4).index_add_(0, ascending, source[row] * weight[:, None])
    assert torch.allclose(summed_runs(ascending, source, 12, row, weight), wanted, atol=1e-5)


def test_sums_of_nothing_are_zeros():
    nothing = torch.zeros(0, dtype=torch.int64)
    assert not summed_by(nothing, torch.randn(3, 2), 5, nothing, torch.zeros(0)).any()
    assert summed_by(nothing, torch.zeros(0, 2), 5).shape == (5, 2)
