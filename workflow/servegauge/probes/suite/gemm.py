"""Matrix-matrix and matrix-vector products: the ceilings of prefill and of decode.

A square GEMM gives the peak rate of arithmetic, a GEMV the rate at which weights can be read: 2 m n k operations, and
all of the matrix's bytes for two operations each. Every size's result is checked against float64 on sampled entries.
A peak is the best of the sizes, and only where time grows with work: else a GPU's peak would be its CPU's dispatch.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

from servegauge.probes.harness.base import Case, Context, Measured, Probe, Skip, per_second
from servegauge.probes.harness.numeric import BYTES, backend, plateau, product
from servegauge.probes.harness.phases import DECODE, PREFILL


class Gemm(Probe):
    name = "gemm"
    title = "Matrix products"
    units: ClassVar = {
        "tflops": "TFLOP/s", "bandwidth_gb_s": "GB/s", "peak_tflops": "TFLOP/s", "peak_gb_s": "GB/s",
    }  # fmt: skip
    primary = ("tflops", "bandwidth_gb_s")
    measures = (
        "matrix-matrix products (TFLOP/s) and matrix-vector products (GB/s of weights read), by data type and size"
    )

    def explains(self, variant: Mapping[str, Any], cells: Sequence[Mapping[str, Any]]) -> str | None:
        return DECODE if variant.get("operation") == "gemv" else PREFILL

    def cases(self, context: Context) -> Iterator[Case]:
        engine = backend()
        gpu = engine.device == "cuda"
        for dtype in engine.dtypes:
            reached: dict[int, Measured] = {}
            squares = square_sizes(context, gpu)
            for n in squares:
                about = self._about(engine, context, dtype, "gemm", (n, n, n))
                yield Case(about, "tflops", partial(self._gemm, engine, context, dtype, n, reached))
            about = self._about(engine, context, dtype, "gemm peak")
            yield Case(about, "peak_tflops", partial(self._peak, "peak_tflops", 3, squares, reached))
            if dtype == "fp8":  # the fp8 product needs at least 16 rows: a vector is not one
                continue
            read: dict[int, Measured] = {}
            sizes = vector_sizes(context, gpu)
            for n in sizes:
                about = self._about(engine, context, dtype, "gemv", (1, n, n))
                yield Case(about, "bandwidth_gb_s", partial(self._gemv, engine, context, dtype, n, read))
            about = self._about(engine, context, dtype, "gemv peak")
            yield Case(about, "peak_gb_s", partial(self._peak, "peak_gb_s", 2, sizes, read))

    @staticmethod
    def _about(
        engine: Any, context: Context, dtype: str, operation: str, shape: tuple[int, int, int] | None = None
    ) -> dict[str, Any]:
        about = {"operation": operation, "dtype": dtype, "backend": engine.name}
        about |= {"shape": "x".join(map(str, shape))} if shape else {}
        return about | ({"device": "cuda"} if engine.device == "cuda" else {"threads": len(context.server_cpus)})

    @staticmethod
    def _gemm(engine: Any, context: Context, dtype: str, n: int, reached: dict[int, Measured]) -> Measured:
        seconds, detail = product(engine, n, n, n, dtype, context.effort)
        reached[n] = Measured("tflops", per_second(2.0 * n**3, seconds, 1e12), detail, True)
        return reached[n]

    @staticmethod
    def _gemv(engine: Any, context: Context, dtype: str, n: int, read: dict[int, Measured]) -> Measured:
        seconds, detail = product(engine, 1, n, n, dtype, context.effort)
        if engine.device == "cuda" and not detail["beyond_cache"]:
            raise Skip(f"{detail['input_sets']} sets of these inputs lie within twice the L2")
        moved = BYTES[dtype] * (n * n + 2 * n)
        read[n] = Measured("bandwidth_gb_s", per_second(moved, seconds, 1e9), detail, True)
        return read[n]

    @staticmethod
    def _peak(metric: str, power: int, sizes: Sequence[int], found: Mapping[int, Measured]) -> Measured:
        """The samples of the best size; a row without a number where time did not grow with work."""
        seconds = {n: float(n) ** power / statistics.median(one.samples) for n, one in found.items()}
        best, reason = plateau(sizes, seconds, power)
        if best is None:
            raise Skip(reason or "no peak")
        return Measured(metric, found[best].samples, {**found[best].detail, "size": best}, True)


def square_sizes(context: Context, gpu: bool) -> Sequence[int]:
    """Rows of the square products. On a GPU large whatever the study's size: one of 1024 takes less than its launch."""
    if gpu:
        return context.sizes((64, 128), (2048, 4096, 8192), (512, 1024, 2048, 4096, 8192, 16384))
    return context.sizes((64, 128), (256, 512, 1024), (256, 512, 1024, 2048, 4096))


def vector_sizes(context: Context, gpu: bool) -> Sequence[int]:
    """Rows of the square matrices that a vector is multiplied with."""
    return context.sizes((64, 128), (8192, 16384) if gpu else (2048, 4096), (2048, 4096, 8192, 16384))
