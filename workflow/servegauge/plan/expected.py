"""What is wrong with the published figures of a study (`expects:`), beyond what the schema can say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from servegauge.base.errors import did_you_mean
from servegauge.contract.config_types import Study
from servegauge.contract.trace_tables import STEP_COLUMNS
from servegauge.contract.yaml_schema import Keys, Mistake, not_among
from servegauge.inputs.config_files import names, unknown_name
from servegauge.inputs.model_numbers import MODEL_NUMBERS
from servegauge.plan.axes import LAYOUT
from servegauge.plan.mistakes import compared_metrics


def expectation_mistakes(study: Study, axes: Sequence[str], root: Path) -> Iterator[Mistake]:
    """(keys, message) of each; `axes` are the names that a matrix can have."""
    for position, entry in enumerate(study.get("expects", ())):
        here: Keys = ["expects", position]
        yield from _figures(entry, here)
        yield from _metric(study, entry, here, root)
        for part, keys in ((entry, here), (entry.get("over") or {}, [*here, "over"])):
            yield from _chosen(study, part.get("where") or {}, [*keys, "where"], axes)


def _figures(entry: Mapping[str, Any], here: Keys) -> Iterator[Mistake]:
    over = entry.get("over") or {}
    if ("value" in entry) == ("ratio" in entry):
        yield here, "give one of `value` (a number in the metric's unit) and `ratio` (of `where` to `over`)"
    elif "ratio" in entry and not over:
        yield [*here, "ratio"], "a ratio needs `over`: the cells that it is divided by"
    elif over and ("value" in entry) != ("value" in over):
        yield [*here, "over"], "give a `value` on both sides, or `ratio` alone"
    for part, keys in ((entry, here), (over, [*here, "over"])):
        if isinstance(part.get("value"), list) and ("deviation" in part or "n" in part):
            yield [*keys, "value"], "a range has no deviation; give the mean, or leave `deviation` and `n` out"
        if "n" in part and "deviation" not in part:
            yield [*keys, "n"], "means nothing without `deviation`"
    if entry.get("model") and (over or entry.get("where")):
        yield here, "what is computed from a model's shape has no cells: leave `where` and `over` out"


def _metric(study: Study, entry: Mapping[str, Any], here: Keys, root: Path) -> Iterator[Mistake]:
    if "probe" in entry:
        from servegauge.probes import registry  # imports numpy, which a study without probes does not need

        probes = registry()
        if entry["probe"] not in probes:
            yield [*here, "probe"], f"there is no probe {entry['probe']!r}.{not_among(entry['probe'], probes)}"
            return
        known = list(probes[entry["probe"]].units)
    elif "model" in entry:
        if entry["model"] not in (models := names(root, "models")):
            yield [*here, "model"], unknown_name(entry["model"], models, Path("config") / "models")
        known = list(MODEL_NUMBERS)
    elif "phase" in entry:
        known = list(STEP_COLUMNS[entry["phase"]])
        if not study.get("trace"):
            yield [*here, "phase"], "the study has no traces: it needs `trace`"
    else:
        known = compared_metrics(study)
    if entry["metric"] not in known:
        yield [*here, "metric"], f"there is no metric {entry['metric']!r} here.{not_among(entry['metric'], known)}"


def _chosen(study: Study, where: Mapping[str, Any], here: Keys, axes: Sequence[str]) -> Iterator[Mistake]:
    """Axes that no study has, and values that this one does not measure."""
    for axis, value in where.items():
        if axis not in (known_axes := [one for one in axes if one not in ("repeat", "include", "exclude")]):
            yield [*here, axis], f"there is no axis {axis!r}.{not_among(axis, known_axes)}"
            continue
        without = LAYOUT.get(axis, study["server"].get(axis))
        known = list(study["matrix"].get(axis, ["none" if without is None else without]))
        known += [
            one for entry in study["matrix"].get("include", ()) for one in entry.get(axis, ()) if one not in known
        ]
        if value not in known:
            choices = [str(one) for one in known]
            near = did_you_mean(str(value), choices)
            if str(value) in choices:
                how = "as a number, without quotes" if isinstance(value, str) else "as a text, in quotes"
                near = f" Write it {how}."
            yield [*here, axis], f"{value!r} is not measured.{near} It has: {', '.join(choices)}"
