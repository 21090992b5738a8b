"""What a hostile review of the SMS core found: each test says what should be. Those that still fail are marked so."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import psycopg
import pytest

from gateway import desk, kept, store
from gateway.commands import normalise
from gateway.config import SmsNumber, parse
from gateway.decide.notices import quiet_seconds
from gateway.model import Account, Address, Contact, ContactAddress, Ticket, execute, insert, micros, row, rows
from gateway.segments import count
from gateway.store import audit, facts, intake
from gateway.values import (
    Action,
    Answer,
    Assign,
    Close,
    Envelope,
    FilePart,
    Medium,
    Move,
    Proof,
    Purpose,
    Reopen,
    Revoke,
    Rule,
    Ruling,
    Sms,
    Written,
)
from tests import conftest, loopback
from tests.conftest import SETTINGS, DeskDb, Result, close_desk, letter, open_desk
from tests.dialogues.acting import OURS, START, Stage, _deliver, _no_mail, _pass_time
from tests.servers import need

SECOND, MINUTE, HOUR, DAY = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
ANN, BEN, TOM, BOB, MAX = "+447700900111", "+447700900112", "+447700900211", "+447700900212", "+447700900311"
OTHER = "+447700900998"  # a second number of ours


@dataclass(slots=True)
class Scene:
    """A desk with SMS, a clock, and phones that text it."""

    db: DeskDb
    stage: Stage
    now: datetime
    people: dict[str, int] = field(default_factory=dict)
    accounts: dict[str, int] = field(default_factory=dict)
    texts: int = 0

    # -- before it begins

    def person(self, name: str, *phones: str, mail: str = "", role: str = "", organisation: int | None = None) -> int:
        """A customer, or with a role one of us; his contact."""
        at = micros(self.now - 90 * DAY)
        with store.writing():
            kind = "employee" if role else "customer"
            contact = insert(Contact, name=name, kind=kind, organisation=organisation, created_at=at)
            mail = mail or (f"{name.split()[0].lower()}@field.example" if role else "")
            if role:
                self.accounts[name] = insert(Account, contact=contact, address=mail, roles=role, created_at=at)
            for medium, value in [*(("sms", phone) for phone in phones), *([("mail", mail)] if mail else [])]:
                known = row("select id from address where value = ?", value)
                address = known[0] if known else insert(Address, medium=medium, value=value)
                verified = at if role and medium == "sms" else None
                insert(ContactAddress, contact=contact, address=address, verified_at=verified, last_seen=at)
        self.people[name] = contact
        return contact

    def ticket(self, subject: str, of: int | None = None, address: str = ANN, **columns: Any) -> int:
        """A ticket as it stands before the scene."""
        at = micros(columns.pop("at", self.now - 2 * DAY))
        with store.writing():
            number = int(row("select coalesce(max(number), 1000) + 1 from ticket")[0])
            known = {"inbox": self.db.config.inboxes[0].address, "status": "open", "acquisition": "sms"} | columns
            insert(
                Ticket, number=number, subject=subject, requester=of, requester_address=address, next_at=at,
                opened_at=at, updated_at=at, **known,
            )  # fmt: skip
        return number

    # -- what happens

    def text(self, phone: str, words: str, after: timedelta = MINUTE, to: str = OURS, **more: Any) -> int:
        """A text comes in and is worked through; its mailroom row."""
        inbound = self.arrives(phone, words, after, to, **more)
        self.work()
        return inbound

    def arrives(self, phone: str, words: str, after: timedelta = MINUTE, to: str = OURS, **more: Any) -> int:
        """A text comes in, and waits."""
        self.passes(after)
        self.texts += 1
        sms = Sms("file", f"R{self.texts}", phone, to, words, **{"at": self.now, **more})
        with store.writing():
            assert intake.add(kept.arrival(sms, self.now), "")
        return self.db.newest("inbound")

    def work(self) -> None:
        """What waits is worked through, and what is due goes out."""
        with ThreadPoolExecutor(1) as pool:
            desk.process(desk.Desk(self.db.config, self.db.keys, _no_mail, pool, now=lambda: self.now))
        _deliver(self.stage, self.now)

    def passes(self, span: timedelta) -> None:
        """Time passes, with all that the clock brings."""
        self.now += span
        _pass_time(self.stage, self.now)

    def perform(self, action: Action, by: str = "Ada", after: timedelta = SECOND) -> Written:
        """One of us does something on a page."""
        self.passes(after)
        actor = facts.accounts_by_id([self.accounts[by]])[self.accounts[by]]
        written = desk.perform(self.db.config, action, actor, self.now)
        _deliver(self.stage, self.now)
        return written

    # -- what is to be seen

    def outcome(self, inbound: int) -> tuple[str, str, int | None]:
        """State, reason and ticket of a received text."""
        return tuple(row("select state, reason, ticket from inbound where id = ?", inbound))

    def said(self, phone: str) -> list[str]:
        """What went to a phone, oldest first."""
        found = rows("select rendered from outbox where recipient = ? and medium = 'sms' order by id", phone)
        return [bytes(line[0] or b"").decode() for line in found]

    def kinds(self, phone: str) -> list[str]:
        """The kinds of what went to a phone, oldest first."""
        return [line[0] for line in rows("select kind from outbox where recipient = ? order by id", phone)]

    def columns(self, number: int, *names: str) -> tuple[Any, ...]:
        """Columns of a ticket."""
        return tuple(row(f"select {', '.join(names)} from ticket where number = ?", number))  # noqa: S608

    def code(self, phone: str) -> str:
        """The newest code that was sent to a phone."""
        found = rows("select data from outbox where kind = 'code' and recipient = ? order by id desc", phone)
        return next((str(code) for (data,) in found if (code := json.loads(data).get("code"))), "")

    def words_on(self, number: int) -> list[str]:
        """The words of a ticket's entries, as its page shows them (what was moved away is not on it)."""
        found = rows(
            "select b.text from entry e join body b on b.entry = e.id left join inbound i on i.id = e.inbound "
            "left join reference r on r.value = i.message_id and r.entry = e.id "
            "where coalesce(r.ticket, e.ticket) = ? and b.text <> '' order by e.id",
            number,
        )
        return [line[0] for line in found]


