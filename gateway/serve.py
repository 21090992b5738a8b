"""The supervisor's children `intake` and `web`: `python -m gateway.serve intake|web [parts…]`.

`intake` is one asyncio loop that only receives; `web` is gunicorn with one process of threads (server-sent events hold
a thread each). Each opens its own connections; nothing with threads is forked.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from gateway import bell, blobs, desk, kept, store
from gateway.config import Config, ConfigError, begin_child, load
from gateway.store import webhooks
from gateway.values import Account, Action, Arrival, RawRequest, RawResponse, Receipt, Sms, Temporary, Written, utc_now

log = logging.getLogger("ringback.serve")

SLOW_CLIENT_SECONDS = 20
STOP_SECONDS = 3
COMMIT_SECONDS = 10  # a provider waits 15 (Twilio's default); then it would not hear our 503
REFUSALS_SECONDS = 60  # between two notes of forged webhooks: a flood of them must not fill the log


def main(arguments: Sequence[str]) -> None:
    """Runs one child until SIGTERM."""
    config = begin_child(log)
    store.connect(config)
    if arguments[0] == "intake":
        asyncio.run(intake(config, arguments[1:]))
    else:
        web(config)


# -- intake ------------------------------------------------------------------------------------------------------


async def intake(config: Config, parts: Sequence[str]) -> None:
    """Listens until SIGTERM; what was accepted is committed before the process ends. No `parts` means all of them."""
    from inbound.smtp_in import listen

    doorbell = bell.Bell(config.folder, config.data.queue_url)
    committer = desk.Committer(config, after_commit=lambda: doorbell.ring(bell.PROCESS))
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    listener = await listen(config, committer.accept) if not parts or "smtp" in parts else None
    loop.add_signal_handler(signal.SIGHUP, lambda: _reload(listener))
    if listener:
        log.info("SMTP listens on %s:%s", *listener.address)
    await stop.wait()
    if listener:
        await listener.close()
    await asyncio.to_thread(committer.close)


def _reload(listener: Any) -> None:
    """Takes the file's inboxes and limits over; addresses and secrets need a restart."""
    if listener is None:
        return
    try:
        listener.config = load()
    except ConfigError as error:
        log.error("the config was not taken over: %s", error)


# -- web ---------------------------------------------------------------------------------------------------------


def web(config: Config) -> None:
    """Serves the pages with gunicorn's threads until SIGTERM.

    Without gunicorn's own master: the supervisor restarts what dies, and a master costs 24 MB.
    """
    from gunicorn.app.base import BaseApplication
    from gunicorn.glogging import Logger
    from gunicorn.sock import create_sockets
    from gunicorn.workers.gthread import ThreadWorker

    door = Door(config)

    class Site(BaseApplication):  # type: ignore[misc]
        def load_config(self) -> None:
            for name, value in _gunicorn_settings(config).items():
                self.cfg.set(name, value)

        def load(self) -> Any:
            return application(config, door)

    class PatientThreads(ThreadWorker):  # type: ignore[misc]
        """A client that sends nothing for 20 s loses its thread: slow bodies otherwise stop the site."""

        def init_signals(self) -> None:
            super().init_signals()
            signal.signal(signal.SIGHUP, self.handle_exit)  # a new config: finish, be started again

        def handle_exit(self, sig: int, frame: Any) -> None:
            super().handle_exit(sig, frame)
            self.wsgi.extensions["ringback"].watch.close()  # open streams would hold the stop up for half a minute
            last = threading.Timer(STOP_SECONDS, os._exit, (0,))  # and so would a browser that keeps its connection
            last.daemon = True
            last.start()

        def enqueue_req(self, conn: Any) -> None:
            conn.sock.settimeout(SLOW_CLIENT_SECONDS)
            super().enqueue_req(conn)

    site = Site()
    logger = Logger(site.cfg)
    sockets = create_sockets(site.cfg, logger)
    try:
        PatientThreads(1, os.getppid(), sockets, site, site.cfg.timeout / 2, site.cfg, logger).init_process()
    finally:
        door.close()


def _gunicorn_settings(config: Config) -> dict[str, Any]:
    return {
        "bind": [f"{config.web.host}:{config.web.port}"],
        "threads": config.web.threads,
        "worker_connections": 1000,
        "limit_request_line": 0,  # a megabyte: Kannel brings a long SMS in the URL, six bytes a Cyrillic letter
        "timeout": 60,
        "graceful_timeout": 5,
        "keepalive": 30,
        "control_socket_disable": True,
        "accesslog": None,
        "errorlog": "-",
        "loglevel": "warning",
    }


