"""The cast, a database of its own for a test, and the desk's steps in one call.

Ann is a customer, Ben her colleague; Ada answers, Tom is in the field, Sue supervises and administrates,
Max is a stranger.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from gateway import addresses, desk, sqlite, store
from gateway.addresses import Key
from gateway.config import Config, parse
from gateway.decide import decide_message
from gateway.matching import clues as read_clues
from gateway.model import row, rows
from gateway.store import accounts, facts, intake
from gateway.store import apply as writer
from gateway.values import (
    Account,
    Action,
    Arrival,
    Channel,
    Decision,
    Envelope,
    InboundMessage,
    InboundState,
    NamedAddress,
    Proof,
    Purpose,
    Role,
    Rule,
    Ruling,
    Written,
)

ANN = NamedAddress("Ann Hill", "ann@hillcrest.example")
BEN = NamedAddress("Ben Hill", "ben@hillcrest.example")
ADA = NamedAddress("Ada Agent", "ada@desk.example")
TOM = NamedAddress("Tom Technician", "tom@desk.example")
SUE = NamedAddress("Sue Supervisor", "sue@desk.example")
MAX = NamedAddress("Max Stranger", "max@elsewhere.example")

SUPPORT, SALES, DOMAIN = "support@desk.example", "sales@desk.example", "desk.example"
ROLES: dict[str, tuple[NamedAddress, frozenset[Role]]] = {
    "ada": (ADA, frozenset({Role.AGENT})),
    "tom": (TOM, frozenset({Role.TECHNICIAN})),
    "sue": (SUE, frozenset({Role.SUPERVISOR, Role.ADMINISTRATOR})),
}


def letter(
    sender: NamedAddress, subject: str = "The boiler is cold", text: str = "Please help.", **more: Any
) -> InboundMessage:
    """A mail as the parser would hand it over. Its Message-ID and content hash follow from who wrote what."""
    said = hashlib.sha256(f"{sender.address}\0{subject}\0{text}".encode()).hexdigest()
    start = InboundMessage(
        channel=Channel.MAIL,
        sender=sender,
        author=sender,
        subject=subject,
        text=text,
        message_id=f"{said[:20]}@{sender.address.rpartition('@')[2] or 'local'}",
        content_hash=said,
        to=(NamedAddress("Support", SUPPORT),),
    )
    return replace(start, **more)


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one message: its mailroom row, what was decided, and the rows that were written because of it."""

    inbound: int
    state: InboundState
    reason: str
    ticket: int | None
    decision: Decision
    entries: tuple[dict[str, Any], ...]
    sent: tuple[dict[str, Any], ...]  # outbox rows

    def to(self, kind: str) -> list[str]:
        """The recipients of what is sent of one kind."""
        return sorted(line["recipient"] for line in self.sent if line["kind"] == kind)

    @property
    def why_not(self) -> str:
        """Why a new ticket was not acknowledged, in the words of the page; "" when it was."""
        return next((str(e["data"]["why_not"]) for e in self.entries if "why_not" in e["data"]), "")


