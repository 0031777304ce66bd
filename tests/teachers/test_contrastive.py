"""InfoNCE against a plain double loop, and what it must not count as a negative."""

import math

import pytest
import torch

from teachers.contrastive import Side, gather_rows, info_nce


def sides(left_item: list[int], right_item: list[int], seed: int = 0) -> tuple[Side, Side]:
    """Random unit vectors per item, and log-popularities."""
    random = torch.Generator().manual_seed(seed)
    table = torch.nn.functional.normalize(torch.randn(20, 8, generator=random), dim=-1)
    log_popularity = torch.rand(20, generator=random).log()

    def side(items):
        rows = torch.tensor(items)
        return Side(table[rows], rows, log_popularity[rows])

    return side(left_item), side(right_item)


def by_hand(left: Side, right: Side, temperature: float) -> float:
    """The definition, one logit at a time."""
    total, count = 0.0, len(left.item)
    for anchors, others in ((left, right), (right, left)):
        for i in range(count):
            logits = []
            for j in range(count):
                anchor, positive, other = int(anchors.item[i]), int(others.item[i]), int(others.item[j])
                if j != i and (other in (positive, anchor) or int(anchors.item[j]) == anchor):
                    continue
                cosine = float(anchors.vectors[i] @ others.vectors[j])
                logits.append((j, cosine / temperature - float(others.log_popularity[j])))
            own = dict(logits)[i]
            total += math.log(sum(math.exp(value - own) for _, value in logits))
    return total / (2 * count)


@pytest.mark.parametrize(
    ("left_item", "right_item"),
    [
        ([0, 1, 2, 3], [4, 5, 6, 7]),
        ([0, 0, 2, 3], [4, 5, 6, 7]),  # an anchor with two positives
        ([0, 1, 2, 3], [4, 4, 6, 7]),  # the positive of one is that of another
        ([0, 1, 2, 3], [1, 0, 3, 2]),  # anchors are positives elsewhere
        ([0, 0], [4, 4]),
    ],
)
def test_equals_the_definition(left_item, right_item):
    left, right = sides(left_item, right_item)
    assert float(info_nce(left, right, 0.1)) == pytest.approx(by_hand(left, right, 0.1), rel=1e-5)


def test_is_symmetric_and_ignores_the_order_of_pairs():
    left, right = sides([0, 1, 2, 3, 0], [4, 5, 6, 7, 8])
    loss = float(info_nce(left, right, 0.05))
    assert float(info_nce(right, left, 0.05)) == pytest.approx(loss, rel=1e-5)
    order = torch.tensor([3, 1, 4, 0, 2])
    assert float(info_nce(left.take(order), right.take(order), 0.05)) == pytest.approx(loss, rel=1e-5)


def test_nearly_zero_for_pairs_that_match_and_finite_when_nothing_is_a_negative():
    left, right = sides([0, 1, 2], [4, 5, 6])
    assert float(info_nce(left, right._replace(vectors=left.vectors), 0.01)) < 1e-3
    alone = sides([0, 0], [4, 4])
    assert float(info_nce(*alone, 0.05)) == 0.0


def test_popular_items_count_less_as_negatives():
    left, right = sides([0, 1, 2], [4, 5, 6])
    flat = right._replace(log_popularity=torch.zeros(3))
    loud = right._replace(log_popularity=torch.tensor([0.0, 0.0, 2.0]))

    def first(side):
        """Loss of the first pair alone, forward."""
        logits = left.vectors @ side.vectors.T / 0.1 - side.log_popularity
        return float(torch.nn.functional.cross_entropy(logits[:1], torch.tensor([0])))

    assert first(loud) < first(flat)
    assert float(info_nce(left, loud, 0.1)) != float(info_nce(left, flat, 0.1))


def test_one_process_gathers_its_own_rows():
    rows = torch.randn(3, 2, requires_grad=True)
    assert gather_rows(rows) is rows
