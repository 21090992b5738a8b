"""What is answered, who is told, and what one of us may do by mail: rules 14, 18, 21, 22 and DESIGN.md 5e, 7."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from gateway import queries, store
from gateway.config import parse
from gateway.model import execute, micros, row, update
from gateway.values import (
    Account,
    Answer,
    Assign,
    Close,
    Envelope,
    InboundMessage,
    MessageClass,
    NamedAddress,
    Permanent,
    Proof,
    Purpose,
    Ruling,
    Undo,
)
from tests.conftest import ADA, ANN, BEN, DOMAIN, MAX, SALES, SETTINGS, SUE, SUPPORT, TOM, DeskDb, Result, letter

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
SPOKEN = "the sender asked for none"


def from_(address: str) -> NamedAddress:
    return NamedAddress("", address)


def opened_by_ann(desk: DeskDb, assignee: str = "", ago: timedelta = HOUR) -> int:
    """Ann's ticket, given to one of us or to nobody."""
    ticket = desk.receive(letter(ANN), at=desk.now - ago).ticket
    assert ticket is not None
    if assignee:
        desk.perform(Assign(ticket, desk.people[assignee].id), desk.people["sue"], desk.now - ago)
    return ticket


def first_entry(ticket: int) -> int:
    return int(row("select min(id) from entry where ticket = ?", ticket)[0])


# -- rule 21: at most one acknowledgement a ticket, and to whom never ------------------------------------------------


@dataclass(frozen=True)
class Mail:
    """What is special about a first mail."""

    sender: NamedAddress = MAX
    columns: dict[str, Any] = field(default_factory=dict)
    return_path: str | None = None  # "" is the null return path
    path: str = "smtp"
    proof: Proof = Proof.NONE


ACKNOWLEDGED = {
    "an ordinary mail": Mail(),
    "a mail with dmarc=pass": Mail(proof=Proof.PASSED),
    "a return path elsewhere": Mail(return_path="sender-47@lists.example"),
    "IMAP knows no return path": Mail(return_path="", path="imap"),
    "IMAP writes Delivered-To into every mail": Mail(columns={"delivered_to": (SUPPORT,)}, path="imap"),
    "Reply-To is somebody else": Mail(columns={"reply_to": BEN.address}),
}
NEVER_ACKNOWLEDGED = {
    "an automatic reply": Mail(columns={"category": MessageClass.AUTO_REPLY}),
    "an out-of-office notice": Mail(columns={"category": MessageClass.OUT_OF_OFFICE}),
    "a hard bounce": Mail(columns={"category": MessageClass.BOUNCE_HARD}, return_path=""),
    "a soft bounce": Mail(columns={"category": MessageClass.BOUNCE_SOFT}, return_path=""),
    "a delay notice": Mail(columns={"category": MessageClass.DELAYED}, return_path=""),
    "a delivery receipt": Mail(columns={"category": MessageClass.DELIVERED}, return_path=""),
    "a complaint": Mail(columns={"category": MessageClass.COMPLAINT}),
    "a challenge": Mail(columns={"category": MessageClass.CHALLENGE}),
    "an unknown machine": Mail(columns={"category": MessageClass.UNKNOWN_MACHINE}),
    "a list": Mail(columns={"category": MessageClass.BULK}),
    "a null return path by SMTP": Mail(return_path=""),
    "a null return path by LMTP": Mail(return_path="", path="lmtp"),
    "no-reply": Mail(from_("no-reply@shop.example")),
    "noreply": Mail(from_("noreply@shop.example")),
    "do-not-reply": Mail(from_("do-not-reply@shop.example")),
    "donotreply": Mail(from_("donotreply@shop.example")),
    "mailer-daemon": Mail(from_("mailer-daemon@shop.example")),
    "postmaster": Mail(from_("postmaster@shop.example")),
    "the inbox itself": Mail(from_(SUPPORT)),
    "another inbox of ours": Mail(from_(SALES)),
    "a plus address of ours": Mail(from_(f"support+anything@{DOMAIN}")),
    "dmarc=fail": Mail(proof=Proof.FAILED),
    "the sender asked for none": Mail(columns={"no_automatic_answer": SPOKEN}),
    "Reply-To is our own address": Mail(columns={"reply_to": SUPPORT}),
    "it was delivered to this recipient before": Mail(columns={"delivered_to": (SUPPORT,)}),
}


