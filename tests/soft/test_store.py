"""The soft-score store: what is written is what is looked up; damage and mistaken identity are named."""

import json
import tempfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.errors import UserError
from distill.soft.store import INDEX, Store, StoreHeader, StoreWriter, damaged_shards, stored_fields, unanswered

ROWS, SHARD, K, N = 23, 5, 4, 50
STARTS = list(range(0, ROWS, SHARD))


def header(k=K, tail=0, temperatures=(1.0, 2.0), hidden=0):
    return StoreHeader(
        k, list(temperatures), tail, N, item_vocabulary="v" * 64, data="d" * 64, teacher="t" * 64, hidden=hidden
    )


def answers(rows=ROWS, k=K, tail=0, temperatures=2, seed=0, hidden=0):
    rng = np.random.default_rng(seed)
    found = {
        "items": rng.integers(0, N, (rows, k)),
        "scores": -np.sort(rng.gamma(2, 4, (rows, k)), 1),
        "logz": rng.normal(0, 3, (rows, temperatures)),
    }
    if tail:
        found |= {
            "tail_items": rng.integers(0, N, (rows, tail)),
            "tail_scores": rng.normal(-9, 1, (rows, tail)),
            "tail_logq": np.full((rows, tail), -np.log(N - k)),
        }
    if hidden:
        found["hidden"] = rng.normal(0, 1, (rows, hidden))
    return found


def fill(folder, about=None, arrays=None, skip=(), close=True):
    about, arrays = about or header(), arrays if arrays is not None else answers()
    writer = StoreWriter(folder, about)
    for shard, first in enumerate(STARTS):
        if shard not in skip:
            rows = np.arange(first, min(first + SHARD, ROWS))
            writer.write(shard, rows, {name: value[rows] for name, value in arrays.items()})
    if close:
        writer.close(STARTS, ROWS)
    return writer


@pytest.mark.parametrize(("tail", "hidden"), [(0, 0), (3, 0), (0, 8), (3, 8)])
def test_round_trip_in_any_order_and_with_repeats(tmp_path, tail, hidden):
    arrays = answers(tail=tail, hidden=hidden)
    fill(tmp_path, header(tail=tail, hidden=hidden), arrays)
    store = Store.open(tmp_path, "v" * 64, "d" * 64, "t" * 64, verify=True)
    assert store.rows == ROWS and store.header == header(tail=tail, hidden=hidden)
    assert set(store.fields) == set(arrays)
    rows = np.random.default_rng(1).integers(0, ROWS, 200)
    found = store.lookup(rows, tuple(arrays))
    for name, wanted in arrays.items():
        if wanted.dtype == np.int64:
            assert found[name].dtype == np.int32
            np.testing.assert_array_equal(found[name], wanted[rows])
        else:
            half = name in ("scores", "tail_scores", "hidden")
            assert found[name].dtype == (np.float16 if half else np.float32)
            np.testing.assert_allclose(found[name], wanted[rows], rtol=2.0**-11 if half else 1e-6)
    assert store.lookup(rows).keys() == {"items", "scores", "logz"}
    assert store.lookup(np.empty(0, np.int64))["items"].shape == (0, K)


def test_half_precision_is_within_one_thousandth_where_it_matters(tmp_path):
    """Log-scores within 16 of the best carry all of the mass; there half precision errs by at most 2^-7 / 2 nats."""
    arrays = answers()
    arrays["scores"] = -np.sort(np.random.default_rng(0).uniform(0, 16, (ROWS, K)), 1)
    fill(tmp_path, arrays=arrays)
    found = Store.open(tmp_path).lookup(np.arange(ROWS))["scores"].astype(np.float64)
    assert np.abs(found - arrays["scores"]).max() <= 2.0**-8


def test_the_index_has_what_the_format_promises(tmp_path):
    fill(tmp_path)
    about = json.loads((tmp_path / INDEX).read_text())
    assert about["rows"] == ROWS and about["k"] == K and about["temperatures"] == [1.0, 2.0]
    assert [s["first_row"] for s in about["shards"]] == STARTS
    assert all(len(s["sha256"]) == 64 for s in about["shards"])


def test_a_row_at_k_100_takes_no_more_than_700_bytes(tmp_path):
    rows = np.arange(1000)
    writer = StoreWriter(tmp_path, header(k=100, temperatures=[1.0]))
    writer.write(0, rows, answers(len(rows), 100, temperatures=1))
    assert writer.path(0).stat().st_size / len(rows) <= 700


