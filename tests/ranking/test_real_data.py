"""Real data where the development sets are present: the popularity ranker's known numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from distill.config import Data, Split
from distill.data.dataset import TEST
from distill.data.load import build_dataset
from distill.ranking.cases import cases_of
from distill.ranking.evaluator import evaluate, rank
from distill.ranking.leaks import check_split, list_leaks
from distill.ranking.segments import describe_tails

SETS = Path(__file__).parents[2].parent / "shared" / "data"


@pytest.mark.skipif(
    not (SETS / "amazon-office").is_dir(), reason="needs ../shared/data/amazon-office beside the project"
)
def test_popularity_on_amazon_office() -> None:
    dataset = build_dataset(Data(path=str(SETS / "amazon-office"), split=Split("leave_one_out")))
    cases = cases_of(dataset, TEST)
    popularity = dataset.popularity.astype(np.float32)
    ranked = rank(lambda rows: np.broadcast_to(popularity, (len(rows), dataset.n_items)), cases, 10)
    values = evaluate(ranked, cases, ["ndcg@10", "recall@10", "tail_ndcg@10", "coverage@10"]).values
    assert [round(v, 3) for v in values.values()] == [0.009, 0.018, 0.0, 0.004]
    tail = describe_tails(cases)["outside_80_percent"]
    assert round(tail["share_of_targets"], 2) == 0.42 and tail["share_of_interactions"] <= 0.2
    assert list_leaks(ranked, cases)["seen_items"] == 0
    assert check_split(dataset, TEST)["cold_users"] == 0
