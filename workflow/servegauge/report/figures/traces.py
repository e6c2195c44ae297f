"""Where the time of traced cells goes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from servegauge.report.figure import TRACES, Figure, Material

if TYPE_CHECKING:
    from servegauge.report.figure_style import Drawn


def draw_phases(material: Material, figure: Figure) -> Drawn:
    from servegauge.report.plots.traces import phases_figure

    return phases_figure(figure.name, "Phases on CPU and GPU", figure.caption, material.traced)


def draw_ttft(material: Material, figure: Figure) -> Drawn:
    from servegauge.report.plots.traces import ttft_figure

    return ttft_figure(figure.name, "The way to a first token", figure.caption, material.traced)


def draw_idle(material: Material, figure: Figure) -> Drawn:
    from servegauge.report.plots.traces import idle_figure

    return idle_figure(figure.name, "Idle time of the GPU by cause", figure.caption, material.traced)


PHASES = Figure(
    name="trace-phases",
    what="phases on CPU and GPU",
    caption=(
        "Mean time of an engine step by phase: filled bars the CPU (the labelled forward pass; of sampling what "
        "follows it), open bars the union of the step's GPU operations. Sampling is a part of the steps beside it. "
        "Traced runs: profiling slows the CPU."
    ),
    draw=draw_phases,
    section=TRACES,
    position=50,
)

TTFT = Figure(
    name="trace-ttft",
    what="parts of a request's TTFT",
    caption=(
        "The mean time to first token of the traced requests in parts that add up to it (ms). Client: until the head "
        "of the answer came; queue: until a step with its prefill began. Until that prefill's last GPU operation: the "
        "GPU idle because the CPU was late, or because of launches, busy with kernels, with sampling or waiting for "
        "it. Return: until the token was at the client, the engine's next step included where it schedules ahead."
    ),
    draw=draw_ttft,
    section=TRACES,
    position=51,
)

IDLE = Figure(
    name="trace-idle",
    what="idle time of the GPU by cause",
    caption=(
        "Mean time of an engine step: GPU busy, then the device's idle time before the step's operations by cause. "
        "Host late: the next operation had not been called for; launch call: inside the call; synchronisation: the "
        "host waited for the GPU."
    ),
    draw=draw_idle,
    section=TRACES,
    position=52,
)
