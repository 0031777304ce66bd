"""Templates, attributes, vectors, behaviour: what is read, kept, written and read again; and what a mistake says."""

import dataclasses
import itertools
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.config import Data, Split
from distill.data.attributes import categories_of
from distill.data.behaviour import behaviour_features, behaviour_names
from distill.data.contexts import Kind, from_lists, prefixes, train_contexts
from distill.data.dataset import TEST, TRAIN, Dataset, Lists
from distill.data.features import Attributes, Features, item_matrix, join_vectors
from distill.data.load import build_dataset
from distill.data.text_template import fill
from distill.errors import UserError
from distill.ranking.cases import cases_of
from distill.ranking.evaluator import evaluate

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
DAY = 86400
LOO = Split("leave_one_out")
ITEMS = (
    "item_id,title,year,genres,price,brand\n"
    'a,"Tom &amp; Jerry",1992,Comedy|Family,10,x\n'
    "b,Alien,,Horror,20,\n"
    "c,Heat &#39;95,1995,,,y\n"
    "d,,,,40,x\n"
)
LOG = "user_id,item_id,timestamp\n" + "".join(
    f"u{user},{item},{1_600_000_000 + (10 * user + k) * DAY}\n" for user in range(3) for k, item in enumerate("abc")
)


def build(folder, items=ITEMS, log=LOG, **settings):
    (folder / "interactions.csv").write_text(log)
    (folder / "items.csv").write_text(items)
    return build_dataset(Data(path=str(folder), **{"split": LOO} | settings))


def test_texts_are_unescaped(tmp_path):
    dataset = build(tmp_path)
    assert dataset.titles == ["Tom & Jerry", "Alien", "Heat '95", "d"]
    assert dataset.texts[0] == "Tom & Jerry. 1992. Comedy|Family. x"


def test_template_leaves_nothing_of_what_is_missing(tmp_path):
    dataset = build(tmp_path, text_template="{title} ({year}). {genres}")
    assert dataset.texts == ["Tom & Jerry (1992). Comedy|Family", "Alien. Horror", "Heat '95 (1995).", ""]
    assert dataset.summary["items without text"] == 1
    assert dataset.fingerprint != build(tmp_path).fingerprint
    assert dataset.rows_digest == build(tmp_path).rows_digest


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{titel}", r"no column 'titel' \(data.text_template\).*did you mean 'title'.*item_id, title, year"),
        ("{title", "can't be read"),
        ("a {} b", "expected only a column's name"),
        ("{title:>10}", "expected only a column's name"),
        ("{title!r}", "expected only a column's name"),
        ("nothing", "names no column"),
    ],
)
def test_mistakes_in_templates(tmp_path, template, message):
    with pytest.raises(UserError, match=message):
        build(tmp_path, text_template=template)


def test_a_template_reaches_no_attribute_of_python(tmp_path):
    with pytest.raises(UserError, match=r"no column 'title\.__class__'"):
        build(tmp_path, text_template="{title.__class__}")


@given(st.lists(st.sampled_from(["", "Alien", "x, y", None]), min_size=1, max_size=5))
def test_filling_never_fails_and_doubles_braces(values):
    column = pl.Series(values, dtype=pl.String)
    texts = fill("{{{title}}} - {title}.", {"title": column}, "items.csv")
    assert texts.to_list() == [f"{{{value}}} - {value}." if value else "" for value in values]


