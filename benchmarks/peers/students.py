"""Accuracy of our students, undistilled and from ids alone, beside implicit, cornac and RecBole, tuned alike.

    python -m benchmarks.peers.students ml-100k=runs/ml100k_minilm/data --environments ~/.cache/taildistill-peers

Each data set is a prepared folder (`distill prepare`). Every model, ours and theirs, is trained with the same number of
settings, one seed, and no longer than `--seconds` of processor time each; validation ndcg@10 chooses. Each is then
fitted again on train and validation events with that setting, for as many epochs as were best: most peers have tables
of users and can't read a longer history otherwise. All lists go through the reader and the evaluator of `distill
evaluate`. Trials are kept in `--cache`: what is there isn't run again.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from benchmarks.peers.own_lists import refit, train, usual
from benchmarks.peers.student_settings import EVERY, OURS, PEERS, SOLVED, Settings
from benchmarks.peers.student_table import FIGURES, write
from distill.config import Fit
from distill.data.dataset import TEST, VALID, Dataset
from distill.evaluate import read_data
from distill.ranking.cases import Cases, cases_of
from distill.ranking.evaluator import evaluate
from distill.ranking.recommendations import read_recommendations

SCRIPT = Path(__file__).with_name("peer_lists.py")


@dataclasses.dataclass(frozen=True)
class Bench:
    """One data set and where its trials are kept.

    Attributes:
        name: Of the data set.
        dataset: Prepared.
        folder: Trials of this data set.
        chosen: The program's options.
    """

    name: str
    dataset: Dataset
    folder: Path
    chosen: argparse.Namespace

    def place(self, about: Mapping[str, Any]) -> Path:
        """File of a trial, without an ending, by everything that decides it."""
        known = {**about, "data": self.dataset.fingerprint, "seed": self.chosen.seed, "seconds": self.chosen.seconds}
        return self.folder / hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:20]


def main() -> None:
    """Runs what isn't in the cache and writes the tables."""
    chosen = make_parser().parse_args()
    torch.set_num_threads(1)
    found: list[dict[str, Any]] = []
    for text in chosen.data:
        name, _, path = text.partition("=")
        bench = Bench(name, read_data(Path(path)), chosen.cache / name, chosen)
        bench.folder.mkdir(parents=True, exist_ok=True)
        for model in [x for x in models() if not chosen.only or x in chosen.only]:
            row = measured(bench, model)
            if row:
                found.append(row)
                print(json.dumps(row), flush=True)
    budget = {"trials": chosen.trials, "seconds": chosen.seconds, "seed": chosen.seed}
    write(found, budget, chosen.output)


def make_parser() -> argparse.ArgumentParser:
    """The program's options."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+", metavar="NAME=FOLDER", help="prepared data sets")
    parser.add_argument("--environments", type=Path, default=Path("~/.cache/taildistill-peers").expanduser())
    parser.add_argument("--cache", type=Path, default=Path("~/.cache/taildistill-peer-students").expanduser())
    parser.add_argument("--only", nargs="*", default=[], help="models such as mf or recbole:BPR; all by default")
    parser.add_argument("--trials", type=int, default=4, help="settings tried of each model, the first of its list")
    parser.add_argument("--seconds", type=float, default=60.0, help="of processor time, after which a training ends")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cached", action="store_true", help="run nothing: tables of what the cache holds")
    parser.add_argument("--output", type=Path, help="write PATH.json, PATH.csv and PATH.md")
    return parser


def models() -> list[str]:
    """All names: ours as they are, theirs as library:model; quick ones first."""
    theirs = [f"{library}:{model}" for library, model in PEERS]
    return sorted([*OURS, *theirs], key=lambda name: name.startswith("recbole") and not name.endswith("EASE"))


def measured(bench: Bench, name: str) -> dict[str, Any] | None:
    """The model's best setting on validation and its figures on test; None where a trial or a library is missing."""
    valid, test = cases_of(bench.dataset, VALID), cases_of(bench.dataset, TEST)
    library, _, model = name.rpartition(":")
    tried = []
    for settings in (PEERS[library, model] if library else OURS[name])[: bench.chosen.trials]:
        done = peer_trial(bench, library, model, settings) if library else own_trial(bench, name, settings)
        if done is None:
            continue
        value = evaluate(done["valid"], valid, ["ndcg@10"]).values["ndcg@10"] if library else float(done["validation"])
        tried.append((value, settings, done))
    if not tried:
        return None
    value, settings, done = max(tried, key=lambda trial: trial[0])
    epochs = int(done["epoch"])
    lists = refitted(bench, library, model, settings, epochs) if library else own_lists(bench, name, settings, epochs)
    if lists is None:
        return None
    result = evaluate(through_file(lists, bench.dataset, test), test, FIGURES)
    low, high = result.intervals(300, bench.chosen.seed)["ndcg@10"]
    return {
        "data": bench.name,
        "library": library or "taildistill",
        "model": model,
        "trials": len(tried),
        "limit": bench.chosen.seconds,
        "validation": round(value, 5),
        **{figure: round(result.values[figure], 5) for figure in FIGURES},
        "low": round(low, 5),
        "high": round(high, 5),
        "settings": settings,
        "epoch": int(done["epoch"]),
        "seconds": round(sum(float(trial[2]["seconds"]) for trial in tried), 1),
    }


