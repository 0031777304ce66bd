"""Several models side by side: a table with significance letters, and the gate that a teacher has to pass."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from string import ascii_lowercase
from typing import Any

import numpy as np
from rich.table import Table

from distill.errors import UserError
from distill.plugins import nearest
from distill.ranking.evaluator import Evaluation
from distill.ranking.metrics import parse
from distill.ranking.significance import Paired, effect_size, holm, mean_over_seeds, paired, sign_flip

Seeds = Evaluation | Sequence[Evaluation]  # one evaluation, or one for each seed


@dataclass(frozen=True)
class Comparison:
    """Models compared on the same users.

    Attributes:
        models: Names, in the order of the letters a, b, c, ….
        metrics: Names.
        means: Mean over users and seeds, (models, metrics).
        p_values: Sign-flip p values of each pair of models, Holm-adjusted over all pairs and metrics,
            (models, models, metrics); nan on the diagonal.
        effect_sizes: Cohen's d_z of row minus column, (models, models, metrics).
        alpha: Level of the letters.
    """

    models: list[str]
    metrics: list[str]
    means: np.ndarray
    p_values: np.ndarray
    effect_sizes: np.ndarray
    alpha: float

    def letters(self, model: int, metric: int) -> str:
        """Letters of the models that `model` beats significantly on `metric`."""
        significant = self.p_values[model, :, metric] <= self.alpha
        beaten = [other for other in np.flatnonzero(significant) if self._is_better(model, int(other), metric)]
        return "".join(label(int(other)) for other in beaten)

    def _is_better(self, model: int, other: int, metric: int) -> bool:
        up = parse(self.metrics[metric]).metric.higher_is_better
        if up is None:  # more novel or more popular lists are different, not better
            return False
        gap = self.means[model, metric] - self.means[other, metric]
        return bool(gap > 0 if up else gap < 0)

    def table(self, digits: int = 4) -> Table:
        """A rich table, one row a metric; the letters after a value name the models that it beats significantly."""
        table = Table(caption=f"letters: better than that model, Holm-adjusted p <= {self.alpha}")
        table.add_column("metric")
        for number, model in enumerate(self.models):
            table.add_column(f"{label(number)}  {model}", overflow="fold")
        for m, metric in enumerate(self.metrics):
            cells = [f"{self.means[row, m]:.{digits}f} {self.letters(row, m)}" for row in range(len(self.models))]
            table.add_row(metric, *cells)
        return table

    def as_json(self) -> dict[str, Any]:
        """Plain values: by model and metric the mean and the letters; by pair and metric p value and effect size."""
        pairs = [
            {
                "first": self.models[i],
                "second": self.models[j],
                "metric": metric,
                "difference": float(self.means[i, m] - self.means[j, m]),
                "p_value": float(self.p_values[i, j, m]),
                "effect_size": float(self.effect_sizes[i, j, m]),
            }
            for i, j in itertools.combinations(range(len(self.models)), 2)
            for m, metric in enumerate(self.metrics)
        ]
        rows = {
            model: {
                metric: {"mean": float(self.means[i, m]), "better_than": self.letters(i, m)}
                for m, metric in enumerate(self.metrics)
            }
            for i, model in enumerate(self.models)
        }
        letters = {model: label(i) for i, model in enumerate(self.models)}
        return {"alpha": self.alpha, "letters": letters, "models": rows, "pairs": pairs}


def label(model: int) -> str:
    """a, b, …, z, a1, b1, …: the letter of a model by its number."""
    return ascii_lowercase[model % 26] + (str(model // 26) if model >= 26 else "")


def compare(
    evaluations: Mapping[str, Seeds], metrics: Sequence[str], flips: int = 10_000, seed: int = 0, alpha: float = 0.05
) -> Comparison:
    """Compares models on every metric: each pair by a sign-flip test over users (means over seeds), Holm over all.

    Args:
        evaluations: One evaluation a model, or one for each seed, all of the same cases.
        metrics: Metrics that are means over users.
        flips: Random flips of each test.
        seed: Seed of the flips, the same for each pair.
        alpha: Level of the letters.

    Raises:
        UserError: Fewer than two models; different data or users; a metric that wasn't evaluated or has no values
            a user.
    """
    models = list(evaluations)
    if len(models) < 2:
        raise UserError(f"A comparison needs at least two models, got {models}.")
    runs = {name: _seeds(value) for name, value in evaluations.items()}
    _check_same_cases({f"{name} (run {i})": run for name, seeds in runs.items() for i, run in enumerate(seeds)})
    # (models, metrics, U)
    values = np.stack([[_user_values(runs[name], name, metric) for metric in metrics] for name in models])
    pairs = list(itertools.combinations(range(len(models)), 2))
    differences = np.concatenate([values[i] - values[j] for i, j in pairs])  # (pairs * metrics, U)
    p_values = holm(sign_flip(differences.T, flips, seed)).reshape(len(pairs), len(metrics))
    effects = np.array([effect_size(d) for d in differences]).reshape(len(pairs), len(metrics))
    shape = (len(models), len(models), len(metrics))
    p_table, effect_table = np.full(shape, np.nan), np.full(shape, np.nan)
    for (i, j), p, effect in zip(pairs, p_values, effects, strict=True):
        p_table[i, j] = p_table[j, i] = p
        effect_table[i, j], effect_table[j, i] = effect, -effect
    present = ~np.isnan(values)
    means = np.where(present, values, 0.0).sum(2) / np.where(present.any(2), present.sum(2), np.nan)
    return Comparison(models, list(metrics), means, p_table, effect_table, alpha)


def compare_pair(first: Seeds, second: Seeds, metric: str, flips: int = 10_000, seed: int = 0) -> Paired:
    """Difference, interval, p value and effect size of two models on one metric.

    Raises:
        UserError: Different data, users or numbers of seeds; a metric that wasn't evaluated or has no values a user.
    """
    one, two = _seeds(first), _seeds(second)
    _check_same_cases({f"run {i}": run for i, run in enumerate((*one, *two))})
    values = [np.stack([_values(run, "a model", metric) for run in runs]) for runs in (one, two)]
    return paired(values[0], values[1], flips=flips, seed=seed)


def _seeds(value: Seeds) -> list[Evaluation]:
    return [value] if isinstance(value, Evaluation) else list(value)


def _values(evaluation: Evaluation, model: str, metric: str) -> np.ndarray:
    if metric not in evaluation.per_user:
        why = "is one value of all lists" if metric in evaluation.values else "wasn't evaluated"
        raise UserError(f"'{metric}' {why} for {model}{nearest(metric, evaluation.per_user)}.")
    return evaluation.per_user[metric]


def _user_values(runs: Sequence[Evaluation], model: str, metric: str) -> np.ndarray:
    return mean_over_seeds(np.stack([_values(run, model, metric) for run in runs]))


def _check_same_cases(runs: Mapping[str, Evaluation]) -> None:
    """Refuses to pair evaluations of different data or users."""
    (first_name, first), *others = runs.items()
    for name, other in others:
        if first.judged is None or other.judged is None:
            continue
        one, two = first.judged.cases, other.judged.cases
        if one.fingerprint != two.fingerprint:
            raise UserError(
                f"{first_name} and {name} were evaluated on different data: fingerprints {one.fingerprint[:12]} and "
                f"{two.fingerprint[:12]}. Evaluate both on the same prepared data (distill prepare)."
            )
        if not np.array_equal(one.users, two.users) or not np.array_equal(one.truth_keys, two.truth_keys):
            raise UserError(
                f"{first_name} ({len(one)} users) and {name} ({len(two)} users) were evaluated on different users or "
                "parts; a paired comparison needs the same cases."
            )
