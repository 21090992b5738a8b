"""Delivery of what is due: claim, render once, send, record. Knows no database and no protocol: both are given.

Every attempt sends the bytes and the Message-ID of the first one, so that a repeat is recognised as such (RFC 5322
3.6.4). What became of an attempt is one of four: taken, refused for now, refused for good, nobody knows. An SMS has no
Message-ID: one that may have arrived is not repeated until the provider was asked.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, wait
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from itertools import chain, repeat
from pathlib import Path
from typing import Protocol

from gateway.decide.undelivered import time_to_live
from gateway.values import Later, Medium, Outgoing, Permanent, Refused, Sent, Temporary, Uncertain
from outbound import journal as sent_journal
from outbound.render import Letter, Rendered

log = logging.getLogger("ringback.delivery")

PLACES = 8  # lanes served at once
PIECE = 256 * 1024  # bytes that one lane renders before it sends them
LOOK_AGAIN = 0.2  # seconds until it is looked again for what is due, while places are free
WORDS = 500

# What a mail waits after its first, second, … refusal: twenty minutes for greylisting, half a day for a server that
# is repaired, five days in all, as RFC 5321 4.5.4.1 asks for.
WAITS = (
    timedelta(minutes=1),
    timedelta(minutes=5),
    timedelta(minutes=15),
    timedelta(minutes=30),
    timedelta(hours=1),
    timedelta(hours=2),
    timedelta(hours=4),
)
AND_THEN = timedelta(hours=4)
GIVE_UP_AFTER = timedelta(days=5)
# An error of our own is not mended by waiting, but what caused it (a full disk, a locked database) may be.
OUR_ERROR_WAITS = WAITS[:3]
# Nobody knows whether it arrived: once more, soon, with the same Message-ID; then a person decides.
UNCERTAIN_WAITS = (timedelta(seconds=60),)
# What an SMS waits: a provider that is away for a moment, for minutes, for hours. It is given up when its time is over.
SMS_WAITS = (
    timedelta(seconds=5),
    timedelta(seconds=15),
    timedelta(seconds=60),
    timedelta(minutes=5),
    timedelta(minutes=15),
    timedelta(hours=1),
)
# When the provider is asked about an SMS of which nobody knows: by then its callback should have come.
FIRST_LOOK = timedelta(seconds=60)
# Pauses before what happened is written down again, when the database refuses. Only then is a row left `sending`.
RECORD_PAUSES = (0.2, 1.0, 5.0, 15.0)


class Box(Protocol):
    """What delivery needs of the outbox. A lane is what goes to one recipient by one medium, in its order; while rows
    of a lane are claimed, the store claims no others of it."""

    def claim(self, now: datetime, limit: int) -> list[list[Outgoing]]:
        """Takes what is due of up to `limit` lanes: for each the rows in their order; `attempts` counts this one."""

    def put_back(self, id: int, now: datetime) -> None:
        """A claimed row was not tried: it waits as before."""

    def letter(self, outgoing: Outgoing) -> Letter:
        """All that rendering a claimed row needs."""

    def keep_rendered(self, rendered: Sequence[Outgoing]) -> None:
        """Keeps what every attempt will send, of all of them or of none."""

    def record_sent(self, taken: Sequence[tuple[int, Sent]], now: datetime) -> None:
        """The other side took these."""

    def record_failed(self, id: int, words: str, again_at: datetime | None, now: datetime) -> None:
        """It did not go: again at that time, or never (None: dead)."""

    def record_uncertain(self, id: int, words: str, again_at: datetime | None, now: datetime) -> None:
        """It may have arrived. A mail goes again at that time, about an SMS the provider is asked then; None: a person
        decides."""

    def record_later(self, id: int, words: str, again_at: datetime, now: datetime) -> None:
        """It was not tried, and is at that time: this attempt does not count."""

    def record_refused(self, outgoing: Outgoing, refused: Refused, now: datetime) -> None:
        """The provider of SMS does not take it: what happens then is decided by its reason."""


Send = Callable[[Outgoing], Sent]  # raises Temporary, Uncertain or Permanent


# -- when to try again -------------------------------------------------------------------------------------------


def next_attempt(attempts: int, error: Exception, now: datetime, jitter: float) -> datetime | None:
    """When to try again after `attempts` attempts (at least 1) of which the last failed so; None: not again.

    `jitter` between 0 and 1 adds up to a tenth, so that what failed together does not come back together.
    """
    if isinstance(error, Permanent):
        return None
    # A row does not say how its earlier attempts ended; a second attempt counts as the repeat whatever came first:
    # better a person is asked than a third copy sent.
    if isinstance(error, Uncertain):
        return now + UNCERTAIN_WAITS[attempts - 1] if attempts <= len(UNCERTAIN_WAITS) else None
    if not isinstance(error, Temporary):
        delay = OUR_ERROR_WAITS[attempts - 1] if attempts <= len(OUR_ERROR_WAITS) else None
    else:
        delay = _wait(attempts)
    return None if delay is None else now + delay * (1 + jitter / 10)


def _wait(attempts: int) -> timedelta | None:
    if attempts <= len(WAITS):
        return WAITS[attempts - 1]
    waited = sum(WAITS, timedelta()) + AND_THEN * (attempts - 1 - len(WAITS))
    return AND_THEN if waited + AND_THEN <= GIVE_UP_AFTER else None


LONGEST_LATER = 3600.0  # seconds: what a provider asks for beyond that is a mistake


def next_sms(outgoing: Outgoing, error: Temporary, now: datetime, jitter: float) -> datetime | None:
    """When an SMS that was not taken is tried again; None: its time is over (half an hour to one of us, a day to a
    customer). `jitter` between 0 and 1 adds up to a fifth."""
    said = min(error.seconds, LONGEST_LATER) if isinstance(error, Later) else 0.0
    delay = timedelta(seconds=said) if said else SMS_WAITS[min(outgoing.attempts, len(SMS_WAITS)) - 1]
    again_at = now + delay * (1 + jitter / 5)
    return again_at if again_at <= outgoing.created + time_to_live(outgoing.account) else None


# -- one drain ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Way:
    """What every delivery of one drain is given."""

    box: Box
    render: Callable[[Letter], Rendered]
    senders: Mapping[Medium, Send]
    now: Callable[[], datetime]
    journal: Path | None
    fail_point: Callable[[str], None]
    jitter: Callable[[], float]
    pause: Callable[[float], None]
    stopped: Callable[[], bool]
    can_look_up: Callable[[Outgoing], bool]


def deliver(
    box: Box,
    render: Callable[[Letter], Rendered],
    senders: Mapping[Medium, Send],
    now: Callable[[], datetime],
    pool: Executor,
    *,
    journal: Path | None = None,
    fail_point: Callable[[str], None] = lambda name: None,
    places: int = PLACES,
    jitter: Callable[[], float] = random.random,
    pause: Callable[[float], None] = time.sleep,
    stopped: Callable[[], bool] = lambda: False,
    can_look_up: Callable[[Outgoing], bool] = lambda outgoing: False,
) -> int:
    """Sends whatever is due, `places` lanes at once, until nothing is; returns how many attempts were made.

    Lanes are claimed only as places become free: a killed worker leaves no more of them half done than it has places.
    `can_look_up` says whether the provider of an SMS can be asked what became of it.
    """
    way = Way(box, render, senders, now, journal, fail_point, jitter, pause, stopped, can_look_up)
    under_way: set[Future[int]] = set()
    made = 0
    try:
        while not stopped():
            lanes = box.claim(now(), places - len(under_way)) if len(under_way) < places else []
            under_way |= {pool.submit(_deliver_lane, way, lane) for lane in lanes}
            if not under_way:
                break
            # Not only until one ends: what falls due meanwhile must not wait for a slow server.
            done, under_way = wait(under_way, timeout=LOOK_AGAIN, return_when=FIRST_COMPLETED)
            made += sum(future.result() for future in done)
    finally:
        wait(under_way)
    if journal is not None:
        sent_journal.shorten(journal)
    return made


def _deliver_lane(way: Way, lane: Sequence[Outgoing]) -> int:
    """One message after the other; how many were tried. Behind one that waits the others wait too: order counts.

    What is rendered is kept in one write, what was taken is recorded in one: a write costs more than a mail. Both are
    done a piece of the lane at a time, so that large mails do not gather in memory.
    """
    tried, goes_on = 0, True
    while goes_on and tried < len(lane) and not way.stopped():
        taken: list[tuple[int, Sent]] = []
        try:
            for outgoing, trouble in _rendered(way, lane[tried:]):
                tried += 1
                goes_on = _deliver_one(way, outgoing, trouble, taken) and not way.stopped()
                if not goes_on:
                    break
        except Exception:
            log.exception("a lane was left; what was taken is recorded, the rest is put back")
            goes_on = False
        if taken:
            _record(way, partial(_settle, way, taken))
    _put_back(way, lane[tried:])
    return tried


def _put_back(way: Way, lane: Sequence[Outgoing]) -> None:
    for outgoing in lane:
        _record(way, partial(way.box.put_back, outgoing.id, way.now()))


def _deliver_one(way: Way, outgoing: Outgoing, trouble: Exception | None, taken: list[tuple[int, Sent]]) -> bool:
    """Sends one message; is it done with, taken or dead? What was taken is recorded later, what was not at once."""
    sending = False
    try:
        if trouble:
            raise trouble
        way.fail_point("delivery.rendered")
        send = way.senders.get(outgoing.medium)
        if send is None:
            raise Permanent(f"there is no way out for {outgoing.medium}")
        sending = True
        sent = send(outgoing)
    except Exception as error:  # noqa: BLE001 - one message must not stop the others; it is recorded
        return _record_error(way, outgoing, _judged(error, outgoing, sending))
    taken.append((outgoing.id, sent))
    way.fail_point("delivery.sent")
    if way.journal is not None:
        _note(lambda path: sent_journal.note_sent(path, outgoing.id, sent.words), way.journal)
    way.fail_point("delivery.noted")
    return True


def _rendered(way: Way, lane: Sequence[Outgoing]) -> list[tuple[Outgoing, Exception | None]]:
    """The first rows with the bytes to send, at most PIECE in all: those of the first attempt, or fresh ones, kept
    before anything is sent."""
    found: list[tuple[Outgoing, Exception | None]] = []
    fresh: list[Outgoing] = []
    size = 0
    for outgoing in lane:
        try:
            way.fail_point("delivery.claimed")
            new = outgoing if outgoing.rendered is not None else _render(way, outgoing)
            found.append((new, None))
            fresh += [new] if new is not outgoing else []
            size += len(new.rendered or b"")
        except Exception as error:  # noqa: BLE001 - one letter that cannot be written must not stop the others
            found.append((outgoing, error))
        if size > PIECE:
            break
    try:
        if fresh:
            way.box.keep_rendered(fresh)
    except Exception as error:  # noqa: BLE001 - recorded with each of them
        return [(old, error) for old in lane[: len(found)]]
    return found


def _render(way: Way, outgoing: Outgoing) -> Outgoing:
    rendered = way.render(way.box.letter(outgoing))
    return replace(
        outgoing,
        rendered=rendered.content,
        message_id=rendered.message_id,
        envelope_sender=rendered.envelope_sender,
    )


def _judged(error: Exception, outgoing: Outgoing, sending: bool) -> Exception:
    """A driver that fails in a way it did not foresee may have sent its SMS; a second one costs money and trust."""
    if sending and outgoing.medium is Medium.SMS and not isinstance(error, Temporary | Permanent):
        return Uncertain(_words(error))
    return error


def _settle(way: Way, taken: Sequence[tuple[int, Sent]]) -> None:
    way.box.record_sent(taken, way.now())
    if way.journal is not None:
        for id, _ in taken:
            _note(partial(sent_journal.note_recorded, id=id), way.journal)


def _record_error(way: Way, outgoing: Outgoing, error: Exception) -> bool:
    """Writes down why it did not go; is it dead?"""
    if not isinstance(error, Temporary | Permanent):
        log.error("outbox %d: our own error", outgoing.id, exc_info=error)
    now = way.now()
    if outgoing.medium is Medium.SMS:
        return _record_sms_error(way, outgoing, error, now)
    again_at = next_attempt(outgoing.attempts, error, now, way.jitter())
    words = _words(error)
    if not isinstance(error, Uncertain):
        _record(way, lambda: way.box.record_failed(outgoing.id, words, again_at, now))
        return again_at is None
    _record(way, lambda: way.box.record_uncertain(outgoing.id, words, again_at, now))
    return False


def _record_sms_error(way: Way, outgoing: Outgoing, error: Exception, now: datetime) -> bool:
    """The same for an SMS."""
    words, id = _words(error), outgoing.id
    if isinstance(error, Uncertain):
        look_at = now + FIRST_LOOK if way.can_look_up(outgoing) else None
        _record(way, lambda: way.box.record_uncertain(id, words, look_at, now))
        return False
    if isinstance(error, Refused):
        refused = error
        _record(way, lambda: way.box.record_refused(outgoing, refused, now))
        return True
    if isinstance(error, Temporary):
        again_at = next_sms(outgoing, error, now, way.jitter())
        if again_at is not None and isinstance(error, Later):
            at = again_at
            _record(way, lambda: way.box.record_later(id, words, at, now))
            return False
    else:
        again_at = next_attempt(outgoing.attempts, error, now, way.jitter())
    _record(way, lambda: way.box.record_failed(id, words, again_at, now))
    return again_at is None


def _words(error: Exception) -> str:
    if isinstance(error, Temporary | Permanent):
        return (str(error) or type(error).__name__)[:WORDS]
    return f"our own error: {type(error).__name__}: {error}"[:WORDS]


def _record(way: Way, write: Callable[[], None]) -> None:
    """Writes down what happened, until it is written: what has been sent must not be sent again because a disk was
    full, and a row that stays `sending` would hold up its lane. When the worker stops, the journal knows."""
    for seconds in chain(RECORD_PAUSES, repeat(RECORD_PAUSES[-1])):
        try:
            return write()
        except Exception:
            log.exception("what became of a message could not be recorded")
        if way.stopped():
            return None
        way.pause(seconds)
    return None


def _note(note: Callable[[Path], None], path: Path) -> None:
    """The journal is a second net: when it cannot be written, the database still is."""
    try:
        note(path)
    except OSError:
        log.exception("%s cannot be written", path)
