"""The mailroom: what waits, why in a sentence, and what a person may say to it."""

from __future__ import annotations

import json

import pytest

from gateway import store
from gateway.model import execute, row
from gateway.store import intake
from gateway.values import Answer, Arrival, Channel, Envelope, MessageClass, NamedAddress, Rule
from tests.conftest import ADA, SUPPORT
from tests.webui.conftest import Browser, Pages, letter, words_of

PARCELS = NamedAddress("Parcels", "noreply@parcels.example")


def parked(pages: Pages) -> int:
    """A mail in Ada's name that nothing proves."""
    return pages.arrived(letter(ADA, "Re: something", "done")).inbound


def failed(pages: Pages, words: str = "Traceback\nValueError: cut off", reason: str = "our-error") -> int:
    with store.writing():
        intake.add(Arrival("k", Channel.MAIL, b"raw", Envelope("scan@x.example", (SUPPORT,)), pages.clock()), "")
        inbound = int(row("select max(id) from inbound")[0])
        intake.fail(inbound, reason, words, pages.clock())
    return inbound


def dead(pages: Pages) -> int:
    pages.desk.perform(Answer(pages.received(), "Hello."), pages.desk.people["ada"])
    with store.writing():
        execute("update outbox set state = 'dead', attempts = 3, result = '550 no such user' where kind = 'answer'")
    return int(row("select id from outbox where kind = 'answer'")[0])


def test_an_empty_mailroom_says_that_nothing_needs_a_look(ada: Browser) -> None:
    assert "Nothing needs a look" in words_of(ada.page("/mailroom"))


def test_what_waits_stands_there_with_its_reason_as_a_sentence(pages: Pages, ada: Browser) -> None:
    parked(pages)
    pages.arrived(letter(PARCELS, "Your shipment", "Dispatched.", category=MessageClass.AUTO_REPLY))
    failed(pages)
    dead(pages)
    words = words_of(ada.page("/mailroom"))
    for sentence in (
        "Nothing proves that the sender is who the From line says",
        "A machine wrote it, and it answers none of our mails",
        "Our own error stopped it; the trace says where ValueError: cut off",
        "The other side did not take it 550 no such user (3 tries)",
        "Mailroom 4",
    ):
        assert sentence in words


@pytest.mark.parametrize(
    ("state", "there", "not_there"),
    [
        ("parked", "Nothing proves", "Our own error"),
        ("failed", "Our own error", "Nothing proves"),
        ("dead", "did not take it", "Nothing proves"),
        ("all", "It named no ticket", "did not take it"),
        ("nonsense", "Nothing proves", "It named no ticket"),
    ],
)
def test_each_state_has_its_own_list(pages: Pages, ada: Browser, state: str, there: str, not_there: str) -> None:
    parked(pages)
    failed(pages)
    dead(pages)
    words = words_of(ada.page(f"/mailroom?state={state}"))
    assert there in words
    assert not_there not in words


def test_the_balance_of_today_adds_up(pages: Pages, ada: Browser) -> None:
    ticket = pages.received()
    pages.arrived(letter(NamedAddress("Ann Hill", "ann@hillcrest.example"), f"Re: [ACME #{ticket}]", "And now?"))
    pages.arrived(letter(NamedAddress("Ann Hill", "ann@hillcrest.example")))  # the first mail again
    parked(pages)
    words = words_of(ada.page("/mailroom"))
    assert "4 came in today 1 new tickets 1 added to tickets 1 set aside 1 need a look 0 missing" in words
    pages.clock.forward(days=1)
    assert "0 came in today" in words_of(ada.page("/mailroom"))


def test_the_trace_is_on_the_page(pages: Pages, ada: Browser) -> None:
    parked(pages)
    page = words_of(ada.page("/mailroom"))
    assert "Trace of this message" in page
    assert "sender Ada Agent, one of us" in page


