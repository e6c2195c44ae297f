"""Rows of the dataset's small tables, from the documents of a results folder."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from servegauge.base.progress import seconds_between
from servegauge.contract.columns import Row
from servegauge.contract.config_types import Model
from servegauge.contract.records.base import plain
from servegauge.contract.records.order import probe_documents
from servegauge.contract.spec import canonical_json
from servegauge.contract.tables import ALLOCATION
from servegauge.dataset import launch_parts
from servegauge.dataset.catalogue import read_parquet
from servegauge.dataset.joined import labels
from servegauge.dataset.launch_parts import Part
from servegauge.dataset.records import Records
from servegauge.dataset.spec_columns import attempt_columns, load_factors
from servegauge.inputs.models import source_folder
from servegauge.plan import stop
from servegauge.probes.harness.run import dataset_rows

NOT_SPECULATIVE = "the server runs without speculative decoding"
NO_DRAFT_COUNTS = "the server does not tell how many drafts there were and how many of their tokens were accepted"
ANSWER = ("item", "kind", "prompt_sha256", "text", "correct", "reason")  # columns of QUALITY beside the launch
ATTEMPT_FOLDER = re.compile(r"attempt-(\d+)")
Rows = Iterator[dict[str, Any]]
Parts = Mapping[str, Part]


def cell_rows(records: Records, parts: Parts) -> Rows:
    """Every cell of every study, whatever became of it."""
    for cell, spec in records.cells.items():
        part = parts.get(spec.launch)
        entry = part.entries.get(cell) if part else None
        row = {"cell": cell, "launch": spec.launch, **records.factors(spec.launch), **load_factors(spec), "flags": []}
        if entry:
            row |= {"status": "ok", "cell_sha256": entry.cell_sha256, **entry.row}
            _add_launch_flags(records, row)
            if row.get("acceptance_length") is None:
                asked = "speculative" in json.loads(row["options"] or "{}")
                row["acceptance_reason"] = NO_DRAFT_COUNTS if asked else NOT_SPECULATIVE
        else:
            row |= records.outcome(spec)
        yield row


def _add_launch_flags(records: Records, row: dict[str, Any]) -> None:
    """What the server reports of itself against what was asked concerns every cell that it served."""
    record = records.launch_record(row["launch"], row["attempt"])
    if record and record.flags:
        row["flags"] = sorted({*row["flags"], *(flag.flag for flag in record.flags)})
        row["flag_details"] = [*row["flag_details"], *plain(record.flags)]


def study_rows(records: Records) -> Rows:
    for plan in records.plans:
        study = plan.study
        compare = study.get("compare") or {}
        yield {
            **{name: study.get(name) for name in ("question", "sha256", "text")},
            "study": plan.name,
            "path": None if study.get("path") is None else str(study["path"]),
            "compare_factor": compare.get("factor"),
            "compare_baseline": _baseline(study),
            "expects": canonical_json(study["expects"]) if study.get("expects") else None,
            "compare_margin": compare.get("margin"),
            "compare_primary": compare.get("primary"),
            "slos": canonical_json(study.get("slo") or {}),
            "matrix": canonical_json(study.get("matrix") or {}),
            "launches": len(plan.launches),
            "cells": len(plan.cells),
        }


def _baseline(study: Mapping[str, Any]) -> str | None:
    """The baseline as a text; a mapping as canonical JSON, sampling settings with the temperature that they lack."""
    compare = study.get("compare") or {}
    baseline = compare.get("baseline")
    if isinstance(baseline, Mapping) and compare.get("factor") == "sampling":
        baseline = {"temperature": (study.get("load") or {}).get("temperature", 0), **baseline}
    return canonical_json(baseline) if isinstance(baseline, Mapping) else None if baseline is None else str(baseline)


def study_cell_rows(records: Records) -> Rows:
    for plan in records.plans:
        for position, cell in enumerate(plan.cells):
            yield {"study": plan.name, "cell": cell.id, "launch": cell.launch, "position": position}


def model_rows(records: Records, before: Iterable[Row]) -> Rows:
    """A row per study and model. `before`: the rows of the last merge, whose config.json may be gone by now."""
    kept = {(row["model"], row["file"]): row["config"] for row in before}
    for plan in records.plans:
        for name, model in (plan.study.get("models") or {}).items():
            file = canonical_json(model)
            config = _config(model) or kept.get((name, file))
            yield {"study": plan.name, "model": name, "file": file, "config": config}


def _config(model: Model) -> str | None:
    """The model's config.json as canonical JSON; None where it is not here, or is none."""
    try:
        text = (source_folder(model) / "config.json").read_text(encoding="utf-8")
        return canonical_json(json.loads(text))
    except (OSError, ValueError, KeyError):
        return None


def platform_rows(records: Records) -> Rows:
    for plan in records.plans:
        for name, platform in (plan.study.get("platforms") or {}).items():
            gpu = platform.get("gpu") or {}
            yield {
                "study": plan.name,
                "platform": name,
                "gpus_per_node": platform.get("gpus_per_node"),
                "vendor_bf16_tflops": gpu.get("bf16_tflops"),
                "vendor_memory_gb_s": gpu.get("memory_gb_s"),
                "file": canonical_json(platform),
            }


