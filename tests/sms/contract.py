"""What every SMS driver does, whoever the provider is (sms.md 5). `test_contract.py` runs it over its RIGS.

To add a provider, write a rig: a context manager `(folder, monkeypatch) -> Rig` that plays the provider, and put it
into RIGS. What the provider has no way of doing stands in `cannot`, with the reason; it must agree with the driver's
CAPS.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from itertools import permutations
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import pytest

import inbound.sms
import outbound.sms
from gateway.config import Config, SmsNumber
from gateway.values import (
    Delivery,
    OutSms,
    RawResponse,
    Receipt,
    Refusal,
    Refused,
    Sent,
    Sms,
    Temporary,
    Uncertain,
)

OURS, THEIRS = "+447700900999", "+447700900123"
PICTURE = b"\xff\xd8\xff\xe0 a boiler, seen from below"  # what the provider keeps for each picture, as image/jpeg
SINCE = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)  # of the first attempt; the provider's own clock is later than this


class Outcome(StrEnum):
    """What a message meets at the provider. The values are the keys of `Rig.cannot`."""

    TAKEN = "taken"
    RETRY = "retry"  # not taken, and it says so: busy, or nobody listens
    UNCERTAIN = "uncertain"  # taken, but the answer never comes
    NUMBER = "refused: number"
    OPTED_OUT = "refused: opted out"
    CONFIG = "refused: config"
    ACCOUNT = "refused: account"


# What else a rig may say it cannot do: there is a reason for each, and CAPS says the same.
INBOUND, PICTURES, RECEIPTS, FORGERY, METHODS = "inbound", "pictures", "receipts", "forgery", "methods"

REASONS = {
    Outcome.NUMBER: Refusal.NUMBER,
    Outcome.OPTED_OUT: Refusal.OPTED_OUT,
    Outcome.CONFIG: Refusal.CONFIG,
    Outcome.ACCOUNT: Refusal.ACCOUNT,
}


@dataclass(frozen=True, slots=True)
class Heard:
    """What the driver made of a webhook. `answer` is None where it fetches by itself and nobody waits for one."""

    values: list[Sms | Receipt]
    answer: RawResponse | None


class Rig(Protocol):
    """A provider, played. One `way`: `OURS` is its number.

    `methods` are the HTTP methods its webhooks use, () where it has none. `cannot` says what it cannot do and why.
    """

    name: str  # of the driver
    way: SmsNumber
    methods: tuple[str, ...]
    cannot: Mapping[str, str]

    def deliver(self, text: str, number: int = 1, pictures: int = 0, forged: bool = False, method: str = "") -> Heard:
        """A message from THEIRS to OURS. The same `number` again is the same message, delivered again; `forged`: as
        somebody sends it who knows all but the secret; `method`: instead of the usual one."""

    def report(self, sent: Sent, outbox: int, status: Delivery, forged: bool = False) -> Heard:
        """A receipt for what was sent as outbox row `outbox`."""

    def next_meets(self, outcome: Outcome) -> None:
        """What the next message that is sent meets; later ones are taken again."""

    def taken(self) -> list[tuple[str, str, str]]:
        """(from, to, text) of each message that it took, oldest first."""


MakeRig = Callable[[Path, pytest.MonkeyPatch], AbstractContextManager[Rig]]


def able(rig: Rig, what: str) -> None:
    """Leaves the test out, with the rig's reason, where the provider cannot do it."""
    if what in rig.cannot:
        pytest.skip(f"{rig.name} cannot: {rig.cannot[what]}")


def letter(text: str = "Your engineer comes at 9", id: int = 42) -> OutSms:
    """An SMS of ours to THEIRS, in its first attempt."""
    callback = f"https://desk.example.org/hooks/sms/status?m={id}"
    return OutSms(id=id, sender=OURS, recipient=THEIRS, text=text, callback=callback, since=SINCE)


@dataclass(frozen=True, slots=True)
class Sender:
    """A driver's outward half with a client of its own."""

    module: ModuleType
    client: Any
    way: SmsNumber

    def send(self, message: OutSms) -> Sent:
        """As the driver's `send`."""
        sent: Sent = self.module.send(self.client, self.way, message)
        return sent


