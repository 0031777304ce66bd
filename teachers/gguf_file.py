"""Causal language models in GGUF files, as llama.cpp keeps them, turned into float32 bodies."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import struct
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModel, AutoTokenizer
from transformers import PretrainedConfig as BodyConfig
from transformers import PreTrainedTokenizerBase as BodyTokenizer

from distill.errors import UserError

DAMAGED = (OSError, ValueError, IndexError, KeyError, struct.error, OverflowError, UnicodeDecodeError)
TOKENS = {"eos_token": "eos", "bos_token": "bos", "unk_token": "unknown", "pad_token": "padding"}


def open_gguf(file: Path, settings: dict[str, Any], model: Any = AutoModel) -> tuple[Any, BodyTokenizer, BodyConfig]:
    """The weights of a GGUF file, dequantised to float32, with tokenizer and configuration.

    Args:
        file: Ends in .gguf; the architectures are those that transformers can convert (Llama, Qwen, Gemma, GPT-2, …).
        settings: Further arguments of `from_pretrained`; `config` is a function that changes the configuration.
        model: The transformers class to fill: without a head by default.

    Raises:
        UserError: The package gguf isn't installed, or the file is damaged or of an unknown architecture.
    """
    require_gguf(file)
    place: dict[str, Any] = {"pretrained_model_name_or_path": file.parent, "gguf_file": file.name}
    settings = dict(settings)
    change = settings.pop("config", None)
    try:
        marks = special_tokens(file)
        config = AutoConfig.from_pretrained(**place, trust_remote_code=False)
        if change is not None:
            change(config)
        with contextlib.redirect_stderr(io.StringIO()):  # a progress bar that transformers gives no switch for
            body = model.from_pretrained(**place, config=config, dtype=torch.float32, **settings)
        tokenizer = AutoTokenizer.from_pretrained(**place, trust_remote_code=False, legacy=False)
    except DAMAGED as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"backbone '{file}' can't be opened: the GGUF file is cut off, damaged, or of an architecture that "
            f"transformers can't convert ({reason}). Download it again, or take a Hugging Face folder of the model."
        ) from error
    return body, _with_marks(tokenizer, marks), config


def require_gguf(file: Path) -> None:
    """Raises UserError where the package that reads GGUF files isn't installed."""
    if importlib.util.find_spec("gguf") is None:
        raise UserError(f"backbone '{file}' is a GGUF file. Reading it needs: pip install 'taildistill[gpt]'")


def special_tokens(file: Path) -> dict[str, Any]:
    """The special tokens that the file itself names, by the tokenizer's attribute, and whether texts begin with one."""
    from gguf import GGUFReader

    fields = GGUFReader(file).fields

    def value(key: str) -> Any:
        field = fields.get(f"tokenizer.ggml.{key}")
        return None if field is None else field.contents()

    names = value("tokens") or []
    found: dict[str, Any] = {"add_bos_token": value("add_bos_token")}
    for attribute, key in TOKENS.items():
        number = value(f"{key}_token_id")
        found[attribute] = names[number] if number is not None and number < len(names) else None
    return found


def _with_marks(tokenizer: BodyTokenizer, marks: dict[str, Any]) -> BodyTokenizer:
    """The file's own marks; transformers 4.57 takes the begin token for the end token and puts it before each text."""
    for attribute in TOKENS:
        if marks[attribute] is not None:
            setattr(tokenizer, attribute, marks[attribute])
    if marks["add_bos_token"] is not None and hasattr(tokenizer, "add_bos_token"):
        tokenizer.add_bos_token = bool(marks["add_bos_token"])
    return tokenizer
