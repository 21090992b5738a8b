"""SMS on the pages: writing one, what became of it, where a message landed, and whose phones give commands."""

from __future__ import annotations

import io
import re
from typing import Any

import pytest

from gateway import store
from gateway.desk import tick
from gateway.model import Outbox, execute, insert, micros
from gateway.store.files import keep_file
from gateway.values import (
    Answer,
    Delivery,
    Enrol,
    FilePart,
    Medium,
    Move,
    Permanent,
    Receipt,
    Revoke,
    Rule,
    Ruling,
    Verify,
    Write,
)
from tests.conftest import SUPPORT
from tests.webui.conftest import Browser, Clock, Pages, make_pages, words_of
from tests.webui.texts import OTHER, OURS, PHONE, SPOKEN, TOMS, Texts, with_sms


@pytest.fixture
def texts(pages: Pages, clock: Clock) -> Texts:
    return with_sms(pages, clock)


@pytest.fixture
def ada(texts: Texts) -> Browser:
    return texts.pages.browser("ada")


def offered(page: str) -> dict[str, str]:
    """The ways that the composer offers: chosen, open or out."""
    radios = re.findall(r'<input type="radio" name="by" value="(\w+)"([^>]*)>', page)
    return {by: "chosen" if "checked" in rest else "out" if "disabled" in rest else "open" for by, rest in radios}


def shown(browser: Browser, ticket: int, query: str = "") -> str:
    return words_of(browser.page(f"/tickets/{ticket}{query}"))


def answered(texts: Texts, ticket: int, text: str = "We come at four.", by: Medium | None = Medium.SMS) -> int:
    """Ada's answer; its entry."""
    desk = texts.pages.desk
    return desk.perform(Answer(ticket, text, by=by), desk.people["ada"], texts.pages.clock()).entries[0]


# -- the composer ------------------------------------------------------------------------------------------------


def test_the_composer_offers_the_ways_there_are_and_chooses_as_the_customer_last_wrote(
    texts: Texts, ada: Browser
) -> None:
    texts.ann()
    by_mail = texts.pages.received("The boiler is cold")
    assert offered(ada.page(f"/tickets/{by_mail}")) == {"mail": "chosen", "sms": "open", "note": "open"}
    by_sms = texts.ticket(f"#{by_mail} it is cold")
    assert by_sms == by_mail
    assert offered(ada.page(f"/tickets/{by_mail}")) == {"mail": "open", "sms": "chosen", "note": "open"}


def test_who_has_only_a_phone_is_only_offered_sms_and_who_has_only_a_mailbox_only_mail(
    texts: Texts, ada: Browser
) -> None:
    phone, mailbox = texts.ticket(), texts.pages.received("An invoice")
    assert offered(ada.page(f"/tickets/{phone}")) == {"sms": "chosen", "note": "open"}
    assert offered(ada.page(f"/tickets/{mailbox}")) == {"mail": "chosen", "note": "open"}


def test_a_phone_that_said_stop_is_shown_so_and_the_mailbox_is_chosen(texts: Texts, ada: Browser) -> None:
    texts.ann()
    ticket = texts.ticket()
    texts.stop()
    page = ada.page(f"/tickets/{ticket}")
    assert offered(page) == {"mail": "chosen", "sms": "out", "note": "open"}
    assert words_of(page).count("SMS: opted out 25 Nov") == 2  # in the composer, and beside the phone of the customer
    assert f"{SPOKEN} said STOP: no SMS goes there any more" in words_of(page)


def test_a_landline_is_shown_as_one(texts: Texts, ada: Browser) -> None:
    texts.ann()
    ticket = texts.ticket()
    with store.writing():
        execute("update address set sms_ok = ? where value = ?", False, PHONE)
    page = ada.page(f"/tickets/{ticket}")
    assert offered(page)["sms"] == "out"
    assert "SMS: takes no SMS" in words_of(page)


def test_without_a_provider_the_page_says_so(texts: Texts, clock: Clock) -> None:
    texts.ann()
    ticket = texts.ticket()
    texts.pages.desk.config = texts.pages.desk.config.model_copy(update={"sms": ()})
    page = make_pages(texts.pages.desk, clock).browser("ada").page(f"/tickets/{ticket}")
    assert offered(page) == {"mail": "chosen", "sms": "out", "note": "open"}
    assert "SMS: no SMS provider is configured" in words_of(page)


