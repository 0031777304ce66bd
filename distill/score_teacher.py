"""Stage `score-teacher`: asks the teacher about every context and writes the soft-score store."""

if __name__ == "__main__":  # run as a file: the repository root, not distill/, must come first on the path
    import sys
    from pathlib import Path

    sys.path[0] = str(Path(__file__).resolve().parents[1])

import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distill.config import Config, Scores, to_tree
from distill.data.augment import appends, last_real_rows, rollouts
from distill.data.contexts import Contexts, concatenate
from distill.data.dataset import Dataset
from distill.data.select import select
from distill.data.transfer_set import count_kinds, first_pass, second_pass_size
from distill.engine.accelerator import make_accelerator
from distill.errors import UserError
from distill.plugins import nearest, resolve
from distill.progress import is_main_process, say, track
from distill.runs import read_manifest, run_stage
from distill.soft.cost import WORTH_ESTIMATING, bill, estimated_seconds, in_words
from distill.soft.store import ABSENT, CONTEXTS, Store, StoreHeader, StoreWriter, unanswered
from distill.soft.targets import WHOLE, Ask, check_k, top_answers
from distill.tensors import mask_seen
from distill.train_teacher import load_teacher
from teachers.fusion import FusedTeacher

BLOCK_SCORES = 16_000_000  # scores computed at once: 64 MB of float32
TOGETHER = 4096  # contexts that a member may answer together, where a block of whole rows of scores is smaller
NOT_IN_A_STORE = ("price_per_hour",)  # settings that change no answer


def main(config: Config) -> Path:
    """Scores the transfer set of a run. Needs the stages `data` and `teacher`.

    Where shards of a finished store are missing or damaged, only those are scored again.
    """
    folder = config.folder / "scores"
    source = ((read_manifest(folder) or {}).get("settings") or {}).get("made_by")
    if source:
        say(f"{folder}: made by '{source}', kept; remove the folder to have the run's own teacher asked")
        return folder
    accelerator = make_accelerator("none", None)
    return run_stage(
        folder,
        settings={"scores": what_counts(config.scores), "seed": config.seed},
        inputs=[config.folder / "data", config.folder / "teacher"],
        build=lambda path: build(config, path, accelerator),
        config_source=config.source,
        barrier=accelerator.wait_for_everyone,
        command=config.command("score-teacher"),
        mend=True,
    )


def what_counts(settings: Scores) -> dict[str, Any]:
    """The settings that decide a store; kinds of contexts that are off don't count, so older stores stay valid."""
    tree = to_tree(settings)
    off = [*NOT_IN_A_STORE, *(name for name in ("masks", "reorders", "substitutes") if not tree[name])]
    off += ["similar"] if "substitutes" in off else []
    return {name: value for name, value in tree.items() if name not in off}


def build(config: Config, folder: Path, accelerator: Any) -> dict[str, Any]:
    """Writes the store in two passes: contexts that need no teacher, then roll-outs drawn from its answers to those.

    Returns:
        Rows, how many of each kind, and what the teacher cost: contexts it was asked about, in all and in this run,
        with seconds and contexts a second of this run.
    """
    dataset = Dataset.read(config.folder / "data")
    teacher, settings = load_teacher(config, labels=True), config.scores
    check_k(settings.k, dataset.n_items)
    if settings.budget < 0:
        raise UserError(
            f"'scores.budget' is {settings.budget:g}, expected a share, a number of contexts, or 0 for all."
        )
    vectors = context_vectors(config, teacher)
    first, asked, left = first_pass(dataset, settings, config.seed)
    width = vectors(first.batch(np.zeros(1, np.int64), WHOLE)).shape[1] if vectors and len(first) else 0
    manifest = read_manifest(config.folder / "teacher") or {}
    header = StoreHeader(
        k=settings.k,
        temperatures=list(settings.temperatures),
        tail=settings.tail_samples,
        n_items=dataset.n_items,
        item_vocabulary=dataset.item_vocabulary,
        data=dataset.fingerprint,
        teacher=manifest["fingerprint"],
        hidden=width,
    )
    writer = StoreWriter(folder, header)
    pending = count_pending(writer, asked, 0, settings.shard_rows)
    later = second_pass_size(first, settings, left)
    estimate(teacher, first, asked, pending + later, settings, accelerator)
    begin = time.perf_counter()
    rest = (settings.shard_rows, accelerator, config.seed)
    starts = score_contexts(teacher, first, writer, 0, 0, *rest, asked=asked, vectors=vectors)
    contexts = first
    if settings.rollouts or settings.appends:
        if is_main_process():
            writer.close(starts, len(first))
        accelerator.wait_for_everyone()
        answers = Store.open(folder, dataset.item_vocabulary, dataset.fingerprint)
        second = second_pass(dataset, first, answers, settings, config.seed, left)
        accelerator.wait_for_everyone()
        everyone = np.ones(len(second), bool)
        pending += count_pending(writer, everyone, len(starts), settings.shard_rows)
        starts += score_contexts(teacher, second, writer, len(first), len(starts), *rest, vectors=vectors)
        contexts, asked = concatenate([first, second]), np.concatenate([asked, everyone])
    seconds = time.perf_counter() - begin
    if is_main_process():
        contexts.write(folder / CONTEXTS)
        writer.close(starts, len(contexts))
    kinds = count_kinds(contexts)
    total = int(asked.sum())
    say(f"scored {total:,} of {len(contexts):,} contexts ({', '.join(f'{n:,} {kind}' for kind, n in kinds.items())})")
    speed = round(pending / max(seconds, 1e-9), 1)
    cost = bill(total, pending, seconds, settings.select, settings.price_per_hour)
    return {"rows": len(contexts), "kinds": kinds, "cost": cost, "contexts_per_second": speed}


