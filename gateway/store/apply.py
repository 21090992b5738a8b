"""Writes a decision down: ticket, entries, outbox rows, all or nothing. Call it inside `writing()`.

An entry's chain value is SHA-256 over the previous value of the same ticket and the entry's own columns, so that a
changed, missing or inserted row shows (`ringback check --audit`).
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import datetime, timedelta
from typing import Any

from gateway import store
from gateway.conversation import number_for
from gateway.matching import likeness
from gateway.model import (
    Address,
    Attachment,
    Body,
    Contact,
    ContactAddress,
    Entry,
    Outbox,
    Participant,
    Question,
    Ticket,
    database,
    execute,
    insert,
    micros,
    moment,
    row,
    update,
)
from gateway.store import facts, intake, schedule, texts
from gateway.store import outbox as outgoing
from gateway.values import (
    Channel,
    Decision,
    Enrolment,
    InboundMessage,
    Kind,
    Medium,
    NewContact,
    NewEntry,
    NewTicket,
    Notice,
    OutboxState,
    Permanent,
    Person,
    Status,
    Step,
    Written,
)

FIRST_TICKET = 1001
SNIPPET = 160


def apply(
    decision: Decision, now: datetime, inbound: int | None = None, message: InboundMessage | None = None
) -> Written:
    """Writes one decision; `inbound` is the mailroom row that caused it, with the message read from it."""
    written = _write(decision, now, inbound)
    if inbound is not None:
        _settle(inbound, decision, message, written, micros(now))
    return written


def _write(decision: Decision, now: datetime, inbound: int | None) -> Written:
    at = micros(now)
    if decision.contact:
        _add_contact(decision.contact, at)
    for enrolment in decision.enrolments:
        _enrol(enrolment, at)
    number, chain = _ticket(decision, at)
    entries: list[int] = []
    for entry in _remembering(decision):
        assert number is not None, "an entry needs a ticket"
        chain, entry_id = _add_entry(number, chain, entry, at, inbound)
        entries.append(entry_id)
    if number is not None:
        _update_ticket(number, chain, decision, entries, at)
        _add_participants(number, decision.participants)
    outbox = tuple(_add_outbox(notice, number, entries, now, inbound) for notice in decision.notices)
    _change_others(decision, at)
    _change_questions(decision, number, at, inbound)
    for other in decision.also:
        _write(other, now, inbound)
    return Written(number, tuple(entries), tuple(id for id in outbox if id))


# -- people ------------------------------------------------------------------------------------------------------


def _add_contact(new: NewContact, at: int) -> None:
    known = facts.person(new.address)
    if known.contact is not None:
        return
    contact = insert(Contact, name=new.name, kind=new.kind, created_at=at)
    address = known.address_id or insert(Address, medium=new.medium, value=new.address)
    insert(ContactAddress, contact=contact, address=address, last_seen=at)


def address_id(value: str) -> int | None:
    """The id of an address, made when it is new; None for ""."""
    if not value:
        return None
    found = row("select id from address where value = ?", value)
    medium = Medium.MAIL if "@" in value else Medium.SMS
    return int(found[0]) if found else insert(Address, medium=medium, value=value)


def _enrol(enrolment: Enrolment, at: int) -> None:
    """A phone that was shown to be somebody's gives commands for nobody else; a revoked one stays known as his."""
    address = address_id(enrolment.phone)
    execute("update contact_address set verified_at = null where address = ?", address)
    if not enrolment.verified:
        return
    known = row("select 1 from contact_address where contact = ? and address = ?", enrolment.contact, address)
    if not known:
        insert(ContactAddress, contact=enrolment.contact, address=address, last_seen=at)
    execute(
        "update contact_address set verified_at = ?, certainty = 'known' where contact = ? and address = ?",
        at,
        enrolment.contact,
        address,
    )


# -- the ticket --------------------------------------------------------------------------------------------------


