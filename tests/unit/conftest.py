"""Fixtures that several unit tests share."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.unit.study_tree import tree  # noqa: F401


@pytest.fixture
def only_figures(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Draw just the figures whose names begin so, in the reports of a test: all of them take seconds."""
    from servegauge.report import page
    from servegauge.report.figures import figures

    def only(*beginnings: str) -> None:
        wanted = {name: figure for name, figure in figures().items() if name.startswith(beginnings)}
        assert bool(wanted) == bool(beginnings)
        monkeypatch.setattr(page, "figures", lambda: wanted)

    return only


@pytest.fixture
def no_figures(only_figures: Callable[..., None]) -> None:
    """None of them: for tests of words."""
    only_figures()
