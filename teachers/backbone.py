"""Language models for item text: found, opened without running or unpickling anything, and partly frozen."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import nn
from transformers import AutoConfig, AutoModel, AutoTokenizer, BertConfig, BertTokenizerFast
from transformers import PretrainedConfig as BodyConfig
from transformers import PreTrainedModel as Body
from transformers import PreTrainedTokenizerBase as BodyTokenizer
from transformers.utils import logging

from distill.errors import UserError
from teachers.gguf_file import open_gguf
from teachers.locate import SCRATCH, locate

SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
# Fused attention is made for GPUs and long texts: on a CPU, with 48 tokens, its backward pass takes half of a step.
ATTENTION = "sdpa" if torch.cuda.is_available() else "eager"
DROPOUTS = (  # what the families call it
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "dropout",
    "attention_dropout",
    "embd_pdrop",
    "resid_pdrop",
    "attn_pdrop",
)


def open_backbone(
    name: str, dropout: float | None = None, model: Any = AutoModel, four_bits: dict[str, Any] | None = None
) -> tuple[Body, BodyTokenizer]:
    """Opens a pretrained language model without its head, and its tokenizer.

    BERT-type encoders and GPT-type decoders alike. Weights come from safetensors or GGUF only; code out of a model
    folder is never run. A tokenizer without padding token uses its end token: what is padding, the mask says.

    Args:
        name: See `teachers.locate.locate`.
        dropout: Replaces every dropout probability of the model's own configuration.
        model: The transformers class to fill; AutoModelForCausalLM opens a decoder with its head.
        four_bits: From `teachers.quantised.four_bits`: the linear layers are packed into 4 bits while they are read.

    Raises:
        UserError: Nothing usable is found under the name; the message says where was looked. Or 4 bits are asked of a
            GGUF file.
    """
    place = locate(name)
    noise = logging.get_verbosity()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        body, tokenizer = _open(place, dropout, model, four_bits)
    except (OSError, ValueError, SafetensorError) as error:
        where = f"folder {place}" if isinstance(place, Path) else f"local folder '{name}' (none), then hub id '{name}'"
        reason = str(error).strip().splitlines()[0]
        raise UserError(
            f"backbone '{name}' can't be opened. Looked for: {where}. Reason: {reason} "
            f"Check the spelling and the network, give a downloaded folder with config.json, model.safetensors and "
            f"tokenizer files, or train a small encoder of your own with 'backbone: {SCRATCH}'."
        ) from error
    finally:
        logging.set_verbosity(noise)
        logging.enable_progress_bar()
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise UserError(
                f"backbone '{name}': its tokenizer has neither a padding nor an end token, so texts can't be batched."
            )
        tokenizer.pad_token = tokenizer.eos_token
    return _without_pooler(body), tokenizer


def _open(
    place: str | Path, dropout: float | None, model: Any, four_bits: dict[str, Any] | None
) -> tuple[Body, BodyTokenizer]:
    def change(config: BodyConfig) -> None:
        _set_dropout(config, dropout)
        if hasattr(config, "use_cache"):
            config.use_cache = False  # keys and values are kept for generating text, which nobody does here

    settings: dict[str, Any] = {"trust_remote_code": False, "attn_implementation": ATTENTION}
    if isinstance(place, Path) and place.is_file():
        if four_bits:
            raise UserError(f"adapter.quantised reads safetensors, and {place} is GGUF. Give a hub id or a folder.")
        body, tokenizer, _ = open_gguf(place, settings | {"config": change}, model)
        return body, tokenizer
    config = AutoConfig.from_pretrained(place, trust_remote_code=False)
    change(config)
    settings |= four_bits or {}
    body = model.from_pretrained(place, config=config, use_safetensors=True, dtype=torch.float32, **settings)
    return body, AutoTokenizer.from_pretrained(place, trust_remote_code=False)


def scratch_backbone(
    texts: list[str],
    vocabulary: int,
    hidden_size: int,
    layers: int,
    max_tokens: int,
    seed: int,
    dropout: float | None = None,
) -> tuple[Body, BodyTokenizer]:
    """A small BERT with random weights and a lower-case WordPiece tokenizer made from `texts`.

    The same texts and seed give the same tokenizer and weights.
    """
    tokenizer = wordpiece(texts, vocabulary)
    heads = max(1, hidden_size // 32)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * hidden_size,
        max_position_embeddings=max(max_tokens, 16),
        attn_implementation=ATTENTION,
    )
    _set_dropout(config, dropout)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        body = AutoModel.from_config(config)
    return _without_pooler(body), tokenizer


def wordpiece(texts: list[str], size: int) -> BodyTokenizer:
    """A WordPiece tokenizer in the form BERT reads, of at most `size` tokens, made by counting.

    The vocabulary holds single characters, the most frequent words, and the most frequent ends of all other words.
    The trainer of the tokenizers library breaks ties by the order of a hash table, so that every process of a launch
    would end with another vocabulary.
    """
    core = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    core.normalizer = normalizers.BertNormalizer(lowercase=True)
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    words: Counter[str] = Counter()
    for text in texts:
        words.update(word for word, _ in core.pre_tokenizer.pre_tokenize_str(core.normalizer.normalize_str(text)))
    vocabulary = dict.fromkeys(SPECIAL_TOKENS)
    characters: Counter[str] = Counter()
    for word, count in words.items():
        characters.update(dict.fromkeys(word, count))
    for character in _most_frequent(characters, size // 4):
        vocabulary |= {character: None, "##" + character: None}
    frequent = _most_frequent(words, (size - len(vocabulary)) * 3 // 4)
    vocabulary |= dict.fromkeys(frequent)
    ends: Counter[str] = Counter()
    for word in words.keys() - set(frequent):
        for first in range(1, len(word) - 1):
            ends["##" + word[first:]] += words[word]
    vocabulary |= dict.fromkeys(_most_frequent(ends, size - len(vocabulary)))
    core.model = models.WordPiece({token: number for number, token in enumerate(vocabulary)}, unk_token="[UNK]")
    marks = [(token, core.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=marks
    )
    return BertTokenizerFast(tokenizer_object=core)


def fresh(body: Body) -> Body:
    """A model of the same architecture with new weights, to load others into."""
    return _without_pooler(AutoModel.from_config(body.config, attn_implementation=ATTENTION))


def layers_of(body: Body) -> nn.ModuleList | None:
    """The stack of transformer layers, whatever the family calls it; None where it can't be told."""
    depth = getattr(body.config, "num_hidden_layers", None)
    stacks = [m for m in body.modules() if isinstance(m, nn.ModuleList) and len(m) == depth]
    return stacks[0] if stacks else None


