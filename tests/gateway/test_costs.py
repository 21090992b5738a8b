"""What SMS cost, by ticket, month and technician."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal

from gateway import costs, store
from gateway.costs import Cost
from gateway.model import Outbox, insert, micros
from tests.conftest import DeskDb


def sent(
    desk_db: DeskDb,
    at: datetime,
    ticket: int | None,
    segments: int,
    price: str = "",
    account: int | None = None,
    **more: str,
) -> None:
    with store.writing():
        insert(
            Outbox,
            key=f"k{desk_db.newest('outbox')}",
            ticket=ticket,
            kind="answer",
            recipient="+447700900123",
            account=account,
            segments=segments,
            price=price,
            currency="GBP" if price else "",
            created_at=micros(at),
            done_at=micros(at),
            **{"medium": "sms", "state": "sent", **more},
        )


def test_a_month_is_summed_by_technician_and_ticket_the_dearest_first(desk_db: DeskDb, now: datetime) -> None:
    tom = desk_db.people["tom"].id
    sent(desk_db, now, 1001, 1, "0.04")
    sent(desk_db, now, 1002, 3, "0.12")
    sent(desk_db, now, 1002, 1, "0.04", account=tom)
    sent(desk_db, now, None, 1)  # a code, not priced yet
    sent(desk_db, now - timedelta(days=31), 1001, 9, "0.36")  # another month
    sent(desk_db, now, 1001, 9, "9", medium="mail")
    sent(desk_db, now, 1001, 9, "9", state="dead")
    month = costs.between(now.replace(day=1), now + timedelta(days=6))
    assert month.total == Cost(4, 6, 1, (("GBP", Decimal("0.20")),))
    assert month.tickets == (
        (1002, Cost(2, 4, 0, (("GBP", Decimal("0.16")),))),
        (1001, Cost(1, 1, 0, (("GBP", Decimal("0.04")),))),
    )
    assert month.technicians == (("Tom Technician", Cost(1, 1, 0, (("GBP", Decimal("0.04")),))),)


def test_a_ticket_has_its_own_sum(desk_db: DeskDb, now: datetime) -> None:
    sent(desk_db, now, 1001, 2, "0.08")
    sent(desk_db, now, 1002, 5, "0.20")
    assert costs.of_ticket(1001) == Cost(1, 2, 0, (("GBP", Decimal("0.08")),))
    assert costs.of_ticket(1003) == Cost()