def second_pass(
    dataset: Dataset, first: Contexts, answers: Store, settings: Scores, seed: int, left: int | None
) -> Contexts:
    """Roll-outs and appends of whole train sequences; with a budget at most `left`, and roll-outs only from answers."""
    rows = last_real_rows(first)
    found = answers.lookup(rows, ("items", "scores"))
    drawn = rollouts(first, rows, found["items"], found["scores"], settings.rollouts, settings.rollout_power, seed)
    contexts = concatenate([drawn, appends(first, rows, settings.appends, seed)])
    return contexts if left is None else contexts.take(select(dataset, contexts, left, settings.select, seed))


def context_vectors(config: Config, teacher: FusedTeacher) -> Ask | None:
    """The method of the member `scores.hidden` that gives its vectors (B, H) of contexts; None where none is named.

    Raises:
        UserError: There is no such member, or it has no vectors of contexts.
    """
    name = config.scores.hidden
    if not name:
        return None
    if name not in config.teacher.members:
        raise UserError(f"'scores.hidden' is '{name}', which is no member{nearest(name, config.teacher.members)}.")
    member: Any = teacher.members.get(name)
    if member is None:  # fusion gave it no weight, so the teacher does without it
        spec = config.teacher.members[name]
        member = resolve("teacher", spec.name)(**spec.arguments).load(config.folder / "teacher" / name)
    if not hasattr(member, "context_vectors"):
        raise UserError(
            f"'scores.hidden' is '{name}', a member ({config.teacher.members[name].name}) without vectors of contexts. "
            "text_space and text_tower have them, and so has any member with a method context_vectors(batch)."
        )
    return member.context_vectors


def count_pending(writer: StoreWriter, asked: np.ndarray, first_shard: int, shard_rows: int) -> int:
    """Contexts about which the teacher is still to be asked, over all processes."""
    begins = range(0, len(asked), shard_rows)
    return sum(int(asked[at : at + shard_rows].sum()) for n, at in enumerate(begins) if not writer.has(first_shard + n))


def estimate(
    teacher: FusedTeacher, contexts: Contexts, asked: np.ndarray, pending: int, settings: Scores, accelerator: Any
) -> None:
    """Says how long all contexts will take, and what that costs, from a few of the first pass spread over it."""
    if pending < WORTH_ESTIMATING or not asked.any() or not is_main_process():
        return

    def answer(rows: np.ndarray) -> None:
        batch = contexts.batch(rows, WHOLE)
        top_answers(mask_seen(teacher.score(batch), torch.from_numpy(batch.seen)), settings.k, settings.temperatures)

    seconds = estimated_seconds(answer, np.flatnonzero(asked), pending, accelerator.num_processes)
    say(in_words(pending, seconds, settings.price_per_hour))


