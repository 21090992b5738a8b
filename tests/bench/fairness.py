"""Nobody waits for a busy worker: clicks and SMTP while it works flat out on a backlog.

A click is what the page does (`desk.perform`: one write transaction), in a process of its own (this module, started as
a program), four people at once.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from tests.bench import client, setting
from tests.bench.figures import Figure
from tests.bench.machine import quantile
from tests.bench.mails import Mail, generated, plain
from tests.walks.service import Service

CLICKERS = 4
PAUSE = 0.05
LIMIT_MS = 100.0


def measure(backlog: int = 4000) -> list[Figure]:
    """Accepts a backlog without a worker, then starts everything and clicks and sends until the backlog is gone."""
    with setting.folder() as folder, setting.ringback(start=False) as service:
        found = beside_a_backlog(service, folder, generated(backlog))
    clicks, load = found.clicks, found.load
    return [
        Figure("a click beside a busy worker, p95", quantile(clicks, 0.95), "ms", LIMIT_MS, at_most=True),
        Figure("a 250 beside a busy worker, p95", load.p95_ms, "ms", LIMIT_MS, at_most=True),
        Figure("clicks, median", quantile(clicks, 0.5), "ms", note=f"{len(clicks)}, slowest {max(clicks):.0f}"),
        Figure("250s, median", load.p50_ms, "ms", note=f"{load.accepted}, slowest {load.slowest_ms:.0f}"),
        Figure("the worker meanwhile", backlog / found.seconds, "mails/s"),
    ]


@dataclass(frozen=True, slots=True)
class Beside:
    """What was seen while the worker was busy: how long clicks took (ms), how the senders fared, for how long."""

    clicks: list[float]
    load: client.Load
    seconds: float


def beside_a_backlog(service: Service, folder: Path, backlog: list[Mail]) -> Beside:
    """Clicks and sends from the backlog's first mail that is done until its last. The service is not yet started."""
    last = _fill(service, folder, backlog)
    path = client.write_file(folder / "beside", plain(20_000, seed=8))
    clicker = subprocess.Popen(
        [sys.executable, "-m", "tests.bench.fairness"],
        env=service.environment, cwd=Path(__file__).parents[2], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert clicker.stdin is not None
    assert clicker.stdout is not None
    assert clicker.stdout.readline() == b"ready\n"
    service.start(ready=False)
    service.wait_for(lambda: _waiting(service, last) < len(backlog), "the first of the backlog to be done", seconds=30)
    started = time.perf_counter()
    clicker.stdin.write(b"go\n")
    clicker.stdin.flush()
    with _sending(service, path) as sender:
        service.wait_for(lambda: not _waiting(service, last), "the backlog to be worked off", seconds=300)
        seconds = time.perf_counter() - started
        clicked, _ = clicker.communicate(b"stop\n", timeout=30)
    assert sender.load is not None
    assert sender.load.accepted, sender.load.refused
    clicks: list[float] = json.loads(clicked)
    assert clicks, "nobody clicked"
    notes = service.rows("select count(*) from entry where kind = 'note'")[0][0]
    assert notes == len(clicks), f"{len(clicks)} clicks made {notes} notes"
    return Beside(clicks, sender.load, seconds)


def _fill(service: Service, folder: Path, backlog: list[Mail]) -> int:
    """Accepts the mails with `--only smtp`, after a first one has become a ticket to click on; returns the last id."""
    service.start()
    service.send(plain(1, seed=9)[0].raw)
    service.wait_for(lambda: service.rows("select number from ticket"), "the first ticket")
    service.stop()
    service.start(*setting.only(("smtp",)))
    load = client.run(service.smtp_port, 20, client.write_file(folder / "backlog", backlog))
    assert load.accepted == len(backlog), load.refused
    service.stop()
    return int(service.rows("select max(id) from inbound")[0][0])


def _waiting(service: Service, last: int) -> int:
    return int(service.rows("select count(*) from inbound where state = 'new' and id <= ?", last)[0][0])


class _sending:  # noqa: N801 - a context manager
    """Four sessions that send a mail every 50 ms each, until the block ends."""

    def __init__(self, service: Service, path: Path) -> None:
        self._service, self._path = service, path
        self.load: client.Load | None = None

    def __enter__(self) -> _sending:
        self._process = client.start(self._service.smtp_port, 4, self._path, pause=PAUSE)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self.load = client.finish(self._process)


# -- the clicker's process ---------------------------------------------------------------------------------------


def _click() -> None:
    from gateway import desk, store
    from gateway.config import load
    from gateway.model import row
    from gateway.store import facts
    from gateway.values import Remark, utc_now

    config = load()
    store.connect(config)
    stop, took = threading.Event(), list[float]()

    def clicks() -> None:
        with store.connection():
            ticket = int(row("select min(number) from ticket")[0])
            account = int(row("select min(id) from account")[0])
            actor = facts.accounts_by_id([account])[account]
            while not stop.is_set():
                started = time.perf_counter()
                desk.perform(config, Remark(ticket, "Called back."), actor, utc_now())
                took.append((time.perf_counter() - started) * 1000)
                stop.wait(PAUSE)

    print("ready", flush=True)
    sys.stdin.readline()
    threads = [threading.Thread(target=clicks) for _ in range(CLICKERS)]
    for thread in threads:
        thread.start()
    sys.stdin.readline()
    stop.set()
    for thread in threads:
        thread.join()
    print(json.dumps(took), flush=True)
    os._exit(0)


if __name__ == "__main__":
    _click()
