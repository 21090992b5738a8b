"""The driver of any HTTP provider: what it asks, what it makes of answers, whom it believes."""

from __future__ import annotations

import base64
import hmac
import json
import socket
from typing import Any
from urllib.parse import parse_qs, quote, urlencode

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from gateway.config import Config, HttpSms, SmsNumber
from gateway.values import (
    Delivery,
    Later,
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
from inbound.sms import http as inward
from outbound.sms import http as outward
from tests.loopback import HOST, free_port
from tests.sms.rigs_others import SECONDS, Asked, Said, provider

OURS, THEIRS = "+447700900999", "+447700900123"
SECRET = "open sesame"
CALLBACK = "https://desk.example/hooks/http/status?m=17"
URL = "https://desk.example/hooks/http"


def number(url: str = "https://sms.example/send", **settings: Any) -> SmsNumber:
    http = HttpSms(url=url, secret=SECRET, timeout_seconds=SECONDS, **settings)
    return SmsNumber(number=OURS, driver="http", http=http)


def message(text: str = "We are on our way.") -> OutSms:
    return OutSms(17, OURS, THEIRS, text, CALLBACK)


# -- what it asks --------------------------------------------------------------------------------------------------

NASTY = 'a "b" \\ {to} & c=d%20 + ü 👍\nnew \ud800'
CLEAN = NASTY.replace("\ud800", "?")


def asked(text: str, **settings: Any) -> requests.PreparedRequest:
    http = number(**settings).http
    assert http is not None
    return outward.request(http, message(text)).prepare()


def test_a_json_body_keeps_every_letter_and_its_other_braces() -> None:
    body = '{"to": ["{to}"], "from": "{from}", "text": "{text}", "ref": {id}, "hook": "{callback}", "more": {}}'
    request = asked(NASTY, body=body)
    assert request.method == "POST"
    assert request.headers["Content-Type"] == "application/json"
    assert isinstance(request.body, bytes)
    assert json.loads(request.body) == {
        "to": [THEIRS],
        "from": OURS,
        "text": CLEAN,
        "ref": 17,
        "hook": CALLBACK,
        "more": {},
    }


def test_a_form_body_keeps_every_letter() -> None:
    form = {
        "content_type": "Application/X-WWW-form-urlencoded ; charset=utf-8",
        "body": "to={to}&text={text}&cb={callback}",
    }
    body = asked(NASTY, **form).body
    assert isinstance(body, bytes)
    assert parse_qs(body.decode(), strict_parsing=True) == {"to": [THEIRS], "text": [CLEAN], "cb": [CALLBACK]}


def test_an_xml_body_keeps_every_letter() -> None:
    body = asked('a <b> & "c"', content_type="application/xml", body='<sms to="{to}">{text}</sms>').body
    assert body == f'<sms to="{THEIRS}">a &lt;b&gt; &amp; &quot;c&quot;</sms>'.encode()


def test_a_plain_body_is_the_text() -> None:
    assert asked("a <b> & {to}", content_type="text/plain", body="{text}").body == b"a <b> & {to}"


def test_a_url_keeps_every_letter_and_get_has_no_body() -> None:
    url = "https://sms.example/{id}/send?key=a%20b&to={to}&text={text}&cb={callback}"
    request = asked(NASTY, url=url, method="GET", body="never")
    assert (request.method, request.body) == ("GET", None)
    path, _, query = str(request.url).partition("?")
    assert path == "https://sms.example/17/send"
    assert parse_qs(query, strict_parsing=True) == {"key": ["a b"], "to": [THEIRS], "text": [CLEAN], "cb": [CALLBACK]}


def test_a_text_in_the_path_stays_one_piece_of_it() -> None:
    assert (
        asked("a/b?c", url="https://sms.example/{text}/send", method="GET").url == "https://sms.example/a%2Fb%3Fc/send"
    )


def test_headers_are_sent_as_they_stand_and_may_say_another_content_type() -> None:
    headers = asked("x", headers={"Authorization": "Key {to}", "content-type": "application/sms+json"}).headers
    assert (headers["Authorization"], headers["Content-Type"]) == ("Key {to}", "application/sms+json")


# -- what it makes of answers --------------------------------------------------------------------------------------


def send(said: Said | None, **settings: Any) -> Sent:
    with provider(lambda _: said) as url:
        way = number(f"{url}/send?key=sesame", **settings)
        return outward.send(outward.connect(way, Config()), way, message())


@pytest.mark.parametrize(
    ("body", "path", "id"),
    [
        ('{"id": "abc"}', "id", "abc"),
        ('{"id": 17}', "id", "17"),
        ('{"messages": [{"id": "m1"}, {"id": "m2"}]}', "messages.1.id", "m2"),
        ('{"messages": [{"id": "m1"}]}', "messages.1.id", ""),
        ('{"data": {"message": {"sid": "x"}}}', "data.message.sid", "x"),
        ('{"id": true}', "id", ""),
        ('{"id": {"no": 1}}', "id", ""),
        ('["id"]', "id", ""),
        ('"id"', "id", ""),
        ("OK 4711", "id", ""),
        ("", "id", ""),
        ("[" * 100_000, "id", ""),
    ],
)
def test_2xx_is_sent_and_named_where_the_answer_has_a_name(body: str, path: str, id: str) -> None:
    sent = send(Said(202, body), id_path=path)
    assert sent.provider_id == id
    assert sent.words == body[:400]


def test_words_in_another_charset_are_read_as_far_as_they_go() -> None:
    response = requests.Response()
    response.status_code, response._content = 400, b"num\xe9ro inconnu"
    with pytest.raises(Refused, match="400 num\ufffdro inconnu"):
        outward.send(lambda _: response, number(), message())


@pytest.mark.parametrize(
    ("status", "body", "code", "why"),
    [
        (401, "no such key", "401", Refusal.ACCOUNT),
        (403, '{"code": 20003}', "20003", Refusal.ACCOUNT),
        (400, '{"code": "E17"}', "E17", Refusal.UNKNOWN),
        (404, "no such page", "404", Refusal.UNKNOWN),
        (422, '{"code": null}', "422", Refusal.UNKNOWN),
        (300, "elsewhere", "300", Refusal.CONFIG),
        (302, "elsewhere", "302", Refusal.CONFIG),
    ],
)
def test_a_refusal_has_their_code_and_their_words(status: int, body: str, code: str, why: Refusal) -> None:
    with pytest.raises(Refused) as refused:
        send(Said(status, body, {"Location": "http://192.0.2.1/"}))
    assert (refused.value.code, refused.value.why, str(refused.value)) == (code, why, f"{status} {body}")


@pytest.mark.parametrize(
    ("header", "least", "most"),
    [
        ({"Retry-After": "120"}, 120, 120),
        ({"Retry-After": "Wed, 01 Jan 2200 00:00:00 GMT"}, 3600, 3600),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0, 0),
        ({"Retry-After": "soon"}, 0, 0),
        ({}, 0, 0),
    ],
)
def test_429_waits_as_long_as_it_is_told(header: dict[str, str], least: float, most: float) -> None:
    with pytest.raises(Later, match="429 slow down") as later:
        send(Said(429, "slow down", header))
    assert least <= later.value.seconds <= most