def _ticket(decision: Decision, at: int) -> tuple[int | None, str]:
    """The ticket's number and its last chain value; a new ticket is written here, with the values it ends with."""
    if decision.new_ticket:
        return _add_ticket(decision.new_ticket, at), ""
    if decision.ticket is None:
        return None, ""
    found = row("select chain from ticket where number = ?", decision.ticket)
    if found is None:
        raise Permanent(f"there is no ticket #{decision.ticket}")
    return decision.ticket, str(found[0])


def _add_ticket(new: NewTicket, at: int) -> int:
    number = int(row("select coalesce(max(number), ?) + 1 from ticket", FIRST_TICKET - 1)[0])
    requester = facts.person(new.requester_address)
    if requester.shared:
        requester = Person(new.requester_address)  # nobody knows yet whose request it is
    insert(
        Ticket,
        number=number,
        inbox=new.inbox,
        kind=new.kind,
        subject=new.subject,
        status=new.status,
        priority=new.priority,
        requester=requester.contact,
        requester_address=new.requester_address,
        organisation=requester.organisation,
        assignee=new.assignee,
        team=new.team,
        acquisition=new.acquisition,
        next_at=at,
        opened_at=at,
        updated_at=at,
    )
    return number


def _remembering(decision: Decision) -> tuple[NewEntry, ...]:
    """The entries; the first of a command keeps the columns that it changes, as they were and as they became."""
    if not decision.remember or not decision.entries or not decision.changes:
        return decision.entries
    names = list(decision.changes)
    before = row(f"select {', '.join(names)} from ticket where number = ?", decision.ticket)  # noqa: S608 - columns
    first = decision.entries[0]
    kept = {**first.data, "before_it": dict(zip(names, before, strict=True)), "after_it": _in_micros(decision.changes)}
    return (replace(first, data=kept), *decision.entries[1:])


def _update_ticket(number: int, chain: str, decision: Decision, entries: Sequence[int], at: int) -> None:
    columns = _in_micros(decision.changes)
    if decision.entries:
        columns |= {"chain": chain, "last_entry": entries[-1], "updated_at": at}
        shown = next((e for e in reversed(decision.entries) if e.kind is not Kind.EVENT), None)
        if decision.moved and not shown:
            columns |= _shown_of(decision.moved[-1])
        if shown:
            columns |= {
                "last_channel": shown.channel,
                "last_author": shown.author_name or shown.author_address,
                "last_text": " ".join(shown.text.split())[:SNIPPET],
            }
    if columns:
        update("ticket", "number", number, **columns)
    if columns.get("status", Status.CLOSED) != Status.CLOSED:
        outgoing.take_back_closing(number, at)


def _shown_of(entry: int) -> dict[str, Any]:
    """What lists show of a message that was moved here."""
    channel, author, text = row(
        "select e.channel, coalesce(nullif(b.author, ''), a.value, ''), b.text from entry e "
        "join body b on b.entry = e.id left join address a on a.id = e.author where e.id = ?",
        entry,
    )
    return {"last_channel": channel, "last_author": author, "last_text": " ".join(text.split())[:SNIPPET]}


def _add_participants(number: int, participants: Sequence[tuple[str, str]]) -> None:
    for address, role in participants:
        if not row("select 1 from participant where ticket = ? and address = ?", number, address):
            insert(Participant, ticket=number, address=address, contact=facts.person(address).contact, role=role)


# -- entries -----------------------------------------------------------------------------------------------------