def test_a_desk_without_sms_looks_as_before(pages: Pages) -> None:
    ticket = pages.received()
    page = pages.browser("ada").page(f"/tickets/{ticket}")
    assert offered(page) == {"mail": "chosen", "note": "open"}
    assert 'id="parts"' not in page


@pytest.mark.parametrize(("by", "medium"), [("sms", Medium.SMS), ("mail", Medium.MAIL), ("", None), ("pigeon", None)])
def test_an_answer_goes_by_the_way_that_was_chosen(texts: Texts, ada: Browser, by: str, medium: Medium | None) -> None:
    texts.ann()
    ticket = texts.ticket()
    ada.post(f"/tickets/{ticket}/answer", text="We come at four.", do="wait", by=by)
    assert texts.pages.performed[-1] == Answer(ticket, "We come at four.", then="wait", by=medium)
    assert texts.pages.rows("select medium from outbox where kind = 'answer'") == [(medium or "sms",)]


def test_an_sms_waits_five_seconds_with_its_undo_and_its_words_and_its_way_come_back(
    texts: Texts, ada: Browser
) -> None:
    texts.ann()
    ticket = texts.ticket()
    location = ada.post(f"/tickets/{ticket}/answer", text="We come at for.", do="wait", by="sms").location
    words = words_of(ada.page(location))
    assert f"#{ticket} goes out in 5 s Undo" in words
    assert "Goes out at 10:00, 1 SMS, about 0.04 GBP Undo" in words
    entry = texts.pages.rows("select max(id) from entry where kind = 'answer'")[0][0]
    page = ada.page(ada.post(f"/tickets/{ticket}/undo", entry=str(entry)).location)
    assert offered(page)["sms"] == "chosen"
    assert "We come at for.</textarea>" in page
    assert "Taken back 10:00, not sent" in words_of(page)
    assert 'class="entry struck"' in page


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"files": [(io.BytesIO(b"%PDF-1.4"), "plan.pdf")]}, "Files cannot go by SMS"),
        ({"text": "x" * 1601}, "An SMS holds at most 1600 characters"),
        ({"text": " "}, "There is nothing to send"),
    ],
)
def test_what_cannot_go_by_sms_is_said_at_the_field_and_what_was_typed_stays(
    texts: Texts, ada: Browser, fields: dict[str, Any], words: str
) -> None:
    texts.ann()
    ticket = texts.ticket()
    fields = {"text": "Here it is.", **fields}
    answer = ada.post(f"/tickets/{ticket}/answer", do="wait", by="sms", **fields)
    page = answer.get_data(as_text=True)
    assert answer.status_code == 422
    assert re.search(rf'id="reply-err">{words}', page)
    assert f"{fields['text']}</textarea>" in page
    assert offered(page)["sms"] == "chosen"


# -- how many SMS it is ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words", "offer"),
    [
        ("We come at four.", "1 SMS, about 0.04 GBP", False),
        ("a" * 161, "2 SMS, about 0.08 GBP", False),
        ("We’ll come. " + "a" * 70, "2 SMS (1 special character: ’), about 0.08 GBP", True),
        ("We’ll come – soon", "1 SMS (2 special characters: ’ –), about 0.04 GBP", False),
        ("Мы придём завтра в девять часов утра, будьте пожалуйста дома в это время", "3 SMS", False),
        ("x" * 1601, "1601 characters: an SMS holds at most 1600", False),
        ("", "", False),
    ],
)
def test_the_server_counts_and_offers_plain_characters_where_they_help(
    ada: Browser, text: str, words: str, offer: bool
) -> None:
    headers = {"X-CSRFToken": ada.token()}
    said = ada.client.post("/segments", json={"text": text}, headers=headers).get_json()
    if words == "3 SMS":
        assert said["words"].startswith("2 SMS (") or said["words"].startswith("3 SMS (")
    else:
        assert said["words"] == words
    assert said["offer"] is offer


