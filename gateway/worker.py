"""The worker process: the tasks' bodies, the parser processes, the sweep.

It understands what arrived, sends what is due, and does what the clock brings. One worker a SQLite database, proved by
a lock on `data/worker.lock`; whoever has it takes back what a dead one was sending.
"""

from __future__ import annotations

import logging
import os
import queue
import signal
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

from peewee import InterfaceError, OperationalError

from gateway import bell, blobs, desk, kept, store
from gateway.config import Config, ConfigError, begin_child, load
from gateway.decide.undelivered import alarm_of
from gateway.failpoints import fail_point
from gateway.rounds import THREADS, Rounds
from gateway.store import intake, outbox, schedule
from gateway.store.together import GroupWriter, Job
from gateway.store.undelivered import give_up
from gateway.values import Medium, OutboxState, Outgoing, Refusal, Refused, Sent, Temporary, utc_now
from inbound import sms as sms_in
from inbound.authenticity import prove
from inbound.parser import Parser, Unreadable, minimal
from outbound import journal
from outbound import sms as sms_out
from outbound.delivery import deliver
from outbound.files import FileSender
from outbound.letters import Background, compose
from outbound.render import Letter, Rendered, render
from outbound.sms_out import SmsSender
from outbound.smtp_out import SmtpSender
from outbound.texts import render_sms

log = logging.getLogger("ringback.worker")

T = TypeVar("T")

SWEEP_SECONDS = 5.0
SENDERS = 8
PROOFS = 7  # more that wait for DNS beside those that are parsed
IN_ROW = 256 * 1024  # larger mail lies in the blob store


# -- a task that runs once at a time -----------------------------------------------------------------------------


class Turn:
    """A task's body that never runs twice at once: a ring while it runs makes it run again afterwards."""

    def __init__(self, name: str, body: Callable[[], object]) -> None:
        self._name, self._body = name, body
        self._lock, self._again = threading.Lock(), threading.Event()

    def __call__(self) -> None:
        self._again.set()
        while self._again.is_set() and self._lock.acquire(blocking=False):
            try:
                self._again.clear()
                store.open_connection()
                self._body()
            except Temporary as error:
                log.warning("%s: %s; the sweep tries again", self._name, error)
                store.close_connection()  # it may be dead
            except Exception:
                log.exception("%s stopped; the sweep tries again", self._name)
                store.close_connection()  # a database that was restarted leaves dead ones behind
            finally:
                self._lock.release()


# -- understanding -----------------------------------------------------------------------------------------------


class Reader:
    """Parser processes for the threads of the pool: each understanding borrows one."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self._folder = config.folder / "blobs"
        limits = config.limits
        self._idle: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._parsers = [
            Parser(self._folder, limits.parse_seconds, limits.parse_memory_mb, config.mail.authserv_id)
            for _ in range(limits.parsers)
        ]
        for parser in self._parsers:
            self._idle.put(parser)

    def understand(self, waiting: intake.Waiting, staff: frozenset[str]) -> desk.Understood:
        """A mailroom row's message and what proves its sender. What cannot be read becomes a minimal message."""
        parser = self._idle.get()
        try:
            message = parser.parse(waiting.raw, waiting.envelope)
        except Unreadable as error:
            raw = _bytes(waiting)
            message = desk.original_attached(minimal(raw, waiting.envelope), raw, self._folder)
            return desk.Understood(message, trouble=str(error))
        finally:
            self._idle.put(parser)
        return desk.Understood(message, prove(message, lambda: _bytes(waiting), waiting.envelope, self.config, staff))

    def close(self) -> None:
        """Ends the parser processes."""
        for parser in self._parsers:
            parser.close()


def _bytes(waiting: intake.Waiting) -> bytes:
    return waiting.raw.read_bytes() if isinstance(waiting.raw, Path) else waiting.raw


# -- sending -----------------------------------------------------------------------------------------------------


