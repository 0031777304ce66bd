from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from export_samples import MeanPool, TextMLP, histories, hybrid, mean_pool, torch_scores
from onnx import numpy_helper
from torch import nn

from distill.errors import UserError
from distill.export.encoder import fold, trace_encoder
from distill.export.gate import all_scores
from distill.export.graph import build_graphs
from distill.ranking.topk import top_k
from distill.serving.session import Graph, open_session
from students.checkpoint import build_student

STUDENTS = {"hybrid": hybrid, "hybrid from text": lambda: hybrid(text=True), "mean pool": mean_pool}
SIZES = [(1, 1), (1, 5), (2, 1), (2, 5), (7, 50), (64, 5), (64, 50)]


@pytest.fixture(scope="module", params=STUDENTS)
def exported(request):
    """A student and its graphs, as (student, {variant: model}, {variant: Graph})."""
    student = STUDENTS[request.param]()
    models = build_graphs(student, ["fp32", "int8"], max_length=50)
    return student, models, {name: Graph(m.SerializeToString(), student.n_items) for name, m in models.items()}


@pytest.mark.parametrize(("batch", "length"), SIZES)
def test_fp32_scores_are_torchs(exported, batch, length):
    student, _, graphs = exported
    history = histories(student.n_items, batch, length)
    expected = torch_scores(student, history)
    np.testing.assert_allclose(all_scores(graphs["fp32"], history), expected, atol=1e-5)


@pytest.mark.parametrize(("batch", "length"), SIZES)
def test_int8_scores_are_close(exported, batch, length):
    student, _, graphs = exported
    history = histories(student.n_items, batch, length)
    expected = torch_scores(student, history)
    error = np.abs(all_scores(graphs["int8"], history) - expected)
    spread = expected.std(axis=1, keepdims=True)
    assert (error < 0.05 * spread).all() and error.max() > 0


def test_lists_are_the_top_of_the_scores_without_seen_items(exported):
    student, _, graphs = exported
    history = histories(student.n_items, 40, 12, seed=3)
    for graph in graphs.values():
        scores = np.pad(all_scores(graph, history), ((0, 0), (0, 1)))
        np.put_along_axis(scores, history, -np.inf, axis=1)
        ids, values = graph.top(history, history, 15)
        np.testing.assert_array_equal(ids, top_k(scores[:, :-1], 15))
        np.testing.assert_allclose(values, np.take_along_axis(scores, ids, axis=1), rtol=1e-6)


def test_a_row_does_not_depend_on_its_batch(exported):
    student, _, graphs = exported
    history = histories(student.n_items, 16, 9, seed=4)
    for graph in graphs.values():
        together = all_scores(graph, history)
        alone = np.concatenate([all_scores(graph, row[None]) for row in history])
        np.testing.assert_allclose(alone, together, atol=1e-4)


def test_padding_on_the_left_changes_nothing(exported):
    student, _, graphs = exported
    history = histories(student.n_items, 5, 4, seed=5)
    longer = np.pad(history, ((0, 0), (30, 0)), constant_values=student.n_items)
    for graph in graphs.values():
        np.testing.assert_allclose(all_scores(graph, longer), all_scores(graph, history), atol=1e-4)


def test_the_longest_lists_end_with_minus_one(exported):
    student, _, graphs = exported
    n_items = student.n_items
    seen = np.stack([np.arange(n_items), np.r_[np.arange(n_items - 3), [n_items] * 3]])  # all; all but the last three
    for graph in graphs.values():
        ids, scores = graph.top(histories(n_items, 2, 4), seen, 5)
        assert (ids[0] == -1).all() and np.isneginf(scores[0]).all()
        assert set(ids[1, :3]) == {n_items - 3, n_items - 2, n_items - 1} and (ids[1, 3:] == -1).all()


def test_the_query_times_the_table_gives_the_scores(exported):
    student, models, _ = exported
    history = histories(student.n_items, 6, 5)
    session = open_session(models["fp32"].SerializeToString())
    feed = {"history": history, "seen": np.empty((6, 0), np.int64), "k": np.array([3])}
    query = session.run(["query"], feed)[0]
    with torch.no_grad():
        expected = student.encode(torch.from_numpy(history)).numpy()
    np.testing.assert_allclose(query, expected, atol=1e-5)


