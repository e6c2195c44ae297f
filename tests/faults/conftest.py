"""Sites on the local submitter, and clones of the repository; whatever a test leaves running fails it."""

from __future__ import annotations

import pytest


@pytest.fixture
def site(tmp_path):
    """A working directory with an empty results folder."""
    from tests.pretend.pretend_site import Site, wait_for

    site = Site(tmp_path)
    yield site
    wait_for(lambda: not site.processes(), 10, f"processes to end: {site.processes()}")


@pytest.fixture(scope="module")
def calibrations(tmp_path_factory):
    """The node's calibration, measured once for all tests of a file."""
    return tmp_path_factory.mktemp("calibrations")


@pytest.fixture
def clone(tmp_path, calibrations):
    """A clone of the repository with a study on the paced server."""
    from tests.pretend.clone import Clone
    from tests.pretend.pretend_site import wait_for

    clone = Clone(tmp_path / "clone", calibrations)
    yield clone
    wait_for(lambda: not clone.processes(), 20, f"processes to end: {clone.processes()}")
