"""Do the kernels of the pack run on this GPU? One line each; status 1 where one does not.

Run by venv-sglang/bin/python. Each result is compared with PyTorch's own in float32.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable

import torch

DEVICE, DTYPE = "cuda", torch.bfloat16


def imports() -> None:
    import sgl_kernel
    import sglang
    from sglang.srt.models import qwen3  # noqa: F401

    print(f"sglang {sglang.__version__}, sgl_kernel {sgl_kernel.__version__} from {sgl_kernel.common_ops.__file__}")


def device() -> None:
    print(torch.__version__, torch.cuda.get_device_name(), torch.cuda.get_device_capability())
    assert torch.cuda.get_device_capability() == (9, 0), "the pack has code for compute capability 9.0 alone"


def near(found: torch.Tensor, expected: torch.Tensor, most: float) -> None:
    error = (found.float() - expected.float()).abs().max().item()
    assert error < most, f"largest difference {error:.3g}, allowed {most}"


def rms_norm() -> None:
    """sgl_kernel's common_ops."""
    from sgl_kernel import rmsnorm

    x, weight = torch.randn(64, 4096, device=DEVICE, dtype=DTYPE), torch.randn(4096, device=DEVICE, dtype=DTYPE)
    expected = x.float() * torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + 1e-6) * weight.float()
    near(rmsnorm(x, weight, 1e-6), expected, 0.1)


def silu_and_mul() -> None:
    """Compiled beforehand (kernels.py)."""
    from sglang.srt.layers.activation import silu_and_mul

    x = torch.randn(64, 8192, device=DEVICE, dtype=DTYPE)
    near(silu_and_mul(x), torch.nn.functional.silu(x[:, :4096].float()) * x[:, 4096:].float(), 0.2)


def rope() -> None:
    """Compiled beforehand."""
    from sglang.kernels.ops.attention.rope import apply_rope_inplace

    q, k = (torch.randn(16, heads, 128, device=DEVICE, dtype=DTYPE) for heads in (32, 8))
    angles = torch.rand(64, 64, device=DEVICE)
    cos, sin = angles.cos(), angles.sin()
    first, second = (part.float() for part in q.chunk(2, dim=-1))
    c, s = cos[:16, None], sin[:16, None]
    expected = torch.cat([first * c - second * s, second * c + first * s], dim=-1)
    positions = torch.arange(16, device=DEVICE)
    apply_rope_inplace(q, k, torch.cat([cos, sin], dim=-1), positions, is_neox=True)
    near(q, expected, 0.1)


def store_cache() -> None:
    """Compiled beforehand, for 8 heads of keys of 128."""
    from sglang.kernels.ops.kvcache.kvcache import store_cache as store

    k, v = (torch.randn(16, 1024, device=DEVICE, dtype=DTYPE) for _ in "kv")
    keys, values = (torch.zeros(64, 1024, device=DEVICE, dtype=DTYPE) for _ in "kv")
    store(k, v, keys, values, torch.arange(8, 24, device=DEVICE), row_bytes=2048, v_row_bytes=2048)
    near(keys[8:24], k, 1e-6)
    near(values[8:24], v, 1e-6)


def flash_attention_3() -> None:
    from sgl_kernel.flash_attn import flash_attn_varlen_func

    q, k, v = (torch.randn(64, heads, 128, device=DEVICE, dtype=DTYPE) for heads in (32, 8, 8))
    ends = torch.tensor([0, 64], device=DEVICE, dtype=torch.int32)
    found = flash_attn_varlen_func(
        q, k, v, cu_seqlens_q=ends, cu_seqlens_k=ends, max_seqlen_q=64, max_seqlen_k=64, causal=True
    )
    q, k, v = (x.float().repeat_interleave(32 // x.shape[1], 1).transpose(0, 1) for x in (q, k, v))
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(0, 1)
    near(found[0] if isinstance(found, tuple) else found, expected, 0.05)


def flash_attention_3_paged() -> None:
    """One token of each of four requests over a paged cache, as in a decode step."""
    from sgl_kernel.flash_attn import flash_attn_with_kvcache

    q = torch.randn(4, 1, 32, 128, device=DEVICE, dtype=DTYPE)
    k, v = (torch.randn(512, 1, 8, 128, device=DEVICE, dtype=DTYPE) for _ in "kv")
    table = torch.randperm(512, device=DEVICE, dtype=torch.int32)[:400].reshape(4, 100)
    lengths = torch.tensor([100, 64, 17, 1], device=DEVICE, dtype=torch.int32)
    found = flash_attn_with_kvcache(q, k, v, page_table=table, cache_seqlens=lengths, causal=True)
    for i, length in enumerate(lengths.tolist()):
        keys, values = (x[table[i, :length].long(), 0].float().repeat_interleave(4, 1).transpose(0, 1) for x in (k, v))
        expected = torch.nn.functional.scaled_dot_product_attention(q[i].float().transpose(0, 1), keys, values)
        near(found[i].transpose(0, 1), expected, 0.05)


CHECKS: list[Callable[[], None]] = [
    device, imports, rms_norm, silu_and_mul, rope, store_cache, flash_attention_3, flash_attention_3_paged
]  # fmt: skip


def main() -> int:
    failed = []
    for check in CHECKS:
        try:
            check()
            torch.cuda.synchronize()
            print(f"ok   {check.__name__}", flush=True)
        except Exception as error:
            failed.append(check.__name__)
            print(f"FAIL {check.__name__}: {type(error).__name__}: {str(error)[:400]}", flush=True)
            traceback.print_exc(limit=3)
    print(f"{len(CHECKS) - len(failed)} of {len(CHECKS)} run" + (f"; not: {', '.join(failed)}" if failed else ""))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
