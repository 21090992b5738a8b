"""Twilio in process: its REST API, pictures and webhooks, for tests of whatever talks to it.

Twilio's page: "Message resource". Every request is held against Twilio's own description (`../shared/data/sms/
twilio_messages_strict.json`, OpenAPI 3) and so is every answer; where that file is not there, requests are not checked
and `STRICT` is None. `Double.client()` is the `TwilioHttpClient` to put where the drivers make theirs.
"""

from __future__ import annotations

import itertools
import json
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from email.utils import format_datetime
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

import pytest
import requests
from openapi_core import OpenAPI
from openapi_core.contrib.requests import RequestsOpenAPIRequest, RequestsOpenAPIResponse
from requests import PreparedRequest, ReadTimeout, Response
from requests.adapters import BaseAdapter, HTTPAdapter
from requests.auth import _basic_auth_str
from twilio.http.http_client import TwilioHttpClient
from twilio.request_validator import RequestValidator
from urllib3.exceptions import MaxRetryError, NewConnectionError
from urllib3.response import HTTPResponse

import inbound.sms.pictures
import inbound.sms.twilio
import outbound.sms.twilio
from gateway.config import SmsNumber, Twilio
from gateway.values import Delivery, RawRequest, Sent
from tests.sms.contract import OURS, PICTURE, SINCE, THEIRS, Heard, Outcome

DESCRIPTION = Path(__file__).parents[2].parent / "shared/data/sms/twilio_messages_strict.json"
ACCOUNT, TOKEN, SERVICE = f"AC{1:032x}", "12345678901234567890123456789012", f"MG{7:032x}"
BASE = "https://desk.example.org/hooks/twilio"
API, CDN = "https://api.twilio.com", "https://mms.twiliocdn.example"
MESSAGES = f"/2010-04-01/Accounts/{ACCOUNT}/Messages"


@dataclass(frozen=True, slots=True)
class Fault:
    """What a request meets instead of its answer. `taken`: the message is accepted all the same."""

    status: int = 0  # of HTTP; 0: no answer at all
    code: int = 0  # of Twilio
    connected: bool = True
    taken: bool = False
    retry_after: int | None = None
    body: str | None = None  # instead of Twilio's JSON


BUSY = Fault(429, 20429, retry_after=7)
DOWN, DOWN_BUT_TAKEN = Fault(503, 20503), Fault(503, 20503, taken=True)
SILENT, NO_ANSWER = Fault(taken=True), Fault()  # no answer within the time-out
UNREACHABLE = Fault(connected=False)  # nobody listens
WRONG_PASSWORD = Fault(401, 20003)
GARBLED = Fault(201, taken=True, body="<html>")


@dataclass(slots=True)
class Message:
    """One message that Twilio keeps. `sent` is None while it is in the queue."""

    sid: str
    sender: str | None
    recipient: str
    text: str
    direction: str
    created: datetime
    sent: datetime | None
    service: str | None = None
    callback: str = ""
    status: str = "queued"
    pictures: tuple[str, ...] = ()
    price: str | None = None

    def as_json(self) -> dict[str, Any]:
        """As the API shows it."""
        return {
            "sid": self.sid,
            "account_sid": ACCOUNT,
            "from": self.sender,
            "to": self.recipient,
            "body": self.text,
            "direction": self.direction,
            "status": self.status,
            "date_created": format_datetime(self.created),
            "date_updated": format_datetime(self.created),
            "date_sent": format_datetime(self.sent) if self.sent else None,
            "num_segments": "0" if self.service else "1",
            "num_media": str(len(self.pictures)),
            "messaging_service_sid": self.service,
            "price": self.price,
            "price_unit": "usd" if self.price else None,
            "error_code": None,
            "error_message": None,
            "api_version": "2010-04-01",
            "uri": f"{MESSAGES}/{self.sid}.json",
            "subresource_uris": {"media": f"{MESSAGES}/{self.sid}/Media.json"},
        }


