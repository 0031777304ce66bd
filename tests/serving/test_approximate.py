import sys

import numpy as np
import pytest

from distill.errors import UserError
from distill.export.scan_graph import write_exact
from distill.serving.approximate import KINDS, build, recall
from distill.serving.scan import CertifiedIndex


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    folder = tmp_path_factory.mktemp("items")
    random = np.random.default_rng(0)
    bias = random.normal(size=3000).astype(np.float32)
    bias[7] = -np.inf
    write_exact(folder, random.normal(size=(3000, 16)).astype(np.float32), bias)
    return CertifiedIndex.open(folder)


@pytest.fixture(scope="module")
def queries():
    return np.random.default_rng(1).normal(size=(40, 16)).astype(np.float32)


@pytest.mark.parametrize("kind", KINDS)
def test_lists_and_measured_recall(kind, index, queries):
    pytest.importorskip(kind.partition("_")[0], reason="an optional extra")
    found = build(kind, index, queries, k=10)
    ids = found.search(queries, 10)
    wanted = index.search(queries, 10).ids
    assert ids.shape == (40, 10) and ids.dtype == np.int64 and 7 not in ids
    assert found.recall == pytest.approx(np.mean([np.isin(w, i).mean() for w, i in zip(wanted, ids, strict=True)]))
    assert (found.recall > 0.999) == (kind in ("faiss_flat", "faiss_sq8")) or kind == "usearch"
    assert 0.3 < found.recall <= 1 and found.queries == 40


def test_recall_counts_filled_places_only():
    assert recall(np.array([[1, 2], [3, -1]]), np.array([[2, 9], [3, -1]])) == 0.75
    assert recall(np.empty((0, 2), int), np.empty((0, 2), int)) == 1.0


def test_an_unknown_search_and_a_missing_package_are_explained(index, queries, monkeypatch):
    with pytest.raises(UserError, match=r"no approximate search 'annoy'; known are faiss_flat"):
        build("annoy", index, queries)
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(UserError, match=r"needs the package faiss: pip install 'taildistill\[faiss\]'"):
        build("faiss_flat", index, queries)