def test_the_whole_answer_of_the_counter(ada: Browser) -> None:
    headers = {"X-CSRFToken": ada.token()}
    said = ada.client.post("/segments", json={"text": "It’s 4 o’clock", "inbox": SUPPORT}, headers=headers).get_json()
    assert said == {
        "segments": 1,
        "encoding": "UCS-2",
        "special": ["’"],
        "plain": "It's 4 o'clock",
        "offer": False,
        "cost": "about 0.04 GBP",
        "words": "1 SMS (1 special character: ’), about 0.04 GBP",
    }


def test_without_a_price_no_cost_is_named(texts: Texts, clock: Clock) -> None:
    browser = with_sms(texts.pages, clock, price=0).pages.browser("ada")
    said = browser.client.post("/segments", json={"text": "Hello"}, headers={"X-CSRFToken": browser.token()}).get_json()
    assert (said["words"], said["cost"]) == ("1 SMS", "")


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"text": 5}', b"not json", b'{"text": null}'])
def test_what_is_no_question_is_refused(ada: Browser, body: bytes) -> None:
    headers = {"X-CSRFToken": ada.token(), "Content-Type": "application/json"}
    assert ada.client.post("/segments", data=body, headers=headers).status_code == 400


def test_the_counter_needs_a_session_and_a_token(ada: Browser, texts: Texts) -> None:
    assert ada.client.post("/segments", json={"text": "Hello"}).status_code == 400
    assert texts.pages.browser("").client.post("/segments", json={"text": "Hello"}).status_code == 302


# -- what became of it -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"state": "ready"}, "Goes out now, 1 SMS, about 0.04 GBP"),
        ({"state": "sent"}, "Sent 10:00, 1 SMS, about 0.04 GBP"),
        ({"state": "sent", "segments": 2}, "Sent 10:00, 2 SMS, about 0.08 GBP"),
        ({"state": "sent", "segments": 2, "price": "0.0790", "currency": "GBP"}, "Sent 10:00, 2 SMS, 0.08 GBP"),
        ({"state": "sent", "price": "0.0075", "currency": "USD"}, "Sent 10:00, 1 SMS, 0.0075 USD"),
        (
            {"state": "sent", "result": "may have been sent twice; queued"},
            "Sent 10:00, may have been sent twice, 1 SMS",
        ),
        ({"state": "sent", "result": "not sent: no SMS provider configured"}, "Not sent: no SMS provider configured"),
        (
            {"state": "dead", "code": "30006", "result": "this number takes no SMS"},
            "Not delivered (30006: this number takes no SMS) Send by email? Try again",
        ),
        ({"state": "dead", "result": "opted out"}, "Not delivered (opted out) Send by email?"),
        ({"state": "uncertain", "result": "no answer"}, "May not have arrived (no answer)"),
        ({"state": "held", "not_before": None, "result": ""}, "Waits for a release"),
    ],
)
def test_each_sms_says_what_became_of_it(texts: Texts, ada: Browser, columns: dict[str, Any], words: str) -> None:
    texts.ann()
    ticket = texts.ticket()
    answered(texts, ticket)
    texts.settle(**columns)
    assert words in shown(ada, ticket)


def test_a_receipt_is_shown_with_its_time(texts: Texts, ada: Browser) -> None:
    ticket = texts.ticket()
    answered(texts, ticket)
    id = texts.settle(state="sent", segments=1)
    texts.pages.clock.forward(minutes=3)
    texts.receipt(Receipt("file", "x", Delivery.DELIVERED, id))
    words = shown(ada, ticket)
    assert f"Ada Agent answered by SMS, {SPOKEN}" in words
    assert "Delivered 10:03, 1 SMS" in words
    assert "Last You by SMS" in words


def test_an_sms_that_did_not_arrive_is_prepared_as_a_mail_by_whoever_reads_it(texts: Texts, ada: Browser) -> None:
    texts.ann()
    ticket = texts.ticket()
    entry = answered(texts, ticket, "We come at four.")
    texts.settle(state="dead", code="30006", result="this number takes no SMS")
    link = f'href="/tickets/{ticket}?again={entry}&amp;by=mail#reply"'
    assert link in ada.page(f"/tickets/{ticket}")
    page = texts.pages.browser("sue").page(f"/tickets/{ticket}?again={entry}&by=mail")
    assert "We come at four.</textarea>" in page
    assert offered(page)["mail"] == "chosen"


