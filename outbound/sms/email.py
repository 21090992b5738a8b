"""Email-to-SMS: one plain mail (RFC 5322) per SMS to `{number}@domain`, through `[smtp.out]`. One way.

A gateway that mails replies sends them to the inbox of the number, which is the sender here: they come in as mail.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime

from gateway.config import Config, MailSms, SmsNumber
from gateway.values import Caps, OutSms, Permanent, Refusal, Refused, Sent, utc_now
from outbound.smtp_out import SmtpSender

CAPS = Caps(two_way=False, receipts=False)
WHY = {"MAIL": Refusal.CONFIG, "RCPT": Refusal.NUMBER}  # what was refused
POLICY = SMTP.clone(cte_type="7bit")  # some gateways understand nothing else


@dataclass(frozen=True, slots=True)
class Post:
    """Who writes, and by which server; None without `[smtp.out]`."""

    sender: str
    smtp: SmtpSender | None


def connect(way: SmsNumber, config: Config) -> Post:
    """Mail from the number's inbox, through `[smtp.out]` with its time-out."""
    inbox = config.inbox(way.inbox) or config.inboxes[0]
    out = config.smtp.out
    return Post(inbox.address, SmtpSender(out, config.mail.domain) if out else None)


def send(client: Post, way: SmsNumber, message: OutSms) -> Sent:
    """Mails it. Raises Temporary and Uncertain as `SmtpSender` does, Refused when the server will not take it."""
    assert way.email is not None
    if client.smtp is None:
        raise Refused("there is no [smtp.out] that mail could go through", "", Refusal.CONFIG)
    recipient = address(way.email, message.recipient)
    try:
        return client.smtp.send(render(client.sender, recipient, message), client.sender, recipient)
    except Permanent as error:
        verb, _, said = str(error).partition(": ")
        code = said[:3] if said[:3].isdecimal() else ""
        raise Refused(str(error), code, WHY.get(verb, Refusal.UNKNOWN)) from error


def address(settings: MailSms, number: str) -> str:
    """Where the mail for a number goes. Raises Refused when it is none."""
    if not number.removeprefix("+").isdecimal() or not number.isascii():
        raise Refused("not a phone number", "", Refusal.NUMBER)
    return f"{number.removeprefix('+') if settings.strip_plus else number}@{settings.domain}"


def render(sender: str, recipient: str, message: OutSms) -> bytes:
    """The text and no more: a subject would be sent along by most gateways. A repeat has the same Message-ID."""
    mail = EmailMessage(POLICY)
    mail["From"], mail["To"] = sender, recipient
    mail["Date"] = format_datetime(message.since or utc_now())
    said = hashlib.sha256(f"{recipient}\0{message.text}".encode("utf-8", "replace")).hexdigest()[:16]
    mail["Message-ID"] = f"<sms.{message.id}.{said}@{sender.rpartition('@')[2]}>"
    mail.set_content(message.text.encode("utf-8", "replace").decode(), charset="utf-8")
    return mail.as_bytes()
