"""Teacher and torch students as they are timed: one context in, the top k of the whole catalogue out, one thread."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from benchmarks.latency import measure_for
from benchmarks.latency.engines import Engine
from benchmarks.latency.streams import read_histories
from distill.ask import contexts_of
from distill.config import Config, from_tree
from distill.data.contexts import Contexts
from distill.data.dataset import TEST, Dataset
from distill.errors import UserError
from distill.plugins import resolve
from distill.progress import say
from distill.ranking.cases import cases_of
from distill.serving.session import open_session
from distill.tensors import mask_seen
from distill.train_teacher import load_teacher
from students.checkpoint import load_student
from students.protocol import scores as student_scores
from teachers.backbone import open_backbone
from teachers.fusion import FusedTeacher
from teachers.text_encoder import ENCODING_TOKENS, tokenise

CACHED, LIVE_HISTORY, LIVE_CATALOGUE = "teacher", "teacher_live_history", "teacher_live_catalogue"
ONNX_HISTORY = "teacher_onnx_live_history"  # as LIVE_HISTORY, the texts encoded by the files of export/teacher/
LIVE = {LIVE_HISTORY: "live_history", LIVE_CATALOGUE: "live_catalogue"}  # names in latency_ms of report.json
TRIED_TEXTS = 64
MOST_SECONDS = 30.0  # of one call; a longer one is not measured


def open_teacher(tree: dict[str, Any], live: str, k: int) -> Engine:
    """The teacher in a process of its own; see `teacher_answer`."""
    torch.set_num_threads(1)
    config = from_tree(tree)
    dataset = Dataset.read(config.folder / "data")
    cases = cases_of(dataset, TEST)
    return Engine(teacher_answer(config, dataset, contexts_of(cases), live, k), None, len(cases))


def open_student(folder: str, length: int, histories: str, k: int) -> Engine:
    """A torch student in a process of its own; see `folded`."""
    torch.set_num_threads(1)
    rows = read_histories(histories)
    return Engine(student_answer(folded(load_student(Path(folder)), length), rows, k), None, len(rows))


def student_answer(
    score: Callable[[Tensor], Tensor], histories: Sequence[np.ndarray], k: int
) -> Callable[[int], Tensor]:
    """One history in, its top k out.

    Args:
        score: From `folded`.
        histories: Items of each user, oldest first.
        k: Places in the list.
    """
    rows = [torch.from_numpy(np.asarray(row, np.int64))[None] for row in histories]

    @torch.inference_mode()
    def answer(number: int) -> Tensor:
        history = rows[number % len(rows)]
        return mask_seen(score(history), history).topk(k).indices

    return answer


def teacher_answer(
    config: Config, dataset: Dataset, contexts: Contexts, live: str = CACHED, k: int = 10
) -> Callable[[int], Tensor]:
    """One context in, the fused top k of the whole catalogue out.

    Args:
        config: The run.
        dataset: For the item texts.
        contexts: Whom the teacher is asked about.
        live: What the language model reads within the call. `CACHED`: nothing, all item vectors are at hand.
            `LIVE_HISTORY`: the texts of the items that the student reads too (the last `fit.max_length`) are tokenised
            and encoded, then all members score the catalogue's cached vectors. `ONNX_HISTORY`: the same, encoded by
            the exported text towers in onnxruntime. `LIVE_CATALOGUE`: the texts of all items, the cost without any
            cache.
        k: Places in the list.

    Raises:
        UserError: No member of the teacher reads texts, one wasn't exported, or one call would take more than
            `MOST_SECONDS`.
    """
    teacher = load_teacher(config)
    towers: list[Any] = []
    if live != CACHED:
        members = text_members(config, teacher)
        towers = exported_towers(config, members) if live == ONNX_HISTORY else list(members.values())
        check_live(towers, dataset, live)
    everything = np.arange(dataset.n_items)

    @torch.no_grad()
    def answer(number: int) -> Tensor:
        batch = contexts.batch(np.array([number]), 1_000_000)
        history = batch.seen[0]
        rows = everything if live == LIVE_CATALOGUE else np.unique(history[-config.fit.max_length :])
        for tower in towers:
            inside = rows[rows < dataset.n_items]
            tower.item_vectors()[inside] = tower.encode([dataset.texts[item] for item in inside])
        return mask_seen(teacher.score(batch).float(), torch.from_numpy(batch.seen)).topk(k).indices

    return answer


def measure_live(config: Config, dataset: Dataset, contexts: Contexts) -> tuple[dict[str, Any], dict[str, str]]:
    """Times the teacher with its texts encoded within the call.

    Returns:
        Figures by name in `LIVE`, and by name why one wasn't measured.
    """
    found: dict[str, Any] = {}
    skipped: dict[str, str] = {}
    for live, name in LIVE.items():
        try:
            answer = teacher_answer(config, dataset, contexts, live)
            most = config.benchmark.teacher_latency_calls
            found[name] = measure_for(partial(asked, answer, len(contexts)), config.benchmark.live_seconds, most)
        except UserError as error:
            skipped[name] = str(error)
    return found, skipped


def asked(answer: Callable[[int], Tensor], rows: int, number: int) -> Tensor:
    """The answer to the context whose turn it is: they are walked through again and again."""
    return answer(number % rows)


def text_members(config: Config, teacher: FusedTeacher) -> dict[str, Any]:
    """The members that read texts and take part in the answer, by their scores or by the vectors that others use."""
    used = {str(config.teacher.members[name].arguments.get("vectors")) for name in teacher.members}
    found: dict[str, Any] = {}
    for name, spec in config.teacher.members.items():
        if name in teacher.members:
            found[name] = teacher.members[name]
        elif name in used:
            found[name] = resolve("teacher", spec.name)(**spec.arguments).load(config.folder / "teacher" / name)
    return {name: member for name, member in found.items() if hasattr(member, "encode")}


@dataclass(frozen=True)
class ExportedTower:
    """A text member whose encoder runs in onnxruntime.

    Attributes:
        member: The member as it was loaded.
        tokenizer: Of its encoder.
        session: What `distill.export_teacher` wrote, on one thread.
    """

    member: Any
    tokenizer: Any
    session: onnxruntime.InferenceSession

    def item_vectors(self) -> Tensor:
        """The member's own (N, h)."""
        vectors: Tensor = self.member.item_vectors()
        return vectors

    def encode(self, texts: list[str]) -> Tensor:
        """Unit vectors (M, h) of texts."""
        tokens = tokenise(texts, self.tokenizer, self.member.max_tokens)
        vectors = torch.empty(len(texts), self.item_vectors().shape[1])
        for rows in tokens.budgeted(ENCODING_TOKENS):
            batch = tokens.batch(rows)
            feed = {name: batch[name].long().numpy() for name in ("tokens", "mask")}
            vectors[rows] = torch.from_numpy(self.session.run(["vectors"], feed)[0])
        return vectors


