"""Reads for pages: one function a page, frozen values out, no SQL above this line.

Every list pages by key and reads an index in its order: nothing here counts or sorts a whole table. Counts stop at
`MANY`; a page shows "999+". `now` comes in the reader's time zone, because "today" is his.
"""

# ruff: noqa: S608 - statements are put together from the constants below; every value is a parameter

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from types import ModuleType
from typing import Any

from gateway import kept, postgres, sqlite
from gateway.addresses import mail_address
from gateway.commands import without_pin
from gateway.model import database, marks, micros, moment, row, rows
from gateway.values import InboundState, Kind, Medium, OutboxState, Role, Sms, Status, Step

MANY = 1_000  # no count goes further
PAGE = 50  # tickets
ENTRIES = 100  # entries of a ticket
HITS = 30
SHOWN = 20_000  # letters of an entry; the raw mail has all of them
FAR = timedelta(days=365)  # a next moment beyond this means that nothing is due
BALANCE = 5_000  # arrivals of today that are looked at
OFFERED = 4  # tickets that a message which waits may be about


# -- colleagues --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Colleague:
    """One of us, as lists name him."""

    id: int
    name: str
    address: str
    active: bool = True


def accounts() -> tuple[Colleague, ...]:
    """All of us, those who left too: the history names them."""
    lines = rows(
        "select a.id, c.name, a.address, a.active from account a join contact c on c.id = a.contact order by c.name"
    )
    return tuple(Colleague(id, name or address, address, bool(active)) for id, name, address, active in lines)


# -- the inbox ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TicketLine:
    """A ticket as a list shows it. `next_at` is None when nothing is due."""

    number: int
    subject: str
    status: Status
    unread: bool
    channel: str
    person: str
    address: str
    organisation: str
    last_author: str
    last_text: str
    next_at: datetime | None
    updated_at: datetime
    closing_reason: str
    assignee: Colleague | None


@dataclass(frozen=True, slots=True)
class Group:
    """Tickets under one head. `count` is None where the page holds only a part of them."""

    name: str
    tickets: tuple[TicketLine, ...]
    count: int | None


@dataclass(frozen=True, slots=True)
class Filters:
    """What a list is narrowed by: an inbox's address, a channel, an assignee."""

    inbox: str = ""
    channel: str = ""
    assignee: int | None = None


@dataclass(frozen=True, slots=True)
class InboxPage:
    """One page of a view; `following` is the key of the next page, "" on the last."""

    view: str
    groups: tuple[Group, ...]
    following: str
    more_before: bool

    @property
    def size(self) -> int:
        """How many tickets the page holds."""
        return sum(len(group.tickets) for group in self.groups)


PERSON = "coalesce(nullif(c.name, ''), t.requester_address)"
LINE = (
    f"select t.number, t.subject, t.status, t.unread, t.last_channel, {PERSON}, t.requester_address, o.name, "
    "t.last_author, t.last_text, t.next_at, t.updated_at, t.closing_reason, t.assignee, "
    "ac.name, a.address from ticket t left join contact c on c.id = t.requester "
    "left join organisation o on o.id = t.organisation left join account a on a.id = t.assignee "
    "left join contact ac on ac.id = a.contact "
)
OPEN = "t.status <> 'closed'"
VIEWS = {  # in the words of the partial indexes, or they are not used
    "open": OPEN,
    "mine": f"{OPEN} and t.assignee = ?",
    "unassigned": f"{OPEN} and t.assignee is null",
    "waiting": f"{OPEN} and t.status = 'waiting'",
    "overdue": f"{OPEN} and t.next_at < ?",
    "closed": "t.status = 'closed'",
}


def inbox(
    view: str, account: int, now: datetime, filters: Filters | None = None, after: str = "", limit: int = PAGE
) -> InboxPage:
    """A page of one of VIEWS: open tickets by what is due next, closed ones newest first."""
    closed = view == "closed"
    conditions, values = [VIEWS[view]], _view_values(view, account, now)
    for column, value in _narrowed(filters or Filters()):
        conditions.append(f"t.{column} = ?")
        values.append(value)
    key = _key(after)
    if key:
        conditions.append("(t.updated_at, t.number) < (?, ?)" if closed else "(t.next_at, t.number) > (?, ?)")
        values.extend(key)
    order = "t.updated_at desc, t.number desc" if closed else "t.next_at, t.number"
    found = rows(f"{LINE} where {' and '.join(conditions)} order by {order} limit ?", *values, limit + 1)
    lines = [_line(line, now) for line in found[:limit]]
    following = ""
    if len(found) > limit:
        last = found[limit - 1]
        following = f"{last[11] if closed else last[10]}.{last[0]}"
    return InboxPage(view, _grouped(lines, closed, now, bool(key), bool(following)), following, bool(key))


def _view_values(view: str, account: int, now: datetime) -> list[Any]:
    return [account] if view == "mine" else [micros(now)] if view == "overdue" else []


def _narrowed(filters: Filters) -> list[tuple[str, Any]]:
    wanted = (("inbox", filters.inbox), ("last_channel", filters.channel), ("assignee", filters.assignee))
    return [(column, value) for column, value in wanted if value]