class Box:
    """The outbox as delivery sees it. What eight senders write at the same time goes into one transaction."""

    def __init__(self, config: Config, owner: str) -> None:
        self.config, self.owner = config, owner
        self._blobs = config.folder / "blobs"
        self._writer = GroupWriter("outbox", fail_point=lambda place: fail_point(f"outbox.{place}"))

    def _write(self, work: Callable[..., T], *arguments: Any) -> T:
        result: T = self._writer.submit(Job(write=lambda _: work(*arguments))).result()
        return result

    def claim(self, now: datetime, limit: int) -> list[list[Outgoing]]:
        store.open_connection()
        if not outbox.any_due(now):
            return []
        lanes = self._write(outbox.claim, self.owner, now, limit, _gate(self.config, now), self._shut)
        return [[self._whole(outgoing) for outgoing in lane] for lane in lanes]

    def _shut(self, id: int, why: Refusal, now: datetime) -> None:
        """The gate stops an SMS: whoever should know is told. Inside the claim's transaction, which must not fail."""
        give_up(id, OutboxState.READY, why, "", outbox.SHUT[why], now, self.config)

    def _whole(self, outgoing: Outgoing) -> Outgoing:
        """With the bytes that lie in a blob. A lost one is rendered again: better a second Message-ID than no mail."""
        try:
            return replace(outgoing, rendered=blobs.get(self._blobs, outgoing.blob)) if outgoing.blob else outgoing
        except OSError:
            log.exception("the rendered mail %d is lost", outgoing.id)
            return replace(outgoing, blob="")

    def letter(self, outgoing: Outgoing) -> Letter:
        return compose(outgoing, Background(**_read(lambda: outbox.behind(outgoing))), self.config)

    def keep_rendered(self, rendered: Sequence[Outgoing]) -> None:
        self._write(outbox.keep_rendered, [self._placed(outgoing) for outgoing in rendered], utc_now())

    def _placed(self, outgoing: Outgoing) -> Outgoing:
        content = outgoing.rendered or b""
        return replace(outgoing, blob=blobs.put(self._blobs, content)) if len(content) > IN_ROW else outgoing

    def put_back(self, id: int, now: datetime) -> None:
        self._write(outbox.put_back, id, now)

    def record_sent(self, taken: Sequence[tuple[int, Sent]], now: datetime) -> None:
        self._write(self._record_sent, taken, now)

    def _record_sent(self, taken: Sequence[tuple[int, Sent]], now: datetime) -> None:
        outbox.record_sent(taken, now)
        for sender in {sent.sender for _, sent in taken if sent.sender}:
            schedule.calm(alarm_of(sender, self.config), now)

    def record_failed(self, id: int, words: str, again_at: datetime | None, now: datetime) -> None:
        self._write(self._record_failed, id, words, again_at, now)

    def _record_failed(self, id: int, words: str, again_at: datetime | None, now: datetime) -> None:
        """An SMS that is given up leaves no one waiting for it."""
        if again_at is None:
            give_up(id, OutboxState.SENDING, None, "", words, now, self.config)
        outbox.record_failed(id, words, again_at, now)

    def record_later(self, id: int, words: str, again_at: datetime, now: datetime) -> None:
        self._write(outbox.record_later, id, words, again_at, now)

    def record_refused(self, outgoing: Outgoing, refused: Refused, now: datetime) -> None:
        self._write(self._record_refused, outgoing, refused, now)

    def _record_refused(self, outgoing: Outgoing, refused: Refused, now: datetime) -> None:
        id, words = outgoing.id, str(refused)
        give_up(id, OutboxState.SENDING, refused.why, refused.code, words, now, self.config)
        outbox.record_failed(id, words, None, now)  # in any case it is not being sent any more

    def record_uncertain(self, id: int, words: str, again_at: datetime | None, now: datetime) -> None:
        self._write(outbox.record_uncertain, id, words, again_at, now)

    def close(self) -> None:
        """Writes what is left."""
        self._writer.close()


def _gate(config: Config, now: datetime) -> outbox.Gate:
    """What may go by itself on the firm's day."""
    local = now.astimezone(ZoneInfo(config.firm.time_zone))
    day = local.replace(hour=0, minute=0, second=0, microsecond=0)
    midnight = day + timedelta(days=1)  # the same wall clock, whatever the zone does that night
    return outbox.Gate(config.limits.sms_segments_per_day, day.astimezone(UTC), midnight.astimezone(UTC))


def _read(work: Callable[[], T]) -> T:
    """Reads on this thread's connection; a dead one is closed, so that the next read has a fresh one. Raises Temporary
    then."""
    store.open_connection()
    try:
        return work()
    except (OperationalError, InterfaceError) as error:
        store.close_connection()
        raise Temporary(f"the database cannot be read: {error}") from error


def _still_allowed(outgoing: Outgoing) -> None:
    """A phone may have opted out after its message was claimed. Raises Refused."""
    why = _read(lambda: outbox.sms_shut(outgoing.recipient, outgoing.kind))
    if why is not None:
        raise Refused(outbox.SHUT[why], "", why)


# -- the process -------------------------------------------------------------------------------------------------


def main() -> None:
    """Runs until SIGTERM. Exit 0; 78 when the config cannot be used."""
    config = begin_child(log)
    store.connect(config)
    lock = store.only_worker()
    stop, reload, wake = threading.Event(), threading.Event(), threading.Event()

    def told(number: int, frame: object) -> None:
        (reload if number == signal.SIGHUP else stop).set()
        wake.set()

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, told)
    while not stop.is_set():
        _serve(config, stop, reload, wake)
        if not stop.is_set():
            wake.clear()
            reload.clear()  # before the file is read: a later signal means a later file
            config = _reloaded(config)
    del lock  # held until here
    # Python would wait for threads that still ask a provider; whatever they had to write is written, or asked again.
    logging.shutdown()
    os._exit(0)


def _reloaded(config: Config) -> Config:
    try:
        return load()
    except ConfigError as error:
        log.error("the config was not taken over: %s", error)
        return config


