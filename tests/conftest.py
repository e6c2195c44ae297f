"""Fixtures that several folders of tests share. What is slow to make is made once and kept in the cache."""

from __future__ import annotations

from pathlib import Path

import pytest

from servegauge.environments import build_environment
from servegauge.models import build_model

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def repository() -> Path:
    """The repository's root, absolute."""
    return ROOT


@pytest.fixture(scope="session")
def tiny_model() -> Path:
    """Folder of the random-weight model; the same weights as GGUF lie beside it as `random-llama-tiny.gguf`."""
    return build_model("tiny", ROOT)


@pytest.fixture(scope="session")
def llamacpp_python() -> str:
    """Interpreter of the environment that has llama.cpp's server."""
    return str(build_environment("llamacpp", ROOT))
