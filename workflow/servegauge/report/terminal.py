"""The end of a run, in the terminal: what was measured, what it says, what failed and what to do about it.

Imported by the Snakefile on a login node: pyarrow and numpy are loaded only when there is something to show.
"""

from __future__ import annotations

import sys
import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from servegauge.base.errors import UserError
from servegauge.base.numbers import mean
from servegauge.base.text import aligned, quantity, ratio_text, visible
from servegauge.contract.metric import TERMINAL
from servegauge.contract.metric_registry.capacity import CAPACITY

if TYPE_CHECKING:
    from servegauge.compare.results import Comparison
    from servegauge.dataset.study_view import Study

MOST_CONDITIONS = 24
MOST_FAILURES = 10
PROFILE = "profiles/local"


def show(results: Path, study: str, profile: str | None = None) -> int:
    """Print the summary of `study` to the standard output; 1 where a cell failed, else 0.

    Where nothing was merged yet, for example because the run ended early, it says so in one line.
    """
    try:
        text, failed = summarise(results, study, profile or profile_of(sys.argv))
    except UserError as error:
        print(visible(str(error)))
        return 0
    print(visible(text), flush=True)
    return 1 if failed else 0


def profile_of(argv: Sequence[str]) -> str:
    """The profile in a command line of snakemake, so that what is printed can be pasted; the local one without."""
    for position, word in enumerate(argv):
        if word == "--profile" and position + 1 < len(argv):
            return argv[position + 1]
        if word.startswith("--profile="):
            return word.partition("=")[2]
    return PROFILE


def summarise(results: Path, name: str, profile: str = PROFILE) -> tuple[str, int]:
    """The summary as text, and how many cells failed. UserError where there is no dataset or no such study."""
    from servegauge.compare.compare import compare
    from servegauge.dataset.study_view import Study
    from servegauge.report.published_section import PublishedSection

    study = Study(results, name)
    comparison = compare(study)
    failed = [row for row in study.everything if row["status"] == "failed"]
    lines = ["", f"Study {name}: {study.row['question'] or ''}".rstrip(": "), ""]
    lines += _verdicts(comparison)
    if study.ok:
        lines += [*_table(study, comparison), ""]
    lines += _notes(comparison)
    for one in comparison.quality if comparison else ():
        lines += textwrap.wrap(f"graded questions, {one.words}", 110, subsequent_indent="      ")
    lines += PublishedSection(study).lines()
    lines += [*_counts(study), *_failures(failed, name, profile)]
    dataset, page = results / "dataset", results / "report" / f"{name}.html"
    lines += ["", f"Dataset  {dataset}/  (cells.parquet, requests/*.parquet, ...)"]
    lines += [f"Report   {page}" + ("" if page.exists() else "  (not written yet)"), ""]
    return "\n".join(lines), len(failed)


def _table(study: Study, comparison: Comparison | None) -> list[str]:
    """A row per condition and level; below a level's numbers their ratios to the baseline and verdicts."""
    from servegauge.compare.sentences import short
    from servegauge.dataset.study_view import axis_value, label, level_text, without
    from servegauge.report.capacity_section import capacity_words

    factor, baseline = study.factor()
    levels = comparison.levels if comparison else study.levels(factor) if factor else [None]
    groups: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for row in study.ok:
        condition = label(without(row, factor))
        side = level_text(axis_value(row, factor)) if factor else ""
        groups.setdefault(condition, {}).setdefault(side, []).append(row)
    columns = [one for one in study.shown(TERMINAL) if one.slo in (None, next(iter(study.slos), None))]
    table = [["condition", factor or "", *(one.heading for one in columns)]]
    keys = {comparison.label(key): key for key in comparison.conditions} if comparison else {}
    for condition, by_level in list(groups.items())[:MOST_CONDITIONS]:
        named = False
        for level in levels:
            rows = by_level.get(level_text(level) if factor else "")
            if not rows:
                continue
            other = level if level != baseline else next((one for one in levels if one != baseline), None)
            found = [
                next(iter(comparison.of(one.name, keys[condition], other)), None) if comparison else None
                for one in columns
            ]
            # With two levels, the values are those of the ratio: of paired launches only.
            paired = [one if len(levels) == 2 or level != baseline else None for one in found]
            means = [mean(row.get(one.column) for row in rows) for one in columns]
            values = [
                quantity(known if one is None else one.base_value if level == baseline else one.value, column.unit)
                for column, known, one in zip(columns, means, paired, strict=True)
            ]
            if rows[0].get("capacity") is not None:
                values = [capacity_words(rows) if one.name == CAPACITY.name else "" for one in columns]
            table.append(["" if named else condition, level_text(level) if factor else "", *values])
            named = True
            if level != baseline and any(found):
                table.append(["", "  ratio", *(_ratio(one) if one else "" for one in found)])
                if any(called := [short(one) if one else "" for one in found]):
                    table.append(["", "  verdict", *called])
    lines = aligned(table, words=2)
    lines.insert(1, "-" * max(map(len, lines)))
    if len(groups) > MOST_CONDITIONS:
        lines.append(f"... and {len(groups) - MOST_CONDITIONS} more conditions, see the report")
    return lines


