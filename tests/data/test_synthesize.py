"""The synthetic data set: read by `prepare`, the same by seed, Zipf, drifting, told by its texts, and learnable."""

import numpy as np
import polars as pl
import pytest

from distill.cli import main as command_line
from distill.config import Data
from distill.data import synthetic
from distill.data.dataset import TEST, TRAIN
from distill.data.load import build_dataset
from distill.data.similar import alike_texts
from distill.errors import UserError
from distill.runs import sha256
from distill.synthesize import synthesize

USERS, ITEMS, EVENTS = 1500, 1500, 60_000


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("synthetic") / "data"
    synthesize(path, USERS, ITEMS, EVENTS, seed=3)
    return path


@pytest.fixture(scope="module")
def dataset(folder):
    return build_dataset(Data(path=str(folder)))


WORLD = synthetic.make_world(USERS, ITEMS, 3)


def test_prepare_reads_it_whole(folder, dataset):
    assert sorted(p.name for p in folder.iterdir()) == ["interactions.parquet", "items.parquet"]
    assert dataset.summary["rows read"] == EVENTS
    assert dataset.summary["unit of times"] == "seconds"
    assert dataset.n_items == ITEMS and dataset.summary["items without text"] == 0
    assert dataset.features.categories == "category"
    assert dataset.item_ids.tolist() == [str(i + 1) for i in range(ITEMS)]


def test_the_seed_decides_everything(folder, tmp_path):
    synthesize(tmp_path / "again", USERS, ITEMS, EVENTS, seed=3)
    synthesize(tmp_path / "other", USERS, ITEMS, EVENTS, seed=4)
    for name in ("interactions.parquet", "items.parquet"):
        assert sha256(folder / name) == sha256(tmp_path / "again" / name) != sha256(tmp_path / "other" / name)


def test_it_is_written_in_chunks_in_the_order_of_time(tmp_path, monkeypatch):
    monkeypatch.setattr(synthetic, "CHUNK", 1000)
    synthetic.write_interactions(tmp_path / "x.parquet", 50, 30, 4321, 0)
    frame = pl.read_parquet(tmp_path / "x.parquet")
    assert frame.height == 4321 and frame["timestamp"].is_sorted()
    assert frame["user_id"].min() >= 1 and frame["user_id"].max() <= 50
    assert frame["item_id"].min() >= 1 and frame["item_id"].max() <= 30
    assert frame["rating"].is_between(1, 5).all()
    assert [p.name for p in tmp_path.iterdir()] == ["x.parquet"]


def test_popularity_follows_zipfs_law():
    rng = np.random.default_rng(0)
    _, items, _ = synthetic.draw(WORLD, np.full(200_000, 0.5), rng)
    counts = np.sort(np.bincount(items, minlength=ITEMS))[::-1]
    slope = np.polyfit(np.log(np.arange(1, 201)), np.log(counts[:200]), 1)[0]
    assert -1.3 < slope < -0.7


def test_interests_drift_from_the_early_to_the_late_one():
    rng = np.random.default_rng(0)
    for clock, loyal_to in ((0.0, WORLD.early), (1.0, WORLD.late)):
        users, items, ratings = synthetic.draw(WORLD, np.full(20_000, clock), rng)
        inside = WORLD.interest[items] == loyal_to[users]
        assert abs(inside.mean() - synthetic.LOYALTY) < 0.05
        assert ratings[inside].mean() > ratings[~inside].mean() + 0.5
    users, items, _ = synthetic.draw(WORLD, np.full(20_000, 0.5), rng)
    differ = WORLD.early[users] != WORLD.late[users]
    early = (WORLD.interest[items] == WORLD.early[users])[differ].mean()
    assert abs(early - synthetic.LOYALTY / 2) < 0.05


def test_texts_tell_the_interest(dataset):
    table = alike_texts(dataset.texts, np.ones(ITEMS, bool), 5, 0)
    found = table >= 0
    same = WORLD.interest[table[found]] == WORLD.interest[np.nonzero(found)[0]]
    assert found.mean() > 0.5
    assert same.mean() > 0.6, "one in 15 by chance"


def test_item_neighbours_beat_popularity_clearly(dataset):
    """Recall@20 of the test events by co-occurrence with the user's train items, and by popularity."""
    train, test = dataset.lists(TRAIN, TRAIN), dataset.lists(TEST, TEST)
    seen = np.zeros((dataset.n_users, ITEMS), np.float32)
    seen[train.row_numbers(), train.items] = 1
    together = seen.T @ seen
    np.fill_diagonal(together, 0)
    root = np.sqrt(np.maximum(seen.sum(0), 1))
    scores = {"itemknn": seen @ (together / np.outer(root, root)), "popularity": np.tile(seen.sum(0), (len(seen), 1))}
    recall = {}
    for name, values in scores.items():
        values[seen > 0] = -1
        top = np.argsort(-values, axis=1, kind="stable")[:, :20]
        hit = (top[test.row_numbers()] == test.items[:, None]).any(1)
        recall[name] = hit.mean()
    assert recall["itemknn"] > 1.5 * recall["popularity"], recall


@pytest.mark.parametrize(("users", "items", "events"), [(1, 1, 1), (3, 1, 10), (1, 700, 5), (7, 5200, 100)])
def test_small_and_odd_sizes(tmp_path, users, items, events):
    synthesize(tmp_path / "x", users, items, events)
    assert pl.read_parquet(tmp_path / "x" / "interactions.parquet").height == events
    assert pl.read_parquet(tmp_path / "x" / "items.parquet").height == items


def test_the_command(tmp_path):
    words = ["synthesize", "--users", "20", "--items", "10", "--interactions", "99", "--out", str(tmp_path / "x")]
    assert command_line(words) == 0
    assert pl.read_parquet(tmp_path / "x" / "interactions.parquet").height == 99
    assert command_line(words) == 2, "a folder that holds something is left alone"


@pytest.mark.parametrize("wrong", [{"users": 0}, {"items": -1}, {"interactions": 0}, {"seed": -1}])
def test_numbers_that_cannot_be(tmp_path, wrong):
    name = next(iter(wrong))
    with pytest.raises(UserError, match=f"--{name} is"):
        synthesize(tmp_path / "x", **{"users": 5, "items": 5, "interactions": 5, "seed": 0} | wrong)
    assert not (tmp_path / "x").exists()
