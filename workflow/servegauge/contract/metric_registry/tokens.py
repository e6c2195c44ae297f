"""Tokens in and out: per second of the window, per request, and from a cache."""

from servegauge.contract.metric import CARD, COMPARED, LOAD, MORE, PRIMARY, TABLE, Metric

INPUT = Metric(
    name="input_tokens_per_s",
    title="Input tokens",
    formula="prompt tokens of requests ok whose first token came in the window / window",
    unit="tokens/s",
    position=30,
    version=2,
    better=MORE,
    per_cell=lambda window: window.per_second(window.prompt_tokens),
    pooled="what was answered in the window",
)

OUTPUT = Metric(
    name="output_tokens_per_s",
    title="Output tokens",
    formula="output tokens of requests ok that came in the window, by the stamps of their chunks / window",
    unit="tokens/s",
    position=31,
    version=2,
    better=MORE,
    per_cell=lambda window: window.per_second(window.output_tokens),
    needs=("chunk_tokens",),
    pooled="what was answered in the window",
    views={"": (COMPARED, PRIMARY, CARD, TABLE, LOAD)},
)

PROMPT_MEAN = Metric(
    name="prompt_tokens_mean",
    title="Prompt length",
    formula="mean prompt length (ISL) of requests ok",
    unit="tokens",
    position=32,
    per_cell=lambda window: window.ok.mean("prompt_tokens"),
    pooled="answered requests of the window",
)

OUTPUT_MEAN = Metric(
    name="output_tokens_mean",
    title="Output length",
    formula="mean output length (OSL) of requests ok",
    unit="tokens",
    position=33,
    per_cell=lambda window: window.ok.mean("output_tokens"),
    pooled="answered requests of the window",
)

CACHED = Metric(
    name="cached_tokens_share",
    title="Cached prompt tokens",
    formula="prompt tokens served from a prefix cache / prompt tokens",
    unit="1",
    position=34,
    per_cell=lambda window: window.ok.cached_share,
    pooled="answered requests whose server tells",
)
