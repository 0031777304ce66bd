"""Row-wise optimisers against AdamW, torch's SparseAdam and formulas by hand."""

import numpy as np
import pytest
import torch
from torch import nn

from distill.engine.local import Local
from distill.engine.loop import best_weights, fit
from distill.engine.optimisers import RULES, RowwiseOptimiser, clip_gradients, make_optimiser
from distill.errors import UserError
from distill.job import Job

ROWS = [rule for rule in RULES if rule != "adamw"]


def table(seed=0, sparse=True):
    torch.manual_seed(seed)
    return nn.Embedding(50, 4, sparse=sparse)


def steps(module, optimiser, count=5, seed=1):
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        index = torch.randint(20, (12,), generator=generator)  # repeats, and rows from 20 on never
        optimiser.zero_grad()
        (module(index) * torch.randn(12, 4, generator=generator)).sum().backward()
        optimiser.step()
    return module.weight.detach()


def rowwise(module, rule, **settings):
    return RowwiseOptimiser([{"params": list(module.parameters()), "rule": rule, **settings}], 0.1)


def test_adamw_is_torchs():
    ours, theirs = table(sparse=False), table(sparse=False)
    found = steps(ours, rowwise(ours, "adamw", weight_decay=0.1))
    expected = steps(theirs, torch.optim.AdamW(theirs.parameters(), lr=0.1, weight_decay=0.1))
    assert torch.allclose(found, expected, atol=1e-6)


def test_sparse_adam_is_torchs():
    ours, theirs = table(), table()
    found = steps(ours, rowwise(ours, "sparse_adam"))
    assert torch.allclose(found, steps(theirs, torch.optim.SparseAdam(theirs.parameters(), lr=0.1)), atol=1e-6)


def test_rowwise_adagrad_by_hand():
    module = table()
    before = module.weight.detach().clone()
    optimiser = rowwise(module, "rowwise_adagrad")
    gradient = torch.tensor([3.0, 4.0, 0.0, 0.0])
    (module(torch.tensor([7])) * gradient).sum().backward()
    optimiser.step()
    optimiser.step()  # the same gradient once more
    size = 25.0 / 4
    moved = 0.1 * gradient * (size**-0.5 + (2 * size) ** -0.5)
    assert torch.allclose(module.weight[7], before[7] - moved, atol=1e-5)
    assert optimiser.state[module.weight]["sum"].shape == (50,)
    others = torch.arange(50) != 7
    assert torch.equal(module.weight[others], before[others])


@pytest.mark.parametrize("rule", ROWS)
def test_only_rows_of_the_batch_move_and_both_kinds_of_gradient_move_them_alike(rule):
    start = table().weight.detach().clone()
    sparse, dense = table(), table(sparse=False)
    found = steps(sparse, rowwise(sparse, rule))
    assert torch.allclose(found, steps(dense, rowwise(dense, rule)), atol=1e-5)
    assert torch.equal(found[20:], start[20:]) and not torch.allclose(found[:20], start[:20])


def test_clipping_counts_repeated_rows_once():
    sparse, dense = table(), table(sparse=False)
    for module in (sparse, dense):
        module(torch.tensor([1, 1, 2])).square().sum().backward()
    expected = torch.nn.utils.clip_grad_norm_(dense.parameters(), 0.5)
    assert torch.allclose(clip_gradients(sparse.parameters(), 0.5), expected)
    assert torch.allclose(sparse.weight.grad.to_dense(), dense.weight.grad, atol=1e-6)


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.identity, self.top = nn.Parameter(torch.randn(30, 4)), nn.Linear(4, 1)

    def forward(self, batch):
        rows = nn.functional.embedding(batch["index"], self.identity, sparse=True)
        return {"loss": (self.top(rows)[:, 0] - batch["index"].float() / 30).square().mean()}


def job(rule, epochs=8, checkpoint_steps=0):
    return Job(
        model=Model(),
        batches=lambda epoch: np.array_split(np.random.default_rng(epoch).permutation(30), 5),
        collate=lambda rows: {"index": torch.from_numpy(rows)},
        epochs=epochs,
        learning_rate=0.05,
        optimiser=rule,
        tables=("identity",),
        checkpoint_steps=checkpoint_steps,
    )


@pytest.mark.parametrize("rule", ROWS)
def test_the_loop_trains_with_them_and_goes_on_bit_for_bit(rule, tmp_path):
    curve = fit(job(rule), Local(), tmp_path / "whole", None, "m")
    assert curve[-1]["loss"] < 0.5 * curve[0]["loss"]

    def judge(limit):
        calls = []

        def later_is_better(model):
            calls.append(model)
            if len(calls) == limit:
                raise KeyboardInterrupt
            return float(next(counter))

        return later_is_better

    counter = iter(range(100))
    fit(job(rule, checkpoint_steps=3), Local(), tmp_path / "straight", judge(0), "m")
    with pytest.raises(KeyboardInterrupt):
        fit(job(rule, checkpoint_steps=3), Local(), tmp_path / "cut", judge(4), "m")
    fit(job(rule, checkpoint_steps=3), Local(), tmp_path / "cut", judge(0), "m")
    expected = best_weights(tmp_path / "straight")
    for name, value in best_weights(tmp_path / "cut").items():
        assert torch.equal(value, expected[name]), name


def test_not_under_deepspeed():
    with pytest.raises(UserError, match="adamw"):
        make_optimiser(job("rowwise_adam"), [], deepspeed=True)
