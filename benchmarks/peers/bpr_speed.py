"""How fast another library trains BPR: one line of JSON; `benchmarks.student_speed` runs it in that library's place.

    python benchmarks/peers/bpr_speed.py implicit pairs.csv --dim 64 --threads 2 --epochs 3
    RECBOLE_PYTHON benchmarks/peers/bpr_speed.py recbole pairs.csv --dim 64 --threads 2 --epochs 1

A sample is a user, an item of theirs and an item drawn at random. Epochs are timed as a difference of two trainings
(implicit) or one by one (RecBole), so that reading data and starting up don't count.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

import numpy as np


def implicit_bpr(pairs: np.ndarray, dim: int, threads: int, epochs: int) -> dict[str, float]:
    """implicit's BPR, which draws a sample for each pair in an epoch; one of its factors is the item's bias."""
    import scipy.sparse
    from implicit.bpr import BayesianPersonalizedRanking

    ones = np.ones(len(pairs), np.float32)
    matrix = scipy.sparse.csr_matrix((ones, (pairs[:, 0], pairs[:, 1])))
    wall, cpu = [], []
    for iterations in (1, 1 + epochs):
        model = BayesianPersonalizedRanking(factors=dim - 1, iterations=iterations, num_threads=threads, random_state=0)
        begin, used = time.perf_counter(), time.process_time()
        model.fit(matrix, show_progress=False)
        wall.append(time.perf_counter() - begin)
        cpu.append(time.process_time() - used)
    return figures(epochs * matrix.nnz, wall[1] - wall[0], cpu[1] - cpu[0])


def recbole_bpr(pairs: np.ndarray, dim: int, threads: int, epochs: int) -> dict[str, float]:
    """RecBole's BPR by its own trainer, batches of 2,048 as it has them by default."""
    import torch
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import get_model, get_trainer, init_seed

    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "pairs").mkdir()
        with (Path(folder) / "pairs" / "pairs.inter").open("w") as file:
            file.write("user_id:token\titem_id:token\n")
            file.writelines(f"{user}\t{item}\n" for user, item in pairs)
        settings = {
            "data_path": folder,
            "load_col": {"inter": ["user_id", "item_id"]},
            "embedding_size": dim,
            "train_batch_size": 2048,
            "use_gpu": False,
            "gpu_id": "",
            "show_progress": False,
            "checkpoint_dir": folder,
            "eval_args": {"split": {"RS": [0.98, 0.01, 0.01]}, "order": "RO", "group_by": "user", "mode": "full"},
        }
        here = os.getcwd()
        os.chdir(folder)  # it writes logs where it stands
        config = Config(model="BPR", dataset="pairs", config_dict=settings)
        init_seed(config["seed"], config["reproducibility"])
        train, _, _ = data_preparation(config, create_dataset(config))
        model = get_model("BPR")(config, train.dataset)
        trainer = get_trainer(config["MODEL_TYPE"], "BPR")(config, model)
        trainer._train_epoch(train, 0)
        begin, used = time.perf_counter(), time.process_time()
        for epoch in range(epochs):
            trainer._train_epoch(train, 1 + epoch)
        wall, cpu = time.perf_counter() - begin, time.process_time() - used
        os.chdir(here)
    return figures(epochs * len(train.dataset), wall, cpu)


def figures(samples: int, wall: float, cpu: float) -> dict[str, float]:
    """Samples a second of time and of processor time."""
    return {"samples": samples, "per_second": samples / wall, "per_cpu_second": samples / cpu, "seconds": wall}


def main() -> None:
    """Prints the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library", choices=("implicit", "recbole"))
    parser.add_argument("pairs", type=Path, help="CSV of user number and item number, without a header")
    parser.add_argument("--dim", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=3)
    chosen = parser.parse_args()
    pairs = np.loadtxt(chosen.pairs, delimiter=",", dtype=np.int64)
    train = implicit_bpr if chosen.library == "implicit" else recbole_bpr
    print(json.dumps(train(pairs, chosen.dim, chosen.threads, chosen.epochs)))


if __name__ == "__main__":
    main()
