"""Program for launch tests: trains a scratch tower on made-up data in whatever processes the launcher starts."""

import json
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).resolve().parents[2])

import numpy as np
import torch
from accelerate.utils import set_seed

from distill.data.dataset import TRAIN, Dataset
from distill.engine.accelerator import make_accelerator
from distill.engine.loop import best_weights, fit
from teachers.protocol import Inputs
from teachers.text_tower import TextTower

WORDS = [
    "red",
    "blue",
    "green",
    "lamp",
    "desk",
    "chair",
    "paper",
    "ink",
    "pen",
    "soft",
    "hard",
    "cheap",
    "large",
    "small",
    "round",
    "steel",
    "oak",
    "glass",
    "print",
    "clip",
]


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
    """Usage: train_tower.py OUTPUT_FOLDER SETTINGS_JSON."""
    folder, settings = Path(sys.argv[1]), json.loads(sys.argv[2])
    torch.set_num_threads(1)
    accelerator = make_accelerator("tensorboard", folder / "logs")
    set_seed(0)
    tower = TextTower(hidden_size=64, layers=2, vocabulary=200, dropout=0.0, batch_size=32, tfidf_share=0.0, **settings)
    tower.prepare(Inputs(made_up(), {}, 0, accelerator.device))
    job = tower.job()
    assert job is not None
    norms = []

    def validate(model: torch.nn.Module) -> float:
        tower.refresh(model, accelerator)
        norms.append(float(tower.vectors.norm(dim=1).mean()))
        return float(len(norms))

    curve = fit(job, accelerator, folder / "work", validate, "tower")
    refreshed = tower.vectors.clone()
    tower.finish(best_weights(folder / "work"))
    if accelerator.is_main_process:
        saved = folder / "tower"
        saved.mkdir(parents=True)
        tower.save(saved)
        loaded = TextTower().load(saved)
        result = {
            "curve": curve,
            "engine": str(accelerator.distributed_type),
            "processes": accelerator.num_processes,
            "reloaded": float((loaded.vectors - tower.vectors).abs().max()),
            "encoded_alone": float((refreshed - tower.vectors).abs().max()),
            "vectors": tower.vectors.tolist(),
        }
        (folder / "result.json").write_text(json.dumps(result))
    accelerator.wait_for_everyone()
    accelerator.end_training()


if __name__ == "__main__":
    main()
