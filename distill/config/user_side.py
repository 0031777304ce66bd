"""Settings of what a student reads besides the history, and of what it predicts besides the next item."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class UserSide:
    """What is added to a student's query; all of it starts at zero.

    Attributes:
        attributes: The users' attributes, `data.user_attributes`.
        recent: Features of recent actions: decayed means of the items' attributes and categories, and the length.
        factor: A learned row for each user of the train part.
        dropout: Share of training rows without attributes, and of those without a factor.
    """

    attributes: bool = False
    recent: bool = False
    factor: bool = False
    dropout: float = 0.2

    def __bool__(self) -> bool:
        return self.attributes or self.recent or self.factor


@dataclass(frozen=True)
class Head:
    """A further head of the student, on the weights of events (`data.weight`).

    Attributes:
        weight: Its part in the total loss.
        least: An event with at least this weight is a yes: a binary head. Without it the weight itself is predicted.
    """

    weight: float = 0.1
    least: float | None = None
