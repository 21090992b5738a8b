"""The desk conducts: it opens the transactions and lets facts, decisions and writing follow each other.

accept   keeps what arrives, many arrivals in one synced commit, before anybody is answered
process  understands what was kept (outside any transaction), decides, writes
perform  what one of us does on a page or the command line
rehearse, replay   decide without writing
tick     what the clock brings
"""

from __future__ import annotations

import logging
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from peewee import OperationalError

from gateway import blobs, commands, kept, phones, store, texting
from gateway.addresses import Keys, load_keys
from gateway.commands import Said
from gateway.config import Config
from gateway.decide import decide_action, decide_message, enrolment
from gateway.decide.click import moved, taken_back, wake
from gateway.failpoints import fail_point
from gateway.matching import clues as read_clues
from gateway.store import accounts, audit, facts, intake, outbox, schedule, texts
from gateway.store import apply as writer
from gateway.store.together import GroupWriter, Job
from gateway.values import (
    Account,
    Action,
    Answer,
    Arrival,
    Assign,
    Caps,
    Channel,
    Decision,
    Enrol,
    Envelope,
    Facts,
    FilePart,
    InboundMessage,
    InboundState,
    Move,
    Permanent,
    Proof,
    Receipt,
    Release,
    Revoke,
    Rule,
    Ruling,
    Sms,
    Step,
    Temporary,
    Undo,
    Verify,
    Write,
    Written,
    utc_now,
)

log = logging.getLogger("ringback.desk")

BATCH = 25  # messages in one write transaction
BATCH_SECONDS = 0.02
PATIENCE = timedelta(hours=1)  # with a mail whose files cannot be kept: then it is shown to a person
AHEAD = 50  # messages read ahead for the parsers


# -- accept ------------------------------------------------------------------------------------------------------


class Committer:
    """Keeps what arrives, many arrivals in one synced commit. `after_commit` is called once a group (the doorbell)."""

    def __init__(self, config: Config, after_commit: Callable[[], None] = lambda: None) -> None:
        self._blobs = config.folder / "blobs"
        self._writer = GroupWriter("committer", after_commit, lambda place: fail_point(f"accept.{place}"))

    def accept(self, arrival: Arrival) -> Future[bool]:
        """Done when the arrival is committed and synced; Temporary when it could not be kept. False: it was there."""
        return self._writer.submit(
            Job(
                prepare=lambda: intake.place(self._blobs, arrival),
                write=lambda blob: intake.add(arrival, blob),
            )
        )

    def close(self) -> None:
        """Finishes what is queued and ends the thread."""
        self._writer.close()


# -- process -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Understood:
    """A message with what its sender's proof is worth; `trouble` says why it could not be read. `sms` is the text
    message that it was made from."""

    message: InboundMessage
    proof: Proof = Proof.NONE
    trouble: str = ""
    sms: Sms | None = None


Understand = Callable[[intake.Waiting, frozenset[str]], Understood]


@dataclass(slots=True)
class Desk:
    """What processing needs: settings, keys, the way to understand a message, and threads to do it in."""

    config: Config
    keys: Keys
    understand: Understand
    pool: ThreadPoolExecutor
    now: Callable[[], datetime] = utc_now
    after_commit: Callable[[], None] = lambda: None
    stopped: threading.Event = field(default_factory=threading.Event)
    caps: Callable[[str], Caps] = lambda driver: Caps()
    again: bool = False  # an answer made earlier messages wait to be decided once more


def process(desk: Desk) -> int:
    """Understands, decides and writes everything that waits; returns how many messages were handled."""
    ahead: deque[tuple[intake.Waiting, Future[Understood | Receipt]]] = deque()
    after, handled, more, careful = 0, 0, True, 0
    staff = schedule.staff_addresses()
    while not desk.stopped.is_set():
        if more and len(ahead) < AHEAD // 2:
            found = intake.waiting(desk.config.folder / "blobs", after, AHEAD)
            more = bool(found)
            after = found[-1].id if found else after
            ahead.extend(
                (row, desk.pool.submit(_understand, desk.config, desk.understand, row, staff)) for row in found
            )
        if not ahead:
            break
        ahead[0][1].exception()  # waits for the oldest; its error is dealt with inside
        try:
            handled += _write_group(desk, ahead, 1 if careful else BATCH)
            careful = max(0, careful - 1)
        except Temporary as error:
            if not careful:
                careful = BATCH  # one by one now: it may be only one of them
            elif store.is_writable(desk.now()):
                _set_aside(desk, ahead.popleft()[0], error)
            else:
                raise
            continue
        desk.after_commit()
        if desk.again:
            desk.again, more, after = False, True, 0
    return handled


