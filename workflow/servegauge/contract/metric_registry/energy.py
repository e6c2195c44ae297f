"""What the launch's GPUs used. `energy_source` in `cells` says from what it is known; idle power is within it."""

from servegauge.contract.metric import LESS, Metric

POWER = Metric(
    name="gpu_power_w",
    title="GPU power",
    formula="energy of the launch's GPUs in the window / window",
    unit="W",
    position=60,
    better=LESS,
    per_cell=lambda window: window.per_second(window.joules),
    pooled="the launch's GPUs together",
)

PER_REQUEST = Metric(
    name="energy_per_request_j",
    title="Energy per request",
    formula="energy of the launch's GPUs in the window / requests ok whose last token came in the window",
    unit="J",
    position=61,
    better=LESS,
    per_cell=lambda window: window.joules_per(window.answers),
    pooled="the launch's GPUs together",
    note="of the GPUs alone: the node's CPUs, memory and fans are not in it",
)

PER_OUTPUT_TOKEN = Metric(
    name="energy_per_output_token_j",
    title="Energy per output token",
    formula="energy of the launch's GPUs in the window / output tokens that came in the window",
    unit="J",
    position=62,
    better=LESS,
    per_cell=lambda window: window.joules_per(window.output_tokens),
    needs=("chunk_tokens",),
    pooled="the launch's GPUs together",
    note="prefill is in it, as in the server's bill",
)
