"""Fits one model of another library and writes its lists; `benchmarks.peers.students` runs it in that library's place.

    PYTHON benchmarks/peers/peer_lists.py JOB.json

The job names a library, a model, its settings, a file of events and the parts that are trained on. Models that are
trained in epochs by RecBole are asked for lists every few epochs; the best epoch on `truth` is kept, unless the job
says how many epochs it takes. The project isn't imported: these environments needn't hold it.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

K = 10
LONGEST = 50
Scores = Callable[[np.ndarray], np.ndarray]  # users (b,) to scores (b, N)


class Events:
    """Events of a job: who is trained on, whose items are masked, what validation asks for."""

    def __init__(self, job: dict[str, Any]) -> None:
        """Reads the file; `upto` is the last part that is trained on, 0 train, 1 validation too."""
        with np.load(job["events"]) as file:
            users, items, parts = file["users"], file["items"], file["parts"]
            self.n_users, self.n_items = int(file["n_users"]), int(file["n_items"])
        known = parts <= job["upto"]
        self.users, self.items = users[known].astype(np.int64), items[known].astype(np.int64)
        asked = parts == job["upto"] + 1
        self.truth = set(zip(users[asked].tolist(), items[asked].tolist(), strict=True))
        self.sizes = np.bincount(users[asked], minlength=self.n_users)

    def matrix(self) -> Any:
        """Ones where a user has an item, sparse (U, N)."""
        from scipy.sparse import csr_matrix

        ones = np.ones(len(self.users), np.float32)
        return csr_matrix((ones, (self.users, self.items)), shape=(self.n_users, self.n_items))

    def histories(self) -> list[np.ndarray]:
        """Items of each user in stored order."""
        counts = np.bincount(self.users, minlength=self.n_users)
        return np.split(self.items, np.cumsum(counts)[:-1])

    def ranked(self, scores: Scores, step: int = 512) -> np.ndarray:
        """The best K items of each user without those of the history, (U, K)."""
        out = np.empty((self.n_users, K), np.int32)
        for first in range(0, self.n_users, step):
            users = np.arange(first, min(first + step, self.n_users))
            found = np.array(scores(users), np.float32)
            rows = (self.users >= users[0]) & (self.users <= users[-1])
            found[self.users[rows] - first, self.items[rows]] = -np.inf
            out[users] = np.argsort(-found, axis=1, kind="stable")[:, :K]
        return out

    def unseen(self, lists: np.ndarray) -> np.ndarray:
        """Lists (U, K) without items of the history, which implicit fills up with; -1 behind the end."""
        had = np.unique(self.users * self.n_items + self.items)
        keys = np.arange(self.n_users)[:, None] * self.n_items + lists
        kept = np.where(np.isin(keys, had) | (lists < 0), -1, lists)
        order = np.argsort(kept < 0, axis=1, kind="stable")
        return np.take_along_axis(kept, order, 1).astype(np.int32)

    def ndcg(self, ranked: np.ndarray) -> float:
        """ndcg@10 of the users that are asked about, to choose an epoch by."""
        gains = 1 / np.log2(np.arange(2, K + 2))
        ideal = np.cumsum(gains)
        asked = np.flatnonzero(self.sizes)
        hits = np.array([[(user, item) in self.truth for item in ranked[user].tolist()] for user in asked.tolist()])
        return float((hits @ gains / ideal[np.minimum(self.sizes[asked], K) - 1]).mean())


def of_implicit(events: Events, name: str, settings: dict[str, Any], job: dict[str, Any]) -> tuple[np.ndarray, int]:
    """implicit's models, asked through `recommend`."""
    import implicit.als
    import implicit.bpr
    import implicit.nearest_neighbours

    seeded: dict[str, Any] = {"random_state": job["seed"], "num_threads": 1}
    if name == "ALS":
        model = implicit.als.AlternatingLeastSquares(use_gpu=False, **settings, **seeded)
    elif name == "BPR":
        model = implicit.bpr.BayesianPersonalizedRanking(use_gpu=False, **settings, **seeded)
    else:
        model = getattr(implicit.nearest_neighbours, f"{name}Recommender")(num_threads=1, **settings)
    matrix = events.matrix()
    model.fit(matrix, show_progress=False)
    found, _ = model.recommend(np.arange(events.n_users), matrix, N=K, filter_already_liked_items=True)
    return events.unseen(found), 0


def of_cornac(events: Events, name: str, settings: dict[str, Any], job: dict[str, Any]) -> tuple[np.ndarray, int]:
    """cornac's models; items without a train event can't be listed."""
    import cornac

    triples = [(user, item, 1.0) for user, item in zip(events.users.tolist(), events.items.tolist(), strict=True)]
    data = cornac.data.Dataset.from_uir(triples, seed=job["seed"])
    seeded = {"BPR": {"seed": job["seed"], "num_threads": 1}}.get(name, {})
    model = getattr(cornac.models, name)(verbose=False, **settings, **seeded)
    model.fit(data)
    columns = np.array(list(data.iid_map))

    def scores(users: np.ndarray) -> np.ndarray:
        out = np.full((len(users), events.n_items), -1e30, np.float32)
        for row, user in enumerate(users.tolist()):
            if user in data.uid_map:
                out[row, columns] = np.asarray(model.score(data.uid_map[user]))[: len(columns)]
        return out

    return events.ranked(scores), 0


