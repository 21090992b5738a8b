"""What deciding needs to know of a text message and its sender, read in the transaction that writes the decision."""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Any

from gateway.config import SmsNumber
from gateway.conversation import numbers
from gateway.model import marks, micros, moment, row, rows
from gateway.store import facts
from gateway.store.facts import HOUR, SLOT
from gateway.values import (
    Account,
    Asked,
    ContactKind,
    Heard,
    InboundState,
    NoticeKind,
    Ordered,
    OutboxState,
    Person,
    Phone,
    QuestionKind,
    Ruling,
    SentText,
    TextFacts,
    Told,
)

QUESTION = (
    "select id, number, phone, kind, options, command, held, code, tries, created_at, expires_at, state from question"
)
CANDIDATES, SENT, HEARD, QUESTIONS, COLLEAGUES = 20, 60, 40, 20, 300
LAST_ORDERS = timedelta(hours=1)
WITHHELD = "withheld"  # what is counted of those who hide their number


def for_text(
    sender: str,
    number: str,
    text: str,
    named: int | None,
    way: SmsNumber,
    inbound: int,
    ruling: Ruling | None,
    now: datetime,
    sent_at: datetime,
) -> TextFacts:
    """The facts for a received SMS. `sender` is normalised ("" withheld), `named` the number a command names,
    `inbound` its own mailroom row (0 when it has none yet)."""
    who = phone(sender, sent_at)
    candidates = _candidates(who, way, now)
    questions = _questions(sender)
    sent = _sent(sender)
    heard = _heard(sender, inbound)
    account = who.account
    jobs = _jobs(account.id) if account else ()
    orders = _orders(account, now) if account else ()
    wanted = [
        *([ruling.ticket] if ruling and ruling.ticket else []),
        *([named] if named and named > 99 else []),
        *numbers(text),
        *candidates,
        *jobs,
        *(n for asked in questions for n in asked.options if n),
        *(s.ticket for s in sent[:20] if s.ticket),
        *(h.ticket for h in heard[:5] if h.ticket),
        *(order.ticket for order in orders[:1]),
    ]
    tickets = facts.tickets_by_number(list(dict.fromkeys(wanted))[:60], reach=account is not None, most=60)
    accounts = _colleagues() if account else facts.accounts_by_id([t.assignee for t in tickets.values()])
    enrolling = [int(q.command) for q in questions if q.kind is QuestionKind.ENROL and q.command.isdigit()]
    return TextFacts(
        now=now,
        at=sent_at,
        phone=who,
        number=number,
        tickets=tickets,
        candidates=tuple(n for n in candidates if n in tickets),
        jobs=tuple(n for n in jobs if n in tickets),
        questions=questions,
        sent=sent,
        heard=heard,
        bindings=bindings(sender),
        orders=orders,
        accounts={**accounts, **facts.accounts_by_id(enrolling)},
        staff=facts.staff(),
        blocked=row("select 1 from block where value = ? and refused = ?", sender, True) is not None
        if sender
        else False,
        new_tickets=_opened(sender, now),
        commands=_count("command", sender, now, 0),
        wrong_codes=_count("wrong-code", sender, now, HOUR),
        ruling=ruling,
        waits_for=_waited_for(inbound) if ruling else None,
        code=_fresh_code(),
    )


def for_field(account: Account, named: Sequence[int], now: datetime) -> TextFacts:
    """The facts for one of us who gives a command by mail: his mailbox stands where a phone would."""
    jobs = _jobs(account.id)
    orders = _orders(account, now)
    questions = _questions(account.address)
    wanted = [
        *named,
        *jobs,
        *(n for asked in questions for n in asked.options if n),
        *(order.ticket for order in orders[:1]),
    ]
    tickets = facts.tickets_by_number(list(dict.fromkeys(wanted))[:60], reach=True, most=60)
    return TextFacts(
        now=now,
        at=now,
        phone=Phone(account.address, account=account),
        number="",
        tickets=tickets,
        jobs=tuple(n for n in jobs if n in tickets),
        questions=questions,
        orders=orders,
        accounts=_colleagues(),
        staff=facts.staff(),
        code=_fresh_code(),
    )


def for_phone(number: str, account: int, now: datetime) -> TextFacts:
    """The facts for enrolling and revoking a phone."""
    waiting = rows(
        "select id from outbox where recipient = ? and medium = 'sms' and account is not null "
        "and state in ('held', 'ready', 'uncertain')",
        number,
    )
    return TextFacts(
        now=now,
        at=now,
        phone=phone(number, now + timedelta(microseconds=1)),  # also what was verified this very moment
        number="",
        on_its_way=tuple(line[0] for line in waiting),
        codes_sent=_count("enrol-code", number, now, HOUR),
        codes_for_account=_count("enrol-code", f"account {account}", now, HOUR),
        questions=_questions(number),
        accounts=facts.accounts_by_id([account]),
        bindings=bindings(number),
        code=_fresh_code(),
    )


