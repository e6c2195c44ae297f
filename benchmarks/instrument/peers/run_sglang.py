"""`python run_sglang.py ARGUMENTS`: sglang.bench_serving, where torchvision and the kernels are not installed.

The load generator needs neither, but its package imports both on the way; they are replaced by empty modules.
"""

import importlib.abc
import importlib.machinery
import runpy
import sys
import types
from typing import ClassVar

ABSENT = ("gguf", "torchvision", "triton", "sgl_kernel", "decord", "flashinfer")


class Permissive(type):
    def __getattr__(cls, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        return Anything


class Anything(metaclass=Permissive):
    """A type, a decorator, a function: whatever an import asks for."""

    def __init__(self, *arguments: object, **named: object) -> None:
        pass

    def __call__(self, *arguments: object, **named: object) -> object:
        return Anything()

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        return Anything()

    def __getitem__(self, key: object) -> object:
        return Anything()


class Empty(types.ModuleType):
    """A module in which every name exists and does nothing."""

    __path__: ClassVar[list[str]] = []
    __version__ = "3.0.0"

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        return Anything


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ABSENT:
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec):
        return Empty(spec.name)

    def exec_module(self, module):
        pass


from transformers import AutoProcessor, AutoTokenizer  # noqa: E402, F401

sys.meta_path.append(Finder())
runpy.run_module("sglang.bench_serving", run_name="__main__", alter_sys=True)
