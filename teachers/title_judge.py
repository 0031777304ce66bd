"""How likely a language model finds the titles of items after a history, in several forms."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel as Body

from distill.job import mixed
from teachers.item_prompts import ItemPrompts
from teachers.language_model import continuations
from teachers.rerank import neutral

FORMS = ("sum", "mean", "pmi", "pmi_mean")


@dataclass
class TitleJudge:
    """A causal language model and its prompts.

    Attributes:
        model: With its head.
        prompts: Of all items.
        device: Where the model is.
        numbers: bf16 and fp16 run under autocast, unless the weights are of that type already.
        batch_pairs: Titles judged at once.
        alone: log p(title | prompt without history) of each item (N,); nan where it wasn't asked yet.
    """

    model: Body
    prompts: ItemPrompts
    device: torch.device
    numbers: str
    batch_pairs: int
    alone: Tensor = field(default_factory=lambda: torch.zeros(0))

    def __post_init__(self) -> None:
        if not len(self.alone):
            self.alone = torch.full((self.prompts.n_items,), torch.nan)

    @torch.no_grad()
    def likelihoods(self, history: np.ndarray, items: np.ndarray) -> Tensor:
        """log p(title | prompt), summed over tokens, of items (B, K) after histories (B, L); float32 (B, K), CPU."""
        count, was_training = items.shape[1], self.model.training
        self.model.eval()
        weights = next(self.model.parameters()).dtype
        block, parts = max(1, self.batch_pairs // count), [torch.zeros(0, count)]
        for first in range(0, len(items), block):
            some = slice(first, first + block)
            sides = self.prompts.prefixes(history[some]), self.prompts.ends(items[some].reshape(-1))
            prefix, ends = ({"tokens": t.to(self.device), "mask": m.to(self.device)} for t, m in sides)
            with mixed(self.numbers, self.device, weights):
                parts.append(continuations(self.model, prefix, ends, count).cpu())
        self.model.train(was_training)
        return torch.cat(parts)

    def without_history(self, items: np.ndarray) -> Tensor:
        """log p(title | prompt without history) of items of any shape; each is asked about once and then known."""
        missing = np.unique(items)
        missing = missing[np.isnan(self.alone[missing].numpy())]
        nobody = np.full((1, 1), self.prompts.n_items)
        for first in range(0, len(missing), self.batch_pairs):
            some = missing[first : first + self.batch_pairs]
            self.alone[some] = self.likelihoods(nobody, some[None])[0]
        return self.alone[items]

    def formed(self, likelihood: Tensor, items: np.ndarray, form: str) -> Tensor:
        """What is said of each candidate in one of `FORMS`.

        `sum` is the likelihood itself, `mean` is divided by the title's tokens; `pmi` and `pmi_mean` first take off the
        likelihood without history, so that titles likely anywhere gain nothing by it.

        Args:
            likelihood: Of the candidates (B, K), from `likelihoods`.
            items: Candidates (B, K).
            form: Its name.

        Returns:
            (B, K); items without a title get the mean of their row.
        """
        judged = likelihood - self.without_history(items) if form.startswith("pmi") else likelihood
        if form.endswith("mean"):
            judged = judged / torch.from_numpy(self.prompts.end_lengths[items]).clamp_min(1)
        return neutral(judged, torch.from_numpy(self.prompts.told[items]))
