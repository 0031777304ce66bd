"""Other libraries as engines of the latency benchmark; each is imported only where it is measured."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.latency.engines import Engine
from distill.data.dataset import TEST, TRAIN, Dataset
from distill.errors import UserError
from distill.ranking.cases import Cases, cases_of
from distill.serving.runtime import Bundle

FACTORS = 64


def open_implicit(folder: str, k: int) -> Engine:
    """implicit's ALS fitted on the train part, asked through its own `recommend` with the user's items filtered.

    Args:
        folder: A run's folder.
        k: Places in a list.
    """
    als, sparse = needed("implicit.als", "implicit"), needed("scipy.sparse", "scipy")
    dataset, cases = opened(folder)
    train = dataset.lists(TRAIN, TRAIN)
    ones = np.ones(len(train.items), np.float32)
    matrix = sparse.csr_matrix((ones, train.items, train.indptr), shape=(len(train), dataset.n_items))
    model = als.AlternatingLeastSquares(factors=FACTORS, iterations=15, random_state=0, num_threads=1)
    model.fit(matrix, show_progress=False)
    seen = cases.seen
    liked = sparse.csr_matrix(
        (np.ones(len(seen.items), np.float32), seen.items, seen.indptr), shape=(len(cases), dataset.n_items)
    )
    rows = [liked[row] for row in range(len(cases))]
    users = cases.users
    return Engine(
        one=lambda row: model.recommend(users[row], rows[row], N=k),
        many=lambda numbers: model.recommend(users[numbers], liked[numbers], N=k),
        rows=len(cases),
    )


def open_faiss(folder: str, k: int) -> Engine:
    """faiss's exact Flat index over the student's item vectors; the query comes from the exported fp32 graph.

    As faiss can't leave out seen items, it is asked for as many more as the user has, and they are dropped afterwards.

    Args:
        folder: A run's folder.
        k: Places in a list.
    """
    faiss = needed("faiss", "faiss-cpu")
    faiss.omp_set_num_threads(1)
    _, cases = opened(folder)
    bundle = Bundle.open(Path(folder) / "export", "fp32")
    table = item_vectors(Path(folder) / "export" / bundle.about["variants"]["fp32"]["file"])
    index = faiss.IndexFlatIP(table.shape[1])
    index.add(table)
    session, longest = bundle.graph.session, bundle.max_length
    seen = [cases.seen[row].astype(np.int64) for row in range(len(cases))]
    one_place = np.array([1], np.int64)

    def answer(row: int) -> np.ndarray:
        history = seen[row]
        inputs = {"history": history[None, -longest:], "seen": history[None, :1], "k": one_place}
        query = np.append(session.run(["query"], inputs)[0], np.float32(1.0))[None]
        found = index.search(query, min(k + len(history), len(table)))[1][0]
        return found[~np.isin(found, history)][:k]

    return Engine(answer, None, len(cases))


def item_vectors(path: Path) -> np.ndarray:
    """Item vectors of an exported fp32 graph with the bias as one more column, float32 (N, D + 1).

    Raises:
        UserError: The graph keeps no plain item table under the names that export-student gives.
    """
    onnx = needed("onnx", "onnx")
    graph = onnx.load(path).graph
    arrays = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    scoring = next((node for node in graph.node if node.output[0] == "all_scores"), None)
    if scoring is None or scoring.op_type != "Gemm" or scoring.input[1] not in arrays:
        raise UserError(f"{path.name} has no plain item table, so faiss can't index it.")
    table, bias = arrays[scoring.input[1]], arrays[scoring.input[2]]
    return np.ascontiguousarray(np.column_stack([table, bias])[:-1], dtype=np.float32)


def opened(folder: str) -> tuple[Dataset, Cases]:
    """The run's data and its test cases."""
    dataset = Dataset.read(Path(folder) / "data")
    return dataset, cases_of(dataset, TEST)


def needed(module: str, package: str) -> Any:
    """Imports a module.

    Raises:
        UserError: It isn't installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UserError(f"{package} isn't installed, so it isn't measured (pip install {package}).") from error