def sender(rig: Rig) -> Sender:
    """The driver, connected to the rig."""
    module = outbound.sms.driver(rig.name)
    return Sender(module, module.connect(rig.way, Config(sms=(rig.way,))), rig.way)


def one_sms(heard: Heard) -> Sms:
    """The only value heard, an SMS; the answer, where there is one, is a good one."""
    assert heard.answer is None or heard.answer.status in (200, 202, 204)
    (value,) = heard.values
    assert isinstance(value, Sms)
    return value


# -- what it says of itself --------------------------------------------------------------------------------------


def test_what_the_rig_cannot_do_agrees_with_the_caps_of_the_driver(rig: Rig) -> None:
    caps = outbound.sms.caps(rig.name)
    assert (RECEIPTS in rig.cannot) == (not caps.receipts)
    assert (INBOUND in rig.cannot) == (not caps.two_way)
    assert (PICTURES in rig.cannot) == (not caps.media)
    assert all(reason.strip() for reason in rig.cannot.values())
    assert set(rig.cannot) <= {*Outcome, INBOUND, PICTURES, RECEIPTS, FORGERY, METHODS}
    assert Outcome.TAKEN not in rig.cannot


def test_it_has_a_look_up_and_prices_only_where_the_caps_say_so(rig: Rig) -> None:
    module, caps = outbound.sms.driver(rig.name), outbound.sms.caps(rig.name)
    inward = inbound.sms.driver(rig.name)
    assert hasattr(module, "look_up") == caps.can_look_up
    assert hasattr(module, "prices") == caps.price
    assert (inward is not None and inward.poll is not None) == caps.polls
    assert (inward is not None and inward.fetch is not None) == caps.media


# -- sending -----------------------------------------------------------------------------------------------------


def test_a_message_is_taken_once_and_gets_the_providers_name(rig: Rig) -> None:
    out = sender(rig)
    first, second = out.send(letter("One", id=1)), out.send(letter("Two", id=2))
    assert [text for _, _, text in rig.taken()] == ["One", "Two"]
    assert {(to,) for _, to, _ in rig.taken()} == {(THEIRS,)}
    assert first.provider_id != second.provider_id or not first.provider_id


@pytest.mark.parametrize(
    "text", ["Grüße: € [1] – “quoted” ✓ 👍 Готово", "two\nlines & a=b?%20+", "x" * 1600, "é" * 1600]
)
def test_a_text_goes_out_as_it_was_written(rig: Rig, text: str) -> None:
    if len(text) > outbound.sms.caps(rig.name).max_chars:
        text = text[: outbound.sms.caps(rig.name).max_chars]
    sender(rig).send(letter(text))
    assert [sent for _, _, sent in rig.taken()] == [text]


def test_what_was_not_taken_is_said_to_be_safe_to_try_again(rig: Rig) -> None:
    able(rig, Outcome.RETRY)
    rig.next_meets(Outcome.RETRY)
    out = sender(rig)
    with pytest.raises(Temporary) as said:
        out.send(letter("One"))
    assert not isinstance(said.value, Uncertain)
    assert str(said.value).strip()
    assert rig.taken() == []
    out.send(letter("One"))
    assert [text for _, _, text in rig.taken()] == ["One"]


def test_a_message_without_an_answer_is_uncertain_and_found_where_the_provider_can_be_asked(rig: Rig) -> None:
    able(rig, Outcome.UNCERTAIN)
    rig.next_meets(Outcome.UNCERTAIN)
    out = sender(rig)
    with pytest.raises(Uncertain):
        out.send(letter("One"))
    if not out.module.CAPS.can_look_up:
        return
    found = out.module.look_up(out.client, out.way, letter("One"))
    assert found is not None
    assert found.provider_id
    assert out.module.look_up(out.client, out.way, replace(letter("Never sent"), id=43)) is None


@pytest.mark.parametrize("outcome", REASONS)
def test_a_refusal_has_the_providers_code_and_our_reason(rig: Rig, outcome: Outcome) -> None:
    able(rig, outcome)
    rig.next_meets(outcome)
    with pytest.raises(Refused) as said:
        sender(rig).send(letter())
    assert said.value.why is REASONS[outcome]
    assert said.value.code
    assert str(said.value).strip()
    assert rig.taken() == []


