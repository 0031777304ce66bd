"""Stage `train-teacher`: fits every member and the weights that fuse them."""

if __name__ == "__main__":  # run as a file: the repository root, not distill/, must come first on the path
    import sys
    from pathlib import Path

    sys.path[0] = str(Path(__file__).resolve().parents[1])

import dataclasses
import json
import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import set_seed

from distill.ask import contexts_of, quality, sample
from distill.config import Config, Spec, to_tree
from distill.data.dataset import VALID, Dataset
from distill.data.features import item_matrix, join_vectors
from distill.engine.accelerator import make_accelerator
from distill.engine.local import Local
from distill.engine.loop import best_weights, fit
from distill.errors import UserError
from distill.plugins import nearest, resolve
from distill.progress import is_main_process, say, track
from distill.ranking.cases import Cases, cases_of
from distill.ranking.evaluator import evaluate, rank_array
from distill.ranking.segments import item_thirds
from distill.runs import WORK, digest, run_stage, write_json
from teachers.cross_fit import CrossFitted, can_cross_fit, folds_of, without
from teachers.fusion import FusedTeacher, fit_sharpness, fit_tilt, fit_weights
from teachers.fusion_groups import fit_groups
from teachers.grouped import Grouped
from teachers.protocol import Earlier, Inputs, Member

MEMBER = "member.json"
FUSION = "fusion.json"
FOLD, FOLDS = "fold-", "folds.json"  # a folder for each fold of users that the member was fitted without
FUSION_SCORES = 60_000_000  # validation scores held a member while weights are searched: 240 MB of float32


def main(config: Config) -> Path:
    """Trains the teacher of a run; see `build`. Needs the stage `data`."""
    if config.teacher.cross_fit < 0 or config.teacher.cross_fit == 1:
        raise UserError(f"'teacher.cross_fit' is {config.teacher.cross_fit}, expected 0 or at least 2 folds of users.")
    if not config.teacher.members:
        raise UserError("'teacher.members' is empty: name at least one member, for instance ease: {name: ease}.")
    folder = config.folder / "teacher"
    accelerator = make_accelerator(config.run.tracker, config.folder / "logs" / "teacher")
    return run_stage(
        folder,
        settings={"teacher": to_tree(config.teacher), "seed": config.seed},
        inputs=[config.folder / "data"],
        build=lambda path: build(config, path, accelerator),
        config_source=config.source,
        barrier=accelerator.wait_for_everyone,
        command=config.command("train-teacher"),
    )


def build(config: Config, folder: Path, accelerator: Any) -> dict[str, Any]:
    """Fits the members in order, each into a folder of its own, then the fusion weights.

    A member that is finished is not fitted again when a stopped stage is run again, nor when only the fusion or later
    members have other settings than in the teacher that is there already.
    """
    dataset = Dataset.read(config.folder / "data")
    cases = sample(cases_of(dataset, VALID), config.seed)
    members: dict[str, Member] = {}
    vectors: dict[str, torch.Tensor] = {}
    earlier: dict[str, Earlier] = {}
    curves: dict[str, Any] = {}
    identity = digest([dataset.fingerprint, config.seed, config.teacher.item_features])
    for name, spec in config.teacher.members.items():
        set_seed(config.seed)
        inputs = Inputs(dataset, dict(vectors), config.seed, accelerator.device, dict(earlier))
        identity = digest([identity, name, to_tree(spec)])
        if is_main_process():
            take_over(config.folder / "teacher" / name, folder / name, identity)
        accelerator.wait_for_everyone()
        members[name], curves[name] = fit_member(name, spec, inputs, cases, folder, accelerator, identity)
        if is_main_process() and config.teacher.cross_fit and can_cross_fit(members[name]):
            fit_folds(spec, inputs, folder / name, config.teacher.cross_fit)
        accelerator.wait_for_everyone()
        earlier[name] = Earlier(spec.name, spec.arguments, members[name])
        made = members[name].item_vectors()
        if made is not None:
            vectors[name] = with_features(made, dataset, config.teacher.item_features)
    if config.teacher.item_vectors and config.teacher.item_vectors not in vectors:
        raise UserError(
            f"'teacher.item_vectors' is '{config.teacher.item_vectors}', which is no member with item vectors"
            + nearest(config.teacher.item_vectors, vectors)
        )
    if is_main_process():
        write_json(folder / FUSION, fuse(config, members, dataset, cases))
    accelerator.wait_for_everyone()
    return {"curves": curves, "fusion": json.loads((folder / FUSION).read_text())}


