"""Matrix products on either backend: numpy's BLAS where that is all there is, torch where it is installed.

Both give the same few operations, so that a probe is written once. How a GPU is timed is in `cuda.py`.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from servegauge.node.node_facts import cpu_cache_kib
from servegauge.node.reader import Node
from servegauge.probes.harness.base import Skip, Wrong
from servegauge.probes.harness.cuda import Seconds, cuda_timed
from servegauge.probes.harness.stats import Effort, no_plateau, timed

NO_TORCH = "torch is not installed in this environment; build the one of envs/probes"
BYTES = {"fp64": 8, "fp32": 4, "bf16": 2, "fp16": 2, "fp8": 1}
# Unit roundoff of the stored result, and of the sums inside: tensor cores add fp8 products in about 14 bits.
ROUND_RESULT = {"fp64": 2.0**-53, "fp32": 2.0**-24, "bf16": 2.0**-8, "fp16": 2.0**-11, "fp8": 2.0**-8}
ROUND_SUM = {"fp64": 2.0**-53, "fp32": 2.0**-24, "bf16": 2.0**-24, "fp16": 2.0**-24, "fp8": 2.0**-13}
MOST_SETS = 4096  # of inputs on a GPU, whose L2 holds thousands of small matrices
SPREAD = 8.0  # times one rounding error per step of a sum; about twenty standard deviations


def has_torch() -> bool:
    """True where torch can be imported in this environment."""
    return importlib.util.find_spec("torch") is not None


def cuda_torch() -> Any:
    """torch, where it sees a CUDA device; a Skip that says why not elsewhere."""
    if not has_torch():
        raise Skip(NO_TORCH)
    torch = importlib.import_module("torch")
    if not torch.cuda.is_available():
        raise Skip("torch sees no CUDA device")
    return torch


def cache_bytes() -> int:
    """Size of the largest cache of CPU 0 in bytes; 64 MiB where the kernel does not say."""
    return (cpu_cache_kib(Node())[0] or 64 << 10) << 10


def available_bytes() -> int:
    """Main memory that can be had without swapping, page cache that can be dropped included."""
    return Node().meminfo["MemAvailable"] << 10


def sets_needed(bytes_per_set: int, cache: int, most: int = 64) -> int:
    """How many distinct inputs to rotate so that none is still cached when its turn comes again: twice the cache."""
    return min(most, max(2, math.ceil(2 * cache / bytes_per_set)))


def check(result: np.ndarray, left: np.ndarray, right: np.ndarray, dtype: str) -> float:
    """Largest error of `result` = left @ right over its bound; Wrong above 1.

    All arguments are float64 arrays of what was multiplied and what came out: (rows, k) @ (k, n) -> (rows, n), with
    entries drawn from a normal distribution. A running sum of k such products is a random walk of k roundings, each as
    large as the sum so far: the error grows as sqrt(k) times the result's size. The stored result is rounded once, or
    twice where a split sum is put together. A lower precision passed off as `dtype` (TF32 for fp32) is above the bound.
    """
    if not np.all(np.isfinite(result)):
        raise Wrong("the result holds NaN or infinity")
    reference = left @ right
    size = float(np.sqrt(np.mean(reference**2)))
    bound = SPREAD * math.sqrt(left.shape[-1]) * ROUND_SUM[dtype] * size
    bound = bound + 2 * ROUND_RESULT[dtype] * (np.abs(reference) + size)
    worst = float(np.max(np.abs(result - reference) / bound))
    if worst > 1:
        raise Wrong(f"the {dtype} product is off by {worst:.3g} times what rounding allows (float64 reference)")
    return worst


class NumpyBackend:
    """numpy's BLAS on the CPU: fp32 and fp64."""

    name, device = "numpy", "cpu"
    dtypes = ("fp32",)

    def __init__(self) -> None:
        self.cache = cache_bytes()
        self._random = np.random.default_rng(20261121)

    def supports(self, dtype: str) -> str | None:
        return None if dtype in ("fp32", "fp64") else f"numpy's BLAS has no {dtype} product; envs/probes has torch"

    def random(self, shape: tuple[int, int], dtype: str) -> np.ndarray:
        kinds: dict[str, Any] = {"fp32": np.float32, "fp64": np.float64}
        return self._random.standard_normal(shape, dtype=kinds[dtype])

    def rows(self, array: np.ndarray, which: list[int]) -> np.ndarray:
        return array[which]

    def copy(self, array: np.ndarray) -> np.ndarray:
        return array.copy(order="K")

    def matmul(self, left: np.ndarray, right: np.ndarray, dtype: str) -> np.ndarray:
        return left @ right

    def to_float64(self, array: np.ndarray) -> np.ndarray:
        return array.astype(np.float64)

    def time(self, operation: Callable[[int], object], effort: Effort) -> Seconds:
        return timed(operation, effort), {}

    def free_bytes(self) -> int:
        return available_bytes()