# -- what comes in -----------------------------------------------------------------------------------------------


def test_a_message_comes_in(rig: Rig) -> None:
    able(rig, INBOUND)
    sms = one_sms(rig.deliver("Boiler is leaking again"))
    assert (sms.driver, sms.sender, sms.recipient) == (rig.name, THEIRS, OURS)
    assert (sms.text, sms.media, sms.opt_out) == ("Boiler is leaking again", (), "")
    assert sms.id


@pytest.mark.parametrize(
    "text",
    ["Готово №1234 ✓ 👍 naïve – “quotes”\nline 2", "done 1234  ", " a+b=c&d%20;e", "x" * 1600, "é" * 1600],
    ids=["unicode", "space at the end", "what forms escape", "long", "long unicode"],
)
def test_a_text_comes_in_letter_by_letter(rig: Rig, text: str) -> None:
    able(rig, INBOUND)
    assert one_sms(rig.deliver(text)).text == text


def test_the_same_message_again_has_the_same_id_and_another_one_another(rig: Rig) -> None:
    able(rig, INBOUND)
    first, again = one_sms(rig.deliver("Help", number=1)), one_sms(rig.deliver("Help", number=1))
    other = one_sms(rig.deliver("Help", number=2))
    assert first.id == again.id != other.id


def test_a_forged_message_is_refused(rig: Rig) -> None:
    able(rig, INBOUND)
    able(rig, FORGERY)
    heard = rig.deliver("done 1234", forged=True)
    assert heard.values == []
    assert heard.answer is not None
    assert heard.answer.status == 403


def test_only_the_providers_own_http_method_is_heard(rig: Rig) -> None:
    able(rig, INBOUND)
    able(rig, METHODS)
    for method in {"GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", ""} - {*rig.methods, ""}:
        heard = rig.deliver("Help", method=method)
        assert heard.values == [], method
        assert heard.answer is not None, method
        assert heard.answer.status == 405, method
        assert set(heard.answer.headers["Allow"].replace(" ", "").split(",")) == set(rig.methods), method


def test_a_message_may_be_only_a_picture(rig: Rig) -> None:
    able(rig, INBOUND)
    able(rig, PICTURES)
    inward = inbound.sms.driver(rig.name)
    assert inward is not None
    assert inward.fetch is not None
    sms = one_sms(rig.deliver("", pictures=2))
    assert sms.text == ""
    assert [inward.fetch(rig.way, media) for media in sms.media] == [(PICTURE, "image/jpeg")] * 2


def test_an_empty_message_comes_in_as_one(rig: Rig) -> None:
    able(rig, INBOUND)
    sms = one_sms(rig.deliver(""))
    assert (sms.text, sms.media) == ("", ())


# -- receipts ----------------------------------------------------------------------------------------------------

COMMON = (Delivery.SENT, Delivery.DELIVERED, Delivery.UNDELIVERED)  # what every provider with receipts can say


@pytest.mark.parametrize("order", list(permutations(COMMON)), ids=lambda order: " ".join(order))
def test_receipts_name_our_row_in_whatever_order_they_come(rig: Rig, order: tuple[Delivery, ...]) -> None:
    able(rig, RECEIPTS)
    sent = sender(rig).send(letter(id=77))
    for status in order:
        heard = rig.report(sent, 77, status)
        assert heard.answer is None or heard.answer.status in (200, 202, 204)
        (receipt,) = heard.values
        assert isinstance(receipt, Receipt)
        assert (receipt.driver, receipt.status, receipt.outbox) == (rig.name, status, 77)
        assert receipt.id == sent.provider_id
        assert (receipt.why is not None) == (status is Delivery.UNDELIVERED)


def test_a_forged_receipt_is_refused(rig: Rig) -> None:
    able(rig, RECEIPTS)
    able(rig, FORGERY)
    heard = rig.report(sender(rig).send(letter()), 42, Delivery.DELIVERED, forged=True)
    assert heard.values == []
    assert heard.answer is not None
    assert heard.answer.status == 403
