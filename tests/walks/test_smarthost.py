"""An answer's whole way out: written on the page, taken by a smarthost, read in the customer's mailbox, and back.

The smarthost is a real Postfix that wants STARTTLS and a login (Dovecot's SASL); the mailbox is a real Dovecot.
"""

from __future__ import annotations

import email
import email.policy
import re
import secrets
import smtplib
import ssl
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import EmailMessage
from pathlib import Path

import imapclient

from tests import loopback
from tests.walks.service import Browser, Service

ANN, ADA, SUPPORT = "ann@hillcrest.example", "ada@staff.example", "support@desk.example"
PASSWORD = "open-sesame"
FIRST_MAIL = f"""From: Ann Hill <{ANN}>\r
To: {SUPPORT}\r
Subject: No heat in flat 7\r
Message-ID: <first@hillcrest.example>\r
Date: Mon, 23 Nov 2026 09:00:00 +0000\r
\r
The boiler shows F28.\r
""".encode()
CONFIG = f"""
[firm]
name = "ACME"
administrator = "{ADA}"
[mail]
domain = "desk.example"
[[inboxes]]
address = "{SUPPORT}"
name = "Support"
signature = \"\"\"
Your ACME team
555 0100\"\"\"
[undo]
mail = 0
"""
PLAN = ("Plan für Flat 7.pdf", b"%PDF-1.7\n" + bytes(range(256)) * 300)


def configured(folder: Path, environment: Mapping[str, str] | None = None) -> Service:
    """A service of the firm ACME; nothing is started."""
    (folder / "config.toml").write_text(CONFIG, encoding="utf-8")
    return Service(folder, environment)


@dataclass(frozen=True)
class Site:
    """A running Ringback, its smarthost, and the customer's mailbox."""

    service: Service
    mta: loopback.Mta
    mailbox: loopback.Mailbox

    def letters(self) -> list[EmailMessage]:
        """What lies in the customer's mailbox, oldest first, read over IMAP with TLS."""
        trust = ssl.create_default_context(cafile=self.mailbox.ca)
        with imapclient.IMAPClient(self.mailbox.host, self.mailbox.imaps_port, ssl_context=trust) as client:
            client.login(self.mailbox.user, self.mailbox.password)
            client.select_folder("INBOX")
            fetched = client.fetch(client.search(), ["BODY.PEEK[]"])
            return [parsed(fetched[uid][b"BODY[]"]) for uid in sorted(fetched)]

    def letter_saying(self, words: str) -> EmailMessage:
        """The first mail in the customer's mailbox with these words, once it is there."""

        def found() -> list[EmailMessage]:
            return [letter for letter in self.letters() if words in said(letter)]

        return self.service.wait_for(found, f"a mail that says {words!r}")[0]

    def customer_sends(self, message: EmailMessage) -> None:
        """Through the customer's own mail server, with login and TLS."""
        with smtplib.SMTP(self.mta.host, self.mta.port, timeout=30) as client:
            client.starttls(context=ssl.create_default_context(cafile=self.mta.ca))
            client.login(self.mailbox.user, self.mailbox.password)
            client.send_message(message)


@contextmanager
def mail_site(folder: Path, password: str = PASSWORD, refused: Path | None = None) -> Iterator[Site]:
    """Everything started. `refused`: a file of addresses that the smarthost knows not (access(5))."""
    service = configured(folder)
    settings = {"smtpd_sasl_mechanism_filter": "plain"}  # Dovecot lets whoever fails wait longer each time
    if refused:
        settings["smtpd_recipient_restrictions"] = (
            f"check_recipient_access texthash:{refused}, permit_sasl_authenticated, reject"
        )
        # After a refusal it hangs up, and the next one who answers has read the table anew.
        settings |= {"smtpd_hard_error_limit": "1", "max_use": "1"}
    ways = {"desk.example": f"smtp:[127.0.0.1]:{service.smtp_port}", "staff.example": "virtual"}
    with (
        loopback.dovecot(ANN, PASSWORD) as mailbox,
        loopback.postfix(mailbox.transport, ways, sasl=mailbox, settings=settings) as mta,
    ):
        service.environment |= {
            "RINGBACK__SMTP__OUT__HOST": mta.host,
            "RINGBACK__SMTP__OUT__PORT": str(mta.port),
            "RINGBACK__SMTP__OUT__USER": mailbox.user,
            "RINGBACK__SMTP__OUT__PASSWORD": password,
            "RINGBACK__SMTP__OUT__CA_FILE": str(mta.ca),
        }
        service.start()
        try:
            yield Site(service, mta, mailbox)
        finally:
            service.stop()


def parsed(raw: bytes) -> EmailMessage:
    """A mail as the standard library's own policy understands it."""
    return email.message_from_bytes(raw, policy=email.policy.default)