@dataclass(slots=True)
class DeskDb:
    """A desk with a real database in a temporary folder. `people` are the accounts by first name."""

    config: Config
    keys: tuple[Key, ...]
    now: datetime
    people: dict[str, Account] = field(default_factory=dict)
    _arrivals: int = 0

    def receive(
        self,
        message: InboundMessage,
        envelope: Envelope | None = None,
        proof: Proof = Proof.NONE,
        at: datetime | None = None,
        ruling: Ruling | None = None,
    ) -> Result:
        """Accepts, decides and writes one message: the desk's own steps, in one transaction."""
        self._arrivals += 1
        at = at or self.now
        envelope = envelope or Envelope(message.sender.address, (SUPPORT,))
        arrival = Arrival(f"mail:{self._arrivals}", Channel.MAIL, b"raw", envelope, at)
        with store.writing():
            assert intake.add(arrival, "")
        inbound = int(row("select max(id) from inbound")[0])
        return self.decide(inbound, message, envelope, proof, at, ruling)

    def rule(
        self, result: Result, message: InboundMessage, ruling: Ruling, by: Account, proof: Proof = Proof.NONE
    ) -> Result:
        """A person says what a parked message is, and it is decided again."""
        self.perform(Rule(result.inbound, ruling), by)
        waiting = intake.one(self.config.folder / "blobs", result.inbound)
        assert waiting is not None
        return self.decide(result.inbound, message, waiting.envelope, proof, self.now, waiting.ruling)

    def decide(
        self,
        inbound: int,
        message: InboundMessage,
        envelope: Envelope,
        proof: Proof,
        at: datetime,
        ruling: Ruling | None,
    ) -> Result:
        """Decides and writes a mailroom row."""
        before = (self.newest("entry"), self.newest("outbox"))
        with store.writing():
            clues = read_clues(message, envelope, self.config, self.keys)
            known = desk.with_orders(facts.for_message(message, clues, inbound, ruling, at), message, at)
            decision = decide_message(message, envelope, clues, known, proof, self.config, self.keys)
            writer.apply(decision, at, inbound, message)
        state, reason, ticket = row("select state, reason, ticket from inbound where id = ?", inbound)
        return Result(
            inbound,
            InboundState(state),
            reason,
            ticket,
            decision,
            tuple(self.entries("id > ?", before[0])),
            tuple(self.outbox("id > ?", before[1])),
        )

    def perform(self, action: Action, actor: Account, at: datetime | None = None) -> Written:
        """What one of us does on a page."""
        return desk.perform(self.config, action, actor, at or self.now)

    def newest(self, table: str) -> int:
        """The highest id of a table, 0 when it is empty."""
        return int(row(f"select coalesce(max(id), 0) from {table}")[0])  # noqa: S608 - a name of ours

    def entries(self, where: str, *values: Any) -> list[dict[str, Any]]:
        """Entries as dictionaries, oldest first; `data` is read from its JSON."""
        names = ("id", "ticket", "kind", "account", "public", "reason", "data", "at")
        found = rows(f"select {', '.join(names)} from entry where {where} order by id", *values)  # noqa: S608
        lines = [dict(zip(names, line, strict=True)) for line in found]
        return [line | {"data": json.loads(line["data"])} for line in lines]

    def outbox(self, where: str, *values: Any) -> list[dict[str, Any]]:
        """Outbox rows as dictionaries, oldest first."""
        names = ("id", "key", "ticket", "entry", "kind", "recipient", "state", "not_before", "attempts", "result")
        found = rows(f"select {', '.join(names)} from outbox where {where} order by id", *values)  # noqa: S608
        return [dict(zip(names, line, strict=True)) for line in found]

    def ticket(self, number: int | None) -> dict[str, Any]:
        """Some columns of a ticket."""
        names = ("number", "status", "requester", "requester_address", "assignee", "unread", "chain", "due_at")
        found = row(f"select {', '.join(names)} from ticket where number = ?", number)  # noqa: S608
        return dict(zip(names, found, strict=True))

    def count(self, table: str) -> int:
        """How many rows a table has."""
        return int(row(f"select count(*) from {table}")[0])  # noqa: S608 - a name of ours

    def token(self, purpose: Purpose, ticket: int, entry: int = 0, who: int = 0, generation: int = 0) -> str:
        """A signed token."""
        return addresses.sign(self.keys, purpose, ticket, entry, who, generation)

    def reply_address(self, purpose: Purpose, ticket: int, entry: int = 0, account: Account | None = None) -> str:
        """The signed address that a notice to this account (or an answer to the ticket's requester) carries."""
        if account is not None:
            return f"support+{self.token(purpose, ticket, entry, account.id, account.generation)}@{DOMAIN}"
        who = facts.person(str(self.ticket(ticket)["requester_address"])).address_id or 0
        return f"support+{self.token(purpose, ticket, entry, who)}@{DOMAIN}"


@pytest.fixture
def now() -> datetime:
    """A Wednesday morning."""
    return datetime(2026, 11, 25, 10, 0, tzinfo=UTC)


SETTINGS: dict[str, Any] = {
    "firm": {"name": "ACME", "administrator": SUE.address},
    "mail": {"domain": DOMAIN},
    "inboxes": [{"address": SUPPORT, "name": "Support"}, {"address": SALES, "name": "Sales"}],
}


def open_desk(folder: Path, now: datetime, settings: dict[str, Any] | None = None) -> DeskDb:
    """A migrated database with Ada, Tom and Sue in it, bound to this process and open in this thread."""
    config = parse(SETTINGS | {"data": {"dir": str(folder)}} | (settings or {}), {})
    store.connect(config)
    keys = addresses.add_key(folder / "keys.toml")
    store.migrate(now)
    store.open_connection()
    with store.writing():
        ids = {
            name: accounts.create_account(who.name, who.address, roles, now - timedelta(days=100))
            for name, (who, roles) in ROLES.items()
        }
    people = facts.accounts_by_id(list(ids.values()))
    return DeskDb(config, keys, now, {name: people[id] for name, id in ids.items()})


def close_desk(folder: Path) -> None:
    """Closes this thread's connection and its two lock files (a run of all tests makes hundreds of folders)."""
    store.close_connection()
    sqlite._descriptors.__dict__.get("files", {}).pop(str(folder), None)


@pytest.fixture
def desk_db(tmp_path: Path, now: datetime) -> Iterator[DeskDb]:
    """A desk of its own: config, keys, migrated database, accounts."""
    folder = tmp_path / "data"
    yield open_desk(folder, now)
    close_desk(folder)
