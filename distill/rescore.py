"""Scores the contexts of a run with another teacher: the controls, and lessons from several teachers."""

from __future__ import annotations

import dataclasses
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distill.ask import contexts_of, sample
from distill.config import Config, Run, load, to_tree
from distill.data.contexts import ContextBatch, Contexts
from distill.data.dataset import VALID, Dataset
from distill.engine.accelerator import make_accelerator
from distill.errors import UserError
from distill.plugins import TABLES, nearest, resolve
from distill.progress import is_main_process
from distill.ranking.cases import cases_of
from distill.recipes import CONTROL
from distill.runs import digest, open_stage, read_manifest, run_stage
from distill.score_teacher import CONTEXTS, score_contexts
from distill.soft.store import Store, StoreWriter
from distill.train_teacher import load_teacher
from students.checkpoint import load_student
from students.protocol import scores as student_scores
from teachers.fusion import FusedTeacher, fit_sharpness
from teachers.protocol import Inputs

SHUFFLED, UNDISTILLED = "shuffled", "undistilled"
SHUFFLE_ROWS = 16_384


@dataclasses.dataclass(frozen=True)
class StudentTeacher:
    """A trained student in the teacher's place."""

    student: Any
    max_length: int

    @torch.no_grad()
    def score(self, batch: ContextBatch) -> Tensor:
        """Scores (B, N); seen items are not masked."""
        return student_scores(self.student, torch.from_numpy(batch.history[:, -self.max_length :]))


def scores_folder(config: Config, teacher: str) -> Path:
    """The folder with a teacher's answers to the run's contexts; made where it isn't there.

    Args:
        config: The experiment.
        teacher: "" for the run's own; the name of a closed-form teacher ("ease", "popularity"); "shuffled" for the
            run's own answers given to other contexts of the same kind; "undistilled" for the student without
            distillation; or the folder of another run on the same data, or of a student.

    Raises:
        UserError: None of these; or the other run has no finished teacher, or other data.
    """
    if not teacher:
        return config.folder / "scores"
    inputs = [config.folder / "data", config.folder / "scores"]
    settings: dict[str, Any] = {"teacher": teacher, "seed": config.seed}
    if teacher in TABLES["teacher"]:
        settings["arguments"] = to_tree(_arguments(config, teacher))
    elif teacher == UNDISTILLED:
        inputs.append(config.folder / CONTROL)
    elif is_student(teacher):
        settings["fingerprint"] = open_stage(Path(teacher), config.source)["fingerprint"]
    elif teacher != SHUFFLED:
        settings["fingerprint"] = _other_manifest(config, teacher)["fingerprint"]
    plain = teacher in TABLES["teacher"] or teacher in (SHUFFLED, UNDISTILLED)
    accelerator = make_accelerator("none", None)
    return run_stage(
        config.folder / f"scores-{teacher if plain else digest(teacher)[:8]}",
        settings=settings,
        inputs=inputs,
        build=lambda path: _build(config, teacher, path, accelerator),
        config_source=config.source,
        barrier=accelerator.wait_for_everyone,
        command=config.command("train-student"),
    )


def _build(config: Config, teacher: str, folder: Path, accelerator: Any) -> dict[str, Any]:
    dataset = Dataset.read(config.folder / "data")
    own = Store.open(config.folder / "scores", dataset.item_vocabulary, dataset.fingerprint)
    contexts = Contexts.read(config.folder / "scores" / CONTEXTS, dataset.n_items)
    header = dataclasses.replace(own.header, tail=0, hidden=0, teacher=digest([own.header.teacher, teacher]))
    writer = StoreWriter(folder, header)
    if teacher == SHUFFLED:
        if is_main_process():
            starts = shuffle(own, contexts, writer, config.seed)
    else:
        scorer = _scorer(config, teacher, dataset)
        starts = score_contexts(scorer, contexts, writer, 0, 0, config.scores.shard_rows, accelerator, config.seed)
    if is_main_process():
        writer.close(starts, len(contexts))
    return {"teacher": teacher, "rows": len(contexts)}


