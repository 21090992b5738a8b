"""Reads for pages: what they find, and that they find it by an index."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta, timezone
from functools import partial
from typing import Any

import pytest

from gateway import model, queries, store
from gateway.model import execute, insert, micros
from gateway.values import Answer, Arrival, Assign, Channel, Close, Envelope, MessageClass, NamedAddress, Status
from tests import loopback
from tests.conftest import ADA, ANN, BEN, SUPPORT, DeskDb, close_desk, letter, open_desk
from tests.servers import need


def person(n: int) -> NamedAddress:
    return NamedAddress(f"Person {n}", f"p{n}@x.example")


@pytest.fixture
def statements(desk_db: DeskDb, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, tuple[Any, ...]]]:
    """Every statement that runs."""
    seen: list[tuple[str, tuple[Any, ...]]] = []
    real = model.execute

    def watched(statement: str, *values: Any) -> Any:
        seen.append((statement, values))
        return real(statement, *values)

    monkeypatch.setattr(model, "execute", watched)
    return seen


# -- by an index -------------------------------------------------------------------------------------------------

READS: dict[str, Callable[[datetime], object]] = {
    **{f"inbox {view}": partial(queries.inbox, view, 1) for view in queries.VIEWS},
    "next page": lambda now: queries.inbox("open", 1, now, None, "5.1001"),
    "next closed page": lambda now: queries.inbox("closed", 1, now, None, "5.1001"),
    "counts": lambda now: queries.counts(1, now),
    "ticket": lambda now: queries.ticket(1001),
    "older entries": lambda now: queries.ticket(1001, before=5),
    "newer entries": lambda now: queries.ticket(1001, after=1),
    **{f"mailroom {state}": partial(queries.mailroom, state) for state in queries.STATES},
    "to be sorted": lambda now: queries.waiting_to_be_sorted(),
    "phones": queries.phones_of_ours,
    "search by number": lambda now: queries.search("1001"),
    "search by address": lambda now: queries.search(ANN.address),
    "search by words": lambda now: queries.search("please help"),
    "news": lambda now: queries.news_since(queries.News(0, 0, 0)),
    "latest": lambda now: queries.latest(),
    "health": lambda now: queries.health(now),
    "held": lambda now: queries.held(1, now),
}
# Whole tables that are small by nature, or looked at up to a bound.
SMALL = ("SCAN few", "SCAN a", "SCAN some", "SCAN (subquery", "SCAN s VIRTUAL TABLE", "SCAN CONSTANT ROW")


@pytest.mark.parametrize("name", READS)
def test_no_read_counts_or_sorts_a_whole_table(
    desk_db: DeskDb, now: datetime, statements: list[tuple[str, tuple[Any, ...]]], name: str
) -> None:
    desk_db.receive(letter(ANN, files=(), cc=(BEN,)))
    statements.clear()
    READS[name](now)
    assert statements
    for statement, values in list(statements):
        plan = [line[3] for line in model.database.execute_sql(f"explain query plan {statement}", values).fetchall()]
        for step in plan:
            scans = step.startswith("SCAN") and "USING" not in step and not step.startswith(SMALL)
            newest = "from ticket order by number desc limit ?" in statement  # by its key, up to a bound
            bounded_scan = newest or "lower(name) like" in statement  # contacts are few, and the tenth ends it
            assert not scans or bounded_scan, f"{statement}\n{plan}"
            sorts = "USE TEMP B-TREE" in step
            bounded = "group by" in statement or "contact_address" in statement or "where entry in" in statement
            bounded = bounded or "from account a join contact" in statement  # of us there are few
            assert not sorts or bounded, f"{statement}\n{plan}"


# -- the inbox ---------------------------------------------------------------------------------------------------


def due(desk_db: DeskDb, ticket: int, at: datetime) -> None:
    with store.writing():
        execute("update ticket set next_at = ? where number = ?", micros(at), ticket)


@pytest.mark.parametrize(
    ("ahead", "group"),
    [
        (timedelta(minutes=-1), "Late"),
        (timedelta(0), "Today"),
        (timedelta(hours=13, minutes=59), "Today"),
        (timedelta(hours=14), "This week"),
        (timedelta(days=4, hours=13), "This week"),  # Sunday night
        (timedelta(days=4, hours=14), "Later"),
        (timedelta(days=400), "Later"),
    ],
)
def test_groups_follow_the_readers_calendar(desk_db: DeskDb, now: datetime, ahead: timedelta, group: str) -> None:
    number = desk_db.receive(letter(ANN)).ticket
    assert number
    due(desk_db, number, now + ahead)
    assert [g.name for g in queries.inbox("open", 1, now).groups] == [group]


def test_today_ends_at_the_readers_midnight_not_at_greenwichs(desk_db: DeskDb, now: datetime) -> None:
    number = desk_db.receive(letter(ANN)).ticket
    assert number
    tokyo = now.astimezone(timezone(timedelta(hours=9)))  # 19:00 there
    due(desk_db, number, now + timedelta(hours=6))  # 16:00 UTC, 01:00 tomorrow there
    assert [g.name for g in queries.inbox("open", 1, now).groups] == ["Today"]
    assert [g.name for g in queries.inbox("open", 1, tokyo).groups] == ["This week"]


def test_a_group_that_goes_on_elsewhere_has_no_count(desk_db: DeskDb, now: datetime) -> None:
    for n in range(5):
        desk_db.receive(letter(person(n)))
    first = queries.inbox("open", 1, now, limit=3)
    second = queries.inbox("open", 1, now, after=first.following, limit=3)
    assert ([g.count for g in first.groups], first.size) == ([None], 3)
    assert ([g.count for g in second.groups], second.size, second.following) == ([None], 2, "")
    assert [g.count for g in queries.inbox("open", 1, now).groups] == [5]


def test_tickets_due_at_the_same_moment_are_all_listed_once(desk_db: DeskDb, now: datetime) -> None:
    for n in range(7):
        desk_db.receive(letter(person(n)))
    seen, after = [], ""
    while True:
        page = queries.inbox("open", 1, now, after=after, limit=2)
        seen += [ticket.number for group in page.groups for ticket in group.tickets]
        after = page.following
        if not after:
            break
    assert seen == list(range(1001, 1008))


def test_closed_tickets_come_newest_first(desk_db: DeskDb, now: datetime) -> None:
    ada = desk_db.people["ada"]
    for n in range(3):
        number = desk_db.receive(letter(person(n))).ticket
        assert number
        desk_db.perform(Close(number, "solved"), ada, at=now + timedelta(minutes=n))
    page = queries.inbox("closed", ada.id, now, limit=2)
    rest = queries.inbox("closed", ada.id, now, after=page.following, limit=2)
    assert [t.number for p in (page, rest) for g in p.groups for t in g.tickets] == [1003, 1002, 1001]


def test_a_waiting_ticket_has_nothing_due(desk_db: DeskDb, now: datetime) -> None:
    number = desk_db.receive(letter(ANN)).ticket
    assert number
    desk_db.perform(Answer(number, "Which colour?"), desk_db.people["ada"])
    (ticket,) = queries.inbox("waiting", 1, now).groups[0].tickets
    assert (ticket.status, ticket.next_at, ticket.last_author) == (Status.WAITING, None, ADA.name)


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        (queries.Filters(), {1001, 1002}),
        (queries.Filters(inbox=SUPPORT), {1001, 1002}),
        (queries.Filters(inbox="sales@desk.example"), set()),
        (queries.Filters(channel="sms"), set()),
        (queries.Filters(channel="mail", assignee=1), {1002}),
    ],
)
def test_filters_narrow(desk_db: DeskDb, now: datetime, filters: queries.Filters, found: set[int]) -> None:
    for n in range(2):
        desk_db.receive(letter(person(n)))
    ada = desk_db.people["ada"]
    assert ada.id == 1
    desk_db.perform(Assign(1002, ada.id), ada)
    page = queries.inbox("open", ada.id, now, filters)
    assert {t.number for g in page.groups for t in g.tickets} == found


def test_counts_stop_at_a_thousand(desk_db: DeskDb, now: datetime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queries, "MANY", 3)
    for n in range(5):
        desk_db.receive(letter(person(n)))
    assert queries.counts(1, now) == queries.Counts(3, 0, 3, 0, 0, 0)


# -- the ticket --------------------------------------------------------------------------------------------------


def test_pages_of_a_history_join_without_a_gap(desk_db: DeskDb, now: datetime, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queries, "ENTRIES", 2)
    number = desk_db.receive(letter(ANN)).ticket
    assert number
    for n in range(3):
        desk_db.receive(letter(ANN, f"Re: [ACME #{number}]", f"words {n}"))
    whole = [line[0] for line in model.rows("select id from entry where ticket = ? order by id desc", number)]
    first = queries.ticket(number)
    assert first is not None
    second = queries.ticket(number, before=first.older)
    assert second is not None
    third = queries.ticket(number, before=second.older)
    assert third is not None
    assert [e.id for page in (first, second, third) for e in page.entries] == whole
    assert (first.newer, third.older) == (0, 0)
    back = queries.ticket(number, after=third.newer)
    assert back is not None
    assert back.entries == second.entries


def test_an_answer_brings_its_delivery_and_a_message_its_trace(desk_db: DeskDb, now: datetime) -> None:
    number = desk_db.receive(letter(ANN)).ticket
    assert number
    desk_db.perform(Answer(number, "Hello."), desk_db.people["ada"])
    page = queries.ticket(number)
    assert page is not None
    answer, opened, message = page.entries
    assert [(d.recipient, d.state) for d in answer.deliveries] == [(ANN.address, "held")]
    assert {d.kind for d in (*opened.deliveries, *message.deliveries)} == {"acknowledgement", "notice"}
    assert "new" in {step.name for step in message.trace if step.hit}
    assert (answer.author, message.author) == (ADA.name, ANN.name)


def test_no_number_is_too_large_to_be_no_ticket(desk_db: DeskDb) -> None:
    assert [queries.ticket(number) for number in (-1, 0, 1, 2**31, 2**70)] == [None] * 5


# -- the mailroom ------------------------------------------------------------------------------------------------


def test_the_balance_finds_what_is_missing(desk_db: DeskDb, now: datetime) -> None:
    result = desk_db.receive(letter(ANN))
    desk_db.receive(letter(BEN))
    with store.writing():
        execute("update inbound set ticket = null, reason = 'gone' where id = ?", result.inbound)
    balance = queries.balance(now)
    assert (balance.came, balance.missing) == (2, 1)


def test_a_message_nobody_has_read_names_at_least_who_handed_it_over(desk_db: DeskDb, now: datetime) -> None:
    from gateway.store import intake

    with store.writing():
        intake.add(Arrival("k", Channel.MAIL, b"x", Envelope("scan@x.example", (SUPPORT,)), now), "")
        intake.fail(1, "our-error", "Traceback", now)
    (line,) = queries.mailroom("failed", now).received
    assert (line.sender, line.attempts) == ("scan@x.example", 1)


# -- search ------------------------------------------------------------------------------------------------------


def test_a_ticket_is_found_once_by_the_strongest_sign(desk_db: DeskDb) -> None:
    desk_db.receive(letter(ANN, "Ann Hill", "ann hill"))
    assert [(hit.number, hit.by) for hit in queries.search("ann hill")] == [(1001, "name")]
    assert [(hit.number, hit.by) for hit in queries.search("1001")] == [(1001, "number")]


@pytest.mark.parametrize(
    ("text", "words", "shown"),
    [
        ("short", "short", "short"),
        ("a\n b", "b", "a b"),
        ("x" * 300, "y", "x" * 180 + " …"),
        ("x " * 100 + "flange" + " y" * 100, "flange", "flange"),
    ],
)
def test_an_excerpt_shows_the_words_in_their_place(text: str, words: str, shown: str) -> None:
    found = queries.excerpt(text, words)
    assert shown in found
    assert len(found) < 190


# -- news and health ---------------------------------------------------------------------------------------------


def test_news_are_the_tickets_that_moved_since(desk_db: DeskDb, now: datetime) -> None:
    start = queries.latest()
    assert queries.news_since(start).tickets == ()
    desk_db.receive(letter(ANN))
    news = queries.news_since(start)
    assert news.tickets == (1001,)
    assert queries.news_since(news).tickets == ()
    with store.writing():
        execute("update outbox set changed = ? where kind = 'acknowledgement'", micros(now + timedelta(seconds=1)))
    assert queries.news_since(news).tickets == (1001,)


def test_each_trouble_is_told_and_nothing_when_all_is_well(desk_db: DeskDb, now: datetime) -> None:
    from gateway.store import intake, schedule

    def names(at: datetime) -> list[str]:
        return [issue.name for issue in queries.health(at)]

    assert names(now) == ["worker"]
    with store.writing():
        schedule.beat("tick", now)
    assert names(now) == []
    assert names(now + timedelta(minutes=3)) == ["worker"]
    desk_db.receive(letter(ANN))  # its acknowledgement should go out
    with store.writing():
        intake.add(Arrival("k", Channel.MAIL, b"x", Envelope(), now), "")
        insert(model.Inbound, key="p", channel="mail", size=1, envelope="{}", received_at=0, state="parked")
    assert names(now) == ["mailroom"]
    assert names(now + timedelta(seconds=90)) == ["inbound", "mailroom"]
    assert names(now + timedelta(minutes=6)) == ["inbound", "outbox", "worker", "mailroom"]
    assert [issue.name for issue in queries.health(now) if issue.blocks] == []


# -- the other engine --------------------------------------------------------------------------------------------


@pytest.fixture
def postgres_desk(tmp_path: Any, now: datetime) -> Iterator[DeskDb]:
    need("postgres")
    with loopback.postgres() as url:
        folder = tmp_path / "data"
        desk = open_desk(folder, now, {"data": {"dir": str(folder), "database_url": url}})
        yield desk
        close_desk(folder)


@pytest.mark.xdist_group("postgres")
def test_every_read_works_on_postgresql_too(postgres_desk: DeskDb, now: datetime) -> None:
    desk, ada = postgres_desk, postgres_desk.people["ada"]
    desk.receive(letter(ANN, "No heat", "The flange is cold.", cc=(BEN,)))
    desk.receive(letter(ADA, "Re: x", "done"))
    desk.receive(letter(BEN, "x", "x", category=MessageClass.AUTO_REPLY))
    desk.perform(Answer(1001, "We come."), ada)
    for name, read in READS.items():
        read(now)
        assert not model.database.obj.in_transaction(), name
    assert [ticket.number for group in queries.inbox("waiting", ada.id, now).groups for ticket in group.tickets] == [
        1001
    ]
    assert queries.counts(ada.id, now) == queries.Counts(1, 1, 0, 1, 0, 2)
    assert [hit.by for hit in queries.search("flange")] == ["words"]
    assert [hit.by for hit in queries.search("Ann")] == ["name"]
    page = queries.ticket(1001)
    assert page is not None
    assert [entry.kind for entry in page.entries] == ["answer", "event", "message"]
    assert queries.balance(now).missing == 0
    assert queries.version() > 0


def test_the_date_of_these_tests_is_a_wednesday(now: datetime) -> None:
    assert (now.weekday(), now.tzinfo) == (2, UTC)