def _key(text: str) -> tuple[int, int] | None:
    """A page key as it came from a URL; whatever it is not, it is none."""
    at, dot, number = text.partition(".")
    if not (dot and text.isascii() and at.isdigit() and number.isdigit() and len(at) < 18 and len(number) < 10):
        return None
    return int(at), int(number)


def _line(line: Any, now: datetime) -> TicketLine:
    number, subject, status, unread, channel, person, address, firm = line[:8]
    author, text, next_at, updated_at, reason, assignee, name, account = line[8:]
    return TicketLine(
        number, subject, Status(status), bool(unread), channel, person or "", address, firm or "", author, text,
        _due(next_at, now), moment(updated_at), reason,
        Colleague(assignee, name or account or "", account or "") if assignee else None,
    )  # fmt: skip


def _due(at: int | None, now: datetime) -> datetime | None:
    due = None if at is None else moment(at)
    return None if due is None or due > now + FAR else due


def _grouped(
    lines: Sequence[TicketLine], closed: bool, now: datetime, more_before: bool, more_after: bool
) -> tuple[Group, ...]:
    if closed:
        return (Group("Closed", tuple(lines), None),) if lines else ()
    names = [_group_of(line.next_at, now) for line in lines]
    groups = []
    for name in dict.fromkeys(names):
        tickets = tuple(line for line, its in zip(lines, names, strict=True) if its == name)
        cut = (more_before and name == names[0]) or (more_after and name == names[-1])
        groups.append(Group(name, tickets, None if cut else len(tickets)))
    return tuple(groups)


def _group_of(due: datetime | None, now: datetime) -> str:
    """Late, Today, This week (to Sunday's end) or Later, by the reader's calendar."""
    if due is None:
        return "Later"
    if due < now:
        return "Late"
    days = (due.astimezone(now.tzinfo).date() - now.date()).days
    return "Today" if days == 0 else "This week" if days < 7 - now.weekday() else "Later"


# -- the side's counts -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Counts:
    """How much lies where; MANY stands for "that many or more"."""

    open: int
    mine: int
    unassigned: int
    waiting: int
    overdue: int
    mailroom: int


def counts(account: int, now: datetime) -> Counts:
    """The figures beside the views: each reads at most MANY rows of one index."""
    tickets = {
        view: _bounded(f"ticket t where {VIEWS[view]}", *_view_values(view, account, now))
        for view in VIEWS
        if view != "closed"
    }
    return Counts(**tickets, mailroom=waiting_for_a_person())


def waiting_for_a_person() -> int:
    """What lies in the mailroom and needs a look: parked, failed, not delivered."""
    return _bounded(f"inbound where {LOOK}") + _bounded(f"outbox where {STUCK}")


def _bounded(source: str, *values: Any) -> int:
    return int(row(f"select count(*) from (select 1 from {source} limit {MANY}) few", *values)[0])


# -- one ticket --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class File:
    """An attachment, without its bytes."""

    id: int
    name: str
    type: str
    size: int
    sha256: str
    cid: str = ""


@dataclass(frozen=True, slots=True)
class Delivery:
    """What became of one message to one recipient."""

    id: int
    kind: str
    medium: str
    recipient: str
    state: OutboxState
    not_before: datetime | None
    done_at: datetime | None
    attempts: int
    result: str
    number: str = ""  # of an SMS: which of ours it goes from
    status: str = ""  # of an SMS: the highest of its receipts (`values.Delivery`), since `status_at`
    code: str = ""
    segments: int = 0  # of an SMS: 0 until the provider said how many it is
    price: str = ""  # decimal
    currency: str = ""
    status_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class EntryLine:
    """A line of the timeline with its words, files, deliveries, and the trace of the message it came from.

    `moved_to` is the ticket that a message lies on now, 0 when it was not moved away; `moved` is the message that was
    moved here by this event.
    """

    id: int
    kind: Kind
    channel: str
    account: int | None
    public: bool
    reason: str
    data: dict[str, Any]
    inbound: int | None
    at: datetime
    address: str
    author: str
    subject: str
    text: str
    quoted: str
    has_html: bool
    files: tuple[File, ...] = ()
    deliveries: tuple[Delivery, ...] = ()
    trace: tuple[Step, ...] = ()
    moved_to: int = 0
    moved: EntryLine | None = None


@dataclass(frozen=True, slots=True)
class OtherTicket:
    """Another ticket, in a few words."""

    number: int
    subject: str
    status: Status


@dataclass(frozen=True, slots=True)
class Requester:
    """The card at the side: who wants something, how to reach him, what else he waits for."""

    name: str
    address: str
    organisation: str
    addresses: tuple[tuple[str, str], ...]  # (medium, value)
    others: tuple[OtherTicket, ...]


