"""Prompt sets and arrival processes, frozen: the same bytes on every platform."""
