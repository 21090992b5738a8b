"""The mails that leave: threading, tokens, what machines and people read; nothing hostile gets into a header."""

import re
import time
from dataclasses import replace
from datetime import UTC, datetime
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway import addresses, matching
from gateway.addresses import Key
from gateway.config import Config, Firm, Inbox, Mail, Web
from gateway.values import (
    Channel,
    Envelope,
    FilePart,
    InboundMessage,
    Medium,
    NamedAddress,
    NoticeKind,
    Outgoing,
    Permanent,
    Purpose,
    Token,
)
from outbound.render import Enclosure, Letter, Rendered, clean, header, render, subject_of, without_secrets

KEYS = (Key("a", b"old" * 11), Key("b", b"new" * 11))
NOW = datetime(2026, 11, 23, 14, 5, 9, tzinfo=UTC)
CONFIG = Config(
    firm=Firm(name="ACME", time_zone="Europe/Berlin"),
    mail=Mail(domain="acme.example"),
    web=Web(public_url="https://desk.acme.example"),
    inboxes=(
        Inbox(address="support@acme.example", name="Support", signature="Your ACME team\n+49 30 1234"),
        Inbox(address="plain@acme.example", name="Plain", addressing="no"),
    ),
)
ANN, BOB = NamedAddress("Ann Hill", "ann@example.com"), NamedAddress("Bob Hill", "bob@example.com")


def row(kind: NoticeKind, recipient: str = "ann@example.com", **data: Any) -> Outgoing:
    return Outgoing(17, 1001, 5, kind, Medium.MAIL, recipient, None, 1, NOW, None, "", "", data)


def letter(kind: NoticeKind, recipient: str = "ann@example.com", **more: Any) -> Letter:
    start = Letter(row(kind, recipient), number=1001, entry=5, ticket_subject="The boiler is cold", who=4)
    return replace(start, **more)


ANSWER = letter(
    NoticeKind.ANSWER,
    text="Dear Ann,\n\nplease turn the tap.",
    author_name="Ada Agent",
    entry_subject="The boiler is cold",
    recipient_name="Ann Hill",
    to=(ANN,),
    cc=(BOB,),
    quoted="it is cold\nsince Monday",
    quoted_author="Ann Hill",
    quoted_at=NOW,
    in_reply_to="first@example.com",
    references=("first@example.com",),
)
ACKNOWLEDGEMENT = letter(
    NoticeKind.ACKNOWLEDGEMENT, text="the body", in_reply_to="first@example.com", references=("first@example.com",)
)
NOTICE = letter(
    NoticeKind.NOTICE,
    "ada@acme.example",
    text="It is cold.",
    author_name="Ann Hill",
    reply_means="answer",
    who=9,
    generation=3,
)
ECHO = letter(NoticeKind.ECHO, "ada@acme.example", reply_means="answer", who=9, generation=3)
ECHO = replace(
    ECHO, outgoing=replace(ECHO.outgoing, data={"words": "Your answer to ann@example.com goes out in 60 s."})
)
CODE = Letter(
    row(NoticeKind.CODE, words="Your code is", code="493 201", link="https://desk.acme.example/link/" + "x" * 43)
)
ALARM = Letter(row(NoticeKind.ALARM, words="The mailbox cannot be read since 14:02."))
ALL = [ANSWER, ACKNOWLEDGEMENT, NOTICE, ECHO, CODE, ALARM]
every_kind = pytest.mark.parametrize("sent", ALL, ids=lambda sent: sent.outgoing.kind)


def mail(sent: Letter, config: Config = CONFIG) -> Rendered:
    return render(sent, config, KEYS, NOW)


def parsed(sent: Letter, config: Config = CONFIG) -> EmailMessage:
    message = message_from_bytes(mail(sent, config).content, policy=policy.default)
    assert isinstance(message, EmailMessage)
    return message


def text_of(sent: Letter, subtype: str = "plain", config: Config = CONFIG) -> str:
    part = parsed(sent, config).get_body((subtype,))
    assert part is not None
    return str(part.get_content()).replace("\r\n", "\n")


def token_in(address: str) -> Token:
    token = addresses.read_token(addresses.plus_part(address.strip("<>")))
    assert token is not None, address
    return token


