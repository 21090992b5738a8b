"""Asking providers of SMS by the clock: doubtful messages, polls, pictures, prices (sms.md 4.8); and that under faults
nothing is lost and nothing sent twice."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import pytest

from gateway import blobs, store
from gateway.config import SmsNumber
from gateway.model import Outbox, insert, micros, row, rows
from gateway.rounds import PLACES, THREADS, Rounds
from gateway.store import apply as writer
from gateway.store import outbox, schedule
from gateway.values import (
    Caps,
    Channel,
    Decision,
    Delivery,
    InboundState,
    Kind,
    Later,
    Media,
    Medium,
    NewEntry,
    NewTicket,
    Outgoing,
    OutSms,
    Permanent,
    Receipt,
    Sent,
    Sms,
    Temporary,
    Uncertain,
)
from gateway.worker import Box
from inbound.sms import Driver
from outbound.delivery import deliver
from outbound.render import Rendered
from outbound.sms_out import SmsSender
from tests.conftest import SUPPORT, DeskDb, close_desk, open_desk

SECOND, MINUTE, HOUR = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1)
OURS, PHONE = "+447700900999", "+447700900123"
HTTP = {"url": "https://sms.example/send", "secret": "12345678"}
NUMBER = {"number": OURS, "driver": "http", "http": HTTP, "per_second": 1000}
JPEG = b"\xff\xd8\xff\xe0 a boiler"


@dataclass
class Clock:
    now: datetime

    def __call__(self) -> datetime:
        return self.now


@dataclass
class Asked:
    """The outward side: knows of messages what the test tells it."""

    known: Sent | None = None
    can: bool = True
    error: Exception | None = None
    costs: Sequence[Receipt] = ()
    looked: list[tuple[int, datetime]] = field(default_factory=list)
    priced: list[datetime] = field(default_factory=list)

    def can_look_up(self, outgoing: Outgoing) -> bool:
        return self.can

    def look_up(self, outgoing: Outgoing, since: datetime) -> Sent | None:
        self.looked.append((outgoing.id, since))
        if self.error:
            raise self.error
        return self.known

    def knows_prices(self, way: SmsNumber) -> bool:
        return bool(self.costs)

    def prices(self, way: SmsNumber, since: datetime) -> Sequence[Receipt]:
        self.priced.append(since)
        if self.error:
            raise self.error
        return self.costs


@dataclass
class Provider:
    """The inward side: what a poll finds, and what becomes of a picture."""

    waiting: list[Sms | Receipt] = field(default_factory=list)
    polled: list[datetime] = field(default_factory=list)
    error: Exception | None = None
    pictures: list[tuple[bytes, str] | Exception] = field(default_factory=list)
    driver: Driver | None = None

    def __post_init__(self) -> None:
        self.driver = Driver(None, self.poll, self.fetch)

    def poll(self, way: SmsNumber, since: datetime, folder: Path) -> list[Sms | Receipt]:
        assert way.number == OURS
        self.polled.append(since)
        if self.error:
            raise self.error
        return self.waiting

    def fetch(self, way: SmsNumber, media: Media) -> tuple[bytes, str]:
        found = self.pictures.pop(0)
        if isinstance(found, Exception):
            raise found
        return found


@dataclass
class Stage:
    """A desk with one number, the rounds, and their doubles."""

    desk: DeskDb
    clock: Clock
    asked: Asked
    provider: Provider
    rounds: Rounds
    kept: list[Sms | Receipt] = field(default_factory=list)
    delivered: list[datetime] = field(default_factory=list)
    soon: list[float] = field(default_factory=list)

    def go(self, after: timedelta = timedelta()) -> None:
        """The clock goes on, and one round is made to its end."""
        self.clock.now += after
        store.open_connection()
        self.rounds()
        wait(self.rounds._running.values(), timeout=10)

    def begin(self) -> None:
        self.rounds.begin()
        store.open_connection()


@pytest.fixture
def stage(tmp_path: Path, now: datetime) -> Iterator[Stage]:
    desk = open_desk(tmp_path / "data", now, {"sms": [NUMBER]})
    clock, asked, provider = Clock(now), Asked(), Provider()
    kept: list[Sms | Receipt] = []
    delivered: list[datetime] = []
    soon: list[float] = []

    def accept(value: Sms | Receipt) -> Future[bool]:
        future: Future[bool] = Future()
        if isinstance(value, Sms) and value.text == "cannot be kept":
            future.set_exception(Temporary("the disk is full"))
        else:
            kept.append(value)
            future.set_result(True)
        return future

    with ThreadPoolExecutor(THREADS) as pool:
        rounds = Rounds(
            desk.config,
            "me",
            asked,
            lambda driver: provider.driver,
            accept,
            pool,
            deliver=lambda: delivered.append(clock.now),
            soon=soon.append,
            now=clock,
        )
        yield Stage(desk, clock, asked, provider, rounds, kept, delivered, soon)
    close_desk(tmp_path / "data")


def doubtful(stage: Stage, ago: timedelta = MINUTE) -> int:
    """An SMS that timed out a moment ago, and was written `ago`."""
    created = micros(stage.clock.now - ago)
    with store.writing():
        id = insert(
            Outbox,
            key="r1",
            kind="answer",
            medium="sms",
            recipient=PHONE,
            number=OURS,
            created_at=created,
            not_before=0,
            rendered=b"Hello",
        )
        outbox.claim("me", stage.clock.now, 5)
        outbox.record_uncertain(id, "timed out", stage.clock.now + MINUTE, stage.clock.now)
    return id


def state(id: int) -> tuple[str, str]:
    found = row("select state, result from outbox where id = ?", id)
    return str(found[0]), str(found[1])


def planned(key: str) -> Any:
    """When a row of the schedule is due; None when it is over."""
    store.open_connection()
    found = row("select next_at, data from schedule where key = ?", key)
    return found and found[0]


# -- doubtful SMS ------------------------------------------------------------------------------------------------


def test_what_the_provider_has_was_sent_and_the_next_may_go(stage: Stage) -> None:
    id = doubtful(stage)
    began = stage.clock.now
    stage.asked.known = Sent("SM1", "queued", 1, OURS)
    stage.go(59 * SECOND)
    assert stage.asked.looked == []
    stage.go(SECOND)
    assert state(id) == ("sent", "queued")
    assert (stage.asked.looked, stage.delivered) == ([(id, began)], [stage.clock.now])


def test_what_the_provider_does_not_have_twice_goes_once_more(stage: Stage) -> None:
    id = doubtful(stage)
    stage.go(MINUTE)
    assert state(id)[0] == "uncertain"
    stage.go(3 * MINUTE)
    assert len(stage.asked.looked) == 1
    stage.go(MINUTE)
    assert state(id) == ("ready", "may have been sent twice")
    assert len(stage.asked.looked) == 2


def test_what_the_provider_never_took_is_given_up_when_its_time_is_over(stage: Stage) -> None:
    id = doubtful(stage, timedelta(hours=24))
    stage.go(5 * MINUTE)
    assert state(id) == ("dead", "the provider never took it")


def test_a_provider_that_cannot_be_asked_now_is_asked_again_in_a_minute(stage: Stage) -> None:
    id = doubtful(stage)
    stage.asked.error = Temporary("503")
    for _ in range(7):
        stage.go(MINUTE)
    assert (state(id)[0], len(stage.asked.looked)) == ("uncertain", 7)
    stage.asked.error, stage.asked.known = None, Sent("SM1")
    stage.go(MINUTE)
    assert state(id)[0] == "sent"


def test_a_provider_that_can_never_be_asked_leaves_it_to_a_person(stage: Stage) -> None:
    id = doubtful(stage)
    stage.asked.can = False
    for _ in range(3):
        stage.go(MINUTE)
    assert (state(id)[0], stage.asked.looked) == ("uncertain", [])
    with store.writing():
        outbox.settle_uncertain(stage.clock.now + 10 * MINUTE)
    assert state(id)[0] == "dead"


def test_a_slow_provider_is_not_asked_twice_at_once(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    doubtful(stage)
    answered: Future[None] = Future()
    look_up = stage.asked.look_up

    def slow(outgoing: Outgoing, since: datetime) -> Sent | None:
        found = look_up(outgoing, since)
        answered.result(10)
        return found

    monkeypatch.setattr(stage.asked, "look_up", slow)
    stage.clock.now += MINUTE
    for _ in range(3):
        stage.rounds()
    running = list(stage.rounds._running.values())
    answered.set_result(None)
    wait(running, timeout=10)
    assert len(stage.asked.looked) == 1


# -- polls -------------------------------------------------------------------------------------------------------

KEY = f"poll:http:{OURS}"
HELLO = Sms("http", "1", PHONE, OURS, "Hello")


def test_it_polls_at_start_and_every_five_minutes_with_an_hours_overlap(stage: Stage) -> None:
    stage.provider.waiting = [HELLO]
    began = stage.clock.now
    stage.begin()
    stage.go()
    assert (stage.provider.polled, stage.kept) == ([began - HOUR], [HELLO])
    stage.go(299 * SECOND)
    assert len(stage.provider.polled) == 1
    stage.go(SECOND)
    assert stage.provider.polled == [began - HOUR, began - HOUR], "an hour before the last poll began"
    stage.go(5 * MINUTE)
    assert stage.provider.polled[-1] == began + 5 * MINUTE - HOUR


def test_after_three_days_away_it_asks_for_three_days(stage: Stage) -> None:
    began = stage.clock.now
    stage.begin()
    stage.go()
    stage.clock.now += timedelta(days=3)
    stage.begin()
    stage.go()
    assert stage.provider.polled[-1] == began - HOUR


@pytest.mark.parametrize("error", [Temporary("503"), KeyError("a mistake of ours")])
def test_a_poll_that_fails_is_repeated_from_the_same_moment(error: Exception, stage: Stage) -> None:
    stage.begin()
    stage.go()
    stage.provider.error = error
    stage.go(5 * MINUTE)
    stage.go(MINUTE)
    assert len(stage.provider.polled) == 3
    assert len(set(stage.provider.polled)) == 1


def test_a_poll_whose_messages_cannot_be_kept_is_repeated_from_the_same_moment(stage: Stage) -> None:
    stage.provider.waiting = [Sms("http", "2", PHONE, OURS, "cannot be kept"), HELLO]
    stage.begin()
    stage.go()
    stage.go(MINUTE)
    assert len(stage.provider.polled) == 2
    assert len(set(stage.provider.polled)) == 1


def test_a_number_that_left_the_settings_is_polled_no_more(stage: Stage) -> None:
    with store.writing():
        schedule.add("poll:http:+15551234567", stage.clock.now, {})
        schedule.add(f"poll:kannel:{OURS}", stage.clock.now, {})
    stage.go()
    assert stage.provider.polled == []
    assert (planned("poll:http:+15551234567"), planned(f"poll:kannel:{OURS}")) == (None, None)


def test_a_slow_provider_delays_no_round_and_is_not_asked_twice_at_once(stage: Stage) -> None:
    answered: Future[None] = Future()
    poll = stage.provider.poll

    def slow(way: SmsNumber, since: datetime, folder: Path) -> list[Sms | Receipt]:
        answered.result(10)
        return poll(way, since, folder)

    stage.provider.driver = Driver(None, slow, None)
    id = doubtful(stage)
    stage.asked.known = Sent("SM1")
    stage.begin()
    stage.rounds()
    stage.clock.now += MINUTE
    stage.rounds()
    wait([future for name, future in stage.rounds._running.items() if name.startswith("sms")], timeout=10)
    assert state(id)[0] == "sent"
    answered.set_result(None)
    stage.go()
    assert len(stage.provider.polled) == 1


def test_slow_polls_leave_threads_to_doubtful_messages(stage: Stage) -> None:
    answered: Future[None] = Future()

    def slow(way: SmsNumber, media: Media) -> tuple[bytes, str]:
        answered.result(10)
        return JPEG, ""

    stage.provider.driver = Driver(None, None, slow)
    with store.writing():
        for n in range(20):
            data = {"driver": "http", "number": OURS, "entry": 1, "media": {"url": ""}}
            schedule.add(f"media:1:{n}", stage.clock.now, data)
    for _ in range(3):
        stage.rounds()
    running = len(stage.rounds._running)
    answered.set_result(None)
    assert running == PLACES < THREADS


# -- pictures ----------------------------------------------------------------------------------------------------

MEDIA = "media:5:0"


def with_picture(stage: Stage, name: str = "") -> tuple[int, int]:
    """An SMS on a ticket whose picture is still with the provider: (ticket, entry)."""
    with store.writing():
        entry = NewEntry(Kind.MESSAGE, Channel.SMS, author_address=PHONE, text="Look")
        ticket = NewTicket(SUPPORT, "Look", PHONE, acquisition="sms")
        decision = Decision(InboundState.DONE, "test", new_ticket=ticket, entries=(entry,))
        written = writer.apply(decision, stage.clock.now)
        media = {"url": "https://sms.example/1", "type": "image/jpeg", "name": name}
        data = {"driver": "http", "number": OURS, "entry": written.entries[0], "media": media}
        schedule.add(MEDIA, stage.clock.now, data)
    assert written.ticket is not None
    return written.ticket, written.entries[0]


PICTURES = {
    "a picture": (JPEG, "image/jpeg", "", ("picture-1.jpg", "image/jpeg")),
    "what says that it is another picture": (JPEG, "image/png", "", ("picture-1.jpg", "image/jpeg")),
    "what says that it is a picture": (b"<script>", "image/jpeg", "", ("picture-1.bin", "application/octet-stream")),
    "a picture with a name": (JPEG, "image/jpeg", "../boiler.jpg", ("boiler.jpg", "image/jpeg")),
    "something else": (b"BEGIN:VCARD", "text/vcard; charset=utf-8", "", ("picture-1.vcf", "text/vcard")),
}


@pytest.mark.parametrize(("content", "said", "name", "kept"), PICTURES.values(), ids=PICTURES)
def test_a_picture_comes_to_its_entry(
    content: bytes, said: str, name: str, kept: tuple[str, str], stage: Stage
) -> None:
    _, entry = with_picture(stage, name)
    stage.provider.pictures = [(content, said)]
    stage.go()
    found = rows("select entry, name, type, size, sha256 from attachment")
    assert [line[:4] for line in found] == [(entry, *kept, len(content))]
    assert blobs.get(stage.desk.config.folder / "blobs", found[0][4]) == content
    assert planned(MEDIA) is None


def test_a_picture_that_is_not_there_yet_is_fetched_again(stage: Stage) -> None:
    with_picture(stage)
    stage.provider.pictures = [Later("404"), Later("404"), (JPEG, "image/jpeg")]
    stage.go()
    stage.go(SECOND)
    assert rows("select 1 from attachment") == []
    stage.go(3 * SECOND)
    assert len(rows("select 1 from attachment")) == 1
    assert stage.soon == [1, 3], "the sweep would come too late"


def test_a_picture_that_never_comes_is_said_on_the_ticket(stage: Stage) -> None:
    ticket, entry = with_picture(stage)
    stage.provider.pictures = [Later("404")] * 5
    for pause in (timedelta(), SECOND, 3 * SECOND, MINUTE):
        stage.go(pause)
        assert stage.desk.entries("reason = 'picture-missing'") == []
    stage.go(599 * SECOND)
    assert len(stage.provider.pictures) == 1
    stage.go(SECOND)
    (event,) = stage.desk.entries("reason = 'picture-missing'")
    assert (event["ticket"], event["data"]) == (ticket, {"entry": entry, "words": "404"})
    assert planned(MEDIA) is None


def test_a_picture_that_is_refused_is_said_at_once(stage: Stage) -> None:
    with_picture(stage)
    stage.provider.pictures = [Permanent("larger than 10 MB")]
    stage.go()
    assert [e["data"]["words"] for e in stage.desk.entries("reason = 'picture-missing'")] == ["larger than 10 MB"]
    assert planned(MEDIA) is None


# -- prices ------------------------------------------------------------------------------------------------------


def test_at_night_it_is_told_what_messages_cost(stage: Stage) -> None:
    with store.writing():
        insert(
            Outbox, key="r1", kind="answer", medium="sms", recipient=PHONE, state="sent", provider_id="SM1",
            created_at=0, done_at=0,
        )  # fmt: skip
    cost = Receipt("http", "SM1", Delivery.PRICED, price="0.04", currency="GBP")
    stage.asked.costs = (cost, Receipt("http", "SM2", Delivery.PRICED, price="0.05"))
    stage.provider.driver = None
    stage.begin()
    stage.go()
    assert stage.asked.priced == []
    stage.go(17 * HOUR + 10 * MINUTE)
    assert stage.asked.priced == [stage.clock.now - timedelta(days=3)]
    assert rows("select price, currency, status from outbox") == [("0.04", "GBP", "")]
    assert planned(f"prices:http:{OURS}") == micros(stage.clock.now + timedelta(days=1))
    stage.asked.error = Temporary("503")
    stage.go(timedelta(days=1))
    stage.go(HOUR)
    assert len(stage.asked.priced) == 3, "again in an hour"


# -- under faults ------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """Stands for kill -9: nothing after it happens."""


FAULTS = (
    "taken", "taken", "taken", "429", "503 and taken", "503 and not", "time-out and taken", "time-out and not",
    "nobody listens", "killed after the answer",
)  # fmt: skip
MOST_FAULTS = 2  # of one message: after three failures those behind it wait no longer


@dataclass
class Faulty:
    """A provider that can be asked, and does to each message what the plan says."""

    plan: random.Random
    clock: Clock
    taken: list[tuple[str, str, datetime]] = field(default_factory=list)  # (to, text, when)
    faults: Counter[int] = field(default_factory=Counter)
    seen: Counter[str] = field(default_factory=Counter)
    asked: int = 0
    kill: set[int] = field(default_factory=set)

    def module(self, name: str) -> ModuleType:
        caps = Caps(can_look_up=True, receipts=False)
        functions = {"connect": lambda way, config: self, "send": self.send, "look_up": self.look_up}
        return cast(ModuleType, SimpleNamespace(CAPS=caps, **functions))

    def send(self, client: object, way: SmsNumber, message: OutSms) -> Sent:
        fault = self.plan.choice(FAULTS) if self.faults[message.id] < MOST_FAULTS else "taken"
        self.seen[fault] += 1
        self.faults[message.id] += fault != "taken"
        if fault == "429":
            raise Later("429", 1)
        if fault == "nobody listens":
            raise Temporary("connection refused")
        if not fault.endswith("and not"):
            self.taken.append((message.recipient, message.text, self.clock.now))
        if fault.startswith(("503", "time-out")):
            raise Uncertain(fault)
        if fault.startswith("killed"):
            self.kill.add(message.id)
        return Sent(f"SM{len(self.taken)}-{message.id}")

    def look_up(self, client: object, way: SmsNumber, message: OutSms) -> Sent | None:
        self.asked += 1
        if self.plan.random() < 0.2:
            raise Temporary("503")
        assert message.since is not None
        mine = [(to, text) for to, text, at in self.taken if at >= message.since]
        return Sent(f"found-{message.id}") if (message.recipient, message.text) in mine else None


def drain(stage: Stage, sender: SmsSender, provider: Faulty, pool: ThreadPoolExecutor) -> None:
    """The worker until nothing waits any more, killed and started again wherever the plan says so."""
    box = Box(stage.desk.config, "me")

    def fail_point(place: str) -> None:
        if place == "delivery.noted" and provider.kill:
            provider.kill.clear()
            raise Killed

    try:
        while row("select 1 from outbox where state in ('ready', 'sending', 'uncertain', 'held') limit 1"):
            try:
                deliver(
                    box,
                    lambda letter: Rendered(f"message {letter.outgoing.id}".encode(), "", ""),
                    {Medium.SMS: sender},
                    stage.clock,
                    pool,
                    fail_point=fail_point,
                    can_look_up=sender.can_look_up,
                    jitter=provider.plan.random,
                )
            except Killed:
                with store.writing():
                    outbox.free(stage.clock.now, {})
            stage.go(5 * SECOND)
            with store.writing():
                outbox.settle_uncertain(stage.clock.now)
    finally:
        box.close()


def test_of_six_hundred_sms_under_faults_none_is_lost_none_doubled_and_each_phone_gets_them_in_order(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    phones = [f"+4477009{n:05}" for n in range(60)]
    with store.writing():
        for n in range(600):
            insert(
                Outbox, key=f"r{n}", kind="answer", medium="sms", recipient=phones[n % 60], number=OURS,
                created_at=micros(stage.clock.now), not_before=micros(stage.clock.now),
            )  # fmt: skip
    provider = Faulty(random.Random(20261125), stage.clock)
    seconds: Callable[[], float] = lambda: stage.clock.now.timestamp()  # noqa: E731 - the sender's clock is ours
    sender = SmsSender(stage.desk.config, driver=provider.module, clock=seconds, pause=lambda _: None)
    monkeypatch.setattr(stage.rounds, "_asks", sender)
    with ThreadPoolExecutor(8) as pool:
        drain(stage, sender, provider, pool)
    times = Counter(text for _, text, _ in provider.taken)
    assert {text for text, n in times.items() if n > 1} == set(), "doubled"
    assert len(times) == 600, "lost"
    assert rows("select state, count(*) from outbox group by state") == [("sent", 600)]
    order = defaultdict(list)
    for phone, text, _ in provider.taken:
        order[phone].append(int(text.split()[1]))
    assert all(ids == sorted(ids) for ids in order.values())
    assert provider.asked > 100
    assert min(provider.seen[fault] for fault in FAULTS) >= 20, provider.seen
