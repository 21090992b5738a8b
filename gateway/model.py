"""The tables (DESIGN.md 3): peewee models, their indexes, and nothing that runs.

Times are microseconds since 1970 in UTC, so that both engines sort them alike. What only one engine understands
(triggers, full-text search) stands in `gateway.sqlite` and `gateway.postgres`.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

from peewee import (
    SQL,
    AutoField,
    BigAutoField,
    BigIntegerField,
    BlobField,
    BooleanField,
    CompositeKey,
    DatabaseProxy,
    FloatField,
    IntegerField,
    Model,
    TextField,
)

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
database = DatabaseProxy()


def micros(moment: datetime) -> int:
    """A moment as the tables hold it."""
    return (moment - EPOCH) // timedelta(microseconds=1)


def moment(value: int) -> datetime:
    """A table's time as an aware datetime."""
    return EPOCH + timedelta(microseconds=value)


class UtcField(BigIntegerField):
    """A moment in UTC."""

    def db_value(self, value: datetime | int | None) -> int | None:
        return micros(value) if isinstance(value, datetime) else value

    def python_value(self, value: int | None) -> datetime | None:
        return None if value is None else moment(value)


class Table(Model):
    class Meta:
        database = database
        legacy_table_names = False


# -- people ------------------------------------------------------------------------------------------------------


class Organisation(Table):
    name = TextField()
    domains = TextField(default="")
    account_manager = IntegerField(null=True)


class Contact(Table):
    """Any person."""

    name = TextField(default="")
    kind = TextField(default="customer")
    organisation = IntegerField(null=True, index=True)
    account_manager = IntegerField(null=True)
    language = TextField(default="")
    time_zone = TextField(default="")
    external_id = TextField(default="", index=True)
    partner_of = IntegerField(null=True)
    created_at = UtcField()


class Address(Table):
    """One mailbox or phone number in the world, in one spelling."""

    medium = TextField()
    value = TextField(unique=True)
    opted_out = BooleanField(default=False)
    opted_out_at = UtcField(null=True)
    quiet = BooleanField(default=False)
    bounced = BooleanField(default=False)
    sms_ok = BooleanField(default=True)  # False: a landline, a dead number
    commands_off_until = UtcField(null=True)  # after five wrong codes
    automatic_off_until = UtcField(null=True)  # it behaves like a machine


class ContactAddress(Table):
    """Whose an address is. "maybe" never authorises anything."""

    contact = IntegerField()
    address = IntegerField(index=True)
    label = TextField(default="")
    certainty = TextField(default="known")
    verified_at = UtcField(null=True)
    last_seen = UtcField(null=True)

    class Meta:
        primary_key = CompositeKey("contact", "address")


class Account(Table):
    """A login: one of us."""

    contact = IntegerField(unique=True)
    address = TextField(unique=True)  # signs in with it; notices go to it
    roles = TextField(default="agent")  # comma-separated
    password = TextField(default="")  # argon2 hash, "" = none yet
    extension = TextField(default="")
    supervisor = IntegerField(null=True)
    stand_in = IntegerField(null=True)
    away_from = UtcField(null=True)
    away_until = UtcField(null=True)
    generation = IntegerField(default=1)
    theme = TextField(default="auto")
    active = BooleanField(default=True)
    created_at = UtcField()


class Session(Table):
    """A browser signed in. The cookie holds a random id; the table only its hash."""

    digest = TextField(primary_key=True)
    account = IntegerField(index=True)
    created_at = UtcField()
    seen_at = UtcField()
    expires_at = UtcField(index=True)
    agent = TextField(default="")
    peer = TextField(default="")


class Code(Table):
    """A one-time code or link, stored hashed."""

    purpose = TextField()
    subject = TextField()
    digest = TextField(unique=True)
    tries = IntegerField(default=0)
    expires_at = UtcField(index=True)
    used_at = UtcField(null=True)


class LoginAttempt(Table):
    """Tries to sign in that failed, per account and per network address."""

    subject = TextField()
    at = UtcField()
    peer = TextField(default="")

    class Meta:
        indexes = ((("subject", "at"), False),)


class Team(Table):
    name = TextField(unique=True)
    calendar = TextField(default="")


class TeamMember(Table):
    team = IntegerField()
    account = IntegerField()

    class Meta:
        primary_key = CompositeKey("team", "account")


# -- tickets -----------------------------------------------------------------------------------------------------


