"""What becomes of an SMS that did not arrive, and what a receipt means: the tables of specs/sms.md 4.7 and 4.8."""

from __future__ import annotations

import itertools
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from gateway.config import Config, parse
from gateway.decide.undelivered import (
    SmsRow,
    UndeliveredFacts,
    decide_receipt,
    decide_undelivered,
    shown_status,
)
from gateway.values import (
    Account,
    Decision,
    Delivery,
    Facts,
    NoticeKind,
    OutboxState,
    Person,
    Receipt,
    Refusal,
    Role,
    Status,
    TicketFacts,
)
from tests.conftest import ADA, ANN, SETTINGS, SUE, TOM

NOW = datetime(2026, 11, 25, 10, 0, tzinfo=UTC)
MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
PHONE, OURS = "+447700900123", "+447700900999"
CONFIG: Config = parse(SETTINGS, {})
ADA_, TOM_, SUE_ = (
    Account(id, id, who.name, who.address, frozenset({role}), 1)
    for id, who, role in ((1, ADA, Role.AGENT), (2, TOM, Role.TECHNICIAN), (3, SUE, Role.ADMINISTRATOR))
)
TICKET = TicketFacts(1001, "", Status.OPEN, "Boiler", 7, PHONE, 1, None, None, frozenset({PHONE}), 5)
ROW = SmsRow(
    17, 1001, 5, NoticeKind.ANSWER, PHONE, None, OutboxState.SENDING, NOW - MINUTE, OURS, attempts=1, data={"x": 1}
)
SENT = replace(ROW, state=OutboxState.SENT, provider_id="SM1", status="sent")
TO_TOM = replace(ROW, kind=NoticeKind.NOTICE, account=2)


def facts(mail: str = ANN.address, opted_out: bool = False) -> UndeliveredFacts:
    known = Facts(
        NOW,
        Person(PHONE, opted_out=opted_out),
        tickets={1001: TICKET},
        accounts={1: ADA_, 2: TOM_},
        staff=(ADA_, SUE_),
    )
    return UndeliveredFacts(known, mail)


def undelivered(why: Refusal | None, row: SmsRow = ROW, mail: str = ANN.address, **more: Any) -> Decision:
    return decide_undelivered(row, why, "30999", "no", facts(mail, **more), NOW, CONFIG)


def told(decision: Decision) -> list[tuple[str, str, str]]:
    return [(notice.kind, notice.medium, notice.recipient) for notice in decision.notices]


# -- what happens ------------------------------------------------------------------------------------------------

BY_MAIL = [("answer", "mail", ANN.address)]
TO_ADA = [("notice", "mail", ADA.address)]
ALARM = [("alarm", "mail", SUE.address)]
DEAD = {"state": "dead"}
OPTED_OUT = {"opted_out": True, "opted_out_at": NOW}
HAPPENS: dict[Refusal | None, tuple[str, timedelta | None, dict[str, Any], list[tuple[str, str, str]]]] = {
    Refusal.NUMBER: ("dead", None, {"sms_ok": False}, BY_MAIL),
    Refusal.OPTED_OUT: ("dead", None, OPTED_OUT, BY_MAIL),
    Refusal.HANDSET: ("ready", 5 * MINUTE, {}, []),
    Refusal.OVERLOAD: ("ready", 15 * MINUTE, {}, []),
    Refusal.UNKNOWN: ("ready", 15 * MINUTE, {}, []),
    Refusal.FILTERED: ("dead", None, {}, TO_ADA),
    Refusal.CONFIG: ("dead", None, {}, [*TO_ADA, *ALARM]),
    Refusal.ACCOUNT: ("ready", 15 * MINUTE, {}, ALARM),
    None: ("dead", None, {}, BY_MAIL),
}


def test_every_reason_has_its_line() -> None:
    assert set(HAPPENS) == {*Refusal, None}


@pytest.mark.parametrize(("why", "happens"), HAPPENS.items(), ids=lambda value: str(value)[:12])
def test_what_becomes_of_an_answer_that_is_refused(
    why: Refusal | None, happens: tuple[str, timedelta | None, dict[str, Any], list[tuple[str, str, str]]]
) -> None:
    state, again, address, who = happens
    decision = undelivered(why)
    row = decision.outbox_changes[17]
    assert (row["state"], row.get("not_before")) == (state, NOW + again if again else None)
    assert decision.address_changes == ({PHONE: address} if address else {})
    assert told(decision) == who


@pytest.mark.parametrize(
    ("why", "waits"),
    [
        (Refusal.HANDSET, [5 * MINUTE, 30 * MINUTE, 2 * HOUR, None]),
        (Refusal.OVERLOAD, [15 * MINUTE, None]),
        (Refusal.UNKNOWN, [15 * MINUTE, None]),
        (Refusal.FILTERED, [None]),
    ],
)
def test_how_often_it_goes_again(why: Refusal, waits: list[timedelta | None]) -> None:
    for resends, wait in enumerate(waits):
        decision = undelivered(why, replace(ROW, resends=resends))
        row = decision.outbox_changes[17]
        assert row.get("not_before") == (NOW + wait if wait else None)
        assert row.get("resends", resends) == (resends + 1 if wait else resends)
        assert bool(decision.notices) == (wait is None), "told only when it goes no more"