# -- it is a mail ------------------------------------------------------------------------------------------------


@every_kind
def test_the_standard_library_reads_it_without_a_complaint(sent: Letter) -> None:
    message = parsed(sent)
    assert [defect for part in message.walk() for defect in part.defects] == []
    assert [part.get_content_type() for part in message.walk()] == ["multipart/alternative", "text/plain", "text/html"]
    assert message["Date"].datetime == NOW
    assert message["MIME-Version"] == "1.0"


@every_kind
def test_its_lines_are_short_and_in_ascii_and_end_in_crlf(sent: Letter) -> None:
    content = mail(replace(sent, text="ü" * 5_000 + "\n" + "long " * 2_000, ticket_subject="sehr größ " * 30)).content
    assert content.isascii()
    assert content.count(b"\n") == content.count(b"\r") == content.count(b"\r\n")
    assert max(map(len, content.split(b"\r\n"))) <= 78


@every_kind
def test_each_header_stands_there_once(sent: Letter) -> None:
    names = parsed(sent).keys()
    assert sorted(names) == sorted(set(names))


@every_kind
def test_the_same_letter_makes_the_same_bytes(sent: Letter) -> None:
    assert mail(sent) == mail(sent)


def test_from_and_to_name_people() -> None:
    message = parsed(ANSWER)
    assert message["From"] == '"Ada Agent (ACME Support)" <support@acme.example>'
    assert message["To"] == "Ann Hill <ann@example.com>"
    assert message["Cc"] == "Bob Hill <bob@example.com>"
    assert parsed(NOTICE)["From"] == "Ann Hill via ACME Support <support@acme.example>"
    assert parsed(ACKNOWLEDGEMENT)["From"] == "ACME Support <support@acme.example>"


def test_each_copy_of_an_answer_has_its_own_addresses_and_the_same_id_and_people() -> None:
    copy = replace(ANSWER, outgoing=replace(ANSWER.outgoing, id=18, recipient="bob@example.com"), who=6)
    one, other = mail(ANSWER), mail(copy)
    assert one.message_id == other.message_id
    assert one.envelope_sender != other.envelope_sender
    assert parsed(ANSWER)["Reply-To"] != parsed(copy)["Reply-To"]
    for name in ("To", "Cc", "Subject", "References", "Message-ID"):
        assert parsed(ANSWER)[name] == parsed(copy)[name]


def test_what_else_is_sent_about_the_same_entry_has_an_id_of_its_own() -> None:
    about = [replace(sent, outgoing=replace(sent.outgoing, id=id)) for id, sent in enumerate(ALL, start=20)]
    assert len({mail(sent).message_id for sent in about}) == len(ALL)


@pytest.mark.parametrize(
    "address", ["", "ann", "ann@ex ample.com", "ann@example.com>\r\nBcc: <x@y.z", "a,b@example.com"]
)
def test_whom_no_header_can_name_gets_no_mail(address: str) -> None:
    with pytest.raises(Permanent):
        mail(replace(ANSWER, outgoing=replace(ANSWER.outgoing, recipient=address)))


# -- threading ---------------------------------------------------------------------------------------------------


def test_the_message_id_is_our_signed_token() -> None:
    rendered = mail(ANSWER)
    local, _, domain = rendered.message_id.partition("@")
    token = addresses.read_token(local)
    assert token is not None
    assert (token.purpose, token.number, token.entry, token.key) == (Purpose.MESSAGE_ID, 1001, 5, "b")
    assert addresses.genuine(KEYS, token)
    assert domain == "acme.example"
    assert parsed(ANSWER)["Message-ID"] == f"<{rendered.message_id}>"


def test_it_answers_the_last_mail_and_names_the_first_and_one_that_all_share() -> None:
    message = parsed(replace(ANSWER, references=("first@x", "second@x"), in_reply_to="third@x"))
    first, pseudo, *newest = message["References"].split()
    assert message["In-Reply-To"] == "<third@x>"
    assert (first, newest) == ("<first@x>", ["<second@x>", "<third@x>"])
    token = addresses.read_token(pseudo.strip("<>").partition("@")[0])
    assert token is not None
    assert (token.purpose, token.number) == (Purpose.PSEUDO_REFERENCE, 1001)
    assert addresses.genuine(KEYS, token)