@dataclass(frozen=True, slots=True)
class TicketPage:
    """Everything the page of a ticket shows. `older` and `newer` are entry ids to page on from, 0 for none."""

    number: int
    inbox: str
    subject: str
    status: Status
    priority: str
    kind: str
    team: str
    unread: bool
    due_at: datetime | None
    opened_at: datetime
    closed_at: datetime | None
    closing_reason: str
    acquisition: str
    merged_into: int | None
    last_entry: int
    assignee: Colleague | None
    requester: Requester
    participants: tuple[tuple[str, str], ...]  # (address, role)
    wants: str  # how it began, in the writer's words
    last: EntryLine | None  # the newest entry that says something
    entries: tuple[EntryLine, ...]
    older: int = 0
    newer: int = 0


HEAD = (
    "select t.number, t.inbox, t.subject, t.status, t.priority, t.kind, t.team, t.unread, t.due_at, t.opened_at, "
    "t.closed_at, t.closing_reason, t.acquisition, t.merged_into, t.last_entry, t.assignee, ac.name, a.address, "
    "t.requester, t.requester_address, c.name, o.name from ticket t left join contact c on c.id = t.requester "
    "left join organisation o on o.id = coalesce(t.organisation, c.organisation) "
    "left join account a on a.id = t.assignee left join contact ac on ac.id = a.contact where t.number = ?"
)
ENTRY = (
    "select e.id, e.kind, e.channel, e.account, e.public, e.reason, e.data, e.inbound, e.at, a.value, "
    f"coalesce(nullif(b.author, ''), sc.name, a.value, ''), b.subject, substr(b.text, 1, {SHOWN + 1}), "
    f"substr(b.quoted, 1, {SHOWN + 1}), b.html <> '' from entry e join body b on b.entry = e.id "
    "left join address a on a.id = e.author left join account s on s.id = e.account "
    "left join contact sc on sc.id = s.contact "
)


def ticket(number: int, before: int = 0, after: int = 0) -> TicketPage | None:
    """A ticket with its newest ENTRIES entries, or those before or after an entry; None where there is none."""
    head = row(HEAD, number) if 0 < number < 2**31 else None
    if head is None:
        return None
    entries, older, newer = _entries(number, before, after)
    on_it = rows("select address, role from participant where ticket = ? order by address limit 50", number)
    assignee, name, account, contact, address, person, firm = head[15:]
    return TicketPage(
        number=number, inbox=head[1], subject=head[2], status=Status(head[3]), priority=head[4], kind=head[5],
        team=head[6], unread=bool(head[7]), due_at=_time(head[8]), opened_at=moment(head[9]), closed_at=_time(head[10]),
        closing_reason=head[11], acquisition=head[12], merged_into=head[13], last_entry=head[14],
        assignee=Colleague(assignee, name or account or "", account or "") if assignee else None,
        requester=_requester(number, contact, address, person or "", firm or ""),
        participants=tuple((value, role) for value, role in on_it),
        wants=" ".join(_first_words(number)[:2_000].split())[:200],
        last=next(filter(None, map(_says, entries)), None),
        entries=entries,
        older=older,
        newer=newer,
    )  # fmt: skip


def _first_words(number: int) -> str:
    """How a ticket began; when a message was moved to a new one, with that."""
    first = row(
        "select b.text, e.reason, e.data from entry e join body b on b.entry = e.id where e.ticket = ? "
        "order by e.id limit 1",
        number,
    )
    if first is None or first[1] != "moved-in":
        return str(first[0]) if first else ""
    moved = row("select text from body where entry = ?", json.loads(first[2]).get("entry"))
    return str(moved[0]) if moved else ""


def _says(entry: EntryLine) -> EntryLine | None:
    """The words that an entry brings to its ticket: its own, or those of the message that was moved here."""
    shown = entry.moved or entry
    return None if shown.kind is Kind.EVENT or shown.moved_to else shown


def _time(value: int | None) -> datetime | None:
    return None if value is None else moment(value)


def _entries(number: int, before: int, after: int) -> tuple[tuple[EntryLine, ...], int, int]:
    """A page of entries, newest first, and the ids to page on from."""
    if after:
        found = rows(f"{ENTRY} where e.ticket = ? and e.id > ? order by e.id limit ?", number, after, ENTRIES + 1)
        more, found = len(found) > ENTRIES, found[:ENTRIES][::-1]
        older, newer = (found[-1][0] if found else 0), (found[0][0] if more else 0)
        return _with_moves(_with_parts(found), number), older, newer
    found = rows(
        f"{ENTRY} where e.ticket = ? and e.id < ? order by e.id desc limit ?", number, before or 2**62, ENTRIES + 1
    )
    older = found[ENTRIES - 1][0] if len(found) > ENTRIES else 0
    newer = found[0][0] if before and found else 0
    return _with_moves(_with_parts(found[:ENTRIES]), number), older, newer


