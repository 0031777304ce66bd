"""Item vectors from word counts: TF-IDF weights reduced by a truncated singular value decomposition."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from torch import Tensor
from torch.nn import functional


def tfidf_vectors(texts: list[str], width: int, seed: int) -> Tensor:
    """Unit vectors (N, d), d at most `width`; zero rows for texts without a word that another text shares.

    Args:
        texts: One text an item, (N,).
        width: Dimensions wanted; fewer come back where the texts have fewer words.
        seed: Of the randomised decomposition.
    """
    try:
        counts = TfidfVectorizer(sublinear_tf=True, min_df=2, dtype=np.float32).fit_transform(texts)
    except ValueError:  # no word is shared by two texts: there is nothing to compare by
        return torch.zeros(len(texts), 1)
    width = min(width, counts.shape[1] - 1, counts.shape[0] - 1)
    if width < 1:
        return functional.normalize(torch.from_numpy(counts.toarray()), dim=-1)
    reduced = TruncatedSVD(width, random_state=seed).fit_transform(counts)
    return functional.normalize(torch.from_numpy(reduced.astype(np.float32)), dim=-1)


def mean_where(empty: Tensor, vectors: Tensor) -> Tensor:
    """Vectors (N, d) in which the marked rows (N,) are the mean of the others."""
    return torch.where(empty[:, None], vectors[~empty].mean(0), vectors)


def beside(vectors: Tensor, words: Tensor, share: float) -> Tensor:
    """Two kinds of unit vectors (N, d) and (N, e) joined to unit vectors (N, d + e).

    Args:
        vectors, words: Of the same N items.
        share: Of the squared norm that `words` gets, 0 to 1.
    """
    return torch.cat([(1 - share) ** 0.5 * vectors, share**0.5 * words], dim=1)
