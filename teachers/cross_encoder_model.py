"""The network of the cross-encoder, and pairs in batches of similar length."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel as Body

from distill.job import Batch, mixed
from teachers.multi_task import Heads, Ranking, task_losses
from teachers.pair_texts import PairTexts
from teachers.text_encoder import pool

BATCH_TOKENS = 8192  # tokens of the pairs judged at once, padding included


class CrossEncoderModel(nn.Module):
    """A transformer, pooling, and a head a task."""

    def __init__(self, body: Body, pooling: str, tasks: dict[str, float], ranking: Ranking = "listwise") -> None:
        super().__init__()
        self.body, self.pooling, self.tasks, self.ranking = body, pooling, tasks, ranking
        self.typed = getattr(body.config, "type_vocab_size", 0) > 1
        self.heads = Heads(body.config.hidden_size, tuple(tasks))

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Outputs of the heads (P,) by task; with `rating` and `similarity` beside the tokens, the losses."""
        given = {"input_ids": batch["tokens"], "attention_mask": batch["mask"].long()}
        given |= {"token_type_ids": batch["types"]} if self.typed else {}
        hidden = self.body(**given).last_hidden_state
        outputs = self.heads(pool(hidden, batch["mask"], self.pooling))
        if "rating" not in batch:
            return outputs
        losses = task_losses(outputs, len(batch["rating"]), batch["rating"], batch["similarity"], self.ranking)
        return {"loss": torch.stack([self.tasks[task] * loss for task, loss in losses.items()]).sum(), **losses}


@torch.no_grad()
def judge(
    model: nn.Module, texts: PairTexts, history: np.ndarray, items: np.ndarray, device: torch.device, numbers: str
) -> dict[str, Tensor]:
    """Outputs of all heads for pairs of a history and an item, by task, float32 (P,), on the CPU.

    Args:
        model: A `CrossEncoderModel`, or what an engine wrapped around it.
        texts: Makes the prompts.
        history: Items (P, L), right-aligned, padded with N.
        items: One item a row (P,).
        device: Where the model is.
        numbers: bf16 and fp16 run under autocast, unless the weights are of that type already.
    """
    weights, was_training = next(model.parameters()), model.training
    model.eval()
    history = history[:, -texts.max_items :]
    lengths = texts.lengths(history, items)
    order = np.argsort(-lengths, kind="stable")
    found: dict[str, Tensor] = {}
    first = 0
    while first < len(order):
        rows = order[first : first + max(1, BATCH_TOKENS // int(lengths[order[first]]))]
        batch = {name: value.to(device) for name, value in texts.batch(history[rows], items[rows]).items()}
        with mixed(numbers, device, weights.dtype):
            outputs = model(batch)
        for task, values in outputs.items():
            found.setdefault(task, torch.zeros(len(items)))[torch.from_numpy(rows)] = values.float().cpu()
        first += len(rows)
    model.train(was_training)
    return found
