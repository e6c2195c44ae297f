"""What is compared, over the baseline's: each metric by condition, and where in the distribution a latency differs."""

from __future__ import annotations

from servegauge.report.figure import Figure, plot

RATIOS = Figure(
    name="ratios",
    what="ratio to the baseline",
    caption=(
        "Each metric divided by the same on the baseline, with its 95 % interval over launches, one row per condition. "
        "An open marker: too few requests for this quantile."
    ),
    title="Ratio to the baseline",
    draw=plot("ratios.ratios"),
    position=10,
)

SHIFT_TTFT = Figure(
    name="shift-ttft",
    what="ratio of TTFT at each quantile",
    caption=(
        "The ratio of the time to first token at each quantile, with a band that holds all of them at once with 95 % "
        "over launches. A level line: everything became slower alike; a rising one: the tail did."
    ),
    title="Where in the distribution the time to first token differs",
    draw=plot("shift.shifts"),
    position=15,
)
