"""SMS out through Kannel's `sendsms` (the user's guide of Kannel 1.4.5, chapter 6).

Each SMS brings the URL for its receipts, with our outbox id and secret in it; `inbound.sms.kannel` says how Kannel is
to be configured. What an answer means:

    202 0: Accepted, 3: Queued    Sent              403 Authorization failed    Refused: account
    503                           Temporary         400 of a receiver           Refused: number
    no connection                 Temporary         403, 400, other 4xx         Refused: config
    no answer, other 5xx          Uncertain
"""

from __future__ import annotations

from urllib.parse import quote

import requests

from gateway.config import Config, Kannel, SmsNumber
from gateway.segments import GSM7, UCS2, count
from gateway.values import Caps, OutSms, Refusal, Refused, Sent, Temporary, Uncertain
from outbound.sms.http import Client, asker

CAPS = Caps()
TIMEOUT = 10.0  # seconds
ALL_RECEIPTS = 31  # dlr-mask: delivered, undelivered, queued, sent, refused
RECEIPT = "&type=%d&answer=%A"  # filled in by Kannel
CODINGS = {GSM7: "0", UCS2: "2"}


def connect(way: SmsNumber, config: Config) -> Client:
    """Asks Kannel, never by a proxy: it is one of our own."""
    return asker(TIMEOUT, directly=True)


def send(client: Client, way: SmsNumber, message: OutSms) -> Sent:
    """Hands the SMS to Kannel, which answers when it is in its store. Raises as the table above says."""
    assert way.kannel is not None
    response = client(requests.Request("GET", way.kannel.send_url, params=query(way.kannel, message)))
    status, words = response.status_code, " ".join(response.text[:2000].split())[:400]
    if status in (200, 202):
        return Sent(words=words)
    said = f"{status} {words}"
    if status == 503:
        raise Temporary(said)
    if not 300 <= status < 500:
        raise Uncertain(said)
    raise Refused(said, str(status), _why(status, words.lower()))


def query(kannel: Kannel, message: OutSms) -> dict[str, str]:
    """What `sendsms` is asked. No receipts are asked for where there is no callback."""
    asked = {
        "username": kannel.user,
        "password": kannel.password,
        "from": message.sender,
        "to": message.recipient,
        "text": message.text.encode("utf-8", "replace").decode(),
        "charset": "UTF-8",
        "coding": CODINGS[count(message.text).encoding],
    }
    if kannel.smsc:
        asked["smsc"] = kannel.smsc
    if message.callback:
        asked["dlr-mask"] = str(ALL_RECEIPTS)
        asked["dlr-url"] = receipt_url(message.callback, kannel.secret)
    return asked


def receipt_url(callback: str, secret: str) -> str:
    """The callback with our secret and Kannel's own escapes; a % of ours is doubled, or Kannel would fill it in."""
    ours = f"{callback}{'&' if '?' in callback else '?'}secret={quote(secret, safe='')}"
    return ours.replace("%", "%%") + RECEIPT


def _why(status: int, words: str) -> Refusal:
    if status == 401 or "authorization" in words:
        return Refusal.ACCOUNT
    return Refusal.NUMBER if "receiver number" in words or "number(s)" in words else Refusal.CONFIG
