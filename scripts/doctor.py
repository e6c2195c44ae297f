#!/usr/bin/env python3
"""Check a site before any GPU hour is spent: a short job for each platform of a study, and a table of what to mend."""

import argparse
from pathlib import Path

from servegauge.base.errors import door
from servegauge.cli.doctor import doctor
from servegauge.submit.monitor import MODES


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", type=Path, help="folder of a Snakemake profile, such as profiles/hlrs")
    parser.add_argument("--study", help="name of a file in config/studies/; default: as config/config.yaml says")
    parser.add_argument("--submit", choices=MODES, help="how jobs reach their node; default: as the profile says")
    given = parser.parse_args()
    return doctor(given.profile, given.study, given.submit)


if __name__ == "__main__":
    door(main)
