import json
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from distill.errors import UserError
from distill.export import scan_graph
from distill.export.bundle import check_loads
from distill.export.encoder import folded_items, trace_encoder
from distill.export.scan_graph import block_width, group_size, write_exact
from distill.runs import sha256
from distill.serving import scan
from distill.serving.passes import look_at_all, look_at_best, reached, rounded_queries
from distill.serving.runtime import Bundle
from distill.serving.scan import CertifiedIndex
from distill.serving.scan_files import ENCODER, FILES, MARGINS
from students.checkpoint import load_student


def brute_force(table, bias, queries, k, seen=None):
    """Float64 sums rounded once; equal scores in the order of the items; an item with bias -inf is never listed."""
    with np.errstate(over="ignore"):
        scores = (queries.astype(np.float64) @ table.astype(np.float64).T + bias).astype(np.float32)
    open_ = np.broadcast_to(bias > -np.inf, scores.shape).copy()
    for row in range(len(queries)) if seen is not None else ():
        open_[row, seen[row][seen[row] < len(table)]] = False
    ids = np.full((len(queries), k), -1)
    for row in range(len(queries)):
        items = np.flatnonzero(open_[row])
        listed = items[np.argsort(-scores[row, items], kind="stable")][:k]
        ids[row, : len(listed)] = listed
    return ids


@pytest.fixture()
def large(monkeypatch):
    """The layout of large catalogues, at a size that brute force can follow."""
    monkeypatch.setattr(scan_graph, "SMALL", 0)


@pytest.fixture(params=["small", "large"])
def layout(request, monkeypatch):
    """Both layouts in turn."""
    monkeypatch.setattr(scan_graph, "SMALL", 0 if request.param == "large" else 2**16)
    return request.param


def index_of(folder, table, bias=None):
    bias = np.zeros(len(table), np.float32) if bias is None else bias
    write_exact(folder, table, bias)
    return CertifiedIndex.open(folder), bias


def normal(random, n, d):
    return random.normal(size=(n, d)).astype(np.float32)


def lognormal(random, n, d):
    return normal(random, n, d) * random.lognormal(0, 1.5, (n, 1)).astype(np.float32)


