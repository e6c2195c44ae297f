#!/usr/bin/env python3
"""Measure what a platform can do by itself (`servegauge probe`)."""

from servegauge.cli import probe
from servegauge.cli.main import script

if __name__ == "__main__":
    script(probe)
