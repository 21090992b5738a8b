"""Nothing hangs on the doorbell; one Ringback a folder; starts and stops are short and lose nothing."""

from __future__ import annotations

import json
import os
import re
import signal
import smtplib
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.bench.machine import pss_mb
from tests.walks.service import Service, listens, processes_of
from tests.walks.test_smarthost import FIRST_MAIL, SUPPORT, configured, reasons

SWEEP_SECONDS = 5


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    """Of the firm ACME; not started."""
    service = configured(tmp_path)
    yield service
    service.stop()


def from_(number: int) -> bytes:
    """A mail of somebody who never wrote before."""
    return FIRST_MAIL.replace(b"first@", b"n%d@" % number).replace(b"ann@", b"guest%d@" % number)


# ---------------------------------------------------------------- the tests


def test_deleting_the_queue_while_it_runs_costs_no_more_than_the_sweeps_delay(service: Service) -> None:
    service.start()
    service.send(from_(1), to=SUPPORT)
    service.wait_for(lambda: len(reasons(service)) == 1, "the first ticket")
    for path in service.data.glob("queue.db*"):
        path.unlink()

    service.send(from_(2), to=SUPPORT)
    service.wait_for(lambda: len(reasons(service)) == 2, "the second ticket")

    # Who starts now makes a new file, while the worker listens to the old one: the sweep finds the mail.
    (intake,) = service.children("intake")
    os.kill(intake, signal.SIGKILL)
    service.wait_for(lambda: service.children("intake") not in ([], [intake]), "a new intake")
    service.wait_for(lambda: listens(service.smtp_port), "its port")
    service.send(from_(3), to=SUPPORT)
    began = time.monotonic()
    service.wait_for(lambda: len(reasons(service)) == 3, "the third ticket")
    assert time.monotonic() - began < SWEEP_SECONDS + 3
    assert (service.data / "queue.db").exists()


def test_a_second_run_in_the_same_folder_says_that_it_is_running(service: Service) -> None:
    service.start()
    second = service.command("run", check=False)
    assert second.returncode == 1
    assert service.process
    assert f"is running already: process {service.process.pid}" in second.stderr.decode()
    assert b"ringback reload" in second.stderr
    service.send(FIRST_MAIL, to=SUPPORT)  # the first one is as well as before
    service.wait_for(lambda: reasons(service), "the ticket")


def test_a_database_of_a_newer_ringback_is_refused_with_what_to_do(service: Service) -> None:
    service.command("init")
    with closing(sqlite3.connect(service.data / "ringback.db")) as database, database:
        columns = [name for _, name, *_ in database.execute("pragma table_info(schema_migration)")]
        newest = dict(
            zip(columns, database.execute("select * from schema_migration order by 1").fetchone(), strict=True)
        )
        newer = newest | {"name": "9999_from_the_future"} | ({"id": 9999} if "id" in newest else {})
        marks = ", ".join("?" * len(newer))
        statement = f"insert into schema_migration ({', '.join(newer)}) values ({marks})"  # noqa: S608
        database.execute(statement, list(newer.values()))
    for command in (["run"], ["ingest"], ["tickets", "list"]):
        refused = service.command(*command, stdin=FIRST_MAIL, check=False)
        assert refused.returncode == (75 if command == ["ingest"] else 1)
        words = refused.stderr.decode()
        assert "newer than this program (it knows 9999_from_the_future)" in words
        assert "install the newer Ringback" in words
    assert service.rows("select count(*) from inbound") == [(0,)]


def test_a_database_of_an_older_ringback_is_refused_with_the_command_to_type(service: Service) -> None:
    service.command("init")
    with closing(sqlite3.connect(service.data / "ringback.db")) as database, database:
        database.execute("delete from schema_migration")
    refused = service.command("run", check=False)
    assert refused.returncode == 1
    assert "`ringback migrate`" in refused.stderr.decode()


def test_the_second_start_is_quick_and_what_runs_is_small(service: Service) -> None:
    service.start()
    seconds = []
    for _ in range(3):  # the best of three: others use this machine, too
        service.stop()
        began = time.monotonic()
        service.start()  # returns once both ports are open
        seconds.append(time.monotonic() - began)
        if seconds[-1] < 2:
            break
    service.send(FIRST_MAIL, to=SUPPORT)
    service.wait_for(lambda: reasons(service), "the ticket")
    assert service.process
    parts = [(line, pss_mb(pid)) for pid, line in processes_of(service.process.pid)]
    parts.append(("supervisor", pss_mb(service.process.pid)))
    for line, size in parts:
        print(f"{size:6.1f} MB PSS  {line}")
    print(f"{sum(size for _, size in parts):6.1f} MB PSS  all; second start {min(seconds):.2f} s")
    # The aims, 2 s and 160 MB, are measured by `make bench`; a busy machine gets some air here.
    assert min(seconds) < 4
    assert sum(size for _, size in parts) < 250


def test_sigterm_while_mail_pours_in_loses_nothing_that_was_taken(service: Service) -> None:
    service.start()
    taken: list[int] = []
    stop = threading.Event()

    def pour(sender: int) -> None:
        number = sender * 100_000
        while not stop.is_set():
            number += 1
            try:
                service.send(from_(number), sender=f"guest{number}@hillcrest.example", to=SUPPORT)
            except (OSError, smtplib.SMTPException):  # it is going down: this one was not taken
                continue
            taken.append(number)

    senders = [threading.Thread(target=pour, args=(n,)) for n in range(1, 5)]
    for sender in senders:
        sender.start()
    try:
        service.wait_for(lambda: len(taken) >= 40, "some mail")
        began = time.monotonic()
        service.stop()
        assert time.monotonic() - began < 12  # ten seconds are what the supervisor gives its children
    finally:
        stop.set()
        for sender in senders:
            sender.join()

    assert "stopped" in service.log.read_text()
    assert "is killed" not in service.log.read_text()
    service.start()
    service.wait_for(lambda: service.rows("select count(*) from inbound where state = 'new'") == [(0,)], "the rest")
    came = [
        re.search(r"guest(\d+)@", str(sender)) for (sender,) in service.rows("select requester_address from ticket")
    ]
    tickets = [int(found[1]) for found in came if found]
    assert set(taken) <= set(tickets)
    assert len(tickets) == len(set(tickets)) == len(came)
    waiting = "select count(*) from outbox where state not in ('sent', 'dead')"
    service.wait_for(lambda: service.rows(waiting) == [(0,)], "everything to be sent", seconds=30)
    assert json.loads(service.command("check", "--audit", "--json").stdout)["problems"] == []


def test_a_browser_that_listens_does_not_hold_up_the_stop(tmp_path: Path) -> None:
    """Seen: SIGTERM took ten seconds and ended in SIGKILL once a browser had the inbox open."""
    service = Service(tmp_path)
    service.start()
    browser = service.signed_in()
    with browser.opened("/events"):
        started = time.monotonic()
        service.stop()
        assert time.monotonic() - started < 8
    assert "web ended with code 0" in service.log.read_text(encoding="utf-8")
