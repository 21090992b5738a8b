"""What several decisions have in common: a subject for what came without one, a ticket that is open again."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from gateway.config import Config
from gateway.values import Status, TicketFacts

SUBJECT = 60  # characters


def fresh_subject(text: str, pictures: bool) -> str:
    """The beginning of the words as a ticket's subject, ended at a word."""
    line = next((" ".join(line.split()) for line in text.splitlines() if line.strip()), "")
    if not line:
        return "A picture" if pictures else "(no text)"
    if len(line) <= SUBJECT:
        return line
    cut = line[:SUBJECT].rsplit(" ", 1)[0]
    return (cut if len(cut) > SUBJECT // 2 else line[:SUBJECT]) + "…"


def reopened(ticket: TicketFacts, now: datetime, config: Config) -> dict[str, Any]:
    """A person's message opens the ticket again and starts the clock, unless it runs already."""
    changes: dict[str, Any] = {}
    if ticket.status in (Status.CLOSED, Status.WAITING):
        inbox = config.inbox(ticket.inbox) or config.inboxes[0]
        answer_by = now + timedelta(hours=inbox.answer_hours)
        changes = {"status": Status.OPEN, "due_at": answer_by, "next_at": answer_by, "snoozed_until": None}
        if ticket.status is Status.CLOSED:
            changes |= {"closed_at": None, "closing_reason": ""}
    return changes