def test_all_mails_of_a_ticket_carry_the_same_pseudo_reference() -> None:
    shared = [set(parsed(replace(sent, references=())).get("References", "").split()) for sent in ALL[:4]]
    assert len(set.intersection(*shared)) == 1


def test_of_many_references_the_newest_that_fit_are_named_oldest_first() -> None:
    ids = [f"{number:04}-{'x' * 40}@mail.example.com" for number in range(500)]
    said = " ".join(parsed(replace(ANSWER, references=tuple(ids)))["References"].split())
    named = [value.strip("<>") for value in said.split()]
    assert 1_350 < len(said) <= 1_500
    assert named[0] == ids[0]
    assert named[-1] == "first@example.com", "what it answers"
    assert named[2:-1] == ids[-len(named[2:-1]) :]


@pytest.mark.parametrize("value", ["", "a b@c", "a>\r\nBcc: x@y", "ünter@x", "x" * 401, "<a@b>"])
def test_an_id_that_is_none_is_left_out(value: str) -> None:
    message = parsed(replace(ANSWER, in_reply_to=value, references=(value, "good@x")))
    assert message["In-Reply-To"] is None
    assert message["References"].split()[0] == "<good@x>"
    assert message["Bcc"] is None


def test_outlooks_thread_is_continued() -> None:
    message = parsed(replace(ANSWER, thread_index="AQHabc+/12==", thread_topic="Der Boiler ist kühl"))
    assert (message["Thread-Index"], message["Thread-Topic"]) == ("AQHabc+/12==", "Der Boiler ist kühl")
    assert parsed(replace(ANSWER, thread_index="not base64!"))["Thread-Index"] is None


def test_what_belongs_to_no_ticket_is_not_threaded() -> None:
    assert parsed(CODE)["References"] is None
    assert parsed(CODE)["Reply-To"] == "support@acme.example"


def test_the_matcher_finds_the_ticket_by_every_mark_of_it() -> None:
    sent = parsed(ANSWER)
    back = InboundMessage(
        channel=Channel.MAIL,
        sender=ANN,
        author=ANN,
        subject=f"Re: {sent['Subject']}",
        text="It works",
        quoted=text_of(ANSWER),
        message_id="x@example.com",
        content_hash="",
        in_reply_to=(sent["Message-ID"].strip("<>"),),
        references=tuple(value.strip("<>") for value in sent["References"].split()),
    )
    clues = matching.clues(back, Envelope("", (sent["Reply-To"].strip("<>"),)), CONFIG, KEYS)
    assert {source for source, token in clues.tokens if token.number == 1001} == {
        "reply-token",
        "message-id",
        "pseudo-reference",
        "quoted-token",
    }
    assert clues.numbers == (1001,)
    assert matching.own_message_id(sent["Message-ID"].strip("<>"), CONFIG, KEYS), "it would be known as our own"


# -- the subject -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "becomes"),
    [
        ("The boiler is cold", "Re: The boiler is cold [ACME #1001]"),
        ("Re: The boiler is cold", "Re: The boiler is cold [ACME #1001]"),
        ("AW: Re: [ACME #1001] cold", "Re: cold [ACME #1001]"),
        ("RE[2]: cold [acme #1001] [ACME #1002]", "Re: cold [ACME #1001]"),
        ("Fwd: cold", "Re: Fwd: cold [ACME #1001]"),
        ("Score: 5", "Re: Score: 5 [ACME #1001]"),
        ("cold [OTHER #55]", "Re: cold [OTHER #55] [ACME #1001]"),
        ("", "Re: The boiler is cold [ACME #1001]"),
        ("a\r\nBcc: x@y.z\tb\0c", "Re: a Bcc: x@y.z b c [ACME #1001]"),
        ("\u202egnp.exe", "Re: gnp.exe [ACME #1001]"),
        ("x" * 400, f"Re: {'x' * 250} [ACME #1001]"),
    ],
)
def test_an_answers_subject(said: str, becomes: str) -> None:
    sent = replace(ANSWER, entry_subject=said)
    assert subject_of(sent, "ACME") == becomes
    assert parsed(sent)["Subject"] == becomes


