"""One running Ringback that is sent hostile mails: hand one over, see what became of it, make everything as before."""

from __future__ import annotations

import contextlib
import fcntl
import re
import secrets
import socket
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.bench.machine import forget_peak, rss_mb
from tests.bench.setting import RAISED
from tests.walks.service import Browser, Service

CONFIG = """
[firm]
name = "ACME"
administrator = "admin@desk.example.com"
[mail]
domain = "desk.example.com"
[[inboxes]]
address = "help@desk.example.com"
[[inboxes]]
address = "info@desk.example.com"
[web]
secret = "{secret}"
"""
AGENT = "agent@desk.example.com"
STAYS = frozenset({"account", "session", "code", "schedule", "alarm", "team", "team_member", "schema_migration"})
PEOPLE = frozenset({"contact", "address", "contact_address"})
PARTS = ("intake", "worker", "web", "parser")
DANGER = re.compile(r"<script>alert|<img[^>]{0,50}onerror", re.IGNORECASE)


@dataclass(slots=True)
class Seen:
    """What became of one mail."""

    answer: str
    seconds: float
    grown_mb: float
    state: str = ""
    reason: str = ""
    ticket: int | None = None
    new_tickets: int = 0
    entries: list[dict[str, Any]] = field(default_factory=list)  # kind, account, subject, text, quoted, html, data
    files: list[str] = field(default_factory=list)
    to_strangers: list[str] = field(default_factory=list)  # outgoing that is not for one of us
    status: str = ""
    page: str = ""

    @property
    def text(self) -> str:
        """All that a reader sees as text."""
        return "\n".join(f"{e['subject']}\n{e['text']}\n{e['quoted']}" for e in self.entries)