def test_attributes_are_told_by_their_values(tmp_path):
    dataset = build(tmp_path, item_attributes=["price", "brand", "year"])
    items = dataset.features.items
    assert items.numbers["price"].tolist()[:2] == [10.0, 20.0] and np.isnan(items.numbers["price"][2])
    assert list(items.vocabularies["brand"]) == ["x", "y"]
    assert [items.lists["brand"][i].tolist() for i in range(4)] == [[0], [], [1], [0]]
    about = items.statistics()["numeric"]["price"]
    assert about["mean"] == pytest.approx(70 / 3) and about["missing"] == 1 and about["max"] == 40
    assert dataset.features.categories == "genres"
    assert [dataset.categories[i].tolist() for i in range(4)] == [[0, 1], [2], [], []]
    matrix = items.matrix()
    assert matrix.shape == (4, 2 + 2 + 3)
    assert matrix[:, 0].sum() == pytest.approx(0, abs=1e-6) and matrix[2, 0] == 0
    assert matrix[0, 4:].tolist() == [0.5, 0.5, 0.0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"item_attributes": ["prise"]}, "no column 'prise'.*did you mean 'price'"),
        ({"categories": "genre"}, "no column 'genre'.*did you mean 'genres'"),
        ({"user_attributes": ["age"]}, "users file"),
        ({"embeddings": {"a/b": "x.npy"}}, "can't name a file"),
        ({"embeddings": {"image": "nowhere.npy"}}, "data.embeddings.image: there is no file 'nowhere.npy'"),
        ({"embeddings": {"image": "column:vector"}}, "no column 'vector'"),
    ],
)
def test_mistakes_in_features(tmp_path, settings, message):
    with pytest.raises(UserError, match=message):
        build(tmp_path, **settings)


def test_vectors_from_npy_follow_the_items_file(tmp_path):
    vectors = np.arange(8, dtype=np.float64).reshape(4, 2) + 1
    np.save(tmp_path / "image.npy", vectors)
    log = LOG + "u9,new,1700000000\n"
    dataset = build(tmp_path, log=log, embeddings={"image": str(tmp_path / "image.npy")})
    assert dataset.features.embeddings["image"].tolist() == [*vectors.tolist(), [0, 0]]
    dropped = build(tmp_path, log=log, min_item_events=1, embeddings={"image": str(tmp_path / "image.npy")})
    assert dropped.item_ids.tolist() == ["a", "b", "c", "new"]
    assert dropped.features.embeddings["image"].tolist() == [*vectors[:3].tolist(), [0, 0]]


def test_vectors_from_parquet_and_from_a_column(tmp_path):
    source = pl.DataFrame({"item_id": ["c", "a"], "vector": [[1.0, 2.0], [3.0, 4.0]]})
    source = source.with_columns(pl.col("vector").cast(pl.Array(pl.Float32, 2)))
    source.write_parquet(tmp_path / "image.parquet")
    dataset = build(tmp_path, embeddings={"image": str(tmp_path / "image.parquet")})
    assert dataset.features.embeddings["image"].tolist() == [[3, 4], [0, 0], [1, 2], [0, 0]]
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "interactions.csv").write_text(LOG)
    table = pl.DataFrame({"item_id": list("abc"), "title": list("ABC"), "vector": [[1, 2], None, [5, 6]]})
    table.write_parquet(tmp_path / "more" / "items.parquet")
    dataset = build_dataset(Data(path=str(tmp_path / "more"), split=LOO, embeddings={"audio": "column:vector"}))
    assert dataset.features.embeddings["audio"].tolist() == [[1, 2], [0, 0], [5, 6]]


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((3, 2)) + 1, "has 3 rows, but the items file has 4"),
        (np.zeros(4), "expected numbers of shape"),
        (np.full((4, 2), np.nan), "nan or infinite"),
        (np.zeros((4, 2)), "no item of the catalogue has a vector"),
        (np.array([["a"]] * 4), "expected numbers"),
        (np.array([[None]] * 4), "is no .npy file of numbers"),
    ],
)
def test_unfit_vectors_are_refused(tmp_path, array, message):
    np.save(tmp_path / "image.npy", array, allow_pickle=True)
    with pytest.raises(UserError, match=message):
        build(tmp_path, embeddings={"image": str(tmp_path / "image.npy")})


