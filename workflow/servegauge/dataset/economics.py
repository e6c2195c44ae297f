"""Rows of ECONOMICS: each measured cell of a study under the prices that its platform had when it was planned."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from servegauge.contract.columns import Row
from servegauge.contract.economics import of_cell
from servegauge.contract.records.launch import LaunchRecord
from servegauge.contract.records.plan import Plan
from servegauge.contract.spec import AGAIN


def rows(
    plans: Iterable[Plan],
    cells: Mapping[str, Row],
    record_of: Callable[[str, int], LaunchRecord | None],
) -> Iterator[dict[str, Any]]:
    """A row per study and measured cell.

    `cells`: id to row of CELLS; `record_of`: launch and attempt to launch.json, which has the idle power.
    """
    for plan in plans:
        study = plan.study
        api = (study.get("economics") or {}).get("api")
        launches = {launch.id: launch for launch in plan.launches}
        for cell in plan.cells:
            row = cells.get(cell.id)
            if row is None or row["status"] != "ok":
                continue
            launch = launches[cell.launch]
            name = launch.platform["name"].removesuffix(AGAIN)
            platform = (study.get("platforms") or {}).get(name) or launch.platform
            per_node = platform.get("gpus_per_node") or 0
            gpus = launch.layout.gpus if per_node else 0
            nodes = math.ceil(gpus / per_node) if per_node else 1
            record = record_of(launch.id, row["attempt"])
            idle = record.idle.power_w if record and record.idle else None
            worked_out = of_cell(row, platform, gpus, nodes, idle, api)
            keys = {"study": plan.name, "cell": cell.id, "launch": launch.id}
            yield {**keys, **worked_out, "reasons": json.dumps(worked_out["reasons"], ensure_ascii=False)}
