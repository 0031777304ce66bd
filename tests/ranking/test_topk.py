"""Top-k selection: exact, with lower index first among equals, the same in numpy, torch and ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.errors import UserError
from distill.ranking.topk import top_k


def sorted_lists(scores: np.ndarray, k: int) -> list[list[int]]:
    lists = []
    for row in scores:
        items = [i for i in sorted(range(len(row)), key=lambda i: (-row[i], i)) if row[i] > -np.inf][:k]
        lists.append(items + [-1] * (k - len(items)))
    return lists


@settings(max_examples=300, deadline=None)
@given(
    rows=st.integers(1, 5),
    n_items=st.integers(1, 600),
    k=st.integers(1, 30),
    distinct=st.sampled_from([1, 2, 7, 100, 10**6]),
    masked=st.sampled_from([0.0, 0.3, 0.95, 1.0]),
    dtype=st.sampled_from([np.float32, np.float64]),
    seed=st.integers(0, 2**31),
)
def test_equals_sorting(rows, n_items, k, distinct, masked, dtype, seed) -> None:
    rng = np.random.default_rng(seed)
    k = min(k, n_items)
    scores = (rng.integers(0, distinct, (rows, n_items)) - distinct // 2).astype(dtype)
    scores[rng.random(scores.shape) < masked] = -np.inf
    before = scores.copy()
    assert top_k(scores, k).tolist() == sorted_lists(scores, k)
    np.testing.assert_array_equal(scores, before)


def test_tie_across_the_kth_place_takes_the_lowest_indices() -> None:
    scores = np.zeros((3, 5000), np.float32)
    scores[1, 4321] = 1.0
    scores[2] = np.arange(5000) // 1000
    assert top_k(scores, 4).tolist() == [[0, 1, 2, 3], [4321, 0, 1, 2], [4000, 4001, 4002, 4003]]


def test_negative_zero_equals_zero() -> None:
    assert top_k(np.array([[-0.0, 0.0, -0.0, -1.0]]), 3).tolist() == [[0, 1, 2]]


def test_free_places_hold_minus_one() -> None:
    scores = np.full((2, 400), -np.inf)
    scores[0, 17] = -5.0
    assert top_k(scores, 3).tolist() == [[17, -1, -1], [-1, -1, -1]]


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
@pytest.mark.parametrize("n_items", [8, 5000])
def test_nan_and_infinity_are_refused_by_place(wrong: float, n_items: int) -> None:
    scores = np.zeros((4, n_items), np.float32)
    scores[2, 5] = wrong
    with pytest.raises(UserError, match=rf"{wrong} at row 102, item 5"):
        top_k(scores, 3, first_row=100)


def test_torch_and_onnx_runtime_break_ties_alike() -> None:
    onnx, runtime, torch = (pytest.importorskip(name) for name in ("onnx", "onnxruntime", "torch"))
    rng = np.random.default_rng(0)
    scores, k = rng.integers(0, 4, (50, 300)).astype(np.float32), 20
    expected = top_k(scores, k)
    helper, kind = onnx.helper, onnx.TensorProto
    graph = helper.make_graph(
        [helper.make_node("TopK", ["scores", "k"], ["values", "items"], largest=1, sorted=1)],
        "top",
        [helper.make_tensor_value_info("scores", kind.FLOAT, ["b", 300])],
        [helper.make_tensor_value_info("items", kind.INT64, ["b", k])],
        [helper.make_tensor("k", kind.INT64, [1], [k])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    session = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    np.testing.assert_array_equal(session.run(["items"], {"scores": scores})[0], expected)
    order = torch.sort(torch.from_numpy(scores), dim=1, descending=True, stable=True).indices[:, :k]
    np.testing.assert_array_equal(order.numpy(), expected)