def test_everything_is_written_and_read_again(tmp_path):
    np.save(tmp_path / "image.npy", np.eye(4))
    log = LOG.replace("timestamp", "timestamp,rating").splitlines()
    log = "\n".join([log[0], *(line + ",3" for line in log[1:])]) + "\n"
    dataset = build(
        tmp_path, log=log, weight="log", item_attributes=["price"], embeddings={"image": str(tmp_path / "image.npy")}
    )
    out = tmp_path / "out"
    out.mkdir()
    dataset.write(out)
    back = Dataset.read(out)
    assert back.fingerprint == dataset.fingerprint
    assert back.times.tolist() == dataset.times.tolist() and back.times.dtype == np.int64
    assert back.weights.tolist() == pytest.approx([np.log(4)] * 9) and back.weights.dtype == np.float32
    assert back.features.about() == dataset.features.about()
    assert json.loads((out / "features.json").read_text())["items"]["numeric"]["price"]["max"] == 40
    assert sorted(path.name for path in out.iterdir()) == [
        "dataset.json", "embedding_image.npy", "features.json", "interactions.parquet", "item_features.parquet",
        "items.parquet", "users.parquet",
    ]  # fmt: skip
    assert pl.read_parquet(out / "items.parquet")["train_events"].to_list() == [3, 0, 0, 0]


WORDS = st.text(st.characters(codec="utf-8", exclude_characters="\x1f\x1e"), max_size=6)


@st.composite
def datasets(draw):
    """Data sets with whatever a data set may have."""
    users, items = draw(st.integers(1, 5)), draw(st.integers(1, 6))
    counts = np.array(draw(st.lists(st.integers(0, 4), min_size=users, max_size=users)))
    events = int(counts.sum())
    numbers = st.floats(width=32, allow_infinity=False, allow_nan=False) | st.just(float("nan"))

    def array(of, kind, size=events):
        return np.array(draw(st.lists(of, min_size=size, max_size=size)), kind)

    vocabulary = sorted(set(draw(st.lists(WORDS.filter(bool), min_size=1, max_size=4))))
    lengths = array(st.integers(0, len(vocabulary)), np.int64, items)
    codes = Lists(
        np.concatenate([[0], np.cumsum(lengths)]), np.concatenate([[], *map(np.arange, lengths)]).astype(np.int32)
    )
    features = Features(
        Attributes({"price": array(numbers, np.float32, items)}, {"kind": codes}, {"kind": vocabulary}),
        Attributes({"age": array(numbers, np.float32, users)}),
        {"image": array(st.lists(st.floats(-1, 1, width=32), min_size=2, max_size=2), np.float32, items)},
        "kind",
    )
    return Dataset(
        np.array([f"{draw(WORDS)} {i}" for i in range(users)], object),
        np.array([f"{draw(WORDS)} {i}" for i in range(items)], object),
        [draw(WORDS) for _ in range(items)],
        [draw(WORDS) for _ in range(items)],
        np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        array(st.integers(0, items - 1), np.int32),
        array(st.integers(0, 3), np.uint8),
        {"rows read": events},
        array(st.integers(-(2**60), 2**60), np.int64) if draw(st.booleans()) else None,
        array(st.floats(0, 9, width=32), np.float32) if draw(st.booleans()) else None,
        features if draw(st.booleans()) else Features(),
    )


@settings(max_examples=500, deadline=None)
@given(datasets())
def test_reading_what_was_written_is_the_identity(tmp_path_factory, dataset):
    folder = tmp_path_factory.mktemp("data")
    dataset.write(folder)
    back = Dataset.read(folder)
    for name in ("user_ids", "item_ids", "indptr", "items", "parts", "times", "weights"):
        first, second = getattr(dataset, name), getattr(back, name)
        assert (first is None and second is None) or first.tolist() == second.tolist()
    assert (back.titles, back.texts, back.summary) == (dataset.titles, dataset.texts, dataset.summary)
    found = dict(back.features.arrays())
    for name, values in dataset.features.arrays():
        np.testing.assert_array_equal(found[name], values)
    assert len(found) == len(dict(dataset.features.arrays()))
    assert back.fingerprint == dataset.fingerprint