def test_words_of_another_ticket_or_of_a_note_are_not_prepared(texts: Texts, ada: Browser) -> None:
    one, two = texts.ticket(), texts.ticket("Another thing", OTHER)
    entry = answered(texts, two, "For the other one.")
    assert "For the other one." not in ada.page(f"/tickets/{one}?again={entry}&by=mail")


def test_who_has_no_mailbox_is_not_offered_a_mail(texts: Texts, ada: Browser) -> None:
    ticket = texts.ticket()
    answered(texts, ticket)
    texts.settle(state="dead", code="30006", result="a landline")
    assert "Not delivered (30006: a landline) Try again" in shown(ada, ticket)


def test_the_mail_that_went_in_its_place_stands_beside_it(texts: Texts, ada: Browser) -> None:
    texts.ann()
    ticket = texts.ticket()
    answered(texts, ticket)
    id = texts.settle(state="dead", code="30006", result="a landline")
    with store.writing():
        insert(
            Outbox,
            key=f"fallback:{id}",
            ticket=ticket,
            kind="answer",
            medium="mail",
            recipient="ann@hillcrest.example",
            state="sent",
            created_at=0,
            done_at=micros(texts.pages.clock()),
        )
    words = shown(ada, ticket)
    assert "Not delivered (30006: a landline) Try again" in words
    assert "Sent to ann@hillcrest.example 10:00" in words


# -- what came, and why it landed here ---------------------------------------------------------------------------


def test_pictures_are_shown_and_those_on_their_way_announced(texts: Texts, ada: Browser) -> None:
    texts.came("Look", pictures=2)
    assert "2 pictures are on the way" in shown(ada, 1001)
    entry = texts.pages.rows("select max(id) from entry where kind = 'message'")[0][0]
    with store.writing():
        keep_file(entry, FilePart("0" * 64, "picture-1.jpg", "image/jpeg", 9), texts.pages.clock())
    page = ada.page("/tickets/1001")
    assert "A picture is on the way" in words_of(page)
    assert '<img src="/attachments/1?show" alt="picture-1.jpg" loading="lazy">' in page


def guessed(texts: Texts) -> tuple[int, int]:
    """A message that landed on a ticket by a guess; the ticket it is really about, and the message's entry."""
    texts.ann()
    other, ticket = texts.pages.received("An invoice"), texts.ticket("#9999 The boiler is cold")
    assert ticket == other
    with store.writing():
        execute("update ticket set status = 'closed', closed_at = 0 where number = ?", other)
    texts.pages.clock.forward(hours=1)
    fresh = texts.ticket("The sink leaks")
    with store.writing():
        execute("update ticket set status = 'open', closed_at = null where number = ?", other)
    answered(texts, fresh)
    texts.settle(state="sent", number=OURS)
    texts.pages.clock.forward(hours=1)
    texts.came("And when?")
    assert texts.pages.rows("select ticket, reason from inbound order by id desc limit 1") == [(fresh, "recent")]
    return other, int(texts.pages.rows("select max(id) from entry where kind = 'message'")[0][0])


def test_a_guess_is_marked_and_one_click_moves_it_to_the_customers_other_ticket(texts: Texts, ada: Browser) -> None:
    other, entry = guessed(texts)
    words = shown(ada, 1002)
    assert f"Ann Hill by SMS, {SPOKEN} guessed" in words
    assert f"About something else? #{other} An invoice New ticket or to ticket Move" in words
    assert "A guess: we wrote to this phone about this ticket last" in words
    answer = ada.post("/tickets/1002/move", entry=str(entry), to=str(other))
    assert answer.location == "/tickets/1002"
    assert texts.pages.performed[-1] == Move(entry, other, 1002)
    left = shown(ada, 1002)
    assert f"The message is on #{other} now." in left
    assert f"Ann Hill by SMS, moved to #{other}" in left
    assert f"A message was moved to #{other} by Ada Agent" in left
    assert "About something else?" not in left
    there = shown(ada, other)
    assert "A message was moved here from #1002 by Ada Agent" in there
    assert there.index("moved here") < there.index("And when?")
    assert "Last Ann Hill by SMS" in there