def ties(random, n, d):
    return np.repeat(random.integers(-3, 4, (n // 10, d)), 10, axis=0).astype(np.float32)


def zeros(random, n, d):
    table = normal(random, n, d)
    table[random.random(n) < 0.9] = 0
    return table


def outliers(random, n, d):
    table = normal(random, n, d)
    table[random.integers(0, n, 5)] *= 1e6
    table[:, 0] *= 1000  # one dimension that takes all of a row's scale
    return table


def nearly_equal(random, n, d):
    return (1 + 1e-6 * random.normal(size=(n, d))).astype(np.float32)


def equal(random, n, d):
    return np.ones((n, d), np.float32)


def tiny(random, n, d):
    return normal(random, n, d) * np.float32(10.0) ** random.integers(-45, -25, (n, 1)).astype(np.float32)


def gigantic(random, n, d):
    return normal(random, n, d) * np.float32(1e36)


TABLES = [normal, lognormal, ties, zeros, outliers, nearly_equal, equal, tiny, gigantic]


@pytest.mark.parametrize("make", TABLES)
@pytest.mark.parametrize("dim", [20, 64])
def test_lists_are_brute_forces_on_tables_made_to_hurt(make, dim, layout, tmp_path):
    random = np.random.default_rng(1)
    table = make(random, 3000, dim)
    index, bias = index_of(tmp_path, table)
    queries = normal(random, 30, dim)
    queries[0], queries[1] = 0, np.round(queries[1])
    queries[2, 1:], queries[3] = 0, queries[3] * np.float32(1e-38)
    seen = random.integers(0, 3001, (30, 40))
    found = index.search(queries, 20, seen)
    assert found.ids.tolist() == brute_force(table, bias, queries, 20, seen).tolist()
    exact = (queries[4].astype(np.float64) @ table[found.ids[4]].T.astype(np.float64)).astype(np.float32)
    assert found.scores[4].tolist() == exact.tolist()


@pytest.mark.parametrize("dim", [1, 7, 64, 130, 300, 520])
@pytest.mark.parametrize("scale", [0.0, 1.0, 1e5])
def test_any_width_with_any_bias(dim, scale, layout, tmp_path):
    random = np.random.default_rng(2)
    table, bias = normal(random, 900, dim), (scale * random.normal(size=900)).astype(np.float32)
    bias[random.integers(0, 900, 50)] = -np.inf
    index, _ = index_of(tmp_path, table, bias)
    queries = normal(random, 25, dim)
    assert index.search(queries, 50).ids.tolist() == brute_force(table, bias, queries, 50).tolist()


@pytest.mark.parametrize("n_items", [1, 2, 8, 64, 300])
def test_small_catalogues_and_lists_longer_than_they_are(n_items, layout, tmp_path):
    random = np.random.default_rng(3)
    table = normal(random, n_items, 16)
    index, bias = index_of(tmp_path, table)
    queries = normal(random, 4, 16)
    seen = np.array([[n_items], [0], [n_items - 1], [0]])
    for k in (1, n_items, n_items + 3):
        found = index.search(queries, k, seen)
        assert found.ids.tolist() == brute_force(table, bias, queries, k, seen).tolist()
        assert (np.isneginf(found.scores) == (found.ids < 0)).all()


@pytest.mark.slow
@pytest.mark.parametrize("make", [normal, lognormal, ties])
def test_the_certificate_is_never_wrong(make, layout, tmp_path):
    random = np.random.default_rng(4)
    table = make(random, 20_000, 64)
    index, bias = index_of(tmp_path, table)
    for _ in range(20):
        queries = normal(random, 100, 64)
        found = index.search(queries, 100)
        assert found.ids.tolist() == brute_force(table, bias, queries, 100).tolist()
        if make is normal:
            assert found.certified.all() and found.candidates.max() < 500


def test_where_no_certificate_can_be_given_the_table_is_scanned(large, tmp_path, monkeypatch):
    monkeypatch.setattr(scan, "ATTEMPTS", (1, 4))
    table = np.ones((5000, 16), np.float32)
    index, _ = index_of(tmp_path, table)
    found = index.search(np.ones((3, 16), np.float32), 10)
    assert found.ids.tolist() == [list(range(10))] * 3
    assert found.rescans == 3 and found.candidates.tolist() == [5000] * 3


def test_more_groups_are_opened_before_the_table_is_scanned(large, tmp_path):
    random = np.random.default_rng(5)
    table = normal(random, 6000, 8)
    # 600 near-copies crowd the top for a query along their direction: more than the first attempt opens.
    table[:600] = 10 + 1e-3 * random.normal(size=(600, 8))
    index, bias = index_of(tmp_path, table)
    queries = np.ones((1, 8), np.float32)
    found = index.search(queries, 10)
    assert found.certified.all() and found.candidates[0] > 100
    assert found.ids.tolist() == brute_force(table, bias, queries, 10).tolist()


@pytest.mark.parametrize("make", [normal, lognormal, outliers, tiny])
@pytest.mark.parametrize("dim", [48, 600])
def test_every_score_lies_within_its_margin(make, dim, layout, tmp_path):
    random = np.random.default_rng(6)
    table, bias = make(random, 2000, dim), random.normal(size=2000).astype(np.float32)
    index, _ = index_of(tmp_path, table, bias)
    queries = normal(random, 20, dim)
    wide = queries.astype(np.float64)
    query = rounded_queries(queries, wide, np.linalg.norm(wide, axis=1), index.width, index.relative_rounding)
    hidden, groups = index._hidden(None, 20), len(index.table) // index.size
    # Lists longer than the catalogue: no item can be left out.
    if layout == "large":
        found = look_at_best(index.session, index.size, query, hidden, 3000, groups)
    else:
        found = look_at_all(index.session, index.margins, query, hidden, 3000)
    assert np.bincount(found.row).tolist() == [2000] * 20 and (np.diff(found.row) >= 0).all()
    assert set(index.items[found.place[:2000]]) == set(range(2000))
    true = np.einsum("cd,cd->c", wide[found.row], index.table[found.place].astype(np.float64))
    off = np.abs(found.scanned - (true + index.bias[found.place]))
    assert (off <= found.margin).all()
    if make is normal and dim == 48:  # and the margins are no wider than they have to be
        assert 0.01 < off.max() / found.margin.max() <= 1


def test_groups_are_ranked_by_bounds_on_all_their_items(large, tmp_path):
    random = np.random.default_rng(11)
    index, _ = index_of(tmp_path, lognormal(random, 2000, 48))
    queries = normal(random, 20, 48)
    wide = queries.astype(np.float64)
    query = rounded_queries(queries, wide, np.linalg.norm(wide, axis=1), index.width, index.relative_rounding)
    groups = len(index.table) // index.size
    inputs = {"rounded": query.rounded, "spread": query.spread, "hidden": index._hidden(None, 20)}
    opened, upper = index.session.run(["opened", "upper"], {**inputs, "groups": np.array([groups])})
    places = opened[:, :, None] * index.size + np.arange(index.size)
    true = np.einsum("bd,bgrd->bgr", wide, index.table[places].astype(np.float64))
    held = index.items[places] < 2000
    assert (true <= upper[:, :, None] * (1 + 1e-6 * np.sign(upper[:, :, None])))[held].all()
    assert (np.diff(upper, axis=1) <= 0).all()


def test_what_k_items_are_known_to_reach_is_rounded_down():
    lower = np.array([[3, -np.inf, 1, -2], [-np.inf] * 4], np.float32)
    assert reached(lower, 2)[0, 0] <= 1 < reached(lower, 2)[0, 0] + 1e-5
    assert reached(lower, 3)[0, 0] <= -2 < reached(lower, 3)[0, 0] + 1e-5
    assert (reached(lower, 5) == np.finfo(np.float32).min).all() and reached(lower, 1)[1] > -np.inf


def test_few_rows_are_looked_at_even_for_lists_longer_than_there_are_groups(layout, tmp_path):
    random = np.random.default_rng(12)
    table = normal(random, 4000, 32)
    index, bias = index_of(tmp_path, table)
    k = len(index.table) // index.size + 100
    queries = normal(random, 5, 32)
    found = index.search(queries, k)
    assert found.ids.tolist() == brute_force(table, bias, queries, k).tolist()
    assert found.certified.all() and found.candidates.max() < 2 * k


def test_a_kernel_that_saturates_is_found_out(layout, tmp_path):
    random = np.random.default_rng(7)
    index_of(tmp_path, normal(random, 500, 16))
    path = tmp_path / FILES["scan"]
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        if tensor.name == "codes":
            codes = numpy_helper.to_array(tensor)
            tensor.CopyFrom(numpy_helper.from_array(np.clip(codes, 68, 188), "codes"))
    path.write_bytes(model.SerializeToString())
    with pytest.raises(UserError, match=r"beyond the proved bound.*variant fp32"):
        CertifiedIndex.open(tmp_path).search(normal(random, 20, 16), 10)


def test_large_batches_go_in_pieces_and_rows_do_not_depend_on_each_other(layout, tmp_path, monkeypatch):
    random = np.random.default_rng(8)
    index, _ = index_of(tmp_path, normal(random, 4000, 32))
    queries, seen = normal(random, 50, 32), random.integers(0, 4001, (50, 9))
    whole = index.search(queries, 10, seen)
    monkeypatch.setattr(scan, "FEW_AT_ONCE" if layout == "small" else "MANY_AT_ONCE", 3 * len(index.table))
    pieces = index.search(queries, 10, seen)
    alone = [index.search(queries[row : row + 1], 10, seen[row : row + 1]).ids[0] for row in range(50)]
    assert whole.ids.tolist() == pieces.ids.tolist() == np.stack(alone).tolist()
    assert whole.candidates.tolist() == pieces.candidates.tolist()


def test_several_threads_may_ask_at_once(layout, tmp_path):
    random = np.random.default_rng(9)
    index, _ = index_of(tmp_path, normal(random, 4000, 32))
    queries = normal(random, 64, 32)
    wanted = index.search(queries, 10).ids.tolist()
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda row: index.search(queries[row : row + 1], 10).ids[0].tolist(), range(64)))
    assert found == wanted


def test_no_queries_no_lists(layout, tmp_path):
    index, _ = index_of(tmp_path, np.eye(8, dtype=np.float32))
    found = index.search(np.empty((0, 8), np.float32), 3)
    assert found.ids.shape == found.scores.shape == (0, 3) and not len(found.certified)


def test_sizes_of_groups_and_blocks():
    assert [group_size(n) for n in (0, 1, 3000, 27_000, 100_000, 1_000_000, 10**8)] == [8, 8, 8, 16, 32, 64, 64]
    assert [block_width(d) for d in (1, 16, 17, 64, 200, 256, 1000)] == [16, 16, 32, 64, 256, 256, 256]


@pytest.mark.parametrize(
    ("queries", "k", "seen", "message"),
    [
        (np.ones((2, 7)), 3, None, r"shape \(2, 7\).*expected \(B, 8\)"),
        (np.ones(8), 3, None, r"shape \(8,\)"),
        (np.ones((2, 8)), 0, None, "k = 0"),
        (np.full((1, 8), np.nan), 3, None, "NaN or infinite"),
        (np.ones((2, 8)), 3, np.array([[1]]), r"expected \(2, S\)"),
        (np.ones((1, 8)), 3, np.array([[0.5]]), "whole numbers"),
        (np.ones((1, 8)), 3, np.array([[9]]), "must be 0 to 7, or 8"),
        (np.ones((1, 8)), 3, np.array([[-1]]), "must be 0 to 7, or 8"),
    ],
)
def test_mistakes_are_explained(queries, k, seen, message, layout, tmp_path):
    index, _ = index_of(tmp_path, np.eye(8, dtype=np.float32))
    with pytest.raises(UserError, match=message):
        index.search(queries, k, seen)


@pytest.mark.parametrize(
    ("table", "bias", "message"),
    [
        (np.ones((3, 2)), np.ones(2), r"shape \(3, 2\) and biases of shape \(2,\)"),
        (np.ones(3), np.ones(3), r"expected \(N, D\)"),
        (np.full((3, 2), np.inf), np.ones(3), "NaN or infinite"),
        (np.ones((3, 2)), np.full(3, np.inf), "NaN or infinite"),
    ],
)
def test_tables_without_an_exact_answer_are_refused(table, bias, message, tmp_path):
    with pytest.raises(UserError, match=message):
        write_exact(tmp_path, table, bias)


def test_files_that_are_missing_or_do_not_fit_are_refused(tmp_path):
    index_of(tmp_path, np.eye(8, dtype=np.float32))
    np.save(tmp_path / FILES["table"], np.ones((16, 9), np.float32))
    with pytest.raises(UserError, match=r"don't fit each other.*\(16, 9\)"):
        CertifiedIndex.open(tmp_path)
    np.save(tmp_path / FILES["table"], np.array([{}], object), allow_pickle=True)
    with pytest.raises(UserError, match="damaged"):
        CertifiedIndex.open(tmp_path)
    (tmp_path / FILES["items"]).unlink()
    with pytest.raises(UserError, match=r"exact\.items\.npy is missing"):
        CertifiedIndex.open(tmp_path)
    index_of(tmp_path, np.eye(8, dtype=np.float32))
    np.save(tmp_path / MARGINS, np.ones((3, 7), np.float32))
    with pytest.raises(UserError, match="don't fit each other"):
        CertifiedIndex.open(tmp_path)
    (tmp_path / MARGINS).unlink()
    with pytest.raises(UserError, match=r"exact\.margins\.npy is missing"):
        CertifiedIndex.open(tmp_path)


def test_scores_near_the_end_of_float32_are_left_to_float64(layout, tmp_path):
    random = np.random.default_rng(13)
    table, bias = normal(random, 200, 8), np.full(200, 3e38, np.float32)
    index, _ = index_of(tmp_path, table, bias)
    queries = normal(random, 3, 8) * np.float32(1e36)
    found = index.search(queries, 10)
    assert found.ids.tolist() == brute_force(table, bias, queries, 10).tolist() and not found.certified.any()


@pytest.fixture(scope="module")
def exact_bundle(exported_run, tmp_path_factory):
    """The exported bundle with the files of the exact scan beside its models."""
    folder = shutil.copytree(exported_run / "export", tmp_path_factory.mktemp("exact") / "bundle")
    student = load_student(exported_run / "student")
    about = json.loads((folder / "bundle.json").read_text())
    names = write_exact(folder, *folded_items(student), trace_encoder(student, about["max_length"]))
    about["files"].update({name: sha256(folder / name) for name in names})
    (folder / "bundle.json").write_text(json.dumps(about))
    return folder


def test_a_bundle_recommends_exactly(exact_bundle, exported_run):
    exact, fp32 = Bundle.open(exact_bundle, "exact"), Bundle.open(exact_bundle, "fp32")
    random = np.random.default_rng(10)
    histories = [random.integers(0, exact.n_items, size).tolist() for size in (1, 4, 9, 0, 30)]
    ids, scores = exact.recommend(histories, k=12)
    close, others = fp32.recommend(histories, k=12)
    np.testing.assert_allclose(scores, others, rtol=1e-5, atol=1e-5)
    assert (ids == close).mean() > 0.95
    table, bias = folded_items(load_student(exported_run / "student"))
    for row, history in enumerate(histories):
        assert exact.recommend_one(history, k=12)[0].tolist() == ids[row].tolist()
        if history:
            read = np.array([history[-exact.max_length :]])
            query = exact.graph.session.run(["query"], {"history": read})[0]
            assert ids[row].tolist() == brute_force(table, bias, query, 12, np.array([history]))[0].tolist()


def test_altered_files_of_a_bundle_are_refused(exact_bundle, tmp_path):
    for name in [*FILES.values(), MARGINS, ENCODER]:
        folder = shutil.copytree(exact_bundle, tmp_path / name)
        content = bytearray((folder / name).read_bytes())
        content[-1] ^= 1
        (folder / name).write_bytes(content)
        with pytest.raises(UserError, match=rf"{name} was altered or damaged"):
            Bundle.open(folder, "exact")


def test_a_bundle_without_the_files_says_what_it_has(exported_run):
    with pytest.raises(UserError, match=r"no variant 'exact'; it has fp32, int8\. Add it to export\.variants"):
        Bundle.open(exported_run / "export", "exact")


def test_an_exact_scan_is_loaded_in_a_process_of_its_own(exact_bundle, tmp_path):
    check_loads(exact_bundle, 300)
    folder = shutil.copytree(exact_bundle, tmp_path / "bundle")
    (folder / FILES["scan"]).write_bytes(b"no graph")
    with pytest.raises(UserError, match=r"The exact scan can't be served: .*(can't load|damaged)"):
        check_loads(folder, 300)
