"""The load generator, not the server, decided the numbers."""

from collections.abc import Iterator, Mapping
from typing import Any

from servegauge.contract.flag import UNFIT, CellCase, Doubt, Flag, Threshold, above, ms


def check(case: CellCase) -> Iterator[Doubt]:
    yield from _late(case)
    yield from _beyond(case)
    share = case.instrument.get("busiest_cpu_share")
    yield from above(case, "generator_cpu_share", share, "a generator process was busy for nearly the whole window")


def _late(case: CellCase) -> Iterator[Doubt]:
    """Requests of an open loop left late, though nothing but the generator could hold them."""
    load = case.cell.load
    if load.rate_rps is not None and load.max_in_flight is None:
        late = case.instrument.get("lateness_p99_s")
        yield from above(case, "generator_lateness_s", late, f"1 % of the requests were sent {ms(late)} late or more")


def _beyond(case: CellCase) -> Iterator[Doubt]:
    """The load is more than this node's instrument carries, by the calibration before the launch."""
    point = case.instrument.get("calibration")
    if not point:
        return
    error = (point.get("ttft_error_s") or {}).get("p99")
    where = _words(point["load"])
    held_up = point.get("disturbed")  # by other work than the instrument's, while it was calibrated
    if error is not None and abs(error) > case.thresholds["generator_ttft_error_s"] and not held_up:
        detail = f"the instrument's p99 TTFT error at the nearest calibrated load ({where}) was {ms(error)}"
        yield from above(case, "generator_ttft_error_s", abs(error), detail)
    elif point.get("beyond"):
        axis = point.get("beyond_axis") or {"axis": "load", "value": 0.0, "carried": None}
        carried = "none" if axis["carried"] is None else f"{axis['carried']:g}"
        detail = (
            f"the load's {axis['axis']} ({axis['value']:g}) is beyond what the calibration saw this node's instrument "
            f"carry ({carried}); the nearest load was {where}"
        )
        yield Doubt(float(axis["value"]), float(axis["carried"] or 0.0), detail)


def _words(load: Mapping[str, Any]) -> str:
    return f"{load['streams']} streams" if load.get("streams") is not None else f"{load['rate_rps']:g} req/s"


GENERATOR_LIMITED = Flag(
    name="generator_limited",
    meaning="The load generator was late, busy or beyond what it was calibrated for: its own error is in the numbers.",
    remedy="Give the generator CPUs of its own (the platform's `placement.load_cpus`), more of them, or less load.",
    severity=UNFIT,
    about=CellCase,
    check=check,
    thresholds=(
        Threshold(
            "generator_lateness_s", 0.002, "p99 of sent - scheduled in an open loop without max_in_flight is above"
        ),
        Threshold(
            "generator_ttft_error_s",
            0.001,
            "p99 TTFT error of the instrument at the nearest calibrated load is above, either way",
        ),
        Threshold("generator_cpu_share", 0.9, "CPU time / window of the busiest generator process is above"),
    ),
    position=10,
)
