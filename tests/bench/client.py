"""A load client that costs little: one thread, raw sockets, mails rendered beforehand; it runs in a process of its own.

    python -m tests.bench.client PORT SESSIONS kept|each FILE [SOURCE] [PAUSE_SECONDS]

Sends every mail of FILE over SESSIONS parallel connections (`kept`: each sends many; `each`: one connection a mail, as
most of the world does) and prints one JSON object. A mail without its 250 is sent again, as an MTA would, for a while.
SIGTERM ends it after the mails under way.
"""

from __future__ import annotations

import heapq
import json
import select
import signal
import socket
import struct
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from tests.bench.machine import quantile
from tests.bench.mails import DESK, Mail, wire

TRIES = 200  # of one mail
PATIENCE = 0.05  # seconds after a refusal

# Yields what to say, or for how many seconds to say nothing; is sent the answer, b"" after a pause.
Conversation = Generator[bytes | float, bytes, None]
Parts = tuple[bytes, bytes, bytes]  # MAIL, RCPT, and what follows DATA


@dataclass(frozen=True, slots=True)
class Load:
    """What a load run did. `latencies` are the milliseconds from the final dot to its 250."""

    accepted: int
    seconds: float
    refused: dict[str, int]
    p50_ms: float
    p95_ms: float
    slowest_ms: float
    cpu_seconds: float

    @property
    def rate(self) -> float:
        """Mails a second."""
        return self.accepted / self.seconds


def write_file(path: Path, mails: Iterable[Mail], stamp: str = "", recipient: str = DESK) -> Path:
    """The mails as the client reads them."""
    with path.open("wb") as file:
        for mail in mails:
            for line in (f"MAIL FROM:<{mail.sender}>\r\n", f"RCPT TO:<{recipient}>\r\n"):
                _write_part(file, line.encode())
            _write_part(file, wire(mail, stamp))
    return path


def _write_part(file: BinaryIO, part: bytes) -> None:
    file.write(struct.pack(">I", len(part)) + part)


def start(
    port: int, sessions: int, path: Path, kept: bool = False, source: str = "", pause: float = 0.0
) -> subprocess.Popen[bytes]:
    """The client in a process of its own; `finish` waits for it."""
    how = "kept" if kept else "each"
    command = [sys.executable, "-m", "tests.bench.client", str(port), str(sessions), how, str(path), source, str(pause)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2])


def finish(process: subprocess.Popen[bytes]) -> Load:
    """What it did."""
    output, _ = process.communicate(timeout=600)
    if process.returncode:
        raise RuntimeError(f"the load client ended with {process.returncode}")
    return Load(**json.loads(output))


def run(port: int, sessions: int, path: Path, kept: bool = False, source: str = "", pause: float = 0.0) -> Load:
    """Sends all of a file and says how it went."""
    return finish(start(port, sessions, path, kept, source, pause))


# -- the client's process ----------------------------------------------------------------------------------------


