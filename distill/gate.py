"""Command `gate`: is this teacher worth distilling? Against every baseline, each tuned on validation under a budget."""

from __future__ import annotations

if __name__ == "__main__":  # run as a file: the repository root, not distill/, must come first on the path
    import sys
    from pathlib import Path

    sys.path[0] = str(Path(__file__).resolve().parents[1])

import argparse
import inspect
import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.baselines import shared_fits
from benchmarks.quality import METRICS, K
from benchmarks.report import write_report
from benchmarks.report.gate_page import gate_csv, gate_markdown, gate_picture, gate_table
from benchmarks.report.verdict import gate_sentence
from benchmarks.tuning import RANGES, WALKS, Settings, Trial, best_of, budget_of, search
from distill.ask import ContextScorer, quality, row_scorer, sample
from distill.config import Config, Spec, load
from distill.data.dataset import TEST, VALID, Dataset
from distill.engine.accelerator import make_accelerator
from distill.errors import UserError
from distill.evaluate import plain
from distill.gate_runs import config_of_run, control_recipe, keep_finished_trials, tuned_student
from distill.plugins import nearest, resolve
from distill.progress import console, is_main_process, say
from distill.ranking.cases import Cases, cases_of
from distill.ranking.evaluator import Evaluation, evaluate, rank
from distill.ranking.gate import GATE, GATE_FILE, against_strata, teacher_gate
from distill.recipes import CONTROL
from distill.runs import PARTIAL, WORK, digest, open_stage, read_manifest, run_stage, seal, write_json
from distill.train_teacher import fit_member, load_teacher
from teachers.protocol import Inputs

MODELS = ("popularity", "itemknn", "ease", "ials", "sasrec", CONTROL)
TABLES = ("popularity", "itemknn", "ease", "ials")  # fitted in closed form, so kept in memory, not as files
TRIALS = "trials.json"
TAIL = "tail_ndcg@10"
DESCRIPTION = """Compares a run's teacher with popularity, ItemKNN, EASE, iALS, SASRec and the undistilled student on
the test part. Each of them is tuned on validation first, under the same stated budget, because an untuned baseline is
a straw man. The teacher passes where the 95 % interval of its lead in ndcg@10 lies above 0 against every one of them;
the tail, head, mid and groups of users are reported beside it. The result lies in RUN/gate and goes into the run's
report. A stopped search goes on where it was, and a larger budget goes on from a smaller one."""
EXAMPLES = """examples:
  distill gate runs/quickstart
  distill gate configs/quickstart.yaml run.name=mine
  distill gate runs/quickstart --trials 30 --seconds 600
  distill gate runs/quickstart --models popularity,itemknn,ease --trials 9"""


def gate_command(arguments: Sequence[str]) -> int:
    """`distill gate`: returns 0 where the teacher passes, 1 where it doesn't.

    Raises:
        UserError: The run's stages `data` and `teacher` are missing, or a word is unknown.
    """
    chosen = make_parser().parse_args(arguments)
    models = list(dict.fromkeys(word.strip() for word in chosen.models.split(",") if word.strip()))
    for name in models:
        if name not in (*RANGES, CONTROL):
            raise UserError(f"--models: unknown baseline '{name}'{nearest(name, (*RANGES, CONTROL))}.")
    if not models or chosen.trials < 1 or chosen.seconds < 0:
        raise UserError("Expected at least one model and one trial (--models, --trials), and --seconds of 0 or more.")
    if Path(chosen.target).is_dir():
        if chosen.overrides:
            raise UserError(
                f"{chosen.target} is a finished run; overrides such as {chosen.overrides[0]} need a CONFIG."
            )
        config = config_of_run(Path(chosen.target), CONTROL in models)
    else:
        config = load(chosen.target, chosen.overrides)
    gate = run_gate(config, models, chosen.trials, chosen.seconds)
    console.print(gate_table(gate))
    console.print(gate_sentence({"models": [], "teacher_gate": gate}), markup=False, style="bold")
    refresh_report(config.folder, gate)
    say(f"gate: {config.folder / GATE / 'gate.md'}")
    return 0 if gate["passed"] else 1


