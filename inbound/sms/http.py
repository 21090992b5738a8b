"""SMS and receipts from any provider that posts them, mapped by `[sms.http]`.

The body is JSON (one object) or a form, signed with HMAC-SHA256 (RFC 2104) over its raw bytes in a header of the
provider's choice: as hex or base64, with or without `sha256=` before it. The signature does not cover the URL: `m`, our
own id that a receipt's URL carries, is believed because the body is.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import parse_qs, parse_qsl

from gateway.config import HttpSms, SmsNumber
from gateway.values import Delivery, RawRequest, RawResponse, Receipt, Refusal, Sms, utc_now

FORM = "application/x-www-form-urlencoded"
FAILED = (Delivery.UNDELIVERED, Delivery.FAILED)
NUMBER = re.compile(r"[0-9]{1,18}")


def receive(raw: RawRequest, event: str, ways: Sequence[SmsNumber]) -> tuple[list[Sms | Receipt], RawResponse]:
    """A message (`sms`) or a receipt (`status`). 405 for another method than POST, 403 for a signature that none of our
    secrets made, 400 for a signed body that cannot be read or says too little. A state that `statuses` does not know is
    taken and says nothing."""
    if raw.method != "POST":
        return [], RawResponse(405, {"Allow": "POST"})
    http = next((way.http for way in ways if way.http is not None and _genuine(raw, way.http)), None)
    if http is None:
        return [], RawResponse(403)
    body = _read(raw)
    if body is None or event not in ("sms", "status"):
        return [], RawResponse(400)
    if event == "status":
        receipt = _receipt(http, body, raw)
        return [receipt] if receipt else [], RawResponse(200)
    sms = _sms(http, body, raw)
    return ([sms], RawResponse(200)) if sms else ([], RawResponse(400))


def field(body: Any, path: str) -> str:
    """What stands at `path` in a JSON value, dots going down (a number counts in a list); "" where there is none."""
    for name in path.split("."):
        if isinstance(body, Mapping):
            body = body.get(name)
        elif isinstance(body, list) and NUMBER.fullmatch(name) and int(name) < len(body):
            body = body[int(name)]
        else:
            return ""
    if isinstance(body, bool) or not isinstance(body, str | int):
        return ""
    return str(body).encode("utf-8", "replace").decode().replace("\0", "")


def _genuine(raw: RawRequest, http: HttpSms) -> bool:
    """Is the body signed with this secret? All comparing takes the same time."""
    given = _header(raw.headers, http.signature)
    given = given[7:] if given[:7].lower() == "sha256=" else given
    digest = hmac.digest(http.secret.encode(), raw.body, "sha256")
    as_hex = hmac.compare_digest(given.lower().encode("utf-8", "replace"), digest.hex().encode())
    as_base64 = hmac.compare_digest(given.encode("utf-8", "replace"), base64.b64encode(digest))
    return as_hex or as_base64


def _read(raw: RawRequest) -> Mapping[str, Any] | None:
    try:
        if _header(raw.headers, "content-type").lower().startswith(FORM):
            return dict(parse_qsl(raw.body.decode("utf-8"), keep_blank_values=True))
        body = json.loads(raw.body)
    except (ValueError, RecursionError):
        return None
    return body if isinstance(body, dict) else None


def _sms(http: HttpSms, body: Mapping[str, Any], raw: RawRequest) -> Sms | None:
    sender, text = field(body, http.field_from).strip(), field(body, http.field_text)
    if not sender:
        return None
    # Without an id of the provider's the same body is the same message: what it repeats is taken once
    # Without an id the same words on another day are another message.
    id = field(body, http.field_id) or f"{utc_now():%Y%m%d}-{hashlib.sha256(raw.body).hexdigest()}"
    return Sms("http", id, sender, field(body, http.field_to).strip(), text)


def _receipt(http: HttpSms, body: Mapping[str, Any], raw: RawRequest) -> Receipt | None:
    word = field(body, http.field_status)
    try:
        status = Delivery(http.statuses.get(word, word).lower())
    except ValueError:
        return None
    asked = parse_qs(raw.public_url.partition("#")[0].partition("?")[2], max_num_fields=None)
    ours = asked.get("m", [""])[-1]
    return Receipt(
        "http",
        field(body, http.field_id),
        status,
        int(ours) if NUMBER.fullmatch(ours) else None,
        field(body, http.field_code),
        Refusal.UNKNOWN if status in FAILED else None,
        word,
    )


def _header(headers: Mapping[str, str], wanted: str) -> str:
    return next((value.strip() for name, value in headers.items() if name.lower() == wanted.lower()), "")
