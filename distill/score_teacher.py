"""Stage `score-teacher`: asks the teacher about every context and writes the soft-score store."""

if __name__ == "__main__":  # run as a file: the repository root, not distill/, must come first on the path
    import sys
    from pathlib import Path

    sys.path[0] = str(Path(__file__).resolve().parents[1])

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from distill.config import Config, to_tree
from distill.data.augment import appends, last_real_rows, rollouts, static_contexts
from distill.data.contexts import Contexts, Kind, concatenate
from distill.data.dataset import Dataset
from distill.engine.accelerator import make_accelerator
from distill.errors import UserError
from distill.progress import is_main_process, say, track
from distill.runs import read_manifest, run_stage
from distill.soft.store import Store, StoreHeader, StoreWriter
from distill.tensors import mask_seen
from distill.train_teacher import load_teacher
from teachers.fusion import FusedTeacher

CONTEXTS = "contexts.parquet"
BLOCK_SCORES = 16_000_000  # scores computed at once: 64 MB of float32


def main(config: Config) -> Path:
    """Scores the transfer set of a run. Needs the stages `data` and `teacher`."""
    accelerator = make_accelerator("none", None)
    return run_stage(
        config.folder / "scores",
        settings={"scores": to_tree(config.scores), "seed": config.seed},
        inputs=[config.folder / "data", config.folder / "teacher"],
        build=lambda path: build(config, path, accelerator),
        config_source=config.source,
        barrier=accelerator.wait_for_everyone,
        command=f"distill score-teacher {config.source}",
    )


def build(config: Config, folder: Path, accelerator: Any) -> dict[str, Any]:
    """Writes the store in two passes: contexts that need no teacher, then roll-outs drawn from its answers to those."""
    dataset = Dataset.read(config.folder / "data")
    teacher, settings = load_teacher(config), config.scores
    if not 1 <= settings.k < dataset.n_items:
        most = dataset.n_items - 1
        raise UserError(f"'scores.k' is {settings.k}, expected 1 to {most}: the catalogue has {dataset.n_items} items.")
    manifest = read_manifest(config.folder / "teacher") or {}
    header = StoreHeader(
        k=settings.k,
        temperatures=list(settings.temperatures),
        tail=settings.tail_samples,
        n_items=dataset.n_items,
        item_vocabulary=dataset.item_vocabulary,
        data=dataset.fingerprint,
        teacher=manifest["fingerprint"],
    )
    writer = StoreWriter(folder, header)
    first = static_contexts(
        dataset, config.seed, settings.drops, settings.crops, settings.singles, settings.max_prefixes
    )
    begin = time.perf_counter()
    starts = score_contexts(teacher, first, writer, 0, 0, settings.shard_rows, accelerator, config.seed)
    contexts = first
    if settings.rollouts or settings.appends:
        if is_main_process():
            writer.close(starts, len(first))
        accelerator.wait_for_everyone()
        answers = Store.open(folder, dataset.item_vocabulary, dataset.fingerprint)
        rows = last_real_rows(first)
        found = answers.lookup(rows, ("items", "scores"))
        count, power = settings.rollouts, settings.rollout_power
        drawn = rollouts(first, rows, found["items"], found["scores"], count, power, config.seed)
        second = concatenate([drawn, appends(first, rows, settings.appends, config.seed)])
        accelerator.wait_for_everyone()
        starts += score_contexts(
            teacher, second, writer, len(first), len(starts), settings.shard_rows, accelerator, config.seed
        )
        contexts = concatenate([first, second])
    seconds = time.perf_counter() - begin
    if is_main_process():
        contexts.write(folder / CONTEXTS)
        writer.close(starts, len(contexts))
    kinds = np.bincount(contexts.kind, minlength=len(Kind))
    counts = {kind.name.lower(): int(kinds[kind]) for kind in Kind if kinds[kind]}
    say(f"scored {len(contexts):,} contexts ({', '.join(f'{n:,} {k}' for k, n in counts.items())})")
    return {"rows": len(contexts), "kinds": counts, "contexts_per_second": round(len(contexts) / max(seconds, 1e-9), 1)}


def score_contexts(
    teacher: FusedTeacher,
    contexts: Contexts,
    writer: StoreWriter,
    first_row: int,
    first_shard: int,
    shard_rows: int,
    accelerator: Any,
    seed: int,
) -> list[int]:
    """Scores contexts into shards; process r of w makes shards r, r + w, …; shards that are there are skipped.

    Returns:
        The first row of each shard.
    """
    begins = list(range(0, len(contexts), shard_rows))
    mine = range(accelerator.process_index, len(begins), accelerator.num_processes)
    block = max(1, min(4096, BLOCK_SCORES // contexts.n_items))
    todo = [n for n in mine if not writer.has(first_shard + n)]
    work = [(n, at) for n in todo for at in range(begins[n], min(begins[n] + shard_rows, len(contexts)), block)]
    parts: list[dict[str, np.ndarray]] = []
    for n, at in track(work, "scoring contexts", unit=f"x {block} rows"):
        end = min(begins[n] + shard_rows, len(contexts))
        rows = np.arange(at, min(at + block, end))
        parts.append(score_rows(teacher, contexts, rows, writer.header, seed))
        if rows[-1] + 1 == end:
            arrays = {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}
            writer.write(first_shard + n, first_row + np.arange(begins[n], end), arrays)
            parts = []
    accelerator.wait_for_everyone()
    return [first_row + b for b in begins]


@torch.no_grad()
def score_rows(
    teacher: FusedTeacher, contexts: Contexts, rows: np.ndarray, header: StoreHeader, seed: int
) -> dict[str, np.ndarray]:
    """The teacher's answer to some contexts: top k outside the history, log-sum-exp, and a sampled tail.

    Returns:
        items (R, K), scores (R, K), logz (R, T); with a tail also tail_items, tail_scores, tail_logq (R, S). Rows with
        fewer than K unseen items are padded with item -1.
    """
    batch = contexts.batch(rows, 1_000_000)
    scores = mask_seen(teacher.score(batch).float(), torch.from_numpy(batch.seen))
    logz = torch.stack([(scores / t).logsumexp(-1) for t in header.temperatures], 1)
    best = scores.topk(header.k, dim=1)
    missing = best.values.isinf()
    out: dict[str, Tensor] = {
        "items": best.indices.masked_fill(missing, -1),
        "scores": best.values.masked_fill(missing, -6e4),
        "logz": logz,
    }
    if header.tail:
        out |= sampled_tail(scores, best.indices, header.tail, seed + int(rows[0]))
    return {name: value.cpu().numpy() for name, value in out.items()}


def sampled_tail(scores: Tensor, top: Tensor, count: int, seed: int) -> dict[str, Tensor]:
    """Items outside the top k drawn uniformly with replacement, and their proposal log-probability.

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
    log_q = -allowed.sum(1, keepdim=True).clamp_min(1).double().log().expand(-1, count)
    return {"tail_items": items, "tail_scores": chosen, "tail_logq": log_q}


if __name__ == "__main__":
    from distill.cli import stage_main

    sys.exit(stage_main(main))
