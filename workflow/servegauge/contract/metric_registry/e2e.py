"""End-to-end latency."""

from servegauge.contract.metric import CARD, COMPARED, LESS, LOAD, TABLE, TERMINAL, Metric

E2E = Metric(
    name="e2e",
    title="E2E",
    formula="last token - sent",
    stamps="(last_ns - sent_ns) / 1e9",
    note="to the last token, not to the trailer that follows it",
    unit="s",
    position=54,
    version=2,
    better=LESS,
    per_request=lambda requests: requests.seconds("last_ns", "sent_ns"),
    failed_is_infinite=True,
    pooled="answered requests of the window",
    limit="Longest time from sending to the last token.",
    views={
        "p50": (COMPARED, CARD, TABLE, TERMINAL, LOAD),
        "p99": (COMPARED, TABLE, TERMINAL, LOAD),
    },
    calibrated=("p99",),
)

E2E_SCHEDULED = Metric(
    name="e2e_scheduled",
    title="E2E from schedule",
    formula="last token - scheduled",
    stamps="(last_ns - scheduled_ns) / 1e9",
    note="as `e2e`, with the time that a request waited before it was sent",
    unit="s",
    position=55,
    version=2,
    better=LESS,
    per_request=lambda requests: requests.seconds("last_ns", "scheduled_ns"),
    failed_is_infinite=True,
    pooled="answered requests of the window",
    limit="The same from the scheduled time.",
)
