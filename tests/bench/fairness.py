"""Nobody waits for a busy worker: clicks and SMTP while it works flat out on a backlog.

    python -m tests.bench.fairness click FOLDER SECONDS     a clicker's process

A click is what the page does (`desk.perform`: one write transaction), in a process of its own, four people at once.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from tests.bench import client, setting
from tests.bench.figures import Figure
from tests.bench.machine import quantile
from tests.bench.mails import generated, plain
from tests.walks.service import Service

CLICKERS = 4
PAUSE = 0.05
LIMIT_MS = 100.0


def measure(backlog: int = 3000) -> list[Figure]:
    """Accepts a backlog without a worker, then starts everything and clicks and sends until the backlog is gone."""
    with setting.folder() as folder, setting.ringback(start=False) as service:
        fill(service, folder, backlog)
        service.start()
        found = under_load(service, folder)
    clicks, load, seconds, done = found["clicks"], found["load"], found["seconds"], found["done"]
    return [
        Figure("a click beside a busy worker, p95", quantile(clicks, 0.95), "ms", LIMIT_MS, at_most=True),
        Figure("a 250 beside a busy worker, p95", load.p95_ms, "ms", LIMIT_MS, at_most=True),
        Figure("clicks, median", quantile(clicks, 0.5), "ms", note=f"{len(clicks)}, slowest {max(clicks):.0f}"),
        Figure("250s, median", load.p50_ms, "ms", note=f"{load.accepted}, slowest {load.slowest_ms:.0f}"),
        Figure("the worker meanwhile", done / seconds, "mails/s"),
    ]


def fill(service: Service, folder: Path, backlog: int) -> None:
    """Accepts mails with `--only smtp`, after a first one has become a ticket to click on."""
    service.start()
    service.send(plain(1, seed=9)[0].raw)
    service.wait_for(lambda: service.rows("select number from ticket"), "the first ticket")
    service.stop()
    service.start(*setting.only(("smtp",)))
    load = client.run(service.smtp_port, 20, client.write_file(folder / "backlog", generated(backlog)))
    assert load.accepted == backlog, load.refused
    service.stop()


def under_load(service: Service, folder: Path) -> dict[str, Any]:
    """Clicks and sends while the worker is at its backlog; stops when that is gone."""
    path = client.write_file(folder / "beside", plain(20_000, seed=8))
    waiting = setting.backlog(service)
    started = time.perf_counter()
    clicker = subprocess.Popen(
        [sys.executable, "-m", "tests.bench.fairness", "click", str(service.folder)],
        env=service.environment, cwd=Path(__file__).parents[2], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    with _sending(service, path) as sender:
        service.wait_for(lambda: _old_ones(service, waiting) == 0, "the backlog to be worked off", seconds=300)
        seconds = time.perf_counter() - started
        clicked, _ = clicker.communicate(b"stop\n", timeout=30)
    assert sender.load is not None
    assert sender.load.accepted, sender.load.refused
    clicks: list[float] = json.loads(clicked)
    assert clicks, "nobody clicked"
    notes = service.rows("select count(*) from entry where kind = 'note'")[0][0]
    assert notes == len(clicks), f"{len(clicks)} clicks made {notes} notes"
    return {"clicks": clicks, "load": sender.load, "seconds": seconds, "done": waiting}


def _old_ones(service: Service, waiting: int) -> int:
    last = service.rows("select id from inbound order by id limit 1 offset ?", waiting)
    until = last[0][0] if last else 1 << 60
    return int(service.rows("select count(*) from inbound where state = 'new' and id <= ?", until)[0][0])


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
