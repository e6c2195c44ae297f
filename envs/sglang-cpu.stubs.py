"""Names that SGLang imports from GPU packages, for a machine that has none of them. Nothing here computes anything.

The limits of a server that runs with these stubs:

- Not real: every GPU kernel of `triton` and `sgl_kernel` (SGLang's own torch-native code computes instead, with
  PyTorch's attention and sampling), CUDA graphs, FlashInfer and FlashAttention, NCCL, weights in fp8, awq or gptq,
  images (`torchvision`), speculative decoding. Its timings say nothing about SGLang on a GPU.
- Real: the argument parser and configuration file, the HTTP server and its API key, the tokenizer, scheduler and
  detokenizer processes, continuous batching, overlap scheduling, chunked prefill, the radix cache and its flush,
  retraction, metrics, /server_info, the torch profiler.
- A call that would have to compute raises NotImplementedError: a Triton launch (`kernel[grid]`), and any call that is
  given a tensor. So whatever a server answers was computed by code that is really there.

sglang-cpu.post.py copies this file into the environment, beside a `.pth` file that imports it, so that it acts in every
process, also in those that SGLang spawns. A package that is really installed wins, because the finder is asked last.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
import types

STUBBED = ("triton", "sgl_kernel", "torchvision")
# To ask for it must fail: that is how SGLang learns that Triton has no device.
ABSENT = ("triton.runtime.driver",)


class Stub(type):
    """A class that stands for any name: a type, a base class, a decorator, a constant. It refuses to compute."""

    def __getattr__(cls, name: str) -> Stub:
        return make(cls.__module__, f"{cls.__name__}.{name}")

    def __call__(cls, *args: object, **kwargs: object) -> Stub:
        if any(hasattr(type(one), "data_ptr") for one in (*args, *kwargs.values())):  # a tensor
            refuse(cls)
        return cls

    def __getitem__(cls, grid: object) -> Stub:
        refuse(cls)


def refuse(stub: Stub) -> None:
    raise NotImplementedError(f"{stub.__module__}.{stub.__name__} is a stub: there is no GPU package here")


def make(module: str, name: str) -> Stub:
    """The stub for `name` in `module`; AttributeError for Python's own names and for what must be absent."""
    if name.rpartition(".")[2].startswith("__") or f"{module}.{name}" in ABSENT:
        raise AttributeError(name)
    return Stub(name, (), {"__module__": module})


class StubModule(types.ModuleType):
    """A module that has every name."""

    __version__ = "0"

    def __getattr__(self, name: str) -> Stub:
        return make(self.__name__, name)


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds the modules of the packages in STUBBED, whatever they are called."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> importlib.machinery.ModuleSpec | None:
        if name.partition(".")[0] in STUBBED:
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return StubModule(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        pass


sys.meta_path.append(Finder())