def arrive(desk: DeskDb, mail: Mail) -> Result:
    envelope = Envelope(mail.sender.address if mail.return_path is None else mail.return_path, (SUPPORT,), mail.path)
    return desk.receive(letter(mail.sender, **mail.columns), envelope, mail.proof)


@pytest.mark.parametrize("mail", ACKNOWLEDGED.values(), ids=ACKNOWLEDGED)
def test_a_first_mail_is_acknowledged_once_to_its_sender(mail: Mail, desk_db: DeskDb) -> None:
    result = arrive(desk_db, mail)
    assert result.to("acknowledgement") == [mail.sender.address]
    assert result.why_not == ""


@pytest.mark.parametrize("mail", NEVER_ACKNOWLEDGED.values(), ids=NEVER_ACKNOWLEDGED)
def test_it_is_never_acknowledged_and_the_page_says_why(mail: Mail, desk_db: DeskDb) -> None:
    result = arrive(desk_db, mail)
    assert result.to("acknowledgement") == []
    if result.ticket is not None:
        assert result.why_not != ""


def test_the_words_of_who_asked_for_no_answer_reach_the_page(desk_db: DeskDb) -> None:
    assert arrive(desk_db, NEVER_ACKNOWLEDGED["the sender asked for none"]).why_not == SPOKEN


def test_a_second_mail_on_the_ticket_is_not_acknowledged(desk_db: DeskDb) -> None:
    ticket = opened_by_ann(desk_db)
    address = from_(desk_db.reply_address(Purpose.CUSTOMER_REPLY, ticket))
    again = desk_db.receive(letter(ANN, "Re: The boiler is cold", "Still cold.", to=(address,)))
    assert (again.ticket, again.to("acknowledgement")) == (ticket, [])


def test_acknowledging_can_be_switched_off(desk_db: DeskDb) -> None:
    desk_db.config = changed(desk_db, mail={"acknowledge": False})
    assert arrive(desk_db, Mail()).to("acknowledgement") == []


def changed(desk: DeskDb, **sections: dict[str, Any]) -> Any:
    """The desk's config with some keys of some sections set otherwise."""
    merged = {name: {**SETTINGS.get(name, {}), **keys} for name, keys in sections.items()}
    return parse(SETTINGS | {"data": {"dir": str(desk.config.folder)}} | merged, {})


def test_an_address_that_bounced_is_not_acknowledged(desk_db: DeskDb) -> None:
    arrive(desk_db, Mail())
    mark_bounced(MAX)
    assert desk_db.receive(letter(MAX, "Again")).to("acknowledgement") == []


def test_an_address_that_bounced_is_good_again_after_a_human_mail_from_it(desk_db: DeskDb) -> None:
    arrive(desk_db, Mail())
    mark_bounced(MAX)
    desk_db.receive(letter(MAX, "Again"))
    assert desk_db.receive(letter(MAX, "And again"), at=desk_db.now + MINUTE).to("acknowledgement") == [MAX.address]


def test_an_out_of_office_notice_does_not_make_a_bounced_address_good_again(desk_db: DeskDb) -> None:
    ticket = opened_by_ann(desk_db)
    mark_bounced(ANN)
    address = from_(desk_db.reply_address(Purpose.CUSTOMER_REPLY, ticket))
    desk_db.receive(letter(ANN, "Out of office", category=MessageClass.OUT_OF_OFFICE, to=(address,)))
    assert row("select bounced from address where value = ?", ANN.address) == (True,)


def mark_bounced(who: NamedAddress) -> None:
    with store.writing():
        assert update("address", "value", who.address, bounced=True) == 1


# -- rule 21: limits, with time moving ------------------------------------------------------------------------------


def acknowledged(desk: DeskDb, sender: str, after: timedelta) -> bool:
    """Is one more first mail from this address, that much later, acknowledged?"""
    message = letter(from_(sender), f"Something new after {after}", f"{sender} {after}")
    result = desk.receive(message, at=desk.now + after)
    assert result.state == "done"
    return result.to("acknowledgement") == [sender]


def test_an_address_gets_three_acknowledgements_an_hour(desk_db: DeskDb) -> None:
    said = {minutes: acknowledged(desk_db, MAX.address, minutes * MINUTE) for minutes in (0, 1, 2, 3, 45, 75, 76)}
    assert said == {0: True, 1: True, 2: True, 3: False, 45: False, 75: True, 76: True}


