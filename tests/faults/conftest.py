"""Sites on the local submitter."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "pretend"))


@pytest.fixture
def site(tmp_path):
    """A working directory with an empty results folder; whatever a test leaves running fails it."""
    from pretend_site import Site, wait_for

    site = Site(tmp_path)
    yield site
    wait_for(lambda: not site.processes(), 10, f"processes to end: {site.processes()}")