@pytest.mark.parametrize("said", [Said(500, "oops"), Said(503, "busy"), None, Said(0, reset=True)], ids=str)
def test_after_5xx_silence_or_a_cut_nobody_knows(said: Said | None) -> None:
    with pytest.raises(Uncertain) as uncertain:
        send(said)
    assert "sesame" not in str(uncertain.value)


@pytest.mark.parametrize("host", [f"http://{HOST}:{{port}}", "https://{listener}"])
def test_what_never_left_us_is_temporary_and_no_key_is_told(host: str) -> None:
    with provider(lambda _: Said(200)) as listener:
        url = host.format(port=free_port(), listener=listener.removeprefix("http://"))
        way = number(f"{url}/send?key=sesame")
        with pytest.raises(Temporary, match="not reached") as temporary:
            outward.send(outward.connect(way, Config()), way, message())
    assert not isinstance(temporary.value, Uncertain)
    assert "sesame" not in str(temporary.value)


def test_a_provider_may_be_behind_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    got: list[Asked] = []

    def answer(asked: Asked) -> Said:
        got.append(asked)
        return Said(200, '{"id": 1}')

    with provider(answer) as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy)
        monkeypatch.setenv("http_proxy", proxy)
        monkeypatch.setenv("NO_PROXY", "")
        monkeypatch.setenv("no_proxy", "")
        way = number("http://sms.invalid/send")
        assert outward.send(outward.connect(way, Config()), way, message()).provider_id == "1"
    assert [asked.path for asked in got] == ["http://sms.invalid/send"]


def test_a_tls_connection_that_ends_without_a_word_is_uncertain() -> None:
    with socket.create_server((HOST, 0)) as server:
        way = number(f"https://{HOST}:{server.getsockname()[1]}/")
        with pytest.raises(Uncertain):
            outward.send(outward.connect(way, Config()), way, message())


@pytest.mark.parametrize("url", ["sms.example/send", "gopher://sms.example/", "http://[bad/", "http:///x"])
def test_a_url_that_is_none_is_refused(url: str) -> None:
    way = number(url)
    with pytest.raises(Refused) as refused:
        outward.send(outward.connect(way, Config()), way, message())
    assert refused.value.why is Refusal.CONFIG


