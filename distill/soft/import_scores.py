"""An outside model's scores as a store, so that a teacher this project never saw can be distilled."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from distill.data.contexts import Contexts, Kind, concatenate, from_lists, train_contexts
from distill.data.dataset import Dataset, Lists
from distill.errors import UserError
from distill.runs import sha256
from distill.soft.store import CONTEXTS, Store, StoreHeader, StoreWriter, unanswered
from distill.soft.targets import check_k

SHARD_ROWS = 16_384
BY_USER = ("user_id", "item_id", "score")
BY_CONTEXT = ("history", "items", "scores")


@dataclass(frozen=True)
class Answers:
    """Scores of items for contexts, one entry a pair, in any order.

    Attributes:
        row: Context of each entry, int64 (M,).
        item: Item (M,).
        score: Score, float64 (M,).
    """

    row: np.ndarray
    item: np.ndarray
    score: np.ndarray

    def where(self, keep: np.ndarray) -> Answers:
        """The entries that `keep` (M,) names."""
        return Answers(self.row[keep], self.item[keep], self.score[keep])


def import_scores(path: Path, dataset: Dataset, out: Path, k: int = 100, scale: float = 1.0) -> dict[str, int]:
    """Reads scores from Parquet or CSV and writes a store, with its contexts, into the folder `out`.

    A file with the columns user_id, item_id, score answers one context a user: the whole train history. A Parquet file
    with the columns history, items (lists of item ids, the history oldest first) and scores (a list of numbers) answers
    the contexts that it names. The labelled train prefixes stand before them in either case, unanswered, so that a
    student learns from both.

    A list says nothing of the items that it leaves out: log Z is the log-sum-exp of what is listed and unseen. A file
    that scores the whole catalogue gives the exact one.

    Args:
        path: A .parquet or .csv file.
        dataset: The prepared data that the store is for.
        out: An empty folder.
        k: Items kept a context, the best ones.
        scale: Factor on the scores, which should be log-probabilities up to a constant: a sharpness.

    Returns:
        What was found and left out: entries, unknown users and items, duplicates, items of the history, contexts.

    Raises:
        UserError: The file can't be read or lacks columns, a score is no finite number, nothing is left, or k reaches
            the catalogue.
    """
    check_k(k, dataset.n_items)
    frame = _read(path)
    base = train_contexts(dataset)
    counts: dict[str, int] = {}
    if set(BY_USER) <= set(frame.columns):
        contexts = base
        answers = _by_user(frame, dataset, base, counts)
    elif set(BY_CONTEXT) <= set(frame.columns):
        given, answers = _by_context(frame, dataset, counts, path)
        contexts = concatenate([base, given])
        answers = Answers(answers.row + len(base), answers.item, answers.score)
    else:
        raise UserError(
            f"{path} has the columns {', '.join(frame.columns)}; expected {', '.join(BY_USER)} (a score a line), or "
            f"{', '.join(BY_CONTEXT)} (a context a line, with lists)."
        )
    _check_finite(answers, path)
    answers = _clean(answers, contexts, counts)
    if not len(answers.row):
        raise UserError(
            f"{path}: nothing is left to import ({_words(counts)}). Are the ids those of the prepared data?"
        )
    counts["contexts answered"] = len(np.unique(answers.row))
    header = StoreHeader(
        k, [1.0], 0, dataset.n_items, dataset.item_vocabulary, dataset.fingerprint, teacher=sha256(path)
    )
    _write(answers, contexts, header, out, scale)
    return counts


def _read(path: Path) -> pl.DataFrame:
    if not path.is_file():
        raise UserError(f"There is no file {path}.")
    readers = {".parquet": pl.read_parquet, ".csv": lambda p: pl.read_csv(p, infer_schema_length=10_000)}
    if path.suffix not in readers:
        raise UserError(f"{path}: expected a .parquet or .csv file.")
    try:
        return readers[path.suffix](path)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise UserError(f"{path} can't be read: {str(error).splitlines()[0]}") from error


def _by_user(frame: pl.DataFrame, dataset: Dataset, base: Contexts, counts: dict[str, int]) -> Answers:
    """Entries for the row of each user's whole train history."""
    user, item = _index(frame["user_id"], dataset.user_ids), _index(frame["item_id"], dataset.item_ids)
    rows = np.full(dataset.n_users + 1, -1, np.int64)
    whole = np.flatnonzero(base.target < 0)
    rows[base.user[whole]] = whole
    counts |= {"entries": len(frame), "entries of unknown users": int((user < 0).sum())}
    counts["entries of unknown items"] = int((item < 0).sum())
    counts["entries of users without train events"] = int(((rows[user] < 0) & (user >= 0)).sum())
    score = _numbers(frame["score"])
    return Answers(rows[user], item, score).where((rows[user] >= 0) & (item >= 0))