def test_the_file_says_nothing_of_where_it_was_made(exported):
    _, models, _ = exported
    root = str(Path(__file__).resolve().parents[2]).encode()
    for model in models.values():
        content = model.SerializeToString()
        assert root not in content and b".py" not in content and not model.graph.value_info


@pytest.mark.parametrize("variant", ["fp32", "int8"])
def test_equal_scores_come_in_item_order(variant):
    student = mean_pool(40)
    with torch.no_grad():
        student.items.weight[:] = student.items.weight[0].clone()
        student.bias.zero_()
        student.bias[[7, 20, 31]] = 1.0
    graph = Graph(build_graphs(student, [variant], 10)[variant].SerializeToString(), 40)
    ids, scores = graph.top(np.array([[5, 6]]), np.array([[20, 40]]), 6)
    assert ids[0].tolist() == [7, 31, 0, 1, 2, 3]
    assert scores[0, 0] == scores[0, 1] and len(set(scores[0, 2:].tolist())) == 1


def test_text_vectors_are_folded_into_one_plain_table():
    student = hybrid(text=True)
    graph = build_graphs(student, ["fp32"], 50)["fp32"].graph
    shapes = [tuple(t.dims) for t in graph.initializer if len(t.dims) == 2 and t.dims[0] >= student.n_items]
    assert sorted(shapes) == [(300, 32), (301, 32)]  # what is looked up, and what is scored with its padding row
    large = {t.name for t in graph.initializer if np.prod(t.dims) >= 300 * 32}
    readers = {node.op_type for node in graph.node if large & set(node.input)}
    assert readers == {"Gather", "Gemm"}


@pytest.mark.parametrize("variant", ["fp32", "int8"])
def test_a_table_that_serves_both_sides_is_stored_once(variant):
    graph = build_graphs(mean_pool(), [variant], 50)[variant].graph
    assert [tuple(t.dims) for t in graph.initializer if len(t.dims) == 2 and t.dims[0] >= 300 and t.dims[1] > 1] == [
        (301, 16)
    ]


@pytest.mark.parametrize(
    ("name", "text"), [(n, "init") for n in ("mf", "hybrid_cf", "sasrec_small", "mlp_only")] + [("mf", "null_space")]
)
def test_every_student_that_ties_its_tables_stores_one(name, text):
    sizes: dict[str, list[int]] = {"fp32": [], "int8": []}
    for tied in (True, False):
        torch.manual_seed(0)
        student = build_student(name, {"dim": 32, "tied": tied, "text": text}, 2000, torch.randn(2000, 24), 0).eval()
        with torch.no_grad():  # two new tables that start alike would be stored once as well
            for weight in student.parameters():
                weight.add_(0.1 * torch.randn_like(weight))
        for variant, model in build_graphs(student, list(sizes), 20).items():
            sizes[variant].append(len(model.SerializeToString()))
    for variant, (one, two) in sizes.items():
        table, rest = 2000 * 32 * (4 if variant == "fp32" else 1), 2000 * (4 if variant == "fp32" else 6)
        assert two - one == pytest.approx(table, rel=0.1)
        assert 0 < one - table - rest < table  # biases and scales; layers and the graph itself remain


def test_tables_made_through_a_gelu_are_plain_tables_in_the_file():
    torch.manual_seed(0)
    student = TextMLP(300).eval()
    encoder = trace_encoder(student, 20)
    assert "Gelu" not in {node.op_type for node in encoder.graph.node}
    assert fold(encoder) == encoder
    models = build_graphs(student, ["fp32", "int8"], 20)
    assert [tuple(t.dims) for t in models["fp32"].graph.initializer if np.prod(t.dims) > 301] == [(301, 16)]
    assert len(models["fp32"].SerializeToString()) < 4 * 301 * 16 + 5000
    history = histories(300, 9, 8)
    found = all_scores(Graph(models["fp32"].SerializeToString(), 300), history)
    np.testing.assert_allclose(found, torch_scores(student, history), atol=1e-5)


def test_a_gelu_of_the_query_stays():
    class Bent(MeanPool):
        def encode(self, history):
            return nn.functional.gelu(super().encode(history))

    torch.manual_seed(0)
    student = Bent(50).eval()
    assert "Gelu" in {node.op_type for node in trace_encoder(student, 10).graph.node}
    history = histories(50, 4, 5)
    found = all_scores(Graph(build_graphs(student, ["fp32"], 10)["fp32"].SerializeToString(), 50), history)
    np.testing.assert_allclose(found, torch_scores(student, history), atol=1e-5)