def said(letter: EmailMessage) -> str:
    """The plain text of a mail."""
    body = letter.get_body(("plain",))
    return str(body.get_content()).replace("\r\n", "\n") if body else ""


def answer(browser: Browser, ticket: int, text: str, files: Mapping[str, bytes] | None = None) -> str:
    """Fills in the ticket's form and presses "Send and wait", as a browser without JavaScript does (RFC 7578)."""
    page = browser.get(f"/tickets/{ticket}")
    form = page[page.index(f'action="/tickets/{ticket}/answer"') :]
    hidden = {name: field(form, name) for name in ("csrf_token", "nonce", "seen")}
    boundary = secrets.token_hex(16)
    parts = [
        f'Content-Disposition: form-data; name="{name}"\r\n\r\n{value}'.encode()
        for name, value in {**hidden, "by": "answer", "text": text.replace("\n", "\r\n"), "do": "wait"}.items()
    ]
    head = 'Content-Disposition: form-data; name="files"; filename="{}"\r\nContent-Type: application/pdf\r\n\r\n'
    parts += [head.format(name).encode() + content for name, content in (files or {"": b""}).items()]
    line = f"--{boundary}".encode()
    body = b"".join(line + b"\r\n" + part + b"\r\n" for part in parts) + line + b"--\r\n"
    request = urllib.request.Request(
        f"{browser.base}/tickets/{ticket}/answer",
        data=body,
        headers={"Content-Type": f"multipart/form-data; boundary={boundary}"},
    )
    with browser._opener.open(request, timeout=30) as response:
        return str(response.read().decode())


def field(form: str, name: str) -> str:
    """The value of a hidden field."""
    found = re.search(rf'name="{name}"[^>]*value="([^"]*)"', form)
    assert found, f"the form has no {name}"
    return found[1]


def reply(letter: EmailMessage, text: str, message_id: str, to: str = "") -> EmailMessage:
    """What a customer's mail program makes of a letter: Reply-To before From, threaded by its ids."""
    made = EmailMessage()
    made["From"] = f"Ann Hill <{ANN}>"
    made["To"] = to or str(letter["Reply-To"])
    made["Subject"] = f"Re: {letter['Subject']}"
    made["Message-ID"] = f"<{message_id}>"
    made["In-Reply-To"] = str(letter["Message-ID"])
    made["References"] = f"{letter['References']} {letter['Message-ID']}"
    made.set_content(text)
    return made


def outbox(service: Service, kind: str) -> tuple[int, str, int, str]:
    """Id, state, attempts and result of the one outbox row of a kind; zeros before it is there."""
    found = service.rows("select id, state, attempts, result from outbox where kind = ?", kind)
    if not found:
        return 0, "", 0, ""
    (id, state, attempts, result) = found[0]
    return int(id), str(state), int(attempts), str(result)


def reasons(service: Service) -> list[tuple[int, str]]:
    """Ticket and reason of every message from outside."""
    return [(n, r) for n, r in service.rows("select ticket, reason from entry where kind = 'message' order by id")]


# ---------------------------------------------------------------- the tests


def test_an_answer_written_on_the_page_reaches_the_customers_mailbox_threaded(tmp_path: Path) -> None:
    with mail_site(tmp_path) as site:
        site.service.send(FIRST_MAIL, to=SUPPORT)
        acknowledgement = site.letter_saying("Its number is #1001")

        answer(site.service.signed_in(), 1001, "Press the red button.\n\n.\nThen wait – 5 minutes.", dict([PLAN]))
        letter = site.letter_saying("Press the red button.")

        assert str(letter["From"]) == f'"Administrator (ACME Support)" <{SUPPORT}>'
        assert letter["To"].addresses[0].addr_spec == ANN
        assert letter["Subject"] == "Re: No heat in flat 7 [ACME #1001]"
        assert letter["In-Reply-To"] == "<first@hillcrest.example>"
        assert str(letter["References"]).split()[0] == "<first@hillcrest.example>"
        assert str(acknowledgement["Message-ID"]) in str(letter["References"])
        assert re.fullmatch(r"<m[a-z]\.1001\.\S+@desk\.example>", str(letter["Message-ID"]))
        assert re.fullmatch(r"support\+c[a-z]\.1001\.\S+@desk\.example", str(letter["Reply-To"]))
        assert re.fullmatch(r"<support\+b[a-z]\.1001\.\S+@desk\.example>", str(letter["Return-Path"]))
        assert letter["Auto-Submitted"] is None
        written = "Press the red button.\n\n.\nThen wait – 5 minutes."
        assert said(letter).startswith(f"{written}\n\n-- \nYour ACME team\n555 0100\n")
        assert "> The boiler shows F28." in said(letter)
        assert [(part.get_filename(), part.get_content()) for part in letter.iter_attachments()] == [PLAN]

        site.service.wait_for(lambda: outbox(site.service, "answer")[1] == "sent", "the row to be recorded")
        assert "queued as" in outbox(site.service, "answer")[3]
        assert site.service.outgoing() == []


