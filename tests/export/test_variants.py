"""Every word of export.variants as a whole graph, on students of different build."""

import numpy as np
import onnx
import pytest
import torch
from export_samples import N_ITEMS, MeanPool, histories, hybrid, mean_pool, torch_scores
from torch import nn

from distill.errors import UserError
from distill.export.gate import all_scores, overlap
from distill.export.graph import build_graphs
from distill.export.parts import GRAPHS
from distill.export.variants import FORMS, file_name, parse
from distill.plugins import resolve
from distill.ranking.topk import top_k
from distill.serving.session import Graph, open_session

WORDS = [*FORMS, "low_rank", "int8@24", "int4@24", "pruned@20", "int8+dynamic", "int8+static", "fp16@24+dynamic"]
LEAST = {"fp32": 1.0, "fp16": 0.99, "int8": 0.98, "int4": 0.85, "int8+dynamic": 0.95, "int8+static": 0.95}


class Recurrent(MeanPool):
    """A GRU over the history's items: matrices of three axes, and a loop in the graph."""

    def __init__(self, n_items, dim=32):
        super().__init__(n_items, dim)
        self.gru = nn.GRU(dim, dim, batch_first=True)

    def encode(self, history):
        _, last = self.gru(self.items(history))
        return self.map(last[0])


def recurrent():
    torch.manual_seed(0)
    return Recurrent(N_ITEMS).eval()


def packaged(name):
    torch.manual_seed(0)
    student = resolve("student", name)(n_items=N_ITEMS, dim=32).eval()
    for weight in student.parameters():
        if weight.requires_grad and not weight.detach().any():
            nn.init.normal_(weight, std=0.05)
    return student


def hybrid_tied():
    from students.hybrid_cf import HybridCF

    torch.manual_seed(0)
    student = HybridCF(N_ITEMS, dim=32, tied=True)
    nn.init.normal_(student.contract.weight, std=0.05)
    return student.eval()


def wide_pool():
    torch.manual_seed(0)
    return MeanPool(N_ITEMS, dim=32).eval()


STUDENTS = {
    "hybrid": hybrid,
    "tied": hybrid_tied,
    "mean pool": wide_pool,
    "recurrent": recurrent,
    "sasrec": lambda: packaged("sasrec_small"),
    "two tower": lambda: packaged("two_tower"),
}


@pytest.fixture(scope="module", params=STUDENTS)
def built(request):
    student = STUDENTS[request.param]()
    calibration = histories(N_ITEMS, 300, 12, seed=8)[:-1]
    return student, build_graphs(student, WORDS, 50, calibration)


@pytest.mark.parametrize("word", WORDS)
def test_every_variant_of_every_student_ranks(built, word):
    student, models = built
    history = histories(N_ITEMS, 40, 9, seed=2)[:-1]
    graph = Graph(models[word].SerializeToString(), N_ITEMS)
    scores, wanted = all_scores(graph, history), torch_scores(student, history)
    assert np.isfinite(scores).all()
    agreement = np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(scores, wanted, strict=True)])
    assert agreement > (0.4 if word == "kmeans" else 0.8)
    if word in LEAST:
        assert overlap(top_k(scores, 10), top_k(wanted, 10)) >= LEAST[word]
    alone = np.concatenate([all_scores(graph, row[None]) for row in history[:5]])
    if not word.endswith("+dynamic"):
        np.testing.assert_allclose(alone, scores[:5], atol=1e-3)


def test_a_tied_hybrid_holds_its_table_once():
    model = build_graphs(hybrid_tied(), ["fp32"], 50)["fp32"]
    assert [tuple(t.dims) for t in model.graph.initializer if len(t.dims) == 2 and t.dims[0] >= N_ITEMS] == [(301, 32)]
    tables = {t.name for t in model.graph.initializer if tuple(t.dims) == (301, 32)}
    assert {node.op_type for node in model.graph.node if tables & set(node.input)} == {"Gather", "Gemm"}


@pytest.mark.parametrize("tied", [False, True])
def test_shares_of_the_bytes(tied):
    from students.hybrid_cf import HybridCF

    torch.manual_seed(0)
    student = HybridCF(3000, tied=tied).eval()
    models = build_graphs(student, ["fp32", "fp16", "int8", "int4"], 50)
    size = {word: len(model.SerializeToString()) for word, model in models.items()}
    assert size["fp16"] <= 0.51 * size["fp32"]
    assert size["int8"] <= 0.28 * size["fp32"]
    assert size["int4"] <= 0.16 * size["fp32"]


def test_only_standard_operators_are_used(built):
    _, models = built
    for word, model in models.items():
        assert {o.domain for o in model.opset_import} <= {"", "pkg.onnxscript.torch_lib.common"}, word
        onnx.checker.check_model(model, full_check=True)


def test_calibration_brings_the_scores_closer():
    student = hybrid(dim=32)
    history = histories(N_ITEMS, 200, 9, seed=2)[:-1]
    wanted = torch_scores(student, history)
    errors = []
    for calibration in (None, histories(N_ITEMS, 2000, 9, seed=5)[:-1]):
        model = build_graphs(student, ["int4"], 50, calibration)["int4"]
        error = all_scores(Graph(model.SerializeToString(), N_ITEMS), history) - wanted
        errors.append(np.std(error - error.mean(axis=1, keepdims=True)))
    assert errors[1] < 0.9 * errors[0]


def test_the_other_graphs_give_scores_and_queries(built):
    student, models = built
    history = histories(N_ITEMS, 6, 5)[:-1]
    wanted = torch_scores(student, history)
    for word in ("fp32", "int8", "low_rank"):
        scores = open_session(GRAPHS["scores"](models[word], N_ITEMS).SerializeToString())
        assert [i.name for i in scores.get_inputs()] == ["history"]
        found = scores.run(["scores"], {"history": history})[0]
        graph = Graph(models[word].SerializeToString(), N_ITEMS)
        np.testing.assert_allclose(found, all_scores(graph, history), atol=1e-5)
    query = GRAPHS["query"](models["fp32"], N_ITEMS)
    assert len(query.SerializeToString()) < len(models["fp32"].SerializeToString())
    vectors = open_session(query.SerializeToString()).run(["query"], {"history": history})[0]
    table, bias = student.item_table().detach().numpy(), student.item_bias().detach().numpy()
    np.testing.assert_allclose(vectors @ table.T + bias, wanted, atol=1e-4)


def test_words_are_read():
    assert parse("int8", 64).rank == 0 and parse("fp32", 64).exact
    assert parse("int4@32+static", 64).rank == 32 and parse("int4@32+static", 64).arithmetic == "static"
    assert parse("low_rank", 64).rank == 32 and not parse("low_rank", 64).exact
    assert parse("int8@64", 64).rank == 0
    assert file_name("int8@32+static") == "model.int8-32-static.onnx"


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("in8", r"'in8', which is no variant \(did you mean 'int8'\?\)"),
        ("int8@0", "is no variant"),
        ("int8@99", r"the student has 16 dimensions; give 16 or fewer"),
        ("int8+fast", r"'fast' is no way to calculate \(known: dynamic, static\)"),
        ("../int8", "is no variant"),
    ],
)
def test_wrong_words_are_explained(word, message):
    with pytest.raises(UserError, match=message):
        build_graphs(mean_pool(), [word], 10)


def test_static_needs_histories():
    with pytest.raises(UserError, match="measures activations on histories"):
        build_graphs(hybrid(), ["int8+static"], 10)
