"""What was offered and what was carried, per second of the window."""

from servegauge.contract.metric import COMPARED, LOAD, MORE, TERMINAL, Metric

WINDOW = Metric(
    name="window_s",
    title="Window",
    formula="duration of the window, from its start to the last answer",
    unit="s",
    position=20,
    per_cell=lambda window: window.duration_s,
    pooled="the window",
)

OFFERED = Metric(
    name="offered_rps",
    title="Offered rate",
    formula="scheduled requests / time over which they were scheduled",
    unit="1/s",
    position=21,
    per_cell=lambda window: window.offered_rps,
    pooled="the window",
)

ACHIEVED = Metric(
    name="achieved_rps",
    title="Achieved rate",
    heading="achieved",
    formula="requests ok / window",
    unit="1/s",
    position=22,
    better=MORE,
    per_cell=lambda window: window.per_second(window.ok.count),
    pooled="the window",
    views={"": (COMPARED, TERMINAL, LOAD)},
)
