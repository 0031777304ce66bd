"""The lower and the upper layers of a language model run apart, so that frozen layers are run once for all."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel as Body

from teachers.backbone import embeddings_of, layers_of

ENCODERS = ("bert", "roberta", "xlm-roberta", "camembert")
ROTARY = ("llama", "mistral", "qwen2", "qwen3")  # decoders whose layers take the same rotary positions
DECODERS = (*ROTARY, "gpt2")


def frozen_depth(body: Body) -> int:
    """How many of the lowest layers need no gradient."""
    depth = 0
    for layer in layers_of(body) or ():
        if any(p.requires_grad for p in layer.parameters()):
            break
        depth += 1
    return depth


def resumable(body: Body) -> bool:
    """Whether the output of the frozen layers can be cached: a known family, embeddings frozen."""
    if body.config.model_type not in (*ENCODERS, *DECODERS):
        return False
    return not any(p.requires_grad for module in embeddings_of(body) for p in module.parameters())


def lower(body: Body, tokens: Tensor, mask: Tensor, depth: int) -> Tensor:
    """The embeddings and the first `depth` layers of a `resumable` body.

    Args:
        body: In evaluation mode.
        tokens: Token ids (M, L), padding on the right.
        mask: True at tokens, (M, L).
        depth: How many layers.

    Returns:
        Hidden states (M, L, h).
    """
    parts = cast(Any, body)
    if body.config.model_type in ENCODERS:
        hidden = parts.embeddings(input_ids=tokens)
    elif body.config.model_type in ROTARY:
        hidden = parts.embed_tokens(tokens)
    else:
        hidden = parts.wte(tokens) + parts.wpe(torch.arange(tokens.shape[1], device=tokens.device))
    return _through(body, hidden, mask, 0, depth)


def upper(body: Body, hidden: Tensor, mask: Tensor, depth: int) -> Tensor:
    """The layers above the first `depth`, from what `lower` returned, to the last hidden state (M, L, h)."""
    layers = layers_of(body)
    assert layers is not None
    hidden = _through(body, hidden, mask, depth, len(layers))
    last = getattr(body, "norm", None) or getattr(body, "ln_f", None)
    return hidden if last is None else last(hidden)


def additive_mask(mask: Tensor, dtype: torch.dtype, causal: bool = False) -> Tensor:
    """0 where a token may look and a very negative number elsewhere: (M, 1, 1, L), or causal (M, 1, L, L)."""
    seen = mask[:, None, None]
    if causal:
        length = mask.shape[1]
        seen = seen & torch.ones(length, length, dtype=torch.bool, device=mask.device).tril()
    return torch.zeros(seen.shape, dtype=dtype, device=mask.device).masked_fill(~seen, torch.finfo(dtype).min)


def _through(body: Body, hidden: Tensor, mask: Tensor, first: int, stop: int) -> Tensor:
    layers = layers_of(body)
    assert layers is not None
    family = body.config.model_type
    settings: dict[str, Any] = {"attention_mask": additive_mask(mask, hidden.dtype, family in DECODERS)}
    if family in ROTARY:
        positions = torch.arange(hidden.shape[1], device=hidden.device)[None]
        settings |= {"position_ids": positions, "position_embeddings": cast(Any, body).rotary_emb(hidden, positions)}
    for layer in layers[first:stop]:
        hidden = _output(layer, hidden, settings)
    return hidden


def _output(layer: nn.Module, hidden: Tensor, settings: dict[str, Any]) -> Tensor:
    """One layer; older transformers give a tuple, newer ones the tensor itself."""
    output: Any = layer(hidden, **settings)
    return output[0] if isinstance(output, tuple) else output
