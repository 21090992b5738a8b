"""What a hostile reader found, each with the input that showed it: who is believed, what is sent, what stops."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
from peewee import DatabaseError, OperationalError

from gateway import blobs, desk, queries, store
from gateway.decide import decide_message
from gateway.desk import Desk, Understood
from gateway.model import Outbox, database, execute, row, rows
from gateway.store import apply as writer
from gateway.store import audit, intake, outbox
from gateway.store.together import GroupWriter, Job
from gateway.values import (
    Answer,
    Arrival,
    Assign,
    Channel,
    Close,
    Decision,
    Envelope,
    FilePart,
    InboundMessage,
    MessageClass,
    NamedAddress,
    Proof,
    Purpose,
    Remark,
    Rule,
    Ruling,
    Temporary,
    Write,
)
from gateway.worker import Box
from inbound.parser import minimal
from outbound.letters import Background, compose
from outbound.render import render
from tests import loopback
from tests.conftest import ADA, ANN, BEN, DOMAIN, MAX, SALES, SUE, SUPPORT, TOM, DeskDb, Result, close_desk, letter
from tests.conftest import open_desk as open_desk_in
from tests.servers import need

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)


def from_(address: str) -> NamedAddress:
    return NamedAddress("", address)


def opened_by(desk_db: DeskDb, who: NamedAddress = ANN, ago: timedelta = HOUR) -> int:
    """A ticket: the first is #1001."""
    ticket = desk_db.receive(letter(who), at=desk_db.now - ago).ticket
    assert ticket is not None
    return ticket


def closed(desk_db: DeskDb, ticket: int, ago: timedelta = MINUTE) -> None:
    desk_db.perform(Close(ticket, "solved"), desk_db.people["sue"], desk_db.now - ago)


def newest_entry(ticket: int) -> int:
    return int(row("select max(id) from entry where ticket = ?", ticket)[0])


def state_of(ticket: int) -> tuple[str, bool, str]:
    """Status, whether it has a closing time, closing reason."""
    status, closed_at, reason = row("select status, closed_at, closing_reason from ticket where number = ?", ticket)
    return status, closed_at is not None, reason


def reply_of(desk_db: DeskDb, name: str, ticket: int, entry: int, purpose: Purpose, **more: Any) -> InboundMessage:
    """What one of us answers to the signed address of his notice about an entry."""
    account = desk_db.people[name]
    to = from_(desk_db.reply_address(purpose, ticket, entry, account))
    return letter(NamedAddress(account.name, account.address), "Re: The boiler is cold", "Press.", to=(to,), **more)


# -- one of ours without a proof is a stranger -----------------------------------------------------------------------

PERSONS = (MessageClass.HUMAN, MessageClass.BULK, MessageClass.CALENDAR)
ROBOTS = (
    MessageClass.AUTO_REPLY,
    MessageClass.OUT_OF_OFFICE,
    MessageClass.CHALLENGE,
    MessageClass.UNKNOWN_MACHINE,
)


@pytest.mark.parametrize(
    ("category", "reason"),
    [*((c, "unverified-sender") for c in PERSONS), *((c, "automatic-unmatched") for c in ROBOTS)],
    ids=str,
)
def test_a_forged_colleague_joins_no_ticket_by_its_number_whatever_headers_he_adds(
    category: MessageClass, reason: str, desk_db: DeskDb
) -> None:
    ticket = opened_by(desk_db)
    before = (desk_db.ticket(ticket), desk_db.count("entry"))
    forged = letter(ADA, f"Re: [ACME #{ticket}] The boiler is cold", "Pay to this account.", category=category)
    result = desk_db.receive(forged, Envelope(MAX.address, (SUPPORT,)))
    assert (result.state, result.reason, result.ticket, result.sent) == ("parked", reason, None, ())
    assert (desk_db.ticket(ticket), desk_db.count("entry")) == before


@pytest.mark.parametrize("subject", ["Re: [ACME #1001] cold", "Re: cold"])
@pytest.mark.parametrize(("writer", "answers"), [("ada", "answer"), ("sue", "answer"), ("tom", "note")])
@pytest.mark.parametrize("of_a_notice", [True, False])
def test_who_names_a_ticket_leaves_a_note_and_who_answers_a_notice_answers(
    of_a_notice: bool, writer: str, answers: str, subject: str, desk_db: DeskDb
) -> None:
    ticket, who = opened_by(desk_db), desk_db.people[writer]
    notice = f"{desk_db.token(Purpose.MESSAGE_ID, ticket, newest_entry(ticket))}@{DOMAIN}"
    if not of_a_notice and "#" not in subject:
        subject = f"Re: [#{ticket}]"
    mail = letter(NamedAddress(who.name, who.address), subject, "I call him.", in_reply_to=(notice,) * of_a_notice)
    result = desk_db.receive(mail, proof=Proof.PASSED)
    becomes = answers if of_a_notice else "note"
    assert (result.ticket, result.entries[0]["kind"], bool(result.entries[0]["public"])) == (
        ticket,
        becomes,
        becomes == "answer",
    )
    assert result.to("answer") == ([ANN.address] if becomes == "answer" else [])


