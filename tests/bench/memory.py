"""Idle memory of all processes (proportional set size), after a mail and a page have been through each of them."""

from __future__ import annotations

import time

from tests.bench import setting
from tests.bench.figures import Figure
from tests.bench.machine import command_line, pss_mb, tree
from tests.bench.mails import plain
from tests.walks.service import Service

LIMIT_MB = 160.0
NAMES = {
    "gateway/supervisor": "supervisor",
    "gateway.serve intake": "intake",
    "gateway.worker": "worker",
    "inbound.parser": "parser",
    "gateway.serve web": "web",
}


def measure(idle_seconds: float = 10) -> list[Figure]:
    """The sum, and each process."""
    with setting.ringback() as service:
        warm_up(service)
        time.sleep(idle_seconds)
        parts = by_process(service)
    return [
        Figure("all processes, idle", sum(mb for _, mb in parts), "MB PSS", LIMIT_MB, at_most=True),
        *(Figure(name, mb, "MB PSS") for name, mb in parts),
    ]


def warm_up(service: Service) -> None:
    """A mail becomes a ticket, somebody signs in and looks at it."""
    service.send(plain(1)[0].raw)
    service.wait_for(lambda: service.rows("select number from ticket"), "the ticket")
    browser = service.signed_in()
    browser.get("/")
    browser.get("/tickets/1001")


def by_process(service: Service) -> list[tuple[str, float]]:
    """(part, MB) of every process, the largest first."""
    found = []
    for pid in tree(setting.pid(service)):
        line = command_line(pid)
        name = next((name for words, name in NAMES.items() if words in line), line[:40] or str(pid))
        found.append((name, pss_mb(pid)))
    return sorted(found, key=lambda part: -part[1])
