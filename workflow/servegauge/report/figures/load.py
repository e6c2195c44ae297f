"""Latency and throughput against load."""

from __future__ import annotations

from typing import TYPE_CHECKING

from servegauge.report.figure import Figure, Material

if TYPE_CHECKING:
    from servegauge.report.figure_style import Drawn

LATENCIES = {
    "ttft": ("Time to first token", [("ttft_p50_s", "median"), ("ttft_p99_s", "p99")]),
    "tpot": ("Time per output token", [("tpot_p50_s", "median"), ("tpot_p99_s", "p99")]),
}


def draw_latency(material: Material, figure: Figure) -> Drawn:
    from servegauge.report.plots.load import against_load

    what, columns = LATENCIES[figure.name]
    about = (figure.name, f"{what} against load", what)
    return against_load(*about, material.study, material.series, columns, scale=1e3, unit="ms")


def draw_throughput(material: Material, figure: Figure) -> Drawn:
    from servegauge.report.plots.load import against_load

    about = (figure.name, "Throughput against load", "Output tokens per second")
    columns = [("output_tokens_per_s", "output tokens")]
    return against_load(*about, material.study, material.series, columns, scale=1.0, unit="tokens/s")


TTFT = Figure(
    name="ttft",
    what="TTFT against load",
    caption=(
        "Time to first token (first token - sent) against load: median filled, p99 open. A dot is one launch, lines "
        "join means."
    ),
    draw=draw_latency,
    position=20,
)

TPOT = Figure(
    name="tpot",
    what="TPOT against load",
    caption=(
        "Time per output token, (last token - first token) / (output tokens - 1), against load: median filled, p99 "
        "open. A dot is one launch, lines join means."
    ),
    draw=draw_latency,
    position=21,
)

THROUGHPUT = Figure(
    name="throughput",
    what="throughput against load",
    caption="Output tokens per second of the window, against load. A dot is one launch, lines join means.",
    draw=draw_throughput,
    position=26,
)
