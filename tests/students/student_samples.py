"""Students trained on small worlds with the project's own engine, for the tests of this folder."""

import numpy as np
import torch
from torch import nn

from distill.contracts.worlds import checkerboard
from distill.data.contexts import train_contexts
from distill.engine.local import Local
from distill.engine.loop import best_weights, fit
from distill.job import Job
from distill.plugins import TABLES, resolve
from distill.tensors import mask_seen, next_item_batch, shuffled
from students.checkpoint import build_student
from students.protocol import scores

N = 24
SMALL = {"dim": 8}
SOLVED = [name for name in TABLES["student"] if hasattr(resolve("student", name), "fit_closed_form")]
TRAINED = [name for name in TABLES["student"] if name not in SOLVED]


def vectors(width=10, n_items=N):
    return torch.randn(n_items, width, generator=torch.Generator().manual_seed(3))


class NextItem(nn.Module):
    """Cross-entropy on the next item over the whole catalogue, seen items masked."""

    def __init__(self, student):
        super().__init__()
        self.student = student

    def forward(self, batch):
        found = mask_seen(scores(self.student, batch["history"]), batch["seen"])
        return {"loss": nn.functional.cross_entropy(found, batch["label"])}


def trained(folder, name="hybrid_cf", item_vectors=None, seed=0, dataset=None, epochs=6, **settings):
    """A student after some epochs of cross-entropy, without validation."""
    dataset = dataset or checkerboard()
    student = build_student(name, {**SMALL, **settings}, N, item_vectors, seed)
    if hasattr(student, "attach"):
        student.attach(dataset)
    contexts = train_contexts(dataset)
    rows = np.flatnonzero(contexts.target >= 0)
    job = Job(
        model=NextItem(student),
        batches=lambda epoch: shuffled(rows, 64, seed, epoch),
        collate=lambda r: next_item_batch(contexts, r, 50),
        epochs=epochs,
        learning_rate=0.02,
    )
    fit(job, Local(), folder, None, "student")
    student.load_state_dict({k.removeprefix("student."): v for k, v in best_weights(folder).items()})
    return student.eval()


def solved(name, dataset=None, seed=0, **settings):
    """A student in closed form, fitted."""
    dataset = dataset or checkerboard()
    student = build_student(name, settings, dataset.n_items, None, seed)
    student.fit_closed_form(dataset, seed)
    return student.eval()


def all_parts_matter(student, seed=0):
    """The student with weights that start at zero drawn at random, so that a test of the whole sees every part."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in student.parameters():
            if not weight.any():
                weight.copy_(0.1 * torch.randn(weight.shape, generator=generator))
    return student.eval()


def histories(n_items=N, rows=6, length=9, seed=0):
    """Right-aligned histories (B, L) of 0 to L different items, padded with n_items."""
    rng = np.random.default_rng(seed)
    items = np.stack([rng.permutation(n_items)[:length] for _ in range(rows)])
    lengths = np.linspace(0, length, rows).astype(int)
    return torch.from_numpy(np.where(np.arange(length) >= length - lengths[:, None], items, n_items))
