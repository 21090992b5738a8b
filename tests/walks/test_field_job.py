"""A technician's whole job without a browser: once by SMS alone, once by mail alone; and the customer who is asked which
of his tickets he means. All processes run; texts go by a provider's HTTP interface, mails by SMTP and with proof.
"""

from __future__ import annotations

import email.policy
import re
import struct
import time
import zlib
from collections.abc import Iterator, Mapping
from email.message import EmailMessage
from pathlib import Path

import pytest

from gateway.segments import count
from tests.walks.provider import Phone, Provider, provider
from tests.walks.service import Browser, Service
from tests.walks.test_smarthost import ANN as ANNS_ADDRESS
from tests.walks.test_smarthost import CONFIG, FIRST_MAIL, SUPPORT, parsed, said
from tests.walks.test_sms_first_path import answer, messages, settled
from tests.walks.test_staff_mail import PASS, letters

ANN, TOMS, JOS = "+447700900123", "+447700900234", "+447700900345"
TOM, JO = "tom@desk.example", "jo@desk.example"
HELD = 4  # seconds that what Tom says to the customer waits; "a minute" in the words that he gets
UNDO = " Undo within 10 min: UNDO"
ENVIRONMENT = {"RINGBACK__MAIL__AUTHSERV_ID": "mx.desk.example", "RINGBACK__UNDO__FIELD": str(HELD)}


@pytest.fixture
def carrier() -> Iterator[Provider]:
    with provider() as carrier:
        yield carrier


@pytest.fixture
def service(tmp_path: Path, carrier: Provider) -> Iterator[Service]:
    """The firm ACME with two technicians, Tom and Jo."""
    (tmp_path / "config.toml").write_text(CONFIG + carrier.config("reopen_days = 0"), encoding="utf-8")
    (tmp_path / "config.toml").chmod(0o600)
    carrier.desk = Service(tmp_path, ENVIRONMENT)
    carrier.desk.command("init")
    carrier.desk.command("user", "add", TOM, "--name", "Tom Technician", "--role", "technician")
    carrier.desk.command("user", "add", JO, "--name", "Jo Joiner", "--role", "technician")
    carrier.desk.start()
    yield carrier.desk
    carrier.desk.stop()


def account(service: Service, address: str) -> int:
    return int(service.rows("select id from account where address = ?", address)[0][0])


def enrolled(browser: Browser, service: Service, address: str, phone: Phone) -> Phone:
    """Somebody's phone after its enrolment: its number is typed on the page, a code comes to it, and is texted back."""
    path = "/settings/phones"
    number = str(account(service, address))
    browser.post_form(browser.get(path), f"{path}/enrol", account=number, phone=phone.number)
    code = re.search(r"your code is (\d{6})", phone.hears())
    assert code, "no code came"
    assert "this phone now gives commands" in phone.asks(code[1])
    return phone


def assign(browser: Browser, service: Service, address: str) -> None:
    """Gives ticket 1001 to somebody, on its page."""
    path = "/tickets/1001"
    browser.post_form(browser.get(path), f"{path}/assign", to=str(account(service, address)))


def timeline(service: Service) -> list[str]:
    """What happened on ticket 1001, in words: the reason of each entry."""
    return [reason for (reason,) in service.rows("select reason from entry where ticket = 1001 order by id")]


def status(service: Service) -> str:
    return str(service.rows("select status from ticket where number = 1001")[0][0])


def used_the_web(service: Service, address: str) -> int:
    """How often somebody came to the pages: his sessions, his tries to sign in, the links that were made for him."""
    number = account(service, address)
    counts = service.rows(
        "select (select count(*) from session where account = ?), (select count(*) from login_attempt), "
        "(select count(*) from code where subject in (?, ?))",
        number, str(number), address,
    )  # fmt: skip
    return sum(counts[0])


def one_segment(words: str) -> str:
    """The same words. Raises AssertionError when they cost more than one SMS."""
    assert count(words).segments == 1, words
    return words


