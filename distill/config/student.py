"""Settings of student training: losses, fit, and the controls by one word."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from distill.config.schedule import Schedule

Control = Literal[
    "",
    "no_kd",
    "text_init_only",
    "label_smoothing",
    "self_distillation",
    "popularity_teacher",
    "shuffled_teacher",
    "ease_teacher",
]


@dataclass(frozen=True)
class Loss:
    """One term of the total loss: a loss by name, how it takes part, and its own settings.

    Attributes:
        name: Short name or dotted path.
        weight: A number, or a schedule `{start, stop, begin, end, shape}`; so may be any numeric setting.
        arguments: The loss's own settings.
        balance: Scale the weight by mean(first term) / mean(this term), both as running means.
        strata: Compute it inside each popularity stratum, strata weighted equally.
        gate: Weigh each of the teacher's items by its reliability; true, or the gate's settings.
        popularity_adjustment: eta; the teacher's scores lose eta * log(events + 1). Only with `strata`.
        head: "serving", or "auxiliary" for a side head over the student's vector that is thrown away after training.
        teacher: Whose scores: "" for the run's teacher; "ease", "popularity", "shuffled" or "undistilled"; or the
            folder of another run on the same data.
    """

    name: str
    weight: float | Schedule = 1.0
    arguments: dict[str, Any] = field(default_factory=dict)
    balance: bool = False
    strata: bool = False
    gate: bool | dict[str, Any] = False
    popularity_adjustment: float = 0.0
    head: Literal["serving", "auxiliary"] = "serving"
    teacher: str = ""


@dataclass(frozen=True)
class Fit:
    """Training of the student, distilled or not.

    An epoch is a random sample of at most `rows_per_epoch` contexts (0: all), which bounds the time on large data.
    `teacher: live` asks the teacher anew for each batch in place of the store, which gives losses its whole rows.
    `kinds` keeps only those contexts of the transfer set ("real", "drop", "rollout", ...; empty: all).
    `windows` trains on stretches of so many consecutive contexts of a user in one pass, from labels alone; 0 takes
    contexts one by one. For data whose events have no order, `order: shuffled` gives each user's a new random one in
    every epoch, and `order: halves` has a random half of them be the history of all the others, from labels alone.
    `optimiser` other than AdamW moves the rows of a batch's items alone, in item tables.
    `empty_share` of the labelled contexts of a batch are shown without their history, for users without one.
    `compile` has torch.compile make one program of the losses' forward and backward; it needs a C++ compiler.
    """

    epochs: int = 5
    rows_per_epoch: int = 100_000
    batch_size: int = 512
    learning_rate: float = 3e-3
    warmup: float = 0.1
    weight_decay: float = 0.0
    clip: float = 1.0
    max_length: int = 50
    patience: int = 0
    checkpoint_steps: int = 500
    evaluations_per_epoch: int = 1
    precision: Literal["fp32", "bf16"] = "fp32"
    teacher: Literal["store", "live"] = "store"
    kinds: list[str] = field(default_factory=list)
    empty_share: float = 0.0
    windows: int = 0
    order: Literal["given", "shuffled", "halves"] = "given"
    optimiser: Literal["adamw", "rowwise_adagrad", "rowwise_adam", "sparse_adam"] = "adamw"
    compile: bool = False