def _waited_for(inbound: int) -> int | None:
    found = row("select question from inbound where id = ?", inbound)
    return None if found is None else found[0]


def _fresh_code() -> str:
    """Six digits; a command's code is the first four of them."""
    return str(secrets.randbelow(900_000) + 100_000)


# -- the phone ---------------------------------------------------------------------------------------------------


def phone(number: str, at: datetime) -> Phone:
    """A number with everybody who is known to have it, and the one of us who had enrolled it at that time."""
    found = row(
        "select id, opted_out, commands_off_until, automatic_off_until from address where value = ? and value <> ''",
        number,
    )
    if found is None:
        return Phone(number)
    address, opted_out, commands_off, automatic_off = found
    lines = rows(
        "select c.id, c.name, c.kind, c.organisation, c.time_zone, ca.verified_at from contact_address ca "
        "join contact c on c.id = ca.contact where ca.address = ? and ca.certainty = 'known' order by c.id",
        address,
    )
    people = tuple(
        Person(number, address, contact, name, ContactKind(kind), organisation)
        for contact, name, kind, organisation, _, _ in lines
    )
    verified = [line[0] for line in lines if line[5] is not None and line[5] < micros(at)]
    return Phone(
        number,
        people,
        _account_of(verified),
        bool(opted_out),
        None if commands_off is None else moment(commands_off),
        None if automatic_off is None else moment(automatic_off),
        next((line[4] for line in lines if line[4]), ""),
    )


def _account_of(contacts: Sequence[int]) -> Account | None:
    if not contacts:
        return None
    line = row(f"select id from account where active = ? and contact in ({marks(contacts)})", True, *contacts)  # noqa: S608
    return None if line is None else facts.accounts_by_id([line[0]])[line[0]]


def _colleagues() -> dict[int, Account]:
    ids = [line[0] for line in rows("select id from account where active = ? order by id limit ?", True, COLLEAGUES)]
    return facts.accounts_by_id(ids)


# -- tickets -----------------------------------------------------------------------------------------------------


def _candidates(who: Phone, way: SmsNumber, now: datetime) -> tuple[int, ...]:
    """What is open, or was closed not long ago, of everybody with this phone; newest activity first."""
    if not who.number:
        return ()
    since = micros(now - timedelta(days=way.reopen_days))
    found = {line[0]: line[1] for line in _theirs("requester_address = ?", [who.number], since)}
    if contacts := [person.contact for person in who.people if person.contact]:
        found |= {line[0]: line[1] for line in _theirs(f"requester in ({marks(contacts)})", contacts, since)}
    return tuple(sorted(found, key=lambda n: (-found[n], -n))[:CANDIDATES])


def _theirs(condition: str, values: Sequence[Any], since: int) -> list[Any]:
    return rows(
        f"select number, updated_at from ticket where {condition} "  # noqa: S608 - the words are ours
        "and (status <> 'closed' or closed_at >= ?) and merged_into is null order by updated_at desc limit ?",
        *values,
        since,
        CANDIDATES,
    )


def _jobs(account: int) -> tuple[int, ...]:
    lines = rows(
        "select number from ticket where status <> 'closed' and assignee = ? and merged_into is null "
        "order by updated_at desc, number desc limit ?",
        account,
        CANDIDATES,
    )
    return tuple(sorted(line[0] for line in lines))  # lines of a list must not change places with every command


# -- what was said -----------------------------------------------------------------------------------------------


def _questions(number: str) -> tuple[Asked, ...]:
    if not number:
        return ()
    lines = rows(f"{QUESTION} where phone = ? and state <> 'over' order by id desc limit ?", number, QUESTIONS)
    return tuple(_asked(*line) for line in lines)


def _asked(
    id: int,
    number: str,
    phone: str,
    kind: str,
    options: str,
    command: str,
    held: int | None,
    code: str,
    tries: int,
    created_at: int,
    expires_at: int,
    state: str,
) -> Asked:
    return Asked(
        id,
        number,
        phone,
        QuestionKind(kind),
        tuple(json.loads(options)),
        command,
        held,
        code,
        tries,
        moment(created_at),
        moment(expires_at),
        state,
    )


def _sent(number: str) -> tuple[SentText, ...]:
    if not number:
        return ()
    lines = rows(
        "select created_at, ticket, kind, number, rendered from outbox where medium = 'sms' and recipient = ? "
        "and state in ('ready', 'sending', 'sent', 'uncertain') order by id desc limit ?",
        number,
        SENT,
    )
    return tuple(
        SentText(moment(at), ticket, NoticeKind(kind), ours, bytes(text or b"").decode("utf-8", "replace"))
        for at, ticket, kind, ours, text in lines
    )


