"""Do two platforms answer the same prompts with the same text? At temperature 0 they should; where not, say so.

Known only when both cells are measured, so this flag is raised by the merge and not in the launch.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from servegauge.contract.columns import Row
from servegauge.contract.flag import TextsCase
from servegauge.contract.flags import raised, thresholds_of
from servegauge.contract.records.plan import Plan
from servegauge.contract.spec import canonical_json
from servegauge.dataset.launch_parts import Part

THRESHOLD = "differing_text_share"
# What two cells share, beside the server's further arguments and variables, when only the platform is another
SAME = (
    *("workload", "load", "framework", "model", "options", "repeat"),
    *("tp", "pp", "dp", "ep", "instances", "share_gpu"),
)


def compare_texts(rows: Iterable[dict[str, Any]], parts: Mapping[str, Part], plans: Sequence[Plan]) -> None:
    """Flag measured cells whose texts differ from those of the same server and load on the reference platform.

    The reference is the baseline of a study that compares platforms, else the first platform by name. `rows` are rows
    of CELLS whose `flag_details` is still a list; those in which more answers differ than `validity:` allows (the
    strictest of the studies that ask for the cell) get the flag `text_differs`.
    """
    baselines = {
        plan.study["compare"]["baseline"]
        for plan in plans
        if (plan.study.get("compare") or {}).get("factor") == "platform"
    }
    limits: dict[str, float] = {}
    for plan in plans:
        limit = thresholds_of(plan.study.get("validity"))[THRESHOLD]
        limits.update((cell.id, min(limit, limits.get(cell.id, limit))) for cell in plan.cells)
    given = {launch.id: launch for plan in plans for launch in plan.launches}
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        if row["status"] == "ok" and row["texts_sha256"] and json.loads(row["load"]).get("temperature") == 0:
            launch = given.get(row["launch"])
            same = {name: row[name] for name in SAME}
            same |= {name: getattr(launch, name, None) or None for name in ("extra_args", "environment")}
            groups[canonical_json(same)].append(row)
    for group in groups.values():
        if len({row["texts_sha256"] for row in group}) > 1:
            _flag(sorted(group, key=lambda row: (row["platform"] not in baselines, row["platform"])), parts, limits)


def _flag(group: list[dict[str, Any]], parts: Mapping[str, Part], limits: Mapping[str, float]) -> None:
    reference = group[0]
    wanted = _texts(reference, parts)
    for row in group[1:]:
        if row["texts_sha256"] == reference["texts_sha256"] or row["platform"] == reference["platform"]:
            continue
        found = _texts(row, parts)
        both = found.keys() & wanted.keys()
        differ = sum(found[request] != wanted[request] for request in both)
        own = {THRESHOLD: limits[row["cell"]]} if row["cell"] in limits else None
        for flag in raised(TextsCase(differ, len(both), reference["platform"], thresholds_of(own))):
            row["flag_details"] = [*row["flag_details"], flag]
            row["flags"] = sorted({*row["flags"], flag["flag"]})


def _texts(row: Row, parts: Mapping[str, Part]) -> dict[int, str]:
    """Request -> digest of its text, of the window's answered requests."""
    requests: pa.Table = parts[row["launch"]].read(row["cell"], ("request", "phase", "text_sha256"))
    requests = requests.filter(pc.and_(pc.equal(requests["phase"], "window"), pc.is_valid(requests["text_sha256"])))
    return dict(zip(requests["request"].to_pylist(), requests["text_sha256"].to_pylist(), strict=True))
