"""A real Postfix stands in front, as in most installations: what it brings in, what it takes back, what it reports."""

from __future__ import annotations

import smtplib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from email.message import EmailMessage
from pathlib import Path

from tests import loopback
from tests.walks.service import Service
from tests.walks.test_smarthost import (
    ADA,
    ANN,
    FIRST_MAIL,
    SUPPORT,
    answer,
    configured,
    outbox,
    parsed,
    reasons,
    reply,
    said,
)

GONE = "gone@nowhere.example"


@contextmanager
def behind_postfix(folder: Path, more: Mapping[str, str] | None = None) -> Iterator[tuple[Service, loopback.Mta]]:
    """A Ringback that gets its mail from Postfix and sends through the same one.

    Everybody's mail but ours and that of `nowhere.example` ends in Postfix's own mailbox.
    """
    service = configured(folder, more)
    ways = {
        "desk.example": f"smtp:[127.0.0.1]:{service.smtp_port}",
        "nowhere.example": "error:5.1.1 no such mailbox",
    }
    with loopback.postfix("virtual", ways) as mta:
        service.environment |= {
            "RINGBACK__SMTP__OUT__HOST": mta.host,
            "RINGBACK__SMTP__OUT__PORT": str(mta.port),
            "RINGBACK__SMTP__OUT__SECURITY": "none",
        }
        service.start()
        try:
            yield service, mta
        finally:
            service.stop()


def deliver(mta: loopback.Mta, mail: bytes | EmailMessage, to: str, sender: str = ANN) -> None:
    """As another mail server would: to the MX of desk.example."""
    raw = mail if isinstance(mail, bytes) else mail.as_bytes()
    with smtplib.SMTP(mta.host, mta.port, timeout=30) as client:
        client.sendmail(sender, [to], raw)


def letters(service: Service, mta: loopback.Mta, to: str, words: str) -> list[EmailMessage]:
    """The mails with these words that Postfix has delivered to somebody, once there is one."""

    def found() -> list[EmailMessage]:
        delivered = [parsed(raw) for raw in mta.mails()]
        return [mail for mail in delivered if to in str(mail["Delivered-To"]) and words in " ".join(said(mail).split())]

    return service.wait_for(found, f"a mail to {to} that says {words!r}", seconds=30)


# ---------------------------------------------------------------- the tests


def test_a_signed_reply_address_survives_the_mail_server_in_front(tmp_path: Path) -> None:
    with behind_postfix(tmp_path) as (service, mta):
        deliver(mta, FIRST_MAIL, SUPPORT)
        acknowledgement = letters(service, mta, ANN, "Its number is #1001")[0]

        address = acknowledgement["Reply-To"].addresses[0].addr_spec
        assert address.startswith("support+c")
        deliver(mta, reply(acknowledgement, "Still cold.", "second@hillcrest.example"), address)
        service.wait_for(lambda: len(reasons(service)) == 2, "the reply")
        assert reasons(service) == [(1001, "new"), (1001, "reply-token")]


def test_mail_to_an_unknown_recipient_is_sent_back_by_the_mail_server_in_front(tmp_path: Path) -> None:
    with behind_postfix(tmp_path) as (service, mta):
        deliver(mta, FIRST_MAIL, "nobody@desk.example")
        bounce = letters(service, mta, ANN, "550 5.1.1 No such mailbox here")[0]
        assert "Undelivered" in bounce["Subject"]
        assert service.rows("select count(*) from inbound") == [(0,)]


def test_a_mail_that_we_could_not_keep_comes_again_and_becomes_one_ticket(tmp_path: Path) -> None:
    fails_once = {
        "RINGBACK_FAILPOINT": "accept.written:1:raise",
        "RINGBACK_FAILPOINT_ONCE": str(tmp_path / "failed"),
    }
    with behind_postfix(tmp_path, fails_once) as (service, mta):
        deliver(mta, FIRST_MAIL, SUPPORT)
        letters(service, mta, ANN, "Its number is #1001")
        log = mta.log.read_text()
        assert "451 4.3.0 Please try again later" in log
        assert "fail point" not in log  # our own trouble stays our own
        assert service.rows("select number from ticket") == [(1001,)]
        assert service.rows("select count(*) from inbound") == [(1,)]
        assert reasons(service) == [(1001, "new")]


def test_an_answer_that_comes_back_reopens_its_ticket_and_tells_the_agent(tmp_path: Path) -> None:
    with behind_postfix(tmp_path, {"RINGBACK__MAIL__ACKNOWLEDGE": "false"}) as (service, mta):
        deliver(mta, FIRST_MAIL.replace(ANN.encode(), GONE.encode()), SUPPORT)
        service.wait_for(lambda: reasons(service), "the ticket")
        browser = service.signed_in()
        answer(browser, 1001, "Press the red button.")

        reopened = "select count(*) from ticket where status = 'open'"
        service.wait_for(lambda: service.rows(reopened) == [(1,)], "the bounce", seconds=30)

        id, state, _, result = outbox(service, "answer")
        assert state == "dead"
        assert "5.1.1" in result
        (envelope,) = [row[0] for row in service.rows("select envelope_sender from outbox where id = ?", id)]
        assert envelope.startswith("support+b")
        assert f'"{envelope}"' in service.rows("select envelope from inbound order by id desc limit 1")[0][0]
        assert service.rows("select ticket, reason from entry where kind = 'automatic'") == [(1001, "bounce-hard")]
        assert service.rows("select bounced from address where value = ?", GONE) == [(1,)]
        letters(service, mta, ADA, "no such mailbox")
        assert f"out-{id}" in service.command("parked", "list").stdout.decode()
        assert "5.1.1" in browser.get("/tickets/1001")
        # Nobody answers a machine: nothing more went out than the answer and two notices to the agent.
        kinds = service.rows("select kind, count(*) from outbox group by kind order by kind")
        assert kinds == [("answer", 1), ("notice", 2)]
