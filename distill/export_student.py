"""Stage `export-student`: the student as ONNX files that passed the parity gate, with all that serving needs."""

from __future__ import annotations

if __name__ == "__main__":  # run as a file: the repository root, not distill/, must come first on the path
    import sys
    from pathlib import Path

    sys.path[0] = str(Path(__file__).resolve().parents[1])

import sys
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import torch

from distill.ask import contexts_of, row_scorer
from distill.config import Config, to_tree
from distill.data.contexts import ContextBatch
from distill.data.dataset import VALID, Dataset
from distill.errors import UserError
from distill.export.bundle import check_loads, write_array, write_bundle, write_model
from distill.export.calibration import calibration_histories
from distill.export.encoder import folded_items, trace_encoder
from distill.export.finetune import finetuned as tune
from distill.export.gate import K, compare, gate_cases, overlap, table
from distill.export.head_graph import write_heads
from distill.export.kinds import is_pairwise, is_plain, student_graphs, width
from distill.export.parts import GRAPHS, WHOLE
from distill.export.scan_graph import write_exact
from distill.export.users import check_users, write_user_side
from distill.export.variants import file_name, parse
from distill.export_teacher import export_teacher
from distill.plugins import nearest
from distill.progress import console, is_main_process, say
from distill.ranking.cases import cases_of
from distill.ranking.evaluator import rank
from distill.runs import run_stage, write_json
from distill.serving.exact import VARIANT as EXACT
from distill.serving.exact import ExactGraph
from distill.serving.runtime import BUNDLE
from distill.serving.session import Graph
from students.checkpoint import load_student
from students.protocol import PairwiseStudent, Student, two_stage_scores
from students.protocol import scores as student_scores

GATE = "gate.json"


def main(config: Config) -> Path:
    """Exports the student of a run: `<run>/export/`, a bundle. Needs the stages `data` and `student`.

    Raises:
        UserError: The student can't be exported, a file can't be loaded, or a variant fails the parity gate.
    """
    folder = config.folder / "export"
    if not is_main_process():
        return folder
    inputs = ["data", "student", *(["teacher"] if config.export.teacher else [])]
    return run_stage(
        folder,
        settings={"export": to_tree(config.export), "max_length": config.fit.max_length},
        inputs=[config.folder / name for name in inputs],
        build=lambda target: build(config, target),
        config_source=config.source,
        command=f"distill export-student {config.source}",
    )


def build(config: Config, folder: Path) -> dict[str, Any]:
    """Writes and checks every variant; bundle.json comes last, so that a failed export leaves nothing that opens."""
    dataset = Dataset.read(config.folder / "data")
    return build_bundle(config, dataset, load_student(config.folder / "student"), folder)


def build_bundle(config: Config, dataset: Dataset, trained: torch.nn.Module, folder: Path) -> dict[str, Any]:
    """The bundle of a data set and its trained student, checked against that student, in `folder`."""
    (folder / BUNDLE).unlink(missing_ok=True)
    student = cast(Student, trained)
    check_settings(config, dataset, student)
    histories = calibration_histories(dataset, config.export.calibration, config.fit.max_length, config.seed)
    words = [word for word in config.export.variants if word != EXACT]
    graphs = student_graphs(student, words, config.fit.max_length, histories)
    models = {word: write_checked(model, folder / file_name(word), dataset.n_items) for word, model in graphs.items()}
    others: list[Path] = []
    loaded: dict[str, Any] = {word: Graph(path.read_bytes(), dataset.n_items) for word, path in models.items()}
    if EXACT in config.export.variants:
        encoder = trace_encoder(student, config.fit.max_length)
        others += [folder / name for name in write_exact(folder, *folded_items(student), encoder)]
        check_loads(folder, dataset.n_items)
        loaded[EXACT] = ExactGraph.open(folder)
    gate = check_parity(config, dataset, student, loaded)
    if config.export.finetune_steps and histories is not None and is_plain(student):
        for word in [word for word in failed_of(gate) if word in models]:
            finetune(config, dataset, student, histories, word, folder, graphs, gate)
    write_json(folder / GATE, gate)
    refuse_failed(gate, folder / GATE)
    parts, tables = write_parts(config, graphs, student, folder)
    user, user_files = write_user_side(folder, student, dataset)
    if user:
        user["overlap@10"] = check_users(student, loaded, dataset, config.export)
    cases = gate_cases(cases_of(dataset, VALID))
    asked = contexts_of(cases).batch(np.arange(len(cases)), config.fit.max_length).history
    heads, head_files = write_heads(folder, student, loaded, asked)
    about = write_bundle(
        folder,
        dataset,
        models,
        type(getattr(student, "core", student)).__name__,
        width(student),
        config.fit.max_length,
        min(config.export.k, dataset.n_items),
        parts,
        [*others, *tables, *user_files, *head_files],
        getattr(student, "feature_statistics", dict)(),
        user,
        heads,
    )
    sizes = {variant: entry["bytes"] for variant, entry in about["variants"].items()}
    say("exported " + ", ".join(f"{variant} {size / 1e6:.2f} MB" for variant, size in sizes.items()))
    result = {"gate": gate, "bytes": sizes}
    if config.export.teacher:
        result["teacher"] = export_teacher(config, dataset, folder / "teacher")
    return result


