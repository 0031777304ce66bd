"""Causal language models with their head: opened, asked how likely a text is after a prompt, and trained on that."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModelForCausalLM, LlamaConfig
from transformers import PreTrainedModel as Body
from transformers import PreTrainedTokenizerBase as BodyTokenizer

from distill.job import Batch
from teachers.backbone import ATTENTION, wordpiece


def scratch_language_model(
    texts: list[str], vocabulary: int, hidden_size: int, layers: int, max_tokens: int, seed: int
) -> tuple[Body, BodyTokenizer]:
    """A small Llama with random weights and a WordPiece tokenizer made from `texts`."""
    tokenizer = wordpiece(texts, vocabulary)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=hidden_size,
        intermediate_size=3 * hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=max(1, hidden_size // 32),
        max_position_embeddings=max(max_tokens, 16),
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.cls_token_id,
        eos_token_id=tokenizer.sep_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(config, attn_implementation=ATTENTION), tokenizer


def fresh_language_model(model: Body) -> Body:
    """A model of the same architecture with new weights, to load others into."""
    return AutoModelForCausalLM.from_config(model.config, attn_implementation=ATTENTION)


@torch.no_grad()
def continuations(model: Body, prefix: Batch, ends: Batch, count: int) -> Tensor:
    """log p(continuation | prompt) of `count` continuations of each prompt, summed over their tokens.

    The prompt is read once; its keys and values are shared by its continuations.

    Args:
        model: A causal language model in evaluation mode.
        prefix: `tokens` and `mask` (B, T) of the prompts, padded on the left, none empty.
        ends: `tokens` and `mask` (B * count, S), padded on the right, those of a prompt one after the other.
        count: K.

    Returns:
        float32 (B, K); 0 for a continuation without tokens.
    """
    length = prefix["mask"].sum(1)
    read = _ask(
        model,
        input_ids=prefix["tokens"],
        attention_mask=prefix["mask"].long(),
        position_ids=(prefix["mask"].long().cumsum(1) - 1).clamp_min(0),
        use_cache=True,
        logits_to_keep=1,
    )
    first = torch.log_softmax(read.logits[:, -1].float(), -1).repeat_interleave(count, 0)
    total = first.gather(1, ends["tokens"][:, :1])[:, 0] * ends["mask"][:, 0]
    steps = ends["tokens"].shape[1] - 1
    if steps > 0:
        cache = read.past_key_values
        cache.batch_repeat_interleave(count)
        given = ends["tokens"][:, :-1]
        mask = torch.cat([prefix["mask"].repeat_interleave(count, 0), ends["mask"][:, :-1]], 1)
        place = length.repeat_interleave(count)[:, None] + torch.arange(steps, device=length.device)
        rest = _ask(
            model,
            input_ids=given,
            attention_mask=mask.long(),
            position_ids=place,
            past_key_values=cache,
            use_cache=True,
        )
        total = total + (_log_p(rest.logits, ends["tokens"][:, 1:]) * ends["mask"][:, 1:]).sum(1)
    return total.view(-1, count)


class TitleModel(nn.Module):
    """A causal language model as the engine trains it: the loss counts the tokens of the title alone."""

    def __init__(self, model: Body) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Mean negative log-likelihood of the titles' tokens: tokens, mask and target (B, T), padded on the left."""
        keep = int(batch["target"].sum(1).max()) + 1
        mask = batch["mask"].long()
        told = _ask(
            self.model,
            input_ids=batch["tokens"],
            attention_mask=mask,
            position_ids=(mask.cumsum(1) - 1).clamp_min(0),
            use_cache=False,
            logits_to_keep=keep,
        )
        target = batch["target"][:, -keep + 1 :]
        log_p = _log_p(told.logits[:, -keep:-1], batch["tokens"][:, -keep + 1 :])
        return {"loss": -(log_p * target).sum() / target.sum().clamp_min(1)}


def _log_p(logits: Tensor, tokens: Tensor) -> Tensor:
    """Log-probability of each token (B, S) under logits (B, S, V), without a table of all log-probabilities."""
    rows = logits.float().flatten(0, 1)
    return -functional.cross_entropy(rows, tokens.flatten(), reduction="none").view(tokens.shape)


def _ask(model: Body, **arguments: Any) -> Any:
    """A forward pass with those arguments that the family knows: some count positions by themselves."""
    known = inspect.signature(model.forward).parameters
    return model(**{name: value for name, value in arguments.items() if name in known})