def test_what_goes_again_holds_up_no_other_message_to_that_phone() -> None:
    assert undelivered(Refusal.HANDSET).outbox_changes[17]["attempts"] >= 3


def test_a_refused_account_costs_no_attempt_and_no_line_on_the_ticket_until_it_is_given_up() -> None:
    decision = undelivered(Refusal.ACCOUNT)
    assert (decision.outbox_changes[17]["attempts"], decision.entries) == (0, ())
    old = undelivered(Refusal.ACCOUNT, replace(ROW, created=NOW - 24 * HOUR))
    assert (old.outbox_changes[17]["state"], [entry.reason for entry in old.entries]) == ("dead", ["sms-undelivered"])


def test_the_timeline_says_what_the_provider_said() -> None:
    (entry,) = undelivered(Refusal.NUMBER).entries
    assert (entry.reason, entry.public) == ("sms-undelivered", False)
    assert entry.data == {"to": PHONE, "code": "30999", "why": "number", "words": "no"}


def test_the_first_day_of_an_opt_out_stays() -> None:
    assert undelivered(Refusal.OPTED_OUT, opted_out=True).address_changes == {}


# -- by mail instead ---------------------------------------------------------------------------------------------


def test_the_mail_says_what_the_sms_said_and_there_is_one_however_often_it_is_decided() -> None:
    (notice,) = undelivered(Refusal.NUMBER).notices
    assert (notice.key, notice.account, notice.data) == ("fallback:17", None, {"x": 1, "entry": 5})


def test_without_a_mail_address_whoever_looks_after_the_ticket_is_told() -> None:
    decision = undelivered(Refusal.NUMBER, mail="")
    assert told(decision) == TO_ADA
    assert f"The SMS to {PHONE} did not arrive" in decision.notices[0].data["words"]
    assert "no mail address" in decision.notices[0].data["words"]


@pytest.mark.parametrize("kind", NoticeKind)
def test_a_code_and_a_menu_never_go_by_mail(kind: NoticeKind) -> None:
    by_mail = undelivered(Refusal.NUMBER, replace(ROW, kind=kind)).notices
    never = {NoticeKind.CODE, NoticeKind.MENU, NoticeKind.LIST, NoticeKind.USAGE, NoticeKind.CONSENT}
    assert bool(by_mail) == (kind not in never)


@pytest.mark.parametrize("why", [why for why in Refusal if why is not Refusal.ACCOUNT])
def test_what_one_of_us_should_have_got_falls_over_to_his_mail(why: Refusal) -> None:
    decision = undelivered(why, replace(TO_TOM, resends=3))
    assert ("notice", "mail", TOM.address) in told(decision)


def test_a_row_without_a_ticket_makes_no_entry() -> None:
    decision = undelivered(Refusal.NUMBER, replace(TO_TOM, ticket=None))
    assert (decision.ticket, decision.entries, told(decision)) == (None, (), [("notice", "mail", TOM.address)])


def test_the_administrator_is_told_once_a_day_for_each_reason() -> None:
    keys = [undelivered(Refusal.CONFIG).notices[-1].key, undelivered(Refusal.CONFIG, TO_TOM).notices[-1].key]
    assert keys[0] == keys[1]
    assert "2026-11-25" in keys[0]


# -- receipts: the highest is shown ------------------------------------------------------------------------------

D = Delivery
SEQUENCES = {
    (D.QUEUED, D.SENDING, D.SENT, D.DELIVERED): D.DELIVERED,
    (D.ACCEPTED, D.QUEUED, D.SENDING, D.SENT): D.SENT,
    (D.QUEUED, D.SENDING, D.SENT, D.UNDELIVERED): D.UNDELIVERED,
    (D.ACCEPTED, D.SCHEDULED, D.CANCELED): D.CANCELED,
    (D.QUEUED, D.SENDING, D.FAILED): D.FAILED,
    (D.SENDING, D.SENT, D.UNDELIVERED, D.DELIVERED): D.DELIVERED,
    (D.FAILED, D.DELIVERED): D.DELIVERED,
    (D.SENT, D.DELIVERED, D.READ): D.READ,
    (D.SENT, D.UNDELIVERED, D.DELIVERED, D.READ): D.READ,
    (D.ACCEPTED, D.QUEUED, D.SCHEDULED): D.SCHEDULED,
    (D.SENT, D.DELIVERED, D.PRICED): D.DELIVERED,
}


