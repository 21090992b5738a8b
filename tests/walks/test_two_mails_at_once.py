"""Mails that arrive in the same instant: the same one twice, the same one for two inboxes, fifty different ones."""

from __future__ import annotations

import smtplib
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.walks.service import Service
from tests.walks.test_smarthost import CONFIG, FIRST_MAIL, SUPPORT, configured, reasons

SALES = "sales@desk.example"


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    """Running, with two inboxes, and open to many connections from one address."""
    service = configured(tmp_path, {"RINGBACK__SMTP__IN__MAX_CONNECTIONS_PER_ADDRESS": "100"})
    inbox = f'[[inboxes]]\naddress = "{SALES}"\nname = "Sales"\n'
    (tmp_path / "config.toml").write_text(CONFIG + inbox, encoding="utf-8")
    service.start()
    yield service
    service.stop()


def all_at_once(service: Service, deliveries: Sequence[tuple[bytes, str]]) -> list[int]:
    """One connection for each (mail, recipient), up to the final dot; then all dots together. The answers' codes."""
    together = threading.Barrier(len(deliveries))

    def deliver(raw: bytes, recipient: str) -> int:
        with smtplib.SMTP("127.0.0.1", service.smtp_port, timeout=30) as client:
            client.ehlo("test.example")
            client.mail("ann@hillcrest.example")
            client.rcpt(recipient)
            assert client.docmd("DATA")[0] == 354
            client.send(raw)
            together.wait(timeout=60)
            client.send(b".\r\n")
            return client.getreply()[0]

    with ThreadPoolExecutor(len(deliveries)) as pool:
        return list(pool.map(lambda delivery: deliver(*delivery), deliveries))


def settled(service: Service, count: int) -> None:
    """Waits until so many messages are decided on."""
    decided = "select count(*) from inbound where state <> 'new'"
    service.wait_for(lambda: service.rows(decided) == [(count,)], f"{count} messages", seconds=30)


# ---------------------------------------------------------------- the tests


def test_the_same_mail_twice_in_the_same_instant_is_one_entry(service: Service) -> None:
    assert all_at_once(service, [(FIRST_MAIL, SUPPORT)] * 2) == [250, 250]
    settled(service, 1)
    assert reasons(service) == [(1001, "new")]
    assert service.rows("select count(*) from outbox where kind = 'acknowledgement'") == [(1,)]


def test_the_same_mail_to_two_of_our_inboxes_in_the_same_instant_is_one_entry(service: Service) -> None:
    assert all_at_once(service, [(FIRST_MAIL, SUPPORT), (FIRST_MAIL, SALES)]) == [250, 250]
    settled(service, 2)
    assert reasons(service) == [(1001, "new")]
    assert sorted(service.rows("select state, ticket from inbound")) == [("done", 1001), ("duplicate", 1001)]
    assert service.rows("select count(*) from outbox where kind = 'acknowledgement'") == [(1,)]


def test_one_mail_with_two_of_our_inboxes_as_recipients_is_one_entry(service: Service) -> None:
    with smtplib.SMTP("127.0.0.1", service.smtp_port, timeout=30) as client:
        client.sendmail("ann@hillcrest.example", [SUPPORT, SALES], FIRST_MAIL)
    settled(service, 1)
    assert reasons(service) == [(1001, "new")]


def test_fifty_mails_in_the_same_instant_are_fifty_tickets(service: Service) -> None:
    mails = [FIRST_MAIL.replace(b"first@", b"n%d@" % n).replace(b"ann@", b"guest%d@" % n) for n in range(50)]
    assert all_at_once(service, [(mail, SUPPORT) for mail in mails]) == [250] * 50
    settled(service, 50)
    assert sorted(reasons(service)) == [(number, "new") for number in range(1001, 1051)]
    people = {address for (address,) in service.rows("select requester_address from ticket")}
    assert people == {f"guest{n}@hillcrest.example" for n in range(50)}
    acknowledged = "select count(distinct recipient), count(*) from outbox where kind = 'acknowledgement'"
    assert service.rows(acknowledged) == [(50, 50)]