Play = Callable[..., Scene]


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    """The URL of a private PostgreSQL."""
    need("postgres")
    with loopback.postgres() as url:
        yield url


def clean(url: str) -> None:
    """An empty database again."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("drop schema public cascade; create schema public")


@pytest.fixture
def play(tmp_path: Path) -> Iterator[Play]:
    """A scene; `numbers` are the `[[sms]]` of the config, each a number of its own."""
    opened: list[Path] = []

    def begin(start: datetime = START, numbers: tuple[str, ...] = (OURS,), **settings: Any) -> Scene:
        folder = tmp_path / "data"
        sms = [{"driver": "file", "number": number, "region": "GB"} for number in numbers]
        if url := settings.pop("url", ""):
            clean(url)
            settings["data"] = {"dir": str(folder), "database_url": url}
        db = open_desk(folder, start - 100 * DAY, {"sms": sms, **settings})
        opened.append(folder)
        scene = Scene(db, Stage(db, {}, start), start)
        scene.accounts["Ada"] = db.people["ada"].id
        return scene

    yield begin
    for folder in opened:
        close_desk(folder)


def field_scene(play: Play, **more: Any) -> Scene:
    """Tom and Bob are in the field, Ann is a customer."""
    scene = play(**more)
    scene.person("Tom Field", TOM, role="technician")
    scene.person("Bob Field", BOB, role="technician")
    scene.person("Ann Hill", ANN)
    return scene


# -- codes -----------------------------------------------------------------------------------------------------------


def test_a_made_up_pin_is_no_code(play: Play) -> None:
    scene = field_scene(play)
    number = scene.ticket("Boiler", scene.people["Ann Hill"], assignee=scene.accounts["Bob Field"])
    scene.text(TOM, f"0000* reply {number} send the money to my new account")
    assert scene.columns(number, "status") == ("open",)
    assert "answer" not in scene.kinds(ANN)


def test_five_wrong_codes_are_five_wrong_codes_whatever_is_asked_for_between(play: Play) -> None:
    scene = field_scene(play)
    number = scene.ticket("Boiler", scene.people["Ann Hill"], assignee=scene.accounts["Bob Field"])
    for _n in range(4):
        scene.text(TOM, f"reply {number} hello", after=11 * MINUTE)
        wrong = "1111" if scene.code(TOM) != "1111" else "2222"
        for _ in range(3):
            scene.text(TOM, f"{wrong}* reply {number} hello", after=SECOND)
    off = row("select commands_off_until from address where value = ?", TOM)[0]
    assert off is not None, "twelve wrong codes within 45 minutes"


@pytest.mark.parametrize("written", ["4821* done", "4821＊ done", "４８２１* done", "48​21* done", "4️⃣8️⃣2️⃣1️⃣*️⃣ done"])
def test_a_pin_stands_nowhere_but_in_the_raw_message(play: Play, written: str) -> None:
    scene = field_scene(play)
    for subject in ("Boiler", "Tap"):
        scene.ticket(subject, scene.people["Ann Hill"], assignee=scene.accounts["Tom Field"])
    inbound = scene.text(TOM, written)
    scene.text(TOM, "1")
    subject, trace = row("select subject, trace from inbound where id = ?", inbound)
    kept_words = [subject, trace]
    kept_words += [line[0] for line in rows("select command from question")]
    kept_words += [line[0] for line in rows("select data from entry")]
    kept_words += [line[0] for line in rows("select text from body")]
    kept_words += [line[0] for line in rows("select subject || last_text from ticket")]
    plain = " ".join(_digits(words) for words in kept_words)
    assert "4821" not in plain, [words for words in kept_words if "4821" in _digits(words)]


def _digits(words: str) -> str:
    try:
        words = json.dumps(json.loads(words), ensure_ascii=False)
    except ValueError:
        pass
    return normalise(words)


# -- questions that never end ----------------------------------------------------------------------------------------


def test_every_question_ends_however_many_newer_ones_there_are(play: Play) -> None:
    scene = field_scene(play)
    for n in range(22):
        number = scene.ticket(f"Job {n}", status="new")
        scene.perform(Assign(number, scene.accounts["Tom Field"]))
    for number in range(1002, 1023):
        scene.text(TOM, f"take {number}", after=40 * SECOND)
    scene.passes(13 * HOUR)
    over = rows("select id, state from question where state = 'open' and expires_at < ?", micros(scene.now))
    assert over == []


# -- menus -----------------------------------------------------------------------------------------------------------


def with_two_tickets(play: Play, **more: Any) -> tuple[Scene, int, int]:
    scene = field_scene(play, **more)
    ann = scene.people["Ann Hill"]
    boiler = scene.ticket("Boiler", ann, at=scene.now - 5 * DAY)
    tap = scene.ticket("Tap", ann, at=scene.now - 4 * DAY)
    return scene, boiler, tap


@pytest.mark.parametrize("answer", ["1", "2", "Yes"])
def test_what_one_of_us_asked_last_is_what_a_digit_answers(play: Play, answer: str) -> None:
    scene, boiler, tap = with_two_tickets(play)
    first = scene.text(ANN, "It is leaking again")
    scene.passes(2 * HOUR)
    assert scene.outcome(first)[1] == "guessed"
    number = scene.outcome(first)[2]
    assert number == tap
    scene.perform(Answer(tap, "Shall we come 1) today or 2) tomorrow? Say 1 or 2, or YES for both", by=Medium.SMS))
    digit = scene.text(ANN, answer, after=10 * MINUTE)
    assert scene.outcome(digit)[2] == tap
    assert answer in scene.words_on(tap)
    assert scene.words_on(boiler) == []


def test_two_of_our_numbers_are_two_menus(play: Play) -> None:
    scene, boiler, _tap = with_two_tickets(play, numbers=(OURS, OTHER))
    one = scene.text(ANN, "It is leaking again", to=OURS)
    two = scene.text(ANN, "When do you come?", to=OTHER, after=5 * MINUTE)
    assert scene.outcome(two)[0] == "parked"
    menu = scene.said(ANN)[0]
    chosen = "2" if f"2 #{boiler}" in menu else "1"
    scene.text(ANN, chosen, to=OURS)
    assert scene.outcome(one)[2] == boiler
    assert scene.outcome(two)[0] == "parked"


def test_an_answer_that_races_with_the_end_of_its_menu_still_counts(play: Play) -> None:
    scene, boiler, _tap = with_two_tickets(play)
    first = scene.text(ANN, "It is leaking again")
    menu = scene.said(ANN)[0]
    chosen = "2" if f"2 #{boiler}" in menu else "1"
    scene.now += HOUR - SECOND
    second = scene.arrives(ANN, chosen, after=SECOND - SECOND)
    folder = scene.db.config.folder / "blobs"
    with ThreadPoolExecutor(1) as pool:
        one = desk.Desk(scene.db.config, scene.db.keys, _no_mail, pool, now=lambda: scene.now)
        waiting = intake.waiting(folder, 0, 50)  # read ahead, as `process` does
        scene.now += 2 * SECOND
        desk.tick(scene.db.config, scene.now)
        with store.writing():
            for line in waiting:
                done = pool.submit(desk._understand, scene.db.config, _no_mail, line, frozenset())
                done.result()
                desk._write_one(one, line, done)
    scene.work()
    assert scene.outcome(second)[0] == "done"
    assert "It is leaking again" in scene.words_on(boiler), (scene.outcome(first), scene.outcome(second))


def test_a_late_choice_moves_a_message_from_where_it_lies(play: Play) -> None:
    scene, boiler, tap = with_two_tickets(play)
    third = scene.ticket("Radiator", address=BEN)
    first = scene.text(ANN, "It is leaking again")
    scene.passes(2 * HOUR)
    guessed = scene.outcome(first)[2]
    entry = int(row("select entry from inbound where id = ?", first)[0])
    scene.perform(Move(entry, third))
    menu = scene.said(ANN)[0]
    other = boiler if guessed == tap else tap
    scene.text(ANN, "1" if f"1 #{other}" in menu else "2")
    left = [line[0] for line in rows("select ticket from entry where reason = 'moved-out' order by id")]
    lies = row("select r.ticket from reference r join inbound i on i.message_id = r.value where i.id = ?", first)[0]
    assert (lies, left) in ((third, [guessed]), (other, [guessed, third]))


def test_something_new_is_called_by_the_message_and_not_by_the_digit(play: Play) -> None:
    scene, _, _ = with_two_tickets(play)
    scene.text(ANN, "My cellar is under water")
    scene.passes(2 * HOUR)
    digit = scene.text(ANN, "3")
    number = scene.outcome(digit)[2]
    assert number is not None
    assert scene.columns(number, "subject") == ("My cellar is under water",)


def test_everything_that_waited_comes_back_however_much_it_is(play: Play) -> None:
    scene, _boiler, _tap = with_two_tickets(play)
    waited = [scene.text(ANN, f"And another thing, number {n} x", after=30 * SECOND) for n in range(45)]
    scene.text(ANN, "1")
    scene.passes(3 * HOUR)
    scene.work()
    assert [scene.outcome(inbound)[0] for inbound in waited] == ["done"] * 45


def test_a_digit_for_a_menu_that_has_ended_takes_no_other_job(play: Play) -> None:
    scene = field_scene(play)
    ann, tom = scene.people["Ann Hill"], scene.accounts["Tom Field"]
    for name in ("Far away", "Further away"):
        scene.perform(Assign(scene.ticket(name, ann, status="new"), tom))
    scene.text(TOM, "done all is well")
    assert scene.kinds(TOM)[-1] == "menu"
    scene.text(TOM, "1", after=31 * MINUTE)
    verbs = [json.loads(line[0]).get("verb") for line in rows("select data from entry")]
    assert "take" not in verbs


def test_a_digit_answers_the_menu_that_asked_for_one(play: Play) -> None:
    scene = field_scene(play)
    ann, tom = scene.people["Ann Hill"], scene.accounts["Tom Field"]
    for name in ("Boiler", "Tap"):
        scene.text(TOM, f"show {scene.ticket(name, ann, assignee=tom)}")
    scene.text(TOM, "done all is well")
    assert scene.kinds(TOM)[-1] == "menu"
    offered = scene.ticket("Far away", ann, status="new")
    scene.perform(Assign(offered, tom))
    scene.text(TOM, "1", after=20 * SECOND)
    assert scene.columns(offered, "status") == ("new",)
    assert rows("select subject from ticket where status = 'closed'") == [("Boiler",)]


def test_yes_answers_no_menu_that_nobody_was_sent(play: Play) -> None:
    scene, _boiler, _tap = with_two_tickets(play)
    with store.writing():
        execute("update address set automatic_off_until = ? where value = ?", micros(scene.now + DAY), ANN)
    first = scene.text(ANN, "It is leaking again")
    assert scene.said(ANN) == []
    scene.text(ANN, "1")
    assert scene.outcome(first)[0] == "parked"


# -- undo ------------------------------------------------------------------------------------------------------------


def test_undo_leaves_what_others_did_since(play: Play) -> None:
    scene = field_scene(play)
    number = scene.ticket("Boiler", scene.people["Ann Hill"], status="new")
    scene.text(TOM, f"take {number}")
    scene.perform(Assign(number, scene.accounts["Bob Field"]))
    scene.text(TOM, "undo")
    assert scene.columns(number, "assignee") == (scene.accounts["Bob Field"],)


def test_undo_of_an_answer_does_not_open_what_was_closed_since(play: Play) -> None:
    scene = field_scene(play)
    number = scene.ticket("Boiler", scene.people["Ann Hill"], assignee=scene.accounts["Tom Field"])
    scene.text(TOM, f"reply {number} We come at three")
    scene.perform(Close(number, "solved"), after=2 * MINUTE)
    scene.text(TOM, "undo")
    assert scene.columns(number, "status") == ("closed",)


# -- who may -----------------------------------------------------------------------------------------------------------


def test_what_needs_a_code_needs_it_by_every_verb(play: Play) -> None:
    scene = field_scene(play)
    closed = scene.now - 40 * DAY
    number = scene.ticket("Boiler", scene.people["Ann Hill"], status="closed", closed_at=micros(closed), at=closed)
    scene.text(TOM, f"again {number} fri")
    assert scene.columns(number, "status") == ("closed",)


def test_a_revoked_phone_does_not_go_on_on_its_last_ticket(play: Play) -> None:
    scene = field_scene(play)
    number = scene.ticket("Boiler", scene.people["Ann Hill"], assignee=scene.accounts["Tom Field"])
    scene.text(TOM, f"here {number}")
    scene.perform(Revoke(scene.accounts["Tom Field"], TOM), after=10 * SECOND)
    inbound = scene.text(TOM, "Hello, it is me, call me back on this number", after=30 * SECOND)
    assert scene.outcome(inbound)[2] != number


def test_what_waits_for_a_revoked_phone_does_not_go_there(play: Play) -> None:
    scene = field_scene(play)
    number = scene.ticket("Boiler at 5 Mill Lane", scene.people["Ann Hill"], status="new")
    actor = facts.accounts_by_id([1])[1]
    desk.perform(scene.db.config, Assign(number, scene.accounts["Tom Field"]), actor, scene.now)  # not yet sent
    desk.perform(scene.db.config, Revoke(scene.accounts["Tom Field"], TOM), actor, scene.now + SECOND)
    scene.passes(MINUTE)
    assert scene.said(TOM) in ([], [""])


def test_a_command_from_before_the_enrolment_is_a_customers_text(play: Play) -> None:
    scene, boiler, tap = with_two_tickets(play)
    inbound = scene.text(ANN, f"done {boiler} and close it")
    inbound = scene.text(ANN, f"close {tap}", after=10 * MINUTE) if scene.outcome(inbound)[0] != "parked" else inbound
    assert scene.outcome(inbound)[0] == "parked"
    scene.passes(MINUTE)
    with store.writing():
        contact = row("select contact from account where id = ?", scene.accounts["Bob Field"])[0]
        address = row("select id from address where value = ?", ANN)[0]
        execute("delete from contact_address where address = ?", address)
        insert(ContactAddress, contact=contact, address=address, verified_at=micros(scene.now))
    scene.perform(Rule(inbound, Ruling("retry")))
    scene.work()
    assert [line[0] for line in rows("select status from ticket order by number")] == ["open", "open"]


def test_nobody_owns_a_ticket_without_an_address(play: Play) -> None:
    scene = field_scene(play)
    number = scene.ticket("From nobody", None, address="", status="closed", closed_at=micros(scene.now - 90 * DAY))
    inbound = scene.text("anonymous", f"about #{number}: please send the file again")
    assert scene.outcome(inbound)[2] != number


def test_withheld_numbers_are_limited_as_machines_are(play: Play) -> None:
    scene = field_scene(play)
    before = scene.db.count("ticket")
    for n in range(20):
        scene.text("", f"Buy now, offer {n}", after=SECOND)
    assert scene.db.count("ticket") - before <= 5


def test_a_moved_message_of_a_shared_phone_is_nobodys_yet(play: Play) -> None:
    scene = field_scene(play)
    scene.person("Zoe Hill", ANN, mail="zoe@home.example")
    inbound = scene.text(ANN, "The tap drips")
    first = scene.outcome(inbound)[2]
    assert first is not None
    assert scene.columns(first, "requester") == (None,)
    entry = int(row("select entry from inbound where id = ?", inbound)[0])
    second = scene.perform(Move(entry, None)).ticket
    assert second is not None
    assert scene.columns(second, "requester") == (None,)


# -- consent and loops -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("phone", [ANN, "AMAZON", "+8821612345678"])
def test_stop_and_start_in_turn_are_not_answered_for_ever(play: Play, phone: str) -> None:
    scene = field_scene(play)
    for n in range(30):
        scene.text(phone, "STOP" if n % 2 == 0 else "START", after=20 * SECOND)
    allowed = 3 if phone == ANN else 0
    assert len(scene.kinds(phone)) <= allowed, scene.said(phone)[-2:]


def test_allowing_a_blocked_phone_allows_it(play: Play) -> None:
    scene = field_scene(play)
    with store.writing():
        execute("insert into block (value, refused, at) values (?, ?, ?)", ANN, True, 0)
    one = scene.text(ANN, "It is leaking")
    assert scene.outcome(one)[:2] == ("parked", "blocked-sender")
    scene.perform(Rule(one, Ruling("allow")))
    scene.work()
    assert scene.outcome(one)[0] == "done"
    two = scene.text(ANN, "And the tap drips", after=5 * MINUTE)
    assert scene.outcome(two)[0] == "done"


# -- time ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("night", ["2026-10-24T22:30+01:00", "2026-10-25T00:30+01:00", "2027-03-27T23:30+00:00"])
def test_the_quiet_night_ends_at_eight_when_the_clocks_change(night: str) -> None:
    now = datetime.fromisoformat(night)
    config = parse(SETTINGS, {})
    seconds = quiet_seconds(now, "Europe/London", SmsNumber(number=OURS), config)
    ends = (now.astimezone(UTC) + timedelta(seconds=seconds)).astimezone(ZoneInfo("Europe/London"))
    assert f"{ends:%H:%M}" == "08:00"


def test_a_burst_is_by_when_it_was_sent(play: Play) -> None:
    scene, boiler, _tap = with_two_tickets(play)
    one = scene.arrives(ANN, f"#{boiler} is cold again", at=scene.now - 5 * HOUR)
    two = scene.arrives(ANN, "The other thing has got worse", after=SECOND, at=scene.now)
    scene.work()
    assert scene.outcome(one)[2] == boiler
    assert scene.outcome(two)[1] != "burst"


# -- odd input -------------------------------------------------------------------------------------------------------

ODD = {
    "1,600 emoji": "🔥" * 1600,
    "half a character": "cold \ud83d again",
    "NUL": "cold\x00 again",
    "only NUL": "\x00",
    "a huge number": "#99999999999 done",
    "a command with a huge number": "done 99999999999",
    "just beyond 2**31": "done #2147483648",
    "ten digits": "#2147483648: hello",
    "2**31 - 1": "#2147483647 hello",
    "nine digits": "done 999999999",
    "Arabic digits": "done ١٠٠١",
    "an Arabic choice": "١",
    "Bengali choice": "২",
    "superscript": "²",
    "circled": "②",
    "Roman": "Ⅱ",
    "braces": "{0} {text} {x!r} {__class__} %s %(a)s",
    "right to left": "\u202edone 1001\u202c",
    "only spaces": " \u200b\u2003\n",
    "star": "*",
    "a PIN alone": "4821*",
    "stars": "4821*4821*4821* done 1001",
    "many lines": "\n" * 1600,
    "many numbers": "#1001 " * 260,
    "quotes": "'" * 1600,
    "liked": 'Liked "' + "a" * 1500 + '"',
    "hold for ever": "hold 1001 999w",
    "eta": "eta 1001 99:99",
    "assign nobody": "assign 1001 @",
    "undo a number": "undo 99999",
    "status": "status 99999999999",
    "show 0": "show 0",
    "minus": "done -1",
}


@pytest.mark.parametrize(
    "phone", [ANN, TOM, "AMAZON", "", OURS], ids=["customer", "technician", "machine", "withheld", "ours"]
)
@pytest.mark.parametrize("words", ODD.values(), ids=ODD)
def test_odd_texts_are_decided_like_any_other(play: Play, words: str, phone: str) -> None:
    scene = field_scene(play)
    ann = scene.people["Ann Hill"]
    scene.ticket("{number} {0} " + "Я" * 100 + "🔥" * 30, ann, assignee=scene.accounts["Tom Field"])
    scene.ticket("{{}}%s" + "x" * 150, ann, assignee=scene.accounts["Tom Field"])
    inbound = scene.text(phone, words)
    assert scene.outcome(inbound)[0] in ("done", "parked"), row("select trace from inbound where id = ?", inbound)[0]
    scene.text(phone, "1")
    scene.passes(2 * HOUR)
    assert [said for said in scene.said(phone) if count(said).segments != 1] == []
    assert audit.problems() == []


@pytest.mark.xdist_group("postgres")
@pytest.mark.parametrize("words", ["cold\x00 again", "done 1001 it is\x00 cold", "reply 1001 a\x00b", "\x00"])
def test_nul_is_no_trouble_on_postgresql(play: Play, postgres: str, words: str) -> None:
    scene = field_scene(play, url=postgres)
    scene.ticket("Boiler", scene.people["Ann Hill"], assignee=scene.accounts["Tom Field"])
    for phone in (ANN, TOM, BEN):
        assert scene.outcome(scene.text(phone, words))[0] in ("done", "parked"), phone


@pytest.mark.xdist_group("postgres")
@pytest.mark.parametrize("phone", [ANN, TOM, "", "AMAZON"], ids=["customer", "technician", "withheld", "machine"])
def test_odd_texts_on_postgresql(play: Play, postgres: str, phone: str) -> None:
    scene = field_scene(play, url=postgres)
    ann = scene.people["Ann Hill"]
    scene.ticket("{number} {0} " + "Я" * 100, ann, assignee=scene.accounts["Tom Field"])
    scene.ticket("{{}}%s" + "x" * 150, ann, assignee=scene.accounts["Tom Field"])
    for name, words in ODD.items():
        if "\0" not in words:
            inbound = scene.text(phone, words, after=11 * MINUTE)
            assert scene.outcome(inbound)[0] in ("done", "parked"), name
    assert audit.problems() == []


# -- by mail ---------------------------------------------------------------------------------------------------------


def mail_scene(play: Play) -> tuple[Scene, int]:
    """Ann wrote a mail; it is Tom's job, and he answers notices by mail."""
    scene = play(mail={"domain": "desk.example", "reply_of_technicians": "answer"})
    scene.accounts |= {name: account.id for name, account in scene.db.people.items()}
    ticket = scene.db.receive(letter(conftest.ANN, "No heat")).ticket
    assert ticket is not None
    scene.perform(Assign(ticket, scene.accounts["tom"]), by="ada")
    return scene, ticket