def _with_parts(found: Sequence[Any]) -> tuple[EntryLine, ...]:
    """Entries with files, deliveries and traces: one statement a kind of part, however many entries."""
    ids = [line[0] for line in found]
    inbounds = [line[7] for line in found if line[7]]
    files: dict[int, list[File]] = {}
    for line in rows(f"select entry, {FILE} where entry in ({marks(ids)}) order by id", *ids):
        files.setdefault(line[0], []).append(File(*line[1:]))
    sent: dict[int, list[Delivery]] = {}
    for line in rows(f"{DELIVERY} where entry in ({marks(ids)}) order by id", *ids):
        sent.setdefault(line[0], []).append(_delivery(line[1:]))
    _add_fallbacks(sent)
    traces = dict(rows(f"select id, trace from inbound where id in ({marks(inbounds)})", *inbounds))
    return tuple(
        EntryLine(
            line[0], Kind(line[1]), line[2], line[3], bool(line[4]), line[5], json.loads(line[6]), line[7],
            moment(line[8]), line[9] or "", line[10], line[11], line[12], line[13], bool(line[14]),
            tuple(files.get(line[0], ())), tuple(sent.get(line[0], ())), steps(traces.get(line[7], "[]")),
        )
        for line in found
    )  # fmt: skip


FILE = "id, name, type, size, sha256, cid from attachment"
SENT = (
    "b.id, b.kind, b.medium, b.recipient, b.state, b.not_before, b.done_at, b.attempts, b.result, b.number, b.status, "
    "b.code, b.segments, b.price, b.currency, (select min(r.at) from result r where r.outbox = b.id "
    "and r.status = b.status)"
)
DELIVERY = f"select b.entry, {SENT} from outbox b"


def _delivery(line: Any) -> Delivery:
    id, kind, medium, recipient, state, not_before, done_at, attempts, result = line[:9]
    number, status, code, segments, price, currency, status_at = line[9:]
    return Delivery(
        id, kind, medium, recipient, OutboxState(state), _time(not_before), _time(done_at), attempts, result,
        number, status, code, segments, price, currency, _time(status_at),
    )  # fmt: skip


def _add_fallbacks(sent: dict[int, list[Delivery]]) -> None:
    """Beside an SMS that did not arrive stands the mail that went in its place."""
    dead = {
        f"fallback:{delivery.id}": entry
        for entry, deliveries in sent.items()
        for delivery in deliveries
        if delivery.medium == Medium.SMS and delivery.state is OutboxState.DEAD
    }
    if dead:
        for key, *line in rows(f"select b.key, {SENT} from outbox b where key in ({marks(dead)})", *dead):
            sent[dead[key]].append(_delivery(line))


LIES_ON = (
    "select e.id, r.ticket from entry e join inbound i on i.id = e.inbound "
    "join reference r on r.value = i.message_id and r.entry = e.id where e.id in ({})"
)


def _with_moves(entries: tuple[EntryLine, ...], number: int) -> tuple[EntryLine, ...]:
    """Messages that were moved: those that left are marked, those that came stand where they came."""
    came = [e.data.get("entry", 0) for e in entries if e.reason == "moved-in"]
    brought = {e.id: e for e in _with_parts(rows(f"{ENTRY} where e.id in ({marks(came)})", *came))} if came else {}
    brought = {id: e for id, e in brought.items() if id not in {entry.id for entry in entries}}  # it came back
    messages = [e.id for e in (*entries, *brought.values()) if e.inbound and e.kind in (Kind.MESSAGE, Kind.NOTE)]
    away = {id: n for id, n in rows(LIES_ON.format(marks(messages)), *messages) if n != number} if messages else {}

    def marked(entry: EntryLine) -> EntryLine:
        message = brought.get(entry.data.get("entry", 0)) if entry.reason == "moved-in" else None
        if message is not None:
            return replace(entry, moved=replace(message, moved_to=away.get(message.id, 0)))
        return replace(entry, moved_to=away[entry.id]) if entry.id in away else entry

    return tuple(map(marked, entries))


def steps(trace: str) -> tuple[Step, ...]:
    """A trace as a mailroom's row holds it."""
    return tuple(Step(step["name"], step["found"], step["ms"], step["hit"]) for step in json.loads(trace))


def _requester(number: int, contact: int | None, address: str, name: str, firm: str) -> Requester:
    known = rows(
        "select a.medium, a.value from contact_address ca join address a on a.id = ca.address "
        "where ca.contact = ? and ca.certainty = 'known' order by a.medium, a.value limit 20",
        contact,
    ) if contact else []  # fmt: skip
    column, value = ("requester", contact) if contact else ("requester_address", address)
    others = rows(
        f"select number, subject, status from ticket where {column} = ? and status <> 'closed' and number <> ? "
        "order by updated_at desc limit 10",
        value,
        number,
    )
    return Requester(
        name or address,
        address,
        firm,
        tuple((medium, value) for medium, value in known),
        tuple(OtherTicket(number, subject, Status(status)) for number, subject, status in others),
    )


@dataclass(frozen=True, slots=True)
class Held:
    """An answer that waits to be taken back."""

    entry: int
    ticket: int
    recipient: str
    not_before: datetime


def held(entry: int, now: datetime) -> Held | None:
    """The answer of this entry, while it can still be taken back."""
    found = row(
        "select entry, ticket, recipient, not_before from outbox where entry = ? and kind = 'answer' "
        "and state = 'held' and not_before > ? limit 1",
        entry,
        micros(now),
    )
    return None if found is None else Held(found[0], found[1], found[2], moment(found[3]))


