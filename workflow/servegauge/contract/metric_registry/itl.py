"""Time between chunks."""

from servegauge.contract.metric import COMPARED, LESS, LOAD, Metric

ITL = Metric(
    name="itl",
    title="ITL",
    formula="gap between two chunks of one request, all gaps of the cell pooled (a chunk may hold several tokens)",
    note="not stored: differences of `chunk_ns`; `chunk_tokens`: tokens in each; an answer in one piece has none",
    unit="s",
    position=53,
    version=3,
    better=LESS,
    values=lambda requests: requests.streamed.gaps_s(),
    failed_is_infinite=True,
    needs=("chunk_ns", "first_token_ns"),
    pooled="all gaps of the window's answered requests",
    views={"p50": (COMPARED, LOAD), "p99": (COMPARED, LOAD)},
    calibrated=("p99",),
)