def exported_towers(config: Config, members: Mapping[str, Any]) -> list[ExportedTower]:
    """The exported encoders of members that read texts.

    Raises:
        UserError: One wasn't exported, or its vectors have a part that is no encoder's.
    """
    found = []
    for name, member in members.items():
        path = config.folder / "export" / "teacher" / f"{name}.tower.onnx"
        if not path.is_file():
            raise UserError(f"The teacher's member '{name}' wasn't exported. Set export.teacher: true.")
        if getattr(member, "tfidf_share", 0) > 0:
            raise UserError(f"The vectors of the teacher's member '{name}' have a TF-IDF part, which no file makes.")
        tokenizer = open_backbone(str(config.folder / "teacher" / name))[1]
        found.append(ExportedTower(member, tokenizer, open_session(path.read_bytes())))
    return found


def check_live(towers: list[Any], dataset: Dataset, live: str) -> None:
    """Encodes a few texts to see that it can be done, and in which time.

    Raises:
        UserError: It can't, or the whole catalogue would take too long.
    """
    if not towers:
        raise UserError("No member of this teacher encodes item texts.")
    tried = list(dataset.texts[:TRIED_TEXTS])
    for tower in towers:
        tower.encode(tried)  # opens the encoder
        begin = time.perf_counter()
        tower.encode(tried)
        expected = (time.perf_counter() - begin) / max(1, len(tried)) * dataset.n_items
        if live == LIVE_CATALOGUE and expected > MOST_SECONDS:
            raise UserError(f"Encoding the whole catalogue would take about {expected:.0f} s a call; not measured.")


def folded(student: Any, length: int) -> Callable[[Tensor], Tensor]:
    """A torch student as it would be served: whatever doesn't depend on the history is computed once, not in each call.

    Args:
        student: In evaluation mode.
        length: It reads the last so many items.

    Returns:
        Histories (B, L) to scores (B, N). Where the student can't be traced, only its output table is made once.
    """
    for weight in student.parameters():
        weight.requires_grad_(False)
    if hasattr(student, "all_corrections") or hasattr(student, "catalogue_scores"):
        return lambda history: student_scores(student, history[:, -length:])
    table, bias = student.item_table().contiguous(), student.item_bias()
    encode = student.encode
    example = torch.full((1, length), student.n_items)
    example[:, -2:] = 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            frozen = torch.jit.freeze(torch.jit.trace(Encoder(student).eval(), example, check_trace=False))
            shorter = example[:, -2:]
            if torch.allclose(frozen(shorter), student.encode(shorter), atol=1e-4):
                encode = frozen
        except RuntimeError as error:
            say(f"{type(student).__name__} can't be folded, so its torch row makes its tables in each call: {error}")
    return lambda history: linear(encode(history[:, -length:]), table, bias)


class Encoder(nn.Module):
    """A student's `encode` as a forward, for tracing."""

    def __init__(self, student: Any) -> None:
        """Keeps the student."""
        super().__init__()
        self.student = student

    def forward(self, history: Tensor) -> Tensor:
        """Queries (B, D)."""
        return self.student.encode(history)
