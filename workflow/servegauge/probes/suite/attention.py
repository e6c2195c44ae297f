"""Attention over a paged KV cache: decode by block size, context and batch, and prefill.

Small blocks cost what the gather costs; that is the question where a GPU reads its cache through another memory system.
Kernels: those of the framework whose environment this runs in, where they can be imported (FlashInfer, vLLM's flash
attention), and always torch's SDPA behind a paged gather. Each result is checked against float64 without paging.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from servegauge.inputs.model_shape import UnknownShape, read_shape
from servegauge.probes.harness.base import Case, Context, Measured, Probe, Skip, Wrong, per_second
from servegauge.probes.harness.numeric import TorchBackend, has_torch
from servegauge.probes.harness.phases import DECODE, PREFILL

TOLERANCE = {"bf16": 2e-2, "fp16": 3e-3, "fp32": 2e-5}  # of the largest value; several roundings of the data type
LLAMA_8B = (32, 8, 128)  # query heads, KV heads, head size, where no model is named
Heads = tuple[int, int, int]


class Attention(Probe):
    name = "attention"
    title = "Attention"
    units: ClassVar = {"time_us": "us", "bandwidth_gb_s": "GB/s", "tflops": "TFLOP/s"}
    primary = ("time_us",)
    measures = "paged-attention decode by KV block size, context and batch, and prefill: time and bandwidth or TFLOP/s"
    needs = "torch"

    def unsupported(self, context: Context) -> str | None:
        return None if has_torch() else "torch is not installed in this environment; build the one of envs/probes"

    def explains(self, variant: Mapping[str, Any], cells: Sequence[Mapping[str, Any]]) -> str | None:
        return DECODE if variant.get("operation") == "decode" else PREFILL

    def cases(self, context: Context) -> Iterator[Case]:
        engine = TorchBackend()
        dtype = "bf16"
        name, heads = _heads(context)
        gpu = engine.device == "cuda"
        about = {"model": name, "dtype": dtype, "device": engine.device}
        contexts = context.sizes((64,), (1024,), (1024, 4096))
        for tokens in contexts:
            for batch in context.sizes((2,), (1, 8), (1, 2, 4, 8, 16, 32) if gpu else (1, 8, 32)):
                for block in context.sizes((4, 16), (1, 16), (1, 2, 4, 8, 16, 32)):
                    for kernel in kernels(gpu):
                        which = {**about, "operation": "decode", "backend": kernel, "context_tokens": tokens}
                        which |= {"batch": batch, "block_tokens": block}
                        measure = partial(_decode, engine, context, kernel, heads, dtype, batch, tokens, block)
                        yield Case(which, "time_us", "us", measure)
            which = {**about, "operation": "prefill", "backend": "torch", "context_tokens": tokens, "batch": 1}
            yield Case(which, "time_us", "us", partial(_prefill, engine, context, heads, dtype, tokens))


def kernels(gpu: bool) -> list[str]:
    """Names of the kernels to measure: torch always, FlashInfer and vLLM where this environment has them."""
    found = ["torch"]
    if gpu:
        found += [name for name in ("flashinfer", "vllm") if importlib.util.find_spec(name) is not None]
    return found


def _heads(context: Context) -> tuple[str, Heads]:
    """The first model of the study that can be read, else the heads of an 8-billion Llama."""
    for model in context.models:
        try:
            shape = read_shape(Path(model.get("source") or ""))
        except (OSError, UnknownShape, ValueError):
            continue
        if shape.heads and not shape.latent:  # a latent cache is another layout; its heads would not say what is read
            return str(model["name"]), (shape.heads, shape.kv_heads, shape.head_dim)
    return "llama-8b heads", LLAMA_8B


@dataclass(frozen=True)
class Paged:
    """A cache of blocks in random order: `blocks` (2, number, tokens, KV heads, size), `table` (batch, blocks)."""

    torch: Any
    queries: Any  # (batch, heads, size)
    blocks: Any
    table: Any

    @property
    def keys_values(self) -> tuple[Any, Any]:
        """Contiguous (batch, tokens, KV heads, size) of both: the gather that small blocks make dear."""
        batch = self.queries.shape[0]
        keys, values = (part[self.table].reshape(batch, -1, *part.shape[2:]) for part in self.blocks)
        return keys, values


def _paged(engine: TorchBackend, heads: Heads, dtype: str, batch: int, tokens: int, block: int) -> Paged:
    torch, kind, device = engine.torch, engine.dtype(dtype), engine.device
    if tokens % block:
        raise Skip(f"{tokens} tokens are no whole number of blocks of {block}")
    query_heads, kv_heads, size = heads
    number = batch * tokens // block
    needed = 4 * 2 * number * block * kv_heads * size * 2
    if needed > engine.free_bytes() / 2:
        raise Skip(f"the cache needs {needed / 2**30:.1f} GiB, {engine.free_bytes() / 2**30:.1f} GiB are free")
    blocks = torch.randn((2, number, block, kv_heads, size), device=device).to(kind)
    table = torch.randperm(number, device=device).reshape(batch, -1).to(torch.int32)
    queries = torch.randn((batch, query_heads, size), device=device).to(kind)
    return Paged(torch, queries, blocks, table)


def reference(paged: Paged) -> Any:
    """softmax(q k / sqrt(size)) v in float64, block by block through the table, one sequence at a time."""
    torch = paged.torch
    batch, heads, size = paged.queries.shape
    group = heads // paged.blocks.shape[3]
    result = torch.empty((batch, heads, size), dtype=torch.float64)
    blocks, table = paged.blocks.cpu(), paged.table.tolist()
    for index in range(batch):
        keys, values = torch.cat([blocks[:, number] for number in table[index]], dim=1).double()
        query = paged.queries[index].double().cpu()
        for head in range(heads):
            scores = torch.softmax(keys[:, head // group] @ query[head] / size**0.5, dim=0)
            result[index, head] = scores @ values[:, head // group]
    return result


def _check(result: Any, expected: Any, dtype: str) -> float:
    error = ((result.double().cpu() - expected).abs().max() / expected.abs().max()).item()
    if not error <= TOLERANCE[dtype]:  # also true for NaN
        raise Wrong(f"off by {error:.3g} of the largest value, allowed are {TOLERANCE[dtype]:g} (float64 reference)")
    return error


def _decode(
    engine: TorchBackend,
    context: Context,
    kernel: str,
    heads: Heads,
    dtype: str,
    batch: int,
    tokens: int,
    block: int,
) -> list[Measured]:
    paged = _paged(engine, heads, dtype, batch, tokens, block)
    once = {"torch": _torch, "flashinfer": _flashinfer, "vllm": _vllm}[kernel](paged)
    with engine.torch.inference_mode():
        error = _check(once(), reference(paged), dtype)
    seconds = engine.time(lambda i: once(), context.effort)
    read = paged.blocks.numel() * paged.blocks.element_size()
    return [
        Measured("time_us", "us", [second * 1e6 for second in seconds], {"error": error}, True),
        Measured("bandwidth_gb_s", "GB/s", per_second(read, seconds, 1e9), {"error": error}, True),
    ]


def _torch(paged: Paged) -> Callable[[], Any]:
    attend = paged.torch.nn.functional.scaled_dot_product_attention

    def once() -> Any:
        keys, values = paged.keys_values
        queries = paged.queries.unsqueeze(2)
        return attend(queries, keys.transpose(1, 2), values.transpose(1, 2), enable_gqa=True).squeeze(2)

    return once


def _flashinfer(paged: Paged) -> Callable[[], Any]:
    """FlashInfer's batch decode over its NHD paged layout."""
    torch, flashinfer = paged.torch, importlib.import_module("flashinfer")
    batch, per_sequence = paged.table.shape
    block, kv_heads, size = paged.blocks.shape[2:]
    wrapper = flashinfer.BatchDecodeWithPagedKVCacheWrapper(
        torch.empty(128 << 20, dtype=torch.uint8, device="cuda"), "NHD"
    )
    bounds = torch.arange(0, (batch + 1) * per_sequence, per_sequence, dtype=torch.int32, device="cuda")
    last = torch.full((batch,), block, dtype=torch.int32, device="cuda")
    kind = paged.queries.dtype
    heads = paged.queries.shape[1]
    wrapper.plan(bounds, paged.table.flatten(), last, heads, kv_heads, size, block, q_data_type=kind, kv_data_type=kind)
    cache = (paged.blocks[0], paged.blocks[1])
    return lambda: wrapper.run(paged.queries, cache)