def test_the_customers_reply_comes_back_to_the_ticket_by_address_or_by_message_id(tmp_path: Path) -> None:
    with mail_site(tmp_path) as site:
        site.service.send(FIRST_MAIL, to=SUPPORT)
        site.service.wait_for(lambda: reasons(site.service), "the ticket")
        answer(site.service.signed_in(), 1001, "Press the red button.")
        letter = site.letter_saying("Press the red button.")

        site.customer_sends(reply(letter, "Pressed. Still cold.", "second@hillcrest.example"))
        site.service.wait_for(lambda: len(reasons(site.service)) == 2, "the reply")
        site.customer_sends(reply(letter, "Now it is warm.", "third@hillcrest.example", to=SUPPORT))
        site.service.wait_for(lambda: len(reasons(site.service)) == 3, "the reply without our reply address")

        assert reasons(site.service) == [(1001, "new"), (1001, "reply-token"), (1001, "message-id")]
        texts = [text for (text,) in site.service.rows("select text from body join entry on id = entry order by entry")]
        assert "Pressed. Still cold." in texts
        assert "Now it is warm." in texts


def test_a_wrong_password_leaves_the_answer_waiting_and_the_page_shows_the_servers_words(tmp_path: Path) -> None:
    with mail_site(tmp_path, password="wrong") as site:
        site.service.send(FIRST_MAIL, to=SUPPORT)
        site.service.wait_for(lambda: reasons(site.service), "the ticket")
        browser = site.service.signed_in()
        answer(browser, 1001, "Press the red button.")
        # The acknowledgement stands before it in the same lane, and was refused first.
        site.service.wait_for(lambda: outbox(site.service, "acknowledgement")[2], "a try")
        site.service.wait_for(lambda: outbox(site.service, "acknowledgement")[1] == "ready", "the refusal")

        _, state, _, result = outbox(site.service, "acknowledgement")
        assert state == "ready"
        assert "535 5.7.8" in result
        assert "535 5.7.8" in browser.get("/tickets/1001")
        assert outbox(site.service, "answer")[1] in ("held", "ready")
        assert site.letters() == []
        assert b"none" in site.service.command("parked", "list").stdout  # it goes by itself, nobody has to look


def test_a_refused_recipient_is_dead_shows_in_the_mailroom_and_goes_when_it_is_tried_again(tmp_path: Path) -> None:
    refused = tmp_path / "refused"
    refused.write_text(f"{ANN} 550 5.1.1 No such mailbox\n")
    with mail_site(tmp_path, refused=refused) as site:
        site.service.send(FIRST_MAIL, to=SUPPORT)
        site.service.wait_for(lambda: outbox(site.service, "acknowledgement")[1] == "dead", "the refusal")
        id, _, _, result = outbox(site.service, "acknowledgement")
        assert "550 5.1.1" in result

        browser = site.service.signed_in()
        mailroom = browser.get("/mailroom")
        assert f"to {ANN}" in mailroom
        assert "No such mailbox" in mailroom
        assert "No such mailbox" in browser.get("/tickets/1001")
        assert f"out-{id}" in site.service.command("parked", "list").stdout.decode()

        refused.write_text("nobody@hillcrest.example 550 5.1.1 No such mailbox\n")
        assert b"tried again" in site.service.command("parked", "retry", f"out-{id}").stdout
        site.letter_saying("Its number is #1001")
        site.service.wait_for(lambda: outbox(site.service, "acknowledgement")[1] == "sent", "the row to be recorded")
        assert b"none" in site.service.command("parked", "list").stdout


def test_without_a_mail_server_the_page_says_not_sent_and_shows_the_mail(tmp_path: Path) -> None:
    service = configured(tmp_path)
    service.start()
    try:
        service.send(FIRST_MAIL, to=SUPPORT)
        service.wait_for(lambda: reasons(service), "the ticket")
        browser = service.signed_in()
        answer(browser, 1001, "Press the red button.")
        service.wait_for(lambda: outbox(service, "answer")[1] == "sent", "the file")

        page = browser.get("/tickets/1001")
        assert "not sent: no mail server configured" in page.lower()
        link = f"/outbox/{outbox(service, 'answer')[0]}"
        assert f'href="{link}"' in page
        shown = browser.get(link)
        assert "Press the red button." in shown
        files = [path.read_text() for path in service.outgoing()]
        assert shown.replace("\r\n", "\n") in files
        assert "no mail server configured" in browser.get("/").lower()  # the banner stands on every page
    finally:
        service.stop()
