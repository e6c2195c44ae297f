"""The load generator's own delay."""

from servegauge.contract.metric import LESS, Metric

LATENESS = Metric(
    name="lateness",
    title="Lateness",
    formula="sent - scheduled",
    stamps="(sent_ns - scheduled_ns) / 1e9",
    note="the load generator's own delay, or the wait at `max_in_flight`; of every request that was sent",
    unit="s",
    position=56,
    better=LESS,
    per_request=lambda requests: requests.seconds("sent_ns", "scheduled_ns", of_all=True),
    pooled="sent requests of the window",
)
