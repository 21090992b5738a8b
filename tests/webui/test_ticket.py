"""The page of a ticket, and every form on it."""

from __future__ import annotations

import io
import threading
from dataclasses import replace

import pytest

from gateway import store
from gateway.model import execute, micros, row
from gateway.values import (
    Answer,
    Close,
    MessageClass,
    Remark,
    Step,
    Temporary,
)
from tests.conftest import ANN, BEN, MAX
from tests.webui.conftest import Browser, Pages, letter, make_pages, words_of


def entry_of(pages: Pages, ticket: int, kind: str) -> int:
    return int(pages.rows("select max(id) from entry where ticket = ? and kind = ?", ticket, kind)[0][0])


# -- what it shows -----------------------------------------------------------------------------------------------


def test_a_ticket_shows_who_wants_what_who_is_next_and_the_words(pages: Pages, ada: Browser) -> None:
    ticket = pages.received("No heat", "Flat 7 is cold.\n\nPlease come today.")
    pages.clock.forward(minutes=18)
    words = words_of(ada.page(f"/tickets/{ticket}"))
    assert "No heat #1001" in words
    assert "Wants Flat 7 is cold. Please come today." in words
    assert "Last Ann Hill by mail, 18 min ago" in words
    assert "Next Somebody takes it and answers by 18:00" in words
    assert "Answer by 18:00" in words


def test_a_ticket_that_is_not_there_is_404_whatever_its_number(ada: Browser) -> None:
    for number in ("1", "999999", "99999999999999999999", "0"):
        assert ada.get(f"/tickets/{number}").status_code == 404


def test_the_history_is_newest_first(pages: Pages, ada: Browser) -> None:
    ticket = pages.received(text="First words.")
    pages.desk.perform(Remark(ticket, "Second words."), pages.desk.people["sue"])
    words = words_of(ada.page(f"/tickets/{ticket}"))
    assert words.index("Second words.") < words.rindex("First words.")
    assert "Sue Supervisor internal note" in words


def test_the_trace_tells_why_it_landed_here_and_in_how_many_milliseconds(pages: Pages, ada: Browser) -> None:
    ticket = pages.received(steps=(Step("reading", "plain text", 3.14159),))
    page = ada.page(f"/tickets/{ticket}")
    words = words_of(page)
    assert "Why it landed here" in words
    assert "It named no ticket: a new one" in words
    assert "3.1 ms" in words
    assert '<li class="hit"><b>new</b>' in page


def test_quoted_text_is_folded_and_can_be_opened_without_a_script(pages: Pages, ada: Browser) -> None:
    ticket = pages.received(quoted="On Monday you wrote:\nhello")
    page = ada.page(f"/tickets/{ticket}")
    assert "<summary>Earlier mail, 2 lines</summary>" in page
    assert "On Monday you wrote:" in page


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("<script>alert(1)</script>", "&lt;script&gt;alert(1)&lt;/script&gt;"),
        ("{{ 7*7 }}", "{{ 7*7 }}"),
        (
            "see https://a.example/x?y=1&z=2.",
            '<a href="https://a.example/x?y=1&amp;z=2" rel="noreferrer nofollow" target="_blank">',
        ),
        ("javascript:alert(1)", "<p>javascript:alert(1)</p>"),
        ("one\n\ntwo", "<p>one</p><p>two</p>"),
        ("  indented\n  too", "<p>  indented\n  too</p>"),
    ],
)
def test_words_of_strangers_are_text(pages: Pages, ada: Browser, text: str, html: str) -> None:
    assert html in ada.page(f"/tickets/{pages.received(text=text)}")


def test_a_very_long_message_is_cut_and_the_raw_one_offered(pages: Pages, ada: Browser) -> None:
    page = ada.page(f"/tickets/{pages.received(text='word ' * 100_000)}")
    assert len(page) < 60_000
    assert "has the rest" in page


