"""One thread that writes for many: it drains its queue into one transaction, one sync, then answers all.

Measured: a commit costs the disk's sync whatever it holds, so fifty small writes in one cost what one costs.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from gateway import store
from gateway.values import Temporary

log = logging.getLogger("ringback.store")

GROUP = 200  # jobs in one transaction


@dataclass(slots=True)
class Job:
    """`prepare` runs before the transaction (files are synced there); `write` inside it, given what that returned."""

    write: Callable[[Any], Any]
    prepare: Callable[[], Any] = lambda: None
    done: Future[Any] = field(default_factory=Future)


class GroupWriter:
    """Writes what it is given, soon and durably. A job that fails is tried again alone, so that it fails alone."""

    def __init__(
        self,
        name: str,
        after_commit: Callable[[], None] = lambda: None,
        fail_point: Callable[[str], None] = lambda place: None,
    ) -> None:
        self._after_commit, self._fail_point = after_commit, fail_point
        self._queue: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> Future[Any]:
        """Its future is done when it is committed and synced; Temporary when it could not be."""
        self._queue.put(job)
        return job.done

    def close(self) -> None:
        """Finishes what is queued and ends the thread."""
        self._queue.put(None)
        self._thread.join(timeout=30)

    def _run(self) -> None:
        open_for_more = True
        while open_for_more:
            group = [self._queue.get()]
            while len(group) < GROUP and not self._queue.empty():
                group.append(self._queue.get())
            open_for_more = None not in group
            jobs = [job for job in group if job is not None]
            if jobs:
                self._keep(jobs)
        store.close_connection()

    def _keep(self, jobs: Sequence[Job]) -> None:
        try:
            store.open_connection()
            results = self._commit(jobs)
        except Exception as error:  # noqa: BLE001 - one bad job must not take the others with it
            if len(jobs) > 1 and not isinstance(error, Temporary):  # a locked or full database fails them all
                for job in jobs:
                    self._keep([job])
                return
            log.warning("%d write(s) failed: %s", len(jobs), error)
            store.close_connection()  # it may be dead: the next group opens another
            for job in jobs:
                _answer(job.done, None, error)
            return
        for job, result in zip(jobs, results, strict=True):
            _answer(job.done, result, None)
        self._after_commit()

    def _commit(self, jobs: Sequence[Job]) -> list[Any]:
        self._fail_point("before")
        prepared = [job.prepare() for job in jobs]
        self._fail_point("prepared")
        with store.writing():
            results = [job.write(ready) for job, ready in zip(jobs, prepared, strict=True)]
            self._fail_point("written")
        self._fail_point("committed")
        return results


def _answer(future: Future[Any], result: Any, error: Exception | None) -> None:
    """Whoever waited may be gone: a cancelled future takes no answer."""
    if not future.set_running_or_notify_cancel():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error if isinstance(error, Temporary) else Temporary(f"could not be written: {error}"))
