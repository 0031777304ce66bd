"""Stage `benchmark`: teacher, students, baselines and the exported files themselves, on the test part; the report."""

if __name__ == "__main__":  # run as a file: the repository root, not distill/, must come first on the path
    import sys
    from pathlib import Path

    sys.path[0] = str(Path(__file__).resolve().parents[1])

import json
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor
from torch.nn.functional import linear

from benchmarks.baselines import GRIDS, shared_fits, tune
from benchmarks.latency import measure_interleaved
from benchmarks.latency.figures import cost
from benchmarks.latency.machine import describe_machine
from benchmarks.quality import (
    METRICS,
    Contender,
    K,
    data_card,
    describe,
    distillation,
    evaluate_all,
    examples,
    exposure,
    item_changes,
)
from benchmarks.report import terminal_table, verdict, write_report
from distill.ask import contexts_of, quality, row_scorer
from distill.compare import LISTS
from distill.config import Config, to_tree
from distill.data.contexts import ContextBatch
from distill.data.dataset import TEST, VALID, Dataset
from distill.head_quality import head_quality
from distill.progress import console, is_main_process, say
from distill.ranking.cases import Cases, cases_of
from distill.ranking.evaluator import Evaluation, evaluate, rank
from distill.ranking.gate import GATE, read_gate, teacher_gate
from distill.recipes import CONTROL, STUDENT, seed_folder
from distill.runs import COMMANDS, environment, read_manifest, run_stage
from distill.serving.runtime import Bundle
from distill.tensors import mask_seen, query_of
from distill.timed_models import folded, measure_live, student_answer
from distill.train_teacher import load_teacher
from students.checkpoint import load_student
from students.protocol import scores as student_scores
from teachers.protocol import Inputs

Score = Callable[[ContextBatch], Tensor]
LATENCY = "latency"  # the stage of `--only latency`, which may have been run
ALWAYS = ("popularity", "ease")


def main(config: Config) -> Path:
    """Benchmarks a run and writes its report. Needs all other stages."""
    folder = config.folder / "report"
    if not is_main_process():
        return folder
    seeds = range(config.benchmark.seeds)
    students = [seed_folder(config, name, offset).name for name in (CONTROL, STUDENT) for offset in seeds]
    stages = ["data", "teacher", "scores", *students, "export"]
    stages += [LATENCY] if read_manifest(config.folder / LATENCY) else []
    stages += [GATE] if read_gate(config.folder, rivals(config)) else []
    run_stage(
        folder,
        settings={"benchmark": to_tree(config.benchmark), "seed": config.seed},
        inputs=[config.folder / name for name in stages],
        build=lambda path: build(config, path),
        config_source=config.source,
        command=command(config),
    )
    show(folder)
    return folder


def build(config: Config, folder: Path) -> dict[str, Any]:
    """Ranks, evaluates, times, and writes report.json, .html, .md, .csv and .tex."""
    dataset = Dataset.read(config.folder / "data")
    cases, valid = cases_of(dataset, TEST), cases_of(dataset, VALID)
    contenders = [
        *neural(config, cases),
        *exported(config, dataset, cases),
        *baselines(config, dataset, cases, valid),
    ]
    evaluations = evaluate_all(contenders, cases)
    settings = config.benchmark
    models = [describe(c, evaluations[c.name], cases, settings.resamples, config.seed) for c in contenders]
    machine = add_latency(models, contenders, config, dataset, cases)
    full = config.folder / LATENCY / "latency.json"
    lists = {c.name: c.ranked for c in contenders}
    students = [evaluations[STUDENT], *other_seeds(config, cases, STUDENT, config.fit.max_length)]
    controls = [evaluations[CONTROL], *other_seeds(config, cases, CONTROL, config.control_fit.max_length)]
    others = {c.name: evaluations[c.name] for c in contenders if c.role in ("baseline", "control")}
    manifests = {name: read_manifest(config.folder / name) or {} for name in COMMANDS}
    shown = ("teacher", STUDENT, CONTROL)
    report = {
        "title": f"{config.run.name}: {Path(config.data.path).name}",
        "models": models,
        "distillation": distillation(evaluations["teacher"], students, controls, config.seed),
        "teacher_gate": read_gate(config.folder, rivals(config))
        or teacher_gate(evaluations["teacher"], others, seed=config.seed),
        "machine": machine,
        "latency": json.loads(full.read_text()) if full.is_file() else None,
        "item_changes": item_changes(lists["teacher"], lists[STUDENT], cases, dataset.titles),
        "data": data_card(dataset, cases, Path(config.data.path).name, split_text(config)),
        "teacher": manifests["teacher"].get("result", {}).get("fusion", {}),
        "heads": head_quality(config, dataset),
        "examples": examples({n: lists[n] for n in shown}, cases, dataset, config.seed),
        "exposure": {n: exposure(lists[n], dataset.popularity) for n in (*shown, *settings.baselines) if n in lists},
        "curves": {name: manifests[name].get("result", {}).get("curve", []) for name in (STUDENT, CONTROL)},
        "closed_form": bool((manifests[STUDENT].get("result") or {}).get("closed_form")),
        "export_gate": manifests["export"].get("result", {}).get("gate", {}),
        "transfer_set": manifests["scores"].get("result", {}),
        "stages": {name: m["seconds"] for name, m in manifests.items() if "seconds" in m and name != "report"},
        "settings": to_tree(config),
        "environment": environment(),
        "command": command(config),
    }
    write_report(report, folder)
    save_lists(folder / LISTS, lists)
    return {"verdict": verdict(report)}


