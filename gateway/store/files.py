"""Files of an entry that come after it: pictures that a provider keeps for us. The entry stands, and is not touched."""

from __future__ import annotations

from datetime import datetime

from gateway.model import Attachment, insert, micros, row, update
from gateway.values import FilePart


def keep_file(entry: int, part: FilePart, now: datetime) -> None:
    """Hangs a file on an entry, once; its bytes lie in the blob store already. Inside `writing()`."""
    known = row("select 1 from attachment where entry = ? and sha256 = ? and name = ?", entry, part.sha256, part.name)
    ticket = ticket_of(entry)
    if known or ticket is None:
        return
    insert(Attachment, entry=entry, sha256=part.sha256, name=part.name, type=part.type, size=part.size, cid=part.cid)
    update("ticket", "number", ticket, updated_at=micros(now))


def ticket_of(entry: int) -> int | None:
    """The ticket on which an entry was written, None when there is no such entry."""
    found = row("select ticket from entry where id = ?", entry)
    return int(found[0]) if found else None
