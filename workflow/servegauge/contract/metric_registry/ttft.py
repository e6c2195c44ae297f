"""Time to first token."""

from servegauge.contract.metric import CARD, COMPARED, LESS, LOAD, PRIMARY, TABLE, TERMINAL, Metric

TTFT = Metric(
    name="ttft",
    title="TTFT",
    formula="first token - sent",
    stamps="(first_token_ns - sent_ns) / 1e9",
    note="client side; an event without text is no token; null for an answer that came in one piece",
    unit="s",
    position=50,
    version=2,
    better=LESS,
    per_request=lambda requests: requests.seconds("first_token_ns", "sent_ns"),
    failed_is_infinite=True,
    pooled="answered requests of the window",
    limit="Longest time from sending to the first token.",
    views={
        "p50": (COMPARED, CARD, TABLE, TERMINAL, PRIMARY, LOAD),
        "p99": (COMPARED, CARD, TABLE, TERMINAL, LOAD),
    },
    calibrated=("p50", "p99"),
)

TTFAT = Metric(
    name="ttfat",
    title="Time to first answer token",
    formula="first token of the answer itself, after any reasoning - sent",
    stamps="(first_answer_ns - sent_ns) / 1e9",
    note="without reasoning it is TTFT; null where the answer never began",
    unit="s",
    position=51,
    better=LESS,
    per_request=lambda requests: requests.seconds("first_answer_ns", "sent_ns"),
    failed_is_infinite=True,
    pooled="answered requests of the window",
    limit="Longest time from sending to the first token that is no reasoning.",
    views={"p50": (LOAD,), "p99": (LOAD,)},
)

TTFT_SCHEDULED = Metric(
    name="ttft_scheduled",
    title="TTFT from schedule",
    formula="first token - scheduled, so that time waited before sending counts too",
    stamps="(first_token_ns - scheduled_ns) / 1e9",
    note="with it, a client that sends late cannot hide queueing (coordinated omission)",
    unit="s",
    position=51,
    version=2,
    better=LESS,
    per_request=lambda requests: requests.seconds("first_token_ns", "scheduled_ns"),
    failed_is_infinite=True,
    pooled="answered requests of the window",
    limit="The same from the scheduled time.",
    views={"p50": (COMPARED, LOAD), "p99": (COMPARED, LOAD)},
    calibrated=("p50", "p99"),
    calibrated_as="ttft",
)