def launch_rows(records: Records) -> Rows:
    joined = labels(records.results)
    for launch in dict.fromkeys([*records.launches, *records.attempts]):
        spec = records.launch(launch)
        if not spec or spec.trace:  # what started under a profiler says nothing of what starts without
            continue
        attempts = records.attempts.get(launch, [])
        last = attempts[-1] if attempts else None
        started = attempt_columns(records.launch_record(launch, last.number)) if last else {}
        yield {
            "launch": launch,
            **records.factors(launch),
            "extra_args": list(spec.extra_args),
            "environment": canonical_json(spec.environment),
            "gpus": spec.layout.gpus,
            "joined": joined.get(launch),
            "status": last.status if last else "planned",
            "reason": last.reason if last else None,
            "attempts": len(attempts),
            **{name: started.get(name) for name in ("framework_version", "startup_s")},
        }


def attempt_rows(records: Records, dataset: Path, cells: Sequence[Row]) -> Rows:
    """`cells`: rows of CELLS."""
    measured: dict[tuple[str, int | None], list[dict[str, Any]]] = {}
    for row in cells:
        own = {**row, "window_s": _windows_s(dataset, row)}
        measured.setdefault((row["launch"], row.get("attempt")), []).append(own)
    for launch, attempts in records.attempts.items():
        for attempt in attempts:
            outcome = attempt.outcome
            row = {name: getattr(outcome, name, None) for name in ("study", "started_utc", "finished_utc")}
            row |= {"attempt": attempt.number, "status": attempt.status, "reason": attempt.reason}
            row["job"] = canonical_json(plain(outcome.job)) if outcome and outcome.job else None
            record = records.launch_record(launch, attempt.number)
            starts = [start.ready_s for start in record.server_starts] if record else []
            own_cells = measured.get((launch, attempt.number), [])
            spent = record.spent_s if record else {}
            row |= allocation(row["started_utc"], row["finished_utc"], starts, own_cells, spent)
            yield {"launch": launch, **row, **attempt_columns(record)}


def allocation(
    started_utc: str | None,
    finished_utc: str | None,
    starts_s: Iterable[float],
    cells: Sequence[Row],
    spent_s: Mapping[str, float],
) -> dict[str, float | None]:
    """ALLOCATION of one attempt: its times, how long each start of its servers took, its rows of CELLS, `spent_s`."""
    job = seconds_between(started_utc, finished_utc)
    if job is None:
        return dict.fromkeys(field.name for field in ALLOCATION)
    spans = [seconds_between(row.get("started_utc"), row.get("finished_utc")) or 0.0 for row in cells]
    windows = [row.get("window_s") or 0.0 for row in cells]
    resets = [row["reset_s"] for row in cells if row.get("reset_s") is not None]
    return {
        "job_s": job,
        "starts_s": sum(starts_s),
        "cells_s": sum(spans),
        "windows_s": sum(windows),
        "resets_s": sum(resets) if resets else None,
        **{f"{what}_s": spent_s.get(what) for what in ("calibration", "idle_power")},
    }


def _windows_s(dataset: Path, row: Row) -> float | None:
    """Length of a cell's window; of a search, of the windows of all its rates."""
    path = launch_parts.part_path(dataset, "capacity_steps", row["launch"])
    if row.get("capacity") is None or not path.exists():
        return row.get("window_s")
    steps = read_parquet(path, columns=["window_s"], filters=pc.field("cell") == row["cell"])
    return pc.sum(steps["window_s"]).as_py() or row.get("window_s")


def look_rows(records: Records) -> Rows:
    for plan in records.plans:
        if (asked := stop.asked(plan.study)) is None:
            continue
        for look in stop.valid_looks(plan.study, records.results):
            about = {"study": plan.name, "after": look.after, "utc": look.utc, "at_most": asked["at_most"]}
            about |= {"asked": asked["half_width"], "narrow": look.narrow(asked["half_width"])}
            yield from [{**about, **plain(one), "half_width": one.half} for one in look.widths] or [about]


def slo_rows(records: Records, parts: Parts) -> Rows:
    for plan in records.plans:
        slos = plan.study.get("slo") or {}
        for cell in plan.cells if slos else ():
            part = parts.get(cell.launch)
            if not part or cell.id not in part.entries:
                continue
            for slo, limits in slos.items():
                names = {"study": plan.name, "cell": cell.id, "slo": slo}
                yield {**names, "limits": canonical_json(limits), **part.goodput(cell.id, limits)}


def probe_rows(records: Records) -> Rows:
    for path in probe_documents(records.results):
        document = records.json(path)
        if document and "rows" in document:
            yield from dataset_rows(document, str(path))


def quality_rows(records: Records) -> Rows:
    """The graded questions of each launch, of the last attempt that asked them."""
    found: dict[str, tuple[int, list[Row]]] = {}
    for path in sorted((records.results / "launches").glob("*/attempt-*/quality.json")):
        launch, attempt = path.parent.parent.name, ATTEMPT_FOLDER.fullmatch(path.parent.name)
        answers = (records.json(path) or {}).get("items") if attempt else None
        if attempt and isinstance(answers, list) and int(attempt[1]) >= found.get(launch, (0, []))[0]:
            found[launch] = (int(attempt[1]), [row for row in answers if isinstance(row, dict)])
    for launch, (_, answers) in found.items():
        for row in answers:
            yield {"launch": launch, **{name: row.get(name) for name in ANSWER}}
