"""A Ringback for a drill: quick to make, because what `ringback init` does is done once and copied."""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import shutil
import smtplib
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.bench.setting import RAISED, only
from tests.walks.service import Service

RECEIVING = ("smtp", "worker")
CUSTOMER = "ann@hillcrest.example"
MOST = 10  # of an audit's complaints


@functools.cache
def _template() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="ringback-template-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    Service(folder).command("init")
    return folder


@contextmanager
def place(folder: Path, environment: Mapping[str, str] | None = None, *parts: str) -> Iterator[Service]:
    """A stopped Ringback in this folder: configured, with an empty database. Stopped again afterwards."""
    shutil.copytree(_template(), folder, dirs_exist_ok=True)
    service = Service(folder, {**RAISED, "RINGBACK__UNDO__MAIL": "0", **(environment or {})})
    try:
        yield service
    finally:
        service.stop()


@contextmanager
def running(
    folder: Path, environment: Mapping[str, str] | None = None, parts: tuple[str, ...] = RECEIVING
) -> Iterator[Service]:
    """The same, started; `parts` () is everything."""
    with place(folder, environment) as service:
        service.start(*only(parts))
        yield service


def letter(name: str, sender: str = CUSTOMER, more: str = "", text: str = "The boiler shows F28.") -> bytes:
    """A mail whose Message-ID is `<name@hillcrest.example>`; `more` are header lines."""
    return (
        f"From: Ann Hill <{sender}>\r\nTo: support@ringback.localhost\r\nSubject: No heat, {name}\r\n"
        f"Message-ID: <{name}@hillcrest.example>\r\nDate: Mon, 23 Nov 2026 09:00:00 +0000\r\n{more}\r\n{text}\r\n"
    ).encode()


def send_until_accepted(service: Service, raw: bytes, sender: str = CUSTOMER, seconds: float = 30) -> int:
    """As an MTA: without a 250 the same mail again. Returns how many tries it took."""
    end, tries = time.monotonic() + seconds, 0
    while True:
        tries += 1
        try:
            service.send(raw, sender=sender)
        except (OSError, smtplib.SMTPException):
            assert time.monotonic() < end, f"not accepted within {seconds:g} s"
            time.sleep(0.05)
        else:
            return tries


def answer(service: Service, ticket: int, text: str) -> None:
    """An agent's answer, in a process of its own that may be killed; he looks, and answers again if it is not there."""
    for _ in range(5):
        try:
            subprocess.run(
                [sys.executable, "-m", "tests.drill.place", str(ticket), text],
                env=service.environment, cwd=Path(__file__).parents[2], check=True, timeout=60, capture_output=True,
            )  # fmt: skip
        except subprocess.CalledProcessError:
            pass
        if service.rows("select 1 from entry where ticket = ? and kind = 'answer'", ticket):
            return
    raise AssertionError("the answer could not be written")


def drained(service: Service, seconds: float = 60) -> None:
    """Waits until nothing more is to be sent."""
    service.wait_for(
        lambda: service.rows("select count(*) from outbox where state in ('held', 'ready', 'sending')") == [(0,)],
        "the outbox to drain",
        seconds=seconds,
    )


def hurry(service: Service) -> None:
    """What waits for a later attempt falls due now, as if the time had passed."""
    with contextlib.closing(sqlite3.connect(service.data / "ringback.db", timeout=20)) as connection, connection:
        connection.execute("update outbox set not_before = 1 where state = 'ready'")


def audit(service: Service) -> list[str]:
    """What `ringback check --audit` finds wrong."""
    found = service.command("check", "--audit", "--json", check=False)
    try:
        problems: list[str] = json.loads(found.stdout)["problems"]
    except (ValueError, KeyError):
        return [f"check --audit: {found.stdout!r} {found.stderr[-500:]!r}"]
    more = [f"and {len(problems) - MOST} more"] if len(problems) > MOST else []
    return problems[:MOST] + more


def _answer(ticket: int, text: str) -> None:
    """In the agent's process: what the page does."""
    from gateway import bell, desk, store
    from gateway.config import load
    from gateway.model import row
    from gateway.store import facts
    from gateway.values import Answer, utc_now

    config = load()
    store.connect(config)
    doorbell = bell.Bell(config.folder, config.data.queue_url)
    with store.connection():
        account = int(row("select min(id) from account")[0])
        actor = facts.accounts_by_id([account])[account]
        desk.perform(config, Answer(ticket, text), actor, utc_now(), lambda: doorbell.ring(bell.DELIVER))


if __name__ == "__main__":
    _answer(int(sys.argv[1]), sys.argv[2])
