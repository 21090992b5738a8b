"""SMS and receipts from a Kannel on our side of the wall (the user's guide of Kannel 1.4.5, chapter 6).

Kannel asks us with GET, from an address in `allow_from` and with our secret in the query. Its configuration:

    group = smsbox
    mo-recode = true                # UCS-2 comes as UTF-8
    http-request-retry = 10000      # after a 503 from us: again, with the same id,
    http-queue-delay = 10           # every ten seconds

    group = sms-service
    keyword = default
    get-url = "https://desk.example/hooks/kannel/sms?secret=SECRET&id=%I&from=%p&to=%P&text=%b&coding=%c&charset=%C&time=%T"
    max-messages = 0                # else what we answer, or that we did not, goes to the customer as an SMS
    omit-empty = true

    group = sendsms-user            # of `outbound.sms.kannel`
    username = ringback
    password = ...
    concatenation = true
    max-messages = 30               # else a long text is cut

What we did not take smsbox keeps in its memory: do not restart it while we are away.
The URL for receipts need not be configured: each SMS brings its own (`outbound.sms.kannel`).
"""

from __future__ import annotations

import hmac
import ipaddress
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from urllib.parse import unquote_to_bytes

from gateway.config import Kannel, SmsNumber
from gateway.values import Delivery, RawRequest, RawResponse, Receipt, Refusal, Sms

PEER = "x-ringback-peer"  # who asks: set by our own server, never by the client

# %d, the kinds of receipt
KINDS = {
    "1": Delivery.DELIVERED,
    "2": Delivery.UNDELIVERED,
    "4": Delivery.QUEUED,  # by the SMSC: the handset is off
    "8": Delivery.SENT,  # to the SMSC
    "16": Delivery.FAILED,  # the SMSC refused it
}

# What the SMSC's answer (%A) says: SMPP's command_status of a refusal, `stat:` of a receipt (SMPP 3.4, 5.1.3 and B).
REASONS = {
    "10": Refusal.CONFIG,  # invalid source address
    "11": Refusal.NUMBER,  # invalid destination address
    "13": Refusal.ACCOUNT,  # bind failed
    "14": Refusal.ACCOUNT,  # invalid password
    "15": Refusal.ACCOUNT,  # invalid system id
    "20": Refusal.OVERLOAD,  # message queue full
    "88": Refusal.OVERLOAD,  # throttled
    "EXPIRED": Refusal.HANDSET,
    "REJECTD": Refusal.FILTERED,
}
NACK = re.compile(r"NACK/(0x[0-9a-fA-F]{1,8}|[0-9]{1,10})")
STAT = re.compile(r"\bstat:([A-Z]{3,10})\b")
NUMBER = re.compile(r"[0-9]{1,18}")
UCS2 = "2"  # %c, where mo-recode is off
LATIN = "iso-8859-1"  # %C of older Kannels; nowadays it is UTF-8


def receive(raw: RawRequest, event: str, ways: Sequence[SmsNumber]) -> tuple[list[Sms | Receipt], RawResponse]:
    """A message (`sms`) or a receipt (`status`). 405 for another method than GET, 403 for a stranger, 400 for a query
    that says too little. The answer is always empty: Kannel would send words of ours to the customer."""
    if raw.method != "GET":
        return [], RawResponse(405, {"Allow": "GET"})
    query = _query(raw.public_url)
    secret, peer = query.get("secret", b""), _header(raw.headers, PEER)
    if not any(_may(way.kannel, secret, peer) for way in ways if way.kannel is not None):
        return [], RawResponse(403)
    value = {"sms": _sms, "status": _receipt}.get(event, _nothing)(query)
    if value is None:
        return [], RawResponse(400)
    return [value], RawResponse(200, {"Content-Type": "text/plain; charset=utf-8"})


def _may(kannel: Kannel, secret: bytes, peer: str) -> bool:
    try:
        address = ipaddress.ip_address(peer)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    known = any((mapped or address) in ipaddress.ip_network(network) for network in kannel.allow_from)
    return hmac.compare_digest(secret, kannel.secret.encode()) and known


def _sms(query: Mapping[str, bytes]) -> Sms | None:
    id, sender = _words(query, "id"), _words(query, "from")
    if not (id and sender and "text" in query):
        return None
    return Sms("kannel", id, sender, _words(query, "to"), _text(query), at=_time(_words(query, "time")))


def _receipt(query: Mapping[str, bytes]) -> Receipt | None:
    status, ours, answer = KINDS.get(_words(query, "type")), _words(query, "m"), _words(query, "answer")
    if status is None or not NUMBER.fullmatch(ours):
        return None
    code = _code(answer)
    why = REASONS.get(code, Refusal.UNKNOWN) if status in (Delivery.UNDELIVERED, Delivery.FAILED) else None
    return Receipt("kannel", "", status, int(ours), code, why, answer)  # Kannel has no name for it that we know


def _nothing(query: Mapping[str, bytes]) -> None:
    return None


def _code(answer: str) -> str:
    if nack := NACK.search(answer):
        return str(int(nack[1], 0 if nack[1].startswith("0x") else 10))
    stat = STAT.search(answer)
    return stat[1] if stat and stat[1] != "DELIVRD" else ""


def _text(query: Mapping[str, bytes]) -> str:
    charset = "latin-1" if _words(query, "charset").lower() == LATIN else "utf-8"
    if _words(query, "coding") == UCS2:
        charset = "utf-16-be"
    return query["text"].decode(charset, "replace").replace("\0", "")


def _time(seconds: str) -> datetime | None:
    return datetime.fromtimestamp(int(seconds), UTC) if re.fullmatch("[0-9]{1,10}", seconds) else None


def _query(url: str) -> dict[str, bytes]:
    """The fields as bytes: a text may be in any charset."""
    query = url.partition("#")[0].partition("?")[2].encode("utf-8", "replace")
    pairs = (pair.partition(b"=") for pair in query.replace(b"+", b" ").split(b"&"))
    return {name.decode("ascii", "replace"): unquote_to_bytes(value) for name, _, value in pairs}


def _words(query: Mapping[str, bytes], name: str) -> str:
    return query.get(name, b"").decode("utf-8", "replace").replace("\0", "").strip()


def _header(headers: Mapping[str, str], wanted: str) -> str:
    return next((value.strip() for name, value in headers.items() if name.lower() == wanted), "")
