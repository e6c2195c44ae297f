"""What a model's phases ask of a platform, and how much of the platform's own ceilings a cell used.

Operations and bytes follow from config.json (`model_shape.py`), ceilings from the probes; docs/roofline.md has the
formulas. An operation is one multiplication or one addition. Bytes are what must cross the memory once: weights and the
KV cache; activations, which can stay in caches, are not counted, so utilisations are lower bounds of the traffic.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from servegauge.compare.probe_effects import variant_of
from servegauge.contract.columns import Row
from servegauge.inputs.model_shape import Matrix, ModelShape, bytes_of
from servegauge.probes.harness.stats import no_plateau

PEAKS = ("peak_tflops", "peak_gb_s")  # metrics of the gemm probe that say what may be called a ceiling
SHORT = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16", "float8_e4m3fn": "fp8", "float8": "fp8"}


# -- what a phase asks for -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Work:
    """Operations, and bytes that must be read or written at least once, over all GPUs."""

    flops: float
    bytes: float

    @property
    def intensity(self) -> float:
        """Operations per byte."""
        return self.flops / self.bytes


def weights_read(shape: ModelShape, rows: float) -> float:
    """Numbers of weights that a step over `rows` tokens reads: of E experts, k used, E (1 - (1 - k/E)^rows) on average.

    The output head is read, the embedding's table is not: a token takes one row of it.
    """

    def share(matrix: Matrix) -> float:
        return 1.0 if matrix.experts == 1 else 1 - (1 - matrix.used / matrix.experts) ** rows

    return sum(matrix.weights * share(matrix) for matrix in shape.matrices())


def attention_flops(shape: ModelShape, contexts: Mapping[int | None, float], decode: bool) -> float:
    """Operations of scores and weighted values, all layers.

    `contexts`: for each window of `shape.cache` (None: none) the sum over the queries of the tokens they look at. MLA's
    decode multiplies with the cached latent itself, its prefill with the expanded keys and values.
    """
    if shape.latent:
        expanded = shape.nope_dim + shape.rope_dim + shape.value_dim
        each = 2.0 * shape.heads * (2 * shape.kv_lora_rank + shape.rope_dim if decode else expanded)
    else:
        each = 4.0 * shape.heads * shape.head_dim
    return sum(group.layers * each * contexts[group.window] for group in shape.cache)


def _looked_at(first: float, last: float, window: int | None) -> float:
    """Sum of min(position, window) over the positions first + 1 ... last."""

    def up_to(position: float) -> float:
        inside = position if window is None else min(position, window)
        return inside * (inside + 1) / 2 + (position - inside) * (window or 0)

    return up_to(last) - up_to(first)


def prefill(
    shape: ModelShape, tokens: float, batch: float = 1, cached: float = 0, weight_value_bytes: float | None = None
) -> Work:
    """`batch` prompts of `tokens` each, of which `cached` lie in a prefix cache, in one pass; one token out of each."""
    matrices, value = shape.matrices(), weight_value_bytes or bytes_of(shape.dtype)
    new = tokens - cached
    body = sum(matrix.weights_used for matrix in matrices[:-1])
    contexts = {group.window: _looked_at(cached, tokens, group.window) for group in shape.cache}
    flops = 2.0 * new * body + 2.0 * matrices[-1].weights + attention_flops(shape, contexts, decode=False)
    cache = _cache_bytes(shape, tokens) + new * _cache_bytes(shape, 1)  # read all of it once, write the new part
    return Work(batch * flops, weights_read(shape, batch * new) * value + batch * cache)


def _cache_bytes(shape: ModelShape, tokens: float) -> float:
    found = shape.kv_bytes(tokens)
    if found is None:
        raise ValueError(f"the cache of {shape.family!r} is not known: {shape.unknown_cache}")
    return found


def decode(shape: ModelShape, batch: float, context: float, weight_value_bytes: float | None = None) -> Work:
    """One step of `batch` sequences that have `context` tokens each: one token out of each."""
    matrices, value = shape.matrices(), weight_value_bytes or bytes_of(shape.dtype)
    contexts = {group.window: min(context, group.window or context) for group in shape.cache}
    each = 2.0 * sum(matrix.weights_used for matrix in matrices) + attention_flops(shape, contexts, decode=True)
    cache = _cache_bytes(shape, context) + _cache_bytes(shape, 1)
    return Work(batch * each, weights_read(shape, batch) * value + batch * cache)


# -- what a platform can do ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ceiling:
    """A rate and where it comes from."""

    value: float
    source: str


@dataclass(frozen=True)
class Ceilings:
    """One GPU's (or the server's CPUs') rates: TFLOP/s by data type and GB/s, as measured and as the vendor says."""

    platform: str
    tflops: Mapping[str, Ceiling] = field(default_factory=dict)
    memory_gb_s: Ceiling | None = None
    vendor_tflops: float | None = None  # dense bf16
    vendor_memory_gb_s: float | None = None

    def arithmetic(self, dtype: str | None) -> Ceiling | None:
        """The measured ceiling of `dtype` (as config.json spells it), else of the fastest type that was measured.

        A CPU may have been probed in fp32 alone; the source then says so.
        """
        short = SHORT.get((dtype or "bfloat16").removeprefix("torch."), dtype or "bf16")
        if short in self.tflops:
            return self.tflops[short]
        if not self.tflops:
            return None
        best = max(self.tflops.values(), key=lambda ceiling: ceiling.value)
        return Ceiling(best.value, f"{best.source}; {short} was not measured")