def _by_context(frame: pl.DataFrame, dataset: Dataset, counts: dict[str, int], path: Path) -> tuple[Contexts, Answers]:
    """One context a line with its entries; lines whose history has no known item are left out."""
    for name in BY_CONTEXT:
        if not isinstance(frame.schema[name], pl.List):
            raise UserError(f"{path}: the column '{name}' is {frame.schema[name]}, expected lists (use Parquet).")
    lengths = frame.select(pl.col("items").list.len().fill_null(0), pl.col("scores").list.len().fill_null(0))
    uneven = (lengths["items"] != lengths["scores"]).to_numpy()
    if uneven.any():
        number = int(np.flatnonzero(uneven)[0])
        found = lengths.row(number)
        raise UserError(f"{path}: line {number} has {found[0]} items and {found[1]} scores, expected as many of both.")
    owner, events = _explode(frame["history"])
    history = _index(events, dataset.item_ids)
    known = history >= 0
    sizes = np.bincount(owner[known], minlength=len(frame))
    flat = Lists(np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64), history[known].astype(np.int32))
    kept = np.flatnonzero(sizes)
    user = np.full(len(frame), -1, np.int64)
    if "user_id" in frame.columns:
        user = _index(frame["user_id"], dataset.user_ids)
    given = from_lists(flat.take(kept), dataset.n_items, Kind.GIVEN, user[kept])
    line, items = _explode(frame["items"])
    item, score = _index(items, dataset.item_ids), _numbers(_explode(frame["scores"])[1])
    place = np.full(len(frame), -1, np.int64)
    place[kept] = np.arange(len(kept))
    counts |= {"contexts": len(frame), "contexts without a known item": len(frame) - len(kept), "entries": len(line)}
    counts["unknown items in histories"] = int((~known).sum())
    counts["entries of unknown items"] = int((item < 0).sum())
    return given, Answers(place[line], item, score).where((place[line] >= 0) & (item >= 0))


def _explode(column: pl.Series) -> tuple[np.ndarray, pl.Series]:
    """Line of each entry of a column of lists, and the entries."""
    lengths = column.list.len().fill_null(0)
    return np.repeat(np.arange(len(column)), lengths.to_numpy()), column.filter(lengths > 0).explode()


def _index(ids: pl.Series, names: np.ndarray) -> np.ndarray:
    """Numbers of ids, int64; -1 for unknown ones."""
    known = pl.DataFrame({"id": names.astype(str), "number": np.arange(len(names))})
    text = ids.cast(pl.String, strict=False).fill_null("").alias("id").to_frame()
    return text.join(known, on="id", how="left", maintain_order="left")["number"].fill_null(-1).to_numpy()


def _numbers(column: pl.Series) -> np.ndarray:
    return column.cast(pl.Float64, strict=False).fill_null(float("nan")).to_numpy()


def _check_finite(answers: Answers, path: Path) -> None:
    broken = ~np.isfinite(answers.score)
    if broken.any():
        raise UserError(
            f"{path}: {int(broken.sum()):,} scores are no finite numbers (NaN, infinite, empty or text). Leave out the "
            "items that the model can't score."
        )


def _clean(answers: Answers, contexts: Contexts, counts: dict[str, int]) -> Answers:
    """One entry a pair, the best, and none of the context's own history."""
    key = answers.row * np.int64(contexts.n_items) + answers.item
    order = np.lexsort((-answers.score, key))
    first = np.concatenate([[True], np.diff(key[order]) != 0])[: len(order)]
    counts["duplicates (the best was kept)"] = int((~first).sum())
    answers = answers.where(order[first])
    rows = np.unique(answers.row)
    lengths = contexts.lengths[rows]
    flat = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths - contexts.start[rows], lengths)
    seen = np.repeat(rows, lengths) * np.int64(contexts.n_items) + contexts.items[flat]
    repeated = np.isin(answers.row * np.int64(contexts.n_items) + answers.item, seen)
    counts["entries of items in the history"] = int(repeated.sum())
    return answers.where(~repeated)


def _write(answers: Answers, contexts: Contexts, header: StoreHeader, out: Path, scale: float) -> Store:
    """Entries to shards: the best k of each row, padded, and log-sum-exp over all of the row's."""
    score = answers.score * scale
    order = np.lexsort((-score, answers.row))
    row, item, score = answers.row[order], answers.item[order], score[order]
    bounds = np.searchsorted(row, np.arange(0, len(contexts) + 1))
    rank = np.arange(len(row)) - bounds[row]
    writer = StoreWriter(out, header)
    starts = list(range(0, len(contexts), SHARD_ROWS))
    for shard, first in enumerate(starts):
        last = min(first + SHARD_ROWS, len(contexts))
        arrays = unanswered(last - first, header)
        inside = slice(bounds[first], bounds[last])
        here, place = row[inside] - first, rank[inside]
        kept = place < header.k
        arrays["items"][here[kept], place[kept]] = item[inside][kept]
        arrays["scores"][here[kept], place[kept]] = score[inside][kept]
        best = arrays["scores"][:, 0].astype(np.float64)
        total = np.bincount(here, np.exp(score[inside] - best[here]), last - first)
        arrays["logz"][:, 0] = np.where(total > 0, best + np.log(np.maximum(total, 1e-300)), 0.0)
        writer.write(shard, np.arange(first, last), arrays)
    contexts.write(out / CONTEXTS)
    writer.close(starts, len(contexts))
    return Store.open(out)


def _words(counts: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.items() if count)
