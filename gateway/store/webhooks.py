"""What is kept of webhooks besides what they bring: how many were refused, and whether one that comes again says the
same."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from gateway.model import execute, micros, moment, row, rows
from gateway.values import Arrival

NAME = "forged:"  # and the driver: the alarm's row


@dataclass(frozen=True, slots=True)
class Refusals:
    """How many webhooks to a driver were refused on the (UTC) day of the last one."""

    driver: str
    count: int
    last: datetime


def refused(driver: str, count: int, now: datetime) -> None:
    """So many more were refused. Inside `writing()`."""
    execute(
        "insert into alarm (name, words, at, value) values (?, 'webhooks refused that day', ?, ?) "
        "on conflict (name) do update set at = excluded.at, "
        "value = excluded.value + case when alarm.at >= ? then alarm.value else 0 end",
        NAME + driver,
        micros(now),
        count,
        micros(now.replace(hour=0, minute=0, second=0, microsecond=0)),
    )


def refusals(since: datetime) -> tuple[Refusals, ...]:
    """Of every driver with one since then."""
    found = rows(
        "select name, value, at from alarm where name like ? and at >= ? order by name", f"{NAME}%", micros(since)
    )
    return tuple(Refusals(name.removeprefix(NAME), int(value), moment(at)) for name, value, at in found)


def says_the_same(arrival: Arrival) -> bool:
    """Was this delivery kept with the same content?"""
    found = row("select raw, size from inbound where key = ?", arrival.key)
    if found is None or found[0] is None:  # filed away, or large: then its length tells
        return found is None or found[1] == len(arrival.raw)
    return bytes(found[0]) == arrival.raw
