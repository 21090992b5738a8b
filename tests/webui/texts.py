"""A desk with a number for SMS behind the pages: text messages that came, and what became of those that were sent."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from gateway import desk, kept, store
from gateway.config import SmsNumber
from gateway.model import Address, Contact, ContactAddress, execute, insert, micros, row, update
from gateway.store import intake, outbox
from gateway.values import Caps, Media, Receipt, Sms
from tests.conftest import ANN, SUPPORT, TOM
from tests.webui.conftest import Clock, Pages, make_pages

OURS, PHONE, TOMS, OTHER = "+447700900999", "+447700900123", "+447700900456", "+447700900124"
SPOKEN = "+44 7700 900123"


@dataclass(slots=True)
class Texts:
    """The pages, and what phones do."""

    pages: Pages
    _came: int = 0

    def came(self, text: str, sender: str = PHONE, pictures: int = 0) -> int:
        """A text message, decided; its mailroom row."""
        self._came += 1
        media = tuple(Media(f"https://media.example/{self._came}/{n}", "image/jpeg") for n in range(pictures))
        return self.take(Sms("file", f"SM{self._came}", sender, OURS, text, media))

    def take(self, value: Sms | Receipt) -> int:
        """Something that a provider handed over."""
        with store.writing():
            assert intake.add(kept.arrival(value, self.pages.clock()), "")
        self.decide()
        return int(row("select max(id) from inbound")[0])

    def decide(self) -> None:
        """What waits is decided, as the worker does it."""
        with ThreadPoolExecutor(1) as pool:
            desk.process(
                desk.Desk(
                    self.pages.desk.config,
                    self.pages.desk.keys,
                    _no_mail,
                    pool,
                    now=self.pages.clock,
                    caps=lambda driver: Caps(media=True),
                )
            )

    def ticket(self, text: str = "The boiler is cold", sender: str = PHONE) -> int:
        """A text message that opened a ticket, or went to one."""
        return int(row("select ticket from inbound where id = ?", self.came(text, sender))[0])

    def settle(self, kind: str = "answer", **columns: Any) -> int:
        """The newest SMS of a kind is now as these columns say."""
        id = int(row("select max(id) from outbox where kind = ? and medium = 'sms'", kind)[0])
        with store.writing():
            if columns.get("state") == "sent":
                columns.setdefault("done_at", micros(self.pages.clock()))
            update("outbox", "id", id, **columns)
        return id

    def receipt(self, receipt: Receipt) -> None:
        with store.writing():
            outbox.add_results([(receipt.outbox or 0, receipt)], self.pages.clock())

    def knows(self, phone: str, contact: int) -> None:
        """A phone is a contact's."""
        with store.writing():
            known = row("select id from address where value = ?", phone)
            address = known[0] if known else insert(Address, medium="sms", value=phone)
            insert(ContactAddress, contact=contact, address=address)

    def ann(self) -> int:
        """Ann, with a mailbox and a phone; her contact."""
        with store.writing():
            contact = insert(Contact, name=ANN.name, created_at=0)
            mailbox = insert(Address, medium="mail", value=ANN.address)
            insert(ContactAddress, contact=contact, address=mailbox)
        self.knows(PHONE, contact)
        return contact

    def tom(self) -> None:
        """Tom's phone is enrolled, since yesterday."""
        contact = int(row("select contact from account where address = ?", TOM.address)[0])
        self.knows(TOMS, contact)
        with store.writing():
            execute(
                "update contact_address set verified_at = ? where address = (select id from address where value = ?)",
                micros(self.pages.clock() - timedelta(days=1)),
                TOMS,
            )

    def stop(self, phone: str = PHONE) -> None:
        """The phone says STOP."""
        self.came("STOP", phone)


def _no_mail(waiting: intake.Waiting, staff: frozenset[str]) -> desk.Understood:
    raise AssertionError("only text messages come in here")


def with_sms(pages: Pages, clock: Clock, **way: Any) -> Texts:
    """The pages again, with a number for SMS; `way` are settings of its [[sms]]."""
    number = SmsNumber.model_validate({"number": OURS, "inbox": SUPPORT, "price": 0.04, "currency": "GBP"} | way)
    pages.desk.config = pages.desk.config.model_copy(update={"sms": (number,)})
    return Texts(make_pages(pages.desk, clock))
