#!/usr/bin/env python3
"""Write a study's report: one self-contained page, figures as SVG, its comparison as CSV (`servegauge report`)."""

from servegauge.cli import report
from servegauge.cli.main import script

if __name__ == "__main__":
    script(report)