# -- a Message-ID that came before -----------------------------------------------------------------------------------


def again(sender: NamedAddress) -> InboundMessage:
    """Other words under the Message-ID of Ann's first mail."""
    return letter(sender, "An offer", "Buy my watches.", message_id=letter(ANN).message_id)


def test_a_stranger_with_anns_message_id_opens_a_ticket_of_his_own(desk_db: DeskDb) -> None:
    ticket = opened_by(desk_db)
    closed(desk_db, ticket)
    before = desk_db.ticket(ticket)
    result = desk_db.receive(again(MAX))
    assert (result.state, result.ticket, result.reason) == ("done", 1002, "possibly-same")
    assert [entry["data"].get("linked") for entry in result.entries] == [None, ticket]
    assert (desk_db.ticket(ticket), state_of(ticket)) == (before, ("closed", True, "solved"))


def test_ann_with_her_own_message_id_joins_and_the_page_says_so(desk_db: DeskDb) -> None:
    ticket = opened_by(desk_db)
    closed(desk_db, ticket)
    result = desk_db.receive(again(ANN))
    assert (result.ticket, result.reason, state_of(ticket)) == (ticket, "message-id-reused", ("open", False, ""))
    assert result.entries[0]["data"] == {"notes": ["Another mail came with the same Message-ID."]}


def test_a_colleague_with_anns_message_id_joins_as_a_guest(desk_db: DeskDb) -> None:
    ticket = opened_by(desk_db)
    result = desk_db.receive(again(BEN))
    assert (result.ticket, result.entries[0]["data"]["guest"]) == (ticket, True)
    assert result.entries[0]["data"]["notes"] == ["Another mail came with the same Message-ID."]


# -- an answer that was quicker than the mail it answers ---------------------------------------------------------------


@pytest.mark.parametrize("cc", [(ANN,), ()], ids=["the answer went to Ann too", "Ann is his colleague"])
def test_a_mail_that_comes_after_its_answer_joins_the_answers_ticket(
    cc: tuple[NamedAddress, ...], desk_db: DeskDb
) -> None:
    late = letter(ANN)
    answer = letter(BEN, "Re: The boiler is cold", "Here too.", in_reply_to=(late.message_id,), cc=cc)
    ticket = desk_db.receive(answer).ticket
    result = desk_db.receive(late, at=desk_db.now + MINUTE)
    assert (result.ticket, result.reason, desk_db.count("ticket")) == (ticket, "ancestor", 1)


def test_a_stranger_with_an_id_that_somebody_named_does_not_join(desk_db: DeskDb) -> None:
    named = "first@hillcrest.example"
    ticket = desk_db.receive(letter(ANN, in_reply_to=(named,))).ticket
    result = desk_db.receive(letter(MAX, "An offer", message_id=named))
    assert (result.ticket == ticket, result.reason) == (False, "possibly-same")


# -- one of us who cannot be reached -----------------------------------------------------------------------------------


def bounce(desk_db: DeskDb, recipient: str, n: int = 0) -> Result:
    """The newest notice to one of us comes back for good."""
    out, ticket = row(
        "select id, ticket from outbox where kind = 'notice' and recipient = ? order by id desc limit 1", recipient
    )
    address = f"support+{desk_db.token(Purpose.BOUNCE, ticket, 0, out)}@{DOMAIN}"
    category = MessageClass.BOUNCE_HARD
    report = letter(from_("mailer-daemon@mx.example"), f"Undelivered {n}", f"No such user {n}", category=category)
    return desk_db.receive(report, Envelope("", (address,)), at=desk_db.now + n * MINUTE)


def test_the_bounce_of_a_notice_tells_nobody_and_reopens_nothing(desk_db: DeskDb) -> None:
    ticket = opened_by(desk_db)
    closed(desk_db, ticket)
    result = bounce(desk_db, ADA.address)
    assert (result.state, result.ticket, result.sent) == ("done", ticket, ())
    assert state_of(ticket) == ("closed", True, "solved")
    assert row("select bounced from address where value = ?", ADA.address) == (True,)


def test_four_bounces_make_no_loop(desk_db: DeskDb) -> None:
    opened_by(desk_db)
    before = desk_db.count("outbox")
    assert [bounce(desk_db, ADA.address, n).sent for n in range(4)] == [(), (), (), ()]
    assert desk_db.count("outbox") == before


