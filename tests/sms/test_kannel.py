"""The Kannel driver: against requests as Kannel makes them, and against a Kannel that runs."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from gateway.config import Config, Kannel, SmsNumber
from gateway.values import (
    Delivery,
    OutSms,
    RawRequest,
    RawResponse,
    Receipt,
    Refusal,
    Refused,
    Sent,
    Sms,
    Temporary,
    Uncertain,
)
from inbound.sms import kannel as inward
from outbound.sms import kannel as outward
from tests.loopback import HOST, free_port, wait_until
from tests.sms.kannel_server import CUSTOMER, OURS, Desk, Gateway, desk, kannel
from tests.sms.rigs_others import Said, provider

WAY = SmsNumber(number=OURS, driver="kannel", kannel=Kannel(secret="open sesame", password="pass word&"))
OTHER = SmsNumber(
    number="+447700900998", driver="kannel", kannel=Kannel(secret="another one", allow_from=("192.0.2.0/24",))
)
MESSAGE = OutSms(17, OURS, CUSTOMER, "We are on our way.", "https://desk.example/hooks/kannel/status?m=17")
SMS = "id=1a2b&from=%2B447700900123&to=%2B447700900999&text=The+boiler%0Ais+cold&coding=0&charset=UTF-8&time=1795625485"
STATUS = "m=17&type=1&answer="


def ask(
    query: str, event: str = "sms", secret: str = "open+sesame", peer: str = "127.0.0.1", method: str = "GET"
) -> tuple[list[Sms | Receipt], RawResponse]:
    url = f"https://desk.example/hooks/kannel/{event}?secret={secret}&{query}"
    return inward.receive(RawRequest(method, url, {"X-Ringback-Peer": peer}, b""), event, [OTHER, WAY])


def received(query: str) -> Sms:
    (value,), response = ask(query)
    assert response.status == 200
    assert isinstance(value, Sms)
    return value


def receipt(query: str) -> Receipt:
    (value,), response = ask(query, "status")
    assert response.status == 200
    assert isinstance(value, Receipt)
    return value


# -- in ----------------------------------------------------------------------------------------------------------


def test_a_message_comes_in_whole() -> None:
    sms = received(SMS)
    assert (sms.driver, sms.id, sms.sender, sms.recipient) == ("kannel", "1a2b", CUSTOMER, OURS)
    assert sms.text == "The boiler\nis cold"
    assert sms.at is not None
    assert sms.at.isoformat() == "2026-11-25T16:51:25+00:00"


@pytest.mark.parametrize(
    ("written", "coding", "charset", "text"),
    [
        ("%D0%9F%F0%9F%98%80", "0", "UTF-8", "П😀"),  # mo-recode = true
        ("%04%1F%D8%3D%DE%00", "2", "UTF-16BE", "П😀"),
        ("%04%1F%D8", "2", "UTF-16BE", "П\ufffd"),  # cut in the middle of a letter
        ("caf%E9", "0", "ISO-8859-1", "café"),
        ("a+%E2%82%AC", "1", "8-BIT", "a €"),
        ("%FF%FE", "1", "8-BIT", "\ufffd\ufffd"),
        ("50%25+off+%26id%3D9", "0", "UTF-8", "50% off &id=9"),
        ("a%00b", "0", "", "ab"),
        ("", "0", "UTF-8", ""),
    ],
)
def test_a_text_is_read_in_its_charset(written: str, coding: str, charset: str, text: str) -> None:
    assert received(f"id=1&from=%2B44&to=%2B45&text={written}&coding={coding}&charset={charset}").text == text


def test_the_answer_is_empty_or_the_customer_would_get_it_as_an_sms() -> None:
    for query, event in ((SMS, "sms"), (STATUS, "status")):
        _, response = ask(query, event)
        assert (response.status, response.body) == (200, b"")
        assert response.headers["Content-Type"].startswith("text/plain")


@pytest.mark.parametrize("event", ["sms", "status"])
@pytest.mark.parametrize(
    ("asks", "status"),
    [
        ({"secret": "wrong"}, 403),
        ({"secret": ""}, 403),
        ({"secret": "%FF"}, 403),
        ({"peer": "198.51.100.7"}, 403),
        ({"peer": ""}, 403),
        ({"peer": "127.0.0.1, 198.51.100.7"}, 403),
        ({"secret": "another+one"}, 403),  # right, but not from here
        ({"peer": "192.0.2.9"}, 403),  # known, but with another secret
        ({"secret": "another+one", "peer": "192.0.2.9"}, 200),
        ({"peer": "::1"}, 200),
        ({"peer": "::ffff:127.0.0.1"}, 200),
        ({"method": "POST"}, 405),
        ({"method": "HEAD"}, 405),
    ],
)
def test_only_our_kannel_is_heard(event: str, asks: dict[str, str], status: int) -> None:
    values, response = ask(SMS if event == "sms" else STATUS, event, **asks)
    assert response.status == status
    assert len(values) == (status == 200)


@pytest.mark.parametrize(
    ("event", "query"),
    [
        ("sms", "from=%2B44&text=x"),
        ("sms", "id=1&text=x"),
        ("sms", "id=1&from=%2B44"),
        ("sms", "id=%00&from=+&text=x"),
        ("status", "type=1"),
        ("status", "m=17"),
        ("status", "m=17&type=3"),
        ("status", "m=-1&type=1"),
        ("status", "m=9999999999999999999&type=1"),
        ("status", "m=%D9%A1&type=1"),  # a digit, but no number of ours
        ("other", SMS),
    ],
)
def test_a_query_that_says_too_little_is_400(event: str, query: str) -> None:
    values, response = ask(query, event)
    assert (values, response.status) == ([], 400)


@given(st.dictionaries(st.sampled_from(["id", "from", "text", "coding", "m", "type", "answer", "é"]), st.binary()))
def test_no_query_with_our_secret_raises_anything(fields: dict[str, bytes]) -> None:
    query = "&".join(f"{quote(name, encoding='latin-1')}={quote(value)}" for name, value in fields.items())
    for event in ("sms", "status"):
        values, response = ask(query, event)
        assert response.status == (200 if values else 400)


def test_letters_that_are_none_are_replaced_and_zeros_go() -> None:
    sms = received("id=+a%00b+&from=%FF&to=+x+&text=hi&é=1")
    assert (sms.id, sms.sender, sms.recipient) == ("ab", "\ufffd", "x")


def test_only_our_own_header_says_who_asks() -> None:
    url = f"https://desk.example/hooks/kannel/sms?secret=open+sesame&{SMS}"
    for headers, status in (
        ({"x-RINGBACK-peer": " 127.0.0.1 "}, 200),
        ({"X-Forwarded-For": "127.0.0.1"}, 403),
        ({}, 403),
    ):
        _, response = inward.receive(RawRequest("GET", url, headers, b""), "sms", [WAY])
        assert response.status == status


def test_strange_addresses_raise_nothing() -> None:
    for url in ("", "?", "https://[bad", "x?secret=%ZZ&%", "x?secret=\ud800", "x?" + "&" * 10_000, "x?secret=é"):
        values, response = inward.receive(RawRequest("GET", url, {"x-ringback-peer": "::1"}, b""), "sms", [WAY])
        assert (values, response.status) == ([], 403)


@pytest.mark.parametrize(
    ("kind", "answer", "status", "code", "why"),
    [
        ("1", "id:7 sub:001 dlvrd:001 stat:DELIVRD err:000", Delivery.DELIVERED, "", None),
        ("2", "id:7 sub:001 dlvrd:000 stat:EXPIRED err:000", Delivery.UNDELIVERED, "EXPIRED", Refusal.HANDSET),
        ("2", "id:7 sub:001 dlvrd:000 stat:UNDELIV err:001", Delivery.UNDELIVERED, "UNDELIV", Refusal.UNKNOWN),
        ("2", "", Delivery.UNDELIVERED, "", Refusal.UNKNOWN),
        ("4", "", Delivery.QUEUED, "", None),
        ("8", "ACK/", Delivery.SENT, "", None),
        ("16", "NACK/11/Invalid Destination Address", Delivery.FAILED, "11", Refusal.NUMBER),
        ("16", "NACK/0x0000000b/Invalid Destination Address", Delivery.FAILED, "11", Refusal.NUMBER),
        ("16", "NACK/88/Throttling error", Delivery.FAILED, "88", Refusal.OVERLOAD),
        ("16", "NACK/10/Invalid Source Address", Delivery.FAILED, "10", Refusal.CONFIG),
        ("16", "NACK/13/Bind Failed", Delivery.FAILED, "13", Refusal.ACCOUNT),
        ("16", "NACK/14/Invalid Password", Delivery.FAILED, "14", Refusal.ACCOUNT),
        ("16", "NACK/15/Invalid System ID", Delivery.FAILED, "15", Refusal.ACCOUNT),
        ("16", "NACK/20/Message Queue full", Delivery.FAILED, "20", Refusal.OVERLOAD),
        ("2", "id:7 sub:001 dlvrd:000 stat:REJECTD err:069", Delivery.UNDELIVERED, "REJECTD", Refusal.FILTERED),
        ("16", "NACK/no SMSC", Delivery.FAILED, "", Refusal.UNKNOWN),
    ],
)
def test_a_receipt_says_what_became_of_it(
    kind: str, answer: str, status: Delivery, code: str, why: Refusal | None
) -> None:
    said = receipt(f"m=17&type={kind}&answer={answer.replace(' ', '+')}")
    assert said == Receipt("kannel", "", status, 17, code, why, answer)


# -- out, against a server that says what it is told ---------------------------------------------------------------


class Answer(NamedTuple):
    status: int
    text: str


def send(answer: Answer, message: OutSms = MESSAGE, way: SmsNumber = WAY) -> tuple[Sent, dict[str, str]]:
    asked: list[dict[str, str]] = []

    def client(request: requests.Request) -> requests.Response:
        assert isinstance(request.params, dict)
        asked.append(request.params)
        response = requests.Response()
        response.status_code, response._content = answer.status, answer.text.encode()
        return response

    sent = outward.send(client, way, message)
    return sent, asked[0]


ACCEPTED = Answer(202, "0: Accepted for delivery")


def test_kannel_is_asked_for_all_receipts_with_our_id_and_secret_in_their_url() -> None:
    sent, asked = send(ACCEPTED)
    assert sent.words == "0: Accepted for delivery"
    assert asked == {
        "username": "ringback",
        "password": "pass word&",
        "from": OURS,
        "to": CUSTOMER,
        "text": "We are on our way.",
        "charset": "UTF-8",
        "coding": "0",
        "dlr-mask": "31",
        "dlr-url": "https://desk.example/hooks/kannel/status?m=17&secret=open%%20sesame&type=%d&answer=%A",
    }


def test_no_receipts_are_asked_for_without_a_callback_and_the_smsc_is_named_when_there_is_one() -> None:
    assert WAY.kannel is not None
    way = WAY.model_copy(update={"kannel": WAY.kannel.model_copy(update={"smsc": "modem1"})})
    _, asked = send(ACCEPTED, replace(MESSAGE, callback=""), way)
    assert asked["smsc"] == "modem1"
    assert not {"dlr-url", "dlr-mask"} & asked.keys()


@pytest.mark.parametrize(
    ("text", "coding"),
    [("plain", "0"), ("{€}", "0"), ("Ångström", "0"), ("curly ’", "2"), ("Привет", "2"), ("😀", "2")],
)
def test_letters_outside_gsm_go_as_ucs2(text: str, coding: str) -> None:
    _, asked = send(ACCEPTED, replace(MESSAGE, text=text))
    assert (asked["text"], asked["coding"]) == (text, coding)


@pytest.mark.parametrize("text", ["0: Accepted for delivery", "3: Queued for later delivery", "Sent."])
def test_202_is_sent(text: str) -> None:
    assert send(Answer(202, text))[0] == Sent(words=text)


@pytest.mark.parametrize(
    ("status", "text", "why"),
    [
        (403, "Authorization failed for sendsms", Refusal.ACCOUNT),
        (403, "Not routable. Do not try again.", Refusal.CONFIG),
        (400, "Empty receiver number not allowed, rejected", Refusal.NUMBER),
        (400, "Number(s) has/have been denied by white- and/or black-lists.", Refusal.NUMBER),
        (400, "Sender missing and no global set, rejected", Refusal.CONFIG),
        (404, "Not found", Refusal.CONFIG),
        (302, "Moved", Refusal.CONFIG),
    ],
)
def test_what_kannel_refuses_is_not_tried_again(status: int, text: str, why: Refusal) -> None:
    with pytest.raises(Refused) as refused:
        send(Answer(status, text))
    assert (str(refused.value), refused.value.code, refused.value.why) == (f"{status} {text}", str(status), why)


def test_503_is_tried_again_and_of_500_nobody_knows() -> None:
    with pytest.raises(Temporary, match="Temporal failure") as temporary:
        send(Answer(503, "Temporal failure, try again later."))
    assert not isinstance(temporary.value, Uncertain)
    with pytest.raises(Uncertain, match="Sending failed"):
        send(Answer(500, "Sending failed."))


def test_nobody_there_is_temporary_and_silence_is_uncertain_and_no_password_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(outward, "TIMEOUT", 0.3)
    client = outward.connect(WAY, Config())
    with pytest.raises(Temporary) as temporary:
        outward.send(client, _at(free_port()), MESSAGE)
    assert not isinstance(temporary.value, Uncertain)
    with socket.create_server((HOST, 0)) as silent, pytest.raises(Uncertain) as uncertain:
        outward.send(client, _at(silent.getsockname()[1]), MESSAGE)
    monkeypatch.setenv("HTTP_PROXY", f"http://{HOST}:{free_port()}")  # of no concern to our own Kannel
    with provider(lambda _: Said(202, "0: Accepted for delivery")) as url:
        assert outward.send(client, _at(int(url.rpartition(":")[2])), MESSAGE).words == "0: Accepted for delivery"
    for told in (str(temporary.value), str(uncertain.value)):
        assert "word" not in told


def _at(port: int) -> SmsNumber:
    assert WAY.kannel is not None
    settings = WAY.kannel.model_copy(update={"send_url": f"http://{HOST}:{port}/cgi-bin/sendsms"})
    return WAY.model_copy(update={"kannel": settings})


# -- a real one ----------------------------------------------------------------------------------------------------


class Site(NamedTuple):
    listener: Desk
    gateway: Gateway

    def send(self, message: OutSms, **settings: str) -> Sent:
        way = self.listener.way(self.gateway.send_url)
        assert way.kannel is not None
        way = way.model_copy(update={"kannel": way.kannel.model_copy(update=settings)})
        callback = f"{self.listener.url}/status?m={message.id}"
        return outward.send(outward.connect(way, Config()), way, replace(message, callback=callback))


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    with desk() as listener, kannel(listener.url) as gateway:
        yield Site(listener, gateway)


LONG = "The boiler is cold, and the cat too. " * 20


@pytest.mark.parametrize(
    ("kind", "text"),
    [("text", "100% cold  & wet + 2 cats"), ("text", LONG), ("ucs2", "Котёл холодный 😀\nдва"), ("ucs2", "ё" * 300)],
    ids=["short", "long", "cyrillic", "long cyrillic"],
)
def test_a_real_kannel_hands_in_what_a_customer_writes(site: Site, kind: str, text: str) -> None:
    before = len(site.listener.messages())
    site.gateway.customer_writes(text, kind)
    sms = site.listener.wait_for_messages(before + 1)[-1]
    assert (sms.sender, sms.recipient, sms.text) == (CUSTOMER, OURS, text)
    assert sms.id
    assert sms.at is not None


def test_a_real_kannel_comes_again_with_the_same_id_when_we_are_busy(site: Site) -> None:
    before = len(site.listener.messages())
    site.listener.busy = 2
    site.gateway.customer_writes("Are you there?")
    sms = site.listener.wait_for_messages(before + 1)[-1]
    assert len(site.listener.offers(sms.id)) == 3
    assert len(site.listener.messages()) == before + 1


def test_a_real_kannel_gives_up_in_silence(site: Site) -> None:
    arrived = len(site.gateway.arrived())
    site.listener.busy = 4  # as often as it comes
    site.gateway.customer_writes("Nobody hears me.")
    wait_until(lambda: site.listener.busy == 0, "the fourth request")
    site.send(OutSms(99, OURS, CUSTOMER, "the next one"))
    assert [sms.text for sms in site.gateway.wait_for_arrived(arrived + 1)[arrived:]] == ["the next one"]


@pytest.mark.parametrize(
    ("id", "text", "parts"),
    [
        (101, "Wir kommen um 9: 100% sicher & pünktlich {€}", 1),
        (102, "x" * 160, 1),
        (103, "0123456789" * 40, 3),
        (104, "Мы едем 😀", 1),
        (105, "Мы едем. " * 20, 3),
        (106, "€" * 81, 2),
    ],
)
def test_what_we_send_by_a_real_kannel_comes_to_the_handset_and_its_receipts_to_us(
    site: Site, id: int, text: str, parts: int
) -> None:
    before = len(site.gateway.arrived())
    sent = site.send(OutSms(id, OURS, CUSTOMER, text))
    assert sent.words == "0: Accepted for delivery"
    (arrived,) = site.gateway.wait_for_arrived(before + 1)[before:]
    assert arrived == (OURS, CUSTOMER, text, parts)
    receipts = site.listener.wait_for_receipts(id, 2)
    assert {receipt.status for receipt in receipts} == {Delivery.SENT, Delivery.DELIVERED}  # in any order


def test_receipts_of_many_find_each_its_own(site: Site) -> None:
    ids = range(200, 220)
    for id in ids:
        site.send(OutSms(id, OURS, CUSTOMER, f"number {id}"))
    for id in ids:
        got = site.listener.wait_for_receipts(id, 2)
        assert {receipt.status for receipt in got} == {Delivery.SENT, Delivery.DELIVERED}


def test_a_real_kannel_refuses_the_wrong_password(site: Site) -> None:
    with pytest.raises(Refused, match="Authorization failed") as refused:
        site.send(OutSms(301, OURS, CUSTOMER, "x"), password="wrong")
    assert refused.value.why is Refusal.ACCOUNT


def test_a_real_kannel_that_has_no_way_to_send_says_so_twice(site: Site) -> None:
    with pytest.raises(Refused, match="Not routable") as refused:
        site.send(OutSms(302, OURS, CUSTOMER, "x"), smsc="nobody")
    assert refused.value.why is Refusal.CONFIG
    (receipt,) = site.listener.wait_for_receipts(302, 1)
    assert (receipt.status, receipt.words) == (Delivery.FAILED, "NACK/no SMSC")


def test_all_it_listens_on_is_loopback(site: Site) -> None:
    lines = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()]
    listening = [fields[1] for fields in lines if fields[3] == "0A"]
    addresses = {address.partition(":")[0] for address in listening if int(address[-4:], 16) in site.gateway.ports}
    assert len(site.gateway.ports) == 5
    assert addresses == {"0100007F"}


def test_all_requests_of_a_real_kannel_were_understood(site: Site) -> None:
    assert site.listener.values
    assert site.listener.refused == []
