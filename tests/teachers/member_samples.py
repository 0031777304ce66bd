"""Members fitted on small worlds with the project's own engine, for the tests of this folder."""

import numpy as np
import torch

from distill.ask import quality
from distill.contracts import check_member, check_reload
from distill.data.contexts import history_contexts
from distill.data.dataset import VALID
from distill.engine.local import Local
from distill.engine.loop import best_weights
from distill.engine.loop import fit as train
from distill.plugins import resolve
from distill.ranking.cases import cases_of
from teachers.protocol import Inputs

N = 24


def inputs(dataset, seed=0, **vectors):
    return Inputs(dataset, vectors, seed, torch.device("cpu"))


def trainer(folder, member, dataset):
    """A function from a job to its best weights on validation."""

    def run(job):
        def validate(model):
            member.refresh(model, Local())
            return quality(member.score, cases_of(dataset, VALID)).values["ndcg@10"]

        train(job, Local(), folder, validate, "member")
        return best_weights(folder)

    return run


def fitted(folder, name, dataset, seed=0, vectors=None, **settings):
    member = resolve("teacher", name)(**settings)
    member.prepare(inputs(dataset, seed, **(vectors or {})))
    job = member.job()
    if job is not None:
        member.finish(trainer(folder, member, dataset)(job))
    return member


def checked(folder, name, dataset, vectors=None, **settings):
    """A member that kept its contract, saving and loading included."""
    member, again = (resolve("teacher", name)(**settings) for _ in range(2))
    check_member(member, dataset, inputs(dataset, **(vectors or {})), trainer(folder, member, dataset))
    check_reload(member, again, dataset)
    return member


def ranked(member, dataset, k=10):
    """The k best items (U, k) for every user before validation, seen items among them, and the users (U,)."""
    users = np.arange(dataset.n_users)
    batch = history_contexts(dataset, users, VALID).batch(users, 99)
    return member.score(batch).topk(k).indices.numpy(), users
