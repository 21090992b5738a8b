"""What becomes of what one of us does on a page or the command line: a function an action, and a table of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from gateway.config import Config, Inbox
from gateway.decide import notices
from gateway.decide.pieces import LATER, answer_by, answered, closed, fresh_subject, open_again, reopened
from gateway.values import (
    Account,
    Action,
    Answer,
    Ask,
    Assign,
    Channel,
    Close,
    Decision,
    Facts,
    InboundState,
    Kind,
    Medium,
    MessageOn,
    NewContact,
    NewEntry,
    NewTicket,
    Notice,
    NoticeKind,
    Permanent,
    Person,
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
    answer = _to_requester(action, ticket, config)
    if action.seen and action.seen < ticket.last_entry:
        raise Permanent("Something new came while you were writing. Read it, then send again.")
    channel = Channel.SMS if answer.medium is Medium.SMS else Channel.WEB
    entry = NewEntry(
        Kind.ANSWER, channel, actor.name, account=actor.id, reason="page", text=action.text, files=action.files
    )
    changes = answered(facts.now)
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
        notices=(answer,),
        address_changes=_a_person_writes(answer),
    )


def _a_person_writes(notice: Notice) -> dict[str, dict[str, Any]]:
    """A phone that behaved like a machine gets automatic SMS again: one of us talks to it."""
    return {notice.recipient: {"automatic_off_until": None}} if notice.medium is Medium.SMS else {}


def _to_requester(action: Answer, ticket: TicketFacts, config: Config) -> Notice:
    """By the medium that was chosen, else as the customer last wrote. Raises Permanent with why it cannot be."""
    if not ticket.reach:
        raise Permanent("This ticket has no address to answer to.")
    reach = notices.reach_of(ticket, config, action.by)
    if reach is None:
        raise Permanent(_unreachable(action.by, ticket, config))
    if reach.medium is Medium.SMS and action.files:
        raise Permanent("Files cannot go by SMS: answer by email, or leave them out.")
    if reach.medium is Medium.SMS and not notices.goes_by_sms(action.text, files=False):
        raise Permanent(_too_long(action.text))
    hold = config.undo.sms if reach.medium is Medium.SMS else config.undo.mail
    notice = notices.to_customer(NoticeKind.ANSWER, ticket, 0, config, hold, by=reach.medium)
    assert notice is not None, "he is reachable"
    return notice


def _too_long(text: str) -> str:
    return f"An SMS holds at most {notices.MOST_SMS} characters; this has {len(text.strip())}."


def _unreachable(by: Medium | None, ticket: TicketFacts, config: Config) -> str:
    ways = [reach for reach in ticket.reach if by in (None, reach.medium)]
    if by is Medium.MAIL and not ways:
        texted = any(reach.usable for reach in ticket.reach if reach.medium is Medium.SMS)
        return "No email address is known. " + ("Answer by SMS." if texted else "Call, or ask for one.")
    if not config.sms:
        return "No SMS number is configured ([[sms]] in the config)."
    out = next((reach for reach in ways if reach.opted_out_at), None)
    if out is not None and out.opted_out_at is not None:
        return f"{out.address} has said STOP on {out.opted_out_at:%d %b}: no SMS goes there. Answer by email or call."
    return "No phone number is known that takes SMS." if by is Medium.SMS else "Nothing reaches this customer."


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
    told = notices.to_assignee(ticket, facts, 0, but=actor.id, config=config) if ticket.assignee else ()
    return Decision(DONE, "note", ticket=ticket.number, entries=(entry,), notices=told)


def _assign(action: Assign, actor: Account, facts: Facts, config: Config) -> Decision:
    """To a colleague, or nobody. To somebody outside it is an offer: the ticket stays new until he takes it, and the
    same again offers it again."""
    ticket = _ticket(action.ticket, facts)
    known = {account.id: account for account in (*facts.staff, *facts.accounts.values(), actor)}
    to = known.get(action.assignee or 0)
    offers = to is not None and notices.works_outside(to)
    if action.assignee == ticket.assignee and not offers:
        return Decision(DONE, "assigned")
    if action.assignee is not None and (to is None or not to.active):
        raise Permanent("There is no such colleague.")
    entry = _event(actor, "assigned", account=action.assignee, before=ticket.assignee)
    status = {"status": Status.OPEN} if ticket.status is Status.NEW and to and not offers else {}
    told: tuple[Notice, ...] = ()
    asks: tuple[Ask, ...] = ()
    if to and to.id != actor.id:
        given, ask = notices.job(to, ticket, 0, actor.name, facts.now, config)
        told, asks = (given,), (ask,)
    return Decision(
        DONE,
        "assigned",
        ticket=ticket.number,
        entries=(entry,),
        changes={"assignee": action.assignee} | status,
        notices=told,
        asks=asks,
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
    return Decision(
        DONE,
        "reopened",
        ticket=ticket.number,
        entries=(_event(actor, "reopened"),),
        changes=open_again(ticket, facts.now, config),
    )


def _read(action: Read, actor: Account, facts: Facts, config: Config) -> Decision:
    _ticket(action.ticket, facts)
    return Decision(DONE, "read", ticket=action.ticket, changes={"unread": False})


def _write(action: Write, actor: Account, facts: Facts, config: Config) -> Decision:
    """A new mail or SMS; `to` is normalised: a number begins with +."""
    inbox = config.inbox(action.inbox)
    if inbox is None:
        raise Permanent("There is no such inbox.")
    by_sms = action.to.startswith("+")
    if not action.text.strip() or not (by_sms or action.subject.strip()):
        raise Permanent("An SMS needs some words." if by_sms else "A new mail needs a subject and some words.")
    entry = NewEntry(
        Kind.ANSWER,
        Channel.SMS if by_sms else Channel.WEB,
        actor.name,
        account=actor.id,
        reason="page",
        subject=action.subject,
        text=action.text,
        files=action.files,
    )
    medium = Medium.SMS if by_sms else Medium.MAIL
    first = _first_message(action, inbox, facts, config)
    return Decision(
        DONE,
        "new-sms" if by_sms else "new-mail",
        contact=None if facts.sender.contact else NewContact(action.name or action.to, action.to, medium),
        new_ticket=NewTicket(
            inbox.address,
            action.subject.strip() or fresh_subject(action.text, False),
            action.to,
            kind=inbox.kind,
            status=Status.WAITING,
            team=inbox.team,
            assignee=actor.id,
            acquisition="web",
        ),
        entries=(entry,),
        changes={"unread": False, "next_at": facts.now + LATER},
        notices=(first,),
        address_changes=_a_person_writes(first),
    )


def _first_message(action: Write, inbox: Inbox, facts: Facts, config: Config) -> Notice:
    key = f"new:{action.nonce}" if action.nonce else f"out:{{entry}}:{action.to}"
    if not action.to.startswith("+"):
        return Notice(NoticeKind.ANSWER, Medium.MAIL, action.to, key, 0, hold_seconds=config.undo.mail)
    way = config.way_of(inbox.address)
    if way is None:
        raise Permanent("No SMS number is configured ([[sms]] in the config).")
    if config.way(action.to):
        raise Permanent("This is our own number.")
    if facts.sender.opted_out:
        raise Permanent(f"{action.to} has said STOP: no SMS goes there. Write an email or call.")
    if action.files:
        raise Permanent("Files cannot go by SMS: write an email, or leave them out.")
    if not notices.goes_by_sms(action.text, files=False):
        raise Permanent(_too_long(action.text))
    return Notice(NoticeKind.ANSWER, Medium.SMS, action.to, key, 0, hold_seconds=config.undo.sms, numbers=way.numbers)


def moved(
    message: MessageOn,
    source: TicketFacts,
    target: TicketFacts | None,
    actor: Account,
    facts: Facts,
    config: Config,
) -> Decision:
    """A message goes to another ticket, or to a new one; both tell it."""
    leaves = _event(actor, "moved-out", entry=message.entry, **({"target": target.number} if target else {}))
    opens = NewTicket(
        source.inbox,
        message.subject or fresh_subject(message.text, False),
        message.author or source.requester_address,
        acquisition="web",
    )
    return Decision(
        DONE,
        "moved",
        ticket=target.number if target else None,
        new_ticket=None if target else opens,
        entries=(_event(actor, "moved-in", entry=message.entry, source=source.number),),
        changes=(reopened(target, facts.now, config) if target else {}) | {"unread": True},
        moved=(message.entry,),
        also=(Decision(DONE, "moved-out", ticket=source.number, entries=(leaves,)),),
    )


def _spam(action: Spam, actor: Account, facts: Facts, config: Config) -> Decision:
    ticket = _ticket(action.ticket, facts)
    blocks = ((ticket.requester_address, True),) if action.block and ticket.requester_address else ()
    return Decision(
        DONE,
        SPAM,
        ticket=ticket.number,
        entries=(_event(actor, "closed", reason=SPAM, blocked=bool(blocks)),),
        changes=closed(SPAM, facts.now),
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


def wake(
    ticket: TicketFacts, accounts: Mapping[int, Account], staff: tuple[Account, ...], now: datetime, config: Config
) -> Decision:
    """A pause is over: the ticket stands where it is seen, and whoever has it is told."""
    event = NewEntry(Kind.EVENT, Channel.CLOCK, public=False, reason="awake")
    changes: dict[str, Any] = {"snoozed_until": None}
    if ticket.status is Status.CLOSED:
        return Decision(DONE, "awake", ticket=ticket.number, changes=changes)
    due = answer_by(ticket.inbox, now, config)
    known = Facts(now, Person(""), accounts=accounts, staff=staff)
    told = notices.to_assignee(ticket, known, 0, but=None, config=config)
    return Decision(
        DONE,
        "awake",
        ticket=ticket.number,
        entries=(event,),
        changes=changes | {"status": Status.OPEN, "unread": True, "due_at": due, "next_at": due},
        notices=tuple(replace(one, data={**one.data, "words": "The pause is over."}) for one in told),
    )


def taken_back(
    ticket: TicketFacts, entry: int, is_answered: bool, actor: Account, now: datetime, config: Config
) -> Decision:
    """After an answer was cancelled in time: the timeline says so, and the ticket waits for us again, unless an earlier
    answer has gone out since the customer wrote (`is_answered`)."""
    event = _event(actor, "taken-back", entry=entry)
    if is_answered:
        waits: dict[str, Any] = {"status": Status.WAITING, "closed_at": None, "closing_reason": ""}
        return Decision(DONE, "taken-back", ticket=ticket.number, entries=(event,), changes=waits)
    return Decision(
        DONE,
        "taken-back",
        ticket=ticket.number,
        entries=(event,),
        changes=open_again(ticket, now, config),
    )


def _ticket(number: int, facts: Facts) -> TicketFacts:
    if number not in facts.tickets:
        raise Permanent(f"There is no ticket #{number}.")
    return facts.tickets[number]


def _closed(reason: str, facts: Facts, config: Config) -> dict[str, Any]:
    if reason not in config.closing.reasons:
        raise Permanent(f"Closing needs a reason: {', '.join(config.closing.reasons)}.")
    return closed(reason, facts.now)


def _event(actor: Account, what: str, **data: Any) -> NewEntry:
    return NewEntry(Kind.EVENT, Channel.WEB, account=actor.id, public=False, reason=what, data=data)
