"""News for open pages: one thread looks ten times a second whether anything was committed, and tells every stream.

A stream is a bounded queue and nothing else; it holds no database connection. The thread runs while somebody listens,
on a connection of its own.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from typing import Any

from gateway import queries

log = logging.getLogger("ringback.web")

MOST = 64
EVERY_SECONDS = 0.1
BACKLOG = 20


class Stream:
    """One browser that listens. `next` gives tickets that moved (none: look at everything), None when it is over."""

    def __init__(self, account: int) -> None:
        self.account = account
        self._queue: queue.Queue[tuple[int, ...] | None] = queue.Queue(BACKLOG)

    def put(self, tickets: tuple[int, ...] | None) -> None:
        """Adds news; a browser that does not keep up is told once to look at everything."""
        try:
            self._queue.put_nowait(tickets)
        except queue.Full:
            while not self._queue.empty():
                self._queue.get_nowait()
            self._queue.put_nowait(tickets and ())

    def next(self, seconds: float) -> tuple[int, ...] | None:
        """The next news. Raises queue.Empty when there was none for so long."""
        return self._queue.get(timeout=seconds)


class Watch:
    """All streams and the thread that feeds them. `connection` opens and closes a database connection."""

    def __init__(self, connection: Callable[[], Any]) -> None:
        self._connection = connection
        self._streams: set[Stream] = set()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self.ready = threading.Event()  # from here on nothing is missed

    def __len__(self) -> int:
        return len(self._streams)

    def join(self, account: int) -> Stream | None:
        """A new stream; None when there are MOST already."""
        with self._lock:
            if len(self._streams) >= MOST:
                return None
            stream = Stream(account)
            self._streams.add(stream)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
                self._thread.start()
            return stream

    def leave(self, stream: Stream) -> None:
        """A stream that was closed."""
        with self._lock:
            self._streams.discard(stream)

    def end(self, account: int) -> None:
        """Ends an account's streams: somebody signed out. His other browsers come back by themselves."""
        for stream in self._of(account):
            stream.put(None)

    def close(self) -> None:
        """Ends all streams: the process stops, and each of them holds a thread."""
        for stream in self._of():
            stream.put(None)

    def _of(self, account: int | None = None) -> list[Stream]:
        with self._lock:
            return [s for s in self._streams if account in (None, s.account)]

    def _run(self) -> None:
        while True:
            try:
                with self._connection():
                    self._look()
            except Exception:
                log.exception("the watch on news stumbled")
                threading.Event().wait(1)
            with self._lock:
                if not self._streams:
                    self._thread = None
                    self.ready.clear()
                    return

    def _look(self) -> None:
        """Looks until nobody listens."""
        version, seen = queries.version(), queries.latest()
        pause = threading.Event()
        self.ready.set()
        while self._of():
            pause.wait(EVERY_SECONDS)
            current = queries.version()
            if current == version:
                continue
            version, before, seen = current, seen, queries.news_since(seen)
            if seen.tickets or (seen.mailroom, seen.changed) != (before.mailroom, before.changed):
                for stream in self._of():
                    stream.put(seen.tickets)
