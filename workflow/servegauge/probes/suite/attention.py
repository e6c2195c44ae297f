"""Attention over a paged KV cache: decode by block size, context and batch, and prefill.

Small blocks cost what the gather costs; that is the question where a GPU reads its cache through another memory system.
Beside it, decode over a cache that lies in one piece, without a page table, and over a paged one in unified memory.
Kernels: those that the server of this environment runs (FlashInfer, and of vLLM's flash attention the version it takes
on this GPU), and always torch's SDPA behind a paged gather. Each result is checked against float64 without paging.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from servegauge.inputs.model_shape import UnknownShape, read_shape
from servegauge.probes.harness.base import Case, Context, Measured, Probe, Skip, Skipped, Wrong, per_second
from servegauge.probes.harness.numeric import NO_TORCH, TorchBackend, has_torch, sets_needed
from servegauge.probes.harness.phases import DECODE, PREFILL

DTYPE = "bf16"
TOLERANCE = 2e-2  # of the largest value; several roundings of the data type
CHECKED = 4  # sequences of a batch that are held against the reference, which is slow
MOST_SETS = 256  # of caches that take turns; FlashInfer keeps 8 MiB of plan for each
LLAMA_8B = (32, 8, 128)  # query heads, KV heads, head size, where no model is named
Heads = tuple[int, int, int]
Attend = Callable[[int], Any]  # attention of the cache with that number


class Attention(Probe):
    name = "attention"
    title = "Attention"
    units: ClassVar = {"time_us": "us", "bandwidth_gb_s": "GB/s", "tflops": "TFLOP/s"}
    primary = ("time_us",)
    measures = "paged-attention decode by KV block size, context and batch, and prefill: time and bandwidth or TFLOP/s"
    needs = "torch"

    def unsupported(self, context: Context) -> str | None:
        return None if has_torch() else NO_TORCH

    def explains(self, variant: Mapping[str, Any], cells: Sequence[Mapping[str, Any]]) -> str | None:
        return PREFILL if variant.get("operation") == "prefill" else DECODE

    def cases(self, context: Context) -> Iterator[Case]:
        engine = TorchBackend()
        name, heads = _heads(context)
        gpu = engine.device == "cuda"
        found = kernels(engine.torch if gpu else None)
        about = {"model": name, "dtype": DTYPE, "device": engine.device}
        contexts = context.sizes(
            (64,), (1024, 8192) if gpu else (1024, 4096), (1024, 4096, 16384) if gpu else (1024, 4096)
        )
        for tokens in contexts:
            for batch in context.sizes((2,), (1, 8), (1, 8, 16, 32, 128, 1024) if gpu else (1, 8, 32)):
                size = {"context_tokens": tokens, "batch": batch}
                for kernel in (one for one in found if one != "flashinfer"):  # which has no such call for a batch
                    which = {**about, "operation": CONTIGUOUS, "backend": kernel, **size}
                    measure = partial(_decode, engine, context, kernel, heads, batch, tokens, tokens, CONTIGUOUS)
                    yield Case(which, "time_us", measure)
                for block in context.sizes((4, 16), (1, 16), (1, 2, 4, 8, 16, 32)):
                    for operation in ("decode", UNIFIED) if batch == 1 and gpu else ("decode",):
                        for kernel in found:
                            which = {**about, "operation": operation, "backend": kernel, **size, "block_tokens": block}
                            given = (engine, context, kernel, heads, batch, tokens, block, operation)
                            yield Case(which, "time_us", partial(_decode, *given))
            for kernel in found:
                which = {**about, "operation": "prefill", "backend": kernel, "context_tokens": tokens, "batch": 1}
                yield Case(which, "time_us", partial(_prefill, engine, context, kernel, heads, tokens))


CONTIGUOUS, UNIFIED = "decode, contiguous", "decode, unified memory"


def kernels(torch: Any) -> list[str]:
    """Names of the kernels to measure: torch always, FlashInfer and vLLM's on a GPU where this environment has them.

    `torch`: the module where there is a GPU, else None.
    """
    found = ["torch"]
    if torch is not None and importlib.util.find_spec("flashinfer") is not None:
        found.append("flashinfer")
    if torch is not None and importlib.util.find_spec("vllm") is not None:
        found.append(f"vllm fa{fa_version(torch)}")
    return found


def fa_version(torch: Any) -> int:
    """The version of flash attention that vLLM takes on this GPU by itself: 3 on Hopper, 4 on Blackwell, else 2.

    As far as its build has it: vLLM asks the same (`vllm/v1/attention/backends/fa_utils.py`).
    """
    wanted = {9: 3, 10: 4}.get(torch.cuda.get_device_capability()[0], 2)
    try:
        has = importlib.import_module("vllm.vllm_flash_attn.flash_attn_interface").is_fa_version_supported(wanted)
    except (ImportError, AttributeError, AssertionError, ValueError):  # older builds refuse a number they do not know
        has = False
    return wanted if has else 2


def _heads(context: Context) -> tuple[str, Heads]:
    """The first model of the study that can be read, else the heads of an 8-billion Llama."""
    for model in context.models:
        try:
            shape = read_shape(Path(model.get("source") or ""))
        except (OSError, UnknownShape, ValueError):
            continue
        if shape.kv_heads and not shape.latent:  # a latent cache has another layout; heads would not say what is read
            return str(model["name"]), (shape.heads, shape.kv_heads, shape.head_dim)
    return "llama-8b heads", LLAMA_8B


@dataclass(frozen=True)
class Paged:
    """Caches of blocks in random order: `blocks` (2, number, tokens, KV heads, size), and which blocks each cache has:
    `tables`, one (batch, blocks) a cache. Together they outgrow the L2, as a server's cache does."""

    torch: Any
    queries: Any  # (batch, heads, size)
    blocks: Any
    tables: Any

    @property
    def bytes_read(self) -> int:
        """Of one cache: keys and values of all its tokens."""
        return self.blocks.numel() * self.blocks.element_size() // len(self.tables)

    def keys_values(self, table: Any) -> tuple[Any, Any]:
        """Contiguous (batch, tokens, KV heads, size) of both: the gather that small blocks make expensive."""
        batch = self.queries.shape[0]
        keys, values = (part[table].reshape(batch, -1, *part.shape[2:]) for part in self.blocks)
        return keys, values