def test_a_whole_job_by_sms_alone(service: Service, carrier: Provider) -> None:
    """The photo is missing here: the driver `http` carries none (by mail it is below, by Twilio in `tests/sms`)."""
    ada, ann = service.signed_in(), Phone(carrier, ANN)
    tom = enrolled(ada, service, TOM, Phone(carrier, TOMS))
    jo = enrolled(ada, service, JO, Phone(carrier, JOS))
    ann.asks("The boiler shows F28")
    job = "#1001 The boiler shows F28"
    offer = f"Job {job}. Reply TAKE, DROP, ETA 40m, HERE, NOTE text, DONE text. SHOW 1001 for who and where."

    assign(ada, service, TOM)
    assert one_segment(tom.hears()) == offer
    for text, echo, then in (
        ("ok", f"{job} is yours. ETA, HERE, NOTE, DONE.{UNDO}", "open"),
        ("Eta 40m", rf"{job}: ETA \d\d:\d\d noted.{UNDO}", "open"),
        ("HERE", f"{job}: on site. DONE text when done.{UNDO}", "open"),
        ("note the gasket is worn", f"{job}: note kept.{UNDO}", "open"),
        ("HOLD 2h the part comes by courier", rf"{job} on hold until \w{{3}} \d\d \w{{3}} \d\d:\d\d.{UNDO}", "waiting"),
        ("LIST", rf"1 {job}\. .*", "waiting"),
        ("SHOW", rf"{job}, waiting\. \+447700900123", "waiting"),
        ("AGAIN 1001 fri", f"{job}: second visit asked for.{UNDO}", "open"),
        ("PASS 1001 @jo", f"{job} given to Jo Joiner.{UNDO}", "open"),
    ):
        said_back = one_segment(tom.asks(text))
        assert re.fullmatch(echo, said_back), (text, said_back)
        assert status(service) == then, text

    assert jo.hears() == offer
    assert jo.asks("PASS 1001 @tom") == f"{job} given to Tom Technician.{UNDO}"
    assert tom.hears() == offer
    assert tom.asks("TAKE") == f"{job} is yours. ETA, HERE, NOTE, DONE.{UNDO}"

    assert tom.asks("DONE a new gasket") == f"{job} done.{UNDO}"
    assert one_segment(tom.asks("UNDO")) == f"{job}: DONE taken back."
    time.sleep(HELD + 1)
    settled(service)
    assert (status(service), len(ann.got())) == ("open", 1), "only the acknowledgement"

    assert tom.asks("DONE 1001 a new gasket") == f"{job} done.{UNDO}"
    begun = time.monotonic()
    assert one_segment(ann.hears()) == f"ACME: your request {job} is done. Not so? Just text back."
    assert time.monotonic() - begun > HELD / 2, "it waited"

    assert timeline(service) == [
        "new", "opened", "assigned", "taken", "eta", "arrived", "note", "held", "held", "second-visit", "assigned",
        "assigned", "taken", "closed", "closed", "undone", "closed", "closed",
    ]  # fmt: skip
    page = ada.get("/tickets/1001")
    for words in ("the gasket is worn", "the part comes by courier", "a new gasket", "Tom Technician", "Jo Joiner"):
        assert words in page, words
    assert all("http" not in text.words for text in tom.got()), "nothing leads him to a page"
    assert used_the_web(service, TOM) == 0


# -- by mail -----------------------------------------------------------------------------------------------------


class Mailbox:
    """Somebody's mailbox: he answers the letter that he read last, with the proof of the mail server in front."""

    def __init__(self, service: Service, address: str) -> None:
        self.service, self.address = service, address
        self.read: dict[Path, EmailMessage] = {}

    def hears(self) -> EmailMessage:
        """The next letter that comes."""
        path, letter = self.service.wait_for(self.unread, f"a letter to {self.address}", 15)[0]
        self.read[path] = letter
        return letter

    def unread(self) -> list[tuple[Path, EmailMessage]]:
        """What he has not read yet, oldest first."""
        fresh = [(path, parsed(path.read_bytes())) for path in self.service.outgoing() if path not in self.read]
        return [(path, letter) for path, letter in fresh if self.address in str(letter["To"])]

    def replies(self, text: str, files: Mapping[str, bytes] | None = None) -> None:
        """Answers the letter that he read last."""
        letter = list(self.read.values())[-1]
        made = EmailMessage()
        made["Authentication-Results"] = PASS
        made["From"] = self.address
        made["To"] = str(letter["Reply-To"] or letter["From"])
        made["Subject"] = f"Re: {letter['Subject']}"
        made["Message-ID"] = f"<{len(self.read)}-{zlib.crc32(text.encode())}@desk.example>"
        made["In-Reply-To"] = str(letter["Message-ID"])
        made.set_content(text)
        for name, content in (files or {}).items():
            made.add_attachment(content, maintype="image", subtype="png", filename=name)
        to = made["To"].addresses[0].addr_spec
        self.service.send(made.as_bytes(policy=email.policy.SMTP), sender=self.address, to=to)

    def asks(self, text: str, files: Mapping[str, bytes] | None = None) -> str:
        """Answers; what the next letter says."""
        self.replies(text, files)
        return said(self.hears())


