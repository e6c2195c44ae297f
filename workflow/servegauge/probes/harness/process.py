"""The processes that probes run in: their environment, and how long they may take."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from servegauge.contract.config_types import Platform

LIMIT_S = {"test": 60.0, "quick": 60.0, "full": 1800.0}  # after which no further case of a probe starts


def child_environment(platform: Platform) -> dict[str, str]:
    """Variables of a process in the environment to measure in, where this package is not installed."""
    package = str(Path(__file__).parents[3])
    paths = os.pathsep.join(filter(None, (package, os.environ.get("PYTHONPATH"))))
    return {**os.environ, **_texts(platform.get("environment")), "PYTHONPATH": paths}


def _texts(variables: Mapping[str, Any] | None) -> dict[str, str]:
    return {str(name): str(value) for name, value in (variables or {}).items()}
