"""nsys' own reports, `.nsys-rep`: exported by the `nsys` that is found on the PATH, then read as sqlite."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from servegauge.base.errors import UserError
from servegauge.traces.capture import Capture
from servegauge.traces.readers import read as read_any

KNOWN = "nsys reports (.nsys-rep), where `nsys` is on the PATH"

LIMIT_S = 1800.0


def reads(source) -> bool:
    """Whether it is a report of nsys."""
    return source.format == "nsys-rep"


def read(source) -> Capture:
    """Export the report to a temporary sqlite file and read that."""
    nsys = shutil.which(os.environ.get("SERVEGAUGE_NSYS", "nsys"))
    if nsys is None:
        raise UserError(
            f"{source.name}: a report of nsys, but there is no `nsys` on the PATH to export it; run "
            f"`nsys export --type sqlite {source.name}` where it is, and give the .sqlite file"
        )
    with tempfile.TemporaryDirectory(prefix="servegauge-trace-") as folder:
        target = Path(folder) / "report.sqlite"
        command = [nsys, "export", "--type", "sqlite", "--force-overwrite", "true", "--output", str(target)]
        try:
            done = subprocess.run(
                [*command, str(source.path.absolute())],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=LIMIT_S,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise UserError(f"{source.name}: `nsys export` was ended after {LIMIT_S:.0f} s") from error
        if done.returncode or not target.is_file() or not target.stat().st_size:
            answer = " ".join((done.stderr.strip() or done.stdout.strip()).splitlines()[-3:])[-400:]
            raise UserError(
                f"{source.name}: `nsys export` of {nsys} failed ({done.returncode}): {answer or 'no output'}; the "
                "report is damaged, or from a newer nsys: export it with the nsys that recorded it"
            )
        return read_any(target)
