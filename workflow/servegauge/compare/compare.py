"""How much a level of the compared factor costs: each metric's ratio to the baseline, and what follows from it.

A *condition* is everything else that a study varies (framework, model, layout, options, prompts, rate, ...): inside it
only the factor differs. One launch gives one number; docs/statistics.md says what is assumed and how that was proved.

Three families of questions are corrected for their size: the primary metrics over all conditions (Holm), the cells of
the table (Holm), and everything else, which is exploratory (Benjamini-Hochberg at 10 %).
"""

from __future__ import annotations

import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from servegauge.base.errors import UserError, did_you_mean
from servegauge.base.progress import seconds_of
from servegauge.compare import order, quality
from servegauge.compare.conditions import Condition, condition, lifetime, statistic, unbracketed
from servegauge.compare.effect import Effect, paired_effect, unpaired_effect
from servegauge.compare.judging import judged_together
from servegauge.compare.notes import notes
from servegauge.compare.overall import Block, Side, overall_effect
from servegauge.compare.results import EXPLORATORY, MARGIN, Comparison, Judged, Overall, Ratio
from servegauge.compare.verdicts import NOT_COMPARABLE, NOT_JUDGED
from servegauge.contract.columns import Row
from servegauge.contract.metric import PRIMARY, TABLE, required_sample
from servegauge.contract.metric_registry.capacity import CAPACITY
from servegauge.contract.spec import AGAIN, canonical_json
from servegauge.dataset.study_view import Metric, Study, axis_value, doubts, level_text, without