def ceilings(rows: Iterable[Row], platform: Mapping[str, Any]) -> Ceilings:
    """The ceilings of `platform` (its file's contents with `name`) from rows of the probes table.

    Arithmetic: the best of the square products, by data type; memory: the best of the matrix-vector products and of the
    copies at the largest size probed, where no cache helps. Both only where time grows with work: the probe says so in
    its peak rows, and of results without those it is asked of the sizes here. On a platform with GPUs what ran on them
    counts.
    """
    gpu = bool(platform.get("gpus_per_node"))
    probed = [(row, variant_of(row)) for row in rows if row["platform"] == platform["name"]]
    probed = [(row, variant) for row, variant in probed if (variant.get("device") == "cuda") == gpu]
    judged = {(row["metric"], variant["dtype"]) for row, variant in probed if row["metric"] in PEAKS}
    mine = [(row, variant) for row, variant in probed if row["status"] == "ok" and row["value"]]
    tflops: dict[str, Ceiling] = {}
    memory: list[Ceiling] = []
    for row, variant in mine:
        if row["probe"] == "gemm" and row["metric"] in PEAKS:
            n = json.loads(row.get("detail") or "{}").get("size")
            if row["metric"] == "peak_tflops":
                tflops[variant["dtype"]] = Ceiling(row["value"], f"gemm {variant['dtype']} {n}x{n}x{n}")
            else:
                memory.append(Ceiling(row["value"], f"gemv {variant['dtype']} 1x{n}x{n}"))
        elif row["probe"] == "gemm" and row["metric"] == "tflops":
            if ("peak_tflops", variant["dtype"]) in judged or _no_plateau(row, variant, mine):
                continue
            ceiling = Ceiling(row["value"], f"gemm {variant['dtype']} {variant['shape']}")
            if variant["dtype"] not in tflops or tflops[variant["dtype"]].value < ceiling.value:
                tflops[variant["dtype"]] = ceiling
        elif row["probe"] == "gemm" and row["metric"] == "bandwidth_gb_s" and _is_largest(row, variant, mine, "shape"):
            if ("peak_gb_s", variant["dtype"]) not in judged:
                memory.append(Ceiling(row["value"], f"gemv {variant['dtype']} {variant['shape']}"))
        elif row["probe"] == "memcpy" and row["metric"] == "bandwidth_gb_s" and _inside_memory(variant):
            if not _is_largest(row, variant, mine, "size_bytes"):
                continue
            memory.append(Ceiling(row["value"], f"memcpy {variant['operation']} of {variant['size_bytes']} bytes"))
    vendor = platform.get("gpu") or {}
    return Ceilings(
        platform["name"],
        tflops,
        max(memory, key=lambda ceiling: ceiling.value, default=None),
        vendor.get("bf16_tflops"),
        vendor.get("memory_gb_s"),
    )


def _no_plateau(row: Row, variant: Mapping[str, Any], rows: list[tuple[Row, dict[str, Any]]]) -> bool:
    """True where the squares of this data type took no longer though they were larger: then none of them is a peak."""
    rates = {
        _size(other, "shape"): one["value"]
        for one, other in rows
        if one["probe"] == row["probe"] and one["metric"] == row["metric"] and other["dtype"] == variant["dtype"]
    }
    sizes = sorted(rates)
    seconds = [float(n) ** 3 / rates[n] for n in sizes]
    return len(sizes) > 1 and no_plateau([float(n) ** 3 for n in sizes], seconds) is not None


def _inside_memory(variant: Mapping[str, Any]) -> bool:
    """True for a copy that stays in the memory the model lies in; host to device crosses a bus instead."""
    return variant.get("direction") in (None, "device-to-device")


def _size(variant: Mapping[str, Any], key: str) -> int:
    value = variant.get(key, 0)
    return int(str(value).rpartition("x")[2]) if key == "shape" else int(value)


