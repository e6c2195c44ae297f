"""Real servers and real parsers: environments that are built once, and skips that become failures when required."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from servegauge.base.errors import UserError
from servegauge.inputs.environments import build_environment, environment_path, environment_ready

ROOT = Path(__file__).parents[2]
REQUIRED = os.environ.get("SERVEGAUGE_REQUIRE_FRAMEWORKS") == "1"


def environment(name: str) -> str:
    """Interpreter of the environment `name`; a skip where it is not built, unless frameworks are required."""
    if not REQUIRED and not environment_ready(name, ROOT):
        pytest.skip(f"the environment {name} is not built: make test-frameworks")
    try:
        return str(build_environment(name, ROOT, say=print))
    except UserError as error:
        pytest.fail(str(error))


def packages(name: str) -> str:
    """The site-packages folder of the environment `name`."""
    environment(name)
    return str(next(environment_path(name, ROOT).glob("lib/python3*/site-packages")))
