"""AdamW, and row-wise optimisers for large item tables: only the rows of a batch are read, moved and remembered."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from distill.errors import UserError
from distill.job import Job

EPS = 1e-8
BETA1 = 0.9


def make_optimiser(job: Job, groups: list[dict[str, Any]], deepspeed: bool = False) -> torch.optim.Optimizer:
    """The optimiser that a job asks for.

    Args:
        job: Its `optimiser`, `tables`, `learning_rate` and `beta2` are read.
        groups: Parameter groups with weight decay.
        deepspeed: Whether DeepSpeed drives it.

    Raises:
        UserError: A row-wise optimiser under DeepSpeed, which splits the rows' state among processes.
    """
    if job.optimiser == "adamw":
        return torch.optim.AdamW(groups, lr=job.learning_rate, betas=(BETA1, job.beta2), eps=EPS, fused=True)
    if deepspeed:
        raise UserError(f"fit.optimiser '{job.optimiser}' doesn't run under DeepSpeed. Set fit.optimiser: adamw.")
    tables = {id(p) for name, p in job.model.named_parameters() if name.endswith(tuple(job.tables))}
    split = []
    for group in groups:
        for rule, inside in ((job.optimiser, True), ("adamw", False)):
            chosen = [p for p in group["params"] if (id(p) in tables) == inside]
            if chosen:
                split.append({**group, "params": chosen, "rule": rule})
    return RowwiseOptimiser(split, job.learning_rate, job.beta2)


class RowwiseOptimiser(torch.optim.Optimizer):
    """One rule for tables, AdamW for everything else.

    A row moves only in a step that has a gradient for it. State: `rowwise_adagrad` one number a row, `rowwise_adam` a
    mean as large as the table and two numbers a row, `sparse_adam` twice the table.

    References:
        Duchi et al. 2011, "Adaptive subgradient methods for online learning and stochastic optimization"; with one
        accumulator a row, Naumov et al. 2019, "Deep learning recommendation model" (DLRM), as its authors train it.
        Kingma and Ba 2015, "Adam"; Loshchilov and Hutter 2019, "Decoupled weight decay regularization".
    """

    def __init__(self, groups: list[dict[str, Any]], learning_rate: float, beta2: float = 0.999) -> None:
        """Takes the parameters.

        Args:
            groups: Each with `params`, `weight_decay` and `rule`, a key of `RULES`.
            learning_rate: Of groups without an `lr`.
            beta2: Decay of the second moment of the Adam rules.
        """
        super().__init__(groups, {"lr": learning_rate, "weight_decay": 0.0, "rule": "adamw", "beta2": beta2})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One step of every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    RULES[group["rule"]](parameter, parameter.grad, self.state[parameter], group)


def clip_gradients(parameters: Iterable[nn.Parameter], norm: float) -> Tensor:
    """`clip_grad_norm_` for gradients of which some hold rows alone; returns the norm before."""
    having = [p for p in parameters if p.grad is not None]
    for parameter in having:
        if parameter.grad is not None and parameter.grad.is_sparse:
            parameter.grad = parameter.grad.coalesce()
    values = [_values(p) for p in having]
    total = torch.stack([v.norm() for v in values]).norm() if values else torch.zeros(())
    factor = (norm / (total + 1e-6)).clamp(max=1.0)
    for value in values:
        value.mul_(factor)
    return total


def _values(parameter: nn.Parameter) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad._values() if parameter.grad.is_sparse else parameter.grad


def has_rows(parameters: Iterable[nn.Parameter]) -> bool:
    """Whether some gradient holds rows alone."""
    return any(p.grad is not None and p.grad.is_sparse for p in parameters)


def _adamw(parameter: Tensor, gradient: Tensor, state: dict[str, Tensor], group: dict[str, Any]) -> None:
    if not state:
        state["step"] = torch.zeros(())
        state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
    state["step"] += 1
    mean, square, step = state["exp_avg"], state["exp_avg_sq"], float(state["step"])
    mean.lerp_(gradient, 1 - BETA1)
    square.mul_(group["beta2"]).addcmul_(gradient, gradient, value=1 - group["beta2"])
    deviation = (square / (1 - group["beta2"] ** step)).sqrt_().add_(EPS)
    parameter.mul_(1 - group["lr"] * group["weight_decay"])
    parameter.addcdiv_(mean, deviation, value=-group["lr"] / (1 - BETA1**step))


def _touched(gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Rows with a gradient (R,), each once, and their gradients (R, D)."""
    if gradient.is_sparse:
        gradient = gradient.coalesce()
        return gradient.indices()[0], gradient.values()
    rows = gradient.any(1).nonzero()[:, 0]
    return rows, gradient[rows]


def _move(parameter: Tensor, rows: Tensor, step: Tensor, group: dict[str, Any]) -> None:
    parameter[rows] = parameter[rows] * (1 - group["lr"] * group["weight_decay"]) - group["lr"] * step


def _rowwise_adagrad(parameter: Tensor, gradient: Tensor, state: dict[str, Tensor], group: dict[str, Any]) -> None:
    rows, values = _touched(gradient)
    if not state:
        state["sum"] = parameter.new_zeros(len(parameter))
    total = state["sum"][rows] + values.square().mean(1)
    state["sum"][rows] = total
    _move(parameter, rows, values / (total.sqrt() + EPS)[:, None], group)


def _rowwise_adam(parameter: Tensor, gradient: Tensor, state: dict[str, Tensor], group: dict[str, Any]) -> None:
    rows, values = _touched(gradient)
    if not state:
        state["exp_avg"] = torch.zeros_like(parameter)
        state["square"], state["steps"] = parameter.new_zeros(len(parameter)), parameter.new_zeros(len(parameter))
    beta2 = group["beta2"]
    steps = state["steps"][rows] + 1
    mean = torch.lerp(state["exp_avg"][rows], values, 1 - BETA1)
    square = beta2 * state["square"][rows] + (1 - beta2) * values.square().mean(1)
    state["steps"][rows], state["exp_avg"][rows], state["square"][rows] = steps, mean, square
    deviation = (square / (1 - beta2**steps)).sqrt() + EPS
    _move(parameter, rows, mean / ((1 - BETA1**steps) * deviation)[:, None], group)


def _sparse_adam(parameter: Tensor, gradient: Tensor, state: dict[str, Tensor], group: dict[str, Any]) -> None:
    rows, values = _touched(gradient)
    if not state:
        state["step"] = torch.zeros(())
        state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)
    state["step"] += 1
    step, beta2 = float(state["step"]), group["beta2"]
    mean = torch.lerp(state["exp_avg"][rows], values, 1 - BETA1)
    square = beta2 * state["exp_avg_sq"][rows] + (1 - beta2) * values.square()
    state["exp_avg"][rows], state["exp_avg_sq"][rows] = mean, square
    deviation = (square / (1 - beta2**step)).sqrt_().add_(EPS)
    _move(parameter, rows, mean / deviation / (1 - BETA1**step), group)


RULES: dict[str, Callable[[Tensor, Tensor, dict[str, Tensor], dict[str, Any]], None]] = {
    "adamw": _adamw,
    "rowwise_adagrad": _rowwise_adagrad,
    "rowwise_adam": _rowwise_adam,
    "sparse_adam": _sparse_adam,
}