@dataclass(slots=True)
class Double:
    """The account at Twilio: `messages` oldest first, `plan` what the next requests meet, `asked` all that it was
    asked. Its clock moves a second with each message."""

    messages: list[Message] = field(default_factory=list)
    plan: deque[Fault | None] = field(default_factory=deque)
    asked: list[PreparedRequest] = field(default_factory=list)
    now: datetime = SINCE
    login: tuple[str, str] = (ACCOUNT, TOKEN)
    pictures: dict[str, bytes] = field(default_factory=dict)
    picture_headers: dict[str, str] = field(default_factory=lambda: {"Content-Type": "image/jpeg"})
    redirect: str = CDN
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def client(self) -> TwilioHttpClient:
        """A client that reaches only this double; as many as wanted."""
        return DoubleClient(self)

    def keep(self, **facts: Any) -> Message:
        """A message appears at Twilio, by whatever way."""
        self.now += timedelta(seconds=1)
        start: dict[str, Any] = {"sid": f"SM{next(self._numbers):032x}", "created": self.now, "sent": self.now}
        message = Message(**(start | facts))
        self.messages.append(message)
        return message

    def received(self, text: str, number: int = 0, pictures: int = 0) -> Message:
        """A message from THEIRS arrives; the same `number` is the same message."""
        for message in self.messages:
            if number and message.sid.endswith(f"a{number:08x}"):
                return message
        sid = f"{'MM' if pictures else 'SM'}{'0' * 23}a{number or next(self._numbers):08x}"
        names = tuple(f"ME{next(self._numbers):032x}" for _ in range(pictures))
        self.pictures |= dict.fromkeys(names, PICTURE)
        return self.keep(
            sid=sid, sender=THEIRS, recipient=OURS, text=text, direction="inbound", status="received", pictures=names
        )

    def answer(self, request: PreparedRequest) -> Response:
        """What Twilio, or the place where it keeps pictures, says to a request."""
        self.asked.append(request)
        url = urlsplit(str(request.url))
        place, is_picture = f"{url.scheme}://{url.netloc}", "/Media/" in url.path
        assert place in (API, CDN), request.url
        if place == API and not is_picture:
            hold_against_description(request)
        if place == API and request.headers.get("Authorization") != _basic_auth_str(*self.login):
            return _error(request, WRONG_PASSWORD)
        fault = self.plan.popleft() if self.plan else None
        if fault is not None and not fault.taken:
            return _error(request, fault)
        if place == CDN or is_picture:
            return self._picture(request, place, url.path.rpartition("/")[2])
        response = self._rest(request, url.path)
        return response if fault is None else _error(request, fault)

    def _rest(self, request: PreparedRequest, path: str) -> Response:
        if request.method == "POST":
            return _json(request, 201, self._take(dict(parse_qsl(str(request.body), keep_blank_values=True))).as_json())
        query = dict(parse_qsl(urlsplit(str(request.url)).query))
        if path.endswith("/Media.json"):
            return _json(request, 200, self._media(path.split("/")[-2]))
        return _json(request, 200, self._page(query, path))

    def _take(self, form: Mapping[str, str]) -> Message:
        service = form.get("MessagingServiceSid")
        return self.keep(
            sender=form.get("From"),
            recipient=form["To"],
            text=form["Body"],
            direction="outbound-api",
            status="accepted" if service else "queued",
            sent=None,
            service=service,
            callback=form.get("StatusCallback", ""),
        )

    def _page(self, query: Mapping[str, str], path: str) -> dict[str, Any]:
        after = query.get("DateSent>")
        found = [
            message
            for message in reversed(self.messages)
            if query.get("To") in (None, message.recipient)
            and query.get("From") in (None, message.sender)
            and (after is None or (message.sent is not None and message.sent >= datetime.fromisoformat(after)))
        ]
        size, page = int(query.get("PageSize", "50")), int(query.get("Page", "0"))
        here = found[page * size : (page + 1) * size]
        more = {**query, "PageSize": str(size), "Page": str(page + 1), "PageToken": f"PA{page + 1}"}
        return {
            "messages": [message.as_json() for message in here],
            "page": page,
            "page_size": size,
            "next_page_uri": f"{path}?{urlencode(more)}" if len(found) > (page + 1) * size else None,
        }

    def _media(self, sid: str) -> dict[str, Any]:
        (message,) = (one for one in self.messages if one.sid == sid)
        listed = [
            {
                "sid": name,
                "account_sid": ACCOUNT,
                "parent_sid": sid,
                "content_type": "image/jpeg",
                "uri": f"{MESSAGES}/{sid}/Media/{name}.json",
            }
            for name in message.pictures
        ]
        return {"media_list": listed, "page": 0, "page_size": 50, "next_page_uri": None}

    def _picture(self, request: PreparedRequest, place: str, name: str) -> Response:
        if name not in self.pictures:
            return _error(request, Fault(404, 20404))
        if place == API:
            return _response(request, 307, b"", {"Location": f"{self.redirect}/{name}"})
        assert "Authorization" not in request.headers, "the password went to somebody else"
        return _response(request, 200, self.pictures[name], self.picture_headers)


