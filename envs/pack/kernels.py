#!/usr/bin/env python3
"""Compile, without a GPU, the kernels that SGLang 0.5.17 compiles when it starts: python kernels.py SITE FOLDER.

For a dense model in bfloat16 with heads of 128 on compute capability 9.0: a node may have no compiler. SITE: the
packages of sglang.tar.xz. Run by a Python 3.12 with PyTorch 2.11 for CUDA 13 and nvidia-cuda-nvcc, nvidia-nvvm,
nvidia-cuda-crt and nvidia-cuda-cccl of CUDA 13.0, with CUDA_HOME at their folder. SGLang finds a kernel by its source,
its arguments and the architecture, so what is not here it compiles, where it can.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("site", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kv-heads", type=int, nargs="+", default=[8], help="heads of keys and values (%(default)s)")
    arguments = parser.parse_args()
    sys.path.insert(0, str(arguments.site.resolve()))
    os.environ["TVM_FFI_CACHE_DIR"] = str(arguments.folder.resolve())
    import torch

    # The kernels' builder asks PyTorch for the GPU; everything else that asks is told the truth, that there is none.
    torch.cuda.current_device = lambda: 0
    torch.cuda.get_device_capability = lambda *_: (9, 0)
    from sglang.kernels.ops.activation.activation import activation_module
    from sglang.kernels.ops.attention.clamp_position import _jit_clamp_position_module
    from sglang.kernels.ops.attention.rope import _jit_fused_rope_module
    from sglang.kernels.ops.kvcache.kvcache import _jit_kvcache_module
    from sglang.kernels.ops.layernorm.norm import _jit_fused_add_rmsnorm_module, _jit_qknorm_module

    dtype, head = torch.bfloat16, 128
    activation_module(dtype)
    _jit_fused_rope_module(True, head, dtype, dtype)
    _jit_qknorm_module(head, dtype)
    for cast in (False, True):
        _jit_fused_add_rmsnorm_module(dtype, cast)
    for integer in (torch.int32, torch.int64):
        _jit_clamp_position_module(integer)
    for heads in arguments.kv_heads:
        row = heads * head * dtype.itemsize
        _jit_kvcache_module(row, row)
    for path in sorted(arguments.folder.glob("*/*.so")):
        print(path, path.stat().st_size)
    return 0


if __name__ == "__main__":
    sys.exit(main())
