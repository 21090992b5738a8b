"""SMS by any provider with an HTTP interface: `[sms.http]` says what to ask, in templates.

`{to} {from} {text} {id} {callback}` are filled in at once, each encoded as its place needs; other braces stay. What an
answer means:

    no connection, TLS        Temporary             401, 403      Refused: account
    2xx                       Sent                  429           Later, as Retry-After says (RFC 9110 10.2.3)
    5xx, no answer, reset     Uncertain             other 4xx     Refused: unknown, with the provider's words
                                                    3xx           Refused: config (a redirect is not followed)
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import parse_qsl, quote, quote_plus, urlsplit

import requests
from requests.exceptions import InvalidSchema, InvalidURL, MissingSchema
from urllib3.exceptions import HTTPError

from gateway.config import Config, HttpSms, SmsNumber
from gateway.values import Caps, Later, OutSms, Refusal, Refused, Sent, Uncertain, utc_now
from outbound.sms.over_http import unheard

CAPS = Caps()
MOST_LATER = 3600.0  # seconds; beyond that a Retry-After is a mistake
PLACE = re.compile(r"\{(to|from|text|id|callback)\}")
SECRET_LENGTH = 6  # shorter words are no passwords
NO_URL = (InvalidURL, InvalidSchema, MissingSchema, UnicodeError)

Client = Callable[[requests.Request], requests.Response]


def connect(way: SmsNumber, config: Config) -> Client:
    """Asks the provider of this number."""
    assert way.http is not None
    return asker(way.http.timeout_seconds)


def send(client: Client, way: SmsNumber, message: OutSms) -> Sent:
    """Asks the provider to send. Raises as the table above says."""
    assert way.http is not None
    response = client(request(way.http, message))
    status, words = response.status_code, _without_secrets(_words(response), way.http)
    if 200 <= status < 300:
        return Sent(at_path(_answer(response), way.http.id_path), words)
    if status == 429:
        raise Later(f"429 {words}", retry_after(response.headers))
    if status >= 500 or status < 300:
        raise Uncertain(f"{status} {words}")
    why = {401: Refusal.ACCOUNT, 403: Refusal.ACCOUNT}.get(status, Refusal.UNKNOWN if status >= 400 else Refusal.CONFIG)
    raise Refused(f"{status} {words}", at_path(_answer(response), way.http.field_code) or str(status), why)


def request(http: HttpSms, message: OutSms) -> requests.Request:
    """The templates, filled in."""
    values = {
        "to": message.recipient,
        "from": message.sender,
        "text": message.text.encode("utf-8", "replace").decode(),
        "id": str(message.id),
        "callback": message.callback,
    }
    url = _fill(http.url, values, lambda value: quote(value, safe=""))
    if http.method == "GET":
        return requests.Request("GET", url, headers=http.headers)
    body = _fill(http.body, values, _encoding(http.content_type)).encode("utf-8", "replace")
    return requests.Request("POST", url, headers={"Content-Type": http.content_type, **http.headers}, data=body)


def asker(seconds: float, directly: bool = False) -> Client:
    """Asks over a new connection each time (nobody knows whether a kept one still stands), follows no redirect, waits
    `seconds` for each step; `directly` by no proxy. Raises Temporary before and Uncertain after the request has left
    us, Refused for a URL that is none; none tells the URL, which may hold a password."""

    def ask(request: requests.Request) -> requests.Response:
        with requests.Session() as session:
            session.trust_env = not directly
            try:
                prepared = session.prepare_request(request)
                about = session.merge_environment_settings(prepared.url or "", {}, False, None, None)
                return session.send(prepared, timeout=seconds, allow_redirects=False, **about)
            except NO_URL:
                raise Refused("the URL cannot be asked", "", Refusal.CONFIG) from None
            except (requests.RequestException, HTTPError) as error:
                raise unheard(error) from None

    return ask


def retry_after(headers: Mapping[str, str]) -> float:
    """Seconds to wait: said as a number or as a date; 0 when not said."""
    said = headers.get("Retry-After", "").strip()
    if re.fullmatch("[0-9]{1,6}", said):
        return min(MOST_LATER, float(said))
    try:
        at = parsedate_to_datetime(said)
    except ValueError:
        return 0.0
    return min(MOST_LATER, max(0.0, (at.replace(tzinfo=at.tzinfo or UTC) - utc_now()).total_seconds()))


def at_path(answer: Any, path: str) -> str:
    """What stands at `path` in a JSON value, dots going down (a number counts in a list); "" where there is none."""
    for name in path.split("."):
        if isinstance(answer, list) and name.isdecimal() and int(name) < len(answer):
            answer = answer[int(name)]
        else:
            answer = answer.get(name) if isinstance(answer, dict) else None
    return str(answer)[:200] if isinstance(answer, str | int) and not isinstance(answer, bool) else ""


def _encoding(content_type: str) -> Callable[[str], str]:
    kind = content_type.partition(";")[0].strip().lower()
    if kind.endswith("json"):
        return lambda value: json.dumps(value)[1:-1]
    if kind == "application/x-www-form-urlencoded":
        return quote_plus
    return html.escape if kind.endswith("xml") else str


def _fill(template: str, values: Mapping[str, str], encode: Callable[[str], str]) -> str:
    """One pass: what a value brings is never a template."""
    return PLACE.sub(lambda place: encode(values[place[1]]), template)


def _answer(response: requests.Response) -> Any:
    try:
        return json.loads(response.content)
    except (ValueError, RecursionError):
        return None


def _without_secrets(words: str, http: HttpSms) -> str:
    """Some providers repeat the key they refuse: it stands on no page and in no log."""
    query = [value for _, value in parse_qsl(urlsplit(http.url).query) if not PLACE.search(value)]
    headers = [part for value in http.headers.values() for part in (value, *value.split())]
    for secret in sorted({http.secret, *query, *headers}, key=len, reverse=True):
        words = words.replace(secret, "…") if len(secret) >= SECRET_LENGTH else words
    return words


def _words(response: requests.Response) -> str:
    return " ".join(response.content[:2000].decode("utf-8", "replace").split())[:400]
