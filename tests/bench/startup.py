"""The second start: from `ringback run` until SMTP greets and the page answers; and until a first mail is a ticket."""

from __future__ import annotations

import statistics
import time

from tests.bench import setting
from tests.bench.figures import Figure
from tests.bench.mails import plain
from tests.walks.service import Service, listens

LIMIT = 2.0


def measure(rounds: int = 5) -> list[Figure]:
    """Medians; the slowest as a note."""
    with setting.ringback() as service:
        service.stop()
        ready, worked = [], []
        for mail in plain(rounds):
            started = time.perf_counter()
            until_ready(service)
            ready.append(time.perf_counter() - started)
            service.send(mail.raw)
            service.wait_for(lambda: setting.backlog(service) == 0, "the mail to be done")
            worked.append(time.perf_counter() - started)
            service.stop()
    return [
        Figure("second start until SMTP and web answer", statistics.median(ready), "s", LIMIT, at_most=True),
        Figure("slowest of them", max(ready), "s"),
        Figure("until a first mail is a ticket", statistics.median(worked), "s"),
    ]


def until_ready(service: Service) -> None:
    """Starts it and returns when both ports are served."""
    service.start(ready=False)
    service.wait_for(lambda: listens(service.smtp_port) and _answers(service), "both ports", seconds=30)


def _answers(service: Service) -> bool:
    if not listens(service.web_port):
        return False
    try:
        service.browser().get("/healthz")
    except OSError:
        return False
    return True
