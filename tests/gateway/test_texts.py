"""What one text makes: the messages that leave, each with its key, and to whom by which way."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from gateway import desk, kept, store
from gateway.model import Address, ContactAddress, insert, micros, row, rows
from gateway.store import intake
from gateway.values import Answer, Assign, Caps, Medium, Permanent, Sms, Write
from tests.conftest import ANN, DeskDb, close_desk, letter, open_desk

OURS, ANNS, TOMS = "+447700900999", "+447700900123", "+447700900234"


@dataclass
class Line:
    """A desk with a number: `texts` brings an SMS in and has it decided; a minute passes with each."""

    db: DeskDb
    caps: Callable[[str], Caps] = field(default=lambda driver: Caps())
    count: int = 0

    def texts(self, phone: str, words: str, **more: Any) -> dict[str, Any]:
        """The mailroom's row, and what leaves because of it: (kind, medium, recipient, key)."""
        self.count += 1
        self.db.now += timedelta(minutes=1)
        sms = Sms("file", f"M{self.count}", phone, OURS, words, **more)
        before = self.db.newest("outbox")
        with store.writing():
            assert intake.add(kept.arrival(sms, self.db.now), "")
        with ThreadPoolExecutor(1) as pool:
            desk.process(
                desk.Desk(self.db.config, self.db.keys, _no_mail, pool, now=lambda: self.db.now, caps=self.caps)
            )
        state, reason, ticket = row("select state, reason, ticket from inbound order by id desc limit 1")
        sent = rows("select kind, medium, recipient, key from outbox where id > ? order by id", before)
        return {"state": state, "reason": reason, "ticket": ticket, "sent": [tuple(line) for line in sent]}

    def has(self, who: int, phone: str, verified: bool = False) -> None:
        """A contact's phone."""
        at = micros(self.db.now - timedelta(days=9))
        with store.writing():
            address = insert(Address, medium="sms", value=phone)
            insert(ContactAddress, contact=who, address=address, verified_at=at if verified else None, last_seen=at)


def _no_mail(waiting: object, staff: object) -> desk.Understood:
    raise AssertionError("there is no mail here")


@pytest.fixture
def line(tmp_path: Path, now: datetime) -> Iterator[Line]:
    folder = tmp_path / "data"
    yield Line(open_desk(folder, now, {"sms": [{"number": OURS, "region": "GB"}]}))
    close_desk(folder)


def of(result: dict[str, Any], *kinds: str) -> list[tuple[str, str, str, str]]:
    return [sent for sent in result["sent"] if sent[0] in kinds]


def test_a_first_text_makes_a_ticket_one_acknowledgement_and_one_notice(line: Line) -> None:
    result = line.texts(ANNS, "The boiler is cold")
    assert result["sent"] == [
        ("acknowledgement", "sms", ANNS, "ack:1001"),
        ("notice", "mail", line.db.people["ada"].address, f"out:1:{line.db.people['ada'].address}"),
        ("notice", "mail", line.db.people["sue"].address, f"out:1:{line.db.people['sue'].address}"),
    ]


def test_done_makes_an_echo_and_one_message_to_the_customer_by_the_way_he_last_wrote(line: Line) -> None:
    """By mail began the ticket, by SMS he wrote last."""
    ticket = line.db.receive(letter(ANN, "No heat")).ticket
    assert ticket is not None
    line.has(int(line.db.ticket(ticket)["requester"]), ANNS)
    line.has(line.db.people["tom"].contact, TOMS, verified=True)
    line.db.perform(Assign(ticket, line.db.people["tom"].id), line.db.people["ada"])
    assert line.texts(ANNS, "Any news?")["ticket"] == ticket
    result = line.texts(TOMS, f"done {ticket} new valve")
    (entry,) = row("select id from entry where reason = 'closed'")
    (inbound,) = row("select max(id) from inbound")
    assert sorted(result["sent"]) == [
        ("closing", "sms", ANNS, f"out:{entry}:{ANNS}"),
        ("echo", "sms", TOMS, f"echo:{inbound}"),
    ]


