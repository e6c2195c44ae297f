"""Fixtures that several unit tests share."""

from __future__ import annotations

import pytest

from tests.unit.study_tree import tree  # noqa: F401


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures take seconds; tests of what else is on a page do without."""
    from servegauge.report import page

    monkeypatch.setattr(page, "draw", lambda *_: {})