def _understand(
    config: Config, understand: Understand, waiting: intake.Waiting, staff: frozenset[str]
) -> Understood | Receipt:
    """A mail goes to a parser; of everything else the mailroom keeps the value, which is only read back."""
    if waiting.channel == Channel.MAIL:
        return understand(waiting, staff)
    raw = waiting.raw.read_bytes() if isinstance(waiting.raw, Path) else waiting.raw
    value = kept.read(raw)
    return (
        value
        if isinstance(value, Receipt)
        else Understood(texting.understood(value, config, waiting.received), sms=value)
    )


def _write_group(desk: Desk, ahead: deque[tuple[intake.Waiting, Future[Understood | Receipt]]], limit: int) -> int:
    """Writes what is understood already, in order, in one transaction of at most `limit` messages or BATCH_SECONDS.

    When it cannot be written nothing of it is, and all of it stands in `ahead` again. Raises Temporary.
    """
    fail_point("process.before")
    taken: list[tuple[intake.Waiting, Future[Understood | Receipt]]] = []
    try:
        with store.writing():
            end = time.monotonic() + BATCH_SECONDS
            while ahead and len(taken) < limit and ahead[0][1].done() and (not taken or time.monotonic() < end):
                taken.append(ahead.popleft())
                _write_one(desk, *taken[-1])
            fail_point("process.written")
    except BaseException:
        ahead.extendleft(reversed(taken))
        raise
    fail_point("process.committed")
    return len(taken)


def _set_aside(desk: Desk, waiting: intake.Waiting, error: Exception) -> None:
    """Leaves the one message that cannot be written although others can to the next sweep; parks it at once when the
    database refuses just this one, else after an hour."""
    log.error("message %s cannot be written: %s", waiting.id, error)
    now = desk.now()
    if isinstance(error.__cause__, OperationalError) or now - waiting.received > PATIENCE:
        with store.writing():
            intake.fail(waiting.id, "our-error", str(error), now)


def _write_one(desk: Desk, waiting: intake.Waiting, future: Future[Understood | Receipt]) -> None:
    if not intake.still_new(waiting.id):
        return
    now = desk.now()
    if isinstance(future.exception(), Temporary) and now - waiting.received < PATIENCE:
        log.warning("message %s: %s; the sweep tries again", waiting.id, future.exception())
        return
    try:
        with store.savepoint():
            found = future.result()
            if isinstance(found, Receipt):
                decision, message = texting.receipt(found, now, desk.config), None
            else:
                decision, message = _decide(desk.config, desk.keys, desk.caps, waiting, found, now), found.message
            fail_point("process.decided")
            writer.apply(decision, now, waiting.id, message)
            desk.again |= bool(decision.answers)
            fail_point("process.applied")
    except (OperationalError, Temporary):
        raise  # nothing of this group is written, all of it is tried again
    except Exception:
        log.exception("message %s failed", waiting.id)
        intake.fail(waiting.id, "our-error", traceback.format_exc(), now)


def _decide(
    config: Config,
    keys: Keys,
    caps: Callable[[str], Caps],
    waiting: intake.Waiting,
    understood: Understood,
    now: datetime,
) -> Decision:
    started = time.perf_counter()
    message = understood.message
    if understood.sms:
        sms = understood.sms
        sent = texting.sent_at(sms, waiting.received)
        decision, _ = texting.decide(sms, message, config, caps(sms.driver), now, sent, waiting.id, waiting.ruling)
        took = Step("decided", f"settings {config.digest}", round((time.perf_counter() - started) * 1000, 2))
        return replace(decision, trace=(*decision.trace, took))
    clues = read_clues(message, waiting.envelope, config, keys)
    known = with_orders(facts.for_message(message, clues, waiting.id, waiting.ruling, now), message, now)
    looked = time.perf_counter()
    decision = decide_message(message, waiting.envelope, clues, known, understood.proof, config, keys)
    decided = time.perf_counter()
    steps = (
        *decision.trace,
        Step("facts", "looked up", round((looked - started) * 1000, 2)),
        Step("decided", f"settings {config.digest}", round((decided - looked) * 1000, 2)),
    )
    if understood.trouble:
        steps = (Step("unreadable", understood.trouble, hit=True), *steps)
        if decision.state is not InboundState.DONE:
            return replace(decision, trace=steps)
        ruling = waiting.ruling
        if ruling and ruling.word == "retry" and ruling.ticket:  # tried again, in vain: its ticket has all there is
            return Decision(InboundState.FAILED, "unreadable", steps, ticket=ruling.ticket)
        return replace(decision, state=InboundState.FAILED, reason="unreadable", trace=steps)
    return replace(decision, trace=steps)