class Sender:
    """All sessions of one run, driven by epoll. `pause` seconds lie between two mails of one session."""

    def __init__(self, port: int, kept: bool, mails: list[Parts], source: str, pause: float) -> None:
        self.address, self.kept, self.source, self.pause = ("127.0.0.1", port), kept, source, pause
        self.waiting = deque((mail, 0) for mail in mails)
        self.accepted = 0
        self.latencies: list[float] = []
        self.refused: Counter[str] = Counter()
        self._poll = select.epoll()
        self._open: dict[int, tuple[socket.socket, Conversation, bytearray]] = {}
        self._later: list[tuple[float, int, int, Conversation | None]] = []  # when, …, whom; None: a new connection
        self._ended = 0.0
        self._number = 1_000_000
        self.stopping = False

    def stop(self) -> None:
        """No further mail is begun."""
        self.stopping = True
        self.waiting.clear()

    def run(self, sessions: int) -> float:
        """Sends everything; returns the seconds from the first connection to the last 250."""
        started = time.perf_counter()
        self._later = [(started, number, -1, None) for number in range(sessions)]
        while self._open or self._later:
            wait = max(0.0, self._later[0][0] - time.perf_counter()) if self._later else -1
            for descriptor, _ in self._poll.poll(wait):
                self._readable(descriptor)
            while self._later and self._later[0][0] <= time.perf_counter():
                _, _, descriptor, talk = heapq.heappop(self._later)
                if talk is None:
                    self._connect()
                elif descriptor in self._open and self._open[descriptor][1] is talk:
                    self._go_on(descriptor, b"")
        self._poll.close()
        return self._ended - started

    def _connect(self) -> None:
        if not self.waiting:
            return
        try:
            connection = socket.create_connection(
                self.address, timeout=30, source_address=(self.source, 0) if self.source else None
            )
        except OSError as error:
            self.refused[type(error).__name__] += 1
            self._wake_up(PATIENCE, -1, None)
            return
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        talk = self._conversation()
        next(talk)
        self._open[connection.fileno()] = (connection, talk, bytearray())
        self._poll.register(connection, select.EPOLLIN)

    def _wake_up(self, seconds: float, descriptor: int, talk: Conversation | None) -> None:
        self._number += 1
        heapq.heappush(self._later, (time.perf_counter() + seconds, self._number, descriptor, talk))

    def _readable(self, descriptor: int) -> None:
        connection, _, got = self._open[descriptor]
        try:
            data = connection.recv(4096)
        except OSError:
            data = b""
        if not data:
            self.refused["closed"] += 1
            self._close(descriptor)
            return
        got += data
        if got.endswith(b"\n") and got[got.rfind(b"\n", 0, -1) + 4 :][:1] != b"-":  # the answer's last line
            answer = bytes(got)
            got.clear()
            self._go_on(descriptor, answer)

    def _go_on(self, descriptor: int, answer: bytes) -> None:
        connection, talk, _ = self._open[descriptor]
        try:
            words = talk.send(answer)
            if isinstance(words, float):
                self._wake_up(words, descriptor, talk)
            else:
                connection.sendall(words)
        except StopIteration:
            self._close(descriptor)
        except OSError as error:
            self.refused[type(error).__name__] += 1
            self._close(descriptor)

    def _close(self, descriptor: int) -> None:
        connection, talk, _ = self._open.pop(descriptor)
        self._poll.unregister(connection)
        connection.close()
        talk.close()
        self._connect()

    def _conversation(self) -> Conversation:
        """One connection."""
        answer = yield b""
        if self._fits(answer, b"220"):
            answer = yield b"EHLO load.example\r\n"
            while self.waiting and self._fits(answer, b"250"):
                if not (yield from self._send_next()) or not self.kept:
                    break
        yield b"QUIT\r\n"

    def _send_next(self) -> Generator[bytes | float, bytes, bool]:
        """Sends one of the waiting mails; what was not accepted waits again."""
        mail, tries = self.waiting.popleft()
        accepted = False
        try:
            accepted = yield from self._send(mail)
        finally:
            if accepted:
                self.accepted += 1
            elif tries < TRIES and not self.stopping:
                self.waiting.append((mail, tries + 1))
        if self.pause or not accepted:
            yield self.pause or PATIENCE
        return accepted

    def _send(self, mail: Parts) -> Generator[bytes | float, bytes, bool]:
        for words, wanted in ((mail[0], b"250"), (mail[1], b"250"), (b"DATA\r\n", b"354")):
            answer = yield words
            if not self._fits(answer, wanted):
                return False
        started = time.perf_counter()
        answer = yield mail[2]
        self._ended = time.perf_counter()
        self.latencies.append((self._ended - started) * 1000)
        return self._fits(answer, b"250")

    def _fits(self, answer: bytes, wanted: bytes) -> bool:
        if answer.startswith(wanted):
            return True
        self.refused[answer[:3].decode("latin-1")] += 1
        return False


def _read_file(path: Path) -> list[Parts]:
    data = path.read_bytes()
    parts: list[bytes] = []
    at = 0
    while at < len(data):
        (length,) = struct.unpack_from(">I", data, at)
        parts.append(data[at + 4 : at + 4 + length])
        at += 4 + length
    return list(zip(parts[::3], parts[1::3], parts[2::3], strict=True))


def main(arguments: list[str]) -> None:
    """The client's process."""
    port, sessions, how, path = int(arguments[0]), int(arguments[1]), arguments[2], Path(arguments[3])
    source = arguments[4] if len(arguments) > 4 else ""
    pause = float(arguments[5]) if len(arguments) > 5 else 0.0
    mails = _read_file(path)
    sender = Sender(port, how == "kept", mails, source, pause)
    signal.signal(signal.SIGTERM, lambda *_: sender.stop())
    cpu = time.process_time()
    seconds = sender.run(sessions)
    result: dict[str, Any] = {
        "accepted": sender.accepted,
        "seconds": seconds,
        "refused": dict(sender.refused),
        "p50_ms": quantile(sender.latencies, 0.5),
        "p95_ms": quantile(sender.latencies, 0.95),
        "slowest_ms": max(sender.latencies, default=0.0),
        "cpu_seconds": time.process_time() - cpu,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main(sys.argv[1:])
