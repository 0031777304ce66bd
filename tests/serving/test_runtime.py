import json
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from export_samples import N_ITEMS, torch_scores

from distill.errors import UserError
from distill.ranking.topk import top_k
from distill.runs import sha256
from distill.serving import session
from distill.serving.runtime import Bundle
from students.checkpoint import load_student


@pytest.fixture(scope="module")
def bundle(exported_run):
    return Bundle.open(exported_run / "export", variant="fp32")


@pytest.fixture()
def copy(exported_run, tmp_path):
    return shutil.copytree(exported_run / "export", tmp_path / "bundle")


@pytest.fixture(scope="module")
def ragged():
    random = np.random.default_rng(0)
    return [random.integers(0, N_ITEMS, n).tolist() for n in (1, 3, 6, 0, 25, 2)]


def test_lists_are_the_torch_students(bundle, exported_run, ragged):
    student = load_student(exported_run / "student")
    ids, scores = bundle.recommend(ragged, k=10)
    for row, history in enumerate(ragged):
        if not history:
            continue
        expected = torch_scores(student, np.array([history[-bundle.max_length :]]))
        expected[0, history] = -np.inf
        assert ids[row].tolist() == top_k(expected, 10)[0].tolist()
        np.testing.assert_allclose(scores[row], expected[0, ids[row]], atol=1e-5)


def test_one_history_gets_the_list_it_has_in_a_batch(bundle, ragged):
    ids, scores = bundle.recommend(ragged, k=12)
    for row, history in enumerate(ragged):
        alone, values = bundle.recommend_one(history, k=12)
        assert alone.tolist() == ids[row].tolist() and alone.dtype == np.int64
        np.testing.assert_allclose(values, scores[row], atol=1e-5)
        assert bundle.recommend_one(np.array(history, np.int32), k=12)[0].tolist() == ids[row].tolist()


def test_large_batches_go_in_pieces(bundle, ragged, monkeypatch):
    whole = bundle.recommend(ragged * 5, k=7)
    monkeypatch.setattr(session, "SCORES_AT_ONCE", 4 * N_ITEMS + 4)
    pieces = bundle.recommend(ragged * 5, k=7)
    np.testing.assert_array_equal(pieces[0], whole[0])


def test_nothing_seen_is_listed_although_the_student_reads_only_the_end(bundle):
    history = list(range(60))
    ids, _ = bundle.recommend_one(history, k=N_ITEMS)
    assert set(ids.tolist()) == set(range(60, N_ITEMS)) | {-1}
    assert bundle.recommend_one(history[-bundle.max_length :], seen=history, k=9)[0].tolist() == ids[:9].tolist()


def test_the_caller_may_choose_what_is_masked(bundle):
    ids, _ = bundle.recommend([[1, 2], [1, 2]], k=N_ITEMS, seen=[[], [5]])
    assert set(ids[0].tolist()) == set(range(N_ITEMS))
    assert set(ids[1].tolist()) == set(range(N_ITEMS)) - {5} | {-1}


def test_an_empty_history_gets_the_most_popular(bundle):
    order = bundle.items.by_popularity
    ids, scores = bundle.recommend([[], [4]], k=8, seen=[[int(order[0])], []])
    assert ids[0].tolist() == order[1:9].tolist()
    assert scores[0].tolist() == bundle.items.popularity[order[1:9]].tolist()
    assert bundle.recommend_one([], k=8)[0].tolist() == order[:8].tolist()


def test_lists_longer_than_the_catalogue_end_with_minus_one(bundle):
    batch, one = bundle.recommend([[3, 4], []], k=N_ITEMS + 5), bundle.recommend_one([3, 4], k=N_ITEMS + 5)
    for ids, scores in (batch, tuple(x[None] for x in one)):
        assert (
            ids.shape[1] == N_ITEMS + 5 and (ids[0, N_ITEMS - 2 :] == -1).all() and (ids[0, : N_ITEMS - 2] >= 0).all()
        )
        assert np.isneginf(scores[0, N_ITEMS - 2 :]).all()
    assert (bundle.recommend_one([], k=N_ITEMS + 5)[0][N_ITEMS:] == -1).all()


