"""What a window costs, in money and in energy: formulas of the table `economics`, and what of it is compared.

The price of an hour is that of the launch's GPUs (`prices.gpu_hour`), or of its nodes where a platform has a price of a
node only, and, where electricity is paid for beside it (`prices.kwh`), of the power drawn in the window. Nothing is
guessed: where a part is not known the sum is null, and `reasons` says what is missing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from servegauge.contract.config_types import Api, Platform, Prices
from servegauge.contract.metric import COMPARED, Statistic

HOURS_A_MONTH = 730.0
MILLION = 1e6
JOULES_A_KWH = 3.6e6

MONEY = "currency"  # as a unit: that of the prices


def _statistic(name: str, title: str, unit: str, more: bool = False) -> Statistic:
    return Statistic(name, title, unit, name, more_is_better=more, heading=title, views=frozenset({COMPARED}))


STATISTICS = (
    _statistic("tokens_per_s_per_gpu", "Output tokens/s per GPU", "tokens/s", more=True),
    _statistic("energy_per_output_token_j", "Energy per output token", "J"),
    _statistic("energy_per_token_j", "Energy per token", "J"),
    _statistic("cost_per_million_output_tokens", "Cost per million output tokens", MONEY),
    _statistic("cost_per_million_tokens", "Cost per million tokens", MONEY),
    _statistic("cost_per_thousand_requests", "Cost per thousand requests", MONEY),
    _statistic("output_tokens_per_currency", "Output tokens per unit of currency", "tokens", more=True),
    _statistic("break_even_utilisation", "Break-even utilisation against the API", "1"),
    _statistic("break_even_output_tokens_per_month", "Break-even output tokens a month", "tokens"),
)
"""What of the table is compared, in studies that have numbers of it."""

PRICED = frozenset(one.name for one in STATISTICS if re.match("cost_|break_even_|.*_per_currency", one.name))
"""Names of those that need a platform's `prices`."""


@dataclass
class Sums:
    """The columns of one cell as they are worked out; `reasons` holds why a column is null."""

    values: dict[str, Any] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)

    def give(self, name: str, value: float | None, *missing: str | None) -> float | None:
        """Keep a value; where it is null, the first reason of `missing`."""
        if value is not None and not math.isfinite(value):
            value = None
        self.values[name] = value
        if value is None:
            self.reasons[name] = next((one for one in missing if one), "not known")
        return value


def of_cell(
    row: Mapping[str, Any],
    platform: Platform,
    gpus: int,
    nodes: int,
    idle_w: float | None,
    api: Api | None,
) -> dict[str, Any]:
    """Columns of ECONOMICS of a measured cell, but its keys, from its row of CELLS.

    `platform` may have `prices`; `api` is `economics.api` of the study; `idle_w` the GPUs' idle power, where measured.
    """
    prices = platform.get("prices") or {}
    sums = Sums({"gpus": gpus, "nodes": nodes, "currency": prices.get("currency")})
    output, prompt, power = row.get("output_tokens_per_s"), row.get("input_tokens_per_s"), row.get("gpu_power_w")
    both = output + prompt if output is not None and prompt is not None else None
    no_output = None if output else "no output token came in the window, or they were not counted"
    no_both = no_output or (None if both else "the prompts' tokens were not counted")
    no_gpu = None if gpus else "the platform has no GPU"
    no_energy = no_gpu or (None if power is not None else "no energy counter and no power was read of these GPUs")

    sums.give("tokens_per_s_per_gpu", output / gpus if output and gpus else None, no_gpu, no_output)
    _energy(sums, row, output, both, power, idle_w, no_energy, no_output or "", no_both or "")
    hour = _hour(sums, prices, gpus, nodes, power, no_energy)
    no_hour = sums.reasons.get("cost_per_hour")

    def per(name: str, rate: float | None, count: float, missing: str | None) -> float | None:
        return sums.give(name, hour / (rate * 3600) * count if hour is not None and rate else None, no_hour, missing)

    cost = per("cost_per_million_output_tokens", output, MILLION, no_output)
    per("cost_per_million_tokens", both, MILLION, no_both)
    per("cost_per_thousand_requests", row.get("achieved_rps"), 1e3, "no request was answered in the window")
    sums.give("output_tokens_per_currency", MILLION / cost if cost else None, no_hour, no_output, "it costs nothing")
    _break_even(sums, api, prices, output, prompt, cost, hour)
    return {**sums.values, "reasons": sums.reasons}


