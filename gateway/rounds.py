"""What the clock brings with a network call in the middle: asking providers of SMS, outside any transaction.

    doubtful SMS    was it taken? asked after 60 s and after 300 s; unknown there, it goes again (sms.md 4.8)
    poll:…          what came while we were away: at start, and every few minutes
    media:…         pictures of a message, after it was answered and filed
    prices:…        at night, what messages cost

The work is done by a few threads of their own, so that a slow provider delays nothing else. Schedule rows are claimed
(owner and lease): a killed worker's are taken up by the next one.
"""

from __future__ import annotations

import logging
import mimetypes
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future
from datetime import datetime, timedelta
from functools import partial
from typing import Protocol

from gateway import blobs, store
from gateway.config import Config, SmsNumber
from gateway.store import apply as writer
from gateway.store import files, outbox, schedule
from gateway.store.outbox import Doubtful
from gateway.store.schedule import Claimed
from gateway.store.undelivered import give_up
from gateway.values import (
    Channel,
    Decision,
    FilePart,
    InboundState,
    Kind,
    Media,
    NewEntry,
    OutboxState,
    Outgoing,
    Permanent,
    Receipt,
    Sent,
    Sms,
    Temporary,
    utc_now,
)
from inbound.sms import Driver

log = logging.getLogger("ringback.rounds")

THREADS = 8
PLACES = 4  # of them for polls, pictures and prices at once: a slow provider leaves the others to doubtful SMS
MOST_DOUBTFUL = 100  # that wait for a thread
KINDS = ("poll", "media", "prices")
OVERLAP = timedelta(hours=1)  # providers' lists are late, and clocks differ; what was there is not kept twice
LOOK_AGAIN = timedelta(seconds=60)  # when a provider cannot be asked about a doubtful SMS
PICTURE_WAITS = (timedelta(seconds=1), timedelta(seconds=3), timedelta(minutes=1), timedelta(minutes=10))
PRICES_OF = timedelta(days=3)  # they come late
PRICES_AGAIN = timedelta(hours=1)
SOON = timedelta(seconds=5)  # waits that are shorter than the sweep's
FOLDER_SECONDS = 3.0
KEEP_SECONDS = 30.0
BATCH = 200


class Asks(Protocol):
    """What is asked of the outward side (`outbound.sms_out.SmsSender`)."""

    def can_look_up(self, outgoing: Outgoing) -> bool: ...
    def look_up(self, outgoing: Outgoing, since: datetime) -> Sent | None: ...
    def knows_prices(self, way: SmsNumber) -> bool: ...
    def prices(self, way: SmsNumber, since: datetime) -> Sequence[Receipt]: ...


