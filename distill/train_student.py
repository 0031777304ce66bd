"""Stage `train-student`: the distilled student, the same student without distillation, and further controls."""

if __name__ == "__main__":  # run as a file: the repository root, not distill/, must come first on the path
    import sys
    from pathlib import Path

    sys.path[0] = str(Path(__file__).resolve().parents[1])

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import set_seed

from distill.ask import quality, sample
from distill.batching import read_by_rows, windows_of
from distill.config import Config, Fit, to_tree
from distill.data.contexts import ContextBatch, Contexts, Kind, train_contexts
from distill.data.dataset import VALID, Dataset
from distill.engine.accelerator import make_accelerator
from distill.engine.loop import best_weights, fit
from distill.engine.whole import refuse_split_weights
from distill.errors import UserError
from distill.extensions import extended, extension_settings, outcomes_of, with_outcome, without_some_histories
from distill.job import Batch, Job
from distill.known import knowledge_of
from distill.objectives.objective import Objective
from distill.plugins import nearest
from distill.progress import is_main_process, say
from distill.ranking.cases import cases_of
from distill.recipes import CONTROL, STUDENT, Recipe, deciding, recipe_of, seed_folder
from distill.rescore import scores_folder
from distill.runs import WORK, run_stage
from distill.score_teacher import CONTEXTS
from distill.soft.store import Store
from distill.soft.targets import LiveTargets, StoreTargets, Targets
from distill.solved import recipe_to_solve, solve
from distill.tensors import next_item_batch, shuffled
from distill.train_teacher import load_teacher, student_vectors
from distill.windows.cut import Windows
from distill.windows.halves import Halves
from students.checkpoint import build_student, save_student, served
from students.protocol import scores as student_scores

AT_ONCE = 2**26  # scores that validation holds at once


def main(config: Config) -> Path:
    """Trains the students of a run for each seed: both standing ones, or the control that `control` names.

    Needs the stages `data`, `teacher` and `scores`.
    """
    names = [config.control] if config.control else [CONTROL, STUDENT]
    for offset in reversed(range(config.benchmark.seeds)):
        for name in names:
            folder = train_one(config, recipe_of(config, name), offset)
    return folder


def train_one(
    config: Config,
    recipe: Recipe,
    offset: int = 0,
    folder: Path | None = None,
    watch: Callable[[float], None] | None = None,
) -> Path:
    """Trains one recipe with the seed `config.seed + offset` into `folder`, or into its own place in the run.

    Args:
        config: The experiment.
        recipe: What is trained.
        offset: Added to the seed.
        folder: In place of the recipe's own.
        watch: Told each validation figure; may raise to give the training up.
    """
    folder = folder or seed_folder(config, recipe.name, offset)
    trained, recipe = recipe, recipe_to_solve(recipe)
    in_closed_form = recipe is not trained
    sources = {teacher: scores_folder(config, teacher) for teacher in recipe.teachers}
    inputs = [config.folder / "data", config.folder / "teacher"]
    if recipe.taught:
        inputs += list(dict.fromkeys([config.folder / "scores", *sources.values()]))
    config = dataclasses.replace(config, seed=config.seed + offset)
    accelerator = make_accelerator(config.run.tracker, config.folder / "logs" / folder.name)
    if not in_closed_form:
        refuse_split_weights(accelerator, f"student '{recipe.student.name}'")
    settings = {
        "student": to_tree(recipe.student),
        "losses": to_tree(recipe.losses),
        "fit": deciding(recipe.fit),
        "vectors": recipe.use_vectors,
        "seed": config.seed,
        **extension_settings(config),
    }
    return run_stage(
        folder,
        settings=settings,
        inputs=inputs,
        build=lambda path: build(config, recipe, sources, path, accelerator, watch),
        config_source=config.source,
        barrier=accelerator.wait_for_everyone,
        command=config.command("train-student"),
    )