def _energy(
    sums: Sums,
    row: Mapping[str, Any],
    output: float | None,
    both: float | None,
    power: float | None,
    idle_w: float | None,
    no_energy: str | None,
    no_output: str,
    no_both: str,
) -> None:
    sums.values |= {"energy_source": row.get("energy_source"), "energy_error": row.get("energy_error")}
    sums.give("gpu_power_w", power, no_energy)
    sums.give("energy_per_output_token_j", row.get("energy_per_output_token_j"), no_energy, no_output)
    sums.give("energy_per_token_j", power / both if power is not None and both else None, no_energy, no_both)
    no_idle = no_energy or "idle power was not measured in this launch"
    sums.give("idle_power_w", idle_w, no_idle)
    above = (power - idle_w) / output if power is not None and idle_w is not None and output else None
    sums.give("energy_above_idle_per_output_token_j", above, None if idle_w is not None else no_idle, no_output)


def _hour(
    sums: Sums, prices: Prices, gpus: int, nodes: int, power: float | None, no_energy: str | None
) -> float | None:
    """What an hour costs: its parts are those that the platform has a price of, and each must be known."""
    if not prices:
        for name in ("price_per_hour", "power_price_per_hour", "cost_per_hour"):
            sums.give(name, None, "the platform has no `prices`")
        return None
    rent = None
    no_rent = "`prices` has neither `gpu_hour` nor `node_hour`"
    if gpus and "gpu_hour" in prices:
        rent = prices["gpu_hour"] * gpus
    elif "node_hour" in prices:
        rent = prices["node_hour"] * nodes
    elif "gpu_hour" in prices:
        no_rent = "the platform has no GPU, and `prices` has no `node_hour`"
    sums.give("price_per_hour", rent, no_rent)
    drawn = prices["kwh"] * power * 3600 / JOULES_A_KWH if "kwh" in prices and power is not None else None
    sums.give("power_price_per_hour", drawn, no_energy if "kwh" in prices else "`prices` has no `kwh`")
    # Of a machine of one's own, the electricity alone may be what is paid.
    asked = ["price_per_hour"] if {"gpu_hour", "node_hour"} & set(prices) else []
    asked += ["power_price_per_hour"] if "kwh" in prices else []
    parts = [sums.values[name] for name in asked]
    known = [part for part in parts if part is not None]
    whole = math.fsum(known) if known and len(known) == len(parts) else None
    return sums.give("cost_per_hour", whole, *(sums.reasons.get(name) for name in asked))


def _break_even(
    sums: Sums,
    api: Api | None,
    prices: Prices,
    output: float | None,
    prompt: float | None,
    cost: float | None,
    hour: float | None,
) -> None:
    names = ("api_cost_per_million_output_tokens", "break_even_utilisation", "break_even_output_tokens_per_month")
    missing = None
    if not api:
        missing = "the study has no `economics.api`"
    elif prices and prices["currency"] != api["currency"]:
        missing = f"the platform's prices are in {prices['currency']}, the API's in {api['currency']}"
    elif not output:
        missing = "no output token came in the window, or they were not counted"
    elif api.get("input_per_million") and prompt is None:
        missing = "the prompts' tokens were not counted"
    if missing or not api or not output:
        for name in names:
            sums.give(name, None, missing)
        return
    price = api["output_per_million"] + api.get("input_per_million", 0.0) * (prompt or 0.0) / output
    sums.give(names[0], price)
    no_cost = sums.reasons.get("cost_per_million_output_tokens") or "the API costs nothing"
    sums.give(names[1], cost / price if cost is not None and price else None, no_cost)
    monthly = hour * HOURS_A_MONTH / price * MILLION if hour is not None and price else None
    sums.give(names[2], monthly, no_cost)
