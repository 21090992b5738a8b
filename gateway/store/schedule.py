"""What falls due by the clock, and the heartbeats that `readyz` reads.

Rows with a network call in the middle (`poll:…`, `media:…`, `prices:…`) are claimed: they have an owner and a lease.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from gateway.model import execute, marks, micros, row, rows

LEASE = timedelta(minutes=10)  # longer than any look at a provider may take


def due(key: str, now: datetime) -> bool:
    """Is it time? What was never done is due."""
    found = row("select next_at from schedule where key = ?", key)
    return found is None or bool(found[0] <= micros(now))


def done(key: str, now: datetime, next_at: datetime) -> None:
    """It was done; and when it is due again. Inside `writing()`."""
    execute(
        "insert into schedule (key, next_at, last_done, owner, data) values (?, ?, ?, '', '{}') "
        "on conflict (key) do update set next_at = excluded.next_at, last_done = excluded.last_done",
        key,
        micros(next_at),
        micros(now),
    )


@dataclass(frozen=True, slots=True)
class Claimed:
    """A row that its owner works on now."""

    key: str
    data: Mapping[str, Any]


def add(key: str, next_at: datetime, data: Mapping[str, Any]) -> None:
    """Something will fall due; what is there already stays as it is. Inside `writing()`."""
    execute(
        "insert into schedule (key, next_at, last_done, owner, data) values (?, ?, null, '', ?) "
        "on conflict (key) do nothing",
        key,
        micros(next_at),
        json.dumps(dict(data)),
    )


def hurry(key: str, now: datetime) -> None:
    """It is due now, whenever it would have been; made when it is new, with its data when it is not. Inside
    `writing()`."""
    add(key, now, {})
    execute("update schedule set next_at = ? where key = ?", micros(now), key)


def claim(kinds: tuple[str, ...], owner: str, now: datetime, limit: int) -> list[Claimed]:
    """Takes up to `limit` rows that are due and whose key begins with `<kind>:`. Inside `writing()`."""
    at = micros(now)
    whose = " or ".join("substr(key, 1, ?) = ?" for _ in kinds)
    values = [value for kind in kinds for value in (len(kind) + 1, f"{kind}:")]
    found = rows(
        f"select key, data from schedule where next_at <= ? and (lease_until is null or lease_until < ?) "  # noqa: S608
        f"and ({whose}) order by next_at, key limit ?",
        at,
        at,
        *values,
        limit,
    )
    if found:
        execute(
            f"update schedule set owner = ?, lease_until = ? where key in ({marks(found)})",  # noqa: S608
            owner,
            micros(now + LEASE),
            *(key for key, _ in found),
        )
    return [Claimed(key, json.loads(data)) for key, data in found]


def any_due(kinds: tuple[str, ...], now: datetime) -> bool:
    """Is there anything to claim? Looked at before a write transaction is opened."""
    return any(
        row(
            "select 1 from schedule where next_at <= ? and (lease_until is null or lease_until < ?) "
            "and substr(key, 1, ?) = ? limit 1",
            micros(now),
            micros(now),
            len(kind) + 1,
            f"{kind}:",
        )
        for kind in kinds
    )


def again(key: str, next_at: datetime, data: Mapping[str, Any], now: datetime) -> None:
    """A claimed row was worked on and is due again then. Inside `writing()`."""
    execute(
        "update schedule set next_at = ?, data = ?, last_done = ?, owner = '', lease_until = null where key = ?",
        micros(next_at),
        json.dumps(dict(data)),
        micros(now),
        key,
    )


def over(key: str) -> None:
    """A row that is never due again. Inside `writing()`."""
    execute("delete from schedule where key = ?", key)


def free() -> None:
    """Takes back what a dead worker had claimed: for the only worker there is. Inside `writing()`."""
    execute("update schedule set owner = '', lease_until = null where owner <> ''")


def beat(name: str, now: datetime, words: str = "", value: float = 0) -> None:
    """A part says that it lives, or what is wrong with it. Inside `writing()`."""
    execute(
        "insert into alarm (name, words, at, value) values (?, ?, ?, ?) on conflict (name) do update "
        "set words = excluded.words, at = excluded.at, value = excluded.value",
        name,
        words,
        micros(now),
        value,
    )


def calm(name: str, now: datetime) -> None:
    """What a part complained of is over. Inside `writing()`."""
    execute("update alarm set words = '', at = ?, value = 0 where name = ? and words <> ''", micros(now), name)


def staff_addresses() -> frozenset[str]:
    """The addresses of all of us: a From that is one of them wants a proof."""
    return frozenset(line[0] for line in rows("select address from account where active = ?", True))
