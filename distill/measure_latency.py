"""Stage `latency`: the full latency benchmark of a run, `distill benchmark CONFIG --only latency`."""

from __future__ import annotations

if __name__ == "__main__":  # run as a file: the repository root, not distill/, must come first on the path
    import sys
    from pathlib import Path

    sys.path[0] = str(Path(__file__).resolve().parents[1])

import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.latency.matrix import Subject, measure_all
from benchmarks.latency.streams import write_histories
from benchmarks.report.latency_tables import terminal_tables
from benchmarks.report.markdown import latency_markdown
from distill.config import Config, to_tree
from distill.data.dataset import TEST, Dataset
from distill.errors import UserError
from distill.progress import console, is_main_process, say
from distill.ranking.cases import cases_of
from distill.recipes import STUDENT
from distill.runs import run_stage, write_json
from distill.serving.runtime import read_about
from distill.timed_models import CACHED, LIVE_CATALOGUE, LIVE_HISTORY, ONNX_HISTORY

K = 10
LATENCY = "latency"
TEACHER_ROWS = {
    CACHED: "teacher, item vectors cached",
    LIVE_HISTORY: "teacher, texts of the history encoded live",
    ONNX_HISTORY: "teacher, texts of the history encoded live by its ONNX export",
    LIVE_CATALOGUE: "teacher, texts of the whole catalogue encoded live",
}
PEERS = {
    "implicit": ("benchmarks.peers.engines:open_implicit", "implicit's ALS, recommend() with 64 factors"),
    "faiss": ("benchmarks.peers.engines:open_faiss", "faiss Flat over the student's item vectors, query included"),
}


def main(config: Config) -> Path:
    """Measures a run's latency into `<run>/latency/`. Needs all stages but the report."""
    folder = config.folder / LATENCY
    if not is_main_process():
        return folder
    run_stage(
        folder,
        settings={"latency": to_tree(config.benchmark.latency)},
        inputs=[config.folder / name for name in ("data", "teacher", STUDENT, "export")],
        build=lambda path: build(config, path),
        config_source=config.source,
        command=f"distill benchmark {config.source} --only latency",
    )
    console.print(*terminal_tables(folder / "latency.json")[:2], sep="\n")
    say(f"all tables: {folder / 'latency.md'}; they go into the report with: distill benchmark {config.source}")
    return folder


def build(config: Config, folder: Path) -> dict[str, Any]:
    """Writes latency.json and latency.md."""
    dataset = Dataset.read(config.folder / "data")
    cases = cases_of(dataset, TEST)
    with tempfile.TemporaryDirectory() as scratch:
        histories = Path(scratch) / "histories.npz"
        write_histories(histories, [cases.seen[row] for row in range(len(cases))])
        bundle = config.folder / "export"
        found = measure_all(subjects(config, dataset, histories), bundle, config.benchmark.latency, Path(scratch))
    write_json(folder / "latency.json", found)
    (folder / "latency.md").write_text(latency_markdown(found), encoding="utf-8")
    return {"reliable": found["machine"]["reliable"], "rows": len(found["rows"])}


def subjects(config: Config, dataset: Dataset, histories: Path) -> list[Subject]:
    """Exported files, torch students, the teacher in several ways, and the peers that are installed."""
    bundle, tree, n_items = config.folder / "export", to_tree(config), dataset.n_items
    shared, about = {"histories": str(histories), "k": K}, read_about(bundle)
    for key in ("source", "overrides"):
        del tree[key]
    found = [
        Subject(
            f"student_onnx_{variant}",
            f"student, ONNX {variant}",
            "benchmarks.latency.engines:open_bundle",
            {"folder": str(bundle), "variant": variant, "threads": 1, **shared},
            n_items,
            entry["bytes"],
            export=True,
            row_bytes=about["student"]["dim"] * (4 if variant.startswith("fp32") else 1),
        )
        for variant, entry in about["variants"].items()
    ]
    weights = config.folder / STUDENT / "model.safetensors"
    place = "distill.timed_models:open_student"
    arguments = {"folder": str(weights.parent), "length": config.fit.max_length, **shared}
    found.append(
        Subject(STUDENT, "student, torch, tables folded once", place, arguments, n_items, weights.stat().st_size)
    )
    weights_of_teacher = list((config.folder / "teacher").rglob("*.safetensors"))
    exported = list((bundle / "teacher").glob("*.tower.onnx"))
    for live, words in TEACHER_ROWS.items():
        files = exported if live == ONNX_HISTORY else weights_of_teacher
        if files or live != ONNX_HISTORY:
            arguments = {"tree": tree, "live": live, "k": K}
            size = sum(path.stat().st_size for path in files)
            found.append(Subject(live, words, "distill.timed_models:open_teacher", arguments, n_items, size))
    for peer in config.benchmark.latency.peers:
        if peer not in PEERS:
            raise UserError(f"benchmark.latency.peers holds '{peer}'; expected some of {', '.join(PEERS)}.")
        factory, words = PEERS[peer]
        arguments = {"folder": str(config.folder), "k": K}
        found.append(Subject(peer, words, factory, arguments, n_items))
    return found


if __name__ == "__main__":
    from distill.cli import stage_main

    sys.exit(stage_main(main))
