"""A form sent twice is done once: a double click and a browser's retry carry the same nonce.

In memory, because it only has to outlive a second click; one process serves the pages.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable

REMEMBERED = 1_000


class Once:
    """What was done under which key, and what came of it. The second waits for the first and gets its result."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._done: OrderedDict[Hashable, tuple[threading.Lock, list[str]]] = OrderedDict()

    def __call__(self, key: Hashable, do: Callable[[], str]) -> str:
        """Does it, unless it was done under this key; what raises may be tried again."""
        with self._lock:
            turn, results = self._done.setdefault(key, (threading.Lock(), []))
            while len(self._done) > REMEMBERED:
                self._done.popitem(last=False)
        with turn:
            if not results:
                results.append(do())
            return results[0]
