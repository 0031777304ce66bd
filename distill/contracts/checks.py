"""How a contract says no."""

from __future__ import annotations

import torch
from torch import Tensor


def require(condition: bool, message: str) -> None:
    """Raises AssertionError with `message`, also under `python -O`."""
    if not condition:
        raise AssertionError(message)


def require_close(found: Tensor, wanted: Tensor, message: str) -> None:
    """Requires equality but for rounding in float32."""
    worst = float((found - wanted).detach().abs().max()) if found.numel() else 0.0
    require(torch.allclose(found, wanted, rtol=1e-4, atol=1e-5), f"{message} (largest difference {worst:.3g})")
