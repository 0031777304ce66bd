"""Language models as bodies that read vectors of items in place of words."""

from __future__ import annotations

import inspect
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AutoModel, BertConfig, GPT2Config
from transformers import PretrainedConfig as BodyConfig
from transformers import PreTrainedModel as Body

from distill.errors import UserError
from teachers.backbone import ATTENTION, open_backbone
from teachers.locate import SCRATCH

WORDS = 4096  # word vectors whose size is looked at
SMALL_PADDING = 16  # a padding token up to here keeps its number, which RoBERTa counts its positions from
OFFSET_FAMILIES = ("roberta", "xlm-roberta", "camembert", "mpnet")  # their first position is the padding's number + 1


def open_body(
    backbone: str, family: str, length: int, hidden_size: int, layers: int, dropout: float | None, seed: int
) -> tuple[Body, float]:
    """A transformer without its word embeddings, and how large those were.

    Args:
        backbone: See `teachers.locate.locate`; or `scratch`, for random weights in the sizes that follow.
        family: Of a scratch body: "bert" or "gpt" (GPT-2's layers).
        length: Places that a scratch body has.
        hidden_size, layers: Sizes of a scratch body.
        dropout: Replaces every dropout probability of the body's own; None keeps those.
        seed: Of random weights.

    Returns:
        The body, and the root mean square of what its layers are used to read.
    """
    if backbone == SCRATCH:
        sizes = {"vocab_size": 2, "hidden_size": hidden_size, "num_hidden_layers": layers}
        sizes |= {"num_attention_heads": max(1, hidden_size // 32), "max_position_embeddings": max(16, length)}
        config: BodyConfig = _bert(sizes, dropout) if family == "bert" else _gpt(sizes, dropout)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            body = build(config)
    else:
        body = open_backbone(backbone, dropout)[0]
    return body, _drop_words(body)


def build(config: BodyConfig) -> Body:
    """A body with new weights."""
    body = AutoModel.from_config(config, attn_implementation=ATTENTION)
    if getattr(body, "pooler", None) is not None:
        setattr(body, "pooler", None)  # noqa: B010 - the type of a module's attribute is not ours to declare
    body.get_input_embeddings().requires_grad_(False)
    return body


def places(config: BodyConfig) -> int | None:
    """How many places a body of this configuration has; None where any number will do."""
    found = getattr(config, "max_position_embeddings", None)
    if found is not None and config.model_type in OFFSET_FAMILIES:
        found -= (config.pad_token_id or 0) + 1
    return found


def readable(config: BodyConfig, max_length: int, causal: bool) -> int:
    """Most items that a body reads: a masked one needs a place for the item left out at the end."""
    most = places(config)
    return max_length if most is None else min(max_length, most if causal else most - 1)


def needs_mask(body: Body, backbone: str, causal: bool) -> bool:
    """Whether a body has to be kept from looking ahead by a mask; it isn't where it can't or where it should look.

    Raises:
        UserError: It should look ahead and can't, or should not and can't be kept from it.
    """
    own = is_causal(body)
    if own and not causal:
        raise UserError(
            f"objective is 'masked', but backbone '{backbone}' reads only what comes before. Use 'objective: causal', "
            "or a BERT-type backbone."
        )
    if causal and not own:
        check_causal(body, backbone)
    return causal and not own


def is_causal(body: Body) -> bool:
    """Whether each place of this body reads only itself and what comes before; found by trying it."""
    return not _looks_ahead(body, given=False)


def check_causal(body: Body, backbone: str) -> None:
    """Makes sure that a body which reads both ways obeys a mask that forbids looking ahead.

    Raises:
        UserError: It doesn't.
    """
    try:
        obeys = not _looks_ahead(body, given=True)
    except (ValueError, RuntimeError, IndexError, TypeError):
        obeys = False
    if not obeys:
        raise UserError(
            f"backbone '{backbone}': a body of the family '{body.config.model_type}' can't be kept from looking ahead. "
            "Use 'objective: masked', or a BERT, RoBERTa or GPT-type body."
        )


def run_body(body: Body, x: Tensor, inside: Tensor, given: bool, masked: bool) -> Tensor:
    """Hidden states (B, L, H) of vectors (B, L, H) in place of words, padded on the right.

    Args:
        body: The transformer.
        x: What it reads.
        inside: Where there is no padding (B, L).
        given: Hands the body a mask that keeps each place from looking ahead; GPT-type bodies have their own.
        masked: Every place reads all others but the padding.
    """
    mask: dict[str, Tensor] = {}
    if given:  # padding comes last, so nothing that counts looks at it
        length = x.shape[1]
        ahead = torch.ones(length, length, dtype=torch.long, device=x.device).tril()
        mask = {"attention_mask": ahead.expand(len(x), length, length)}
    elif masked:
        mask = {"attention_mask": inside.long()}
    cache: dict[str, Any] = {"use_cache": False} if "use_cache" in inspect.signature(body.forward).parameters else {}
    return body(inputs_embeds=x, **mask, **cache).last_hidden_state


@torch.no_grad()
def _looks_ahead(body: Body, given: bool) -> bool:
    training = body.training
    body.eval()
    x = torch.linspace(-1, 1, 3 * body.config.hidden_size).reshape(1, 3, -1).to(next(body.parameters()))
    other = x.clone()
    other[:, 2] *= -1.0
    inside = torch.ones(1, 3, dtype=torch.bool, device=x.device)
    first, second = (run_body(body, vectors, inside, given, masked=not given) for vectors in (x, other))
    body.train(training)
    return not torch.allclose(first[:, :2], second[:, :2], atol=1e-4)


@torch.no_grad()
def _drop_words(body: Body) -> float:
    """Replaces the word embeddings, which nothing reads, by the few rows that the configuration must have."""
    words = cast(nn.Module, body.get_input_embeddings())
    count = min(WORDS, body.config.vocab_size)
    device = next(words.parameters()).device
    size = float(words(torch.arange(count, device=device)).float().square().mean().sqrt())
    padding = body.config.pad_token_id
    if padding is None or padding >= SMALL_PADDING:
        padding = body.config.pad_token_id = None
    body.config.vocab_size = 1 if padding is None else padding + 1
    kept = nn.Embedding.from_pretrained(torch.zeros(body.config.vocab_size, body.config.hidden_size, device=device))
    body.set_input_embeddings(kept)
    return size or 0.02


def _bert(sizes: dict[str, int], dropout: float | None) -> BertConfig:
    config = BertConfig(**sizes, intermediate_size=4 * sizes["hidden_size"])
    if dropout is not None:
        config.hidden_dropout_prob = config.attention_probs_dropout_prob = dropout
    return config


def _gpt(sizes: dict[str, int], dropout: float | None) -> GPT2Config:
    fused = "gelu_pytorch_tanh"  # GPT-2's own activation as one operation
    config = GPT2Config(**sizes, activation_function=fused, use_cache=False, bos_token_id=0, eos_token_id=0)
    if dropout is not None:
        config.resid_pdrop = config.embd_pdrop = config.attn_pdrop = dropout
    return config