def mails(scene: Scene, ticket: int, text: str, purpose: Purpose = Purpose.STAFF_ANSWER, **more: Any) -> Result:
    """Tom answers a notice about the ticket, with proof."""
    scene.now += MINUTE
    to = scene.db.reply_address(purpose, ticket, scene.db.newest("entry"), scene.db.people["tom"])
    mail = letter(conftest.TOM, "Re: No heat", text, message_id=f"{scene.db.newest('inbound')}@tom.example", **more)
    return scene.db.receive(mail, Envelope(conftest.TOM.address, (to,)), Proof.PASSED, scene.now)


def test_undo_of_a_mail_with_command_and_answer_takes_both_back(play: Play) -> None:
    scene, ticket = mail_scene(play)
    before = scene.columns(ticket, "status", "due_at", "closed_at")
    mails(scene, ticket, "Done 1001\n\nThe valve is new, all is warm again.")
    assert scene.columns(ticket, "status") == ("closed",)
    undone = mails(scene, ticket, "undo", Purpose.STAFF_NOTE)
    assert undone.reason == "undone"
    assert [line["state"] for line in scene.db.outbox("kind = 'answer'")] == ["cancelled"]
    assert scene.columns(ticket, "status", "due_at", "closed_at") == before


def test_a_mail_with_command_and_answer_echoes_both(play: Play) -> None:
    scene, ticket = mail_scene(play)
    result = mails(scene, ticket, "Done 1001\n\nThe valve is new, all is warm again.")
    said = [line[0] for line in rows("select data from outbox where kind = 'echo'")]
    assert result.to("echo")
    assert any("done" in words or "closed" in words for words in said), said


