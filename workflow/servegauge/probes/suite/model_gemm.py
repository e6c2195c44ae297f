"""The matrix products of a given model, split by TP, from one token to thousands.

Where decode's flat products stop being bound by memory and prefill's begin to be bound by arithmetic is read off the
per cent of the peak that a square product reaches in the same run. An expert's matrix is measured with the rows it gets
on average: tokens x experts used / experts, at least one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from servegauge.inputs.model_shape import Matrix, ModelShape, UnknownShape, read_shape
from servegauge.probes.harness.base import Case, Context, Measured, Probe, Skip, per_second
from servegauge.probes.harness.numeric import BYTES, backend, product
from servegauge.probes.harness.phases import DECODE, DECODE_TOKENS, PREFILL
from servegauge.probes.harness.stats import median_interval

DTYPES = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16", "float8_e4m3fn": "fp8", "fp8": "fp8"}


class ModelGemm(Probe):
    name = "model_gemm"
    title = "The model's matrix products"
    units: ClassVar = {"tflops": "TFLOP/s", "bandwidth_gb_s": "GB/s", "peak_percent": "%", "time_us": "us"}
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
        peaks: dict[str, float] = {}
        tokens = context.sizes((1, 16), (1, 128), (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192))
        for model in context.models:
            shape = _shape(model)
            if shape is None:
                continue
            dtype = DTYPES.get((shape.dtype or "bfloat16").removeprefix("torch."), "bf16")
            if engine.supports(dtype):
                dtype = "fp32" if engine.name == "numpy" else "bf16"  # the row says so
            for tp in model.get("tp") or (1,):
                yield from self._matrices(engine, context, model["name"], shape, int(tp), dtype, tokens, peaks)

    def _matrices(
        self,
        engine: Any,
        context: Context,
        name: str,
        shape: ModelShape,
        tp: int,
        dtype: str,
        tokens: Any,
        peaks: dict[str, float],
    ) -> Iterator[Case]:
        about = {"model": name, "tp": tp, "dtype": dtype, "backend": engine.name, "device": engine.device}
        try:
            matrices = shape.matrices(tp)
        except UnknownShape as error:
            yield Case({**about, "operation": "all"}, "tflops", "TFLOP/s", partial(_skip, str(error)))
            return
        for matrix in matrices:
            for count in tokens:
                rows = max(1, round(count * matrix.used / matrix.experts))
                which = {
                    **about,
                    "operation": matrix.name,
                    "tokens": count,
                    "shape": f"{rows}x{matrix.n}x{matrix.k}",
                }
                measure = partial(self._measure, engine, context, matrix, rows, dtype, peaks)
                yield Case(which, "tflops", "TFLOP/s", measure)

    @staticmethod
    def _measure(
        engine: Any, context: Context, matrix: Matrix, rows: int, dtype: str, peaks: dict[str, float]
    ) -> list[Measured]:
        if dtype not in peaks:
            peaks[dtype] = _peak(engine, context, dtype)
        seconds, detail = product(engine, rows, matrix.n, matrix.k, dtype, context.effort)
        rates = per_second(2.0 * rows * matrix.n * matrix.k, seconds, 1e12)
        moved = BYTES[dtype] * (matrix.n * matrix.k + rows * (matrix.n + matrix.k))
        detail = {**detail, "peak_tflops": peaks[dtype], "flops_per_byte": 2.0 * rows * matrix.n * matrix.k / moved}
        return [
            Measured("tflops", "TFLOP/s", rates, detail, True),
            Measured("bandwidth_gb_s", "GB/s", per_second(moved, seconds, 1e9), detail, True),
            Measured("peak_percent", "%", [100 * rate / peaks[dtype] for rate in rates], detail, True),
            Measured("time_us", "us", [second * 1e6 for second in seconds], detail, True),
        ]


def _skip(reason: str) -> Measured:
    raise Skip(reason)


def _peak(engine: Any, context: Context, dtype: str) -> float:
    """TFLOP/s of a large square product, measured in the same run under the same clocks."""
    n = context.sizes(64, 1024, 8192 if engine.device == "cuda" else 2048)
    seconds, _ = product(engine, n, n, n, dtype, context.effort)
    return median_interval(per_second(2.0 * n**3, seconds, 1e12))[0]


def _shape(model: Mapping[str, Any]) -> ModelShape | None:
    source = model.get("source")
    if not source or not (Path(source) / "config.json").is_file():
        return None
    try:
        return read_shape(Path(source))
    except (ValueError, OSError):
        return None