def shorten(body: Body, keep_layers: int) -> None:
    """Drops the layers above the lowest `keep_layers`, in place; 0 keeps all.

    Raises:
        UserError: There are not that many layers, or the family's layers can't be told.
    """
    if keep_layers == 0:
        return
    layers = layers_of(body)
    if layers is None or not 0 < keep_layers <= len(layers):
        found = "no stack of layers" if layers is None else f"{len(layers)} layers"
        raise UserError(f"keep_layers is {keep_layers}, but the backbone has {found}; give 0 to keep them all.")
    del layers[keep_layers:]
    body.config.num_hidden_layers = keep_layers
    if getattr(body.config, "layer_types", None):
        body.config.layer_types = body.config.layer_types[:keep_layers]


def check_length(body: Body, max_tokens: int) -> None:
    """Raises UserError where the backbone has no position for so many tokens."""
    longest = getattr(body.config, "max_position_embeddings", None)
    if longest is not None and max_tokens > longest:
        raise UserError(f"text_tower: max_tokens is {max_tokens}, but the backbone reads at most {longest} tokens.")


def layer_rates(body: Body, decay: float, prefix: str = "") -> Callable[[str], float]:
    """A parameter's name to the factor on its learning rate: 1 at the top, times `decay` a layer down.

    Args:
        body: The model.
        decay: In (0, 1].
        prefix: Of the body's parameters in the model that holds it.

    References:
        Howard and Ruder, "Universal Language Model Fine-tuning for Text Classification" (2018), section 3.2.
    """
    layers = layers_of(body)
    depth = 0 if layers is None else len(layers)
    stack = next((f"{name}." for name, module in body.named_modules() if module is layers), "")
    low = tuple(f"{name}." for name, module in body.named_modules() if module in embeddings_of(body))

    def rate(name: str) -> float:
        name = name.removeprefix(prefix)
        if stack and name.startswith(stack):
            return decay ** (depth - 1 - int(name.removeprefix(stack).partition(".")[0]))
        return decay**depth if name.startswith(low) else 1.0

    return rate


def freeze(body: Body, frozen_layers: int) -> None:
    """Freezes the embeddings and the lowest `frozen_layers` layers; -1 freezes nothing.

    Raises:
        UserError: There are not that many layers, or none would be left to train.
    """
    if frozen_layers < 0:
        return
    layers = layers_of(body)
    if layers is None or frozen_layers >= len(layers):
        found = "no stack of layers" if layers is None else f"{len(layers)} layers"
        raise UserError(
            f"frozen_layers is {frozen_layers}, but the backbone has {found}; at least one must stay trainable."
        )
    for module in (*embeddings_of(body), *layers[:frozen_layers]):
        module.requires_grad_(False)


def embeddings_of(body: Body) -> list[nn.Module]:
    """The modules that turn tokens and positions into the first hidden states."""
    whole = getattr(body, "embeddings", None)
    positions = getattr(body, "wpe", None)
    found = [whole] if whole is not None else [body.get_input_embeddings(), positions]
    return [module for module in found if module is not None]


def _most_frequent(counts: Counter[str], number: int) -> list[str]:
    """The `number` most frequent strings; ties in alphabetical order."""
    return sorted(counts, key=lambda string: (-counts[string], string))[: max(0, number)]


def _set_dropout(config: BodyConfig, dropout: float | None) -> None:
    for name in DROPOUTS if dropout is not None else ():
        if isinstance(getattr(config, name, None), int | float):
            setattr(config, name, dropout)


def _without_pooler(body: Body) -> Body:
    """Drops BERT's pooler: mean pooling doesn't use it, and data-parallel training stumbles over unused parameters."""
    if getattr(body, "pooler", None) is not None:
        setattr(body, "pooler", None)  # noqa: B010 - the type of a module's attribute is not ours to declare
    return body
