"""The matrix products of a given model, split by TP, from one token to thousands.

Where decode's flat products stop being bound by memory and prefill's begin to be bound by arithmetic is read off the
per cent of the peak that a square product reaches in the same run. An expert's matrix is measured with the rows it gets
on average: tokens x experts used / experts, at least one.

Two crossovers of each matrix follow: `gemv_rows`, the most rows whose product is no faster than as many products of one
row, and `ridge_rows`, at which arithmetic at the peak takes as long as the product of one row.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from servegauge.inputs.model_shape import Matrix, ModelShape, UnknownShape, read_shape
from servegauge.probes.harness.base import Case, Context, Measured, Probe, Skip, Skipped, per_second
from servegauge.probes.harness.numeric import BYTES, backend, plateau, product
from servegauge.probes.harness.phases import DECODE, DECODE_TOKENS, PREFILL

DTYPES = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16", "float8_e4m3fn": "fp8", "fp8": "fp8"}


class ModelGemm(Probe):
    name = "model_gemm"
    title = "The model's matrix products"
    units: ClassVar = {
        "tflops": "TFLOP/s", "bandwidth_gb_s": "GB/s", "peak_percent": "%", "time_us": "us", "gemv_rows": "rows",
        "ridge_rows": "rows",
    }  # fmt: skip
    primary = ("time_us",)
    measures = (
        "each matrix product of a model (QKV, output, FFN up/gate, FFN down, ...) at 1 to 8192 tokens, split by TP"
    )

    def unsupported(self, context: Context) -> str | None:
        if any(_shape(model) for model in context.models):
            return None
        return "no model of the study has a config.json here; name one with --models, and fetch or build it first"

    def explains(self, variant: Mapping[str, Any], cells: Sequence[Mapping[str, Any]]) -> str | None:
        if not any(cell["model"] == variant["model"] for cell in cells):
            return None
        return DECODE if int(variant.get("tokens") or DECODE_TOKENS + 1) <= DECODE_TOKENS else PREFILL

    def cases(self, context: Context) -> Iterator[Case]:
        engine = backend()
        peaks: dict[str, Peak] = {}  # by data type
        tokens = context.sizes((1, 16), (1, 128), (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192))
        for model in context.models:
            shape = _shape(model)
            if shape is None:
                continue
            dtype = DTYPES.get((shape.dtype or "bfloat16").removeprefix("torch."), "bf16")
            if engine.supports(dtype):
                dtype = "fp32" if engine.name == "numpy" else "bf16"  # the row says so
            for tp in model.get("tp") or (1,):
                about = {"model": model["name"], "tp": int(tp), "dtype": dtype}
                about |= {"backend": engine.name, "device": engine.device}
                yield from Products(engine, context, dtype, peaks).cases(about, shape, tokens)


@dataclass(frozen=True)
class Products:
    """The products of a model in one data type; `peaks` are measured by the first, and by all that beat them."""

    engine: Any
    context: Context
    dtype: str
    peaks: dict[str, Peak]

    def cases(self, about: Mapping[str, Any], shape: ModelShape, tokens: Sequence[int]) -> Iterator[Case]:
        """A case for each matrix and number of tokens, and the crossovers after each matrix."""
        try:
            matrices = shape.matrices(about["tp"])
        except UnknownShape as error:
            yield Case.without({**about, "operation": "all"}, "tflops", Skip(str(error)))
            return
        for matrix in matrices:
            taken: dict[int, Sequence[float]] = {}  # rows -> seconds, for the crossovers after them
            for count in tokens:
                rows = max(1, round(count * matrix.used / matrix.experts))
                shaped = {"tokens": count, "shape": f"{rows}x{matrix.n}x{matrix.k}"}
                which = {**about, "operation": matrix.name, **shaped}
                yield Case(which, "tflops", partial(self._measure, matrix, rows, taken))
            which = {**about, "operation": matrix.name, "shape": f"Mx{matrix.n}x{matrix.k}"}
            yield Case(
                which, "gemv_rows", partial(crossovers, taken, 2.0 * matrix.n * matrix.k, self.peaks, self.dtype)
            )

    def _measure(self, matrix: Matrix, rows: int, taken: dict[int, Sequence[float]]) -> list[Measured | Skipped]:
        engine, context, dtype, peaks = self.engine, self.context, self.dtype, self.peaks
        if dtype not in peaks:
            peaks[dtype] = measure_peak(engine, context, dtype)
        seconds, detail = product(engine, rows, matrix.n, matrix.k, dtype, context.effort)
        taken[rows] = seconds
        rates = per_second(2.0 * rows * matrix.n * matrix.k, seconds, 1e12)
        known = peaks[dtype].tflops
        if known and statistics.median(rates) > known:
            again = measure_peak(engine, context, dtype)  # the clock or a neighbour may have changed since
            peaks[dtype] = max(peaks[dtype], again, key=lambda peak: peak.tflops or 0.0)
        peak = peaks[dtype]
        moved = BYTES[dtype] * (matrix.n * matrix.k + rows * (matrix.n + matrix.k))
        detail = {**detail, "peak_tflops": peak.tflops, "flops_per_byte": 2.0 * rows * matrix.n * matrix.k / moved}
        cached = engine.device == "cuda" and not detail["beyond_cache"]
        return [
            Measured("tflops", rates, detail, True),
            Skipped("bandwidth_gb_s", f"{detail['input_sets']} sets of these inputs lie within twice the L2")
            if cached
            else Measured("bandwidth_gb_s", per_second(moved, seconds, 1e9), detail, True),
            _percent(rates, peak, detail),
            Measured.microseconds(seconds, detail, True),
        ]


@dataclass(frozen=True)
class Peak:
    """TFLOP/s of the best of some large square products, or why they show none."""

    tflops: float | None = None
    reason: str | None = None


def _percent(rates: Sequence[float], peak: Peak, detail: Mapping[str, Any]) -> Measured | Skipped:
    """Per cent of the peak: nothing without a peak, and a failed row above 100, since then it is no peak."""
    if peak.tflops is None:
        return Skipped("peak_percent", peak.reason or "no peak was measured")
    shares = [100 * rate / peak.tflops for rate in rates]
    share = statistics.median(shares)
    wrong = None
    if share > 100:
        wrong = f"{share:.4g} % of what square products reach ({peak.tflops:.4g} TFLOP/s): that is not the peak"
    return Measured("peak_percent", shares, detail, True, wrong)


def crossovers(
    taken: Mapping[int, Sequence[float]], operations: float, peaks: Mapping[str, Peak], dtype: str
) -> list[Measured | Skipped]:
    """`gemv_rows` and `ridge_rows` of a matrix, a sample for each sample of the product of one row.

    `taken`: seconds of the products by their rows; `operations`: floating point operations of one row.
    """
    if 1 not in taken or len(taken) < 2:
        raise Skip("no crossover: the product of one row, or every larger one, could not be measured")
    medians = {rows: statistics.median(seconds) for rows, seconds in sorted(taken.items())}

    def last(one: float) -> float:
        """Rows of the last product before the first that is faster than as many of one row, which takes `one`."""
        return float(max(itertools.takewhile(lambda rows: rows == 1 or medians[rows] >= rows * one, medians)))

    peak = peaks[dtype]
    return [
        Measured("gemv_rows", [last(one) for one in taken[1]], {"rows": list(medians)}),
        Skipped("ridge_rows", peak.reason or "no peak was measured")
        if peak.tflops is None
        else Measured("ridge_rows", [peak.tflops * 1e12 * one / operations for one in taken[1]]),
    ]


def peak_sizes(context: Context, gpu: bool) -> Sequence[int]:
    """Rows of the square products that give the peak; none in a test, whose sizes have no plateau."""
    return context.sizes((), (2048, 4096, 8192) if gpu else (512, 1024), (4096, 8192) if gpu else (1024, 2048))


def measure_peak(engine: Any, context: Context, dtype: str) -> Peak:
    """The best square product, measured in the same run under the same clocks, where time grows with work."""
    sizes = peak_sizes(context, engine.device == "cuda")
    if not sizes:
        return Peak(reason="no peak: the sizes of a test are too small for one")
    medians = {}
    for n in sizes:
        try:
            medians[n] = statistics.median(product(engine, n, n, n, dtype, context.effort)[0])
        except Skip:  # does not fit; the others may
            continue
    best, reason = plateau(sizes, medians, 3)
    return Peak(reason=reason) if best is None else Peak(2.0 * best**3 / medians[best] / 1e12)


def _shape(model: Mapping[str, Any]) -> ModelShape | None:
    source = model.get("source")
    if not source or not (Path(source) / "config.json").is_file():
        return None
    try:
        return read_shape(Path(source))
    except (ValueError, OSError):
        return None
