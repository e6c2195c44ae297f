"""Fixtures that several unit tests share."""

from tests.unit.study_tree import tree  # noqa: F401
