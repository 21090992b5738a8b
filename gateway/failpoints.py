"""Named places where a test may stop the program: `RINGBACK_FAILPOINT=name:n:kill|raise|sleep`, several with commas.

The n-th time the place is reached the process kills itself, raises, or sleeps 3 s. Refused unless RINGBACK_TESTING=1;
without the variable a place costs one look into an empty dictionary. `seen` counts for the drill that enumerates them.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

from gateway.values import Temporary

_lock = threading.Lock()


class FailPoint(Temporary):
    """Raised by a fail point that was told to raise."""


def _parse(text: str) -> dict[str, tuple[int, str]]:
    if not text:
        return {}
    if os.environ.get("RINGBACK_TESTING") != "1":
        raise SystemExit("RINGBACK_FAILPOINT is for tests: it needs RINGBACK_TESTING=1")
    armed = {}
    for item in text.split(","):
        name, number, what = item.split(":")
        if what not in ("kill", "raise", "sleep"):
            raise SystemExit(f"RINGBACK_FAILPOINT: {what} is none of kill, raise, sleep")
        armed[name] = (int(number), what)
    return armed


_armed = _parse(os.environ.get("RINGBACK_FAILPOINT", ""))
_once = os.environ.get("RINGBACK_FAILPOINT_ONCE", "")  # a file: once it exists the points are spent
_reached: dict[str, int] = {}


def fail_point(name: str) -> None:
    """The place called `name` is reached."""
    if name not in _armed:
        return
    with _lock:
        _reached[name] = _reached.get(name, 0) + 1
        number, what = _armed[name]
        due = _reached[name] == number and not (_once and Path(_once).exists())
        if due and _once:
            os.close(os.open(_once, os.O_CREAT | os.O_WRONLY, 0o600))
    if not due:
        return
    if what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "sleep":
        time.sleep(3)
    if what == "raise":
        raise FailPoint(f"fail point {name}")