class Station:
    """The service, its database, and a browser that is signed in."""

    def __init__(self, service: Service, browser: Browser) -> None:
        self.service, self.browser = service, browser
        self._database = sqlite3.connect(service.data / "ringback.db", timeout=30, isolation_level=None)
        self.pids = self.living()
        self._staff_contacts = self._people()

    def living(self) -> dict[str, list[int]]:
        """Process ids by part."""
        return {part: sorted(self.service.children(part)) for part in PARTS}

    def hand_over(self, raw: bytes, sender: str, recipient: str, patience: float) -> Seen:
        """Sends one mail and waits until it is understood and everything it caused is sent."""
        watched = [pid for part in ("worker", "parser", "intake") for pid in self.service.children(part)]
        for pid in watched:
            forget_peak(pid)
        before = {pid: rss_mb(pid) for pid in watched}
        tickets, last = self._number("select count(*) from ticket"), self._number("select max(id) from inbound")
        started = time.monotonic()
        answer = _smtp(self.service.smtp_port, raw, sender, recipient)
        if not answer.startswith("250"):
            return Seen(answer, time.monotonic() - started, 0.0)
        self._until("select count(*) from inbound where state = 'new'", patience)
        seconds = time.monotonic() - started
        grown = sum(max(0.0, rss_mb(pid, peak=True) - before[pid]) for pid in watched)
        self._until("select count(*) from outbox where state in ('held', 'ready', 'sending')", 30)
        seen = Seen(answer, seconds, grown)
        self._look(seen, last, tickets)
        return seen

    def _look(self, seen: Seen, last: int, tickets: int) -> None:
        seen.new_tickets = self._number("select count(*) from ticket") - tickets
        rows = self._rows("select id, state, reason, ticket from inbound where id > ?", last)
        if not rows:
            seen.state = "gone"
            return
        inbound, seen.state, seen.reason, seen.ticket = rows[0]
        names = ("kind", "account", "subject", "text", "quoted", "html", "data")
        found = self._rows(
            "select e.kind, e.account, b.subject, b.text, b.quoted, b.html, e.data from entry e "
            "join body b on b.entry = e.id where e.inbound = ? order by e.id",
            inbound,
        )
        seen.entries = [dict(zip(names, line, strict=True)) for line in found]
        statement = "select a.name from attachment a join entry e on e.id = a.entry where e.inbound = ?"
        seen.files = [line[0] for line in self._rows(statement, inbound)]
        lines = self._rows("select recipient from outbox where account is null and ticket is ?", seen.ticket)
        seen.to_strangers = [line[0] for line in lines]
        if seen.ticket is not None:
            seen.status = self._rows("select status from ticket where number = ?", seen.ticket)[0][0]
            seen.page = self._page(seen.ticket)

    def _page(self, ticket: int) -> str:
        """What is wrong with the ticket's page, "" when nothing is."""
        try:
            page = self.browser.get(f"/tickets/{ticket}")
        except OSError as error:
            return str(error)
        found = DANGER.search(page)
        return f"{found.group()!r} stands in the page" if found else ""

    def reset(self) -> None:
        """An empty system again: no tickets, no strangers, nothing received; accounts and sessions stay."""
        with self._turn():
            run = self._database.execute
            triggers = self._rows("select name, sql from sqlite_master where type = 'trigger'")
            tables = [line[0] for line in self._rows("select name from sqlite_master where type = 'table'")]
            run("begin immediate")
            for name, _ in triggers:
                run(f"drop trigger {name}")
            run("insert into body_search(body_search) values ('delete-all')")
            for table in tables:
                if table not in STAYS | PEOPLE and not table.startswith(("body_search", "sqlite_")):
                    run(f'delete from "{table}"')  # noqa: S608 - a name of ours
            for table, column, kept in self._staff_contacts:
                run(f"delete from {table} where {column} not in ({', '.join(map(str, kept))})")  # noqa: S608
            for _, statement in triggers:
                run(statement)
            run("commit")

    def close(self) -> None:
        """Lets the database go."""
        self._database.close()

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """As every writer: the gate, then the lock, then the gate is let go."""
        with contextlib.ExitStack() as stack:
            gate, lock = (
                stack.enter_context((self.service.data / name).open("ab")) for name in ("write.gate", "write.lock")
            )
            fcntl.flock(gate, fcntl.LOCK_EX)
            fcntl.flock(lock, fcntl.LOCK_EX)
            fcntl.flock(gate, fcntl.LOCK_UN)
            yield

    def _people(self) -> list[tuple[str, str, list[int]]]:
        contacts = [line[0] for line in self._rows("select contact from account")]
        links = "select address from contact_address where contact in (select contact from account)"
        addresses = [line[0] for line in self._rows(links)]
        return [("contact_address", "contact", contacts), ("contact", "id", contacts), ("address", "id", addresses)]

    def _rows(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        return self._database.execute(statement, parameters).fetchall()

    def _number(self, statement: str) -> int:
        return int(self._rows(statement)[0][0] or 0)

    def _until(self, statement: str, seconds: float) -> None:
        """Until the statement counts nothing; looks often, for these are hundreds of mails."""
        end = time.monotonic() + seconds
        while self._number(statement):
            assert time.monotonic() < end, f"waited {seconds:g} s: {statement}"
            time.sleep(0.003)


@contextmanager
def station(folder: Path) -> Iterator[Station]:
    """A Ringback of desk.example.com with an agent, running in full."""
    (folder / "config.toml").write_text(CONFIG.replace("{secret}", secrets.token_hex(32)))
    (folder / "config.toml").chmod(0o600)
    service = Service(folder, RAISED)
    service.command("init")
    service.command("user", "add", AGENT, "--name", "Ada Agent", "--role", "agent")
    service.start()
    try:
        browser = service.signed_in()
        service.send(WARM_UP, sender="carol@example.org", to="help@desk.example.com")
        service.wait_for(lambda: service.rows("select 1 from ticket"), "the first ticket")
        found = Station(service, browser)
        found._until("select count(*) from outbox where state in ('held', 'ready', 'sending')", 30)
        found.reset()
        try:
            yield found
        finally:
            found.close()
    finally:
        service.stop()


WARM_UP = b"From: carol@example.org\r\nTo: help@desk.example.com\r\nMessage-ID: <warm@up.example>\r\n\r\nHello\r\n"


def _smtp(port: int, raw: bytes, sender: str, recipient: str) -> str:
    """Hands over exactly these bytes, dots doubled; returns the last answer."""
    content = (b"." + raw if raw.startswith(b".") else raw).replace(b"\r\n.", b"\r\n..")
    if content and not content.endswith(b"\r\n"):
        content += b"\r\n"
    lines = (b"EHLO hostile.example", f"MAIL FROM:<{sender}>".encode(), f"RCPT TO:<{recipient}>".encode(), b"DATA")
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with connection.makefile("rb") as answers:
            answer = _answer(answers)
            for line in lines:
                if answer[:1] not in ("2", "3"):
                    return answer
                connection.sendall(line + b"\r\n")
                answer = _answer(answers)
            if not answer.startswith("354"):
                return answer
            connection.sendall(content + b".\r\n")
            answer = _answer(answers)
            connection.sendall(b"QUIT\r\n")
            return answer


def _answer(answers: Any) -> str:
    """The last line of an answer, "" when the connection has ended."""
    while line := answers.readline():
        if line[3:4] != b"-":
            return str(line.decode("latin-1").strip())
    return ""
