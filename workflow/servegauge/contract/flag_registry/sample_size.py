"""The tail quantiles rest on too few requests."""

from collections.abc import Iterator

from servegauge.contract.flag import SAMPLE, CellCase, Doubt, Flag, Threshold, below
from servegauge.contract.metric import required_sample


def _flag(quantile: str, share: float, position: int) -> Flag:
    def check(case: CellCase) -> Iterator[Doubt]:
        count, need = case.window.ok.count, case.thresholds[f"{quantile}_requests"]
        detail = f"{count} requests ok; an interval of {quantile} needs {need:g}"
        yield from below(case, f"{quantile}_requests", count, detail)

    return Flag(
        name=f"{quantile}_not_supported",
        meaning=f"The window has too few answered requests for a 95 % interval of {quantile}.",
        remedy="Ask for more requests, or for a longer window, or read a lower quantile.",
        severity=SAMPLE,
        about=CellCase,
        check=check,
        thresholds=(
            Threshold(
                f"{quantile}_requests",
                required_sample(share),
                f"requests ok are fewer than a 95 % interval of {quantile} needs",
            ),
        ),
        position=position,
    )


P99_NOT_SUPPORTED = _flag("p99", 0.99, 70)
P95_NOT_SUPPORTED = _flag("p95", 0.95, 71)
