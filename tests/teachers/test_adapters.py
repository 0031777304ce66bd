"""Low-rank adapters: they start as nothing, learn alone, and end in the weights."""

import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

sys.path.insert(0, str(Path(__file__).parent))
from small_decoders import LAYERS, save_decoder
from texts_and_users import TOPICS, topical

from distill.engine.local import Local
from distill.engine.loop import best_weights, fit
from distill.errors import UserError
from teachers.adapters import add_lora, check_adapter, merge_lora
from teachers.backbone import open_backbone, scratch_backbone
from teachers.protocol import Inputs
from teachers.text_tower import TextTower

pytest.importorskip("peft")
TOKENS = torch.arange(2, 9)[None]
ALL_WORDS = ["<end>", *TOPICS, *(word for words in TOPICS.values() for word in words)]


def opened(family: str, folder: Path):
    if family == "bert":
        return scratch_backbone(topical().texts, 100, 32, LAYERS, 16, seed=0)[0]
    return open_backbone(str(save_decoder(folder, family)))[0]


@pytest.mark.parametrize("family", ["bert", "llama", "gpt2", "gemma"])
def test_a_fresh_adapter_changes_nothing_and_a_merged_one_stays(family, tmp_path):
    body = opened(family, tmp_path).eval()
    names, before = list(body.state_dict()), body(TOKENS).last_hidden_state
    add_lora(body, check_adapter({"rank": 2}), frozen_layers=1)
    torch.testing.assert_close(body(TOKENS).last_hidden_state, before)
    trainable = [name for name, p in body.named_parameters() if p.requires_grad]
    assert trainable and all("lora_" in name for name in trainable)
    assert not [name for name in trainable if ".0." in name.replace(".default.", ".")]
    with torch.no_grad():
        for name, parameter in body.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    learned = body(TOKENS).last_hidden_state
    assert (learned - before).abs().max() > 1e-3
    merge_lora(body)
    assert list(body.state_dict()) == names
    torch.testing.assert_close(body(TOKENS).last_hidden_state, learned, atol=1e-4, rtol=1e-4)


def test_targets_are_chosen_by_name(tmp_path):
    body = opened("llama", tmp_path)
    add_lora(body, check_adapter({"rank": 2, "targets": ["q_proj", "v_proj"]}))
    adapted = {name.split(".lora_")[0].rpartition(".")[2] for name, _ in body.named_parameters() if ".lora_" in name}
    assert adapted == {"q_proj", "v_proj"}
    with pytest.raises(UserError, match=r"names \['query'\]; the backbone's linear layers are .*q_proj"):
        add_lora(opened("llama", tmp_path / "other"), check_adapter({"targets": ["query"]}))
    with pytest.raises(UserError, match="frozen_layers is 3, but the backbone has 3 layers"):
        add_lora(opened("llama", tmp_path / "third"), check_adapter({}), frozen_layers=3)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"rnk": 4}, "did you mean 'rank'"),
        ({"rank": 0}, r"adapter\.rank is 0"),
        ({"dropout": 1.0}, r"adapter\.dropout is 1\.0"),
    ],
)
def test_settings_are_checked(settings, words):
    with pytest.raises(UserError, match=words):
        TextTower(adapter=settings)


def test_adapters_without_peft_name_the_extra(tmp_path, monkeypatch):
    body = opened("llama", tmp_path)
    monkeypatch.setattr("teachers.adapters.importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'taildistill\[lora\]'"):
        add_lora(body, check_adapter({}))


def test_a_tower_with_adapters_is_saved_merged_and_read_without_peft(tmp_path, monkeypatch):
    backbone = save_decoder(tmp_path / "backbone", "llama", words=ALL_WORDS)
    settings = {"backbone": str(backbone), "precision": "fp32", "max_tokens": 8, "pooling": "last"}
    tower = TextTower(**settings, adapter={"rank": 4}, frozen_layers=1, learning_rate=1e-2, batch_size=32, epochs=3)
    tower.prepare(Inputs(topical(), {}, 0, torch.device("cpu")))
    assert tower.texts.hidden is not None  # the layers without adapters run once
    start = tower.body.state_dict()["layers.2.mlp.up_proj.base_layer.weight"].clone()

    curve = fit(tower.job(), Local(), tmp_path / "work", None, "tower")
    tower.refresh(tower.encoder, Local())
    unmerged = tower.vectors
    tower.finish(best_weights(tmp_path / "work"))
    assert curve[-1]["loss"] < curve[0]["loss"]
    (tmp_path / "saved").mkdir()
    tower.save(tmp_path / "saved")
    with safe_open(tmp_path / "saved" / "model.safetensors", "pt") as file:
        assert not [name for name in list(file.keys()) if "lora" in name or "base_layer" in name]
    monkeypatch.setitem(sys.modules, "peft", None)
    monkeypatch.setattr("teachers.adapters.importlib.util.find_spec", lambda name: None)
    again = TextTower(**settings, adapter={"rank": 4}, frozen_layers=1).load(tmp_path / "saved")
    torch.testing.assert_close(again.encode(topical().texts), tower.vectors, atol=1e-4, rtol=0)
    assert (again.body.state_dict()["layers.2.mlp.up_proj.weight"] - start).abs().max() > 1e-4
    whole, _ = open_backbone(str(backbone))
    frozen = "layers.0.mlp.up_proj.weight"
    assert torch.equal(again.body.state_dict()[frozen], whole.state_dict()[frozen])
    torch.testing.assert_close(unmerged, tower.vectors, atol=1e-4, rtol=0)


def test_without_training_no_adapter_is_left_in_the_saved_tower(tmp_path):
    backbone = save_decoder(tmp_path / "backbone", "llama", words=ALL_WORDS)
    settings = {"backbone": str(backbone), "precision": "fp32", "max_tokens": 8, "cache": False}
    tower = TextTower(**settings, adapter={"rank": 4, "quantised": True}, epochs=0)
    tower.prepare(Inputs(topical(), {}, 0, torch.device("cpu")))
    (tmp_path / "saved").mkdir()
    tower.save(tmp_path / "saved")
    again = TextTower(**settings).load(tmp_path / "saved")
    torch.testing.assert_close(again.encode(topical().texts), tower.vectors, atol=1e-5, rtol=0)