def test_a_message_that_comes_back_stands_where_it_was(texts: Texts, ada: Browser) -> None:
    other, entry = guessed(texts)
    ada.post("/tickets/1002/move", entry=str(entry), to=str(other))
    ada.post(f"/tickets/{other}/move", entry=str(entry), to="1002")
    back = shown(ada, 1002)
    assert back.count("And when?") == 1
    assert "moved to #1001 " not in back.partition("And when?")[0].rpartition("Ann Hill")[2]
    assert f"Ann Hill by SMS, moved to #{1002}" in shown(ada, other)


def test_any_message_can_be_moved_to_a_new_ticket(texts: Texts, ada: Browser) -> None:
    ticket = texts.pages.received("Two things", "The boiler, and the sink.")
    entry = texts.pages.rows("select max(id) from entry where kind = 'message'")[0][0]
    assert f'href="/tickets/{ticket}?move={entry}#e{entry}"' in ada.page(f"/tickets/{ticket}")
    assert "Move it to New ticket" in shown(ada, ticket, f"?move={entry}")
    ada.post(f"/tickets/{ticket}/move", entry=str(entry), to="new")
    assert texts.pages.performed[-1] == Move(entry, None, ticket)
    assert "Wants The boiler, and the sink." in shown(ada, ticket + 1)


@pytest.mark.parametrize(
    ("to", "number", "words"),
    [
        ("number", "", "There is no ticket #:"),
        ("number", "x1", "There is no ticket #x1:"),
        ("number", "4711", "There is no ticket #4711."),
        ("", "", "There is no ticket #:"),
        ("1001", "", "It is on this ticket already."),
    ],
)
def test_a_move_that_makes_no_sense_is_refused_in_words(
    texts: Texts, ada: Browser, to: str, number: str, words: str
) -> None:
    ticket = texts.ticket()
    entry = texts.pages.rows("select max(id) from entry where kind = 'message'")[0][0]
    answer = ada.post(f"/tickets/{ticket}/move", entry=str(entry), to=to, number=number)
    assert answer.status_code == 422
    assert words in words_of(answer.get_data(as_text=True))


# -- what the field does -----------------------------------------------------------------------------------------

FIELD = [
    (["take 1001"], "Tom Technician took it by SMS"),
    (["take 1001", "drop 1001"], "Tom Technician gave it back by SMS"),
    (["eta 1001 15:30"], "Tom Technician will be there at 15:30"),
    (["here 1001"], "Tom Technician is there"),
    (["hold 1001 2d waiting for a part"], "Paused by Tom Technician’s SMS until Fri 27 Nov"),
    (["assign 1001 @ada"], "Given to Ada Agent by Tom Technician’s SMS"),
    (["again 1001"], "Tom Technician asks for a second visit"),
    (["done 1001 new valve"], "Closed by Tom Technician’s SMS: solved"),
    (["done 1001", "reopen 1001"], "Opened again by Tom Technician’s SMS"),
    (["escalate 1001"], "Escalated by Tom Technician’s SMS to Sue Supervisor"),
    (["done 1001", "undo"], "Tom Technician took “done” back"),
    (["note 1001 a new pump is needed"], "Tom Technician internal note by SMS"),
]


@pytest.mark.parametrize(("said", "words"), FIELD, ids=[said[-1] for said, _ in FIELD])
def test_what_a_command_did_is_a_sentence_with_the_words_as_written(
    texts: Texts, ada: Browser, said: list[str], words: str
) -> None:
    texts.tom()
    ticket = texts.ticket()
    for text in said:
        texts.came(text, TOMS)
        texts.pages.clock.forward(minutes=1)
    page = shown(ada, ticket)
    assert words in page
    assert f"“{said[0]}”" in page


def test_what_undo_took_back_is_struck_through(texts: Texts, ada: Browser) -> None:
    texts.tom()
    ticket = texts.ticket()
    texts.came("done 1001 new valve fitted", TOMS)
    assert 'class="entry note struck"' not in ada.page(f"/tickets/{ticket}")
    texts.came("undo", TOMS)
    page = ada.page(f"/tickets/{ticket}")
    assert 'class="entry note struck"' in page
    assert re.search(r"<s>Closed by Tom Technician’s SMS: solved</s>", page)
    assert 'class="entry in struck"' not in page