def test_an_automatic_message_is_folded(pages: Pages, ada: Browser) -> None:
    ticket = pages.received()
    tag = f"Re: [ACME #{ticket}]"
    pages.arrived(letter(ANN, tag, "I am in Spain.", category=MessageClass.OUT_OF_OFFICE))
    words = words_of(ada.page(f"/tickets/{ticket}"))
    assert "What it says I am in Spain." in words


def test_another_sender_on_the_ticket_is_marked(pages: Pages, ada: Browser) -> None:
    ticket = pages.received()
    pages.arrived(letter(BEN, "Re: The boiler is cold", "Me too.", in_reply_to=(letter(ANN).message_id,)))
    assert "Me too." in words_of(ada.page(f"/tickets/{ticket}"))


def test_the_card_shows_the_person_and_his_other_open_tickets(pages: Pages, ada: Browser) -> None:
    first, second = pages.received("The boiler is cold"), pages.received("An invoice")
    words = words_of(ada.page(f"/tickets/{first}"))
    assert "Ann Hill ann@hillcrest.example" in words
    assert "Other open tickets 1 An invoice" in words
    pages.desk.perform(Close(second, "solved"), pages.desk.people["ada"])
    assert "Other open tickets" not in words_of(ada.page(f"/tickets/{first}"))


def test_more_than_a_hundred_entries_are_paged_by_key(pages: Pages, ada: Browser) -> None:
    ticket = pages.received(text="The very first.")
    for n in range(120):
        pages.desk.perform(Remark(ticket, f"note {n:03}"), pages.desk.people["sue"])
    newest = words_of(ada.page(f"/tickets/{ticket}"))
    assert "note 119" in newest
    assert "note 000" not in newest
    oldest_shown = pages.rows("select id from entry where ticket = ? order by id desc limit 1 offset 99", ticket)[0][0]
    older = words_of(ada.page(f"/tickets/{ticket}?before={oldest_shown}"))
    assert "note 000" in older
    assert "note 119" not in older
    assert "Newest" in older


# -- answering ---------------------------------------------------------------------------------------------------


def test_an_answer_waits_with_an_undo_and_says_so(pages: Pages, ada: Browser) -> None:
    ticket = pages.received()
    answer = ada.post(f"/tickets/{ticket}/answer", text="We come at four.", do="wait", by="answer")
    assert answer.location.startswith(f"/tickets/{ticket}?sent=")
    words = words_of(ada.page(answer.location))
    assert f"#{ticket} goes out in 15 s Undo" in words
    assert "Goes out at 10:00" in words
    assert "Next Ann Hill answers" in words
    assert pages.rows("select state, recipient from outbox where kind = 'answer'") == [
        ("held", "ann@hillcrest.example")
    ]


def test_the_toast_is_gone_when_the_time_is_over(pages: Pages, ada: Browser) -> None:
    ticket = pages.received()
    location = ada.post(f"/tickets/{ticket}/answer", text="Hello.", do="wait").location
    pages.clock.forward(seconds=16)
    assert "goes out in" not in words_of(ada.page(location))


def test_undo_takes_the_answer_back_and_gives_its_words_back(pages: Pages, ada: Browser) -> None:
    ticket = pages.received()
    ada.post(f"/tickets/{ticket}/answer", text="We come at for.", do="wait")
    entry = entry_of(pages, ticket, "answer")
    answer = ada.post(f"/tickets/{ticket}/undo", entry=str(entry))
    assert answer.location == f"/tickets/{ticket}?again={entry}"
    page = ada.page(answer.location)
    assert "We come at for.</textarea>" in page
    assert "An answer was taken back by Ada Agent" in words_of(page)
    assert pages.rows("select state from outbox where kind = 'answer'") == [("cancelled",)]


