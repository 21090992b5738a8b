"""Twilio beyond the contract: signatures and what they leave open, statuses, pictures, errors, asking afterwards."""

from __future__ import annotations

import json
import random
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta, timezone
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

import pytest
import requests
import trustme
from openapi_core.exceptions import OpenAPIError
from twilio.request_validator import RequestValidator

import inbound.sms.pictures
import inbound.sms.twilio as inward
import outbound.sms.twilio as outward
from gateway.config import Config, SmsNumber
from gateway.values import (
    Delivery,
    Later,
    Media,
    OutSms,
    Permanent,
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
from outbound.sms.over_http import can_be_called, unheard
from tests.sms import twilio_double as at
from tests.sms.contract import OURS, PICTURE, SINCE, THEIRS, letter
from tests.sms.twilio_double import ACCOUNT, API, BASE, CDN, MESSAGES, SERVICE, TOKEN, Double, Fault, signed, twilio_way

WEBHOOKS = Path(__file__).parents[2].parent / "shared/data/sms/twilio_webhooks.json"
SHARED: dict[str, Any] = json.loads(WEBHOOKS.read_text("utf-8")) if WEBHOOKS.exists() else {}
CASES: dict[str, dict[str, Any]] = {case["name"]: case for case in SHARED.get("cases", [])}
WAY = twilio_way()
SID = f"SM{5:032x}"
ADDRESS = f"{API}{MESSAGES}/MM{1:032x}/Media/ME{1:032x}"  # of a picture


@pytest.fixture
def double(monkeypatch: pytest.MonkeyPatch) -> Double:
    """An account at Twilio that both halves of the driver reach."""
    made = Double()
    at.put_in_place(made, monkeypatch)
    return made


def form(**more: str) -> dict[str, str]:
    """The parameters of a plain webhook."""
    message = at.Message(SID, THEIRS, OURS, "Boiler is leaking again", "inbound", SINCE, SINCE)
    return at.message_form(message) | more


def hear(request: RawRequest, event: str = "sms", way: SmsNumber = WAY) -> tuple[list[Sms | Receipt], int]:
    """The values and the status of the answer; the answer has the right form."""
    values, answer = inward.receive(request, event, [way])
    if answer.status == 200:
        assert answer == RawResponse(200, {"Content-Type": "application/xml"}, b"<Response/>")
    else:
        assert values == []
        assert answer.body == b""
    return values, answer.status


# -- the 38 signed requests --------------------------------------------------------------------------------------


def as_the_web_server_hands_it_on(case: dict[str, Any]) -> tuple[RawRequest, str]:
    """The request, with its public address built from the settings, and the event that its path names."""
    asked = urlsplit(case["request_url"])
    public = SHARED["public_base_url"] + asked.path + (f"?{asked.query}" if asked.query else "")
    request = RawRequest(case["method"], public, case["headers"], case["body"].encode())
    return request, asked.path.rpartition("/")[2]


VERDICTS = {
    "accept": 200,
    "accept_if_public_url": 200,
    "accept_no_downgrade": 200,
    "duplicate": 200,
    "missed_call": 200,
    "not_missed": 200,
    "reject": 403,
}
STRICTER = {"json_good": 403, "get_good": 405}  # we take forms by POST only


@pytest.mark.skipif(
    not CASES, reason="NOT TESTED: the 38 signed requests are in ../shared/data/sms, which is not there"
)
def test_each_of_the_signed_requests_gets_its_verdict() -> None:
    way = twilio_way(account_sid=SHARED["account_sid"], auth_tokens=(SHARED["auth_token"],))
    wanted = {name: STRICTER.get(name, VERDICTS[case["expect"]]) for name, case in CASES.items()}
    heard = {name: hear(*as_the_web_server_hands_it_on(case), way) for name, case in CASES.items()}
    assert {name: status for name, (_, status) in heard.items()} == wanted
    assert len(wanted) == 38
    for name, (values, status) in heard.items():
        said, event = CASES[name]["params"] or {}, as_the_web_server_hands_it_on(CASES[name])[1]
        for value in values:
            if isinstance(value, Sms):
                assert (value.id, value.sender, value.recipient) == (said["MessageSid"], said["From"], said["To"]), name
                assert (value.text, value.opt_out) == (said["Body"], said.get("OptOutType", "")), name
                assert len(value.media) == int(said["NumMedia"]), name
                assert value.country == said["FromCountry"], name
            else:
                assert (value.id, value.status) == (said["MessageSid"], said["MessageStatus"]), name
                assert (value.outbox, value.code) == (42, said.get("ErrorCode", "")), name
        assert len(values) == (1 if status == 200 and event in ("sms", "status") else 0), name
    again = [heard[name][0] for name in ("good_form", "good_replay_of_good_form", "good_retry_new_attempt_header")]
    assert again[0] == again[1] == again[2]


# -- what a signature leaves open --------------------------------------------------------------------------------

Mutation = Callable[[RawRequest, random.Random], RawRequest]


def _pairs(request: RawRequest) -> list[tuple[str, str]]:
    return parse_qsl(request.body.decode("utf-8", "replace"), keep_blank_values=True)


def _with(request: RawRequest, pairs: list[tuple[str, str]]) -> RawRequest:
    return replace(request, body=urlencode(pairs).encode())


def flip_a_byte(request: RawRequest, chance: random.Random) -> RawRequest:
    body = bytearray(request.body)
    body[chance.randrange(len(body))] = chance.randrange(256)
    return replace(request, body=bytes(body))


def cut_or_insert(request: RawRequest, chance: random.Random) -> RawRequest:
    place, body = chance.randrange(len(request.body)), request.body
    new = chance.choice([b"", b"&", b"=", b"%00", b"%ff", b"\xff", b"+", b";", b"%", b"\0", "ü".encode(), b"&A=b"])
    return replace(request, body=body[:place] + new + body[place + chance.randrange(4) :])


def change_parameters(request: RawRequest, chance: random.Random) -> RawRequest:
    pairs = _pairs(request)
    n = chance.randrange(len(pairs))
    name, value = pairs[n]
    match chance.randrange(7):
        case 0:
            del pairs[n]
        case 1:
            pairs.append((name, value))  # twice the same
        case 2:
            pairs.insert(n, (name, value + "x"))  # twice, differently
        case 3:
            pairs[n] = (name, value + chance.choice([" ", "1", "\0", "é", "\n"]))
        case 4:
            pairs.append((chance.choice(["OptOutType", "NumMedia", "", "A b", "\0", "MediaUrl0"]), "STOP"))
        case 5:
            pairs[n] = (name.lower(), value)
        case 6:
            other = chance.randrange(len(pairs))
            pairs[n], pairs[other] = (name, pairs[other][1]), (pairs[other][0], value)
    return _with(request, pairs)


def move_the_border_of_a_parameter(request: RawRequest, chance: random.Random) -> RawRequest:
    """The signed text stays the same: only where names and values end is read differently."""
    pairs = sorted(_pairs(request))
    n = chance.randrange(len(pairs))
    name, value = pairs[n]
    match chance.randrange(3):
        case 0 if value:  # the value becomes another parameter
            cut = chance.randrange(len(value))
            pairs[n : n + 1] = [(name, value[:cut]), (value[cut:], "")]
        case 1 if n + 1 < len(pairs):  # the next one is swallowed
            pairs[n : n + 2] = [(name, value + "".join(pairs[n + 1]))]
        case _:  # the name ends elsewhere
            cut = chance.randrange(1, len(name + value))
            pairs[n] = ((name + value)[:cut], (name + value)[cut:])
    return _with(request, pairs)


def change_the_headers(request: RawRequest, chance: random.Random) -> RawRequest:
    headers = dict(request.headers)
    signature = headers["X-Twilio-Signature"]
    header, value = chance.choice(
        [
            ("X-Twilio-Signature", signature[:-2]),
            ("X-Twilio-Signature", signature.swapcase()),
            ("X-Twilio-Signature", ""),
            ("X-Twilio-Signature", "é\0" * 14),
            ("X-Twilio-Webhooks-Signature-Settings", "key=1,algorithm=HMAC_SHA256"),
            ("X-Twilio-Webhooks-Signature-Settings", "algorithm=none"),
            ("X-Twilio-Webhooks-Signature-Settings", ",,=,algorithm=\0"),
            ("Content-Type", "application/json"),
            ("Content-Type", ""),
            ("Content-Type", "multipart/form-data; boundary=x"),
        ]
    )
    return replace(request, headers=headers | {header: value})


def change_the_address(request: RawRequest, chance: random.Random) -> RawRequest:
    url = request.public_url
    new = [
        f"{url}?",
        f"{url}?m=43",
        f"{url}&m=43",
        url.replace("sms", "sm"),
        url + "\udcff",
        "https://[",
        "",
        url.upper(),
    ]
    return replace(request, public_url=chance.choice(new))


def write_it_differently(request: RawRequest, chance: random.Random) -> RawRequest:
    """Means the same: another order, another way to escape, other letters in the names of headers."""
    pairs = _pairs(request)
    chance.shuffle(pairs)
    body = "&".join(f"{quote(name, safe='')}={quote(value, safe='')}" for name, value in pairs)
    return replace(
        request, body=body.encode(), headers={name.upper(): value for name, value in request.headers.items()}
    )


MUTATIONS: tuple[Mutation, ...] = (
    flip_a_byte,
    cut_or_insert,
    change_parameters,
    move_the_border_of_a_parameter,
    change_the_headers,
    change_the_address,
    write_it_differently,
)


def good_requests() -> list[tuple[RawRequest, str]]:
    """Genuine webhooks: ours, and those of ../shared where they are."""
    own = [
        (signed(f"{BASE}/sms", form()), "sms"),
        (signed(f"{BASE}/sms", form(Body="STOP", OptOutType="STOP")), "sms"),
        (signed(f"{BASE}/sms", form(Body="Готово 👍\nFrom+447700900111FromCity ok", Zzz="")), "sms"),
        (signed(f"{BASE}/status?m=42", at.status_form(SID, "undelivered", "30003")), "status"),
    ]
    good = [case for name, case in CASES.items() if VERDICTS[case["expect"]] == 200 and name not in STRICTER]
    return own + [as_the_web_server_hands_it_on(case) for case in good]


def test_of_ten_thousand_changed_requests_none_is_taken_for_something_else() -> None:
    chance, good = random.Random(20261125), good_requests()
    taken = dict.fromkeys(MUTATIONS, 0)
    tried = dict.fromkeys(MUTATIONS, 0)
    for request, event in good:
        assert hear(request, event)[1] == 200
    for n in range(10_000):
        request, event = chance.choice(good)
        mutation = MUTATIONS[n % len(MUTATIONS)]
        changed = mutation(request, chance)
        values, status = hear(changed, event)
        tried[mutation] += 1
        taken[mutation] += status == 200
        if status == 200:
            assert values == hear(request, event)[0], (mutation.__name__, changed)
    assert taken[write_it_differently] == tried[write_it_differently], "what means the same is taken"
    assert taken[change_parameters] < tried[change_parameters] / 20, "only an exchange of equal values is left"
    assert taken[change_the_headers] == 0


def test_a_sender_who_sees_the_signature_cannot_speak_for_another_number() -> None:
    text = "done 1234From+447700900111FromCity"
    genuine = signed(f"{BASE}/sms", form(Body=text))
    assert hear(genuine)[1] == 200
    body = dict(parse_qsl(genuine.body.decode(), keep_blank_values=True))
    body |= {"Body": "done 1234", "From": "+447700900111", "FromCity": f"From{THEIRS}FromCity"}
    spoof = replace(genuine, body=urlencode(body).encode())
    validator, signature = RequestValidator(TOKEN), genuine.headers["X-Twilio-Signature"]
    assert validator.validate(spoof.public_url, body, signature), "Twilio's own check is content with it"
    assert hear(spoof) == ([], 403)


# -- traps -------------------------------------------------------------------------------------------------------


def raw(body: bytes, **headers: str) -> RawRequest:
    """A request with any body, signed as a form would be as far as it is one."""
    pairs = dict(parse_qsl(body.decode("utf-8", "surrogateescape"), keep_blank_values=True))
    try:
        start = signed(f"{BASE}/sms", pairs)
    except UnicodeError:
        start = signed(f"{BASE}/sms", {})
    return replace(start, body=body, headers=dict(start.headers) | headers)


PLAIN = urlencode(form())


@pytest.mark.parametrize(
    ("why", "request_"),
    [
        ("no form", raw(PLAIN.encode(), **{"Content-Type": "application/json"})),
        ("no type", raw(PLAIN.encode(), **{"Content-Type": ""})),
        ("no UTF-8", raw(PLAIN.encode() + b"&A=\xff")),
        ("no UTF-8 once it is read", raw(PLAIN.encode() + b"&A=%ff")),
        ("a NUL in a value", raw(PLAIN.encode() + b"&A=%00")),
        ("a NUL in a name", raw(PLAIN.encode() + b"&A%00=1")),
        ("over 64 KB", raw(PLAIN.encode() + b"&A=" + b"x" * 65_536)),
        ("thousands of parameters", raw(PLAIN.encode() + b"".join(b"&A%d=" % n for n in range(3000)))),
        ("a parameter twice", raw(PLAIN.encode() + b"&Body=Boiler+is+leaking+again")),
        ("a strange name", raw(PLAIN.encode() + b"&2A=1")),
        ("a name without a value", raw(PLAIN.encode() + b"&A")),
        ("nothing", raw(b"")),
        ("another account", signed(f"{BASE}/sms", form(AccountSid=f"AC{2:032x}"))),
        ("no account", signed(f"{BASE}/sms", {k: v for k, v in form().items() if k != "AccountSid"})),
        ("a number that is none of ours", signed(f"{BASE}/sms", form(To="+447700900998"))),
        ("a service without a name", signed(f"{BASE}/sms", form(To="+447700900998", MessagingServiceSid=""))),
        ("no sender", signed(f"{BASE}/sms", {k: v for k, v in form().items() if k != "From"})),
        ("no text", signed(f"{BASE}/sms", {k: v for k, v in form().items() if k != "Body"})),
        ("an id that is none", signed(f"{BASE}/sms", form(MessageSid="SM1"))),
        ("an id that is longer", signed(f"{BASE}/sms", form(MessageSid=f"{SID}0"))),
        ("a sender that is none", signed(f"{BASE}/sms", form(From=f"{THEIRS}FromCity"))),
        ("an empty token's signature", signed(f"{BASE}/sms", form(), token="")),
        ("an address that is none", signed("https://desk.example.org:http/hooks/twilio/sms", form())),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_it_is_refused(why: str, request_: RawRequest) -> None:
    assert hear(request_) == ([], 403)


@pytest.mark.parametrize(
    "more",
    [
        {"From": "72404"},
        {"From": "ACME Bank"},
        {"From": "AT&T"},
        {"From": "whatsapp:+447700900123"},
        {"From": "sip:alice@pbx.example"},
        {"ToCity": "TORONTO", "FromCity": "Frome", "ToState": "ON"},
        {"Body": "From+447700900111 To0 MessageSidSM ErrorCode30003 MediaUrl0http"},
        {"OriginalRepliedMessageSid": SID, "ReferralNumMedia": "0", "ProfileName": "From Tom"},
        {"NumMedia": "1", "MediaUrl0": ADDRESS, "MediaContentType0": "text/x-vcard; charset=utf-8"},
        {"NumMedia": "1", "MediaUrl0": ADDRESS, "MediaContentType0": ""},
        {"NumMedia": "1", "MediaUrl0": ADDRESS, "MediaContentType0": "audio/AMR"},
    ],
    ids=lambda more: " ".join(f"{name}={value}" for name, value in more.items())[:60],
)
def test_what_is_unusual_but_genuine_is_heard(more: dict[str, str]) -> None:
    ((value,), status) = hear(signed(f"{BASE}/sms", form(**more)))
    assert status == 200
    assert isinstance(value, Sms)
    assert (value.sender, value.text) == (more.get("From", THEIRS), more.get("Body", form()["Body"]))
    assert len(value.media) == int(more.get("NumMedia", "0"))


@pytest.mark.parametrize("event", ["sms", "status", "voice", "dial"])
def test_a_wrong_signature_is_refused_for_every_event_and_a_right_one_is_answered(event: str) -> None:
    said = form(MessageStatus="sent")
    good = signed(f"{BASE}/{event}", said)
    assert hear(good, event)[1] == 200
    assert hear(signed(f"{BASE}/{event}", said, TOKEN[::-1]), event) == ([], 403)
    assert hear(replace(good, headers={"Content-Type": good.headers["Content-Type"]}), event) == ([], 403)
    assert hear(replace(good, method="GET"), event) == ([], 405)
    assert event in ("sms", "status") or hear(good, event)[0] == []


@pytest.mark.parametrize("case", [str.lower, str.upper, str.title])
def test_the_names_of_headers_may_have_any_case(case: Callable[[str], str]) -> None:
    good = signed(f"{BASE}/sms", form())
    assert hear(replace(good, headers={case(name): value for name, value in good.headers.items()}))[1] == 200


@pytest.mark.parametrize(
    ("settings", "signed_with", "status"),
    [
        ("key=webhooks_sharedkey_1,algorithm=HMAC_SHA256", "HMAC_SHA256", 200),
        ("key=webhooks_sharedkey_1,algorithm=HMAC_SHA1", "HMAC_SHA1", 200),
        ("key=webhooks_sharedkey_1", "HMAC_SHA1", 200),
        ("key=webhooks_sharedkey_1,algorithm=HMAC_SHA256", "HMAC_SHA1", 403),
        ("key=webhooks_sharedkey_1,algorithm=HMAC_MD5", "HMAC_SHA1", 403),
    ],
)
def test_the_header_names_the_algorithm(settings: str, signed_with: str, status: int) -> None:
    good = signed(f"{BASE}/sms", form())
    signature = RequestValidator(TOKEN).compute_signature(good.public_url, form(), signed_with)
    headers = {"X-Twilio-Webhooks-Signature-Settings": settings, "X-Twilio-Signature": signature}
    assert hear(replace(good, headers=dict(good.headers) | headers))[1] == status


@pytest.mark.parametrize(("token", "status"), [("new", 200), ("old", 200), ("older", 403)])
def test_the_new_token_and_the_old_one_both_count_also_with_an_api_key(token: str, status: int) -> None:
    way = twilio_way(auth_tokens=("new", "old"), api_key_sid="SK1", api_key_secret="key")
    assert hear(signed(f"{BASE}/sms", form(), token), way=way)[1] == status


def test_two_accounts_each_have_their_own_token() -> None:
    other = twilio_way(number="+447700900998", account_sid=f"AC{2:032x}", auth_tokens=("other",))
    theirs = form(AccountSid=f"AC{2:032x}", To="+447700900998")
    for token, said, status in (
        ("other", theirs, 200),
        (TOKEN, theirs, 403),
        ("other", form(), 403),
        (TOKEN, form(), 200),
    ):
        assert inward.receive(signed(f"{BASE}/sms", said, token), "sms", [WAY, other])[1].status == status


@pytest.mark.parametrize(
    ("to", "service", "status"),
    [
        (OURS, "", 200),
        ("+447700900997", "", 200),  # of the pool
        ("+447700900111", SERVICE, 200),
        ("+447700900111", f"MG{8:032x}", 403),
        ("+447700900111", "", 403),
    ],
)
def test_a_message_is_ours_by_its_number_or_by_the_messaging_service(to: str, service: str, status: int) -> None:
    way = twilio_way(pool=("+447700900997",), messaging_service_sid=SERVICE)
    more = {"MessagingServiceSid": service} if service else {}
    values, said = hear(signed(f"{BASE}/sms", form(To=to, **more)), way=way)
    assert said == status
    assert [value.recipient for value in values if isinstance(value, Sms)] == [to] * (status == 200)


@pytest.mark.parametrize(("said", "pictures"), [("0", 0), ("1", 1), ("3", 3), ("10", 10), ("11", 10), ("9999", 10)])
def test_there_are_as_many_pictures_as_it_says_but_ten_at_most(said: str, pictures: int) -> None:
    media = {f"MediaUrl{n}": f"https://x.example/{n}" for n in range(12)} | {"MediaContentType0": "image/png"}
    ((value,), _) = hear(signed(f"{BASE}/sms", form(NumMedia=said, **media)))
    assert isinstance(value, Sms)
    types = ["image/png", *[""] * 11]
    assert value.media == tuple(Media(f"https://x.example/{n}", types[n]) for n in range(pictures))


@pytest.mark.parametrize("said", ["STOP", "START", "HELP"])
def test_what_twilio_did_about_consent_is_handed_on(said: str) -> None:
    ((value,), _) = hear(signed(f"{BASE}/sms", form(OptOutType=said)))
    assert isinstance(value, Sms)
    assert value.opt_out == said


# -- receipts ----------------------------------------------------------------------------------------------------


def receipt(status: str, code: str = "", query: str = "?m=42") -> list[Sms | Receipt]:
    """What a status callback says; it is answered in any case."""
    values, said = hear(signed(f"{BASE}/status{query}", at.status_form(SID, status, code)), "status")
    assert said == 200
    return values


KNOWN = ["accepted", "queued", "scheduled", "sending", "sent", "undelivered", "failed", "canceled", "delivered", "read"]


@pytest.mark.parametrize("status", KNOWN)
def test_a_status_is_one_of_ours(status: str) -> None:
    why = Refusal.UNKNOWN if status in ("failed", "undelivered") else None
    assert receipt(status) == [Receipt("twilio", SID, Delivery(status), outbox=42, why=why)]


@pytest.mark.parametrize("status", ["partially_delivered", "receiving", "received", "priced", "", "new"])
def test_a_status_that_we_do_not_know_is_answered_and_forgotten(status: str) -> None:
    assert receipt(status) == []


@pytest.mark.parametrize(
    ("code", "why"),
    [
        ("30001", Refusal.OVERLOAD),
        ("30002", Refusal.ACCOUNT),
        ("30003", Refusal.HANDSET),
        ("30004", Refusal.FILTERED),
        ("30005", Refusal.NUMBER),
        ("30006", Refusal.NUMBER),
        ("30007", Refusal.FILTERED),
        ("30008", Refusal.UNKNOWN),
        ("30034", Refusal.ACCOUNT),
        ("21610", Refusal.OPTED_OUT),
        ("99999", Refusal.UNKNOWN),
        ("", Refusal.UNKNOWN),
    ],
)
def test_a_code_says_why(code: str, why: Refusal) -> None:
    for status in (Delivery.FAILED, Delivery.UNDELIVERED):
        assert receipt(status, code) == [Receipt("twilio", SID, status, outbox=42, code=code, why=why)]


@pytest.mark.parametrize(
    ("query", "row"),
    [
        ("?m=42", 42),
        ("?a=b&m=7", 7),
        ("", None),
        ("?m=", None),
        ("?m=-1", None),
        ("?m=1&m=2", None),
        ("?m=٣", None),
        ("?m=" + "9" * 19, None),
        ("?m=1%20", None),
    ],
)
def test_the_address_of_a_receipt_names_our_row(query: str, row: int | None) -> None:
    (value,) = receipt("sent", query=query)
    assert isinstance(value, Receipt)
    assert value.outbox == row


@pytest.mark.parametrize("form_", [at.status_form("SM1", "sent"), form()], ids=["no id", "no status"])
def test_a_receipt_for_no_message_is_refused(form_: dict[str, str]) -> None:
    assert hear(signed(f"{BASE}/status?m=1", form_), "status") == ([], 403)


# -- sending -----------------------------------------------------------------------------------------------------


def connected(way: SmsNumber = WAY) -> Callable[[OutSms], Sent]:
    """`send` with a client of its own."""
    client = outward.connect(way, Config(sms=(way,)))
    return lambda message: outward.send(client, way, message)


def posted(double: Double) -> dict[str, str]:
    """The parameters of the last request."""
    return dict(parse_qsl(str(double.asked[-1].body), keep_blank_values=True))


def test_a_message_is_posted_with_its_callback(double: Double) -> None:
    assert connected()(letter("One", id=42)) == Sent(double.messages[0].sid, "queued", 1, OURS)
    assert posted(double) == {
        "To": THEIRS,
        "From": OURS,
        "Body": "One",
        "StatusCallback": "https://desk.example.org/hooks/sms/status?m=42",
    }


@pytest.mark.parametrize(
    ("callback", "called"),
    [
        ("https://desk.example.org/hooks/twilio/status?m=1", True),
        ("http://desk.example.org:8080/x", True),
        ("https://8.8.8.8/x", True),
        ("https://my_desk.example.org/x", False),
        ("http://127.0.0.1:8080/x", False),
        ("http://[::1]/x", False),
        ("http://192.168.1.1/x", False),
        ("http://localhost/x", False),
        ("http://desk.localhost/x", False),
        ("https://desk/x", False),
        ("https://desk.example.org", False),
        ("https://desk.example.org:x/x", False),
        ("https://a b.example.org/x", False),
        ("https://u:p@desk.example.org/x", False),
        ("ftp://desk.example.org/x", False),
        ("https://[/x", False),
        ("", False),
    ],
)
def test_a_callback_that_twilio_cannot_call_is_left_out(double: Double, callback: str, called: bool) -> None:
    assert can_be_called(callback) == called
    connected()(replace(letter(), callback=callback))
    assert posted(double).get("StatusCallback") == (callback if called else None)


@pytest.mark.parametrize(
    ("sender", "pool", "origin"),
    [
        (OURS, (), {"MessagingServiceSid": SERVICE}),
        (OURS, ("+447700900997",), {"From": OURS}),
        ("+447700900997", ("+447700900997",), {"From": "+447700900997"}),
    ],
)
def test_the_messaging_service_chooses_the_number_unless_there_is_a_pool(
    double: Double, sender: str, pool: tuple[str, ...], origin: dict[str, str]
) -> None:
    sent = connected(twilio_way(pool=pool, messaging_service_sid=SERVICE))(replace(letter(), sender=sender))
    assert {name: value for name, value in posted(double).items() if name in ("From", "MessagingServiceSid")} == origin
    assert sent.sender == origin.get("From", "")
    assert sent.segments == (1 if "From" in origin else 0)


def test_the_api_key_signs_us_in_where_there_is_one(double: Double) -> None:
    double.login = ("SK1", "secret")
    connected(twilio_way(api_key_sid="SK1", api_key_secret="secret"))(letter())
    with pytest.raises(Refused) as said:
        connected()(letter())
    assert (said.value.code, said.value.why) == ("20003", Refusal.ACCOUNT)


REASONS = {
    Refusal.NUMBER: (21211, 21614, 21612, 21635, 30005, 30006),
    Refusal.OPTED_OUT: (21610,),
    Refusal.CONFIG: (21408, 21606, 21212, 21603, 21609, 21617, 21266, 21604, 21608),
    Refusal.OVERLOAD: (21611,),
    Refusal.ACCOUNT: (20003, 30002, 30034),
    Refusal.UNKNOWN: (21999, 20001),
}


@pytest.mark.parametrize(("code", "why"), [(code, why) for why, codes in REASONS.items() for code in codes])
def test_a_refusal_has_a_reason(double: Double, code: int, why: Refusal) -> None:
    double.plan.append(Fault(400, code))
    with pytest.raises(Refused, match=f"Error {code}") as said:
        connected()(letter())
    assert (said.value.code, said.value.why) == (str(code), why)
    assert double.messages == []


@pytest.mark.parametrize(("status", "why"), [(401, Refusal.ACCOUNT), (418, Refusal.UNKNOWN)])
def test_a_refusal_without_a_code_is_named_by_its_status(double: Double, status: int, why: Refusal) -> None:
    double.plan.append(Fault(status, body="no"))
    with pytest.raises(Refused) as said:
        connected()(letter())
    assert (said.value.code, said.value.why) == (str(status), why)


@pytest.mark.parametrize(
    ("fault", "error", "taken"),
    [
        (at.BUSY, Later, 0),
        (Fault(400, 20429), Later, 0),
        (at.UNREACHABLE, Temporary, 0),
        (at.DOWN, Uncertain, 0),
        (at.DOWN_BUT_TAKEN, Uncertain, 1),
        (at.SILENT, Uncertain, 1),
        (at.GARBLED, Uncertain, 1),
        (Fault(201, taken=True, body="[]"), Uncertain, 1),
        (Fault(201, taken=True, body="{}"), Uncertain, 1),
        (Fault(500, body="Internal Server Error"), Uncertain, 0),
        (Fault(302, body=""), Uncertain, 0),
    ],
)
def test_what_an_answer_means(double: Double, fault: Fault, error: type[Exception], taken: int) -> None:
    double.plan.append(fault)
    send = connected()
    with pytest.raises(Exception) as said:  # noqa: PT011 - which one is what is tested
        send(letter())
    assert type(said.value) is error
    assert str(said.value)
    assert len(double.messages) == taken


@pytest.mark.parametrize(("seconds", "wait"), [(7, 7.0), (0, 0.0), (None, 0.0)])
def test_too_many_requests_say_how_long_to_wait(double: Double, seconds: int | None, wait: float) -> None:
    double.plan.append(Fault(429, 20429, retry_after=seconds))
    with pytest.raises(Later) as said:
        connected()(letter())
    assert said.value.seconds == wait


@pytest.mark.parametrize(("text", "code"), [("", "21617"), ("x" * 1601, "21617"), ("\ud800", "unicode")])
def test_what_twilio_cannot_take_is_not_posted(double: Double, text: str, code: str) -> None:
    with pytest.raises(Refused) as said:
        connected()(letter(text))
    assert (said.value.code, said.value.why) == (code, Refusal.CONFIG)
    assert double.asked == []


def test_threads_that_send_at_once_each_have_a_client_and_the_name_of_their_own_message(
    double: Double, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[object] = []

    def client() -> object:
        made.append(double.client())
        return made[-1]

    monkeypatch.setattr(outward, "http_client", client)
    send, started, names = connected(), threading.Barrier(4), dict[str, str]()

    def run(thread: int) -> None:
        started.wait()
        for n in range(5):
            names[f"{thread}/{n}"] = send(letter(f"{thread}/{n}", id=thread * 10 + n)).provider_id

    threads = [threading.Thread(target=run, args=(thread,)) for thread in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert names == {message.text: message.sid for message in double.messages}
    assert len(names) == 20
    assert len(made) == 4


# -- asking afterwards -------------------------------------------------------------------------------------------


def lost(double: Double, message: OutSms, way: SmsNumber = WAY) -> outward.Line:
    """A client whose message was taken, but the answer was lost."""
    client = outward.connect(way, Config(sms=(way,)))
    double.plan.append(at.SILENT)
    with pytest.raises(Uncertain):
        outward.send(client, way, message)
    return client


def test_a_message_that_still_waits_at_twilio_is_found(double: Double) -> None:
    client = lost(double, letter("One"))
    assert double.messages[0].sent is None
    assert outward.look_up(client, WAY, letter("One")) == Sent(double.messages[0].sid, "queued", 1, OURS)


def test_the_message_of_another_row_with_the_same_words_is_not_taken_for_it(double: Double) -> None:
    client = outward.connect(WAY, Config(sms=(WAY,)))
    first = outward.send(client, WAY, letter("On our way", id=1))
    double.plan.append(at.DOWN)
    with pytest.raises(Uncertain):
        outward.send(client, WAY, letter("On our way", id=2))
    assert outward.look_up(client, WAY, letter("On our way", id=2)) is None
    second = outward.send(client, WAY, letter("On our way", id=2))
    found = outward.look_up(client, WAY, letter("On our way", id=2))
    assert found is not None
    assert found.provider_id == second.provider_id != first.provider_id
    again = outward.look_up(client, WAY, letter("On our way", id=2))
    assert again == found, "asked twice, it is the same"


@pytest.mark.parametrize(
    ("facts", "found"),
    [
        ({}, True),
        ({"text": "  One\n"}, True),
        ({"text": "Sent from your Twilio trial account - One"}, True),
        ({"text": "One two"}, False),
        ({"sender": "+447700900555"}, False),
        ({"recipient": "+447700900124"}, False),
        ({"direction": "inbound"}, False),
        ({"direction": "outbound-reply"}, True),
        ({"created": SINCE - timedelta(minutes=14)}, True),
        ({"created": SINCE - timedelta(minutes=16)}, False),
    ],
)
def test_a_message_is_known_by_number_text_and_time(double: Double, facts: dict[str, Any], found: bool) -> None:
    start = {"sender": OURS, "recipient": THEIRS, "text": "One", "direction": "outbound-api", "sent": None}
    double.keep(**(start | facts))
    client = outward.connect(WAY, Config(sms=(WAY,)))
    assert (outward.look_up(client, WAY, letter("One")) is not None) == found


def test_a_message_is_found_whatever_number_the_messaging_service_chose(double: Double) -> None:
    way = twilio_way(messaging_service_sid=SERVICE)
    client = lost(double, letter("One"), way)
    double.messages[0].sender = "+447700900555"
    found = outward.look_up(client, way, letter("One"))
    assert found is not None
    assert found.sender == "+447700900555"


def test_a_message_is_found_behind_many_later_ones(double: Double) -> None:
    client = lost(double, letter("One"))
    for n in range(120):
        double.keep(sender=OURS, recipient=THEIRS, text=f"Later {n}", direction="outbound-api")
    assert outward.look_up(client, WAY, letter("One")) is not None
    assert len(double.asked) == 4


FAULTS = [at.UNREACHABLE, at.NO_ANSWER, at.DOWN, at.WRONG_PASSWORD, at.BUSY, Fault(200, body="<html>")]


@pytest.mark.parametrize("fault", FAULTS)
def test_when_twilio_cannot_be_asked_it_is_to_be_asked_again(double: Double, fault: Fault, tmp_path: Path) -> None:
    client = outward.connect(WAY, Config(sms=(WAY,)))
    for ask in (
        lambda: outward.look_up(client, WAY, letter()),
        lambda: outward.prices(client, WAY, SINCE),
        lambda: inward.poll(WAY, SINCE, tmp_path),
    ):
        double.plan.append(fault)
        with pytest.raises(Temporary):
            ask()


def test_prices_are_costs_of_what_we_sent(double: Double) -> None:
    start = {"sender": OURS, "recipient": THEIRS, "text": "One", "direction": "outbound-api"}
    priced = double.keep(**start, price="-0.00750")
    double.keep(**start)  # not priced yet
    double.keep(**start | {"sender": "+447700900555"}, price="-1")  # another number of the account
    double.keep(**start, created=SINCE, sent=SINCE - timedelta(hours=25), price="-1")
    client = outward.connect(WAY, Config(sms=(WAY,)))
    since = (SINCE - timedelta(days=1)).astimezone(timezone(timedelta(hours=-22)))
    (said,) = outward.prices(client, WAY, since)
    assert said == Receipt("twilio", priced.sid, Delivery.PRICED, segments=1, price="0.00750", currency="USD")
    by_service = double.keep(**start | {"sender": "+447700900555"}, service=SERVICE, price="-0.5")
    way = twilio_way(messaging_service_sid=SERVICE)
    found = outward.prices(outward.connect(way, Config(sms=(way,))), way, SINCE - timedelta(days=1))
    assert {one.id for one in found} == {priced.sid, by_service.sid}


# -- what came while we were away --------------------------------------------------------------------------------


def test_what_came_meanwhile_is_the_same_as_its_webhooks_oldest_first(double: Double, tmp_path: Path) -> None:
    texts = ["First", "Готово 👍", "", "last  "]
    kept = [double.received(text, n + 1, pictures=2 if not text else 0) for n, text in enumerate(texts)]
    double.keep(sender=OURS, recipient=THEIRS, text="Ours", direction="outbound-api")
    double.keep(sender=OURS, recipient=OURS, text="To ourselves", direction="outbound-api")
    polled = inward.poll(WAY, SINCE, tmp_path)
    heard = [hear(signed(f"{BASE}/sms", at.message_form(message)))[0][0] for message in kept]
    assert [replace(sms, at=None, country="GB") for sms in polled if isinstance(sms, Sms)] == heard
    assert [sms.at for sms in polled if isinstance(sms, Sms)] == [message.created for message in kept]
    listed = [request.path_url for request in double.asked if "/Media" in request.path_url]
    assert listed == [f"{MESSAGES}/{kept[2].sid}/Media.json?PageSize=10"], "only where there are pictures"


def test_only_what_came_after_the_time_is_asked_for_in_any_time_zone(double: Double, tmp_path: Path) -> None:
    for n in range(3):
        double.received(f"{n}", n + 1)
    since = (SINCE + timedelta(seconds=2)).astimezone(timezone(timedelta(hours=5)))
    assert [sms.text for sms in inward.poll(WAY, since, tmp_path) if isinstance(sms, Sms)] == ["1", "2"]


def test_the_api_key_asks_too_where_there_is_one(double: Double, tmp_path: Path) -> None:
    double.login = ("SK1", "secret")
    double.received("First")
    assert len(inward.poll(twilio_way(api_key_sid="SK1", api_key_secret="secret"), SINCE, tmp_path)) == 1
    with pytest.raises(Temporary):
        inward.poll(WAY, SINCE, tmp_path)


def test_hundreds_of_messages_come_page_by_page_from_all_our_numbers(double: Double, tmp_path: Path) -> None:
    way = twilio_way(pool=("+447700900997",))
    for n in range(410):
        double.received(f"{n}", n + 1).recipient = way.numbers[n % 2]
    double.received("not ours", 999).recipient = "+447700900555"
    polled = inward.poll(way, SINCE, tmp_path)
    assert [sms.text for sms in polled if isinstance(sms, Sms)] == [f"{n}" for n in range(410)]
    assert len(double.asked) == 4


def test_messages_to_any_number_of_the_messaging_service_are_fetched(double: Double, tmp_path: Path) -> None:
    way = twilio_way(messaging_service_sid=SERVICE)
    for n, (to, service) in enumerate([(OURS, None), ("+447700900555", SERVICE), ("+447700900555", None)]):
        message = double.received(f"{n}", n + 1)
        message.recipient, message.service = to, service
    assert [sms.text for sms in inward.poll(way, SINCE, tmp_path) if isinstance(sms, Sms)] == ["0", "1"]


# -- pictures ----------------------------------------------------------------------------------------------------


def test_a_picture_comes_from_where_twilio_keeps_it_without_our_password(double: Double) -> None:
    double.pictures[f"ME{1:032x}"] = PICTURE
    assert inward.fetch(WAY, Media(ADDRESS, "image/png")) == (PICTURE, "image/jpeg")
    assert [urlsplit(str(request.url)).netloc for request in double.asked] == ["api.twilio.com", urlsplit(CDN).netloc]
    assert ["Authorization" in request.headers for request in double.asked] == [True, False]


@pytest.mark.parametrize(
    "url",
    [
        ADDRESS.replace("https", "http"),
        ADDRESS.replace("api.twilio.com", "api.twilio.com.evil.example"),
        ADDRESS.replace("api.twilio.com", "evil.example"),
        ADDRESS.replace("api.twilio.com", "api.twilio.com@evil.example"),
        ADDRESS.replace("api.twilio.com", "evil.example#api.twilio.com"),
        ADDRESS.replace("api.twilio.com", "apixtwilio.com"),
        ADDRESS.replace("api.twilio.com", "media.twilio.com"),
        ADDRESS.replace("api.twilio.com", "api.a.b.c.twilio.com"),
        ADDRESS.replace("api.twilio.com", "api.twilio.com:8443"),
        ADDRESS.replace("api.twilio.com", "user@api.twilio.com"),
        ADDRESS.replace("Media/", "Media/../Media/"),
        ADDRESS.replace(ACCOUNT, f"AC{2:032x}"),
        ADDRESS + ".json",
        ADDRESS + "?x=1",
        ADDRESS + "#x",
        ADDRESS + "\n",
        " " + ADDRESS,
        "file:///etc/passwd",
        "http://127.0.0.1/x",
        "",
    ],
)
def test_an_address_that_is_not_twilios_is_never_asked(double: Double, url: str) -> None:
    with pytest.raises(Permanent):
        inward.fetch(WAY, Media(url))
    assert double.asked == []


@pytest.mark.parametrize("host", ["api.twilio.com:443", "api.ie1.twilio.com", "api.dublin.ie1.twilio.com"])
def test_twilios_regions_are_twilio_too(host: str) -> None:
    assert inward.PICTURE.fullmatch(ADDRESS.replace("api.twilio.com", host))


@pytest.mark.parametrize(
    ("redirect", "addresses"),
    [
        ("http://mms.twiliocdn.example", ["93.184.216.34"]),
        ("https://mms.twiliocdn.example:8443", ["93.184.216.34"]),
        ("https://user:pw@mms.twiliocdn.example", ["93.184.216.34"]),
        ("https://intern.example", ["10.0.0.1"]),
        ("https://intern.example", ["93.184.216.34", "127.0.0.1"]),
        ("https://intern.example", ["::1"]),
        ("https://intern.example", ["::ffff:127.0.0.1"]),
        ("https://intern.example", ["169.254.169.254"]),
        ("https://intern.example", ["fe80::1"]),
        ("file:///etc/passwd#", ["93.184.216.34"]),
        ("https://[", ["93.184.216.34"]),
        ("https://mms.twiliocdn.example:x", ["93.184.216.34"]),
    ],
)
def test_a_redirect_into_a_private_network_is_not_followed(
    double: Double, monkeypatch: pytest.MonkeyPatch, redirect: str, addresses: list[str]
) -> None:
    monkeypatch.setattr(inbound.sms.pictures, "addresses_of", lambda host: addresses)
    double.pictures[f"ME{1:032x}"], double.redirect = PICTURE, redirect
    with pytest.raises(Permanent):
        inward.fetch(WAY, Media(ADDRESS))
    assert len(double.asked) == 1


def test_loopback_is_loopback_by_whatever_name() -> None:
    assert set(inbound.sms.pictures.addresses_of("localhost")) <= {"127.0.0.1", "::1"}
    with pytest.raises(ValueError, match="label"):
        inbound.sms.pictures.addresses_of("a" * 70 + ".example")


@pytest.mark.parametrize(
    ("plan", "error"),
    [
        ([Fault(404, 20404)], Later),
        ([None, Fault(404, 20404)], Later),
        ([Fault(503, 20503)], Later),
        ([Fault(429, 20429)], Later),
        ([at.NO_ANSWER], Later),
        ([None, at.UNREACHABLE], Later),
        ([Fault(401, 20003)], Permanent),
        ([Fault(410, body="")], Permanent),
        ([None, Fault(302, body="")], Permanent),  # one redirect is followed, not two
    ],
)
def test_a_picture_that_is_not_there_yet_is_asked_for_later(
    double: Double, plan: list[Fault | None], error: type[Exception]
) -> None:
    double.pictures[f"ME{1:032x}"] = PICTURE
    double.plan.extend(plan)
    with pytest.raises(Exception) as said:  # noqa: PT011 - which one is what is tested
        inward.fetch(WAY, Media(ADDRESS))
    assert type(said.value) is error


def test_a_picture_that_twilio_does_not_know_yet_is_asked_for_later(double: Double) -> None:
    with pytest.raises(Later):
        inward.fetch(WAY, Media(ADDRESS))


def test_a_picture_has_ten_megabytes_at_most(double: Double) -> None:
    double.pictures[f"ME{1:032x}"] = bytes(10_000_000)
    assert len(inward.fetch(WAY, Media(ADDRESS))[0]) == 10_000_000
    double.pictures[f"ME{1:032x}"] += b"x"
    with pytest.raises(Permanent, match="10 MB"):
        inward.fetch(WAY, Media(ADDRESS))


def test_a_picture_that_trickles_in_is_given_up(double: Double, monkeypatch: pytest.MonkeyPatch) -> None:
    double.pictures[f"ME{1:032x}"] = PICTURE
    clock = iter([0.0, 10.1])
    monkeypatch.setattr("inbound.sms.pictures.time.monotonic", lambda: next(clock))
    with pytest.raises(Later, match="slowly"):
        inward.fetch(WAY, Media(ADDRESS))


@pytest.mark.parametrize(("said", "type_"), [("image/heic", "image/heic"), ("", "image/png")])
def test_the_type_is_what_the_place_says_else_what_the_message_said(double: Double, said: str, type_: str) -> None:
    double.pictures[f"ME{1:032x}"] = PICTURE
    double.picture_headers = {"Content-Type": said} if said else {}
    assert inward.fetch(WAY, Media(ADDRESS, "image/png")) == (PICTURE, type_)


# -- silence, over real sockets ----------------------------------------------------------------------------------


@contextmanager
def listener(serve: Callable[[socket.socket], None]) -> Iterator[int]:
    """A server on loopback that does `serve` with its first connection; yields the port."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def run() -> None:
            connection, _ = server.accept()
            with connection:
                serve(connection)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        thread.join(5)


def closed_port() -> int:
    """A port of loopback on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def meaning(url: str, timeout: float = 5.0) -> type[Exception]:
    """What a POST's silence means."""
    with requests.Session() as session:
        session.trust_env = False
        try:
            session.post(url, data={"Body": "One"}, timeout=timeout)
        except requests.RequestException as error:
            return type(unheard(error))
    raise AssertionError("it was answered")


def answer(connection: socket.socket, words: bytes) -> None:
    connection.recv(65536)
    connection.sendall(words)


def reset(connection: socket.socket) -> None:
    connection.recv(65536)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")


def tls(connection: socket.socket) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    with pytest.raises(ssl.SSLError):
        context.wrap_socket(connection, server_side=True)


def test_nobody_listens_so_nothing_was_sent() -> None:
    assert meaning(f"http://127.0.0.1:{closed_port()}/") is Temporary


def test_there_is_no_such_host_so_nothing_was_sent() -> None:
    assert meaning("http://no-such-host.invalid/") is Temporary


def test_a_stranger_with_another_certificate_is_sent_nothing() -> None:
    with listener(tls) as port:
        assert meaning(f"https://127.0.0.1:{port}/") is Temporary


def test_a_server_without_tls_is_sent_nothing() -> None:
    with listener(lambda connection: answer(connection, b"HTTP/1.1 400 Bad Request\r\n\r\n")) as port:
        assert meaning(f"https://127.0.0.1:{port}/") is Temporary


@pytest.mark.parametrize(
    "serve",
    [
        pytest.param(lambda connection: connection.recv(65536), id="closes"),
        pytest.param(reset, id="resets"),
        pytest.param(lambda connection: answer(connection, b"HTTP"), id="ends in the first line"),
        pytest.param(
            lambda connection: answer(connection, b"HTTP/1.1 201 Created\r\nContent-Length: 9\r\n\r\n{"),
            id="ends in the text",
        ),
    ],
)
def test_the_connection_ends_before_the_answer_so_it_may_have_been_taken(
    serve: Callable[[socket.socket], None],
) -> None:
    with listener(serve) as port:
        assert meaning(f"http://127.0.0.1:{port}/") is Uncertain


def test_no_answer_comes_in_time_so_it_may_have_been_taken() -> None:
    done = threading.Event()
    with listener(lambda connection: [connection.recv(65536), done.wait(5)]) as port:  # type: ignore[arg-type]
        assert meaning(f"http://127.0.0.1:{port}/", timeout=0.3) is Uncertain
        done.set()


# -- the double itself -------------------------------------------------------------------------------------------


@pytest.mark.skipif(at.strict() is None, reason="NOT TESTED: Twilio's description is in ../shared/data/sms, not there")
@pytest.mark.parametrize(
    ("post", "error"),
    [
        ({"From": OURS, "Body": "One"}, OpenAPIError),
        ({"To": "07700900123", "From": OURS, "Body": "One"}, OpenAPIError),
        ({"To": THEIRS, "Body": "One"}, OpenAPIError),
        ({"To": THEIRS, "From": OURS}, OpenAPIError),
        ({"To": THEIRS, "From": OURS, "Body": "x" * 1601}, OpenAPIError),
        ({"To": THEIRS, "MessagingServiceSid": "MG1", "Body": "One"}, OpenAPIError),
        ({"To": THEIRS, "From": OURS, "Body": "One", "StatusCallback": "https://my_desk.example/x"}, OpenAPIError),
        ({"To": THEIRS, "From": OURS, "Body": "One", "Bdy": "One"}, AssertionError),
    ],
)
def test_the_double_refuses_what_twilio_does_not_describe(
    double: Double, post: dict[str, str], error: type[Exception]
) -> None:
    with pytest.raises(error):
        double.client().request("POST", f"{API}{MESSAGES}.json", data=post, auth=(ACCOUNT, TOKEN))
    assert double.messages == []


def test_five_hundred_messages_under_faults_are_neither_lost_nor_sent_twice(double: Double) -> None:
    """The steps of the outbox in small: again after Temporary, asked after Uncertain."""
    chance, client = random.Random(7), outward.connect(WAY, Config(sms=(WAY,)))
    faults = [at.BUSY, at.DOWN, at.DOWN_BUT_TAKEN, at.SILENT, at.UNREACHABLE, at.GARBLED]
    names = []
    for n in range(500):
        double.now += timedelta(seconds=10)
        message = replace(letter(f"Part {n % 3} is in", id=n), since=double.now)  # many say the same
        sent = None
        while sent is None:
            if chance.random() < 0.4:
                double.plan.append(chance.choice(faults))
            try:
                sent = outward.send(client, WAY, message)
            except Uncertain:
                sent = outward.look_up(client, WAY, message)
            except Temporary:
                continue
        names.append(sent.provider_id)
    assert sorted(names) == sorted(message.sid for message in double.messages)
    assert len(set(names)) == 500


def test_nothing_heavy_is_loaded_before_it_is_needed() -> None:
    code = (
        "import sys, inbound.sms.twilio, outbound.sms.twilio;"
        "print(sorted({'twilio', 'requests', 'urllib3'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "[]\n"