def said(entry: int, account: int) -> str:
    """What this account wrote in an entry, to put back what was taken back; "" for anybody else's words."""
    found = row(
        "select b.text from entry e join body b on b.entry = e.id where e.id = ? and e.account = ?", entry, account
    )
    return "" if found is None else str(found[0])


def answer_of(number: int, entry: int) -> str:
    """The words of an answer on this ticket, whoever wrote it; "" when there is no such answer."""
    found = row(
        "select b.text from entry e join body b on b.entry = e.id "
        "where e.id = ? and e.ticket = ? and e.kind = 'answer'",
        entry,
        number,
    )
    return "" if found is None else str(found[0])


def html_of(number: int, entry: int) -> tuple[str, tuple[File, ...]] | None:
    """The safe HTML of an entry of this ticket and its files, whose pictures it may name by Content-ID."""
    found = row(
        "select b.html from entry e join body b on b.entry = e.id where e.id = ? and e.ticket = ? and b.html <> ''",
        entry,
        number,
    )
    if found is None:
        return None
    files = rows(f"select {FILE} where entry = ? order by id", entry)
    return str(found[0]), tuple(File(*line) for line in files)


# -- files -------------------------------------------------------------------------------------------------------


def attachment(id: int) -> File | None:
    """One attachment."""
    found = row(f"select {FILE} where id = ?", id)
    return None if found is None else File(*found)


@dataclass(frozen=True, slots=True)
class Raw:
    """What was received, as it was: in the row, or in the blob store under `blob`."""

    id: int
    channel: str
    raw: bytes
    blob: str


def raw(inbound: int) -> Raw | None:
    """The bytes of a mailroom row."""
    found = row("select id, channel, raw, blob from inbound where id = ?", inbound)
    return None if found is None else Raw(found[0], found[1], bytes(found[2] or b""), found[3])


def rendered(outbox: int) -> bytes | None:
    """The mail to somebody outside that an outbox row became; those to us carry signed addresses of ours."""
    found = row("select rendered from outbox where id = ? and kind in ('answer', 'acknowledgement')", outbox)
    return None if found is None or found[0] is None else bytes(found[0])


# -- the mailroom ------------------------------------------------------------------------------------------------

PARKED = "state in ('parked', 'failed')"  # in the words of the partial indexes
LOOK = f"{PARKED} and reason <> 'blocked-sender'"  # whom we refuse needs nobody; it stands under "parked"
STUCK = "state in ('dead', 'uncertain', 'held') and (state <> 'held' or not_before is null)"
SORTING = f"{PARKED} and state = 'parked' and reason = 'needs-sorting'"
STATES = ("look", "sorting", "parked", "failed", "dead", "all")


@dataclass(frozen=True, slots=True)
class Received:
    """A mailroom row. Of an SMS that waits also its words, who has the phone, and the tickets it may be about."""

    id: int
    at: datetime
    channel: str
    sender: str
    subject: str
    state: InboundState
    reason: str
    attempts: int
    size: int
    category: str
    ticket: int | None
    trace: tuple[Step, ...]
    text: str = ""
    pictures: int = 0
    name: str = ""
    about: tuple[OtherTicket, ...] = ()


@dataclass(frozen=True, slots=True)
class Unsent:
    """An outbox row that needs a person."""

    at: datetime
    ticket: int | None
    subject: str
    delivery: Delivery

    @property
    def id(self) -> int:
        """The outbox row's."""
        return self.delivery.id


@dataclass(frozen=True, slots=True)
class Balance:
    """Today, in figures that must add up: what came is what became something, or `missing` says how much did not.

    `more` tells that only the newest BALANCE arrivals were looked at.
    """

    came: int = 0
    opened: int = 0
    added: int = 0
    set_aside: int = 0
    reading: int = 0
    look: int = 0
    missing: int = 0
    more: bool = False


@dataclass(frozen=True, slots=True)
class MailroomPage:
    """What waits, newest first; `following` pages on by id within one state, 0 for no more."""

    state: str
    received: tuple[Received, ...]
    unsent: tuple[Unsent, ...]
    balance: Balance
    following: int = 0
    counts: dict[str, int] = field(default_factory=dict)


RECEIVED = (
    "select id, received_at, channel, sender, subject, state, reason, attempts, size, category, ticket, trace, "
    "envelope from inbound "
)


UNSENT = f"select b.created_at, b.ticket, t.subject, {SENT} from outbox b left join ticket t on t.number = b.ticket"


def waiting_to_be_sorted() -> int:
    """How many messages need a person to say which ticket they are about."""
    return _bounded(f"inbound where {SORTING}")


