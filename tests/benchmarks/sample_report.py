"""A report with MADE-UP numbers, for tests of the rendering only: no model was trained to get them."""

from __future__ import annotations

import copy
import math
from typing import Any

# name: (role, ndcg, recall, tail ndcg, tail recall, coverage, tail coverage, gini)
QUALITY = {
    "teacher": ("teacher", 0.2811, 0.2442, 0.0312, 0.0405, 0.412, 0.287, 0.861),
    "student": ("student", 0.2750, 0.2391, 0.0334, 0.0431, 0.448, 0.331, 0.842),
    "student_without_distillation": ("control", 0.2671, 0.2328, 0.0402, 0.0488, 0.471, 0.362, 0.829),
    "student_onnx_fp32": ("export", 0.2750, 0.2391, 0.0334, 0.0431, 0.448, 0.331, 0.842),
    "student_onnx_int8": ("export", 0.2741, 0.2379, 0.0329, 0.0427, 0.446, 0.327, 0.844),
    "popularity": ("baseline", 0.1031, 0.0882, 0.0, 0.0, 0.052, 0.0, 0.985),
    "itemknn": ("baseline", 0.2386, 0.2105, 0.0141, 0.0189, 0.391, 0.214, 0.872),
    "ease": ("baseline", 0.2512, 0.2214, 0.0162, 0.0214, 0.352, 0.201, 0.888),
}
TIMES = ("min", "p50", "p90", "p99", "p99.9", "mean", "first")
METRICS = ("ndcg@10", "recall@10", "tail_ndcg@10", "tail_recall@10", "coverage@10", "tail_coverage@10", "gini@10")
HALF_WIDTH = (0.0132, 0.0121, 0.0048, 0.0061, 0.011, 0.013, 0.006)
# name: (parameters, bytes, p50 ms) at batch 1
COST = {
    "teacher": (23_902_464, 96_214_016, 88.4),
    "student": (221_635, 890_112, 0.412),
    "student_without_distillation": (221_635, 890_112, 0.409),
    "student_onnx_fp32": (221_635, 903_418, 0.0382),
    "student_onnx_int8": (221_635, 268_290, 0.0311),
    "popularity": (None, None, None),
    "itemknn": (None, 22_632_000, 1.93),
    "ease": (2_829_124, 11_316_496, 2.74),
}
SEGMENTS = {
    "teacher": ((0.331, 0.342, 0.352), (0.142, 0.164, 0.178), (0.021, 0.033, 0.041)),
    "student": ((0.322, 0.334, 0.347), (0.139, 0.158, 0.173), (0.022, 0.036, 0.043)),
    "student_without_distillation": ((0.304, 0.319, 0.341), (0.126, 0.149, 0.171), (0.026, 0.043, 0.052)),
}


