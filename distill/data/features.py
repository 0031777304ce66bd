"""What is known of items and users besides their ids: numbers, categories, ready-made vectors; and their statistics."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import polars as pl

from distill.data.files import write_atomically
from distill.data.ragged import Lists
from distill.errors import UserError
from distill.plugins import nearest

ABOUT = "features.json"
TEXT, ATTRIBUTES = "text", "attributes"
MOST_VALUES = 256  # columns of one categorical attribute in a matrix; rarer values share none


@dataclass(frozen=True)
class Attributes:
    """Attributes of R items or users.

    Attributes:
        numbers: Name to values, float32 (R,); nan where missing.
        lists: Name to the codes of each row's values (rows without any are empty).
        vocabularies: Name to the values of the codes, sorted.
    """

    numbers: Mapping[str, np.ndarray] = field(default_factory=dict)
    lists: Mapping[str, Lists] = field(default_factory=dict)
    vocabularies: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.numbers or self.lists)

    def statistics(self) -> dict[str, Any]:
        """What serving needs to treat new values alike: mean, std, range and gaps of numbers; values of categories."""
        numeric = {}
        for name, values in self.numbers.items():
            known = values[~np.isnan(values)].astype(np.float64)
            spread = known if len(known) else np.zeros(1)
            numeric[name] = {
                "mean": float(spread.mean()),
                "std": float(spread.std()),
                "min": float(spread.min()),
                "max": float(spread.max()),
                "missing": int(len(values) - len(known)),
            }
        categorical = {name: list(vocabulary) for name, vocabulary in self.vocabularies.items()}
        return {"numeric": numeric, "categorical": categorical}

    def matrix(self) -> np.ndarray:
        """All attributes side by side, float32 (R, F): standardised numbers (0 where missing), shares of categories.

        An attribute with more than 256 values gives columns to the 256 most frequent alone; see `columns`.
        """
        columns = []
        for name, about in self.statistics()["numeric"].items():
            columns.append(np.nan_to_num((self.numbers[name] - about["mean"]) / (about["std"] or 1.0))[:, None])
        for lists in self.lists.values():
            counts = np.bincount(lists.items)
            kept = _frequent(counts)
            place = np.full(len(counts), -1)
            place[kept] = np.arange(len(kept))
            block = np.zeros((len(lists), len(kept)), np.float32)
            inside = place[lists.items] >= 0
            rows = lists.row_numbers()[inside]
            block[rows, place[lists.items[inside]]] = 1.0 / lists.lengths[rows]
            columns.append(block)
        return np.concatenate(columns, axis=1).astype(np.float32)

    def columns(self) -> list[dict[str, Any]]:
        """What the columns of `matrix` hold, in their order: name, mean and std of a number; name and values."""
        numeric = self.statistics()["numeric"]
        found: list[dict[str, Any]] = [
            {"name": name, "mean": about["mean"], "std": about["std"] or 1.0} for name, about in numeric.items()
        ]
        for name, lists in self.lists.items():
            kept = _frequent(np.bincount(lists.items))
            found.append({"name": name, "values": [self.vocabularies[name][code] for code in kept]})
        return found


def _frequent(counts: np.ndarray) -> np.ndarray:
    """Codes of the most frequent values, in the order of the codes."""
    return np.sort(np.argsort(-counts, kind="stable")[:MOST_VALUES])


@dataclass(frozen=True)
class Features:
    """Attributes and vectors of a data set.

    Attributes:
        items: Attributes of the items, in catalogue order.
        users: Attributes of the users.
        embeddings: Name to item vectors, float32 (N, d); zero rows for items without one.
        categories: Which of the items' attributes are its categories (genres); "" without.
    """

    items: Attributes = field(default_factory=Attributes)
    users: Attributes = field(default_factory=Attributes)
    embeddings: Mapping[str, np.ndarray] = field(default_factory=dict)
    categories: str = ""

    def __bool__(self) -> bool:
        return bool(self.items or self.users or self.embeddings)

    def arrays(self) -> Iterator[tuple[str, np.ndarray]]:
        """Every array under a name, in a fixed order: what a fingerprint covers."""
        for kind, attributes in (("items", self.items), ("users", self.users)):
            for name, values in sorted(attributes.numbers.items()):
                yield f"{kind}/{name}", values
            for name, lists in sorted(attributes.lists.items()):
                yield f"{kind}/{name}/{json.dumps(list(attributes.vocabularies[name]))}", lists.items
                yield f"{kind}/{name}/indptr", lists.indptr
        for name, vectors in sorted(self.embeddings.items()):
            yield f"embeddings/{name}", vectors

    def about(self) -> dict[str, Any]:
        """Statistics and vocabularies: the content of features.json."""
        return {
            "items": self.items.statistics(),
            "users": self.users.statistics(),
            "embeddings": {name: list(vectors.shape) for name, vectors in self.embeddings.items()},
            "categories": self.categories,
        }

    def write(self, folder: Path) -> None:
        """Writes features.json, a Parquet file for the attributes of items and of users, and one .npy an embedding."""
        for kind, attributes in (("item", self.items), ("user", self.users)):
            if attributes:
                frame = _to_frame(attributes)
                write_atomically(folder / f"{kind}_features.parquet", frame.write_parquet)
        for name, vectors in self.embeddings.items():
            write_atomically(folder / f"embedding_{name}.npy", partial(_save_npy, vectors=vectors))
        text = json.dumps(self.about(), indent=2, ensure_ascii=False)
        write_atomically(folder / ABOUT, lambda file: file.write(text.encode()))

    @classmethod
    def read(cls, folder: Path) -> Features:
        """Reads what `write` wrote; nothing there is no features."""
        if not (folder / ABOUT).is_file():
            return cls()
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        items, users = (
            _from_frame(folder / f"{kind}_features.parquet", about[f"{kind}s"]["categorical"])
            for kind in ("item", "user")
        )
        names = about["embeddings"]
        embeddings = {name: np.load(folder / f"embedding_{name}.npy", allow_pickle=False) for name in names}
        return cls(items, users, embeddings, about["categories"])


def item_matrix(features: Features, groups: Sequence[str]) -> np.ndarray | None:
    """The wanted groups of item features side by side, each scaled to rows of mean length 1.

    Args:
        features: Of a data set.
        groups: Names of embeddings, or "attributes".

    Returns:
        float32 (N, F), or None without groups.

    Raises:
        UserError: A group isn't there; the message lists those that are.
    """
    known = {**features.embeddings, **({ATTRIBUTES: features.items.matrix()} if features.items else {})}
    for group in groups:
        if group not in known:
            raise UserError(
                f"There is no group '{group}' of item features{nearest(group, known)}. This data set has: "
                f"{', '.join(known) or 'none'}. Name vectors in data.embeddings, columns in data.item_attributes."
            )
    return np.concatenate([_scaled(known[group]) for group in groups], axis=1) if groups else None


def join_vectors(text: np.ndarray | None, extra: np.ndarray | None, width: int = 0) -> np.ndarray | None:
    """Text vectors and further item features in one space, reduced to `width` by principal components.

    Both parts count alike: each is centred and scaled to rows of mean length 1 before they are put side by side.

    Args:
        text: Text vectors (N, T), or None.
        extra: What `item_matrix` gives (N, F), or None.
        width: Dimensions wanted; 0 takes T, or F without text. The result is never wider than T + F.

    Returns:
        float32 (N, D), rows of mean length 1; `text` itself where there is nothing to add, None without either.
    """
    if extra is None:
        return text
    parts = [_scaled(extra)] if text is None else [_scaled(text), _scaled(extra)]
    joined = np.concatenate(parts, axis=1).astype(np.float64)
    width = min(width or parts[0].shape[1], joined.shape[1])
    joined -= joined.mean(0)
    _, components = np.linalg.eigh(joined.T @ joined)  # ascending
    components = components[:, ::-1][:, :width]
    # The sign of an eigenvector is arbitrary: the largest entry is made positive, so that a rerun gives the same.
    largest = np.abs(components).argmax(0)
    components = components * np.sign(components[largest, np.arange(width)])
    return _scaled(joined @ components, centre=False)


def _save_npy(file: BinaryIO, vectors: np.ndarray) -> None:
    np.save(file, vectors, allow_pickle=False)


def _scaled(vectors: np.ndarray, centre: bool = True) -> np.ndarray:
    vectors = np.asarray(vectors, dtype=np.float64)
    if centre:
        vectors = vectors - vectors.mean(0)
    length = np.sqrt((vectors**2).sum(1)).mean()
    return (vectors / (length or 1.0)).astype(np.float32)


def _to_frame(attributes: Attributes) -> pl.DataFrame:
    columns: dict[str, Any] = dict(attributes.numbers)
    for name, lists in attributes.lists.items():
        rows = pl.DataFrame({"row": lists.row_numbers(), "code": lists.items})
        grouped = rows.group_by("row", maintain_order=True).agg("code")
        whole = pl.DataFrame({"row": np.arange(len(lists))}).join(grouped, on="row", how="left", maintain_order="left")
        columns[name] = whole["code"].fill_null(pl.lit([], dtype=pl.List(pl.Int32)))
    return pl.DataFrame(columns)


def _from_frame(path: Path, vocabularies: Mapping[str, Sequence[str]]) -> Attributes:
    if not path.is_file():
        return Attributes()
    frame = pl.read_parquet(path)
    lists = {}
    for name in vocabularies:
        lengths = frame[name].list.len().to_numpy()
        indptr = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        lists[name] = Lists(indptr, frame[name].explode().drop_nulls().to_numpy().astype(np.int32))
    numbers = {name: frame[name].to_numpy() for name in frame.columns if name not in vocabularies}
    return Attributes(numbers, lists, dict(vocabularies))
