"""scripts/measure_launch.py and scripts/measure_cell.py with a pretended launch: the first argument chooses."""

import runpy
import sys
from pathlib import Path

from servegauge.cli import measure

measure.RUN = "tests.pretend.pretend_launch:measure"
script = Path(__file__).parents[2] / "scripts" / f"measure_{sys.argv.pop(1)}.py"
sys.argv[0] = str(script)
runpy.run_path(str(script), run_name="__main__")
