"""Matrix-matrix and matrix-vector products: the ceilings of prefill and of decode.

A square GEMM gives the peak rate of arithmetic, a GEMV the rate at which weights can be read: 2 m n k operations, and
all of the matrix's bytes for two operations each. Every size's result is checked against float64 on sampled entries.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

from servegauge.probes.harness.base import Case, Context, Measured, Probe, per_second
from servegauge.probes.harness.numeric import BYTES, backend, product
from servegauge.probes.harness.phases import DECODE, PREFILL


class Gemm(Probe):
    name = "gemm"
    title = "Matrix products"
    units: ClassVar = {"tflops": "TFLOP/s", "bandwidth_gb_s": "GB/s"}
    primary = ("tflops", "bandwidth_gb_s")
    measures = (
        "matrix-matrix products (TFLOP/s) and matrix-vector products (GB/s of weights read), by data type and size"
    )

    def explains(self, variant: Mapping[str, Any], cells: Sequence[Mapping[str, Any]]) -> str | None:
        return DECODE if variant.get("operation") == "gemv" else PREFILL

    def cases(self, context: Context) -> Iterator[Case]:
        engine = backend()
        gpu = engine.device == "cuda"
        full = (512, 1024, 2048, 4096, 8192, 16384) if gpu else (256, 512, 1024, 2048, 4096)
        for dtype in engine.dtypes:
            for n in context.sizes((64,), (256, 512, 1024), full):
                about = self._about(engine, context, dtype, "gemm", (n, n, n))
                yield Case(about, "tflops", "TFLOP/s", partial(self._gemm, engine, context, dtype, n))
            for n in context.sizes((64,), (4096,), (2048, 4096, 8192, 16384)):
                if dtype != "fp8":  # the fp8 product needs at least 16 rows: a vector is not one
                    about = self._about(engine, context, dtype, "gemv", (1, n, n))
                    yield Case(about, "bandwidth_gb_s", "GB/s", partial(self._gemv, engine, context, dtype, n))

    @staticmethod
    def _about(
        engine: Any, context: Context, dtype: str, operation: str, shape: tuple[int, int, int]
    ) -> dict[str, Any]:
        about = {"operation": operation, "dtype": dtype, "shape": "x".join(map(str, shape)), "backend": engine.name}
        return about | ({"device": "cuda"} if engine.device == "cuda" else {"threads": len(context.server_cpus)})

    @staticmethod
    def _gemm(engine: Any, context: Context, dtype: str, n: int) -> Measured:
        seconds, detail = product(engine, n, n, n, dtype, context.effort)
        return Measured("tflops", "TFLOP/s", per_second(2.0 * n**3, seconds, 1e12), detail, True)

    @staticmethod
    def _gemv(engine: Any, context: Context, dtype: str, n: int) -> Measured:
        seconds, detail = product(engine, 1, n, n, dtype, context.effort)
        moved = BYTES[dtype] * (n * n + 2 * n)
        return Measured("bandwidth_gb_s", "GB/s", per_second(moved, seconds, 1e9), detail, True)
