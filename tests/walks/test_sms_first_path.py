"""The thinnest whole path of SMS: a text comes in, a ticket lives, an answer goes out, its receipt comes, and STOP ends
it. Once through a provider of our own making, by its signed webhook, and once through a real Kannel.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.segments import count
from tests.sms import kannel_server
from tests.walks.provider import Phone, Provider, provider
from tests.walks.service import Browser, Service

ANN = "+447700900123"
FIRM = """
[firm]
name = "ACME"
[undo]
sms = 3
"""


@pytest.fixture
def carrier() -> Iterator[Provider]:
    with provider() as carrier:
        yield carrier


@pytest.fixture
def service(tmp_path: Path, carrier: Provider) -> Iterator[Service]:
    carrier.desk = started(tmp_path, carrier.config())
    yield carrier.desk
    carrier.desk.stop()


@pytest.fixture
def ann(carrier: Provider) -> Phone:
    return Phone(carrier, ANN)


def started(folder: Path, sms: str) -> Service:
    """A service of the firm ACME with these SMS settings."""
    (folder / "config.toml").write_text(FIRM + sms, encoding="utf-8")
    (folder / "config.toml").chmod(0o600)
    service = Service(folder)
    service.start()
    return service


def answer(browser: Browser, ticket: int, text: str) -> str:
    """Writes an SMS on the ticket's page and presses "Send and wait"; the page that follows."""
    path = f"/tickets/{ticket}"
    return browser.post_form(browser.get(path), f"{path}/answer", by="sms", text=text, do="wait")


def messages(service: Service) -> list[tuple[int, str]]:
    """Ticket and reason of every text that is on a ticket."""
    return [(n, r) for n, r in service.rows("select ticket, reason from entry where kind = 'message' order by id")]


def settled(service: Service) -> None:
    """Waits until everything that came in is read and everything that may go is gone."""
    busy = (
        "select (select count(*) from inbound where state = 'new') "
        "+ (select count(*) from outbox where medium = 'sms' and state in ('held', 'ready', 'sending'))"
    )
    service.wait_for(lambda: service.rows(busy) == [(0,)], "everything to be read and sent")


def was_delivered(service: Service, browser: Browser) -> bool:
    """Waits until the receipt of the answer is in, and looks whether the ticket's page says so, with the time."""
    receipts = "select status from outbox where kind = 'answer' and medium = 'sms'"
    service.wait_for(lambda: service.rows(receipts) == [("delivered",)], "the receipt")
    return re.search(r"\b(?<!Not )[Dd]elivered[^<]* \d\d:\d\d", browser.get("/tickets/1001")) is not None


def test_a_text_becomes_a_ticket_its_answer_is_delivered_and_stop_ends_it(
    service: Service, carrier: Provider, ann: Phone
) -> None:
    ada = service.signed_in()

    acknowledgement = ann.asks("The boiler shows F28")
    assert acknowledgement == "ACME: we have your message, ref #1001. Just text back to add to it."
    assert count(acknowledgement).segments == 1
    inbox = ada.get("/")
    assert "The boiler shows F28" in inbox
    assert "/tickets/1001" in inbox

    ann.texts("And it drips")
    service.wait_for(lambda: len(messages(service)) == 2, "the second text")
    assert messages(service) == [(1001, "new"), (1001, "burst")]

    held = answer(ada, 1001, "Press the red button.")
    assert "Goes out" in held
    assert ann.hears() == "Press the red button."
    assert [text.words for text in ann.got()] == [acknowledgement, "Press the red button."], "one acknowledgement, once"
    service.wait_for(
        lambda: re.search(r"Sent[^<]* \d\d:\d\d", ada.get("/tickets/1001")), "the page to say that it is sent"
    )

    carrier.reports(ann.got()[-1])
    assert was_delivered(service, ada)


def test_after_stop_nothing_leaves_not_even_what_waits_already(service: Service, carrier: Provider, ann: Phone) -> None:
    ada = service.signed_in()
    ann.asks("The boiler shows F28")

    answer(ada, 1001, "Press the red button.")
    assert ann.asks("STOP") == "ACME: you will get no more SMS from us. Text START to get them again."
    settled(service)
    page = ada.get("/tickets/1001")
    assert re.search("opted out", page, re.IGNORECASE), "the history says so"
    assert re.search(r"Not delivered[^<]*opted out", page), "and so does what waited"

    with pytest.raises(AssertionError, match="answered 422"):
        answer(ada, 1001, "Did it help?")
    settled(service)
    assert [text.words.split(":")[0] for text in ann.got()] == ["ACME", "ACME"], "an acknowledgement and a confirmation"

    assert ann.asks("START") == "ACME: you get SMS from us again. Text STOP to end them."
    answer(ada, 1001, "Did it help?")
    assert ann.hears() == "Did it help?"


def test_the_same_path_through_a_real_kannel(tmp_path: Path) -> None:
    service = Service(tmp_path)
    with kannel_server.kannel(f"http://127.0.0.1:{service.web_port}/hooks/kannel") as gateway:
        service = started_by_kannel(service, gateway)
        try:
            ada = service.signed_in()
            gateway.customer_writes("The boiler is cold")
            (acknowledgement,) = gateway.wait_for_arrived(1)
            assert (acknowledgement.recipient, acknowledgement.parts) == (ANN, 1)
            assert "ref #1001" in acknowledgement.text
            assert "The boiler is cold" in ada.get("/")

            gateway.customer_writes("За окном снег", kind="ucs2")
            service.wait_for(lambda: len(messages(service)) == 2, "the second text")
            assert {ticket for ticket, _ in messages(service)} == {1001}

            answer(ada, 1001, "Press the red button – for 5 seconds.")
            assert gateway.wait_for_arrived(2)[1].text == "Press the red button – for 5 seconds."
            assert was_delivered(service, ada)

            gateway.customer_writes("Stop")
            assert "no more SMS" in gateway.wait_for_arrived(3)[2].text
            with pytest.raises(AssertionError, match="answered 422"):
                answer(ada, 1001, "Did it help?")
            settled(service)
            assert len(gateway.arrived()) == 3
        finally:
            service.stop()


def started_by_kannel(service: Service, gateway: kannel_server.Gateway) -> Service:
    """The service whose hooks this Kannel knows already, with its settings."""
    config = f"""{FIRM}
[[sms]]
number = "{kannel_server.OURS}"
driver = "kannel"
per_second = 50
[sms.kannel]
send_url = "{gateway.send_url}"
password = "{kannel_server.PASSWORD}"
secret = "{kannel_server.SECRET}"
smsc = "out"
"""
    (service.folder / "config.toml").write_text(config, encoding="utf-8")
    (service.folder / "config.toml").chmod(0o600)
    service.start()
    return service
