"""The `distill` command. Heavy packages are imported only by the command that needs them."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from distill import __version__
from distill.errors import UserError
from distill.progress import console, is_main_process, say

STAGES = {
    "prepare": ("distill.prepare", "read raw files, clean, split and fingerprint them"),
    "train-teacher": ("distill.train_teacher", "fit the teacher's members and fuse them"),
    "score-teacher": ("distill.score_teacher", "ask the teacher about every context and store its soft scores"),
    "train-student": ("distill.train_student", "train the distilled student and its undistilled control"),
    "export-student": ("distill.export_student", "write the ONNX variants and check them against torch"),
    "benchmark": ("distill.benchmark", "compare teacher, students, baselines and exported files; write the report"),
}
PARTS = {"latency": "distill.measure_latency"}  # of the benchmark, for `--only`
OTHERS = {
    "datasets": ("distill.public_sets:datasets_command", "list known public data sets, download one"),
    "synthesize": ("distill.synthesize:synthesize_command", "write a synthetic data set of any size"),
    "gate": ("distill.gate:gate_command", "tune every baseline and say whether the teacher is worth distilling"),
    "compare": ("distill.compare:compare_command", "set finished runs side by side, with significance letters"),
    "ablate": ("distill.ablate:ablate_command", "train a grid of objectives, controls and seeds; one table"),
    "tune": ("distill.tune:tune_command", "search settings of the student and of its control on validation"),
    "compress": ("distill.compress:compress_command", "search stored forms and widths of a student for a budget"),
    "add-items": ("distill.add_items:add_items_command", "add new items to a trained run's bundle by their texts"),
    "recommend": ("distill.recommend:recommend_command", "recommend from an exported bundle (no torch needed)"),
    "similar": ("distill.similar:similar_command", "items like an item, from an exported bundle (no torch needed)"),
    "evaluate": ("distill.evaluate:evaluate_command", "evaluate recommendations that any library made"),
    "scores": ("distill.scores:scores_command", "look into soft-score stores; verify, repair, merge, import them"),
    "doctor": ("distill.doctor:doctor_command", "show what is installed, which device is used, and what is wrong"),
}
QUICKSTART = "configs/quickstart.yaml"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit code: 0 for success, 2 for a mistake in the input."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given and given[0] in OTHERS:
        return guarded(lambda: load(OTHERS[given[0]][0])(given[1:]))
    parser = make_parser()
    chosen, more = parser.parse_known_args(given)
    wrong = [word for word in more if word.startswith("-") or not ("=" in word or word.startswith("@"))]
    if wrong:
        parser.error(f"unrecognized arguments: {' '.join(wrong)}")
    if more:  # settings behind an option, which argparse doesn't expect there
        chosen.overrides = [*chosen.overrides, *more]
    if chosen.command is None:
        parser.print_help()
        return 0
    return guarded(lambda: run_command(chosen))


def make_parser() -> argparse.ArgumentParser:
    """The parser of all commands; `--help` of each teaches by example."""
    parser = argparse.ArgumentParser(
        prog="distill",
        description="Distil BERT/GPT recommenders into small ONNX students that keep the long tail.",
        epilog="First steps: `distill quickstart`, then `distill run configs/quickstart.yaml data.path=my_folder`.",
    )
    parser.add_argument("--version", action="version", version=f"taildistill {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name, (_, text) in STAGES.items():
        stage = commands.add_parser(name, help=text, description=text.capitalize() + ".")
        add_config(stage)
        if name == "benchmark":
            stage.add_argument("--only", choices=list(PARTS), help="one part alone, in full: " + ", ".join(PARTS))
    text = "run all stages, skipping those that are up to date"
    add_config(commands.add_parser("run", help=text, description=text.capitalize() + "."))
    quick = commands.add_parser("quickstart", help="run everything on the bundled demo data")
    quick.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    for name, (_, text) in OTHERS.items():
        commands.add_parser(name, help=text, add_help=False)
    return parser


def add_config(parser: argparse.ArgumentParser) -> None:
    """The arguments that every stage takes."""
    parser.add_argument("config", metavar="CONFIG", help="an experiment's YAML, for instance configs/quickstart.yaml")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="KEY=VALUE",
        help="settings in place of the file's, for instance data.path=my_folder fit.epochs=3 run.name=mine; @FILE lays "
        "the sections of a YAML file over them",
    )


def run_command(chosen: argparse.Namespace) -> int:
    """Runs one stage, or all of them in order."""
    from distill.config import load as load_config
    from distill.memory import keep_freed_memory

    keep_freed_memory()
    source = chosen.config if chosen.command != "quickstart" else QUICKSTART
    if chosen.command == "quickstart" and not Path(source).is_file():
        source = str(Path(__file__).resolve().parents[1] / QUICKSTART)
    config = load_config(source, chosen.overrides)
    names = list(STAGES) if chosen.command in ("run", "quickstart") else [chosen.command]
    begin = time.perf_counter()
    only = getattr(chosen, "only", None)
    for name in names:
        folder = load((PARTS[only] if only else STAGES[name][0]) + ":main")(config)
        if config.run.tracker != "none":
            load("distill.tracking:log_stage")(config, folder)
    if len(names) > 1:
        say(f"all stages done in {time.perf_counter() - begin:.0f} s: {config.folder}")
    return 0


def stage_main(main: Callable[[Any], Any], arguments: Sequence[str] | None = None) -> int:
    """What a stage's file does when it is run as a program: `accelerate launch distill/train_teacher.py CONFIG …`."""
    from distill.config import load as load_config
    from distill.memory import keep_freed_memory

    keep_freed_memory()
    parser = argparse.ArgumentParser(description=(sys.modules[main.__module__].__doc__ or "").strip())
    add_config(parser)
    chosen = parser.parse_args(sys.argv[1:] if arguments is None else list(arguments))
    return guarded(lambda: main(load_config(chosen.config, chosen.overrides)) and 0)


def guarded(action: Callable[[], Any]) -> int:
    """Runs an action; a user's mistake is printed without a traceback (set DISTILL_TRACEBACK=1 to see it)."""
    try:
        return int(action() or 0)
    except UserError as error:
        if os.environ.get("DISTILL_TRACEBACK"):
            raise
        if is_main_process():
            console.print(f"error: {error}", style="bold red", markup=False)
        return 2
    except KeyboardInterrupt:
        say("stopped; run the same command again to go on")
        return 130


def load(place: str) -> Callable[..., Any]:
    """Imports "module:attribute"."""
    module, _, attribute = place.partition(":")
    return getattr(importlib.import_module(module), attribute)


if __name__ == "__main__":
    sys.exit(main())
