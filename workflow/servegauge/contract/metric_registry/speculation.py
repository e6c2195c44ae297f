"""Speculative decoding."""

from servegauge.contract.metric import COMPARED, MORE, Metric

ACCEPTANCE_LENGTH = Metric(
    name="acceptance_length",
    title="Acceptance length",
    formula="tokens of a step of speculative decoding: 1 + accepted draft tokens / drafts, as the server counts them",
    unit="tokens",
    position=65,
    better=MORE,
    per_cell=lambda window: window.acceptance_length,
    pooled="the window, all instances",
    note="1: no draft was right; null without speculative decoding, and where a server does not count",
    views={"": (COMPARED,)},
)
