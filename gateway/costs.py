"""What SMS cost: sums of parts and money per ticket, month and technician (specs/sms.md 4.6).

Money is what the provider has said; it fills prices in by night. Parts are counted by us until it says better.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import Any

from gateway.model import micros, rows

LISTED = 20
SENT = "select o.ticket, o.segments, o.price, o.currency, c.name from outbox o left join account a on a.id = o.account "
JOINED = "left join contact c on c.id = a.contact where o.medium = 'sms' and o.state = 'sent' and o.segments > 0 "


@dataclass(frozen=True, slots=True)
class Cost:
    """Messages, their parts, and what they cost by currency; `unpriced` messages have no price yet."""

    messages: int = 0
    segments: int = 0
    unpriced: int = 0
    money: tuple[tuple[str, Decimal], ...] = ()  # (currency, amount)


@dataclass(frozen=True, slots=True)
class Month:
    """All of it, and who and what cost most, dearest first."""

    total: Cost
    technicians: tuple[tuple[str, Cost], ...]
    tickets: tuple[tuple[int, Cost], ...]


def of_ticket(number: int) -> Cost:
    """What was sent because of a ticket."""
    return _sum(rows(f"{SENT}{JOINED}and o.ticket = ?", number))


def between(begin: datetime, end: datetime) -> Month:
    """What left in a span of time. Reads every SMS of it."""
    found = rows(f"{SENT}{JOINED}and o.done_at >= ? and o.done_at < ?", micros(begin), micros(end))
    people = {line[4] for line in found if line[4]}
    tickets = {line[0] for line in found if line[0] is not None}
    by_person = [(name, _sum(line for line in found if line[4] == name)) for name in people]
    by_ticket = [(number, _sum(line for line in found if line[0] == number)) for number in tickets]
    return Month(
        _sum(found),
        tuple(sorted(by_person, key=lambda one: (-one[1].segments, one[0]))[:LISTED]),
        tuple(sorted(by_ticket, key=lambda one: (-one[1].segments, one[0]))[:LISTED]),
    )


def _amount(price: str) -> Decimal | None:
    """A price as the provider wrote it; None while there is none, or for what is no sum of money."""
    try:
        amount = Decimal(price)
    except InvalidOperation:
        return None
    return amount if amount.is_finite() and abs(amount) < 10**9 else None


def _sum(lines: Iterable[Any]) -> Cost:
    messages = segments = unpriced = 0
    money: dict[str, Decimal] = {}
    for _, parts, price, currency, _ in lines:
        messages += 1
        segments += parts
        amount = _amount(price)
        if amount is None:
            unpriced += 1
        else:
            money[currency] = money.get(currency, Decimal()) + amount
    return Cost(messages, segments, unpriced, tuple(sorted(money.items())))
