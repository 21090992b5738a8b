"""The desk's part for text messages: a received SMS is understood, meets its facts and is decided; menus expire.

Between `desk`, which opens the transactions, and `store`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from gateway import commands, phones
from gateway.config import Config, SmsNumber
from gateway.decide.pieces import fresh_subject
from gateway.decide.text import TextCase, decide_text
from gateway.decide.undelivered import decide_receipt
from gateway.model import execute, micros, update
from gateway.store import intake, outbox, texts
from gateway.values import (
    Caps,
    Channel,
    Decision,
    InboundMessage,
    InboundState,
    NamedAddress,
    QuestionKind,
    Receipt,
    Ruling,
    Sms,
    Step,
)

FETCHED = ("twilio", "file")  # drivers whose times come from the provider's own list
FETCHED_AT_MOST = timedelta(days=7)
NO_NUMBER = "there is no [[sms]] in the config any more"


@dataclass(frozen=True, slots=True)
class Place:
    """Which of our numbers an SMS came to, its `[[sms]]`, and who sent it, both in one spelling."""

    way: SmsNumber
    number: str
    sender: str


def place(sms: Sms, config: Config) -> Place | None:
    """Where an SMS came in; None when no number is configured. A number that is ours no more is read as the first."""
    first = next((way for way in config.sms if way.driver == sms.driver), next(iter(config.sms), None))
    if first is None:
        return None
    number = next((ours for way in config.sms if (ours := _ours(sms.recipient, way))), first.number)
    way = config.way(number) or first
    return Place(way, number, phones.sender(sms.sender, _region(way)))


def _region(way: SmsNumber) -> str:
    return way.region or phones.region_of(way.number) or "US"


def _ours(written: str, way: SmsNumber) -> str:
    """Which of its numbers it is, however the provider writes it; "" when none."""
    if written in way.numbers:
        return written
    spelt = phones.sender(written, _region(way))
    return next((number for number in way.numbers if number in (spelt, f"+{written.strip()}")), "")


def sent_at(sms: Sms, received: datetime) -> datetime:
    """When an SMS was sent, as far as it can be believed: a provider's clock may be hours off, or say nothing. Only
    what we fetched ourselves, because we had been away, was sent long before we got it."""
    fetched = sms.at is not None and timedelta() <= received - sms.at <= FETCHED_AT_MOST
    return sms.at if sms.at is not None and fetched and sms.driver in FETCHED else received


def understood(sms: Sms, config: Config, received: datetime) -> InboundMessage:
    """The message that the mailroom's columns and the timeline know."""
    at = place(sms, config)
    sender = NamedAddress("", at.sender if at else "")
    text = commands.without_pin(sms.text)  # a code stands in no list and no history
    words = " ".join(text.lower().split())
    content = hashlib.sha256(f"{words} {[m.url for m in sms.media]}".encode("utf-8", "replace")).hexdigest()
    return InboundMessage(
        channel=Channel.SMS,
        sender=sender,
        author=sender,
        subject=fresh_subject(text, bool(sms.media)),
        text=text,
        message_id=f"{sms.driver}:{sms.id}" if sms.driver == "twilio" else f"{sms.driver}:{sms.recipient}:{sms.id}",
        content_hash=content,
        delivered_to=(sms.recipient,),
        date=sent_at(sms, received),
    )


def decide(
    sms: Sms,
    message: InboundMessage,
    config: Config,
    caps: Caps,
    now: datetime,
    received: datetime,
    inbound: int = 0,
    ruling: Ruling | None = None,
) -> tuple[Decision, commands.Said]:
    """The decision about a received SMS, and what was read in it. `inbound` is its mailroom row, 0 to only try."""
    said = commands.read(sms.text)
    at = place(sms, config)
    if at is None:
        return Decision(InboundState.PARKED, "needs-sorting", (Step("parked", NO_NUMBER, hit=True),)), said
    known = texts.for_text(at.sender, at.number, sms.text, said.number, at.way, inbound, ruling, now, received)
    case = TextCase(sms, said, message, known, config, at.way, caps, received)
    decision = decide_text(case)
    steps = (Step("read", _read_as(said)), *decision.trace)
    return replace(decision, trace=steps), said


def _read_as(said: commands.Said) -> str:
    words = [str(said.kind), str(said.verb or ""), f"#{said.number}" if said.number else ""]
    return " ".join(word for word in words if word)


def receipt(receipt: Receipt, now: datetime, config: Config) -> Decision:
    """The decision about a receipt."""
    found = outbox.sms_row(receipt)
    known = outbox.undelivered_facts(found, now) if found else None
    return decide_receipt(receipt, found, known, now, config)


# -- the clock ---------------------------------------------------------------------------------------------------


def expire_questions(now: datetime) -> bool:
    """Ends what nobody answered: a customer's messages go where it is most likely, marked as a guess; a command is not
    executed and stays in sight. True when messages wait to be decided again. Inside `writing()`."""
    woken = False
    for asked in texts.expired(now):
        if asked.kind not in (QuestionKind.MENU, QuestionKind.UNASKED) or asked.command:
            update("question", "id", asked.id, state="late" if asked.kind is QuestionKind.MENU else "over")
            outbox.forget_codes(asked.id)
            continue
        when = texts.activity(asked.options)
        # Of those that are as new the first stands: the menu was sorted by activity.
        likeliest = max((n for n in asked.options if n in when), key=lambda n: when[n or 0], default=None)
        ruling = Ruling("guess", likeliest) if likeliest else Ruling("new")
        woken |= intake.rule_waiting(asked.id, ruling)
        update("question", "id", asked.id, state="guessed")
    return woken


def wake_tickets(now: datetime) -> list[int]:
    """Tickets whose pause is over. Inside `writing()`."""
    lines = execute(
        "select number from ticket where snoozed_until is not null and snoozed_until <= ? "
        "order by snoozed_until limit 50",
        micros(now),
    ).fetchall()
    return [line[0] for line in lines]