def rivals(config: Config) -> list[str]:
    """Whom the teacher has to beat here; a finished `distill gate` that has them all, better tuned, stands in."""
    return list(dict.fromkeys([*config.benchmark.baselines, *ALWAYS, CONTROL]))


def save_lists(path: Path, lists: dict[str, np.ndarray]) -> None:
    """Writes the ranked lists of all models as one npz file, whole or not at all."""
    temporary = path.with_name(path.name + ".tmp")
    arrays: dict[str, Any] = dict(lists)
    with temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def neural(config: Config, cases: Cases) -> list[Contender]:
    """The teacher, the distilled student and its control, in torch."""
    found = []
    teacher = load_teacher(config)
    folder = config.folder / "teacher"
    files = [p for name in teacher.members for p in (folder / name).glob("*.safetensors")]
    parameters, size = sum(map(numbers_in, files)), sum(p.stat().st_size for p in files)
    about: dict[str, Any] = {"parameters": parameters, "bytes": size}
    found.append(torch_contender("teacher", "teacher", teacher.score, cases, config, **about))
    for name, role, fit in ((STUDENT, "student", config.fit), (CONTROL, "control", config.control_fit)):
        student = load_student(config.folder / name)
        score = student_scorer(student, fit.max_length)
        weights = config.folder / name / "model.safetensors"
        about = {"parameters": numbers_in(weights), "bytes": weights.stat().st_size}
        made = torch_contender(name, role, score, cases, config, **about)
        made.answer = student_answer(folded(student, fit.max_length), [cases.seen[row] for row in range(len(cases))], K)
        found.append(made)
    return found


def numbers_in(path: Path) -> int:
    """How many numbers a safetensors file holds, from its header alone."""
    with safe_open(path, "pt") as file:
        return sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118


def student_scorer(student: Any, length: int) -> Score:
    """Scores of a torch student that reads the last `length` items; its item table is made once."""
    if hasattr(student, "all_corrections") or hasattr(student, "catalogue_scores"):
        return lambda batch: student_scores(student, torch.from_numpy(batch.seen[:, -length:]))
    with torch.no_grad():
        table, bias = student.item_table(), student.item_bias()

    def score(batch: ContextBatch) -> Tensor:
        history, users = torch.from_numpy(batch.seen[:, -length:]), torch.from_numpy(batch.user)
        return linear(query_of(student, history, users), table, bias)

    return score


def other_seeds(config: Config, cases: Cases, name: str, length: int) -> list[Evaluation]:
    """Evaluations of the same student trained with the further seeds."""
    found = []
    for offset in range(1, config.benchmark.seeds):
        score = student_scorer(load_student(seed_folder(config, name, offset)), length)
        found.append(evaluate(rank(row_scorer(score, cases), cases, K, batch_size=512), cases, METRICS))
    return found


def torch_contender(
    name: str, role: str, score: Score, cases: Cases, config: Config, seeded: bool = True, **about: Any
) -> Contender:
    """Ranks with a torch scorer; timed as one context in, ten item numbers out."""
    contexts = contexts_of(cases)

    @torch.no_grad()
    def answer(number: int) -> Any:
        batch = contexts.batch(np.array([number % len(cases)]), 1_000_000)
        return mask_seen(score(batch).float(), torch.from_numpy(batch.seen)).topk(K).indices.numpy()

    ranked = rank(row_scorer(score, cases), cases, K, batch_size=512, label=f"ranking with {name}")
    return Contender(name, role, ranked, config.seed if seeded else None, answer=answer, **about)