def test_who_has_said_stop_is_told_by_mail(line: Line) -> None:
    ticket = line.db.receive(letter(ANN, "No heat")).ticket
    assert ticket is not None
    line.has(int(line.db.ticket(ticket)["requester"]), ANNS)
    line.has(line.db.people["tom"].contact, TOMS, verified=True)
    line.texts(ANNS, "Any news?")
    line.texts(ANNS, "STOP")
    result = line.texts(TOMS, f"done {ticket}")
    assert [(medium, to) for _, medium, to, _ in of(result, "closing")] == [("mail", ANN.address)]


def test_an_answer_by_sms_to_who_has_said_stop_is_refused_with_the_day_and_the_other_way(line: Line) -> None:
    line.texts(ANNS, "The boiler is cold")
    line.texts(ANNS, "STOP")
    with pytest.raises(Permanent, match=r"has said STOP on 25 Nov: no SMS goes there\. Answer by email or call\."):
        line.db.perform(Answer(1001, "We come at three", by=Medium.SMS), line.db.people["ada"])


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("12", "not a phone number"),
        ("call me", "not a phone number"),
        ("077", "not a phone number"),
        (OURS, "our own number"),
    ],
)
def test_a_conversation_begins_with_a_number_that_can_be_texted(line: Line, typed: str, words: str) -> None:
    with pytest.raises(Permanent, match=f"(?i){words}"):
        line.db.perform(Write("", typed, "", "", "Hello"), line.db.people["ada"], line.db.now)


def test_a_conversation_begins_by_sms_without_a_subject(line: Line) -> None:
    written = line.db.perform(Write("", "07700 900123", "Ann", "", "We can come at three."), line.db.people["ada"])
    (told,) = line.db.outbox("ticket = ?", written.ticket)
    assert (told["kind"], told["recipient"], told["state"]) == ("answer", ANNS, "held")
    assert row("select subject, requester_address from ticket where number = ?", written.ticket) == (
        "We can come at three.",
        ANNS,
    )
    assert line.texts(ANNS, "Fine")["ticket"] == written.ticket


def test_the_provider_that_answers_stop_itself_gets_no_answer_of_ours(line: Line) -> None:
    line.caps = lambda driver: Caps(handles_opt_out=True)
    assert line.texts(ANNS, "STOP")["sent"] == []
    assert row("select opted_out from address where value = ?", ANNS)[0]


def test_a_picture_stands_from_the_start_and_is_fetched_later(line: Line) -> None:
    from gateway.values import Media

    result = line.texts(ANNS, "Look", media=(Media("https://media.example/1", "image/jpeg"),))
    (entry, data) = row("select id, data from entry where ticket = ? order by id limit 1", result["ticket"])
    assert json.loads(data)["pictures"] == 1
    (key, said) = row("select key, data from schedule where key like 'media:%'")
    assert key == "media:1:0"
    assert (json.loads(said)["entry"], json.loads(said)["media"]["url"]) == (entry, "https://media.example/1")


def test_a_pause_ends_by_itself_and_who_has_the_job_is_told(line: Line) -> None:
    line.texts(ANNS, "The boiler is cold")
    line.has(line.db.people["tom"].contact, TOMS, verified=True)
    line.db.perform(Assign(1001, line.db.people["tom"].id), line.db.people["ada"])
    line.texts(TOMS, "hold 1001 2h part ordered")
    assert line.db.ticket(1001)["status"] == "waiting"
    before = line.db.newest("outbox")
    desk.tick(line.db.config, line.db.now + timedelta(hours=2))
    assert line.db.ticket(1001)["status"] == "open"
    assert [(told["kind"], told["recipient"]) for told in line.db.outbox("id > ?", before)] == [("notice", TOMS)]


def test_escalate_tells_the_supervisor_once(line: Line) -> None:
    line.texts(ANNS, "The boiler is cold")
    line.has(line.db.people["tom"].contact, TOMS, verified=True)
    first = line.texts(TOMS, "escalate 1001 roof not safe")
    assert [to for _, _, to, _ in of(first, "notice")] == [line.db.people["sue"].address]
    again = line.texts(TOMS, "escalate 1001 please")
    assert (again["reason"], of(again, "notice")) == ("is-escalated", [])
    assert row("select escalation_level from ticket where number = 1001")[0] == 1
