"""One process's stand-in for Accelerate, for jobs too small to be worth splitting."""

from __future__ import annotations

import contextlib
from typing import Any

import torch
from accelerate.utils import DistributedType
from torch import nn


class Local:
    """The part of Accelerate's interface that the loop uses, for one process.

    Members that train in seconds run in the main process alone while a launch's other processes wait: an `Accelerator`
    can't do that, because its state is shared by the whole process.
    """

    num_processes = 1
    process_index = 0
    is_main_process = True
    distributed_type = DistributedType.NO

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)

    def no_sync(self, model: nn.Module) -> contextlib.AbstractContextManager[None]:
        """There is nobody to synchronise with."""
        return contextlib.nullcontext()

    def prepare(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[nn.Module, torch.optim.Optimizer]:
        """The same objects, on the device."""
        return model.to(self.device), optimizer

    def unwrap_model(self, model: nn.Module) -> nn.Module:
        """The model itself: it was never wrapped."""
        return model

    def backward(self, loss: torch.Tensor) -> None:
        """Plain backpropagation."""
        loss.backward()

    def clip_grad_norm_(self, parameters: Any, norm: float) -> torch.Tensor:
        """Clips in place and returns the norm before clipping."""
        return torch.nn.utils.clip_grad_norm_(list(parameters), norm)

    def get_state_dict(self, model: nn.Module) -> dict[str, torch.Tensor]:
        """The model's weights."""
        return model.state_dict()

    def reduce(self, tensor: torch.Tensor, reduction: str = "sum") -> torch.Tensor:
        """The sum and the mean over one process."""
        return tensor

    def log(self, values: dict[str, Any], step: int | None = None) -> None:
        """Small jobs report through the returned curve alone."""

    def free_memory(self) -> None:
        """Nothing is held."""

    def wait_for_everyone(self) -> None:
        """There is nobody to wait for."""