def picture() -> bytes:
    """A PNG of one grey point (PNG 3rd edition, 5)."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 1, 1, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0\x80")) + chunk(b"IEND", b"")


def test_a_whole_job_by_mail_alone(service: Service) -> None:
    ada = service.signed_in()
    tom, jo = Mailbox(service, TOM), Mailbox(service, JO)
    service.send(FIRST_MAIL, to=SUPPORT)
    service.wait_for(lambda: letters(service, ANNS_ADDRESS), "the acknowledgement")

    assign(ada, service, TOM)
    print(said(tom.hears()))
    for text in ("ok", "eta 40m", "here", "note: the gasket is worn", "hold 2h", "list", "show 1001", "again fri", "pass @jo"):
        print("====", text, "->", tom.asks(text, {"gasket.png": picture()} if text.startswith("note") else None), status(service))
    print(said(jo.hears()))
    print(jo.asks("pass @tom"))
    print(said(tom.hears()))
    print(tom.asks("take"))
    print(tom.asks("done: a new gasket"))
    print(tom.asks("undo"))
    time.sleep(HELD + 1)
    print(len(letters(service, ANNS_ADDRESS)))
    print(tom.asks("done 1001\n\na new gasket"))
    service.wait_for(lambda: letters(service, ANNS_ADDRESS)[1:], "the letter to ann")
    print(said(letters(service, ANNS_ADDRESS)[1]))
    print(timeline(service))
    print(used_the_web(service, TOM))
    assert 0


# -- which of his tickets? ---------------------------------------------------------------------------------------


def test_a_customer_with_two_tickets_is_asked_and_his_text_waits_in_sight(service: Service, carrier: Provider) -> None:
    ada, ann = service.signed_in(), Phone(carrier, ANN)
    ann.asks("The boiler shows F28")
    ada.post_form(ada.get("/tickets/1001"), "/tickets/1001/close", reason="solved")
    assert ann.asks("status") == "ACME: you have no open request. Text us to make one."
    ann.texts("No hot water upstairs")
    service.wait_for(lambda: len(messages(service)) == 2, "the second ticket")
    ada.post_form(ada.get("/tickets/1001"), "/tickets/1001/reopen")
    answer(ada, 1002, "Is the tank cold, too?")
    assert ann.hears() == "Is the tank cold, too?"
    open_now = "#1002 No hot water upstairs: waiting; #1001 The boiler shows F28: we are on it"
    assert ann.asks("STATUS") == f"ACME: {open_now}"

    menu = "is this about 1 #1002 No hot water upstairs, 2 #1001 The boiler shows F28, or 3 something new? Reply 1, 2 or 3"
    assert one_segment(ann.asks("It started again this morning")) == f"ACME: {menu}"
    assert messages(service) == [(1001, "new"), (1002, "new")], "it is on no ticket yet"
    assert "1 message needs sorting" in re.sub(r"<[^>]+>", "", ada.get("/"))
    waiting = ada.get("/mailroom?state=sorting")
    assert "It started again this morning" in waiting
    assert "may be about more than one ticket" in waiting

    ann.texts("2")
    service.wait_for(lambda: len(messages(service)) == 3, "the third message")
    assert messages(service)[-1] == (1001, "menu")
    assert "It started again this morning" in ada.get("/tickets/1001")
    assert "needs sorting" not in re.sub(r"<[^>]+>", "", ada.get("/"))
    settled(service)
    assert len(ann.got()) == 5, "nobody answers the digit"
