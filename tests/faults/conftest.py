"""Sites on the local submitter."""

from __future__ import annotations

import pytest


@pytest.fixture
def site(tmp_path):
    """A working directory with an empty results folder; whatever a test leaves running fails it."""
    from tests.pretend.pretend_site import Site, wait_for

    site = Site(tmp_path)
    yield site
    wait_for(lambda: not site.processes(), 10, f"processes to end: {site.processes()}")
