"""One of us answers by mail (DESIGN.md 5e): with proof it becomes an answer or a note, without proof nothing happens.

The proof is the header that the mail server in front writes. Own DKIM verification needs DNS and is tested elsewhere.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from email.message import EmailMessage
from pathlib import Path
from zlib import crc32

import pytest

from tests.walks.service import Service
from tests.walks.test_smarthost import ANN, FIRST_MAIL, SUPPORT, configured, parsed, reasons, said

ADA, TOM, BOSS = "ada@desk.example", "tom@desk.example", "boss@desk.example"
PASS = "mx.desk.example; dmarc=pass header.from=desk.example"
ANSWER = "Press the red button."


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    """Ada answers, Tom is in the field; Ann's first mail is ticket 1001 and everybody was told."""
    service = configured(
        tmp_path, {"RINGBACK__MAIL__AUTHSERV_ID": "mx.desk.example", "RINGBACK__FIRM__ADMINISTRATOR": BOSS}
    )
    service.command("init")
    service.command("user", "add", ADA, "--name", "Ada Agent")
    service.command("user", "add", TOM, "--name", "Tom Technician", "--role", "technician")
    service.start()
    service.send(FIRST_MAIL, to=SUPPORT)
    yield service
    service.stop()


def letters(service: Service, to: str) -> list[EmailMessage]:
    """The mails "sent" to somebody so far, oldest first."""
    found = [parsed(path.read_bytes()) for path in service.outgoing()]
    return [letter for letter in found if to in str(letter["To"])]


def notice(service: Service, to: str) -> EmailMessage:
    """The notice of Ann's mail."""
    return service.wait_for(lambda: letters(service, to), f"the notice to {to}")[0]


def reply(letter: EmailMessage, sender: str, text: str, results: str = "", *, below_received: bool = False) -> bytes:
    """A reply to a letter, with the header that says who proved what, if anybody did."""
    received = "Received: from mail.elsewhere.example by mail.elsewhere.example; Mon, 23 Nov 2026 09:30:00 +0000\r\n"
    head = f"Authentication-Results: {results}\r\n" if results else ""
    return (
        f"{received if below_received else ''}{head}"
        f"From: Somebody <{sender}>\r\n"
        f"To: {letter['Reply-To']}\r\n"
        "Reply-To: other@elsewhere.example\r\n"
        f"Subject: Re: {letter['Subject']}\r\n"
        f"Message-ID: <{crc32(head.encode())}-{below_received}@somewhere.example>\r\n"
        f"In-Reply-To: {letter['Message-ID']}\r\n"
        f"\r\n{text}\r\n"
    ).encode()


def deliver(service: Service, raw: bytes) -> tuple[str, str]:
    """Sends it to its To address; state and reason in the mailroom, once it is settled."""
    mail = parsed(raw)
    service.send(raw, sender="somebody@somewhere.example", to=mail["To"].addresses[0].addr_spec)
    # The 250 comes after the commit, so the newest row is this one.
    settled = "select state, reason from inbound where id = (select max(id) from inbound) and state <> 'new'"
    ((state, reason),) = service.wait_for(lambda: service.rows(settled), "the reply to be read")
    return str(state), str(reason)


def answers(service: Service) -> list[tuple[str, str, int]]:
    """Recipient, state and seconds held of every answer to the customer."""
    return [
        (str(recipient), str(state), round((not_before - created) / 1_000_000))
        for recipient, state, not_before, created in service.rows(
            "select recipient, state, not_before, created_at from outbox where kind = 'answer' order by id"
        )
    ]


def executed(service: Service) -> int:
    """How many entries of ours there are: answers, notes."""
    return int(service.rows("select count(*) from entry where kind in ('answer', 'note')")[0][0])


# ---------------------------------------------------------------- the tests


