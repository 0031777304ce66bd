"""Recommendation files of any library, (user_id, item_id, score or rank) as Parquet or CSV, and ranked lists."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl

from distill.data.dataset import Dataset
from distill.errors import UserError
from distill.plugins import nearest
from distill.ranking.cases import Cases, contains

FINGERPRINT = "taildistill.data"  # key in the Parquet file's metadata: fingerprint of the data the lists were made for
Seen = Literal["error", "drop", "keep"]


def read_recommendations(path: Path, dataset: Dataset, cases: Cases, k: int, seen: Seen = "error") -> np.ndarray:
    """Reads a file of recommendations as ranked lists.

    Rows of users who aren't evaluated are left out; an evaluated user without rows gets an empty list, which counts as
    a miss. With a column `rank` (1 is best) the order is its; else it's that of `score`, ties by item index.

    Args:
        path: Parquet or CSV with the columns user_id, item_id, and rank or score. Ids are compared as text.
        dataset: The data that the ids belong to.
        cases: The evaluated users.
        k: Length of the lists, 1..N.
        seen: What to do with items of the user's own history: refuse the file, drop them (later items move up), or
            keep them (they take places and can't be hits).

    Returns:
        Item indices, int32 (U, k), -1 behind the end.

    Raises:
        UserError: The file is missing, unreadable, empty or made for other data; a column is missing; an id is
            unknown; a pair occurs twice; a score is NaN or infinite; a rank repeats; seen items under "error".
    """
    if not 1 <= k <= dataset.n_items:
        raise UserError(f"Lists of k = {k} were asked for; expected 1 to {dataset.n_items}, the size of the catalogue.")
    frame = _read(path, dataset)
    users = _index(frame["user_id"], dataset.user_ids, "user", path)
    items = _index(frame["item_id"], dataset.item_ids, "item", path)
    _refuse_repeats(users, items, dataset, path)
    key = _order_key(frame, users, dataset, path)
    row_of = np.full(dataset.n_users, -1, np.int64)
    row_of[cases.users] = np.arange(len(cases))
    keep = row_of[users] >= 0
    rows, items, key = row_of[users[keep]], items[keep], key[keep]
    if not len(rows):
        raise UserError(f"{path} has no recommendation for any of the {len(cases)} evaluated users.")
    order = np.lexsort((items, key, rows))
    rows, items = rows[order], items[order]
    if seen != "keep":
        rows, items = _without_seen(rows, items, cases, dataset, path, drop=seen == "drop")
    places = np.arange(len(rows)) - np.searchsorted(rows, rows)
    ranked = np.full((len(cases), k), -1, np.int32)
    short = places < k
    ranked[rows[short], places[short]] = items[short]
    return ranked


def write_recommendations(path: Path, ranked: np.ndarray, dataset: Dataset, users: np.ndarray) -> None:
    """Writes ranked lists as (user_id, item_id, rank) with the data's fingerprint in the file's metadata.

    Args:
        path: Parquet file to write.
        ranked: Item indices, int (U, K), -1 behind the end.
        dataset: The data the indices belong to.
        users: Data set index of each row, (U,).
    """
    rows, places = np.nonzero(ranked >= 0)
    frame = pl.DataFrame(
        {
            "user_id": dataset.user_ids[users[rows]].astype(str),
            "item_id": dataset.item_ids[ranked[rows, places]].astype(str),
            "rank": places + 1,
        }
    )
    temporary = path.with_name(path.name + ".tmp")
    frame.write_parquet(temporary, metadata={FINGERPRINT: dataset.fingerprint})
    temporary.replace(path)


def _read(path: Path, dataset: Dataset) -> pl.DataFrame:
    if not path.is_file():
        raise UserError(f"There is no recommendations file '{path}'.")
    try:
        if path.suffix == ".csv":
            frame = pl.read_csv(path, infer_schema_length=None)
        else:
            frame = pl.read_parquet(path)
            made_for = pl.read_parquet_metadata(path).get(FINGERPRINT, dataset.fingerprint)
            if made_for != dataset.fingerprint:
                raise UserError(
                    f"{path} was made for data with fingerprint {made_for[:12]}, but this data has "
                    f"{dataset.fingerprint[:12]}: items or the split differ. Recommend again on this data."
                )
    except (pl.exceptions.PolarsError, OSError) as error:
        raise UserError(f"{path} can't be read as {path.suffix or 'Parquet'}: {error}") from error
    needed = ["user_id", "item_id", *(["score"] if "rank" not in frame.columns else [])]
    for column in needed:
        if column not in frame.columns:
            choice = "'rank' or 'score'" if column == "score" else f"'{column}'"
            raise UserError(f"{path} has no column {choice}{nearest(column, frame.columns)}.")
    if frame.is_empty():
        raise UserError(f"{path} has no rows: expected one for each recommended item of each user.")
    return frame


def _index(ids: pl.Series, known: np.ndarray, kind: str, path: Path) -> np.ndarray:
    """Index of each id in `known`, int64 (R,)."""
    text = _as_text(ids)
    table = pl.DataFrame({"id": known.astype(str), "index": np.arange(len(known))})
    index = pl.DataFrame({"id": text}).join(table, on="id", how="left", maintain_order="left")["index"]
    if index.null_count():
        missing = text.filter(index.is_null())
        raise UserError(
            f"{path}: {missing.n_unique()} {kind}s in {len(missing)} rows are not in the data; the first is "
            f"'{missing[0]}'. Expected ids such as '{known[0]}'. Recommend only {kind}s of the prepared data, under "
            "their original ids."
        )
    return index.to_numpy()


def _as_text(ids: pl.Series) -> pl.Series:
    """Ids as text; whole floats (which pandas makes of integer columns with gaps) without their '.0'."""
    if ids.dtype.is_float() and ids.drop_nulls().is_finite().all() and (ids.drop_nulls() % 1 == 0).all():
        ids = ids.cast(pl.Int64)
    return ids.cast(pl.String)


def _refuse_repeats(users: np.ndarray, items: np.ndarray, dataset: Dataset, path: Path) -> None:
    keys = np.sort(users * np.int64(dataset.n_items) + items)
    repeated = keys[1:][keys[1:] == keys[:-1]]
    if len(repeated):
        user, item = divmod(int(repeated[0]), dataset.n_items)
        raise UserError(
            f"{path}: {len(repeated)} rows repeat an item of the same user; the first is user "
            f"'{dataset.user_ids[user]}', item '{dataset.item_ids[item]}'. A repeated hit would count twice: keep "
            "one row of each pair."
        )


def _order_key(frame: pl.DataFrame, users: np.ndarray, dataset: Dataset, path: Path) -> np.ndarray:
    """What the rows of a user are sorted by, ascending; float64 (R,)."""
    column = "rank" if "rank" in frame.columns else "score"
    if not frame[column].dtype.is_numeric():
        raise UserError(f"{path}: column '{column}' holds {frame[column].dtype}, expected numbers.")
    values = frame[column].cast(pl.Float64).to_numpy()
    wrong = ~np.isfinite(values)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise UserError(
            f"{path}: {np.count_nonzero(wrong)} values of '{column}' are missing, NaN or infinite; the first is in row "
            f"{row + 1} (user '{dataset.user_ids[users[row]]}'). Expected finite numbers."
        )
    if column == "score":
        return -values
    order = np.lexsort((values, users))
    same = (users[order][1:] == users[order][:-1]) & (values[order][1:] == values[order][:-1])
    if same.any():
        user = dataset.user_ids[users[order][1:][same][0]]
        raise UserError(
            f"{path}: {np.count_nonzero(same)} ranks occur twice for a user; the first is of user '{user}'. Expected "
            "each rank once, 1 for the best item (or a column 'score' instead, whose ties are allowed)."
        )
    return values


def _without_seen(
    rows: np.ndarray, items: np.ndarray, cases: Cases, dataset: Dataset, path: Path, *, drop: bool
) -> tuple[np.ndarray, np.ndarray]:
    keys = rows * np.int64(cases.n_items) + items
    listed = contains(cases.seen_keys, keys)
    if listed.any() and not drop:
        row, item = int(rows[listed][0]), int(items[listed][0])
        raise UserError(
            f"{path}: {np.count_nonzero(listed)} rows recommend items that the user already had before the evaluated "
            f"part (user '{dataset.user_ids[cases.users[row]]}', item '{dataset.item_ids[item]}'). They can't be "
            "hits and take places. Mask them in the recommender, or choose --seen drop (later items move up) or "
            "--seen keep."
        )
    return rows[~listed], items[~listed]
