"""Program for launch tests: trains a scratch tower on made-up data in whatever processes the launcher starts."""

import json
import sys
from itertools import count
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[2])

import numpy as np
import torch
from accelerate.utils import set_seed

from distill.data.dataset import TRAIN, Dataset
from distill.engine import accelerator as engine
from distill.engine.accelerator import make_accelerator
from distill.engine.loop import best_weights, fit
from distill.job import Batch
from teachers.protocol import Inputs
from teachers.text_tower import TextTower

# fmt: off
WORDS = [
    "red", "blue", "green", "lamp", "desk", "chair", "paper", "ink", "pen", "soft",
    "hard", "cheap", "large", "small", "round", "steel", "oak", "glass", "print", "clip",
]
# fmt: on


def made_up(n_users: int = 60, n_items: int = 40, events: int = 6) -> Dataset:
    """Users who take items at random; texts of three to nine words."""
    rng = np.random.default_rng(7)
    items = np.concatenate([rng.choice(n_items, events, replace=False) for _ in range(n_users)]).astype(np.int32)
    texts = [" ".join(rng.choice(WORDS, rng.integers(3, 10))) for _ in range(n_items)]
    return Dataset(
        user_ids=np.arange(n_users).astype(str),
        item_ids=np.arange(n_items).astype(str),
        titles=texts,
        texts=texts,
        indptr=np.arange(n_users + 1, dtype=np.int64) * events,
        items=items,
        parts=np.full(len(items), TRAIN, np.uint8),
    )


def main() -> None:
    """Usage: train_tower.py OUTPUT_FOLDER SETTINGS_JSON [BATCH_TO_FAIL_AT].

    Settings are the tower's, and `whole_below` (elements of the largest parameter that ZeRO-3 keeps whole) and
    `overflow_rank` (the process that fails by asking for more memory than there is; without it, all exit).
    """
    folder, settings = Path(sys.argv[1]), json.loads(sys.argv[2])
    engine.WHOLE_BELOW = settings.pop("whole_below", engine.WHOLE_BELOW)
    overflow_rank = settings.pop("overflow_rank", -1)
    fail_at = int(sys.argv[3]) if len(sys.argv) > 3 else -1
    torch.set_num_threads(1)
    accelerator = make_accelerator("tensorboard", folder / "logs")
    set_seed(0)
    tower = TextTower(hidden_size=64, vocabulary=200, dropout=0.0, batch_size=32, tfidf_share=0.0, **settings)
    tower.prepare(Inputs(made_up(), {}, 0, accelerator.device))
    job = tower.job()
    assert job is not None
    collate, number = job.collate, count()

    def failing(rows: np.ndarray) -> Batch:
        if next(number) == fail_at:
            if overflow_rank < 0:
                raise SystemExit(3)
            if overflow_rank == accelerator.process_index:
                torch.empty(2**58)
        return collate(rows)

    job.collate = failing

    def validate(model: torch.nn.Module) -> float:
        """How much nearer neighbours are than any two items: a number that depends on the weights alone."""
        tower.refresh(model, accelerator)
        vectors = tower.item_vectors()
        assert vectors is not None
        left, right = vectors[tower.pairs.items.T]
        return float((left * right).sum(1).mean() - (vectors @ vectors.T).mean())

    curve = fit(job, accelerator, folder / "work", validate, "tower")
    refreshed = tower.item_vectors()
    tower.finish(best_weights(folder / "work"))
    vectors = tower.item_vectors()
    assert refreshed is not None
    assert vectors is not None
    if accelerator.is_main_process:
        saved = folder / "tower"
        saved.mkdir(parents=True)
        tower.save(saved)
        reloaded = TextTower(tfidf_share=0.0, precision=settings["precision"]).load(saved)
        result = {
            "engine": accelerator.distributed_type.value,
            "processes": accelerator.num_processes,
            "losses": [point["loss"] for point in curve],
            "refreshed": refreshed.tolist(),
            "vectors": vectors.tolist(),
            "reloaded": reloaded.item_vectors().tolist(),
            "encoded_again": reloaded.encode(made_up().texts).tolist(),
        }
        (folder / "result.json").write_text(json.dumps(result))
    accelerator.wait_for_everyone()
    accelerator.end_training()


if __name__ == "__main__":
    main()
