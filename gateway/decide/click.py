"""What becomes of what one of us does on a page or the command line: a function an action, and a table of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from gateway.config import Config
from gateway.decide import notices
from gateway.values import (
    Account,
    Action,
    Answer,
    Assign,
    Channel,
    Close,
    Decision,
    Facts,
    InboundState,
    Kind,
    Medium,
    NewContact,
    NewEntry,
    NewTicket,
    Notice,
    NoticeKind,
    Permanent,
    Read,
    Remark,
    Reopen,
    Spam,
    Status,
    TicketFacts,
    Write,
)

DONE = InboundState.DONE
SPAM = "spam"


def decide_action(action: Action, actor: Account, facts: Facts, config: Config) -> Decision:
    """The decision about one action. Raises Permanent with words for the person when it cannot be done."""
    return ACTIONS[type(action)](action, actor, facts, config)


def _answer(action: Answer, actor: Account, facts: Facts, config: Config) -> Decision:
    ticket = _ticket(action.ticket, facts)
    if not action.text.strip() and not action.files:
        raise Permanent("There is nothing to send: write something first.")
    if not ticket.requester_address:
        raise Permanent("This ticket has no address to answer to.")
    if action.seen and action.seen < ticket.last_entry:
        raise Permanent("Something new came while you were writing. Read it, then send again.")
    entry = NewEntry(
        Kind.ANSWER, Channel.WEB, actor.name, account=actor.id, reason="page", text=action.text, files=action.files
    )
    changes: dict[str, Any] = {"unread": False, "due_at": None, "next_at": facts.now + notices.LATER}
    changes |= {"status": Status.WAITING, "closed_at": None, "closing_reason": ""}
    if ticket.assignee is None:
        changes["assignee"] = actor.id
    entries = [entry]
    if action.then == "close":
        changes |= _closed(action.reason, facts, config)
        entries.append(_event(actor, "closed", reason=action.reason))
    return Decision(
        DONE,
        "answer",
        ticket=ticket.number,
        entries=tuple(entries),
        changes=changes,
        notices=(notices.answer(ticket, 0, config.undo.mail),),
    )


def _remark(action: Remark, actor: Account, facts: Facts, config: Config) -> Decision:
    ticket = _ticket(action.ticket, facts)
    if not action.text.strip() and not action.files:
        raise Permanent("There is nothing to keep: write something first.")
    entry = NewEntry(
        Kind.NOTE,
        Channel.WEB,
        actor.name,
        account=actor.id,
        public=False,
        reason="page",
        text=action.text,
        files=action.files,
    )
    told = notices.to_assignee(ticket, facts, 0, but=actor.id) if ticket.assignee else ()
    return Decision(DONE, "note", ticket=ticket.number, entries=(entry,), notices=told)


def _assign(action: Assign, actor: Account, facts: Facts, config: Config) -> Decision:
    ticket = _ticket(action.ticket, facts)
    if action.assignee == ticket.assignee:
        return Decision(DONE, "assigned")
    known = {account.id: account for account in (*facts.staff, *facts.accounts.values(), actor)}
    to = known.get(action.assignee or 0)
    if action.assignee is not None and (to is None or not to.active):
        raise Permanent("There is no such colleague.")
    entry = _event(actor, "assigned", account=action.assignee, before=ticket.assignee)
    status = {"status": Status.OPEN} if ticket.status is Status.NEW and to else {}
    words = {"words": f"{actor.name} gave this to you."}
    told: tuple[Notice, ...] = (replace(notices.notice(to, 0), data=words),) if to and to.id != actor.id else ()
    return Decision(
        DONE,
        "assigned",
        ticket=ticket.number,
        entries=(entry,),
        changes={"assignee": action.assignee} | status,
        notices=told,
    )


def _close(action: Close, actor: Account, facts: Facts, config: Config) -> Decision:
    ticket = _ticket(action.ticket, facts)
    if ticket.status is Status.CLOSED:
        return Decision(DONE, "closed")
    return Decision(
        DONE,
        "closed",
        ticket=ticket.number,
        entries=(_event(actor, "closed", reason=action.reason),),
        changes=_closed(action.reason, facts, config),
    )


def _reopen(action: Reopen, actor: Account, facts: Facts, config: Config) -> Decision:
    ticket = _ticket(action.ticket, facts)
    if ticket.status is not Status.CLOSED:
        return Decision(DONE, "reopened")
    inbox = config.inbox(ticket.inbox) or config.inboxes[0]
    answer_by = facts.now + timedelta(hours=inbox.answer_hours)
    return Decision(
        DONE,
        "reopened",
        ticket=ticket.number,
        entries=(_event(actor, "reopened"),),
        changes={
            "status": Status.OPEN, "closed_at": None, "closing_reason": "", "due_at": answer_by, "next_at": answer_by,
        },
    )  # fmt: skip


def _read(action: Read, actor: Account, facts: Facts, config: Config) -> Decision:
    _ticket(action.ticket, facts)
    return Decision(DONE, "read", ticket=action.ticket, changes={"unread": False})


def _write(action: Write, actor: Account, facts: Facts, config: Config) -> Decision:
    inbox = config.inbox(action.inbox)
    if inbox is None:
        raise Permanent("There is no such inbox.")
    if not action.subject.strip() or not action.text.strip():
        raise Permanent("A new mail needs a subject and some words.")
    entry = NewEntry(
        Kind.ANSWER,
        Channel.WEB,
        actor.name,
        account=actor.id,
        reason="page",
        subject=action.subject,
        text=action.text,
        files=action.files,
    )
    key = f"new:{action.nonce}" if action.nonce else f"out:{{entry}}:{action.to}"
    mail = Notice(NoticeKind.ANSWER, Medium.MAIL, action.to, key, 0, hold_seconds=config.undo.mail)
    return Decision(
        DONE,
        "new-mail",
        contact=None if facts.sender.contact else NewContact(action.name, action.to),
        new_ticket=NewTicket(
            inbox.address,
            action.subject,
            action.to,
            kind=inbox.kind,
            status=Status.WAITING,
            team=inbox.team,
            assignee=actor.id,
            acquisition="web",
        ),
        entries=(entry,),
        changes={"unread": False, "next_at": facts.now + notices.LATER},
        notices=(mail,),
    )


def _spam(action: Spam, actor: Account, facts: Facts, config: Config) -> Decision:
    ticket = _ticket(action.ticket, facts)
    blocks = ((ticket.requester_address, True),) if action.block and ticket.requester_address else ()
    return Decision(
        DONE,
        SPAM,
        ticket=ticket.number,
        entries=(_event(actor, "closed", reason=SPAM, blocked=bool(blocks)),),
        changes=_end(SPAM, facts),
        blocks=blocks,
    )


ACTIONS: dict[type, Callable[[Any, Account, Facts, Config], Decision]] = {
    Answer: _answer,
    Remark: _remark,
    Assign: _assign,
    Close: _close,
    Reopen: _reopen,
    Read: _read,
    Write: _write,
    Spam: _spam,
}


def taken_back(
    ticket: TicketFacts, entry: int, answered: bool, actor: Account, now: datetime, config: Config
) -> Decision:
    """After an answer was cancelled in time: the timeline says so, and the ticket waits for us again, unless an earlier
    answer has gone out since the customer wrote (`answered`)."""
    event = _event(actor, "taken-back", entry=entry)
    if answered:
        waits: dict[str, Any] = {"status": Status.WAITING, "closed_at": None, "closing_reason": ""}
        return Decision(DONE, "taken-back", ticket=ticket.number, entries=(event,), changes=waits)
    inbox = config.inbox(ticket.inbox) or config.inboxes[0]
    answer_by = now + timedelta(hours=inbox.answer_hours)
    return Decision(
        DONE,
        "taken-back",
        ticket=ticket.number,
        entries=(event,),
        changes={
            "status": Status.OPEN, "closed_at": None, "closing_reason": "", "due_at": answer_by, "next_at": answer_by,
        },
    )  # fmt: skip


def _ticket(number: int, facts: Facts) -> TicketFacts:
    if number not in facts.tickets:
        raise Permanent(f"There is no ticket #{number}.")
    return facts.tickets[number]


def _closed(reason: str, facts: Facts, config: Config) -> dict[str, Any]:
    if reason not in config.closing.reasons:
        raise Permanent(f"Closing needs a reason: {', '.join(config.closing.reasons)}.")
    return _end(reason, facts)


def _end(reason: str, facts: Facts) -> dict[str, Any]:
    return {
        "status": Status.CLOSED,
        "closed_at": facts.now,
        "closing_reason": reason,
        "unread": False,
        "due_at": None,
        "next_at": facts.now + notices.LATER,
    }


def _event(actor: Account, what: str, **data: Any) -> NewEntry:
    return NewEntry(Kind.EVENT, Channel.WEB, account=actor.id, public=False, reason=what, data=data)