def test_undo_that_comes_too_late_is_told_so(pages: Pages, ada: Browser) -> None:
    ticket = pages.received()
    ada.post(f"/tickets/{ticket}/answer", text="Hello.", do="wait")
    with store.writing():
        execute("update outbox set state = 'sent', done_at = 1 where kind = 'answer'")
    answer = ada.post(f"/tickets/{ticket}/undo", entry=str(entry_of(pages, ticket, "answer")))
    assert answer.status_code == 422
    assert "Too late: already sent" in words_of(answer.get_data(as_text=True))


def test_nobody_elses_words_are_put_into_my_composer(pages: Pages, ada: Browser) -> None:
    ticket = pages.received()
    pages.desk.perform(Remark(ticket, "Sue's own words."), pages.desk.people["sue"])
    assert "Sue&#39;s own words.</textarea>" not in ada.page(
        f"/tickets/{ticket}?again={entry_of(pages, ticket, 'note')}"
    )


def test_send_and_close_closes_with_the_reason_and_leads_to_the_inbox_with_the_undo(pages: Pages, ada: Browser) -> None:
    ticket = pages.received()
    answer = ada.post(f"/tickets/{ticket}/answer", text="Done.", do="close", reason="solved")
    assert answer.location.startswith("/?sent=")
    assert f"#{ticket} goes out in 15 s" in words_of(ada.page(answer.location))
    assert pages.desk.ticket(ticket)["status"] == "closed"
    assert "Closed by Ada Agent: solved" in words_of(ada.page(f"/tickets/{ticket}"))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"text": " ", "do": "wait"}, "There is nothing to send"),
        ({"text": "Typed with care.", "do": "close", "reason": "no such reason"}, "Closing needs a reason"),
    ],
)
def test_what_cannot_be_done_is_said_and_what_was_typed_stays(
    pages: Pages, ada: Browser, fields: dict[str, str], words: str
) -> None:
    ticket = pages.received()
    answer = ada.post(f"/tickets/{ticket}/answer", **fields)
    page = answer.get_data(as_text=True)
    assert answer.status_code == 422
    assert words in words_of(page)
    assert f"{fields['text']}</textarea>" in page


def test_an_answer_to_a_ticket_that_got_news_meanwhile_is_held_up(pages: Pages, ada: Browser) -> None:
    ticket = pages.received()
    seen = entry_of(pages, ticket, "event")
    pages.arrived(letter(ANN, f"Re: [ACME #{ticket}]", "It works again!"))
    answer = ada.post(f"/tickets/{ticket}/answer", text="We come at four.", do="wait", seen=str(seen))
    page = answer.get_data(as_text=True)
    assert answer.status_code == 422
    assert "Something new came while you were writing." in words_of(page)
    assert "We come at four.</textarea>" in page
    assert "It works again!" in page
    fresh = entry_of(pages, ticket, "message")
    assert ada.post(f"/tickets/{ticket}/answer", text="Fine.", do="wait", seen=str(fresh)).status_code == 302


def test_a_form_sent_twice_sends_one_answer(pages: Pages, ada: Browser) -> None:
    ticket = pages.received()
    both = [ada.post(f"/tickets/{ticket}/answer", text="Once.", do="wait", nonce="n1").location for _ in range(2)]
    assert both[0] == both[1]
    assert pages.rows("select count(*) from outbox where kind = 'answer'") == [(1,)]