@pytest.mark.parametrize(
    ("said", "becomes"),
    [
        ("The boiler is cold", "Re: The boiler is cold [ACME #1001]"),
        ("WIN https://evil.example/x now www.evil.example!", "Re: WIN now [ACME #1001]"),
        ("look evil.example/free", "Re: look [ACME #1001]"),
        ("https://evil.example", "Re: [ACME #1001]"),
        ("y" * 300, f"Re: {'y' * 120} [ACME #1001]"),
    ],
)
def test_an_acknowledgement_repeats_a_subject_without_links_and_not_at_length(said: str, becomes: str) -> None:
    assert parsed(replace(ACKNOWLEDGEMENT, ticket_subject=said))["Subject"] == becomes


def test_a_notice_has_the_tickets_subject_and_a_code_the_firms_name() -> None:
    assert parsed(NOTICE)["Subject"] == "The boiler is cold [ACME #1001]"
    assert parsed(CODE)["Subject"] == "ACME: Your code"


# -- addresses with tokens ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "purpose", "who", "generation"),
    [
        (ANSWER, Purpose.CUSTOMER_REPLY, 4, 0),
        (ACKNOWLEDGEMENT, Purpose.CUSTOMER_REPLY, 4, 0),
        (NOTICE, Purpose.STAFF_ANSWER, 9, 3),
        (replace(NOTICE, reply_means="note"), Purpose.STAFF_NOTE, 9, 3),
        (ECHO, Purpose.STAFF_ANSWER, 9, 3),
    ],
    ids=["answer", "acknowledgement", "notice that is answered", "notice for notes", "echo"],
)
def test_a_reply_goes_to_an_address_that_says_what_it_means(
    sent: Letter, purpose: Purpose, who: int, generation: int
) -> None:
    token = token_in(parsed(sent)["Reply-To"])
    assert (token.purpose, token.number, token.entry, token.who) == (purpose, 1001, 5, who)
    assert addresses.genuine(KEYS, token, generation)
    if generation:
        assert not addresses.genuine(KEYS, token, generation + 1), "raising the generation ends it"


@every_kind
def test_a_report_of_failure_comes_back_to_the_outbox_row(sent: Letter) -> None:
    token = token_in(mail(sent).envelope_sender)
    assert (token.purpose, token.who) == (Purpose.BOUNCE, 17)
    assert addresses.genuine(KEYS, token)


def test_without_plus_addresses_the_inbox_itself_is_used() -> None:
    sent = replace(ANSWER, inbox="plain@acme.example")
    assert parsed(sent)["Reply-To"] == mail(sent).envelope_sender == "plain@acme.example"


def test_an_address_longer_than_smtp_allows_is_not_made() -> None:
    config = CONFIG.model_copy(update={"inboxes": (Inbox(address=f"{'long' * 10}@acme.example"),)})
    assert parsed(ANSWER, config)["Reply-To"] == f"{'long' * 10}@acme.example"


def test_the_null_sender_is_for_automatic_mail_only_and_only_when_wanted() -> None:
    config = CONFIG.model_copy(update={"mail": CONFIG.mail.model_copy(update={"null_sender": True})})
    assert [mail(sent, config).envelope_sender == "" for sent in ALL] == [False, True, True, True, True, True]


# -- what other machines read ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sent", "submitted", "suppress", "precedence"),
    [
        (ANSWER, None, "OOF, AutoReply", None),
        (ACKNOWLEDGEMENT, "auto-replied", "All", "bulk"),
        (ECHO, "auto-replied", "All", "bulk"),
        (NOTICE, "auto-generated", "All", "bulk"),
        (CODE, "auto-generated", "All", "bulk"),
        (ALARM, "auto-generated", "All", "bulk"),
    ],
    ids=lambda value: str(value.outgoing.kind) if isinstance(value, Letter) else None,
)
def test_machines_are_told_not_to_answer(
    sent: Letter, submitted: str | None, suppress: str, precedence: str | None
) -> None:
    message = parsed(sent)
    assert message["Auto-Submitted"] == submitted
    assert message["X-Auto-Response-Suppress"] == suppress
    assert message["Precedence"] == precedence