def with_orders(known: Facts, message: InboundMessage, now: datetime) -> Facts:
    """The facts that a command needs, when one of us may give one."""
    account = known.sender.account
    found = commands.read_mail(message.text, (account.name,)) if account else None
    if account is None or found is None:
        return known
    named = [n for n in (found[0].number, *known.tickets) if n]
    return replace(known, orders=texts.for_field(account, named, now))


def original_attached(message: InboundMessage, raw: bytes, folder: Path) -> InboundMessage:
    """A message that could not be read, with the whole mail as its attachment."""
    part = FilePart(blobs.put(folder, raw), "original.eml", "message/rfc822", len(raw))
    return replace(message, files=(*message.files, part))


# -- perform -----------------------------------------------------------------------------------------------------


def perform(
    config: Config, action: Action, actor: Account, now: datetime, after_commit: Callable[[], None] = lambda: None
) -> Written:
    """Does what one of us asks for, on this thread's connection. Raises Permanent with words for him, or Temporary."""
    refusal = ""
    with store.writing():
        if isinstance(action, Enrol | Verify | Revoke):
            written, refusal = _about_a_phone(config, action, actor, now)
        else:
            written = _perform(config, action, actor, now)
        fail_point("perform.written")
    after_commit()
    if refusal:
        raise Permanent(refusal)
    return written


def _about_a_phone(
    config: Config, action: Enrol | Verify | Revoke, actor: Account, now: datetime
) -> tuple[Written, str]:
    """What was written, and words when the code was wrong: the try is counted all the same."""
    number = _phone(action.phone, config)
    known = texts.for_phone(number, action.account, now)
    if not enrolment.may(actor, known.accounts.get(action.account)):
        raise Permanent("Only a supervisor or an administrator sets up this colleague's phone.")
    if isinstance(action, Enrol):
        decision = enrolment.enrol(action, number, known, config)
    elif isinstance(action, Verify):
        decision = enrolment.verify(action, known)
    else:
        decision = enrolment.revoke(action, number, known)
    wrong = "That is not the code that was sent." if decision.reason == "wrong-code" else ""
    return writer.apply(decision, now), wrong


def _phone(typed: str, config: Config) -> str:
    """A number as somebody typed it. Raises Permanent with words for him."""
    way = config.sms[0] if config.sms else None
    region = (way.region or phones.region_of(way.number)) if way else ""
    try:
        return phones.phone(typed, region or "US")
    except ValueError as error:
        raise Permanent(f"{str(error)[:1].upper()}{str(error)[1:]}.") from error


def _perform(config: Config, action: Action, actor: Account, now: datetime) -> Written:
    if isinstance(action, Undo):
        return _undo(config, action, actor, now)
    if isinstance(action, Release):
        outbox.release(action.outbox, now)
        return Written(None, (), (action.outbox,))
    if isinstance(action, Rule):
        return _rule(action, actor)
    if isinstance(action, Move):
        return _move(config, action, actor, now)
    if isinstance(action, Write) and "@" not in action.to:
        action = replace(action, to=_phone(action.to, config))
    assert not isinstance(action, Enrol | Verify | Revoke), "those are about a phone"
    address = action.to if isinstance(action, Write) else ""
    numbers = [] if isinstance(action, Write) else [action.ticket]
    known = facts.for_action(numbers, address, now)
    if isinstance(action, Assign) and action.assignee:
        known = replace(known, accounts={**known.accounts, **facts.accounts_by_id([action.assignee])})
    if isinstance(action, Answer) and action.seen:
        known = _as_seen(known, action)
    return writer.apply(decide_action(action, actor, known, config), now)


def _as_seen(known: Facts, action: Answer) -> Facts:
    """Only what came from outside after the writer looked makes an answer stale, not our own notes and events."""
    ticket = known.tickets.get(action.ticket)
    if ticket is None:
        return known
    last = facts.last_message(action.ticket)
    return replace(known, tickets={**known.tickets, action.ticket: replace(ticket, last_entry=last)})


