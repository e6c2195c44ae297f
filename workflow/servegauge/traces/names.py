"""What the names of kernels and API calls say: kinds, by patterns that hold over libraries and vendors."""

from __future__ import annotations

import re

_COLLECTIVE = re.compile(
    r"nccl|rccl|cross_device_reduce|(?:one|two)_?shot_?all_?reduce|all_?reduce_(?:fusion|kernel)|multimem_|nvshmem"
    r"|deep_ep|quick_?all_?reduce|allreduce_kernel|ncclx",
    re.IGNORECASE,
)
_COLLECTIVE_KINDS = (
    ("all_reduce", r"all_?reduce|cross_device_reduce|one_?shot|two_?shot"),
    ("all_gather", r"all_?gather"),
    ("reduce_scatter", r"reduce_?scatter"),
    ("broadcast", r"broadcast"),
    ("all_to_all", r"all_?to_?all|alltoall|deep_ep|dispatch|combine"),
    ("send_recv", r"send|recv"),
    ("reduce", r"reduce"),
)
_KINDS = (
    ("copy", r"^memcpy|^memset|direct_copy_kernel|copy_kernel|CatArrayBatchedCopy|copyBlock|memcpy_kernel"),
    ("moe", r"(?<![a-z])moe|topk_?gating|fused_?experts|grouped_?topk|expert"),
    (
        "attention",
        r"flash|fmha|attention|attn|mla_|_mla|paged_?kv|reshape_and_cache|store_?cache|kv_?cache|"
        r"BatchDecode|BatchPrefill|splitkv|unified_attention|concat_and_cache",
    ),
    ("rope", r"rotary|rope"),
    ("norm", r"rms_?norm|layer_?norm|add_?norm|rsqrt|group_?norm"),
    ("sampling", r"sampl|top_?k|top_?p|argmax|argmin|softmax|multinomial|exponential|penalt|logits|gumbel|sort"),
    (
        "gemm",
        r"gemm|gemv|nvjet|matmul|cublas|cijk_|xmma|splitk|_mm_|_mm\b|marlin|scaled_mm|"
        r"wvsplit|machete|w8a8|hgemm|sgemm|triton_mm",
    ),
)
_KIND_PATTERNS = [(kind, re.compile(pattern, re.IGNORECASE)) for kind, pattern in _KINDS]
_COLLECTIVE_PATTERNS = [(kind, re.compile(pattern, re.IGNORECASE)) for kind, pattern in _COLLECTIVE_KINDS]

_LAUNCH = re.compile(r"Launch(?!HostFunc)", re.IGNORECASE)
_GRAPH_LAUNCH = re.compile(r"GraphLaunch", re.IGNORECASE)
_STARTS = re.compile(r"Launch(?!HostFunc)|Memcpy|Memset", re.IGNORECASE)
_WAITS = re.compile(r"Synchronize", re.IGNORECASE)

_BYTES = {"float64": 8, "double": 8, "int64": 8, "long": 8, "float32": 4, "float": 4, "int32": 4, "int": 4}
_BYTES |= {"bfloat16": 2, "half": 2, "float16": 2, "int16": 2, "short": 2, "int8": 1, "uint8": 1, "byte": 1, "char": 1}
_BYTES |= {"bool": 1, "float8_e4m3fn": 1, "float8_e5m2": 1, "float8_e4m3fnuz": 1, "float8_e5m2fnuz": 1}


def is_collective(kernel: str) -> bool:
    """Whether a kernel moves data between devices for a collective."""
    return bool(_COLLECTIVE.search(kernel))


def collective_kind(kernel: str) -> str:
    """all_reduce, all_gather, ... of a collective's kernel; `other` where its name does not tell."""
    return next((kind for kind, pattern in _COLLECTIVE_PATTERNS if pattern.search(kernel)), "other")


def kernel_kind(kernel: str) -> str:
    """gemm | attention | norm | rope | sampling | moe | collective | copy | other.

    The function's own name decides; its template arguments, which name other kernels' parts, only where it says
    nothing.
    """
    if is_collective(kernel):
        return "collective"
    for text in (function_name(kernel), kernel):
        for kind, pattern in _KIND_PATTERNS:
            if pattern.search(text):
                return kind
    return "gemm" if "cutlass" in kernel else "other"


def function_name(kernel: str) -> str:
    """The function of a demangled name: without its return type, its template arguments and its parameters."""
    depth, kept = 0, []
    for character in kernel.replace("(anonymous namespace)", "anonymous"):
        if character == "<":
            depth += 1
        elif character == ">":
            depth = max(0, depth - 1)
        elif character == "(" and not depth:
            break
        elif not depth:
            kept.append(character)
    return "".join(kept).split(" ")[-1] or kernel


def is_launch(call: str) -> bool:
    """Whether an API call launches kernels: CUDA's and HIP's, runtime's and driver's, graphs included."""
    return bool(_LAUNCH.search(call))


def is_graph_launch(call: str) -> bool:
    """Whether an API call launches a whole graph."""
    return bool(_GRAPH_LAUNCH.search(call))


def starts_work(call: str) -> bool:
    """Whether an API call starts a GPU operation of any kind."""
    return bool(_STARTS.search(call))


def waits(call: str) -> bool:
    """Whether the host waits for the GPU in this call."""
    return bool(_WAITS.search(call))


def plain_call(call: str) -> str:
    """The call without the version that nsys appends: `cudaLaunchKernel_v7000` is `cudaLaunchKernel`."""
    return re.sub(r"_v\d{4,}$", "", call)


def element_bytes(dtype: str) -> int | None:
    """Bytes of an element of a torch data type, by its name; None where unknown."""
    return _BYTES.get(str(dtype).strip().lower().removeprefix("torch."))
