"""`job.stop`: repeats are added one by one until the primary intervals are narrow, or `at_most` are there.

The plan has all of them. A launch beyond `matrix.repeat` waits for those of the repeat before it, and then somebody
looks: `compare.looks`. What was seen is kept in `results/looks/`; this module says what follows from it. It stops on
precision, never on significance, so a later look cannot be chosen for its answer.
"""

from __future__ import annotations

from pathlib import Path

from servegauge.contract.config_types import Stop, Study
from servegauge.contract.records.base import DamagedRecord, read
from servegauge.contract.records.looks import Look, Looks
from servegauge.contract.spec import digest


def asked(study: Study) -> Stop | None:
    """`job.stop` of a study; None where it measures a fixed number of repeats."""
    return (study.get("job") or {}).get("stop")


def repeats(study: Study) -> int:
    """Most repeats that a study measures."""
    own: int = study["matrix"]["repeat"]
    stop = asked(study)
    return max(own, stop["at_most"]) if stop else own


def looks_file(results: Path, study: str) -> Path:
    """Where the looks at a study are kept."""
    return results / "looks" / f"{study}.json"


def looks(results: Path, study: str) -> Looks:
    """The looks at a study so far; none where the file is missing or damaged, because looking again does no harm."""
    try:
        return read(looks_file(results, study), Looks)
    except (FileNotFoundError, DamagedRecord):
        return Looks(study=study)


def question(study: Study) -> str:
    """A digest of what a study compares: a look at another one says nothing of it."""
    own = {name: study.get(name) for name in ("load", "server", "slo", "capacity", "compare", "aa")}
    return digest({**own, "matrix": {axis: value for axis, value in study["matrix"].items() if axis != "repeat"}})


def valid_looks(study: Study, results: Path) -> list[Look]:
    """The looks at what the study compares today, the last one after each repeat."""
    last = {one.after: one for one in looks(results, study["name"]).looks if one.question == question(study)}
    return [last[after] for after in sorted(last)]


def stopped_after(study: Study, results: Path) -> int | None:
    """After how many repeats the intervals were narrow enough for what the study asks today; None: not yet."""
    stop = asked(study)
    if stop is None:
        return None
    narrow = [look.after for look in valid_looks(study, results) if look.narrow(stop["half_width"])]
    enough = [after for after in narrow if after >= study["matrix"]["repeat"]]
    return min(enough, default=None)


def earlier_repeats(study: Study, repeat: int) -> bool:
    """True where a launch of this repeat waits for those of the one before it."""
    return asked(study) is not None and repeat > study["matrix"]["repeat"]


def not_needed(study: Study, results: Path) -> tuple[int, str] | None:
    """The last repeat that is needed, and why no more are; None where all may be."""
    after = stopped_after(study, results)
    if after is None:
        return None
    half = 100 * asked(study)["half_width"]  # type: ignore[index]
    return after, f"not needed: after {after} repeats every primary interval is within ±{half:g} % (job.stop)"