def test_a_form_sent_ten_times_at_once_sends_one_answer(pages: Pages, ada: Browser) -> None:
    ticket = pages.received()
    browsers = [pages.browser("ada") for _ in range(10)]
    tokens = [browser.token() for browser in browsers]

    def send(browser: Browser, token: str) -> None:
        form = {"csrf_token": token, "text": "Once.", "do": "wait", "nonce": "n2"}
        browser.client.post(f"/tickets/{ticket}/answer", data=form).close()

    threads = [threading.Thread(target=send, args=pair) for pair in zip(browsers, tokens, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert pages.rows("select count(*) from outbox where kind = 'answer'") == [(1,)]


def test_a_form_that_failed_may_be_sent_again(pages: Pages, ada: Browser) -> None:
    ticket = pages.received()
    assert ada.post(f"/tickets/{ticket}/answer", text="", do="wait", nonce="n3").status_code == 422
    assert ada.post(f"/tickets/{ticket}/answer", text="Now.", do="wait", nonce="n3").status_code == 302


def test_a_note_stays_with_us(pages: Pages, ada: Browser) -> None:
    ticket = pages.received()
    answer = ada.post(f"/tickets/{ticket}/note", text="He is hard of hearing.")
    assert answer.location.startswith(f"/tickets/{ticket}#e")
    assert pages.rows("select count(*) from outbox where kind = 'answer'") == [(0,)]
    assert "He is hard of hearing." in words_of(ada.page(f"/tickets/{ticket}"))


def test_a_note_is_never_sent_even_when_the_browser_pressed_send(pages: Pages, ada: Browser) -> None:
    ticket = pages.received()
    ada.post(f"/tickets/{ticket}/answer", text="Between us: he never pays.", do="wait", by="note")
    assert pages.rows("select count(*) from outbox where kind = 'answer'") == [(0,)]
    assert pages.rows("select public from entry where kind = 'note'") == [(0,)]


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("plan.pdf", "plan.pdf"),
        ("../../etc/passwd", "passwd"),
        ("C:\\fakepath\\x.txt", "x.txt"),
        ("a\x00b\x1f.txt", "ab.txt"),
        ("...", "file"),
        ("n" * 400 + ".txt", "n" * 130 + ".txt"),
    ],
)
def test_files_go_with_the_answer_under_a_clean_name(pages: Pages, ada: Browser, name: str, kept: str) -> None:
    from webui.tickets import clean_name

    assert clean_name(name) == kept


def test_a_file_is_kept_and_shown(pages: Pages, ada: Browser) -> None:
    ticket = pages.received()
    ada.post(
        f"/tickets/{ticket}/answer",
        text="Here is the plan.",
        do="wait",
        files=[(io.BytesIO(b"%PDF-1.4 plan"), "plan.pdf"), (io.BytesIO(b"<svg onload=alert(1)>"), "x.svg")],
    )
    assert "plan.pdf" in words_of(ada.page(f"/tickets/{ticket}"))
    stored = pages.rows("select name, type, size from attachment order by id")
    assert stored == [("plan.pdf", "application/pdf", 13), ("x.svg", "image/svg+xml", 21)]


def test_a_picture_that_is_none_is_not_believed(pages: Pages, ada: Browser) -> None:
    ticket = pages.received()
    ada.post(f"/tickets/{ticket}/note", text="x", files=[(io.BytesIO(b"\x89PNG\r\n\x1a\n...."), "page.html")])
    assert pages.rows("select type from attachment") == [("image/png",)]


# -- everything else ---------------------------------------------------------------------------------------------


def test_to_me_takes_the_ticket(pages: Pages, ada: Browser) -> None:
    ticket = pages.received()
    assert ada.post(f"/tickets/{ticket}/assign", to="me").location == f"/tickets/{ticket}"
    page = words_of(ada.page(f"/tickets/{ticket}"))
    assert "Ada Agent took it" in page
    assert "Next You answer by 18:00" in page
    assert "To me" not in page


def test_a_ticket_is_given_to_a_colleague_and_back_to_nobody(pages: Pages, ada: Browser) -> None:
    ticket = pages.received()
    ada.post(f"/tickets/{ticket}/assign", to=str(pages.desk.people["tom"].id))
    assert "Given to Tom Technician by Ada Agent" in words_of(ada.page(f"/tickets/{ticket}"))
    ada.post(f"/tickets/{ticket}/assign", to="")
    assert "Given back by Ada Agent: nobody’s now" in words_of(ada.page(f"/tickets/{ticket}"))


def test_a_colleague_who_is_none_is_refused_in_words(pages: Pages, ada: Browser) -> None:
    answer = ada.post(f"/tickets/{pages.received()}/assign", to="4711")
    assert answer.status_code == 422
    assert "There is no such colleague." in words_of(answer.get_data(as_text=True))