@pytest.mark.parametrize(
    ("word", "ticket", "ruling"),
    [
        ("retry", "", {"word": "retry", "ticket": None}),
        ("release", "", {"word": "release", "ticket": None}),
        ("allow", "", {"word": "allow", "ticket": None}),
        ("new", "", {"word": "new", "ticket": None}),
        ("ticket", "#1001", {"word": "ticket", "ticket": 1001}),
        ("ticket", " 1001 ", {"word": "ticket", "ticket": 1001}),
    ],
)
def test_a_ruling_makes_the_message_new_again(
    pages: Pages, ada: Browser, word: str, ticket: str, ruling: dict[str, object]
) -> None:
    pages.received()
    inbound = parked(pages)
    answer = ada.post(f"/mailroom/{inbound}", do=word, ticket=ticket, back="/mailroom?state=parked")
    assert answer.location == "/mailroom?state=parked"
    state, said = pages.rows("select state, ruling from inbound where id = ?", inbound)[0]
    assert state == "new"
    assert json.loads(said) == ruling | {"by": pages.desk.people["ada"].id}


@pytest.mark.parametrize(
    ("do", "ticket", "words"),
    [
        ("ticket", "", "There is no ticket #:"),
        ("ticket", "4711", "There is no ticket #4711:"),
        ("drop", "", "no such ruling"),
    ],
)
def test_a_ruling_that_makes_no_sense_is_refused_in_words(
    pages: Pages, ada: Browser, do: str, ticket: str, words: str
) -> None:
    inbound = parked(pages)
    ada.post(f"/mailroom/{inbound}", do=do, ticket=ticket)
    assert words in words_of(ada.page("/mailroom"))
    assert not [action for action in pages.performed if isinstance(action, Rule)]


def test_a_message_that_waits_no_more_says_so(pages: Pages, ada: Browser) -> None:
    inbound = parked(pages)
    ada.post(f"/mailroom/{inbound}", do="retry")
    ada.post(f"/mailroom/{inbound}", do="retry")
    assert "This message does not wait any more." in words_of(ada.page("/mailroom"))


def test_retry_sends_a_dead_message_again(pages: Pages, ada: Browser) -> None:
    outbox = dead(pages)
    ada.post(f"/outbox/{outbox}")
    assert pages.rows("select state, attempts from outbox where id = ?", outbox) == [("ready", 0)]
    assert "It is sent now." in words_of(ada.page("/mailroom"))


def test_what_is_held_for_a_person_is_released(pages: Pages, ada: Browser) -> None:
    outbox = dead(pages)
    with store.writing():
        execute("update outbox set state = 'held', not_before = null where id = ?", outbox)
    assert "It waits until somebody releases it" in words_of(ada.page("/mailroom"))
    ada.post(f"/outbox/{outbox}")
    assert pages.rows("select state from outbox where id = ?", outbox) == [("ready",)]


def test_an_answer_on_its_way_is_not_in_the_mailroom(pages: Pages, ada: Browser) -> None:
    pages.desk.perform(Answer(pages.received(), "Hello."), pages.desk.people["ada"])
    assert "Nothing needs a look" in words_of(ada.page("/mailroom"))


def test_everything_received_is_paged_by_key(pages: Pages, ada: Browser) -> None:
    for n in range(52):
        pages.arrived(letter(PARCELS, f"shipment {n:02}", "x", category=MessageClass.AUTO_REPLY))
    page = ada.page("/mailroom?state=all")
    assert "shipment 51" in page
    assert "shipment 00" not in page
    oldest = pages.rows("select id from inbound order by id desc limit 1 offset 49")[0][0]
    assert f'href="/mailroom?state=all&amp;before={oldest}"' in page
    assert "shipment 00" in ada.page(f"/mailroom?state=all&before={oldest}")


def test_words_of_strangers_are_text_here_too(pages: Pages, ada: Browser) -> None:
    pages.arrived(letter(PARCELS, "<script>alert(1)</script>", "x", category=MessageClass.AUTO_REPLY))
    assert "<script>alert" not in ada.page("/mailroom")
