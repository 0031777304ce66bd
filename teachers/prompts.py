"""Prompts put together from pieces of text that were tokenised once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from transformers import PretrainedConfig as BodyConfig
from transformers import PreTrainedTokenizerBase as BodyTokenizer

from distill.errors import UserError
from distill.progress import say
from teachers.text_encoder import CHARACTERS_PER_TOKEN

NONE = -1  # the number of no piece


@dataclass(frozen=True)
class Pieces:
    """Token ids of many short texts end to end; a prompt is a row of piece numbers.

    Attributes:
        start: Where each piece starts, int64 (M + 1,).
        tokens: Token ids, int64 (T,).
    """

    start: np.ndarray
    tokens: np.ndarray

    @classmethod
    def of(cls, rows: list[list[int]]) -> Pieces:
        """Pieces from lists of token ids."""
        lengths = np.fromiter((len(row) for row in rows), np.int64, len(rows))
        start = np.concatenate([[0], np.cumsum(lengths)])
        return cls(start, np.fromiter((token for row in rows for token in row), np.int64, start[-1]))

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each piece, int64 (M,)."""
        return np.diff(self.start)

    def sizes(self, rows: np.ndarray) -> np.ndarray:
        """Tokens of the pieces `rows`, of any shape; 0 for `NONE`."""
        return np.where(rows >= 0, self.lengths[np.maximum(rows, 0)], 0)

    def join(self, rows: np.ndarray, padding: int, left: bool = False) -> tuple[np.ndarray, np.ndarray]:
        """The pieces of each row one after the other.

        Args:
            rows: Piece numbers (P, S); `NONE` adds nothing.
            padding: Token id that fills up.
            left: Fills up on the left instead of the right.

        Returns:
            Token ids, int64 (P, L), and the tokens of each prompt, int64 (P,).
        """
        sizes = self.sizes(rows)
        total = sizes.sum(1)
        flat = sizes.ravel()
        count = int(flat.sum())
        begin = np.cumsum(flat) - flat  # where each piece begins in the joined prompts
        source = np.repeat(self.start[np.maximum(rows, 0)].ravel() - begin, flat) + np.arange(count)
        place = np.arange(count) - np.repeat(np.cumsum(total) - total, total)
        longest = max(1, int(total.max(initial=0)))
        if left:
            place += np.repeat(longest - total, total)
        out = np.full((len(rows), longest), padding, dtype=np.int64)
        out[np.repeat(np.arange(len(rows)), total), place] = self.tokens[source]
        return out, total

    def latest(self, history: np.ndarray, budget: np.ndarray | int) -> tuple[np.ndarray, np.ndarray]:
        """Leaves out the oldest pieces of right-aligned histories until the rest has at most `budget` tokens.

        Args:
            history: Piece numbers (B, H), the latest in the last column; `NONE` pads.
            budget: Tokens allowed, one number or one a row (B,).

        Returns:
            The histories with `NONE` in the place of what doesn't fit, and how many pieces each row lost (B,).
        """
        sizes = self.sizes(history)
        from_latest = np.cumsum(sizes[:, ::-1], axis=1)[:, ::-1]
        fits = from_latest <= np.broadcast_to(budget, len(history))[:, None]
        return np.where(fits, history, NONE), ((history >= 0) & ~fits).sum(1)


def token_lists(texts: list[str], tokenizer: BodyTokenizer, max_tokens: int) -> list[list[int]]:
    """Token ids of each text without special tokens, cut to `max_tokens`; white space runs are one blank."""
    short = [" ".join(text[: max_tokens * CHARACTERS_PER_TOKEN].split()) for text in texts]
    return ids_of(short, tokenizer, max_tokens)


def ids_of(texts: list[str], tokenizer: BodyTokenizer, max_tokens: int) -> list[list[int]]:
    """Token ids of each text as it stands, without special tokens, cut to `max_tokens`."""
    if not texts:
        return []
    options = {"add_special_tokens": False, "return_attention_mask": False, "truncation": True}
    return tokenizer(texts, max_length=max_tokens, **options)["input_ids"]


def pair_template(tokenizer: BodyTokenizer) -> tuple[list[int], list[int], list[int]]:
    """The special tokens before, between and after the two texts of a pair, as this tokenizer puts them.

    Tokenizers of decoders put none; then a line break, or the end token, stands between the two.
    """
    one, two = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("a", "b"))
    both = tokenizer("a", "b")["input_ids"]
    first = next(at for at in range(len(both)) if both[at : at + len(one)] == one)
    rest = both[first + len(one) :]
    second = next(at for at in range(len(rest)) if rest[at : at + len(two)] == two)
    before, between, after = both[:first], rest[:second], rest[second + len(two) :]
    if not between:
        between = tokenizer("\n", add_special_tokens=False)["input_ids"] or [tokenizer.eos_token_id]
    return before, between, after


def check_window(who: str, config: BodyConfig, max_tokens: int, least: int, settings: str) -> None:
    """Makes sure that prompts fit into the backbone's window, and the longest texts into the prompts.

    Args:
        who: The member's name.
        config: Of the backbone.
        max_tokens: Tokens of a prompt, as set.
        least: Tokens that one title of the history and the judged item may take, with what stands around them.
        settings: What decides these.

    Raises:
        UserError: They don't.
    """
    longest = getattr(config, "max_position_embeddings", None)
    if longest is not None and max_tokens > longest:
        raise UserError(f"{who}: max_tokens is {max_tokens}, but the backbone reads at most {longest} tokens.")
    if max_tokens < least:
        raise UserError(
            f"{who}: max_tokens is {max_tokens}, expected at least {least}, or not even the latest title fits beside "
            f"an item. Raise it, or lower {settings}."
        )


def say_shortened(who: str, count: int, total: int) -> dict[str, int]:
    """Says how many of the train histories lose their oldest titles; the figure for member.json."""
    if count:
        say(f"{who}: {count:,} of {total:,} train histories lose their oldest titles to max_tokens.")
    return {"train histories with titles left out": count}