def test_no_redirect_is_followed() -> None:
    got: list[Asked] = []

    def answer(asked: Asked) -> Said:
        got.append(asked)
        return Said(307, "", {"Location": "/other"})

    with provider(answer) as url:
        way = number(url)
        with pytest.raises(Refused):
            outward.send(outward.connect(way, Config()), way, message())
    assert [asked.path for asked in got] == ["/"]


# -- whom it believes ----------------------------------------------------------------------------------------------

JSON = {"Content-Type": "application/json"}
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
MESSAGE = {"id": "m1", "from": THEIRS, "to": OURS, "text": "Help 👍"}


def mac(body: bytes, secret: str = SECRET) -> bytes:
    return hmac.digest(secret.encode(), body, "sha256")


def post(
    body: bytes, event: str = "sms", url: str = "", signature: str | None = None, method: str = "POST", **more: Any
) -> tuple[list[Sms | Receipt], RawResponse]:
    headers = {"x-signature": mac(body).hex() if signature is None else signature, **more.pop("headers", JSON)}
    raw = RawRequest(method, url or f"{URL}/{event}", headers, body)
    return inward.receive(raw, event, [number("https://other.example", field_id="other"), number(**more)])


def received(body: bytes, **more: Any) -> Sms:
    (value,), response = post(body, **more)
    assert response.status == 200
    assert isinstance(value, Sms)
    return value


BODY = json.dumps(MESSAGE).encode()


@pytest.mark.parametrize(
    "signature",
    [
        mac(BODY).hex(),
        mac(BODY).hex().upper(),
        f"sha256={mac(BODY).hex()}",
        f"SHA256={mac(BODY).hex()}",
        base64.b64encode(mac(BODY)).decode(),
        f"sha256={base64.b64encode(mac(BODY)).decode()}",
    ],
)
def test_a_signature_is_hex_or_base64(signature: str) -> None:
    assert received(BODY, signature=signature, field_id="id").text == "Help 👍"


@pytest.mark.parametrize(
    "signature",
    [
        "",
        "sha256=",
        "é",
        "\ud800",
        mac(BODY, "another").hex(),
        mac(BODY + b" ").hex(),
        mac(BODY).hex()[:-1],
        base64.b64encode(mac(BODY)).decode().lower(),
        f"sha1={hmac.digest(SECRET.encode(), BODY, 'sha1').hex()}",
    ],
    ids=range(9),
)
@pytest.mark.parametrize("event", ["sms", "status"])
def test_what_is_not_signed_by_our_secret_is_forged(event: str, signature: str) -> None:
    values, response = post(BODY, event, signature=signature)
    assert (values, response.status) == ([], 403)


def test_without_the_header_it_is_forged() -> None:
    values, response = inward.receive(RawRequest("POST", f"{URL}/sms", JSON, BODY), "sms", [number()])
    assert (values, response.status) == ([], 403)


@pytest.mark.parametrize("method", ["GET", "PUT", "HEAD"])
def test_only_post_is_heard(method: str) -> None:
    values, response = post(BODY, method=method)
    assert (values, response.status, response.headers["Allow"]) == ([], 405, "POST")


def test_another_event_is_400() -> None:
    values, response = post(BODY, "other")
    assert (values, response.status) == ([], 400)


def test_the_number_whose_secret_signed_says_how_to_read_it() -> None:
    ways = [
        number(),
        SmsNumber(
            number="+447700900998",
            driver="http",
            http=HttpSms(url="x", secret="another secret", signature="X-Hub", field_from="sender", field_text="body"),
        ),
    ]
    body = b'{"sender": "+441", "to": "+442", "body": "hi", "id": 5}'
    raw = RawRequest("POST", f"{URL}/sms", {"X-HUB": mac(body, "another secret").hex()}, body)
    (sms,), _ = inward.receive(raw, "sms", ways)
    assert sms == Sms("http", "5", "+441", "+442", "hi")


# -- what it reads -------------------------------------------------------------------------------------------------

DEEP = {"field_from": "data.contacts.0.phone", "field_text": "data.text", "field_to": "data.to", "field_id": "data.id"}


def test_dots_go_down_and_a_number_counts_in_a_list() -> None:
    body = json.dumps({"data": {"contacts": [{"phone": THEIRS}], "text": "hi", "to": OURS, "id": 99}}).encode()
    raw = RawRequest("POST", URL, {"X-Signature": mac(body).hex()}, body)
    (sms,), _ = inward.receive(raw, "sms", [number(**DEEP)])
    assert sms == Sms("http", "99", THEIRS, OURS, "hi")


