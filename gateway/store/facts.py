"""What deciding needs to know, read in the transaction that will write the decision.

Each look-up is one statement on an index; none depends on how many tickets there are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from gateway.addresses import STAFF, domain_of
from gateway.matching import likeness
from gateway.model import marks, micros, moment, row, rows
from gateway.values import (
    Account,
    Clues,
    ContactKind,
    Facts,
    InboundMessage,
    Medium,
    MessageOn,
    Person,
    Purpose,
    Reach,
    Reference,
    Role,
    Ruling,
    Status,
    TicketFacts,
    Token,
    Twin,
)

SLOT = 600_000_000  # ten minutes, in microseconds
HOUR, DAY = 6, 144  # slots
MAX_TICKETS = 20
ACCOUNT = (
    "select a.id, a.contact, c.name, a.address, a.roles, a.generation, a.active, d.bounced, a.supervisor, c.time_zone, "
    "(select p.value from contact_address v join address p on p.id = v.address where v.contact = a.contact "
    "and v.verified_at is not null and p.medium = 'sms' and not p.opted_out and p.sms_ok order by v.verified_at desc "
    "limit 1) from account a join contact c on c.id = a.contact left join address d on d.value = a.address"
)
OWNED = (
    "select ca.contact, a.value from contact_address ca join address a on a.id = ca.address "
    "where ca.certainty = 'known' and ca.contact in ({})"
)
REACH = (
    "select ca.contact, a.value, a.medium, a.opted_out, a.opted_out_at, a.sms_ok, c.time_zone from contact_address ca "
    "join address a on a.id = ca.address join contact c on c.id = ca.contact "
    "where ca.certainty = 'known' and ca.contact in ({}) order by a.id"
)
MESSAGE_ID = "select i.message_id from entry e join inbound i on i.id = e.inbound where e.id = ?"
TICKET_COLUMNS = (
    "number", "inbox", "status", "subject", "requester", "requester_address", "assignee", "closed_at", "merged_into",
    "last_entry", "organisation", "updated_at", "snoozed_until", "escalation_level",
)  # fmt: skip
TICKET = f"select {', '.join(TICKET_COLUMNS)} from ticket"  # noqa: S608 - names are ours


def for_message(message: InboundMessage, clues: Clues, inbound: int, ruling: Ruling | None, now: datetime) -> Facts:
    """The facts for a received message. `inbound` is its own mailroom row (0 when it has none)."""
    references = _references(clues.references)
    tokens = [token for _, token in clues.tokens]
    numbers = [token.number for token in tokens] + [r.ticket for r in references] + list(clues.numbers)
    twins = _twins(message.message_id, inbound)
    numbers += [twin.ticket for twin in twins if twin.ticket]
    same_again = _same_again(message, now)
    numbers += same_again[:1]
    if ruling and ruling.ticket:
        numbers.insert(0, ruling.ticket)
    who = person(message.sender.address)
    tickets = tickets_by_number(numbers, reach=who.account is not None)
    staff_ids = [token.who for token in tokens if token.purpose in STAFF]
    accounts = accounts_by_id([*staff_ids, *(t.assignee for t in tickets.values() if t.assignee)])
    blocks = _blocks(message.sender.address)
    return Facts(
        now=now,
        sender=who,
        tickets=tickets,
        references=references,
        twins=twins,
        accounts=accounts,
        staff=staff(),
        blocked=next((value for value, refused in blocks if refused), ""),
        allowed=not all(refused for _, refused in blocks),
        counts=counts(message.sender.address, now),
        entry_times=_entry_times([token.entry for token in tokens if token.purpose in STAFF]),
        token_addresses=_addresses([t.who for t in tokens if t.purpose is Purpose.CUSTOMER_REPLY]),
        outbox=_outbox(tokens),
        ruling=ruling,
        same_again=same_again,
        known_ids=frozenset(r.value for r in references),
    )


def for_action(numbers: Iterable[int], address: str, now: datetime) -> Facts:
    """The facts for what one of us does: the tickets named, and the person addressed."""
    tickets = tickets_by_number(list(numbers), reach=True)
    wanted = [t.assignee for t in tickets.values() if t.assignee]
    recipient = address or next((t.requester_address for t in tickets.values()), "")
    return Facts(now=now, sender=person(recipient), tickets=tickets, accounts=accounts_by_id(wanted), staff=staff())


def person(address: str) -> Person:
    """Who an address belongs to, as far as known."""
    found = rows(
        "select a.id, a.opted_out, a.bounced, ca.contact, c.name, c.kind, c.organisation from address a "
        "left join contact_address ca on ca.address = a.id and ca.certainty = 'known' "
        "left join contact c on c.id = ca.contact where a.value = ? limit 2",
        address,
    )
    if not found:
        return Person(address)
    address_id, opted_out, bounced, contact, name, kind, organisation = found[0]
    account = None
    if contact is not None and kind == ContactKind.EMPLOYEE:
        line = row(f"{ACCOUNT} where a.contact = ?", contact)
        account = None if line is None else _account(*line)
    return Person(
        address,
        address_id,
        contact,
        name or "",
        ContactKind(kind or ContactKind.CUSTOMER),
        organisation,
        account,
        bool(opted_out),
        bool(bounced),
        shared=len(found) > 1 and address.startswith("+"),
    )


def tickets_by_number(numbers: Sequence[int], reach: bool = False, most: int = MAX_TICKETS) -> dict[int, TicketFacts]:
    """The tickets with these numbers, and those they were merged into; at most `most` are looked at. With `reach` also
    how their requesters are written to."""
    wanted = list(dict.fromkeys(n for n in numbers if n < 2**31))[:most]
    found: dict[int, TicketFacts] = {}
    for _ in range(3):  # merges of merges, followed that far
        if not wanted:
            break
        lines = rows(f"{TICKET} where number in ({marks(wanted)})", *wanted)
        tickets = [dict(zip(TICKET_COLUMNS, line, strict=True)) for line in lines]
        people = _participants(tickets)
        ways = _reach(tickets) if reach else {}
        found |= {
            said["number"]: _ticket(said, people[said["number"]], ways.get(said["number"], ())) for said in tickets
        }
        wanted = [said["merged_into"] for said in tickets if said["merged_into"] and said["merged_into"] not in found]
    return found


def _participants(tickets: Sequence[Mapping[str, Any]]) -> dict[int, frozenset[str]]:
    """Every address on each ticket: of its requester, and of who else is on it."""
    numbers = [said["number"] for said in tickets]
    contacts = [said["requester"] for said in tickets if said["requester"]]
    people: dict[int, set[str]] = {said["number"]: {said["requester_address"]} - {""} for said in tickets}
    for ticket, address in rows(
        f"select ticket, address from participant where ticket in ({marks(numbers)})",  # noqa: S608
        *numbers,
    ):
        people[ticket].add(address)
    if contacts:
        owned = rows(OWNED.format(marks(contacts)), *contacts)
        for said in tickets:
            people[said["number"]].update(value for contact, value in owned if contact == said["requester"])
    return {number: frozenset(addresses) for number, addresses in people.items()}


def _reach(tickets: Sequence[Mapping[str, Any]]) -> dict[int, tuple[Reach, ...]]:
    """How each requester is written to: as he last wrote first, then by the address the ticket began with."""
    contacts = list({said["requester"] for said in tickets if said["requester"]})
    owned = rows(REACH.format(marks(contacts)), *contacts) if contacts else []
    numbers = [said["number"] for said in tickets]
    last = dict(
        rows(
            "select e.ticket, a.value from entry e join address a on a.id = e.author where e.id in ("  # noqa: S608
            f"select max(id) from entry where ticket in ({marks(numbers)}) and kind = 'message' group by ticket)",
            *numbers,
        )
    )
    found = {}
    for said in tickets:
        ways = {line[1]: _way(*line[1:]) for line in owned if line[0] == said["requester"]}
        began = said["requester_address"]
        if began and began not in ways:
            ways[began] = _known_way(began)
        first = [address for address in (last.get(said["number"]), began) if address in ways]
        found[said["number"]] = tuple(ways[address] for address in dict.fromkeys((*first, *ways)))
    return found


def _known_way(address: str) -> Reach:
    line = row("select value, medium, opted_out, opted_out_at, sms_ok, '' from address where value = ?", address)
    return _way(*line) if line else Reach(Medium.MAIL if "@" in address else Medium.SMS, address)


def _way(value: str, medium: str, opted_out: bool, opted_out_at: int | None, sms_ok: bool, time_zone: str) -> Reach:
    by_sms = medium == Medium.SMS
    usable = bool(sms_ok) and not opted_out if by_sms else True
    at = None if opted_out_at is None or not opted_out else moment(opted_out_at)
    return Reach(Medium(medium), value, at, usable, time_zone)


def _ticket(said: Mapping[str, Any], participants: frozenset[str], reach: tuple[Reach, ...] = ()) -> TicketFacts:
    times = {
        name: None if said[name] is None else moment(said[name])
        for name in ("closed_at", "updated_at", "snoozed_until")
    }
    return TicketFacts(
        **{**said, **times, "status": Status(said["status"]), "participants": participants, "reach": reach}
    )


def accounts_by_id(ids: Sequence[int | None]) -> dict[int, Account]:
    """Accounts, active or not."""
    wanted = list(dict.fromkeys(i for i in ids if i and i < 2**31))
    if not wanted:
        return {}
    return {line[0]: _account(*line) for line in rows(f"{ACCOUNT} where a.id in ({marks(wanted)})", *wanted)}


def staff() -> tuple[Account, ...]:
    """Those who are told of what nobody owns: active agents and administrators."""
    lines = rows(
        f"{ACCOUNT} where a.active = ? and (a.roles like '%agent%' or a.roles like '%administrator%') order by a.id",
        True,
    )
    return tuple(_account(*line) for line in lines)


def _account(
    id: int,
    contact: int,
    name: str,
    address: str,
    roles: str,
    generation: int,
    active: bool,
    bounced: bool | None,
    supervisor: int | None,
    time_zone: str,
    phone: str | None,
) -> Account:
    words = frozenset(Role(word) for word in roles.split(",") if word)
    return Account(
        id, contact, name, address, words, generation, bool(active), bool(bounced), phone or "", supervisor, time_zone
    )


def _references(ids: Sequence[str]) -> tuple[Reference, ...]:
    """In the order of the ids: nearest first."""
    if not ids:
        return ()
    lines = rows(f"select value, ticket, entry from reference where value in ({marks(ids)})", *ids)  # noqa: S608
    known = {value: Reference(value, ticket, entry, entry is None) for value, ticket, entry in lines}
    return tuple(known[value] for value in ids if value in known)


def _twins(message_id: str, inbound: int) -> tuple[Twin, ...]:
    if not message_id:
        return ()
    lines = rows(
        "select id, content_hash, ticket, entry from inbound where message_id = ? and message_id <> '' and id <> ? "
        "and (state in ('done', 'parked') or state = 'failed' and ticket is not null) order by id limit 20",
        message_id,
        inbound,
    )
    return tuple(Twin(*line) for line in lines)


def _blocks(address: str) -> list[tuple[str, bool]]:
    """What was said of an address and of its domain: (value, refused?)."""
    return rows("select value, refused from block where value in (?, ?)", address, domain_of(address))


def counts(address: str, now: datetime) -> dict[tuple[str, str, str], int]:
    """How often the limited things happened in the last hour and day: (counter, subject, "hour" or "day") → times."""
    slot = micros(now) // SLOT
    subjects = (address, domain_of(address), "*")
    lines = rows(
        "select counter, subject, slot, count from counter where counter in ('acknowledgement', 'ticket') "
        "and subject in (?, ?, ?) and slot >= ?",
        *subjects,
        slot - DAY,
    )
    found: dict[tuple[str, str, str], int] = {}
    for counter, subject, at, count in lines:
        found[counter, subject, "day"] = found.get((counter, subject, "day"), 0) + count
        if at >= slot - HOUR:
            found[counter, subject, "hour"] = found.get((counter, subject, "hour"), 0) + count
    return found


def _same_again(message: InboundMessage, now: datetime) -> tuple[int, ...]:
    if not message.sender.address:
        return ()
    lines = rows(
        "select ticket, likeness, done_at from inbound where sender = ? and sender <> '' order by id desc limit 20",
        message.sender.address,
    )
    since, like = micros(now) - SLOT, likeness(message)
    return tuple(ticket for ticket, other, at in lines if ticket and (at or 0) >= since and other == like)


def _entry_times(ids: Sequence[int]) -> dict[int, datetime]:
    if not ids:
        return {}
    lines = rows(f"select id, at from entry where id in ({marks(ids)})", *ids)  # noqa: S608
    return {id: moment(at) for id, at in lines}


def _addresses(ids: Sequence[int]) -> dict[int, str]:
    wanted = [i for i in ids if i < 2**31]
    if not wanted:
        return {}
    return dict(rows(f"select id, value from address where id in ({marks(wanted)})", *wanted))  # noqa: S608


def _outbox(tokens: Sequence[Token]) -> dict[int, tuple[int | None, str, int | None]]:
    """The rows a delivery report is about: named by its return address, or by the Message-ID that came back (of a mail
    that went to one person alone)."""
    ids = [token.who for token in tokens if token.purpose in (Purpose.BOUNCE, Purpose.MESSAGE_ID) and token.who]
    if not ids:
        return {}
    lines = rows(f"select id, ticket, recipient, account from outbox where id in ({marks(ids)})", *ids)  # noqa: S608
    return {id: (ticket, recipient, account) for id, ticket, recipient, account in lines}


def message_on(entry: int) -> MessageOn | None:
    """A message from outside and the ticket it lies on now, which it may have been moved to. None when it is none."""
    found = row(
        "select e.ticket, coalesce(a.value, ''), b.subject, b.text from entry e join body b on b.entry = e.id "
        "left join address a on a.id = e.author where e.id = ? and e.kind in ('message', 'note') and e.account is null",
        entry,
    )
    if found is None:
        return None
    ticket, author, subject, text = found
    at = row(f"select ticket from reference where value = ({MESSAGE_ID}) and entry = ?", entry, entry)  # noqa: S608
    return MessageOn(entry, int(at[0]) if at else ticket, author, subject, text)


def last_message(number: int) -> int:
    """The newest entry of a ticket that somebody outside wrote."""
    found = row("select id from entry where ticket = ? and kind = 'message' order by id desc limit 1", number)
    return int(found[0]) if found else 0


def is_answered(number: int, but: int) -> bool:
    """Has an answer other than this entry gone out, or is on its way, since somebody outside last wrote?"""
    found = row(
        "select 1 from entry e join outbox o on o.entry = e.id and o.kind = 'answer' and o.state <> 'cancelled' "
        "where e.ticket = ? and e.kind = 'answer' and e.id <> ? and e.id > ? limit 1",
        number,
        but,
        last_message(number),
    )
    return found is not None
