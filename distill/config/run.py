"""Settings of a run as a whole, and the form in which plug-ins are named."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Spec:
    """A plug-in by name with its own settings: `{name: ease, l2: 50}`."""

    name: str
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """Where results go: `<folder>/<name>/<stage>/`."""

    name: str = "run"
    folder: str = "runs"
    tracker: Literal["tensorboard", "wandb", "mlflow", "none"] = "tensorboard"
