"""The search: by number, address, name, words; safe with anything."""

from __future__ import annotations

from urllib.parse import quote

import pytest

from gateway.values import NamedAddress
from tests.conftest import BEN, MAX
from tests.webui.conftest import Browser, Pages, letter, words_of


@pytest.mark.parametrize("words", ["1001", "#1001", " 1001 "])
def test_a_number_goes_straight_to_its_ticket(pages: Pages, ada: Browser, words: str) -> None:
    pages.received()
    answer = ada.get(f"/search?q={quote(words)}")
    assert (answer.status_code, answer.location) == (302, "/tickets/1001")


@pytest.mark.parametrize("words", ["4711", "#4711", "99999999999999999999", "#", "١٠٠١"])
def test_a_number_that_is_no_ticket_is_searched_for_as_words(ada: Browser, words: str) -> None:
    assert ada.get(f"/search?q={quote(words)}").status_code == 200


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("ann@hillcrest.example", {1001}),
        ("ANN@Hillcrest.example", {1001}),
        ("ben@hillcrest.example", {1001, 1002}),  # on it by Cc, and his own
        ("ann hill", {1001}),
        ("hill", {1001, 1002}),
        ("strang", {1003}),
        ("flange", {1001}),
        ("flange gasket", {1001}),
        ("Straße", {1003}),
        ("nothing like it", set()),
    ],
)
def test_who_and_what_is_found(pages: Pages, ada: Browser, words: str, found: set[int]) -> None:
    pages.received("One", "A flange and its gasket.", cc=(BEN,))
    pages.received("Two", "Something else.", sender=BEN)
    pages.received("Three", "In the Straße of the mill.", sender=MAX)
    page = ada.page(f"/search?q={quote(words)}")
    assert {number for number in (1001, 1002, 1003) if f"#{number}" in words_of(page)} == found
    assert (("Nothing found" in words_of(page)) is False) == bool(found)


def test_a_hit_leads_to_its_very_place_and_shows_the_words_around(pages: Pages, ada: Browser) -> None:
    ticket = pages.received("One", "word " * 40 + "the flange is broken " + "word " * 40)
    entry = pages.rows("select id from entry where kind = 'message'")[0][0]
    page = ada.page("/search?q=flange")
    assert f'href="/tickets/{ticket}#e{entry}"' in page
    assert "the flange is broken" in words_of(page)
    assert f'id="e{entry}"' in ada.page(f"/tickets/{ticket}")


def test_the_newest_hit_comes_first_and_a_ticket_only_once(pages: Pages, ada: Browser) -> None:
    first = pages.received("One", "flange")
    pages.received("Two", "flange")
    pages.arrived(letter(NamedAddress("Ann Hill", "ann@hillcrest.example"), f"Re: [ACME #{first}]", "flange again"))
    words = words_of(ada.page("/search?q=flange"))
    assert words.index("One") < words.index("Two")
    assert "2 tickets, newest first" in words


HOSTILE = [
    '"',
    "a AND",
    "NEAR(",
    "*",
    "subject:x",
    "(" * 500,
    "\0",
    "') UNION SELECT password FROM user--",
    "%" * 200,
    "_",
]
HOSTILE += [
    "a" * 10_000,
    "<script>alert(1)</script>",
    "a & | ! ' :*",
    "-",
    "a -b",
    '"open',
    "\ud83d\ude00".encode("utf-16", "surrogatepass").decode("utf-16"),
]


@pytest.mark.parametrize("words", HOSTILE, ids=range(len(HOSTILE)))
def test_whatever_is_typed_finds_or_does_not_and_never_fails(pages: Pages, ada: Browser, words: str) -> None:
    pages.received()
    answer = ada.get(f"/search?q={quote(words)}")
    assert answer.status_code == 200
    assert "<script>alert" not in answer.get_data(as_text=True)


def test_percent_and_underscore_in_a_name_are_letters(pages: Pages, ada: Browser) -> None:
    pages.received("One", sender=NamedAddress("50% off_ltd", "x@y.example"))
    pages.received("Two", sender=NamedAddress("Fifty", "y@y.example"))
    assert "#1002" not in words_of(ada.page("/search?q=" + quote("o%f")))
    assert "#1001" in words_of(ada.page("/search?q=" + quote("50% off_")))


def test_without_words_the_page_says_what_can_be_searched_for(ada: Browser) -> None:
    assert "What are you looking for?" in words_of(ada.page("/search"))
