"""Kinds of plots that the figures of the report are drawn with."""
