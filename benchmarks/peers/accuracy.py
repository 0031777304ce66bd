"""Accuracy metrics against ranx, ir-measures, cornac and implicit on the same lists, user by user.

Run in the `libraries` environment of setup.py, from the project's folder: `python -m benchmarks.peers.accuracy`.
"""

from __future__ import annotations

import sys

import cornac.metrics
import implicit.als
import implicit.evaluation
import ir_measures
import numpy as np
import ranx
from scipy.sparse import csr_matrix

from benchmarks.peers.parity import Row, of_users, report, row
from benchmarks.peers.sample import Sample, draw
from distill.data.dataset import Lists
from distill.ranking.evaluator import Evaluation, evaluate, rank

METRICS = ["ndcg@10", "recall@10", "precision@10", "hit@10", "mrr@10", "map@10", "f1@10", "recall_capped@10"]


def with_ranx(ranked: np.ndarray, sample: Sample, ours: Evaluation) -> list[Row]:
    """ranx: its map divides by |R|, ours by min(k, |R|)."""
    users, relevant = len(ranked), sample.cases.truth.lengths
    qrels = ranx.Qrels({f"u{u}": {f"i{i}": 1 for i in sample.cases.truth[u]} for u in range(users)})
    run = ranx.Run({f"u{u}": {f"i{i}": 1.0 - r / 100 for r, i in enumerate(ranked[u])} for u in range(users)})
    names = {"ndcg@10": "ndcg@10", "recall@10": "recall@10", "precision@10": "precision@10"}
    names |= {"hit_rate@10": "hit@10", "mrr@10": "mrr@10", "f1@10": "f1@10"}
    ranx.evaluate(qrels, run, [*names, "map@10"], return_mean=False)
    rows = [
        row("ranx", name, mine, of_users(run.scores[name], users), ours.per_user[mine]) for name, mine in names.items()
    ]
    converted = ours.per_user["map@10"] * np.minimum(10, relevant) / relevant
    return [*rows, row("ranx", "map@10", "map@10 * min(k, R) / R", of_users(run.scores["map@10"], users), converted)]


def with_ir_measures(ranked: np.ndarray, sample: Sample, ours: Evaluation) -> list[Row]:
    """ir-measures (trec_eval): AP divides by |R|."""
    users, relevant = len(ranked), sample.cases.truth.lengths
    qrels = [ir_measures.Qrel(f"u{u}", f"i{i}", 1) for u in range(users) for i in sample.cases.truth[u]]
    run = [
        ir_measures.ScoredDoc(f"u{u}", f"i{i}", 1.0 - r / 100) for u in range(users) for r, i in enumerate(ranked[u])
    ]
    measures = {
        ir_measures.nDCG @ 10: ("ndcg@10", ours.per_user["ndcg@10"]),
        ir_measures.R @ 10: ("recall@10", ours.per_user["recall@10"]),
        ir_measures.P @ 10: ("precision@10", ours.per_user["precision@10"]),
        ir_measures.RR @ 10: ("mrr@10", ours.per_user["mrr@10"]),
        ir_measures.Success @ 10: ("hit@10", ours.per_user["hit@10"]),
        ir_measures.AP @ 10: ("map@10 * min(k, R) / R", ours.per_user["map@10"] * np.minimum(10, relevant) / relevant),
    }
    values: dict[str, dict[str, float]] = {str(measure): {} for measure in measures}
    for found in ir_measures.iter_calc(list(measures), qrels, run):
        values[str(found.measure)][found.query_id] = found.value
    return [
        row("ir_measures", str(measure), name, of_users(values[str(measure)], users), mine)
        for measure, (name, mine) in measures.items()
    ]


def with_cornac(ranked: np.ndarray, sample: Sample, ours: Evaluation) -> list[Row]:
    """cornac: its metric objects, called for each user."""
    truth = sample.cases.truth
    metrics = {
        cornac.metrics.NDCG(k=10): "ndcg@10",
        cornac.metrics.Recall(k=10): "recall@10",
        cornac.metrics.Precision(k=10): "precision@10",
        cornac.metrics.HitRatio(k=10): "hit@10",
        cornac.metrics.FMeasure(k=10): "f1@10",
    }
    rows = []
    for metric, name in metrics.items():
        theirs = np.array([metric.compute(gt_pos=truth[u], pd_rank=ranked[u]) for u in range(len(ranked))])
        rows.append(row("cornac", metric.name, name, theirs, ours.per_user[name]))
    return rows


def with_implicit(sample: Sample, ours: Evaluation) -> list[Row]:
    """implicit: means only; its precision is the sum of hits / the sum of min(k, |R|)."""
    model = factors_in_implicit(sample)
    seen, truth = (matrix(lists, sample.cases.n_items) for lists in (sample.cases.seen, sample.cases.truth))
    found = implicit.evaluation.ranking_metrics_at_k(model, seen, truth, K=10, show_progress=False)
    capped = np.minimum(10, sample.cases.truth.lengths)
    pooled = (ours.per_user["recall_capped@10"] * capped).sum() / capped.sum()
    return [
        row("implicit", "ndcg", "ndcg@10", found["ndcg"], ours.values["ndcg@10"]),
        row("implicit", "map", "map@10", found["map"], ours.values["map@10"]),
        row("implicit", "precision", "pooled recall_capped@10", found["precision"], pooled),
    ]


def factors_in_implicit(sample: Sample) -> implicit.als.AlternatingLeastSquares:
    """implicit's model class with the sample's factors; nothing is trained."""
    model = implicit.als.AlternatingLeastSquares(factors=sample.item_vectors.shape[1], use_gpu=False)
    model.user_factors, model.item_factors = sample.user_vectors.copy(), sample.item_vectors.copy()
    return model


def matrix(lists: Lists, n_items: int) -> csr_matrix:
    """Rows of items as a sparse matrix of ones, (U, N)."""
    ones = np.ones(len(lists.items), np.float32)
    result = csr_matrix((ones, lists.items, lists.indptr), shape=(len(lists), n_items))
    result.sort_indices()
    return result


def main() -> int:
    """Compares on 2,000 users and 1,500 items."""
    sample = draw(users=2000, n_items=1500, seed=1)
    ranked = rank(sample.score, sample.cases, 10)
    ours = evaluate(ranked, sample.cases, METRICS)
    rows = with_ranx(ranked, sample, ours) + with_ir_measures(ranked, sample, ours)
    return report(rows + with_cornac(ranked, sample, ours) + with_implicit(sample, ours))


if __name__ == "__main__":
    sys.exit(main())