def test_while_one_cannot_be_reached_the_others_are_told_of_what_customers_write(desk_db: DeskDb) -> None:
    ticket = opened_by(desk_db)
    bounce(desk_db, ADA.address)
    to = from_(desk_db.reply_address(Purpose.CUSTOMER_REPLY, ticket))
    assert desk_db.receive(letter(ANN, "Re: cold", "Still cold.", to=(to,))).to("notice") == [SUE.address]
    assert desk_db.receive(letter(MAX, "A new thing")).to("notice") == [SUE.address]


def test_when_the_assignee_cannot_be_reached_all_others_are_told(desk_db: DeskDb) -> None:
    ticket = opened_by(desk_db)
    desk_db.perform(Assign(ticket, desk_db.people["tom"].id), desk_db.people["sue"])
    to = from_(desk_db.reply_address(Purpose.CUSTOMER_REPLY, ticket))
    assert desk_db.receive(letter(ANN, "Re: cold", "Still.", to=(to,))).to("notice") == [TOM.address]
    assert bounce(desk_db, TOM.address).sent == ()
    told = desk_db.receive(letter(ANN, "Re: cold", "Icicles now.", to=(to,))).to("notice")
    assert told == [ADA.address, SUE.address]


# -- answers by mail ---------------------------------------------------------------------------------------------------


def test_an_answer_on_a_ticket_closed_long_ago_goes_to_that_ticket_and_its_customer(desk_db: DeskDb) -> None:
    ticket = opened_by(desk_db, ago=100 * DAY)
    closed(desk_db, ticket, ago=90 * DAY)
    desk_db.perform(Remark(ticket, "Did he ever pay?"), desk_db.people["sue"], desk_db.now - DAY)
    mail = reply_of(desk_db, "ada", ticket, newest_entry(ticket), Purpose.STAFF_ANSWER)
    result = desk_db.receive(mail, proof=Proof.PASSED)
    assert (result.ticket, result.entries[0]["kind"], result.to("answer")) == (ticket, "answer", [ANN.address])
    assert (desk_db.count("ticket"), state_of(ticket)) == (1, ("waiting", False, ""))


def test_a_reply_older_than_thirty_days_is_executed_when_a_person_releases_it(desk_db: DeskDb) -> None:
    ticket = opened_by(desk_db, ago=31 * DAY)
    mail = reply_of(desk_db, "ada", ticket, newest_entry(ticket), Purpose.STAFF_ANSWER)
    parked = desk_db.receive(mail, proof=Proof.PASSED)
    released = desk_db.rule(parked, mail, Ruling("release"), desk_db.people["sue"], Proof.PASSED)
    assert (parked.state, parked.to("answer")) == ("parked", [])
    assert (released.state, released.ticket, released.to("answer")) == ("done", ticket, [ANN.address])


def test_answering_a_closed_ticket_from_the_page_opens_it_whole(desk_db: DeskDb) -> None:
    ticket = opened_by(desk_db)
    closed(desk_db, ticket)
    desk_db.perform(Answer(ticket, "One more thing."), desk_db.people["ada"])
    assert state_of(ticket) == ("waiting", False, "")


def test_answering_and_closing_closes(desk_db: DeskDb) -> None:
    ticket = opened_by(desk_db)
    closed(desk_db, ticket)
    desk_db.perform(Answer(ticket, "That was it.", then="close", reason="solved"), desk_db.people["ada"])
    assert state_of(ticket) == ("closed", True, "solved")


def mail_to(desk_db: DeskDb, ticket: int, recipient: str) -> bytes:
    """The answer to somebody as it would leave us."""
    later = desk_db.now + HOUR
    with store.writing():
        claimed = [out for lane in outbox.claim("worker", later, 50) for out in lane]
    out = next(o for o in claimed if (o.ticket, o.recipient, o.kind) == (ticket, recipient, "answer"))
    paper = compose(out, Background(**outbox.behind(out)), desk_db.config)
    return render(paper, desk_db.config, desk_db.keys, later).content


def test_a_guests_words_are_not_quoted_to_the_requester(desk_db: DeskDb) -> None:
    ticket = opened_by(desk_db)
    to = from_(desk_db.reply_address(Purpose.CUSTOMER_REPLY, ticket))
    guest = desk_db.receive(letter(MAX, "Fwd: cold", "Ann must never know.", to=(to,)))
    assert (guest.ticket, guest.entries[0]["data"]) == (ticket, {"guest": True})
    desk_db.perform(Answer(ticket, "Press the red switch."), desk_db.people["ada"])
    mail = mail_to(desk_db, ticket, ANN.address)
    assert (b"Press the red switch." in mail, b"never know" in mail, b"> Please help." in mail) == (True, False, True)


