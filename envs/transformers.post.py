"""Run by the new environment's interpreter after its lock was installed: PyTorch."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "extra"))

import torch_cpu

torch_cpu.install()
