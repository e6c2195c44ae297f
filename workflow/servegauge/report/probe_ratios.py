"""Platform beside platform: each probe's ratio to the baseline, and which phase of which cells pays for it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from servegauge.probes import registry
from servegauge.probes.harness.stats import median_ranks
from servegauge.report.roofline import variant_of

# Each side's median gets a 97.5 % interval: both hold together with 95 %, and so does the interval of the ratio.
SIDE_CONFIDENCE = 0.975
LESS_IS_BETTER = ("us", "s")
UNITS = {
    "size_bytes": "bytes", "threads": "threads", "ranks": "ranks", "nodes": "nodes", "tokens": "tokens",
    "batch": "sequences", "context_tokens": "tokens of context", "block_tokens": "tokens a block",
}  # fmt: skip


@dataclass(frozen=True)
class ProbeRatio:
    """One number of a platform over the same number of the baseline; `low` and `high` are its 95 % interval or None."""

    platform: str
    baseline: str
    probe: str
    variant: Mapping[str, Any]
    metric: str
    unit: str
    value: float
    baseline_value: float
    low: float | None
    high: float | None
    pays: str | None = None

    @property
    def ratio(self) -> float:
        return self.value / self.baseline_value

    @property
    def clear(self) -> bool:
        """True when the interval does not hold 1."""
        return self.low is not None and self.high is not None and not self.low <= 1 <= self.high

    @property
    def worse(self) -> bool:
        return (self.ratio > 1) == (self.unit in LESS_IS_BETTER)

    @property
    def words(self) -> str:
        """The variant in words: `all_reduce, 1048576 bytes, 2 ranks`."""
        parts = []
        for key, value in self.variant.items():
            if key == "tp":
                parts.append(f"TP={value}")
            elif key == "in_place":
                parts.append("in place" if value else "out of place")
            elif key not in ("backend", "device"):
                parts.append(f"{value} {UNITS[key]}" if key in UNITS else str(value))
        return ", ".join(parts)

    def sentence(self) -> str:
        """`all_reduce ... (busbw_gb_s) is 0.09 of bare metal, and TP=2 pays it`; a gain has no payer."""
        said = f"{self.probe}: {self.words} ({self.metric}) is {self.ratio:.2g} of {self.baseline} on {self.platform}"
        return f"{said}, and {self.pays} pays it" if self.pays and self.worse else said


def probe_comparison(
    rows: Iterable[Mapping[str, Any]], baseline: str, cells: Iterable[Mapping[str, Any]] = ()
) -> list[ProbeRatio]:
    """The latest number of every probe on every platform over the baseline's, the farthest from 1 first.

    `rows`: of the probes table. `cells`: of the cells table, to say which of their phases depends on each probe. What
    was skipped or failed on either side has no ratio. Of metrics that follow from each other one is compared.
    """
    latest: dict[tuple[str, str, str, str], Mapping[str, Any]] = {}
    for row in sorted(rows, key=lambda row: row.get("started_utc") or ""):
        variant = "|".join(f"{key}={value}" for key, value in sorted(variant_of(row).items()))
        latest[(row["platform"], row["probe"], variant, row["metric"])] = row
    cells = list(cells)
    found = []
    for (platform, probe, variant, metric), row in latest.items():
        base = latest.get((baseline, probe, variant, metric))
        known = registry().get(row["probe"])
        if known and row["metric"] in known.units and row["metric"] not in known.primary:
            continue
        if platform == baseline or base is None or not row["value"] or not base["value"]:
            continue
        low, high = ratio_interval(row["samples"] or (), base["samples"] or ())
        about = variant_of(row)
        mine = [cell for cell in cells if cell["platform"] in (platform, baseline)]
        pays = payer(probe, about, mine)
        found.append(
            ProbeRatio(
                platform, baseline, probe, about, metric, row["unit"], row["value"], base["value"], low, high, pays
            )
        )
    return sorted(found, key=lambda one: (-abs(math.log(one.ratio)), one.platform, one.probe, one.words))


def ratio_interval(above: Sequence[float], below: Sequence[float]) -> tuple[float | None, float | None]:
    """95 % interval of the ratio of two medians from distribution-free intervals of each; None below seven samples."""
    sides = []
    for samples in (above, below):
        ranks, ordered = median_ranks(len(samples), SIDE_CONFIDENCE), sorted(samples)
        if ranks is None or ordered[0] <= 0:
            return None, None
        sides.append((ordered[ranks[0]], ordered[ranks[1]]))
    (low, high), (base_low, base_high) = sides
    return low / base_high, high / base_low


def payer(probe: str, variant: Mapping[str, Any], cells: Sequence[Mapping[str, Any]]) -> str | None:
    """Which phase of which of `cells` depends on this number, by the probe's own word; None where none does."""
    known = registry().get(probe)
    return known.explains(variant, cells) if known and cells else None


def sentences(ratios: Sequence[ProbeRatio], most: int = 6) -> list[str]:
    """The clearest losses that somebody pays, one for each probe, payer and platform, the worst first."""
    seen, said = set(), []
    for one in ratios:
        key = (one.platform, one.probe, one.pays)
        if one.clear and one.worse and one.pays and key not in seen:
            seen.add(key)
            said.append(one.sentence())
    return said[:most]