def _heard(number: str, inbound: int) -> tuple[Heard, ...]:
    if not number:
        return ()
    before = "and i.id < ? " if inbound else "and i.id > ? "
    lines = rows(
        "select i.id, coalesce(i.sent_at, i.received_at), coalesce(r.ticket, i.ticket), i.ticket, i.entry, "  # noqa: S608
        "i.state, i.reason, i.content_hash, i.subject, i.question "
        "from inbound i left join reference r on r.value = i.message_id and r.entry = i.entry "
        f"where i.sender = ? and i.sender <> '' {before}and i.channel = 'sms' order by i.id desc limit ?",
        number,
        inbound,
        HEARD,
    )
    return tuple(
        Heard(id, moment(at), ticket, landed, entry, InboundState(state), reason, content, subject, question)
        for id, at, ticket, landed, entry, state, reason, content, subject, question in lines
    )


def bindings(number: str) -> tuple[tuple[str, int, datetime], ...]:
    """Which of our numbers carry which ticket's conversation with a phone."""
    lines = rows("select number, ticket, used_at from binding where phone = ?", number) if number else []
    return tuple((ours, ticket, moment(at)) for ours, ticket, at in lines)


def _opened(number: str, now: datetime) -> int:
    """Tickets that came from this phone within the hour."""
    if not number:
        return _count("ticket", WITHHELD, now, HOUR)
    since = micros(now - timedelta(hours=1))
    found = row(
        "select count(*) from ticket where requester_address = ? and updated_at >= ? and opened_at >= ?",
        number,
        since,
        since,
    )
    return int(found[0])


def _count(counter: str, subject: str, now: datetime, slots: int) -> int:
    """How often, in the present ten minutes and so many before."""
    found = row(
        "select sum(count) from counter where counter = ? and subject = ? and slot >= ?",
        counter,
        subject,
        micros(now) // SLOT - slots,
    )
    return int(found[0] or 0)


# -- what he ordered before --------------------------------------------------------------------------------------


def _orders(account: Account, now: datetime) -> tuple[Ordered, ...]:
    """His commands of the last hour, newest first, with what went to others because of them."""
    senders = [account.address, *_phones(account.contact)]
    received = [
        line
        for sender in senders
        for line in rows(
            "select id, done_at from inbound where sender = ? and sender <> '' order by id desc limit 40", sender
        )
    ]
    ids = [id for id, done_at in received if (done_at or 0) >= micros(now - LAST_ORDERS)]
    if not ids:
        return ()
    lines = rows(
        f"select id, ticket, inbound, at, data from entry where inbound in ({marks(ids)}) and account = ? "  # noqa: S608
        "order by id desc",
        *ids,
        account.id,
    )
    entries = [(id, ticket, inbound, at, json.loads(data)) for id, ticket, inbound, at, data in lines]
    undone = {data["entry"] for *_, data in entries if "verb_undone" in data}
    told = _told([entry[0] for entry in entries])
    of = {entry[0]: entry[2] for entry in entries}
    found = []
    for id, ticket, inbound, at, data in entries:
        if "verb" not in data:
            continue
        before, overtaken = _still(ticket, data.get("before_it", {}), data.get("after_it", {}))
        mine = tuple(one for entry, one in told if of[entry] == inbound)
        found.append(Ordered(id, ticket, data["verb"], moment(at), before, id in undone, overtaken, mine))
    return tuple(found)


def _still(ticket: int, before: dict[str, Any], after: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    """The columns that are as the command left them, as they were before; and whether somebody changed what counts."""
    if not before:
        return {}, False
    names = list(before)
    now = dict(zip(names, row(f"select {', '.join(names)} from ticket where number = ?", ticket), strict=True))  # noqa: S608
    same = {name: before[name] for name in names if now[name] == after.get(name)}
    return same, any(name in before and name not in same for name in ("status", "assignee"))


def _phones(contact: int) -> list[str]:
    lines = rows(
        "select a.value from contact_address ca join address a on a.id = ca.address "
        "where ca.contact = ? and a.medium = 'sms'",
        contact,
    )
    return [line[0] for line in lines]


def _told(entries: Sequence[int]) -> list[tuple[int, Told]]:
    if not entries:
        return []
    lines = rows(
        f"select entry, id, kind, state, done_at from outbox where entry in ({marks(entries)}) and kind <> 'echo'",  # noqa: S608
        *entries,
    )
    return [
        (entry, Told(id, NoticeKind(kind), OutboxState(state), None if at is None else moment(at)))
        for entry, id, kind, state, at in lines
    ]


# -- questions that ended ----------------------------------------------------------------------------------------


def expired(now: datetime, limit: int = 200) -> list[Asked]:
    """Questions whose time is over, oldest first."""
    lines = rows(f"{QUESTION} where state = 'open' and expires_at <= ? order by expires_at limit ?", micros(now), limit)
    return [_asked(*line) for line in lines]


def activity(options: Iterable[int | None]) -> dict[int, int]:
    """When each of the tickets last changed."""
    wanted = [n for n in options if n]
    if not wanted:
        return {}
    return dict(rows(f"select number, updated_at from ticket where number in ({marks(wanted)})", *wanted))  # noqa: S608