class Ticket(Table):
    """A request. Its number is its key; `next_at` is what lists sort by; `last_*` is its newest entry, for lists."""

    number = IntegerField(primary_key=True)
    inbox = TextField()
    kind = TextField(default="support")
    type = TextField(default="")
    subject = TextField()
    status = TextField(default="new")
    priority = TextField(default="normal")
    requester = IntegerField(null=True)
    requester_address = TextField(default="")
    organisation = IntegerField(null=True)
    assignee = IntegerField(null=True)
    team = TextField(default="")
    due_at = UtcField(null=True)
    next_at = UtcField()
    alert_at = UtcField(null=True)
    policy = TextField(default="")
    snoozed_until = UtcField(null=True)
    escalation_level = IntegerField(default=0)
    closing_reason = TextField(default="")
    acquisition = TextField(default="mail")
    fields = TextField(default="{}")
    chain = TextField(default="")
    merged_into = IntegerField(null=True)
    unread = BooleanField(default=True)
    opened_at = UtcField()
    updated_at = UtcField()
    closed_at = UtcField(null=True)
    last_entry = BigIntegerField(default=0)
    last_channel = TextField(default="mail")
    last_author = TextField(default="")
    last_text = TextField(default="")

    class Meta:
        indexes = (
            (("requester", "updated_at"), False),
            (("requester_address", "updated_at"), False),
        )


Ticket.add_index(Ticket.next_at, Ticket.number, where=SQL("status <> 'closed'"), name="ticket_open")
Ticket.add_index(
    Ticket.assignee, Ticket.next_at, Ticket.number, where=SQL("status <> 'closed'"), name="ticket_open_assignee"
)
Ticket.add_index(
    Ticket.status, Ticket.next_at, Ticket.number, where=SQL("status <> 'closed'"), name="ticket_open_status"
)
Ticket.add_index(Ticket.inbox, Ticket.next_at, Ticket.number, where=SQL("status <> 'closed'"), name="ticket_open_inbox")
Ticket.add_index(Ticket.updated_at, Ticket.number, where=SQL("status = 'closed'"), name="ticket_closed")
Ticket.add_index(Ticket.snoozed_until, where=SQL("snoozed_until is not null"), name="ticket_snoozed")
Ticket.add_index(Ticket.alert_at, where=SQL("alert_at is not null"), name="ticket_alert")


class Participant(Table):
    """Who else is on a ticket."""

    ticket = IntegerField()
    address = TextField(index=True)
    contact = IntegerField(null=True)
    role = TextField(default="cc")

    class Meta:
        primary_key = CompositeKey("ticket", "address")


class Entry(Table):
    """The timeline and the audit trail in one: never updated, never deleted (triggers refuse both).

    `digest` is SHA-256 over the body's salt and words; `chain` over the ticket's previous chain value and this row.
    """

    id = BigAutoField()
    ticket = IntegerField()
    kind = TextField()
    channel = TextField()
    account = IntegerField(null=True)
    author = IntegerField(null=True)  # an Address
    public = BooleanField(default=True)
    reason = TextField(default="")
    data = TextField(default="{}")
    inbound = BigIntegerField(null=True, index=True)
    at = UtcField()
    digest = TextField()
    chain = TextField()

    class Meta:
        indexes = ((("ticket", "id"), False),)


class Body(Table):
    """The words of an entry: the only part that erasure empties."""

    entry = BigIntegerField(primary_key=True)
    author = TextField(default="")  # the name as written
    subject = TextField(default="")
    text = TextField(default="")
    quoted = TextField(default="")
    html = TextField(default="")
    salt = TextField(default="")


class Attachment(Table):
    """A file of an entry; its bytes lie in the blob store under their SHA-256."""

    id = BigAutoField()
    entry = BigIntegerField(index=True)
    sha256 = TextField(index=True)
    name = TextField()
    type = TextField(default="application/octet-stream")
    size = BigIntegerField()
    cid = TextField(default="")


class Reference(Table):
    """Message-IDs, SMS ids, call ids: in both directions; `entry` is null for an ancestor nobody here has seen."""

    value = TextField(primary_key=True)
    ticket = IntegerField(index=True)
    entry = BigIntegerField(null=True)


class Seal(Table):
    """A nightly hash over every ticket's last chain value."""

    at = UtcField(primary_key=True)
    entry = BigIntegerField()  # the newest one it covers
    tickets = IntegerField()
    digest = TextField()


# -- in and out --------------------------------------------------------------------------------------------------


class Inbound(Table):
    """The mailroom: everything received, raw, before anything is understood."""

    id = BigAutoField()
    key = TextField(unique=True)
    channel = TextField()
    raw = BlobField(null=True)  # type: ignore[assignment]  # hides Model.raw, which nobody needs
    blob = TextField(default="")
    size = IntegerField()
    envelope = TextField()  # JSON of values.Envelope
    received_at = UtcField()
    sent_at = UtcField(null=True)  # by the sender, when the provider says so
    state = TextField(default="new")
    reason = TextField(default="")
    sender = TextField(default="")
    subject = TextField(default="")
    message_id = TextField(default="")
    content_hash = TextField(default="")
    likeness = TextField(default="")  # of the words alone: the same mail sent again has the same
    category = TextField(default="")
    ticket = IntegerField(null=True)
    entry = BigIntegerField(null=True)
    trace = TextField(default="[]")
    attempts = IntegerField(default=0)
    ruling = TextField(default="")
    question = BigIntegerField(null=True)  # the menu whose answer it waits for
    done_at = UtcField(null=True)


