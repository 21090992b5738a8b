"""A technician works a whole job by answering mails: the grammar of SMS, in the first line, and only with proof."""

from __future__ import annotations

from datetime import timedelta

import pytest

from gateway import store
from gateway.model import rows, update
from gateway.values import Answer, Assign, Envelope, InboundState, Medium, Proof, Purpose
from tests.conftest import ADA, ANN, SUPPORT, TOM, DeskDb, Result, letter


@pytest.fixture
def job(desk_db: DeskDb) -> int:
    """A ticket of Ann's that Ada has given to Tom."""
    ticket = desk_db.receive(letter(ANN, "No heat")).ticket
    assert ticket is not None
    desk_db.perform(Assign(ticket, desk_db.people["tom"].id), desk_db.people["ada"])
    return ticket


def says(desk_db: DeskDb, ticket: int, text: str, minutes: float = 0, proof: Proof = Proof.PASSED) -> Result:
    """Tom answers a notice about the ticket."""
    at = desk_db.now + timedelta(minutes=minutes)
    to = desk_db.reply_address(Purpose.STAFF_NOTE, ticket, desk_db.newest("entry"), desk_db.people["tom"])
    mail = letter(TOM, "Re: No heat", text, message_id=f"{minutes}-{abs(hash(text))}@tom.example")
    return desk_db.receive(mail, Envelope(TOM.address, (to,)), proof, at)


def test_a_whole_job(desk_db: DeskDb, job: int) -> None:
    tom = desk_db.people["tom"].id
    steps = (
        ("Take", "taken", "open"),
        ("eta 40m", "eta", "open"),
        ("Here", "arrived", "open"),
        ("Hold 2d\n\nwaiting for the valve", "held", "waiting"),
        ("again 1001 fri", "second-visit", "open"),
        ("done 1001: new gasket fitted", "closed", "closed"),
    )
    for minutes, (text, what, status) in enumerate(steps):
        result = says(desk_db, job, text, minutes)
        assert (result.reason, result.entries[0]["reason"], desk_db.ticket(job)["status"]) == (
            "command",
            what,
            status,
        ), text
        assert result.to("echo") == [TOM.address], text
    assert desk_db.ticket(job)["assignee"] == tom


def test_the_customer_is_told_a_minute_after_done_and_undo_keeps_it_from_him(desk_db: DeskDb, job: int) -> None:
    done = says(desk_db, job, "done", 1)
    (told,) = [line for line in done.sent if line["kind"] == "closing"]
    assert (told["recipient"], told["state"]) == (ANN.address, "held")
    undone = says(desk_db, job, "undo", 1.5)
    assert undone.reason == "undone"
    assert [line["state"] for line in desk_db.outbox("id = ?", told["id"])] == ["cancelled"]
    assert desk_db.ticket(job)["status"] == "new"


def test_undo_after_ten_minutes_is_too_late(desk_db: DeskDb, job: int) -> None:
    says(desk_db, job, "done", 1)
    assert says(desk_db, job, "undo", 12).reason == "nothing-to-undo"
    assert desk_db.ticket(job)["status"] == "closed"


@pytest.mark.parametrize(
    "text",
    [
        "Done it, but the internet is off.",
        "Close to finishing, will call.",
        "I took it. Here is what I saw:",
        "Hold on a sec",
    ],
)
def test_a_sentence_is_a_note_and_never_a_command(desk_db: DeskDb, job: int, text: str) -> None:
    result = says(desk_db, job, text)
    assert (result.state, [entry["kind"] for entry in result.entries]) == (InboundState.DONE, ["note"])
    assert desk_db.ticket(job)["status"] == "new"


@pytest.mark.parametrize("proof", [Proof.NONE, Proof.FAILED])
def test_without_proof_nothing_is_executed(desk_db: DeskDb, job: int, proof: Proof) -> None:
    result = says(desk_db, job, "done", proof=proof)
    assert (result.state, result.reason) == (InboundState.PARKED, "unverified-sender")
    assert desk_db.ticket(job)["status"] == "new"


def test_a_reply_to_the_customer_waits_a_minute(desk_db: DeskDb, job: int) -> None:
    result = says(desk_db, job, "reply: I come at three.\nPlease be in.")
    (answer,) = [line for line in result.sent if line["kind"] == "answer"]
    assert (answer["recipient"], answer["state"]) == (ANN.address, "held")
    assert [line[0] for line in rows("select text from body where entry = ?", answer["entry"])] == [
        "I come at three.\nPlease be in."
    ]


def test_an_agent_closes_and_answers_with_one_mail(desk_db: DeskDb, job: int) -> None:
    to = desk_db.reply_address(Purpose.STAFF_ANSWER, job, desk_db.newest("entry"), desk_db.people["ada"])
    mail = letter(ADA, "Re: No heat", "done\n\nThe part is in, all is well.")
    result = desk_db.receive(mail, Envelope(ADA.address, (to,)), Proof.PASSED)
    assert result.to("answer") == [ANN.address]
    assert desk_db.ticket(job)["status"] == "closed"


def test_a_job_is_listed_by_a_fresh_mail_and_its_line_taken(desk_db: DeskDb, job: int) -> None:
    fresh = Envelope(TOM.address, (SUPPORT,))
    assert desk_db.receive(letter(TOM, "jobs", "list"), fresh, Proof.PASSED).reason == "mine"
    result = desk_db.receive(
        letter(TOM, "jobs", "done 1: by list"), fresh, Proof.PASSED, desk_db.now + timedelta(minutes=1)
    )
    assert (result.reason, result.ticket) == ("command", job)


def test_somebody_who_left_gives_no_commands(desk_db: DeskDb, job: int) -> None:
    with store.writing():
        update("account", "id", desk_db.people["tom"].id, active=False)
    says(desk_db, job, "done")
    assert desk_db.ticket(job)["status"] == "new"


def test_an_answer_by_sms_needs_a_number(desk_db: DeskDb, job: int) -> None:
    from gateway.values import Permanent

    with pytest.raises(Permanent, match="No SMS number is configured"):
        desk_db.perform(Answer(job, "hello", by=Medium.SMS), desk_db.people["ada"])