def _undo(config: Config, action: Undo, actor: Account, now: datetime) -> Written:
    ticket, late = outbox.take_back(action.entry, now)
    if late:
        raise Permanent(late)
    known = facts.for_action([ticket], "", now)
    answered = facts.is_answered(ticket, action.entry)
    return writer.apply(taken_back(known.tickets[ticket], action.entry, answered, actor, now, config), now)


def _move(config: Config, action: Move, actor: Account, now: datetime) -> Written:
    source = facts.message_on(action.entry)
    if source is None:
        raise Permanent("Only a message that came from outside can be moved.")
    if action.source not in (0, source.ticket):
        raise Permanent(f"It has moved already: it is on #{source.ticket}.")
    known = facts.for_action([source.ticket, *([action.ticket] if action.ticket else [])], "", now)
    target = known.tickets.get(action.ticket or 0)
    if action.ticket and target is None:
        raise Permanent(f"There is no ticket #{action.ticket}.")
    if action.ticket == source.ticket:
        raise Permanent("It is on this ticket already.")
    return writer.apply(moved(source, known.tickets[source.ticket], target, actor, known, config), now)


def _rule(action: Rule, actor: Account) -> Written:
    ruling = replace(action.ruling, by=actor.id)
    at = intake.ticket_of(action.inbound)
    if ruling.word == "retry" and at is not None:
        ruling = Ruling("retry", at, actor.id)
    if not intake.rule(action.inbound, ruling):
        raise Permanent("This message does not wait any more.")
    return Written(at, (), ())


# -- decide without writing --------------------------------------------------------------------------------------


def rehearse(
    config: Config, keys: Keys, message: InboundMessage, envelope: Envelope, proof: Proof, now: datetime
) -> Decision:
    """What would become of a message right now. Writes nothing."""
    clues = read_clues(message, envelope, config, keys)
    known = with_orders(facts.for_message(message, clues, 0, None, now), message, now)
    return decide_message(message, envelope, clues, known, proof, config, keys)


def rehearse_text(config: Config, sms: Sms, caps: Caps, now: datetime) -> tuple[Decision, Said]:
    """What would become of an SMS right now, and what is read in it. Writes nothing."""
    return texting.decide(sms, texting.understood(sms, config, now), config, caps, now, now)


def replay(
    config: Config,
    keys: Keys,
    inbound: int,
    understand: Understand,
    now: datetime,
    caps: Callable[[str], Caps] = lambda driver: Caps(),
) -> dict[str, Any]:
    """Decides a received message again and says what would be different. Writes and sends nothing."""
    waiting = intake.one(config.folder / "blobs", inbound)
    if waiting is None:
        raise Permanent(f"there is no received message {inbound}")
    before = intake.outcome(inbound)
    understood = _understand(config, understand, waiting, schedule.staff_addresses())
    if isinstance(understood, Receipt):
        decision = texting.receipt(understood, now, config)
    else:
        decision = _decide(config, keys, caps, waiting, understood, now)
    # It would open a ticket for the reason for which it did: that is the one it has.
    again = decision.new_ticket is not None and decision.reason == before["reason"]
    ticket = before["ticket"] if again else decision.ticket
    after = {"state": str(decision.state), "reason": decision.reason, "ticket": ticket}
    return {"id": inbound, "before": before, "after": after, "trace": [asdict(step) for step in decision.trace]}


# -- tick --------------------------------------------------------------------------------------------------------


def tick(config: Config, now: datetime) -> bool:
    """What the clock brings: uncertain mail is settled, menus that nobody answered end, pauses are over, the nightly
    seal is written, what has ended is cleaned up. True when received messages wait to be decided again."""
    with store.writing():
        schedule.beat("tick", now)
        outbox.settle_uncertain(now)
        outbox.free(now, {}, only_expired=True)
        woken = texting.expire_questions(now)
        for number, ticket in facts.tickets_by_number(texting.wake_tickets(now), most=50).items():
            known = facts.accounts_by_id([ticket.assignee])
            writer.apply(wake(ticket, known, facts.staff(), now, config), now)
            log.info("#%d is awake again", number)
    if schedule.due("nightly", now):
        seal = audit.fresh_seal()
        with store.writing():
            audit.write_seal(seal, now)
            accounts.clean(now)
            schedule.done("nightly", now, _next_night(now))
    return woken


def _next_night(now: datetime) -> datetime:
    return (now + timedelta(days=1)).replace(hour=2, minute=30, second=0, microsecond=0)


def keys_of(config: Config) -> Keys:
    """The signing keys of this installation."""
    return load_keys(config.folder / "keys.toml")
