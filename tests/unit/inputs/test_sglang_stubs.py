"""The names that stand for GPU packages in SGLang's environment for CPUs: there, harmless, and unable to compute."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest

from tests.conftest import ROOT

STUBS = ROOT / "envs" / "sglang-cpu.stubs.py"
TRY = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("sglang_cpu_stubs", sys.argv[1])
spec.loader.exec_module(importlib.util.module_from_spec(spec))
class Tensor:
    def data_ptr(self): ...
tensor = Tensor()
exec(sys.argv[2])
"""


def tried(code: str) -> str:
    """What `code` prints where the stubs are loaded, or the last line of its traceback."""
    done = subprocess.run([sys.executable, "-I", "-c", TRY, str(STUBS), code], capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else done.stderr.strip().splitlines()[-1]


@pytest.mark.parametrize(
    "code",
    [
        "import triton.language as tl; print(isinstance(tl.constexpr, type))",
        "from triton.runtime.jit import KernelInterface; print(issubclass(type('K', (KernelInterface,), {}), object))",
        "import triton; print(callable(triton.jit(lambda: 1)))",
        "import triton; print(callable(triton.autotune(configs=[triton.Config({}, num_warps=4)], key=['n'])))",
        "from sgl_kernel.elementwise import rmsnorm; print(True)",
        "from torchvision.transforms import InterpolationMode; print(bool(InterpolationMode.BICUBIC))",
    ],
)
def test_what_sglang_imports_is_there(code: str) -> None:
    assert tried(code) == "True"


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("from sgl_kernel import rmsnorm; rmsnorm(tensor, 1e-6)", "sgl_kernel.rmsnorm"),
        ("import sgl_kernel; sgl_kernel.silu_and_mul(out=tensor)", "sgl_kernel.silu_and_mul"),
        ("import triton; triton.jit(print)[(1,)](tensor)", "triton.jit"),
        ("import triton.language as tl; tl.dot(tensor, tensor)", "triton.language.dot"),
    ],
)
def test_nothing_computes(code: str, name: str) -> None:
    said = tried(code)
    assert said.startswith("NotImplementedError")
    assert f"{name} is a stub" in said


def test_a_device_of_triton_is_not_found_and_other_packages_are_left_alone() -> None:
    assert tried("import triton; triton.runtime.driver").startswith("AttributeError")
    assert tried("import torchvision_of_somebody").startswith("ModuleNotFoundError")
    assert tried("import triton; triton.__path_that_no_module_has__").startswith("AttributeError")


def test_its_first_lines_say_what_is_not_real() -> None:
    said = ast.get_docstring(ast.parse(STUBS.read_text(encoding="utf-8"))) or ""
    assert "Nothing here computes anything" in said.splitlines()[0]
    stubbed = next(line for line in STUBS.read_text(encoding="utf-8").splitlines() if line.startswith("STUBBED"))
    for package in ast.literal_eval(stubbed.partition("=")[2].strip()):
        assert f"`{package}`" in said
