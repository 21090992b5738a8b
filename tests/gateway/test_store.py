"""What is written is written whole, once, in order, and shows when somebody touches it: DESIGN.md 3 and 6."""

from __future__ import annotations

import json
import multiprocessing
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from peewee import IntegrityError

from gateway import store
from gateway.config import Config
from gateway.model import Outbox, database, execute, insert, micros, row, rows, update
from gateway.store import apply as writer
from gateway.store import audit, intake, outbox
from gateway.store.apply import CHAINED
from gateway.values import (
    Answer,
    Arrival,
    Channel,
    Decision,
    Envelope,
    InboundState,
    Kind,
    Medium,
    NewEntry,
    Notice,
    NoticeKind,
    OutboxState,
    Permanent,
    Proof,
    Release,
    Rule,
    Ruling,
    Sent,
    Temporary,
    Undo,
)
from tests.conftest import ANN, BEN, MAX, SUPPORT, DeskDb, letter

MINUTE = timedelta(minutes=1)
EVERYTHING = (
    "ticket",
    "entry",
    "body",
    "outbox",
    "reference",
    "participant",
    "contact",
    "address",
    "counter",
    "inbound",
)


def everything(desk: DeskDb) -> dict[str, Any]:
    """All rows of the tables that deciding writes."""
    return {table: rows(f"select * from {table} order by 1, 2") for table in EVERYTHING}  # noqa: S608


# -- all or nothing --------------------------------------------------------------------------------------------------


class Broken(Exception):
    """The n-th statement fails."""