def test_no_histories_no_lists(bundle):
    ids, scores = bundle.recommend([])
    assert ids.shape == scores.shape == (0, 20)


def test_int8_is_the_default_variant(exported_run, bundle, ragged):
    small = Bundle.open(exported_run / "export")
    assert small.variant == "int8"
    common = [
        len(set(a) & set(b)) for a, b in zip(small.recommend(ragged)[0], bundle.recommend(ragged)[0], strict=True)
    ]
    assert np.mean(common) > 18 and small.recommend(ragged)[0].shape == (6, 20)


@pytest.mark.parametrize("wrong", [[0, N_ITEMS], [-1], [3, 10**12]])
def test_indices_out_of_range_are_refused(bundle, wrong):
    for ask in (lambda: bundle.recommend([[1], wrong]), lambda: bundle.recommend_one(wrong)):
        with pytest.raises(UserError, match=rf"holds the item index {wrong[-1]};"):
            ask()
    with pytest.raises(UserError, match="list of seen items holds"):
        bundle.recommend_one([1], seen=wrong)


@pytest.mark.parametrize("wrong", [["i3"], [1.5], [[1, 2]]])
def test_what_is_no_list_of_indices_is_refused(bundle, wrong):
    for ask in (lambda: bundle.recommend([[1], wrong]), lambda: bundle.recommend_one(wrong)):
        with pytest.raises(UserError, match="not a flat list of item indices"):
            ask()


def test_wrong_k_and_rows_are_refused(bundle):
    with pytest.raises(UserError, match="k = 0"):
        bundle.recommend_one([1], k=0)
    with pytest.raises(UserError, match="2 histories were given with 1 rows"):
        bundle.recommend([[1], [2]], seen=[[1]])


def test_threads_share_a_bundle(bundle, ragged):
    expected = [bundle.recommend_one(h, k=10)[0].tolist() for h in ragged]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda i: bundle.recommend_one(ragged[i % 6], k=10)[0].tolist(), range(240)))
    assert found == expected * 40


def test_an_edited_model_is_refused(copy):
    content = bytearray((copy / "model.int8.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (copy / "model.int8.onnx").write_bytes(content)
    with pytest.raises(UserError, match=r"model\.int8\.onnx was altered or damaged: its sha256 is"):
        Bundle.open(copy)
    assert Bundle.open(copy, variant="fp32").variant == "fp32"


def test_edited_titles_are_refused(copy):
    (copy / "items.json").write_text((copy / "items.json").read_text().replace("Heat", "Cold"))
    with pytest.raises(UserError, match=r"items\.json was altered"):
        Bundle.open(copy)


def test_files_outside_the_folder_are_refused(copy):
    outside = copy.parent / "model.onnx"
    shutil.copy(copy / "model.fp32.onnx", outside)
    about = json.loads((copy / "bundle.json").read_text())
    about["variants"]["fp32"]["file"] = "../model.onnx"
    about["files"]["../model.onnx"] = sha256(outside)
    (copy / "bundle.json").write_text(json.dumps(about))
    with pytest.raises(UserError, match=r"points at '\.\./model\.onnx'"):
        Bundle.open(copy, variant="fp32")


def test_missing_files_variants_and_formats_are_explained(copy, tmp_path):
    with pytest.raises(UserError, match=r"no variant 'int4'; it has fp32, int8"):
        Bundle.open(copy, variant="int4")
    (copy / "model.fp32.onnx").unlink()
    with pytest.raises(UserError, match=r"model\.fp32\.onnx is missing"):
        Bundle.open(copy, variant="fp32")
    with pytest.raises(UserError, match=r"holds no bundle.*distill export-student"):
        Bundle.open(tmp_path)
    about = json.loads((copy / "bundle.json").read_text())
    (copy / "bundle.json").write_text(json.dumps(about | {"format": 99}))
    with pytest.raises(UserError, match="has format 99; this version reads 1"):
        Bundle.open(copy)
    (copy / "bundle.json").write_text("{")
    with pytest.raises(UserError, match="is damaged"):
        Bundle.open(copy)