def take_over(finished: Path, home: Path, identity: str) -> None:
    """Copies a member out of the finished teacher where it was made from the same data, settings and seed.

    Args:
        finished: The member's folder in the finished teacher, if there is one.
        home: Its folder in the teacher that is being made.
        identity: Digest of the data, the seed, and the settings of this member and those before it.
    """
    about = finished / MEMBER
    if (home / MEMBER).is_file() or not about.is_file() or json.loads(about.read_text()).get("identity") != identity:
        return
    say(f"teacher member '{home.name}': taken over from {finished}")
    unfinished = home.with_name(home.name + ".copy")
    shutil.rmtree(unfinished, ignore_errors=True)
    shutil.rmtree(home, ignore_errors=True)
    shutil.copytree(finished, unfinished)
    unfinished.replace(home)


def fit_member(
    name: str, spec: Spec, inputs: Inputs, cases: Cases, folder: Path, accelerator: Any, identity: str
) -> tuple[Member, list[dict[str, float]]]:
    """Fits one member, or loads it where it is finished; returns it with its training curve.

    Members that can't use several processes are fitted by the main one while the others wait.
    """
    home = folder / name
    done = home / MEMBER
    member: Member = resolve("teacher", spec.name)(**spec.arguments)
    together = getattr(member, "distributed", False)
    cases = sample(cases, inputs.seed, getattr(member, "validation_users", len(cases)))
    if not done.is_file() and (together or is_main_process()):
        say(f"teacher member '{name}' ({spec.name})")
        member.prepare(inputs)
        job = member.job()
        curve: list[dict[str, float]] = []
        if job is not None:
            runner = accelerator if together else Local(inputs.device)

            def validate(model: torch.nn.Module) -> float:
                member.refresh(model, runner)
                return quality(member.score, cases).values["ndcg@10"]

            curve = fit(job, runner, folder / WORK / name, validate, name)
            member.finish(best_weights(folder / WORK / name))
            if hasattr(member, "settle"):
                member.settle(lambda: quality(member.score, cases).values["ndcg@10"])
        if is_main_process():
            home.mkdir(parents=True, exist_ok=True)
            member.save(home)
            value = quality(member.score, cases).values["ndcg@10"]
            about = {"name": spec.name, "arguments": to_tree(spec.arguments), "identity": identity}
            write_json(done, {**about, "ndcg@10": value, "curve": curve, "figures": getattr(member, "figures", {})})
            say(f"  validation ndcg@10 {value:.4f}")
    accelerator.wait_for_everyone()
    about = json.loads(done.read_text())
    return resolve("teacher", spec.name)(**spec.arguments).load(home), about["curve"]


def fit_folds(spec: Spec, inputs: Inputs, home: Path, folds: int) -> None:
    """Fits a member once without each fold of users, into folders inside its own; those that are there are kept."""
    fold = folds_of(inputs.dataset.n_users, folds, inputs.seed)
    done = home / FOLDS
    if done.is_file() and json.loads(done.read_text()) == folds:
        return
    for number in track(range(folds), f"folds of '{home.name}'", unit="folds"):
        member: Member = resolve("teacher", spec.name)(**spec.arguments)
        member.prepare(dataclasses.replace(inputs, dataset=without(inputs.dataset, fold == number)))
        (home / f"{FOLD}{number}").mkdir(exist_ok=True)
        member.save(home / f"{FOLD}{number}")
    write_json(done, folds)


