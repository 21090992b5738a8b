"""Mails to load a Ringback with: those of `../shared/tools/bench/mailgen.py`, or plain ones of our own for the samples.

A mail here is ready for the wire: CRLF, dots doubled, the final dot behind it.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from tests.walks.service import SHARED

GENERATOR = SHARED / "tools/bench/mailgen.py"
DESK = "support@ringback.localhost"


@dataclass(frozen=True, slots=True)
class Mail:
    """A mail as its author wrote it; `ticket` is the same for all of one thread."""

    raw: bytes
    sender: str
    ticket: int
    message_id: str


def generated(count: int, seed: int = 1, profile: str = "text") -> list[Mail]:
    """The first mails of the generator's stream. Ends the program when the generator is not there."""
    if not GENERATOR.exists():
        raise SystemExit(f"{GENERATOR} is not there: the benchmarks take their mails from it")
    generator: Any = module_of(GENERATOR)
    stream = generator.Gen(seed, profile, "", 1, desk=DESK)
    found = []
    for _ in range(count):
        raw, about = stream.mail()
        found.append(Mail(raw, about["sender"], about["ticket"], about["msgid"]))
    return found


def plain(count: int, size: int = 800, seed: int = 1) -> list[Mail]:
    """Distinct short mails of our own, every one a new ticket of another sender."""
    filler = "The boiler in flat seven shows F28 and the water stays cold since yesterday.\n"
    body = filler * max(1, size // len(filler))
    return [
        Mail(
            (
                f"From: Customer {number} <c{number}@s{seed}.example>\nTo: {DESK}\nSubject: Trouble {seed}-{number}\n"
                f"Message-ID: <{seed}.{number}@s{seed}.example>\nDate: Mon, 23 Nov 2026 09:00:00 +0000\n\n{body}"
            ).encode(),
            f"c{number}@s{seed}.example",
            number,
            f"<{seed}.{number}@s{seed}.example>",
        )
        for number in range(1, count + 1)
    ]


def padded(mails: Iterable[Mail], size: int) -> Iterator[Mail]:
    """The same mails with so many bytes of base64-like lines behind them."""
    line = b"QWxsIHdvcmsgYW5kIG5vIHBsYXkgbWFrZXMgSmFjayBhIGR1bGwgYm95IGFsbCB3b3JrIGFuZCBu\n"
    for mail in mails:
        missing = max(0, size - len(mail.raw))
        yield Mail(mail.raw + b"\n" + line * (missing // len(line)), mail.sender, mail.ticket, mail.message_id)


def wire(mail: Mail, stamp: str = "") -> bytes:
    """What goes over the wire after DATA. A stamp makes the same mail another one, for the next run."""
    raw = mail.raw if not stamp else f"X-Run: {stamp}\n".encode() + mail.raw
    text = raw.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    if not text.endswith(b"\r\n"):
        text += b"\r\n"
    return (b"." + text if text.startswith(b".") else text).replace(b"\r\n.", b"\r\n..") + b".\r\n"


def module_of(path: Path) -> ModuleType:
    """A Python file as a module, by its path."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module
