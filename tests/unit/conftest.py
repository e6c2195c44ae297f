"""Fixtures that several unit tests share."""

from study_tree import tree  # noqa: F401
