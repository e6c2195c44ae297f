"""What a server carries within an SLO, where a cell searched it."""

from servegauge.contract.metric import CARD, COMPARED, MORE, PRIMARY, TABLE, TERMINAL, Metric

CAPACITY = Metric(
    name="capacity_rps",
    title="Capacity",
    heading="capacity",
    formula=(
        "highest rate tried at which the asked share of the window's requests surely meets every limit of the cell's "
        "SLO (lower 95 % binomial bound) and the queue does not grow; null and in `censored` where no rate failed or "
        "none attained"
    ),
    unit="1/s",
    position=65,
    better=MORE,
    per_cell=lambda window: window.capacity_rps,
    pooled="the loads of a search",
    views={"": (COMPARED, PRIMARY, CARD, TABLE, TERMINAL)},
)
