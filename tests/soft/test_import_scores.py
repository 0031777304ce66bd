"""Outside scores: both forms of a file, what is left out is counted, and files that can't be read."""

import numpy as np
import polars as pl
import pytest
from scipy.special import logsumexp

from distill.data.contexts import Contexts, Kind
from distill.data.dataset import TEST, TRAIN, Dataset
from distill.errors import UserError
from distill.soft.import_scores import import_scores
from distill.soft.store import CONTEXTS, Store

N = 8
ROWS = {"ann": [0, 1, 2], "bob": [3], "cid": [], "dan": [4, 0]}


def dataset():
    items = np.array([i for row in ROWS.values() for i in [*row, 7]], np.int32)
    parts = np.array([p for row in ROWS.values() for p in [*[TRAIN] * len(row), TEST]], np.uint8)
    indptr = np.concatenate([[0], np.cumsum([len(row) + 1 for row in ROWS.values()])]).astype(np.int64)
    names = np.array([f"i{i}" for i in range(N)])
    return Dataset(np.array(list(ROWS)), names, list(names), list(names), indptr, items, parts)


DATA = dataset()
LINES = [
    ("ann", "i5", 1.0),
    ("ann", "i6", 3.0),
    ("ann", "i5", 2.0),  # a duplicate: the better one counts
    ("ann", "i1", 9.0),  # in the history
    ("bob", "i0", -1.0),
    ("eve", "i0", 1.0),  # unknown user
    ("bob", "i99", 1.0),  # unknown item
    ("cid", "i1", 1.0),  # no train events
]


def frame(lines=LINES):
    return pl.DataFrame(lines, schema=["user_id", "item_id", "score"], orient="row")


@pytest.mark.parametrize("kind", ["parquet", "csv"])
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_scores_by_user(tmp_path, kind, scale):
    path = tmp_path / f"scores.{kind}"
    frame().write_parquet(path) if kind == "parquet" else frame().write_csv(path)
    counts = import_scores(path, DATA, tmp_path, k=3, scale=scale)
    assert {name: count for name, count in counts.items() if count} == {
        "entries": 8,
        "entries of unknown users": 1,
        "entries of unknown items": 1,
        "entries of users without train events": 1,
        "duplicates (the best was kept)": 1,
        "entries of items in the history": 1,
        "contexts answered": 2,
    }
    store = Store.open(tmp_path, DATA.item_vocabulary, DATA.fingerprint, verify=True)
    contexts = Contexts.read(tmp_path / CONTEXTS, N)
    assert store.rows == len(contexts) == 6 and contexts.target.tolist() == [1, 2, -1, -1, 0, -1]
    found = store.lookup(np.arange(6))
    assert found["items"].tolist() == [[-1] * 3, [-1] * 3, [6, 5, -1], [0, -1, -1], [-1] * 3, [-1] * 3]
    np.testing.assert_allclose(found["scores"][2, :2], [3 * scale, 2 * scale])
    assert found["logz"][2, 0] == pytest.approx(logsumexp([3 * scale, 2 * scale]), abs=1e-3)


def test_a_whole_catalogue_gives_the_exact_normaliser_and_the_best_k(tmp_path):
    scores = np.random.default_rng(0).normal(0, 1, N).astype(np.float16).astype(float)
    frame([("bob", f"i{i}", s) for i, s in enumerate(scores)]).write_parquet(tmp_path / "s.parquet")
    import_scores(tmp_path / "s.parquet", DATA, tmp_path, k=2)
    found = Store.open(tmp_path).lookup(np.array([3]))
    allowed = np.delete(np.arange(N), 3)
    assert found["items"][0].tolist() == allowed[np.argsort(-scores[allowed])][:2].tolist()
    assert found["logz"][0, 0] == pytest.approx(logsumexp(scores[allowed]), abs=1e-5)


def test_contexts_of_their_own(tmp_path):
    lines = {
        "history": [["i2", "i0"], ["i77"], ["i3", "i88"], [], None],
        "items": [["i5", "i2", "i99"], ["i1"], ["i4"], ["i1"], ["i1"]],
        "scores": [[1.0, 5.0, 2.0], [1.0], [0.5], [1.0], [1.0]],
    }
    pl.DataFrame(lines).write_parquet(tmp_path / "s.parquet")
    counts = import_scores(tmp_path / "s.parquet", DATA, tmp_path, k=2)
    assert counts["contexts"] == 5 and counts["contexts without a known item"] == 3
    assert counts["unknown items in histories"] == 2 and counts["entries of unknown items"] == 1
    assert counts["entries of items in the history"] == 1 and counts["contexts answered"] == 2
    contexts = Contexts.read(tmp_path / CONTEXTS, N)
    given = np.flatnonzero(contexts.kind == Kind.GIVEN)
    assert given.tolist() == [6, 7] and contexts.target[given].tolist() == [-1, -1]
    seen = contexts.batch(given, 9).seen
    assert seen.tolist() == [[2, 0], [N, 3]]
    assert Store.open(tmp_path).lookup(given)["items"].tolist() == [[5, -1], [4, -1]]


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (frame([("ann", "i5", float("nan"))]), "1 scores are no finite numbers"),
        (frame([("ann", "i5", float("inf"))]), "1 scores are no finite numbers"),
        (frame([("ann", "i5", "many")]), "1 scores are no finite numbers"),
        (frame([("zoe", "i5", 1.0)]), "nothing is left to import .*1 entries of unknown users"),
        (frame([]), "nothing is left to import"),
        (pl.DataFrame({"user": ["ann"], "item_id": ["i5"]}), "has the columns user, item_id; expected user_id"),
        (pl.DataFrame({"history": ["i1"], "items": [["i2"]], "scores": [[1.0]]}), "column 'history' is String"),
        (
            pl.DataFrame({"history": [["i1"]], "items": [["i2", "i3"]], "scores": [[1.0]]}),
            "line 0 has 2 items and 1 scores",
        ),
        (
            pl.DataFrame({"history": [["i1"]], "items": [["i2", "i3"]], "scores": [[1.0, None]]}),
            "1 scores are no finite numbers",
        ),
    ],
)
def test_files_that_cannot_be_used(tmp_path, table, words):
    table.write_parquet(tmp_path / "s.parquet")
    with pytest.raises(UserError, match=words):
        import_scores(tmp_path / "s.parquet", DATA, tmp_path, k=2)


def test_no_file_another_form_and_no_parquet(tmp_path):
    with pytest.raises(UserError, match="There is no file"):
        import_scores(tmp_path / "s.parquet", DATA, tmp_path, k=2)
    for name, words in (("s.txt", r"expected a \.parquet or \.csv"), ("s.parquet", "can't be read")):
        (tmp_path / name).write_text("what?")
        with pytest.raises(UserError, match=words):
            import_scores(tmp_path / name, DATA, tmp_path, k=2)


def test_a_k_that_reaches_the_catalogue(tmp_path):
    with pytest.raises(UserError, match=rf"'scores.k' is {N}, expected 1 to {N - 1}"):
        import_scores(tmp_path / "s.parquet", DATA, tmp_path, k=N)
