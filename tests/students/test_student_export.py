"""Every student leaves as ONNX with the same answers, and its input table as one plain table; published ones load."""

import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from student_samples import TRAINED, all_parts_matter, histories, vectors

from distill.export.kinds import student_graphs
from students.checkpoint import build_student, load_student
from students.protocol import scores

N_ITEMS = 60
RUNS = Path(__file__).parents[2] / "runs"
CASES = [(name, {}) for name in TRAINED] + [
    ("hybrid_cf", {"tied": True, "text": "null_space"}),
    ("mf", {"buckets": 16, "cosine": False}),
    ("sasrec_small", {"blocks": 1, "length": 4}),
]


@pytest.mark.parametrize(("name", "settings"), CASES, ids=str)
def test_the_exported_student_gives_the_same_scores(name, settings):
    student = all_parts_matter(build_student(name, {"dim": 16, **settings}, N_ITEMS, vectors(20, N_ITEMS), 0))
    graph = student_graphs(student, ["fp32"], max_length=14)["fp32"]
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    for rows, length in ((1, 1), (6, 9), (3, 14), (2, 2)):
        history = histories(N_ITEMS, rows, length)
        feed = {"history": history.numpy(), "seen": np.full((rows, 1), N_ITEMS), "k": np.array([N_ITEMS])}
        query, ids, found = session.run(["query", "ids", "scores"], feed)
        with torch.no_grad():
            expected = scores(student, history).numpy()
            np.testing.assert_allclose(query, student.encode(history)[:, :16].numpy(), atol=2e-5)
        np.testing.assert_allclose(found, np.take_along_axis(expected, ids, axis=1), atol=5e-5)


@pytest.mark.parametrize("name", TRAINED)
def test_text_vectors_and_their_projection_stay_behind(name):
    width = 23
    student = build_student(name, {"dim": 16}, N_ITEMS, vectors(width, N_ITEMS), 0).eval()
    graph = student_graphs(student, ["fp32"], max_length=14)["fp32"].graph
    shapes = [tuple(tensor.dims) for tensor in graph.initializer]
    assert not [shape for shape in shapes if width in shape]
    tables = [
        t for t in graph.initializer if N_ITEMS <= (t.dims[0] if t.dims else 0) <= N_ITEMS + 1 and len(t.dims) > 1
    ]
    of_pairs = 1 if name == "neumf" else 0  # the items' half of its MLP
    assert 1 <= len(tables) - of_pairs <= 2, [t.name for t in tables]
    rows = student.item_table().detach().numpy()
    assert any(np.allclose(onnx.numpy_helper.to_array(t)[:N_ITEMS], rows, atol=1e-5) for t in tables)


@pytest.mark.parametrize("run", ["quickstart", "amazon_office_minilm"])
def test_students_made_earlier_still_load_and_answer_as_exported(tmp_path, run):
    if not (RUNS / run / "export" / "model.fp32.onnx").is_file():
        pytest.skip(f"runs/{run} is not there: make it with distill run configs/{run}.yaml")
    student = load_student(Path(shutil.copytree(RUNS / run / "student", tmp_path / "student")))
    session = onnxruntime.InferenceSession(str(RUNS / run / "export" / "model.fp32.onnx"))
    history = histories(student.n_items)
    feed = {"history": history.numpy(), "seen": history.numpy(), "k": np.array([10])}
    with torch.no_grad():
        np.testing.assert_allclose(session.run(["query"], feed)[0], student.encode(history).numpy(), atol=2e-5)