@pytest.mark.parametrize("rows", [2_000, 20_000])
def test_memory_does_not_grow_with_the_rows(tmp_path, rows):
    writer = StoreWriter(tmp_path, header(k=100, temperatures=[1.0]))
    writer.write(0, np.arange(rows), answers(rows, 100, temperatures=1))
    writer.close([0], rows)
    tracemalloc.start()
    store = Store.open(tmp_path)
    for seed in range(5):
        found = store.lookup(np.random.default_rng(seed).integers(0, rows, 64))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * sum(value.nbytes for value in found.values()) + 100_000 < writer.path(0).stat().st_size
    assert not any(array.flags.writeable for array in store.shards[0].values())


@settings(max_examples=30, deadline=None)
@given(
    data=st.data(),
    k=st.integers(1, 6),
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=5),
    tail=st.integers(0, 3),
    hidden=st.integers(0, 3),
)
def test_any_store_gives_back_what_it_was_given(data, k, sizes, tail, hidden):
    rows = sum(sizes)
    numbers = st.floats(-60_000, 60_000, width=16)

    def array(shape, elements):
        return np.array(data.draw(st.lists(elements, min_size=shape, max_size=shape)))

    about = header(k, tail, [1.0], hidden)
    arrays = {"items": array(rows * k, st.integers(-1, N - 1)).reshape(rows, k)}
    arrays["scores"] = array(rows * k, numbers).reshape(rows, k)
    arrays["logz"] = array(rows, st.floats(-1e6, 1e6, width=32)).reshape(rows, 1)
    for name in ("tail_items", "tail_scores", "tail_logq"):
        arrays[name] = array(rows * tail, st.integers(0, N - 1) if name == "tail_items" else numbers).reshape(
            rows, tail
        )
    arrays["hidden"] = array(rows * hidden, numbers).reshape(rows, hidden)
    asked = array(7, st.integers(0, rows - 1))
    starts = [0, *np.cumsum(sizes)[:-1].tolist()]
    with tempfile.TemporaryDirectory() as folder:
        writer = StoreWriter(Path(folder), about)
        for shard, (first, size) in enumerate(zip(starts, sizes, strict=True)):
            part = slice(first, first + size)
            writer.write(shard, np.arange(rows)[part], {name: value[part] for name, value in arrays.items()})
        writer.close(starts, rows)
        store = Store.open(Path(folder), verify=True)
        found = store.lookup(asked, store.fields)
    for name, value in found.items():
        np.testing.assert_array_equal(value, arrays[name][asked])


@pytest.mark.parametrize("wrong", [-1, ROWS, 10**9])
def test_an_unknown_row_is_refused(tmp_path, wrong):
    fill(tmp_path)
    with pytest.raises(UserError, match=rf"holds rows 0..{ROWS - 1}; asked for .*{wrong}"):
        Store.open(tmp_path).lookup(np.array([0, wrong]))


def test_no_store_and_another_format(tmp_path):
    with pytest.raises(UserError, match=r"no finished soft-score store .* distill score-teacher"):
        Store.open(tmp_path)
    fill(tmp_path)
    about = json.loads((tmp_path / INDEX).read_text())
    (tmp_path / INDEX).write_text(json.dumps({**about, "format": 99}))
    with pytest.raises(UserError, match=r"format 99, this version reads 1"):
        Store.open(tmp_path)


@pytest.mark.parametrize(("name", "letter"), [("item_vocabulary", "v"), ("data", "d"), ("teacher", "t")])
def test_scores_of_another_vocabulary_data_set_or_teacher_are_refused(tmp_path, name, letter):
    fill(tmp_path)
    words = name.replace("_", " ")
    with pytest.raises(UserError, match=f"made for another {words}: {letter}{{12}}, expected x{{12}}"):
        Store.open(tmp_path, **{name: "x" * 64})


@pytest.mark.parametrize(("name", "setting"), [("hidden", "scores.hidden"), ("tail_items", "scores.tail_samples")])
def test_what_is_not_stored_is_named_with_its_setting(tmp_path, name, setting):
    fill(tmp_path)
    with pytest.raises(UserError, match=rf"holds no .*distill score-teacher CONFIG {setting}="):
        Store.open(tmp_path).lookup(np.array([0]), ("items", name))


def test_a_store_written_before_there_were_context_vectors_opens(tmp_path):
    fill(tmp_path)
    about = json.loads((tmp_path / INDEX).read_text())
    del about["hidden"]
    (tmp_path / INDEX).write_text(json.dumps(about))
    assert Store.open(tmp_path).header == header()


