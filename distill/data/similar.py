"""Items whose texts are alike: TF-IDF vectors with random coordinates for words, and their nearest neighbours."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

WIDTH = 256  # random coordinates of a word
LEAST = 0.25  # smallest cosine of alike texts; that of unrelated ones strays from 0 by about 1 / sqrt(WIDTH) = 0.06
BLOCK = 1024  # items compared with all others at once
WORD = r"\w{2,}"


def alike_texts(texts: Sequence[str], among: np.ndarray, count: int, seed: int) -> np.ndarray:
    """The items with the most similar texts, int32 (N, count), best first, padded with -1.

    Args:
        texts: One text an item, (N,).
        among: Items that are looked at and found, bool (N,); others have no neighbours.
        count: Neighbours an item.
        seed: Of the words' coordinates.
    """
    rows = np.flatnonzero(among)
    vectors = text_vectors([texts[int(row)] for row in rows], seed)
    table = np.full((len(texts), count), -1, np.int32)
    width = min(count, len(rows) - 1)
    if width < 1:
        return table
    for first in range(0, len(rows), BLOCK):
        cosine = vectors[first : first + BLOCK] @ vectors.T
        here = np.arange(len(cosine))
        cosine[here, first + here] = -1.0
        best = np.argpartition(-cosine, width - 1, axis=1)[:, :width]
        value = np.take_along_axis(cosine, best, 1)
        order = np.lexsort((best, -value), axis=1)
        best, value = np.take_along_axis(best, order, 1), np.take_along_axis(value, order, 1)
        table[rows[first : first + BLOCK], :width] = np.where(value >= LEAST, rows[best], -1)
    return table


def text_vectors(texts: Sequence[str], seed: int) -> np.ndarray:
    """TF-IDF vectors under a random projection, at unit length, float32 (N, WIDTH); 0 without a shared word.

    A word has the weight (1 + log tf) * log(N / df); words of one text alone say nothing of others and are left out.

    References:
        Sahlgren 2005, "An introduction to random indexing"; Bingham & Mannila 2001, "Random projection in
        dimensionality reduction", for how little the cosines change.
    """
    vectors = np.zeros((len(texts), WIDTH), np.float32)
    frame = pl.DataFrame({"row": np.arange(len(texts)), "word": pl.Series(list(texts), dtype=pl.String)})
    frame = frame.with_columns(pl.col("word").str.to_lowercase().str.extract_all(WORD)).explode("word")
    counts = frame.drop_nulls().group_by("row", "word").len("tf").sort("row", "word")
    counts = counts.with_columns(df=pl.len().over("word")).filter(pl.col("df") > 1)
    if not counts.height:
        return vectors
    code = counts["word"].rank("dense").to_numpy().astype(np.int64) - 1
    tf, df, row = (counts[name].to_numpy() for name in ("tf", "df", "row"))
    weight = ((1 + np.log(tf)) * np.log(len(texts) / df)).astype(np.float32)
    coordinates = np.random.default_rng(seed).standard_normal((int(code.max()) + 1, WIDTH), dtype=np.float32)
    owners, starts = np.unique(row, return_index=True)
    ends = np.append(starts[1:], len(row))
    for first in range(0, len(owners), BLOCK):
        some = slice(first, first + BLOCK)
        low, high = starts[some][0], ends[some][-1]
        weighted = weight[low:high, None] * coordinates[code[low:high]]
        vectors[owners[some]] = np.add.reduceat(weighted, starts[some] - low)
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(length > 0, length, 1)