def test_fingerprint_covers_texts_times_weights_and_features(tmp_path):
    base = build(tmp_path, item_attributes=["price"])
    other = dataclasses.replace(base.features.items, numbers={"price": base.features.items.numbers["price"] + 1})
    versions = [
        base,
        dataclasses.replace(base, texts=["", *base.texts[1:]]),
        dataclasses.replace(base, titles=["", *base.titles[1:]]),
        dataclasses.replace(base, times=base.times + 1),
        dataclasses.replace(base, times=None),
        dataclasses.replace(base, weights=np.ones(9, np.float32)),
        dataclasses.replace(base, features=dataclasses.replace(base.features, items=other)),
        dataclasses.replace(base, features=Features()),
    ]
    assert len({version.fingerprint for version in versions}) == len(versions)
    assert len({version.rows_digest for version in versions}) == 1


def test_calibration_is_measured_where_there_are_categories(tmp_path):
    cases = cases_of(build(tmp_path), TEST)
    ranked = np.array([[3, 2]] * 3)
    assert np.isnan(evaluate(ranked, cases, ["calibration@2"]).values["calibration@2"])  # d and c have no genre
    with_genre = evaluate(np.array([[1, 2]] * 3), cases, ["calibration@2"]).values["calibration@2"]
    assert with_genre > 0
    with pytest.raises(UserError, match="needs item categories"):
        evaluate(ranked, cases_of(build(tmp_path, ITEMS.replace("genres", "sort")), TEST), ["calibration@2"])


def slow_behaviour(times, items, prices, kinds, width):
    """The definition, one context at a time."""
    known = [p for p in (prices[i] for i in items) if not np.isnan(p)]
    mix = np.zeros(width)
    for i in items:
        for kind in kinds[i]:
            mix[kind] += 1 / len(kinds[i])
    gap = times[-1] - times[-2] if len(times) > 1 else 0
    rate = len(times) / max((times[-1] - times[0]) / DAY, 1)
    spread = [np.mean(known), np.std(known)] if known else [0, 0]
    return [np.log1p(len(items)), np.log1p(gap / DAY), np.log1p(rate), 1.0, *spread, *(mix / max(mix.sum(), 1e-12))]


def test_behaviour_is_the_definition_and_knows_no_future(tmp_path):
    dataset = build(tmp_path, item_attributes=["price"], split=Split("user_ratio", [0.7, 0.0, 0.3]))
    contexts = train_contexts(dataset)
    rows = np.arange(len(contexts))[::-1]
    found = behaviour_features(dataset, contexts, rows)
    assert found.shape == (len(rows), len(behaviour_names(dataset)))
    about = dataset.features.items.statistics()["numeric"]["price"]
    prices = (dataset.features.items.numbers["price"] - about["mean"]) / about["std"]
    for row, values in zip(rows, found, strict=True):
        items = contexts.items[contexts.start[row] : contexts.stop[row]]
        start = dataset.indptr[contexts.user[row]]
        times = dataset.times[start : start + len(items)]
        np.testing.assert_allclose(values, slow_behaviour(times, items, prices, dataset.categories, 3), atol=1e-6)
    later = dataclasses.replace(dataset, times=np.where(dataset.parts > TRAIN, dataset.times + 10**8, dataset.times))
    np.testing.assert_array_equal(behaviour_features(later, contexts, rows), found)


def test_behaviour_of_synthetic_and_of_new_users(tmp_path):
    dataset = build(tmp_path, item_attributes=["price"])
    lists = Lists(np.array([0, 2, 4]), np.array([0, 3, 0, 1], np.int32))
    contexts = from_lists(lists, dataset.n_items, Kind.ROLLOUT, np.array([0, -1]))
    found = behaviour_features(dataset, contexts, np.array([0, 1]))
    assert found[:, 3].tolist() == [0.5, 0.0]  # item d is a roll-out's; the second has no user
    assert (found[1, 1:3] == 0).all() and np.isfinite(found).all()
    day = int(dataset.times[0]) + 7 * DAY
    asked = behaviour_features(dataset, contexts, np.array([0, 1]), now=np.array([day, day]))
    assert asked[:, 1].tolist() == pytest.approx([np.log(8), 0])
    without = dataclasses.replace(dataset, times=None, features=Features())
    assert behaviour_features(without, contexts, np.array([0])).tolist() == [[pytest.approx(np.log(3)), 0, 0, 0]]
    assert behaviour_features(dataset, prefixes(lists, 4, Kind.REAL, np.array([0, 1])), np.empty(0, int)).shape[0] == 0