@pytest.mark.parametrize(
    ("reason", "data", "words"),
    [
        ("sms-undelivered", {"to": PHONE, "code": "30006", "words": "dead"}, f"{SPOKEN} did not arrive: 30006 dead"),
        ("sms-undelivered", {"to": PHONE, "code": "", "why": "given-up", "words": ""}, "did not arrive: given up"),
        ("picture-missing", {"entry": 1, "words": "gone"}, "A picture is missing: gone"),
        ("awake", {}, "The pause is over"),
        ("automatic-off", {}, "The phone writes like a machine"),
        ("moved-out", {"entry": 1}, "A message was moved to another ticket"),
        ("something-else", {}, "Something else"),
        ("picture-missing", {"words": "<script>{who}</script>"}, "A picture is missing: <script>{who}</script>"),
    ],
)  # fmt: skip
def test_events_are_sentences(texts: Texts, ada: Browser, reason: str, data: dict[str, Any], words: str) -> None:
    from gateway.store import apply as writer
    from gateway.values import Channel, Decision, InboundState, Kind, NewEntry

    ticket = texts.ticket()
    event = NewEntry(Kind.EVENT, Channel.CLOCK, public=False, reason=reason, data=data)
    with store.writing():
        writer.apply(Decision(InboundState.DONE, reason, ticket=ticket, entries=(event,)), texts.pages.clock())
    page = ada.page(f"/tickets/{ticket}")
    assert words in words_of(page)
    assert "<script>{" not in page


def test_thanks_and_reactions_are_the_customers_words_not_notes_of_ours(texts: Texts, ada: Browser) -> None:
    ticket = texts.ticket()
    ada.post(f"/tickets/{ticket}/close", reason="solved")
    texts.came("Thank you!")
    page = ada.page(f"/tickets/{ticket}")
    assert f"{SPOKEN} says thanks by SMS" in words_of(page)
    assert "internal note" not in words_of(page)
    assert "Thanks and nothing else: a closed ticket stays closed" in words_of(page)


# -- sorting -----------------------------------------------------------------------------------------------------


def unsorted(texts: Texts) -> tuple[int, int, int]:
    """A message that may be about two tickets: its mailroom row, and the two."""
    texts.ann()
    one = texts.pages.received("The boiler is cold")
    two = texts.pages.received("An invoice", "Too much.")
    inbound = texts.came("Yes please, tomorrow is fine")
    assert texts.pages.rows("select state, reason from inbound where id = ?", inbound) == [("parked", "needs-sorting")]
    return inbound, one, two


def test_what_needs_sorting_is_seen_in_the_inbox_and_sorted_by_one_click(texts: Texts, ada: Browser) -> None:
    assert "sorting" not in words_of(ada.page("/"))
    inbound, one, two = unsorted(texts)
    inbox = ada.page("/")
    assert "1 message needs sorting : nobody can tell which ticket it is about." in words_of(inbox)
    assert 'href="/mailroom?state=sorting"' in inbox
    words = words_of(ada.page("/mailroom?state=sorting"))
    assert f"Ann Hill {SPOKEN} “Yes please, tomorrow is fine”" in words
    assert "It may be about more than one ticket, or about none" in words
    assert f"#{one} The boiler is cold #{two} An invoice New ticket" in words
    ada.post(f"/mailroom/{inbound}", do=f"ticket {two}", back="/mailroom?state=sorting")
    assert texts.pages.performed[-1] == Rule(inbound, Ruling("ticket", two))
    texts.decide()
    assert "Yes please, tomorrow is fine" in shown(ada, two)
    assert "One of us said that it belongs here" in shown(ada, two)
    assert "sorting" not in words_of(ada.page("/"))


def test_what_nobody_sorts_is_put_by_a_guess_that_says_so(texts: Texts, ada: Browser) -> None:
    inbound, _, two = unsorted(texts)
    texts.pages.clock.forward(minutes=61)
    tick(texts.pages.desk.config, texts.pages.clock())
    texts.decide()
    assert texts.pages.rows("select ticket from inbound where id = ?", inbound) == [(two,)]
    words = shown(ada, two)
    assert f"Ann Hill by SMS, {SPOKEN} guessed" in words
    assert "A guess: the sender was asked and did not answer" in words


def test_it_may_be_something_new(texts: Texts, ada: Browser) -> None:
    inbound, _, two = unsorted(texts)
    ada.post(f"/mailroom/{inbound}", do="new")
    assert texts.pages.performed[-1] == Rule(inbound, Ruling("new"))
    texts.decide()
    assert "Yes please, tomorrow is fine" in shown(ada, two + 1)


