"""One mail at a time: how long until its 250, until it is a ticket, until the acknowledgement lies in its file."""

from __future__ import annotations

import socket
import sqlite3
import time

from tests.bench import setting
from tests.bench.figures import Figure
from tests.bench.machine import quantile, synced_append_ms
from tests.bench.mails import DESK, Mail, plain, wire
from tests.walks.service import Service


def measure(mails: int = 200) -> list[Figure]:
    """Medians and p95 over single mails, one session, a pause between them."""
    with setting.folder() as folder, setting.ringback() as service:
        sync = synced_append_ms(folder)
        service.send(plain(1, seed=7)[0].raw)
        service.wait_for(lambda: service.outgoing(), "the first acknowledgement")
        answered, visible, written = one_by_one(service, plain(mails))
    return [
        Figure("append + fdatasync, median", sync, "ms"),
        Figure("250 of a single session, p50", quantile(answered, 0.5), "ms", 4 * sync + 1, at_most=True),
        Figure("250 of a single session, p95", quantile(answered, 0.95), "ms"),
        Figure("a ticket after the 250, p95", quantile(visible, 0.95), "ms", 100, at_most=True),
        Figure("a ticket after the 250, p50", quantile(visible, 0.5), "ms"),
        Figure("acknowledgement in its file after the 250, p95", quantile(written, 0.95), "ms", 250, at_most=True),
        Figure("acknowledgement in its file after the 250, p50", quantile(written, 0.5), "ms"),
    ]


def one_by_one(service: Service, mails: list[Mail]) -> tuple[list[float], list[float], list[float]]:
    """Milliseconds: to the 250; from there to the ticket, and to the acknowledgement written and recorded."""
    answered, visible, written = list[float](), list[float](), list[float]()
    reader = sqlite3.connect(f"file:{service.data / 'ringback.db'}?mode=ro", uri=True, timeout=10)
    with socket.create_connection(("127.0.0.1", service.smtp_port), timeout=30) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        _say(connection, b"")
        _say(connection, b"EHLO bench.example\r\n")
        for mail in mails:
            _say(connection, f"MAIL FROM:<{mail.sender}>\r\n".encode())
            _say(connection, f"RCPT TO:<{DESK}>\r\n".encode())
            _say(connection, b"DATA\r\n")
            content = wire(mail)
            started = time.perf_counter()
            _say(connection, content)
            accepted = time.perf_counter()
            answered.append((accepted - started) * 1000)
            _until_found(reader, "select 1 from ticket where requester_address = ?", mail.sender)
            visible.append((time.perf_counter() - accepted) * 1000)
            _until_found(reader, "select 1 from outbox where recipient = ? and state = 'sent'", mail.sender)
            written.append((time.perf_counter() - accepted) * 1000)
            time.sleep(0.02)
    reader.close()
    return answered, visible, written


def _say(connection: socket.socket, words: bytes) -> None:
    """Says it and reads the whole answer, which must be a good one."""
    if words:
        connection.sendall(words)
    got = b""
    while not got.endswith(b"\n") or got[got.rfind(b"\n", 0, -1) + 4 :][:1] == b"-":
        data = connection.recv(4096)
        assert data, "the connection was closed"
        got += data
    assert got[:1] in b"23", got


def _until_found(reader: sqlite3.Connection, statement: str, address: str) -> None:
    end = time.monotonic() + 30
    while reader.execute(statement, (address,)).fetchone() is None:
        assert time.monotonic() < end, f"waited 30 s for {statement} {address}"
        time.sleep(0.001)
