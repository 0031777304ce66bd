"""What each model of the comparison with other libraries is tried with: four settings each, ours and theirs."""

from __future__ import annotations

from typing import Any

Settings = dict[str, Any]


def rows(keys: str, *values: tuple[Any, ...]) -> list[Settings]:
    """Settings from a line of names and a tuple of values each."""
    return [dict(zip(keys.split(), each, strict=True)) for each in values]


REGULARISED = "dropout item_dropout fit.learning_rate tied"
GENTLE = [(0.4, 0.4, 0.003, False), (0.4, 0.4, 0.003, True), (0.2, 0.05, 0.003, False), (0.5, 0.5, 0.006, False)]
OURS: dict[str, list[Settings]] = {
    "mf": rows(REGULARISED, *GENTLE),
    "hybrid_cf": rows(REGULARISED, *GENTLE),
    "neumf": rows(REGULARISED, *GENTLE),
    "lightgcn": rows(REGULARISED, *GENTLE),
    "sasrec_small": rows(
        "dropout item_dropout fit.learning_rate blocks start fit.windows fit.max_length",  # no pools, so no windows
        *[
            (0.5, 0.2, 0.003, 2, "random", 0, 50),
            (0.5, 0.2, 0.003, 2, "events", 0, 50),
            (0.4, 0.4, 0.003, 1, "random", 0, 50),
            (0.4, 0.4, 0.003, 1, "events", 0, 50),
        ],
    ),
    "ease": rows("l2 decay neighbours", *[(300, 10, 400), (600, 10, 400), (100, 4, 400), (600, 30, 400)]),
    "itemknn": rows(
        "alpha shrink decay neighbours",
        *[(0.5, 0.0, 4, 200), (0.5, 10.0, 10, 200), (0.5, 0.0, 10, 30), (0.75, 10.0, 4, 200)],
    ),
    "ials": rows("l2 unobserved decay", *[(0.01, 0.3, 10), (0.003, 0.1, 10), (0.003, 0.1, 3), (0.0003, 0.03, 3)]),
}
PEERS: dict[tuple[str, str], list[Settings]] = {
    ("implicit", "BPR"): rows(
        "factors learning_rate regularization iterations",
        *[(64, 0.05, 0.01, 100), (64, 0.02, 0.01, 200), (64, 0.05, 0.03, 200), (128, 0.02, 0.03, 300)],
    ),
    ("implicit", "ALS"): rows(
        "factors regularization alpha iterations",
        *[(64, 0.01, 1.0, 15), (32, 1.0, 1.0, 15), (64, 10.0, 1.0, 15), (64, 10.0, 10.0, 15)],
    ),
    ("implicit", "Cosine"): rows("K", (20,), (50,), (100,), (200,)),
    ("implicit", "BM25"): rows("K K1 B", *[(50, 1.2, 0.75), (200, 1.2, 0.75), (200, 0.5, 0.2), (200, 100, 0.8)]),
    ("cornac", "BPR"): rows(
        "k max_iter learning_rate lambda_reg",
        *[(64, 100, 0.05, 0.01), (64, 200, 0.02, 0.01), (64, 200, 0.05, 0.001), (64, 200, 0.05, 0.03)],
    ),
    ("cornac", "EASE"): rows("lamb posB", *[(100, False), (300, False), (600, False), (1000, False)]),
    ("recbole", "EASE"): rows("reg_weight", (100.0,), (300.0,), (600.0,), (1000.0,)),
    ("recbole", "BPR"): rows(
        "embedding_size learning_rate weight_decay",
        *[(64, 0.005, 0.0), (64, 0.005, 0.0001), (64, 0.01, 0.00001), (64, 0.002, 0.0)],
    ),
    ("recbole", "LightGCN"): rows(
        "embedding_size n_layers learning_rate reg_weight",
        *[(64, 2, 0.01, 1e-4), (64, 3, 0.01, 1e-4), (64, 2, 0.005, 1e-5), (64, 2, 0.01, 1e-2)],
    ),
    ("recbole", "NeuMF"): rows(
        "mf_embedding_size mlp_embedding_size mlp_hidden_size dropout_prob learning_rate",
        *[
            (64, 64, [128, 64], 0.1, 0.003),
            (64, 64, [128, 64], 0.3, 0.003),
            (32, 32, [64, 32], 0.1, 0.003),
            (64, 64, [128, 64], 0.1, 0.001),
        ],
    ),
    ("recbole", "SASRec"): rows(
        "hidden_size inner_size n_layers n_heads hidden_dropout_prob attn_dropout_prob learning_rate",
        *[
            (64, 256, 2, 2, 0.5, 0.5, 0.001),
            (64, 256, 2, 2, 0.2, 0.2, 0.001),
            (64, 256, 2, 2, 0.5, 0.5, 0.003),
            (64, 128, 1, 2, 0.5, 0.5, 0.003),
        ],
    ),
}
ON_SETS = ("mf", "hybrid_cf", "lightgcn")  # of ours: can be trained on halves
SOLVED = ("ease", "itemknn", "ials")  # of ours: without epochs
# How RecBole's epochs are watched: lists every so many epochs, patience in such looks.
EVERY = {"BPR": 5, "LightGCN": 5, "NeuMF": 5, "SASRec": 1, "EASE": 1}
# Which peer's best value a student is held against.
FAMILIES: dict[str, tuple[str, ...]] = {
    "mf": ("BPR", "ALS"),
    "neumf": ("NeuMF",),
    "lightgcn": ("LightGCN",),
    "sasrec_small": ("SASRec",),
    "ease": ("EASE",),
    "itemknn": ("Cosine", "BM25"),
    "ials": ("ALS",),
    "hybrid_cf": ("BPR", "ALS", "NeuMF", "LightGCN", "SASRec", "EASE", "Cosine", "BM25"),
}