class Rounds:
    """The rounds of one worker. `accept` keeps what a poll found; `deliver` is rung when an SMS may go; `soon` has the
    next round come after so many seconds."""

    def __init__(
        self,
        config: Config,
        owner: str,
        asks: Asks,
        inward: Callable[[str], Driver | None],
        accept: Callable[[Sms | Receipt], Future[bool]],
        pool: Executor,
        deliver: Callable[[], None] = lambda: None,
        soon: Callable[[float], None] = lambda seconds: None,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._config, self._owner, self._asks, self._inward = config, owner, asks, inward
        self._accept, self._pool, self._deliver, self._soon, self._now = accept, pool, deliver, soon, now
        self._running: dict[str, Future[None]] = {}

    def begin(self) -> None:
        """At start: frees what a dead worker had claimed, polls at once, and plans the nightly prices."""
        now = self._now()
        with store.connection(), store.writing():
            schedule.free()
            outbox.doubt_anew(now)
            for way in self._config.sms:
                inward = self._inward(way.driver)
                if inward is not None and inward.poll is not None:
                    schedule.hurry(f"poll:{way.driver}:{way.number}", now)
                if self._asks.knows_prices(way):
                    schedule.add(f"prices:{way.driver}:{way.number}", _next_night(now), {})

    def __call__(self) -> None:
        """Begins whatever is due, as far as there are places, and waits for none of it."""
        now = self._now()
        self._running = {name: future for name, future in self._running.items() if not future.done()}
        for doubt in outbox.doubtful(now, MOST_DOUBTFUL):
            self._begin(f"sms:{doubt.outgoing.id}", partial(self._settle, doubt))
        free = PLACES - sum(name.partition(":")[0] in KINDS for name in self._running)
        if free <= 0 or not schedule.any_due(KINDS, now):
            return
        with store.writing():
            claimed = schedule.claim(KINDS, self._owner, now, free)
        for row in claimed:
            work = {"poll": self._poll, "media": self._fetch, "prices": self._price}[row.key.partition(":")[0]]
            self._begin(row.key, partial(work, row))

    def _begin(self, name: str, work: Callable[[], None]) -> None:
        if name not in self._running:
            self._running[name] = self._pool.submit(_guarded, name, work)

    # -- an SMS of which nobody knows ----------------------------------------------------------------------------

    def _settle(self, doubt: Doubtful) -> None:
        """Asks the provider whether it took an SMS, and writes down what that means."""
        outgoing = doubt.outgoing
        write: Callable[[], object] = partial(outbox.look_again, outgoing.id, None, self._now())
        if self._asks.can_look_up(outgoing):
            try:
                sent = self._asks.look_up(outgoing, doubt.since)
                now = self._now()
                write = partial(self._absent, doubt, now)
                if sent is not None:
                    write = partial(outbox.record_found, outgoing.id, sent, now)
            except Exception as error:  # noqa: BLE001 - one provider that cannot be asked; asked again
                _tell(f"SMS {outgoing.id} could not be asked about", error)
                now = self._now()
                write = partial(outbox.look_again, outgoing.id, now + LOOK_AGAIN, now)
        _write(write)
        self._deliver()

    def _absent(self, doubt: Doubtful, now: datetime) -> None:
        if not outbox.record_absent(doubt, now):
            id, words = doubt.outgoing.id, "the provider never took it"
            give_up(id, OutboxState.UNCERTAIN, None, "", words, now, self._config)
            outbox.look_again(id, None, now)

    # -- what came while we were away ----------------------------------------------------------------------------

    def _poll(self, row: Claimed) -> None:
        """Everything since the last poll goes through the same intake as a webhook; then the cursor moves."""
        way, inward = self._way_of(row.key)
        if way is None or inward is None or inward.poll is None:
            return _write(partial(schedule.over, row.key))
        began = self._now()
        cursor = row.data.get("cursor") or began.isoformat()
        since = datetime.fromisoformat(cursor) - OVERLAP
        wait = timedelta(minutes=min(1.0, way.poll_minutes))
        try:
            kept = [self._accept(value) for value in inward.poll(way, since, self._config.folder)]
            for future in kept:
                future.result(KEEP_SECONDS)
            cursor, wait = began.isoformat(), _until_next(way)
        except Exception as error:  # noqa: BLE001 - one provider that cannot be asked; asked again
            _tell(f"{row.key} failed", error)
        now = self._now()
        return _write(partial(schedule.again, row.key, now + wait, {"cursor": cursor}, now))

    # -- pictures ------------------------------------------------------------------------------------------------

    def _fetch(self, row: Claimed) -> None:
        """Brings a picture to its entry. What cannot be had is said on the ticket."""
        entry, media = int(row.data["entry"]), Media(**row.data["media"])
        way, inward = self._config.way(row.data["number"]), self._inward(row.data["driver"])
        try:
            if way is None or inward is None or inward.fetch is None:
                raise Permanent("its number is no longer in the settings")
            content, said = inward.fetch(way, media)
            part = self._kept(content, said or media.type, media.name, row.key)
        except Permanent as error:
            return _write(partial(self._missing, row.key, entry, str(error)))
        except Exception as error:  # noqa: BLE001 - one picture; tried again
            _tell(f"{row.key} could not be fetched", error)
            return self._later(row, entry, str(error))
        return _write(partial(self._arrived, row.key, entry, part))

    def _kept(self, content: bytes, said: str, name: str, key: str) -> FilePart:
        """A picture in the blob store; what it is its first bytes say, not the provider."""
        from inbound.mime import content_type, file_name

        kind = content_type(content, said.partition(";")[0].strip().lower() or "application/octet-stream")
        number = int(key.rpartition(":")[2]) + 1
        called = file_name(name) or f"picture-{number}{mimetypes.guess_extension(kind) or '.bin'}"
        return FilePart(blobs.put(self._config.folder / "blobs", content), called, kind, len(content))

    def _arrived(self, key: str, entry: int, part: FilePart) -> None:
        files.keep_file(entry, part, self._now())
        schedule.over(key)

    def _later(self, row: Claimed, entry: int, words: str) -> None:
        tries, now = int(row.data.get("tries", 0)), self._now()
        if tries >= len(PICTURE_WAITS):
            _write(partial(self._missing, row.key, entry, words))
            return
        wait = PICTURE_WAITS[tries]
        _write(partial(schedule.again, row.key, now + wait, {**row.data, "tries": tries + 1}, now))
        if wait <= SOON:
            self._soon(wait.total_seconds())

    def _missing(self, key: str, entry: int, words: str) -> None:
        schedule.over(key)
        ticket = files.ticket_of(entry)
        if ticket is None:
            return
        said = {"entry": entry, "words": words[:300]}
        event = NewEntry(Kind.EVENT, Channel.CLOCK, public=False, reason="picture-missing", data=said)
        writer.apply(Decision(InboundState.DONE, "picture-missing", ticket=ticket, entries=(event,)), self._now())

    # -- prices --------------------------------------------------------------------------------------------------

    def _price(self, row: Claimed) -> None:
        """What the messages of the last days cost, as far as the provider knows by now."""
        way, _ = self._way_of(row.key)
        if way is None or not self._asks.knows_prices(way):
            return _write(partial(schedule.over, row.key))
        again_at = self._now() + PRICES_AGAIN
        try:
            receipts = list(self._asks.prices(way, self._now() - PRICES_OF))
            for start in range(0, len(receipts), BATCH):
                _write(partial(_keep_prices, receipts[start : start + BATCH], self._now()))
            again_at = _next_night(self._now())
        except Exception as error:  # noqa: BLE001 - one provider that cannot be asked; asked again
            _tell(f"{row.key} failed", error)
        return _write(partial(schedule.again, row.key, again_at, {}, self._now()))

    def _way_of(self, key: str) -> tuple[SmsNumber | None, Driver | None]:
        """`<kind>:<driver>:<number>`; none when the settings have another driver for it by now."""
        _, driver, number = key.split(":", 2)
        way = self._config.way(number)
        return (way, self._inward(driver)) if way is not None and way.driver == driver else (None, None)


def _keep_prices(receipts: Sequence[Receipt], now: datetime) -> None:
    found = [(row.id, receipt) for receipt in receipts if (row := outbox.sms_row(receipt))]
    outbox.add_results(found, now)


def _write(work: Callable[[], object]) -> None:
    with store.connection(), store.writing():
        work()


def _guarded(name: str, work: Callable[[], None]) -> None:
    """A row that could not even be written down stays claimed until its lease ends."""
    try:
        work()
    except Exception as error:  # noqa: BLE001 - one thing asked must not end the thread
        _tell(f"{name} was left", error)


def _until_next(way: SmsNumber) -> timedelta:
    """A folder is looked into all the time: there nobody calls when something came."""
    return timedelta(seconds=FOLDER_SECONDS) if way.driver == "file" else timedelta(minutes=way.poll_minutes)


def _tell(what: str, error: Exception) -> None:
    if isinstance(error, Temporary):
        log.warning("%s: %s", what, error)
    else:
        log.error("%s", what, exc_info=error)


def _next_night(now: datetime) -> datetime:
    return (now + timedelta(days=1)).replace(hour=3, minute=10, second=0, microsecond=0)