def application(config: Config, door: Door) -> Any:
    """The WSGI application, wired: pages get `perform` and `keep`, providers get `door.take`."""
    from webui.app import create_app

    doorbell = bell.Bell(config.folder, config.data.queue_url)

    def perform(action: Action, actor: Account) -> Written:
        return desk.perform(config, action, actor, utc_now(), after_commit=lambda: _ring(doorbell))

    def keep(content: bytes) -> str:
        return blobs.put(config.folder / "blobs", content)

    return create_app(config, perform, keep, take=door.take)


def _ring(doorbell: bell.Bell) -> None:
    doorbell.ring(bell.DELIVER)
    doorbell.ring(bell.PROCESS)


# -- webhooks ----------------------------------------------------------------------------------------------------


PLACES, PLACE_SECONDS = 32, 0.5  # webhooks that may wait for their commit at once, and how long others wait for a place


class Door:
    """Where providers come in: the driver says whether it is true and what it means; it is answered when it is kept."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._lock = threading.Lock()
        self._committer: desk.Committer | None = None
        self._places = threading.BoundedSemaphore(PLACES)
        self._refusals = Refusals(_note_refusals)

    def take(self, driver: str, event: str, raw: RawRequest) -> RawResponse:
        """The driver's own answer, once all that the request brought is committed; what was there is not kept twice.

        404 for a driver that no `[[sms]]` uses. Raises Temporary when it could not be kept in COMMIT_SECONDS.
        """
        from inbound import sms

        ways = [way for way in self._config.sms if way.driver == driver]
        found = sms.driver(driver) if ways else None
        if found is None or found.receive is None:
            return RawResponse(404, body=b"Not Found\n")
        values, answer = found.receive(raw, event, ways)
        if answer.status == 403:
            self._refusals.add(driver)
        self._keep(values)
        return answer

    def close(self) -> None:
        """Finishes what is queued and says what was refused."""
        if self._committer:
            self._committer.close()
        self._refusals.close()

    def _keep(self, values: Sequence[Sms | Receipt]) -> None:
        if not values:
            return
        if not self._places.acquire(timeout=PLACE_SECONDS):
            raise Temporary("too many webhooks wait to be kept")  # pages need threads, too
        try:
            self._commit(values)
        finally:
            self._places.release()

    def _commit(self, values: Sequence[Sms | Receipt]) -> None:
        arrivals = [kept.arrival(value, utc_now()) for value in values]
        end = time.monotonic() + COMMIT_SECONDS
        waiting = [(arrival, self._open().accept(arrival)) for arrival in arrivals]
        for arrival, future in waiting:
            try:
                fresh = future.result(max(0.0, end - time.monotonic()))
            except TimeoutError as error:
                future.cancel()
                raise Temporary(f"not kept within {COMMIT_SECONDS} s") from error
            if not fresh:
                _compare(arrival)

    def _open(self) -> desk.Committer:
        """One committer for all threads, made when the first webhook proves to be true."""
        with self._lock:
            if self._committer is None:
                doorbell = bell.Bell(self._config.folder, self._config.data.queue_url)
                self._committer = desk.Committer(self._config, after_commit=lambda: doorbell.ring(bell.PROCESS))
            return self._committer


def _compare(arrival: Arrival) -> None:
    """The first one counts; that the second says something else is at least told."""
    with store.connection():
        if not webhooks.says_the_same(arrival):
            log.warning("%s came again with other words; the first stays", arrival.key)


class Refusals:
    """Counts refused webhooks by driver and has them noted by `note`, at most once in REFUSALS_SECONDS."""

    def __init__(self, note: Callable[[Counter[str]], None], seconds: float = REFUSALS_SECONDS) -> None:
        self._note, self._seconds = note, seconds
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._timer: threading.Timer | None = None
        self._due = False  # the timer runs and will note what is counted
        self._noted = float("-inf")

    def add(self, driver: str) -> None:
        """One more. Costs no database: a thread of its own notes it, at once when all was quiet before."""
        with self._lock:
            self._counts[driver] += 1
            if not self._due:
                self._due = True
                pause = max(0.0, self._noted + self._seconds - time.monotonic())
                self._timer = threading.Timer(pause, self._flush)
                self._timer.daemon = True
                self._timer.start()

    def close(self) -> None:
        """Notes what is not noted yet."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer.join(STOP_SECONDS)
        self._flush()

    def _flush(self) -> None:
        with self._lock:
            counts, self._counts, self._due = self._counts, Counter(), False
            self._noted = time.monotonic()
        if counts:
            self._note(counts)


def _note_refusals(counts: Counter[str]) -> None:
    for driver, count in counts.items():
        log.warning("%d webhook(s) to /hooks/%s/ refused: forged, or for a number that is not ours", count, driver)
    try:
        with store.connection(), store.writing():
            for driver, count in counts.items():
                webhooks.refused(driver, count, utc_now())
    except Temporary as error:
        log.warning("the refusals are only logged: %s", error)


if __name__ == "__main__":
    main(sys.argv[1:])
