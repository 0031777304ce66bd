"""Command `compress`: the best trade of bytes, time and quality among stored forms and widths of a run's student."""

from __future__ import annotations

if __name__ == "__main__":  # run as a file: the repository root, not distill/, must come first on the path
    import sys
    from pathlib import Path

    sys.path[0] = str(Path(__file__).resolve().parents[1])

import argparse
import dataclasses
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from distill.ask import contexts_of, row_scorer, sample
from distill.config import Config, load
from distill.data.contexts import ContextBatch
from distill.data.dataset import VALID, Dataset
from distill.errors import UserError
from distill.export.bundle import check_loads, write_model
from distill.export.calibration import calibration_histories
from distill.export.finetune import finetuned
from distill.export.gate import compare
from distill.export.graph import Traced, build_graph, trace
from distill.export.kinds import is_plain
from distill.export.search import Candidate, pick, read_results, table, write_results
from distill.export.variants import file_name, parse
from distill.progress import console, say
from distill.ranking.cases import Cases, cases_of
from distill.runs import open_stage
from distill.serving.session import Graph
from students.checkpoint import load_student
from students.protocol import Student
from students.protocol import scores as student_scores

FORMS = "fp32,fp16,int8,int4,pq,pruned"
CALLS, WARM = 400, 50  # timed calls of a candidate, and calls before them
K = 10
DESCRIPTION = """Tries stored forms and widths of a run's student, measures every exported file on validation, prints
the Pareto front of bytes, p50, ndcg@10 and tail ndcg@10, and marks the smallest file within the budget that keeps
enough. A killed search goes on where it was."""
EXAMPLES = """examples:
  distill compress configs/quickstart.yaml --budget-mb 2 --min-retention 0.99
  distill compress configs/quickstart.yaml --budget-mb 0.5 --dims 16,32,64 --variants int8,int4,pq
  distill compress configs/quickstart.yaml --dims 32 --retrain fit.epochs=10"""


def compress_command(arguments: Sequence[str]) -> int:
    """`distill compress`: returns 0 where a file meets the wishes, 1 where none does.

    Raises:
        UserError: The run's stages `data` and `student` are missing, or a word or a width is unknown.
    """
    chosen = make_parser().parse_args(arguments)
    config = load(chosen.config, chosen.overrides)
    search = Search(config, config.folder / "compress")
    dims = numbers(chosen.dims) if chosen.dims else default_dims(search.dim)
    words = [word.strip() for word in chosen.variants.split(",") if word.strip()]
    found = run(search, words, dims, chosen.finetune, chosen.retrain)
    best = pick(found, chosen.budget_mb * 1e6, chosen.min_retention, config.export.min_tail_retention)
    write_results(search.folder, search.inputs, found, best)
    console.print(table(found, best))
    budget = f"at most {chosen.budget_mb:g} MB" if math.isfinite(chosen.budget_mb) else "any size"
    wish = f"{budget} and at least {chosen.min_retention:.1%} of ndcg@10"
    if best is None:
        say(f"No candidate has {wish}. Try other --dims and --variants, --finetune 300 or --retrain.")
        return 1
    say(f"{best.key} dims: {best.bytes / 1e6:.2f} MB, {best.retention:.1%} of ndcg@10 (wanted: {wish})")
    own = best.dim == search.dim and not best.finetuned
    say(f"export.variants: [{best.word}] writes it into the bundle." if own else f"Its file is in {search.folder}.")
    return 0


