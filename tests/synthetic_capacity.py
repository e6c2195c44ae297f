"""Searches for the capacity in a made-up results/ folder: with servers whose truth is known."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import msgspec
import pyarrow.parquet as pq

from servegauge.base.files import read_json, write_json
from servegauge.contract import tables
from servegauge.contract.records.base import plain
from servegauge.contract.records.specs import CellSpec, LaunchSpec
from servegauge.contract.spec import Cell, Load
from servegauge.instrument.capacity import first_rate, lower_bound, search
from tests import synthetic

SLO = "interactive"
LIMITS = {"ttft_s": 0.05, "tpot_s": 0.01}
REQUESTS = 400


def add_searches(
    root: Path, capacities: Mapping[str, float], cliff: bool = True, most_rps: float = 100.0, prompts: str = "short"
) -> list[str]:
    """A search on every launch of the study `demo` that `make_results` wrote; `capacities`: platform -> 1/s.

    A launch's own capacity is up to 2 % off. Beyond it, the share that meets the SLO falls at once, or slowly.
    """
    results = root / "results"
    plan = read_json(results / "plan" / "demo.json")
    asked = {"slo": SLO, "limits": LIMITS, "share": 0.99, "first_rps": 1.0, "most_rps": most_rps}
    made = []
    for spec in plan["launches"]:
        launch = msgspec.convert(spec, LaunchSpec).launch
        load = Load(capacity=asked, requests=REQUESTS, output_tokens=32)
        cell = Cell.of(launch, {"name": prompts}, load)
        own = capacities[launch.platform["name"]] * (1 + 0.02 * math.sin(7.0 * launch.repeat))
        steps: list[dict] = []

        def attains(rate: float, own: float = own, steps: list[dict] = steps) -> bool:
            share = 1.0 if rate <= own else math.exp(-(16 if cliff else 1.2) * math.log(rate / own) - 0.02)
            met = round(share * REQUESTS)
            low = lower_bound(met, REQUESTS)
            steps.append(
                {
                    "step": len(steps), "slo": SLO, "rate_rps": rate, "attained": low >= 0.99, "attained_low": low,
                    "saturated": False, "requests": REQUESTS, "requests_attained": met, "attained_share": share,
                    "goodput_rps": share * rate, "window_s": REQUESTS / rate, "flags": [],
                }
            )  # fmt: skip
            return low >= 0.99

        found = search(attains, first_rate(asked["first_rps"], cell.id), most_rps)
        kept = next(
            (one for one in steps if one["rate_rps"] == found.low_rps), min(steps, key=lambda one: one["rate_rps"])
        )
        rows = [{**one, "cell": cell.id, "launch": launch.id} for one in steps]
        capacity = {"slo": SLO, "limits": LIMITS, "share": 0.99, "precision": 0.03, "step": kept["step"]}
        synthetic.write_cell(
            results,
            launch,
            cell,
            synthetic.Shape(requests=REQUESTS, rate_rps=kept["rate_rps"], ttft_s=0.03, seed=launch.repeat),
            beside=lambda folder, rows=rows: pq.write_table(
                tables.from_rows(rows, tables.CAPACITY_STEPS), folder / "capacity_steps.parquet"
            ),
            capacity={**capacity, "low_rps": found.low_rps, "high_rps": found.high_rps},
        )
        plan["cells"].append(plain(CellSpec.of(cell)))
        made.append(cell.id)
    plan["study"]["matrix"]["capacity"] = [SLO]
    write_json(results / "plan" / "demo.json", plan)
    return made
