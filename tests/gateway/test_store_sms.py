"""SMS in the outbox: the gate in the claim, receipts in any order, what nobody knows, who is told (sms.md 4.6-4.8)."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest

from gateway import store, texting
from gateway.config import parse
from gateway.model import Address, Contact, ContactAddress, Outbox, execute, insert, micros, row, rows
from gateway.store import apply as writer
from gateway.store import outbox, schedule
from gateway.store.files import keep_file
from gateway.store.outbox import Gate
from gateway.values import (
    Channel,
    Decision,
    Delivery,
    FilePart,
    InboundState,
    Kind,
    NewEntry,
    NewTicket,
    NoticeKind,
    OutboxState,
    Permanent,
    Receipt,
    Refusal,
    Refused,
    Sent,
)
from gateway.worker import Box, _gate, _still_allowed
from outbound.render import render
from tests.conftest import ANN, SUE, SUPPORT, TOM, DeskDb

SECOND, MINUTE = timedelta(seconds=1), timedelta(minutes=1)
PHONE, OTHER, OURS = "+447700900123", "+447700900124", "+447700900999"
BY_ITSELF = {"acknowledgement", "menu", "list", "usage", "echo", "notice", "closing", "alarm"}


def text(desk: DeskDb, kind: str = "answer", phone: str = PHONE, **more: Any) -> int:
    """An SMS in the outbox; its id."""
    with store.writing():
        number = desk.newest("outbox") + 1
        at = micros(desk.now)
        columns: dict[str, Any] = {"state": "ready", "not_before": at, "number": OURS, "medium": "sms", **more}
        return insert(Outbox, key=f"r{number}", kind=kind, recipient=phone, created_at=at, **columns)


def address(phone: str = PHONE, **columns: Any) -> None:
    with store.writing():
        insert(Address, medium="sms", value=phone, **columns)


def gate(desk: DeskDb, cap: int = 500) -> Gate:
    day = desk.now.replace(hour=0)
    return Gate(cap, day, day + timedelta(days=1))


def claim(desk: DeskDb, after: timedelta = timedelta(), cap: int = 500) -> list[int]:
    at = desk.now + after
    with store.writing():
        return [out.id for lane in outbox.claim("me", at, 8, gate(desk, cap)) for out in lane]


def columns(id: int, *names: str) -> tuple[Any, ...]:
    return tuple(row(f"select {', '.join(names)} from outbox where id = ?", id))  # noqa: S608


def state(id: int) -> str:
    return str(columns(id, "state")[0])


def ann(desk: DeskDb, phone: str = PHONE, mail: str = ANN.address) -> tuple[int, int]:
    """Ann with her phone and her mail address, and an SMS answer on her ticket: (ticket, entry of the answer)."""
    with store.writing():
        contact = insert(Contact, name="Ann", created_at=0)
        for medium, value in (("sms", phone), ("mail", mail)):
            if value:
                known = row("select id from address where value = ?", value)
                id = known[0] if known else insert(Address, medium=medium, value=value)
                insert(ContactAddress, contact=contact, address=id)
        ticket = NewTicket(SUPPORT, "Boiler", phone, acquisition="sms")
        entry = NewEntry(Kind.ANSWER, Channel.WEB, account=desk.people["ada"].id, text="Press the red switch.")
        written = writer.apply(
            Decision(InboundState.DONE, "test", new_ticket=ticket, entries=(entry,)), desk.now - MINUTE
        )
    assert written.ticket is not None
    return written.ticket, written.entries[0]


@pytest.fixture
def box(desk_db: DeskDb) -> Iterator[Box]:
    box = Box(desk_db.config, "me")
    yield box
    box.close()


# -- the gate: opted out, no SMS -------------------------------------------------------------------------------------

SHUT = {"opted out": {"opted_out": True}, "no SMS to this number": {"sms_ok": False}}


@pytest.mark.parametrize("kind", NoticeKind)
@pytest.mark.parametrize(("words", "known"), SHUT.items(), ids=SHUT)
def test_no_sms_but_the_last_word_about_stop_passes(
    words: str, known: dict[str, Any], kind: NoticeKind, desk_db: DeskDb
) -> None:
    address(**known)
    id = text(desk_db, kind)
    passes = kind is NoticeKind.CONSENT
    assert claim(desk_db) == ([id] if passes else [])
    assert passes or columns(id, "state", "result") == ("dead", words)


def test_what_the_gate_stops_makes_room_in_the_same_claim(desk_db: DeskDb) -> None:
    for number in range(20):
        address(f"+4477009{number:05}", opted_out=True)
        text(desk_db, phone=f"+4477009{number:05}")
    behind = text(desk_db, phone=OTHER)
    assert claim(desk_db) == [behind]


def test_a_phone_nobody_knows_anything_about_gets_sms(desk_db: DeskDb) -> None:
    id = text(desk_db)
    assert claim(desk_db) == [id]


MOMENTS = {
    "before it is written": "new",
    "while it is held for undo": "held",
    "while it is due": "ready",
    "between two attempts": "tried",
    "while it waits for the morning": "night",
}


@pytest.mark.parametrize("moment", MOMENTS.values(), ids=MOMENTS)
def test_stop_is_heeded_at_every_moment(moment: str, desk_db: DeskDb) -> None:
    later = micros(desk_db.now + MINUTE)
    how: dict[str, Any] = {"state": "held", "not_before": later} if moment in ("held", "night") else {}
    if moment == "new":
        address(opted_out=True)
    id = text(desk_db, **how)
    if moment == "tried":
        assert claim(desk_db) == [id]
        with store.writing():
            outbox.record_failed(id, "refused", desk_db.now + SECOND, desk_db.now)
    if moment != "new":
        address(opted_out=True)
    assert claim(desk_db, 2 * MINUTE) == []
    assert columns(id, "state", "result") == ("dead", "opted out")


def test_stop_between_the_claim_and_the_sending_is_heeded_too(desk_db: DeskDb) -> None:
    text(desk_db)
    with store.writing():
        ((outgoing,),) = outbox.claim("me", desk_db.now, 8, gate(desk_db))
    _still_allowed(outgoing)
    address(opted_out=True)
    with pytest.raises(Refused, match="opted out") as refused:
        _still_allowed(outgoing)
    assert refused.value.why is Refusal.OPTED_OUT
    _still_allowed(replace(outgoing, kind=NoticeKind.CONSENT))


# -- the gate: the day's limit -----------------------------------------------------------------------------------


def sent_today(desk: DeskDb, segments: int, ago: timedelta = MINUTE) -> None:
    at = micros(desk.now - ago)
    text(desk, phone=OTHER, state="sent", segments=segments, done_at=at, changed=at)


@pytest.mark.parametrize("kind", NoticeKind)
def test_at_the_days_limit_what_goes_by_itself_waits_for_tomorrow(kind: NoticeKind, desk_db: DeskDb) -> None:
    sent_today(desk_db, 100)
    id = text(desk_db, kind)
    midnight = desk_db.now.replace(hour=0) + timedelta(days=1)
    if kind not in BY_ITSELF:
        assert claim(desk_db, cap=100) == [id]
        return
    assert claim(desk_db, cap=100) == []
    assert columns(id, "state", "result", "not_before") == ("held", "daily limit of SMS", micros(midnight))
    at = desk_db.now + timedelta(days=1)
    with store.writing():
        tomorrow = Gate(100, midnight, midnight + timedelta(days=1))
        assert [out.id for lane in outbox.claim("me", at, 8, tomorrow) for out in lane] == [id]


@pytest.mark.parametrize(
    ("segments", "ago", "cap", "goes"),
    [
        (99, MINUTE, 100, True),
        (100, MINUTE, 100, False),
        (100, timedelta(hours=11), 100, True),  # yesterday
        (0, MINUTE, 0, False),
        (0, MINUTE, 1, False),  # a provider that does not say counts as one
    ],
)
def test_what_counts_for_the_limit(segments: int, ago: timedelta, cap: int, goes: bool, desk_db: DeskDb) -> None:
    sent_today(desk_db, segments, ago)
    id = text(desk_db, "notice")
    assert claim(desk_db, cap=cap) == ([id] if goes else [])


def test_a_receipt_today_of_an_sms_of_yesterday_does_not_count_for_the_limit(desk_db: DeskDb) -> None:
    yesterday = micros(desk_db.now - timedelta(hours=11))
    text(desk_db, phone=OTHER, state="sent", segments=100, done_at=yesterday, changed=micros(desk_db.now))
    id = text(desk_db, "notice")
    assert claim(desk_db, cap=100) == [id]


def test_what_is_on_its_way_counts_for_the_limit(desk_db: DeskDb) -> None:
    ids = [text(desk_db, "notice", f"+4477009001{n:02}") for n in range(20)]
    assert claim(desk_db, cap=5) == ids[:5]
    assert claim(desk_db, cap=5) == []


@pytest.mark.parametrize(
    ("at", "day", "midnight"),
    [
        ("2026-11-25T23:30+00:00", "2026-11-25T23:00+00:00", "2026-11-26T23:00+00:00"),  # half past midnight there
        ("2026-11-25T22:30+00:00", "2026-11-24T23:00+00:00", "2026-11-25T23:00+00:00"),
        (
            "2026-10-25T12:00+00:00",
            "2026-10-24T22:00+00:00",
            "2026-10-25T23:00+00:00",
        ),  # the clocks went back: 25 hours
    ],
)
def test_the_limits_day_is_the_firms(at: str, day: str, midnight: str, desk_db: DeskDb) -> None:
    config = parse({"firm": {"time_zone": "Europe/Berlin"}, "limits": {"sms_segments_per_day": 7}}, {})
    found = _gate(config, datetime.fromisoformat(at))
    assert found == Gate(7, datetime.fromisoformat(day), datetime.fromisoformat(midnight))


def test_mail_knows_no_such_limit(desk_db: DeskDb) -> None:
    sent_today(desk_db, 100)
    id = text(desk_db, "notice", ANN.address, medium="mail")
    assert claim(desk_db, cap=0) == [id]


# -- who is told when it does not go -----------------------------------------------------------------------------


def test_what_the_gate_stops_goes_by_mail(desk_db: DeskDb, box: Box) -> None:
    ticket, entry = ann(desk_db)
    id = text(desk_db, ticket=ticket, entry=entry)
    with store.writing():
        execute("update address set opted_out = ?, opted_out_at = 7 where value = ?", True, PHONE)
    ((mail,),) = box.claim(desk_db.now, 8)
    assert (mail.medium, mail.recipient, mail.kind) == ("mail", ANN.address, "answer")
    assert columns(id, "state", "result") == ("dead", "opted out")
    assert desk_db.entries("reason = 'sms-undelivered'")[0]["data"]["why"] == "opted-out"
    assert row("select opted_out_at from address where value = ?", PHONE) == (7,)


def test_the_mail_that_goes_instead_carries_the_answers_words(desk_db: DeskDb, box: Box) -> None:
    ticket, entry = ann(desk_db)
    id = text(desk_db, ticket=ticket, entry=entry)
    ((outgoing,),) = box.claim(desk_db.now, 8)
    box.record_refused(outgoing, Refused("landline", "21614", Refusal.NUMBER), desk_db.now)
    ((mail,),) = box.claim(desk_db.now, 8)
    written = render(box.letter(mail), desk_db.config, desk_db.keys, desk_db.now)
    assert b"Press the red switch." in written.content
    assert columns(id, "state", "code", "result") == ("dead", "21614", "landline")
    assert row("select sms_ok from address where value = ?", PHONE)[0] == 0


def test_a_notice_to_tom_that_is_given_up_falls_over_to_his_mail(desk_db: DeskDb, box: Box) -> None:
    tom = desk_db.people["tom"]
    id = text(desk_db, "notice", account=tom.id)
    assert [len(lane) for lane in box.claim(desk_db.now, 8)] == [1]
    box.record_failed(id, "nobody listens", None, desk_db.now)
    ((mail,),) = box.claim(desk_db.now, 8)
    assert (mail.recipient, mail.account, mail.medium) == (TOM.address, tom.id, "mail")
    assert columns(id, "state", "result") == ("dead", "nobody listens")


def test_a_refused_account_is_an_alarm_until_an_sms_goes_again(desk_db: DeskDb, box: Box) -> None:
    id = text(desk_db)
    ((outgoing,),) = box.claim(desk_db.now, 8)
    box.record_refused(outgoing, Refused("wrong password", "20003", Refusal.ACCOUNT), desk_db.now)
    assert columns(id, "state", "attempts", "resends") == ("ready", 0, 0)
    assert row("select words from alarm where name = ?", f"sms:{OURS}") == ("SMS do not go out: wrong password",)
    assert [line["recipient"] for line in desk_db.outbox("kind = 'alarm'")] == [SUE.address]
    execute("update outbox set state = 'sent' where kind = 'alarm'")
    ((again,),) = box.claim(desk_db.now + 15 * MINUTE, 8)
    box.record_sent([(again.id, Sent("SM1", sender=OURS))], desk_db.now)
    assert row("select words from alarm where name = ?", f"sms:{OURS}") == ("",)


def test_when_nobody_can_be_told_it_is_dead_all_the_same(
    desk_db: DeskDb, box: Box, caplog: pytest.LogCaptureFixture
) -> None:
    address(opted_out=True)
    id = text(desk_db, ticket=4711)  # there is no such ticket
    assert box.claim(desk_db.now, 8) == []
    assert columns(id, "state", "result") == ("dead", "opted out")
    assert "nobody could be told" in caplog.text


SHARED = {
    "a phone of one person": ({"ann": True}, "requester", ANN.address),
    "a phone of two, and the requester is one of them": ({"ann": True, "bob": True}, "requester", ANN.address),
    "a phone of two, and nobody knows who asked": ({"ann": True, "bob": True}, None, ""),
    "the requester has no mail address": ({}, "requester", ""),
}


@pytest.mark.parametrize(("mails", "asker", "found"), SHARED.values(), ids=SHARED)
def test_nobody_gets_the_message_of_somebody_with_the_same_phone(
    mails: dict[str, bool], asker: str | None, found: str, desk_db: DeskDb
) -> None:
    ticket, entry = ann(desk_db, mail=ANN.address if "ann" in mails else "")
    if "bob" in mails:
        with store.writing():
            bob = insert(Contact, name="Bob", created_at=0)
            for value in (PHONE, "bob@hill.example"):
                known = row("select id from address where value = ?", value)
                id = known[0] if known else insert(Address, medium="mail", value=value)
                insert(ContactAddress, contact=bob, address=id)
    requester = row("select id from contact where name = 'Ann'")[0] if asker else None
    execute("update ticket set requester = ? where number = ?", requester, ticket)
    sms = outbox.sms_by_id(text(desk_db, ticket=ticket, entry=entry))
    assert sms is not None
    assert outbox.undelivered_facts(sms, desk_db.now).mail == found


# -- receipts ----------------------------------------------------------------------------------------------------


def receive(desk: DeskDb, receipt: Receipt, after: timedelta = timedelta()) -> Decision:
    """As the desk does it."""
    at = desk.now + after
    with store.writing():
        decision = texting.receipt(receipt, at, desk.config)
        writer.apply(decision, at)
    return decision


def said(status: Delivery, id: str = "SM1", outbox: int | None = None, **more: Any) -> Receipt:
    return Receipt("twilio", id, status, outbox, **more)


def on_its_way(desk: DeskDb, **more: Any) -> int:
    id = text(desk, **more)
    assert claim(desk) == [id]
    return id


def sent(desk: DeskDb, id: int, provider_id: str = "SM1") -> None:
    with store.writing():
        outbox.record_sent([(id, Sent(provider_id, "queued", 2, OURS))], desk.now)


STORY = (Delivery.QUEUED, Delivery.SENDING, Delivery.SENT, Delivery.DELIVERED)


def test_delivered_is_shown_in_whatever_order_callbacks_and_the_answer_come(desk_db: DeskDb) -> None:
    for order in itertools.permutations(("answer", *STORY)):
        id = on_its_way(desk_db)
        sid = f"SM{id}"
        for word in order:
            if word == "answer":
                sent(desk_db, id, sid)
            else:
                receive(desk_db, said(Delivery(word), sid, id))
        shown = columns(id, "state", "status", "provider_id", "segments", "number")
        assert shown == ("sent", "delivered", sid, 2, OURS), order
        assert sorted(line[0] for line in rows("select status from result where outbox = ?", id)) == sorted(STORY)


def test_a_receipt_without_our_id_finds_its_row_by_the_providers(desk_db: DeskDb) -> None:
    id = on_its_way(desk_db)
    sent(desk_db, id)
    assert receive(desk_db, said(Delivery.DELIVERED)).reason == "receipt"
    assert columns(id, "status") == ("delivered",)
    assert receive(desk_db, said(Delivery.DELIVERED, "SM2")).reason == "receipt-unmatched"


def test_a_receipt_that_names_a_mail_of_ours_is_about_nothing(desk_db: DeskDb) -> None:
    id = text(desk_db, phone=ANN.address, medium="mail")
    assert receive(desk_db, said(Delivery.DELIVERED, "", id)).reason == "receipt-unmatched"
    assert outbox.sms_row(said(Delivery.DELIVERED, "", 2**70)) is None


def test_a_receipt_that_overtook_a_failed_answer_stands(desk_db: DeskDb) -> None:
    id = on_its_way(desk_db)
    receive(desk_db, said(Delivery.SENT, outbox=id))
    with store.writing():
        outbox.record_uncertain(id, "timed out", desk_db.now + MINUTE, desk_db.now)
        outbox.record_failed(id, "timed out", None, desk_db.now)
        outbox.record_later(id, "timed out", desk_db.now, desk_db.now)
    assert columns(id, "state", "attempts") == ("sent", 1)


def test_the_same_receipt_twice_is_kept_once(desk_db: DeskDb) -> None:
    id = on_its_way(desk_db)
    for _ in range(3):
        receive(desk_db, said(Delivery.SENT, outbox=id, words="handed over"))
    assert rows("select outbox, status, words from result") == [(id, "sent", "handed over")]


def test_a_price_is_a_price_and_nothing_else(desk_db: DeskDb) -> None:
    id = on_its_way(desk_db)
    sent(desk_db, id)
    receive(desk_db, said(Delivery.PRICED, price="0.0420", currency="GBP", segments=3))
    names = ("state", "status", "price", "currency", "segments")
    assert columns(id, *names) == ("sent", "", "0.0420", "GBP", 3)
    assert desk_db.count("result") == 0


def test_a_phone_that_is_off_is_tried_four_times_and_then_mailed(desk_db: DeskDb) -> None:
    ticket, entry = ann(desk_db)
    id = text(desk_db, ticket=ticket, entry=entry)
    after = timedelta()
    for attempt, wait in enumerate((5 * MINUTE, 30 * MINUTE, 120 * MINUTE, None)):
        assert claim(desk_db, after) == [id], attempt
        sent(desk_db, id, f"SM{attempt}")
        assert columns(id, "status") == ("",), "the second attempt's story begins anew"
        off = said(Delivery.UNDELIVERED, f"SM{attempt}", id, code="30003", why=Refusal.HANDSET)
        receive(desk_db, off, after)
        assert columns(id, "status", "code") == ("undelivered", "30003")
        if wait is None:
            break
        assert claim(desk_db, after + wait - SECOND) == []
        after += wait
    assert columns(id, "state", "resends") == ("dead", 3)
    assert [line["recipient"] for line in desk_db.outbox("key = ?", f"fallback:{id}")] == [ANN.address]


def test_the_story_of_the_second_attempt_is_not_that_of_the_first(desk_db: DeskDb) -> None:
    id = on_its_way(desk_db)
    sent(desk_db, id, "SM1")
    receive(desk_db, said(Delivery.UNDELIVERED, code="30003", why=Refusal.HANDSET))
    assert claim(desk_db, 5 * MINUTE) == [id]
    receive(desk_db, said(Delivery.QUEUED, "SM2", id))
    assert columns(id, "state", "status", "provider_id") == ("sent", "queued", "SM2"), "it overtook the answer"
    for late in (Delivery.SENT, Delivery.FAILED):
        receive(desk_db, said(late, "SM1", id, code="30008"))
    assert columns(id, "state", "status", "provider_id") == ("sent", "queued", "SM2")
    receive(desk_db, said(Delivery.DELIVERED, "SM1", id))
    assert columns(id, "status", "provider_id") == ("delivered", "SM2"), "it is there, by whichever attempt"


def test_an_answer_by_sms_that_is_filtered_is_told_to_people_and_not_repeated(desk_db: DeskDb) -> None:
    ticket, entry = ann(desk_db)
    id = on_its_way(desk_db, ticket=ticket, entry=entry)
    sent(desk_db, id)
    receive(desk_db, said(Delivery.UNDELIVERED, code="30007", why=Refusal.FILTERED))
    assert state(id) == "dead"
    told = {line["recipient"] for line in desk_db.outbox("kind = 'notice'")}
    assert SUE.address in told
    assert ANN.address not in told


# -- an SMS of which nobody knows --------------------------------------------------------------------------------


def doubted(desk: DeskDb) -> int:
    id = on_its_way(desk)
    with store.writing():
        outbox.record_uncertain(id, "timed out", desk.now + MINUTE, desk.now)
    return id


def look(desk: DeskDb, after: timedelta, found: Sent | None) -> None:
    at = desk.now + after
    (doubt,) = outbox.doubtful(at, 5)
    with store.writing():
        if found:
            outbox.record_found(doubt.outgoing.id, found, at)
        else:
            outbox.record_absent(doubt, at)


def test_the_provider_is_asked_after_one_minute_and_after_five(desk_db: DeskDb) -> None:
    id = doubted(desk_db)
    assert outbox.doubtful(desk_db.now + 59 * SECOND, 5) == []
    look(desk_db, MINUTE, None)
    assert state(id) == "uncertain"
    assert outbox.doubtful(desk_db.now + 299 * SECOND, 5) == []
    look(desk_db, 5 * MINUTE, None)
    assert columns(id, "state", "result") == ("ready", "may have been sent twice")
    assert claim(desk_db, 5 * MINUTE) == [id]


def test_what_the_provider_knows_was_sent(desk_db: DeskDb) -> None:
    id = doubted(desk_db)
    look(desk_db, MINUTE, Sent("SM7", "queued", 1, OURS))
    assert columns(id, "state", "provider_id", "number") == ("sent", "SM7", OURS)


def test_it_is_looked_for_from_when_the_attempt_began(desk_db: DeskDb) -> None:
    doubted(desk_db)
    execute("update outbox set created_at = 5")  # it waited long before it was tried
    (doubt,) = outbox.doubtful(desk_db.now + MINUTE, 5)
    assert doubt.since == desk_db.now


def test_another_message_of_ours_proves_nothing_about_this_one(desk_db: DeskDb) -> None:
    id = doubted(desk_db)
    text(desk_db, phone=OTHER, state="sent", provider_id="SM7")
    look(desk_db, MINUTE, Sent("SM7"))
    assert state(id) == "uncertain"
    assert outbox.doubtful(desk_db.now + 9 * MINUTE, 5) == []
    with store.writing():
        outbox.settle_uncertain(desk_db.now + 11 * MINUTE)
    assert state(id) == "dead"


def test_it_goes_again_after_each_time_the_provider_did_not_have_it_until_its_time_is_over(desk_db: DeskDb) -> None:
    id, after = doubted(desk_db), 5 * MINUTE
    while columns(id, "created_at")[0] + 86_400_000_000 >= micros(desk_db.now + after):
        look(desk_db, after, None)
        assert claim(desk_db, after) == [id]
        with store.writing():
            at = desk_db.now + after
            outbox.record_uncertain(id, "timed out again", at + MINUTE, at)
        after += 5 * MINUTE if after < timedelta(hours=1) else timedelta(hours=6)
    (doubt,) = outbox.doubtful(desk_db.now + after, 5)
    with store.writing():
        assert not outbox.record_absent(doubt, desk_db.now + after)
    assert columns(id, "state", "result") == ("uncertain", "may have been sent twice; timed out again")


def test_the_history_keeps_that_it_may_have_been_sent_twice(desk_db: DeskDb) -> None:
    id = doubted(desk_db)
    look(desk_db, 5 * MINUTE, None)
    assert claim(desk_db, 5 * MINUTE) == [id]
    sent(desk_db, id)
    assert columns(id, "result") == ("may have been sent twice; queued",)


def test_a_killed_workers_sms_is_asked_about_and_not_repeated(desk_db: DeskDb) -> None:
    id = on_its_way(desk_db)
    with store.writing():
        outbox.free(desk_db.now + MINUTE, {})
    assert state(id) == "uncertain"
    (doubt,) = outbox.doubtful(desk_db.now + 2 * MINUTE, 5)
    assert (doubt.outgoing.id, doubt.since) == (id, desk_db.now)


def test_a_receipt_settles_what_nobody_knew(desk_db: DeskDb) -> None:
    id = doubted(desk_db)
    receive(desk_db, said(Delivery.SENT, outbox=id))
    assert columns(id, "state", "status", "provider_id") == ("sent", "sent", "SM1")


def test_without_a_way_to_ask_a_person_sees_it_after_ten_minutes(desk_db: DeskDb) -> None:
    id = on_its_way(desk_db)
    with store.writing():
        outbox.record_uncertain(id, "timed out", None, desk_db.now)
        outbox.settle_uncertain(desk_db.now + 9 * MINUTE)
    assert state(id) == "uncertain"
    assert outbox.doubtful(desk_db.now + 9 * MINUTE, 5) == []
    with store.writing():
        outbox.settle_uncertain(desk_db.now + 11 * MINUTE)
    assert columns(id, "state", "result") == ("dead", "may not have arrived: timed out")


def test_what_was_not_tried_does_not_count_as_an_attempt(desk_db: DeskDb) -> None:
    id = on_its_way(desk_db)
    with store.writing():
        outbox.record_later(id, "429", desk_db.now + SECOND, desk_db.now)
    assert columns(id, "state", "attempts", "result") == ("ready", 0, "429")
    assert claim(desk_db) == []
    assert claim(desk_db, SECOND) == [id]


# -- what falls due with a network call in it --------------------------------------------------------------------


def due(desk: DeskDb, after: timedelta = timedelta(), limit: int = 9, owner: str = "me") -> list[str]:
    with store.writing():
        return [line.key for line in schedule.claim(("poll", "media"), owner, desk.now + after, limit)]


def test_a_row_is_claimed_once_when_it_is_due_and_only_of_its_kinds(desk_db: DeskDb) -> None:
    with store.writing():
        for key in ("poll:a:1", "media:5:0", "prices:a:1", "pollute:1"):
            schedule.add(key, desk_db.now + MINUTE, {"n": 1})
    assert not schedule.any_due(("poll", "media"), desk_db.now)
    assert due(desk_db) == []
    assert schedule.any_due(("poll", "media"), desk_db.now + MINUTE)
    assert due(desk_db, MINUTE) == ["media:5:0", "poll:a:1"]
    assert due(desk_db, MINUTE) == []
    assert due(desk_db, 12 * MINUTE, owner="next") == ["media:5:0", "poll:a:1"], "its lease has ended"


def test_a_dead_workers_rows_are_free_at_once(desk_db: DeskDb) -> None:
    with store.writing():
        schedule.add("poll:a:1", desk_db.now, {})
    assert due(desk_db) == ["poll:a:1"]
    with store.writing():
        schedule.free()
    assert due(desk_db, owner="next") == ["poll:a:1"]


def test_what_is_there_already_keeps_its_time_and_its_data(desk_db: DeskDb) -> None:
    with store.writing():
        schedule.add("poll:a:1", desk_db.now + MINUTE, {"cursor": "x"})
        schedule.add("poll:a:1", desk_db.now, {})
    assert due(desk_db) == []
    with store.writing():
        schedule.hurry("poll:a:1", desk_db.now)
    assert due(desk_db) == ["poll:a:1"]
    assert json.loads(row("select data from schedule where key = 'poll:a:1'")[0]) == {"cursor": "x"}


def test_a_row_comes_again_or_is_over(desk_db: DeskDb) -> None:
    with store.writing():
        schedule.add("poll:a:1", desk_db.now, {})
    assert due(desk_db) == ["poll:a:1"]
    with store.writing():
        schedule.again("poll:a:1", desk_db.now + MINUTE, {"cursor": "y"}, desk_db.now)
    assert due(desk_db) == []
    assert due(desk_db, MINUTE) == ["poll:a:1"]
    with store.writing():
        schedule.over("poll:a:1")
    assert due(desk_db, timedelta(days=1)) == []


# -- files that come later ---------------------------------------------------------------------------------------


def test_a_picture_hangs_on_its_entry_once_and_the_ticket_shows_that_something_came(desk_db: DeskDb) -> None:
    ticket, entry = ann(desk_db)
    before = rows("select * from entry")
    for _ in range(2):
        with store.writing():
            keep_file(entry, FilePart("0" * 64, "boiler.jpg", "image/jpeg", 5), desk_db.now)
            keep_file(4711, FilePart("0" * 64, "boiler.jpg", "image/jpeg", 5), desk_db.now)
    assert rows("select entry, name, type, size from attachment") == [(entry, "boiler.jpg", "image/jpeg", 5)]
    assert row("select updated_at from ticket where number = ?", ticket)[0] == micros(desk_db.now)
    assert rows("select * from entry") == before


def test_an_sms_that_was_sent_cannot_be_released(desk_db: DeskDb) -> None:
    id = on_its_way(desk_db)
    sent(desk_db, id)
    with pytest.raises(Permanent), store.writing():
        outbox.release(id, desk_db.now)
    assert state(id) == OutboxState.SENT