def test_never_more_than_three_within_sixty_minutes(desk_db: DeskDb) -> None:
    said = [acknowledged(desk_db, MAX.address, minutes * MINUTE) for minutes in (7, 8, 9, 61)]
    assert said == [True, True, True, False]  # the fourth comes 54 minutes after the first


def test_an_address_gets_ten_acknowledgements_a_day(desk_db: DeskDb) -> None:
    said = [acknowledged(desk_db, MAX.address, 30 * n * MINUTE) for n in range(12)]
    assert said == [True] * 10 + [False] * 2
    assert acknowledged(desk_db, MAX.address, DAY + 6 * HOUR)


def test_the_limit_of_one_address_is_not_anothers(desk_db: DeskDb) -> None:
    assert [acknowledged(desk_db, MAX.address, n * MINUTE) for n in range(4)] == [True, True, True, False]
    assert acknowledged(desk_db, "moritz@elsewhere.example", 5 * MINUTE)


def test_a_domain_gets_sixty_acknowledgements_an_hour(desk_db: DeskDb) -> None:
    said = [acknowledged(desk_db, f"person{n}@elsewhere.example", MINUTE) for n in range(61)]
    assert said == [True] * 60 + [False]
    assert acknowledged(desk_db, "somebody@another.example", MINUTE)
    assert acknowledged(desk_db, "person99@elsewhere.example", 75 * MINUTE)


def test_all_together_get_three_hundred_acknowledgements_an_hour(desk_db: DeskDb) -> None:
    said = [acknowledged(desk_db, f"somebody@firm{n}.example", MINUTE) for n in range(301)]
    assert said == [True] * 300 + [False]
    assert acknowledged(desk_db, "somebody@firm999.example", 75 * MINUTE)


@pytest.mark.parametrize(
    ("key", "senders", "expected"),
    [
        ("acknowledgements_per_address_hour", ["a@x.example", "a@x.example", "b@x.example"], [True, False, True]),
        ("acknowledgements_per_address_day", ["a@x.example", "a@x.example", "b@x.example"], [True, False, True]),
        ("acknowledgements_per_domain_hour", ["a@x.example", "b@x.example", "a@y.example"], [True, False, True]),
        ("acknowledgements_per_hour", ["a@x.example", "b@y.example", "c@z.example"], [True, False, False]),
    ],
)
def test_every_limit_is_configurable(key: str, senders: list[str], expected: list[bool], desk_db: DeskDb) -> None:
    desk_db.config = changed(desk_db, limits={key: 1})
    assert [acknowledged(desk_db, sender, n * MINUTE) for n, sender in enumerate(senders)] == expected


def test_over_twenty_new_tickets_an_hour_a_stranger_waits_in_the_tray(desk_db: DeskDb) -> None:
    results = [desk_db.receive(letter(MAX, f"Thing {n}"), at=desk_db.now + n * MINUTE) for n in range(22)]
    assert [r.state for r in results] == ["done"] * 20 + ["parked"] * 2
    assert {r.reason for r in results[20:]} == {"over-limit"}
    assert desk_db.receive(letter(MAX, "Later"), at=desk_db.now + 100 * MINUTE).state == "done"


# -- rule 21: the ping-pong guard -----------------------------------------------------------------------------------


def tickets_of(desk: DeskDb, mails: list[tuple[str, str]]) -> list[int | None]:
    """The tickets of mails from Max, one a minute, each with a Message-ID of its own."""
    return [
        desk.receive(
            letter(MAX, subject, text, message_id=f"{n}@elsewhere.example", content_hash=f"{subject} {text} {n}"),
            at=desk.now + n * MINUTE,
        ).ticket
        for n, (subject, text) in enumerate(mails)
    ]


@pytest.mark.parametrize(
    ("mails", "tickets"),
    [
        ([("Disk full", "sda1")] * 3, 3),
        ([("Disk full", "sda1")] * 6, 3),
        ([("Disk full", "sda1")] * 3 + [("Re: Disk full", "sda1")], 3),
        ([("Disk full", "sda1")] * 3 + [("DISK  full", "sda1 ")], 3),
        ([("Disk full", "sda1")] * 3 + [("Printer jam", "sda1")], 4),
        ([("Question", f"Quite another question, number {n}") for n in range(4)], 4),
    ],
)
def test_more_than_three_equal_mails_in_ten_minutes_are_folded(
    mails: list[tuple[str, str]], tickets: int, desk_db: DeskDb
) -> None:
    assert len(set(tickets_of(desk_db, mails))) == tickets