def test_closing_and_opening_again(pages: Pages, ada: Browser) -> None:
    ticket = pages.received()
    assert ada.post(f"/tickets/{ticket}/close", reason="duplicate").location == "/"
    assert f"#{ticket} is closed." in words_of(ada.page("/"))
    assert "Nothing: closed 10:00, duplicate" in words_of(ada.page(f"/tickets/{ticket}"))
    ada.post(f"/tickets/{ticket}/reopen")
    assert "Opened again by Ada Agent" in words_of(ada.page(f"/tickets/{ticket}"))
    assert pages.desk.ticket(ticket)["status"] == "open"


@pytest.mark.parametrize(("block", "blocked"), [("", []), ("1", [("ann@hillcrest.example",)])])
def test_spam_is_closed_and_its_sender_blocked_on_request(
    pages: Pages, ada: Browser, block: str, blocked: list[tuple[str]]
) -> None:
    ticket = pages.received()
    ada.post(f"/tickets/{ticket}/spam", block=block)
    assert pages.desk.ticket(ticket)["status"] == "closed"
    assert pages.rows("select value from block") == blocked


def test_reading_marks_it_read_and_a_look_at_the_headers_does_not(pages: Pages, ada: Browser) -> None:
    ticket = pages.received()
    ada.client.head(f"/tickets/{ticket}").close()
    store.open_connection()
    assert pages.desk.ticket(ticket)["unread"]
    ada.page(f"/tickets/{ticket}")
    assert not pages.desk.ticket(ticket)["unread"]


# -- a new mail --------------------------------------------------------------------------------------------------


def test_a_new_mail_opens_a_ticket_that_waits(pages: Pages, ada: Browser) -> None:
    answer = ada.post(
        "/tickets/new",
        inbox="sales@desk.example",
        to="Max@Elsewhere.example",
        name="Max",
        subject="Your offer",
        text="Hello.",
    )
    assert answer.location.startswith("/tickets/1001?sent=")
    words = words_of(ada.page(answer.location))
    assert "Your offer #1001" in words
    assert "#1001 goes out in 15 s" in words
    assert pages.rows("select recipient, state from outbox") == [(MAX.address, "held")]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"to": "nobody"}, "That is no mail address"),
        ({"to": "a@example.org\r\nBcc: v@example.net"}, "That is no mail address"),
        ({"text": " "}, "needs a subject and some words"),
        ({"subject": "\r\n"}, "needs a subject and some words"),
        ({"inbox": "other@desk.example"}, "There is no such inbox."),
    ],
)
def test_a_new_mail_that_will_not_do_is_told_why_and_keeps_what_was_typed(
    pages: Pages, ada: Browser, change: dict[str, str], words: str
) -> None:
    form = {
        "inbox": "support@desk.example",
        "to": "max@elsewhere.example",
        "subject": "Hello",
        "text": "Typed.",
    } | change
    answer = ada.post("/tickets/new", **form)
    assert answer.status_code == 422
    assert words in words_of(answer.get_data(as_text=True))
    assert pages.rows("select count(*) from ticket") == [(0,)]


def test_a_new_mail_sent_twice_opens_one_ticket(pages: Pages, ada: Browser) -> None:
    form = {
        "inbox": "support@desk.example",
        "to": "max@elsewhere.example",
        "subject": "Hello",
        "text": "x",
        "nonce": "n",
    }
    assert ada.post("/tickets/new", **form).location == ada.post("/tickets/new", **form).location
    assert pages.rows("select count(*) from ticket") == [(1,)]


def test_line_breaks_in_a_subject_go_nowhere(pages: Pages, ada: Browser) -> None:
    ada.post("/tickets/new", inbox="", to="max@elsewhere.example", subject="Hi\r\nBcc: x@y.example", text="x")
    assert pages.rows("select subject from ticket") == [("Hi Bcc: x@y.example",)]


