"""A smarthost for the drills: an SMTP server of its own process that keeps what it takes, durably, and can misbehave.

    python -m tests.drill.sink PORT FOLDER

`FOLDER/mode` says how it behaves, and may change at any time; `FOLDER/log` has one JSON line for each mail and
recipient taken, written and synced before the 250. Modes:

    prompt     answers DATA after 0 to 50 ms, and the final dot as soon as the mail is kept
    late       keeps the mail and answers the final dot 0 to 50 ms later; for so long nobody can know whether it has it
    451 550    refuses at RCPT
    greylist   refuses a recipient's first try with 451
    451-data 550-data   refuses after the final dot
    silent     keeps the mail and never answers the final dot
    drop       keeps the mail and closes the connection instead of answering
"""

from __future__ import annotations

import asyncio
import email
import email.policy
import hashlib
import json
import os
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.loopback import free_port
from tests.walks.service import listens

SLOWEST = 0.05


@dataclass(frozen=True, slots=True)
class Delivery:
    """One mail for one recipient, as the sink has kept it. `at` is seconds since 1970."""

    at: float
    message_id: str
    recipient: str
    sha256: str

    @property
    def key(self) -> tuple[str, str]:
        """What must arrive once."""
        return (self.message_id, self.recipient)


@dataclass(frozen=True, slots=True)
class Sink:
    """A running sink."""

    port: int
    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        """What makes a Ringback send here."""
        return {
            "RINGBACK__SMTP__OUT__HOST": "127.0.0.1",
            "RINGBACK__SMTP__OUT__PORT": str(self.port),
            "RINGBACK__SMTP__OUT__SECURITY": "none",
        }

    def behave(self, mode: str) -> None:
        """From the next command on."""
        temporary = self.folder / "mode.new"
        temporary.write_text(mode)
        temporary.rename(self.folder / "mode")

    def deliveries(self) -> list[Delivery]:
        """All it has kept, oldest first."""
        log = self.folder / "log"
        return [Delivery(**json.loads(line)) for line in log.read_text().splitlines()] if log.exists() else []

    def repeats(self) -> Mapping[tuple[str, str], int]:
        """What arrived more than once, and how often."""
        counts = Counter(delivery.key for delivery in self.deliveries())
        return {key: count for key, count in counts.items() if count > 1}


@contextmanager
def sink(folder: Path, mode: str = "prompt") -> Iterator[Sink]:
    """A sink in a process of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    running = Sink(free_port(), folder)
    running.behave(mode)
    command = [sys.executable, "-m", "tests.drill.sink", str(running.port), str(folder)]
    process = subprocess.Popen(command, cwd=Path(__file__).parents[2])
    try:
        end = time.monotonic() + 20
        while not listens(running.port):
            assert time.monotonic() < end, "the sink does not listen"
            time.sleep(0.05)
        yield running
    finally:
        process.kill()
        process.wait()


# -- the sink's process ------------------------------------------------------------------------------------------


class _Server:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = os.open(folder / "log", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self.seen: set[str] = set()

    async def talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        try:
            await self._say(writer, "220 sink.example ESMTP")
            recipients: list[str] = []
            while line := await reader.readline():
                if not await self._obey(line.decode("utf-8", "replace").strip(), recipients, reader, writer):
                    break
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()

    async def _obey(
        self, line: str, recipients: list[str], reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """One command; False ends the connection."""
        verb = line.upper().partition(" ")[0]
        if verb == "EHLO":
            await self._say(writer, "250-sink.example\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250 SIZE 50000000")
        elif verb == "RCPT":
            await self._rcpt(line.partition("<")[2].partition(">")[0], recipients, writer)
        elif verb == "DATA":
            if self._mode() == "prompt":
                await asyncio.sleep(random.uniform(0, SLOWEST))
            await self._say(writer, "354 go on")
            return await self._data(await reader.readuntil(b"\r\n.\r\n"), recipients, writer)
        elif verb == "QUIT":
            await self._say(writer, "221 bye")
            return False
        else:
            if verb in ("MAIL", "RSET"):
                recipients.clear()
            await self._say(writer, "250 OK")
        return True

    async def _rcpt(self, recipient: str, recipients: list[str], writer: asyncio.StreamWriter) -> None:
        mode = self._mode()
        if mode == "greylist" and recipient not in self.seen:
            self.seen.add(recipient)
            await self._say(writer, "451 4.7.1 greylisted, come back later")
        elif mode in ("451", "550"):
            await self._say(writer, f"{mode} {mode[0]}.1.1 no mailbox for <{recipient}> today")
        else:
            recipients.append(recipient)
            await self._say(writer, "250 OK")

    async def _data(self, data: bytes, recipients: list[str], writer: asyncio.StreamWriter) -> bool:
        mode = self._mode()
        if mode.endswith("-data"):
            await self._say(writer, f"{mode[:3]} {mode[0]}.6.0 this content is not wanted")
            return True
        self._keep(data[:-3], recipients)
        recipients.clear()
        if mode == "late":
            await asyncio.sleep(random.uniform(0, SLOWEST))
        if mode == "silent":
            await asyncio.sleep(3600)
        if mode in ("silent", "drop"):
            return False
        await self._say(writer, "250 kept")
        return True

    def _keep(self, data: bytes, recipients: list[str]) -> None:
        text = data.replace(b"\r\n..", b"\r\n.")
        headers = email.message_from_bytes(text[: 1 << 16], policy=email.policy.compat32)
        about: dict[str, Any] = {
            "message_id": str(headers["Message-ID"] or "").strip(),
            "sha256": hashlib.sha256(text).hexdigest(),
            "at": time.time(),
        }
        lines = "".join(json.dumps(about | {"recipient": recipient}) + "\n" for recipient in recipients)
        os.write(self.log, lines.encode())
        os.fsync(self.log)

    def _mode(self) -> str:
        return (self.folder / "mode").read_text()

    async def _say(self, writer: asyncio.StreamWriter, words: str) -> None:
        writer.write(words.encode() + b"\r\n")
        await writer.drain()


async def _serve(port: int, folder: Path) -> None:
    listener = await asyncio.start_server(_Server(folder).talk, "127.0.0.1", port, limit=64 << 20)
    await listener.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1]), Path(sys.argv[2])))
