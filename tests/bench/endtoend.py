"""End to end: from SMTP at full speed to stored, threaded, searchable, acknowledgement queued, on an empty database."""

from __future__ import annotations

import time
from pathlib import Path

from tests.bench import client, setting
from tests.bench.figures import Figure
from tests.bench.machine import cpu_seconds
from tests.bench.mails import Mail, generated
from tests.walks.service import Service

SESSIONS = 20


def measure(mails: int = 5000) -> list[Figure]:
    """The rate until the last one is done, and what a mail costs the whole service."""
    with setting.folder() as folder, setting.ringback() as service:
        text = generated(mails)
        return through(service, client.write_file(folder / "mails", text), text)


def through(service: Service, path: Path, mails: list[Mail]) -> list[Figure]:
    """Sends the mails to a running Ringback and checks what became of them."""
    supervisor = setting.pid(service)
    before, started = cpu_seconds(supervisor), time.perf_counter()
    load = client.run(service.smtp_port, SESSIONS, path)
    assert load.accepted == len(mails), f"refused: {load.refused}"
    service.wait_for(lambda: setting.backlog(service) == 0, "the last mail to be done", seconds=300)
    seconds, cpu = time.perf_counter() - started, cpu_seconds(supervisor) - before
    queued = service.rows("select count(*) from outbox where state in ('ready', 'sending')")[0][0]
    check(service, mails)
    service.wait_for(
        lambda: service.rows("select count(*) from outbox where state in ('ready', 'sending')") == [(0,)],
        "the outbox to drain",
        seconds=600,
    )
    drained, all_cpu = time.perf_counter() - started, cpu_seconds(supervisor) - before
    return [
        Figure("stored, threaded, searchable, queued", len(mails) / seconds, "mails/s", 250),
        Figure("CPU of the whole service a mail", cpu / len(mails) * 1000, "ms", 4, at_most=True),
        Figure("accepted meanwhile", load.rate, "mails/s", note=f"slowest 250 {load.slowest_ms:.0f} ms"),
        Figure("outgoing still queued at that moment", queued, "mails"),
        Figure("until the outgoing are written too", len(mails) / drained, "mails/s"),
        Figure("CPU a mail until then", all_cpu / len(mails) * 1000, "ms"),
    ]


def check(service: Service, mails: list[Mail]) -> None:
    """Every mail is done, on the right ticket, found by the search; every ticket has its acknowledgement."""
    threads = len({mail.ticket for mail in mails})
    assert service.rows("select state, count(*) from inbound group by state") == [("done", len(mails))]
    assert service.rows("select count(*) from entry where kind = 'message'") == [(len(mails),)]
    tickets = service.rows("select count(*) from ticket")[0][0]
    assert tickets == threads, f"{tickets} tickets for {threads} threads"
    assert service.rows("select count(*) from outbox where kind = 'acknowledgement'") == [(threads,)]
    together = service.rows("select count(distinct ticket), count(*) from inbound")
    assert together == [(threads, len(mails))]
    subject = service.rows("select subject from body where subject <> '' order by entry desc limit 1")[0][0]
    word = max((w for w in str(subject).split() if w.isascii() and w.isalnum()), key=len, default="the")
    assert service.rows("select count(*) from body_search where body_search match ?", f'"{word}"')[0][0]