def build(
    config: Config,
    recipe: Recipe,
    sources: dict[str, Path],
    folder: Path,
    accelerator: Any,
    watch: Callable[[float], None] | None = None,
) -> dict[str, Any]:
    """Trains one student, its epoch chosen on validation, and saves it."""
    dataset = Dataset.read(config.folder / "data")
    cases = sample(cases_of(dataset, VALID), config.seed)
    vectors = student_vectors(config) if recipe.use_vectors else None
    name, arguments = recipe.student.name, recipe.student.arguments
    set_seed(config.seed)
    student: Any = build_student(name, arguments, dataset.n_items, vectors, config.seed)
    if hasattr(student, "attach"):
        student.attach(dataset)
    label = folder.name.removesuffix(".partial").replace("_", " ")
    if hasattr(student, "fit_closed_form"):
        return solve(config, recipe, student, dataset, cases, folder, label)
    student = extended(student, config, dataset)
    outcomes = outcomes_of(config, dataset)
    contexts = transfer_set(config, dataset) if recipe.taught else train_contexts(dataset)
    rows = rows_of(contexts, recipe)
    targets = {
        teacher: open_targets(config, recipe, source, teacher, contexts, dataset) for teacher, source in sources.items()
    }
    knowledge = knowledge_of(
        dataset,
        student,
        recipe.losses,
        vectors,
        contexts,
        targets.get(""),
        build=lambda seed: build_student(name, arguments, dataset.n_items, vectors, seed),
    )
    windows = windows_of(config, recipe, dataset, student)
    steps = recipe.fit.epochs * len(batches(recipe.fit, rows, config.seed, 0, windows))
    objective = Objective(
        student, recipe.losses, knowledge, steps, {teacher: found.temperatures for teacher, found in targets.items()}
    )

    read_by_rows(recipe, objective, accelerator.num_processes)

    def collate(chosen: np.ndarray) -> Batch:
        if windows is not None:
            return windows.batch(chosen)
        batch = next_item_batch(contexts, chosen, recipe.fit.max_length)
        batch["user"] = torch.from_numpy(contexts.user[chosen].astype(np.int64))
        batch = without_some_histories(batch, recipe.fit.empty_share, chosen, dataset.n_items, config.seed)
        if outcomes is not None:
            batch = with_outcome(batch, outcomes, contexts, chosen)
        for teacher, found in targets.items():
            prefix = f"{teacher}/" if teacher else ""
            batch |= {prefix + field: value for field, value in found.lookup(chosen).items()}
        return batch

    def worth() -> float:
        def score(batch: ContextBatch) -> torch.Tensor:
            history = torch.from_numpy(batch.seen[:, -recipe.fit.max_length :]).to(accelerator.device)
            return student_scores(student, history, torch.from_numpy(batch.user).to(history.device))

        return quality(score, cases, batch_size=max(1, min(512, AT_ONCE // dataset.n_items))).values["ndcg@10"]

    def validate(model: torch.nn.Module) -> float:
        value = worth()
        if watch is not None:
            watch(value)
        return value

    job = job_of(recipe.fit, rows, collate, objective, config.seed, windows)
    curve = fit(job, accelerator, folder / WORK / "fit", validate, label)
    if is_main_process():
        kept = best_weights(folder / WORK / "fit")
        weights = {k.removeprefix("student."): v for k, v in kept.items() if k.startswith("student.")}
        extensions = getattr(student, "extensions", None)
        weights = calibrated(student, weights, worth)
        weights, vectors = served(student, weights, vectors)
        save_student(folder, name, arguments, dataset.n_items, weights, vectors, extensions)
    best = max(point["validation"] for point in curve)
    say(f"{label}: best validation ndcg@10 {best:.4f}")
    return {"curve": curve, "validation": {"ndcg@10": best}}


def calibrated(student: Any, weights: dict[str, torch.Tensor], worth: Callable[[], float]) -> dict[str, torch.Tensor]:
    """The best weights, after a student with cold items has settled on validation how high these are scored."""
    warm = getattr(student, "warm", None)
    if warm is None or bool(warm.all()):
        return weights
    student.load_state_dict(weights)
    student.eval().calibrate(worth)
    state: dict[str, torch.Tensor] = student.state_dict()
    return state


def transfer_set(config: Config, dataset: Dataset) -> Contexts:
    """The contexts that the teacher was asked about."""
    return Contexts.read(config.folder / "scores" / CONTEXTS, dataset.n_items)


def rows_of(contexts: Contexts, recipe: Recipe) -> np.ndarray:
    """Contexts to train on: the labelled ones alone without a teacher, else all of the kinds that are asked for.

    Raises:
        UserError: There are none; or a kind is unknown.
    """
    if not recipe.taught:
        rows = np.flatnonzero(contexts.target >= 0)
        if not len(rows):
            raise UserError(
                "No user has two train events, so there is no next item to learn. Check data.split and data.path."
            )
        return rows
    known = {kind.name.lower(): int(kind) for kind in Kind}
    for kind in recipe.fit.kinds:
        if kind not in known:
            raise UserError(f"'fit.kinds': there are no '{kind}' contexts{nearest(kind, known)}.")
    if not recipe.fit.kinds:
        return np.arange(len(contexts))
    rows = np.flatnonzero(np.isin(contexts.kind, [known[kind] for kind in recipe.fit.kinds]))
    if not len(rows):
        raise UserError(f"The transfer set has no context of the kinds {recipe.fit.kinds}. See the section 'scores'.")
    return rows


def open_targets(
    config: Config, recipe: Recipe, source: Path, teacher: str, contexts: Contexts, dataset: Dataset
) -> Targets:
    """A teacher's answers to the transfer set: from the store, or live.

    Raises:
        UserError: The store belongs to other contexts.
    """
    store = Store.open(source, dataset.item_vocabulary, dataset.fingerprint)
    if store.rows != len(contexts):
        raise UserError(
            f"{source}: {store.rows} scored rows for {len(contexts)} contexts. "
            f"Rebuild: {config.command('score-teacher')}"
        )
    if recipe.fit.teacher == "live" and not teacher:
        return LiveTargets(load_teacher(config).score, contexts, store.header.k, store.header.temperatures)
    return StoreTargets(store)


def batches(
    settings: Fit, rows: np.ndarray, seed: int, epoch: int, windows: Windows | Halves | None = None
) -> list[np.ndarray]:
    """The global batches of an epoch."""
    if windows is not None:
        return windows.batches(settings.batch_size, seed, epoch, settings.rows_per_epoch)
    return shuffled(rows, settings.batch_size, seed, epoch, settings.rows_per_epoch)


def job_of(
    settings: Fit,
    rows: np.ndarray,
    collate: Any,
    objective: Objective,
    seed: int,
    windows: Windows | Halves | None = None,
) -> Job:
    """Training of an objective on some rows, or on windows."""
    return Job(
        model=objective,
        batches=lambda epoch: batches(settings, rows, seed, epoch, windows),
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
        optimiser=settings.optimiser,
        tables=("identity",),
        compile=settings.compile,
    )


if __name__ == "__main__":
    from distill.cli import stage_main

    sys.exit(stage_main(main))