# -- delivery ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ("state = 'sent', result = '250 ok', done_at = {now}", "Sent 10:00"),
        (
            "state = 'sent', result = 'not sent: no mail server configured'",
            "Not sent: no mail server configured see the mail",
        ),
        ("state = 'dead', result = '550 no such user'", "Not delivered: 550 no such user Try again"),
        ("state = 'uncertain', result = 'timed out'", "May not have arrived: timed out Try again"),
        ("state = 'ready', attempts = 2, result = '450 later'", "Not yet sent after 2 tries: 450 later"),
        ("state = 'held', not_before = null", "Waits for a release"),
        ("state = 'cancelled', done_at = {now}", "Taken back 10:00, not sent"),
    ],
)
def test_what_became_of_an_answer_stands_below_it(pages: Pages, ada: Browser, columns: str, words: str) -> None:
    ticket = pages.received()
    pages.desk.perform(Answer(ticket, "Hello."), pages.desk.people["ada"])
    with store.writing():
        changed = columns.format(now=micros(pages.clock()))
        execute(f"update outbox set {changed} where kind = 'answer'")  # noqa: S608 - from the table above
    shown = words_of(ada.page(f"/tickets/{ticket}"))
    assert words in shown


def test_try_again_sends_a_dead_answer_from_its_ticket(pages: Pages, ada: Browser) -> None:
    ticket = pages.received()
    pages.desk.perform(Answer(ticket, "Hello."), pages.desk.people["ada"])
    with store.writing():
        execute("update outbox set state = 'dead' where kind = 'answer'")
    outbox = row("select id from outbox where kind = 'answer'")[0]
    assert ada.post(f"/outbox/{outbox}", back=f"/tickets/{ticket}").location == f"/tickets/{ticket}"
    assert pages.rows("select state from outbox where kind = 'answer'") == [("ready",)]


def test_the_inboxes_signature_stands_below_the_composer(pages: Pages) -> None:
    inboxes = tuple(inbox.model_copy(update={"signature": "Kind regards, ACME"}) for inbox in pages.desk.config.inboxes)
    pages.desk.config = pages.desk.config.model_copy(update={"inboxes": inboxes})
    signed = make_pages(pages.desk, pages.clock)
    assert "Kind regards, ACME" in words_of(signed.browser("ada").page(f"/tickets/{signed.received()}"))


# -- trouble -----------------------------------------------------------------------------------------------------


def test_a_database_that_is_away_is_a_page_that_says_so(
    pages: Pages, ada: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    from webui import tickets

    def busy(action: object) -> None:
        raise Temporary("the database says: locked")

    monkeypatch.setattr(tickets, "perform", busy)
    answer = ada.post(f"/tickets/{pages.received()}/close", reason="solved")
    assert answer.status_code == 503
    assert answer.headers["Retry-After"] == "5"
    assert "The database is busy" in words_of(answer.get_data(as_text=True))


def test_our_own_error_is_a_page_without_a_traceback_and_a_number_that_is_in_the_log(
    pages: Pages, ada: Browser, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from webui import tickets

    def broken(action: object) -> None:
        raise ZeroDivisionError("secret inner words")

    monkeypatch.setattr(tickets, "perform", broken)
    answer = ada.post(f"/tickets/{pages.received()}/close", reason="solved")
    page = answer.get_data(as_text=True)
    assert answer.status_code == 500
    assert "Traceback" not in page
    assert "secret inner words" not in page
    reference = words_of(page).split("In the log as ")[1].split(".")[0]
    assert reference in caplog.text


def test_reading_a_page_does_not_fail_when_the_mark_cannot_be_set(
    pages: Pages, ada: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticket = pages.received()
    application = pages.app.extensions["ringback"]

    def busy(action: object, actor: object) -> None:
        raise Temporary("locked")

    monkeypatch.setitem(pages.app.extensions, "ringback", replace(application, perform=busy))
    assert ada.get(f"/tickets/{ticket}").status_code == 200