def _ratio(one: Any) -> str:
    if one.ratio is None:
        return "–"
    marks = ("" if one.supported else "+") + ("*" if one.flagged or one.base_flagged else "")
    return f"x {ratio_text(one.ratio)}{marks}"


def _verdicts(comparison: Comparison | None) -> Iterator[str]:
    """The quotable sentence of each primary metric and level."""
    from servegauge.compare.sentences import primary_sentences

    if not comparison:
        return
    answers = (comparison.answers(level) for level in comparison.levels[1:])
    sentences = [one for answer in answers for one in primary_sentences(comparison, answer)]
    for sentence in sentences:
        yield from textwrap.wrap(sentence, 110, subsequent_indent="  ")
    if sentences:
        yield ""


def _notes(comparison: Comparison | None) -> Iterator[str]:
    """Marks and limits; a ratio is never shown without them."""
    if not comparison or not comparison.ratios:
        return
    if any(not one.supported for one in comparison.ratios):
        yield "+ the sample is too small for this quantile"
    if any(one.flagged or one.base_flagged for one in comparison.ratios):
        yield "* a cell on either side is flagged"
    for note in comparison.notes:
        yield from textwrap.wrap(note, 110, initial_indent="note: ", subsequent_indent="      ")
    yield ""


def _counts(study: Study) -> Iterator[str]:
    from servegauge.dataset.study_view import SAMPLE_FLAGS, doubts

    counts = Counter(row["status"] for row in study.everything)
    flagged = [row for row in study.ok if doubts(row)]
    counted = [f"{counts['ok']} ok", f"{counts['failed']} failed", f"{counts['skipped']} skipped"]
    if counts["planned"]:
        counted.append(f"{counts['planned']} not run yet")
    yield f"Cells    {', '.join(counted)}; {len(flagged)} of the ok ones flagged"
    skipped = Counter(row["reason"] for row in study.everything if row["status"] == "skipped")
    for reason, count in skipped.most_common(3):
        yield from textwrap.wrap(f"Skipped  {count}: {reason}", 110, subsequent_indent="         ")
    if len(skipped) > 3:
        yield f"         ... for {len(skipped) - 3} more reasons, see the report"
    wrong = [row for row in study.probes if row["status"] == "failed"]
    for (platform, probe), count in Counter((row["platform"], row["probe"]) for row in wrong).items():
        reason = next(row["reason"] for row in wrong if (row["platform"], row["probe"]) == (platform, probe))
        text = f"Probes   {probe} on {platform}: {count} failed, the first: {reason}; the same command tries again"
        yield from textwrap.wrap(text, 110, subsequent_indent="         ")
    names = Counter(flag for row in study.ok for flag in row["flags"])
    if names:
        order = sorted(names, key=lambda name: (name in SAMPLE_FLAGS, name))
        yield "Flags    " + ", ".join(f"{name} {names[name]}" for name in order)


def _failures(failed: Sequence[dict[str, Any]], name: str, profile: str) -> Iterator[str]:
    """For each cause in a launch: its cells, the reason, the path of its log; and the command that runs them again."""
    from servegauge.dataset.study_view import by_cause

    if not failed:
        return
    yield ""
    yield "Failed:"
    causes = by_cause(failed)
    for launch, rows in causes[:MOST_FAILURES]:
        lines = (rows[0]["reason"] or "no reason was recorded").splitlines()
        yield f"  {rows[0]['cell']}" if len(rows) == 1 else f"  {launch}: {len(rows)} cells"
        yield from textwrap.wrap(lines[0], 110, initial_indent="    ", subsequent_indent="    ")
        if rows[0]["log"]:
            yield f"    log: {rows[0]['log']}"
    if len(causes) > MOST_FAILURES:
        yield f"  ... and {sum(len(rows) for _, rows in causes[MOST_FAILURES:])} more cells, see the report"
    command = f"snakemake --profile {profile} --config study={name}"
    yield "Run them again (only what is missing is measured):"
    yield f"  {command}"
    if len(failed) > 1:
        yield "One of them alone:"
    else:
        yield "It alone:"
    yield f"  {command} -- results/cells/{failed[0]['cell']}/cell.json"