Inbound.add_index(Inbound.id, where=SQL("state = 'new'"), name="inbound_new")
Inbound.add_index(Inbound.state, Inbound.id, where=SQL("state in ('parked', 'failed')"), name="inbound_waiting")
Inbound.add_index(Inbound.message_id, where=SQL("message_id <> ''"), name="inbound_message_id")
Inbound.add_index(Inbound.sender, Inbound.id, where=SQL("sender <> ''"), name="inbound_sender")
Inbound.add_index(Inbound.question, where=SQL("question is not null"), name="inbound_question")
Inbound.add_index(Inbound.received_at, name="inbound_received")


class Outbox(Table):
    """Everything to be sent, one row a recipient; rendered once, at the first claim."""

    id = BigAutoField()
    key = TextField(unique=True)
    ticket = IntegerField(null=True)
    entry = BigIntegerField(null=True, index=True)
    kind = TextField()
    medium = TextField()
    recipient = TextField()
    account = IntegerField(null=True)
    data = TextField(default="{}")
    state = TextField(default="ready")
    created_at = UtcField()
    not_before = UtcField(null=True)
    released_at = UtcField(null=True)  # a person said "send it now": no limit holds it, and its time begins again
    attempts = IntegerField(default=0)
    owner = TextField(default="")
    lease_until = UtcField(null=True)
    rendered = BlobField(null=True)
    blob = TextField(default="")
    message_id = TextField(default="")
    envelope_sender = TextField(default="")
    provider_id = TextField(default="")
    result = TextField(default="")
    done_at = UtcField(null=True)
    changed = BigIntegerField(default=0)
    number = TextField(default="")  # of an SMS: which of our numbers it goes from
    status = TextField(default="")  # of an SMS: the highest of its receipts
    code = TextField(default="")  # of an SMS: the provider's, when it failed
    segments = IntegerField(default=0)
    price = TextField(default="")  # decimal, as the provider says it
    currency = TextField(default="")
    resends = IntegerField(default=0)  # whole new attempts after a receipt said that it did not arrive


Outbox.add_index(
    Outbox.medium,
    Outbox.recipient,
    Outbox.id,
    where=SQL("(state in ('sending', 'uncertain') or (state = 'ready' and attempts < 3))"),
    name="outbox_lane",
)
Outbox.add_index(Outbox.not_before, Outbox.id, where=SQL("state in ('held', 'ready')"), name="outbox_due")
Outbox.add_index(Outbox.state, Outbox.id, where=SQL("state in ('dead', 'uncertain', 'held')"), name="outbox_waiting")
Outbox.add_index(Outbox.changed, name="outbox_changed")
Outbox.add_index(Outbox.ticket, Outbox.id, name="outbox_ticket")
Outbox.add_index(Outbox.message_id, where=SQL("message_id <> ''"), name="outbox_message_id")


Outbox.add_index(Outbox.provider_id, where=SQL("medium = 'sms' and provider_id <> ''"), name="outbox_provider_id")
Outbox.add_index(Outbox.number, Outbox.recipient, Outbox.id, where=SQL("medium = 'sms'"), name="outbox_sms")
Outbox.add_index(Outbox.recipient, Outbox.id, where=SQL("medium = 'sms'"), name="outbox_phone")


class Result(Table):
    """Every receipt of an SMS, once; `Outbox.status` shows the highest."""

    id = BigAutoField()
    outbox = BigIntegerField()
    status = TextField()
    code = TextField(default="")
    words = TextField(default="")
    at = UtcField()

    class Meta:
        indexes = ((("outbox", "status", "code"), True),)


class Question(Table):
    """What was last asked of, or listed to, a phone. `options` is JSON: lines 1, 2, … with their tickets."""

    id = BigAutoField()
    number = TextField()  # ours
    phone = TextField()
    kind = TextField()
    options = TextField(default="[]")
    command = TextField(default="")  # the words that wait for the answer
    held = BigIntegerField(null=True)  # the first inbound message that waits for it
    code = TextField(default="")  # SHA-256 of a one-time code
    tries = IntegerField(default=0)
    created_at = UtcField()
    expires_at = UtcField()
    state = TextField(default="open")  # open, answered, guessed, over

    class Meta:
        indexes = ((("phone", "id"), False),)


