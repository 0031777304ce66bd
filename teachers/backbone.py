"""Language models for item text: found, opened without running or unpickling anything, and partly frozen."""

from __future__ import annotations

import importlib.util
from collections import Counter
from pathlib import Path

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

PACKAGE = "package:"
SCRATCH = "scratch"
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


def locate(name: str) -> str | Path:
    """Where a backbone's files are: a folder, or a hub id that transformers is to look up.

    Args:
        name: A hub id; a local folder; or `package:some_package/folder`, a folder inside an installed Python package,
            which is found without importing it.

    Raises:
        UserError: There is no such folder or package, or the folder is no complete Hugging Face model.
    """
    if name.startswith(PACKAGE):
        folder = _package_folder(name)
    else:
        folder = Path(name).expanduser()
        looks_like_path = name.startswith((".", "/", "~")) or name.count("/") > 1
        if not folder.is_dir():
            if looks_like_path:
                raise UserError(
                    f"backbone '{name}': there is no such folder. Give a hub id (owner/model), a folder with "
                    f"config.json and model.safetensors, '{PACKAGE}name/folder', or '{SCRATCH}'."
                )
            return name
    _check_folder(name, folder)
    return folder


def open_backbone(name: str, dropout: float | None = None) -> tuple[Body, BodyTokenizer]:
    """Opens a pretrained encoder and its tokenizer; weights come from safetensors only, remote code is never run.

    Args:
        name: See `locate`.
        dropout: Replaces every dropout probability of the model's own configuration.

    Raises:
        UserError: Nothing usable is found under the name; the message says where was looked.
    """
    place = locate(name)
    noise = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        config = AutoConfig.from_pretrained(place, trust_remote_code=False)
        _set_dropout(config, dropout)
        body = AutoModel.from_pretrained(
            place,
            config=config,
            trust_remote_code=False,
            use_safetensors=True,
            attn_implementation=ATTENTION,
            dtype=torch.float32,
        )
        tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=False)
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
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise UserError(
                f"backbone '{name}': its tokenizer has neither a padding nor an end token, so texts can't be batched."
            )
        tokenizer.pad_token = tokenizer.eos_token
    return _without_pooler(body), tokenizer


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
    embeddings = getattr(body, "embeddings", None) or body.get_input_embeddings()
    for module in (embeddings, *layers[:frozen_layers]):
        module.requires_grad_(False)


def _most_frequent(counts: Counter[str], number: int) -> list[str]:
    """The `number` most frequent strings; ties in alphabetical order."""
    return sorted(counts, key=lambda string: (-counts[string], string))[: max(0, number)]


def _set_dropout(config: BodyConfig, dropout: float | None) -> None:
    for name in DROPOUTS if dropout is not None else ():
        if isinstance(getattr(config, name, None), int | float):
            setattr(config, name, dropout)


def _package_folder(name: str) -> Path:
    package, _, inside = name.removeprefix(PACKAGE).partition("/")
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            f"backbone '{name}': the Python package '{package}' isn't installed. "
            f"Install it with: pip install {package.replace('_', '-')}"
        )
    folder = Path(next(iter(spec.submodule_search_locations))) / inside
    if not folder.is_dir():
        raise UserError(f"backbone '{name}': the package '{package}' is installed, but has no folder '{inside}'.")
    return folder


def _check_folder(name: str, folder: Path) -> None:
    """Tells a half-downloaded or unsafe folder from a whole one, before transformers fails in its own words."""
    if not (folder / "config.json").is_file():
        raise UserError(
            f"backbone '{name}': {folder} has no config.json; it is no Hugging Face model or only half downloaded."
        )
    if any(folder.glob("*.safetensors")):
        return
    if any(folder.glob("*.bin")):
        raise UserError(
            f"backbone '{name}': {folder} has its weights only as a pickle (*.bin), which could run code when read. "
            f"Convert it once to model.safetensors on a machine you trust, or take a revision that has it."
        )
    raise UserError(f"backbone '{name}': {folder} has no weights (*.safetensors); it is only half downloaded.")


def _without_pooler(body: Body) -> Body:
    """Drops BERT's pooler: mean pooling doesn't use it, and data-parallel training stumbles over unused parameters."""
    if getattr(body, "pooler", None) is not None:
        setattr(body, "pooler", None)  # noqa: B010 - the type of a module's attribute is not ours to declare
    return body
