"""MFU and MBU of the timed cells beside what their traces say: how much of the time the GPU computes, and so how much
of the ceilings its kernels reach while they run. The two must agree; where they do not, the page says so and why.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from servegauge.base.numbers import mean
from servegauge.base.text import share_text
from servegauge.report.roofline import Utilisation
from servegauge.report.traced import Traced, groups
from servegauge.traces import phases

MOST = 1.05
"""Above this share of a ceiling, while they run, kernels would do what the probe could not: something is not alike."""
ALIKE = 1.2  # batches of the traced and of the timed run within this factor are alike


@dataclass(frozen=True)
class Agreement:
    """Means over the traces of a condition and level; shares are of the timed run's time, null where not known."""

    condition: str
    level: str
    mfu: float | None
    mbu: float | None
    computes: float | None  # share of the traced span in which a kernel runs, as the timed run would have it
    decode_computes: float | None  # the same of decode steps
    overhead: float | None  # traced / timed TPOT
    says: str

    @property
    def mfu_running(self) -> float | None:
        """MFU while kernels run."""
        return self.mfu / self.computes if self.mfu is not None and self.computes else None

    @property
    def mbu_running(self) -> float | None:
        """MBU while kernels of decode steps run."""
        return self.mbu / self.decode_computes if self.mbu is not None and self.decode_computes else None


def agreements(traced: Sequence[Traced], used: Mapping[str, Utilisation]) -> list[Agreement]:
    """`used`: what each timed cell used of its platform, by cell."""
    return [_agreement(condition, level, some, used) for (condition, level), some in groups(traced).items()]


def _agreement(condition: str, level: str, some: Sequence[Traced], used: Mapping[str, Utilisation]) -> Agreement:
    cells = [found for one in some if (found := used.get(one.cell.get("cell", ""))) is not None]
    mfu, mbu, batch = (mean(getattr(cell, name) for cell in cells) for name in ("mfu", "mbu", "batch"))
    rows = [row for one in some for row in one.tables["traces"].to_pylist()]
    overhead = mean(row["overhead_ratio"] for row in rows)
    # A kernel lasts as long under a profiler; the step around it lasts longer, by what profiling costs.
    shrink = overhead if overhead and overhead > 1 else 1.0
    whole = mean(row["compute_ns"] / row["span_ns"] for row in rows if row["span_ns"])
    decode = [row for one in some for row in phases.phases(one.tables) if row["phase"] == "decode"]
    share = mean(row["gpu_share"] for row in decode)
    one = Agreement(
        condition, level, mfu, mbu,
        None if whole is None else min(1.0, shrink * whole),
        None if share is None else min(1.0, shrink * share),
        overhead,
        "",
    )  # fmt: skip
    traced_batch = mean(row["generation_tokens"] / row["steps"] for row in decode if row["generation_tokens"])
    return replace(one, says=_says(one, decode, batch, traced_batch, bool(cells)))


def _says(
    one: Agreement, decode: Sequence[Mapping[str, object]], batch: float | None, traced_batch: float | None, cell: bool
) -> str:
    if one.computes is None:
        return "nothing to compare: the trace has no GPU work"
    if one.mfu is None and one.mbu is None:
        why = "the platform was not probed for arithmetic and memory, or the model's operations are not known"
        return f"nothing to compare: no MFU or MBU of the timed cell ({why if cell else 'its platform has no probes'})"
    parts = []
    for name, running, share in (("MBU", one.mbu_running, one.decode_computes), ("MFU", one.mfu_running, one.computes)):
        if running is not None and running > MOST:
            parts.append(
                f"they disagree: at this {name} kernels would reach {share_text(running)} of the probed ceiling while "
                f"they run ({share_text(share)} of the time)"
            )
    if parts and batch and traced_batch and not 1 / ALIKE < traced_batch / batch < ALIKE:
        parts.append(f"the traced steps decoded {traced_batch:.3g} requests together, the timed cell {batch:.3g}")
    elif parts:
        parts.append("the probes' ceilings are too low, or the model's operations are counted too high")
    else:
        rest = [text for row in decode for text in phases.sentences([dict(row)])]
        why = rest[0] if rest else "the rest is what its kernels do not reach while they run"
        parts.append(f"they agree: {why}")
    if one.overhead is None:
        parts.append("what profiling cost is not known, so the GPU's share is that of the traced run")
    return "; ".join(parts)
