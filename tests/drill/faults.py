"""The faults of the plan (specs/reliability.md 4) that need no other server: each injected, observed, judged.

Each function takes a folder, raises AssertionError with words when the observation is not what it must be, and returns
a line that says what was observed.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import signal
import smtplib
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.error
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.bench import client, setting
from tests.bench.figures import Figure
from tests.bench.mails import plain
from tests.drill import failpoints
from tests.drill.kills import drill as kill_drill
from tests.drill.place import (
    RECEIVING,
    audit,
    drained,
    hurry,
    letter,
    running,
    send_until_accepted,
)
from tests.drill.sink import Sink, sink
from tests.walks.service import Browser, Service

ROOT = Path(__file__).parents[2]
EVERYTHING: tuple[str, ...] = ()


def measure() -> list[Figure]:
    """All faults at full size."""
    figures = []
    for name, fault in FAULTS.items():
        with setting.folder() as folder:
            started = time.monotonic()
            try:
                words, failed = fault(folder), 0.0
            except Exception as error:  # noqa: BLE001 - the other faults shall still be tried
                words, failed = f"{type(error).__name__}: {error}", 1.0
        figures.append(Figure(f"fault {name}", failed, "", 0, True, f"{words} ({time.monotonic() - started:.0f} s)"))
    return figures


# -- 1 to 6: kill -9 ---------------------------------------------------------------------------------------------


def killed_at(folder: Path, *points: str) -> str:
    """kill -9 at each of these fail points; a mail and an answer must survive."""
    for point in points:
        problems = failpoints.drill(folder / point, point, "kill")
        assert problems == [], f"{point}: {problems}"
    return f"killed at {', '.join(points)}: nothing lost, nothing doubled"


def before_the_250(folder: Path) -> str:
    """1: the client has no 250 and sends again; one ticket."""
    return killed_at(folder, "accept.before", "accept.prepared", "accept.written", "accept.committed")


def before_parsing(folder: Path) -> str:
    """2: accepted, then everything is killed; a ticket within 10 s of the restart."""
    with running(folder, parts=("smtp",)) as service:
        service.send(letter("accepted"))
        service.kill()
        started = time.monotonic()
        service.start(*setting.only(RECEIVING))
        service.wait_for(lambda: service.rows("select number from ticket"), "the ticket", seconds=10)
        took = time.monotonic() - started
        assert service.rows("select number from ticket") == [(1001,)]
    return f"a ticket {took:.1f} s after the restart"


def inside_the_transaction(folder: Path) -> str:
    """3: killed before every single statement of the transaction that makes a ticket: all or nothing."""
    with running(folder, parts=("smtp",)) as service:
        service.send(letter("statement"))
        service.stop()
        found = subprocess.run(
            [sys.executable, "-m", "tests.drill.statements"],
            cwd=ROOT, env=service.environment, capture_output=True, timeout=300, check=False,
        )  # fmt: skip
        assert found.returncode == 0, found.stderr.decode()[-2000:]
        result = json.loads(found.stdout)
        assert result["problems"] == [], result["problems"]
        assert result["statements"] > 10
        problems = audit(service)
        assert problems == []
    return f"killed before each of {result['statements']} statements: all or nothing"


def before_sending(folder: Path) -> str:
    """4: between commit and send: sent after the restart, once."""
    return killed_at(folder, "process.committed", "delivery.claimed", "delivery.rendered")


def after_sending(folder: Path) -> str:
    """5: between send and note: at most one repeat, with the same Message-ID."""
    return killed_at(folder, "delivery.sent", "delivery.noted")


def random_kills(folder: Path, cuts: int = 40) -> str:
    """6: at random moments; `python -m tests.drill kills` makes more of them."""
    result = kill_drill(folder, cuts)
    assert result.problems == [], result.problems
    return f"{result.cuts.total()} cuts, {result.accepted} mails, {result.repeats} repeats"


# -- 7: disk full ------------------------------------------------------------------------------------------------


@contextmanager
def _full_disk(service: Service) -> Iterator[None]:
    """No file of a process may grow any more (prlimit(2)): to the program this is a disk that takes nothing."""
    pids = [pid for part in ("intake", "worker", "web", "parser") for pid in service.children(part)]
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    for pid in pids:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard, hard))


def disk_full(folder: Path, mails: int = 5) -> str:
    """7: 4xx, pages say 503, health is red while nothing can be written; recovers by itself; nothing is lost."""
    with running(folder, parts=EVERYTHING) as service:
        service.send(letter("before"))
        service.wait_for(lambda: setting.backlog(service) == 0, "the first mail")
        page = service.signed_in()
        codes = Counter[int]()
        with _full_disk(service):
            for number in range(mails):
                codes[_code_of(service, letter(f"full-{number}"))] += 1
            assert "1001" in page.get("/"), "reads must go on"
            clicked = _click(page)
            health = _status(service, "/readyz")
        assert clicked == 503, f"with a full disk a note is answered {clicked}"
        assert health == 503, f"with a full disk /readyz answers {health}"
        assert all(400 <= code < 500 for code in codes), f"with a full disk SMTP answered {dict(codes)}"
        for number in range(mails):
            send_until_accepted(service, letter(f"full-{number}"), seconds=20)
        service.wait_for(
            lambda: service.rows("select count(*) from ticket") == [(mails + 1,)], "all tickets", seconds=30
        )
        drained(service)
        assert _click(page) == 200
        assert _status(service, "/readyz") == 200
        assert service.rows("pragma integrity_check") == [("ok",)]
        problems = audit(service)
        assert problems == []
    return f"answered {dict(codes)} while full; recovered without a restart"


def _click(page: Browser) -> int:
    """A note on the first ticket: the HTTP status of what came of it."""
    form = page.get("/tickets/1001")
    try:
        page.post_form(form, "/tickets/1001/note", text="Called back.")
    except AssertionError as error:
        found = re.search(r"answered (\d{3})", str(error))
        return int(found.group(1)) if found else 0
    return 200


def _status(service: Service, path: str) -> int:
    try:
        service.browser().get(path)
    except urllib.error.HTTPError as error:
        return error.code
    return 200


def disk_low(folder: Path) -> str:
    """7, too: below `min_free_mb` the answer is 452."""
    with running(folder, {"RINGBACK__SMTP__IN__MIN_FREE_MB": "900000000"}, ("smtp",)) as service:
        code = _code_of(service, letter("low"))
        assert code == 452, f"with too little space SMTP answered {code}"
        assert service.rows("select count(*) from inbound") == [(0,)]
    return "452"


def _code_of(service: Service, raw: bytes) -> int:
    """What SMTP answers to a mail: 250, or the code of the refusal; 0 when the connection broke."""
    try:
        service.send(raw)
    except smtplib.SMTPResponseException as error:
        return error.smtp_code
    except smtplib.SMTPRecipientsRefused as error:
        return next(iter(error.recipients.values()))[0]
    except OSError:
        return 0
    return 250


# -- 8: the database is locked ------------------------------------------------------------------------------------


def database_locked(folder: Path, seconds: float = 30) -> str:
    """8: another program holds the write lock: 451 after a while, reads work, afterwards everything goes on."""
    with running(folder, parts=EVERYTHING) as service:
        service.send(letter("before"))
        service.wait_for(lambda: setting.backlog(service) == 0, "the first mail")
        drained(service)
        page = service.signed_in()
        slowest = 0.0
        with contextlib.closing(sqlite3.connect(service.data / "ringback.db", isolation_level=None)) as other:
            other.execute("begin exclusive")
            code: list[int] = []
            sender = threading.Thread(target=lambda: code.append(_code_of(service, letter("locked"))))
            sender.start()
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                started = time.monotonic()
                assert "1001" in page.get("/"), "reads must go on"
                slowest = max(slowest, time.monotonic() - started)
                time.sleep(0.2)
            other.execute("rollback")
        sender.join(timeout=60)
        assert code in ([451], [250]), f"SMTP answered {code}"
        if seconds > 20:
            assert code == [451], f"after {seconds:.0f} s of lock SMTP answered {code}"
        send_until_accepted(service, letter("locked"), seconds=20)
        service.wait_for(lambda: service.rows("select count(*) from ticket") == [(2,)], "the ticket", seconds=20)
    return f"locked for {seconds:.0f} s: {code[0]}, pages at most {slowest * 1000:.0f} ms"


# -- 14: the smarthost -------------------------------------------------------------------------------------------


def smarthost_refuses_for_now(folder: Path) -> str:
    """14, 4xx: waits and comes again; on the second try it arrives."""
    with _with_mode(folder, "451") as (service, smarthost):
        _tried(service, "ready", "451")
        assert smarthost.deliveries() == []
        smarthost.behave("prompt")
        hurry(service)
        drained(service)
        _arrived_once(service, smarthost)
    return "451, later delivered once"


def smarthost_refuses_for_good(folder: Path, mode: str = "550") -> str:
    """14, 5xx: not again, and the ticket's page can tell why, in the server's words."""
    with _with_mode(folder, mode) as (service, smarthost):
        _tried(service, "dead", "550")
        assert smarthost.deliveries() == []
        page = service.signed_in().get("/tickets/1001")
        assert "no mailbox" in page or "not wanted" in page, "the page does not say why it was not delivered"
    return "550: dead, with the server's words on the page"


def smarthost_greylists(folder: Path) -> str:
    """14, greylisting: refused once, then taken."""
    with _with_mode(folder, "greylist") as (service, smarthost):
        _tried(service, "ready", "451")
        hurry(service)
        drained(service)
        _arrived_once(service, smarthost)
    return "greylisted, then delivered once"


def smarthost_falls_silent(folder: Path, mode: str = "silent") -> str:
    """14, time-out or drop after the final dot: it may have arrived; after a minute once more, with the same bytes."""
    with _with_mode(folder, mode, {"RINGBACK__SMTP__OUT__TIMEOUT_SECONDS": "0.5"}) as (service, smarthost):
        _tried(service, "ready", "", seconds=30)
        waits = service.rows("select (not_before - done_at) / 1e6, not_before / 1e6 from outbox where state = 'ready'")
        assert all(30 < line[1] - time.time() < 90 for line in waits), waits
        smarthost.behave("prompt")
        hurry(service)
        drained(service)
        keys = {delivery.key for delivery in smarthost.deliveries()}
        assert len(keys) == len({(d.key, d.sha256) for d in smarthost.deliveries()}), "repeated with other bytes"
        assert set(smarthost.repeats().values()) == {2}, smarthost.repeats()
    return f"{mode} after the dot: repeated once, a minute later, with the same bytes"


@contextmanager
def _with_mode(folder: Path, mode: str, more: dict[str, str] | None = None) -> Iterator[tuple[Service, Sink]]:
    with (
        sink(folder / "sink", mode) as smarthost,
        running(folder / "ringback", {**smarthost.environment, **(more or {})}, EVERYTHING) as service,
    ):
        service.send(letter("one"))
        service.wait_for(lambda: service.rows("select number from ticket"), "the ticket")
        yield service, smarthost


def _tried(service: Service, state: str, words: str, seconds: float = 15) -> None:
    """Waits until every outgoing row was tried once and is in this state, with these words as the result."""

    def all_so() -> bool:
        lines = service.rows("select state, attempts, result from outbox")
        return bool(lines) and all(s == state and n == 1 and words in r for s, n, r in lines)

    try:
        service.wait_for(all_so, f"{state} after a try", seconds=seconds)
    except AssertionError:
        raise AssertionError(str(service.rows("select state, attempts, result from outbox"))) from None


def _arrived_once(service: Service, smarthost: Sink) -> None:
    rows = service.rows("select count(*) from outbox where state = 'sent'")[0][0]
    assert rows == len(smarthost.deliveries()) == 2, smarthost.deliveries()
    assert not smarthost.repeats()


# -- 16: two workers on one database -----------------------------------------------------------------------------


def two_workers(folder: Path, mails: int = 200) -> str:
    """16: a second worker waits for the first one's lock, takes over when it dies, and doubles nothing."""
    with running(folder) as service:
        second = subprocess.Popen([sys.executable, "-m", "gateway.worker"], env=service.environment, cwd=ROOT)
        try:
            time.sleep(1)
            path = client.write_file(folder / "mails", plain(mails))
            load = client.start(service.smtp_port, 4, path)
            service.wait_for(lambda: service.rows("select count(*) from ticket")[0][0] > mails // 4, "some tickets")
            os.kill(service.children("worker")[0], signal.SIGKILL)
            assert client.finish(load).accepted == mails
            service.wait_for(lambda: setting.backlog(service) == 0, "all mails", seconds=60)
            drained(service, seconds=120)
            assert second.poll() is None, "the second worker has ended"
        finally:
            second.kill()
            second.wait()
        assert service.rows("select count(*) from ticket") == [(mails,)]
        assert service.rows("select count(*) from entry where kind = 'message'") == [(mails,)]
        copies = Counter(_message_id(path) for path in service.outgoing())
        outgoing = service.rows("select count(distinct message_id || recipient) from outbox")[0][0]
        assert sum(copies.values()) - outgoing <= 8, "more than what was in flight was repeated"
        problems = audit(service)
        assert problems == []
    return f"{mails} mails, one worker killed beside a second: {outgoing} outgoing, {sum(copies.values())} files"


def _message_id(path: Path) -> str:
    head = path.read_bytes().replace(b"\r\n", b"\n").partition(b"\n\n")[0]
    return next((line.decode() for line in head.split(b"\n") if line.lower().startswith(b"message-id:")), "")


# -- 17: a burst -------------------------------------------------------------------------------------------------


def burst(folder: Path, mails: int = 10_000) -> str:
    """17: four senders at once; everything is accepted, nothing lost, and the inbox answers within a second."""
    with running(folder, parts=EVERYTHING) as service:
        service.send(letter("first"))
        service.wait_for(lambda: setting.backlog(service) == 0, "the first mail")
        page = service.signed_in()
        loads = [
            client.start(
                service.smtp_port,
                5,
                client.write_file(folder / f"mails-{seed}", plain(mails // 4, seed=seed)),
            )
            for seed in range(11, 15)
        ]
        slowest, pages = 0.0, 0
        while setting.backlog(service) or any(load.poll() is None for load in loads):
            started = time.monotonic()
            assert "<" in page.get("/")
            slowest, pages = max(slowest, time.monotonic() - started), pages + 1
            time.sleep(0.05)
        results = [client.finish(load) for load in loads]
        assert sum(load.accepted for load in results) == mails
        refused = sum((Counter(load.refused) for load in results), Counter())
        assert all(code.startswith("4") or not code.isdigit() for code in refused), refused
        service.wait_for(lambda: setting.backlog(service) == 0, "all mails", seconds=120)
        assert service.rows("select count(*) from ticket") == [(mails + 1,)]
        assert service.rows("select state, count(*) from inbound group by state") == [("done", mails + 1)]
        assert slowest < 1, f"the inbox took {slowest:.2f} s"
    rate = sum(load.rate for load in results)
    return f"{mails} mails at {rate:.0f}/s, refused {dict(refused)}, {pages} pages, slowest {slowest * 1000:.0f} ms"


# -- 18: slow clients --------------------------------------------------------------------------------------------

IDLE_FROM, SLOW_FROM = "127.0.1.1", "127.0.1.2"
DEFAULT_CAPS = {
    "RINGBACK__SMTP__IN__MAX_CONNECTIONS": "200",
    "RINGBACK__SMTP__IN__MAX_CONNECTIONS_PER_ADDRESS": "20",
}


def slow_clients(folder: Path, idle: int = 1000, slow_posts: int = 40) -> str:
    """18: idle connections, one byte a second, slow forms: somebody else is served within a second, caps say 421."""
    with running(folder, DEFAULT_CAPS, EVERYTHING) as service:
        service.send(letter("first"))
        service.wait_for(lambda: setting.backlog(service) == 0, "the first mail")
        page = service.signed_in()
        with contextlib.ExitStack() as stack:
            greetings = Counter(_greetings(stack, service, idle))
            stack.enter_context(_dripping(service))
            _slow_posts(stack, service, slow_posts)
            time.sleep(1)
            started = time.monotonic()
            service.send(letter("good"))
            mail_took = time.monotonic() - started
            started = time.monotonic()
            assert "<" in page.get("/")
            page_took = time.monotonic() - started
        service.wait_for(lambda: service.rows("select count(*) from ticket")[0][0] >= 2, "the good client's ticket")
        assert mail_took < 1, f"a good client waited {mail_took:.2f} s"
        assert page_took < 1, f"a page took {page_took:.2f} s"
        assert greetings["421"] == idle - 20, greetings
    return f"{idle} idle: {dict(greetings)}; a mail {mail_took * 1000:.0f} ms, a page {page_took * 1000:.0f} ms"


def _greetings(stack: contextlib.ExitStack, service: Service, count: int) -> Iterator[str]:
    for _ in range(count):
        connection = socket.create_connection(
            ("127.0.0.1", service.smtp_port), timeout=10, source_address=(IDLE_FROM, 0)
        )
        stack.callback(connection.close)
        try:
            yield connection.recv(100)[:3].decode()
        except OSError:
            yield "reset"


@contextmanager
def _dripping(service: Service) -> Iterator[None]:
    """A client whose DATA comes one byte a second."""
    connection = socket.create_connection(("127.0.0.1", service.smtp_port), timeout=10, source_address=(SLOW_FROM, 0))
    for words in (
        b"",
        b"EHLO slow.example\r\n",
        b"MAIL FROM:<s@slow.example>\r\n",
        b"RCPT TO:<support@ringback.localhost>\r\n",
        b"DATA\r\n",
    ):
        if words:
            connection.sendall(words)
        connection.recv(1000)
    stop = threading.Event()

    def drip() -> None:
        while not stop.wait(1):
            with contextlib.suppress(OSError):
                connection.sendall(b"x")

    thread = threading.Thread(target=drip)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        connection.close()


def _slow_posts(stack: contextlib.ExitStack, service: Service, count: int) -> None:
    """Forms whose body does not come."""
    for _ in range(count):
        connection = socket.create_connection(("127.0.0.1", service.web_port), timeout=10)
        stack.callback(connection.close)
        connection.sendall(
            b"POST /login HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/x-www-form-urlencoded\r\n"
            b"Content-Length: 1000\r\n\r\na="
        )


# -- 20: poison --------------------------------------------------------------------------------------------------


def poison(folder: Path, kinds: tuple[str, ...] = ("segv", "hang", "oom")) -> str:
    """20: a mail that kills the parser is given up after the second death; the queue goes on."""
    environment = {"RINGBACK__LIMITS__PARSE_SECONDS": "2", "RINGBACK__LIMITS__PARSE_MEMORY_MB": "300"}
    with running(folder, environment) as service:
        before = {part: service.children(part) for part in ("intake", "worker")}
        for kind in kinds:
            service.send(letter(kind, more=f"X-Ringback-Poison: {kind}\r\n"))
            service.send(letter(f"after-{kind}"))
        count = 2 * len(kinds)
        service.wait_for(
            lambda: service.rows("select count(*) from inbound where state <> 'new'") == [(count,)],
            "the queue to go on",
            seconds=60,
        )
        lines = dict(service.rows("select subject, state || ' ' || reason from inbound"))
        for kind in kinds:
            assert lines[f"No heat, {kind}"] == "failed unreadable", lines
            assert lines[f"No heat, after-{kind}"].startswith("done"), lines
        kept = service.rows("select count(*) from attachment where name like '%.eml'")[0][0]
        assert kept == len(kinds), f"{kept} originals are attached"
        assert before == {part: service.children(part) for part in ("intake", "worker")}, "a process has ended"
        problems = audit(service)
        assert problems == []
    return f"{', '.join(kinds)}: failed as unreadable with the original attached, the queue went on"


FAULTS: dict[str, Callable[[Path], str]] = {
    "1 killed before the 250": before_the_250,
    "2 killed after the 250": before_parsing,
    "3 killed inside the transaction": inside_the_transaction,
    "4 killed before sending": before_sending,
    "5 killed after sending": after_sending,
    "6 killed at random": random_kills,
    "7 disk full": disk_full,
    "7 disk low": disk_low,
    "8 database locked": database_locked,
    "14 smarthost 4xx": smarthost_refuses_for_now,
    "14 smarthost 5xx": smarthost_refuses_for_good,
    "14 smarthost 5xx after the dot": lambda folder: smarthost_refuses_for_good(folder, "550-data"),
    "14 smarthost greylists": smarthost_greylists,
    "14 smarthost silent": smarthost_falls_silent,
    "14 smarthost drops": lambda folder: smarthost_falls_silent(folder, "drop"),
    "16 two workers": two_workers,
    "17 burst": burst,
    "18 slow clients": slow_clients,
    "20 poison": poison,
}
