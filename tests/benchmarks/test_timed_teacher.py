"""The teacher as it is timed: its texts encoded live by torch and by its ONNX export; a damaged latency folder."""

import numpy as np
import pytest
import torch

from distill.ask import contexts_of
from distill.config import Config, Run, Spec, Teacher, to_tree
from distill.data.dataset import TEST, Dataset
from distill.errors import UserError
from distill.export_teacher import export_teacher
from distill.measure_latency import subjects
from distill.ranking.cases import cases_of
from distill.runs import command_of, open_stage, run_stage, write_json
from distill.timed_models import (
    LIVE_HISTORY,
    ONNX_HISTORY,
    exported_towers,
    open_teacher,
    teacher_answer,
    text_members,
)
from distill.train_teacher import load_teacher
from teachers.protocol import Inputs
from teachers.text_tower import TextTower

N_ITEMS = 40
TOWER = {"hidden_size": 32, "vocabulary": 200, "max_tokens": 12, "epochs": 0, "tfidf_share": 0.0, "precision": "fp32"}


def sample() -> Dataset:
    random = np.random.default_rng(0)
    words = ["war", "love", "sea", "snow", "dog", "train", "night", "letter"]
    texts = [" ".join(random.choice(words, random.integers(2, 9))) for _ in range(N_ITEMS)]
    users = 20
    return Dataset(
        user_ids=np.array([str(user) for user in range(users)]),
        item_ids=np.array([str(item) for item in range(N_ITEMS)]),
        titles=texts,
        texts=texts,
        indptr=np.arange(users + 1, dtype=np.int64) * 8,
        items=np.concatenate([random.choice(N_ITEMS, 8, replace=False) for _ in range(users)]).astype(np.int32),
        parts=np.tile(np.array([0] * 6 + [1, 2], np.uint8), users),
    )


def made(folder, **settings) -> Config:
    """A run with data and a teacher of one text tower."""
    arguments = {**TOWER, **settings}
    config = Config(
        run=Run(name="sample", folder=str(folder)), teacher=Teacher(members={"tower": Spec("text_tower", arguments)})
    )
    dataset = sample()
    (config.folder / "data").mkdir(parents=True)
    dataset.write(config.folder / "data")
    tower = TextTower(**arguments)
    tower.prepare(Inputs(dataset, {}, 0, torch.device("cpu")))
    (config.folder / "teacher").mkdir()
    tower.save(config.folder / "teacher" / "tower")
    write_json(config.folder / "teacher" / "fusion.json", {"weights": {"tower": 1.0}, "sharpness": 1.0, "tilt": 0.0})
    return config


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    found = made(tmp_path_factory.mktemp("run"))
    export_teacher(found, sample(), found.folder / "export" / "teacher")
    return found


def test_the_exported_tower_encodes_as_torch_does(config):
    members = text_members(config, load_teacher(config))
    (exported,) = exported_towers(config, members)
    texts = [*sample().texts, "a letter", "snow"]
    np.testing.assert_allclose(exported.encode(texts), members["tower"].encode(texts), atol=1e-5)


def test_both_give_the_same_lists(config):
    dataset = sample()
    contexts = contexts_of(cases_of(dataset, TEST))
    by_torch, by_onnx = (teacher_answer(config, dataset, contexts, live) for live in (LIVE_HISTORY, ONNX_HISTORY))
    for number in range(len(dataset.user_ids)):
        lists = by_onnx(number)
        assert lists.shape == (1, 10) and torch.equal(lists, by_torch(number))


def test_the_measured_process_opens_it_from_plain_values(config):
    tree = to_tree(config)
    for key in ("source", "overrides"):
        del tree[key]
    engine = open_teacher(tree, ONNX_HISTORY, 5)
    assert engine.rows == 20 and engine.one(3).shape == (1, 5)


def test_a_teacher_that_was_not_exported_says_so(tmp_path):
    config = made(tmp_path)
    with pytest.raises(UserError, match=r"member 'tower' wasn't exported\. Set export\.teacher: true"):
        exported_towers(config, text_members(config, load_teacher(config)))


def test_vectors_with_words_beside_the_encoder_are_refused(tmp_path):
    config = made(tmp_path, tfidf_share=0.5, tfidf_width=8)
    export_teacher(config, sample(), config.folder / "export" / "teacher")
    with pytest.raises(UserError, match="have a TF-IDF part"):
        exported_towers(config, text_members(config, load_teacher(config)))


def test_the_export_is_a_subject_where_it_lies_in_the_bundle(config, tmp_path):
    about = {"format": 1, "variants": {}, "student": {"dim": 8}}
    write_json(config.folder / "export" / "bundle.json", about)
    (config.folder / "student").mkdir(exist_ok=True)
    (config.folder / "student" / "model.safetensors").write_bytes(bytes(10))
    found = {subject.name: subject for subject in subjects(config, sample(), tmp_path / "histories.npz")}
    tower = config.folder / "export" / "teacher" / "tower.tower.onnx"
    assert found[ONNX_HISTORY].bytes == tower.stat().st_size and found[LIVE_HISTORY].bytes > 0
    tower.rename(tower.with_suffix(".away"))
    try:
        names = {subject.name for subject in subjects(config, sample(), tmp_path / "histories.npz")}
        assert ONNX_HISTORY not in names and LIVE_HISTORY in names
    finally:
        tower.with_suffix(".away").rename(tower)


def test_a_damaged_latency_folder_names_the_command_that_makes_it(tmp_path):
    folder = run_stage(tmp_path / "latency", {}, [], lambda path: (path / "latency.md").write_text("fast") and None)
    assert open_stage(folder, "mine.yaml")
    (folder / "latency.md").write_text("faster")
    with pytest.raises(UserError, match=r"Rebuild with: distill benchmark --only latency mine\.yaml"):
        open_stage(folder, "mine.yaml")
    assert command_of("report") == "benchmark"
