"""The encoder of item texts: tokens once, frozen layers once, then only what trains."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel as Body
from transformers import PreTrainedTokenizerBase as BodyTokenizer

from distill.job import HALVES, Batch, mixed
from distill.tensors import history_pools
from teachers.body_parts import frozen_depth, lower, resumable, upper
from teachers.contrastive import Hard, Side, gather_rows, info_nce, next_item_nce

ENCODING_TOKENS = 8192  # tokens a batch when all texts are encoded
CHARACTERS_PER_TOKEN = 12  # of a text's beginning that is read first; more is read where this made too few tokens
MOST_CHARACTERS = 512  # a token beyond which nothing is read, which keeps the tokenizer away from texts of megabytes
SPARE = 16  # tokens past the cut that show that the cut has changed no token before it


@dataclass
class Texts:
    """Tokenised texts of different lengths end to end, and what the frozen layers make of them.

    Attributes:
        start: Where each text starts, int64 (N + 1,).
        tokens: Token ids, int64 (T,).
        padding: Token id that fills up batches.
        hidden: Output of the last frozen layer, (T, h); None where it isn't cached.
    """

    start: Tensor
    tokens: Tensor
    padding: int
    hidden: Tensor | None = None

    def __len__(self) -> int:
        return len(self.start) - 1

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each text, int64 (N,)."""
        return self.start.diff().numpy()

    def first(self, count: int) -> Texts:
        """The first so many texts; shares the memory of all."""
        stop = int(self.start[count])
        hidden = None if self.hidden is None else self.hidden[:stop]
        return Texts(self.start[: count + 1], self.tokens[:stop], self.padding, hidden)

    def take(self, rows: Tensor) -> Texts:
        """The given texts (M,), without what the frozen layers made of them."""
        lengths = self.start[rows + 1] - self.start[rows]
        start = functional.pad(lengths.cumsum(0), (1, 0))
        place = torch.arange(int(start[-1])) + (self.start[rows] - start[:-1]).repeat_interleave(lengths)
        return Texts(start, self.tokens[place], self.padding)

    def batch(self, rows: Tensor) -> Batch:
        """Tensors tokens (M, L), mask (M, L) and, where cached, hidden (M, L, h) of some texts (M,)."""
        start, length = self.start[rows], self.start[rows + 1] - self.start[rows]
        place = torch.arange(int(length.max()))
        mask = place < length[:, None]
        index = torch.where(mask, start[:, None] + place, 0)
        batch = {"tokens": self.tokens[index].masked_fill(~mask, self.padding), "mask": mask}
        if self.hidden is not None:
            batch["hidden"] = functional.embedding(index, self.hidden)
        return batch

    def budgeted(self, budget: int) -> list[Tensor]:
        """All texts in batches of similar length with at most `budget` tokens, padding included."""
        lengths = self.lengths
        order = np.argsort(-lengths, kind="stable")
        batches, first = [], 0
        while first < len(order):
            size = max(1, budget // int(lengths[order[first]]))
            batches.append(torch.from_numpy(order[first : first + size]))
            first += size
        return batches


def tokenise(texts: list[str], tokenizer: BodyTokenizer, max_tokens: int) -> Texts:
    """Token ids of all texts, each cut to `max_tokens`; runs of white space count as one space."""
    short = beginnings(texts, tokenizer, max_tokens)
    rows = tokenizer(short, truncation=True, max_length=max_tokens, return_attention_mask=False)["input_ids"]
    # A tokenizer without [CLS] and [SEP] makes nothing of an empty text; one padding token stands for it.
    rows = [row or [tokenizer.pad_token_id] for row in rows]
    lengths = np.fromiter((len(row) for row in rows), np.int64, len(rows))
    start = np.concatenate([[0], np.cumsum(lengths)])
    flat = np.fromiter((token for row in rows for token in row), np.int64, start[-1])
    return Texts(torch.from_numpy(start), torch.from_numpy(flat), int(tokenizer.pad_token_id))


def beginnings(texts: list[str], tokenizer: BodyTokenizer, max_tokens: int) -> list[str]:
    """As much of each text as its first `max_tokens` tokens need, so that a text may be of any length."""
    whole = [" ".join(text.split()) for text in texts]
    limit = max_tokens * CHARACTERS_PER_TOKEN
    short = [text[:limit] for text in whole]
    open_ones = [row for row, text in enumerate(whole) if len(text) > limit]
    while open_ones and 2 * limit <= max_tokens * MOST_CHARACTERS:
        rows = tokenizer([short[row] for row in open_ones], return_attention_mask=False)["input_ids"]
        found = zip(open_ones, rows, strict=True)
        open_ones = [row for row, tokens in found if len(tokens) < max_tokens + SPARE and len(whole[row]) > limit]
        limit *= 2
        for row in open_ones:
            short[row] = whole[row][:limit]
    return short


class TextEncoder(nn.Module):
    """A transformer (encoder or decoder) with pooling and unit vectors.

    `forward` takes what `Texts.batch` gives and returns `{"vectors": (M, h)}`. With the pairs of a training batch
    beside it (`left`, `right`: rows of the batch, (B,); `item`, `log_popularity`: of each row, (M,); with hard
    negatives also `negatives`: rows, (M, H)) it returns `{"loss": scalar}`. With histories (`history`, `seen`,
    `follows`: see `teachers.histories.Histories.join`) the loss is a mean of the contrastive one, `pairs`, and of
    `next_item`, which counts `next_item` of it; decayed means of the histories' vectors ask for the right items.
    """

    def __init__(
        self,
        body: Body,
        pooling: str,
        temperature: float,
        smoothing: float = 0.0,
        next_item: float = 0.0,
        decay: float = 1.0,
    ) -> None:
        super().__init__()
        self.body = body
        self.pooling = pooling
        self.temperature = temperature
        self.smoothing = smoothing
        self.next_item, self.decay = next_item, decay
        self.frozen = frozen_depth(body)

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        """Unit vectors, or the contrastive loss over all processes."""
        if "hidden" in batch:
            hidden = upper(self.body, batch["hidden"].to(self.dtype), batch["mask"], self.frozen)
        else:
            hidden = self.body(input_ids=batch["tokens"], attention_mask=batch["mask"].long()).last_hidden_state
        vectors = functional.normalize(pool(hidden, batch["mask"], self.pooling), dim=-1)
        if "left" not in batch:
            return {"vectors": vectors}
        rows = Side(vectors, batch["item"], batch["log_popularity"])
        left, right = (rows.take(batch[side]).gather() for side in ("left", "right"))
        hard: list[Hard | None] = [None, None]
        if "negatives" in batch:
            own = Hard(vectors, batch["log_popularity"])
            hard = [own.take(batch["negatives"][batch[side]]).gather() for side in ("left", "right")]
        if "history" not in batch:
            return {"loss": info_nce(left, right, self.temperature, self.smoothing, *hard)}
        pools = history_pools(batch["history"], vectors, vectors.new_tensor([self.decay]))[:, 0]
        histories = [functional.normalize(pools, dim=-1), batch["seen"], batch["follows"]]
        query, seen, follows = map(gather_rows, histories)
        next_item = next_item_nce(query, right, seen, follows, self.temperature, self.smoothing, hard[1])
        if self.next_item == 1:
            return {"loss": next_item}
        pairs = info_nce(left, right, self.temperature, self.smoothing, *hard)
        loss = (1 - self.next_item) * pairs + self.next_item * next_item
        return {"loss": loss, "pairs": pairs, "next_item": next_item}

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights: DeepSpeed may have made them bfloat16."""
        return next(self.body.parameters()).dtype

    @torch.no_grad()
    def cache_frozen(self, texts: Texts, device: torch.device, dtype: torch.dtype) -> None:
        """Runs the embeddings and frozen layers once for all texts and keeps their output in `texts.hidden`.

        Afterwards neither training nor encoding runs them again. Their dropout is off; with fixed weights it would only
        be noise.

        Args:
            texts: All item texts.
            device: Where to compute.
            dtype: How the output is kept; also the precision of the computation.
        """
        self.to(device).eval()
        half = dtype if dtype != torch.float32 else torch.bfloat16
        kept = torch.empty(len(texts.tokens), self.body.config.hidden_size, dtype=dtype)
        for rows in texts.budgeted(ENCODING_TOKENS):
            batch = {name: value.to(device) for name, value in texts.batch(rows).items()}
            with torch.autocast(device.type, dtype=half, enabled=dtype != torch.float32):
                hidden = lower(self.body, batch["tokens"], batch["mask"], self.frozen)
            inside = batch["mask"]
            place = (texts.start[rows][:, None] + torch.arange(inside.shape[1]))[inside.cpu()]
            kept[place] = hidden[inside].to("cpu", dtype)
        texts.hidden = kept


def keep_frozen(encoder: TextEncoder, texts: Texts, device: torch.device, precision: str, megabytes: int) -> None:
    """Runs the frozen layers once for all texts, where the family allows it and their output fits in `megabytes`."""
    if not resumable(encoder.body):
        return
    dtype = HALVES.get(precision, torch.float32)
    if len(texts.tokens) * encoder.body.config.hidden_size * dtype.itemsize <= megabytes * 2**20:
        encoder.cache_frozen(texts, device, dtype)


@torch.no_grad()
def encode(
    model: nn.Module, texts: Texts, device: torch.device, precision: str = "fp32", share: tuple[int, int] = (0, 1)
) -> Tensor:
    """Unit vectors of all texts.

    Args:
        model: A `TextEncoder`, or what an engine wrapped around it.
        texts: N texts.
        device: Where the model is.
        precision: bf16 and fp16 run under autocast, unless the weights are of a half type already.
        share: This process's number and how many there are; each encodes its part of the texts.

    Returns:
        (N, h), float32, on the CPU; rows of other processes' texts are zero, so that the sum over processes is whole.
    """
    rank, world = share
    weights = next(model.parameters()).dtype
    batches = texts.budgeted(ENCODING_TOKENS)
    vectors: Tensor | None = None
    was_training = model.training
    model.eval()
    # Split weights (ZeRO-3) are gathered layer by layer, so every process must run equally many batches.
    for first in range(0, len(batches), world):
        rows = batches[min(first + rank, len(batches) - 1)]
        batch = {name: value.to(device) for name, value in texts.batch(rows).items()}
        with mixed(precision, device, weights):
            encoded = model(batch)["vectors"].float().cpu()
        if vectors is None:
            vectors = torch.zeros(len(texts), encoded.shape[1])
        if first + rank < len(batches):
            vectors[rows] = encoded
    model.train(was_training)
    return vectors if vectors is not None else torch.zeros(0, 1)


def pool(hidden: Tensor, mask: Tensor, pooling: str) -> Tensor:
    """(M, L, h) to float32 (M, h): the mean over tokens, the first token ("cls"), or the last one ("last").

    Padding stands on the right; in a causal model no token sees it.
    """
    if pooling == "cls":
        return hidden[:, 0].float()
    if pooling == "last":
        place = mask.long().sum(1).clamp_min(1) - 1
        return hidden.gather(1, place[:, None, None].expand(-1, 1, hidden.shape[2]))[:, 0].float()
    weights = mask.unsqueeze(-1).float()
    return (hidden.float() * weights).sum(1) / weights.sum(1).clamp_min(1.0)
