"""2,359 real personal texts, sent by one of us and by a customer: no ticket is closed by chat, and no words are lost.

The texts are those of `../shared/data/sms/ordinary_sms.txt` (its SOURCE.txt says where they come from), ten minutes
apart, through the desk with its database (specs/sms.md 4.9, G6).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest

from gateway.commands import SaidKind, read
from gateway.decide import field
from gateway.model import Address, Contact, ContactAddress, Ticket, insert, micros, row, rows
from tests.bench.sms import START, Side
from tests.walks.service import SHARED

pytestmark = pytest.mark.timeout(300)

TEXTS = SHARED / "data/sms/ordinary_sms.txt"
PAUSE = timedelta(minutes=10)
TOM, ANN = "+447700900201", "+447700900101"
FALSE, READ = 0.0005, 0.005  # commands executed; words read as one
A_DAY = 10  # automatic texts to one phone
CARRIERS = {SaidKind.OPT_OUT, SaidKind.OPT_IN, SaidKind.HELP}
# There is nothing in it but what was understood: an answer to nothing, a thumb.
SAYS_NOTHING = {"bare-ok", "reaction", "empty", "no-question"}


@dataclass(frozen=True, slots=True)
class Became:
    """What became of one text: its mailroom row, and the entries that it made."""

    text: str
    state: str
    reason: str
    ticket: int | None
    entries: tuple[tuple[str, str, str], ...]  # kind, text, verb that was executed

    @property
    def executed(self) -> str:
        """The command that was carried out, "" when none was; a note of free text is none."""
        if self.reason in field.EXECUTED and read(self.text).kind is SaidKind.COMMAND:
            return next((verb for _, _, verb in self.entries if verb), self.reason)
        return ""

    @property
    def kept(self) -> bool:
        """Do its words stand where people see them: on a ticket, or among those that wait for somebody?"""
        words = self.text.strip()
        return self.state == "parked" or any(said.strip() == words for _, said, _ in self.entries)


@pytest.fixture
def side(tmp_path: Path) -> Iterator[Side]:
    side = Side.opened(tmp_path / "data")
    yield side
    side.closed()


def texts() -> list[str]:
    """The texts, one a line."""
    if not TEXTS.exists():
        pytest.skip("NOT TESTED: the texts come from ../shared/data/sms/ordinary_sms.txt, which is not there")
    return [line for line in TEXTS.read_text("utf-8").splitlines() if line.strip()]


def enrolled(side: Side, jobs: int) -> None:
    """Tom's phone gives commands; so many open tickets are his, and nothing was offered to him."""
    contact = row("select contact from account where id = ?", side.db.people["tom"].id)[0]
    address = insert(Address, medium="sms", value=TOM)
    at = micros(START - timedelta(days=2))
    insert(ContactAddress, contact=contact, address=address, verified_at=at, last_seen=at)
    for n in range(jobs):
        _ticket(side, 1001 + n, at, assignee=side.db.people["tom"].id)


def known(side: Side) -> None:
    """Ann is a customer with one open ticket."""
    at = micros(START - timedelta(days=2))
    contact = insert(Contact, name="Ann Hill", kind="customer", created_at=at)
    insert(ContactAddress, contact=contact, address=insert(Address, medium="sms", value=ANN), last_seen=at)
    _ticket(side, 1001, at, requester=contact, requester_address=ANN)


def _ticket(side: Side, number: int, at: int, **columns: object) -> None:
    fixed = {"inbox": side.db.config.inboxes[0].address, "status": "open", "acquisition": "sms"}
    times = {"next_at": at, "opened_at": at, "updated_at": at}
    insert(Ticket, number=number, subject=f"Boiler {number}", **{"requester_address": ""} | fixed | times | columns)


def heard(side: Side, sender: str, said: list[str]) -> list[Became]:
    """Each text, ten minutes after the one before, with everything that the clock and the outbox do meanwhile."""
    found = []
    for n, text in enumerate(said):
        at = START + n * PAUSE
        inbound = side.hear(f"T{n}", sender, text, at)
        side.pass_time(at)
        state, reason, ticket = row("select state, reason, ticket from inbound where id = ?", inbound)
        lines = rows(
            "select e.kind, coalesce(b.text, ''), e.data from entry e left join body b on b.entry = e.id "
            "where e.inbound = ? order by e.id",
            inbound,
        )
        entries = tuple((kind, words, json.loads(data).get("verb", "")) for kind, words, data in lines)
        found.append(Became(text, state, reason, ticket, entries))
    return found


def told(phone: str) -> tuple[Counter[str], int]:
    """How many texts went to a phone by themselves, by kind; and on the worst day."""
    sent = rows("select kind, done_at / 86400000000 from outbox where recipient = ? and medium = 'sms'", phone)
    return Counter(kind for kind, _ in sent), max(Counter(day for _, day in sent).values(), default=0)


@pytest.mark.parametrize("jobs", [2, 1])
def test_a_technicians_chat_executes_nothing_and_loses_no_words(side: Side, jobs: int) -> None:
    enrolled(side, jobs)
    before = rows("select number, status, assignee, snoozed_until, closing_reason from ticket order by number")
    found = heard(side, TOM, texts())
    executed = [(one.text, one.executed) for one in found if one.executed]
    lost = [(one.reason, one.text) for one in found if not one.kept and one.reason not in SAYS_NOTHING]
    lost = [
        (reason, text) for reason, text in lost if read(text).kind not in CARRIERS and (reason, text) not in executed
    ]
    print(f"{jobs} job(s), {len(found)} texts: {len(executed)} executed ({len(executed) / len(found):.3%}) {executed}")
    print(f"  became {Counter((one.state, one.reason) for one in found).most_common()}")
    print(f"  not kept: {lost}")
    kinds, worst = told(TOM)
    print(f"  went out by itself: {dict(kinds)}, at most {worst} a day")
    assert len(executed) <= FALSE * len(found), executed
    assert lost == []
    assert worst <= A_DAY
    if not executed:
        assert (
            rows("select number, status, assignee, snoozed_until, closing_reason from ticket order by number") == before
        )


def test_a_customers_chat_is_on_her_ticket_and_commands_nothing(side: Side) -> None:
    known(side)
    said = texts()
    found = heard(side, ANN, said)
    elsewhere = [(one.reason, one.text) for one in found if one.ticket != 1001 and read(one.text).kind not in CARRIERS]
    lost = [one.text for one in found if not one.kept and read(one.text).kind not in CARRIERS]
    executed = [(one.text, verb) for one in found for _, _, verb in one.entries if verb]
    commands = [text for text in said if read(text).kind in (SaidKind.COMMAND, SaidKind.NOTE, SaidKind.STATUS)]
    print(f"{len(found)} texts: {len(found) - len(elsewhere)} on her ticket, {len(executed)} executed")
    print(f"  read as commands: {len(commands)} ({len(commands) / len(said):.3%}) {commands}")
    print(f"  became {Counter((one.state, one.reason) for one in found).most_common()}")
    kinds, worst = told(ANN)
    print(f"  went out by itself: {dict(kinds)}, at most {worst} a day")
    assert elsewhere == []
    assert lost == []
    assert executed == []
    assert worst <= A_DAY
    assert len(commands) <= READ * len(said), commands
    assert row("select count(*), min(status) from ticket") == (1, "open")