@every_kind
def test_we_know_our_own_mail_when_it_comes_back(sent: Letter) -> None:
    token = addresses.read_token(parsed(sent)["X-Ringback-Loop"])
    assert token is not None
    assert token.purpose is Purpose.LOOP
    assert addresses.genuine(KEYS, token)


# -- what people read --------------------------------------------------------------------------------------------


def test_an_answer_is_the_words_the_signature_and_the_quote() -> None:
    mark = mail(ANSWER).message_id.partition("@")[0]
    assert text_of(ANSWER) == (
        "Dear Ann,\n\nplease turn the tap.\n\n-- \nYour ACME team\n+49 30 1234\n\n"
        f"On 23 November 2026 at 15:05, Ann Hill wrote: [{mark}]\n> it is cold\n> since Monday\n"
    )


def test_our_own_quote_stands_in_a_marked_container() -> None:
    mark = mail(ANSWER).message_id.partition("@")[0]
    html = text_of(ANSWER, "html")
    assert f'<div class="ringback-quote" id="ringback-{mark}"' in html
    assert "<p>it is cold<br>\nsince Monday</p></blockquote>" in html
    assert "ringback-quote" not in text_of(NOTICE, "html")
    assert f"[ACME #1001: {mail(NOTICE).message_id.partition('@')[0]}]\n" in text_of(NOTICE)


@pytest.mark.parametrize(
    ("means", "line"),
    [("answer", "Reply to answer the customer."), ("note", "Reply to leave an internal note.")],
)
def test_a_notice_begins_with_what_a_plain_reply_does_and_then_the_words(means: Any, line: str) -> None:
    said = text_of(replace(NOTICE, reply_means=means))
    assert said.startswith(f"{line}\n\nIt is cold.\n\nAnn Hill, #1001: The boiler is cold\n")
    assert "https://desk.acme.example/tickets/1001\n" in said


def test_a_notice_of_an_event_without_words_leaves_no_hole() -> None:
    said = text_of(replace(NOTICE, text=""))
    assert said.startswith("Reply to answer the customer.\n\nAnn Hill, #1001: The boiler is cold\n")


@pytest.mark.parametrize("subtype", ["plain", "html"])
def test_an_acknowledgement_never_repeats_the_body_or_the_name(subtype: str) -> None:
    said = text_of(
        replace(ACKNOWLEDGEMENT, text="BUY HERE", quoted="BUY", author_name="BUY", recipient_name="BUY"), subtype
    )
    assert "BUY" not in said
    assert "#1001" in said


def test_an_echo_says_what_was_done() -> None:
    assert text_of(ECHO).startswith("Your answer to ann@example.com goes out in 60 s.\n\n#1001: The boiler is cold\n")


def test_a_code_mail_holds_its_link_and_an_alarm_its_words() -> None:
    said = text_of(CODE)
    assert "493 201" in said
    assert "https://desk.acme.example/link/" + "x" * 43 in said
    assert text_of(ALARM) == "The mailbox cannot be read since 14:02.\n\nhttps://desk.acme.example\n"


def test_html_is_escaped_and_links_can_be_followed() -> None:
    html = text_of(replace(ANSWER, text='<script>1</script> "a" & https://x.example/?a=1&b=2'), "html")
    assert "&lt;script&gt;1&lt;/script&gt; &#34;a&#34; &amp;" in html
    assert '<a href="https://x.example/?a=1&amp;b=2">' in html


def test_values_are_never_templates() -> None:
    assert text_of(replace(ANSWER, text="{{ 7 * 7 }} {% raw %}")).startswith("{{ 7 * 7 }} {% raw %}\n")


def test_a_long_message_is_cut_in_a_notice_and_whole_in_an_answer() -> None:
    long = "word " * 20_000
    assert "[…]" in text_of(replace(NOTICE, text=long))
    assert text_of(replace(ANSWER, text=long)).startswith(long.rstrip())


def test_an_unknown_language_speaks_english() -> None:
    config = CONFIG.model_copy(update={"inboxes": (Inbox(address="support@acme.example", language="../xx"),)})
    assert text_of(ACKNOWLEDGEMENT, config=config).startswith("Hello,")


# -- files -------------------------------------------------------------------------------------------------------


