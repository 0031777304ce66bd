"""Classic baselines with their settings found on validation: an untuned baseline is a straw man."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from distill.errors import UserError
from distill.plugins import nearest

# Settings tried in turn, one after the other at the best of the others (coordinate search); the first is the start.
GRIDS: dict[str, dict[str, list[Any]]] = {
    "popularity": {},
    "itemknn": {"decay": [4.0, 1.5, 10.0, 30.0], "alpha": [0.75, 0.5, 1.0], "shrink": [10.0, 1.0, 50.0]},
    "ease": {"decay": [4.0, 1.5, 10.0, 30.0], "l2": [100.0, 30.0, 300.0, 1000.0]},
}


def tune(
    name: str, fit: Callable[[dict[str, Any]], Any], quality: Callable[[Any], float]
) -> tuple[Any, dict[str, Any]]:
    """Fits a baseline at the settings that do best on validation.

    Args:
        name: A key of `GRIDS`.
        fit: Settings to a fitted model.
        quality: A fitted model to its validation figure.

    Returns:
        The best model and its settings.

    Raises:
        UserError: An unknown baseline.
    """
    if name not in GRIDS:
        raise UserError(f"benchmark.baselines: unknown baseline '{name}'{nearest(name, GRIDS)}.")
    grid = GRIDS[name]
    settings = {key: values[0] for key, values in grid.items()}
    model = fit(settings)
    best = quality(model)
    for key, values in grid.items():
        for value in values[1:]:
            tried = {**settings, key: value}
            candidate = fit(tried)
            found = quality(candidate)
            if found > best:
                best, model, settings = found, candidate, tried
    return model, settings


def shared_fits(make: Callable[..., Any], prepare: Callable[[Any], None], free: tuple[str, ...]) -> Callable[..., Any]:
    """A `fit` for `tune` that prepares once for all settings that differ only in `free` ones.

    A decay or a floor is applied when a model is asked, not when it is fitted, so its table can be shared.
    """
    tables: dict[tuple[Any, ...], Any] = {}

    def fit(settings: Mapping[str, Any]) -> Any:
        model = make(**settings)
        key = tuple((k, v) for k, v in sorted(settings.items()) if k not in free)
        if key in tables:
            model.table = tables[key]
        else:
            prepare(model)
            tables.clear()  # one table is kept: they may be large
            tables[key] = model.table
        return model

    return fit