Question.add_index(Question.expires_at, where=SQL("state = 'open'"), name="question_open")


class Binding(Table):
    """Which number of a pool carries which ticket's conversation with a phone."""

    number = TextField()
    phone = TextField()
    ticket = IntegerField()
    used_at = UtcField()

    class Meta:
        primary_key = CompositeKey("phone", "number")


class Counter(Table):
    """How often something limited happened, in slots of ten minutes."""

    counter = TextField()
    subject = TextField()
    slot = IntegerField()
    count = IntegerField(default=0)

    class Meta:
        primary_key = CompositeKey("counter", "subject", "slot")


class Block(Table):
    """Senders refused or allowed: a whole address, or a domain."""

    value = TextField(primary_key=True)
    refused = BooleanField(default=True)
    account = IntegerField(null=True)
    at = UtcField()


class Schedule(Table):
    """Whatever else falls due: seals, digests, polls."""

    key = TextField(primary_key=True)
    next_at = UtcField(index=True)
    last_done = UtcField(null=True)
    owner = TextField(default="")
    lease_until = UtcField(null=True)
    data = TextField(default="{}")


class Draft(Table):
    """What an agent has typed and not sent."""

    account = IntegerField()
    ticket = IntegerField()
    text = TextField(default="")
    saved_at = UtcField()

    class Meta:
        primary_key = CompositeKey("account", "ticket")


class Alarm(Table):
    """Heartbeats and complaints of the parts: what `readyz` and the banner tell."""

    name = TextField(primary_key=True)
    words = TextField(default="")
    at = UtcField()
    value = FloatField(default=0)


TABLES: list[Any] = [
    Organisation, Contact, Address, ContactAddress, Account, Session, Code, LoginAttempt, Team, TeamMember,
    Ticket, Participant, Entry, Body, Attachment, Reference, Seal, Inbound, Outbox, Result, Question, Binding, Counter,
    Block, Schedule, Draft, Alarm,
]  # fmt: skip

# -- statements --------------------------------------------------------------------------------------------------
# Building a statement with peewee costs more than running it (measured: 0.15 ms against 0.02 ms); what every message
# needs is therefore written out, with `?` for its parameters, and runs on both engines.


def execute(statement: str, *parameters: Any) -> Any:
    """Runs a statement on this thread's connection and returns the cursor."""
    return database.execute_sql(statement if _question_marks() else _percent(statement), parameters)


def rows(statement: str, *parameters: Any) -> list[Any]:
    """All rows of a select, as tuples."""
    return list(execute(statement, *parameters).fetchall())


def row(statement: str, *parameters: Any) -> Any:
    """The first row of a select as a tuple, or None."""
    return execute(statement, *parameters).fetchone()


def insert(table: type[Table], **columns: Any) -> int:
    """Inserts one row, the model's defaults for what is not named; returns its automatic key, else 0."""
    statement, names, defaults, key = _insert(table, _question_marks())
    if unknown := columns.keys() - set(names):
        raise TypeError(f"{table.__name__} has no {', '.join(sorted(unknown))}")
    values = [columns.get(name, default) for name, default in zip(names, defaults, strict=True)]
    cursor = database.execute_sql(statement, values)
    if not key:
        return 0
    return int(cursor.lastrowid if _question_marks() else cursor.fetchone()[0])


def update(table: str, key: str, value: Any, /, **columns: Any) -> int:
    """Updates the row with this key; returns how many rows there were."""
    names = ", ".join(f'"{name}" = ?' for name in columns)
    return int(execute(f'update "{table}" set {names} where {key} = ?', *columns.values(), value).rowcount)  # noqa: S608


def marks(values: Iterable[Any]) -> str:
    """`?, ?, ?` for an `in (…)`; `null` for none, which finds nothing."""
    return ", ".join("?" for _ in values) or "null"


@lru_cache(64)
def _insert(table: type[Table], question_marks: bool) -> tuple[str, tuple[str, ...], tuple[Any, ...], str]:
    fields = [field for field in table._meta.sorted_fields if not isinstance(field, BigAutoField | AutoField)]
    key = next((f.column_name for f in table._meta.sorted_fields if isinstance(f, BigAutoField | AutoField)), "")
    names = ", ".join(f'"{field.column_name}"' for field in fields)
    places = ", ".join("?" if question_marks else "%s" for _ in fields)
    statement = f'insert into "{table._meta.table_name}" ({names}) values ({places})'  # noqa: S608 - names are ours
    if key and not question_marks:
        statement += f" returning {key}"
    return statement, tuple(f.column_name for f in fields), tuple(f.default for f in fields), key


@lru_cache(512)
def _percent(statement: str) -> str:
    return statement.replace("%", "%%").replace("?", "%s")


def _question_marks() -> bool:
    return bool(database.obj.param == "?")