def test_a_person_can_sort_a_mail_with_a_number_that_does_not_exist(play: Play) -> None:
    scene, ticket = mail_scene(play)
    mail = letter(conftest.TOM, "From the road", "note 9999: gasket ordered", message_id="x@tom.example")
    scene.now += MINUTE
    result = scene.db.receive(mail, None, Proof.PASSED, scene.now)
    assert result.state == "parked", result
    ruled = scene.db.rule(result, mail, Ruling("ticket", ticket), scene.db.people["ada"], Proof.PASSED)
    assert (ruled.state, ruled.ticket) == ("done", ticket)


@pytest.mark.parametrize("files", [0, 1])
def test_an_answer_by_mail_that_no_sms_can_carry_is_not_sent_as_one(play: Play, files: int) -> None:
    scene, _ = mail_scene(play)
    contact = scene.person("Zoe", BEN)
    number = scene.ticket("Tap", contact, address=BEN, assignee=scene.accounts["tom"])
    part = (FilePart("0" * 64, "plan.pdf", "application/pdf", 3),) if files else ()
    mails(scene, number, "See the plan." if files else "All of it. " * 300, files=part)
    sent = rows("select medium, state from outbox where kind = 'answer' and ticket = ?", number)
    assert all(medium != "sms" for medium, _ in sent), sent