@pytest.mark.parametrize("path", ["a.1", "a.x", "a.0.b.c", "b", "a", "a.-1", "c", ""])
def test_where_nothing_stands_nothing_is_read(path: str) -> None:
    body = {"a": ["x"], "c": 1.5}
    assert inward.field(body, path) == ""
    assert outward.at_path(body, path) == ""
    assert inward.field(body, "a.0") == outward.at_path(body, "a.0") == "x"


def test_a_form_is_read_as_well() -> None:
    body = urlencode(MESSAGE).encode()
    values, _ = inward.receive(
        RawRequest("POST", URL, {"X-Signature": mac(body).hex(), "content-TYPE": FORM["Content-Type"].upper()}, body),
        "sms",
        [number()],
    )
    assert values == [Sms("http", "m1", THEIRS, OURS, "Help 👍")]


def test_without_an_id_the_same_body_is_the_same_message() -> None:
    body, other = (json.dumps({"from": THEIRS, "text": text}).encode() for text in ("one", "two"))
    first, again, another = (
        inward.receive(RawRequest("POST", URL, {"X-Signature": mac(b).hex()}, b), "sms", [number()])[0][0]
        for b in (body, body, other)
    )
    assert first.id == again.id != another.id


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'"text"',
        b"null",
        b"\xff",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"id": ' + b"9" * 10_000 + b"}",
        b'{"text": "nobody wrote it"}',
        b'{"from": "  ", "text": "x"}',
        b'{"from": ["+44"], "text": "x"}',
    ],
    ids=range(12),
)
def test_a_signed_body_that_says_nothing_is_400(body: bytes) -> None:
    values, response = inward.receive(
        RawRequest("POST", URL, {"X-Signature": mac(body).hex()}, body), "sms", [number()]
    )
    assert (values, response.status) == ([], 400)


@given(st.binary(max_size=300), st.sampled_from(["sms", "status", ""]), st.text(), st.sampled_from([JSON, FORM, {}]))
def test_no_body_raises_anything(body: bytes, event: str, query: str, headers: dict[str, str]) -> None:
    raw = RawRequest("POST", f"{URL}?{query}", {"X-Signature": mac(body).hex(), **headers}, body)
    _, response = inward.receive(raw, event, [number()])
    assert response.status in (200, 400)


def test_letters_that_are_none_are_replaced() -> None:
    body = rb'{"from": "+44", "id": 1, "text": "a\ud800b\u0000c"}'
    (sms,), _ = inward.receive(RawRequest("POST", URL, {"X-Signature": mac(body).hex()}, body), "sms", [number()])
    assert isinstance(sms, Sms)
    assert sms.text == "a?bc"


# -- receipts ------------------------------------------------------------------------------------------------------

STATES = {"DELIVRD": "delivered", "EXPIRED": "undelivered", "odd": "no state of ours"}


def receipts(body: dict[str, Any], query: str = "?m=17") -> list[Sms | Receipt]:
    content = json.dumps(body).encode()
    raw = RawRequest("POST", f"{URL}/status{query}", {"X-Signature": mac(content).hex()}, content)
    values, response = inward.receive(raw, "status", [number(statuses=STATES)])
    assert response.status == 200
    return values


@pytest.mark.parametrize(
    ("word", "status", "why"),
    [
        ("DELIVRD", Delivery.DELIVERED, None),
        ("EXPIRED", Delivery.UNDELIVERED, Refusal.UNKNOWN),
        ("Sent", Delivery.SENT, None),
        ("FAILED", Delivery.FAILED, Refusal.UNKNOWN),
    ],
)
def test_a_state_is_read_by_the_table_or_is_one_of_ours(word: str, status: Delivery, why: Refusal | None) -> None:
    got = receipts({"id": "p1", "status": word, "code": 30005})
    assert got == [Receipt("http", "p1", status, 17, "30005", why, word)]


@pytest.mark.parametrize("word", ["odd", "strange", "", None, 7, ["delivered"]])
def test_an_unknown_state_is_taken_and_says_nothing(word: Any) -> None:
    assert receipts({"id": "p1", "status": word}) == []


@pytest.mark.parametrize(
    ("query", "outbox"),
    [("?m=17", 17), ("?a=b&m=5#rest", 5), ("", None), ("?m=", None), ("?m=-1", None), (f"?m={quote('١')}", None)],
)
def test_the_outbox_row_is_in_the_url(query: str, outbox: int | None) -> None:
    (receipt,) = receipts({"id": "p1", "status": "delivered"}, query)
    assert isinstance(receipt, Receipt)
    assert receipt.outbox == outbox
