"""Stage `train-student`: the distilled student, and the same student without distillation."""

if __name__ == "__main__":  # run as a file: the repository root, not distill/, must come first on the path
    import sys
    from pathlib import Path

    sys.path[0] = str(Path(__file__).resolve().parents[1])

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import set_seed

from distill.ask import quality, sample
from distill.config import Config, Fit, Loss, to_tree
from distill.data.contexts import ContextBatch, Contexts, train_contexts
from distill.data.dataset import VALID, Dataset
from distill.data.strata import popularity_strata
from distill.engine.accelerator import make_accelerator
from distill.engine.loop import best_weights, fit
from distill.errors import UserError
from distill.job import Batch, Job
from distill.objectives.objective import Objective
from distill.progress import is_main_process, say
from distill.ranking.cases import cases_of
from distill.runs import WORK, run_stage
from distill.score_teacher import CONTEXTS
from distill.soft.store import Store
from distill.tensors import next_item_batch, shuffled
from distill.train_teacher import student_vectors
from students.checkpoint import build_student, save_student
from students.protocol import scores as student_scores

STRATA = 4
STUDENT, CONTROL = "student", "student_without_distillation"


def main(config: Config) -> Path:
    """Trains both students of a run, for each seed. Needs the stages `data`, `teacher` and `scores`."""
    for offset in reversed(range(config.benchmark.seeds)):
        train_one(config, CONTROL, offset)
        folder = train_one(config, STUDENT, offset)
    return folder


def seed_folder(config: Config, name: str, offset: int) -> Path:
    """Where a student of the seed `config.seed + offset` lies; the first seed's is the one that is exported."""
    return config.folder / (name if offset == 0 else f"{name}-seed{offset}")


def train_one(config: Config, name: str, offset: int = 0) -> Path:
    """Trains the distilled student or its control, with the same text vectors, into `seed_folder`."""
    distilled = name == STUDENT
    folder = seed_folder(config, name, offset)
    config = dataclasses.replace(config, seed=config.seed + offset)
    losses, settings = (config.losses, config.fit) if distilled else (config.control_losses, config.control_fit)
    inputs = [config.folder / "data", config.folder / "teacher"]
    accelerator = make_accelerator(config.run.tracker, config.folder / "logs" / folder.name)
    return run_stage(
        folder,
        settings={
            "student": to_tree(config.student),
            "losses": to_tree(losses),
            "fit": to_tree(settings),
            "seed": config.seed,
        },
        inputs=[*inputs, config.folder / "scores"] if distilled else inputs,
        build=lambda path: build(config, path, accelerator, losses, settings, distilled),
        config_source=config.source,
        barrier=accelerator.wait_for_everyone,
        command=f"distill train-student {config.source}",
    )


def build(
    config: Config, folder: Path, accelerator: Any, losses: Sequence[Loss], settings: Fit, distilled: bool
) -> dict[str, Any]:
    """Trains one student, its epoch chosen on validation, and saves it."""
    dataset = Dataset.read(config.folder / "data")
    cases = sample(cases_of(dataset, VALID), config.seed)
    vectors = student_vectors(config)
    set_seed(config.seed)
    student: Any = build_student(config.student.name, config.student.arguments, dataset.n_items, vectors, config.seed)
    objective = make_objective(student, losses, dataset)
    job = distilled_job(config, dataset, objective) if distilled else control_job(config, dataset, objective)

    def validate(model: torch.nn.Module) -> float:
        def score(batch: ContextBatch) -> torch.Tensor:
            return student_scores(
                student, torch.from_numpy(batch.seen[:, -settings.max_length :]).to(accelerator.device)
            )

        return quality(score, cases).values["ndcg@10"]

    label = STUDENT if distilled else "student without distillation"
    curve = fit(job, accelerator, folder / WORK / "fit", validate, label)
    if is_main_process():
        weights = {k.removeprefix("student."): v for k, v in best_weights(folder / WORK / "fit").items()}
        save_student(folder, config.student.name, config.student.arguments, dataset.n_items, weights, vectors)
    best = max(point["validation"] for point in curve)
    say(f"{label}: best validation ndcg@10 {best:.4f}")
    return {"curve": curve, "validation": {"ndcg@10": best}}


def make_objective(student: torch.nn.Module, losses: Sequence[Loss], dataset: Dataset) -> Objective:
    """The student wrapped with its losses and what they need to know of the items."""
    strata = torch.from_numpy(popularity_strata(dataset.popularity, STRATA))
    share = torch.from_numpy(dataset.popularity / max(1, dataset.popularity.sum())).float()
    return Objective(student, losses, strata, share)


def control_job(config: Config, dataset: Dataset, objective: Objective) -> Job:
    """Training on the labelled train prefixes alone."""
    contexts = train_contexts(dataset)
    rows = np.flatnonzero(contexts.target >= 0)
    if not len(rows):
        raise UserError(
            "No user has two train events, so there is no next item to learn. Check data.split and data.path."
        )
    return _job(
        config.control_fit,
        rows,
        lambda r: next_item_batch(contexts, r, config.control_fit.max_length),
        objective,
        config.seed,
    )


def distilled_job(config: Config, dataset: Dataset, objective: Objective) -> Job:
    """Training on every context of the transfer set, with the teacher's answers looked up by row id."""
    folder = config.folder / "scores"
    contexts = Contexts.read(folder / CONTEXTS, dataset.n_items)
    store = Store.open(folder, dataset.item_vocabulary, dataset.fingerprint)
    if store.rows != len(contexts):
        raise UserError(
            f"{folder}: {store.rows} scored rows for {len(contexts)} contexts. "
            f"Rebuild: distill score-teacher {config.source}"
        )

    def collate(rows: np.ndarray) -> Batch:
        found = store.lookup(rows)
        return {
            **next_item_batch(contexts, rows, config.fit.max_length),
            "items": torch.from_numpy(found["items"].astype(np.int64)),
            "scores": torch.from_numpy(found["scores"].astype(np.float32)),
            "logz": torch.from_numpy(found["logz"]),
        }

    return _job(config.fit, np.arange(len(contexts)), collate, objective, config.seed)


def _job(settings: Fit, rows: np.ndarray, collate: Any, objective: Objective, seed: int) -> Job:
    return Job(
        model=objective,
        batches=lambda epoch: shuffled(rows, settings.batch_size, seed, epoch, settings.rows_per_epoch),
        collate=collate,
        epochs=settings.epochs,
        learning_rate=settings.learning_rate,
        warmup=settings.warmup,
        weight_decay=settings.weight_decay,
        clip=settings.clip,
        precision=settings.precision,
        evaluations_per_epoch=settings.evaluations_per_epoch,
        patience=settings.patience,
        checkpoint_steps=settings.checkpoint_steps,
        micro_batch=settings.batch_size,
    )


if __name__ == "__main__":
    from distill.cli import stage_main

    sys.exit(stage_main(main))
