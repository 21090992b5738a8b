"""A technician's whole job without a browser: once by SMS alone, once by mail alone, and his photo by MMS; and the
customer who is asked which of his tickets he means.

All processes run; texts go by a provider's HTTP interface, or Twilio's, mails by SMTP and with proof.
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
import requests

from gateway.segments import count
from tests.loopback import HOST
from tests.sms import twilio_double
from tests.sms.contract import PICTURE, THEIRS
from tests.sms.twilio_double import Double
from tests.walks.provider import OURS, Phone, Provider, provider, twilio
from tests.walks.service import Browser, Service
from tests.walks.test_smarthost import ANN as ANNS_ADDRESS
from tests.walks.test_smarthost import CONFIG, FIRST_MAIL, SUPPORT, parsed, said
from tests.walks.test_sms_first_path import answer, messages, settled
from tests.walks.test_staff_mail import PASS, letters

ANN, TOMS, JOS = "+447700900123", "+447700900234", "+447700900345"
TOM, JO = "tom@desk.example", "jo@desk.example"
HELD = 6  # seconds that what Tom says to the customer waits; "a minute" in the words that he gets
UNDO = " Undo within 10 min: UNDO"
MOMENT = r"\w{3} \d\d \w{3} \d\d:\d\d"
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


def waited(service: Service) -> float:
    """Seconds between Tom's DONE and what the customer was told."""
    gone = "select (done_at - created_at) / 1e6 from outbox where kind = 'closing' and state = 'sent'"
    return float(service.wait_for(lambda: service.rows(gone), "what the customer is told")[0][0])


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
    """Only his photo comes by another way, below: the driver `http` carries none."""
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
        ("HOLD 2h the part comes by courier", f"{job} on hold until {MOMENT}.{UNDO}", "waiting"),
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
    assert one_segment(ann.hears()) == f"ACME: your request {job} is done. Not so? Just text back."
    assert waited(service) >= HELD

    assert timeline(service) == [
        "new", "opened", "assigned", "taken", "eta", "arrived", "note", "held", "held", "second-visit", "assigned",
        "assigned", "taken", "closed", "closed", "undone", "closed", "closed",
    ]  # fmt: skip
    page = ada.get("/tickets/1001")
    for words in ("the gasket is worn", "the part comes by courier", "a new gasket", "Tom Technician", "Jo Joiner"):
        assert words in page, words
    assert all("http" not in text.words for text in tom.got()), "nothing leads him to a page"
    assert used_the_web(service, TOM) == 0


# -- a photo by MMS ----------------------------------------------------------------------------------------------


def writes(service: Service, double: Double, text: str, pictures: int = 0) -> None:
    """A text, or an MMS, comes to Twilio from THEIRS, which asks our webhook."""
    form = twilio_double.message_form(double.received(text, pictures=pictures))
    hook = twilio_double.signed(f"http://{HOST}:{service.web_port}/hooks/twilio/sms", form)
    answer = requests.post(hook.public_url, hook.body, headers=dict(hook.headers), timeout=30)
    assert (answer.status_code, answer.text) == (200, "<Response/>")


def hears(service: Service, double: Double, words: str) -> str:
    """The newest SMS that left by Twilio with these words, once there is one."""

    def found() -> list[str]:
        return [one.text for one in double.messages if one.direction == "outbound-api" and words in one.text]

    return service.wait_for(found, f"an SMS that says {words!r}")[-1]


def test_a_photo_by_mms_comes_to_the_job_and_its_echo_goes_back_by_twilio(tmp_path: Path) -> None:
    double = Double()
    account_there = f'account_sid = "{twilio_double.ACCOUNT}"\nauth_tokens = ["{twilio_double.TOKEN}"]\n'
    number = f'[[sms]]\nnumber = "{OURS}"\ndriver = "twilio"\nper_second = 50\n[sms.twilio]\n{account_there}'
    (tmp_path / "config.toml").write_text(CONFIG + number, encoding="utf-8")
    (tmp_path / "config.toml").chmod(0o600)
    with twilio(double, tmp_path) as environment:
        desk = Service(tmp_path, ENVIRONMENT | environment)
        desk.command("init")
        desk.command("user", "add", TOM, "--name", "Tom Technician", "--role", "technician")
        desk.start()
        try:
            ada = desk.signed_in()
            desk.send(FIRST_MAIL, to=SUPPORT)
            desk.wait_for(lambda: messages(desk), "the ticket")
            path = "/settings/phones"
            ada.post_form(ada.get(path), f"{path}/enrol", account=str(account(desk, TOM)), phone=THEIRS)
            writes(desk, double, re.findall(r"\d{6}", hears(desk, double, "your code is"))[0])
            hears(desk, double, "this phone now gives commands")
            assign(ada, desk, TOM)
            hears(desk, double, "Job #1001")

            writes(desk, double, "NOTE the gasket is worn", pictures=1)
            assert hears(desk, double, "note kept") == f"#1001 No heat in flat 7: note kept.{UNDO}"
            kept = "select a.name, a.type, e.kind from attachment a join entry e on e.id = a.entry"
            desk.wait_for(lambda: desk.rows(kept), "the picture")
            assert desk.rows(kept) == [("picture-1.jpg", "image/jpeg", "note")]
            page = ada.get("/tickets/1001")
            shown = re.search(r"/attachments/\d+", page[page.index("the gasket is worn") :])
            assert shown, "the page shows it with his words"
            with ada.opened(f"{shown[0]}?show") as answer_with_it:
                assert answer_with_it.read() == PICTURE
            assert letters(desk, ANNS_ADDRESS)[1:] == [], "the customer knows nothing of it"
        finally:
            desk.stop()


# -- by mail -----------------------------------------------------------------------------------------------------


