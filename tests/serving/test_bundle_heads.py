"""A bundle that says what rating an item would get and whether it would be liked, as the torch student does."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from export_samples import at_random, make_run, write_stages

from distill.config import Head
from distill.data.dataset import Dataset
from distill.errors import UserError
from distill.export import head_graph
from distill.export_student import main
from distill.extensions import extended
from distill.recipes import STUDENT
from distill.recommend import recommend_command
from distill.serving.heads import HEADS
from distill.serving.runtime import Bundle
from students.checkpoint import load_student


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run whose student has a rating head and a binary one, with weights that matter, and its exported files."""
    config = make_run(tmp_path_factory.mktemp("heads"), ("fp32", "int8", "exact"))
    config = dataclasses.replace(config, heads={"rating": Head(0.1), "like": Head(0.1, least=4.0)})
    dataset = Dataset.read(config.folder / "data")
    rng = np.random.default_rng(1)
    dataset = dataclasses.replace(dataset, weights=rng.integers(1, 6, len(dataset.items)).astype(np.float32))
    student = extended(load_student(config.folder / STUDENT), config, dataset)
    at_random(student.heads, 0.3)
    write_stages(config, dataset, student)
    main(config)
    return config


@torch.no_grad()
def of_torch(run, history, items, nobody=-1):
    student = load_student(run.folder / STUDENT).eval()
    query = student.encode(torch.tensor([history])).expand(len(items), -1)
    chosen = torch.tensor(items)
    arguments = query, student.item_table()[chosen], chosen, torch.full((len(items),), nobody)
    return student.heads("rating", *arguments).numpy(), student.heads("like", *arguments).sigmoid().numpy()


@pytest.mark.parametrize("variant", ["fp32", "exact"])
def test_values_are_those_of_torch_for_an_average_user(run, variant):
    bundle, history, items = Bundle.open(run.folder / "export", variant), [3, 17, 8], [0, 5, 17, 299]
    rating, like = of_torch(run, history, items)
    found = bundle.predict([history, history], np.array([items, [5, -1, 0, 0]]))
    assert list(found) == ["rating", "like"] and found["rating"].shape == (2, 4)
    np.testing.assert_allclose(found["rating"][0], rating, atol=0.02)
    np.testing.assert_allclose(found["like"][0], like, atol=0.01)
    assert np.isnan(found["rating"][1, 1]) and found["rating"][1, 0] == found["rating"][0, 1]
    assert rating.std() > 0.1 and like.std() > 0.05, "the weights matter"


def test_int8_is_near_and_the_bundle_says_how_near(run):
    about = json.loads((run.folder / "export" / "bundle.json").read_text())["heads"]
    assert about["names"] == ["rating", "like"] and about["least"] == {"rating": None, "like": 4.0}
    assert set(about["error"]) == {"fp32", "int8", "exact"}
    assert max(about["error"]["fp32"].values()) < 0.005 < max(about["error"]["int8"].values()) < 0.1


def test_histories_of_nothing_have_values_too(run):
    bundle = Bundle.open(run.folder / "export", "fp32")
    found = bundle.predict([[], [4]], np.array([[1, 2], [1, 2]]))
    assert np.isfinite(found["rating"]).all() and (found["rating"][0] != found["rating"][1]).all()
    assert bundle.predict([[4]], np.empty((1, 0), np.int64))["like"].shape == (1, 0)


def test_recommend_shows_them(run, capsys):
    assert recommend_command([str(run.folder), "--history", "i3,i17", "-k", "3", "--json", "--variant", "fp32"]) == 0
    places = json.loads(capsys.readouterr().out)["recommendations"]
    bundle = Bundle.open(run.folder / "export", "fp32")
    ids, _ = bundle.recommend_one([3, 17], 3)
    wanted = bundle.predict([[3, 17]], ids[None])
    np.testing.assert_allclose([place["heads"]["rating"] for place in places], wanted["rating"][0], rtol=1e-6)
    assert recommend_command([str(run.folder), "--history", "i3", "-k", "3"]) == 0
    shown = capsys.readouterr().out
    assert "rating" in shown and "like" in shown


@pytest.mark.parametrize(
    ("items", "message"), [([[300]], "expected 0 to 299"), ([[-2]], "expected 0 to 299"), ([3], r"expected \(1, K\)")]
)
def test_wrong_items_are_refused(run, items, message):
    with pytest.raises(UserError, match=message):
        Bundle.open(run.folder / "export").predict([[3]], np.array(items))


def test_a_head_that_differs_from_torch_is_refused(run, monkeypatch):
    monkeypatch.setattr(head_graph, "MOST_ERROR", {True: 0.01, False: 1e-6})
    other = dataclasses.replace(run, export=dataclasses.replace(run.export, k=7))
    with pytest.raises(UserError, match=r"head 'rating' behind the file 'int8' is .* standard deviations"):
        main(other)


def test_an_altered_file_is_refused(run, tmp_path):
    folder = tmp_path / "export"
    folder.mkdir()
    for path in (run.folder / "export").iterdir():
        if path.is_file():
            (folder / path.name).write_bytes(path.read_bytes())
    (folder / HEADS).write_bytes(b"x" + (folder / HEADS).read_bytes())
    with pytest.raises(UserError, match="altered or damaged"):
        Bundle.open(folder)


def test_bundles_without_heads_say_how_to_get_them(exported_run):
    bundle = Bundle.open(exported_run / "export")
    assert bundle.heads is None and "heads" not in bundle.about
    with pytest.raises(UserError, match="section 'heads'"):
        bundle.predict([[3]], np.array([[1]]))
