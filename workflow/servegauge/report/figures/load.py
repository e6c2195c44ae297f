"""Latency, throughput, goodput and what users get against load."""

from __future__ import annotations

from servegauge.report.figure import Figure, plot

TTFT = Figure(
    name="ttft",
    what="TTFT against load",
    caption=(
        "Time to first token (first token - sent) against load: median filled, p99 open. A dot is one launch, lines "
        "join means."
    ),
    title="Time to first token against load",
    draw=plot("load.against_load"),
    position=20,
)

TPOT = Figure(
    name="tpot",
    what="TPOT against load",
    caption=(
        "Time per output token, (last token - first token) / (output tokens - 1), against load: median filled, p99 "
        "open. A dot is one launch, lines join means."
    ),
    title="Time per output token against load",
    draw=plot("load.against_load"),
    position=21,
)

CAPACITY = Figure(
    name="capacity",
    what="goodput against load, with the capacity",
    caption=(
        "Requests per second that meet the SLO at each rate that a search for the capacity tried, one line per launch; "
        "the capacity is dashed, the knee is written there."
    ),
    title="Goodput against load, and the capacity",
    draw=plot("capacity.goodput_curve"),
    position=22,
    only_if_drawn=True,
)

PARETO = Figure(
    name="pareto",
    what="tokens/s/GPU against tokens/s/user",
    caption=(
        "Output tokens per second and GPU against output tokens per second and user (1 / median TPOT), a point per "
        "load with its 95 % intervals over launches (of two launches: both values)."
    ),
    title="What a user gets and what a GPU gives",
    draw=plot("pareto.pareto"),
    position=24,
)

THROUGHPUT = Figure(
    name="throughput",
    what="throughput against load",
    caption="Output tokens per second of the window, against load. A dot is one launch, lines join means.",
    title="Throughput against load",
    draw=plot("load.against_load"),
    position=26,
)