def fuse(config: Config, members: dict[str, Member], dataset: Dataset, cases: Cases) -> dict[str, Any]:
    """Finds the members' weights and the sharpness on validation.

    Returns:
        What fusion.json holds: weights, sharpness, and the validation figures of each member and of the fusion.
    """
    cases = sample(cases, config.seed, max(100, FUSION_SCORES // dataset.n_items))
    cases = sample(cases, config.seed, min(getattr(m, "validation_users", len(cases)) for m in members.values()))
    contexts = contexts_of(cases)
    batch = contexts.batch(np.arange(len(cases)), 1_000_000)
    with torch.no_grad():
        scores = {name: member.score(batch).float().cpu() for name, member in members.items()}
    metrics = ["ndcg@10", "tail_ndcg@10"]
    tail_weight = config.teacher.fusion.tail_weight

    def figures(fused: torch.Tensor) -> dict[str, float]:
        return evaluate(rank_array(fused.numpy(), cases, 10), cases, metrics).values

    def values(fused: torch.Tensor, rows: np.ndarray) -> np.ndarray:
        """What `worth` is the mean of: a value a user."""
        found = evaluate(rank_array(fused.numpy(), cases.take(rows), 10), cases.take(rows), metrics).per_user
        return found["ndcg@10"] + tail_weight * tail_share * np.nan_to_num(found["tail_ndcg@10"])

    def worth(fused: torch.Tensor) -> float:
        found = figures(fused)
        tail = found["tail_ndcg@10"]
        return found["ndcg@10"] + (tail_weight * tail if np.isfinite(tail) else 0.0)

    settings = config.teacher.fusion
    weights, _ = fit_weights(scores, worth, settings.rounds)
    fused = torch.stack([scores[name] * weight for name, weight in weights.items()]).sum(0)
    with_tail = np.isfinite(evaluate(rank_array(fused.numpy(), cases, 10), cases, metrics).per_user["tail_ndcg@10"])
    tail_share = len(cases) / max(1, int(with_tail.sum()))
    strata, lengths = strata_of(dataset), torch.from_numpy(cases.seen.lengths)
    groups, tried = fit_groups(settings.by, scores, weights, strata, lengths, values, settings.rounds, config.seed)
    fused = groups.fuse(scores, strata, lengths) if groups else fused
    prior = torch.log1p(torch.from_numpy(dataset.popularity).float())
    cost = settings.tilt
    tilt = fit_tilt(fused, prior, worth, lambda scores: figures(scores)["ndcg@10"], cost) if cost else 0.0
    fused = fused - tilt * prior
    labels = torch.from_numpy(cases.truth.items[cases.truth.indptr[:-1]].astype(np.int64))
    sharpness = fit_sharpness(fused, torch.from_numpy(batch.seen), labels)
    result: dict[str, Any] = {
        "weights": weights,
        "sharpness": sharpness,
        "tilt": tilt,
        "groups": asdict(groups) if groups else None,
        "tried": tried,
        "validation": {"teacher": figures(fused), **{name: figures(s) for name, s in scores.items()}},
    }
    say(f"fusion: {', '.join(f'{n} {w:.3g}' for n, w in weights.items())}; tilt {tilt:.3g}; sharpness {sharpness:.3g}")
    for kind, found in tried.items():
        word = "kept" if groups and groups.by == kind else "not kept"
        say(f"  weights by {kind}: {found['gain']:+.4f} ± {found['standard_error']:.4f} on held-out users, {word}")
    say(f"  validation ndcg@10 {result['validation']['teacher']['ndcg@10']:.4f}")
    return result


def strata_of(dataset: Dataset) -> torch.Tensor:
    """Head (0), mid (1) or tail (2) of every item, int64 (N,)."""
    return torch.from_numpy(item_thirds(dataset.popularity).astype(np.int64))


def load_teacher(config: Config, labels: bool = False) -> FusedTeacher:
    """The teacher of a finished stage, ready to be asked.

    Args:
        config: Of the run.
        labels: Answers are to be labels of the transfer set: with `teacher.cross_fit`, of members that were fitted
            without the context's user.
    """
    folder = config.folder / "teacher"
    fusion = json.loads((folder / FUSION).read_text())
    groups = Grouped(**fusion["groups"]) if fusion.get("groups") else None
    used = {name for name, weight in fusion["weights"].items() if weight or (groups and any(groups.weights[name]))}
    dataset = Dataset.read(config.folder / "data")
    members: dict[str, Any] = {
        name: resolve("teacher", spec.name)(**spec.arguments).load(folder / name)
        for name, spec in config.teacher.members.items()
        if name in used
    }
    if labels and config.teacher.cross_fit:
        fold = folds_of(dataset.n_users, config.teacher.cross_fit, config.seed)
        for name in [name for name, member in members.items() if can_cross_fit(member)]:
            spec = config.teacher.members[name]
            homes = [folder / name / f"{FOLD}{number}" for number in range(config.teacher.cross_fit)]
            parts = [resolve("teacher", spec.name)(**spec.arguments).load(home) for home in homes]
            members[name] = CrossFitted(members[name], parts, fold)
    prior = torch.log1p(torch.from_numpy(dataset.popularity).float())
    weights = fusion["weights"]
    return FusedTeacher(members, weights, fusion["sharpness"], fusion["tilt"], prior, groups, strata_of(dataset))


def student_vectors(config: Config) -> torch.Tensor | None:
    """Item vectors for students: of the member named by `teacher.item_vectors`, or the first that has any."""
    for name, spec in config.teacher.members.items():
        if config.teacher.item_vectors not in ("", name):
            continue
        vectors = resolve("teacher", spec.name)(**spec.arguments).load(config.folder / "teacher" / name).item_vectors()
        if vectors is not None:
            return with_features(vectors, Dataset.read(config.folder / "data"), config.teacher.item_features)
    return None


def with_features(vectors: torch.Tensor, dataset: Dataset, groups: list[str]) -> torch.Tensor:
    """Item vectors (N, d) joined with groups of item features, such as images; unchanged without groups."""
    if not groups:
        return vectors
    return torch.from_numpy(join_vectors(vectors.cpu().numpy(), item_matrix(dataset.features, groups)))


if __name__ == "__main__":
    from distill.cli import stage_main

    sys.exit(stage_main(main))
