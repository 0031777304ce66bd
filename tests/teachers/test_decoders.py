"""GPT-type bodies: opened from folders and GGUF files, pooled, and run in two parts."""

import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModel

sys.path.insert(0, str(Path(__file__).parent))
from small_decoders import CONFIGS, LAYERS, WORDS, save_decoder, save_gguf

from distill.errors import UserError
from teachers.backbone import freeze, fresh, layer_rates, layers_of, open_backbone, shorten
from teachers.body_parts import lower, resumable, upper
from teachers.text_encoder import TextEncoder, encode, pool, tokenise

CPU = torch.device("cpu")
TEXTS = ["red gel pen", "blue pen", "office paper red ink desk lamp", "", "chair"]


@pytest.mark.parametrize("pooling", ["mean", "last"])
@pytest.mark.parametrize("family", CONFIGS)
def test_a_text_has_one_vector_whatever_stands_beside_it(family, pooling, tmp_path):
    body, tokenizer = open_backbone(str(save_decoder(tmp_path, family)))
    assert len(layers_of(body)) == LAYERS
    tokenizer.padding_side = "left"  # batches are padded on the right whatever the tokenizer likes
    encoder = TextEncoder(body, pooling, 1.0)
    together = encode(encoder, tokenise(TEXTS, tokenizer, 8), CPU)
    for row, text in enumerate(TEXTS):
        alone = encode(encoder, tokenise([text], tokenizer, 8), CPU)
        torch.testing.assert_close(alone[0], together[row], atol=1e-5, rtol=0)
    tokens = torch.tensor([tokenizer(TEXTS[0])["input_ids"]])
    hidden = body.eval()(tokens).last_hidden_state[0]
    plain = hidden.mean(0) if pooling == "mean" else hidden[-1]
    torch.testing.assert_close(together[0], plain / plain.norm(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", [f for f in CONFIGS if f != "gemma"])
def test_lower_and_upper_layers_make_the_whole(family, tmp_path):
    body, tokenizer = open_backbone(str(save_decoder(tmp_path, family)))
    freeze(body, 1)
    assert resumable(body)
    batch = tokenise(TEXTS, tokenizer, 8).batch(torch.arange(len(TEXTS)))
    inside = batch["mask"]
    with torch.no_grad():
        whole = body(input_ids=batch["tokens"], attention_mask=inside.long()).last_hidden_state
        for depth in (0, 1, LAYERS):
            parts = upper(body, lower(body, batch["tokens"], inside, depth), inside, depth)
            torch.testing.assert_close(parts[inside], whole[inside], atol=1e-5, rtol=0)


def test_a_family_whose_layers_are_not_known_is_run_whole(tmp_path):
    body, _ = open_backbone(str(save_decoder(tmp_path, "gemma")))
    freeze(body, 1)
    assert not resumable(body)


def test_pooling_takes_the_tokens_it_names():
    hidden = torch.arange(12.0).reshape(2, 3, 2)
    mask = torch.tensor([[True, True, False], [True, True, True]])
    assert pool(hidden, mask, "last").tolist() == [[2, 3], [10, 11]]
    assert pool(hidden, mask, "mean").tolist() == [[1, 2], [8, 9]]
    assert pool(hidden, mask, "cls").tolist() == [[0, 1], [6, 7]]


@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen3"])
def test_dropped_layers_leave_the_lower_ones_as_they_were(family, tmp_path):
    body, _ = open_backbone(str(save_decoder(tmp_path / "whole", family)))
    tokens, states = torch.arange(2, 7)[None], []
    layers_of(body)[1].register_forward_hook(lambda _, inputs, output: states.append(output))
    body(tokens)
    shorten(body, 2)
    body(tokens)
    first, second = (state[0] if isinstance(state, tuple) else state for state in states)
    torch.testing.assert_close(first, second)
    body.save_pretrained(tmp_path / "short")
    again = AutoModel.from_pretrained(tmp_path / "short")
    assert len(layers_of(again)) == len(layers_of(fresh(body))) == 2
    with pytest.raises(UserError, match="keep_layers is 3, but the backbone has 2 layers"):
        shorten(body, 3)


def test_learning_rates_fall_from_the_top_down(tmp_path):
    body, _ = open_backbone(str(save_decoder(tmp_path, "llama")))
    rate = layer_rates(body, 0.5, "body.")
    assert rate("body.norm.weight") == rate("body.layers.2.mlp.up_proj.weight") == 1
    assert rate("body.layers.0.self_attn.q_proj.weight") == 0.25
    assert rate("body.embed_tokens.weight") == 0.125


@pytest.fixture(scope="module")
def gguf(tmp_path_factory):
    """A Llama body, its GGUF file, and a tokenizer equal to the file's."""
    pytest.importorskip("gguf")
    folder = tmp_path_factory.mktemp("gguf")
    words = [str(number) for number in range(2 + 256 + 5)]
    body = AutoModel.from_pretrained(save_decoder(folder / "hf", "llama", words=words))
    return body, folder / "small.gguf", save_gguf(body, folder / "small.gguf")


def test_a_gguf_file_gives_the_same_body_and_tokens(gguf):
    wanted, file, twin = gguf
    for place in (file, file.parent):  # a folder with one GGUF file stands for it
        body, tokenizer = open_backbone(str(place), dropout=0.0)
        tokens = torch.arange(20)[None]
        torch.testing.assert_close(body(tokens).last_hidden_state, wanted(tokens).last_hidden_state)
        assert tokenizer("red pen 12")["input_ids"] == twin.encode("red pen 12").ids  # no begin token before it
        assert (tokenizer.eos_token, tokenizer.bos_token, tokenizer.pad_token) == ("<end>", "<begin>", "<end>")


def test_a_gguf_file_in_a_package_is_found_without_importing_it(gguf, tmp_path, monkeypatch):
    package = tmp_path / "made_up_gguf"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "small.gguf").write_bytes(gguf[1].read_bytes())
    monkeypatch.syspath_prepend(tmp_path)
    body, _ = open_backbone("package:made_up_gguf")
    assert body.config.hidden_size == 32
    (package / "other.gguf").write_bytes(b"")
    with pytest.raises(UserError, match=r"holds 2 GGUF files; name one of them"):
        open_backbone("package:made_up_gguf")
    with pytest.raises(UserError, match=r"can't be opened: the GGUF file is cut off"):
        open_backbone("package:made_up_gguf/other.gguf")


@pytest.mark.parametrize("size", [100, 3000, -100])
def test_a_cut_off_gguf_file_is_a_readable_error(gguf, tmp_path, size):
    (tmp_path / "cut.gguf").write_bytes(gguf[1].read_bytes()[:size])
    with pytest.raises(UserError, match=r"can't be opened: the GGUF file is cut off.*Download it again"):
        open_backbone(str(tmp_path / "cut.gguf"))


def test_gguf_without_its_package_names_the_extra(gguf, monkeypatch):
    monkeypatch.setattr("teachers.gguf_file.importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'taildistill\[gpt\]'"):
        open_backbone(str(gguf[1]))


def test_a_missing_shard_is_named(tmp_path):
    folder = save_decoder(tmp_path, "llama")
    AutoModel.from_pretrained(folder).save_pretrained(folder, max_shard_size="20KB")
    (folder / "model.safetensors").unlink(missing_ok=True)
    open_backbone(str(folder))
    shards = sorted(folder.glob("model-*.safetensors"))
    assert len(shards) > 2
    shards[1].rename(folder / "kept")
    with pytest.raises(UserError, match=rf"1 of {len(shards)} weight files are missing: {shards[1].name}"):
        open_backbone(str(folder))
    shards[1].write_bytes((folder / "kept").read_bytes()[:-64])
    with pytest.raises(UserError, match=rf"{shards[1].name} in .* is cut off or damaged"):
        open_backbone(str(folder))


def test_a_tokenizer_without_padding_and_end_token_is_refused(tmp_path):
    folder = save_decoder(tmp_path, "llama", unk_token=WORDS[0])
    with pytest.raises(UserError, match="neither a padding nor an end token"):
        open_backbone(str(folder))
