"""Delivery against an outbox in memory: lanes, one rendering, the table of retries, what is recorded when."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from gateway.values import Medium, NoticeKind, OutboxState, Outgoing, Permanent, Refused, Sent, Temporary, Uncertain
from outbound import journal
from outbound.delivery import deliver, next_attempt
from outbound.render import Letter, Rendered

NOW = datetime(2026, 11, 23, 14, 5, tzinfo=UTC)
MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)


# -- doubles -----------------------------------------------------------------------------------------------------


@dataclass
class Row:
    outgoing: Outgoing
    state: OutboxState = OutboxState.READY
    not_before: datetime = NOW
    words: str = ""
    log: list[str] = field(default_factory=list)


class MemoryBox:
    """An outbox that keeps the store's promises: one lane per (medium, recipient), held rows wait, attempts count.

    As the store does, it hands out a lane's head with the untried rows behind it.
    """

    def __init__(self) -> None:
        self.rows: dict[int, Row] = {}
        self.lock = threading.Lock()
        self.letters = 0
        self.broken_records = 0  # so many records fail

    def add(self, recipient: str = "ann@example.com", medium: Medium = Medium.MAIL, attempts: int = 0) -> Row:
        id = len(self.rows) + 1
        outgoing = Outgoing(
            id,
            1001,
            id,
            NoticeKind.ANSWER,
            medium,
            recipient,
            None,
            attempts,
            NOW,
            None,
            "",
            "",
            {"words": f"no. {id}"},
        )
        self.rows[id] = Row(outgoing)
        return self.rows[id]

    def claim(self, now: datetime, limit: int) -> list[list[Outgoing]]:
        with self.lock:
            heads = [row for row in self.rows.values() if self._due(row, now)][:limit]
            return [[self._take(row) for row in (head, *self._behind(head, now))] for head in heads]

    def _take(self, row: Row) -> Outgoing:
        row.state = OutboxState.SENDING
        row.outgoing = replace(row.outgoing, attempts=row.outgoing.attempts + 1)
        return row.outgoing

    def _behind(self, head: Row, now: datetime) -> list[Row]:
        return [
            row
            for row in self.rows.values()
            if row.outgoing.id > head.outgoing.id
            and (row.outgoing.medium, row.outgoing.recipient) == (head.outgoing.medium, head.outgoing.recipient)
            and (row.state, row.outgoing.attempts) == (OutboxState.READY, 0)
            and row.not_before <= now
        ]

    def put_back(self, id: int, now: datetime) -> None:
        with self.lock:
            row = self.rows[id]
            row.state = OutboxState.READY
            row.outgoing = replace(row.outgoing, attempts=row.outgoing.attempts - 1)

    def _due(self, row: Row, now: datetime) -> bool:
        waits = row.state in (OutboxState.READY, OutboxState.HELD) and row.not_before <= now
        return waits and not any(
            other.outgoing.id < row.outgoing.id
            and (other.outgoing.medium, other.outgoing.recipient) == (row.outgoing.medium, row.outgoing.recipient)
            and (
                other.state in (OutboxState.SENDING, OutboxState.UNCERTAIN)
                or (other.state is OutboxState.READY and other.outgoing.attempts < 3)
            )
            for other in self.rows.values()
        )

    def letter(self, outgoing: Outgoing) -> Letter:
        self.letters += 1
        return Letter(outgoing)

    def keep_rendered(self, rendered: Sequence[Outgoing]) -> None:
        for outgoing in rendered:
            self.rows[outgoing.id].outgoing = outgoing

    def record_sent(self, taken: Sequence[tuple[int, Sent]], now: datetime) -> None:
        for id, sent in taken:
            self._record(id, OutboxState.SENT, sent.words, NOW)

    def record_failed(self, id: int, words: str, again_at: datetime | None, now: datetime) -> None:
        self._record(id, OutboxState.READY if again_at else OutboxState.DEAD, words, again_at or now)

    def record_uncertain(self, id: int, words: str, again_at: datetime | None, now: datetime) -> None:
        self._record(id, OutboxState.READY if again_at else OutboxState.UNCERTAIN, words, again_at or now)

    def record_later(self, id: int, words: str, again_at: datetime, now: datetime) -> None:
        self._record(id, OutboxState.READY, words, again_at)

    def record_refused(self, outgoing: Outgoing, refused: Refused, now: datetime) -> None:
        self._record(outgoing.id, OutboxState.DEAD, str(refused), now)

    def _record(self, id: int, state: OutboxState, words: str, not_before: datetime) -> None:
        with self.lock:
            if self.broken_records:
                self.broken_records -= 1
                raise Temporary("the database is locked")
            row = self.rows[id]
            row.state, row.words, row.not_before = state, words, not_before
            row.log.append(words)


def render(letter: Letter) -> Rendered:
    id = letter.outgoing.id
    return Rendered(f"mail {id} rendered at attempt {letter.outgoing.attempts}".encode(), f"m{id}@acme", f"b{id}@acme")


class Way:
    """A sender that remembers what it was given and does what it is told."""

    def __init__(self, answer: Callable[[Outgoing], Sent] = lambda outgoing: Sent(words="250 ok")) -> None:
        self.answer = answer
        self.sent: list[Outgoing] = []
        self.busy: set[str] = set()
        self.most_at_once = 0
        self.lock = threading.Lock()

    def __call__(self, outgoing: Outgoing) -> Sent:
        with self.lock:
            assert outgoing.recipient not in self.busy, "two messages of one lane at once"
            self.busy.add(outgoing.recipient)
            self.most_at_once = max(self.most_at_once, len(self.busy))
            self.sent.append(outgoing)
        try:
            return self.answer(outgoing)
        finally:
            with self.lock:
                self.busy.remove(outgoing.recipient)


@pytest.fixture
def box() -> MemoryBox:
    return MemoryBox()


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as executor:
        yield executor


@dataclass
class Clock:
    now: datetime = NOW

    def __call__(self) -> datetime:
        return self.now


def drain(
    box: MemoryBox,
    pool: ThreadPoolExecutor,
    way: Way,
    *,
    now: datetime = NOW,
    journal: Path | None = None,
    fail_point: Callable[[str], None] = lambda name: None,
    pause: Callable[[float], None] = lambda seconds: None,
    stopped: Callable[[], bool] = lambda: False,
) -> int:
    senders = {Medium.MAIL: way, Medium.SMS: way}
    clock = Clock(now)
    return deliver(
        box,
        render,
        senders,
        clock,
        pool,
        journal=journal,
        fail_point=fail_point,
        jitter=lambda: 0.0,
        pause=pause,
        stopped=stopped,
    )


def fails(error: Exception) -> Way:
    def answer(outgoing: Outgoing) -> Sent:
        raise error

    return Way(answer)


# -- when to try again -------------------------------------------------------------------------------------------


def test_the_table_of_waits_read_aloud() -> None:
    busy = Temporary("451 try later")
    waits = []
    for attempts in range(1, 100):
        again = next_attempt(attempts, busy, NOW, 0.0)
        if again is None:
            break
        waits.append(again - NOW)
    assert waits[:9] == [MINUTE, 5 * MINUTE, 15 * MINUTE, 30 * MINUTE, HOUR, 2 * HOUR, 4 * HOUR, 4 * HOUR, 4 * HOUR]
    assert set(waits[9:]) == {4 * HOUR}
    assert timedelta(days=5) - 4 * HOUR < sum(waits, timedelta()) <= timedelta(days=5)


@pytest.mark.parametrize(
    ("error", "waits"),
    [
        (Permanent("550 no such user"), [None]),
        (Uncertain("no answer after the final dot"), [timedelta(seconds=60), None, None]),
        (KeyError("a mistake of ours"), [MINUTE, 5 * MINUTE, 15 * MINUTE, None]),
    ],
    ids=["refused for good", "nobody knows", "our own error"],
)
def test_what_else_can_happen(error: Exception, waits: list[timedelta | None]) -> None:
    said = [next_attempt(attempts, error, NOW, 0.0) for attempts in range(1, len(waits) + 1)]
    assert said == [None if wait is None else NOW + wait for wait in waits]


def test_jitter_spreads_by_a_tenth_at_most() -> None:
    assert next_attempt(5, Temporary(), NOW, 1.0) == NOW + HOUR * 1.1
    assert next_attempt(5, Temporary(), NOW, 0.5) == NOW + HOUR * 1.05


# -- what becomes of a message -----------------------------------------------------------------------------------


def test_what_is_taken_is_sent_with_the_servers_words(box: MemoryBox, pool: ThreadPoolExecutor) -> None:
    row = box.add()
    way = Way(lambda outgoing: Sent(words="250 queued as 4711"))
    assert drain(box, pool, way) == 1
    assert (row.state, row.words) == (OutboxState.SENT, "250 queued as 4711")
    assert (way.sent[0].rendered, way.sent[0].envelope_sender) == (b"mail 1 rendered at attempt 1", "b1@acme")


def test_what_is_refused_for_now_waits_and_goes_again_with_the_same_bytes(
    box: MemoryBox, pool: ThreadPoolExecutor
) -> None:
    row = box.add()
    drain(box, pool, fails(Temporary("451 greylisted")))
    assert (row.state, row.words, row.not_before) == (OutboxState.READY, "451 greylisted", NOW + MINUTE)
    way = Way()
    assert drain(box, pool, way, now=NOW + 59 * timedelta(seconds=1)) == 0, "not yet"
    assert drain(box, pool, way, now=NOW + MINUTE) == 1
    assert row.state is OutboxState.SENT
    assert (way.sent[0].rendered, way.sent[0].message_id) == (b"mail 1 rendered at attempt 1", "m1@acme")
    assert box.letters == 1, "rendered once"


def test_what_is_refused_for_good_is_dead_at_once(box: MemoryBox, pool: ThreadPoolExecutor) -> None:
    row = box.add()
    drain(box, pool, fails(Permanent("RCPT: 550 5.1.1 no such user")))
    assert (row.state, row.words) == (OutboxState.DEAD, "RCPT: 550 5.1.1 no such user")


def test_a_mail_that_may_have_arrived_is_repeated_once_and_then_shown_to_a_person(
    box: MemoryBox, pool: ThreadPoolExecutor
) -> None:
    row = box.add()
    silent = fails(Uncertain("no answer after the final dot"))
    drain(box, pool, silent)
    assert (row.state, row.not_before) == (OutboxState.READY, NOW + timedelta(seconds=60))
    drain(box, pool, silent, now=NOW + MINUTE)
    assert row.state is OutboxState.UNCERTAIN
    first, second = silent.sent
    assert (first.rendered, first.message_id) == (second.rendered, second.message_id)


@pytest.mark.parametrize("error", [Uncertain("timed out"), ConnectionResetError("by the provider")])
def test_an_sms_that_may_have_left_is_never_sent_again(
    box: MemoryBox, pool: ThreadPoolExecutor, error: Exception
) -> None:
    row = box.add("+49301234", Medium.SMS)
    drain(box, pool, fails(error))
    assert row.state is OutboxState.UNCERTAIN


def test_our_own_error_stops_one_message_and_not_the_others(
    box: MemoryBox, pool: ThreadPoolExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    bad, good = box.add("bad@example.com"), box.add("good@example.com")

    def answer(outgoing: Outgoing) -> Sent:
        if outgoing.recipient.startswith("bad"):
            raise KeyError("a mistake")
        return Sent(words="250 ok")

    assert drain(box, pool, Way(answer)) == 2
    assert good.state is OutboxState.SENT
    assert (bad.state, bad.words) == (OutboxState.READY, "our own error: KeyError: 'a mistake'")
    assert "our own error" in caplog.text


def test_a_medium_without_a_way_out_is_dead_and_says_so(box: MemoryBox, pool: ThreadPoolExecutor) -> None:
    row = box.add("https://hooks.example", Medium.WEBHOOK)
    drain(box, pool, Way())
    assert (row.state, row.words) == (OutboxState.DEAD, "there is no way out for webhook")


def test_what_was_taken_back_is_not_sent(box: MemoryBox, pool: ThreadPoolExecutor) -> None:
    row = box.add()
    row.state, row.not_before = OutboxState.HELD, NOW + timedelta(seconds=15)
    way = Way()
    assert drain(box, pool, way) == 0, "held"
    row.state = OutboxState.CANCELLED
    assert drain(box, pool, way, now=NOW + MINUTE) == 0
    assert way.sent == []


def test_what_was_not_taken_back_goes_when_its_time_has_come(box: MemoryBox, pool: ThreadPoolExecutor) -> None:
    row = box.add()
    row.state, row.not_before = OutboxState.HELD, NOW + timedelta(seconds=15)
    assert drain(box, pool, Way(), now=NOW + timedelta(seconds=15)) == 1
    assert row.state is OutboxState.SENT


# -- the drain ---------------------------------------------------------------------------------------------------


def test_one_person_gets_his_messages_one_after_the_other_in_order(box: MemoryBox, pool: ThreadPoolExecutor) -> None:
    for _ in range(10):
        box.add("ann@example.com")
        box.add("bob@example.com")

    def answer(outgoing: Outgoing) -> Sent:
        time.sleep(0.002)
        return Sent()

    way = Way(answer)
    assert drain(box, pool, way) == 20
    for name in ("ann", "bob"):
        ids = [o.id for o in way.sent if o.recipient == f"{name}@example.com"]
        assert ids == sorted(ids)


@pytest.mark.parametrize(
    ("error", "sent", "state"),
    [
        (Temporary("451 busy"), [1], OutboxState.READY),
        (Uncertain("no answer"), [1], OutboxState.READY),
        (Permanent("550 no"), [1, 2, 3], OutboxState.DEAD),
    ],
    ids=["waits", "may have arrived", "dead"],
)
def test_behind_a_message_that_waits_the_others_wait_and_behind_a_dead_one_they_go(
    box: MemoryBox, pool: ThreadPoolExecutor, error: Exception, sent: list[int], state: OutboxState
) -> None:
    first, second, third = box.add(), box.add(), box.add()

    def answer(outgoing: Outgoing) -> Sent:
        if outgoing.id == 1:
            raise error
        return Sent()

    way = Way(answer)
    assert drain(box, pool, way) == len(sent)
    assert [outgoing.id for outgoing in way.sent] == sent
    assert first.state is state
    for row in (second, third):
        assert row.state is (OutboxState.SENT if len(sent) > 1 else OutboxState.READY)
        assert row.outgoing.attempts == (1 if len(sent) > 1 else 0), "what was not tried does not count"


def test_after_three_refusals_a_message_holds_up_the_others_no_more(box: MemoryBox, pool: ThreadPoolExecutor) -> None:
    box.add(attempts=2)
    second = box.add()

    def answer(outgoing: Outgoing) -> Sent:
        if outgoing.id == 1:
            raise Temporary("451 busy")
        return Sent()

    assert drain(box, pool, Way(answer)) == 2
    assert second.state is OutboxState.SENT


def test_eight_are_on_their_way_at_once_and_no_more_are_claimed(box: MemoryBox, pool: ThreadPoolExecutor) -> None:
    for number in range(40):
        box.add(f"p{number}@example.com")
    most_claimed = 0

    def answer(outgoing: Outgoing) -> Sent:
        nonlocal most_claimed
        claimed = sum(row.state is OutboxState.SENDING for row in box.rows.values())
        most_claimed = max(most_claimed, claimed)
        time.sleep(0.005)
        return Sent()

    way = Way(answer)
    assert drain(box, pool, way) == 40
    assert most_claimed <= 8
    assert way.most_at_once == 8


def test_a_slow_server_for_one_does_not_hold_up_the_others(box: MemoryBox, pool: ThreadPoolExecutor) -> None:
    box.add("slow@example.com")
    for number in range(20):
        box.add(f"p{number}@example.com")
    others_done = threading.Event()

    def answer(outgoing: Outgoing) -> Sent:
        if outgoing.recipient == "slow@example.com":
            assert others_done.wait(10), "the others wait for the slow one"
        elif sum(row.state is OutboxState.SENT for row in box.rows.values()) >= 18:
            others_done.set()
        return Sent()

    assert drain(box, pool, Way(answer)) == 21


def test_a_worker_that_stops_gives_back_what_it_has_not_tried(box: MemoryBox, pool: ThreadPoolExecutor) -> None:
    first, second = box.add(), box.add()
    stop = threading.Event()

    def answer(outgoing: Outgoing) -> Sent:
        stop.set()
        return Sent(words="250 ok")

    assert drain(box, pool, Way(answer), stopped=stop.is_set) == 1
    assert (first.state, second.state, second.outgoing.attempts) == (OutboxState.SENT, OutboxState.READY, 0)


def test_a_slow_server_does_not_hold_up_what_falls_due_meanwhile(box: MemoryBox, pool: ThreadPoolExecutor) -> None:
    box.add("slow@example.com")
    ended: list[str] = []

    def answer(outgoing: Outgoing) -> Sent:
        if outgoing.recipient == "slow@example.com":
            box.add("ann@example.com")
            time.sleep(0.8)
        ended.append(outgoing.recipient)
        return Sent(words="250 ok")

    drain(box, pool, Way(answer))
    assert ended == ["ann@example.com", "slow@example.com"]


def test_large_mails_do_not_gather_in_memory(box: MemoryBox, pool: ThreadPoolExecutor) -> None:
    for _ in range(3):
        box.add()
    kept: list[int] = []
    keep = box.keep_rendered

    def noting(rendered: Sequence[Outgoing]) -> None:
        kept.append(len(rendered))
        keep(rendered)

    box.keep_rendered = noting  # type: ignore[method-assign]
    deliver(
        box, lambda letter: Rendered(b"x" * 300_000, "m@acme", ""), {Medium.MAIL: Way()}, lambda: NOW, pool
    )  # fmt: skip
    assert kept == [1, 1, 1]


# -- between the 250 and our commit ------------------------------------------------------------------------------


class Killed(BaseException):
    """Stands for kill -9: nothing after it happens."""


def killed_at(place: str) -> Callable[[str], None]:
    def fail_point(name: str) -> None:
        if name == place:
            raise Killed

    return fail_point


def test_the_places_where_a_drill_may_stop_it_in_order(box: MemoryBox, pool: ThreadPoolExecutor) -> None:
    box.add()
    reached: list[str] = []
    drain(box, pool, Way(), fail_point=reached.append)
    assert reached == ["delivery.claimed", "delivery.rendered", "delivery.sent", "delivery.noted"]


@pytest.mark.parametrize(
    ("place", "sent", "settled"),
    [
        ("delivery.claimed", 0, {}),
        ("delivery.rendered", 0, {}),
        ("delivery.sent", 1, {}),  # the only window left: the mail is repeated
        ("delivery.noted", 1, {1: "250 ok"}),
    ],
)
def test_what_the_journal_knows_after_a_kill(
    box: MemoryBox, pool: ThreadPoolExecutor, tmp_path: Path, place: str, sent: int, settled: dict[int, str]
) -> None:
    row = box.add()
    way = Way()
    with pytest.raises(Killed):
        drain_and_die(box, pool, way, tmp_path / "sent.journal", place)
    assert len(way.sent) == sent
    assert row.state is OutboxState.SENDING
    assert journal.settled(tmp_path / "sent.journal") == settled


def drain_and_die(box: MemoryBox, pool: ThreadPoolExecutor, way: Way, path: Path, place: str) -> None:
    drain(box, pool, way, journal=path, fail_point=killed_at(place))


def test_what_is_recorded_is_settled_no_more(box: MemoryBox, pool: ThreadPoolExecutor, tmp_path: Path) -> None:
    box.add()
    drain(box, pool, Way(), journal=tmp_path / "sent.journal")
    assert journal.settled(tmp_path / "sent.journal") == {}


def test_what_was_sent_is_recorded_although_the_database_refuses_at_first(
    box: MemoryBox, pool: ThreadPoolExecutor, tmp_path: Path
) -> None:
    row = box.add()
    box.broken_records = 3
    way = Way()
    drain(box, pool, way, journal=tmp_path / "sent.journal")
    assert row.state is OutboxState.SENT
    assert len(way.sent) == 1


def test_what_was_sent_and_never_recorded_is_in_the_journal(
    box: MemoryBox, pool: ThreadPoolExecutor, tmp_path: Path
) -> None:
    row = box.add()
    box.broken_records = 1_000
    stop = threading.Event()
    drain(box, pool, Way(), journal=tmp_path / "sent.journal", pause=lambda s: stop.set(), stopped=stop.is_set)
    assert row.state is OutboxState.SENDING
    assert journal.settled(tmp_path / "sent.journal") == {1: "250 ok"}


def test_a_journal_that_cannot_be_written_stops_nothing(
    box: MemoryBox, pool: ThreadPoolExecutor, tmp_path: Path
) -> None:
    row = box.add()
    drain(box, pool, Way(), journal=tmp_path / "no such folder" / "sent.journal")
    assert row.state is OutboxState.SENT


# -- the journal -------------------------------------------------------------------------------------------------


def test_the_journal_of_a_fresh_installation_is_empty(tmp_path: Path) -> None:
    assert journal.settled(tmp_path / "sent.journal") == {}
    journal.clear(tmp_path / "sent.journal")
    journal.shorten(tmp_path / "sent.journal")


def test_a_line_says_which_row_and_in_whose_words(tmp_path: Path) -> None:
    path = tmp_path / "sent.journal"
    journal.note_sent(path, 7, "250 ok\nsent 8 forged")
    journal.note_sent(path, 9, "")
    journal.note_recorded(path, 9)
    assert journal.settled(path) == {7: "250 ok sent 8 forged"}
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("rest", [b"sent 12", b"sent 1", b"\0\0\0\0", b"sent x y\n", b"recorded 7", b"\xff\xfe\n"])
def test_a_line_cut_short_counts_for_nothing(tmp_path: Path, rest: bytes) -> None:
    path = tmp_path / "sent.journal"
    journal.note_sent(path, 7, "250 ok")
    with path.open("ab") as file:
        file.write(rest)
    assert journal.settled(path) == {7: "250 ok"}


def test_a_long_journal_is_emptied_only_when_all_is_recorded(tmp_path: Path) -> None:
    path = tmp_path / "sent.journal"
    for id in range(1, 1_500):
        journal.note_sent(path, id, "250 2.0.0 ok: queued as 4bXyZ")
        if id != 700:
            journal.note_recorded(path, id)
    assert path.stat().st_size > journal.LIMIT
    journal.shorten(path)
    assert journal.settled(path) == {700: "250 2.0.0 ok: queued as 4bXyZ"}
    journal.note_recorded(path, 700)
    journal.shorten(path)
    assert path.stat().st_size == 0
