"""Each codec's file says what its numpy value says: whole, row by row, and as scores."""

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from distill.export import codebooks, codecs
from distill.export.codebooks import kmeans
from distill.export.factors import factored, factors
from distill.export.rounding import Moments
from distill.serving.session import open_session

CODECS = {
    "float32": codecs.float32,
    "float16": codecs.float16,
    "int8": codecs.int8,
    "int4": codecs.int4,
    "pruned": codecs.pruned,
    "product": codebooks.product,
    "shared": codebooks.shared,
    "int8 of rank 6": factored(codecs.int8, 6),
    "int4 of rank 8": factored(codecs.int4, 8),
    "pruned of rank 6": factored(codecs.pruned, 6),
}
# Bytes of 400 x 64 numbers, as a share of float32; product quantisation has its codewords in it.
SHARES = {"float16": 0.51, "int8": 0.27, "int4": 0.15, "pruned": 0.18, "product": 0.40, "shared": 0.15}


def table(rows=400, columns=64, seed=0):
    random = np.random.default_rng(seed)
    return (random.normal(size=(rows, columns)) * random.lognormal(0, 1, (rows, 1))).astype(np.float32)


def run(nodes, tensors, inputs, outputs):
    """Runs nodes; inputs are (name, array), outputs are names."""
    kinds = {np.dtype(np.int64): TensorProto.INT64, np.dtype(np.float32): TensorProto.FLOAT}
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info(n, kinds[a.dtype], [None] * a.ndim) for n, a in inputs.items()],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, None) for n in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in tensors.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return open_session(model.SerializeToString()).run(list(outputs), inputs)


@pytest.mark.parametrize("name", CODECS)
@pytest.mark.parametrize("calibrated", [False, True])
@pytest.mark.parametrize("columns", [64, 9])
def test_what_the_nodes_read_is_the_value(name, calibrated, columns):
    matrix = table(columns=columns)
    queries = np.random.default_rng(1).normal(0.2, 1, (50, columns)).astype(np.float32)
    stored = CODECS[name]("t", matrix, Moments.of(queries) if calibrated else None)
    items = np.array([[3, 0, 399], [7, 7, 250]])
    whole = [] if name == "float32" else stored.whole
    lookups = [*stored.remade, *stored.looked_up("items", "rows")]
    rows = run(lookups, stored.tensors, {"items": items}, ["rows"])[0]
    assert rows.shape == (2, 3, columns)
    np.testing.assert_allclose(rows, stored.value[items], rtol=1e-5, atol=1e-5)
    bias = np.linspace(-1, 1, 400, dtype=np.float32)
    nodes, more = stored.scores("query", "bias")
    scores = run(nodes, {**stored.tensors, **more, "bias": bias}, {"query": queries}, ["all_scores"])[0]
    expected = queries @ stored.value.T + bias
    np.testing.assert_allclose(scores, expected, atol=2e-3 * np.abs(expected).max())
    if whole:
        made = [helper.make_node("Identity", ["t"], ["out"])]
        kept = {k: v for k, v in stored.tensors.items()}
        np.testing.assert_allclose(run([*whole, *made], kept, {}, ["out"])[0], stored.value, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", SHARES)
def test_bytes_are_what_they_should_be(name):
    matrix = table()
    stored = CODECS[name]("t", matrix, None)
    assert sum(value.nbytes for value in stored.tensors.values()) <= SHARES[name] * matrix.nbytes


def test_closeness_falls_with_the_bytes():
    matrix = table()
    errors = {
        name: np.linalg.norm(CODECS[name]("t", matrix, None).value - matrix) / np.linalg.norm(matrix)
        for name in ("float16", "int8", "int4", "pruned")
    }
    assert errors["float16"] < 1e-3 < errors["int8"] < 0.01 < errors["int4"] < 0.15 < errors["pruned"] < 0.5


def test_pruning_keeps_half_of_each_row():
    value = codecs.pruned("t", table(), None).value
    assert (np.count_nonzero(value, axis=1) <= 32).all() and np.count_nonzero(value) > 0.9 * 400 * 32


def test_factors_are_the_best_for_the_queries():
    random = np.random.default_rng(0)
    matrix = table(columns=20)
    queries = random.normal(size=(2000, 20)) * (0.6 ** np.arange(20))
    left, basis = factors(matrix, 5, Moments.of(queries))
    plain_left, plain_basis = factors(matrix, 5, None)
    centred = queries - queries.mean(axis=0)
    known = np.square(centred @ (left @ basis - matrix).T).mean()
    plain = np.square(centred @ (plain_left @ plain_basis - matrix).T).mean()
    u, s, v = np.linalg.svd(matrix, full_matrices=False)
    np.testing.assert_allclose(plain_left @ plain_basis, (u[:, :5] * s[:5]) @ v[:5], atol=1e-3)
    assert known < 0.5 * plain
    np.testing.assert_allclose(np.linalg.norm(basis, axis=1), 1, rtol=1e-5)


def test_kmeans_gives_each_point_its_nearest_centre_and_fills_empty_clusters():
    random = np.random.default_rng(0)
    points = (random.normal(size=(6, 3))[np.arange(600) % 6] * 50 + random.normal(size=(600, 3))).astype(np.float32)
    centres, chosen = kmeans(points, 12, seed=1)
    distance = np.square(points[:, None] - centres).sum(axis=2)
    np.testing.assert_array_equal(chosen, distance.argmin(axis=1))
    assert len(set(chosen)) == 12
    assert distance.min(axis=1).mean() < 0.1 * np.square(points - points.mean(axis=0)).sum(axis=1).mean()
    again, _ = kmeans(points, 12, seed=1)
    np.testing.assert_array_equal(centres, again)
    same, which = kmeans(np.zeros((8, 2), np.float32), 4, seed=0)
    assert np.isfinite(same).all() and (which < 4).all()