# -- who is told ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("assignee", "told"),
    [("", [ADA.address, SUE.address]), ("ada", [ADA.address]), ("tom", [TOM.address])],
)
def test_a_customers_mail_is_told_to_the_assignee_or_to_all(assignee: str, told: list[str], desk_db: DeskDb) -> None:
    ticket = opened_by_ann(desk_db, assignee)
    address = from_(desk_db.reply_address(Purpose.CUSTOMER_REPLY, ticket))
    assert desk_db.receive(letter(ANN, "Re: cold", "Still.", to=(address,))).to("notice") == told


def test_a_new_ticket_is_told_to_all_who_look_after_what_nobody_owns(desk_db: DeskDb) -> None:
    assert desk_db.receive(letter(MAX)).to("notice") == [ADA.address, SUE.address]


def test_when_the_assignee_has_left_all_are_told(desk_db: DeskDb) -> None:
    ticket = opened_by_ann(desk_db, "tom")
    with store.writing():
        update("account", "id", desk_db.people["tom"].id, active=False)
    address = from_(desk_db.reply_address(Purpose.CUSTOMER_REPLY, ticket))
    assert desk_db.receive(letter(ANN, "Re: cold", "Still.", to=(address,))).to("notice") == [ADA.address, SUE.address]


@pytest.mark.parametrize(("assignee", "told"), [("", [SUE.address]), ("ada", []), ("tom", [TOM.address])])
def test_the_writer_is_never_told_of_his_own_words(assignee: str, told: list[str], desk_db: DeskDb) -> None:
    ticket = opened_by_ann(desk_db, assignee)
    note = staff_mail(desk_db, desk_db.people["ada"], Purpose.STAFF_NOTE, ticket)
    assert desk_db.receive(note, proof=Proof.PASSED).to("notice") == told


def test_a_guests_mail_is_told_too(desk_db: DeskDb) -> None:
    ticket = opened_by_ann(desk_db, "ada")
    address = from_(desk_db.reply_address(Purpose.CUSTOMER_REPLY, ticket))
    assert desk_db.receive(letter(MAX, "Re: cold", "I know why.", to=(address,))).to("notice") == [ADA.address]


# -- DESIGN 5e: a staff member's plain reply ------------------------------------------------------------------------


def staff_mail(desk: DeskDb, writer: Account, purpose: Purpose | None, ticket: int, **more: Any) -> InboundMessage:
    """A reply of one of us: to the signed address of his notice, or (None) with nothing but our Message-ID."""
    who = NamedAddress(writer.name, writer.address)
    message = letter(who, "Re: [ACME] The boiler is cold", "Press the red switch.")
    if purpose is None:
        ours = f"{desk.token(Purpose.MESSAGE_ID, ticket, first_entry(ticket))}@{DOMAIN}"
        return replace(message, in_reply_to=(ours,), **more)
    address = desk.reply_address(purpose, ticket, first_entry(ticket), writer)
    return replace(message, to=(from_(address),), **more)


@pytest.mark.parametrize(
    ("writer", "purpose", "becomes"),
    [
        ("ada", Purpose.STAFF_ANSWER, "answer"),
        ("ada", Purpose.STAFF_NOTE, "note"),
        ("ada", None, "answer"),
        ("sue", Purpose.STAFF_ANSWER, "answer"),
        ("sue", Purpose.STAFF_NOTE, "note"),
        ("tom", Purpose.STAFF_ANSWER, "answer"),
        ("tom", Purpose.STAFF_NOTE, "note"),
        ("tom", None, "note"),
    ],
)
def test_the_signed_address_says_what_a_staff_reply_means(
    writer: str, purpose: Purpose | None, becomes: str, desk_db: DeskDb
) -> None:
    ticket = opened_by_ann(desk_db)
    account = desk_db.people[writer]
    result = desk_db.receive(staff_mail(desk_db, account, purpose, ticket), proof=Proof.PASSED)
    entry = result.entries[0]
    assert (entry["kind"], entry["account"], bool(entry["public"])) == (becomes, account.id, becomes == "answer")
    assert result.to("answer") == ([ANN.address] if becomes == "answer" else [])
    assert result.to("echo") == [account.address]