def mailroom(state: str, now: datetime, before: int = 0, limit: int = PAGE) -> MailroomPage:
    """One of STATES: `look` is everything that needs a person, `all` everything received."""
    below = before or 2**62
    received: list[Received] = []
    following = 0
    wanted_states = {"look": ("parked", "failed"), "sorting": ("parked",), "dead": (), "all": ("",)}
    for wanted in wanted_states.get(state, (state,)):
        waits = {"look": LOOK, "sorting": SORTING}.get(state, PARKED)
        condition, values = (f"{waits} and state = ? and", [wanted]) if wanted else ("reason <> 'receipt' and", [])
        found = rows(f"{RECEIVED} where {condition} id < ? order by id desc limit ?", *values, below, limit + 1)
        if len(found) > limit:
            following = max(following, found[limit - 1][0])
        received += [_received(line) for line in found[:limit]]
    unsent = [] if state in ("sorting", "parked", "failed", "all") else _unsent(limit if state == "look" else MANY)
    received.sort(key=lambda line: line.id, reverse=True)
    numbers = {
        "sorting": waiting_to_be_sorted(),
        "parked": _bounded(f"inbound where {PARKED} and state = 'parked'"),
        "failed": _bounded(f"inbound where {PARKED} and state = 'failed'"),
        "dead": _bounded(f"outbox where {STUCK}"),
    }
    return MailroomPage(state, _with_words(received), tuple(unsent), balance(now), following, numbers)


def _received(line: Any) -> Received:
    id, at, channel, sender, subject, state, reason, attempts, size, category, ticket, trace, envelope = line
    if not sender:  # a message that could not be read has no From: whoever handed it over is better than nothing
        sender = json.loads(envelope).get("sender", "")
    return Received(
        id, moment(at), channel, sender, subject, InboundState(state), reason, attempts, size, category, ticket,
        steps(trace),
    )  # fmt: skip


def _with_words(received: Sequence[Received]) -> tuple[Received, ...]:
    """Text messages that wait, with what helps to sort them."""
    waiting = [r for r in received if r.channel == "sms" and r.state in (InboundState.PARKED, InboundState.FAILED)]
    if not waiting:
        return tuple(received)
    raws = dict(rows(f"select id, raw from inbound where id in ({marks(waiting)})", *(r.id for r in waiting)))
    known = {sender: (_name_of(sender), _about(sender)) for sender in {r.sender for r in waiting if r.sender}}
    found = {}
    for line in waiting:
        text, pictures = _text_of(raws.get(line.id))
        name, about = known.get(line.sender, ("", ()))
        found[line.id] = replace(line, text=text[:SHOWN], pictures=pictures, name=name, about=about)
    return tuple(found.get(line.id, line) for line in received)


def _text_of(raw: bytes | None) -> tuple[str, int]:
    """The words and the number of pictures of a text message as it was kept."""
    try:
        value = kept.read(bytes(raw or b""))
    except (ValueError, KeyError, TypeError):
        return "", 0
    return (without_pin(value.text), len(value.media)) if isinstance(value, Sms) else ("", 0)


def _name_of(phone: str) -> str:
    """Everybody who is known to have a phone, at most three."""
    lines = rows(
        "select c.name from address a join contact_address ca on ca.address = a.id and ca.certainty = 'known' "
        "join contact c on c.id = ca.contact where a.value = ? order by c.id limit 3",
        phone,
    )
    return " or ".join(line[0] for line in lines if line[0])


def _about(phone: str) -> tuple[OtherTicket, ...]:
    """The tickets that a message from a phone may be about: those that its owner was asked about, else his open ones,
    else the jobs of one of us."""
    asked = row(
        "select options from question where phone = ? and kind = 'menu' and state = 'open' order by id desc limit 1",
        phone,
    )
    numbers = [n for n in json.loads(asked[0]) if n] if asked else []
    of_people = (
        "in (select ca.contact from address a join contact_address ca on ca.address = a.id "
        "where a.value = ? and ca.certainty = 'known')"
    )
    for condition in (
        "requester_address = ?",
        f"requester {of_people}",
        f"assignee = (select id from account where contact {of_people} limit 1)",
    ):
        if numbers:
            break
        open_ones = f"select number from ticket where {condition} and status <> 'closed' limit {OFFERED}"
        numbers = [line[0] for line in rows(open_ones, phone)]
    found = rows(f"select number, subject, status from ticket where number in ({marks(numbers)})", *numbers)
    return tuple(OtherTicket(number, subject, Status(status)) for number, subject, status in found[:OFFERED])


def _unsent(limit: int) -> list[Unsent]:
    found: list[Unsent] = []
    for state in (OutboxState.DEAD, OutboxState.UNCERTAIN, OutboxState.HELD):
        lines = rows(f"{UNSENT} where {STUCK} and state = ? order by b.id desc limit ?", state, limit)
        found += [Unsent(moment(at), number, subject or "", _delivery(rest)) for at, number, subject, *rest in lines]
    return sorted(found, key=lambda line: line.id, reverse=True)


# What is answered or done without a ticket: whatever came by SMS, and commands by mail.
ALONE = (
    "state = 'done' and ticket is null and (channel = 'sms' or reason in ('mine', 'commands', 'nothing-to-undo', "
    "'misused', 'mistyped', 'no-job', 'no-number', 'no-question', 'who', 'unknown-number', 'bare-ok', 'empty', "
    "'reaction', 'opt-in'))"
)


