"""What falls due by the clock, and the heartbeats that `readyz` reads."""

from __future__ import annotations

from datetime import datetime

from gateway.model import execute, micros, row, rows


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


def staff_addresses() -> frozenset[str]:
    """The addresses of all of us: a From that is one of them wants a proof."""
    return frozenset(line[0] for line in rows("select address from account where active = ?", True))