class _Unified:
    """Bytes that GPU and host share, from the CUDA driver, as torch takes them over; they go with the last tensor."""

    def __init__(self, size: int) -> None:
        self._place = ctypes.c_uint64()
        self._driver = ctypes.CDLL("libcuda.so.1")
        wrong = self._driver.cuMemAllocManaged(ctypes.byref(self._place), ctypes.c_size_t(size), 1)
        if wrong:
            raise Skip(f"no unified memory: the CUDA driver's cuMemAllocManaged says {wrong}")
        whole = {"shape": (size,), "typestr": "|u1", "data": (self._place.value, False), "version": 2}
        self.__cuda_array_interface__ = whole

    def __del__(self) -> None:
        if self._place.value:
            self._driver.cuMemFree_v2(self._place)


def _unified(torch: Any, blocks: Any) -> Any:
    """A copy of `blocks` in unified memory, written by the GPU, so that it lies there when the clock starts."""
    flat = torch.as_tensor(_Unified(blocks.numel() * blocks.element_size()), device="cuda")
    return flat.view(blocks.dtype).reshape(blocks.shape).copy_(blocks)


def _paged(engine: TorchBackend, heads: Heads, batch: int, tokens: int, block: int, unified: bool = False) -> Paged:
    torch, kind, device = engine.torch, engine.dtype(DTYPE), engine.device
    if tokens % block:
        raise Skip(f"{tokens} tokens are no whole number of blocks of {block}")
    query_heads, kv_heads, size = heads
    per_cache = batch * tokens // block
    one = 2 * batch * tokens * kv_heads * size * 2
    free = engine.free_bytes()
    if 4 * one > free / 2:
        raise Skip(f"the cache needs {4 * one / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free")
    sets = max(1, min(sets_needed(one, engine.cache, MOST_SETS), int(free / 8 / one)))
    blocks = torch.randn((2, sets * per_cache, block, kv_heads, size), device=device).to(kind)
    if unified:
        blocks = _unified(torch, blocks)
    order = torch.randperm(sets * per_cache, device=device).to(torch.int32).reshape(sets, batch, -1)
    queries = torch.randn((batch, query_heads, size), device=device).to(kind)
    return Paged(torch, queries, blocks, [order[index] for index in range(sets)])