@pytest.mark.parametrize(
    ("writer", "setting", "becomes"),
    [("ada", {"reply_of_agents": "note"}, "note"), ("tom", {"reply_of_technicians": "answer"}, "answer")],
)
def test_the_default_meaning_is_configurable(
    writer: str, setting: dict[str, str], becomes: str, desk_db: DeskDb
) -> None:
    desk_db.config = changed(desk_db, mail=setting)
    ticket = opened_by_ann(desk_db)
    mail = staff_mail(desk_db, desk_db.people[writer], None, ticket)
    assert desk_db.receive(mail, proof=Proof.PASSED).entries[0]["kind"] == becomes


def test_an_answer_by_mail_waits_sixty_seconds(desk_db: DeskDb) -> None:
    ticket = opened_by_ann(desk_db)
    mail = staff_mail(desk_db, desk_db.people["ada"], Purpose.STAFF_ANSWER, ticket)
    answer = next(line for line in desk_db.receive(mail, proof=Proof.PASSED).sent if line["kind"] == "answer")
    assert (answer["state"], answer["not_before"]) == ("held", micros(desk_db.now + timedelta(seconds=60)))


def test_the_echo_goes_to_the_address_on_file_whatever_reply_to_says(desk_db: DeskDb) -> None:
    ticket = opened_by_ann(desk_db)
    mail = staff_mail(desk_db, desk_db.people["ada"], Purpose.STAFF_ANSWER, ticket, reply_to=MAX.address)
    result = desk_db.receive(mail, proof=Proof.PASSED)
    assert result.to("echo") == [ADA.address]
    assert MAX.address not in {line["recipient"] for line in result.sent}


def test_an_answer_by_mail_does_not_make_the_agent_a_participant_or_the_requester(desk_db: DeskDb) -> None:
    ticket = opened_by_ann(desk_db)
    before = desk_db.ticket(ticket)["requester"]
    desk_db.receive(staff_mail(desk_db, desk_db.people["ada"], Purpose.STAFF_ANSWER, ticket), proof=Proof.PASSED)
    assert row("select count(*) from participant where address = ?", ADA.address) == (0,)
    assert (desk_db.ticket(ticket)["requester"], desk_db.ticket(ticket)["requester_address"]) == (before, ANN.address)


# -- DESIGN 7: staff tokens end --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("days", "answered"), [(29, True), (31, False)])
def test_a_staff_token_ends_thirty_days_after_its_entry(days: int, answered: bool, desk_db: DeskDb) -> None:
    ticket = opened_by_ann(desk_db, ago=timedelta(days=days))
    mail = staff_mail(desk_db, desk_db.people["ada"], Purpose.STAFF_ANSWER, ticket)
    result = desk_db.receive(mail, proof=Proof.PASSED)
    assert result.to("answer") == ([ANN.address] if answered else [])
    assert any(entry["kind"] == "answer" for entry in result.entries) is answered


def test_a_customers_token_does_not_end(desk_db: DeskDb) -> None:
    ticket = opened_by_ann(desk_db, ago=timedelta(days=300))
    address = from_(desk_db.reply_address(Purpose.CUSTOMER_REPLY, ticket))
    assert desk_db.receive(letter(ANN, "Re: cold", "Still.", to=(address,))).ticket == ticket


def test_raising_the_generation_ends_all_staff_tokens(desk_db: DeskDb) -> None:
    ticket, ada = opened_by_ann(desk_db), desk_db.people["ada"]
    old = staff_mail(desk_db, ada, Purpose.STAFF_ANSWER, ticket)
    with store.writing():
        update("account", "id", ada.id, generation=ada.generation + 1)
    result = desk_db.receive(old, proof=Proof.PASSED)
    assert (result.to("answer"), result.ticket == ticket) == ([], False)
    fresh = replace(staff_mail(desk_db, replace(ada, generation=2), Purpose.STAFF_ANSWER, ticket), message_id="fresh@x")
    assert desk_db.receive(replace(fresh, content_hash="fresh"), proof=Proof.PASSED).to("answer") == [ANN.address]


