"""A bundle, opened: recommends for histories of item indices, ids or titles with onnxruntime alone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from distill.errors import UserError
from distill.serving.catalogue import Catalogue
from distill.serving.exact import VARIANT, ExactGraph
from distill.serving.heads import HeadGraph
from distill.serving.scan_files import ENCODER
from distill.serving.session import Graph
from distill.serving.users import UserInputs, tilted_popularity

BUNDLE = "bundle.json"
FORMAT = 1
Histories = Sequence[Sequence[int] | np.ndarray]


@dataclass(frozen=True)
class Bundle:
    """A checked bundle with one of its variants loaded.

    Attributes:
        about: What bundle.json says.
        variant: The loaded variant.
        items: Ids, titles and popularity of the items.
        graph: The loaded graph.
        users: What it knows of users, of a student with a user side; else None.
        heads: What it says of items besides their rank, of a student with further heads; else None.
    """

    about: dict[str, Any]
    variant: str
    items: Catalogue
    graph: Graph | ExactGraph
    users: UserInputs | None = None
    heads: HeadGraph | None = None

    @classmethod
    def open(cls, folder: str | Path, variant: str = "", threads: int = 1) -> Bundle:
        """Opens a bundle after checking its files against the hashes in bundle.json.

        Args:
            folder: The folder with bundle.json.
            variant: "fp32", "int8", …; by default int8 where the bundle has it, else its first. "exact" is the
                certified scan of the float32 table (see `distill.serving.scan`).
            threads: Threads inside an operator.

        Raises:
            UserError: There is no bundle, a file is missing, altered or outside the folder, the variant isn't in it, or
                onnxruntime can't load it.
        """
        folder = Path(folder)
        about = read_about(folder)
        names = [*about["variants"], *([VARIANT] if ENCODER in about["files"] else [])]
        variant = variant or ("int8" if "int8" in names else names[0])
        if variant not in names:
            raise UserError(
                f"{folder} has no variant '{variant}'; it has {', '.join(names)}. Add it to export.variants."
            )
        users = None
        if about.get("user"):
            users = UserInputs.read(about["user"], lambda name: checked(folder, name, about["files"]))
        heads = None
        if about.get("heads"):
            content = checked(folder, about["heads"]["file"], about["files"])
            heads = HeadGraph(content, about["heads"]["names"], threads)
        if variant == VARIANT:
            checked(folder, about["items"], about["files"])
            exact = ExactGraph.open(folder, about["files"], threads)
            return cls(about, variant, Catalogue.read(folder / about["items"]), exact, users, heads)
        model_name, items_name = about["variants"][variant]["file"], about["items"]
        model, _ = (checked(folder, name, about["files"]) for name in (model_name, items_name))
        graph = Graph(model, about["n_items"], threads)
        return cls(about, variant, Catalogue.read(folder / items_name), graph, users, heads)

    @cached_property
    def n_items(self) -> int:
        """N, the number of items; also the padding index."""
        return self.about["n_items"]

    @cached_property
    def max_length(self) -> int:
        """The student reads the last so many items of a history."""
        return self.about["max_length"]

    def recommend(
        self,
        histories: Histories,
        k: int | None = None,
        seen: Histories | None = None,
        users: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """The best k items for each history.

        Args:
            histories: Item indices of each history, oldest first, of any lengths. Only the last `max_length` are read.
                An empty one gets the most popular items, with their train interactions as scores; where something is
                known of its user, log(1 + train interactions) + weight * (what the user's vector adds to an item).
            k: Places in each list; the bundle's own k by default.
            seen: Items never listed, for each history; by default the items of the history itself.
            users: What is known of each user, from `Bundle.users`, float32 (B, 2 D); zeros for someone unknown.

        Returns:
            ids int64 (B, k), best first, -1 where fewer than k items are left, and scores float32 (B, k), -inf there.

        Raises:
            UserError: k is below 1, an index is out of range, `seen` or `users` has another number of rows, or the
                student has no user side.
        """
        k = self._length(k)
        if seen is not None and len(seen) != len(histories):
            raise UserError(
                f"{len(histories)} histories were given with {len(seen)} rows of seen items; expected one a history."
            )
        if not len(histories):
            return np.empty((0, k), np.int64), np.empty((0, k), np.float32)
        whole = self._rectangle(histories, "history")
        history = np.ascontiguousarray(whole[:, -self.max_length :])
        masked = whole if seen is None else self._rectangle(seen, "list of seen items")
        places = min(k, self.n_items)
        empty = whole[:, -1] == self.n_items
        if users is None:
            ids, scores = self.graph.top(history, masked, places)
        else:
            known, cold = self._known(users, len(history))
            ids, scores = self.graph.top(history, masked, places, known)
            asked = np.flatnonzero(empty & cold.any(1)) if self.answers_empty else np.zeros(0, np.int64)
            ids[asked], scores[asked] = self._without_history(cold[asked], masked[asked], places)
            empty[asked] = False
        for row in np.flatnonzero(empty):
            ids[row], scores[row] = self._popular(masked[row], places)
        return _widened(ids, scores, k) if places < k else (ids, scores)

    def recommend_one(
        self,
        history: Sequence[int] | np.ndarray,
        k: int | None = None,
        seen: Sequence[int] | np.ndarray | None = None,
        user: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """The best k items for one history: what `recommend` gives for it, on the fastest road.

        `user` is what is known of the user, from `Bundle.users`, float32 (2 D,).

        Returns:
            ids int64 (k,) and scores float32 (k,).

        Raises:
            UserError: As `recommend`.
        """
        if user is not None:
            ids, scores = self.recommend([history], k, None if seen is None else [seen], np.asarray(user)[None])
            return ids[0], scores[0]
        k = self._length(k)
        whole = self._row(history, "history")
        masked = whole if seen is None else self._row(seen, "list of seen items")
        places = min(k, self.n_items)
        if whole.shape[1]:
            ids, scores = self.graph.top(whole[:, -self.max_length :], masked, places)
            if places < k:
                ids, scores = _widened(ids, scores, k)
            return ids[0], scores[0]
        return self._popular(masked[0], k)

    def predict(
        self, histories: Histories, items: np.ndarray, users: np.ndarray | None = None
    ) -> dict[str, np.ndarray]:
        """What the student's further heads say of some items: ratings, probabilities of clicks or likes.

        A user's own level (how high this user rates on average) isn't part of it: values are those of an average user.

        Args:
            histories: Item indices of each history, as in `recommend`.
            items: Item indices int64 (B, K), such as `recommend` gives; -1 for none.
            users: What is known of each user, as in `recommend`.

        Returns:
            Values float32 (B, K) by name of the head, nan at -1.

        Raises:
            UserError: The student has no heads, an index is out of range, or the shapes don't fit.
        """
        if self.heads is None:
            raise UserError(
                "This bundle's student has no heads beside the ranking. Train it with a section 'heads', see "
                "docs/students.md#heads."
            )
        items = np.asarray(items, np.int64)
        if items.ndim != 2 or len(items) != len(histories):
            raise UserError(f"Items have the shape {items.shape}, expected ({len(histories)}, K): a row a history.")
        if items.size and not -1 <= items.min() <= items.max() < self.n_items:
            raise UserError(f"Items hold {items.min()} to {items.max()}; expected 0 to {self.n_items - 1}, or -1.")
        if not items.size:
            return {name: np.empty(items.shape, np.float32) for name in self.heads.names}
        history = np.ascontiguousarray(self._rectangle(histories, "history")[:, -self.max_length :])
        known = None if users is None else self._known(users, len(history))[0]
        values = self.heads.values(self.graph.query(history, known), items)
        return {name: values[..., number] for number, name in enumerate(self.heads.names)}

    @property
    def answers_empty(self) -> bool:
        """Whether what is known of a user without a history counts: validation found that it helps."""
        return self.users is not None and self.users.empty_weight > 0

    def _without_history(self, users: np.ndarray, seen: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Lists (E, k) of users (E, D) of whom nothing but their vectors is known: popularity, tilted by these."""
        assert self.users is not None
        if not len(users):
            return np.zeros((0, k), np.int64), np.zeros((0, k), np.float32)
        everyone = np.concatenate([users, np.zeros_like(users[:1])])
        history = np.full((len(everyone), 1), self.n_items, np.int64)
        nothing = np.empty((len(everyone), 0), np.int64)
        ids, scores = self.graph.top(history, nothing, self.n_items, everyone)
        whole = np.full((len(everyone), self.n_items + 1), -np.inf, np.float32)
        np.put_along_axis(whole, np.where(ids >= 0, ids, self.n_items), scores, axis=1)
        tilted = tilted_popularity(self.items.popularity, whole[:-1, :-1], whole[-1:, :-1], self.users.empty_weight)
        for row, items in zip(tilted, seen, strict=True):
            row[items[items < self.n_items]] = -np.inf
        best = np.argsort(-tilted, axis=1, kind="stable")[:, :k]
        values = np.take_along_axis(tilted, best, axis=1)
        return np.where(np.isfinite(values), best, -1), values

    def _known(self, users: np.ndarray, rows: int) -> tuple[np.ndarray, np.ndarray]:
        if self.users is None:
            raise UserError(
                "This bundle's student reads histories alone, but something about users was given. Train it with a "
                "section user_side, or leave it out."
            )
        users, dim = np.asarray(users, np.float32), self.about["student"]["dim"]
        if users.shape != (rows, 2 * dim):
            raise UserError(
                f"What is known of users has the shape {users.shape}, expected {(rows, 2 * dim)}: a row a history, "
                "from Bundle.users.vector."
            )
        return np.ascontiguousarray(users[:, :dim]), np.ascontiguousarray(users[:, dim:])

    def _length(self, k: int | None) -> int:
        k = self.about["k"] if k is None else k
        if k < 1:
            raise UserError(f"Lists of k = {k} items were asked for; expected 1 or more.")
        return k

    def _row(self, items: Sequence[int] | np.ndarray, what: str) -> np.ndarray:
        return self._checked([items], what)[None]

    def _rectangle(self, rows: Histories, what: str) -> np.ndarray:
        """Rows of any lengths as int64 (B, L), right-aligned, padded on the left with N; L is at least 1."""
        lengths = np.fromiter(map(len, rows), np.int64, len(rows))
        width = max(1, int(lengths.max()))
        filled = np.full((len(rows), width), self.n_items, np.int64)
        if lengths.any():
            filled[np.arange(width) >= width - lengths[:, None]] = self._checked(rows, what)
        return filled

    def _checked(self, rows: Histories, what: str) -> np.ndarray:
        """The items of all rows one after the other, int64, each in 0..N - 1."""
        filled = [np.asarray(row) for row in rows if len(row)]
        if not filled:
            return np.empty(0, np.int64)
        if any(row.dtype.kind not in "iu" or row.ndim != 1 for row in filled):
            raise UserError(
                f"A {what} is not a flat list of item indices (whole numbers). Turn item ids into indices with "
                "Bundle.items.index_of_id."
            )
        items = filled[0] if len(filled) == 1 else np.concatenate(filled)
        items = items.astype(np.int64, copy=False)
        # As unsigned numbers, negative ones are large: one pass finds both kinds of mistake.
        if items.view(np.uint64).max() >= self.n_items:
            wrong = items[(items < 0) | (items >= self.n_items)][0]
            raise UserError(
                f"A {what} holds the item index {wrong}; expected 0 to {self.n_items - 1}. Indices are places in the "
                "bundle's items; turn ids into indices with Bundle.items.index_of_id."
            )
        return items

    def _popular(self, seen: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
        order = self.items.by_popularity
        chosen = order[~np.isin(order, seen)][:k]
        ids, scores = np.full(k, -1, np.int64), np.full(k, -np.inf, np.float32)
        ids[: len(chosen)], scores[: len(chosen)] = chosen, self.items.popularity[chosen]
        return ids, scores


def read_about(folder: Path) -> dict[str, Any]:
    """The bundle.json of a folder.

    Raises:
        UserError: There is none, or it has another format.
    """
    path = folder / BUNDLE
    if not path.is_file():
        raise UserError(
            f"{folder} holds no bundle (there is no {BUNDLE}). Make one with: distill export-student CONFIG"
        )
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is damaged: {error}. Export the bundle again.") from error
    if about.get("format") != FORMAT:
        raise UserError(
            f"{path} has format {about.get('format')!r}; this version reads {FORMAT}. Export the bundle again."
        )
    return about


def checked(folder: Path, name: str, hashes: dict[str, str]) -> bytes:
    """The bytes of a bundle's file, which must be what was exported.

    Raises:
        UserError: The file lies outside the folder, is missing, or its sha256 differs.
    """
    path = folder / name
    if Path(name).name != name:
        raise UserError(
            f"{folder / BUNDLE} points at '{name}'; a bundle's files lie in its own folder. Export it again."
        )
    if not path.is_file():
        raise UserError(f"{path} is missing. Export the bundle again with: distill export-student CONFIG")
    content = path.read_bytes()
    found, expected = hashlib.sha256(content).hexdigest(), hashes.get(name, "none")
    if found != expected:
        raise UserError(
            f"{path} was altered or damaged: its sha256 is {found}, {BUNDLE} says {expected}. Copy the bundle again, "
            "or export it again with: distill export-student CONFIG"
        )
    return content


def _widened(ids: np.ndarray, scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Lists of more places than there are items: the places behind the end are empty."""
    extra = ((0, 0), (0, k - ids.shape[1]))
    return np.pad(ids, extra, constant_values=-1), np.pad(scores, extra, constant_values=-np.inf)