def balance(now: datetime) -> Balance:
    """Today's figures, from the newest BALANCE arrivals; receipts are none."""
    today = micros(now.replace(hour=0, minute=0, second=0, microsecond=0))
    lines = rows(
        f"select state, ticket is not null, (reason in ('blocked-sender', 'filed-away') or ({ALONE})), count(*) "
        "from (select state, ticket, reason, channel from inbound where received_at >= ? "
        "and reason not in ('receipt', 'receipt-unmatched') order by received_at desc limit ?) few group by 1, 2, 3",
        today,
        BALANCE,
    )
    came = sum(line[3] for line in lines)
    filed = sum(n for state, on_ticket, _, n in lines if state == InboundState.DONE and on_ticket)
    waits, twice = (InboundState.PARKED, InboundState.FAILED), (InboundState.DUPLICATE, InboundState.LOOP)
    aside = sum(n for state, _, unwanted, n in lines if state in twice or unwanted)
    look = sum(n for state, _, unwanted, n in lines if state in waits and not unwanted)
    reading = sum(line[3] for line in lines if line[0] == InboundState.NEW)
    opened = int(
        row(
            "select count(*) from (select opened_at, acquisition from ticket order by number desc limit ?) few "
            "where opened_at >= ? and acquisition <> 'web'",
            BALANCE,
            today,
        )[0]
    )
    opened = min(opened, filed)
    missing = came - filed - aside - look - reading
    return Balance(came, opened, filed - opened, aside, reading, look, missing, came >= BALANCE)


# -- phones of ours ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class EnrolledPhone:
    """A phone that gives commands. `last_used` is when something last came from it."""

    number: str
    verified_at: datetime
    last_used: datetime | None


@dataclass(frozen=True, slots=True)
class PhonesOf:
    """One of us with his phones; `pending` are those that have still to show their code, and until when."""

    id: int
    name: str
    roles: tuple[Role, ...]
    phones: tuple[EnrolledPhone, ...]
    pending: tuple[tuple[str, datetime], ...]


def phones_of_ours(now: datetime, account: int | None = None) -> tuple[PhonesOf, ...]:
    """Every active account with its phones, or only one."""
    people = [
        line
        for line in rows(
            "select a.id, a.contact, coalesce(nullif(c.name, ''), a.address), a.roles from account a "
            "join contact c on c.id = a.contact where a.active = ? order by c.name",
            True,
        )
        if account in (None, line[0])
    ]
    enrolled: dict[int, list[EnrolledPhone]] = {}
    for contact, number, verified_at in rows(
        "select ca.contact, a.value, ca.verified_at from contact_address ca join address a on a.id = ca.address "
        f"where ca.contact in ({marks(people)}) and ca.verified_at is not null and a.medium = 'sms' "
        "order by ca.verified_at",
        *(line[1] for line in people),
    ):
        used = row("select received_at from inbound where sender = ? and sender <> '' order by id desc limit 1", number)
        enrolled.setdefault(contact, []).append(
            EnrolledPhone(number, moment(verified_at), moment(used[0]) if used else None)
        )
    pending: dict[str, list[tuple[str, datetime]]] = {}
    for number, asked_by, expires_at in rows(
        "select phone, command, expires_at from question where state = 'open' and expires_at > ? and kind = 'enrol' "
        "order by expires_at",
        micros(now),
    ):
        pending.setdefault(asked_by, []).append((number, moment(expires_at)))
    return tuple(
        PhonesOf(
            id,
            name,
            tuple(Role(word) for word in roles.split(",") if word),
            tuple(enrolled.get(contact, ())),
            tuple(pending.get(str(id), ())),
        )
        for id, contact, name, roles in people
    )


# -- search ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Hit:
    """A ticket that was found, and by what: its number, an address, a name, or the words of an entry."""

    number: int
    subject: str
    status: Status
    person: str
    at: datetime
    by: str
    entry: int = 0
    excerpt: str = ""


HIT = (
    f"select t.number, t.subject, t.status, {PERSON}, t.updated_at from ticket t "
    "left join contact c on c.id = t.requester "
)


def ticket_number(words: str) -> int | None:
    """The number of an existing ticket, when the words are one: "#1001" or "1001"."""
    digits = words.strip().removeprefix("#")
    if not (digits.isascii() and digits.isdigit() and len(digits) < 10):
        return None
    return int(digits) if row("select 1 from ticket where number = ?", int(digits)) else None


def search(words: str) -> tuple[Hit, ...]:
    """At most HITS tickets: by number, by address, by a person's name, then by the words of the newest entries."""
    words = " ".join(words.replace("\0", " ").split())[:200]
    if not words:
        return ()
    hits = [*_by_number(words), *_by_address(words), *_by_name(words)]
    if len(hits) < HITS:
        hits += _by_words(words)
    first: dict[int, Hit] = {}
    for hit in hits:
        first.setdefault(hit.number, hit)
    return tuple(first.values())[:HITS]


def _by_number(words: str) -> list[Hit]:
    number = ticket_number(words)
    return _hits("number", f"{HIT} where t.number = ?", number) if number else []


def _by_address(words: str) -> list[Hit]:
    address = mail_address(words)
    if not address:
        return []
    own = f"{HIT} where t.requester_address = ? order by t.updated_at desc limit {HITS}"
    others = f"{HIT} where t.number in (select ticket from participant where address = ? limit {HITS})"
    return _hits("address", own, address) + _hits("address", others, address)


