"""What several decisions have in common: how a ticket stands afterwards, and a subject for what came without one."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from gateway.config import Config
from gateway.values import Status, TicketFacts

SUBJECT = 60  # characters
LATER = timedelta(days=3650)  # nothing is due: such tickets stand at the end of the list


def fresh_subject(text: str, pictures: bool) -> str:
    """The beginning of the words as a ticket's subject, ended at a word."""
    line = next((" ".join(line.split()) for line in text.splitlines() if line.strip()), "")
    if not line:
        return "A picture" if pictures else "(no text)"
    if len(line) <= SUBJECT:
        return line
    cut = line[:SUBJECT].rsplit(" ", 1)[0]
    return (cut if len(cut) > SUBJECT // 2 else line[:SUBJECT]) + "…"


# -- how a ticket stands: columns ----------------------------------------------------------------------------------


def answer_by(inbox: str, now: datetime, config: Config) -> datetime:
    """When an answer is due to what came now to an inbox; to the first one where its address is ours no more."""
    return now + timedelta(hours=(config.inbox(inbox) or config.inboxes[0]).answer_hours)


def open_again(ticket: TicketFacts, now: datetime, config: Config) -> dict[str, Any]:
    """It waits for us, and the clock starts."""
    due = answer_by(ticket.inbox, now, config)
    return {"status": Status.OPEN, "closed_at": None, "closing_reason": "", "due_at": due, "next_at": due}


def reopened(ticket: TicketFacts, now: datetime, config: Config) -> dict[str, Any]:
    """A person's message opens the ticket again and starts the clock, unless it runs already."""
    if ticket.status not in (Status.CLOSED, Status.WAITING):
        return {}
    return open_again(ticket, now, config) | {"snoozed_until": None}


def answered(now: datetime) -> dict[str, Any]:
    """It waits for the customer."""
    return {
        "status": Status.WAITING,
        "closed_at": None,
        "closing_reason": "",
        "unread": False,
        "due_at": None,
        "next_at": now + LATER,
    }


def closed(reason: str, now: datetime) -> dict[str, Any]:
    """Nothing is to be done any more."""
    return {
        "status": Status.CLOSED,
        "closed_at": now,
        "closing_reason": reason,
        "unread": False,
        "due_at": None,
        "next_at": now + LATER,
    }
