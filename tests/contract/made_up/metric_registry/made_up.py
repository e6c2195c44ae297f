"""Two metrics that nobody needs: a latency of each request, and a number of each cell."""

from servegauge.contract.metric import COMPARED, LESS, LOAD, MORE, TABLE, TERMINAL, Metric

FIRST_BYTE = Metric(
    name="made_up_byte",
    title="Made-up byte",
    formula="made-up: first byte - sent",
    unit="s",
    better=LESS,
    per_request=lambda requests: requests.seconds("first_byte_ns", "sent_ns"),
    pooled="answered requests of the window",
    limit="A made-up limit.",
    views={"p50": (COMPARED, TABLE, TERMINAL, LOAD)},
)

REUSE = Metric(
    name="made_up_reuse",
    title="Made-up reuse",
    formula="made-up: requests ok on a connection that was used before",
    unit="requests",
    better=MORE,
    per_cell=lambda window: window.ok.total("connection_reused"),
    pooled="answered requests of the window",
    views={"": (COMPARED, TABLE, TERMINAL, LOAD)},
    whole=True,
)