class TorchBackend:
    """torch on the CPU or on one CUDA device."""

    name = "torch"
    dtypes: tuple[str, ...]

    def __init__(self) -> None:
        self.torch: Any = importlib.import_module("torch")
        self.device = "cuda" if self.torch.cuda.is_available() else "cpu"
        self.torch.manual_seed(20261121)
        if self.device == "cpu":
            self.torch.set_num_threads(len(os.sched_getaffinity(0)))
            self.cache, self.dtypes = cache_bytes(), ("fp32", "bf16", "fp16")
        else:
            # A fp32 product must be fp32, or the number would be TF32's under another name.
            self.torch.backends.cuda.matmul.allow_tf32 = False
            self.cache = self.torch.cuda.get_device_properties(0).L2_cache_size
            self.dtypes = ("bf16", "fp16", "fp32", "fp8")

    def supports(self, dtype: str) -> str | None:
        if dtype != "fp8":
            return None
        if self.device == "cpu":
            return "no fp8 product on a CPU"
        major, minor = self.torch.cuda.get_device_capability()
        return None if (major, minor) >= (8, 9) else f"no fp8 hardware: compute capability {major}.{minor}, 8.9 needed"

    def dtype(self, name: str) -> Any:
        return getattr(
            self.torch,
            {"fp64": "float64", "fp32": "float32", "bf16": "bfloat16", "fp16": "float16", "fp8": "float8_e4m3fn"}[name],
        )

    def random(self, shape: tuple[int, int], dtype: str) -> Any:
        if self.device == "cpu" and dtype in ("bf16", "fp16"):
            return self.torch.randn(shape).to(self.dtype(dtype))
        kind = "bf16" if dtype == "fp8" else dtype
        return self.torch.randn(shape, device=self.device, dtype=self.dtype(kind)).to(self.dtype(dtype))

    def rows(self, array: Any, which: list[int]) -> Any:
        if array.element_size() > 1:
            return array[which]
        return array.view(self.torch.uint8)[which].view(array.dtype)  # torch cannot pick rows of fp8

    def copy(self, array: Any) -> Any:
        return array.clone()  # keeps the strides

    def matmul(self, left: Any, right: Any, dtype: str) -> Any:
        if dtype != "fp8":
            return left @ right
        one = self._one()
        # fp8 wants the right side column-major; the weights of a model lie so too.
        return self.torch._scaled_mm(left, right, scale_a=one, scale_b=one, out_dtype=self.torch.bfloat16)

    def _one(self) -> Any:
        if not hasattr(self, "_scale"):
            self._scale = self.torch.ones((), device=self.device)
        return self._scale

    def to_float64(self, array: Any) -> np.ndarray:
        return (
            array.to(self.torch.float32).double().cpu().numpy() if array.dtype != self.torch.float64 else array.numpy()
        )

    def time(self, operation: Callable[[int], object], effort: Effort) -> Seconds:
        with self.torch.inference_mode():
            return (timed(operation, effort), {}) if self.device == "cpu" else cuda_timed(self.torch, operation, effort)

    def free_bytes(self) -> int:
        if self.device == "cuda":
            return self.torch.cuda.mem_get_info()[0]
        return available_bytes()


def backend() -> NumpyBackend | TorchBackend:
    """torch where it is installed, else numpy."""
    return TorchBackend() if has_torch() else NumpyBackend()


def product(engine: Any, m: int, n: int, k: int, dtype: str, effort: Effort) -> tuple[list[float], dict[str, Any]]:
    """Seconds of one (m, k) @ (k, n), with inputs rotated past the cache, and the checked error of the first result.

    Skip where the data type is not supported or the inputs do not fit in half of the free memory.
    """
    reason = engine.supports(dtype)
    if reason:
        raise Skip(reason)
    size = BYTES[dtype] * (m * k + k * n) + 4 * m * n
    free = engine.free_bytes()
    if 2 * size > free / 2:
        raise Skip(f"two sets of inputs need {2 * size / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free")
    most = MOST_SETS if engine.device == "cuda" else 64
    sets = min(sets_needed(size, engine.cache, most), int(free / 2 / size))
    # The right side is made as (n, k) and turned, as a model stores its weights. Copies are as good as other numbers:
    # what matters is that each set lies elsewhere in memory.
    left, right = engine.random((m, k), dtype), engine.random((n, k), dtype).T
    lefts = [left, *(engine.copy(left) for _ in range(sets - 1))]
    rights = [right, *(engine.copy(right) for _ in range(sets - 1))]
    result = engine.matmul(lefts[0], rights[0], dtype)
    rows = np.unique(np.linspace(0, m - 1, min(m, 16)).astype(int)).tolist()
    columns = np.unique(np.linspace(0, n - 1, min(n, 512)).astype(int)).tolist()
    error = check(
        engine.to_float64(engine.rows(result, rows))[:, columns],
        engine.to_float64(engine.rows(left, rows)),
        engine.to_float64(engine.rows(right.T, columns)).T,
        dtype,
    )
    seconds, detail = engine.time(lambda i: engine.matmul(lefts[i % sets], rights[i % sets], dtype), effort)
    return seconds, {
        "error_over_bound": error,
        "input_sets": sets,
        "beyond_cache": sets * size >= 2 * engine.cache,
        **detail,
    }


def plateau(sizes: Sequence[int], medians: Mapping[int, float], power: int) -> tuple[int | None, str | None]:
    """Of `sizes` of squares whose seconds are in `medians`, the one with the best rate; or None and why there is no
    peak. Work grows with the size to the `power`: 3 for a product, 2 for a matrix and a vector.
    """
    known = [n for n in sizes if n in medians]
    if len(known) < 2:
        return None, f"no peak: {len(known)} of {len(sizes)} sizes could be measured, two are needed"
    reason = no_plateau([float(n) ** power for n in known], [medians[n] for n in known])
    return (None, reason) if reason else (max(known, key=lambda n: float(n) ** power / medians[n]), None)