def test_a_pin_in_a_mail_stands_nowhere(play: Play) -> None:
    scene, ticket = mail_scene(play)
    mails(scene, ticket, "4821* done 1001", Purpose.STAFF_NOTE)
    assert "4821" not in " ".join(line[0] for line in rows("select data from entry"))


# -- where codes stand -----------------------------------------------------------------------------------------------


def test_a_code_that_was_sent_is_kept_nowhere_in_clear(play: Play) -> None:
    scene = field_scene(play)
    number = scene.ticket("Boiler", scene.people["Ann Hill"], assignee=scene.accounts["Bob Field"])
    scene.text(TOM, f"reply {number} hello")
    code = scene.code(TOM)
    scene.text(TOM, f"{code}* reply {number} hello")
    found = rows("select data, rendered from outbox where kind = 'code'")
    assert all(code not in data and code.encode() not in bytes(text or b"") for data, text in found)


# -- what was mended in a way that breaks something else -------------------------------------------------------------


def test_a_command_that_came_late_can_be_taken_back(play: Play) -> None:
    scene = field_scene(play)
    number = scene.ticket("Boiler", scene.people["Ann Hill"], assignee=scene.accounts["Tom Field"])
    scene.text(TOM, f"done {number}", at=scene.now - 3 * HOUR)
    assert scene.columns(number, "status") == ("closed",)
    scene.text(TOM, "undo")
    assert scene.columns(number, "status") == ("open",)


