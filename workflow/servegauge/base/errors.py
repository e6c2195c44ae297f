"""Errors that a person can act on, and the one place that prints them."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Iterable

from servegauge.base.text import visible


class UserError(Exception):
    """Something the user can correct. Its text says where, what was found, what is allowed and what to do next."""


def did_you_mean(found: object, allowed: Iterable[object]) -> str:
    """` Did you mean 'x'?` for the allowed name nearest to `found`, or nothing."""
    names = [str(name) for name in allowed]
    near = difflib.get_close_matches(str(found), names, 1) or [name for name in names if name.startswith(f"{found}_")]
    return f" Did you mean {near[0]!r}?" if near else ""


def run_and_exit(main: Callable[[], int | None]) -> None:
    """Run a script's `main` and leave: UserError becomes one message and exit status 2, Ctrl-C becomes 130."""
    try:
        sys.exit(main() or 0)
    except UserError as error:
        print(f"error: {visible(str(error))}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