def test_an_agents_proved_reply_waits_a_minute_with_an_echo_and_can_be_taken_back(service: Service) -> None:
    told = notice(service, ADA)
    assert said(told).startswith("Reply to answer the customer.")
    assert deliver(service, reply(told, ADA, ANSWER, PASS)) == ("done", "reply-token")
    assert answers(service) == [(ANN, "held", 60)]

    echo = service.wait_for(lambda: letters(service, ADA)[1:], "the echo")[0]
    assert f"Your answer to {ANN} goes out in 60 s" in said(echo)
    assert letters(service, "other@elsewhere.example") == []

    browser = service.signed_in()
    page = browser.get("/tickets/1001")
    assert ANSWER in page
    entry = re.search(r'name="entry" value="(\d+)"><button class="plain">Undo', page)
    assert entry, "the page offers no undo"
    browser.post_form(page, "/tickets/1001/undo", entry=entry[1])
    assert answers(service)[0][1] == "cancelled"
    assert all(ANSWER not in said(letter) for letter in letters(service, ANN))


def test_a_technicians_proved_reply_is_a_note_that_no_customer_sees(service: Service) -> None:
    browser = service.signed_in()
    notice(service, ADA)
    account = service.rows("select id from account where address = ?", TOM)[0][0]
    browser.post_form(browser.get("/tickets/1001"), "/tickets/1001/assign", to=str(account))

    told = notice(service, TOM)
    assert said(told).startswith("Reply to leave an internal note.")
    assert deliver(service, reply(told, TOM, "The gasket is worn.", PASS)) == ("done", "reply-token")
    assert service.rows("select kind, public from entry where reason = 'reply-token'") == [("note", 0)]
    assert answers(service) == []
    echo = service.wait_for(lambda: letters(service, TOM)[1:], "the echo")[0]
    assert "The customer does not see it." in said(echo)
    assert all("gasket" not in said(letter) for letter in letters(service, ANN))


def test_a_reply_without_proof_is_parked_and_one_click_executes_it(service: Service) -> None:
    told = notice(service, ADA)
    assert deliver(service, reply(told, ADA, ANSWER)) == ("parked", "unverified-sender")
    assert executed(service) == 0
    (line,) = json.loads(service.command("parked", "list", "--json").stdout)
    assert (line["state"], line["reason"], line["who"]) == ("parked", "unverified-sender", ADA)

    browser = service.signed_in()
    page = browser.get("/mailroom")
    assert "nothing proves that Ada Agent wrote this" in page
    assert 'name="do" value="release"' in page
    browser.post_form(page, f"/mailroom/{line['id']}", do="release", back="/mailroom")

    service.wait_for(lambda: answers(service) == [(ANN, "held", 60)], "the answer")
    assert executed(service) == 1
    assert json.loads(service.command("parked", "list", "--json").stdout) == []


def test_whoever_was_forwarded_a_notice_and_forges_its_from_gets_nothing_done(service: Service) -> None:
    told = notice(service, ADA)
    forgeries = {
        "no proof at all": ("", False),
        "our server says it is forged": ("mx.desk.example; dmarc=fail header.from=desk.example", False),
        "a proof by another server": ("mx.elsewhere.example; dmarc=pass header.from=desk.example", False),
        "a proof that came with the mail": (PASS, True),
    }
    for why, (results, below_received) in forgeries.items():
        forged = reply(told, ADA, f"Your account is closed, {why}.", results, below_received=below_received)
        assert deliver(service, forged) == ("parked", "unverified-sender"), why
    assert len(json.loads(service.command("parked", "list", "--json").stdout)) == len(forgeries)
    assert executed(service) == 0
    assert answers(service) == []
    assert reasons(service) == [(1001, "new")]
    assert all("account is closed" not in said(letter) for letter in letters(service, ANN))


def test_a_stranger_with_his_own_proof_cannot_use_a_forwarded_notice(service: Service) -> None:
    told = notice(service, ADA)
    own = "mx.desk.example; dmarc=pass header.from=elsewhere.example"
    assert deliver(service, reply(told, "max@elsewhere.example", "Hello!", own)) == ("parked", "unverified-sender")
    assert executed(service) == 0
    assert answers(service) == []
