"""Stage `export-student`: the student as ONNX files that passed the parity gate, with all that serving needs."""

from __future__ import annotations

if __name__ == "__main__":  # run as a file: the repository root, not distill/, must come first on the path
    import sys
    from pathlib import Path

    sys.path[0] = str(Path(__file__).resolve().parents[1])

import sys
from pathlib import Path
from typing import Any, cast

import torch

from distill.ask import contexts_of, row_scorer
from distill.config import Config, to_tree
from distill.data.contexts import ContextBatch
from distill.data.dataset import VALID, Dataset
from distill.errors import UserError
from distill.export.bundle import check_loads, write_bundle, write_model
from distill.export.gate import compare, gate_cases, table
from distill.export.graph import build_graphs
from distill.progress import console, is_main_process, say
from distill.ranking.cases import cases_of
from distill.runs import run_stage, write_json
from distill.serving.runtime import BUNDLE
from distill.serving.session import Graph
from students.checkpoint import load_student
from students.protocol import Student
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
    return run_stage(
        folder,
        settings={"export": to_tree(config.export), "max_length": config.fit.max_length},
        inputs=[config.folder / "data", config.folder / "student"],
        build=lambda target: build(config, target),
        config_source=config.source,
        command=f"distill export-student {config.source}",
    )


def build(config: Config, folder: Path) -> dict[str, Any]:
    """Writes and checks every variant; bundle.json comes last, so that a failed export leaves nothing that opens."""
    (folder / BUNDLE).unlink(missing_ok=True)
    dataset = Dataset.read(config.folder / "data")
    student = cast(Student, load_student(config.folder / "student"))
    if student.n_items != dataset.n_items:
        raise UserError(
            f"{config.folder / 'student'} ranks {student.n_items} items, but the data set has {dataset.n_items}. "
            f"Train it on this data set: distill train-student {config.source}"
        )
    models = {}
    for variant, model in build_graphs(student, config.export.variants, config.fit.max_length).items():
        models[variant] = folder / f"model.{variant}.onnx"
        write_model(model, models[variant])
        check_loads(models[variant], dataset.n_items)
    gate = check_parity(config, dataset, student, models)
    write_json(folder / GATE, gate)
    failed = {variant: figures["failures"] for variant, figures in gate.items() if not figures["passed"]}
    if failed:
        lines = "; ".join(f"{variant}: {', '.join(reasons)}" for variant, reasons in failed.items())
        raise UserError(
            f"The parity gate failed, so there is no bundle. {lines}. All figures are in {folder / GATE}. Leave the "
            "variant out of export.variants, or lower export.min_overlap, export.min_retention or "
            "export.min_tail_retention if that is good enough."
        )
    dim = student.item_table().shape[1]
    about = write_bundle(
        folder,
        dataset,
        models,
        type(student).__name__,
        dim,
        config.fit.max_length,
        min(config.export.k, dataset.n_items),
    )
    sizes = {variant: entry["bytes"] for variant, entry in about["variants"].items()}
    say("exported " + ", ".join(f"{variant} {size / 1e6:.2f} MB" for variant, size in sizes.items()))
    return {"gate": gate, "bytes": sizes}


@torch.no_grad()
def check_parity(
    config: Config, dataset: Dataset, student: Student, models: dict[str, Path]
) -> dict[str, dict[str, Any]]:
    """Compares the files with the torch student on validation histories, prints the table and returns the figures."""
    cases = gate_cases(cases_of(dataset, VALID))
    contexts = contexts_of(cases)
    longest = config.fit.max_length

    def score(batch: ContextBatch) -> torch.Tensor:
        return student_scores(student, torch.from_numpy(batch.history))

    results = compare(
        {variant: Graph(path.read_bytes(), dataset.n_items) for variant, path in models.items()},
        row_scorer(score, cases, longest),
        lambda rows: contexts.batch(rows, longest),
        cases,
        config.export,
    )
    console.print(table(results))
    return {variant: figures.as_result() for variant, figures in results.items()}


if __name__ == "__main__":
    from distill.cli import stage_main

    sys.exit(stage_main(main))