def test_the_token_of_somebody_who_has_left_is_worth_nothing(desk_db: DeskDb) -> None:
    ticket, ada = opened_by_ann(desk_db), desk_db.people["ada"]
    mail = staff_mail(desk_db, ada, Purpose.STAFF_ANSWER, ticket)
    with store.writing():
        update("account", "id", ada.id, active=False)
    result = desk_db.receive(mail, proof=Proof.PASSED)
    assert (result.to("answer"), result.ticket == ticket) == ([], False)


# -- rule 18: a token alone proves nobody ----------------------------------------------------------------------------


@pytest.mark.parametrize("purpose", [Purpose.STAFF_ANSWER, Purpose.STAFF_NOTE, None])
@pytest.mark.parametrize("proof", [Proof.NONE, Proof.FAILED])
def test_a_forwarded_notice_with_a_forged_from_executes_nothing(
    purpose: Purpose | None, proof: Proof, desk_db: DeskDb
) -> None:
    ticket = opened_by_ann(desk_db, "ada")
    before = (desk_db.ticket(ticket), desk_db.count("entry"))
    forged = staff_mail(desk_db, desk_db.people["ada"], purpose, ticket, forwarded=True)
    result = desk_db.receive(forged, Envelope(MAX.address, (SUPPORT,)), proof)
    assert (result.state, result.reason, result.sent) == ("parked", "unverified-sender", ())
    assert (desk_db.ticket(ticket), desk_db.count("entry")) == before


def test_one_click_releases_what_nothing_proved(desk_db: DeskDb) -> None:
    ticket = opened_by_ann(desk_db)
    mail = staff_mail(desk_db, desk_db.people["ada"], Purpose.STAFF_ANSWER, ticket)
    parked = desk_db.receive(mail)
    released = desk_db.rule(parked, mail, Ruling("release"), desk_db.people["sue"])
    assert (released.state, released.ticket, released.to("answer")) == ("done", ticket, [ANN.address])


def test_one_click_releases_a_customers_mail_with_dmarc_fail(desk_db: DeskDb) -> None:
    ticket = opened_by_ann(desk_db)
    mail = letter(ANN, "Re: cold", "Still.", to=(from_(desk_db.reply_address(Purpose.CUSTOMER_REPLY, ticket)),))
    parked = desk_db.receive(mail, proof=Proof.FAILED)
    released = desk_db.rule(parked, mail, Ruling("release"), desk_db.people["sue"], Proof.FAILED)
    assert (parked.state, released.state, released.ticket) == ("parked", "done", ticket)


def test_an_out_of_office_notice_of_one_of_us_is_no_answer(desk_db: DeskDb) -> None:
    ticket = opened_by_ann(desk_db)
    away = staff_mail(desk_db, desk_db.people["ada"], Purpose.STAFF_ANSWER, ticket, category=MessageClass.OUT_OF_OFFICE)
    result = desk_db.receive(away, proof=Proof.PASSED)
    assert (result.entries[0]["kind"], result.sent) == ("automatic", ())


def test_a_doubtful_from_is_never_one_of_us(desk_db: DeskDb) -> None:
    ticket = opened_by_ann(desk_db)
    mail = staff_mail(desk_db, desk_db.people["ada"], Purpose.STAFF_ANSWER, ticket, sender_is_doubtful=True)
    result = desk_db.receive(mail, proof=Proof.PASSED)
    assert result.to("answer") == []
    assert all(entry["account"] is None for entry in result.entries)


# -- rule 14: bounces -----------------------------------------------------------------------------------------------


def bounce_of(desk: DeskDb, ticket: int, cls: MessageClass = MessageClass.BOUNCE_HARD, n: int = 0) -> Result:
    """The report about our acknowledgement of Ann's ticket, to the signed return address."""
    outbox = int(row("select min(id) from outbox where ticket = ? and recipient = ?", ticket, ANN.address)[0])
    address = f"support+{desk.token(Purpose.BOUNCE, ticket, 0, outbox)}@{DOMAIN}"
    report = letter(from_("mailer-daemon@mx.example"), f"Undelivered {n}", f"No such user {n}", category=cls)
    return desk.receive(report, Envelope("", (address,)))


