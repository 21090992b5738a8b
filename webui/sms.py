"""What pages know of SMS: the ways to write to somebody, a number as it was typed, and how many SMS a text is.

specs/sms.md 4.6: the count and its cost are shown while an SMS is written, and plain characters are offered.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

from flask import Blueprint, jsonify, request
from werkzeug.exceptions import BadRequest
from werkzeug.wrappers import Response

from gateway import phones, segments
from gateway.config import Config, SmsNumber
from gateway.costs import Cost
from gateway.decide import notices
from gateway.decide.notices import MOST_SMS
from gateway.store import facts
from gateway.values import Medium, Reach, TicketFacts
from webui.context import site

pages = Blueprint("sms", __name__)

LONGEST = 20_000  # characters that are counted


@dataclass(frozen=True, slots=True)
class Way:
    """One way to write to a requester. `out` is why it cannot be taken; `reach` tells since when."""

    medium: Medium
    address: str
    out: str = ""
    reach: Reach | None = None


@dataclass(frozen=True, slots=True)
class Ways:
    """The ways there are, mail first, and the one that is taken when nobody says otherwise. `known` holds what is known
    of each of the requester's addresses."""

    ways: tuple[Way, ...]
    preferred: Medium
    known: dict[str, Reach]

    def by(self, medium: str) -> Way | None:
        """The way of this medium, None when there is none."""
        return next((way for way in self.ways if way.medium == medium), None)

    @property
    def mail(self) -> bool:
        """Is there a mailbox to write to?"""
        way = self.by(Medium.MAIL)
        return way is not None and bool(way.address)


def ways_of(number: int, config: Config) -> Ways:
    """How the requester of a ticket can be written to: what `decide` will find when an answer is sent."""
    ticket = facts.tickets_by_number([number], reach=True)[number]
    found = [way for medium in (Medium.MAIL, Medium.SMS) if (way := _way(medium, ticket, config)) is not None]
    if all(way.out for way in found):
        found.insert(0, Way(Medium.MAIL, ""))  # one must be chosen; the desk says why it cannot be
    first = notices.reach_of(ticket, config)
    known = {reach.address: reach for reach in ticket.reach}
    return Ways(tuple(found), first.medium if first else Medium.MAIL, known)


def _way(medium: Medium, ticket: TicketFacts, config: Config) -> Way | None:
    reach = notices.reach_of(ticket, config, medium)
    if reach is not None:
        return Way(medium, reach.address, reach=reach)
    shut = next((reach for reach in ticket.reach if reach.medium is medium), None)
    if shut is None:
        return None
    why = "no SMS provider is configured" if config.way_of(ticket.inbox) is None else why_shut(shut)
    return Way(medium, shut.address, why, shut)


def why_shut(reach: Reach | None) -> str:
    """Why nothing goes to this phone, in words that take a date behind them; "" when it does."""
    if reach is None or reach.medium is not Medium.SMS or reach.usable:
        return ""
    return "opted out" if reach.opted_out_at else "takes no SMS"


def typed_phone(typed: str, inbox: str) -> str:
    """A number as somebody typed it, in E.164. Raises ValueError in words for the field."""
    way = site().config.way_of(inbox)
    region = (way.region or phones.region_of(way.number)) if way else ""
    return phones.phone(typed, region or "US")


# -- how many, how much ------------------------------------------------------------------------------------------


@pages.post("/segments")
def count() -> Response:
    """JSON `{"text": …, "inbox": …}` → how many SMS it is: segments, encoding, special characters, cost, all of it in
    words; the text in plain characters, and whether those make it cheaper (`offer`)."""
    said = request.get_json(silent=True)
    if not isinstance(said, dict) or not isinstance(said.get("text"), str):
        raise BadRequest
    text, inbox = said["text"][:LONGEST].replace("\r\n", "\n").strip(), said.get("inbox", "")
    found, plain = segments.count(text), segments.plain(text)
    cost = estimate(found.segments, site().config.way_of(inbox if isinstance(inbox, str) else ""))
    return jsonify(
        segments=found.segments,
        encoding=found.encoding,
        special=found.special,
        plain=plain,
        offer=bool(found.special) and _is_as_good(text, plain) and segments.count(plain).segments < found.segments,
        cost=cost,
        words=_words(text, found, cost),
    )


def _is_as_good(text: str, plain: str) -> bool:
    """Is hardly anything lost? Of Cyrillic, little is left."""
    return len(plain) >= len(text) * 0.9


def _words(text: str, found: segments.Count, cost: str) -> str:
    if not text:
        return ""
    if len(text) > MOST_SMS:
        return f"{len(text)} characters: an SMS holds at most {MOST_SMS}"
    words = f"{found.segments} SMS"
    if found.special:
        many = "1 special character" if len(found.special) == 1 else f"{len(found.special)} special characters"
        words += f" ({many}: {' '.join(found.special[:8])}{' …' if len(found.special) > 8 else ''})"
    return f"{words}, {cost}" if cost else words


def estimate(count: int, way: SmsNumber | None) -> str:
    """What so many segments cost, about; "" when the config says no price."""
    if way is None or not way.price:
        return ""
    return f"about {money(str(Decimal(str(way.price)) * count), way.currency)}"


def in_words(cost: Cost) -> str:
    """ "3 SMS, 0.12 GBP"; "" when there were none."""
    amounts = [money(str(amount), currency) for currency, amount in cost.money]
    return ", ".join([f"{cost.segments} SMS", *amounts]) if cost.segments else ""


def money(amount: str, currency: str) -> str:
    """0.08 GBP; what is below a cent keeps its digits."""
    try:
        value = Decimal(amount)
    except InvalidOperation:
        return f"{amount} {currency}".strip()
    if not value.is_finite() or abs(value) >= 10**9:
        return f"{amount} {currency}".strip()
    cents = value.quantize(Decimal("0.01"))
    shown = cents if abs(value) >= Decimal("0.01") else value.normalize()
    return f"{shown:f} {currency}".strip()
