"""Pairs of texts for a cross-encoder: what a user took, and one item."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase as BodyTokenizer

from distill.job import Batch
from teachers.prompts import NONE, Pieces, pair_template, token_lists

FIXED = 3  # pieces before, between and after the two texts


@dataclass(frozen=True)
class PairTexts:
    """ "[CLS] title; title; … [SEP] item text [SEP]" of any context and item, without tokenising anything again.

    Attributes:
        pieces: The items' titles (N), their texts (N), and what stands before, between and after the two.
        n_items: N.
        padding: Token id that fills up.
        max_items: Latest items of a history that are told.
        max_tokens: Tokens of a pair; the oldest titles are left out where they don't fit.
    """

    pieces: Pieces
    n_items: int
    padding: int
    max_items: int
    max_tokens: int

    @classmethod
    def of(
        cls,
        titles: list[str],
        texts: list[str],
        tokenizer: BodyTokenizer,
        max_items: int,
        max_tokens: int,
        title_tokens: int,
        text_tokens: int,
    ) -> Self:
        """Tokenises titles (N,) and texts (N,), each cut to so many tokens."""
        rows = token_lists([f"{title};" if title.strip() else "" for title in titles], tokenizer, title_tokens)
        rows += token_lists(texts, tokenizer, text_tokens)
        pieces = Pieces.of([*rows, *pair_template(tokenizer)])
        return cls(pieces, len(titles), int(tokenizer.pad_token_id), max_items, max_tokens)

    @property
    def told(self) -> np.ndarray:
        """Whether each item has any text, bool (N,)."""
        return self.pieces.lengths[self.n_items : 2 * self.n_items] > 0

    def fit(self, history: np.ndarray, items: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The latest titles that fit beside the text of each item.

        Args:
            history: Items (P, L), right-aligned, padded with N.
            items: One item a row (P,).

        Returns:
            Piece numbers (P, H) and how many of the latest `max_items` titles were left out (P,).
        """
        history = history[:, -self.max_items :]
        fixed = int(self.pieces.lengths[-FIXED:].sum())
        budget = self.max_tokens - fixed - self.pieces.sizes(items + self.n_items)
        return self.pieces.latest(np.where(history < self.n_items, history, NONE), budget)

    def batch(self, history: np.ndarray, items: np.ndarray) -> Batch:
        """Tensors tokens, mask and types (0 for the history, 1 for the item), each (P, T)."""
        told, _ = self.fit(history, items)
        one = np.ones((len(items), 1), np.int64)
        before, between, after = 2 * self.n_items + np.arange(FIXED)
        first = np.hstack([before * one, told, between * one])
        rows = np.hstack([first, items[:, None] + self.n_items, after * one])
        tokens, length = self.pieces.join(rows, self.padding)
        place = np.arange(tokens.shape[1])
        mask = place < length[:, None]
        types = mask & (place >= self.pieces.sizes(first).sum(1)[:, None])
        return {
            "tokens": torch.from_numpy(tokens),
            "mask": torch.from_numpy(mask),
            "types": torch.from_numpy(types).long(),
        }

    def lengths(self, history: np.ndarray, items: np.ndarray) -> np.ndarray:
        """Tokens of each pair, int64 (P,)."""
        told, _ = self.fit(history, items)
        fixed = int(self.pieces.lengths[-FIXED:].sum())
        return self.pieces.sizes(told).sum(1) + self.pieces.sizes(items + self.n_items) + fixed

    def tensors(self) -> dict[str, Tensor]:
        """What `of_tensors` needs beside the settings."""
        return {"start": torch.from_numpy(self.pieces.start), "pieces": torch.from_numpy(self.pieces.tokens)}

    @classmethod
    def of_tensors(cls, saved: dict[str, Tensor], padding: int, max_items: int, max_tokens: int) -> Self:
        """From what `tensors` gave."""
        pieces = Pieces(saved["start"].numpy(), saved["pieces"].numpy())
        return cls(pieces, (len(pieces.lengths) - FIXED) // 2, padding, max_items, max_tokens)