def of_recbole(events: Events, name: str, settings: dict[str, Any], job: dict[str, Any]) -> tuple[np.ndarray, int]:
    """RecBole's model and its trainer's own epoch; the best lists by epoch, and that epoch."""
    import torch
    from recbole.config import Config
    from recbole.data import create_dataset, data_preparation
    from recbole.utils import get_model, get_trainer, init_seed

    torch.set_num_threads(1)
    ordered = name == "SASRec"
    here = os.getcwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # it writes logs where it stands
        fixed = write_atomic_files(events, Path(folder), ordered)
        config = Config(model=name, dataset="events", config_dict={**fixed, "seed": job["seed"], **settings})
        init_seed(config["seed"], True)
        dataset = create_dataset(config)
        train, _, _ = data_preparation(config, dataset)
        model = get_model(name)(config, train.dataset)
        trainer = get_trainer(config["MODEL_TYPE"], name)(config, model)
        scores = recbole_scores(events, model, train.dataset, ordered)
        if name == "EASE":
            os.chdir(here)
            return events.ranked(scores), 0
        begin, best, bare = time.process_time(), (-1.0, events.ranked(scores), 0), 0
        for epoch in range(1, (job["epochs"] or job["most_epochs"]) + 1):
            model.train()
            trainer._train_epoch(train, epoch - 1)
            late = time.process_time() - begin > job["seconds"]
            if job["epochs"] or (epoch % job["every"] and not late):
                continue
            model.eval()
            ranked = events.ranked(scores)
            worth = events.ndcg(ranked)
            bare = 0 if worth > best[0] else bare + 1
            best = (worth, ranked, epoch) if worth > best[0] else best
            if bare > job["patience"] or late:
                break
        if job["epochs"]:
            model.eval()
            best = (0.0, events.ranked(scores), job["epochs"])
        os.chdir(here)
    return best[1], best[2]


def write_atomic_files(events: Events, folder: Path, ordered: bool) -> dict[str, Any]:
    """RecBole's files, ready-made parts, and the settings that read them.

    Its validation and test files repeat the first train row: it wants some, and they are never read.
    """
    (folder / "events").mkdir()
    if ordered:
        header = "user_id:token\titem_id_list:token_seq\titem_id:token\n"
        lines = [
            f"{user}\t{' '.join(map(str, items[max(0, place - LONGEST) : place].tolist()))}\t{items[place]}\n"
            for user, items in enumerate(events.histories())
            for place in range(1, len(items))
        ]
    else:
        header = "user_id:token\titem_id:token\n"
        lines = [f"{user}\t{item}\n" for user, item in zip(events.users, events.items, strict=True)]
    for part in ("train", "valid", "test"):
        rows = lines if part == "train" else lines[:1]
        (folder / "events" / f"events.{part}.inter").write_text(header + "".join(rows))
    settings: dict[str, Any] = {
        "data_path": str(folder),
        "benchmark_filename": ["train", "valid", "test"],
        "load_col": {"inter": ["user_id", "item_id"]},
        "train_batch_size": 2048,
        "use_gpu": False,
        "gpu_id": "",
        "show_progress": False,
        "state": "ERROR",
        "checkpoint_dir": str(folder),
    }
    if ordered:
        settings |= {
            "load_col": {"inter": ["user_id", "item_id_list", "item_id"]},
            "alias_of_item_id": ["item_id_list"],
        }
        settings |= {"MAX_ITEM_LIST_LENGTH": LONGEST, "train_neg_sample_args": None}
    return settings


def recbole_scores(events: Events, model: Any, dataset: Any, ordered: bool) -> Scores:
    """Asks a RecBole model for all scores; items outside its vocabulary can't be listed."""
    import torch
    from recbole.data.interaction import Interaction

    ids = dataset.field2token_id["item_id"]
    column = np.array([ids.get(str(item), 0) for item in range(events.n_items)])
    user_ids = dataset.field2token_id["user_id"]
    user_column = np.array([user_ids.get(str(user), 0) for user in range(events.n_users)])
    histories = events.histories() if ordered else []

    def asked(users: np.ndarray) -> Interaction:
        fields = {"user_id": torch.from_numpy(user_column[users])}
        if ordered:
            rows = [column[histories[user][-LONGEST:]] for user in users]
            rows = [row[row > 0] for row in rows]
            table = np.zeros((len(users), LONGEST), np.int64)
            for place, row in enumerate(rows):
                table[place, : len(row)] = row
            fields["item_id_list"] = torch.from_numpy(table)
            fields["item_length"] = torch.from_numpy(np.array([max(1, len(row)) for row in rows]))
        return Interaction(fields)

    @torch.no_grad()
    def scores(users: np.ndarray) -> np.ndarray:
        model.eval()
        n = len(ids)
        try:
            found = model.full_sort_predict(asked(users))
        except NotImplementedError:  # NeuMF: pair by pair
            every = Interaction({"user_id": torch.from_numpy(user_column[users]).repeat_interleave(n)})
            every.update(Interaction({"item_id": torch.arange(n).repeat(len(users))}))
            found = model.predict(every)
        table = np.asarray(found.numpy() if hasattr(found, "numpy") else found, np.float32).reshape(len(users), n)
        return np.where(column > 0, table[:, column], -1e30)

    return scores


LIBRARIES = {"implicit": of_implicit, "cornac": of_cornac, "recbole": of_recbole}


def main() -> None:
    """Runs a job and writes its lists, the epoch they are from and the seconds spent."""
    job = json.loads(Path(sys.argv[1]).read_text())
    begin = time.process_time()
    events = Events(job)
    ranked, epoch = LIBRARIES[job["library"]](events, job["model"], job["settings"], job)
    out = Path(job["output"])
    with out.with_suffix(".partial").open("wb") as file:
        np.savez(file, ranked=ranked, epoch=epoch, seconds=time.process_time() - begin)
    out.with_suffix(".partial").rename(out)


if __name__ == "__main__":
    main()