def test_joining_keeps_the_geometry_of_both():
    rng = np.random.default_rng(0)
    text, image = rng.normal(size=(50, 6)).astype(np.float32), 100 * rng.normal(size=(50, 4)).astype(np.float32)
    whole = join_vectors(text, image, width=10)
    assert whole.shape == (50, 10) and whole.dtype == np.float32
    scaled = [v - v.mean(0) for v in (text, image)]
    scaled = [v / np.sqrt((v**2).sum(1)).mean() for v in scaled]
    expected = sum(v @ v.T for v in scaled)
    ours = whole.astype(np.float64) @ whole.T
    np.testing.assert_allclose(ours / np.trace(ours), expected / np.trace(expected), atol=1e-6)
    assert join_vectors(text, image).shape == (50, 6)
    np.testing.assert_array_equal(join_vectors(text, image), join_vectors(text, image))
    assert join_vectors(text, None) is text and join_vectors(None, None) is None
    assert join_vectors(None, image).shape == (50, 4)


def test_groups_of_item_features(tmp_path):
    np.save(tmp_path / "image.npy", np.eye(4))
    dataset = build(tmp_path, item_attributes=["price"], embeddings={"image": str(tmp_path / "image.npy")})
    assert item_matrix(dataset.features, []) is None
    assert item_matrix(dataset.features, ["image", "attributes"]).shape == (4, 4 + 1 + 3)
    with pytest.raises(UserError, match=r"no group 'imag'.*did you mean 'image'.*has: image, attributes"):
        item_matrix(dataset.features, ["imag"])


GENRES = ["Action", "Comedy", "Drama", "War", "Sci-Fi", "Children's"]


def test_blanks_separate_categories_where_few_words_make_many_cells():
    combinations = [" ".join(pair) for pair in itertools.combinations(GENRES, 2)] + GENRES
    lists, vocabulary = categories_of(pl.Series(combinations), blanks=True)
    assert vocabulary == sorted(GENRES)
    assert [[vocabulary[code] for code in lists[row]] for row in (0, 20)] == [["Action", "Comedy"], ["Children's"]]
    _, whole = categories_of(pl.Series(combinations))
    assert len(whole) == len(combinations)


@pytest.mark.parametrize(
    "cells",
    [
        ["Home Decor", "Desk Lamps", "Office Chairs", "Home Decor", "Green Tea"],
        ["Science Fiction|War", *(" ".join(pair) for pair in itertools.combinations(GENRES, 2))],
        ["one", None, "two"],
    ],
)
def test_blanks_inside_a_category_stay(cells):
    assert categories_of(pl.Series(cells), blanks=True)[1] == categories_of(pl.Series(cells))[1]


@pytest.mark.skipif(not SHARED.is_dir(), reason="no shared data sets beside the project")
def test_recboles_class_column_of_movielens_gives_its_genres():
    dataset = build_dataset(Data(path=str(SHARED / "ml-100k")))
    assert dataset.features.categories == "class"
    vocabulary = dataset.features.items.vocabularies["class"]
    assert len(vocabulary) == 19 and {"Sci-Fi", "Film-Noir", "Children's"} <= set(vocabulary)
    toy_story = int(np.flatnonzero(dataset.item_ids == "1")[0])
    assert [vocabulary[c] for c in dataset.categories[toy_story]] == ["Animation", "Children's", "Comedy"]