@pytest.mark.parametrize("who", ["the customer writes", "the office closes", "the office assigns"])
def test_undo_stops_an_answer_whatever_happened_to_the_ticket(play: Play, who: str) -> None:
    scene = field_scene(play)
    number = scene.ticket("Boiler", scene.people["Ann Hill"], assignee=scene.accounts["Tom Field"])
    scene.text(TOM, f"reply {number} Your neighbour is to blame")
    if who == "the customer writes":
        scene.text(ANN, "Are you coming?", after=10 * SECOND)
    elif who == "the office closes":
        scene.perform(Close(number, "solved"), after=10 * SECOND)
    else:
        scene.perform(Assign(number, scene.accounts["Bob Field"]), after=10 * SECOND)
    scene.text(TOM, "undo", after=10 * SECOND)
    scene.passes(5 * MINUTE)
    assert "Your neighbour is to blame" not in scene.said(ANN)


def test_a_code_without_its_star_stands_in_no_list(play: Play) -> None:
    scene = field_scene(play)
    number = scene.ticket("Boiler", scene.people["Ann Hill"], assignee=scene.accounts["Bob Field"])
    scene.text(TOM, f"reply {number} hello")
    inbound = scene.text(TOM, f"{scene.code(TOM)}")
    assert scene.code(TOM) not in row("select subject from inbound where id = ?", inbound)[0]


