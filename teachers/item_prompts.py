"""Prompts for a language model that continues the list of what a user took."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase as BodyTokenizer

from teachers.prompts import NONE, Pieces, ids_of
from teachers.text_encoder import CHARACTERS_PER_TOKEN

FIXED = 2  # pieces before and after the history


@dataclass(frozen=True)
class ItemPrompts:
    """A line of introduction, a line "- title" for each item, and "-", after which the next title is expected.

    Attributes:
        pieces: A line of each item (N), what continues the list with it (N), the introduction, and the last dash.
        n_items: N.
        padding: Token id that fills up.
        max_items: Latest items of a history that are told.
        max_tokens: Tokens of a prompt and a title together; the oldest lines are left out where they don't fit.
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
        tokenizer: BodyTokenizer,
        introduction: str,
        ask: str,
        max_items: int,
        max_tokens: int,
        title_tokens: int,
    ) -> Self:
        """Tokenises every title (N,) twice: as a line of a list, and as what continues one; no tokens where empty."""
        words = [" ".join(title[: title_tokens * CHARACTERS_PER_TOKEN].split()) for title in titles]
        lines = [f"- {title}\n" if title else "" for title in words]
        ends = [f" {title}\n" if title else "" for title in words]
        fixed = [f"{introduction}\n" if introduction else "", f"{ask}\n-" if ask else "-"]
        rows = [*ids_of(lines, tokenizer, title_tokens), *ids_of(ends, tokenizer, title_tokens)]
        begin, end = ids_of(fixed, tokenizer, max_tokens)
        pieces = Pieces.of([*rows, begin_tokens(tokenizer) + begin, end])
        return cls(pieces, len(titles), int(tokenizer.pad_token_id), max_items, max_tokens)

    @property
    def told(self) -> np.ndarray:
        """Whether each item has a title, bool (N,)."""
        return self.pieces.lengths[self.n_items : 2 * self.n_items] > 0

    @property
    def end_lengths(self) -> np.ndarray:
        """Tokens of what continues the list with each item, int64 (N,)."""
        return self.pieces.lengths[self.n_items : 2 * self.n_items]

    @property
    def least(self) -> int:
        """Tokens of a prompt with the longest line and the longest title."""
        longest = int(self.pieces.lengths[: 2 * self.n_items].max(initial=0))
        return int(self.pieces.lengths[-FIXED:].sum()) + 2 * longest

    def rows(self, history: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Piece numbers of the prompts of histories (B, L), right-aligned, padded with N.

        Any title must fit behind a prompt, so that all candidates continue the same one.

        Returns:
            (B, H + 2), and how many of the latest `max_items` lines each row lost (B,).
        """
        history = history[:, -self.max_items :]
        longest = int(self.end_lengths.max(initial=0))
        budget = self.max_tokens - longest - int(self.pieces.lengths[-FIXED:].sum())
        lines, lost = self.pieces.latest(np.where(history < self.n_items, history, NONE), budget)
        one = np.ones((len(history), 1), np.int64)
        return np.hstack([2 * self.n_items * one, lines, (2 * self.n_items + 1) * one]), lost

    def prefixes(self, history: np.ndarray) -> tuple[Tensor, Tensor]:
        """Token ids and mask (B, T) of the prompts, padded on the left: every row ends where the title begins."""
        tokens, length = self.pieces.join(self.rows(history)[0], self.padding, left=True)
        mask = np.arange(tokens.shape[1]) >= tokens.shape[1] - length[:, None]
        return torch.from_numpy(tokens), torch.from_numpy(mask)

    def ends(self, items: np.ndarray) -> tuple[Tensor, Tensor]:
        """Token ids and mask (P, T) of titles as continuations, padded on the right."""
        tokens, length = self.pieces.join(items[:, None] + self.n_items, self.padding)
        return torch.from_numpy(tokens), torch.from_numpy(np.arange(tokens.shape[1]) < length[:, None])

    def examples(self, history: np.ndarray, items: np.ndarray) -> tuple[Tensor, Tensor, Tensor]:
        """Prompts with the title that follows, padded on the left: tokens, mask, and mask of the title, each (B, T)."""
        rows = np.hstack([self.rows(history)[0], items[:, None] + self.n_items])
        tokens, length = self.pieces.join(rows, self.padding, left=True)
        place = np.arange(tokens.shape[1])
        mask = place >= tokens.shape[1] - length[:, None]
        target = place >= tokens.shape[1] - self.end_lengths[items][:, None]
        return torch.from_numpy(tokens), torch.from_numpy(mask), torch.from_numpy(target)

    def tensors(self) -> dict[str, Tensor]:
        """What `of_tensors` needs beside the settings."""
        return {"start": torch.from_numpy(self.pieces.start), "pieces": torch.from_numpy(self.pieces.tokens)}

    @classmethod
    def of_tensors(cls, saved: dict[str, Tensor], padding: int, max_items: int, max_tokens: int) -> Self:
        """From what `tensors` gave."""
        pieces = Pieces(saved["start"].numpy(), saved["pieces"].numpy())
        return cls(pieces, (len(pieces.lengths) - FIXED) // 2, padding, max_items, max_tokens)


def begin_tokens(tokenizer: BodyTokenizer) -> list[int]:
    """The special tokens that this tokenizer puts before a text; often none."""
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole = tokenizer("a")["input_ids"]
    return whole[: next(at for at in range(len(whole)) if whole[at : at + len(bare)] == bare)]