def _scorer(config: Config, teacher: str, dataset: Dataset) -> Any:
    if teacher == UNDISTILLED or is_student(teacher):
        folder = config.folder / CONTROL if teacher == UNDISTILLED else Path(teacher)
        return StudentTeacher(load_student(folder), config.fit.max_length)
    if teacher in TABLES["teacher"]:
        return _classic(config, teacher, dataset)
    other = Path(teacher)
    manifest = _other_manifest(config, teacher)
    _, _, source, *overrides = shlex.split(manifest["command"])
    there = load(source, overrides)
    return load_teacher(dataclasses.replace(there, run=Run(name=other.name, folder=str(other.parent))))


def is_student(teacher: str) -> bool:
    """Whether a teacher's name is the folder of a trained student."""
    return (Path(teacher) / "student.json").is_file()


def _classic(config: Config, name: str, dataset: Dataset) -> FusedTeacher:
    """A closed-form teacher, its sharpness set on validation as a fused teacher's is."""
    member = resolve("teacher", name)(**_arguments(config, name))
    member.prepare(Inputs(dataset, {}, config.seed, torch.device("cpu")))
    if member.job() is not None:
        raise UserError(
            f"teacher: '{name}' needs training, so a loss can't name it. Put it among 'teacher.members', in "
            "this run or in another one whose folder the loss names."
        )
    cases = sample(cases_of(dataset, VALID), config.seed, 2000)
    batch = contexts_of(cases).batch(np.arange(len(cases)), 1_000_000)
    labels = torch.from_numpy(cases.truth.items[cases.truth.indptr[:-1]].astype(np.int64))
    sharpness = fit_sharpness(member.score(batch).float(), torch.from_numpy(batch.seen), labels)
    return FusedTeacher({name: member}, {name: 1.0}, sharpness)


def _arguments(config: Config, name: str) -> dict[str, Any]:
    """Settings of a classic teacher: those of the run's member of that kind, or the defaults."""
    return next((dict(spec.arguments) for spec in config.teacher.members.values() if spec.name == name), {})


def _other_manifest(config: Config, teacher: str) -> dict[str, Any]:
    manifest = read_manifest(Path(teacher) / "teacher")
    if manifest is None:
        known = (*TABLES["teacher"], SHUFFLED, UNDISTILLED)
        raise UserError(
            f"A loss names the teacher '{teacher}', which is neither known{nearest(teacher, known)} nor the "
            "folder of a run with a finished teacher."
        )
    there, here = (read_manifest(Path(run) / "data") for run in (teacher, config.folder))
    if there is None or here is None or there["fingerprint"] != here["fingerprint"]:
        raise UserError(
            f"The teacher in {teacher} was trained on other data than {config.folder}; its item numbers mean other "
            "items. Train it with the same section 'data'."
        )
    return manifest


def shuffle(own: Store, contexts: Contexts, writer: StoreWriter, seed: int) -> list[int]:
    """Gives each context the answer to another one of its kind, without the items that it has seen itself.

    Returns:
        The first row of each shard.
    """
    rng = np.random.default_rng(seed)
    source = np.arange(len(contexts))
    for kind in np.unique(contexts.kind):
        rows = np.flatnonzero(contexts.kind == kind)
        source[rows] = rng.permutation(rows)
    starts = list(range(0, len(contexts), SHUFFLE_ROWS))
    for number, first in enumerate(starts):
        rows = np.arange(first, min(first + SHUFFLE_ROWS, len(contexts)))
        found = own.lookup(source[rows])
        mine = contexts.batch(rows, 1_000_000).seen
        blank = np.zeros((len(rows), contexts.n_items + 1), bool)
        np.put_along_axis(blank, mine, True, 1)
        gone = (found["items"] < 0) | np.take_along_axis(blank, np.maximum(found["items"], 0), 1)
        order = np.argsort(gone, axis=1, kind="stable")  # what is left keeps its order, padding goes to the end
        gone = np.take_along_axis(gone, order, 1)
        items = np.where(gone, -1, np.take_along_axis(found["items"], order, 1))
        scores = np.where(gone, -6e4, np.take_along_axis(found["scores"], order, 1).astype(np.float32))
        writer.write(number, rows, {"items": items, "scores": scores, "logz": found["logz"]})
    return starts