def enclosure(
    name: str, kind: str = "image/png", content: bytes = b"\x89PNG" * 50, size: int | None = None
) -> Enclosure:
    return Enclosure(FilePart("0" * 64, name, kind, len(content) if size is None else size), lambda: content)


@pytest.mark.parametrize(
    "name", ["a.png", "bild größe.png", 'quo"te.png', "50%.png", "x" * 70 + ".png", "日本語.png", "=?utf-8?q?x?=.png"]
)
def test_an_answer_carries_its_files(name: str) -> None:
    message = parsed(replace(ANSWER, files=(enclosure(name),)))
    (part,) = message.iter_attachments()
    assert (part.get_filename(), part.get_content_type(), part.get_content()) == (name, "image/png", b"\x89PNG" * 50)


@pytest.mark.parametrize(
    ("name", "becomes"),
    [("../../etc/passwd", "passwd"), ("c:\\x\\y.txt", "y.txt"), ("a\r\nBcc: x.png", "a Bcc: x.png"), ("..", "file")],
)
def test_a_files_name_is_never_a_path(name: str, becomes: str) -> None:
    (part,) = parsed(replace(ANSWER, files=(enclosure(name),))).iter_attachments()
    assert part.get_filename() == becomes


@pytest.mark.parametrize("kind", ["message/rfc822", "multipart/mixed", "text/html\r\nBcc: x", "nonsense", ""])
def test_a_type_that_cannot_stand_there_is_octets(kind: str) -> None:
    (part,) = parsed(replace(ANSWER, files=(enclosure("a", kind),))).iter_attachments()
    assert part.get_content_type() == "application/octet-stream"


def test_a_notice_carries_what_is_harmless_and_small_and_names_the_rest() -> None:
    files = (enclosure("a.png"), enclosure("b.exe", "application/x-msdownload"), enclosure("c.png", size=20_000_000))
    sent = replace(NOTICE, files=files)
    assert [part.get_filename() for part in parsed(sent).iter_attachments()] == ["a.png"]
    assert "Files: a.png (1 KB), b.exe (1 KB, on the page), c.png (19.1 MB, on the page)\n" in text_of(sent)


def test_an_acknowledgement_carries_none() -> None:
    assert list(parsed(replace(ACKNOWLEDGEMENT, files=(enclosure("a.png"),))).iter_attachments()) == []


# -- nothing of ours leaks ---------------------------------------------------------------------------------------

STAFF_TOKEN = addresses.sign(KEYS, Purpose.STAFF_ANSWER, 1001, 5, 9, 3)
SECRETS = [
    (f"write to support+{STAFF_TOKEN}@acme.example.", "write to support@acme.example."),
    (f"SUPPORT+{STAFF_TOKEN.upper()}@ACME.EXAMPLE", "SUPPORT@ACME.EXAMPLE"),
    (f"bare {STAFF_TOKEN} token", "bare … token"),
    (f"<{STAFF_TOKEN}@acme.example>", "<…>"),
    (f"{STAFF_TOKEN[:9]}{STAFF_TOKEN}{STAFF_TOKEN[9:]}", f"{STAFF_TOKEN[:9]}…{STAFF_TOKEN[9:]}"),
    (f"https://desk.acme.example/link/{'k' * 43}?x", "…?x"),
    (f"http://127.0.0.1:8080/link/{'k' * 43}", "…"),
    (f"/LINK/{'k' * 43}", "…"),
    ("a link: https://x.example/link/short", "a link: https://x.example/link/short"),
    ("version 1.2.3.4 of ca.12", "version 1.2.3.4 of ca.12"),
]


@pytest.mark.parametrize(("said", "leaves"), SECRETS)
def test_our_tokens_ids_and_links_are_taken_out(said: str, leaves: str) -> None:
    assert without_secrets(said) == leaves