@pytest.mark.parametrize("n_items", [1682, 9000])
@pytest.mark.parametrize("text", [False, True])
def test_int8_files_have_at_most_28_percent_of_the_bytes(n_items, text):
    models = build_graphs(hybrid(n_items, text, dim=64), ["fp32", "int8"], 50)
    sizes = {name: len(model.SerializeToString()) for name, model in models.items()}
    assert sizes["int8"] <= 0.28 * sizes["fp32"]
    assert sizes["fp32"] < 4 * (2 * (n_items + 1) * 64 + n_items + 35_000) + 10_000  # tables, biases, MLP, graph


def test_items_with_short_vectors_keep_their_scores_in_int8():
    student = mean_pool(5000)
    with torch.no_grad():
        student.items.weight *= torch.exp(3 * torch.randn(5001, 1))
        student.bias.zero_()
    graph = Graph(build_graphs(student, ["int8"], 20)["int8"].SerializeToString(), 5000)
    history = histories(5000, 9, 8)[:-1]
    expected, found = torch_scores(student, history), all_scores(graph, history)
    lengths = student.item_table().norm(dim=1).detach().numpy() * np.abs(expected).max(axis=1, keepdims=True)
    assert (found != 0).all()
    relative = np.abs(found - expected) / (lengths / student.item_table().norm(dim=1).max().item())
    assert np.quantile(relative, 0.99) < 0.05


def test_integer_products_fit_the_sixteen_bits_of_old_processors():
    student = mean_pool(64)
    model = build_graphs(student, ["int8"], 10)["int8"]
    model.graph.output.extend(
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.UINT8, None) for name in ("coarse", "fine")
    )
    session = open_session(model.SerializeToString())
    history = histories(64, 200, 6)
    feed = {"history": history, "seen": history, "k": np.array([1])}
    codes = np.concatenate(session.run(["coarse", "fine"], feed))
    assert codes.min() >= 1 and codes.max() <= 127
    table = next(numpy_helper.to_array(t) for t in model.graph.initializer if t.data_type == onnx.TensorProto.INT8)
    assert 2 * int(codes.max()) * int(np.abs(table.astype(int)).max()) < 2**15


def test_students_with_loops_in_their_graph_can_be_exported():
    class Bag(MeanPool):
        def encode(self, history):
            known = (history != self.n_items).float()
            index = torch.where(history == self.n_items, 0, history)
            return nn.functional.embedding_bag(index, self.items.weight, per_sample_weights=known, mode="sum")

    torch.manual_seed(0)
    student = Bag(50).eval()
    graph = Graph(build_graphs(student, ["fp32"], 10)["fp32"].SerializeToString(), 50)
    history = histories(50, 4, 5)
    np.testing.assert_allclose(all_scores(graph, history), torch_scores(student, history), atol=1e-5)


def test_an_operator_that_onnx_lacks_is_named():
    class Bessel(MeanPool):
        def encode(self, history):
            return torch.special.bessel_j0(super().encode(history))

    with pytest.raises(UserError, match=r"Bessel\.encode can't be exported to ONNX: operator .*bessel_j0"):
        build_graphs(Bessel(20).eval(), ["fp32"], 10)


def test_a_branch_on_values_is_explained():
    class Branch(MeanPool):
        def encode(self, history):
            return super().encode(history) if history.sum() > 3 else -super().encode(history)

    with pytest.raises(UserError, match=r"Branch\.encode can't be exported.*without Python branches"):
        build_graphs(Branch(20).eval(), ["fp32"], 10)


def test_a_query_of_another_width_is_refused():
    class Narrow(MeanPool):
        def encode(self, history):
            return super().encode(history)[:, :3]

    with pytest.raises(UserError, match=r"shape \['batch', 3\].*expected FLOAT of shape \['batch', 16\]"):
        build_graphs(Narrow(20).eval(), ["fp32"], 10)


def test_weights_that_diverged_are_refused():
    student = mean_pool(20)
    student.items.weight.data[3, 2] = float("nan")
    with pytest.raises(UserError, match="NaN or infinite"):
        build_graphs(student, ["fp32"], 10)


def test_an_unknown_variant_names_the_nearest():
    with pytest.raises(UserError, match=r"'int9'.*did you mean 'int8'"):
        build_graphs(mean_pool(20), ["int9"], 10)
