"""The contract of a loss on representations, and a small problem to try one on."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from distill.contracts.checks import require, require_close
from distill.objectives.knowledge import Knowledge, Representation
from distill.soft.target import SoftTarget
from distill.tensors import mask_seen

MakeLoss = Callable[[Knowledge], nn.Module]
STEPS = 50  # of gradient descent, after which the loss must be lower


def check_loss_module(
    make: MakeLoss, knowledge: Knowledge | None = None, rows: int = 12, finite_differences: bool = True
) -> None:
    """The contract of a loss on vectors: a module with `forward(representation, target) -> scalar`.

    Args:
        make: knowledge to a new module, its own settings bound (functools.partial).
        knowledge: What it is built from; by default everything that any run can give, of a catalogue of 23 items.
        rows: Contexts in a batch.
        finite_differences: False for a loss that stops a gradient into the student's own vectors of the same batch, as
            mutual distillation does; finite differences can't see that.

    Raises:
        AssertionError: Not a module; other weights or another value from the same seed; not a finite scalar; a gradient
            that is missing for one of its parameters, isn't finite, differs from finite differences in evaluation mode,
            or flows into the teacher's vectors; a sum over contexts; a loss that training doesn't lower; a state that
            safetensors can't carry.
    """
    with torch.random.fork_rng(devices=[]):
        knowledge = knowledge or make_knowledge()
        target = make_target(knowledge, rows)
        module = _made(make, knowledge)
        twin = _made(make, knowledge)
        for name, value in module.state_dict().items():
            require(torch.equal(value, twin.state_dict()[name]), f"'{name}' isn't decided by torch.manual_seed")
        _check_value(module, twin, knowledge, target)
        _check_gradients(module, knowledge, target)
        if finite_differences:
            _check_finite_differences(module, knowledge, target)
        _check_size(make, knowledge, target)
        _check_learning(make, knowledge, target)
        _check_state(module, _made(make, knowledge), knowledge, target)


def make_knowledge(n_items: int = 23, users: int = 12, dim: int = 6, hidden: int = 8) -> Knowledge:
    """Random knowledge in which nothing is missing, the same each time."""
    rng = torch.Generator().manual_seed(11)
    popularity = torch.rand(n_items, generator=rng)
    pairs = torch.randint(n_items, (2, 4 * n_items), generator=rng)
    return Knowledge(
        dim=dim,
        n_items=n_items,
        n_users=users,
        strata=torch.arange(n_items) % 3,
        popularity=popularity / popularity.sum(),
        item_vectors=torch.randn(n_items, hidden, generator=rng),
        hidden=hidden,
        user_events=torch.randint(1, 9, (users,), generator=rng),
        neighbours=(torch.arange(users)[:, None] + torch.arange(1, 4)) % users,
        pairs=pairs,
        pair_counts=torch.randint(1, 5, (pairs.shape[1],), generator=rng),
        build=lambda seed: _Peer(n_items, dim, seed),
    )


def make_representation(knowledge: Knowledge, rows: int = 12, seed: int = 5) -> Representation:
    """Random vectors of a batch, leaves of a graph, and the scores that follow from them."""
    rng = torch.Generator().manual_seed(seed)
    query = torch.randn(rows, knowledge.dim, generator=rng).requires_grad_()
    table = torch.randn(knowledge.n_items, knowledge.dim, generator=rng).requires_grad_()
    history = torch.stack([torch.randperm(knowledge.n_items, generator=rng)[:4] for _ in range(rows)])
    history[0] = knowledge.n_items  # a new user
    return represent(query, table, history)


def represent(query: Tensor, table: Tensor, history: Tensor) -> Representation:
    """A batch's representation from queries (B, D), an item table (N, D) and histories (B, L)."""
    bias = query.new_zeros(len(table))
    scores = mask_seen(functional.linear(query, table, bias), history)
    return Representation(query, table, bias, scores, history, history)


def make_target(knowledge: Knowledge, rows: int = 12, k: int = 6) -> SoftTarget:
    """A teacher's answer with vectors; each context of another user, the last of none."""
    rng = torch.Generator().manual_seed(13)
    history = make_representation(knowledge, rows).history
    teacher = mask_seen(torch.randn(rows, knowledge.n_items, generator=rng), history)
    best = teacher.topk(k, dim=1)
    user = torch.arange(rows) % knowledge.n_users
    user[-1] = -1
    return SoftTarget(
        label=best.indices[:, 0],
        items=best.indices,
        scores=best.values,
        logz=teacher.logsumexp(1, keepdim=True),
        hidden=torch.randn(rows, knowledge.hidden, generator=rng) if knowledge.hidden else None,
        user=user,
        strata=knowledge.strata,
        popularity=knowledge.popularity,
    )


class _Peer(nn.Module):
    """The least that a student must be, for losses that build a second one."""

    def __init__(self, n_items: int, dim: int, seed: int) -> None:
        super().__init__()
        rng = torch.Generator().manual_seed(seed)
        self.table = nn.Parameter(torch.randn(n_items + 1, dim, generator=rng))

    def encode(self, history: Tensor) -> Tensor:
        return self.table[history].mean(1)

    def item_table(self) -> Tensor:
        return self.table[:-1]

    def item_bias(self) -> Tensor:
        return self.table.new_zeros(len(self.table) - 1)