def through_file(lists: np.ndarray, dataset: Dataset, cases: Cases) -> np.ndarray:
    """Lists of all cases as a file of recommendations, read back as `distill evaluate` reads it."""
    users, places = np.nonzero(lists >= 0)
    frame = {
        "user_id": dataset.user_ids[cases.users[users]].astype(str),
        "item_id": dataset.item_ids[lists[users, places]].astype(str),
        "rank": places + 1,
    }
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "lists.parquet"
        pl.DataFrame(frame).write_parquet(file)
        return read_recommendations(file, dataset, cases, lists.shape[1])


def peer_trial(bench: Bench, library: str, model: str, settings: Settings) -> dict[str, Any] | None:
    """Lists for validation of a model fitted on train events."""
    done = peer_lists(bench, library, model, settings, 0, 0)
    if done is None:
        return None
    return {**done, "valid": done["ranked"][cases_of(bench.dataset, VALID).users]}


def refitted(bench: Bench, library: str, model: str, settings: Settings, epochs: int) -> np.ndarray | None:
    """Lists for test of a model fitted on train and validation events, for as many epochs as were best."""
    done = peer_lists(bench, library, model, settings, 1, epochs)
    return None if done is None else done["ranked"][cases_of(bench.dataset, TEST).users]


def peer_lists(
    bench: Bench, library: str, model: str, settings: Settings, upto: int, epochs: int
) -> dict[str, Any] | None:
    """Runs a job of `peer_lists.py` in the library's environment, unless its result is there."""
    about = {"library": library, "model": model, "settings": settings, "upto": upto, "epochs": epochs}
    place = bench.place(about)
    output, events = place.with_suffix(".npz"), bench.folder / f"events-{bench.dataset.fingerprint[:12]}.npz"
    if not output.is_file() and not bench.chosen.cached:
        if not events.is_file():
            data = bench.dataset
            arrays = {"users": data.event_users(), "items": data.items, "parts": data.parts}
            sizes = {"n_users": np.array(data.n_users), "n_items": np.array(data.n_items)}
            np.savez(events, allow_pickle=False, **arrays, **sizes)
        watch = {"seconds": bench.chosen.seconds, "every": EVERY.get(model, 1), "patience": 3, "most_epochs": 500}
        job = {**about, **watch, "seed": bench.chosen.seed, "events": str(events), "output": str(output)}
        place.with_suffix(".json").write_text(json.dumps(job))
        folder = "recbole" if library == "recbole" else "libraries"
        command = [bench.chosen.environments / folder / "bin" / "python", SCRIPT, place.with_suffix(".json")]
        threads = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
        ran = subprocess.run(command, env={**os.environ, **threads}, capture_output=True, text=True, check=False)
        if ran.returncode:
            last = (ran.stderr.strip().splitlines() or ["no message"])[-1]
            print(f"{bench.name} {library}:{model} failed: {last}", file=sys.stderr, flush=True)
    if not output.is_file():
        return None
    with np.load(output) as file:
        return dict(file)


def own_trial(bench: Bench, name: str, settings: Settings) -> dict[str, Any] | None:
    """Trains or solves a student from ids alone on train events: its validation figure and best epoch."""
    about, arguments, training = own_job(bench, name, settings)
    chosen = bench.chosen
    return kept(bench, about, lambda: train(bench.dataset, name, arguments, training, chosen.seed, chosen.seconds))


def own_lists(bench: Bench, name: str, settings: Settings, epochs: int) -> np.ndarray | None:
    """Lists for test of a student that is trained or solved on train and validation events."""
    about, arguments, training = own_job(bench, name, settings)
    about |= {"refit": epochs}
    done = kept(bench, about, lambda: refit(bench.dataset, name, arguments, training, bench.chosen.seed, epochs))
    return None if done is None else done["test"]


def own_job(bench: Bench, name: str, settings: Settings) -> tuple[dict[str, Any], Settings, Fit]:
    """What names a trial of a student, the student's settings, and its training's."""
    changed = {key.removeprefix("fit."): value for key, value in settings.items() if key.startswith("fit.")}
    training, asked = usual(bench.dataset, name)
    training = dataclasses.replace(training, **changed)
    fit = {"max_length": training.max_length} if name in SOLVED else dataclasses.asdict(training)
    arguments = {key: value for key, value in settings.items() if not key.startswith("fit.")} | asked
    return {"student": name, "settings": arguments | changed, "fit": fit}, arguments, training


def kept(bench: Bench, about: Mapping[str, Any], make: Callable[[], dict[str, Any]]) -> dict[str, Any] | None:
    """What the cache holds of a job, or what `make` gives; None where nothing is to be run."""
    place = bench.place(about).with_suffix(".npz")
    if not place.is_file():
        if bench.chosen.cached:
            return None
        begin = time.process_time()
        done = make()
        with place.with_suffix(".partial").open("wb") as file:
            np.savez(file, seconds=time.process_time() - begin, **done)
        place.with_suffix(".partial").rename(place)
    with np.load(place) as file:
        return dict(file)


if __name__ == "__main__":
    main()