def test_to_who_never_wrote_nothing_is_quoted(desk_db: DeskDb) -> None:
    ada = desk_db.people["ada"]
    ticket = desk_db.perform(Write(SUPPORT, ANN.address, "Ann", "Your boiler", "Shall we come?"), ada).ticket
    assert ticket is not None
    to = from_(desk_db.reply_address(Purpose.CUSTOMER_REPLY, ticket))
    desk_db.receive(letter(MAX, "Fwd: boiler", "Ann must never know.", to=(to,)))
    execute("update outbox set state = 'sent'")
    desk_db.perform(Answer(ticket, "We come at nine."), ada)
    assert b"never know" not in mail_to(desk_db, ticket, ANN.address)


@pytest.mark.parametrize("local", ["a{0}b", "a{}b", "a{entry}b", "a{nobody}b", "a{b", "a}b", "{{a}}"])
def test_who_has_braces_in_his_address_is_answered(local: str, desk_db: DeskDb) -> None:
    address = f"{local}@hillcrest.example"
    ticket = opened_by(desk_db, from_(address))
    desk_db.perform(Answer(ticket, "Press the red switch."), desk_db.people["ada"])
    assert b"Press the red switch." in mail_to(desk_db, ticket, address)


# -- what a person rules -----------------------------------------------------------------------------------------------


def test_allowing_a_blocked_senders_reply_lets_it_join_and_his_next_mail_in(desk_db: DeskDb) -> None:
    ticket = opened_by(desk_db)
    with store.writing():
        execute("insert into block (value, refused, at) values ('hillcrest.example', ?, 0)", True)
    to = from_(desk_db.reply_address(Purpose.CUSTOMER_REPLY, ticket))
    mail = letter(ANN, "Re: cold", "Still cold.", to=(to,))
    blocked = desk_db.receive(mail)
    allowed = desk_db.rule(blocked, mail, Ruling("allow"), desk_db.people["sue"])
    assert (blocked.state, blocked.reason) == ("parked", "blocked-sender")
    assert (allowed.state, allowed.ticket, desk_db.count("ticket")) == ("done", ticket, 1)
    assert desk_db.receive(letter(ANN, "Another thing")).state == "done"
    assert desk_db.receive(letter(BEN, "Another thing")).reason == "blocked-sender"


UNMATCHED = {
    "automatic-unmatched": letter(MAX, "I am away", category=MessageClass.OUT_OF_OFFICE),
    "bounce-unmatched": letter(from_("postmaster@mx.example"), "Failed", category=MessageClass.BOUNCE_HARD),
}


@pytest.mark.parametrize("ruling", [Ruling("new"), Ruling("ticket", 1001)], ids=["new", "ticket"])
@pytest.mark.parametrize("reason", UNMATCHED)
def test_what_a_machine_wrote_goes_where_a_person_says(reason: str, ruling: Ruling, desk_db: DeskDb) -> None:
    opened_by(desk_db)
    mail = UNMATCHED[reason]
    parked = desk_db.receive(mail, Envelope("", (SUPPORT,)))
    done = desk_db.rule(parked, mail, ruling, desk_db.people["sue"])
    assert (parked.state, parked.reason) == ("parked", reason)
    assert (done.state, done.ticket) == ("done", ruling.ticket or 1002)
    assert (done.entries[0]["kind"], done.to("acknowledgement")) == ("message", [])


# -- the audit ---------------------------------------------------------------------------------------------------------

PHOTO = FilePart("a" * 64, "photo.png", "image/png", 3)
PUT = "insert into attachment (entry, sha256, name, type, size, cid) values "
FORGED = {
    "words behind an empty salt": "update body set salt = '', text = 'I owe you nothing.' where entry = 1",
    "only a subject behind an empty salt": "update body set salt = '', text = '' where entry = 1",
    "words in an event": "update body set text = 'Sue said: free of charge.' where entry = 2",
    "a file is put on an entry without one": f"{PUT} (2, '{'b' * 64}', 'bill.pdf', 'application/pdf', 3, '')",
    "a second file is put on an entry": f"{PUT} (1, '{'b' * 64}', 'bill.pdf', 'application/pdf', 3, '')",
    "a file is gone": "delete from attachment where entry = 1",
    "a file is another": "update attachment set sha256 = 'b' where entry = 1",
    "a file has another name": "update attachment set name = 'bill.pdf' where entry = 1",
    "a file is moved to another entry": "update attachment set entry = 2 where entry = 1",
}


@pytest.mark.parametrize("statement", FORGED.values(), ids=FORGED)
def test_the_audit_finds_it(statement: str, desk_db: DeskDb) -> None:
    desk_db.receive(letter(ANN, files=(PHOTO,)))
    assert (audit.problems(), desk_db.count("attachment")) == ([], 1)
    with store.writing():
        assert execute(statement).rowcount == 1
    assert audit.problems() != []


def elsewhere(work: Callable[[], object]) -> None:
    """Does it in a thread of its own, with a connection of its own, and waits for it."""

    def body() -> object:
        with store.connection():
            return work()

    with ThreadPoolExecutor(1) as pool:
        pool.submit(body).result()


