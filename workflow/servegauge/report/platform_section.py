"""The report's section about the platforms themselves: probes beside probes, and how much of them the cells used."""

from __future__ import annotations

import contextlib
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from servegauge.base.numbers import mean
from servegauge.compare.probe_effects import ProbeRatio, one_each, sentences, study_probes, variant_of
from servegauge.compare.results import Comparison
from servegauge.contract.columns import Row
from servegauge.dataset.study_view import Study, label, without
from servegauge.inputs.model_shape import ModelShape, UnknownShape, from_config
from servegauge.report.roofline import Panel, Utilisation, ceilings, utilisation


@dataclass
class PlatformSection:
    """`ratios`: farthest from 1 first. `not_run`: rows failed or skipped. `used`: per condition and platform."""

    ratios: list[ProbeRatio] = field(default_factory=list)
    sentences: list[str] = field(default_factory=list)
    not_run: list[dict[str, Any]] = field(default_factory=list)
    used: list[dict[str, Any]] = field(default_factory=list)
    panels: list[Panel] = field(default_factory=list)  # what the roofline is drawn from
    by_cell: dict[str, Utilisation] = field(default_factory=dict)
    shapes: dict[str, ModelShape] = field(default_factory=dict)  # by model

    def __bool__(self) -> bool:
        return bool(self.ratios or self.not_run or self.used or self.probed)

    @property
    def probed(self) -> bool:
        """True where a platform has both ceilings of a roofline, its own or the vendor's."""
        known = [panel.ceilings for panel in self.panels]
        return any((one.memory_gb_s and one.tflops) or (one.vendor_memory_gb_s and one.vendor_tflops) for one in known)


def platform_section(study: Study, comparison: Comparison | None) -> PlatformSection:
    """What the probes of the study's platforms say, and what the cells used of them, or of the vendor's figures."""
    names = study.levels("platform")
    rows = one_each(study.probes)
    section = PlatformSection(not_run=[_told(row) for row in rows if row["status"] != "ok"])
    if rows and comparison:
        section.ratios = study_probes(study)
        section.sentences = sentences(section.ratios, comparison.margin)
    shapes = section.shapes = _shapes(study.own("study_models"))
    files = {row["platform"]: json.loads(row["file"]) for row in study.own("study_platforms")}
    for name in names:
        known = ceilings(rows, {**files.get(name, {}), "name": name})
        mine = [row for row in study.loads if row["platform"] == name and row["model"] in shapes]
        used = {row["cell"]: utilisation(row, shapes[row["model"]], known) for row in mine}
        dtype = shapes[mine[0]["model"]].dtype if mine else None
        section.panels.append(Panel(known, list(used.values()), rows, dtype))
        section.by_cell |= used
    if section.probed:
        section.used = _used(study, section.by_cell)
    return section


def _told(row: Row) -> dict[str, Any]:
    words = ", ".join(f"{key} {value}" for key, value in variant_of(row).items())
    return {**row, "words": words}


def _shapes(models: Iterable[Row]) -> dict[str, ModelShape]:
    """Shapes of the models whose config.json the dataset holds and whose operations follow from it."""
    found = {}
    for row in models:
        with contextlib.suppress(UnknownShape, ValueError, TypeError):  # no utilisation of this one, the rest stays
            if row["config"]:
                found[row["model"]] = from_config(json.loads(row["config"]))
    return found


def _used(study: Study, by_cell: Mapping[str, Utilisation]) -> list[dict[str, Any]]:
    """Means over launches of what the cells used, per condition and platform."""
    groups: dict[tuple[str, str], list[Utilisation]] = defaultdict(list)
    for row in study.loads:
        if row["cell"] in by_cell:
            groups[(label(without(row, "platform")), row["platform"])].append(by_cell[row["cell"]])
    names = ("mfu", "mbu", "mfu_vendor", "mbu_vendor", "batch")
    return [
        {"condition": condition, "platform": platform}
        | {name: mean(getattr(cell, name) for cell in cells) for name in names}
        for (condition, platform), cells in sorted(groups.items())
    ]
