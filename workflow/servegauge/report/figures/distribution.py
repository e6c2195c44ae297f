"""The whole distribution of a latency."""

from __future__ import annotations

from servegauge.report.figure import Figure, plot


def _figure(metric: str, words: str, position: int) -> Figure:
    return Figure(
        name=f"distribution-{metric}",
        what=f"distribution of {metric.upper()}",
        caption="Share of the answered requests of the window at or below each latency, one line per launch.",
        title=f"Distribution of the {words}",
        draw=plot("distribution.distributions"),
        position=position,
    )


TTFT = _figure("ttft", "time to first token", 30)
TPOT = _figure("tpot", "time per output token", 31)
E2E = _figure("e2e", "end-to-end latency", 32)