class _Adapter(BaseAdapter):
    def __init__(self, double: Double) -> None:
        super().__init__()
        self._double = double

    def send(self, request: PreparedRequest, *_: Any, timeout: Any = None, **__: Any) -> Response:
        assert timeout, "a request without a time-out may wait for ever"
        return self._double.answer(request)

    def close(self) -> None:
        """Nothing is open."""


class DoubleClient(TwilioHttpClient):  # type: ignore[misc]
    """Twilio's own client, whose connections end in the double."""

    def __init__(self, double: Double) -> None:
        super().__init__(timeout=10)
        for start in ("https://", "http://"):
            self.session.mount(start, _Adapter(double))


def _response(request: PreparedRequest, status: int, body: bytes, headers: Mapping[str, str]) -> Response:
    raw = HTTPResponse(BytesIO(body), headers=dict(headers), status=status, preload_content=False)
    response: Response = HTTPAdapter().build_response(request, raw)
    return response


def _json(request: PreparedRequest, status: int, body: Mapping[str, Any]) -> Response:
    kind = {"Content-Type": "application/json"}
    if (description := strict()) is not None:
        few = {key: value[:2] if isinstance(value, list) else value for key, value in body.items()}  # the rest is alike
        sample = _response(request, status, json.dumps(few).encode(), kind)
        description.validate_response(RequestsOpenAPIRequest(request), RequestsOpenAPIResponse(sample))
    return _response(request, status, json.dumps(body).encode(), kind)


def _error(request: PreparedRequest, fault: Fault) -> Response:
    if not fault.connected:
        reason = NewConnectionError(None, "Connection refused")  # type: ignore[arg-type]
        raise requests.ConnectionError(MaxRetryError(None, "/", reason), request=request)  # type: ignore[arg-type]
    if not fault.status:
        raise ReadTimeout("Read timed out. (read timeout=10)", request=request)
    if fault.body is not None:
        return _response(request, fault.status, fault.body.encode(), {"Content-Type": "text/html"})
    said = {"code": fault.code, "message": f"Error {fault.code}", "more_info": "", "status": fault.status}
    more = {} if fault.retry_after is None else {"Retry-After": str(fault.retry_after)}
    return _response(request, fault.status, json.dumps(said).encode(), {"Content-Type": "application/json", **more})


# -- Twilio's own description ------------------------------------------------------------------------------------


@cache
def strict() -> OpenAPI | None:
    """Twilio's description of its API; None where the file is not there."""
    return OpenAPI.from_dict(json.loads(DESCRIPTION.read_text("utf-8"))) if DESCRIPTION.exists() else None


def hold_against_description(request: PreparedRequest) -> None:
    """Raises what openapi-core raises for a request that Twilio does not describe, AssertionError for unknown names."""
    description = strict()
    if description is None:
        return
    asked = RequestsOpenAPIRequest(request)
    description.validate_request(asked)
    names = {name for name, _ in parse_qsl(str(request.body or ""), keep_blank_values=True)}
    names |= {name for name, _ in parse_qsl(urlsplit(str(request.url)).query, keep_blank_values=True)}
    assert names <= _known(str(request.method).lower(), urlsplit(str(request.url)).path), names


@cache
def _paths() -> dict[str, Any]:
    described: dict[str, Any] = json.loads(DESCRIPTION.read_text("utf-8"))["paths"]
    return described


def _known(method: str, path: str) -> set[str]:
    for shape, what in _paths().items():
        ours, theirs = path.split("/"), shape.split("/")
        if len(ours) == len(theirs) and all(
            a == b or (b.startswith("{") and a.endswith(b.partition("}")[2])) for a, b in zip(ours, theirs, strict=True)
        ):
            form = what[method].get("requestBody", {}).get("content", {}).get("application/x-www-form-urlencoded", {})
            query = {one["name"] for one in what[method].get("parameters", []) if one["in"] == "query"}
            return query | set(form.get("schema", {}).get("properties", {}))
    raise AssertionError(f"Twilio has no {path}")


# -- its webhooks ------------------------------------------------------------------------------------------------


def signed(url: str, form: Mapping[str, str], token: str = TOKEN, method: str = "POST") -> RawRequest:
    """A webhook as Twilio sends it, signed with `token`."""
    headers = {
        "X-Twilio-Signature": RequestValidator(token).compute_signature(url, dict(form)),
        "Content-Type": "application/x-www-form-urlencoded; charset=UTF-8",
    }
    return RawRequest(method, url, headers, urlencode(form).encode())


