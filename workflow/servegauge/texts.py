"""Do two platforms answer the same prompts with the same text? At temperature 0 they should; where not, say so.

Known only when both cells are measured, so this flag is raised by the merge and not in the launch.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from servegauge.parts import Part
from servegauge.spec import canonical_json

FLAG = "text_differs"


def compare_texts(
    rows: Iterable[dict[str, Any]], parts: Mapping[str, Part], plans: Iterable[Mapping[str, Any]]
) -> None:
    """Flag measured cells whose texts differ from those of the same server and load on the reference platform.

    The reference is the baseline of a study that compares platforms, else the first platform by name. `rows` are rows
    of CELLS whose `flag_details` is still a list; those that differ get the flag `text_differs`.
    """
    baselines = {
        plan["study"]["compare"]["baseline"]
        for plan in plans
        if (plan["study"].get("compare") or {}).get("factor") == "platform"
    }
    groups: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        if row["status"] == "ok" and row["texts_sha256"] and json.loads(row["load"]).get("temperature") == 0:
            same = {name: row[name] for name in ("workload", "framework", "model", "options", "repeat", "load")}
            groups[canonical_json({**same, "layout": [row[name] for name in ("tp", "pp", "dp", "ep")]})].append(row)
    for group in groups.values():
        if len({row["texts_sha256"] for row in group}) > 1:
            _flag(sorted(group, key=lambda row: (row["platform"] not in baselines, row["platform"])), parts)


def _flag(group: list[dict[str, Any]], parts: Mapping[str, Part]) -> None:
    reference = group[0]
    wanted = _texts(reference, parts)
    for row in group[1:]:
        if row["texts_sha256"] == reference["texts_sha256"]:
            continue
        found = _texts(row, parts)
        both = found.keys() & wanted.keys()
        differ = sum(found[request] != wanted[request] for request in both)
        if differ:
            detail = f"{differ} of {len(both)} answers are other texts than on {reference['platform']} at temperature 0"
            flag = {"flag": FLAG, "value": differ / len(both), "threshold": 0.0, "detail": detail}
            row["flag_details"] = [*row["flag_details"], flag]
            row["flags"] = sorted({*row["flags"], FLAG})


def _texts(row: Mapping[str, Any], parts: Mapping[str, Part]) -> dict[int, str]:
    """Request -> digest of its text, of the window's answered requests."""
    requests: pa.Table = parts[row["launch"]].read(row["cell"], ("request", "phase", "text_sha256"))
    requests = requests.filter(pc.and_(pc.equal(requests["phase"], "window"), pc.is_valid(requests["text_sha256"])))
    return dict(zip(requests["request"].to_pylist(), requests["text_sha256"].to_pylist(), strict=True))
