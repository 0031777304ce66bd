"""Students and a small finished run for the tests of export and serving."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from distill.config import Config, Export, Fit, Run
from distill.data.dataset import Dataset
from distill.ranking.topk import top_k
from distill.runs import run_stage
from students.checkpoint import save_student
from students.hybrid_cf import HybridCF
from students.protocol import scores

N_ITEMS = 300


class MeanPool(nn.Module):
    """A student as small as can be: the mean of the history's rows, a linear map, and the same rows as items."""

    def __init__(self, n_items: int, dim: int = 16, item_vectors: Tensor | None = None) -> None:
        super().__init__()
        self.n_items = n_items
        self.items = nn.Embedding(n_items + 1, dim)
        self.map = nn.Linear(dim, dim)
        self.bias = nn.Parameter(torch.randn(n_items))

    def encode(self, history: Tensor) -> Tensor:
        known = (history != self.n_items).float()[:, :, None]
        return self.map((self.items(history) * known).sum(1) / known.sum(1).clamp_min(1.0))

    def item_table(self) -> Tensor:
        return self.items.weight[: self.n_items]

    def item_bias(self) -> Tensor:
        return self.bias


class TextMLP(MeanPool):
    """Item rows are made of text vectors by layers with a GELU between, and serve both sides."""

    def __init__(self, n_items: int, dim: int = 16) -> None:
        super().__init__(n_items, dim)
        self.register_buffer("text", torch.randn(n_items, 48))
        self.expand, self.contract = nn.Linear(48, 64), nn.Linear(64, dim)

    def encode(self, history: Tensor) -> Tensor:
        known = history != self.n_items
        rows = nn.functional.embedding(torch.where(known, history, 0), self.item_table())
        return self.map((rows * known[:, :, None]).sum(1) / known[:, :, None].sum(1).clamp_min(1.0))

    def item_table(self) -> Tensor:
        return nn.functional.normalize(self.contract(nn.functional.gelu(self.expand(self.text))), dim=-1)


def hybrid(n_items: int = N_ITEMS, text: bool = False, seed: int = 0, dim: int = 32) -> HybridCF:
    """A HybridCF whose parts that start at zero are random too, so that every weight matters."""
    torch.manual_seed(seed)
    student = HybridCF(n_items, dim=dim, item_vectors=torch.randn(n_items, 96) if text else None)
    for weight in student.parameters():
        if not weight.detach().any():
            nn.init.normal_(weight, std=0.05)
    return student.eval()


def mean_pool(n_items: int = N_ITEMS, seed: int = 0) -> MeanPool:
    torch.manual_seed(seed)
    return MeanPool(n_items).eval()


def histories(n_items: int, batch: int, length: int, seed: int = 0) -> np.ndarray:
    """Random histories (B, L) of different lengths; with two rows or more, the last one is padding alone."""
    random = np.random.default_rng(seed)
    items = random.integers(0, n_items, (batch, length))
    lengths = random.integers(1, length + 1, batch)
    if batch > 1:
        lengths[-1] = 0
    items[np.arange(length) < length - lengths[:, None]] = n_items
    return items


@torch.no_grad()
def torch_scores(student: nn.Module, history: np.ndarray) -> np.ndarray:
    return scores(student, torch.from_numpy(history)).numpy()


def dataset_for(student: nn.Module, users: int = 400, seed: int = 0) -> Dataset:
    """Users whose validation and test items are near the top of the student's own lists, as if it had learned them."""
    random = np.random.default_rng(seed)
    n_items = student.n_items
    popular = 1.0 / np.arange(1, n_items + 1)
    train = np.stack([random.choice(n_items, 8, replace=False, p=popular / popular.sum()) for _ in range(users)])
    values = torch_scores(student, train)
    np.put_along_axis(values, train, -np.inf, axis=1)
    best = top_k(values, 6)
    picks = np.stack([random.permutation(6)[:2] for _ in range(users)])
    events = np.concatenate([train, np.take_along_axis(best, picks, axis=1)], axis=1)
    titles = [f"Film {i} ({1950 + i % 70})" for i in range(n_items)]
    titles[3], titles[4] = "Heat", "Heat and Dust"
    return Dataset(
        user_ids=np.array([f"u{i}" for i in range(users)]),
        item_ids=np.array([f"i{i}" for i in range(n_items)]),
        titles=titles,
        texts=[""] * n_items,
        indptr=np.arange(users + 1, dtype=np.int64) * 10,
        items=events.reshape(-1).astype(np.int32),
        parts=np.tile(np.array([0] * 8 + [1, 2], np.uint8), users),
    )


def make_run(folder: Path, variants: tuple[str, ...] = ("fp32", "int8"), max_length: int = 6) -> Config:
    """A run with the finished stages `data` and `student`."""
    config = Config(
        run=Run(name="sample", folder=str(folder)),
        export=Export(variants=list(variants), k=20),
        fit=Fit(max_length=max_length),
        source="configs/sample.yaml",
    )
    student = HybridCF(N_ITEMS, dim=32, item_vectors=text_vectors()).eval()
    write_stages(config, dataset_for(student), student)
    return config


def text_vectors() -> Tensor:
    """The text vectors of the run's items."""
    return torch.randn(N_ITEMS, 96, generator=torch.Generator().manual_seed(1))


def write_stages(config: Config, dataset: Dataset, student: nn.Module, names: tuple[str, ...] = ("student",)) -> None:
    """Writes the stage `data` and a student of `make_run`, as it is or extended, under each of the names."""
    settings = {"extensions": sorted(getattr(student, "extensions", {}))}
    run_stage(config.folder / "data", settings, [], dataset.write)

    def save(path: Path) -> None:
        weights, extensions = student.state_dict(), getattr(student, "extensions", {})
        save_student(path, "hybrid_cf", {"dim": 32}, N_ITEMS, weights, text_vectors(), extensions)

    for name in names:
        run_stage(config.folder / name, settings, [config.folder / "data"], save)


@torch.no_grad()
def at_random(module: nn.Module, deviation: float) -> None:
    """Draws all weights of a part at random, as after a training in which they came to matter."""
    generator = torch.Generator().manual_seed(2)
    for weight in module.parameters():
        weight.copy_(deviation * torch.randn(weight.shape, generator=generator))
