"""Where the time of traced cells goes."""

from __future__ import annotations

from servegauge.report.figure import TRACES, Figure, plot

PHASES = Figure(
    name="trace-phases",
    what="phases on CPU and GPU",
    caption=(
        "Mean time of an engine step by phase: filled bars the CPU (the labelled forward pass; of sampling what "
        "follows it), open bars the union of the step's GPU operations. Sampling is a part of the steps beside it. "
        "Traced runs: profiling slows the CPU."
    ),
    title="Phases on CPU and GPU",
    draw=plot("traces.phases_figure"),
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
    title="The way to a first token",
    draw=plot("traces.ttft_figure"),
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
    title="Idle time of the GPU by cause",
    draw=plot("traces.idle_figure"),
    section=TRACES,
    position=52,
)
