"""A body in 4 bits under adapters (QLoRA): it learns, is saved as plain float32, and scores the same afterwards."""

import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

sys.path.insert(0, str(Path(__file__).parent))
from small_decoders import save_decoder
from texts_and_users import TOPICS, topical

from distill.engine.accelerator import configure_deepspeed
from distill.engine.local import Local
from distill.engine.loop import BEST, best_weights, fit
from distill.errors import UserError
from teachers.adapters import add_lora, check_adapter
from teachers.backbone import open_backbone, scratch_backbone
from teachers.protocol import Inputs
from teachers.quantised import four_bits, keep_out, plain
from teachers.text_tower import TextTower

pytest.importorskip("peft", reason="peft is not installed (pip install taildistill[lora])")
CPU = torch.device("cpu")
ALL_WORDS = ["<end>", *TOPICS, *(word for words in TOPICS.values() for word in words)]
ADAPTER = {"rank": 4, "quantised": True}
TOKENS = torch.arange(2, 9)[None]


def saved(folder: Path, family: str) -> str:
    if family != "bert":
        return str(save_decoder(folder, family, words=ALL_WORDS))
    body, tokenizer = scratch_backbone(topical().texts, 100, 64, 3, 16, seed=1)
    body.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def tower_of(backbone: str, **settings) -> TextTower:
    given = {"backbone": backbone, "precision": "fp32", "max_tokens": 8, "batch_size": 32, "adapter": ADAPTER}
    tower = TextTower(**given | {"frozen_layers": 1, "learning_rate": 1e-2, "epochs": 2} | settings)
    tower.prepare(Inputs(topical(), {}, 0, CPU))
    return tower


def packed(backbone: str, rank: int = 4):
    body, _ = open_backbone(backbone, 0.0, four_bits=four_bits("fp32", CPU))
    add_lora(body, check_adapter({"rank": rank, "quantised": True}, quantised=True))
    keep_out(body)
    with torch.no_grad():
        for name, parameter in body.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
    return body.eval()


def test_without_bitsandbytes_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("teachers.quantised.importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'taildistill\[qlora\]'"):
        four_bits("fp32", CPU)


def test_where_4_bits_are_not_offered_it_is_said(tmp_path):
    with pytest.raises(UserError, match="for text_tower alone"):
        check_adapter({"quantised": True})
    with pytest.raises(UserError, match="'scratch' has none"):
        TextTower(adapter={"quantised": True})


def test_the_number_of_a_cpu_is_no_gpu():
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed (pip install taildistill[qlora])")
    assert four_bits("fp32", torch.device("cpu", 0))["device_map"] == {"": "cpu"}
    assert four_bits("bf16", torch.device("cuda", 1))["device_map"] == {"": 1}
    assert four_bits("bf16", CPU)["quantization_config"].bnb_4bit_compute_dtype == torch.bfloat16


@pytest.mark.parametrize("family", ["bert", "llama", "gpt2"])
def test_an_unpacked_body_computes_the_same(family, tmp_path):
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed (pip install taildistill[qlora])")
    backbone = saved(tmp_path, family)
    body = packed(backbone)
    weights = [p for p in body.parameters() if not p.is_floating_point()]
    assert weights and all(p.dtype == torch.uint8 for p in weights)
    assert not [name for name in body.state_dict() if "absmax" in name or "base_layer" in name]
    with torch.no_grad():
        wanted = body(TOKENS).last_hidden_state
        whole = plain(body).eval()
        torch.testing.assert_close(whole(TOKENS).last_hidden_state, wanted, atol=1e-4, rtol=1e-4)
    original, _ = open_backbone(backbone, 0.0)
    assert list(whole.state_dict()) == list(original.state_dict())
    with torch.no_grad():
        assert (original(TOKENS).last_hidden_state - wanted).abs().max() > 1e-3  # 4 bits and the adapters did something


def test_gradients_reach_every_adapter_also_after_an_evaluation(tmp_path):
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed (pip install taildistill[qlora])")
    body = packed(saved(tmp_path, "llama"))
    with torch.no_grad():
        body(TOKENS)
    body.train()
    body(TOKENS).last_hidden_state.square().sum().backward()
    adapters = {name: p for name, p in body.named_parameters() if p.requires_grad}
    assert adapters and all("lora_" in name and p.grad.abs().sum() > 0 for name, p in adapters.items())


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_a_tower_on_4_bits_learns_and_is_reloaded_without_them(family, tmp_path, monkeypatch):
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed (pip install taildistill[qlora])")
    tower = tower_of(saved(tmp_path / "backbone", family))
    assert tower.texts.hidden is not None  # the layers without adapters run once
    curve = fit(tower.job(), Local(), tmp_path / "work", None, "tower")
    tower.refresh(tower.encoder, Local())
    in_training = tower.vectors
    tower.finish(best_weights(tmp_path / "work"))
    assert curve[-1]["loss"] < curve[0]["loss"]
    torch.testing.assert_close(tower.vectors, in_training, atol=1e-4, rtol=0)
    (tmp_path / "saved").mkdir()
    tower.save(tmp_path / "saved")
    with safe_open(tmp_path / "saved" / "model.safetensors", "pt") as file:
        names = list(file.keys())
        assert all(file.get_tensor(name).dtype == torch.float32 for name in names)
    assert not [name for name in names if "lora" in name or "base_layer" in name or "absmax" in name]
    assert "quantization_config" not in (tmp_path / "saved" / "config.json").read_text()
    for package in ("peft", "bitsandbytes"):
        monkeypatch.setitem(sys.modules, package, None)
    again = TextTower(backbone="anywhere", precision="fp32", max_tokens=8, adapter=ADAPTER).load(tmp_path / "saved")
    assert torch.equal(again.item_vectors(), tower.vectors)
    torch.testing.assert_close(again.encode(topical().texts), tower.vectors, atol=1e-5, rtol=0)


def test_a_stopped_run_on_4_bits_goes_on_exactly(tmp_path):
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed (pip install taildistill[qlora])")
    backbone = saved(tmp_path / "backbone", "llama")

    def run(folder: Path, fail_at: int = -1) -> list:
        tower = tower_of(backbone, checkpoint_steps=3, hard_negatives=2, next_item=0.5)
        job, number = tower.job(), iter(range(1000))
        collate = job.collate

        def failing(rows):
            if next(number) == fail_at:
                raise KeyboardInterrupt
            return collate(rows)

        job.collate = failing
        torch.manual_seed(0)
        return fit(job, Local(), folder, None, "tower")

    whole = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", fail_at=7)
    assert run(tmp_path / "cut") == whole
    assert (tmp_path / "cut" / BEST).read_bytes() == (tmp_path / "whole" / BEST).read_bytes()


def test_engines_that_split_or_cast_weights_refuse_them(tmp_path):
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed (pip install taildistill[qlora])")
    tower = tower_of(saved(tmp_path, "llama"))
    with pytest.raises(UserError, match="doesn't train under DeepSpeed"):
        configure_deepspeed(None, tower.job())
