"""Which messages the other side has taken but our database may not know yet: a file of short lines.

Between the server's 250 and our commit lie some milliseconds; a process killed in them would send the message again.
One `os.write` with O_APPEND survives the death of the process without fsync (not a power cut: then the mail is
repeated, with the same Message-ID). Lines are `sent <outbox id> <words>` and `recorded <outbox id>`.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

LIMIT = 64 * 1024  # bytes: a longer journal is shortened when nothing is being sent
LINE = re.compile(r"(sent|recorded) ([0-9]{1,19})(?: ([^\n]*))?")


def note_sent(path: Path, id: int, words: str) -> None:
    """The other side took this outbox row; to be called before anything else is done about it. Raises OSError."""
    said = " ".join("".join(c if c.isprintable() else " " for c in words[:200]).split())
    _append(path, f"sent {id} {said}\n")


def note_recorded(path: Path, id: int) -> None:
    """The database knows that this row was sent. Raises OSError."""
    _append(path, f"recorded {id}\n")


def settled(path: Path) -> dict[int, str]:
    """The rows that were sent and not recorded, with the server's words: at start they are marked as sent, not sent
    again. A line cut short by a power failure counts for nothing. Raises OSError, but not for a missing file."""
    try:
        text = path.read_bytes().decode("utf-8", "replace")
    except FileNotFoundError:
        return {}
    found: dict[int, str] = {}
    for line in text.split("\n")[:-1]:
        if match := LINE.fullmatch(line):
            what, id, words = match.groups()
            if what == "sent":
                found[int(id)] = words or ""
            else:
                found.pop(int(id), None)
    return found


def shorten(path: Path) -> None:
    """Empties a journal that has grown, once all that it holds is recorded. Call it while nothing is being sent."""
    if path.exists() and path.stat().st_size > LIMIT and not settled(path):
        clear(path)


def clear(path: Path) -> None:
    """Empties the journal: after a start, when what it said stands in the database. Ids come again in another
    database (restored, or made anew), so old lines must not stay."""
    if path.exists():
        os.truncate(path, 0)


def _append(path: Path, line: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, line.encode("utf-8"))
    finally:
        os.close(descriptor)
