"""`distill add-items`: new items enter a trained run's bundle by their texts."""

import dataclasses

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from distill.add_items import add_items, add_items_command
from distill.config import load
from distill.data.contexts import train_contexts
from distill.data.dataset import Dataset
from distill.errors import UserError
from distill.prepare import main as prepare
from distill.runs import run_stage
from distill.serving.runtime import Bundle
from distill.train_student import main as train_student
from distill.train_teacher import main as train_teacher
from students.checkpoint import build_student, load_student, save_student
from students.protocol import scores

CONFIG = """
run: {{name: small, folder: {runs}, tracker: none}}
data: {{path: {data}, split: {{name: user_ratio, ratios: [0.8, 0.2, 0.0]}}}}
teacher:
  item_vectors: tower
  members:
    tower:
      {{name: text_tower, backbone: scratch, hidden_size: 32, vocabulary: 300, layers: 1, max_tokens: 12,
        epochs: 0, tfidf_share: 0.0, precision: fp32}}
student: {{name: two_tower, dim: 8, hidden: 8}}
control_fit: {{epochs: 6, batch_size: 128, learning_rate: 0.02}}
fit: {{max_length: 20}}
export: {{variants: [fp32, int8], k: 5, calibration: 64, min_overlap: 0.5, min_retention: 0.5, min_tail_retention: 0.0}}
"""
WORDS = ("apple pear plum cherry orange lemon", "hammer saw drill pliers wrench file")


def texts_of(rng, half, count):
    words = WORDS[half].split()
    return [" ".join(rng.choice(words, 4)) for _ in range(count)]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of 24 items in two halves, fruit and tools, whose student was trained on labels."""
    root, rng = tmp_path_factory.mktemp("add"), np.random.default_rng(0)
    titles = [*texts_of(rng, 0, 12), *texts_of(rng, 1, 12)]
    data = root / "data"
    data.mkdir()
    rows = [f"i{item},{title},shop" for item, title in enumerate(titles)]
    (data / "items.csv").write_text("\n".join(["item_id,title,seller", *rows]))
    events = ["user_id,item_id,position"]
    for user in range(80):
        chosen = rng.permutation(12)[:7] + 12 * (user % 2)
        events += [f"u{user},i{item},{place}" for place, item in enumerate(chosen)]
    (data / "interactions.csv").write_text("\n".join(events))
    path = root / "small.yaml"
    path.write_text(CONFIG.format(runs=root / "runs", data=data))
    config = load(str(path), ["control=text_init_only"])
    prepare(config)
    train_teacher(config)
    trained = train_student(config)

    def build(target):  # what is served is the student; this one learned from labels alone
        for name in ("student.json", "model.safetensors", "item_vectors.safetensors"):
            (target / name).write_bytes((trained / name).read_bytes())

    run_stage(config.folder / "student", settings={}, inputs=[config.folder / "data"], build=build)
    return path, config


def write_items(path, rows, header="item_id,title,seller"):
    path.write_text("\n".join([header, *rows]))
    return path


@pytest.fixture(scope="module")
def bundle(run, tmp_path_factory):
    """The run's bundle with a fruit, item 24, and a tool, item 25."""
    rows = ["fruit,plum cherry apple pear,shop", "tool,saw wrench hammer file,shop"]
    items = write_items(tmp_path_factory.mktemp("new") / "new.csv", rows)
    folder = tmp_path_factory.mktemp("bundle")
    assert add_items_command([str(run[0]), str(items), "--output", str(folder)]) == 0
    return folder


@pytest.mark.parametrize("variant", ["fp32", "int8"])
def test_new_items_are_recommended_to_those_who_like_their_words(run, bundle, variant):
    contexts = train_contexts(Dataset.read(run[1].folder / "data"))
    rows = np.flatnonzero(contexts.target < 0)
    opened = Bundle.open(bundle, variant)
    assert opened.n_items == 26 and list(opened.items.ids[-2:]) == ["fruit", "tool"]
    ids, _ = opened.recommend([contexts.items[contexts.start[r] : contexts.stop[r]] for r in rows], 26)
    fruit, tool = (np.argmax(ids == item, axis=1) for item in (24, 25))
    assert ((fruit < tool) == (contexts.user[rows] % 2 == 0)).mean() > 0.95
    read, _ = opened.recommend([[24], [25]], 5)
    assert (read[0] < 12).mean() > 0.5 and ((read[1] >= 12) & (read[1] < 24)).mean() > 0.5


def test_old_items_score_as_before(run, bundle):
    student = load_student(run[1].folder / "student")
    with torch.no_grad():
        before = scores(student, torch.tensor([[0, 1, 2]]))[0].numpy()
    ids, after = (found[0] for found in Bundle.open(bundle, "fp32").recommend([[0, 1, 2]], 23))
    assert set(ids) == set(range(3, 26))
    old = ids < 24
    assert np.allclose(after[old], before[ids[old]], atol=1e-4)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (["i3,plum,shop"], "in the catalogue already, the first is 'i3'"),
        (["new,,"], "have no text, the first is 'new'"),
        ([], "has a header but no rows"),
    ],
)
def test_items_that_cannot_be_added(run, tmp_path, rows, message):
    with pytest.raises(UserError, match=message):
        add_items(run[1], write_items(tmp_path / "new.csv", rows), tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


def test_what_must_be_there(run, tmp_path):
    config = run[1]
    items = write_items(tmp_path / "new.csv", ["new,plum,shop"])
    with pytest.raises(UserError, match="There is no file"):
        add_items(config, tmp_path / "nothing.csv", tmp_path)
    with pytest.raises(UserError, match="column"):
        add_items(config, write_items(tmp_path / "other.csv", ["new,plum"], "item_id,name"), tmp_path)
    features = dataclasses.replace(config, teacher=dataclasses.replace(config.teacher, item_features=["image"]))
    with pytest.raises(UserError, match="item_features"):
        add_items(features, items, tmp_path)
    elsewhere = dataclasses.replace(config, run=dataclasses.replace(config.run, name="none"))
    with pytest.raises(UserError, match="distill prepare"):
        add_items(elsewhere, items, tmp_path)


def test_a_student_without_cold_items_is_refused(run, tmp_path):
    _, config = run
    vectors = load_file(config.folder / "student" / "item_vectors.safetensors")["vectors"]
    student = build_student("mf", {"dim": 8}, 24, vectors, 0)
    mine = dataclasses.replace(config, run=dataclasses.replace(config.run, folder=str(tmp_path)))
    for stage in ("data", "teacher"):
        (mine.folder).mkdir(exist_ok=True)
        (mine.folder / stage).symlink_to(config.folder / stage)
    run_stage(
        mine.folder / "student",
        settings={},
        inputs=[],
        build=lambda folder: save_student(folder, "mf", {"dim": 8}, 24, student.state_dict(), vectors),
    )
    with pytest.raises(UserError, match="cold: true"):
        add_items(mine, write_items(tmp_path / "new.csv", ["new,plum,shop"]), tmp_path / "bundle")
    assert torch.isfinite(student.item_table()).all()
