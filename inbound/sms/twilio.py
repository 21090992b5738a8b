"""SMS from Twilio: webhooks, what came while we were away, and pictures.

Twilio's pages: "Twilio's request to your incoming message webhook URL", "Track outbound message status", "Message
resource", "Media subresource". Whether a webhook is Twilio's is decided in `twilio_signature`.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from gateway.config import SmsNumber, Twilio
from gateway.values import Delivery, Media, Permanent, RawRequest, RawResponse, Receipt, Refusal, Sms, Temporary
from inbound.sms.pictures import download
from inbound.sms.twilio_signature import Strange, genuine

log = logging.getLogger(__name__)

TIMEOUT = 10.0  # seconds for an answer to begin
MAX_PICTURES = 10
NOTHING_TO_SAY = RawResponse(200, {"Content-Type": "application/xml"}, b"<Response/>")

PICTURE = re.compile(
    r"https://api(\.[a-z0-9-]+){0,2}\.twilio\.com(:443)?/2010-04-01/Accounts/(?P<account>AC[0-9a-fA-F]{32})"
    r"/Messages/(SM|MM)[0-9a-fA-F]{32}/Media/ME[0-9a-fA-F]{32}"
)

STATUSES = {str(status): status for status in Delivery if status is not Delivery.PRICED}

# Why it did not arrive after Twilio had taken it ("Error and warning dictionary"). Any other code is UNKNOWN.
CODES = {
    Refusal.ACCOUNT: ("30002", "30034"),  # suspended; not registered for US numbers
    Refusal.NUMBER: ("30005", "30006", "21211", "21612", "21614", "21635"),  # nobody's; landline; as when sending
    Refusal.OPTED_OUT: ("21610",),
    Refusal.HANDSET: ("30003",),  # out of reach
    Refusal.FILTERED: ("30004", "30007"),  # blocked; taken for spam
    Refusal.OVERLOAD: ("30001",),  # too long in Twilio's queue
}
WHY = {code: why for why, codes in CODES.items() for code in codes}


def http_client() -> Any:
    """The connection to Twilio, a `TwilioHttpClient`; tests put a double here."""
    from twilio.http.http_client import TwilioHttpClient

    return TwilioHttpClient(timeout=TIMEOUT)


# -- webhooks ----------------------------------------------------------------------------------------------------


def receive(raw: RawRequest, event: str, ways: Sequence[SmsNumber]) -> tuple[list[Sms | Receipt], RawResponse]:
    """A webhook: `sms` gives an Sms, `status` a Receipt, any other event only the verdict on its signature.

    403 for what Twilio did not sign or what is not for us, 405 for anything but POST; no error on any input.
    """
    if raw.method != "POST":  # in a GET the signature covers the address alone
        return [], RawResponse(405, {"Allow": "POST"})
    try:
        form, mine = genuine(raw, ways)
        values: list[Sms | Receipt] = []
        if event == "sms":
            values.append(_message(form, mine))
        elif event == "status":
            values.extend(_receipt(form, raw.public_url))
    except Strange as why:
        log.debug("refused a request: %s", why)  # the door counts them; strangers shall not fill the log
        return [], RawResponse(403)
    return values, NOTHING_TO_SAY


def _message(form: Mapping[str, str], mine: Sequence[SmsNumber]) -> Sms:
    if not {"From", "To", "Body", "MessageSid"} <= form.keys():
        raise Strange("no message")
    if not any(_is_ours(form["To"], form.get("MessagingServiceSid"), way) for way in mine):
        raise Strange("to a number that is none of ours")
    said = form.get("NumMedia", "0")
    pictures = min(int(said), MAX_PICTURES) if said.isascii() and said.isdigit() else 0
    return Sms(
        driver="twilio",
        id=form["MessageSid"],
        sender=form["From"],
        recipient=form["To"],
        text=form["Body"],
        media=tuple(
            Media(form[f"MediaUrl{n}"], form.get(f"MediaContentType{n}", ""))
            for n in range(pictures)
            if form.get(f"MediaUrl{n}")
        ),
        opt_out=form.get("OptOutType", ""),
        country=form.get("FromCountry", ""),
    )


def _is_ours(number: str | None, service: str | None, way: SmsNumber) -> bool:
    """Is it one of our numbers, or any number of our messaging service?"""
    return number in way.numbers or bool(way.twilio and service and service == way.twilio.messaging_service_sid)


def _receipt(form: Mapping[str, str], url: str) -> list[Receipt]:
    if not {"MessageStatus", "MessageSid"} <= form.keys():
        raise Strange("no receipt")
    status = STATUSES.get(form["MessageStatus"])
    if status is None:  # one that Twilio thought of after us
        return []
    rows = parse_qs(urlsplit(url).query).get("m", [])
    code, lost = form.get("ErrorCode", ""), status in (Delivery.FAILED, Delivery.UNDELIVERED)
    return [
        Receipt(
            driver="twilio",
            id=form["MessageSid"],
            status=status,
            outbox=int(rows[0]) if len(rows) == 1 and re.fullmatch(r"[0-9]{1,18}", rows[0]) else None,
            code=code,
            why=WHY.get(code, Refusal.UNKNOWN) if lost else None,
            words=form.get("ErrorMessage", ""),
        )
    ]


# -- what came while we were away --------------------------------------------------------------------------------


def poll(way: SmsNumber, since: datetime, folder: Path) -> list[Sms | Receipt]:
    """The messages that reached our numbers after `since`, oldest first, with the ids their webhooks had.

    Raises Temporary when Twilio cannot be asked.
    """
    from requests import RequestException
    from twilio.base.exceptions import TwilioException
    from twilio.rest import Client

    account = _account(way)
    found: list[Sms] = []
    # The numbers of a messaging service need not stand in our settings.
    asked = [{}] if account.messaging_service_sid else [{"to": number} for number in way.numbers if not way.one_way]
    http = http_client()
    try:
        client = Client(*_login(account), account.account_sid, http_client=http)
        for only in asked:
            kept = client.messages.stream(**only, date_sent_after=since.astimezone(UTC), page_size=200)
            found += [_as_received(one) for one in kept if _came_by(one, way)]
    except (TwilioException, RequestException, ValueError) as error:  # ValueError: an answer that is no JSON
        raise Temporary(f"Twilio cannot be asked what came: {error}") from error
    finally:
        http.session.close()
    return [*sorted(found, key=lambda sms: (sms.at or since, sms.id))]


def _came_by(kept: Any, way: SmsNumber) -> bool:
    return kept.direction == "inbound" and _is_ours(kept.to, kept.messaging_service_sid, way)


def _as_received(kept: Any) -> Sms:
    pictures = kept.media.list(limit=MAX_PICTURES) if int(kept.num_media or 0) else ()
    return Sms(
        driver="twilio",
        id=kept.sid,
        sender=kept.from_ or "",
        recipient=kept.to or "",
        text=kept.body or "",
        media=tuple(
            Media(f"https://api.twilio.com{picture.uri.removesuffix('.json')}", picture.content_type or "")
            for picture in pictures
        ),
        at=kept.date_sent or kept.date_created,
    )


def _account(way: SmsNumber) -> Twilio:
    if way.twilio is None:
        raise Permanent(f"{way.number} is no number at Twilio")
    return way.twilio


def _login(account: Twilio) -> tuple[str, str]:
    if account.api_key_sid:
        return account.api_key_sid, account.api_key_secret
    return account.account_sid, account.auth_tokens[0]


def fetch(way: SmsNumber, media: Media) -> tuple[bytes, str]:
    """A picture of a message, and its type as said: only from Twilio's own address of our account, with our password.

    Later while it is not there yet, Permanent when it never will be.
    """
    account, place = _account(way), PICTURE.fullmatch(media.url)
    if place is None or place["account"] != account.account_sid:
        raise Permanent("not the address of a picture of our account at Twilio")
    with closing(http_client().session) as session:
        return download(session, media, _login(account))