def exported(config: Config, dataset: Dataset, cases: Cases) -> list[Contender]:
    """The exported files themselves, through the serving runtime."""
    found = []
    folder = config.folder / "export"
    parameters = numbers_in(config.folder / STUDENT / "model.safetensors")
    for variant in config.export.variants:
        bundle = Bundle.open(folder, variant)
        histories = [cases.seen[row] for row in range(len(cases))]
        rows = dataset.features.users.matrix()[cases.users] if dataset.features.users else None
        users = bundle.users.vectors_of(dataset.user_ids[cases.users], rows) if bundle.users else None
        ranked = bundle.recommend(histories, K, users=users)[0].astype(np.int32)

        def answer(number: int, bundle: Bundle = bundle, histories: list[np.ndarray] = histories) -> Any:
            return bundle.recommend_one(histories[number % len(histories)], K)

        size = (folder / bundle.about["variants"][variant]["file"]).stat().st_size
        name = f"student_onnx_{variant}"
        found.append(Contender(name, "export", ranked, config.seed, parameters, size, answer))
    return found


def baselines(config: Config, dataset: Dataset, cases: Cases, valid: Cases) -> list[Contender]:
    """Classic baselines, tuned on validation."""
    from distill.plugins import resolve

    found = []
    inputs = Inputs(dataset, {}, config.seed, torch.device("cpu"))
    for name in rivals(config)[:-1]:
        fit = shared_fits(resolve("teacher", name), lambda model: model.prepare(inputs), ("decay", "floor"))
        model, settings = tune(name, fit, lambda model: quality(model.score, valid).values["ndcg@10"])
        if GRIDS[name]:
            say(f"baseline {name}: {', '.join(f'{k} {v:g}' for k, v in settings.items())}")
        size = int(torch.count_nonzero(model.table))
        made = torch_contender(
            name, "baseline", model.score, cases, config, seeded=False, parameters=size, bytes=4 * size
        )
        made.notes["tuned"] = settings
        found.append(made)
    return found


def add_latency(
    models: list[dict[str, Any]], contenders: list[Contender], config: Config, dataset: Dataset, cases: Cases
) -> dict[str, Any]:
    """Times all models in turns, in this process, on one thread, batch 1: history in, top 10 out.

    Returns:
        The machine, what it was doing before, and why a row of the teacher is missing.
    """
    settings = config.benchmark
    machine = describe_machine()
    calls = {c.name: c.answer for c in contenders if c.answer is not None}
    counts = {
        c.name: settings.latency_calls if c.role == "export" else settings.teacher_latency_calls for c in contenders
    }
    say("timing one answer at a time")
    found: dict[str, dict[str, Any]] = {
        name: {"batch_1": figures} for name, figures in measure_interleaved(calls, counts).items()
    }
    live, machine["not_measured"] = measure_live(config, dataset, contexts_of(cases))
    found["teacher"] |= live
    price = settings.latency.core_hour_price
    for model in models:
        if model["name"] in found:
            times = found[model["name"]]
            model["latency_ms"] = {name: {k: round(v, 6) for k, v in row.items()} for name, row in times.items()}
            # One thread is busy during the whole call; the mean would hold the time of busy neighbours as well.
            model["cost"] = {name: cost(row["p50"] / 1000, 1, price) for name, row in times.items()}
    return machine


def split_text(config: Config) -> str:
    """The split in words."""
    split = config.data.split
    shares = " / ".join(f"{r:g}" for r in split.ratios)
    return split.name if split.name == "leave_one_out" else f"{split.name} {shares}"


def command(config: Config) -> str:
    """The one command that regenerates a run."""
    return " ".join(["distill", "run", config.source, *config.overrides])


def show(folder: Path) -> None:
    """Prints the verdict, the table and where the report lies."""
    report = json.loads((folder / "report.json").read_text())
    console.print(terminal_table(report))
    console.print(report["verdict"], markup=False, style="bold")
    say(f"report: {(folder / 'report.html').resolve()}")


if __name__ == "__main__":
    from distill.cli import stage_main

    sys.exit(stage_main(main))