def make_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser(
        prog="distill compress",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", metavar="CONFIG", help="an experiment's YAML")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings in place of the file's")
    parser.add_argument("--budget-mb", type=float, default=float("inf"), help="largest file, in millions of bytes")
    parser.add_argument("--min-retention", type=float, default=0.99, help="least share of ndcg@10 (default: 0.99)")
    parser.add_argument("--dims", default="", help="widths, such as 16,32,64 (default: a quarter, half and all)")
    parser.add_argument("--variants", default=FORMS, help=f"stored forms (default: {FORMS})")
    parser.add_argument("--finetune", type=int, default=0, metavar="STEPS", help="train each with its compressed table")
    parser.add_argument("--retrain", action="store_true", help="also train students of the smaller widths")
    return parser


@dataclass(frozen=True)
class Search:
    """One run's student and what its compressed forms are measured with.

    Attributes:
        config: Of the run.
        folder: Where files and results lie.
    """

    config: Config
    folder: Path

    @cached_property
    def inputs(self) -> dict[str, Any]:
        """What the results depend on; results of other inputs are thrown away."""
        stages = {name: open_stage(self.config.folder / name, self.config.source) for name in ("data", "student")}
        if stages["student"]["inputs"].get("data") != stages["data"]["fingerprint"]:
            raise UserError(
                f"{self.config.folder / 'student'} was trained on another data set. Train it again: "
                f"distill train-student {self.config.source}"
            )
        return {
            **{name: manifest["fingerprint"] for name, manifest in stages.items()},
            "calibration": self.config.export.calibration,
            "max_length": self.config.fit.max_length,
            "seed": self.config.seed,
        }

    @cached_property
    def dataset(self) -> Dataset:
        """The run's data."""
        return Dataset.read(self.config.folder / "data")

    @cached_property
    def student(self) -> Student:
        """The run's own student."""
        found = load_student(self.config.folder / "student")
        if not is_plain(found):
            raise UserError(
                f"distill compress narrows and rounds item vectors, but {type(found).__name__} doesn't rank by dot "
                "products alone. Give its file a smaller form with export.variants."
            )
        return cast(Student, found)

    @cached_property
    def dim(self) -> int:
        """Its width."""
        return self.student.item_table().shape[1]

    @cached_property
    def histories(self) -> np.ndarray:
        """Calibration histories."""
        rows = self.config.export.calibration or 1
        found = calibration_histories(self.dataset, rows, self.config.fit.max_length, self.config.seed)
        if found is None:
            raise UserError(f"{self.config.folder / 'data'} has no train history to measure with.")
        return found

    @cached_property
    def cases(self) -> Cases:
        """Validation cases."""
        return sample(cases_of(self.dataset, VALID), self.config.seed)


def run(search: Search, words: Sequence[str], dims: Sequence[int], finetune: int, retrain: bool) -> list[Candidate]:
    """Measures every candidate that isn't measured yet; results are kept after each.

    Args:
        search: The run.
        words: Stored forms.
        dims: Widths: each word is tried at each, by the best low-rank approximation.
        finetune: Steps of training with the compressed table; 0 for none.
        retrain: Train a student of each smaller width, and try the words on it as it is.
    """
    search.folder.mkdir(parents=True, exist_ok=True)
    plan: list[tuple[int, str]] = []  # (width of the student, word)
    for word in words:
        for dim in dims:
            if dim > search.dim:
                raise UserError(f"--dims holds {dim}, but the student has {search.dim} dimensions.")
            plan.append((search.dim, word if dim == search.dim or "@" in word else at_width(word, dim)))
            if retrain and dim < search.dim:
                plan.append((dim, word))
    plan = list(dict.fromkeys(plan))
    for dim, word in plan:
        parse(word, dim)  # mistakes before anything heavy starts
    done = read_results(search.folder, search.inputs)
    wanted = []
    sources: dict[int, tuple[Student, Traced]] = {}
    for number, (dim, word) in enumerate(plan, 1):
        for steps in (0, finetune) if finetune and word != "fp32" else (0,):
            key = f"{word} of {dim}" + (" finetuned" if steps else "")
            wanted.append(key)
            if key in done:
                continue
            if dim not in sources:
                student = search.student if dim == search.dim else retrained(search, dim)
                sources[dim] = student, trace(student, search.config.fit.max_length, search.histories)
            say(f"{number}/{len(plan)}: {key}")
            done[key] = measure(search, word, dim, *sources[dim], steps)
            write_results(search.folder, search.inputs, list(done.values()), None)
    return [done[key] for key in wanted]


def at_width(word: str, dim: int) -> str:
    """The word with a width: int8+static at 32 is int8@32+static."""
    form, plus, arithmetic = word.partition("+")
    return f"{form}@{dim}{plus}{arithmetic}"


def measure(search: Search, word: str, dim: int, student: Student, traced: Traced, steps: int) -> Candidate:
    """Writes one candidate's file, loads it, times it and evaluates it on validation."""
    longest = search.config.fit.max_length
    variant = parse(word, dim)
    if steps:
        student = cast(Student, finetuned(student, variant.table, search.histories, steps, search.config.seed))
        traced = trace(student, longest, search.histories)
    name = file_name(word).replace("model.", f"dim{dim}{'.tuned' if steps else ''}.", 1)
    path = search.folder / name
    write_model(build_graph(variant, traced), path)
    check_loads(path, search.dataset.n_items)
    graph = Graph(path.read_bytes(), search.dataset.n_items)
    contexts = contexts_of(search.cases)

    def score(batch: ContextBatch) -> torch.Tensor:
        return student_scores(search.student, torch.from_numpy(batch.history))

    with torch.no_grad():
        scorer = row_scorer(score, search.cases, longest)
        figures = compare(
            {word: graph}, scorer, lambda rows: contexts.batch(rows, longest), search.cases, search.config.export
        )[word]
    few = [contexts.batch(np.array([row]), longest) for row in range(min(len(search.cases), CALLS))]
    singles = [(batch.history, batch.seen) for batch in few]
    return Candidate(
        word=word,
        dim=dim,
        bytes=path.stat().st_size,
        p50=median_milliseconds(lambda i: graph.top(*singles[i % len(singles)], K)),
        ndcg=figures.exported["ndcg@10"],
        tail_ndcg=figures.exported["tail_ndcg@10"],
        retention=figures.retention["ndcg@10"],
        tail_retention=figures.retention["tail_ndcg@10"],
        tail_noise=figures.noise["tail_ndcg@10"],
        overlap=figures.overlap,
        finetuned=bool(steps),
    )


def median_milliseconds(call: Callable[[int], Any]) -> float:
    """Median time of a call, after some that aren't timed."""
    times = np.empty(CALLS)
    for number in range(WARM + CALLS):
        begin = time.perf_counter()
        call(number)
        if number >= WARM:
            times[number - WARM] = time.perf_counter() - begin
    return round(1000 * float(np.median(times)), 4)


def retrained(search: Search, dim: int) -> Student:
    """The run's student of another width, trained as `train-student` does; kept beside the results.

    Raises:
        UserError: The student has no setting `dim`.
    """
    from distill.recipes import STUDENT, recipe_of
    from distill.train_student import train_one

    recipe = recipe_of(search.config, STUDENT)
    spec = dataclasses.replace(recipe.student, arguments={**recipe.student.arguments, "dim": dim})
    folder = search.folder / f"student-dim{dim}"
    return cast(Student, load_student(train_one(search.config, dataclasses.replace(recipe, student=spec), 0, folder)))


def default_dims(dim: int) -> list[int]:
    """A quarter of the width, half of it, and all of it."""
    return sorted({max(1, dim // 4), max(1, dim // 2), dim})


def numbers(text: str) -> list[int]:
    """Whole numbers with commas between them.

    Raises:
        UserError: Something else.
    """
    try:
        found = [int(part) for part in text.split(",") if part.strip()]
    except ValueError as error:
        raise UserError(f"--dims is '{text}'; expected whole numbers with commas between them: 16,32,64.") from error
    if not found or min(found) < 1:
        raise UserError(f"--dims is '{text}'; expected numbers of at least 1: 16,32,64.")
    return sorted(set(found))


if __name__ == "__main__":
    from distill.cli import guarded

    sys.exit(guarded(lambda: compress_command(sys.argv[1:])))