def check_settings(config: Config, dataset: Dataset, student: Student) -> None:
    """Finds mistakes before anything heavy starts.

    Raises:
        UserError: The student belongs to other data, or the section `export` asks for what there isn't.
    """
    settings = config.export
    if student.n_items != dataset.n_items:
        raise UserError(
            f"{config.folder / 'student'} ranks {student.n_items} items, but the data set has {dataset.n_items}. "
            f"Train it on this data set: distill train-student {config.source}"
        )
    for kind in settings.graphs:
        if kind not in (WHOLE, *GRAPHS):
            raise UserError(f"'export.graphs' holds '{kind}', which is no graph{nearest(kind, [WHOLE, *GRAPHS])}.")
    if not [word for word in settings.variants if word != EXACT]:
        raise UserError(
            f"'export.variants' is {settings.variants}; a bundle needs at least one graph, such as fp32 or int8."
        )
    wanted = [kind for kind in settings.graphs if kind != WHOLE] + [word for word in settings.variants if word == EXACT]
    if wanted and not is_plain(student):
        raise UserError(
            f"'export' asks for {', '.join(wanted)}, but {type(student).__name__} doesn't rank by dot products alone: "
            f"it has the graph '{WHOLE}' and variants such as fp32 and int8 only."
        )
    if settings.finetune_steps and not settings.calibration:
        raise UserError(
            "export.finetune_steps trains on the calibration histories, but export.calibration is 0. Set it to 4096."
        )


def write_checked(model: onnx.ModelProto, path: Path, n_items: int) -> Path:
    """Writes a variant's file and loads it in a process of its own."""
    write_model(model, path)
    check_loads(path, n_items)
    return path


def finetune(
    config: Config,
    dataset: Dataset,
    student: Student,
    histories: np.ndarray,
    word: str,
    folder: Path,
    graphs: dict[str, onnx.ModelProto],
    gate: dict[str, dict[str, Any]],
) -> None:
    """Trains a copy of the student with one variant's table; its file takes the place of one that fails in more."""
    codec = parse(word, student.item_table().shape[1]).table
    tuned = tune(student, codec, histories, config.export.finetune_steps, config.seed)
    model = student_graphs(tuned, [word], config.fit.max_length, histories)[word]
    path = write_checked(model, folder / f"tuned.{file_name(word)}", dataset.n_items)
    figures = check_parity(config, dataset, student, {word: Graph(path.read_bytes(), dataset.n_items)})[word]
    if len(figures["failures"]) < len(gate[word]["failures"]):
        graphs[word], gate[word] = model, {**figures, "finetuned": True}
        path.replace(folder / file_name(word))
    path.unlink(missing_ok=True)


def write_parts(
    config: Config, graphs: dict[str, onnx.ModelProto], student: Student, folder: Path
) -> tuple[dict[str, dict[str, Path]], list[Path]]:
    """The further graphs of `export.graphs` by variant, and the files that they need."""
    wanted = [kind for kind in config.export.graphs if kind != WHOLE]
    parts: dict[str, dict[str, Path]] = {}
    for word, model in graphs.items():
        for kind in wanted:
            path = folder / file_name(word).replace("model.", f"{kind}.", 1)
            write_model(GRAPHS[kind](model, student.n_items), path)
            parts.setdefault(word, {})[kind] = path
    if "query" not in wanted:
        return parts, []
    tables = dict(zip(("items.vectors.npy", "items.bias.npy"), folded_items(student), strict=True))
    for name, array in tables.items():
        write_array(array, folder / name)
    return parts, [folder / name for name in tables]


def failed_of(gate: dict[str, dict[str, Any]]) -> dict[str, list[str]]:
    """What is wrong with each variant that failed the gate."""
    return {variant: figures["failures"] for variant, figures in gate.items() if not figures["passed"]}


def refuse_failed(gate: dict[str, dict[str, Any]], path: Path) -> None:
    """Stops the export where a variant failed.

    Raises:
        UserError: A variant failed the gate; the message says in what.
    """
    failed = failed_of(gate)
    if failed:
        lines = "; ".join(f"{variant}: {', '.join(reasons)}" for variant, reasons in failed.items())
        raise UserError(
            f"The parity gate failed, so there is no bundle. {lines}. All figures are in {path}. Leave the variant out "
            "of export.variants, train it with export.finetune_steps, or lower export.min_overlap, "
            "export.min_retention or export.min_tail_retention if that is good enough."
        )


@torch.no_grad()
def check_parity(
    config: Config, dataset: Dataset, student: Student, graphs: dict[str, Any]
) -> dict[str, dict[str, Any]]:
    """Compares loaded files with the torch student on validation histories, prints the table and returns the figures.

    Args:
        config: Of the run.
        dataset: Its data.
        student: In torch, in evaluation mode.
        graphs: `serving.session.Graph` or what answers as it does, by variant.
    """
    cases = gate_cases(cases_of(dataset, VALID))
    contexts = contexts_of(cases)
    longest = config.fit.max_length

    def score(batch: ContextBatch) -> torch.Tensor:
        return student_scores(student, torch.from_numpy(batch.history))

    def two_stage(batch: ContextBatch) -> torch.Tensor:
        history, seen = torch.from_numpy(batch.history), torch.from_numpy(batch.seen)
        return two_stage_scores(cast(PairwiseStudent, student), history, seen)

    scorer = row_scorer(score, cases, longest)
    listed = row_scorer(two_stage, cases, longest) if is_pairwise(student) else None
    results = compare(graphs, scorer, lambda rows: contexts.batch(rows, longest), cases, config.export, listed)
    console.print(table(results))
    found = {variant: figures.as_result() for variant, figures in results.items()}
    if listed is not None:
        places = min(K, cases.n_items)
        agreement = overlap(rank(listed, cases, places), rank(scorer, cases, places))
        say(f"reranking the first stage's candidates gives {agreement:.4f} of the top {K} of reranking all items")
        found = {variant: {**figures, "two_stage_overlap@10": agreement} for variant, figures in found.items()}
    return found


if __name__ == "__main__":
    from distill.cli import stage_main

    sys.exit(stage_main(main))