def _is_largest(row: Row, variant: Mapping[str, Any], rows: list[tuple[Row, dict[str, Any]]], key: str) -> bool:
    same = (
        _size(other, key)
        for one, other in rows
        if one["probe"] == row["probe"] and one["metric"] == row["metric"] and _inside_memory(other)
    )
    return _size(variant, key) == max(same)


# -- what a cell used ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Point:
    """Where a phase of a cell lies on the roofline, per GPU."""

    intensity: float
    tflops: float
    gb_s: float


@dataclass(frozen=True)
class Utilisation:
    """A cell's use of its platform; shares of the measured and of the vendor's ceilings, None with `reason`.

    `mfu`: operations of all answered requests / (window x peak x GPUs). `mbu`: bytes of a decode step / (median TPOT x
    bandwidth x GPUs). `decode` and `prefill` are points of the roofline; prefill's time is the median TTFT, queueing
    included, so it is a lower bound. `batch` is the mean number of sequences that decode together.
    """

    mfu: float | None = None
    mbu: float | None = None
    mfu_vendor: float | None = None
    mbu_vendor: float | None = None
    batch: float | None = None
    decode: Point | None = None
    prefill: Point | None = None
    reason: str | None = None


def weight_bytes(shape: ModelShape, options: Mapping[str, Any] | None) -> float:
    """Bytes of one weight as the server holds it: the model's own, unless the launch quantises it."""
    kind = (options or {}).get("quantization")
    return {"fp8": 1.0, "awq": 0.5, "gptq": 0.5}.get(str(kind), bytes_of(shape.dtype))


def utilisation(cell: Row, shape: ModelShape, known: Ceilings) -> Utilisation:
    """MFU and MBU of one row of the cells table; see Utilisation for what they are."""
    if not shape.known:
        return Utilisation(reason=f"operations of {shape.family!r} are not known here")
    tokens, answer = cell.get("prompt_tokens_mean"), cell.get("output_tokens_mean")
    if not tokens or not answer or not cell.get("achieved_rps"):
        return Utilisation(reason="the cell has no token counts")
    gpus = 1
    for axis in ("tp", "pp", "dp", "instances"):
        gpus *= int(cell.get(axis) or 1)
    options = cell.get("options")
    value = weight_bytes(shape, json.loads(options) if isinstance(options, str) else options)
    cached = tokens * (cell.get("cached_tokens_share") or 0.0)
    context = tokens + answer / 2
    whole = prefill(shape, tokens, cached=cached, weight_value_bytes=value)
    one = decode(shape, 1, context, value)
    per_s = cell["achieved_rps"] * (whole.flops + max(answer - 1, 0) * one.flops) / gpus
    peak, memory = known.arithmetic(shape.dtype), known.memory_gb_s
    found: dict[str, Any] = {
        "mfu": _share(per_s, peak.value * 1e12 if peak else None),
        "mfu_vendor": _share(per_s, known.vendor_tflops and known.vendor_tflops * 1e12),
    }
    replicas = int(cell.get("dp") or 1) * int(cell.get("instances") or 1)
    tpot, rate = cell.get("tpot_p50_s"), cell.get("output_tokens_per_s")
    if tpot and rate:
        # Little's law: tokens per second of all streams x the time of one token. Per server, since each has its own.
        batch = max(1.0, rate * tpot / replicas)
        step = decode(shape, batch, context, value)
        point = _point(step, tpot, gpus / replicas)
        found |= {
            "batch": batch,
            "decode": point,
            "mbu": _share(point.gb_s, memory.value if memory else None),
            "mbu_vendor": _share(point.gb_s, known.vendor_memory_gb_s),
        }
    ttft = cell.get("ttft_p50_s")
    if ttft:
        found["prefill"] = _point(whole, ttft, gpus / replicas)
    missing = [name for name, ceiling in (("gemm", peak), ("memory bandwidth", memory)) if ceiling is None]
    reason = f"{known.platform} was not probed for {' and '.join(missing)}" if missing else None
    return Utilisation(**found, reason=reason)


def _share(value: float, ceiling: float | None) -> float | None:
    return value / ceiling if ceiling else None


def _point(work: Work, seconds: float, gpus: float) -> Point:
    return Point(work.intensity, work.flops / seconds / gpus / 1e12, work.bytes / seconds / gpus / 1e9)


@dataclass(frozen=True)
class Panel:
    """What is drawn for one platform. `cells`: what each cell used; `rows`: the platform's rows of the probes table."""

    ceilings: Ceilings
    cells: Sequence[Utilisation] = ()
    rows: Sequence[Row] = ()
    dtype: str | None = None  # of the model, for the flat line