@pytest.mark.parametrize("sent", [ANSWER, NOTICE, ECHO, ACKNOWLEDGEMENT], ids=lambda sent: str(sent.outgoing.kind))
def test_wherever_somebody_puts_them(sent: Letter) -> None:
    secret = f"support+{STAFF_TOKEN}@acme.example https://desk.acme.example/link/{'k' * 43}"
    sent = replace(
        sent,
        text=secret,
        quoted=secret,
        ticket_subject=secret,
        entry_subject=secret,
        author_name=secret,
        quoted_author=secret,
        recipient_name=secret,
        thread_index="AQHa",
        thread_topic=secret,
        files=(enclosure(f"{STAFF_TOKEN}.png"),),
        outgoing=replace(sent.outgoing, data={"words": secret}),
    )
    message = parsed(sent)
    said = "\n".join(
        [str(value) for name, value in message.items() if name != "Reply-To"]
        + [str(part.get_content()) for part in message.walk() if part.get_content_maintype() == "text"]
        + [part.get_filename() or "" for part in message.walk()]
    )
    assert STAFF_TOKEN not in said
    assert "/link/" not in said


@given(st.text(), st.text())
def test_no_genuine_token_survives_whatever_stands_around_it(before: str, after: str) -> None:
    left = without_secrets(before + STAFF_TOKEN + after)
    assert not any(addresses.genuine(KEYS, token, 3) for token in addresses.read_tokens(left))


# -- nothing hostile gets into a header --------------------------------------------------------------------------

anything = st.text(st.characters(codec=None), max_size=200) | st.sampled_from(
    [
        "\r\nBcc: evil@x.example",
        "a\nb",
        "=?utf-8?q?x=0d=0aBcc:_e@x?=",
        "\u2028Bcc: e@x",
        "x\ud800y",
        "\x85Bcc: e@x",
        '"',
        "\\",
    ]
)
EXPECTED = {
    *("From", "To", "Cc", "Reply-To", "Subject", "Date", "Message-ID", "In-Reply-To", "References", "Thread-Index"),
    *("Thread-Topic", "X-Auto-Response-Suppress", "X-Ringback-Loop", "MIME-Version", "Content-Type"),
}


@settings(deadline=None, max_examples=200)
@given(anything, anything, anything, anything)
def test_whatever_people_call_themselves_and_their_files_no_header_is_added(
    subject: str, name: str, id: str, file: str
) -> None:
    sent = replace(
        ANSWER,
        entry_subject=subject,
        ticket_subject=subject,
        author_name=name,
        to=(NamedAddress(name, "ann@example.com"), NamedAddress(name, id)),
        cc=(NamedAddress(name, "bob@example.com"),),
        in_reply_to=id,
        references=(id, "good@x"),
        thread_index="AQHa",
        thread_topic=subject,
        text=subject,
        quoted=name,
        quoted_author=name,
        files=(enclosure(file, kind=id),),
    )
    content = mail(sent).content
    head = content.partition(b"\r\n\r\n")[0].decode("ascii")
    unfolded = re.sub(r"\r\n ", " ", head)
    names = [line.partition(":")[0] for line in unfolded.split("\r\n")]
    assert set(names) <= EXPECTED
    assert len(names) == len(set(names))
    message = message_from_bytes(content, policy=policy.compat32)
    assert [part.get_content_maintype() for part in message.walk()][:4] == ["multipart", "multipart", "text", "text"]
    assert len(list(message.walk())) == 5


@given(st.text(st.characters(codec=None), min_size=1, max_size=300))
def test_a_subject_comes_back_as_it_was_meant(subject: str) -> None:
    sent = replace(ANSWER, entry_subject=subject)
    assert parsed(sent)["Subject"] == subject_of(sent, "ACME")


@given(st.text(st.characters(codec=None), max_size=300))
def test_clean_text_is_one_line_without_controls(text: str) -> None:
    said = clean(text, 50)
    assert len(said) <= 50
    assert said == " ".join(said.split())
    assert said.isprintable() or not re.search(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]", said)


@pytest.mark.parametrize("value", ["a\r\nb", "a\nb", "a\rb", "a\0b", "\x85", "\u2028", "\ud800"])
def test_a_header_refuses_what_could_end_it(value: str) -> None:
    with pytest.raises(ValueError, match="control"):
        header("Subject", [value])


def test_it_is_quick() -> None:
    """Wanted: 0.35 ms; a shared machine is given four times that."""
    best = min(timed(sent) for sent in (ACKNOWLEDGEMENT, NOTICE) for _ in range(5))
    assert best < 0.0014


def timed(sent: Letter, times: int = 100) -> float:
    start = time.perf_counter()
    for _ in range(times):
        mail(sent)
    return (time.perf_counter() - start) / times
