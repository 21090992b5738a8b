"""SMS on their way out: number, driver, rate, a provider left alone, and when one is tried again (sms.md 4.8)."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import pytest

from gateway.config import Config, SmsNumber, parse
from gateway.values import (
    Caps,
    Later,
    Medium,
    NoticeKind,
    Outgoing,
    OutSms,
    Permanent,
    Refusal,
    Refused,
    Sent,
    Temporary,
    Uncertain,
)
from outbound.delivery import deliver, next_sms
from outbound.render import Letter, Rendered
from outbound.sms_out import MOST_PAUSE, SmsSender, Throttle

NOW = datetime(2026, 11, 25, 10, 0, tzinfo=UTC)
SECOND, MINUTE, HOUR = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1)
PHONE, OURS, POOL, OTHER = "+447700900123", "+447700900999", "+447700900998", "+447700900777"
HTTP = {"url": "https://sms.example/send", "secret": "12345678"}


def config(folder: Path, **first: Any) -> Config:
    number = {"number": OURS, "driver": "http", "http": HTTP, "pool": [POOL], "per_second": 1000, **first}
    second = {"number": OTHER, "driver": "kannel", "kannel": {"secret": "12345678"}}
    web = {"public_url": "https://desk.example"}
    return parse({"sms": [number, second], "data": {"dir": str(folder)}, "web": web}, {})


def row(id: int = 1, number: str = OURS, text: str = "Hello", **more: Any) -> Outgoing:
    start = Outgoing(
        id, 1001, 5, NoticeKind.ANSWER, Medium.SMS, PHONE, None, 1, NOW, text.encode(), "", "", {}, number=number
    )
    return replace(start, **more)


@dataclass
class Provider:
    """A driver that remembers what it was given and does what it is told."""

    answer: Callable[[OutSms], Sent] = lambda message: Sent("SM1", "queued")
    caps: Caps = field(default_factory=lambda: Caps(can_look_up=True))
    known: Sent | None = None
    sent: list[tuple[str, OutSms]] = field(default_factory=list)
    asked: list[OutSms] = field(default_factory=list)
    connected: list[str] = field(default_factory=list)

    def module(self, name: str) -> ModuleType:
        def connect(way: SmsNumber, config: Config) -> str:
            self.connected.append(way.number)
            return f"client of {way.number}"

        def send(client: str, way: SmsNumber, message: OutSms) -> Sent:
            assert client == f"client of {way.number}"
            self.sent.append((name, message))
            return self.answer(message)

        def look_up(client: str, way: SmsNumber, message: OutSms) -> Sent | None:
            self.asked.append(message)
            return self.known

        return cast(ModuleType, SimpleNamespace(CAPS=self.caps, connect=connect, send=send, look_up=look_up))


@dataclass
class Time:
    """Seconds that pass only when somebody waits, or the test says so."""

    at: float = 1000.0
    waited: list[float] = field(default_factory=list)

    def __call__(self) -> float:
        return self.at

    def pause(self, seconds: float) -> None:
        self.waited.append(seconds)
        self.at += seconds


@pytest.fixture
def provider() -> Provider:
    return Provider()


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def sender(tmp_path: Path, provider: Provider, time: Time) -> SmsSender:
    return SmsSender(config(tmp_path), driver=provider.module, clock=time, pause=time.pause)


def raises(error: Exception) -> Callable[[OutSms], Sent]:
    def answer(message: OutSms) -> Sent:
        raise error

    return answer


# -- which number, which driver ----------------------------------------------------------------------------------

WAYS = {
    "its main number": (row(), ("http", OURS)),
    "a number of its pool": (row(number=POOL), ("http", POOL)),
    "another provider's": (row(number=OTHER), ("kannel", OTHER)),
    "the decision named it": (row(number="", data={"from": POOL}), ("http", POOL)),
    "none is named": (row(number=""), ("http", OURS)),
    "a number we no longer have": (row(number="+15551234567"), ("http", OURS)),
}


@pytest.mark.parametrize(("outgoing", "way"), WAYS.values(), ids=WAYS)
def test_it_goes_from_the_rows_number_by_that_numbers_driver(
    outgoing: Outgoing, way: tuple[str, str], sender: SmsSender, provider: Provider
) -> None:
    sent = sender(outgoing)
    ((driver, message),) = provider.sent
    assert (driver, message.sender) == way
    assert sent.sender == way[1], "the row says from which number it went"


def test_the_driver_gets_all_it_needs(sender: SmsSender, provider: Provider) -> None:
    sender(row(17, text="Grüße 🙂", attempts=3))
    ((_, message),) = provider.sent
    callback = "https://desk.example/hooks/http/status?m=17"
    assert message == OutSms(17, OURS, PHONE, "Grüße 🙂", callback, 3, NOW)


def test_a_provider_without_receipts_gets_no_callback(sender: SmsSender, provider: Provider) -> None:
    provider.caps = Caps(receipts=False)
    sender(row())
    assert provider.sent[0][1].callback == ""


@pytest.mark.parametrize(
    ("said", "text", "segments"), [(0, "x" * 160, 1), (0, "x" * 161, 2), (0, "ж" * 71, 2), (3, "x", 3)]
)
def test_segments_are_the_providers_else_counted(
    said: int, text: str, segments: int, sender: SmsSender, provider: Provider
) -> None:
    provider.answer = lambda message: Sent("SM1", segments=said)
    assert sender(row(text=text)).segments == segments


def test_the_number_the_provider_chose_is_told(sender: SmsSender, provider: Provider) -> None:
    provider.answer = lambda message: Sent("SM1", sender="+15550001111")
    assert sender(row()).sender == "+15550001111"


def test_a_client_is_made_once(sender: SmsSender, provider: Provider) -> None:
    for id, number in enumerate((OURS, POOL, OTHER, OURS)):
        sender(row(id, number))
    assert provider.connected == [OURS, OTHER]


def test_without_any_sms_section_it_becomes_a_file_and_says_so(tmp_path: Path) -> None:
    sender = SmsSender(parse({"data": {"dir": str(tmp_path)}}, {}))
    sent = sender(row(17))
    (path,) = (tmp_path / "outgoing").iterdir()
    assert (path.suffix, path.read_text()) == (".txt", "Hello")
    assert sent.words == "not sent: no SMS provider configured"
    assert not sender.can_look_up(row())


def test_what_was_not_rendered_is_not_sent(sender: SmsSender, provider: Provider) -> None:
    with pytest.raises(Permanent):
        sender(row(rendered=None))
    assert provider.sent == []


def test_a_phone_that_opted_out_while_it_waited_gets_nothing(tmp_path: Path, provider: Provider) -> None:
    def allowed(outgoing: Outgoing) -> None:
        raise Refused("opted out", "", Refusal.OPTED_OUT)

    with pytest.raises(Refused):
        SmsSender(config(tmp_path), driver=provider.module, allowed=allowed)(row())
    assert provider.sent == []


def test_asking_afterwards_goes_the_same_way(sender: SmsSender, provider: Provider) -> None:
    assert sender.can_look_up(row())
    assert sender.look_up(row(number=POOL), NOW - HOUR) is None
    provider.known = Sent("SM9")
    assert sender.look_up(row(number=POOL), NOW - HOUR) == Sent("SM9", segments=1, sender=POOL)
    assert {(message.sender, message.since) for message in provider.asked} == {(POOL, NOW - HOUR)}
    provider.caps = Caps()
    assert not sender.can_look_up(row())


# -- how fast ----------------------------------------------------------------------------------------------------


def test_a_number_sends_one_a_second_and_another_number_does_not_wait_for_it(time: Time) -> None:
    throttle = Throttle(time)
    waits = [throttle.wait_of(OURS, id, 1) for id in range(3)]
    assert waits == [0, 1, 2]
    assert throttle.wait_of(POOL, 9, 1) == 0


def test_who_has_to_wait_long_gives_its_place_away_and_finds_its_turn_kept(time: Time) -> None:
    throttle = Throttle(time)
    assert [throttle.wait_of(OURS, id, 1) for id in range(6)] == [0, 1, 2, 3, 4, 5]
    time.at += 3
    assert throttle.wait_of(OURS, 3, 1) == 0
    assert throttle.wait_of(OURS, 7, 1) == 3, "a new one goes behind those that wait"


def test_those_that_come_back_late_do_not_all_go_at_once(time: Time) -> None:
    throttle = Throttle(time)
    for id in range(8):
        throttle.wait_of(OURS, id, 1)
    time.at += 60
    assert [throttle.wait_of(OURS, id, 1) for id in (5, 6, 7)] == [0, 1, 2]


@pytest.mark.parametrize("per_second", [1, 5, 50])
def test_no_number_is_ever_faster_than_it_may_be(per_second: int, time: Time) -> None:
    throttle = Throttle(time)
    went: list[float] = []
    due = dict.fromkeys(range(60), time.at)
    while due:
        id = min(due, key=lambda id: (due[id], id))
        time.at = max(time.at, due.pop(id))
        wait = throttle.wait_of(OURS, id, per_second)
        if wait > MOST_PAUSE:
            due[id] = time.at + wait * 1.17
        else:
            went.append(time.at + wait)
    went.sort()
    assert len(went) == 60
    assert all(later - earlier >= 1 / per_second - 1e-9 for earlier, later in itertools.pairwise(went))


def test_a_429_makes_the_number_half_as_fast_for_a_while(tmp_path: Path, provider: Provider, time: Time) -> None:
    sender = SmsSender(config(tmp_path, per_second=1), driver=provider.module, clock=time, pause=time.pause)
    good, provider.answer = provider.answer, raises(Later("429", 1))
    with pytest.raises(Later):
        sender(row(1))
    provider.answer = good
    began = time.at
    for id in (2, 3, 4):
        sender(row(id))
    assert [round(seconds) for seconds in time.waited] == [2, 2, 2]
    time.at = began + 400
    time.waited.clear()
    for id in (5, 6):
        sender(row(id))
    assert [round(seconds) for seconds in time.waited] == [1]


def test_after_a_429_nobody_goes_before_the_provider_said(sender: SmsSender, provider: Provider, time: Time) -> None:
    good, provider.answer = provider.answer, raises(Later("429", 30))
    with pytest.raises(Later):
        sender(row(1))
    provider.answer = good
    with pytest.raises(Later) as later:
        sender(row(2))
    assert (later.value.seconds, len(provider.sent)) == (30, 1)
    assert sender(row(3, POOL)).provider_id == "SM1", "another number may go"


def test_a_long_wait_is_told_as_a_later_that_costs_no_attempt(tmp_path: Path, provider: Provider, time: Time) -> None:
    sender = SmsSender(config(tmp_path, per_second=0.1), driver=provider.module, clock=time, pause=time.pause)
    sender(row(1))
    with pytest.raises(Later) as later:
        sender(row(2))
    assert (later.value.seconds, len(provider.sent)) == (10, 1)


# -- a provider left alone ---------------------------------------------------------------------------------------


def test_a_provider_that_refuses_our_account_is_left_alone_for_a_quarter_of_an_hour(
    sender: SmsSender, provider: Provider, time: Time
) -> None:
    good, provider.answer = provider.answer, raises(Refused("suspended", "30002", Refusal.ACCOUNT))
    with pytest.raises(Refused):
        sender(row(1))
    provider.answer = good
    time.at += 60
    with pytest.raises(Later, match="suspended") as later:
        sender(row(2))
    assert later.value.seconds == 14 * 60
    assert sender(row(3, OTHER)).provider_id == "SM1", "the other provider's numbers go on"
    time.at += 14 * 60
    assert sender(row(4)).provider_id == "SM1"


@pytest.mark.parametrize("why", [why for why in Refusal if why is not Refusal.ACCOUNT])
def test_no_other_refusal_stops_the_next_message(why: Refusal, sender: SmsSender, provider: Provider) -> None:
    provider.answer = raises(Refused("no", "1", why))
    for id in (1, 2):
        with pytest.raises(Refused):
            sender(row(id))
    assert len(provider.sent) == 2


# -- when it is tried again --------------------------------------------------------------------------------------


def waits(account: int | None) -> list[timedelta]:
    now, outgoing = NOW, row(account=account, attempts=0)
    found: list[timedelta] = []
    while True:
        outgoing = replace(outgoing, attempts=outgoing.attempts + 1)
        again = next_sms(outgoing, Temporary("nobody listens"), now, 0.0)
        if again is None:
            return found
        found.append(again - now)
        now = again


def test_the_waits_of_an_sms_read_aloud() -> None:
    assert waits(2) == [5 * SECOND, 15 * SECOND, 60 * SECOND, 5 * MINUTE, 15 * MINUTE]
    assert waits(None)[:7] == [5 * SECOND, 15 * SECOND, 60 * SECOND, 5 * MINUTE, 15 * MINUTE, HOUR, HOUR]
    assert 23 * HOUR < sum(waits(None), timedelta()) <= 24 * HOUR


def test_jitter_adds_up_to_a_fifth() -> None:
    assert next_sms(row(), Temporary(), NOW, 1.0) == NOW + 6 * SECOND


def test_a_provider_that_says_when_is_heeded() -> None:
    assert next_sms(row(attempts=5), Later("429", 7), NOW, 0.0) == NOW + 7 * SECOND
    assert next_sms(row(attempts=2), Later("429"), NOW, 0.0) == NOW + 15 * SECOND
    assert next_sms(row(account=2), Later("429", 3600), NOW, 0.0) is None, "half an hour is all it is worth"


# -- what delivery makes of it -----------------------------------------------------------------------------------


@dataclass
class OneRow:
    """An outbox with one row; remembers what is recorded."""

    outgoing: Outgoing
    log: list[tuple[Any, ...]] = field(default_factory=list)
    left: bool = True

    def claim(self, now: datetime, limit: int) -> list[list[Outgoing]]:
        lanes = [[self.outgoing]] if self.left else []
        self.left = False
        return lanes

    def put_back(self, id: int, now: datetime) -> None:
        self.log.append(("put back",))

    def letter(self, outgoing: Outgoing) -> Letter:
        return Letter(outgoing)

    def keep_rendered(self, rendered: Any) -> None:
        pass

    def record_sent(self, taken: Any, now: datetime) -> None:
        self.log.append(("sent", taken[0][1].provider_id))

    def record_failed(self, id: int, words: str, again_at: datetime | None, now: datetime) -> None:
        self.log.append(("failed", again_at and again_at - now))

    def record_later(self, id: int, words: str, again_at: datetime, now: datetime) -> None:
        self.log.append(("later", again_at - now))

    def record_uncertain(self, id: int, words: str, again_at: datetime | None, now: datetime) -> None:
        self.log.append(("uncertain", again_at and again_at - now))

    def record_refused(self, outgoing: Outgoing, refused: Refused, now: datetime) -> None:
        self.log.append(("refused", refused.why))


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as executor:
        yield executor


OUTCOMES: dict[str, tuple[Exception | None, bool, tuple[Any, ...]]] = {
    "taken": (None, True, ("sent", "SM1")),
    "nobody listens": (Temporary("refused"), True, ("failed", 5 * SECOND)),
    "429": (Later("429", 9), True, ("later", 9 * SECOND)),
    "no answer, and it can be asked": (Uncertain("timed out"), True, ("uncertain", MINUTE)),
    "no answer, and nobody can be asked": (Uncertain("timed out"), False, ("uncertain", None)),
    "a driver fails in a way of its own": (KeyError("sid"), True, ("uncertain", MINUTE)),
    "refused": (Refused("no", "21211", Refusal.NUMBER), True, ("refused", Refusal.NUMBER)),
    "impossible": (Permanent("nothing to send"), True, ("failed", None)),
}


@pytest.mark.parametrize(("error", "can_look_up", "recorded"), OUTCOMES.values(), ids=OUTCOMES)
def test_what_is_recorded_of_an_sms(
    error: Exception | None,
    can_look_up: bool,
    recorded: tuple[Any, ...],
    sender: SmsSender,
    provider: Provider,
    pool: ThreadPoolExecutor,
) -> None:
    provider.caps = Caps(can_look_up=can_look_up)
    if error is not None:
        provider.answer = raises(error)
    box = OneRow(row())
    deliver(
        box,
        lambda letter: Rendered(b"", "", ""),
        {Medium.SMS: sender},
        lambda: NOW,
        pool,
        jitter=lambda: 0.0,
        can_look_up=sender.can_look_up,
    )
    assert box.log == [recorded]
