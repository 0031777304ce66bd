"""A cross-encoder: one language model reads a user's history and one item together and judges the pair."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from distill.data.contexts import ContextBatch, train_contexts
from distill.data.dataset import VALID
from distill.errors import UserError
from distill.job import Job
from distill.progress import say
from distill.tensors import shuffled
from teachers.adapters import add_lora, check_adapter, merge_lora
from teachers.backbone import freeze, fresh, open_backbone, scratch_backbone, shorten
from teachers.cross_encoder_model import CrossEncoderModel, judge
from teachers.cross_encoder_pairs import TrainPairs
from teachers.locate import SCRATCH
from teachers.multi_task import RANKING, CoOccurrence, Ranking, RatingBase, check_tasks, rating_figures, train_ratings
from teachers.pair_texts import PairTexts
from teachers.precision import chosen_precision
from teachers.prompts import check_window, say_shortened
from teachers.protocol import Inputs
from teachers.rerank import FirstStage, Shortlist, best_weight, neutral, validation

ABOUT = "cross_encoder.json"
TABLES = "cross_encoder.safetensors"
MARKS = 8  # special tokens around the two texts, at most
RATED = 2000  # validation ratings that mae and rmse are measured on, at most


class CrossEncoder:
    """Judges the candidates of an earlier member; see `teachers.rerank.Shortlist.reordered` for its scores."""

    distributed = True  # every process of a launch takes part

    def __init__(
        self,
        retriever: str = "",
        backbone: str = SCRATCH,
        candidates: int = 20,
        tasks: dict[str, float] | None = None,
        ranking: Ranking = "listwise",
        negatives: int = 4,
        hard: float = 0.75,
        weight: float | None = None,
        max_items: int = 8,
        title_tokens: int = 10,
        text_tokens: int = 24,
        max_tokens: int = 96,
        pooling: Literal["mean", "cls", "last"] = "mean",
        epochs: int = 1,
        rows_per_epoch: int = 0,
        batch_size: int = 16,
        learning_rate: float = 3e-5,
        weight_decay: float = 0.01,
        frozen_layers: int = 0,
        keep_layers: int = 0,
        adapter: dict[str, Any] | None = None,
        dropout: float | None = None,
        precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto",
        accumulation: int = 1,
        evaluations_per_epoch: int = 1,
        patience: int = 0,
        checkpoint_steps: int = 0,
        validation_users: int = 1000,
        vocabulary: int = 8000,
        hidden_size: int = 128,
        layers: int = 2,
    ) -> None:
        """Settings.

        Args:
            retriever: Name of the earlier member that picks the candidates. Needed.
            backbone: As for `text_tower`; the heads are always new.
            candidates: K, pairs judged for every context.
            tasks: Weight of each task's loss: `next_item` and `click` (each with negatives), `rating` (the events'
                weights, `data.weight: rating`), `similarity` (how often two items have the same users). By default
                `next_item` alone. Candidates are put in order by the first of next_item, click, rating that is there.
            ranking: Form of the loss of `next_item`: a softmax over the row, pairs, or each item alone. `click` has a
                head of its own and is always pointwise.
            negatives: Items beside each next item; none are drawn for `rating` and `similarity` alone.
            hard: Share of the negatives that are the retriever's candidates; the rest is uniform.
            weight: Of this judgement beside the retriever's log-scores; null finds it on validation.
            max_items: Latest items of a history that are told.
            title_tokens: Longest title in a history.
            text_tokens: Longest text of the judged item.
            max_tokens: Tokens of a pair; the oldest titles are left out where they don't fit.
            pooling: Mean over tokens, the first token, or the last one (for GPT-type bodies).
            epochs: Passes over the train contexts.
            rows_per_epoch: An epoch is a random sample of at most so many train contexts; 0 takes all.
            batch_size: Contexts a step, over all processes, each with its negatives.
            learning_rate: Peak of one cycle.
            weight_decay: Of AdamW, for matrices.
            frozen_layers: The embeddings and so many lowest layers stay as they are; 0 trains all but the embeddings,
                -1 everything, as `scratch` always does.
            keep_layers: Only so many lowest layers of the backbone are used; 0 for all.
            adapter: Low-rank adapters, `{rank: 8, alpha: 16}`; then nothing else of the body trains.
            dropout: Of the body in training; null keeps the backbone's own.
            precision: auto is bf16 where the device has instructions for it, else fp32; fp16 trains on GPUs alone.
            accumulation: Batches a step.
            evaluations_per_epoch: How often validation decides which weights are the best.
            patience: Evaluations without a gain before stopping; 0 never stops early.
            checkpoint_steps: Steps between checkpoints that a killed run resumes from; 0 for none.
            validation_users: Users at most that validation asks about: each costs `candidates` pairs.
            vocabulary, hidden_size, layers: Size of the `scratch` backbone.

        Raises:
            UserError: Unknown tasks, or none that can put items in order; no epochs.
        """
        self.tasks = check_tasks("cross_encoder", {"next_item": 1.0} if tasks is None else tasks)
        if epochs < 1:
            raise UserError("cross_encoder: its heads are new, so it must be trained: epochs is at least 1.")
        self.retriever, self.backbone, self.candidates, self.ranking = retriever, backbone, candidates, ranking
        self.negatives, self.hard, self.weight = negatives, hard, weight
        self.max_items, self.title_tokens, self.text_tokens = max_items, title_tokens, text_tokens
        self.max_tokens, self.pooling = max_tokens, pooling
        self.epochs, self.rows_per_epoch, self.batch_size = epochs, rows_per_epoch, batch_size
        self.learning_rate, self.weight_decay, self.dropout = learning_rate, weight_decay, dropout
        self.frozen_layers = -1 if backbone == SCRATCH else frozen_layers
        self.keep_layers, self.adapter = keep_layers, check_adapter(adapter)
        self.precision, self.accumulation = precision, accumulation
        self.evaluations_per_epoch, self.patience = evaluations_per_epoch, patience
        self.checkpoint_steps, self.validation_users = checkpoint_steps, validation_users
        self.vocabulary, self.hidden_size, self.layers = vocabulary, hidden_size, layers
        self.figures: dict[str, Any] = {}
        self.base: RatingBase | None = None
        self.device = torch.device("cpu")
        self.used = 1.0 if weight is None else weight

    def prepare(self, inputs: Inputs) -> None:
        """Opens the backbone, tokenises every title and text once, lists the train contexts."""
        dataset, self.seed, self.device = inputs.dataset, inputs.seed, inputs.device
        self.first = FirstStage.named("cross_encoder", self.retriever, self.candidates, inputs)
        self.dataset = dataset
        contexts = train_contexts(dataset)
        self.rows = np.flatnonzero(contexts.target >= 0)
        ratings = np.zeros(0, np.float32)
        if "rating" in self.tasks:
            ratings = train_ratings("cross_encoder", dataset)
            self.base = RatingBase.fit(dataset, ratings)
        texts = [text.strip() for text in dataset.texts]
        if not any(texts):
            raise UserError("cross_encoder: no item has any text. Name columns in data.columns, or drop this member.")
        if self.backbone == SCRATCH:
            sizes = (self.vocabulary, self.hidden_size, self.layers, self.max_tokens)
            self.body, self.tokenizer = scratch_backbone(texts, *sizes, self.seed, self.dropout)
        else:
            self.body, self.tokenizer = open_backbone(self.backbone, self.dropout)
            shorten(self.body, self.keep_layers)
        least = self.title_tokens + self.text_tokens + MARKS
        check_window("cross_encoder", self.body.config, self.max_tokens, least, "title_tokens + text_tokens")
        self.numbers = chosen_precision(self.precision, self.device)
        shape = (self.max_items, self.max_tokens, self.title_tokens, self.text_tokens)
        self.texts = PairTexts.of(dataset.titles, texts, self.tokenizer, *shape)
        similar = CoOccurrence.of(dataset) if "similarity" in self.tasks else None
        negatives = self.negatives if {*RANKING} & set(self.tasks) else 0
        drawn = (negatives, round(self.hard * negatives), self.seed)
        self.pairs = TrainPairs(contexts, self.texts, self.first, ratings, self.base, similar, *drawn)
        self.figures |= say_shortened("cross_encoder", self.pairs.shortened(self.rows), len(self.rows))
        self.model: nn.Module = self._outfit()

    def job(self) -> Job | None:
        """All tasks at once, on every train context that is followed by an item."""
        return Job(
            model=self.model,
            batches=lambda epoch: shuffled(self.rows, self.batch_size, self.seed, epoch, self.rows_per_epoch),
            collate=self.pairs.collate,
            epochs=self.epochs,
            learning_rate=self.learning_rate,
            weight_decay=self.weight_decay,
            accumulation=self.accumulation,
            precision=self.numbers,
            evaluations_per_epoch=self.evaluations_per_epoch,
            patience=self.patience,
            checkpoint_steps=self.checkpoint_steps,
            micro_batch=self.batch_size,
        )

    def refresh(self, model: nn.Module, accelerator: Any) -> None:
        """Judges with the (wrapped) model from now on."""
        self.model, self.device = model, accelerator.device

    def finish(self, weights: dict[str, Tensor]) -> None:
        """Puts the best weights into a fresh model, finds the weight beside the retriever, and measures the ratings."""
        self.body = fresh(self.body)
        model = self._outfit()
        model.load_state_dict(weights)
        if self.adapter is not None:
            merge_lora(self.body)
        self.model = model.to(self.device).eval()
        cases, batch = validation(self.dataset, self.validation_users, self.seed)
        if len(cases):
            short = self.first.shortlist(batch)
            begin = time.perf_counter()
            judged = self._judged(batch, short)
            speed = judged.numel() / max(time.perf_counter() - begin, 1e-9)
            found, figures = best_weight(short, judged, cases)
            self.used = found if self.weight is None else self.weight
            self.figures |= {"weight": self.used, **figures}
            say(f"  cross_encoder: {speed:,.0f} pairs/s, {self.candidates} a context; weight {self.used:.3g}")
        if self.base is not None:
            self.figures |= rating_figures(self.predict_ratings, self.base, self.dataset, VALID, self.seed, RATED)

    @torch.no_grad()
    def score(self, batch: ContextBatch) -> Tensor:
        """The retriever's log-scores (B, N), its K candidates in an order of this member's."""
        short = self.first.shortlist(batch)
        return short.reordered(self._judged(batch, short), self.used) if self.used else short.scores

    @torch.no_grad()
    def predict_ratings(self, batch: ContextBatch, items: np.ndarray) -> np.ndarray:
        """Expected ratings (B,), in the unit of the data, of one item a context; a user below 0 is unknown.

        Raises:
            UserError: The member wasn't trained on ratings.
        """
        if self.base is None:
            raise UserError("cross_encoder: it has no rating head; give tasks.rating a weight.")
        left = self._outputs(batch.seen, items)["rating"].cpu().numpy()
        return self.base.of(batch.user, items) + self.base.scale * left

    @torch.no_grad()
    def similarity(self, left: np.ndarray, right: np.ndarray) -> Tensor:
        """How alike the users of two items are expected to be, 0 to 1, for pairs of items (P,).

        Raises:
            UserError: The member wasn't trained on similarity.
        """
        if "similarity" not in self.tasks:
            raise UserError("cross_encoder: it has no similarity head; give tasks.similarity a weight.")
        return torch.sigmoid(self._outputs(left[:, None], right)["similarity"]).cpu()

    def item_vectors(self) -> Tensor | None:
        """None: it has no vector of an item alone."""
        return None

    def save(self, folder: Path) -> None:
        """Writes a Hugging Face folder (encoder and tokenizer); beside it heads, token ids, biases, the retriever."""
        body = {name: value.contiguous() for name, value in self.body.state_dict().items()}
        self.body.save_pretrained(folder, state_dict=body, safe_serialization=True)
        self.tokenizer.save_pretrained(folder)
        assert isinstance(self.model, CrossEncoderModel)
        tables = {f"heads.{name}": value.contiguous() for name, value in self.model.heads.state_dict().items()}
        tables |= self.texts.tensors()
        about: dict[str, Any] = {"weight": self.used, "padding": self.texts.padding}
        if self.base is not None:
            tables |= {"user_bias": torch.from_numpy(self.base.user), "item_bias": torch.from_numpy(self.base.item)}
            about |= {"mean": self.base.mean, "scale": self.base.scale}
        save_file({name: value.cpu() for name, value in tables.items()}, folder / TABLES)
        (folder / ABOUT).write_text(json.dumps(about, indent=2))
        self.first.save(folder)

    def load(self, folder: Path) -> Self:
        """Reads what `save` wrote, and the retriever."""
        about, tables = json.loads((folder / ABOUT).read_text()), load_file(folder / TABLES)
        self.used = about["weight"]
        self.texts = PairTexts.of_tensors(tables, about["padding"], self.max_items, self.max_tokens)
        self.body, self.tokenizer = open_backbone(str(folder))
        model = CrossEncoderModel(self.body, self.pooling, self.tasks, self.ranking)
        model.heads.load_state_dict({k.removeprefix("heads."): v for k, v in tables.items() if k.startswith("heads.")})
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = model.to(self.device).eval()
        self.numbers = chosen_precision(self.precision, self.device, training=False)
        if "mean" in about:
            user, item = (tables[f"{name}_bias"].numpy() for name in ("user", "item"))
            self.base = RatingBase(about["mean"], user, item, about["scale"])
        self.first = FirstStage.load(folder)
        return self

    def _outfit(self) -> CrossEncoderModel:
        """Freezes what is not to train, or adds adapters, and puts new heads on top."""
        if self.adapter is not None:
            add_lora(self.body, self.adapter, max(0, self.frozen_layers), self.seed)
        else:
            freeze(self.body, self.frozen_layers)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return CrossEncoderModel(self.body, self.pooling, self.tasks, self.ranking)

    def _outputs(self, history: np.ndarray, items: np.ndarray) -> dict[str, Tensor]:
        return judge(self.model, self.texts, history, items, self.device, self.numbers)

    def _judged(self, batch: ContextBatch, short: Shortlist) -> Tensor:
        """What the first task that puts items in order says of each candidate (B, K)."""
        rows, k = short.items.shape
        items = short.items.numpy().reshape(-1)
        task = next(task for task in (*RANKING, "rating") if task in self.tasks)
        judged = self._outputs(np.repeat(batch.seen[:, -self.max_items :], k, axis=0), items)[task].view(rows, k)
        if task == "rating":
            assert self.base is not None
            judged = judged * self.base.scale + torch.from_numpy(self.base.item)[short.items]
        return neutral(judged, torch.from_numpy(self.texts.told)[short.items])