def compare(study: Study, wanted: Sequence[Metric] | None = None) -> Comparison | None:
    """Every ratio of `study`; None where nothing is compared.

    `wanted` limits what is shown: families, and with them verdicts, are always those of the whole study.
    """
    factor, baseline = study.factor()
    if factor is None:
        return None
    levels = [baseline, *(level for level in study.levels(factor) if level != baseline)]
    result = Comparison(study, factor, baseline, levels, study.margin or MARGIN, primary_metrics(study))
    groups: dict[str, dict[str, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for row in study.ok:
        axes = without(row, factor)
        key = canonical_json(axes)
        result.conditions[key] = axes
        groups[key][canonical_json(axis_value(row, factor))].append(row)
    found = []
    for key, by_level in groups.items():
        base = by_level.get(canonical_json(baseline), [])
        for level in levels[1:]:
            other = by_level.get(canonical_json(level), [])
            if base and other:
                found.append(condition(key, result.conditions[key], level, base, other))
    result.sides = found
    _judge(result)
    _add_order_warnings(result, found)
    if study.again:
        result.again = _again(result, groups)
    if wanted is not None:
        names = {metric.name for metric in wanted}
        result.ratios = [one for one in result.ratios if one.metric.name in names]
        result.overall = [one for one in result.overall if one.metric.name in names]
    result.quality = quality.canaries(study, factor, baseline)
    result.notes = [*quality.notes(result.quality), *notes(result, groups, found)]
    return result


def _judge(result: Comparison) -> None:
    """Every ratio of the sides, in their families."""
    study = result.study
    for metric in study.metrics:
        for level in result.levels[1:]:
            mine = [cells for cells in result.sides if cells.level == level]
            measured = [one for one in (_measured(study, metric, cells) for cells in mine) if one]
            ratios = [_ratio(study, metric, one, result.margin) for one in measured]
            result.ratios += ratios
            if overall := _overall(metric, level, measured, ratios, result.margin):
                result.overall.append(overall)
    _adjust(result)


def _again(result: Comparison, groups: Mapping[str, Mapping[str, list[dict[str, Any]]]]) -> Comparison:
    """The baseline against itself, judged like any other level, in families of its own."""
    study, factor = result.study, result.factor
    level = f"{level_text(result.baseline)}{AGAIN}"
    mine = Comparison(study, factor, result.baseline, [result.baseline, level], result.margin, result.primary)
    rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in study.again:
        if row["status"] == "ok":
            rows[canonical_json(without(row, factor))].append(row)
    for key, other in rows.items():
        if base := groups.get(key, {}).get(canonical_json(result.baseline)):
            mine.conditions[key] = result.conditions[key]
            mine.sides.append(condition(key, result.conditions[key], level, base, other))
    _judge(mine)
    _add_order_warnings(mine, mine.sides)
    return mine


def primary_metrics(study: Study) -> list[str]:
    """Names of the metrics that a study is about: its own list, else TTFT p50, TPOT p50, capacity or output tokens."""
    known = [metric.name for metric in study.metrics]
    for name in study.primary or ():
        if name not in known:
            raise UserError(
                f"study {study.name}: compare.primary names {name!r}; there are {', '.join(known)}."
                f"{did_you_mean(name, known)}"
            )
    if study.primary:
        return list(study.primary)
    capacity = CAPACITY.name in known
    own = [metric.name for metric in study.metrics if PRIMARY in metric.views]
    return [name for name in own if not (capacity and name == "output_tokens_per_s")]


# -- effects ------------------------------------------------------------------


@dataclass(frozen=True)
class _Measured:
    """A condition with the numbers of one metric, launch by launch."""

    cells: Condition
    base: Sequence[float]
    other: Sequence[float]


def _measured(study: Study, metric: Metric, cells: Condition) -> _Measured | None:
    """None where a cell has no such number although its requests were answered."""
    base, other = _numbers(study, metric, cells.base), _numbers(study, metric, cells.other)
    return None if base is None or other is None else _Measured(cells, base, other)


def _numbers(study: Study, metric: Metric, rows: Sequence[Row]) -> list[float] | None:
    found = [value for row in rows if (value := statistic(study, row, metric)) is not None]
    return found if len(found) == len(rows) else None


def _ratio(study: Study, metric: Metric, one: _Measured, margin: float) -> Ratio:
    cells = one.cells
    effect = (paired_effect if cells.paired else unpaired_effect)(
        one.base, one.other, margin, more_is_better=metric.more_is_better
    )
    counted = min(row["requests_ok"] or 0 for row in cells.rows)
    supported = metric.quantile is None or counted >= required_sample(metric.quantile)
    warnings = list(effect.warnings)
    if not supported:
        warnings.append(f"the smallest cell has {counted} answered requests, too few for this quantile")
    verdict, reason = _verdict(metric, cells, effect)
    value, base_value, error = _geometric(one.other), _geometric(one.base), _instrument(metric, cells.rows)
    if metric.name == CAPACITY.name:  # 0 stands for less than was tried
        value, base_value = value or None, base_value or None
    return Ratio(
        **_shared(effect),
        metric=metric,
        level=cells.level,
        paired=cells.paired,
        verdict=verdict,
        reason=reason,
        instrument=error / base_value if error is not None and base_value else None,
        instrument_s=error,
        warnings=tuple(warnings),
        condition=cells.key,
        value=value,
        base_value=base_value,
        launches=len(cells.other),
        base_launches=len(cells.base),
        unpaired=cells.unpaired,
        requests=counted,
        success=cells.success,
        base_success=cells.base_success,
        flagged=sum(bool(doubts(row)) for row in cells.other),
        base_flagged=sum(bool(doubts(row)) for row in cells.base),
        flags=tuple(sorted(cells.flags)),
        supported=supported,
    )


def _verdict(metric: Metric, cells: Condition, effect: Effect) -> tuple[str, str | None]:
    """The verdict before correction, and the reason where there is none to be had."""
    if refused := cells.refused(metric):
        return refused
    if effect.ratio is None:
        beyond = unbracketed(cells.rows) if metric.name == CAPACITY.name else None
        return NOT_COMPARABLE, beyond or effect.warnings[0]
    if effect.verdict is None:
        return NOT_JUDGED, effect.warnings[0]
    return effect.verdict, None


def _overall(
    metric: Metric, level: Any, measured: Sequence[_Measured], ratios: Sequence[Ratio], margin: float
) -> Overall | None:
    """The mean over the conditions that may be judged; over all that have a ratio where none may, without a verdict."""
    pairs = [(one, ratio) for one, ratio in zip(measured, ratios, strict=True) if ratio.ratio is not None]
    if not pairs:
        return None
    judged = [pair for pair in pairs if pair[1].verdict not in (NOT_JUDGED, NOT_COMPARABLE)]
    taken = judged or _most_alike(pairs)
    kept = {ratio.condition for _, ratio in taken}
    blocks: dict[tuple[Any, Any, bool], list[_Measured]] = defaultdict(list)
    for one, _ in taken:
        blocks[(*one.cells.block, one.cells.paired)].append(one)
    effect = overall_effect(
        [
            Block(
                [_side(one.cells.base, one.base) for one in members],
                [_side(one.cells.other, one.other) for one in members],
                paired,
            )
            for (*_, paired), members in blocks.items()
        ],
        margin,
        more_is_better=metric.more_is_better,
    )
    by_size = sorted((ratio for _, ratio in taken), key=lambda ratio: ratio.ratio or 0.0)
    if effect.ratio is None:  # a mean, and nothing of its spread
        mean = statistics.geometric_mean(one.ratio or 1.0 for one in by_size)
        effect = replace(effect, ratio=mean, pairs=min(one.pairs for one in by_size))
    verdict, reason = effect.verdict or NOT_JUDGED, None
    if not judged:
        verdict, reason = by_size[0].verdict, by_size[0].reason
    elif verdict == NOT_JUDGED:
        reason = next(iter(effect.warnings), None)
    warnings = effect.warnings
    if drifts := order.drifts([_by_repeat(members) for (*_, paired), members in blocks.items() if paired]):
        warnings = (*warnings, drifts)
    errors = [(one.instrument, one.instrument_s) for one in by_size if one.instrument is not None]
    return Overall(
        **_shared(effect),
        metric=metric,
        level=level,
        paired=all(one.cells.paired for one, _ in taken),
        verdict=verdict,
        reason=reason,
        instrument=math.fsum(error for error, _ in errors) / len(errors) if errors else None,
        instrument_s=max((error for _, error in errors if error is not None), default=None),
        warnings=warnings,
        conditions=len(taken),
        smallest=by_size[0],
        largest=by_size[-1],
        left_out=tuple(ratio.condition for ratio in ratios if ratio.condition not in kept),
    )


def _most_alike(pairs: Sequence[tuple[_Measured, Ratio]]) -> list[tuple[_Measured, Ratio]]:
    """Where no condition may be judged: those that cannot for the same reason, the most frequent one."""
    reasons = Counter((ratio.verdict, ratio.reason) for _, ratio in pairs)
    most = reasons.most_common(1)[0][0]
    return [pair for pair in pairs if (pair[1].verdict, pair[1].reason) == most]


def _shared(effect: Effect) -> dict[str, Any]:
    names = ("ratio", "low", "high", "p", "p_equal", "p_exact", "pairs", "deviation", "repeats_needed")
    return {name: getattr(effect, name) for name in names}


def _side(rows: Sequence[Row], values: Sequence[float]) -> Side:
    return Side([row["repeat"] for row in rows], [math.log(value) for value in values])


def _by_repeat(members: Sequence[_Measured]) -> list[tuple[float, float]]:
    """Start and mean logarithm of the ratio, less the condition's own, of each server of conditions that share them."""
    found = []
    for one in members:
        logs = [math.log(other / base) for base, other in zip(one.base, one.other, strict=True)]
        mean = math.fsum(logs) / len(logs)
        for row, log in zip(one.cells.base, logs, strict=True):
            if (start := seconds_of(row.get("started_utc"))) is not None:
                found.append((lifetime(row), start, log - mean))
    servers = dict.fromkeys(server for server, _, _ in found)
    mine = {server: [(start, log) for name, start, log in found if name == server] for server in servers}
    return [
        (math.fsum(start for start, _ in one) / len(one), math.fsum(log for _, log in one) / len(one))
        for one in mine.values()
    ]


def _geometric(values: Sequence[float]) -> float | None:
    if any(math.isinf(value) for value in values):
        return None
    if any(value <= 0 for value in values):
        return 0.0
    return statistics.geometric_mean(values)


def _instrument(metric: Metric, rows: Sequence[Row]) -> float | None:
    column = metric.error_column
    errors = [abs(row[column]) for row in rows if column and row.get(column) is not None]
    return max(errors, default=None)


# -- families -----------------------------------------------------------------


def _adjust(result: Comparison) -> None:
    """p values adjusted inside their families, and the verdicts that they leave."""

    def family(one: Judged) -> str:
        if isinstance(one, Overall):
            return PRIMARY if one.metric.name in result.primary else EXPLORATORY
        return TABLE if TABLE in one.metric.views or one.metric.name in result.primary else EXPLORATORY

    for name in (PRIMARY, TABLE, EXPLORATORY):
        everything: list[Any] = [*result.overall, *result.ratios]
        members = [one for one in everything if family(one) == name]
        found, result.families[name] = judged_together(members, name, result.margin)
        judged = {id(before): after for before, after in zip(members, found, strict=True)}
        result.overall = [judged.get(id(one), one) for one in result.overall]
        result.ratios = [judged.get(id(one), one) for one in result.ratios]


# -- words --------------------------------------------------------------------


def _add_order_warnings(result: Comparison, found: Sequence[Condition]) -> None:
    """What really happened beside the verdicts over all conditions of a level."""
    for level in result.levels[1:]:
        study, conditions = result.study, [one for one in found if one.level == level]
        texts = order.warnings(conditions, study.node_of, study.place_of, result.factor)
        if texts:
            result.overall = [
                replace(one, warnings=(*one.warnings, *texts)) if one.level == level else one for one in result.overall
            ]
            result.notes += [f"{text[0].upper()}{text[1:]}." for text in texts]