def test_all_damage_is_listed_by_name(tmp_path):
    writer = fill(tmp_path)
    assert damaged_shards(tmp_path) == []
    writer.path(0).unlink()
    writer.path(2).write_bytes(writer.path(2).read_bytes()[:-1])
    data = bytearray(writer.path(3).read_bytes())
    data[-1] ^= 1
    writer.path(3).write_bytes(data)
    found = [(name.partition(".")[0], what) for name, what in damaged_shards(tmp_path)]
    assert found == [("shard-00000", "missing"), ("shard-00002", "truncated"), ("shard-00003", "altered")]


def test_rows_nobody_was_asked_about_come_back_as_such(tmp_path):
    about = header(tail=2, hidden=3)
    writer = StoreWriter(tmp_path, about)
    writer.write(0, np.arange(4), unanswered(4, about))
    writer.close([0], 4)
    found = Store.open(tmp_path).lookup(np.arange(4), stored_fields(about))
    assert (found["items"] == -1).all() and (found["tail_items"] == -1).all()
    assert all(np.isfinite(value).all() for value in found.values())


def test_an_index_that_is_no_json(tmp_path):
    fill(tmp_path)
    (tmp_path / INDEX).write_text("{")
    with pytest.raises(UserError, match=r"store.json is damaged"):
        Store.open(tmp_path)


def test_a_missing_shard_is_named(tmp_path):
    writer = fill(tmp_path)
    writer.path(2).unlink()
    with pytest.raises(UserError, match=r"shard-00002.safetensors is missing. Make this shard anew"):
        Store.open(tmp_path)


@pytest.mark.parametrize("kept", [0, 7, 40, -1])
def test_a_truncated_shard_is_named(tmp_path, kept):
    path = fill(tmp_path).path(1)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(UserError, match=r"shard-00001.safetensors is (truncated|no safetensors file)"):
        Store.open(tmp_path)


def test_an_altered_shard_is_named_when_verified(tmp_path):
    path = fill(tmp_path).path(3)
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"shard-00003.safetensors was altered"):
        Store.open(tmp_path, verify=True)


def test_a_header_that_is_no_json_is_named(tmp_path):
    path = fill(tmp_path).path(3)
    data = bytearray(path.read_bytes())
    data[8:12] = b"\xff\xff\xff\xff"
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"shard-00003.safetensors is no safetensors file"):
        Store.open(tmp_path)


def test_shards_that_changed_places_are_refused(tmp_path):
    writer = fill(tmp_path)
    first, second = writer.path(0), writer.path(1)
    data = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(data)
    with pytest.raises(UserError, match=r"shard-00000.safetensors holds rows 5..9, expected 0..4"):
        Store.open(tmp_path)


@pytest.mark.parametrize("name", ["scores", "logz", "tail_scores", "hidden"])
def test_nan_is_refused_with_its_row(tmp_path, name):
    arrays = answers(tail=2, hidden=3)
    arrays[name][11, 1] = np.nan
    with pytest.raises(UserError, match=rf"NaN for row 11 \({name}\)"):
        fill(tmp_path, header(tail=2, hidden=3), arrays)
    assert not (tmp_path / INDEX).exists()


def test_scores_beyond_half_precision_are_refused(tmp_path):
    arrays = answers()
    arrays["scores"][0, 0] = 1e5
    with pytest.raises(UserError, match=r"scores up to 1e\+05; .* ends at 65504"):
        fill(tmp_path, arrays=arrays)


def test_rows_must_be_consecutive(tmp_path):
    with pytest.raises(ValueError, match="aren't consecutive"):
        StoreWriter(tmp_path, header()).write(0, np.array([0, 2]), answers(2))


def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    fill(whole)
    writer = fill(killed, skip=(1, 4), close=False)
    (killed / "shard-00001.123.tmp").write_bytes(b"half")
    assert [writer.has(n) for n in range(len(STARTS))] == [True, False, True, True, False]
    with pytest.raises(UserError, match="no finished soft-score store"):
        Store.open(killed)
    fill(killed, skip=(0, 2, 3))
    for name in (INDEX, *(writer.path(n).name for n in range(len(STARTS)))):
        assert (killed / name).read_bytes() == (whole / name).read_bytes()
    rows = np.arange(ROWS)
    np.testing.assert_array_equal(Store.open(killed).lookup(rows)["items"], Store.open(whole).lookup(rows)["items"])


def test_a_store_of_one_shard(tmp_path):
    writer = StoreWriter(tmp_path, header())
    writer.write(0, np.arange(1), answers(1))
    writer.close([0], 1)
    assert Store.open(tmp_path).lookup(np.array([0, 0]))["scores"].shape == (2, K)
