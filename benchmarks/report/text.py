"""Numbers as people read them. A missing number is an en dash, a minus sign is a real one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from benchmarks.report.shape import as_interval, is_number

MISSING = "–"
MINUS = "\N{MINUS SIGN}"


def number(value: Any, digits: int = 4) -> str:
    """A metric: `0.2750`."""
    return f"{value:.{digits}f}".replace("-", MINUS) if is_number(value) else MISSING


def signed(value: Any, digits: int = 4) -> str:
    """A difference with its sign: `+0.0083`."""
    return f"{value:+.{digits}f}".replace("-", MINUS) if is_number(value) else MISSING


def percent(value: Any, digits: int = 1) -> str:
    """A share as per cent: 0.978 is `97.8%`."""
    return f"{100 * value:.{digits}f}%".replace("-", MINUS) if is_number(value) else MISSING


def signed_percent(value: Any, digits: int = 1) -> str:
    """A relative change as per cent with its sign: `+4.2%`."""
    return f"{100 * value:+.{digits}f}%".replace("-", MINUS) if is_number(value) else MISSING


def count(value: Any) -> str:
    """A whole number with thousands separated: `1,682`."""
    return f"{value:,.0f}".replace("-", MINUS) if is_number(value) else MISSING


def short_count(value: Any) -> str:
    """A large number in three digits: `22.7 M`."""
    return _scaled(value, 1000, ("", " k", " M", " G", " T")) if is_number(value) else MISSING


def size(value: Any) -> str:
    """Bytes in decimal units: `1.24 MB`."""
    return _scaled(value, 1000, (" B", " kB", " MB", " GB", " TB")) if is_number(value) else MISSING


def duration(milliseconds: Any) -> str:
    """A latency in the unit that suits it: `18.4 µs`, `43.0 ms`, `2.10 s`."""
    return _scaled(1000 * milliseconds, 1000, (" µs", " ms", " s")) if is_number(milliseconds) else MISSING


def money(value: Any) -> str:
    """A price in whatever currency it was given: `3.20`, `0.00042`."""
    if not is_number(value):
        return MISSING
    digits = 2 if value >= 0.1 or value <= 0 else 1 - math.floor(math.log10(value))
    return f"{value:,.{digits}f}"


def seconds(value: Any) -> str:
    """The time of a stage: `8.2 s`, `3 min 05 s`, `1 h 12 min`."""
    if not is_number(value):
        return MISSING
    if value < 60:
        return f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def times(ratio: Any) -> str:
    """A ratio as a factor, in two or three digits: `2,340×`, `8.5×`."""
    if not is_number(ratio):
        return MISSING
    if ratio < 10:
        return f"{ratio:.1f}×"
    step = 10 ** max(len(str(int(ratio))) - 3, 0)
    return f"{round(ratio / step) * step:,}×"


def anything(key: str, value: Any) -> str:
    """A value of a record whose keys aren't fixed, such as a stratum of the gate, as its key suggests.

    Whole numbers get thousands, shares per cent, p-values three digits, other numbers four; pairs are intervals.
    """
    if isinstance(value, bool):
        return "yes" if value else "NO"
    if is_number(value):
        if key in ("p_value", "p_adjusted"):
            return p_value(value).removeprefix("p ").removeprefix("= ")
        if key.startswith("share"):
            return percent(value)
        if isinstance(value, int):
            return count(value)
        return number(value) if abs(value) >= 1e-3 or value == 0 else f"{value:.1e}".replace("-", MINUS)
    if isinstance(value, list | tuple) and all(isinstance(part, str) for part in value):
        return "; ".join(value) or MISSING
    ends = as_interval(value) if isinstance(value, list | tuple) else None
    if ends:
        return f"{number(ends[0])} to {number(ends[1])}"
    if isinstance(value, Mapping):
        return ", ".join(f"{phrase(name)} {anything(name, inner)}" for name, inner in value.items())
    return MISSING if value is None or isinstance(value, float) else str(value)


def phrase(key: str) -> str:
    """A key of the report as words: "share_of_items" is "Share of items"; "p_value" is "p"."""
    words = str(key).replace("_", " ").strip()
    return {"p value": "p", "p adjusted": "p (Holm)"}.get(words, words[:1].upper() + words[1:])


def p_value(value: Any) -> str:
    """`p = 0.034`, or `p < 0.001`."""
    if not is_number(value):
        return "p not computed"
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"


def _scaled(value: float, base: int, units: tuple[str, ...]) -> str:
    """Three significant digits in the largest unit that leaves a value of at least one."""
    step = 0
    # 999.5 would be printed as 1000, so it belongs to the next unit.
    while abs(value) >= base - 0.5 and step < len(units) - 1:
        value /= base
        step += 1
    whole = step == 0 and float(value).is_integer()
    digits = 0 if whole or abs(value) >= 99.95 else 1 if abs(value) >= 9.995 else 2
    return f"{value:.{digits}f}{units[step]}"