@pytest.mark.parametrize(("sequence", "shown"), SEQUENCES.items(), ids=lambda value: " ".join(value))
def test_in_whatever_order_they_come_and_twice_the_same_is_shown(sequence: tuple[D, ...], shown: D) -> None:
    for order in itertools.permutations(sequence):
        current = ""
        for status in (*order, *order[:1]):
            current = shown_status(current, status)
        assert current == shown, order


@pytest.mark.parametrize("last", [D.DELIVERED, D.FAILED, D.UNDELIVERED, D.CANCELED, D.READ])
def test_a_final_word_stands_except_that_it_arrived_after_all(last: D) -> None:
    overwritten = {new for new in Delivery if shown_status(last, new) != last}
    assert overwritten == {
        D.DELIVERED: {D.READ},
        D.FAILED: {D.DELIVERED, D.READ},
        D.UNDELIVERED: {D.DELIVERED, D.READ},
        D.CANCELED: set(),
        D.READ: set(),
    }.get(last)


# -- receipts: what they change ----------------------------------------------------------------------------------


def received(status: Delivery, row: SmsRow | None, id: str = "SM1", why: Refusal | None = None) -> Decision:
    receipt = Receipt("twilio", id, status, 17, "30006" if why else "", why)
    return decide_receipt(receipt, row, facts() if row else None, NOW, CONFIG)


def state(decision: Decision) -> str:
    return str(decision.outbox_changes.get(17, {}).get("state", "as before"))


def test_a_receipt_of_nothing_we_know_is_filed_and_changes_nothing() -> None:
    decision = received(D.DELIVERED, None)
    assert (decision.state, decision.reason) == ("done", "receipt-unmatched")
    assert (decision.results, decision.outbox_changes, decision.notices) == ((), {}, ())


WAITS = replace(SENT, state=OutboxState.READY, status="undelivered", resends=1)  # goes again in five minutes
AGAIN = replace(WAITS, state=OutboxState.SENDING)
DOUBTED = replace(ROW, state=OutboxState.UNCERTAIN)
TWICE = replace(ROW, state=OutboxState.READY)  # the provider did not know it, so it goes once more
GIVEN_UP = replace(SENT, state=OutboxState.DEAD, status="undelivered")
LOST = replace(ROW, state=OutboxState.DEAD)  # "may not have arrived"
SETTLES = {
    "good news about what was sent": (SENT, D.DELIVERED, "SM1", "as before"),
    "a callback overtakes the answer": (ROW, D.QUEUED, "SM1", "sent"),
    "what it cost proves nothing": (ROW, D.PRICED, "SM1", "as before"),
    "nobody knew, and there it is": (DOUBTED, D.SENT, "SM1", "sent"),
    "it was about to be sent a second time": (TWICE, D.SENT, "SM1", "sent"),
    "given up as lost, and there it is": (LOST, D.SENT, "SM1", "sent"),
    "a late word before the end of a failed one": (GIVEN_UP, D.SENT, "SM1", "as before"),
    "it arrived although the provider had said no": (GIVEN_UP, D.DELIVERED, "SM1", "sent"),
    "a late word about the first attempt while it waits for the second": (WAITS, D.SENT, "SM1", "as before"),
    "the first attempt arrived after all: no second": (WAITS, D.DELIVERED, "SM1", "sent"),
    "a late word about the first attempt during the second": (AGAIN, D.SENT, "SM1", "as before"),
    "the second attempt's callback overtakes its answer": (AGAIN, D.QUEUED, "SM2", "sent"),
}


@pytest.mark.parametrize(("row", "status", "id", "becomes"), SETTLES.values(), ids=SETTLES)
def test_what_good_news_settles(row: SmsRow, status: Delivery, id: str, becomes: str) -> None:
    decision = received(status, row, id)
    assert state(decision) == becomes
    assert (decision.reason, len(decision.results), decision.notices) == ("receipt", 1, ())


BAD_NEWS = {
    "the first": (SENT, "SM1", "dead"),
    "before the answer": (ROW, "SM1", "dead"),
    "a second one": (replace(SENT, status="failed"), "SM1", "as before"),
    "after it was delivered": (replace(SENT, status="delivered"), "SM1", "as before"),
    "about an attempt that another followed": (replace(SENT, provider_id="SM2"), "SM1", "as before"),
    "about the first attempt during the second": (AGAIN, "SM1", "as before"),
    "about a message that was given up": (GIVEN_UP, "SM1", "as before"),
}


@pytest.mark.parametrize(("row", "id", "becomes"), BAD_NEWS.values(), ids=BAD_NEWS)
def test_bad_news_is_acted_on_once(row: SmsRow, id: str, becomes: str) -> None:
    decision = received(D.UNDELIVERED, row, id, Refusal.NUMBER)
    assert (state(decision), bool(decision.notices)) == (becomes, becomes == "dead")
    assert (decision.reason, len(decision.results)) == ("receipt", 1)


def test_bad_news_without_a_reason_is_tried_once_more() -> None:
    assert state(received(D.FAILED, SENT)) == "ready"
