"""A GPT-type language model as a reranker: which title would it write next in the list of what a user took?"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from distill.data.contexts import ContextBatch, train_contexts
from distill.errors import UserError
from distill.job import Batch, Job
from distill.progress import say
from distill.tensors import shuffled
from teachers.adapters import add_lora, check_adapter, merge_lora
from teachers.backbone import freeze, open_backbone
from teachers.item_prompts import ItemPrompts
from teachers.language_model import TitleModel, fresh_language_model, scratch_language_model
from teachers.locate import SCRATCH
from teachers.precision import chosen_precision
from teachers.prompts import check_window, say_shortened
from teachers.protocol import Inputs
from teachers.rerank import FirstStage, best_weight, validation
from teachers.title_judge import FORMS, TitleJudge

ABOUT = "gpt_rerank.json"
TABLES = "gpt_rerank.safetensors"
Form = Literal["auto", "sum", "mean", "pmi", "pmi_mean"]


class GPTRerank:
    """Candidates of an earlier member in the order of how likely a language model finds their titles.

    References:
        Prompts and likelihoods: Sileo et al. 2022, "Zero-shot recommendation as language modeling"; the calibration by
        the likelihood without the history (`pmi`): Holtzman et al. 2021, "Surface form competition", eq. 2.
    """

    distributed = True  # every process of a launch takes part

    def __init__(
        self,
        retriever: str = "",
        backbone: str = SCRATCH,
        candidates: int = 20,
        form: Form = "auto",
        weight: float | None = None,
        introduction: str = "A customer chose these items, one after the other:",
        ask: str = "",
        max_items: int = 10,
        title_tokens: int = 24,
        max_tokens: int = 320,
        batch_pairs: int = 80,
        epochs: int = 0,
        rows_per_epoch: int = 0,
        batch_size: int = 8,
        learning_rate: float = 1e-4,
        weight_decay: float = 0.0,
        adapter: dict[str, Any] | None = None,
        frozen_layers: int = 0,
        precision: Literal["auto", "bf16", "fp16", "fp32"] = "auto",
        accumulation: int = 1,
        evaluations_per_epoch: int = 1,
        patience: int = 0,
        checkpoint_steps: int = 0,
        validation_users: int = 200,
        vocabulary: int = 8000,
        hidden_size: int = 128,
        layers: int = 2,
    ) -> None:
        """Settings.

        Args:
            retriever: Name of the earlier member that picks the candidates. Needed.
            backbone: A causal language model: a hub id, a folder, a GGUF file, `package:name/…`; or `scratch`, a small
                Llama of random weights, which knows nothing before it is trained.
            candidates: K, titles judged for every context.
            form: What is made of a title's log-likelihood: its `sum` over the tokens, their `mean`, or how much the
                history adds to it (`pmi`, `pmi_mean`); `auto` takes the best on validation.
            weight: Of this judgement beside the retriever's log-scores; null finds it on validation.
            introduction: First line of the prompt.
            ask: A line after the history; without it the next title simply continues the list.
            max_items: Latest items of a history that are told.
            title_tokens: Longest title.
            max_tokens: Tokens of a prompt and a title; the oldest lines are left out where they don't fit.
            batch_pairs: Titles judged at once.
            epochs: Passes of fine-tuning on the titles that came next; 0 takes the model as it is.
            rows_per_epoch: An epoch is a random sample of at most so many train contexts; 0 takes all.
            batch_size: Contexts a step, over all processes.
            learning_rate: Peak of one cycle.
            weight_decay: Of AdamW, for matrices.
            adapter: Low-rank adapters, `{rank: 8, alpha: 16}`; then nothing else trains.
            frozen_layers: In fine-tuning the embeddings and so many lowest layers stay as they are; -1 trains all.
            precision: auto is bf16 where the device has instructions for it, else fp32; fp16 trains on GPUs alone.
            accumulation: Batches a step.
            evaluations_per_epoch: How often validation decides which weights are the best.
            patience: Evaluations without a gain before stopping; 0 never stops early.
            checkpoint_steps: Steps between checkpoints that a killed run resumes from; 0 for none.
            validation_users: Users at most that validation asks about: each costs a prompt and `candidates` titles.
            vocabulary, hidden_size, layers: Size of the `scratch` backbone.
        """
        self.retriever, self.backbone, self.candidates = retriever, backbone, candidates
        self.form, self.weight = form, weight
        self.introduction, self.ask, self.max_items = introduction, ask, max_items
        self.title_tokens, self.max_tokens, self.batch_pairs = title_tokens, max_tokens, batch_pairs
        self.epochs, self.rows_per_epoch, self.batch_size = epochs, rows_per_epoch, batch_size
        self.learning_rate, self.weight_decay = learning_rate, weight_decay
        self.adapter = check_adapter(adapter)
        self.frozen_layers = -1 if backbone == SCRATCH else frozen_layers
        self.precision, self.accumulation = precision, accumulation
        self.evaluations_per_epoch, self.patience = evaluations_per_epoch, patience
        self.checkpoint_steps, self.validation_users = checkpoint_steps, validation_users
        self.vocabulary, self.hidden_size, self.layers = vocabulary, hidden_size, layers
        self.figures: dict[str, Any] = {}
        self.used_form: str = "mean" if form == "auto" else form
        self.used = 1.0 if weight is None else weight
        self.folder: Path | None = None
        self.judge: TitleJudge | None = None
        self.body: Any = None
        self.device = torch.device("cpu")

    def prepare(self, inputs: Inputs) -> None:
        """Opens the model and tokenises every title once; without training, finds form and weight on validation."""
        dataset, self.seed, self.device = inputs.dataset, inputs.seed, inputs.device
        chosen_precision(self.precision, self.device)  # before anything is opened
        self.first = FirstStage.named("gpt_rerank", self.retriever, self.candidates, inputs)
        self.dataset = dataset
        titles = [title.strip() for title in dataset.titles]
        if not any(titles):
            raise UserError(
                "gpt_rerank: no item has a title. Name its column in data.columns.title, or drop this member."
            )
        if self.backbone == SCRATCH:
            sizes = (self.vocabulary, self.hidden_size, self.layers, self.max_tokens)
            self.body, self.tokenizer = scratch_language_model(titles, *sizes, self.seed)
        else:
            self.body, self.tokenizer = open_backbone(self.backbone, model=AutoModelForCausalLM)
        shape = (self.introduction, self.ask, self.max_items, self.max_tokens, self.title_tokens)
        self.prompts = ItemPrompts.of(titles, self.tokenizer, *shape)
        check_window("gpt_rerank", self.body.config, self.max_tokens, self.prompts.least, "title_tokens")
        self._serve()
        self.contexts = train_contexts(dataset)
        told = np.concatenate([self.prompts.told, [False]])
        self.rows = np.flatnonzero(told[self.contexts.target])
        self.figures |= say_shortened("gpt_rerank", self._shortened(), len(self.rows))
        self.model = self._outfit() if self.epochs and len(self.rows) else None
        if self.model is None:
            self._settle()

    def job(self) -> Job | None:
        """Language modelling of the titles that came next, their tokens alone; None for 0 epochs or without rows."""
        if self.model is None:
            return None
        return Job(
            model=self.model,
            batches=lambda epoch: shuffled(self.rows, self.batch_size, self.seed, epoch, self.rows_per_epoch),
            collate=self._collate,
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
        inner: Any = model
        while hasattr(inner, "module"):
            inner = inner.module
        self.body, self.device = inner.model, accelerator.device
        self._serve()

    def finish(self, weights: dict[str, Tensor]) -> None:
        """Puts the best weights into a fresh model, and finds form and weight on validation."""
        self.body = fresh_language_model(self.body)
        model = self._outfit()
        model.load_state_dict(weights)
        if self.adapter is not None:
            merge_lora(self.body)
        self._serve()
        self._settle()

    def score(self, batch: ContextBatch) -> Tensor:
        """The retriever's log-scores (B, N), its K candidates in an order of this member's."""
        short = self.first.shortlist(batch)
        if not self.used:
            return short.scores
        judge, items = self._opened(), short.items.numpy()
        judged = judge.formed(judge.likelihoods(batch.seen, items), items, self.used_form)
        return short.reordered(judged, self.used)

    def item_vectors(self) -> Tensor | None:
        """None: it has no vectors."""
        return None

    def save(self, folder: Path) -> None:
        """Writes token ids, form and weight; the model itself only where it was trained or made here."""
        if self.epochs or self.backbone == SCRATCH:
            state = {name: value.contiguous() for name, value in self.body.state_dict().items()}
            self.body.save_pretrained(folder, state_dict=state, safe_serialization=True)
            self.tokenizer.save_pretrained(folder)
        save_file(self.prompts.tensors() | {"alone": self._opened().alone}, folder / TABLES)
        about = {"form": self.used_form, "weight": self.used, "padding": self.prompts.padding}
        (folder / ABOUT).write_text(json.dumps(about, indent=2))
        self.first.save(folder)

    def load(self, folder: Path) -> Self:
        """Reads what `save` wrote, and the retriever; the language model only when it is first asked."""
        about, tables = json.loads((folder / ABOUT).read_text()), load_file(folder / TABLES)
        self.used_form, self.used, self.alone = about["form"], about["weight"], tables["alone"]
        self.prompts = ItemPrompts.of_tensors(tables, about["padding"], self.max_items, self.max_tokens)
        self.first = FirstStage.load(folder)
        self.folder = folder
        return self

    def _outfit(self) -> TitleModel:
        """Freezes what is not to train, or adds adapters."""
        if self.adapter is not None:
            add_lora(self.body, self.adapter, max(0, self.frozen_layers), self.seed)
        else:
            freeze(self.body, self.frozen_layers)
        return TitleModel(self.body)

    def _collate(self, numbers: np.ndarray) -> Batch:
        batch = self.contexts.batch(numbers, self.max_items)
        return dict(zip(("tokens", "mask", "target"), self.prompts.examples(batch.history, batch.target), strict=True))

    def _serve(self) -> TitleJudge:
        """Judges with the present model from now on; what was known of another is forgotten."""
        self.numbers = chosen_precision(self.precision, self.device, training=False)
        self.body.to(self.device).eval()
        self.judge = TitleJudge(self.body, self.prompts, self.device, self.numbers, self.batch_pairs)
        return self.judge

    def _opened(self) -> TitleJudge:
        """The language model, opened when it is first needed."""
        if self.judge is not None:
            return self.judge
        assert self.folder is not None, "prepare or load first"
        place = str(self.folder) if (self.folder / "config.json").is_file() else self.backbone
        self.body, _ = open_backbone(place, model=AutoModelForCausalLM)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        judge = self._serve()
        judge.alone = self.alone
        return judge

    def _settle(self) -> None:
        """Finds form and weight on validation."""
        cases, batch = validation(self.dataset, self.validation_users, self.seed)
        if not len(cases):
            return
        short = self.first.shortlist(batch)
        judge, items = self._opened(), short.items.numpy()
        begin = time.perf_counter()
        likelihood = judge.likelihoods(batch.seen, items)
        speed = items.size / max(time.perf_counter() - begin, 1e-9)
        forms = FORMS if self.form == "auto" else (self.form,)
        found = {form: best_weight(short, judge.formed(likelihood, items, form), cases) for form in forms}
        self.used_form = max(forms, key=lambda form: found[form][1]["ndcg@10 both"])
        self.used = found[self.used_form][0] if self.weight is None else self.weight
        self.figures |= {"form": self.used_form, "weight": self.used, **found[self.used_form][1]}
        self.figures["forms"] = {form: figures for form, (_, figures) in found.items()}
        told = f"{self.candidates} a context; {self.used_form}, weight {self.used:.3g}"
        say(f"  gpt_rerank: {speed:,.1f} titles/s, {told}")

    def _shortened(self) -> int:
        """How many train histories lose lines because they don't fit into the prompt."""
        parts = np.array_split(self.rows, max(1, len(self.rows) // 4096))
        batches = (self.contexts.batch(some, self.max_items).history for some in parts)
        return sum(int((self.prompts.rows(history)[1] > 0).sum()) for history in batches)