def _serve(config: Config, stop: threading.Event, reload: threading.Event, wake: threading.Event) -> None:
    """One configuration's life: recover, answer the bell, sweep. `wake` is set with either of the others: the intake
    takes mail for a new inbox at once, so nobody may decide by the old config until the next sweep."""
    owner = f"{socket.gethostname()}:{os.getpid()}"
    sent_journal = config.folder / "sent.journal"
    with store.connection(), store.writing():
        freed = outbox.free(utc_now(), journal.settled(sent_journal))
    journal.clear(sent_journal)
    if freed:
        log.info("took back %d message(s) of a worker that was stopped", freed)
    reader = Reader(config)
    box = Box(config, owner)
    pool = ThreadPoolExecutor(config.limits.parsers + PROOFS, "understand")
    pool_of_senders = ThreadPoolExecutor(SENDERS, "send")
    pool_of_rounds = ThreadPoolExecutor(THREADS, "rounds")
    senders = _senders(config)
    doorbell = bell.Bell(config.folder, config.data.queue_url)
    working = desk.Desk(
        config,
        desk.keys_of(config),
        reader.understand,
        pool,
        after_commit=lambda: doorbell.ring(bell.DELIVER),
        caps=sms_out.caps,
    )
    committer = desk.Committer(config, after_commit=lambda: doorbell.ring(bell.PROCESS))
    rounds = Rounds(
        config,
        owner,
        senders[Medium.SMS],
        sms_in.driver,
        lambda value: committer.accept(kept.arrival(value, utc_now())),
        pool_of_rounds,
        deliver=working.after_commit,
        soon=lambda seconds: _after(seconds, partial(doorbell.ring, bell.TICK)).start(),
    )
    rounds.begin()

    def tick() -> None:
        if desk.tick(config, utc_now()):
            doorbell.ring(bell.PROCESS)
        rounds()

    doorbell.answer(
        {
            bell.PROCESS: Turn(bell.PROCESS, lambda: desk.process(working)),
            bell.DELIVER: Turn(bell.DELIVER, deliverer(working, box, senders, pool_of_senders)),
            bell.TICK: Turn(bell.TICK, tick),
        }
    )
    consumer = _consumer(doorbell)
    consumer.start()
    try:
        while not (stop.is_set() or reload.is_set()):
            for name in bell.TASKS:
                doorbell.ring(name)
            wake.wait(SWEEP_SECONDS)
    finally:
        working.stopped.set()
        consumer.stop(graceful=True)
        pool.shutdown(cancel_futures=True)
        pool_of_senders.shutdown()
        pool_of_rounds.shutdown(wait=False, cancel_futures=True)  # a slow provider holds up no restart: see `main`
        for sender in senders.values():
            sender.close()
        box.close()
        committer.close()
        reader.close()


def _after(seconds: float, ring: Callable[[], object]) -> threading.Timer:
    """A timer, not yet started, that ends with the process."""
    timer = threading.Timer(max(0.01, seconds), ring)
    timer.daemon = True
    return timer


def deliverer(
    working: desk.Desk, box: Box, senders: Mapping[Medium, Any], pool: ThreadPoolExecutor
) -> Callable[[], object]:
    """The body of the task `deliver`."""
    config = working.config
    timer: threading.Timer | None = None

    def body() -> None:
        nonlocal timer
        deliver(
            box,
            lambda paper: _rendered(paper, working),
            senders,
            utc_now,
            pool,
            journal=config.folder / "sent.journal",
            fail_point=fail_point,
            stopped=working.stopped.is_set,
            can_look_up=senders[Medium.SMS].can_look_up,
        )
        next_due = outbox.next_due(utc_now())
        seconds = (next_due - utc_now()).total_seconds() if next_due else SWEEP_SECONDS
        if seconds < SWEEP_SECONDS and not (timer and timer.is_alive()):
            timer = _after(seconds, working.after_commit)  # what is held goes out on time
            timer.start()

    return body


def _rendered(paper: Letter, working: desk.Desk) -> Rendered:
    if paper.outgoing.medium is Medium.SMS:
        return render_sms(paper, working.config)
    return render(paper, working.config, working.keys, utc_now())


def _senders(config: Config) -> Mapping[Medium, Any]:
    """By medium: how it leaves us. Without a mail server, or a provider of SMS, everything is written to files."""
    out = config.smtp.out
    mail = FileSender(config.folder / "outgoing") if out is None else SmtpSender(out, config.mail.domain)
    return {Medium.MAIL: mail, Medium.SMS: SmsSender(config, allowed=_still_allowed)}


def _consumer(doorbell: bell.Bell) -> Any:
    """huey's consumer without its signal handlers: they would replace ours."""
    from huey.consumer import Consumer

    class QuietConsumer(Consumer):  # type: ignore[misc]
        def _set_signal_handlers(self) -> None:
            pass

    logging.getLogger("huey").setLevel(logging.WARNING)
    logging.getLogger("twilio.http_client").setLevel(logging.WARNING)  # it writes numbers and words into the log
    return QuietConsumer(
        doorbell.huey,
        workers=len(bell.TASKS),
        periodic=False,
        initial_delay=0.01,
        backoff=1.15,
        max_delay=0.1,
        check_worker_health=False,
    )


if __name__ == "__main__":
    main()