def _add_entry(number: int, chain: str, new: NewEntry, at: int, inbound: int | None) -> tuple[str, int]:
    """Writes an entry with everything that hangs on it; returns the new chain value and the entry's id."""
    salt = secrets.token_hex(8)
    columns = {
        "ticket": number,
        "kind": str(new.kind),
        "channel": str(new.channel),
        "account": new.account,
        "author": address_id(new.author_address),
        "public": new.public,
        "reason": new.reason,
        "data": json.dumps(dict(new.data)) if new.data else "{}",
        "inbound": inbound,
        "at": at,
        "digest": digest(
            salt,
            new.author_name,
            new.subject,
            new.text,
            new.quoted,
            new.html,
            *(of_file(f.sha256, f.type, f.name) for f in new.files),
        ),
    }
    chain = link(chain, columns)
    entry = insert(Entry, **columns, chain=chain)
    words = {
        "author": new.author_name,
        "subject": new.subject,
        "text": new.text,
        "quoted": new.quoted,
        "html": new.html,
    }
    insert(Body, entry=entry, salt=salt, **words)
    if new.kind is not Kind.EVENT:
        store.engine().index_words(database.obj, entry, new.subject, new.text)
    for file in new.files:
        insert(
            Attachment, entry=entry, sha256=file.sha256, name=file.name, type=file.type, size=file.size, cid=file.cid
        )
    for n, media in enumerate(new.media):
        driver, ours = new.media_of
        coming = {"driver": driver, "number": ours, "entry": entry, "media": asdict(media)}
        schedule.add(f"media:{inbound}:{n}", moment(at), coming)
    for value in new.message_ids:
        _refer(value, number, entry)
    for value in new.ancestors:
        _refer(value, number, None)
    return chain, entry


def _refer(value: str, number: int, entry: int | None) -> None:
    """The first to be known by an id keeps it, except that an entry takes over from a mere ancestor."""
    execute(
        "insert into reference (value, ticket, entry) values (?, ?, ?) on conflict (value) do update "
        "set entry = excluded.entry, ticket = excluded.ticket "
        "where reference.entry is null and excluded.entry is not null and reference.ticket = excluded.ticket",
        value,
        number,
        entry,
    )


def digest(salt: str, *words: str) -> str:
    """SHA-256 of an entry's salt, words and files: it stays when erasure empties the words."""
    return hashlib.sha256(json.dumps([salt, *words], separators=(",", ":")).encode()).hexdigest()


def of_file(sha256: str, media_type: str, name: str) -> str:
    """What an entry's digest covers of a file: its bytes, its type and its name."""
    return f"{sha256} {media_type} {name}"


def link(previous: str, columns: Mapping[str, Any]) -> str:
    """The chain value of an entry after `previous`; "" starts a ticket's chain."""
    said = [previous, *(bool(columns[name]) if name == "public" else columns[name] for name in CHAINED)]
    return hashlib.sha256(json.dumps(said, ensure_ascii=True, separators=(",", ":")).encode()).hexdigest()


CHAINED = ("ticket", "kind", "channel", "account", "author", "reason", "data", "public", "inbound", "at", "digest")


# -- what is sent ------------------------------------------------------------------------------------------------


def _add_outbox(notice: Notice, number: int | None, entries: Sequence[int], now: datetime, inbound: int | None) -> int:
    """Writes one outbox row and returns its id, 0 when its key is there already (one event, one message)."""
    entry = entries[notice.entry] if notice.entry is not None else notice.data.get("entry")
    key = notice.key
    for name, value in (("ticket", number), ("entry", entry), ("inbound", inbound)):
        key = key.replace(f"{{{name}}}", str(value))
    if row("select 1 from outbox where key = ?", key):
        return 0
    held = notice.needs_release or notice.hold_seconds > 0
    from_number = _number(notice, number, now)
    return insert(
        Outbox,
        key=key,
        ticket=number,
        entry=entry,
        kind=notice.kind,
        medium=notice.medium,
        recipient=notice.recipient,
        account=notice.account,
        data=json.dumps(dict(notice.data)) if notice.data else "{}",
        state=OutboxState.HELD if held else OutboxState.READY,
        created_at=micros(now),
        not_before=None if notice.needs_release else micros(now + timedelta(seconds=notice.hold_seconds)),
        changed=micros(now),
        number=from_number,
    )