def score_contexts(
    teacher: FusedTeacher,
    contexts: Contexts,
    writer: StoreWriter,
    first_row: int,
    first_shard: int,
    shard_rows: int,
    accelerator: Any,
    seed: int,
    asked: np.ndarray | None = None,
    vectors: Ask | None = None,
) -> list[int]:
    """Scores contexts into shards; process r of w makes shards r, r + w, …; shards that are there are skipped.

    Whole rows of scores are made for a block of contexts at a time, as many as fit in `BLOCK_SCORES`: what is held in
    memory grows neither with the contexts nor, up to so many items, with the catalogue.

    Args:
        teacher: Whatever has a method `score(batch) -> (B, N)`.
        contexts: What it is asked about.
        writer: Takes the shards.
        first_row, first_shard: Number of the first row and shard in the whole store.
        shard_rows: Rows a shard.
        accelerator: Says which process this is.
        seed: Of the sampled tail.
        asked: Mask (R,) of the contexts that the teacher is asked about; None for all.
        vectors: Gives vectors of contexts; needed where the store's header has room for them.

    Returns:
        The first row of each shard.
    """
    begins = list(range(0, len(contexts), shard_rows))
    mine = range(accelerator.process_index, len(begins), accelerator.num_processes)
    block = max(1, min(TOGETHER, BLOCK_SCORES // contexts.n_items))
    together = TOGETHER // block * block
    work: list[tuple[int, np.ndarray]] = []
    for n in (n for n in mine if not writer.has(first_shard + n)):
        rows = np.arange(begins[n], min(begins[n] + shard_rows, len(contexts)))
        rows = rows if asked is None else rows[asked[rows]]
        work += [(n, rows[at : at + together]) for at in range(0, max(1, len(rows)), together)]
    parts: list[tuple[np.ndarray, dict[str, np.ndarray]]] = []
    for place, (n, rows) in enumerate(track(work, "scoring contexts", unit=f"x {together} rows")):
        asked_together = answering(teacher, contexts, rows) if len(rows) > block else teacher
        for at in range(0, len(rows), block):
            some = rows[at : at + block]
            parts.append((some - begins[n], score_rows(asked_together, contexts, some, writer.header, seed, vectors)))
        if place + 1 == len(work) or work[place + 1][0] != n:
            count = min(shard_rows, len(contexts) - begins[n])
            arrays = unanswered(count, writer.header)
            for where, part in parts:
                for name, value in part.items():
                    arrays[name][where] = value
            writer.write(first_shard + n, first_row + begins[n] + np.arange(count), arrays)
            parts = []
    accelerator.wait_for_everyone()
    return [first_row + b for b in begins]


@torch.no_grad()
def answering(teacher: FusedTeacher, contexts: Contexts, rows: np.ndarray) -> FusedTeacher:
    """The teacher with those members that answer many contexts together having done so for `rows` (R,)."""
    able = {name: m for name, m in getattr(teacher, "members", {}).items() if hasattr(m, "answering")}
    if not able:
        return teacher
    batch = contexts.batch(rows, WHOLE)
    return replace(teacher, members=teacher.members | {name: m.answering(batch) for name, m in able.items()})


@torch.no_grad()
def score_rows(
    teacher: FusedTeacher,
    contexts: Contexts,
    rows: np.ndarray,
    header: StoreHeader,
    seed: int,
    vectors: Ask | None = None,
) -> dict[str, np.ndarray]:
    """The teacher's answer to some contexts: top k outside the history, log-sum-exp, a sampled tail, its own vectors.

    Returns:
        items (R, K), scores (R, K), logz (R, T); with a tail also tail_items, tail_scores, tail_logq (R, S), and hidden
        (R, H) where the header has room for it. Rows with fewer than K unseen items are padded with item -1.
    """
    batch = contexts.batch(rows, WHOLE)
    scores = mask_seen(teacher.score(batch).float(), torch.from_numpy(batch.seen))
    out = top_answers(scores, header.k, header.temperatures)
    if header.tail:
        out |= sampled_tail(scores, scores.topk(header.k, dim=1).indices, header.tail, seed + int(rows[0]))
    if header.hidden:
        if vectors is None:
            raise ValueError("the header has room for hidden vectors, but nothing gives them")
        out["hidden"] = vectors(batch).float()
    return {name: value.cpu().numpy() for name, value in out.items()}


def sampled_tail(scores: Tensor, top: Tensor, count: int, seed: int) -> dict[str, Tensor]:
    """Items outside the top k drawn uniformly with replacement, and their proposal log-probability; -1 for none.

    Args:
        scores: Masked scores (B, N).
        top: The top k (B, K), which are not drawn.
        count: S, draws a row.
        seed: Decides the draws.
    """
    allowed = torch.isfinite(scores).scatter_(1, top, False)
    generator = torch.Generator().manual_seed(seed)
    weights = allowed.double().cpu() + 1e-300
    items = torch.multinomial(weights, count, replacement=True, generator=generator)
    chosen = scores.gather(1, items)
    none = chosen.isneginf()  # every item is seen or in the top k
    items, chosen = items.masked_fill(none, -1), chosen.masked_fill(none, ABSENT)
    log_q = -allowed.sum(1, keepdim=True).clamp_min(1).double().log().expand(-1, count)
    return {"tail_items": items, "tail_scores": chosen, "tail_logq": log_q}


if __name__ == "__main__":
    from distill.cli import stage_main

    sys.exit(stage_main(main))
