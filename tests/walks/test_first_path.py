"""The thinnest whole path: a mail comes in, a ticket lives, an answer goes out, and comes back to the same ticket."""

from __future__ import annotations

import email
import email.policy
import email.utils
import json
from collections.abc import Iterator
from email.message import EmailMessage
from pathlib import Path

import pytest

from tests.walks.service import SHARED, Service

OWN_MAIL = b"""From: Ann Hill <ann@hillcrest.example>\r
To: support@ringback.localhost\r
Subject: No heat in flat 7\r
Message-ID: <first@hillcrest.example>\r
Date: Mon, 23 Nov 2026 09:00:00 +0000\r
\r
The boiler shows F28.\r
"""


def real_mail() -> bytes:
    """A real mail of the data sets where they are, else one of our own; the run says which."""
    path = SHARED / "data/mail/stalwart/raw/legacy_002.eml"
    if not path.exists():
        print("../shared is not there: the first path runs on a mail of our own")
        return OWN_MAIL
    return path.read_bytes().replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    service = Service(tmp_path)
    yield service
    service.stop()


def reply_to(sent: Path, text: str, sender: str) -> bytes:
    """What a customer's mail program makes of our mail when he answers it."""
    ours = email.message_from_bytes(sent.read_bytes(), policy=email.policy.default)
    reply = EmailMessage()
    reply["From"] = sender
    reply["To"] = ours["Reply-To"] or ours["From"]
    reply["Subject"] = f"Re: {ours['Subject']}"
    reply["Message-ID"] = "<second@customer.example>"
    reply["In-Reply-To"] = ours["Message-ID"]
    reply["References"] = f"{ours['References'] or ''} {ours['Message-ID']}".strip()
    reply.set_content(text)
    return reply.as_bytes(policy=email.policy.SMTP)


def sent_to(service: Service, recipient: str) -> list[Path]:
    return [p for p in service.outgoing() if recipient in str(email.message_from_bytes(p.read_bytes())["To"])]


def test_a_mail_becomes_a_ticket_and_its_answer_comes_back_to_it(service: Service) -> None:
    raw = real_mail()
    customer = email.utils.parseaddr(email.message_from_bytes(raw)["From"])[1].lower()
    service.start()

    service.send(raw, sender=customer)
    ticket = service.wait_for(lambda: service.rows("select number, requester_address from ticket"), "the ticket")
    assert ticket == [(1001, customer)]
    assert service.rows("select reason from entry where ticket = 1001 and kind = 'message'") == [("new",)]

    acknowledgement = service.wait_for(lambda: sent_to(service, customer), "the acknowledgement's file")[0]
    assert b"#1001" in acknowledgement.read_bytes()

    reply = reply_to(acknowledgement, "It still shows F28.", customer)
    address = email.utils.parseaddr(email.message_from_bytes(reply)["To"])[1]
    service.send(reply, sender=customer, to=address)
    service.wait_for(
        lambda: len(service.rows("select id from entry where ticket = 1001 and kind = 'message'")) == 2, "the reply"
    )
    assert service.rows("select number from ticket") == [(1001,)]
    newest = "select reason from entry where kind = 'message' order by id desc limit 1"
    assert service.rows(newest) == [("reply-token",)]

    page = service.signed_in().get("/tickets/1001")
    assert "It still shows F28." in page
    assert "reply-token" in page


# Each place between two arrows of the path, and what must hold after a kill there and a restart.
ARROWS = (
    "accept.before",
    "accept.written",
    "accept.committed",
    "process.before",
    "process.decided",
    "process.applied",
    "process.written",
    "process.committed",
    "delivery.claimed",
    "delivery.rendered",
    "delivery.sent",
)


def sent_with_resends(service: Service) -> bool:
    """A client without its 250 sends again later, as RFC 5321 wants."""
    try:
        service.send(OWN_MAIL)
    except OSError:
        return False
    return True


@pytest.mark.parametrize("arrow", ARROWS)
def test_kill_9_between_two_arrows_loses_nothing(arrow: str, tmp_path: Path) -> None:
    service = Service(
        tmp_path,
        {"RINGBACK_FAILPOINT": f"{arrow}:1:kill", "RINGBACK_FAILPOINT_ONCE": str(tmp_path / "killed")},
    )
    service.start()
    try:
        service.wait_for(lambda: sent_with_resends(service), "the 250")
        service.wait_for(lambda: (tmp_path / "killed").exists(), f"the kill at {arrow}")
        service.wait_for(lambda: sent_to(service, "ann@hillcrest.example"), "the acknowledgement", seconds=10)
        assert service.rows("select number from ticket") == [(1001,)]
        assert service.rows("select count(*) from entry where kind = 'message'") == [(1,)]
        service.wait_for(
            lambda: service.rows("select count(*) from outbox where state in ('ready', 'sending')") == [(0,)],
            "the outbox to drain",
        )
        acknowledgements = sent_to(service, "ann@hillcrest.example")
        assert len({email.message_from_bytes(p.read_bytes())["Message-ID"] for p in acknowledgements}) == 1
        audit = service.command("check", "--audit", "--json")
        assert json.loads(audit.stdout)["problems"] == []
    finally:
        service.stop()
