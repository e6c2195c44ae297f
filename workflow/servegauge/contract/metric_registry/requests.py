"""How many requests there were, and how many were answered."""

from servegauge.contract.metric import LESS, LOAD, MORE, Metric

REQUESTS = Metric(
    name="requests",
    title="Requests",
    formula="requests of the window, failed ones included",
    unit="requests",
    position=10,
    per_cell=lambda window: window.count,
    pooled="the window",
    whole=True,
)

REQUESTS_OK = Metric(
    name="requests_ok",
    title="Answered requests",
    formula="requests that were answered in full",
    unit="requests",
    position=11,
    per_cell=lambda window: window.ok.count,
    pooled="the window",
    whole=True,
)

ERROR_SHARE = Metric(
    name="error_share",
    title="Failed requests",
    formula="requests not ok / requests",
    unit="1",
    position=12,
    better=LESS,
    per_cell=lambda window: (window.count - window.ok.count) / window.count if window.count else None,
    pooled="the window",
)

SUCCESS_SHARE = Metric(
    name="success_share",
    title="Answered",
    formula="requests ok / requests; latencies of sides that differ in it are latencies of different requests",
    unit="1",
    position=13,
    better=MORE,
    per_cell=lambda window: window.ok.count / window.count if window.count else None,
    pooled="the window",
    views={"": (LOAD,)},
)
