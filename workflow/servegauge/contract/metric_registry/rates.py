"""What was offered and what was carried, per second of the window."""

from servegauge.contract.metric import COMPARED, LOAD, MORE, TERMINAL, Metric

WINDOW = Metric(
    name="window_s",
    title="Window",
    formula="duration of the window, over which requests are counted; of bursts, from each to its last token",
    unit="s",
    position=20,
    per_cell=lambda window: window.duration_s,
    pooled="the window",
)

OFFERED = Metric(
    name="offered_rps",
    title="Offered rate",
    formula="requests scheduled in the window / window; null for a closed loop and for bursts, which offer no rate",
    unit="1/s",
    position=21,
    version=2,
    per_cell=lambda window: window.offered_rps,
    pooled="the window",
)

ACHIEVED = Metric(
    name="achieved_rps",
    title="Achieved rate",
    heading="achieved",
    formula="requests ok whose last token came in the window / window",
    unit="1/s",
    position=22,
    version=2,
    better=MORE,
    per_cell=lambda window: window.per_second(window.answers),
    pooled="the window",
    views={"": (COMPARED, TERMINAL, LOAD)},
)