def test_free_words_of_one_of_us_are_offered_his_jobs(texts: Texts, ada: Browser) -> None:
    texts.tom()
    for phone in (PHONE, OTHER):
        texts.came("It is cold", phone)
    for ticket in (1001, 1002):
        texts.came(f"take {ticket}", TOMS)
    inbound = texts.came("the part is at the wholesaler", TOMS)
    assert texts.pages.rows("select state from inbound where id = ?", inbound) == [("parked",)]
    words = words_of(ada.page("/mailroom?state=sorting"))
    assert "Tom Technician" in words
    assert "#1001 It is cold #1002 It is cold New ticket" in words


def test_the_balance_of_a_day_with_sms_adds_up_and_counts_no_receipts(texts: Texts, ada: Browser) -> None:
    texts.tom()
    texts.ticket()
    texts.came("mine", TOMS)
    texts.came("STOP")
    texts.take(Receipt("file", "nobody knows it", Delivery.DELIVERED))
    words = words_of(ada.page("/mailroom"))
    assert "3 came in today 1 new tickets 0 added to tickets 2 set aside 0 need a look 0 missing" in words


def test_the_inbox_names_a_stranger_by_his_number_and_shows_how_he_wrote(texts: Texts, ada: Browser) -> None:
    texts.ticket("The sink leaks")
    page = ada.page("/")
    assert f"Unread SMS {SPOKEN} not known yet The sink leaks “The sink leaks”" in words_of(page)
    assert "icons.svg" in page
    assert "#sms" in page


# -- a new conversation ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "number"),
    [("07700 900123", PHONE), ("+44 7700 900123", PHONE), ("0044 (0) 7700-900123", PHONE)],
)
def test_a_conversation_begins_by_sms_without_a_subject(texts: Texts, ada: Browser, typed: str, number: str) -> None:
    answer = ada.post("/tickets/new", inbox=SUPPORT, to=typed, text="Tom comes at nine.", nonce="n")
    assert texts.pages.performed == [Write(SUPPORT, number, "", "", "Tom comes at nine.", (), "n")]
    words = words_of(ada.page(answer.location))
    assert "Tom comes at nine. #1001" in words
    assert f"answered by SMS, {SPOKEN}" in words
    assert "goes out in 5 s" in words


@pytest.mark.parametrize(
    ("to", "words"),
    [
        ("12", "Not a phone number: 12 (too short)."),
        ("ann at home", "That is no mail address"),
        ("ann@", "That is no mail address"),
        ("+999 123456789", "Not a phone number: +999 123456789"),
        ("", "That is no mail address"),
    ],
)
def test_a_bad_number_is_said_at_the_field_and_what_was_typed_stays(
    texts: Texts, ada: Browser, to: str, words: str
) -> None:
    answer = ada.post("/tickets/new", inbox=SUPPORT, to=to, text="Tom comes at nine.")
    page = answer.get_data(as_text=True)
    assert answer.status_code == 422
    assert texts.pages.performed == []
    assert re.search(r'<input id="to"[^>]*aria-describedby="new-err"><span class="err" id="new-err">', page)
    assert words in words_of(page)
    assert "Tom comes at nine.</textarea>" in page


def test_the_desks_own_words_stand_above_the_form(texts: Texts, ada: Browser) -> None:
    texts.ticket()
    texts.stop()
    answer = ada.post("/tickets/new", inbox=SUPPORT, to=PHONE, text="Tom comes at nine.")
    assert answer.status_code == 422
    assert f"{PHONE} has said STOP" in words_of(answer.get_data(as_text=True))


def test_without_a_number_of_ours_a_phone_is_refused(pages: Pages) -> None:
    answer = pages.browser("ada").post("/tickets/new", inbox=SUPPORT, to=PHONE, text="Hello")
    assert answer.status_code == 422
    assert "No SMS number is configured" in words_of(answer.get_data(as_text=True))


# -- phones of ours ----------------------------------------------------------------------------------------------


def code(texts: Texts) -> str:
    """The code of the newest enrolment, as the SMS says it."""
    import json

    found = texts.pages.rows("select data from outbox where kind = 'code' order by id desc limit 1")
    return str(json.loads(found[0][0])["code"])


