"""The doorbell: three huey tasks without arguments. It wakes, it remembers nothing; what is due stands in our tables.

huey deletes a task before it runs it (specs/reliability.md 0.1), so a lost ring must cost nothing but a sweep's delay.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

log = logging.getLogger("ringback.bell")

PROCESS, DELIVER, TICK = TASKS = ("process", "deliver", "tick")


class Bell:
    """A huey queue of its own file (or Redis) with the three tasks; `answer` gives them their bodies."""

    def __init__(self, folder: Path, queue_url: str = "") -> None:
        self.huey: Any = _open_queue(folder, queue_url)
        self._bodies: Mapping[str, Callable[[], None]] = {}
        self._tasks = {name: self._task(name) for name in TASKS}

    def _task(self, name: str) -> Any:
        def body() -> None:
            self._bodies[name]()

        return self.huey.task(name=name, retries=0)(body)

    def answer(self, bodies: Mapping[str, Callable[[], None]]) -> None:
        """What runs when the bell rings."""
        self._bodies = bodies

    def ring(self, name: str) -> None:
        """Wakes one task. Never raises: the sweep does the same work a few seconds later."""
        try:
            self._tasks[name]()
        except Exception as error:  # noqa: BLE001 - a full disk or a lost Redis only costs the sweep's delay
            log.warning("the bell %s did not ring: %s", name, error)


def _open_queue(folder: Path, queue_url: str) -> Any:
    if queue_url:
        from huey import RedisHuey

        return RedisHuey("ringback", url=queue_url, results=False)
    from huey import SqliteHuey

    return SqliteHuey("ringback", filename=str(folder / "queue.db"), fsync=False, results=False, timeout=5)
