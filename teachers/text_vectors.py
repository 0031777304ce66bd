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