@contextmanager
def failing_at(n: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The n-th statement that writes raises instead; yields those that ran."""
    ran: list[str] = []
    real: Callable[..., Any] = database.obj.execute_sql

    def execute_sql(statement: str, *more: Any, **named: Any) -> Any:
        if statement.lstrip().split(" ", 1)[0].lower() in ("insert", "update", "delete"):
            if len(ran) == n:
                raise Broken(statement)
            ran.append(statement)
        return real(statement, *more, **named)

    with monkeypatch.context() as patched:
        patched.setattr(database.obj, "execute_sql", execute_sql)
        yield ran


def test_a_message_is_written_whole_or_not_at_all_whichever_statement_fails(
    desk_db: DeskDb, monkeypatch: pytest.MonkeyPatch
) -> None:
    message = letter(ANN, cc=(BEN,), references=("never-seen@hillcrest.example",))
    with store.writing():
        intake.add(Arrival("mail:1", Channel.MAIL, b"raw", Envelope(ANN.address, (SUPPORT,)), desk_db.now), "")
    before, statements = everything(desk_db), 0
    while True:
        try:
            with failing_at(statements, monkeypatch):
                desk_db.decide(1, message, Envelope(ANN.address, (SUPPORT,)), Proof.NONE, desk_db.now, None)
            break
        except Broken:
            assert everything(desk_db) == before
            statements += 1
    assert statements >= 12, "contact, address, ticket, two entries, bodies, references, outbox, counters, mailroom"
    assert (desk_db.count("ticket"), desk_db.count("entry")) == (1, 2)
    assert audit.problems() == []


def test_an_error_inside_writing_takes_everything_back(desk_db: DeskDb) -> None:
    before = everything(desk_db)
    with pytest.raises(IntegrityError), store.writing():
        lay_twice(desk_db)
    assert everything(desk_db) == before


def test_one_bad_message_of_a_group_fails_alone(desk_db: DeskDb) -> None:
    with store.writing():
        for number in range(3):
            try:
                with store.savepoint():
                    insert(Outbox, key=f"{number}", kind="notice", medium="mail", recipient="x@y.example", created_at=0)
                    if number == 1:
                        raise ZeroDivisionError
            except ZeroDivisionError:
                pass
    assert [line["key"] for line in desk_db.outbox("1 = 1")] == ["0", "2"]


def test_numbers_begin_at_1001_and_follow_each_other(desk_db: DeskDb) -> None:
    assert [desk_db.receive(letter(MAX, f"Thing {n}")).ticket for n in range(3)] == [1001, 1002, 1003]


def test_an_id_first_seen_in_references_leads_to_the_mail_itself_once_that_has_come(desk_db: DeskDb) -> None:
    reply = letter(BEN, "Re: boiler", "It is cold here too.", references=("the-first@hillcrest.example",))
    replied = desk_db.receive(reply)
    assert row("select ticket, entry from reference where value = 'the-first@hillcrest.example'") == (1001, None)
    first = desk_db.receive(letter(ANN, "boiler", message_id="the-first@hillcrest.example"))
    ours = (first.ticket, first.entries[0]["id"])
    assert row("select ticket, entry from reference where value = 'the-first@hillcrest.example'") == ours
    assert replied.ticket == 1001


# -- once ------------------------------------------------------------------------------------------------------------


def test_the_same_delivery_is_kept_once(desk_db: DeskDb) -> None:
    arrival = Arrival("imap:1:INBOX:7:1", Channel.MAIL, b"raw", Envelope(), desk_db.now)
    with store.writing():
        assert [intake.add(arrival, ""), intake.add(replace(arrival, raw=b"again"), "")] == [True, False]
    assert rows("select key, raw from inbound") == [("imap:1:INBOX:7:1", b"raw")]


@pytest.mark.parametrize(
    ("keys", "written"),
    [
        (["ack:{ticket}"], 0),  # Ann was acknowledged when she wrote: `ack:1001` stands there already
        (["out:{entry}:a@x.example", "out:{entry}:a@x.example"], 1),
        (["out:{entry}:a@x.example", "out:{entry}:b@x.example"], 2),
        (["echo:{inbound}", "echo:{inbound}"], 1),
    ],
)
def test_one_event_never_reaches_one_person_twice(keys: list[str], written: int, desk_db: DeskDb) -> None:
    opened = desk_db.receive(letter(ANN))
    before = desk_db.newest("outbox")
    note = NewEntry(Kind.NOTE, Channel.WEB, text="Look here.", public=False)
    notices = tuple(Notice(NoticeKind.NOTICE, Medium.MAIL, "a@x.example", key, 0) for key in keys)
    decision = Decision(InboundState.DONE, "note", ticket=opened.ticket, entries=(note,), notices=notices)
    with store.writing():
        writer.apply(decision, desk_db.now, opened.inbound)
    assert len(desk_db.outbox("id > ?", before)) == written


# -- the chain, the seal, the triggers ---------------------------------------------------------------------------------


def two_tickets(desk: DeskDb) -> tuple[int, int]:
    """Two tickets with some life in them; the first has four entries."""
    first = desk.receive(letter(ANN), at=desk.now - timedelta(days=2)).ticket
    second = desk.receive(letter(MAX), at=desk.now - timedelta(days=2)).ticket
    assert first is not None
    assert second is not None
    ada = desk.people["ada"]
    desk.perform(Answer(first, "Press the red switch."), ada, desk.now - timedelta(days=1))
    desk.perform(Answer(first, "And the green one.", then="close", reason="solved"), ada, desk.now - timedelta(days=1))
    return first, second


def tamper(statement: str, *values: Any) -> None:
    """Does what the triggers refuse."""
    with store.writing():
        for trigger in ("entry_is_never_updated", "entry_is_never_deleted"):
            execute(f"drop trigger if exists {trigger}")
        assert execute(statement, *values).rowcount > 0


def test_nothing_is_wrong_with_what_was_written_by_us(desk_db: DeskDb) -> None:
    two_tickets(desk_db)
    with store.writing():
        audit.write_seal(audit.fresh_seal(), desk_db.now)
    assert audit.problems() == []


TAMPERING = {
    "a reason is changed": "update entry set reason = 'other' where id = 2",
    "a time is changed": "update entry set at = at + 1 where id = 1",
    "an author is changed": "update entry set account = 2 where id = 5",
    "a note is made public": "update entry set public = 0 where id = 1",
    "an entry is moved to another ticket": "update entry set ticket = 1002 where id = 2",
    "the words are changed": "update body set text = 'I owe you nothing.' where entry = 1",
    "the subject is changed": "update body set subject = 'Other' where entry = 1",
    "the author's name is changed": "update body set author = 'Somebody' where entry = 1",
    "the words are gone": "delete from body where entry = 1",
    "the digest is changed with the words": "update entry set digest = 'x' where id = 1",
    "an entry in the middle is gone": "delete from entry where id = 2",
    "the newest entry is gone": "delete from entry where id = (select max(id) from entry where ticket = 1001)",
    "the first entry is gone": "delete from entry where id = 1",
    "all entries of a ticket are gone": "delete from entry where ticket = 1002",
    "the ticket's own last value is changed": "update ticket set chain = 'x' where number = 1001",
    "an entry is put in": (
        "insert into entry (ticket, kind, channel, reason, data, public, at, digest, chain) "
        "select ticket, kind, channel, reason, data, public, at, digest, chain from entry where id = 1"
    ),
    "a ticket is gone": "delete from ticket where number = 1002",
}


@pytest.mark.parametrize("statement", TAMPERING.values(), ids=TAMPERING)
def test_the_audit_finds_tampering(statement: str, desk_db: DeskDb) -> None:
    two_tickets(desk_db)
    tamper(statement)
    assert audit.problems() != []


def test_erasure_empties_the_words_and_the_chain_stays_verifiable(desk_db: DeskDb) -> None:
    two_tickets(desk_db)
    with store.writing():
        execute("update body set author = '', subject = '', text = '', quoted = '', html = '', salt = ''")
    assert audit.problems() == []


def rewrite(entry: int, text: str) -> None:
    """A forger who knows how: new words, a new digest, and every chain value of the ticket computed anew."""
    names = ", ".join(CHAINED)
    ticket = int(row("select ticket from entry where id = ?", entry)[0])
    salt, author, subject, quoted, html = row(
        "select salt, author, subject, quoted, html from body where entry = ?", entry
    )
    tamper("update body set text = ? where entry = ?", text, entry)
    tamper("update entry set digest = ? where id = ?", writer.digest(salt, author, subject, text, quoted, html), entry)
    chain = ""
    for id, *columns in rows(f"select id, {names} from entry where ticket = ? order by id", ticket):  # noqa: S608
        chain = writer.link(chain, dict(zip(CHAINED, columns, strict=True)))
        tamper("update entry set chain = ? where id = ?", chain, id)
    tamper("update ticket set chain = ? where number = ?", chain, ticket)


def test_the_seal_finds_a_chain_that_was_computed_anew(desk_db: DeskDb) -> None:
    two_tickets(desk_db)
    with store.writing():
        audit.write_seal(audit.fresh_seal(), desk_db.now)
    rewrite(1, "I owe you nothing.")
    assert audit.problems() != []


def test_the_seal_still_finds_it_after_the_desk_has_worked_on(desk_db: DeskDb) -> None:
    two_tickets(desk_db)
    with store.writing():
        audit.write_seal(audit.fresh_seal(), desk_db.now)
    desk_db.receive(letter(BEN), at=desk_db.now + MINUTE)
    assert audit.problems() == []
    rewrite(1, "I owe you nothing.")
    assert audit.problems() != []


def test_the_seal_finds_a_ticket_that_is_gone_altogether(desk_db: DeskDb) -> None:
    _, second = two_tickets(desk_db)
    with store.writing():
        audit.write_seal(audit.fresh_seal(), desk_db.now)
    tamper("delete from entry where ticket = ?", second)
    tamper("delete from ticket where number = ?", second)
    with store.writing():
        execute("update inbound set ticket = null where ticket = ?", second)
    assert audit.problems() != []


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("update entry set reason = 'other' where id = 1", "never updated"),
        ("update entry set id = 99 where id = 1", "never updated"),
        ("delete from entry where id = 1", "never deleted"),
        ("delete from entry", "never deleted"),
    ],
)
def test_the_database_refuses_to_change_or_delete_an_entry(statement: str, words: str, desk_db: DeskDb) -> None:
    desk_db.receive(letter(ANN))
    before = rows("select * from entry")
    with pytest.raises(IntegrityError, match=words), store.writing():
        execute(statement)
    assert rows("select * from entry") == before


def test_replacing_an_entry_is_refused_too(desk_db: DeskDb) -> None:
    desk_db.receive(letter(ANN))
    before = rows("select * from entry")
    with pytest.raises(IntegrityError), store.writing():
        execute("insert or replace into entry select * from entry where id = 1")
    assert rows("select * from entry") == before


# -- the outbox: lanes and claims ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Line:
    """An outbox row: `due` in minutes from now (None: never by itself)."""

    state: str = "ready"
    attempts: int = 0
    due: int | None = 0
    recipient: str = "ann@hillcrest.example"
    medium: str = "mail"


def lay(desk: DeskDb, *lines: Line) -> None:
    """Writes outbox rows 1, 2, 3…"""
    with store.writing():
        for number, line in enumerate(lines, 1):
            insert(
                Outbox,
                key=f"row {number}",
                kind="notice",
                medium=line.medium,
                recipient=line.recipient,
                state=line.state,
                attempts=line.attempts,
                created_at=0,
                not_before=None if line.due is None else micros(desk.now + line.due * MINUTE),
                done_at=micros(desk.now) if line.state == "uncertain" else None,
            )


def lay_twice(desk: DeskDb) -> None:
    """Writes two rows under one key: the second is refused."""
    for _ in range(2):
        insert(Outbox, key="one", kind="notice", medium="mail", recipient="x@y.example", created_at=micros(desk.now))


def claimed(desk: DeskDb, owner: str = "worker", at: datetime | None = None, limit: int = 50) -> list[list[int]]:
    """The ids of what one claim takes, a list a lane."""
    with store.writing():
        return [[out.id for out in run] for run in outbox.claim(owner, at or desk.now, limit)]


WAITS, RETRY, OLD_FAILURE = Line(due=5), Line(attempts=2, due=5), Line(attempts=3, due=5)
CLAIMS = {
    "a row that is due": ([Line()], [[1]]),
    "a row whose time has not come": ([WAITS], []),
    "a held row whose time has come becomes ready in the claim": ([Line("held")], [[1]]),
    "a held row whose time has not come": ([Line("held", due=1)], []),
    "a held row that waits for a person": ([Line("held", due=None)], []),
    "two rows of one lane go in their order": ([Line(), Line()], [[1, 2]]),
    "lanes do not wait for each other": ([Line("sending"), Line(recipient="b@x.example")], [[2]]),
    "a recipient's SMS and mail are two lanes": ([Line("sending"), Line(medium="sms")], [[2]]),
    "an older row that is being sent blocks": ([Line("sending"), Line()], []),
    "an older uncertain row blocks": ([Line("uncertain"), Line()], []),
    "an older row that is tried again later blocks": ([RETRY, Line()], []),
    "an older row that failed three times blocks no longer": ([OLD_FAILURE, Line()], [[2]]),
    "an old failure that is due again and the fresh rows behind it are taken once": (
        [Line(attempts=3), Line(attempts=4), Line(), Line()],
        [[1, 3, 4], [2]],
    ),
    "an older row held for undo does not block": ([Line("held", due=1), Line()], [[2]]),
    "an older row held for a person does not block": ([Line("held", due=None), Line()], [[2]]),
    "an older dead row does not block": ([Line("dead"), Line()], [[2]]),
    "older rows sent or cancelled do not block": ([Line("sent"), Line("cancelled"), Line()], [[3]]),
    "a retry between two rows blocks the younger one": ([Line(), RETRY, Line()], [[1]]),
    "an uncertain row between two rows blocks the younger one": ([Line(), Line("uncertain"), Line()], [[1]]),
    "a row that waits between two rows blocks the younger one": ([Line(), WAITS, Line()], [[1]]),
    "of an SMS lane one row at a time": ([Line(medium="sms"), Line(medium="sms")], [[1]]),
    "a row being sent between two rows blocks the younger one": ([Line(), Line("sending"), Line()], [[1]]),
}


@pytest.mark.parametrize(("lines", "taken"), CLAIMS.values(), ids=CLAIMS)
def test_what_a_claim_takes(lines: list[Line], taken: list[list[int]], desk_db: DeskDb) -> None:
    lay(desk_db, *lines)
    assert claimed(desk_db) == taken


def test_what_one_has_claimed_no_other_gets(desk_db: DeskDb) -> None:
    lay(desk_db, Line(), Line(recipient="b@x.example"))
    assert [claimed(desk_db, "one"), claimed(desk_db, "two")] == [[[1], [2]], []]
    assert rows("select id, state, owner, attempts from outbox") == [(1, "sending", "one", 1), (2, "sending", "one", 1)]


def test_a_claim_takes_from_no_more_lanes_than_asked(desk_db: DeskDb) -> None:
    lay(desk_db, *(Line(recipient=f"{n}@x.example") for n in range(5)))
    assert claimed(desk_db, limit=2) == [[1], [2]]


def test_an_uncertain_row_blocks_for_ten_minutes_and_may_not_have_arrived(desk_db: DeskDb) -> None:
    lay(desk_db, Line("uncertain"), Line())
    for minutes, taken in ((9, []), (11, [[2]])):
        at = desk_db.now + minutes * MINUTE
        with store.writing():
            outbox.settle_uncertain(at)
        assert claimed(desk_db, at=at) == taken
    assert "may not have arrived" in desk_db.outbox("id = 1")[0]["result"]


def test_every_attempt_sends_what_was_rendered_first(desk_db: DeskDb) -> None:
    lay(desk_db, Line())
    with store.writing():
        (first,) = outbox.claim("worker", desk_db.now, 5)[0]
        rendered = replace(first, rendered=b"the mail", message_id="id@desk.example", envelope_sender="b@desk.example")
        outbox.keep_rendered([rendered], desk_db.now)
        outbox.record_failed(1, "450 try later", desk_db.now + MINUTE, desk_db.now)
    assert claimed(desk_db) == []
    with store.writing():
        (again,) = outbox.claim("worker", desk_db.now + MINUTE, 5)[0]
    assert (again.rendered, again.message_id, again.attempts) == (b"the mail", "id@desk.example", 2)


@pytest.mark.parametrize(
    ("medium", "settled", "state", "claimable"),
    [
        ("mail", {}, "ready", [[1]]),
        ("sms", {}, "uncertain", []),
        ("mail", {1: "250 ok"}, "sent", []),
        ("sms", {1: "SM123"}, "sent", []),
    ],
)
def test_what_a_dead_worker_was_sending(
    medium: str, settled: dict[int, str], state: str, claimable: list[list[int]], desk_db: DeskDb
) -> None:
    lay(desk_db, Line(medium=medium))
    claimed(desk_db, "dead worker")
    with store.writing():
        assert outbox.free(desk_db.now, settled) == 1
    assert desk_db.outbox("id = 1")[0]["state"] == state
    assert claimed(desk_db) == claimable


def test_a_late_result_of_a_dead_worker_changes_nothing_that_was_sent(desk_db: DeskDb) -> None:
    lay(desk_db, Line())
    claimed(desk_db)
    with store.writing():
        outbox.record_sent([(1, Sent("id-1", "250 ok"))], desk_db.now)
        assert outbox.free(desk_db.now, {}) == 0
    assert desk_db.outbox("id = 1")[0]["state"] == OutboxState.SENT


@pytest.mark.parametrize(
    ("state", "released"),
    [("held", True), ("dead", True), ("uncertain", True), ("sent", False), ("sending", False), ("cancelled", False)],
)
def test_a_person_sends_what_is_held_or_tries_what_failed_again(state: str, released: bool, desk_db: DeskDb) -> None:
    lay(desk_db, Line(state, attempts=3, due=None))
    try:
        desk_db.perform(Release(1), desk_db.people["sue"])
        assert released
    except Permanent:
        assert not released
    assert claimed(desk_db) == ([[1]] if released else [])


# -- undo: held → cancelled by compare-and-set -----------------------------------------------------------------------


def answered(desk: DeskDb) -> tuple[int, int, int]:
    """An answer from the page that is still held: ticket, entry, outbox row."""
    ticket = desk.receive(letter(ANN), at=desk.now - MINUTE).ticket
    assert ticket is not None
    written = desk.perform(Answer(ticket, "Press the red switch."), desk.people["ada"])
    return ticket, written.entries[0], written.outbox[0]


def test_an_answer_is_taken_back_while_it_is_held(desk_db: DeskDb) -> None:
    ticket, entry, out = answered(desk_db)
    desk_db.perform(Undo(entry), desk_db.people["ada"], desk_db.now + timedelta(seconds=5))
    assert desk_db.outbox("id = ?", out)[0]["state"] == "cancelled"
    assert desk_db.ticket(ticket)["status"] == "open"
    assert out not in [id for run in claimed(desk_db, at=desk_db.now + MINUTE) for id in run]
    assert desk_db.entries("reason = 'taken-back'")[0]["data"] == {"entry": entry}


def test_taking_back_twice_is_taking_back_once(desk_db: DeskDb) -> None:
    ticket, entry, _ = answered(desk_db)
    for _ in range(2):
        try:
            desk_db.perform(Undo(entry), desk_db.people["ada"], desk_db.now + timedelta(seconds=5))
        except Permanent:
            pass
    assert len(desk_db.entries("reason = 'taken-back' and ticket = ?", ticket)) == 1


@pytest.mark.parametrize("then", ["claimed", "sent"])
def test_what_is_on_its_way_is_not_taken_back(then: str, desk_db: DeskDb) -> None:
    ticket, entry, out = answered(desk_db)
    later = desk_db.now + MINUTE
    claimed(desk_db, at=later)
    if then == "sent":
        with store.writing():
            outbox.record_sent([(out, Sent("x", "250 ok"))], later)
    before = (desk_db.ticket(ticket), desk_db.count("entry"))
    words = "already sent 10:01" if then == "sent" else "Too late"
    with pytest.raises(Permanent, match=words):
        desk_db.perform(Undo(entry), desk_db.people["ada"], later)
    assert (desk_db.ticket(ticket), desk_db.count("entry")) == before


def test_there_is_nothing_to_take_back_of_a_note(desk_db: DeskDb) -> None:
    opened = desk_db.receive(letter(ANN))
    with pytest.raises(Permanent, match="nothing to take back"):
        desk_db.perform(Undo(opened.entries[0]["id"]), desk_db.people["ada"])


def test_of_an_undo_and_a_claim_at_the_same_moment_one_wins(desk_db: DeskDb) -> None:
    _, entry, out = answered(desk_db)
    when, said = desk_db.now + timedelta(seconds=20), {}
    start = threading.Barrier(2)

    def undo() -> None:
        with store.connection():
            start.wait()
            try:
                desk_db.perform(Undo(entry), desk_db.people["ada"], when)
                said["undo"] = True
            except Permanent:
                said["undo"] = False

    def claim() -> None:
        with store.connection():
            start.wait()
            said["claim"] = out in [id for run in claimed(desk_db, at=when) for id in run]

    threads = [threading.Thread(target=undo), threading.Thread(target=claim)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(said.values()) == [False, True]


# -- the mailroom: ruling and retry ------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["release", "new", "ticket"])
def test_a_parked_message_is_decided_again_by_what_a_person_said(word: str, desk_db: DeskDb) -> None:
    first = desk_db.receive(letter(ANN))
    mail = letter(MAX, "Re: the boiler")
    parked = desk_db.receive(mail, proof=Proof.FAILED)
    ruling = Ruling(word, first.ticket if word == "ticket" else None)
    done = desk_db.rule(parked, mail, ruling, desk_db.people["sue"], Proof.FAILED)
    assert (parked.state, done.state) == ("parked", "done")
    assert (done.ticket == first.ticket) is (word == "ticket")
    said = json.loads(row("select ruling from inbound where id = ?", parked.inbound)[0])
    assert (said["word"], said["by"]) == (word, desk_db.people["sue"].id)


def test_a_retry_decides_anew_and_parks_again_when_nothing_has_changed(desk_db: DeskDb) -> None:
    mail = letter(MAX)
    parked = desk_db.receive(mail, proof=Proof.FAILED)
    again = desk_db.rule(parked, mail, Ruling("retry"), desk_db.people["sue"], Proof.FAILED)
    assert (again.state, again.reason, desk_db.count("ticket")) == ("parked", "unverified-sender", 0)


def test_what_is_done_takes_no_ruling(desk_db: DeskDb) -> None:
    done = desk_db.receive(letter(ANN))
    with pytest.raises(Permanent, match="does not wait"):
        desk_db.perform(Rule(done.inbound, Ruling("retry")), desk_db.people["sue"])
    assert intake.outcome(done.inbound)["state"] == "done"


def test_the_second_of_two_rulings_is_told_that_it_is_too_late(desk_db: DeskDb) -> None:
    parked = desk_db.receive(letter(MAX), proof=Proof.FAILED)
    desk_db.perform(Rule(parked.inbound, Ruling("release")), desk_db.people["sue"])
    with pytest.raises(Permanent, match="does not wait"):
        desk_db.perform(Rule(parked.inbound, Ruling("new")), desk_db.people["ada"])


def test_a_failed_message_is_listed_with_what_went_wrong_and_can_be_retried(desk_db: DeskDb) -> None:
    mail = letter(ANN)
    with store.writing():
        intake.add(Arrival("mail:x", Channel.MAIL, b"raw", Envelope(ANN.address, (SUPPORT,)), desk_db.now), "")
        intake.fail(1, "our-error", "Traceback: division by zero", desk_db.now)
    assert intake.outcome(1) == {"state": "failed", "reason": "our-error", "ticket": None}
    assert "division by zero" in row("select trace from inbound where id = 1")[0]
    desk_db.perform(Rule(1, Ruling("retry")), desk_db.people["sue"])
    waiting = intake.waiting(desk_db.config.folder / "blobs", 0, 10)
    assert [(w.id, w.raw, w.ruling and w.ruling.word) for w in waiting] == [(1, b"raw", "retry")]
    assert desk_db.decide(1, mail, waiting[0].envelope, Proof.NONE, desk_db.now, waiting[0].ruling).state == "done"


def test_a_failed_message_with_a_minimal_ticket_is_retried_on_that_ticket(desk_db: DeskDb) -> None:
    minimal = desk_db.receive(letter(ANN, "could not be read"))
    with store.writing():
        update("inbound", "id", minimal.inbound, state="failed", reason="unreadable")
    readable = letter(ANN, "The boiler is cold", "Now you can read me.")
    again = desk_db.rule(minimal, readable, Ruling("retry"), desk_db.people["sue"])
    assert (again.state, again.ticket, desk_db.count("ticket")) == ("done", minimal.ticket, 1)


# -- whose turn it is --------------------------------------------------------------------------------------------------


def test_a_locked_database_is_temporary_and_free_again_afterwards(desk_db: DeskDb) -> None:
    execute("pragma busy_timeout = 50")
    other = sqlite3.connect(desk_db.config.folder / "ringback.db", isolation_level=None)
    try:
        other.execute("begin exclusive")
        with pytest.raises(Temporary, match="locked"), store.writing():
            pass
        assert not store.is_writable(desk_db.now)
        other.execute("rollback")
        assert store.is_writable(desk_db.now)
    finally:
        other.close()
    assert desk_db.receive(letter(ANN)).ticket == 1001


def write_flat_out(config: Config, stop: float) -> None:
    """Another process that writes back to back, 20 ms a transaction."""
    store.connect(config)
    with store.connection():
        number = 0
        while time.time() < stop:
            with store.writing():
                end = time.monotonic() + 0.02
                while time.monotonic() < end:
                    number += 1
                    insert(Outbox, key=f"flat out {number}", kind="notice", medium="mail", recipient="x", created_at=0)


def slowest(count: int) -> tuple[float, float]:
    """Seconds that `count` short writes took, a little pause between them: p95 and the longest."""
    seconds = []
    for _ in range(count):
        start = time.perf_counter()
        with store.writing():
            execute("update alarm set value = value + 1")
        seconds.append(time.perf_counter() - start)
        time.sleep(0.005)
    return sorted(seconds)[count * 95 // 100 - 1], max(seconds)


def test_a_click_beside_a_process_that_writes_flat_out_waits_100_ms_at_most(desk_db: DeskDb) -> None:
    process = multiprocessing.get_context("spawn").Process(
        target=write_flat_out, args=(desk_db.config, time.time() + 20), daemon=True
    )
    process.start()
    try:
        while not desk_db.count("outbox"):
            time.sleep(0.05)
        p95, longest = slowest(160)
        if longest > 0.3:  # once more, on a machine that does more than this
            p95, longest = slowest(160)
        assert p95 <= 0.1, f"p95 {p95 * 1000:.0f} ms"
        assert longest <= 0.3, f"one waited {longest * 1000:.0f} ms: the lock alone is not fair, the gate is"
    finally:
        process.kill()
        process.join()


def test_threads_take_turns_and_lose_no_update(desk_db: DeskDb, tmp_path: Path) -> None:
    with store.writing():
        execute("insert into alarm (name, words, at, value) values ('n', '', 0, 0)")
    took: list[float] = []

    def work() -> None:
        with store.connection():
            for _ in range(25):
                start = time.perf_counter()
                with store.writing():
                    value = row("select value from alarm where name = 'n'")[0]
                    execute("update alarm set value = ? where name = 'n'", value + 1)
                took.append(time.perf_counter() - start)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert row("select value from alarm where name = 'n'") == (200,)
    assert len(took) == 200
    assert sorted(took)[189] < 1.0