def reference(paged: Paged) -> Any:
    """softmax(q k / sqrt(size)) v of the first cache in float64, block by block, of its first CHECKED sequences."""
    torch = paged.torch
    batch, heads, size = paged.queries.shape
    group = heads // paged.blocks.shape[3]
    batch, blocks = min(batch, CHECKED), paged.blocks.cpu()
    table = paged.tables[0].tolist()
    result = torch.empty((batch, heads, size), dtype=torch.float64)
    for index in range(batch):
        keys, values = torch.cat([blocks[:, number] for number in table[index]], dim=1).double()
        query = paged.queries[index].double().cpu()
        for head in range(heads):
            scores = torch.softmax(keys[:, head // group] @ query[head] / size**0.5, dim=0)
            result[index, head] = scores @ values[:, head // group]
    return result


def _check(result: Any, expected: Any) -> float:
    error = ((result[: len(expected)].double().cpu() - expected).abs().max() / expected.abs().max()).item()
    if not error <= TOLERANCE:  # also true for NaN
        raise Wrong(f"off by {error:.3g} of the largest value, allowed are {TOLERANCE:g} (float64 reference)")
    return error


def _decode(
    engine: TorchBackend, context: Context, kernel: str, heads: Heads, batch: int, tokens: int, block: int, which: str
) -> list[Measured | Skipped]:
    paged = _paged(engine, heads, batch, tokens, block, which == UNIFIED)
    makers = {"torch": _torch, "flashinfer": _flashinfer}
    if which == CONTIGUOUS:
        attend = _contiguous(paged, _version(kernel))
    else:
        attend = makers.get(kernel, partial(_vllm, version=_version(kernel)))(paged)
    with engine.torch.inference_mode():
        error = _check(attend(0), reference(paged))
    sets = len(paged.tables)
    seconds, timing = engine.time(lambda i: attend(i % sets), context.effort)
    detail = {"error": error, "caches": sets, **timing}
    cached = engine.device == "cuda" and sets * paged.bytes_read < 2 * engine.cache
    return [
        Measured.microseconds(seconds, detail, True),
        Skipped("bandwidth_gb_s", f"{sets} caches of {paged.bytes_read} bytes lie within twice the L2")
        if cached
        else Measured("bandwidth_gb_s", per_second(paged.bytes_read, seconds, 1e9), detail, True),
    ]


def _version(kernel: str) -> int | None:
    """3 of `vllm fa3`; None for kernels of others."""
    return int(kernel.rpartition("fa")[2]) if kernel.startswith("vllm fa") else None


def _torch(paged: Paged) -> Attend:
    attend = paged.torch.nn.functional.scaled_dot_product_attention

    def once(i: int) -> Any:
        keys, values = paged.keys_values(paged.tables[i])
        queries = paged.queries.unsqueeze(2)
        return attend(queries, keys.transpose(1, 2), values.transpose(1, 2), enable_gqa=True).squeeze(2)

    return once


def _contiguous(paged: Paged, version: int | None) -> Attend:
    """Caches of one block a sequence, read as they lie, without a page table; by torch where there is no version."""
    torch, batch = paged.torch, paged.queries.shape[0]
    tokens = paged.blocks.shape[2]
    caches = [paged.blocks[:, table.flatten()] for table in paged.tables]  # each a copy in one piece

    if version is None:
        queries, attend = paged.queries.unsqueeze(2), torch.nn.functional.scaled_dot_product_attention

        def once(i: int) -> Any:
            keys, values = caches[i].transpose(2, 3)
            return attend(queries, keys, values, enable_gqa=True).squeeze(2)

        return once
    attend = importlib.import_module("vllm.vllm_flash_attn").flash_attn_varlen_func
    ones = torch.arange(batch + 1, dtype=torch.int32, device="cuda")
    return lambda i: attend(
        q=paged.queries,
        k=caches[i][0].reshape(batch * tokens, *caches[i].shape[3:]),
        v=caches[i][1].reshape(batch * tokens, *caches[i].shape[3:]),
        max_seqlen_q=1,
        cu_seqlens_q=ones,
        max_seqlen_k=tokens,
        cu_seqlens_k=ones * tokens,
        causal=True,
        fa_version=version,
    )


def _flashinfer(paged: Paged) -> Attend:
    """FlashInfer's batch decode over its NHD paged layout; a plan for each cache, made before the clock runs."""
    torch, flashinfer = paged.torch, importlib.import_module("flashinfer")
    batch, per_sequence = paged.tables[0].shape
    block, kv_heads, size = paged.blocks.shape[2:]
    bounds = torch.arange(0, (batch + 1) * per_sequence, per_sequence, dtype=torch.int32, device="cuda")
    last = torch.full((batch,), block, dtype=torch.int32, device="cuda")
    kind, heads = paged.queries.dtype, paged.queries.shape[1]
    work = torch.empty(128 << 20, dtype=torch.uint8, device="cuda")  # shared: the calls run one after the other
    planned = []
    for table in paged.tables:
        plan = flashinfer.BatchDecodeWithPagedKVCacheWrapper(work, "NHD")
        plan.plan(bounds, table.flatten(), last, heads, kv_heads, size, block, q_data_type=kind, kv_data_type=kind)
        planned.append(plan)
    cache = (paged.blocks[0], paged.blocks[1])
    return lambda i: planned[i].run(paged.queries, cache)


def _vllm(paged: Paged, version: int | None) -> Attend:
    """vLLM's build of flash attention, which reads its paged cache itself."""
    torch, block = paged.torch, paged.blocks.shape[2]
    if block % 16:
        raise Skip(f"vLLM's flash attention takes blocks of a multiple of 16 tokens, not {block}")
    attend = importlib.import_module("vllm.vllm_flash_attn").flash_attn_varlen_func
    batch, per_sequence = paged.tables[0].shape
    tokens = per_sequence * block
    starts = torch.arange(batch + 1, dtype=torch.int32, device="cuda")
    used = torch.full((batch,), tokens, dtype=torch.int32, device="cuda")
    return lambda i: attend(
        q=paged.queries,
        k=paged.blocks[0],
        v=paged.blocks[1],
        max_seqlen_q=1,
        cu_seqlens_q=starts,
        max_seqlen_k=tokens,
        seqused_k=used,
        causal=True,
        block_table=paged.tables[i],
        fa_version=version,
    )


def _prefill(engine: TorchBackend, context: Context, kernel: str, heads: Heads, tokens: int) -> list[Measured]:
    """Causal attention of one whole prompt; the first head of the first rows is checked."""
    torch, kind = engine.torch, engine.dtype(DTYPE)
    query_heads, kv_heads, size = heads
    make = lambda count: torch.randn((tokens, count, size), device=engine.device).to(kind)  # noqa: E731
    queries, keys, values = make(query_heads), make(kv_heads), make(kv_heads)
    once = _prompt(torch, kernel, queries, keys, values)
    with torch.inference_mode():
        result = once(0)
    rows = min(tokens, 64)
    scores = (queries[:rows, 0].double() @ keys[:rows, 0].double().T / size**0.5).cpu()
    mask = torch.full((rows, rows), float("-inf"), dtype=torch.float64).triu(1)
    expected = torch.softmax(scores + mask, dim=-1) @ values[:rows, 0].double().cpu()
    error = _check(result[:rows, 0], expected)
    seconds, timing = engine.time(once, context.effort)
    operations = 4.0 * query_heads * size * tokens * (tokens + 1) / 2
    detail = {"error": error, **timing}
    return [
        Measured.microseconds(seconds, detail, True),
        Measured("tflops", per_second(operations, seconds, 1e12), detail, True),
    ]


def _prompt(torch: Any, kernel: str, queries: Any, keys: Any, values: Any) -> Attend:
    """Causal attention by `kernel`; all are (tokens, heads, size), and so is the result."""
    if kernel == "flashinfer":
        attend = importlib.import_module("flashinfer").single_prefill_with_kv_cache
        return lambda _: attend(queries, keys, values, causal=True)
    tokens = queries.shape[0]
    version = _version(kernel)
    if version is not None:
        varlen = importlib.import_module("vllm.vllm_flash_attn").flash_attn_varlen_func
        bounds = torch.arange(0, 2 * tokens, tokens, dtype=torch.int32, device="cuda")
        return lambda _: varlen(
            q=queries,
            k=keys,
            v=values,
            max_seqlen_q=tokens,
            cu_seqlens_q=bounds,
            max_seqlen_k=tokens,
            cu_seqlens_k=bounds,
            causal=True,
            fa_version=version,
        )
    q, k, v = (part.transpose(0, 1).unsqueeze(0).contiguous() for part in (queries, keys, values))
    sdpa = torch.nn.functional.scaled_dot_product_attention
    return lambda _: sdpa(q, k, v, is_causal=True, enable_gqa=True)[0].transpose(0, 1)