def test_a_hard_bounce_reopens_the_ticket_tells_the_agent_and_marks_message_and_address(desk_db: DeskDb) -> None:
    ticket = opened_by_ann(desk_db, "ada")
    desk_db.perform(Close(ticket, "solved"), desk_db.people["ada"])
    result = bounce_of(desk_db, ticket)
    assert (result.ticket, desk_db.ticket(ticket)["status"]) == (ticket, "open")
    assert (result.to("notice"), result.to("acknowledgement")) == ([ADA.address], [])
    assert row("select bounced from address where value = ?", ANN.address) == (True,)
    assert desk_db.outbox("recipient = ?", ANN.address)[0]["state"] == "dead"


@pytest.mark.parametrize("cls", [MessageClass.BOUNCE_SOFT, MessageClass.DELAYED, MessageClass.DELIVERED], ids=str)
def test_one_soft_bounce_a_delay_or_a_receipt_marks_no_address(cls: MessageClass, desk_db: DeskDb) -> None:
    ticket = opened_by_ann(desk_db, "ada")
    result = bounce_of(desk_db, ticket, cls)
    assert (result.ticket, result.sent) == (ticket, ())
    assert row("select bounced from address where value = ?", ANN.address) == (False,)


def test_a_complaint_marks_the_address_do_not_mail_and_reopens_nothing(desk_db: DeskDb) -> None:
    ticket = opened_by_ann(desk_db, "ada")
    desk_db.perform(Close(ticket, "solved"), desk_db.people["ada"])
    bounce_of(desk_db, ticket, MessageClass.COMPLAINT)
    assert row("select opted_out or bounced from address where value = ?", ANN.address) == (True,)
    assert desk_db.ticket(ticket)["status"] == "closed"


# -- what a page asks for -------------------------------------------------------------------------------------------


def test_who_is_blocked_can_be_allowed_from_the_mailroom(desk_db: DeskDb) -> None:
    with store.writing():
        execute("insert into block (value, refused, at) values (?, ?, 0)", MAX.address, True)
    mail = letter(MAX)
    refused = desk_db.receive(mail)
    assert refused.ticket is None
    allowed = desk_db.rule(refused, mail, Ruling("allow"), desk_db.people["sue"])
    assert allowed.ticket is not None
    assert desk_db.receive(letter(MAX, "Another thing")).ticket is not None


def test_there_is_no_such_closing_reason(desk_db: DeskDb) -> None:
    ticket = opened_by_ann(desk_db)
    with pytest.raises(Permanent, match="Closing needs a reason"):
        desk_db.perform(Close(ticket, "because"), desk_db.people["ada"])


def test_the_database_of_a_test_is_its_own(desk_db: DeskDb, tmp_path: Path) -> None:
    assert desk_db.config.folder == tmp_path / "data"
    assert desk_db.count("ticket") == 0


def test_what_nobody_needs_is_filed_away_and_waits_no_longer(desk_db: DeskDb) -> None:
    mail = letter(MAX, "Your parcel", category=MessageClass.AUTO_REPLY)
    parked = desk_db.receive(mail)
    assert parked.state == "parked"
    filed = desk_db.rule(parked, mail, Ruling("file"), desk_db.people["sue"])
    assert (filed.state, filed.reason, filed.ticket) == ("done", "filed-away", None)


def test_a_refused_sender_needs_nobodys_look_but_can_be_found(desk_db: DeskDb) -> None:
    with store.writing():
        execute("insert into block (value, refused, at) values (?, ?, 0)", MAX.address, True)
    desk_db.receive(letter(MAX))
    assert queries.waiting_for_a_person() == 0
    assert [line.reason for line in queries.mailroom("parked", desk_db.now).received] == ["blocked-sender"]
    assert queries.mailroom("look", desk_db.now).received == ()


def test_undoing_a_second_answer_leaves_the_ticket_waiting_for_the_customer(desk_db: DeskDb) -> None:
    ticket = desk_db.receive(letter(ANN)).ticket
    assert ticket is not None
    ada = desk_db.people["ada"]
    desk_db.perform(Answer(ticket, "We come at eight."), ada)
    second = desk_db.perform(Answer(ticket, "No, at nine."), ada, desk_db.now + MINUTE)
    desk_db.perform(Undo(second.entries[0]), ada, desk_db.now + MINUTE)
    assert desk_db.ticket(ticket)["status"] == "waiting"