def test_a_mail_that_comes_during_the_audit_is_no_false_alarm(desk_db: DeskDb, monkeypatch: pytest.MonkeyPatch) -> None:
    opened_by(desk_db)
    with store.writing():
        audit.write_seal(audit.fresh_seal(), desk_db.now)
    to = from_(desk_db.reply_address(Purpose.CUSTOMER_REPLY, 1001))
    real = audit._entries

    def then_a_mail_comes() -> Iterator[tuple[Any, ...]]:
        yield from real()
        elsewhere(lambda: desk_db.receive(letter(ANN, "Re: cold", "Still cold.", to=(to,))))

    with monkeypatch.context() as patched:
        patched.setattr(audit, "_entries", then_a_mail_comes)
        assert audit.problems() == []
    assert desk_db.entries("ticket = 1001")[-1]["kind"] == "message"
    assert audit.problems() == []


def test_audits_beside_a_busy_desk_find_nothing(desk_db: DeskDb) -> None:
    found: list[list[str]] = []
    busy = threading.Event()
    busy.set()

    def look() -> None:
        while busy.is_set():
            found.append(audit.problems())

    with ThreadPoolExecutor(1) as pool:
        looking = pool.submit(elsewhere, look)
        for n in range(60):
            desk_db.receive(letter(ANN, f"Thing {n % 7}", f"Words {n}"), at=desk_db.now + n * HOUR)
        busy.clear()
        looking.result()
    assert found
    assert [problems for problems in found if problems] == []


# -- what stops one message, and only that one -------------------------------------------------------------------------


@contextmanager
def processing(desk_db: DeskDb, understand: Callable[[intake.Waiting], Understood]) -> Iterator[Desk]:
    """A desk by hand; `understand` stands for the parsers."""
    with ThreadPoolExecutor(1) as pool:
        yield Desk(desk_db.config, desk_db.keys, lambda waiting, staff: understand(waiting), pool, lambda: desk_db.now)


def wait_in_line(desk_db: DeskDb, *raws: bytes, to: str = SUPPORT) -> None:
    """Arrivals as the intake keeps them."""
    with store.writing():
        for raw in raws:
            key = f"{to} {desk_db.newest('inbound')}"
            assert intake.add(Arrival(key, Channel.MAIL, raw, Envelope(MAX.address, (to,)), desk_db.now), "")


def said(waiting: intake.Waiting) -> Understood:
    """Each from a person of his own: "x" comes from x@elsewhere.example."""
    assert isinstance(waiting.raw, bytes)
    who = waiting.raw.decode()
    return Understood(letter(from_(f"{who}@elsewhere.example"), who))


def states() -> list[tuple[str, str]]:
    return rows("select state, reason from inbound order by id")


def test_what_is_temporary_while_deciding_does_not_fail_a_message(
    desk_db: DeskDb, monkeypatch: pytest.MonkeyPatch
) -> None:
    trouble = [Temporary("the disk is full")]

    def decide(*facts: Any) -> Decision:
        if trouble:
            raise trouble.pop()
        return decide_message(*facts)

    monkeypatch.setattr(desk, "decide_message", decide)
    wait_in_line(desk_db, b"one", b"two")
    with processing(desk_db, said) as working:
        assert desk.process(working) == 2
    assert states() == [("done", "new"), ("done", "new")]


def test_while_nothing_can_be_written_all_stay_new(desk_db: DeskDb, monkeypatch: pytest.MonkeyPatch) -> None:
    def decide(*facts: Any) -> Decision:
        raise Temporary("the disk is full")

    wait_in_line(desk_db, b"one", b"two")
    with processing(desk_db, said) as working, monkeypatch.context() as patched:
        patched.setattr(desk, "decide_message", decide)
        patched.setattr(store, "is_writable", lambda *asked: False)
        with pytest.raises(Temporary, match="the disk is full"):
            desk.process(working)
        assert states() == [("new", ""), ("new", "")]
    with processing(desk_db, said) as working:
        assert desk.process(working) == 2
    assert states() == [("done", "new"), ("done", "new")]


