"""The teacher's language model as ONNX, against torch; on the real MiniLM where a run with one lies beside."""

import json
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "teachers"))

from distill.config import Config, Run, Spec, Teacher, load
from distill.data.dataset import Dataset
from distill.errors import UserError
from distill.export_teacher import export_teacher, export_tower, optimum_body, traced, with_pooling
from distill.serving.session import open_session
from teachers.backbone import open_backbone, scratch_backbone
from teachers.text_encoder import TextEncoder, tokenise
from teachers.text_tower import TextTower

RUN = Path(__file__).parents[2] / "runs" / "quickstart"
TEXTS = [f"a film about {thing} and {other}" for thing in ("war", "love", "the sea") for other in ("snow", "a dog")]


@pytest.fixture(scope="module")
def tower(tmp_path_factory):
    """A saved small tower, and the folder it lies in."""
    folder = tmp_path_factory.mktemp("teacher") / "tower"
    body, tokenizer = scratch_backbone(TEXTS, 300, 32, 2, 16, seed=0)
    body.save_pretrained(folder, safe_serialization=True)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
def test_a_tower_gives_the_same_vectors(tower, tmp_path, pooling):
    member = TextTower(pooling=pooling, max_tokens=16)
    about = export_tower(tower, member, [*TEXTS, ""], tmp_path / "tower.onnx")
    assert about["max_error"] < 1e-5 and about["bytes"] == (tmp_path / "tower.onnx").stat().st_size
    session = open_session((tmp_path / "tower.onnx").read_bytes())
    body, tokenizer = open_backbone(str(tower))
    batch = tokenise(["a dog", "snow and snow and snow and war"], tokenizer, 16).batch(torch.arange(2))
    feed = {name: batch[name].long().numpy() for name in ("tokens", "mask")}
    vectors = session.run(["vectors"], feed)[0]
    with torch.no_grad():
        wanted = TextEncoder(body, pooling, 1.0).eval()(batch)["vectors"].numpy()
    np.testing.assert_allclose(vectors, wanted, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)


def test_torch_exports_what_optimum_does_not_know(tower):
    from distill.export_teacher import _Tower

    body, tokenizer = open_backbone(str(tower))
    encoder = TextEncoder(body, "mean", 1.0).eval()
    model = traced(_Tower(encoder), {"tokens": (2, 6), "mask": (2, 6)}, "vectors")
    batch = tokenise(TEXTS, tokenizer, 16).batch(torch.arange(len(TEXTS)))
    feed = {name: batch[name].long().numpy() for name in ("tokens", "mask")}
    with torch.no_grad():
        wanted = encoder(batch)["vectors"].numpy()
    found = open_session(model.SerializeToString()).run(["vectors"], feed)[0]
    np.testing.assert_allclose(found, wanted, atol=1e-5)


@pytest.mark.slow
def test_a_decoder_gives_the_same_vectors(tmp_path):
    from small_decoders import WORDS, save_decoder

    folder = save_decoder(tmp_path / "decoder", "llama")
    member = TextTower(pooling="last", max_tokens=16)
    about = export_tower(folder, member, [" ".join(WORDS[2:n]) for n in range(3, 9)], tmp_path / "tower.onnx")
    assert about["max_error"] < 1e-5 and about["exporter"] == "torch.onnx"


def test_optimum_knows_bert_where_it_is_installed(tower):
    pytest.importorskip("optimum.exporters.onnx", reason="optimum-onnx is not installed (extra: optimum)")
    model = optimum_body(open_backbone(str(tower))[0])
    assert model is not None
    pooled = with_pooling(model, "mean")
    onnx.checker.check_model(pooled)
    assert [value.name for value in pooled.graph.input] == ["tokens", "mask"]


def test_a_teacher_without_text_has_nothing_to_export(tmp_path):
    (tmp_path / "sample" / "teacher" / "ease").mkdir(parents=True)
    member = Spec("teachers.ease:Ease", {})
    config = Config(run=Run(name="sample", folder=str(tmp_path)), teacher=Teacher(members={"ease": member}))
    from safetensors.torch import save_file

    save_file({"table": torch.zeros(4, 4)}, tmp_path / "sample" / "teacher" / "ease" / "table.safetensors")
    with pytest.raises(UserError, match=r"nothing to export \(ease\)"):
        export_teacher(config, None, tmp_path / "out")


@pytest.mark.slow
def test_the_real_minilm_says_what_torch_says(tmp_path):
    if not (RUN / "teacher" / "tower" / "model.safetensors").is_file():
        pytest.skip("there is no finished runs/quickstart with a text tower")
    config = load(RUN.parents[1] / "configs" / "quickstart.yaml", [f"run.folder={RUN.parent}"])
    about = export_teacher(config, Dataset.read(RUN / "data"), tmp_path)
    assert about == json.loads((tmp_path / "teacher.json").read_text())
    assert about["tower.tower.onnx"]["max_error"] < 1e-5 and about["tower.history.onnx"]["max_error"] < 1e-4
    session = open_session((tmp_path / "tower.history.onnx").read_bytes())
    dataset = Dataset.read(RUN / "data")
    scores = session.run(["scores"], {"history": np.array([[dataset.n_items, 3, 5]])})[0]
    assert scores.shape == (1, dataset.n_items) and np.isfinite(scores).all()
