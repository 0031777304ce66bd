"""Full and sampled softmax: what they are on paper, and the one as the limit of the other."""

import numpy as np
import pytest
import torch

from teachers.sampled import draw, full_softmax, proposal, sampled_softmax


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_full_softmax_is_cross_entropy_over_what_can_be_recommended(smoothing):
    scores = torch.randn(5, 9, dtype=torch.float64)
    label = torch.tensor([0, 3, 8, 2, 2])
    assert full_softmax(scores, label, smoothing).item() == pytest.approx(
        torch.nn.functional.cross_entropy(scores, label, label_smoothing=smoothing).item()
    )
    masked = scores.clone()
    masked[:, 5:7] = -torch.inf
    rest = [0, 1, 2, 3, 4, 7, 8]
    label = torch.tensor([0, 3, 6, 2, 2])
    assert full_softmax(masked, torch.tensor(rest)[label], smoothing).item() == pytest.approx(
        torch.nn.functional.cross_entropy(scores[:, rest], label, label_smoothing=smoothing).item()
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("power", [0.0, 0.75])
def test_a_large_sample_gives_the_full_loss_whatever_the_proposal(power, smoothing):
    rng = np.random.default_rng(0)
    popularity = rng.integers(0, 100, 40)
    cumulative = np.cumsum(proposal(popularity, power))
    scores = torch.from_numpy(rng.normal(size=(6, 40)))
    scores[:, 7] = -torch.inf
    label = torch.tensor([1, 2, 3, 4, 5, 6])
    items, log_weight = draw(cumulative, 400_000, rng)
    items, log_weight = torch.from_numpy(items), torch.from_numpy(log_weight)
    drawn = scores[:, items].masked_fill(items == label[:, None], -torch.inf)
    positive = scores.gather(1, label[:, None]).squeeze(1)
    found = sampled_softmax(positive, drawn, log_weight, smoothing).item()
    assert found == pytest.approx(full_softmax(scores, label, smoothing).item(), abs=0.01)


def test_the_estimated_sum_has_no_bias():
    rng = np.random.default_rng(1)
    cumulative = np.cumsum(proposal(rng.integers(0, 1000, 30), 1.0))
    values = rng.random(30)
    sums = []
    for _ in range(4000):
        items, log_weight = draw(cumulative, 12, rng)
        sums.append((np.exp(log_weight) * values[items]).sum())
    assert np.mean(sums) == pytest.approx(values.sum(), abs=4 * np.std(sums) / len(sums) ** 0.5)


def test_draws_follow_the_proposal():
    q = proposal(np.array([0, 3, 8]), 0.5)
    assert q.tolist() == pytest.approx([1 / 6, 2 / 6, 3 / 6])
    items, log_weight = draw(np.cumsum(q), 60_000, np.random.default_rng(0))
    assert items.tolist() == [0, 1, 2]
    assert np.exp(log_weight).tolist() == pytest.approx([1, 1, 1], abs=0.03)