@pytest.mark.parametrize("bad", [1, 2, 5], ids=["the first", "the second", "the last"])
def test_the_one_message_that_cannot_be_written_is_shown_and_the_others_are_done(
    bad: int, desk_db: DeskDb, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = writer.apply

    def apply(decision: Decision, now: datetime, inbound: int | None = None, *more: Any) -> Any:
        written = real(decision, now, inbound, *more)
        if inbound == bad:
            raise OperationalError("string or blob too big")
        return written

    monkeypatch.setattr(writer, "apply", apply)
    wait_in_line(desk_db, b"one", b"two", b"three", b"four", b"five")
    with processing(desk_db, said) as working:
        assert desk.process(working) == 4
    expected = [("done", "new")] * 5
    expected[bad - 1] = ("failed", "our-error")
    assert states() == expected
    assert "too big" in row("select trace from inbound where id = ?", bad)[0]
    assert (desk_db.count("ticket"), audit.problems()) == (4, [])


UNREADABLE = b"From: max@elsewhere.example\r\nSubject: Look\r\nMessage-ID: <one@elsewhere.example>\r\n\r\n\x00"


def unreadable(desk_db: DeskDb) -> Callable[[intake.Waiting], Understood]:
    """As the worker does with a mail that killed two parsers."""

    def understand(waiting: intake.Waiting) -> Understood:
        assert isinstance(waiting.raw, bytes)
        least = minimal(waiting.raw, waiting.envelope)
        whole = desk.original_attached(least, waiting.raw, desk_db.config.folder / "blobs")
        return Understood(whole, trouble="was killed: SIGSEGV")

    return understand


def written(desk_db: DeskDb) -> list[int]:
    return [desk_db.count(table) for table in ("ticket", "entry", "outbox", "attachment", "reference")]


def test_trying_an_unreadable_mail_again_in_vain_adds_nothing(desk_db: DeskDb) -> None:
    wait_in_line(desk_db, UNREADABLE)
    with processing(desk_db, unreadable(desk_db)) as working:
        desk.process(working)
        before = written(desk_db)
        assert (states(), before[:2]) == ([("failed", "unreadable")], [1, 2])
        for _ in range(2):
            desk_db.perform(Rule(1, Ruling("retry")), desk_db.people["sue"])
            desk.process(working)
            assert intake.outcome(1) == {"state": "failed", "reason": "unreadable", "ticket": 1001}
            assert written(desk_db) == before


def test_the_same_unreadable_mail_by_a_second_inbox_opens_no_second_ticket(desk_db: DeskDb) -> None:
    wait_in_line(desk_db, UNREADABLE)
    with processing(desk_db, unreadable(desk_db)) as working:
        desk.process(working)
        before = written(desk_db)
        wait_in_line(desk_db, UNREADABLE, to=SALES)
        desk.process(working)
    assert (written(desk_db), intake.outcome(2)["ticket"]) == (before, 1001)


# -- the outbox, when it is long ---------------------------------------------------------------------------------------


def lay(count: int, **columns: Any) -> None:
    """So many rows to Ann, or to whom `columns` say."""
    start = int(row("select coalesce(max(id), 0) from outbox")[0])
    line = {"kind": "notice", "medium": "mail", "recipient": ANN.address, "created_at": 0, "not_before": 0}
    lines = [line | {"key": f"row {start + n}"} | columns for n in range(1, count + 1)]
    with store.writing():
        for n in range(0, count, 100):
            Outbox.insert_many(lines[n : n + 100]).execute()


@contextmanager
def plans(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """How every statement that runs finds its rows: one line a table."""
    steps: list[str] = []
    real = database.obj.execute_sql

    def execute_sql(statement: str, values: Sequence[Any] | None = None, *more: Any) -> Any:
        if statement.lstrip().split(" ", 1)[0].lower() in ("select", "update", "delete"):
            steps.extend(line[3] for line in real(f"explain query plan {statement}", values).fetchall())
        return real(statement, values, *more)

    with monkeypatch.context() as patched:
        patched.setattr(database.obj, "execute_sql", execute_sql)
        yield steps


OUTBOX_WORK: dict[str, Callable[[datetime], object]] = {
    "is anything due": outbox.any_due,
    "when is the next due": outbox.next_due,
    "a claim": lambda now: outbox.claim("worker", now, 50),
    "a dead worker's rows": lambda now: outbox.free(now, {}),
    "what is uncertain": outbox.settle_uncertain,
}


@pytest.mark.parametrize("analyzed", [False, True])
@pytest.mark.parametrize("work", OUTBOX_WORK)
def test_the_outbox_is_never_read_as_a_whole(
    work: str, analyzed: bool, desk_db: DeskDb, monkeypatch: pytest.MonkeyPatch
) -> None:
    lay(300, state="sent")
    for state in ("ready", "held", "sending", "uncertain", "dead"):
        lay(3, state=state, recipient=f"{state}@x.example", done_at=0)
    if analyzed:
        execute("analyze")
    with plans(monkeypatch) as steps, store.writing():
        OUTBOX_WORK[work](desk_db.now)
    assert [step for step in steps if "outbox" in step or step.split()[1] == "o"]
    assert [step for step in steps if step.startswith("SCAN") and " USING " not in step] == []


@pytest.mark.parametrize("statement", [outbox.HEADS, outbox.FOLLOWERS], ids=["heads", "followers"])
def test_a_lane_is_read_by_its_index(statement: str, desk_db: DeskDb) -> None:
    values = (0,) * statement.count("?")
    steps = [line[3] for line in execute(f"explain query plan {statement}", *values).fetchall()]
    assert [step for step in steps if "outbox_lane (medium=? AND recipient=?" in step]
    assert [step for step in steps if step.startswith("SCAN") and " USING " not in step] == []


@pytest.mark.parametrize("failures_due", [0, 10**18], ids=["all due again", "due later"])
def test_a_lane_with_two_thousand_failures_is_claimed_quickly(failures_due: int, desk_db: DeskDb) -> None:
    lay(2_000, state="ready", attempts=3, not_before=failures_due)
    lay(2_000, state="ready", not_before=1)

    def claim() -> float:
        start = time.perf_counter()
        with store.writing():
            assert outbox.claim("worker", desk_db.now, 8)
        taken = time.perf_counter() - start
        with store.writing():
            outbox.free(desk_db.now, {})
        return taken

    assert min(claim(), claim()) < 0.2


# -- what is large is kept once ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "in_row"), [(256 * 1024, True), (256 * 1024 + 1, False), (3_000_000, False)])
def test_a_large_mail_lies_in_the_blob_store_and_every_attempt_sends_its_bytes(
    size: int, in_row: bool, desk_db: DeskDb
) -> None:
    lay(1, state="ready")
    content = os.urandom(size)
    box = Box(desk_db.config, "me")
    try:
        ((first,),) = box.claim(desk_db.now, 5)
        box.keep_rendered([replace(first, rendered=content, message_id="id@desk.example", envelope_sender="b@x")])
        kept, blob = row("select rendered, blob from outbox")
        assert (kept is not None, blob == "") == (in_row, in_row)
        assert bytes(kept) == content if in_row else blobs.get(desk_db.config.folder / "blobs", blob) == content
        box.record_failed(first.id, "450 later", desk_db.now + MINUTE, desk_db.now)
        ((second,),) = box.claim(desk_db.now + MINUTE, 5)
        box.keep_rendered([second])  # what lies there already is not put into the row now
        assert (row("select rendered is null from outbox")[0] == 1) is not in_row
    finally:
        box.close()
    assert (second.rendered == content, second.message_id, second.attempts) == (True, "id@desk.example", 2)


def test_a_mail_whose_bytes_are_lost_is_written_anew(desk_db: DeskDb) -> None:
    lay(1, state="ready")
    box = Box(desk_db.config, "me")
    try:
        ((first,),) = box.claim(desk_db.now, 5)
        box.keep_rendered([replace(first, rendered=os.urandom(300_000))])
        box.record_failed(first.id, "450 later", desk_db.now + MINUTE, desk_db.now)
        blobs.path_of(desk_db.config.folder / "blobs", row("select blob from outbox")[0]).unlink()
        ((second,),) = box.claim(desk_db.now + MINUTE, 5)
    finally:
        box.close()
    assert (second.rendered, second.blob) == (None, "")


# -- one thread that writes for many -----------------------------------------------------------------------------------


@dataclass
class Gate:
    """Holds the writer's thread inside a job, so that what is given meanwhile becomes one group."""

    begun: threading.Event
    go_on: threading.Event

    def __call__(self, ready: object) -> str:
        self.begun.set()
        assert self.go_on.wait(10)
        return "first"


@contextmanager
def group_writer() -> Iterator[GroupWriter]:
    together = GroupWriter("test")
    try:
        yield together
    finally:
        together.close()


def together_behind(together: GroupWriter, jobs: Sequence[Job]) -> list[Future[Any]]:
    """Gives all jobs while the thread is busy with another."""
    gate = Gate(threading.Event(), threading.Event())
    first = together.submit(Job(gate))
    assert gate.begun.wait(10)
    futures = [together.submit(job) for job in jobs]
    gate.go_on.set()
    assert first.result(10) == "first"
    return futures


def note(name: str) -> Callable[[object], str]:
    """A job that writes one row."""

    def write(ready: object) -> str:
        execute("insert into alarm (name, words, at, value) values (?, '', 0, 0)", name)
        return name

    return write


def noted() -> list[str]:
    return [line[0] for line in rows("select name from alarm order by name")]


def test_a_database_that_is_away_at_the_start_is_temporary_and_works_when_it_is_back(desk_db: DeskDb) -> None:
    folder, away = desk_db.config.folder, desk_db.config.folder.with_name("away")
    folder.rename(away)
    with group_writer() as together:
        for _ in range(2):
            with pytest.raises(Temporary):
                together.submit(Job(note("lost"))).result(10)
        away.rename(folder)
        assert together.submit(Job(note("kept"))).result(10) == "kept"
    assert noted() == ["kept"]


def test_a_connection_that_died_is_opened_anew(desk_db: DeskDb) -> None:
    def die(ready: object) -> None:
        database.obj.connection().close()

    with group_writer() as together:
        with pytest.raises(Temporary):
            together.submit(Job(die)).result(10)
        assert together.submit(Job(note("kept"))).result(10) == "kept"


def test_one_bad_job_fails_alone(desk_db: DeskDb) -> None:
    def bad(ready: object) -> None:
        note("bad")(ready)
        raise ValueError("no such thing")

    with group_writer() as together:
        jobs = [Job(note("a")), Job(bad), Job(note("c")), Job(note("a")), Job(note("e"))]
        answers = [future.exception(10) for future in together_behind(together, jobs)]
    assert [type(answer) for answer in answers] == [type(None), Temporary, type(None), Temporary, type(None)]
    assert noted() == ["a", "c", "e"]


def test_while_the_database_is_locked_all_are_told_at_once(desk_db: DeskDb) -> None:
    database.obj.timeout = 0.3  # of connections to come; 15 s in earnest
    other = sqlite3.connect(desk_db.config.folder / "ringback.db", isolation_level=None)
    try:
        other.execute("begin immediate")
        with group_writer() as together:
            start = time.monotonic()
            jobs = [Job(note(f"{n}"), prepare=lambda: time.sleep(0.01)) for n in range(20)]
            answers = [future.exception(10) for future in [together.submit(job) for job in jobs]]
            seconds = time.monotonic() - start
            other.execute("rollback")
            assert {type(answer) for answer in answers} == {Temporary}
            assert seconds < 3, "twenty times 0.3 s would be six"
            assert together.submit(Job(note("after"))).result(10) == "after"
    finally:
        other.close()
    assert noted() == ["after"]


def test_threads_that_wrote_and_ended_leave_nothing_open(desk_db: DeskDb) -> None:
    def write_and_end() -> None:
        with store.connection(), store.writing():
            execute("update alarm set value = value + 1")

    def open_after(count: int) -> int:
        for _ in range(count):  # one after the other: SQLite itself keeps what ends beside others for its next use
            thread = threading.Thread(target=write_and_end)
            thread.start()
            thread.join()
        return len(list(Path("/proc/self/fd").iterdir()))

    assert open_after(1) == open_after(50)


# -- the other engine --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """One PostgreSQL for these tests."""
    need("postgres")
    with loopback.postgres() as url:
        yield url


@pytest.fixture
def postgres_desk(server: str, tmp_path: Path, now: datetime) -> Iterator[DeskDb]:
    """A desk with a database of its own in it."""
    name = f"t{os.urandom(6).hex()}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"create database {name}".encode())
    folder = tmp_path / "data"
    url = f"{server.rpartition('/')[0]}/{name}"
    yield open_desk_in(folder, now, {"data": {"dir": str(folder), "database_url": url}})
    close_desk(folder)


def hangul(n: int) -> str:
    """One of 66,000 Korean words of three syllables."""
    return "".join(chr(0xAC00 + (n * step) % 11_171) for step in (1, 7, 13)) + chr(0xAC00 + n // 11_171)


@pytest.mark.xdist_group("postgres")
def test_sixty_six_thousand_korean_words_are_kept_and_found(postgres_desk: DeskDb) -> None:
    words = [hangul(n) for n in range(66_000)]
    text = " ".join(words)
    assert len(set(words)) == 66_000
    result = postgres_desk.receive(letter(ANN, "보일러", text))
    assert (result.state, result.ticket) == ("done", 1001)
    assert row("select text from body where entry = ?", result.entries[0]["id"]) == (text,)
    assert [hit.number for hit in queries.search(words[5])] == [1001]
    assert [hit.number for hit in queries.search("보일러")] == [1001]
    assert audit.problems() == []


@pytest.mark.xdist_group("postgres")
@pytest.mark.parametrize(
    "statement", ["update entry set reason = 'other'", "update entry set id = 99 where id = 1", "delete from entry"]
)
def test_entries_are_never_changed_there_either(statement: str, postgres_desk: DeskDb) -> None:
    postgres_desk.receive(letter(ANN))
    before = rows("select * from entry order by id")
    with pytest.raises(DatabaseError, match="never updated or deleted"), store.writing():
        execute(statement)
    assert rows("select * from entry order by id") == before


@pytest.mark.xdist_group("postgres")
def test_a_second_worker_waits_until_the_firsts_connection_is_closed(postgres_desk: DeskDb) -> None:
    first = store.only_worker()
    with ThreadPoolExecutor(1) as pool:
        second = pool.submit(store.only_worker)
        try:
            time.sleep(0.3)
            waited = not second.done()
            postgres_desk.receive(letter(ANN))  # it keeps nobody from writing
        finally:
            first.close()
        assert waited
        second.result(10).close()


def test_a_second_worker_waits_on_sqlite_too(desk_db: DeskDb) -> None:
    first = store.only_worker()
    with ThreadPoolExecutor(1) as pool:
        second = pool.submit(store.only_worker)
        time.sleep(0.1)
        waited = not second.done()
        first.close()
        assert waited
        second.result(10).close()
