"""SMS to their providers: which driver and number, how fast, and when a provider is left alone.

Each number sends at its own rate (`[[sms]] per_second`), half as fast for a while after its provider asked for less
(429). A provider that refuses our account is left alone for a quarter of an hour: what is due waits, and no attempt
counts.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from types import ModuleType
from typing import Any

from gateway.config import Config, SmsNumber
from gateway.decide.undelivered import STOPPED
from gateway.segments import count
from gateway.values import BY_ITSELF, Later, Outgoing, OutSms, Permanent, Refusal, Refused, Sent, Temporary
from outbound import sms
from outbound.files import FileSender

NOT_SENT = "not sent: no SMS provider configured"
MOST_PAUSE = 2.0  # seconds a place waits for a number's turn; longer, and others may have the place
MOST_KEPT = 10_000  # turns
LONGEST_SHUT = 900.0  # seconds a number waits at most because its provider asked for it
SLOWER_FOR = 300.0  # seconds a number stays slower after a 429
SLOWEST = 8  # times slower at most


@dataclass(slots=True)
class Pace:
    """How fast a number may send. `free_at`: the first turn that nobody has; `last`: when a message went, or will;
    `kept`: the turns of those that wait elsewhere; `shut_until`: the provider asked for nothing before."""

    free_at: float = 0.0
    last: float = float("-inf")
    slower: int = 1
    slower_until: float = 0.0
    urgent_at: float = 0.0
    shut_until: float = 0.0
    kept: dict[int, float] = field(default_factory=dict)


class Throttle:
    """Turns at a rate, for each number. `clock` counts seconds; any thread may ask."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._paces: dict[str, Pace] = {}

    def wait_of(self, number: str, id: int, per_second: float, urgent: bool = False) -> float:
        """Seconds until this message may go: it does when they are at most MOST_PAUSE, else it comes back and finds its
        turn kept. What is `urgent` goes before all that goes by itself."""
        with self._lock:
            pace, now = self._pace(number), self._clock()
            gap = pace.slower / per_second
            turn = pace.kept.pop(id, None)
            if turn is None:
                turn = max(now, pace.urgent_at if urgent else pace.free_at, pace.shut_until)
                pace.free_at = max(pace.free_at, turn) + gap
                pace.urgent_at = turn + gap if urgent else pace.urgent_at
            turn = max(turn, now, pace.last + gap)  # of several that come late not all go at once
            if turn - now > MOST_PAUSE:
                pace.kept[id] = turn
                while len(pace.kept) > MOST_KEPT:  # some were cancelled meanwhile
                    del pace.kept[next(iter(pace.kept))]
            else:
                pace.last = turn
            return turn - now

    def slow_down(self, number: str, seconds: float) -> None:
        """The provider asked for less, and for nothing in the next `seconds`."""
        with self._lock:
            pace, now = self._pace(number), self._clock()
            pace.slower = min(SLOWEST, pace.slower * 2)
            pace.slower_until = now + SLOWER_FOR
            pace.shut_until = max(pace.shut_until, now + min(seconds, LONGEST_SHUT))
            pace.free_at = max(pace.free_at, pace.shut_until)

    def _pace(self, number: str) -> Pace:
        pace = self._paces.setdefault(number, Pace())
        if pace.slower > 1 and self._clock() >= pace.slower_until:
            pace.slower = 1
        return pace


