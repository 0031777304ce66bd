"""A real exported bundle with random weights, in a second."""

from pathlib import Path

import numpy as np
import torch

from distill.data.dataset import Dataset
from distill.export.bundle import write_bundle, write_model
from distill.export.graph import build_graphs
from students.hybrid_cf import HybridCF


def write_small_bundle(folder: Path, n_items: int, dim: int = 8) -> None:
    torch.manual_seed(0)
    student = HybridCF(n_items, dim=dim, hidden=16)
    for weight in student.parameters():
        if not weight.detach().any():
            torch.nn.init.normal_(weight, std=0.05)
    folder.mkdir(parents=True)
    variants = ["fp32", "int8"]
    models = {name: folder / f"model.{name}.onnx" for name in variants}
    for name, model in build_graphs(student.eval(), variants, max_length=20).items():
        write_model(model, models[name])
    names = [str(item) for item in range(n_items)]
    dataset = Dataset(
        user_ids=np.array(["0"]),
        item_ids=np.array(names),
        titles=names,
        texts=[""] * n_items,
        indptr=np.array([0, 1]),
        items=np.zeros(1, np.int32),
        parts=np.zeros(1, np.uint8),
    )
    write_bundle(folder, dataset, models, "HybridCF", dim, max_length=20, k=10)