@pytest.mark.parametrize("by", ["sms", "mail"])
def test_yes_is_an_answer_where_there_is_an_open_ticket(play: Play, by: str) -> None:
    scene = field_scene(play)
    contact = scene.person("Zoe", BEN, mail="zoe@home.example")
    number = scene.ticket("Boiler", contact, address=BEN)
    scene.perform(Answer(number, "Shall we come on Monday? Please answer YES", by=Medium(by)))
    scene.text(BEN, "Yes", after=3 * DAY if by == "sms" else 10 * MINUTE)
    assert "Yes" in scene.words_on(number)


@pytest.mark.parametrize("digit", ["1", "3"])
def test_what_follows_an_answer_at_once_goes_with_it(play: Play, digit: str) -> None:
    scene, _boiler, _tap = with_two_tickets(play)
    first = scene.text(ANN, "My cellar is under water")
    scene.arrives(ANN, digit)
    more = scene.arrives(ANN, "and it is rising", after=3 * SECOND)
    scene.work()
    scene.passes(2 * HOUR)
    scene.work()
    assert scene.outcome(more)[2] == scene.outcome(first)[2], (scene.outcome(first), scene.outcome(more))


def test_a_person_who_sorts_what_waits_and_the_answer_that_comes_after(play: Play) -> None:
    scene, boiler, tap = with_two_tickets(play)
    first = scene.text(ANN, "It is leaking again")
    second = scene.text(ANN, "Badly", after=10 * MINUTE)
    scene.perform(Rule(first, Ruling("ticket", tap)))
    scene.work()
    menu = scene.said(ANN)[0]
    scene.text(ANN, "1" if f"1 #{boiler}" in menu else "2", after=5 * MINUTE)
    assert (scene.outcome(first)[2], scene.outcome(second)[2]) == (tap, boiler)
    scene.passes(3 * HOUR)
    assert scene.db.count("inbound") == 3
    assert rows("select 1 from inbound where state = 'parked'") == []


def test_after_a_person_sorted_all_nothing_new_waits_for_ever(play: Play) -> None:
    scene, _boiler, tap = with_two_tickets(play)
    first = scene.text(ANN, "It is leaking again")
    scene.perform(Rule(first, Ruling("ticket", tap)))
    scene.work()
    second = scene.text(ANN, "Are you coming?", after=5 * MINUTE)
    scene.passes(3 * HOUR)
    scene.work()
    assert scene.outcome(second)[0] == "done"


@pytest.mark.parametrize("minutes", [0, 5, 61, 24 * 60 + 5])
def test_an_unanswered_menu_of_a_phone_that_is_enrolled_meanwhile(play: Play, minutes: int) -> None:
    scene, boiler, tap = with_two_tickets(play)
    first = scene.text(ANN, "It is leaking again")
    with store.writing():
        address = row("select id from address where value = ?", ANN)[0]
        contact = row("select contact from account where id = ?", scene.accounts["Bob Field"])[0]
        insert(ContactAddress, contact=contact, address=address, verified_at=micros(scene.now + SECOND))
    scene.text(ANN, "1", after=MINUTE + minutes * MINUTE)
    scene.passes(3 * HOUR)
    scene.work()
    assert scene.outcome(first)[0] == "done"
    assert scene.outcome(first)[2] in (boiler, tap)


