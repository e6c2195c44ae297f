"""Somebody else's process ran on the launch's GPU."""

from collections.abc import Iterator

from servegauge.contract.flag import DOUBT, CellCase, Doubt, Flag, Threshold, above


def check(case: CellCase) -> Iterator[Doubt]:
    if case.gpu is None or "other_processes" not in case.gpu.column_names:
        return
    names = ("t_ns", "gpu", "other_processes")
    samples = zip(*(case.gpu[name].to_pylist() for name in names), strict=True)
    known = [(number, gpu) for t_ns, gpu, number in samples if t_ns >= 0 and number is not None]
    most, gpu = max(known, default=(None, None))
    detail = f"{most} processes that this launch did not start were on GPU {gpu} at once"
    yield from above(case, "other_gpu_processes", most, detail)


GPU_SHARED = Flag(
    name="gpu_shared",
    meaning="Processes that the launch did not start used its GPU during the window.",
    remedy="Ask for the whole GPU, or see with nvidia-smi who else is on it; MIG slices keep others apart.",
    severity=DOUBT,
    about=CellCase,
    check=check,
    thresholds=(
        Threshold("other_gpu_processes", 0, "processes of others on a GPU that the launch uses, at once, are above"),
    ),
    position=103,
)