def make_parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = argparse.ArgumentParser(
        prog="distill gate",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("target", metavar="RUN", help="a run's folder, or an experiment's YAML")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings in place of the YAML's")
    words = "settings tried for each baseline; models that are trained get a third of it (default: 12)"
    parser.add_argument("--trials", type=int, default=12, metavar="N", help=words)
    words = "start no further trial of a baseline after so much time (default: 0, no limit)"
    parser.add_argument("--seconds", type=float, default=0.0, metavar="S", help=words)
    parser.add_argument("--models", default=",".join(MODELS), help="baselines (default: all; lightgcn is there too)")
    return parser


def run_gate(config: Config, models: Sequence[str], trials: int, seconds: float) -> dict[str, Any]:
    """Tunes the baselines, compares them on the test part, and returns what gate.json holds."""
    recipe = control_recipe(config) if CONTROL in models else []
    settings = {"models": list(models), "trials": trials, "seconds": seconds, "seed": config.seed, "control": recipe}
    if is_main_process():
        keep_finished_trials(config.folder / GATE, settings)
    folder = run_stage(
        config.folder / GATE,
        settings=settings,
        inputs=[config.folder / "data", config.folder / "teacher"],
        build=lambda path: build(config, path, models, trials, seconds),
        config_source=config.source or "CONFIG",
        command=f"distill gate {config.folder} --trials {trials} --seconds {seconds:g} --models {','.join(models)}",
    )
    gate: dict[str, Any] = json.loads((folder / GATE_FILE).read_text(encoding="utf-8"))
    return gate


def build(config: Config, folder: Path, models: Sequence[str], trials: int, seconds: float) -> dict[str, Any]:
    """Tunes, ranks and compares; writes gate.json, .md, .csv and .svg, the trials, and the ranked lists."""
    dataset = Dataset.read(config.folder / "data")
    cases, valid = cases_of(dataset, TEST), sample(cases_of(dataset, VALID), config.seed)
    lists = {"teacher": ranked(load_teacher(config).score, cases, "teacher")}
    tuned: dict[str, Any] = {}
    for name in models:
        budget = budget_of(name, trials)
        tuner = Tuner(config, name, folder / name, dataset, valid)
        found = tuner.search(budget, seconds)
        best = best_of(found)
        lists[name] = ranked(tuner.scorer(found.index(best), best.settings), cases, name)
        tuner.keep_only(found.index(best))
        spent = round(sum(trial.seconds for trial in found), 1)
        ranges = {key: spread.words() for key, spread in tuner.ranges.items()}
        tuned[name] = {
            "settings": best.settings,
            "validation": best.quality,
            "trials": len(found),
            "seconds": spent,
            "ranges": ranges,
        }
    evaluations = {name: evaluate(ranking, cases, METRICS) for name, ranking in lists.items()}
    gate = {
        **compare(evaluations, config.seed),
        "tuned": tuned,
        "budget": {"trials": trials, "seconds": seconds},
        "title": f"{config.run.name}: {dataset.n_users:,} users, {dataset.n_items:,} items",
    }
    write_json(folder / GATE_FILE, plain(gate))
    for ending, text in (("md", gate_markdown(gate)), ("csv", gate_csv(gate)), ("svg", gate_picture(gate))):
        (folder / f"gate.{ending}").write_text(text, encoding="utf-8")
    arrays: dict[str, Any] = dict(lists)
    np.savez_compressed(folder / "lists.npz", **arrays)
    return {"verdict": gate_sentence({"models": [], "teacher_gate": gate}), "passed": gate["passed"], "tuned": tuned}


def compare(evaluations: dict[str, Evaluation], seed: int) -> dict[str, Any]:
    """The gate overall, on the tail, and by stratum against each baseline."""
    teacher = evaluations["teacher"]
    others = {name: found for name, found in evaluations.items() if name != "teacher"}
    tail: dict[str, Any] | None = None
    if np.isfinite(teacher.values[TAIL]):
        tail = teacher_gate(teacher, others, TAIL, seed=seed, strict=True)
        tail.pop("strata")
    return {
        **teacher_gate(teacher, others, seed=seed, strict=True),
        "rule": "the 95 % interval of the lead lies above 0 against every baseline",
        "tail": tail,
        "by_stratum": {name: against_strata(teacher, other, seed=seed) for name, other in others.items()},
        "metrics": {name: found.values for name, found in evaluations.items()},
    }


class Tuner:
    """One baseline: its ranges, its trials kept on disk, and its scorer at any settings."""

    def __init__(self, config: Config, name: str, home: Path, dataset: Dataset, valid: Cases) -> None:
        self.config, self.name, self.home, self.dataset, self.valid = config, name, home, dataset, valid
        self.inputs = Inputs(dataset, {}, config.seed, torch.device("cpu"))
        parts: list[Any] = [dataset.fingerprint, config.seed, name]
        if name == CONTROL:
            self.start, self.ranges, self.train = tuned_student(config)
            teacher = (read_manifest(config.folder / "teacher") or {})["fingerprint"]
            parts += [teacher, self.start, control_recipe(config)]
        else:
            self.ranges = RANGES[name]
            self.start = started(name)
        self.identity = digest(parts)
        if name in TABLES:
            self.fit = shared_fits(resolve("teacher", name), lambda m: m.prepare(self.inputs), ("decay", "floor"))

    def search(self, budget: int, seconds: float) -> list[Trial]:
        """Tries settings; what an earlier gate of the same run has tried already is taken over."""
        finished = self.config.folder / GATE / self.name
        if not (self.home / TRIALS).is_file() and self._read(finished):
            shutil.copytree(finished, self.home, dirs_exist_ok=True)
        self.home.mkdir(parents=True, exist_ok=True)
        done = self._read(self.home)[: budget if self.ranges else 1]
        walk = WALKS.get(self.name, {})

        def worth(number: int, settings: Settings) -> float:
            found = quality(self.scorer(number, settings), self.valid).values["ndcg@10"]
            told = ", ".join(f"{key.removeprefix('fit.')} {value:g}" for key, value in settings.items())
            say(f"{self.name} {number + 1}/{budget if self.ranges else 1}: validation ndcg@10 {found:.4f}  {told}")
            return found

        return search(self.start, self.ranges, walk, budget, worth, self.config.seed, seconds, done, self._keep)

    def scorer(self, number: int, settings: Settings) -> ContextScorer:
        """The model at these settings; one that has to be trained lies in the folder of its trial."""
        if self.name in TABLES:
            score: ContextScorer = self.fit(settings).score
            return score
        trial = f"trial-{number}"
        if self.name == CONTROL:
            return self.train(settings, self.home / trial, number)
        spec = Spec(self.name, dict(settings))
        accelerator = make_accelerator("none", None)
        identity = digest([self.identity, settings])
        return fit_member(trial, spec, self.inputs, self.valid, self.home, accelerator, identity)[0].score

    def keep_only(self, number: int) -> None:
        """Removes the weights of all trials but one."""
        shutil.rmtree(self.home / WORK, ignore_errors=True)
        for path in self.home.glob("trial-*"):
            if path.name.removesuffix(PARTIAL) != f"trial-{number}":
                shutil.rmtree(path)

    def _read(self, home: Path) -> list[Trial]:
        path = home / TRIALS
        kept = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        return [Trial(**trial) for trial in kept["trials"]] if kept.get("identity") == self.identity else []

    def _keep(self, trials: list[Trial]) -> None:
        write_json(self.home / TRIALS, {"identity": self.identity, "trials": [asdict(trial) for trial in trials]})


def started(name: str) -> Settings:
    """Where the search of a baseline starts: the first value of its walk, else its own default."""
    usual = {key: p.default for key, p in inspect.signature(resolve("teacher", name)).parameters.items()}
    return {key: WALKS.get(name, {}).get(key, [usual[key]])[0] for key in RANGES[name]}


def ranked(score: ContextScorer, cases: Cases, label: str) -> np.ndarray:
    """Top lists on the test part, int32 (U, 10)."""
    return rank(row_scorer(score, cases), cases, K, batch_size=512, label=f"ranking with {label}")


def refresh_report(run: Path, gate: dict[str, Any]) -> None:
    """Puts the result into a finished report of the same teacher: verdict, gate and all formats."""
    folder = run / "report"
    manifest, teacher = read_manifest(folder), open_stage(run / "teacher")
    if manifest is None:
        return
    if manifest["inputs"].get("teacher") != teacher["fingerprint"]:
        say(f"{folder} is of another teacher, so it keeps its own gate; distill benchmark makes it anew")
        return
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    missing = set((report.get("teacher_gate") or {}).get("baselines", {})) - set(gate["baselines"])
    if missing:
        say(f"{folder} keeps its own gate, which has more baselines: {', '.join(sorted(missing))}")
        return
    fresh = folder.with_name(folder.name + PARTIAL)
    shutil.rmtree(fresh, ignore_errors=True)
    shutil.copytree(folder, fresh)
    report.pop("verdict", None)
    write_report({**report, "teacher_gate": gate}, fresh)
    verdict = json.loads((fresh / "report.json").read_text(encoding="utf-8"))["verdict"]
    inputs = {**manifest["inputs"], GATE: open_stage(run / GATE)["fingerprint"]}
    wanted = {"settings": manifest["settings"], "inputs": inputs}
    seal(
        fresh, folder.name, wanted, {**manifest["result"], "verdict": verdict}, manifest["seconds"], manifest["command"]
    )
    shutil.rmtree(folder)
    fresh.replace(folder)
    say(f"{folder}: the gate's result is in it")


if __name__ == "__main__":
    from distill.cli import guarded

    sys.exit(guarded(lambda: gate_command(sys.argv[1:])))
