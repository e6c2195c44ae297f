"""Numbers as a person reads them: on the page and in the terminal alike."""

from __future__ import annotations

import math
from collections.abc import Sequence


def quantity(value: float | None, unit: str) -> str:
    """A value with its unit, three digits: `13.4 ms`, `12.1 s`, `128 tokens/s`; a dash where undefined."""
    return quantities((value,), unit, "")


def quantities(values: Sequence[float | None], unit: str, between: str) -> str:
    """Several values with one unit, as `13.3 → 17.0 ms`; the unit is chosen by the largest."""
    largest = max((abs(value) for value in values if value is not None), default=None)
    if largest is None:
        return "–"
    scale = 1.0
    if unit == "s" and largest < 1:
        scale, unit = (1e3, "ms") if largest >= 1e-4 or not largest else (1e6, "µs")
    texts = ["–" if value is None else _three(value * scale) for value in values]
    return f"{between.join(texts)} {'/s' if unit == '1/s' else unit}"


def _three(value: float) -> str:
    """Three significant digits without an exponent."""
    if not value:
        return "0"
    decimals = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{min(decimals, 6)}f}".replace(",", " ")


def ratio_text(value: float | None) -> str:
    """A ratio: three decimals near 1, where they matter, else three digits, two decimals at most."""
    if value is None:
        return "–"
    if 0.95 < value < 1.05:
        return f"{value:.3f}"
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def share_text(value: float | None) -> str:
    """A share in per cent."""
    return "–" if value is None else f"{100 * value:.3g} %"


def p_text(value: float | None) -> str:
    """A p value: `0.031`, `< 0.001`; a dash where undefined."""
    if value is None:
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.2g}" if value < 0.1 else f"{value:.2f}"