def _vllm(paged: Paged) -> Callable[[], Any]:
    """vLLM's build of flash attention, which reads its paged cache itself."""
    torch, block = paged.torch, paged.blocks.shape[2]
    if block % 16:
        raise Skip(f"vLLM's flash attention takes blocks of a multiple of 16 tokens, not {block}")
    attend = importlib.import_module("vllm.vllm_flash_attn").flash_attn_varlen_func
    batch, per_sequence = paged.table.shape
    tokens = per_sequence * block
    starts = torch.arange(batch + 1, dtype=torch.int32, device="cuda")
    used = torch.full((batch,), tokens, dtype=torch.int32, device="cuda")
    return lambda: attend(
        q=paged.queries,
        k=paged.blocks[0],
        v=paged.blocks[1],
        max_seqlen_q=1,
        cu_seqlens_q=starts,
        max_seqlen_k=tokens,
        seqused_k=used,
        causal=True,
        block_table=paged.table,
    )


def _prefill(engine: TorchBackend, context: Context, heads: Heads, dtype: str, tokens: int) -> list[Measured]:
    """Causal attention of one whole prompt; the first heads of the first rows are checked."""
    torch, kind = engine.torch, engine.dtype(dtype)
    query_heads, kv_heads, size = heads
    make = lambda count: torch.randn((1, count, tokens, size), device=engine.device).to(kind)  # noqa: E731
    queries, keys, values = make(query_heads), make(kv_heads), make(kv_heads)

    def once(_: int = 0) -> Any:
        return torch.nn.functional.scaled_dot_product_attention(queries, keys, values, is_causal=True, enable_gqa=True)

    with torch.inference_mode():
        result = once()
    rows = min(tokens, 64)
    scores = (queries[0, 0, :rows].double() @ keys[0, 0, :rows].double().T / size**0.5).cpu()
    mask = torch.full((rows, rows), float("-inf"), dtype=torch.float64).triu(1)
    expected = torch.softmax(scores + mask, dim=-1) @ values[0, 0, :rows].double().cpu()
    error = _check(result[0, 0, :rows], expected, dtype)
    seconds = engine.time(once, context.effort)
    operations = 4.0 * query_heads * size * tokens * (tokens + 1) / 2
    return [
        Measured("time_us", "us", [second * 1e6 for second in seconds], {"error": error}, True),
        Measured("tflops", "TFLOP/s", per_second(operations, seconds, 1e12), {"error": error}, True),
    ]