class SmsSender:
    """Sends claimed rows by the `[[sms]]` of their numbers; without any, they become files.

    `allowed` is asked last of all, with the row: it raises Refused when the phone opted out while the message waited
    for its turn.
    """

    def __init__(
        self,
        config: Config,
        *,
        driver: Callable[[str], ModuleType] = sms.driver,
        allowed: Callable[[Outgoing], None] = lambda outgoing: None,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._config, self._driver, self._allowed = config, driver, allowed
        self._clock, self._pause = clock, pause
        self._throttle = Throttle(clock)
        self._lock = threading.Lock()
        self._clients: dict[str, Any] = {}
        self._stopped: dict[str, tuple[float, str]] = {}  # the way's number → until when, why
        self._files = FileSender(config.folder / "outgoing")

    def __call__(self, outgoing: Outgoing) -> Sent:
        """Sends a rendered row, when it is its number's turn. Raises as the drivers do (`outbound.sms`)."""
        if not self._config.sms:
            return replace(self._files(outgoing), words=NOT_SENT)
        way, message = self._message(outgoing, outgoing.created)
        self._wait(way, message, outgoing.kind not in BY_ITSELF)
        try:
            self._allowed(outgoing)
        except (Temporary, Permanent):
            raise
        except Exception as error:  # the provider was not asked: nothing is uncertain
            raise Temporary(f"our own database: {error}") from error
        driver = self._driver(way.driver)
        try:
            sent: Sent = driver.send(self._client(way), way, message)
        except Later as error:
            self._throttle.slow_down(message.sender, error.seconds)
            raise
        except Refused as error:
            if error.why is Refusal.ACCOUNT:
                self._stopped[way.number] = (self._clock() + STOPPED.total_seconds(), str(error))
            raise
        return replace(
            sent, sender=sent.sender or message.sender, segments=sent.segments or count(message.text).segments
        )

    def can_look_up(self, outgoing: Outgoing) -> bool:
        """Can the provider of this row be asked whether it took it?"""
        return bool(self._config.sms) and bool(self._driver(self._way(outgoing).driver).CAPS.can_look_up)

    def look_up(self, outgoing: Outgoing, since: datetime) -> Sent | None:
        """What the provider knows of a row that was sent after `since`. Raises Temporary when it cannot be asked."""
        way, message = self._message(outgoing, since)
        found: Sent | None = self._driver(way.driver).look_up(self._client(way), way, message)
        if found is None:
            return None
        return replace(
            found, sender=found.sender or message.sender, segments=found.segments or count(message.text).segments
        )

    def prices(self, way: SmsNumber, since: datetime) -> list[Any]:
        """Receipts of what messages cost that were sent after `since`. Raises Temporary."""
        return list(self._driver(way.driver).prices(self._client(way), way, since))

    def knows_prices(self, way: SmsNumber) -> bool:
        """Does the provider say what messages cost?"""
        return bool(self._driver(way.driver).CAPS.price)

    def close(self) -> None:
        """There is nothing to close: every sender has this."""

    # -- the parts -----------------------------------------------------------------------------------------------

    def _way(self, outgoing: Outgoing) -> SmsNumber:
        """A number that is no longer in the settings sends by the first that is."""
        return self._config.way(_number(outgoing)) or self._config.sms[0]

    def _message(self, outgoing: Outgoing, since: datetime) -> tuple[SmsNumber, OutSms]:
        if outgoing.rendered is None:
            raise Permanent("nothing was rendered")
        way, number = self._way(outgoing), _number(outgoing)
        return way, OutSms(
            id=outgoing.id,
            sender=number if number in way.numbers else way.number,
            recipient=outgoing.recipient,
            text=outgoing.rendered.decode("utf-8"),
            callback=self._callback(way, outgoing.id),
            attempts=outgoing.attempts,
            since=since,
        )

    def _callback(self, way: SmsNumber, id: int) -> str:
        """Where receipts go. A driver that needs a secret in it adds its own."""
        if not self._driver(way.driver).CAPS.receipts:
            return ""
        return f"{self._config.web.public_url}/hooks/{way.driver}/status?m={id}"

    def _client(self, way: SmsNumber) -> Any:
        with self._lock:
            if way.number not in self._clients:
                self._clients[way.number] = self._driver(way.driver).connect(way, self._config)
            return self._clients[way.number]

    def _wait(self, way: SmsNumber, message: OutSms, urgent: bool) -> None:
        until, why = self._stopped.get(way.number, (0.0, ""))
        left = until - self._clock()
        if left > 0:
            raise Later(f"nothing goes by {way.number} now: {why}", left)
        wait = self._throttle.wait_of(message.sender, message.id, way.per_second, urgent)
        if wait > MOST_PAUSE:
            raise Later("its number sends others first", wait)
        if wait > 0:
            self._pause(wait)


def _number(outgoing: Outgoing) -> str:
    return outgoing.number or str(outgoing.data.get("from", ""))
