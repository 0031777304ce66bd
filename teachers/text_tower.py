"""A BERT tower over item texts, fine-tuned so that items bought or watched one after the other come close."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from distill.data.contexts import ContextBatch
from distill.data.dataset import TRAIN
from distill.data.paraphrase import check_paraphrase, paraphrases
from distill.errors import UserError
from distill.job import Batch, Job
from distill.progress import say
from teachers.backbone import SCRATCH, freeze, fresh, open_backbone, scratch_backbone
from teachers.closed_form import decayed_sum
from teachers.protocol import Inputs
from teachers.text_encoder import TextEncoder, encode, resumable, tokenise
from teachers.text_pairs import Pairs, length_batches, neighbour_pairs
from teachers.text_space import centred
from teachers.text_vectors import tfidf_vectors

VECTORS = "item_vectors.safetensors"


class TextTower:
    """Member A: unit vectors of item texts; a history is a decayed sum of its items' vectors."""

    distributed = True  # every process of a launch takes part

    def __init__(
        self,
        backbone: str = SCRATCH,
        pooling: Literal["mean", "cls"] = "mean",
        max_tokens: int = 48,
        temperature: float = 0.05,
        batch_size: int = 96,
        epochs: int = 1,
        max_steps: int = 0,
        learning_rate: float = 5e-5,
        weight_decay: float = 0.01,
        frozen_layers: int = 2,
        dropout: float | None = 0.0,
        precision: Literal["bf16", "fp32"] = "bf16",
        distance_two: float = 0.3,
        decay: float = 1.5,
        accumulation: int = 1,
        evaluations_per_epoch: int = 1,
        patience: int = 0,
        checkpoint_steps: int = 0,
        cache_megabytes: int = 1024,
        tfidf_share: float | None = None,
        tfidf_width: int = 128,
        vocabulary: int = 8000,
        hidden_size: int = 128,
        layers: int = 2,
        paraphrase: dict[str, Any] | None = None,
    ) -> None:
        """Settings.

        Args:
            backbone: A hub id, a local folder, `package:name/folder` (a folder inside an installed Python package), or
                `scratch`: a small BERT and its tokenizer made from the item texts, where no weights are at hand.
            pooling: Mean over tokens, or the first token.
            max_tokens: Texts are cut to so many tokens.
            temperature: Divides the cosines in the contrastive loss.
            batch_size: Pairs a step, over all processes.
            epochs: Passes over the pairs; 0 takes the vectors as the backbone gives them.
            max_steps: Most batches in an epoch; 0 for all.
            learning_rate: Peak of one cycle.
            weight_decay: Of AdamW, for matrices.
            frozen_layers: The embeddings and so many lowest layers stay as they are; -1 trains everything. Ignored for
                `scratch`, where random layers are not worth keeping.
            dropout: Of the layers in training; null keeps the backbone's own. A few passes over short texts don't
                overfit: without dropout an epoch is faster and its vectors are better.
            precision: bf16 runs about four times as fast as fp32 where the processor knows it.
            distance_two: Pairs of items two places apart, as a share of the direct neighbours.
            decay: Time constant, in items, of the weights of a history's items in the score.
            accumulation: Batches a step.
            evaluations_per_epoch: How often validation decides which weights are the best.
            patience: Evaluations without a gain before stopping; 0 never stops early.
            checkpoint_steps: Steps between checkpoints that a killed run resumes from; 0 for none.
            cache_megabytes: The frozen layers' output is kept for all texts where it fits in this; 0 never keeps it.
            tfidf_share: Share of TF-IDF vectors in the squared norm of the item vectors, 0 to 1; by default 0, and .5
                for `scratch`, whose own vectors know little.
            tfidf_width: Dimensions of the TF-IDF vectors.
            vocabulary, hidden_size, layers: Size of the `scratch` backbone.
            paraphrase: `{name: word_dropout, copies: 1, …}`: in training an item shows its own text or one of so many
                paraphrases of it, each as often (`distill.data.paraphrase`); null for its own text alone.

        Raises:
            UserError: `paraphrase` names no function, or has settings that the function doesn't have.
        """
        self.backbone, self.pooling, self.max_tokens, self.temperature = backbone, pooling, max_tokens, temperature
        self.batch_size, self.epochs, self.max_steps = batch_size, epochs, max_steps
        self.learning_rate, self.weight_decay, self.dropout = learning_rate, weight_decay, dropout
        self.frozen_layers = -1 if backbone == SCRATCH else frozen_layers
        self.precision, self.distance_two, self.decay = precision, distance_two, decay
        self.accumulation, self.evaluations_per_epoch, self.patience = accumulation, evaluations_per_epoch, patience
        self.checkpoint_steps, self.cache_megabytes = checkpoint_steps, cache_megabytes
        self.tfidf_share = tfidf_share if tfidf_share is not None else (0.5 if backbone == SCRATCH else 0.0)
        self.tfidf_width = tfidf_width
        self.vocabulary, self.hidden_size, self.layers = vocabulary, hidden_size, layers
        self.paraphrase = paraphrase
        if paraphrase is not None:
            check_paraphrase(paraphrase)
        self.vectors: Tensor | None = None  # unit vectors (N, d)
        self.folder: Path | None = None

    def prepare(self, inputs: Inputs) -> None:
        """Opens the backbone, tokenises the texts, lists the pairs; without training, encodes the catalogue."""
        dataset, self.seed, self.device = inputs.dataset, inputs.seed, inputs.device
        texts = [text.strip() for text in dataset.texts]
        if not any(texts):
            raise UserError(
                "text_tower: no item has any text. Name the text columns in data.columns, or drop this member."
            )
        self.empty = torch.tensor([not text for text in texts])
        if self.empty.any():
            say(f"text_tower: {int(self.empty.sum())} of {len(texts)} items have no text; they get the mean vector.")
        if self.backbone == SCRATCH:
            sizes = (self.vocabulary, self.hidden_size, self.layers, self.max_tokens)
            self.body, self.tokenizer = scratch_backbone(texts, *sizes, self.seed, self.dropout)
        else:
            self.body, self.tokenizer = open_backbone(self.backbone, self.dropout)
        self._check_length()
        freeze(self.body, self.frozen_layers)
        said = paraphrases(texts, self.paraphrase, self.seed) if self.paraphrase and self.epochs else []
        self.wordings = tokenise([*texts, *said], self.tokenizer, self.max_tokens)
        popularity = torch.from_numpy(dataset.popularity).float().clamp_min(1)
        self.log_popularity = (popularity / popularity.sum()).log()
        self.encoder = TextEncoder(self.body, self.pooling, self.temperature)
        self.pairs: Pairs = neighbour_pairs(dataset.lists(TRAIN, TRAIN))
        self.tfidf = tfidf_vectors(texts, self.tfidf_width, self.seed) if self.tfidf_share > 0 else None
        self._cache()
        self.texts = self.wordings.first(len(texts))
        if self.job() is None:
            self._encode_alone()

    def job(self) -> Job | None:
        """Contrastive training on neighbouring items; None for 0 epochs or without a single pair."""
        if self.epochs == 0 or len(self.pairs.items) == 0:
            return None
        return Job(
            model=self.encoder,
            batches=self._batches,
            collate=self._collate,
            epochs=self.epochs,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            accumulation=self.accumulation,
            precision=self.precision,
            evaluations_per_epoch=self.evaluations_per_epoch,
            patience=self.patience,
            checkpoint_steps=self.checkpoint_steps,
            micro_batch=self.batch_size,
        )

    def refresh(self, model: nn.Module, accelerator: Any) -> None:
        """Encodes the catalogue with the (wrapped) model; each process of a launch takes its share of the texts."""
        share = (accelerator.process_index, accelerator.num_processes)
        vectors = encode(model, self.texts, accelerator.device, self.precision == "bf16", share)
        self._set(accelerator.reduce(vectors.to(accelerator.device), "sum").cpu() if share[1] > 1 else vectors)

    def finish(self, weights: dict[str, Tensor]) -> None:
        """Puts the best weights into a fresh encoder (an engine may have split or rounded the old one) and encodes."""
        self.body = fresh(self.body)
        freeze(self.body, self.frozen_layers)
        self.encoder = TextEncoder(self.body, self.pooling, self.temperature)
        self.encoder.load_state_dict(weights)
        self._encode_alone()

    def score(self, batch: ContextBatch) -> Tensor:
        """sum_j exp(-age_j / decay) * cosine(item_j, i) of half-centred vectors, (B, N)."""
        assert self.vectors is not None, "prepare or load first"
        return decayed_sum(torch.from_numpy(batch.seen), self.table, self.decay) @ self.table.T

    def context_vectors(self, batch: ContextBatch) -> Tensor:
        """Decayed sums of the history's half-centred vectors (B, d), at unit length."""
        return functional.normalize(decayed_sum(torch.from_numpy(batch.seen), self.table, self.decay), dim=-1)

    def item_vectors(self) -> Tensor | None:
        """Unit vectors (N, d), float32."""
        return self.vectors

    def save(self, folder: Path) -> None:
        """Writes a Hugging Face folder (encoder and tokenizer) and the item vectors beside it."""
        assert self.vectors is not None, "prepare or load first"
        state = {name: value.contiguous() for name, value in self.body.state_dict().items()}
        self.body.save_pretrained(folder, state_dict=state, safe_serialization=True)
        self.tokenizer.save_pretrained(folder)
        save_file({"vectors": self.vectors.contiguous()}, folder / VECTORS)

    def load(self, folder: Path) -> Self:
        """Reads the item vectors; the encoder itself only when `encode` is asked for new texts."""
        self.folder = folder
        self._serve(load_file(folder / VECTORS)["vectors"])
        return self

    def encode(self, texts: list[str]) -> Tensor:
        """Unit vectors (M, d) of new texts, in the space of `item_vectors`; opens the saved encoder when first asked.

        Raises:
            UserError: The vectors have a TF-IDF part, whose word counts are not kept.
        """
        if self.tfidf_share > 0:
            raise UserError("text_tower: new texts can be encoded only by a tower trained with tfidf_share: 0.")
        if self.folder is not None and not hasattr(self, "body"):
            self.device = torch.device("cpu")
            self.body, self.tokenizer = open_backbone(str(self.folder))
            self.encoder = TextEncoder(self.body, self.pooling, self.temperature)
        tokens = tokenise(texts, self.tokenizer, self.max_tokens)
        return encode(self.encoder, tokens, self.device, self.precision == "bf16")

    def _batches(self, epoch: int) -> list[np.ndarray]:
        rng = np.random.default_rng([self.seed, epoch])
        numbers = self.pairs.epoch(self.distance_two, rng)
        lengths = self.texts.lengths[self.pairs.items[numbers]].max(1)
        batches = length_batches(numbers, lengths, self.batch_size, rng)
        return batches[: self.max_steps] if self.max_steps else batches

    def _collate(self, numbers: np.ndarray) -> Batch:
        """Each item of the batch's pairs once, and the pairs as rows of those."""
        unique, inverse = np.unique(self.pairs.items[numbers], return_inverse=True)
        items, rows = torch.from_numpy(unique), torch.from_numpy(inverse.reshape(-1, 2))
        batch = self.wordings.batch(items + len(self.texts) * self._wording(numbers, len(items)))
        batch |= {"item": items, "log_popularity": self.log_popularity[items]}
        return batch | {"left": rows[:, 0], "right": rows[:, 1]}

    def _wording(self, numbers: np.ndarray, count: int) -> Tensor:
        """Which wording each item of a batch shows, int64 (count,); 0 is its own text. The batch alone decides it."""
        wordings = len(self.wordings) // len(self.texts)
        return torch.from_numpy(np.random.default_rng([self.seed, *numbers]).integers(0, wordings, count))

    def _cache(self) -> None:
        if not resumable(self.body):
            return
        width = 2 if self.precision == "bf16" else 4
        megabytes = len(self.wordings.tokens) * self.body.config.hidden_size * width / 2**20
        if megabytes <= self.cache_megabytes:
            dtype = torch.bfloat16 if self.precision == "bf16" else torch.float32
            self.encoder.cache_frozen(self.wordings, self.device, dtype)

    def _encode_alone(self) -> None:
        self._set(encode(self.encoder.to(self.device), self.texts, self.device, self.precision == "bf16"))

    def _set(self, vectors: Tensor) -> None:
        """Unit vectors, the mean for items without text, TF-IDF beside them where wanted."""
        vectors[self.empty] = vectors[~self.empty].mean(0)
        vectors = functional.normalize(vectors, dim=-1)
        if self.tfidf is not None:
            words = self.tfidf.clone()
            words[self.empty] = words[~self.empty].mean(0)
            parts = (1 - self.tfidf_share) ** 0.5 * vectors, self.tfidf_share**0.5 * functional.normalize(words, dim=-1)
            vectors = torch.cat(parts, dim=1)
        self._serve(vectors)

    def _serve(self, vectors: Tensor) -> None:
        self.vectors, self.table = vectors, centred(vectors)

    def _check_length(self) -> None:
        longest = getattr(self.body.config, "max_position_embeddings", None)
        if longest is not None and self.max_tokens > longest:
            raise UserError(
                f"text_tower: max_tokens is {self.max_tokens}, but the backbone reads at most {longest} tokens."
            )