def _number(notice: Notice, ticket: int | None, now: datetime) -> str:
    """Which of our numbers an SMS goes from; of a pool the one that carries the ticket's conversation with him."""
    if notice.medium is not Medium.SMS or not notice.numbers:
        return ""
    chosen = number_for(notice.numbers, ticket, texts.bindings(notice.recipient) if len(notice.numbers) > 1 else ())
    if ticket is not None and notice.account is None:
        execute(
            "insert into binding (number, phone, ticket, used_at) values (?, ?, ?, ?) "
            "on conflict (phone, number) do update set ticket = excluded.ticket, used_at = excluded.used_at",
            chosen,
            notice.recipient,
            ticket,
            micros(now),
        )
    return chosen


# -- questions ---------------------------------------------------------------------------------------------------


def _change_questions(decision: Decision, ticket: int | None, at: int, inbound: int | None) -> None:
    for ask in decision.asks:
        question = insert(
            Question,
            number=ask.number,
            phone=ask.phone,
            kind=ask.kind,
            options=json.dumps(ask.options),
            command=ask.command,
            held=inbound if ask.held else None,
            code=ask.code,
            created_at=at,
            expires_at=micros(ask.expires_at),
        )
        if ask.held and inbound is not None:
            update("inbound", "id", inbound, question=question)
    if decision.waits_for is not None and inbound is not None:
        update("inbound", "id", inbound, question=decision.waits_for)
    for question, columns in decision.question_changes.items():
        update("question", "id", question, **columns)
        if columns.get("state", "open") != "open":
            outgoing.forget_codes(question)
    for question, ruling in decision.answers:
        intake.rule_waiting(question, ruling)
    for entry in decision.moved:
        by_id = f"update reference set ticket = ? where value = ({facts.MESSAGE_ID}) and entry = ?"  # noqa: S608
        execute(by_id, ticket, entry, entry)


# -- the rest ----------------------------------------------------------------------------------------------------


def _change_others(decision: Decision, at: int) -> None:
    outgoing.add_results(decision.results, moment(at))
    for count in decision.counts:
        execute(
            "insert into counter (counter, subject, slot, count) values (?, ?, ?, 1) "
            "on conflict (counter, subject, slot) do update set count = counter.count + 1",
            count.counter,
            count.subject,
            at // facts.SLOT,
        )
    for value, columns in decision.address_changes.items():
        address_id(value)
        update("address", "value", value, **_in_micros(columns))
    for outbox, columns in decision.outbox_changes.items():
        update("outbox", "id", outbox, changed=at, **_in_micros(columns))
    for name, words in decision.alarms:
        schedule.beat(name, moment(at), words)
    for value, refused in decision.blocks:
        execute("delete from block where value = ?", value)
        execute("insert into block (value, refused, at) values (?, ?, ?)", value, refused, at)


def _in_micros(columns: Mapping[str, Any]) -> dict[str, Any]:
    return {name: micros(value) if isinstance(value, datetime) else value for name, value in columns.items()}


def trace_json(steps: Sequence[Step]) -> str:
    """A trace as the mailroom's row holds it."""
    return json.dumps([{"name": s.name, "found": s.found, "ms": s.ms, "hit": s.hit} for s in steps])


def _settle(
    inbound: int,
    decision: Decision,
    message: InboundMessage | None,
    written: Written,
    at: int,
) -> None:
    columns: dict[str, Any] = {
        "state": decision.state,
        "reason": decision.reason,
        "ticket": written.ticket,
        "entry": written.entries[0] if written.entries else None,
        "trace": trace_json(decision.trace),
        "done_at": at,
    }
    if message:
        columns |= {
            "sender": message.sender.address,
            "subject": "(a code)" if decision.secret else message.subject[:200],
            "sent_at": None if message.date is None or message.channel is Channel.MAIL else micros(message.date),
            "message_id": message.message_id,
            "content_hash": message.content_hash,
            "likeness": likeness(message),
            "category": message.category,
        }
    update("inbound", "id", inbound, **columns)
