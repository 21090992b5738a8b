"""The inbox: views, groups, filters, pages, the bulk bar."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest

from gateway.model import micros, update
from gateway.values import Answer, Assign, Close, NamedAddress
from tests.webui.conftest import Browser, Pages, words_of


def due_in(pages: Pages, ticket: int, **length: float) -> None:
    from gateway import store

    at = micros(pages.clock() + timedelta(**length))
    with store.writing():
        update("ticket", "number", ticket, next_at=at, due_at=at)


def shown(page: str) -> list[str]:
    """Group heads and ticket numbers, in the order of the page."""
    found = re.findall(r'<h2 class="group">([^<]+?)\s*<|name="t" value="(\d+)"', page)
    return [group.strip() or number for group, number in found]


def test_an_empty_inbox_says_so_and_where_mail_goes(ada: Browser) -> None:
    page = words_of(ada.page("/"))
    assert "Nothing is open" in page
    assert "support@desk.example" in page


def test_tickets_stand_by_what_is_due_next_under_late_today_this_week_later(pages: Pages, ada: Browser) -> None:
    later, week, today, late = (
        pages.received(subject) for subject in ("in a month", "Friday", "this evening", "yesterday")
    )
    due_in(pages, later, days=30)
    due_in(pages, week, days=2)
    due_in(pages, today, hours=6)
    due_in(pages, late, hours=-2.2)
    page = ada.page("/")
    assert shown(page) == ["Late", str(late), "Today", str(today), "This week", str(week), "Later", str(later)]
    assert "2 h 12 late" in words_of(page)


@pytest.mark.parametrize(
    ("minutes", "mark"),
    [(-29, "29 min late"), (-130, "2 h 10 late"), (-3 * 1440, "3 d late"), (30, "10:30"), (360, "16:00")],
)
def test_a_due_moment_is_said_in_few_words(pages: Pages, ada: Browser, minutes: int, mark: str) -> None:
    due_in(pages, pages.received(), minutes=minutes)
    assert mark in words_of(ada.page("/"))


def test_every_view_shows_its_own(pages: Pages, ada: Browser) -> None:
    mine, toms, nobodys, waiting, closed = (pages.received(f"ticket {n}") for n in range(5))
    ann, people = pages.desk, pages.desk.people
    ann.perform(Assign(mine, people["ada"].id), people["ada"])
    ann.perform(Assign(toms, people["tom"].id), people["ada"])
    ann.perform(Answer(waiting, "Which colour?", then="wait"), people["sue"])
    ann.perform(Close(closed, "solved"), people["ada"])
    due_in(pages, toms, hours=-1)
    expected = {
        "open": {mine, toms, nobodys, waiting},
        "mine": {mine},
        "unassigned": {nobodys},
        "waiting": {waiting},
        "overdue": {toms},
        "closed": {closed},
    }
    for view, numbers in expected.items():
        found = {int(word) for word in shown(ada.page(f"/?view={view}")) if word.isdigit()}
        assert found == numbers, view


def test_the_side_counts_what_the_views_hold(pages: Pages, ada: Browser) -> None:
    for n in range(3):
        pages.received(f"ticket {n}")
    pages.desk.perform(Assign(1001, pages.desk.people["ada"].id), pages.desk.people["ada"])
    page = words_of(ada.page("/mailroom"))
    assert "All open 3 Mine 1 Nobody’s 2 Waiting Overdue Closed" in page


def test_a_list_goes_on_by_key_and_forgets_nothing(pages: Pages, ada: Browser) -> None:
    numbers = [pages.received(f"ticket {n}", sender=NamedAddress("", f"p{n}@x.example")) for n in range(53)]
    first = ada.page("/")
    following = re.search(r'<a class="btn" href="([^"]+)" rel="next">', first)
    assert following
    second = ada.page(following.group(1))
    both = [int(word) for page in (first, second) for word in shown(page) if word.isdigit()]
    assert both == numbers
    assert "First page" in second
    assert 'rel="next"' not in second


@pytest.mark.parametrize("after", ["-1", "x.y", "1e9.2", "99999999999999999999999.1", "' or 1=1", "1.", ".1", "١.٢"])
def test_a_key_that_is_none_shows_the_first_page(pages: Pages, ada: Browser, after: str) -> None:
    ticket = pages.received()
    assert str(ticket) in shown(ada.page(f"/?after={after}"))


@pytest.mark.parametrize(
    "query", ["view=nonsense", "view=id;DROP TABLE ticket", "to=abc", "channel=fax", "to=99999999999999999999"]
)
def test_a_filter_that_is_none_is_left_out(pages: Pages, ada: Browser, query: str) -> None:
    ticket = pages.received()
    assert str(ticket) in shown(ada.page(f"/?{query}"))


def test_filters_narrow_the_list_and_can_be_taken_away_one_by_one(pages: Pages, ada: Browser) -> None:
    ticket = pages.received()
    tom = pages.desk.people["tom"].id
    page = ada.page(f"/?view=open&inbox=sales@desk.example&to={tom}")
    assert shown(page) == []
    assert "Nothing fits these filters" in words_of(page)
    assert f'href="/?to={tom}"' in page
    assert 'href="/?inbox=sales%40desk.example"' in page
    assert str(ticket) in shown(ada.page("/?inbox=support@desk.example&channel=mail"))


def test_an_unread_ticket_is_marked_until_it_was_opened(pages: Pages, ada: Browser) -> None:
    ticket = pages.received()
    assert "Unread mail" in words_of(ada.page("/"))
    ada.page(f"/tickets/{ticket}")
    assert "Unread mail" not in words_of(ada.page("/"))


def test_several_tickets_are_assigned_and_closed_at_once(pages: Pages, ada: Browser) -> None:
    first, second, third = (pages.received(f"ticket {n}") for n in range(3))
    answer = ada.post("/tickets/bulk", t=[str(first), str(second)], do="assign", to="me", back="/?view=mine")
    assert answer.location == "/?view=mine"
    page = ada.page("/?view=mine")
    assert "2 tickets assigned." in words_of(page)
    assert {str(first), str(second)} <= set(shown(page))
    ada.post("/tickets/bulk", t=[str(first), str(third), "abc"], do="close", reason="solved")
    assert {str(first), str(third)} <= set(shown(ada.page("/?view=closed")))


def test_what_the_bulk_bar_cannot_do_is_said_and_the_rest_is_done(pages: Pages, ada: Browser) -> None:
    ticket = pages.received()
    ada.post("/tickets/bulk", t=[str(ticket), "4711"], do="assign", to=str(pages.desk.people["tom"].id))
    words = words_of(ada.page("/"))
    assert "1 ticket assigned." in words
    assert "#4711: There is no ticket #4711." in words
    assert "Tom" in words


def test_a_subject_is_text_whatever_it_says(pages: Pages, ada: Browser) -> None:
    pages.received("<script>alert(1)</script> {{ 7*7 }}", "<img src=x onerror=alert(1)>")
    page = ada.page("/")
    assert "<script>alert" not in page
    assert "<img" not in page
    assert "<script>alert(1)</script> {{ 7*7 }}" in words_of(page.replace("&lt;", "‹").replace("&gt;", "›")).replace(
        "‹", "<"
    ).replace("›", ">")


def test_the_page_looks_again_by_itself_without_javascript(ada: Browser) -> None:
    assert '<noscript><meta http-equiv="refresh" content="60"></noscript>' in ada.page("/")


def test_the_banner_tells_that_nothing_is_sent_and_leads_to_how_to_change_it(ada: Browser) -> None:
    assert "Not sent: no mail server configured." in words_of(ada.page("/"))
    assert "[smtp.out]" in ada.page("/about")