def test_a_phone_is_enrolled_by_its_code_and_revoked_by_one_click(texts: Texts) -> None:
    tom = texts.pages.desk.people["tom"].id
    ada = texts.pages.browser("ada")
    assert "Nobody has a phone yet" in words_of(ada.page("/settings/phones"))
    assert ada.post("/settings/phones/enrol", account=str(tom), phone="07700 900456").location == "/settings/phones"
    assert texts.pages.performed[-1:] == [Enrol(tom, TOMS)]
    words = words_of(ada.page("/settings/phones"))
    assert "Code sent to +44 7700 900456; it is valid for 10 minutes." in words
    assert "Tom Technician technician +44 7700 900456 code sent, valid until 10:10 Code Verify" in words
    wrong = ada.post("/settings/phones/verify", account=str(tom), phone=TOMS, code="000000")
    assert wrong.status_code == 422
    assert re.search(r'id="code-err">That is not the code', wrong.get_data(as_text=True))
    ada.post("/settings/phones/verify", account=str(tom), phone=TOMS, code=code(texts))
    words = words_of(ada.page("/settings/phones"))
    assert "+44 7700 900456 is verified: it gives commands now." in words
    assert "Tom Technician technician +44 7700 900456 verified 10:00, not used yet Revoke" in words
    ada.post("/settings/phones/revoke", account=str(tom), phone=TOMS)
    assert texts.pages.performed[-1:] == [Revoke(tom, TOMS)]
    assert "Nobody has a phone yet" in words_of(ada.page("/settings/phones"))


def test_the_code_may_be_texted_back(texts: Texts) -> None:
    tom = texts.pages.desk.people["tom"].id
    ada = texts.pages.browser("ada")
    ada.post("/settings/phones/enrol", account=str(tom), phone=TOMS)
    texts.came(code(texts), TOMS)
    assert "+44 7700 900456 verified 10:00, last used just now" in words_of(ada.page("/settings/phones"))


def test_a_technician_sees_and_enrols_his_own_phone_only(texts: Texts) -> None:
    people = texts.pages.desk.people
    tom = texts.pages.browser("tom")
    page = tom.page("/settings/phones")
    assert "Whose phone" not in words_of(page)
    assert "Tom Technician" in words_of(page)
    assert "Ada Agent" not in page
    for path in ("enrol", "verify", "revoke"):
        fields = {"account": str(people["ada"].id), "phone": TOMS, "code": "123456"}
        assert tom.post(f"/settings/phones/{path}", **fields).status_code == 403
    assert texts.pages.performed == []
    tom.post("/settings/phones/enrol", phone=TOMS)
    assert texts.pages.performed == [Enrol(people["tom"].id, TOMS)]


@pytest.mark.parametrize(
    ("phone", "words"),
    [("12", "Not a phone number: 12 (too short)."), (OURS, "This is our own number."), ("", "Not a phone number")],
)
def test_a_phone_that_cannot_be_enrolled_is_said_at_the_field(
    texts: Texts, ada: Browser, phone: str, words: str
) -> None:
    answer = ada.post("/settings/phones/enrol", phone=phone)
    page = answer.get_data(as_text=True)
    assert answer.status_code == 422
    assert re.search(rf'<span class="err" id="phone-err">{re.escape(words)}', page)


def test_a_code_that_is_over_is_said(texts: Texts, ada: Browser) -> None:
    ada.post("/settings/phones/enrol", phone=TOMS)
    texts.pages.clock.forward(minutes=11)
    answer = ada.post("/settings/phones/verify", phone=TOMS, code=code(texts))
    assert isinstance(texts.pages.performed[-1], Verify)
    assert answer.status_code == 422
    assert "There is no code for this phone any more: send a new one." in words_of(answer.get_data(as_text=True))


def test_without_a_number_of_ours_the_page_says_what_is_missing(pages: Pages) -> None:
    browser = pages.browser("ada")
    assert "No SMS number is configured" in words_of(browser.page("/settings/phones"))
    assert 'href="/settings/phones"' in browser.page("/")
    with pytest.raises(Permanent):
        pages.desk.perform(Enrol(1, PHONE), pages.desk.people["ada"])
