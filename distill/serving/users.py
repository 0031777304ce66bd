"""What a bundle knows of users: attributes as columns, and vectors of known users; both end as one vector a user."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from typing import Any

import numpy as np

from distill.errors import UserError
from distill.plugins import nearest

TABLE, KNOWN, IDS = "user.attributes.npy", "users.vectors.npy", "users.json"
MOST_NAMES = 20_000  # ids that are looked through for a hint


@dataclass(frozen=True)
class UserInputs:
    """The user side of a bundle.

    Attributes:
        columns: What each column of the attributes holds: name, mean and std of a number; name and values.
        table: What one unit of each column adds: to the query in the first D columns, float32 (A, 2 D), and in the
            others to the query of someone without a history.
        ids: Users with a vector of their own; none without a learned factor.
        vectors: Their vectors, attributes and factor together, float32 (U, 2 D).
        empty_weight: How much the attributes of a user without a history count beside popularity, chosen on
            validation; 0 is popularity alone.
    """

    columns: Sequence[Mapping[str, Any]]
    table: np.ndarray
    ids: Sequence[str]
    vectors: np.ndarray
    empty_weight: float

    @classmethod
    def read(cls, about: Mapping[str, Any], read: Callable[[str], bytes]) -> UserInputs:
        """The user side that the entry `user` of a bundle.json describes.

        Args:
            about: The entry.
            read: A file's name to its checked bytes.

        Raises:
            UserError: A file is damaged, or the shapes don't fit.
        """
        import json

        table = _array(read(TABLE)) if about["attributes"] else np.zeros((0, 2 * about["dim"]), np.float32)
        ids = json.loads(read(IDS)) if about["known"] else []
        vectors = _array(read(KNOWN)) if about["known"] else np.zeros((0, 2 * about["dim"]), np.float32)
        width = sum(len(column.get("values", [0])) for column in about["attributes"])
        if table.shape != (width, 2 * about["dim"]) or vectors.shape != (len(ids), 2 * about["dim"]):
            raise UserError(f"The bundle's {TABLE} or {KNOWN} doesn't fit its bundle.json. Export the bundle again.")
        return cls(about["attributes"], table, ids, vectors, float(about["empty_weight"]))

    def row(self, attributes: Mapping[str, Any]) -> np.ndarray:
        """The columns float32 (A,) of attributes by name; a category may be a list or "a|b". What is missing is 0.

        Raises:
            UserError: An attribute is unknown, or a number isn't one.
        """
        names = [column["name"] for column in self.columns]
        for name in attributes:
            if name not in names:
                raise UserError(f"The bundle knows no attribute '{name}' of users{nearest(name, names)}.")
        parts = [self._part(column, attributes.get(column["name"])) for column in self.columns]
        return np.concatenate([np.zeros(0, np.float32), *parts])

    def vector(self, attributes: Mapping[str, Any] | None = None, user: str = "") -> np.ndarray:
        """What is known float32 (2 D,), for `Bundle.recommend`: of a known user, or of someone with these attributes.

        Raises:
            UserError: As in `row`; or the user is unknown.
        """
        if user and not attributes:
            if user not in self._places:
                hint = nearest(user, self.ids) if len(self.ids) < MOST_NAMES and self.ids else "."
                raise UserError(f"The bundle knows no user '{user}'{hint}")
            found: np.ndarray = self.vectors[self._places[user]]
            return found
        return self.row(attributes or {}) @ self.table

    def vectors_of(self, names: Sequence[str], rows: np.ndarray | None) -> np.ndarray:
        """Vectors float32 (B, 2 D) of users by name: known ones' own, others' by their attributes, else zeros.

        Args:
            names: User ids (B,).
            rows: Their attributes as columns (B, A), or None.
        """
        width = self.table.shape[1]
        found = np.zeros((len(names), width), np.float32) if rows is None or not len(self.table) else rows @ self.table
        places = np.array([self._places.get(str(name), -1) for name in names])
        found[places >= 0] = self.vectors[places[places >= 0]]
        return found

    def knows(self, user: str) -> bool:
        """Whether a user has a vector of his or her own."""
        return user in self._places

    @cached_property
    def _places(self) -> dict[str, int]:
        return {name: place for place, name in enumerate(self.ids)}

    def _part(self, column: Mapping[str, Any], value: Any) -> np.ndarray:
        if "values" not in column:
            return np.array([self._number(column, value)], np.float32)
        part = np.zeros(len(column["values"]), np.float32)
        given = value if isinstance(value, list | tuple) else str(value or "").split("|")
        words = {str(word).strip() for word in given} - {""}
        for word in words & set(column["values"]):
            part[column["values"].index(word)] = 1.0 / len(words)
        unknown = words - set(column["values"])
        if unknown and unknown == words:
            word = sorted(unknown)[0]
            raise UserError(f"The attribute '{column['name']}' has no value '{word}'{nearest(word, column['values'])}.")
        return part

    @staticmethod
    def _number(column: Mapping[str, Any], value: Any) -> float:
        if value is None or value == "":
            return 0.0
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = float("nan")
        if not np.isfinite(number):
            raise UserError(f"The attribute '{column['name']}' is {value!r}, expected a number.")
        return (number - float(column["mean"])) / float(column["std"])


def tilted_popularity(popularity: np.ndarray, known: np.ndarray, unknown: np.ndarray, weight: float) -> np.ndarray:
    """Scores of users without a history: log(1 + events) + weight * (score with the user's vector - score without).

    The difference is the dot product of the user's vector with the item's: biases and the answer to an empty history,
    which a student hardly learns, drop out, and the popularity that is known exactly takes their place.

    Args:
        popularity: Train interactions (N,).
        known: Scores with the users' vectors (E, N), -inf for items that are never listed.
        unknown: Scores without (1, N).
        weight: How much the difference counts.
    """
    listed = np.isfinite(known) & np.isfinite(unknown)
    difference = np.where(listed, known, 0.0) - np.where(listed, unknown, 0.0)
    prior = np.log1p(popularity.astype(np.float64))
    return np.where(listed, prior + weight * difference, -np.inf).astype(np.float32)


def _array(content: bytes) -> np.ndarray:
    try:
        return np.load(BytesIO(content), allow_pickle=False)
    except ValueError as error:
        raise UserError(f"A file of the bundle's user side is damaged: {error}. Export the bundle again.") from error