def test_an_answer_goes_out_once_although_its_command_waits_for_a_person(play: Play) -> None:
    scene, ticket = mail_scene(play)
    scene.now += MINUTE
    to = scene.db.reply_address(Purpose.STAFF_ANSWER, ticket, scene.db.newest("entry"), scene.db.people["tom"])
    mail = letter(conftest.TOM, "Re: No heat", "Done 9999\n\nThe valve is new.", message_id="y@tom.example")
    result = scene.db.receive(mail, Envelope(conftest.TOM.address, (to,)), Proof.PASSED, scene.now)
    if result.state == "parked":
        scene.db.rule(result, mail, Ruling("ticket", ticket), scene.db.people["ada"], Proof.PASSED)
    assert len(scene.db.outbox("kind = 'answer' and state <> 'cancelled'")) == 1


@pytest.mark.parametrize("first", ["eta 40m", "here 1001", "escalate 1001"])
def test_an_answer_with_a_small_command_is_an_answer(play: Play, first: str) -> None:
    scene, ticket = mail_scene(play)
    mails(scene, ticket, f"{first}\n\nWe are on our way.")
    assert len(scene.db.outbox("kind = 'answer'")) == 1
    assert scene.columns(ticket, "status", "due_at") == ("waiting", None)


@pytest.mark.parametrize("who", ["the customer writes", "the office opens it", "the technician opens it"])
def test_nobody_is_told_that_it_is_done_when_it_is_open_again(play: Play, who: str) -> None:
    scene = field_scene(play, start=START.replace(hour=21, minute=30))
    number = scene.ticket("Boiler", scene.people["Ann Hill"], assignee=scene.accounts["Tom Field"])
    scene.text(TOM, f"done {number}")
    if who == "the customer writes":
        scene.text(ANN, "It leaks again!", after=20 * MINUTE)
    elif who == "the office opens it":
        scene.perform(Reopen(number), after=20 * MINUTE)
    else:
        scene.text(TOM, f"open {number}", after=20 * MINUTE)
    assert scene.columns(number, "status") == ("open",)
    scene.passes(12 * HOUR)
    assert "closing" not in [line[0] for line in rows("select kind from outbox where state = 'sent'")]


@pytest.mark.parametrize("written", ["447700900998", "07700900998", "+44 7700 900998", "00447700900998"])
def test_our_number_is_known_in_every_spelling(play: Play, written: str) -> None:
    scene = field_scene(play, numbers=(OURS, OTHER))
    scene.text(ANN, "It is leaking", to=written)
    assert row("select number from outbox where kind = 'acknowledgement'") == (OTHER,)


@pytest.mark.parametrize("minutes", [2, 29])
def test_a_command_waits_for_one_answer_only(play: Play, minutes: int) -> None:
    scene = field_scene(play)
    tom = scene.accounts["Tom Field"]
    one, two = (scene.ticket(name, scene.people["Ann Hill"], assignee=tom) for name in ("Boiler", "Tap"))
    scene.text(TOM, "done all is well")
    scene.text(TOM, "1", after=minutes * MINUTE)
    scene.text(TOM, "2", after=SECOND)
    scene.text(TOM, "1", after=SECOND)
    assert sorted(line[0] for line in rows("select status from ticket")) == ["closed", "open"]
    assert one < two
    assert audit.problems() == []


def test_a_menu_does_not_outlive_the_enrolment(play: Play) -> None:
    scene = field_scene(play)
    tom = scene.accounts["Tom Field"]
    for name in ("Boiler", "Tap"):
        scene.ticket(name, scene.people["Ann Hill"], assignee=tom)
    held = scene.text(TOM, "done all is well")
    scene.perform(Revoke(tom, TOM))
    scene.text(TOM, "1")
    scene.perform(Rule(held, Ruling("retry")))
    scene.work()
    assert [line[0] for line in rows("select status from ticket where number < 1003")] == ["open", "open"]


def test_a_deactivated_account_gives_no_commands(play: Play) -> None:
    scene = field_scene(play)
    number = scene.ticket("Boiler", scene.people["Ann Hill"], assignee=scene.accounts["Tom Field"])
    with store.writing():
        execute("update account set active = ? where id = ?", False, scene.accounts["Tom Field"])
    for words in (f"done {number}", f"show {number}", "list", f"reply {number} hello", "undo", f"#{number} hello"):
        scene.text(TOM, words, after=5 * MINUTE)
    assert scene.columns(number, "status") == ("open",)
    assert all("Boiler" not in said for said in scene.said(TOM))


def test_a_stranger_learns_nothing_by_naming_numbers(play: Play) -> None:
    scene = field_scene(play)
    number = scene.ticket("Secret boiler", scene.people["Ann Hill"])
    for words in (
        f"#{number}",
        f"status {number}",
        f"{number}: who is it",
        f"show {number}",
        f"done {number}",
        "1",
        "list",
    ):
        inbound = scene.text(MAX, words, after=11 * MINUTE)
        assert scene.outcome(inbound)[2] != number, words
    assert all("Secret" not in said for said in scene.said(MAX))


def test_a_provider_without_a_clock_takes_nobody_his_commands(play: Play) -> None:
    scene = field_scene(play)
    number = scene.ticket("Boiler", scene.people["Ann Hill"], assignee=scene.accounts["Tom Field"])
    inbound = scene.text(TOM, f"here {number}", at=datetime(1970, 1, 1, tzinfo=UTC))
    assert scene.outcome(inbound)[1:] == ("command", number)
