"""Run by the new environment's interpreter after its lock was installed: PyTorch, and the stubs for GPU packages."""

import shutil
import sys
import sysconfig
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "extra"))

import torch_cpu

packages = Path(sysconfig.get_path("purelib"))
shutil.copyfile(Path(__file__).with_name("sglang-cpu.stubs.py"), packages / "sglang_cpu_stubs.py")
# Python runs a .pth file's `import` lines at every start of the environment's interpreter.
(packages / "sglang_cpu_stubs.pth").write_text("import sglang_cpu_stubs\n", encoding="utf-8")
torch_cpu.install()