def _by_name(words: str) -> list[Hit]:
    """Names are few beside mails: a look through the contacts, which ends at the tenth that fits."""
    if "@" in words or not any(letter.isalpha() for letter in words):
        return []
    escaped = words.lower().replace("!", "!!").replace("%", "!%").replace("_", "!_")
    people = rows("select id from contact where lower(name) like ? escape '!' limit 10", f"%{escaped}%")
    hits = []
    for (contact,) in people:
        hits += _hits("name", f"{HIT} where t.requester = ? order by t.updated_at desc limit 5", contact)
    return hits


def _hits(by: str, statement: str, *values: Any) -> list[Hit]:
    return [
        Hit(n, subject, Status(s), person or "", moment(at), by)
        for n, subject, s, person, at in rows(statement, *values)
    ]


def _by_words(words: str) -> list[Hit]:
    found = _engine().find_entries(database.obj, words, HITS * 3)
    newest: dict[int, int] = {}
    for entry, number in found:
        newest.setdefault(number, entry)
    ids = list(newest.values())[:HITS]
    if not ids:
        return []
    lines = rows(
        f"select t.number, t.subject, t.status, {PERSON}, e.at, e.id, "
        f"substr(b.text, 1, {SHOWN}) from entry e join body b on b.entry = e.id join ticket t on t.number = e.ticket "
        f"left join contact c on c.id = t.requester where e.id in ({marks(ids)}) order by e.id desc",
        *ids,
    )
    return [
        Hit(n, subject, Status(status), person or "", moment(at), "words", entry, excerpt(text, words))
        for n, subject, status, person, at, entry, text in lines
    ]


def excerpt(text: str, words: str, length: int = 180) -> str:
    """The part of a text around the first of the words, on one line."""
    text = " ".join(text.split())
    lower = text.lower()
    places = [place for word in words.lower().split() if (place := lower.find(word.strip('"*()-'))) >= 0]
    start = max(0, min(places, default=0) - 50)
    cut = text[start : start + length]
    return ("… " if start else "") + cut + (" …" if start + length < len(text) else "")


def _engine() -> ModuleType:
    return sqlite if database.obj.param == "?" else postgres


# -- what is new -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class News:
    """How far a watcher has looked, and the tickets that moved since."""

    entry: int
    changed: int
    mailroom: int
    tickets: tuple[int, ...] = ()


def version() -> int:
    """A number that changes when another connection has committed."""
    return int(_engine().version_of_data(database.obj))


def latest() -> News:
    """Where a watcher starts."""
    entry, changed = row("select max(id) from entry")[0], row("select max(changed) from outbox")[0]
    return News(entry or 0, changed or 0, waiting_for_a_person())


def news_since(seen: News, limit: int = 200) -> News:
    """The tickets with newer entries or deliveries than `seen`: index reads, cheap enough for ten a second."""
    fresh = rows("select id, ticket from entry where id > ? order by id limit ?", seen.entry, limit)
    moved = rows("select changed, ticket from outbox where changed > ? order by changed limit ?", seen.changed, limit)
    return News(
        fresh[-1][0] if fresh else seen.entry,
        moved[-1][0] if moved else seen.changed,
        waiting_for_a_person(),
        tuple(dict.fromkeys(line[1] for line in (*fresh, *moved) if line[1])),
    )


# -- health ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Issue:
    """Something that is not as it should be; `blocks` when the service does not do its work."""

    name: str
    words: str
    blocks: bool = True


def health(now: datetime) -> tuple[Issue, ...]:
    """What is wrong right now, in sentences; nothing when all is well."""
    found = (_unread(now), _overdue(now), _silent(now), _look())
    return tuple(issue for issue in found if issue)


def _unread(now: datetime) -> Issue | None:
    oldest = row("select received_at from inbound where state = 'new' order by id limit 1")
    if oldest is None or micros(now) - oldest[0] <= 60_000_000:
        return None
    return Issue("inbound", f"A message waits to be read since {moment(oldest[0]):%Y-%m-%d %H:%M} UTC.")


def _overdue(now: datetime) -> Issue | None:
    late = micros(now - timedelta(minutes=5))
    oldest = row(
        "select not_before from outbox where state in ('held', 'ready') and not_before < ? order by not_before limit 1",
        late,
    )
    return oldest and Issue("outbox", f"A message should have gone out at {moment(oldest[0]):%Y-%m-%d %H:%M} UTC.")


def _silent(now: datetime) -> Issue | None:
    tick = row("select at from alarm where name = 'tick'")
    if tick is not None and micros(now) - tick[0] <= 120_000_000:
        return None
    since = f"since {moment(tick[0]):%Y-%m-%d %H:%M} UTC" if tick else "yet"
    return Issue("worker", f"The worker has given no sign of life {since}.")


def _look() -> Issue | None:
    number = waiting_for_a_person()
    return Issue("mailroom", f"{number} in the mailroom need a look.", blocks=False) if number else None