class Mailbox:
    """Somebody's mailbox: he answers the letter that he read last, with the proof of the mail server in front."""

    def __init__(self, service: Service, address: str) -> None:
        self.service, self.address = service, address
        self.read: dict[Path, EmailMessage] = {}

    def hears(self) -> EmailMessage:
        """The next letter that comes."""
        path, letter = self.service.wait_for(self.unread, f"a letter to {self.address}")[0]
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


def first_line(letter: EmailMessage) -> str:
    return said(letter).splitlines()[0]


def test_a_whole_job_by_mail_alone(service: Service) -> None:
    """Tom answers whatever came last, and writes the command into the first line."""
    ada = service.signed_in()
    tom, jo = Mailbox(service, TOM), Mailbox(service, JO)
    service.send(FIRST_MAIL, to=SUPPORT)
    service.wait_for(lambda: letters(service, ANNS_ADDRESS), "the acknowledgement")
    job = "#1001 No heat in flat 7"

    assign(ada, service, TOM)
    assert "Administrator gives you this job." in said(tom.hears())
    for text, echo, then in (
        ("ok", f"{job} is yours. ETA, HERE, NOTE, DONE.{UNDO}", "open"),
        ("eta 40m", rf"{job}: ETA \d\d:\d\d noted.{UNDO}", "open"),
        ("Here", f"{job}: on site. DONE text when done.{UNDO}", "open"),
        ("note: the gasket is worn\nsee the photo", f"{job}: note kept.{UNDO}", "open"),
        ("HOLD 2h\n\nthe part comes by courier", f"{job} on hold until {MOMENT}.{UNDO}", "waiting"),
        ("list", rf"1 {job}\. .*", "waiting"),
        ("again 1001 fri", f"{job}: second visit asked for.{UNDO}", "open"),
        ("Pass 1001 @jo", f"{job} given to Jo Joiner.{UNDO}", "open"),
    ):
        tom.replies(text, {"gasket.png": picture()} if "photo" in text else None)
        said_back = first_line(tom.hears())
        assert re.fullmatch(echo, said_back), (text, said_back)
        assert status(service) == then, text

    assert "Tom Technician gives you this job." in said(jo.hears())
    jo.replies("pass 1001 @tom")
    assert first_line(jo.hears()) == f"{job} given to Tom Technician.{UNDO}"
    assert "Jo Joiner gives you this job." in said(tom.hears())
    assert tom.asks("take").startswith(f"{job} is yours.")

    assert tom.asks("done: a new gasket").startswith(f"{job} done.{UNDO}")
    assert tom.asks("undo").startswith(f"{job}: DONE taken back.")
    time.sleep(HELD + 1)
    told = [said(letter) for letter in letters(service, ANNS_ADDRESS)]
    assert (status(service), len(told)) == ("open", 1), "only the acknowledgement"

    assert tom.asks("done 1001\n\na new gasket, again").startswith(f"{job} done.{UNDO}")
    service.wait_for(lambda: len(letters(service, ANNS_ADDRESS)) == 2, "what the customer is told")
    assert "your request #1001 (No heat in flat 7) is done." in said(letters(service, ANNS_ADDRESS)[1])
    assert waited(service) >= HELD
    assert tom.asks("show 1001").startswith(f"{job}, closed. {ANNS_ADDRESS}")

    assert timeline(service) == [
        "new", "opened", "assigned", "taken", "eta", "arrived", "note", "held", "held", "second-visit", "assigned",
        "assigned", "taken", "closed", "closed", "undone", "closed", "closed",
    ]  # fmt: skip
    page = ada.get("/tickets/1001")
    for words in ("the gasket is worn", "gasket.png", "the part comes by courier", "a new gasket, again", "Jo Joiner"):
        assert words in page, words
    kept = "select name, type from attachment a join entry e on e.id = a.entry where e.reason = 'note'"
    assert service.rows(kept) == [("gasket.png", "image/png")]
    assert (used_the_web(service, TOM), used_the_web(service, JO)) == (0, 0)


def test_the_letter_that_shows_a_job_can_be_answered_like_any_other(service: Service) -> None:
    ada, tom = service.signed_in(), Mailbox(service, TOM)
    service.send(FIRST_MAIL, to=SUPPORT)
    service.wait_for(lambda: letters(service, ANNS_ADDRESS), "the acknowledgement")
    assign(ada, service, TOM)
    tom.hears()
    assert tom.asks("show 1001").startswith("#1001 No heat in flat 7, new.")
    assert tom.asks("here").startswith("#1001 No heat in flat 7: on site.")


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

    offered = "1 #1002 No hot water upstairs, 2 #1001 The boiler shows F28, or 3 something new"
    menu = f"ACME: is this about {offered}? Reply 1, 2 or 3"
    assert one_segment(ann.asks("It started again this morning")) == menu
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


def test_the_field_and_the_office_see_each_other_at_once(service: Service, carrier: Provider) -> None:
    """A job is at the provider within five seconds of the click; what he answers is on open pages within one."""
    ada, ann = service.signed_in(), Phone(carrier, ANN)
    tom = enrolled(ada, service, TOM, Phone(carrier, TOMS))
    ann.asks("The boiler shows F28")
    begin = time.monotonic()
    assign(ada, service, TOM)
    assert "Job #1001" in tom.hears()
    to_the_field = time.monotonic() - begin
    with ada.opened("/events") as stream:
        news = (line for line in iter(stream.readline, b"") if b"1001" in line)
        begin = time.monotonic()
        tom.texts("take 1001")
        next(news)
        to_the_office = time.monotonic() - begin
    print(f"job at the provider after {to_the_field:.2f} s, answer on open pages after {to_the_office:.2f} s")
    assert to_the_field <= 5
    assert to_the_office <= 1
