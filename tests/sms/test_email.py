"""SMS by mail: what is written, to whom, and what a refusal means. `test_contract.py` sends it to a real server."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from email import message_from_bytes, policy
from pathlib import Path

import pytest

from gateway.config import Config, Inbox, MailSms, SmsNumber, Smtp, SmtpOut
from gateway.values import OutSms, Permanent, Refusal, Refused, Sent, Temporary, Uncertain
from outbound.sms import email as outward
from outbound.smtp_out import SmtpSender
from tests.loopback import HOST, free_port
from tests.sms.rigs_others import email as gateway

WAY = SmsNumber(number="ACME", driver="email", inbox="sales@desk.example", email=MailSms(domain="sms.example"))
CONFIG = Config(
    inboxes=(Inbox(address="support@desk.example"), Inbox(address="sales@desk.example")),
    smtp=Smtp(out=SmtpOut(host=HOST, port=1, security="none")),
    sms=(WAY,),
)
NOW = datetime(2026, 11, 25, 10, 0, tzinfo=UTC)
MESSAGE = OutSms(17, "ACME", "+447700900123", "We are on our way.", since=NOW)


class Server(SmtpSender):
    """Keeps what it is given, or refuses it."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.kept: list[tuple[bytes, str, str]] = []

    def send(self, rendered: bytes, envelope_sender: str, recipient: str) -> Sent:
        if self.error:
            raise self.error
        self.kept.append((rendered, envelope_sender, recipient))
        return Sent(words="250 ok")


def test_it_is_a_mail_from_the_inbox_of_the_number_to_the_number_at_the_gateway() -> None:
    server = Server()
    sent = outward.send(outward.Post("sales@desk.example", server), WAY, MESSAGE)
    assert sent.words == "250 ok"
    ((_, sender, recipient),) = server.kept
    assert (sender, recipient) == ("sales@desk.example", "447700900123@sms.example")


def test_the_sender_is_the_inbox_of_the_number_or_the_first() -> None:
    assert outward.connect(WAY, CONFIG).sender == "sales@desk.example"
    assert outward.connect(WAY.model_copy(update={"inbox": ""}), CONFIG).sender == "support@desk.example"


def test_it_is_plain_text_without_a_subject() -> None:
    rendered = outward.render("sales@desk.example", "447700900123@sms.example", MESSAGE)
    head, _, body = rendered.partition(b"\r\n\r\n")
    assert body == b"We are on our way.\r\n"
    assert head.decode().split("\r\n") == [
        "From: sales@desk.example",
        "To: 447700900123@sms.example",
        "Date: Wed, 25 Nov 2026 10:00:00 +0000",
        "Message-ID: <sms.17.b7874637f9c5572e@desk.example>",
        'Content-Type: text/plain; charset="utf-8"',
        "Content-Transfer-Encoding: 7bit",
        "MIME-Version: 1.0",
    ]


@pytest.mark.parametrize("text", ["Grüße 👍", "From here\n.\n\nx" * 50, "x" * 1600, "é" * 1600, "a\ud800b", ""])
def test_every_text_survives_in_seven_bits(text: str) -> None:
    rendered = outward.render("a@desk.example", "b@sms.example", replace(MESSAGE, text=text))
    assert rendered.isascii()
    assert max(map(len, rendered.split(b"\r\n"))) <= 998
    content = message_from_bytes(rendered, policy=policy.default).get_content()
    assert content.replace("\r\n", "\n").removesuffix("\n") == text.replace("\ud800", "?")


def test_a_repeat_has_the_same_message_id_and_another_message_another() -> None:
    def id_of(message: OutSms) -> str:
        return str(message_from_bytes(outward.render("a@b.example", "1@sms.example", message))["Message-ID"])

    assert id_of(MESSAGE) == id_of(replace(MESSAGE, attempts=2, since=None))
    assert len({id_of(MESSAGE), id_of(replace(MESSAGE, id=18)), id_of(replace(MESSAGE, text="other"))}) == 3


@pytest.mark.parametrize(
    ("number", "strip", "address"),
    [
        ("+447700900123", True, "447700900123@sms.example"),
        ("+447700900123", False, "+447700900123@sms.example"),
        ("07700900123", True, "07700900123@sms.example"),
    ],
)
def test_the_address_of_a_number(number: str, strip: bool, address: str) -> None:
    assert outward.address(MailSms(domain="sms.example", strip_plus=strip), number) == address


@pytest.mark.parametrize("number", ["", "+", "ACME", "+44\r\nBcc: x@y", "+44 77", "++44", "٠٧", "44>@evil.example"])
def test_what_is_no_number_gets_no_mail(number: str) -> None:
    server = Server()
    with pytest.raises(Refused) as refused:
        outward.send(outward.Post("a@desk.example", server), WAY, replace(MESSAGE, recipient=number))
    assert (refused.value.why, server.kept) == (Refusal.NUMBER, [])


@pytest.mark.parametrize(
    ("words", "code", "why"),
    [
        ("RCPT: 550 5.1.1 no such number", "550", Refusal.NUMBER),
        ("MAIL: 550 5.7.1 you may not send", "550", Refusal.CONFIG),
        ("after the text: 554 5.7.1 spam", "554", Refusal.UNKNOWN),
        ("an address that SMTP cannot carry", "", Refusal.UNKNOWN),
    ],
)
def test_a_refusal_says_what_was_refused(words: str, code: str, why: Refusal) -> None:
    with pytest.raises(Refused, match=words) as refused:
        outward.send(outward.Post("a@desk.example", Server(Permanent(words))), WAY, MESSAGE)
    assert (refused.value.code, refused.value.why) == (code, why)


@pytest.mark.parametrize("error", [Temporary("421 later"), Uncertain("no answer after the final dot")])
def test_other_trouble_is_the_mail_servers_own(error: Exception) -> None:
    with pytest.raises(type(error), match=str(error)):
        outward.send(outward.Post("a@desk.example", Server(error)), WAY, MESSAGE)


def test_nobody_listens_is_temporary() -> None:
    config = CONFIG.model_copy(update={"smtp": Smtp(out=SmtpOut(host=HOST, port=free_port(), security="none"))})
    with pytest.raises(Temporary):
        outward.send(outward.connect(WAY, config), WAY, MESSAGE)


def test_without_a_mail_server_it_is_refused_for_a_person_to_see() -> None:
    with pytest.raises(Refused, match=r"\[smtp.out\]") as refused:
        outward.send(outward.connect(WAY, CONFIG.model_copy(update={"smtp": Smtp()})), WAY, MESSAGE)
    assert refused.value.why is Refusal.CONFIG


def test_it_sends_one_way() -> None:
    assert (outward.CAPS.two_way, outward.CAPS.receipts) == (False, False)


def test_a_real_server_gets_it_with_the_inbox_as_its_sender(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with gateway(tmp_path, monkeypatch) as rig:
        post = outward.connect(WAY, CONFIG)
        outward.send(post, WAY, MESSAGE)
        assert rig.taken() == [("+447700900999", "+447700900123", "We are on our way.")]