def _made(make: MakeLoss, knowledge: Knowledge) -> nn.Module:
    torch.manual_seed(0)
    module = make(knowledge)
    require(isinstance(module, nn.Module), f"a loss on vectors is a torch.nn.Module, found {type(module).__name__}")
    return module


def _call(module: nn.Module, representation: Representation, target: SoftTarget, seed: int = 0) -> Tensor:
    torch.manual_seed(seed)
    return module(representation, target)


def _check_value(module: nn.Module, twin: nn.Module, knowledge: Knowledge, target: SoftTarget) -> None:
    rows = len(target.label)
    value = _call(module, make_representation(knowledge, rows), target).detach()
    require(value.ndim == 0, f"the loss has shape {tuple(value.shape)}, expected a scalar")
    require(bool(torch.isfinite(value)), f"the loss is {float(value)}")
    again = _call(twin, make_representation(knowledge, rows), target)
    require(bool(again == value), "the loss gives two values from one seed: draw from torch's global generator alone")


def _check_gradients(module: nn.Module, knowledge: Knowledge, target: SoftTarget) -> None:
    """In training mode every parameter has one, and the teacher's vectors have none."""
    given = make_representation(knowledge, len(target.label))
    teacher = None if target.hidden is None else target.hidden.clone().requires_grad_()
    _call(module, given, replace(target, hidden=teacher)).backward()
    found = {name: weight.grad for name, weight in module.named_parameters() if weight.requires_grad}
    missing = [name for name, gradient in found.items() if gradient is None]
    require(not missing, f"no gradient reaches {missing}: several processes would wait for it forever")
    own = [g for g in (given.query.grad, given.table.grad) if g is not None]
    every = [*own, *(g for g in found.values() if g is not None)]
    require(all(bool(torch.isfinite(g).all()) for g in every), "a gradient is NaN or infinite")
    require(any(bool(g.any()) for g in own), "no gradient reaches the student's vectors")
    into_teacher = teacher is not None and teacher.grad is not None and bool(teacher.grad.any())
    require(not into_teacher, "a gradient reaches the teacher's vectors")
    module.zero_grad(set_to_none=True)


def _check_finite_differences(module: nn.Module, knowledge: Knowledge, target: SoftTarget) -> None:
    """In evaluation mode, in which nothing is drawn or remembered."""
    given = make_representation(knowledge, len(target.label))
    double = module.double().eval()
    precise = replace(target, hidden=None if target.hidden is None else target.hidden.double())
    query, table = given.query.detach().double(), given.table.detach().double()

    def of_vectors(q: Tensor, t: Tensor) -> Tensor:
        return _call(double, represent(q, t, given.history), precise)

    leaves = (query.requires_grad_(), table.requires_grad_())
    require(
        torch.autograd.gradcheck(of_vectors, leaves, raise_exception=False),
        "the gradient differs from finite differences (evaluation mode, float64: cast nothing down, remember nothing)",
    )
    module.float().train()


def _check_size(make: MakeLoss, knowledge: Knowledge, target: SoftTarget) -> None:
    """A batch twice over: a sum would double. (Losses that compare contexts with each other do change somewhat.)"""
    rows = len(target.label)
    given = make_representation(knowledge, rows)
    order = [*range(rows), *range(rows)]
    names = ("label", "items", "scores", "logz", "hidden", "user")
    twice = replace(target, **{n: getattr(target, n)[order] for n in names if getattr(target, n) is not None})
    wide = represent(given.query[order], given.table, given.history[order])

    def settled(representation: Representation, answers: SoftTarget) -> float:
        """The mean of some calls, the first left out: memories are filled then."""
        module = _made(make, knowledge)
        with torch.no_grad():
            return sum(float(_call(module, representation, answers, seed)) * (seed > 0) for seed in range(9)) / 8

    once, double = settled(given, target), settled(wide, twice)
    require(
        double - once < 0.7 * abs(once) + 1e-6,
        f"the loss goes from {once:.4g} to {double:.4g} with a batch twice over: it isn't a mean over contexts",
    )


def _check_learning(make: MakeLoss, knowledge: Knowledge, target: SoftTarget) -> None:
    module = _made(make, knowledge)
    given = make_representation(knowledge, len(target.label))
    query, table = given.query.detach().requires_grad_(), given.table.detach().requires_grad_()
    optimiser = torch.optim.Adam([query, table, *(p for p in module.parameters() if p.requires_grad)], 0.01)
    _call(module, represent(query, table, given.history), target)  # memories are filled
    module.eval()
    values = []
    for _ in range(STEPS):
        loss = _call(module, represent(query, table, given.history), target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        values.append(float(loss.detach()))
    require(values[-1] < values[0], f"{STEPS} steps of training lead from {values[0]:.6g} to {values[-1]:.6g}")


def _check_state(module: nn.Module, other: nn.Module, knowledge: Knowledge, target: SoftTarget) -> None:
    state = {name: value.detach().clone().contiguous() for name, value in module.state_dict().items()}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "loss.safetensors"
        save_file(state, path)
        other.load_state_dict(load_file(path))
    given = make_representation(knowledge, len(target.label))
    with torch.no_grad():
        found, wanted = (_call(m.eval(), given, target) for m in (other, module))
    require_close(found, wanted, "the loss differs after saving and loading")
