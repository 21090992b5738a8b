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
from collections.abc import Sequence
from typing import Any

from gateway import bell, blobs, desk, store
from gateway.config import Config, ConfigError, begin_child, load
from gateway.values import Account, Action, Written, utc_now

log = logging.getLogger("ringback.serve")

SLOW_CLIENT_SECONDS = 20
STOP_SECONDS = 3


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

    class Site(BaseApplication):  # type: ignore[misc]
        def load_config(self) -> None:
            for name, value in _gunicorn_settings(config).items():
                self.cfg.set(name, value)

        def load(self) -> Any:
            return application(config)

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
    PatientThreads(1, os.getppid(), sockets, site, site.cfg.timeout / 2, site.cfg, logger).init_process()


def _gunicorn_settings(config: Config) -> dict[str, Any]:
    return {
        "bind": [f"{config.web.host}:{config.web.port}"],
        "threads": config.web.threads,
        "worker_connections": 1000,
        "timeout": 60,
        "graceful_timeout": 5,
        "keepalive": 30,
        "control_socket_disable": True,
        "accesslog": None,
        "errorlog": "-",
        "loglevel": "warning",
    }


def application(config: Config) -> Any:
    """The WSGI application, wired: pages get `perform` and `keep`."""
    from webui.app import create_app

    doorbell = bell.Bell(config.folder, config.data.queue_url)

    def perform(action: Action, actor: Account) -> Written:
        return desk.perform(config, action, actor, utc_now(), after_commit=lambda: _ring(doorbell))

    def keep(content: bytes) -> str:
        return blobs.put(config.folder / "blobs", content)

    return create_app(config, perform, keep)


def _ring(doorbell: bell.Bell) -> None:
    doorbell.ring(bell.DELIVER)
    doorbell.ring(bell.PROCESS)


if __name__ == "__main__":
    main(sys.argv[1:])
