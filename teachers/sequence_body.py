"""Members `bert` and `gpt`: a language model's transformer run over items, beside decayed pools of the history."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoConfig

from distill.data.contexts import ContextBatch
from distill.data.dataset import TRAIN
from distill.errors import UserError
from distill.job import Job
from distill.progress import say
from teachers.adapters import add_lora, check_adapter, merge_lora
from teachers.backbone import freeze
from teachers.locate import SCRATCH
from teachers.protocol import Inputs
from teachers.sampled import proposal
from teachers.sequence_examples import Sample, examples
from teachers.sequence_model import SequenceModel
from teachers.sequence_open import build, needs_mask, open_body, readable
from teachers.sequence_passes import Answered, ask
from teachers.sequence_start import start

ABOUT = "sequence.json"
BODY = "body"
GATED = (f"{BODY}.", "into.", "out.", "left_out")  # how the names of what a closed gate leaves out begin


class SequenceBody:
    """A transformer over item vectors, whose answer is added to that of the pools of `text_space`.

    The body's part starts at zero. After training, validation is asked with and without it; where it doesn't help, the
    gate is closed, and the member answers from its pools alone.

    References:
        Kang & McAuley 2018, "Self-attentive sequential recommendation" (the next item at every place); Sun et al. 2019,
        "BERT4Rec: sequential recommendation with bidirectional encoder representations from transformer" (items left
        out); Harte et al. 2023, "Leveraging large language models for sequential recommendation", section 3.3 (text
        vectors into a language model's body). The gate, tied cosine logits and seen items masked are this project's.
    """

    distributed = True  # every process of a launch takes part
    family = "gpt"

    def __init__(
        self,
        vectors: str = "",
        width: int = 0,
        backbone: str = SCRATCH,
        hidden_size: int = 64,
        layers: int = 2,
        objective: Literal["auto", "causal", "masked"] = "auto",
        max_length: int = 50,
        frozen_layers: int = -1,
        adapter: dict[str, Any] | None = None,
        body_rate: float | None = None,
        gradient_checkpointing: bool = False,
        train_base: bool = True,
        mlp: bool = False,
        decays: list[float] | tuple[float, ...] = (1.0, 4.0, 20.0),
        scale: float = 20.0,
        dropout: float = 0.3,
        body_dropout: float | None = 0.1,
        item_dropout: float = 0.2,
        mask_share: float = 0.2,
        smoothing: float = 0.0,
        full_softmax_items: int = 30_000,
        negatives: int = 4096,
        negatives_power: float = 0.75,
        epochs: int = 10,
        batch_size: int = 64,
        max_steps: int = 0,
        learning_rate: float = 1e-3,
        weight_decay: float = 0.0,
        accumulation: int = 1,
        precision: Literal["bf16", "fp32"] = "fp32",
        evaluations_per_epoch: int = 1,
        patience: int = 3,
        checkpoint_steps: int = 0,
        seed: int = 0,
    ) -> None:
        """Settings.

        Args:
            vectors: Name of the member whose item vectors it starts from; "": random vectors of `width`. Where that is
                a `text_space`, its whole model is what it starts from, and `width`, `decays`, `scale` and `mlp` don't
                count.
            width: Reduces the vectors to so many principal components; 0 keeps them whole (64 where they are random).
            backbone: A hub id, a local folder, a GGUF file, `package:name/folder`, or `scratch`.
            hidden_size, layers: Size of a scratch body.
            objective: `causal` asks every place for the next item, `masked` asks for items left out and reads both
                ways; `auto` is masked for `bert` and causal for `gpt`.
            max_length: Most items that are read; fewer where the body has fewer places. Of a longer history the latest.
            frozen_layers: The body's embeddings and so many lowest layers stay as they are; -1 trains everything.
            adapter: Low-rank adapters, `{rank: 8, alpha: 16}`; then nothing else of the body trains.
            body_rate: Factor on the body's learning rate; by default 1 for scratch and .05 for others.
            gradient_checkpointing: Saves memory for about a third more time.
            train_base: Whether item vectors and pools are trained along with the body.
            mlp: Adds an MLP over the pools, starting at zero.
            decays: Starting time constants of the history pools, in items.
            scale: Starting logit scale.
            dropout: On queries, in training.
            body_dropout: Of the body's layers; null keeps the body's own.
            item_dropout: Share of the items left out in causal training.
            mask_share: Share of the items asked for in masked training; the last one always is.
            smoothing: Label smoothing.
            full_softmax_items: Larger catalogues are sampled in training.
            negatives: Items drawn a step, for all its places together.
            negatives_power: They are drawn in proportion to (events + 1) to this power.
            epochs: Most passes over the users; validation may stop earlier.
            batch_size: Windows of users a step, of similar length, over all processes.
            max_steps: Most batches in an epoch; 0 for all.
            learning_rate: Peak of one cycle.
            weight_decay: Of AdamW, for matrices.
            accumulation: Batches a step.
            precision: Of the body, in training and scoring; all else is fp32.
            evaluations_per_epoch: How often validation decides which weights are the best.
            patience: Evaluations without a gain before stopping; 0 never stops early.
            checkpoint_steps: Steps between checkpoints that a killed run resumes from; 0 for none.
            seed: Added to the experiment's seed.

        Raises:
            UserError: `adapter` has other settings than an adapter has, or `max_length` is below 2.
        """
        if max_length < 2:
            raise UserError(f"{self.family}: max_length is {max_length}, expected 2 or more.")
        self.vectors, self.width, self.backbone, self.max_length = vectors, width, backbone, max_length
        self.hidden_size, self.layers, self.frozen_layers = hidden_size, layers, frozen_layers
        self.causal = objective == "causal" or (objective == "auto" and self.family == "gpt")
        self.adapter, self.body_dropout = check_adapter(adapter), body_dropout
        self.body_rate = body_rate if body_rate is not None else (1.0 if backbone == SCRATCH else 0.05)
        self.gradient_checkpointing, self.mask_share = gradient_checkpointing, mask_share
        self.full_softmax_items, self.negatives, self.power = full_softmax_items, negatives, negatives_power
        self.pool_settings: dict[str, Any] = {"decays": tuple(decays), "scale": scale, "dropout": dropout}
        self.pool_settings |= {"item_dropout": item_dropout, "smoothing": smoothing, "mlp": mlp}
        self.train_base = train_base
        self.batch_size, self.max_steps, self.bf16, self.seed = batch_size, max_steps, precision == "bf16", seed
        self.schedule: dict[str, Any] = {
            "epochs": epochs, "learning_rate": learning_rate, "weight_decay": weight_decay, "precision": precision,
            "accumulation": accumulation, "evaluations_per_epoch": evaluations_per_epoch, "patience": patience,
            "checkpoint_steps": checkpoint_steps, "micro_batch": batch_size,
        }  # fmt: skip
        self.model: SequenceModel | None = None
        self.served: Tensor | None = None
        self.figures: dict[str, Any] = {}

    def prepare(self, inputs: Inputs) -> None:
        """Opens the body, builds the model around it, and cuts every user's train sequence into windows."""
        dataset, self.random_seed = inputs.dataset, inputs.seed + self.seed
        torch.manual_seed(self.random_seed)
        text, base, needed = start(inputs, self.vectors, self.width)
        self.pool_settings |= needed
        sizes = (self.hidden_size, self.layers, self.body_dropout, self.random_seed)
        body, self.size = open_body(self.backbone, self.family, self.max_length + 1, *sizes)
        self.config, self.given = body.config, needs_mask(body, self.backbone, self.causal)
        self.longest = readable(body.config, self.max_length, self.causal)
        if self.longest < self.max_length:
            say(f"{self.family}: the body has too few places; of longer histories the latest {self.longest} are read")
        self._choose_what_trains(body)
        self.model = self._model(text, body)
        self.model.load_state_dict(base, strict=False)
        if not self.train_base:
            self.model.freeze_base()
        large = dataset.n_items > self.full_softmax_items
        sample = Sample(np.cumsum(proposal(dataset.popularity, self.power)), self.negatives) if large else None
        parts = (self.longest, self.causal, self.mask_share, sample, self.random_seed)
        self.examples = examples(dataset.lists(TRAIN, TRAIN), dataset.n_items, *parts)
        if not self._trains:
            self.finish({})

    @property
    def _trains(self) -> bool:
        return bool(self.schedule["epochs"]) and len(self.examples.rows) > 0

    def _model(self, text: Tensor, body: Any) -> SequenceModel:
        return SequenceModel(text, body, self.size, self.causal, self.given, **self.pool_settings)

    def _choose_what_trains(self, body: Any) -> None:
        if self.adapter is not None:
            add_lora(body, self.adapter, max(0, self.frozen_layers), self.random_seed)
        else:
            freeze(body, self.frozen_layers)
        if self.gradient_checkpointing:
            body.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})

    def job(self) -> Job | None:
        """Training on windows, whose fresh places are examples; None for 0 epochs or without a single example."""
        if not self._trains:
            return None
        assert self.model is not None
        return Job(
            model=self.model,
            batches=lambda epoch: self.examples.batches(epoch, self.batch_size, self.max_steps),
            collate=self.examples.collate,
            rate_scale=lambda name: self.body_rate if name.startswith(f"{BODY}.") else 1.0,
            **self.schedule,
        )

    def refresh(self, model: nn.Module, accelerator: Any) -> None:
        """Keeps the (wrapped) model, which every process asks alike, and its table."""
        assert self.model is not None
        self.runner = model
        nothing = torch.full((1, 1), self.model.n_items, device=accelerator.device)
        with torch.no_grad():
            self.served = model({"history": nothing, "places": torch.zeros_like(nothing).expand(1, 2)})["table"]

    def finish(self, weights: dict[str, Tensor]) -> None:
        """Puts the best weights into a fresh model (an engine may have split or rounded the old one)."""
        assert self.model is not None
        if weights:
            body = build(self.config)
            if self.adapter is not None:
                add_lora(body, self.adapter, max(0, self.frozen_layers), self.random_seed)
            self.model = self._model(weights["text"], body)
            self.model.load_state_dict(weights)
        if self.adapter is not None and self.model.body is not None:
            merge_lora(self.model.body)
        self._serve()

    def _serve(self) -> None:
        assert self.model is not None
        self.runner = self.model.eval().requires_grad_(False)
        self.served = self.model.vectors()

    def settle(self, quality: Callable[[], float]) -> None:
        """Asks validation with the body's gate open and closed, and keeps the better; closed where they are equal."""
        assert self.model is not None
        opened, self.model.gate = quality(), False
        closed = quality()
        self.model.gate = opened > closed
        gate = "open" if self.model.gate else "closed"
        self.figures = {"gate": gate, "ndcg@10_open": opened, "ndcg@10_closed": closed}
        say(f"  gate {gate}: validation ndcg@10 {opened:.4f} with the body, {closed:.4f} without")

    def context_vectors(self, batch: ContextBatch) -> Tensor:
        """Scaled queries (B, d). In causal order one pass answers a history and all in the batch that begin it."""
        assert self.served is not None, "prepare or load first"
        return ask(self.runner, self.served, batch.seen, self.longest, self.causal, self.bf16)

    @torch.no_grad()
    def score(self, batch: ContextBatch) -> Tensor:
        """Scaled cosines (B, N)."""
        assert self.served is not None, "prepare or load first"
        return self.context_vectors(batch) @ self.served.T

    def answering(self, batch: ContextBatch) -> Answered:
        """Itself after all queries of `batch` (row ids ascending), so that neighbours in it share passes."""
        assert self.served is not None, "prepare or load first"
        return Answered(batch.row_id, self.context_vectors(batch), self.served)

    def item_vectors(self) -> Tensor | None:
        """Unit item vectors (N, d)."""
        return self.served

    def save(self, folder: Path) -> None:
        """Writes the weights, the body's configuration, and whether the gate is open; a closed gate keeps no body."""
        assert self.model is not None
        state = {
            name: value.contiguous()
            for name, value in self.model.state_dict().items()
            if self.model.gate or not name.startswith(GATED)
        }
        save_file(state, folder / "model.safetensors")
        self.config.save_pretrained(folder / BODY)
        about = {"open": self.model.gate, "size": self.size, "given": self.given, "longest": self.longest}
        about |= {"decays": len(self.model.mix), "mlp": self.model.mlp is not None}
        (folder / ABOUT).write_text(json.dumps(about | {"figures": self.figures}))

    def load(self, folder: Path) -> Self:
        """Reads what `save` wrote; the backbone itself isn't needed any more."""
        about = json.loads((folder / ABOUT).read_text())
        weights = load_file(folder / "model.safetensors")
        self.size, self.given, self.longest = about["size"], about["given"], about["longest"]
        self.figures, self.config = about["figures"], AutoConfig.from_pretrained(folder / BODY, trust_remote_code=False)
        self.pool_settings |= {"decays": (1.0,) * about["decays"], "mlp": about["mlp"]}
        self.model = self._model(weights["text"], build(self.config) if about["open"] else None)
        self.model.load_state_dict(weights)
        self._serve()
        return self


class Gpt(SequenceBody):
    """The member `gpt`: by default GPT-2's layers from scratch, every place asked for the next item."""

    family = "gpt"


class Bert(SequenceBody):
    """The member `bert`: by default BERT's layers from scratch, asked for items left out."""

    family = "bert"