def sample_report() -> dict[str, Any]:
    """A complete report of the fixed shape, every optional key included. All numbers are invented."""
    return {
        "title": "Made-up numbers for tests: films, text-tower teacher",
        "models": [_model(name) for name in QUALITY],
        "distillation": {
            "ndcg@10": {
                "retention": 0.9783,
                "gain": 0.0296,
                "gap_closed": 0.564,
                "gain_interval": [0.0081, 0.0514],
                "p_value": 0.0042,
            },
            "tail_ndcg@10": {
                "retention": 1.0705,
                "gain": -0.1692,
                "gap_closed": None,
                "gain_interval": [-0.298, -0.031],
                "p_value": 0.018,
            },
        },
        "teacher_gate": {
            "passed": True,
            "best_baseline": "ease",
            "margin": 0.0299,
            "interval": [0.0192, 0.0405],
            "p_value": 0.0001,
            "significant": True,
            "baselines": {
                "popularity": {"mean": 0.1031, **_pair(0.178), "p_adjusted": 0.0003},
                "itemknn": {"mean": 0.2386, **_pair(0.0425), "p_adjusted": 0.0003},
                "ease": {"mean": 0.2512, **_pair(0.0299), "p_adjusted": 0.0003},
            },
            "strata": {
                "head items": {"baseline": 0.291, "passed": True, **_pair(0.031)},
                "mid items": {"baseline": 0.127, "passed": True, **_pair(0.022)},
                "tail items": {"baseline": 0.016, "passed": True, **_pair(0.015)},
                "light users": {"baseline": 0.233, "passed": True, **_pair(0.019)},
                "medium users": {"baseline": 0.249, "passed": True, **_pair(0.031)},
                "heavy users": {"baseline": 0.271, "passed": True, **_pair(0.040)},
            },
        },
        "data": {
            "name": "films (made up)",
            "fingerprint": "5b1f0e9c6a2d4f83a7c0d9e8b6f5a4c3d2e1f0a9b8c7d6e5f4a3b2c1d0e9f8a7",
            "users": 943,
            "items": 1682,
            "interactions": 100_000,
            "split": "user_ratio 0.7 / 0.1 / 0.2",
            "tail": {
                "headline": {
                    "rule": "outside the smallest most-popular set with 80 % of train interactions",
                    "threshold": 118,
                    "items": 1231,
                    "share_of_items": 0.7319,
                    "share_of_interactions": 0.1994,
                },
                "bottom_80": {
                    "threshold": 155,
                    "items": 1345,
                    "share_of_items": 0.7996,
                    "share_of_interactions": 0.2612,
                },
            },
            "test_users": 940,
            "summary": {
                "rows read": 100_000,
                "duplicates dropped": 0,
                "items without text": 1,
                "cold items in test": 32,
            },
        },
        "teacher": {"weights": {"text_tower": 0.73, "text_space": 0.91, "ease": 0.55}},
        "examples": _examples(),
        "curves": {
            "student": _curve(0.274, 3.1, 1.7),
            "student_without_distillation": _curve(0.266, 6.9, 5.2),
        },
        "exposure": {
            "teacher": _exposure(5.2),
            "student": _exposure(4.4),
            "student_without_distillation": _exposure(3.9),
            "ease": _exposure(8.5),
            "popularity": _exposure(60.0),
        },
        "export_gate": {
            "fp32": _parity(1.0, 1.0, 3.1e-6, {"ndcg@10": 1.0, "tail_coverage@10": 1.0}),
            "int8": _parity(0.962, 0.44, 0.043, {"ndcg@10": 0.9967, "tail_coverage@10": 0.9879}),
        },
        "transfer_set": {"rows": 26_580, "kinds": {"real": 22_635, "drop": 2_320, "rollout": 928, "single": 697}},
        "machine": {
            "processor": "An invented processor",
            "background_load": 0.02,
            "reliable": True,
            "not_measured": {"teacher_live_catalogue": "Encoding the whole catalogue would take about 40 s a call."},
        },
        "latency": sample_latency(),
        "heads": {
            "rating": {"events": 2020, "student": {"mae": 0.7412, "rmse": 0.9431}, "mean": {"mae": 0.95, "rmse": 1.12}},
            "like": {"events": 2020, "student": {"log_loss": 0.6123, "auc": 0.7431}},
        },
        "item_changes": {
            "lost": [_change("Quiet Harbour 3 (1983)", 9, 4), _change("Quiet Harbour <4> & more", 5, 3)],
            "gained": [_change("Quiet Harbour 7 (1987)", 1, 6)],
            "summary": {"items_that_lost": 41, "items_that_gained": 37, "teacher_hits": 812, "student_hits": 798},
        },
        "settings": {
            "run": {"name": "films", "folder": "runs"},
            "seed": 0,
            "student": {"name": "hybrid_cf", "dim": 64},
            "losses": [{"name": "cross_entropy", "weight": 0.1}, {"name": "listwise_kl", "weight": 0.63}],
        },
        "environment": {
            "python": "3.11.7",
            "platform": "Linux",
            "processors": "2",
            "torch": "2.13.0",
            "onnxruntime": "1.32.0",
        },
        "stages": {"data": 1.4, "teacher": 412.7, "scores": 38.2, "student": 96.4, "export": 7.9, "report": 31.0},
        "command": "distill run configs/films.yaml seed=0",
    }


def sample_latency() -> dict[str, Any]:
    """What the full latency benchmark writes, with invented numbers."""
    names = {"student_onnx_fp32": ("student, ONNX fp32", 0.0382), "teacher_live_history": ("teacher, live", 91.0)}

    def row(engine: str, scenario: str, **own: Any) -> dict[str, Any]:
        words, p50 = names[engine]
        times = {name: p50 * factor for name, factor in zip(TIMES, (0.8, 1.0, 1.2, 1.9, 2.5, 1.05, 30), strict=True)}
        fixed = {"stream": "uniform", "catalogue": 1682, "threads": 1, "batch": 1, "bytes": 903_418, "calls": 10_000}
        costs = {"cpu_seconds_per_million": 1000 * p50, "cost_per_million": p50 / 90, "resident_bytes": 71_000_000}
        about = {"engine": engine, "about": words, "scenario": scenario, "table_bytes": 430_592}
        return {**about, **fixed, **times, **costs, "per_second": 1000 / p50, **own}

    served = "student_onnx_fp32"
    return {
        "machine": {
            "processor": "An invented processor",
            "cores": 2,
            "background_load": 0.02,
            "background_load_after": 0.03,
            "reliable": True,
            "memory_bytes_per_second": 2.1e10,
        },
        "p99_bound_ms": 10.0,
        "skipped": {"faiss": "faiss-cpu isn't installed, so it isn't measured (pip install faiss-cpu)."},
        "rows": [
            row(served, "single_stream"),
            row("teacher_live_history", "single_stream"),
            row(served, "single_stream", stream="zipf"),
            row(served, "open_loop", load=0.5),
            row(served, "open_loop", load=0.9),
            row(served, "offline", batch=64),
            row(served, "single_stream", catalogue=1_000_000, table_bytes=256_000_000),
        ],
    }


