"""Requests that meet every limit of a named SLO. A metric that is undefined for a request meets its limit."""

from servegauge.contract.metric import CARD, COMPARED, MORE, TABLE, TERMINAL, Metric

ATTAINED = Metric(
    name="requests_attained",
    title="Good requests",
    formula="requests ok that meet every limit",
    unit="requests",
    position=70,
    per_slo=lambda window, attained: attained.requests,
    pooled="the window",
    whole=True,
)

SHARE = Metric(
    name="attained_share",
    title="Share of good requests",
    formula="requests that meet every limit / all requests of the window",
    unit="1",
    position=71,
    better=MORE,
    per_slo=lambda window, attained: attained.requests / window.count if window.count else None,
    pooled="the window",
)

GOODPUT = Metric(
    name="goodput_rps",
    title="Goodput",
    heading="goodput",
    formula="requests ok that meet every limit and whose last token came in the window / window",
    unit="1/s",
    position=72,
    version=2,
    better=MORE,
    per_slo=lambda window, attained: window.per_second(attained.answers),
    pooled="the window",
    views={"": (COMPARED, CARD, TABLE, TERMINAL)},
)