def message_form(message: Message) -> dict[str, str]:
    """The parameters of the webhook for a received message."""
    form = {
        "ToCountry": "GB",
        "ToState": "",
        "SmsMessageSid": message.sid,
        "NumMedia": str(len(message.pictures)),
        "ToCity": "",
        "FromZip": "",
        "SmsSid": message.sid,
        "FromState": "",
        "SmsStatus": "received",
        "FromCity": "",
        "Body": message.text,
        "FromCountry": "GB",
        "To": message.recipient,
        "ToZip": "",
        "NumSegments": "1",
        "MessageSid": message.sid,
        "AccountSid": ACCOUNT,
        "From": message.sender or "",
        "ApiVersion": "2010-04-01",
    }
    for n, name in enumerate(message.pictures):
        form[f"MediaUrl{n}"] = f"{API}{MESSAGES}/{message.sid}/Media/{name}"
        form[f"MediaContentType{n}"] = "image/jpeg"
    return form


def status_form(sid: str, status: str, code: str = "") -> dict[str, str]:
    """The parameters of a status callback."""
    form = {
        "ApiVersion": "2010-04-01",
        "AccountSid": ACCOUNT,
        "MessageSid": sid,
        "SmsSid": sid,
        "MessageStatus": status,
        "SmsStatus": status,
        "From": OURS,
        "To": THEIRS,
    }
    return form | ({"ErrorCode": code} if code else {})


# -- the rig -----------------------------------------------------------------------------------------------------

FAULTS: dict[Outcome, Fault | None] = {
    Outcome.TAKEN: None,
    Outcome.RETRY: BUSY,
    Outcome.UNCERTAIN: SILENT,
    Outcome.NUMBER: Fault(400, 21614),
    Outcome.OPTED_OUT: Fault(400, 21610),
    Outcome.CONFIG: Fault(400, 21606),
    Outcome.ACCOUNT: WRONG_PASSWORD,
}


def twilio_way(**more: Any) -> SmsNumber:
    """OURS at Twilio. `more` are settings of the account or of the number."""
    account = {"account_sid": ACCOUNT, "auth_tokens": (TOKEN,)}
    own = {key: more.pop(key) for key in list(more) if key in Twilio.model_fields}
    return SmsNumber(driver="twilio", **({"number": OURS} | more), twilio=Twilio(**(account | own)))


@dataclass(slots=True)
class TwilioRig:
    """Twilio as the contract wants it."""

    double: Double
    way: SmsNumber = field(default_factory=twilio_way)
    name: str = "twilio"
    methods: tuple[str, ...] = ("POST",)
    cannot: Mapping[str, str] = field(default_factory=dict)

    def deliver(self, text: str, number: int = 1, pictures: int = 0, forged: bool = False, method: str = "") -> Heard:
        """As `Rig.deliver`."""
        form = message_form(self.double.received(text, number, pictures))
        request = signed(f"{BASE}/sms", form, TOKEN[::-1] if forged else TOKEN, method or "POST")
        return Heard(*inbound.sms.twilio.receive(request, "sms", [self.way]))

    def report(self, sent: Sent, outbox: int, status: Delivery, forged: bool = False) -> Heard:
        """As `Rig.report`."""
        code = "30003" if status in (Delivery.UNDELIVERED, Delivery.FAILED) else ""
        form, token = status_form(sent.provider_id, status, code), TOKEN[::-1] if forged else TOKEN
        request = signed(f"{BASE}/status?m={outbox}", form, token)
        return Heard(*inbound.sms.twilio.receive(request, "status", [self.way]))

    def next_meets(self, outcome: Outcome) -> None:
        """As `Rig.next_meets`."""
        self.double.plan.append(FAULTS[outcome])

    def taken(self) -> list[tuple[str, str, str]]:
        """As `Rig.taken`."""
        out = (message for message in self.double.messages if message.direction == "outbound-api")
        return [(message.sender or "", message.recipient, message.text) for message in out]


def put_in_place(double: Double, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on both drivers reach this double, and the host of pictures has a public address."""
    for module in (inbound.sms.twilio, outbound.sms.twilio):
        monkeypatch.setattr(module, "http_client", double.client)
    monkeypatch.setattr(inbound.sms.pictures, "addresses_of", lambda host: ["93.184.216.34"])


@contextmanager
def twilio(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[TwilioRig]:
    """The rig of Twilio."""
    double = Double()
    put_in_place(double, monkeypatch)
    yield TwilioRig(double)