def minimal_report() -> dict[str, Any]:
    """The same without any optional key: what the pipeline always writes, nothing else."""
    report = sample_report()
    optional = ("examples", "curves", "exposure", "export_gate", "stages", "settings", "teacher", "transfer_set")
    for key in (*optional, "machine", "latency", "heads", "item_changes"):
        del report[key]
    for model in report["models"]:
        model.pop("segments", None)
        model.update(latency_ms=None, parameters=None, bytes=None)
    return report


def failed_gate_report() -> dict[str, Any]:
    """The same with a teacher that loses to EASE."""
    report = copy.deepcopy(sample_report())
    report["teacher_gate"] = {
        "passed": False,
        "best_baseline": "ease",
        "margin": -0.0123,
        "interval": [-0.022, -0.003],
        "p_value": 0.011,
        "strata": {
            "head items": {"baseline": 0.31, "passed": False, **_pair(-0.02)},
            "tail items": {"baseline": 0.02, "passed": True, **_pair(0.004)},
        },
    }
    return report


def _change(title: str, teacher: int, student: int) -> dict[str, Any]:
    return {"title": title, "popularity": 80, "chosen": 20, "teacher_hits": teacher, "student_hits": student}


def _pair(difference: float) -> dict[str, Any]:
    """A paired comparison with the keys that the teacher gate gives."""
    return {
        "difference": difference,
        "low": difference - 0.0106,
        "high": difference + 0.0106,
        "p_value": 0.0001,
        "users": 943,
    }


def _parity(overlap: float, identical: float, error: float, retention: dict[str, float]) -> dict[str, Any]:
    """What the export stage says of one variant."""
    figures = {"overlap@10": overlap, "identical": identical, "max_score_error": error, "retention": retention}
    return {"passed": True, "cases": 940, "torch": {"ndcg@10": 0.275}, "failures": [], **figures}


def _model(name: str) -> dict[str, Any]:
    role, *values = QUALITY[name]
    parameters, size, p50 = COST[name]
    model = {
        "name": name,
        "role": role,
        "seed": 0,
        "metrics": dict(zip(METRICS, values, strict=True)),
        "intervals": {
            m: [max(v - h, 0.0), v + h] if v else [0.0, 0.0]
            for m, v, h in zip(METRICS, values, HALF_WIDTH, strict=True)
        },
        "parameters": parameters,
        "bytes": size,
        "latency_ms": None if p50 is None else {"batch_1": {"p50": p50, "p90": p50 * 1.2, "p99": p50 * 1.9}},
    }
    if name == "teacher":  # its language model reads texts within the call
        live = {"p50": 173.0, "p90": 190.0, "p50_low": 170.0, "p50_high": 176.0, "calls": 40}
        model["latency_ms"]["live_history"] = live
    if p50 is not None:
        model["cost"] = {"batch_1": {"cpu_seconds_per_million": 1000 * p50, "cost_per_million": p50 / 90}}
    if name in SEGMENTS:
        model["segments"] = {"item × user": _segments(SEGMENTS[name])}
    return model


def _segments(values: tuple[tuple[float, ...], ...]) -> list[list[dict[str, Any]]]:
    return [
        [
            {
                "item": item,
                "user": user,
                "ndcg@10": v,
                "low": max(v - 0.02, 0.0),
                "high": v + 0.02,
                "users": 314 - 40 * i,
            }
            for user, v in zip(("low", "mid", "high"), row, strict=True)
        ]
        for i, (item, row) in enumerate(zip(("head", "mid", "tail"), values, strict=True))
    ]


def _curve(best: float, first_loss: float, last_loss: float) -> list[dict[str, float]]:
    """Ten epochs that rise to `best` and fall off a little at the end."""
    return [
        {
            "step": 90 * epoch,
            "epoch": float(epoch),
            "loss": last_loss + (first_loss - last_loss) * math.exp(-0.5 * epoch),
            "ndcg@10": best * (1 - 0.45 * math.exp(-0.7 * epoch)) - 0.0006 * max(epoch - 7, 0),
        }
        for epoch in range(1, 11)
    ]


def _exposure(steepness: float) -> list[float]:
    """Cumulative shares on a grid of 101 points from 0 to 1."""
    return [(1 - math.exp(-steepness * i / 100)) / (1 - math.exp(-steepness)) for i in range(101)]


def _examples() -> list[dict[str, Any]]:
    return [
        {
            "user": user,
            "activity": activity,
            "history": [f"Film {activity} {n} (19{70 + n})" for n in range(1, 9)],
            "lists": {
                "teacher": [f"Quiet Harbour {n} (19{80 + n})" for n in range(1, 11)],
                "student": [f"Quiet Harbour {n} (19{80 + n})" for n in (2, 1, 3, 5, 14, 4, 7, 15, 9, 6)],
                "student_without_distillation": [
                    f"Quiet Harbour {n} (19{80 + n})" for n in (3, 16, 1, 17, 2, 8, 18, 5, 19, 11)
                ],
            },
            "truth": ["Quiet Harbour 2 (1982)", "Quiet Harbour 5 (1985)", "Quiet Harbour 16 (1996)"],
        }
        for user, activity in ((17, "low"), (204, "low"), (377, "mid"), (512, "high"), (881, "high"))
    ]
