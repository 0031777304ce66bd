"""A BERT or GPT tower over item texts, fine-tuned so that items taken one after the other come close."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from distill.closed_form.interactions import decayed_sum
from distill.data.contexts import ContextBatch
from distill.data.dataset import TRAIN
from distill.data.paraphrase import check_paraphrase, paraphrases
from distill.errors import UserError
from distill.job import Job
from distill.progress import say
from teachers.adapters import check_adapter, merge_lora, outfit
from teachers.backbone import SCRATCH, check_length, fresh, layer_rates, open_backbone, scratch_backbone, shorten
from teachers.hard_negatives import POOL, mine, together
from teachers.histories import Histories
from teachers.precision import chosen_precision
from teachers.protocol import Inputs
from teachers.quantised import four_bits, plain
from teachers.text_cache import TextCache, cached_vectors, model_digest
from teachers.text_encoder import TextEncoder, encode, keep_frozen, tokenise
from teachers.text_pairs import PairBatches, neighbour_pairs
from teachers.text_space import centred
from teachers.text_vectors import beside, mean_where, tfidf_vectors

VECTORS = "item_vectors.safetensors"


class TextTower:
    """Member A: unit vectors of item texts; a history is a decayed sum of its items' vectors."""

    distributed = True  # every process of a launch takes part

    def __init__(
        self,
        backbone: str = SCRATCH,
        pooling: Literal["mean", "cls", "last"] = "mean",
        max_tokens: int = 48,
        temperature: float = 0.05,
        batch_size: int = 96,
        epochs: int = 1,
        max_steps: int = 0,
        learning_rate: float = 5e-5,
        weight_decay: float = 0.01,
        frozen_layers: int = 2,
        keep_layers: int = 0,
        layer_decay: float = 1.0,
        adapter: dict[str, Any] | None = None,
        gradient_checkpointing: bool = False,
        dropout: float | None = 0.0,
        precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto",
        smoothing: float = 0.0,
        hard_negatives: int = 0,
        distance_two: float = 0.3,
        next_item: float = 0.0,
        history_length: int = 10,
        history_texts: float = 2.0,
        decay: float = 1.5,
        accumulation: int = 1,
        evaluations_per_epoch: int = 1,
        patience: int = 0,
        checkpoint_steps: int = 0,
        cache_megabytes: int = 1024,
        cache: bool = True,
        tfidf_share: float | None = None,
        tfidf_width: int = 128,
        vocabulary: int = 8000,
        hidden_size: int = 128,
        layers: int = 2,
        paraphrase: dict[str, Any] | None = None,
    ) -> None:
        """Settings.

        Args:
            backbone: An encoder or a decoder: a hub id, a local folder or GGUF file, `package:name/folder` (inside an
                installed Python package), or `scratch`: a small BERT and its tokenizer made from the item texts.
            pooling: Mean over tokens, the first token, or the last one (for decoders, whose last token alone saw all).
            max_tokens: Texts are cut to so many tokens.
            temperature: Divides the cosines in the contrastive loss.
            batch_size: Pairs a step, over all processes.
            epochs: Passes over the pairs; 0 takes the vectors as the backbone gives them.
            max_steps: Most batches in an epoch; 0 for all.
            learning_rate: Peak of one cycle.
            weight_decay: Of AdamW, for matrices.
            frozen_layers: The embeddings and so many lowest layers stay as they are; -1 trains everything. Ignored for
                `scratch`, where random layers are not worth keeping.
            keep_layers: The layers above the lowest so many are dropped; 0 keeps all. A decoder's top layers serve the
                next token more than the meaning of the text.
            layer_decay: Each layer learns at so many times the rate of the one above it.
            adapter: `{rank: 8, alpha: 16, dropout: 0, targets: auto}`: low-rank adapters learn and the body stays; the
                saved tower has them merged (needs `pip install taildistill[lora]`). With `quantised: true` the body is
                kept in 4 bits meanwhile (`taildistill[qlora]`). Null trains the layers themselves.
            gradient_checkpointing: Computes the layers anew in the backward pass: less memory, a third more time.
            dropout: Of the layers in training; null keeps the backbone's own. A few passes over short texts don't
                overfit: without dropout an epoch is faster and its vectors are better.
            precision: auto is bf16 where the device has instructions for it (about four times as fast), else fp32; fp16
                trains on GPUs alone, with scaled losses.
            smoothing: Share of the contrastive target that is spread evenly over the candidates.
            hard_negatives: So many of the nearest items that no user had together with the anchor join its candidates;
                found anew at each validation.
            distance_two: Pairs of items two places apart, as a share of the direct neighbours.
            next_item: Share of a second loss: the decayed mean of a history's item vectors asks for the next item. With
                0 pairs alone teach, with 1 the next item alone.
            history_length: So many latest items make that mean.
            history_texts: Most texts beside those of the pairs that a step encodes for it, as a multiple of its pairs;
                of more, the items with the least weight are left out of the means.
            decay: Time constant, in items, of the weights of a history's items in the score, and in that mean.
            accumulation: Batches a step.
            evaluations_per_epoch: How often validation decides which weights are the best.
            patience: Evaluations without a gain before stopping; 0 never stops early.
            checkpoint_steps: Steps between checkpoints that a killed run resumes from; 0 for none.
            cache_megabytes: The frozen layers' output is kept for all texts where it fits in this; 0 never keeps it.
            cache: With `epochs: 0`, vectors of texts are kept by the content of text and model in the folder that the
                environment variable TAILDISTILL_CACHE names (~/.cache/taildistill), so a new item costs one encoding.
            tfidf_share: Share of TF-IDF vectors in the squared norm of the item vectors, 0 to 1; by default 0, and .5
                for `scratch`, whose own vectors know little.
            tfidf_width: Dimensions of the TF-IDF vectors.
            vocabulary, hidden_size, layers: Size of the `scratch` backbone.
            paraphrase: `{name: word_dropout, copies: 1, …}`: in training an item shows its own text or one of so many
                paraphrases of it, each as often (`distill.data.paraphrase`); null for its own text alone.

        Raises:
            UserError: `paraphrase` or `adapter` has settings that don't exist, or a number is out of range.
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
        self.keep_layers, self.layer_decay = keep_layers, layer_decay
        self.adapter = check_adapter(adapter, quantised=True)
        self.gradient_checkpointing, self.cache = gradient_checkpointing, cache
        self.smoothing, self.hard_negatives = smoothing, hard_negatives
        self.next_item, self.history_length, self.history_texts = next_item, history_length, history_texts
        if not 0 < layer_decay <= 1 or not 0 <= smoothing < 1 or hard_negatives < 0:
            raise UserError("text_tower: layer_decay is in (0, 1], smoothing in [0, 1), and hard_negatives from 0.")
        if not 0 <= next_item <= 1 or history_length < 1 or history_texts < 0:
            raise UserError("text_tower: next_item is in [0, 1], history_length from 1, and history_texts from 0.")
        if backbone == SCRATCH and self.adapter is not None and self.adapter.quantised:
            raise UserError("text_tower: adapter.quantised keeps pretrained weights in 4 bits; 'scratch' has none.")
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
        self.pairs = neighbour_pairs(dataset.lists(TRAIN, TRAIN))
        self.numbers = chosen_precision(self.precision, self.device)
        if self.backbone == SCRATCH:
            sizes = (self.vocabulary, self.hidden_size, self.layers, self.max_tokens)
            self.body, self.tokenizer = scratch_backbone(texts, *sizes, self.seed, self.dropout)
        else:
            packed = four_bits(self.numbers, self.device) if self._quantised() else None
            self.body, self.tokenizer = open_backbone(self.backbone, self.dropout, four_bits=packed)
            shorten(self.body, self.keep_layers)
            check_length(self.body, self.max_tokens)
        self.encoder = self._outfit()
        said = paraphrases(texts, self.paraphrase, self.seed) if self.paraphrase and self.epochs else []
        self.wordings = tokenise([*texts, *said], self.tokenizer, self.max_tokens)
        self.tfidf = tfidf_vectors(texts, self.tfidf_width, self.seed) if self.tfidf_share > 0 else None
        self.texts = self.wordings.first(len(texts))
        if not self._trains():
            self._set(self._encode_cached(texts))
            return
        keep_frozen(self.encoder, self.wordings, self.device, self.numbers, self.cache_megabytes)
        self.texts = self.wordings.first(len(texts))
        popularity = torch.from_numpy(dataset.popularity).float().clamp_min(1)
        log_popularity = (popularity / popularity.sum()).log()
        self.batches = PairBatches(self.pairs, self.wordings, log_popularity, self.seed, self.hard_negatives)
        if self.next_item:
            pool = (self.history_length, self.history_texts, self.decay)
            self.batches.histories = Histories.of(dataset, self.pairs.place, self.pairs.near, *pool)
        if self.hard_negatives:
            self.known = together(dataset.lists(TRAIN, TRAIN), dataset.n_items)
            self._encode_alone()

    def job(self) -> Job | None:
        """Contrastive training on neighbouring items, and on next items; None for 0 epochs or without a single pair."""
        if not self._trains():
            return None
        far = self.distance_two if self.next_item < 1 else 0.0  # items two apart say nothing of the next one
        return Job(
            model=self.encoder,
            batches=lambda epoch: self.batches.epoch(epoch, far, self.batch_size, self.max_steps),
            collate=self.batches.collate,
            epochs=self.epochs,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            accumulation=self.accumulation,
            precision=self.numbers,
            evaluations_per_epoch=self.evaluations_per_epoch,
            patience=self.patience,
            checkpoint_steps=self.checkpoint_steps,
            micro_batch=self.batch_size,
            rate_scale=layer_rates(self.body, self.layer_decay, "body.") if self.layer_decay < 1 else None,
        )

    def refresh(self, model: nn.Module, accelerator: Any) -> None:
        """Encodes the catalogue with the (wrapped) model; each process of a launch takes its share of the texts."""
        share = (accelerator.process_index, accelerator.num_processes)
        vectors = encode(model, self.texts, accelerator.device, self.numbers, share)
        self._set(accelerator.reduce(vectors.to(accelerator.device), "sum").cpu() if share[1] > 1 else vectors)

    def finish(self, weights: dict[str, Tensor]) -> None:
        """Puts the best weights into a fresh encoder (an engine may have split or rounded the old one) and encodes."""
        if not self._quantised():  # a base in 4 bits never changes
            self.body = fresh(self.body)
            self.encoder = self._outfit()
        self.encoder.load_state_dict(weights)
        if self._quantised():
            self.encoder.body = self.body = plain(self.body)
        elif self.adapter is not None:
            merge_lora(self.body)
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
        numbers = chosen_precision(self.precision, self.device, training=False)
        return encode(self.encoder, tokens, self.device, numbers)

    def _trains(self) -> bool:
        return self.epochs > 0 and len(self.pairs.items) > 0

    def _quantised(self) -> bool:
        return self.adapter is not None and self.adapter.quantised and self._trains()

    def _outfit(self) -> TextEncoder:
        """Freezes what is not to train, adds adapters, and puts the pooling on top."""
        outfit(self.body, self.adapter if self._trains() else None, self.frozen_layers, self.seed)
        if self.gradient_checkpointing:
            self.body.gradient_checkpointing_enable({"use_reentrant": False})
        losses = (self.temperature, self.smoothing, self.next_item, self.decay)
        return TextEncoder(self.body, self.pooling, *losses)

    def _encode_alone(self) -> None:
        self._set(encode(self.encoder.to(self.device), self.texts, self.device, self.numbers))

    def _encode_cached(self, texts: list[str]) -> Tensor:
        """Unit vectors of the catalogue by the backbone as it is; those of texts met before come from the cache."""
        encoder = self.encoder.to(self.device)
        if not self.cache or self.backbone == SCRATCH:
            return encode(encoder, self.texts, self.device, self.numbers)
        settings = [self.pooling, self.max_tokens, self.numbers]
        return cached_vectors(
            TextCache(model_digest(self.body, self.tokenizer, settings)),
            texts,
            lambda rows: encode(encoder, self.texts.take(rows), self.device, self.numbers),
        )

    def _set(self, vectors: Tensor) -> None:
        """Unit vectors, the mean for items without text, TF-IDF beside them where wanted."""
        vectors = functional.normalize(mean_where(self.empty, vectors), dim=-1)
        if self.tfidf is not None:
            words = functional.normalize(mean_where(self.empty, self.tfidf), dim=-1)
            vectors = beside(vectors, words, self.tfidf_share)
        self._serve(vectors)
        if self.hard_negatives and self.epochs:
            self.batches.nearest = mine(vectors, self.known, POOL * self.hard_negatives)

    def _serve(self, vectors: Tensor) -> None:
        self.vectors, self.table = vectors, centred(vectors)
