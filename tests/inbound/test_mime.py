"""A mail is understood: who, what, which ids, what is new; whatever bytes a stranger sends."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import importlib.util
import random
import re
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from gateway.values import NOBODY, Envelope, InboundMessage, MessageClass, NamedAddress
from inbound import mime

SHARED = Path(__file__).parents[2].parent / "shared"
HOSTILE = SHARED / "tools" / "hostile" / "generate.py"
MAILS = SHARED / "data" / "mail"
ENVELOPE = Envelope("carol@example.org", ("help@desk.example.com",))


class Shelf(dict[str, bytes]):
    """A blob store in memory."""

    def keep(self, data: bytes) -> str:
        sha256 = hashlib.sha256(data).hexdigest()
        self[sha256] = data
        return sha256


def parse(raw: bytes | str, envelope: Envelope = ENVELOPE, authserv_id: str = "") -> InboundMessage:
    data = raw if isinstance(raw, bytes) else raw.encode()
    return mime.parse(data, envelope, Shelf().keep, authserv_id=authserv_id)


def header(text: str) -> InboundMessage:
    return parse(f"{text}\n\nbody\n")


# -- who -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "name", "address", "doubtful"),
    [
        ("Carol Customer <carol@example.org>", "Carol Customer", "carol@example.org", False),
        ("CAROL@EXAMPLE.ORG", "", "carol@example.org", False),
        ('"Customer, Carol" <carol@example.org>', "Customer, Carol", "carol@example.org", False),
        ("carol@example.org (Carol)", "Carol", "carol@example.org", False),
        ("=?utf-8?q?J=C3=BCrgen?= <j@example.org>", "Jürgen", "j@example.org", False),
        ('"=?utf-8?q?J=C3=BCrgen?=" <j@example.org>', "Jürgen", "j@example.org", False),
        ("Jürgen <j@exämple.org>", "Jürgen", "j@xn--exmple-cua.org", False),
        # a name that looks like one of ours is only a name
        ('"agent@desk.example.com" <evil@example.net>', "agent@desk.example.com", "evil@example.net", False),
        (
            "=?utf-8?q?agent=40desk=2Eexample=2Ecom_=3Cagent=40desk=2Eexample=2Ecom=3E?= <evil@example.net>",
            "agent@desk.example.com <agent@desk.example.com>",
            "evil@example.net",
            False,
        ),
        ("=?utf-8?q?agent?=@desk.example.com <evil@example.net>", "agent@desk.example.com", "evil@example.net", True),
        ('"agent@desk.example.com"@example.net', "", '"agent@desk.example.com"@example.net', False),
        ("agent@dеsk.example.com", "", "agent@xn--dsk-rdd.example.com", False),
        # what can be read in two ways is nobody's, or doubtful
        ("agent@desk.example.com)carol@example.org", "agent@desk.example.com carol@example.org", "", True),
        ("a@example.org, b@example.net", "", "a@example.org", True),
        ("Team: a@example.org, b@example.org;", "", "a@example.org", True),
        ("<@a.example,@b.example:carol@example.org>", "", "carol@example.org", True),
        ("Car\0ol <car\0ol@example.org>", "Carol", "carol@example.org", True),
        ("carol@example.org agent@desk.example.com", "carol@example.org agent@desk.example.com", "", True),
        ("Carol carol@example.org", "Carol", "carol@example.org", True),
        ("Carol <carol@example.org> agent", "Carol agent", "carol@example.org", True),
        ("Carol <carol@example.org", "Carol", "carol@example.org", True),
        ("not an address at all", "not an address at all", "", True),
        ("<>", "", "", True),
        ("(" * 20_000 + " a@example.org", "", "", True),
        ("a" * 2000 + "@example.org", "", "", True),
        ("=?utf-8?q?Carol=0D=0ABcc:_x=40y.example?= <c@example.org>", "Carol Bcc: x@y.example", "c@example.org", False),
        ("=?utf-8?b?4oCudG5lZ2E=?= <carol@example.org>", "tnega", "carol@example.org", False),
    ],
)
def test_from_names_one_person_or_is_doubtful(written: str, name: str, address: str, doubtful: bool) -> None:
    message = header(f"From: {written}")
    assert (message.author, message.sender_is_doubtful) == (NamedAddress(name, address), doubtful)


def test_nested_comments_and_groups_of_any_depth_are_read() -> None:
    assert header("From: " + "(" * 5000 + "x" + ")" * 5000 + " a@example.org").sender.address == "a@example.org"
    assert header("To: " + "g:" * 3000 + "b@example.org" + ";" * 3000).to == (NamedAddress("", "b@example.org"),)


def test_two_from_headers_are_never_trusted() -> None:
    message = header("From: agent@desk.example.com\nFrom: carol@example.org")
    assert message.sender_is_doubtful


@pytest.mark.parametrize(
    ("headers", "sender"),
    [
        ("From: <>\nSender: s@example.org\nReply-To: r@example.org", "s@example.org"),
        ("From: <>\nReply-To: r@example.org", "r@example.org"),
        ("Return-Path: <p@example.org>", "p@example.org"),
        ("Subject: x", "carol@example.org"),  # the envelope's
        ("From: a@example.org\nReply-To: r@example.org", "a@example.org"),
        ("From: Ann via List <l@example.org>\nList-Id: <l.example.org>\nReply-To: ann@example.org", "ann@example.org"),
        ("From: Ann via List <l@example.org>\nReply-To: ann@example.org", "l@example.org"),
    ],
)
def test_the_sender_of_record(headers: str, sender: str) -> None:
    assert header(headers).sender.address == sender


def test_nobody_is_nobody() -> None:
    message = parse("Subject: x\n\nbody", Envelope(path="imap"))
    assert message.sender == NOBODY
    assert message.no_automatic_answer == "From names nobody"


def test_recipients_are_read_and_bounded() -> None:
    message = header("From: a@example.org\nTo: " + ",\n ".join(f"u{n}@example.net" for n in range(20_000)))
    assert len(message.to) == 100
    assert message.no_automatic_answer == "To has 20000 addresses"


def test_where_the_mail_was_delivered_is_what_the_headers_say() -> None:
    message = header("From: a@example.org\nDelivered-To: x@desk.example.com\nX-Original-To: y+cb.1@desk.example.com")
    assert message.delivered_to == ("x@desk.example.com", "y+cb.1@desk.example.com")


def test_our_address_in_delivered_to_is_a_loop_only_by_smtp() -> None:
    raw = "From: a@example.org\nDelivered-To: help@desk.example.com\n\nx"
    assert "loop" in parse(raw).no_automatic_answer
    assert not parse(raw, dataclasses.replace(ENVELOPE, path="imap")).no_automatic_answer


# -- ids, dates, results -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "message_id"),
    [
        ("<a@example.org>", "a@example.org"),
        ("\n <folded\n @example.org>", "folded@example.org"),
        ("a@example.org", "a@example.org"),
        ("<a@example.org>\nMessage-ID: <b@example.org>", "a@example.org"),
        ("<../../../../etc/passwd>", "../../../../etc/passwd"),
        ("<" + "m" * 20_000 + "@x>", "sha256:" + hashlib.sha256(b"m" * 20_000).hexdigest()),
    ],
)
def test_the_message_id_is_one_token(written: str, message_id: str) -> None:
    assert header(f"From: a@example.org\nMessage-ID: {written}").message_id == message_id


def test_a_missing_id_is_made_of_the_content() -> None:
    dated = "From: a@example.org\nDate: Mon, 02 Nov 2026 10:00:00 +0000\nMessage-ID: <>\n\nx"
    assert re.fullmatch("[0-9a-f]{32}@local", parse(dated).message_id)
    assert parse(dated).message_id == parse(f"Delivered-To: b@example.org\n{dated}").message_id
    undated = "From: device@example.org\n\ndisk full"  # every day the same words: two events, not one
    monday, friday = (parse(f"Received: by a; {day}\n{undated}").message_id for day in ("monday", "friday"))
    assert monday != friday


def test_references_keep_the_nearest_hundred() -> None:
    message = header(
        "In-Reply-To: <a@x> (your mail) <b@x>\nReferences: " + "\n ".join(f"<{n}@x.example.org>" for n in range(50_000))
    )
    assert message.in_reply_to == ("a@x", "b@x")
    assert (len(message.references), message.references[-1]) == (100, "49999@x.example.org")


@pytest.mark.parametrize(
    ("written", "date"),
    [
        ("Mon, 02 Nov 2026 10:00:00 +0200", datetime(2026, 11, 2, 8, tzinfo=UTC)),
        ("Mon, 02 Nov 2026 10:00:00 -0000", datetime(2026, 11, 2, 10, tzinfo=UTC)),
        ("yesterday-ish", None),
        ("Mon, 02 Nov 2026 10:00:00 +9999", None),
        ("Mon, 99 Nov 2026 10:00:00 +0000", None),
        ("Mon, " + "0" * 5000 + "2 Nov 2026 10:00:00 +0000", None),
        ("Fri, 31 Dec 9999 23:59:59 -1200", None),
    ],
)
def test_a_date_is_one_or_none(written: str, date: datetime | None) -> None:
    assert header(f"Date: {written}").date == date


OURS = "Authentication-Results: mx.desk.example.com; dmarc=pass"
FROM_OUTSIDE = "Received: from mail.example.org by mx.desk.example.com; x"
INSIDE = "Received: from mx.desk.example.com by store.desk.example.com; x"
THEIRS = "Received: from pc by mail.example.org; x"


@pytest.mark.parametrize(
    ("headers", "count"),
    [
        ([OURS, FROM_OUTSIDE, THEIRS], 1),
        ([INSIDE, OURS, FROM_OUTSIDE, THEIRS], 1),
        ([INSIDE, FROM_OUTSIDE, OURS, THEIRS], 1),
        ([FROM_OUTSIDE, OURS, OURS, THEIRS], 1),  # the second came with the mail
        ([OURS, FROM_OUTSIDE, OURS, THEIRS], 1),
        ([FROM_OUTSIDE, THEIRS, OURS], 0),
        ([THEIRS, OURS], 0),
        (["Authentication-Results: mx.example.net; dmarc=pass"], 0),
        (["Authentication-Results: mx.desk.example.com.evil.test; dmarc=pass"], 0),
    ],
)
def test_authentication_results_are_ours_and_above_the_first_foreign_hop(headers: list[str], count: int) -> None:
    raw = "\n".join([*headers, "From: a@example.org", "", "x"])
    assert len(parse(raw, authserv_id="mx.desk.example.com").authentication) == count
    assert parse(raw).authentication == ()


def test_a_copy_by_another_address_has_the_same_content_and_other_words_have_not() -> None:
    first = "From: a@example.org\nSubject: x\nDate: Mon, 02 Nov 2026 10:00:00 +0000\nMessage-ID: <a@x>\n\n{}\n"
    same = parse("Delivered-To: b@x.example\nReceived: by y\n" + first.format("words"))
    assert same.content_hash == parse(first.format("words")).content_hash
    assert same.content_hash != parse(first.format("other")).content_hash
    encoded = first.replace("\n\n", "\nContent-Transfer-Encoding: base64\n\n").format("d29yZHM=")
    assert same.content_hash == parse(encoded).content_hash


def test_loop_token_and_signature_are_seen() -> None:
    message = header("X-Ringback-Loop: la.1.2.0.abcdefghijklmnop\nDKIM-Signature: v=1; d=example.org")
    assert (message.loop_token, message.signed) == ("la.1.2.0.abcdefghijklmnop", True)


# -- the header block ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("subject", "shown"),
    [
        ("x\r y", "x y"),
        ("=?utf-8?q?hello=0D=0ABcc:_v=40example.net=0D=0A=0D=0Abody?=", "hello Bcc: v@example.net body"),
        ("a\0b\x1b[31mred", "a b [31mred"),
        ("invoice \u202efdp.exe\u2066x", "invoice fdp.exe x"),
        ("S" * 5000, "S" * 500),
        ("=?zlib_codec?b?eJxLBAAAYgBi?=", "xœK b b"),  # no codec of Python's
    ],
)
def test_a_subject_is_one_harmless_line(subject: str, shown: str) -> None:
    assert header(f"Subject: {subject}").subject == shown


BLOCK = "From: carol@example.org\nTo: help@desk.example.com\nSubject: x\n\nbody\n"


@pytest.mark.parametrize(
    "raw",
    [
        BLOCK,
        BLOCK.replace("\n", "\r\n"),
        BLOCK.replace("\n", "\r"),
        "\ufeff" + BLOCK,
        "\r\n" + BLOCK,
        "From carol@example.org Mon Nov  2 10:00:00 2026\n" + BLOCK,
        " folded first\n" + BLOCK,
        BLOCK.replace("To:", "this is no header\nTo:"),
        BLOCK.replace("Subject:", "Subject :"),
        "X-Tracker: one\ntwo\nthree\n" + BLOCK,
        "".join(f"X-J{n}: v\n" for n in range(2000)) + BLOCK,
    ],
    ids=["LF", "CRLF", "CR", "BOM", "blank", "mbox", "folded", "no-header", "blank-colon", "unfolded", "2000"],
)
def test_the_header_block_is_found(raw: str) -> None:
    message = parse(raw)
    assert (message.sender.address, message.subject, message.text) == ("carol@example.org", "x", "body")


def test_text_without_headers_is_text() -> None:
    assert parse("just some text\nmore: of it\n").text == "just some text\nmore: of it"
    assert parse("Subject: x\nHello Bob,\nNote: no blank line above\n").text == "Hello Bob,\nNote: no blank line above"


# -- bodies --------------------------------------------------------------------------------------------------------


def multipart(kind: str, *parts: str) -> str:
    inside = "".join(f"--bnd\n{part}\n" for part in parts)
    return f'From: a@example.org\nContent-Type: multipart/{kind}; boundary="bnd"\n\n{inside}--bnd--\n'


PLAIN, HTML = "Content-Type: text/plain\n\nplain words", "Content-Type: text/html\n\n<p>html <b>words</b></p>"


@pytest.mark.parametrize(
    ("raw", "text", "html"),
    [
        (multipart("alternative", PLAIN, HTML), "plain words", "<p>html <b>words</b></p>"),
        (multipart("mixed", PLAIN, PLAIN), "plain words\nplain words", ""),
        (multipart("alternative", "Content-Type: text/plain\n\n ", HTML), "html words", "<p>html <b>words</b></p>"),
        (
            multipart("alternative", "Content-Type: text/plain\n\nYour client cannot show HTML.", HTML + "!" * 50),
            "html words\n\n" + "!" * 50,
            "<p>html <b>words</b></p>" + "!" * 50,
        ),
        (
            multipart("mixed", HTML, PLAIN),
            "html words\nplain words",
            "<p>html <b>words</b></p>\n<pre>plain words</pre>",
        ),
        ("Content-Type: multipart/mixed\n\n--b\n\nhello\n--b--", "hello", ""),  # the boundary is not told
        ("Content-Type: multipart/mixed; boundary=b\n\nnothing", "nothing", ""),
        ("Content-Type: ;;;===\n\nhello", "hello", ""),
        ("Content-Type: text/plain; format=flowed\n\none \ntwo\n> q \n> r\n-- \nAnn", "one two\n> q r", ""),
        ("Content-Transfer-Encoding: quoted-printable\n\nGr=C3=BC=\n=C3=9Fe", "Grüße", ""),
    ],
)
def test_the_text_is_what_a_person_reads(raw: str, text: str, html: str) -> None:
    message = parse(raw)
    assert (message.text, message.html) == (text, html)


def test_what_was_written_quoted_and_signed_are_three_spans() -> None:
    message = header("From: a@example.org\nSubject: Re: x\n\nYes.\n\nOn 21 Sep 2026, Tom wrote:\n> now?\n\n-- \nAnn")
    assert (message.text, message.quoted, message.signature.split("\n")[:2]) == (
        "Yes.",
        "On 21 Sep 2026, Tom wrote:\n> now?",
        ["-- ", "Ann"],
    )


def test_a_forwarded_mail_stays_whole() -> None:
    block = "Please look.\n\n-----Original Message-----\nFrom: x@example.net\nSent: Monday\nTo: a\nSubject: y\n\nold"
    forwarded = parse(f"From: a@example.org\nSubject: Fwd: y\n\n{block}")
    assert (forwarded.forwarded, forwarded.text) == (True, block)
    answered = parse(f"From: a@example.org\nSubject: Re: y\n\n{block}")
    assert (answered.forwarded, answered.text) == (False, "Please look.")


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ('filename="a.txt"', "a.txt"),
        ('filename="../../etc/passwd"', "passwd"),
        ('filename="C:\\\\boot.ini"', "boot.ini"),
        ('filename="report.pdf..."', "report.pdf"),
        ('filename="CON"', "_CON"),
        ('filename="x.php\0.png"', "x.php .png"),
        ('filename="invoice_\u202efdp.exe"', "invoice_ fdp.exe"),
        ('filename="a\\"b.txt"', "a_b.txt"),
        ('filename=""', "file.bin"),
        ('filename=".."', "file.bin"),
        ('filename="' + "n" * 400 + '.txt"', "n" * 100 + ".txt"),
        ("filename*=utf-8''R%C3%BCge.pdf", "Rüge.pdf"),
        ("filename=\"a.txt\"; filename*=utf-8''..%2F..%2Fevil.html", "evil.html"),
        ('filename*0="long"; filename*1="name.txt"', "longname.txt"),
        ('filename*0="a"; filename*999999999="b"', "a"),
        ('filename="=?utf-8?q?R=C3=BCge?=.txt"', "Rüge.txt"),
    ],
)
def test_a_file_name_is_a_name_and_nothing_else(written: str, shown: str) -> None:
    part = f"Content-Type: application/octet-stream\nContent-Disposition: attachment; {written}\n\nx"
    (file,) = parse(multipart("mixed", PLAIN, part)).files
    assert file.name == shown


def test_files_are_kept_byte_for_byte_under_names_of_their_own() -> None:
    shelf = Shelf()
    data = bytes(range(256))
    encoded = base64.encodebytes(data).decode()
    part = f"Content-Type: image/png; name=a.png\nContent-Transfer-Encoding: base64\n\n{encoded}"
    message = mime.parse(multipart("mixed", PLAIN, part, part).encode(), ENVELOPE, shelf.keep)
    assert [file.name for file in message.files] == ["a.png", "a (2).png"]
    assert shelf == {message.files[0].sha256: data}  # nothing but the attachments
    assert message.files[0].type == "application/octet-stream"  # it does not begin like a picture


def test_an_image_that_the_html_names_is_inline() -> None:
    html = 'Content-Type: text/html\n\n<img src="cid:logo@x">'
    image = "Content-Type: image/gif\nContent-ID: <logo@x>\n\nGIF89a"
    (file,) = parse(multipart("related", html, image)).files
    assert (file.cid, file.inline, file.name, file.type) == ("logo@x", True, "image.gif", "image/gif")


def test_a_mail_in_a_mail_is_a_file_that_is_not_opened() -> None:
    inner = "Content-Type: message/rfc822\n\nFrom: agent@desk.example.com\nSubject: inner\n\n#close"
    message = parse(multipart("mixed", PLAIN, inner))
    assert (message.text, message.files[0].name) == ("plain words", "inner.eml")


def test_an_encrypted_mail_says_so() -> None:
    assert parse("Content-Type: application/pkcs7-mime; smime-type=enveloped-data\n\nx").notes == (
        "The text is encrypted and cannot be read here.",
    )


def test_a_bounce_names_the_mail_it_is_about() -> None:
    message = parse(
        "From: MAILER-DAEMON@mx.example.net\nReturn-Path: <>\n"
        + multipart(
            "report; report-type=delivery-status",
            PLAIN,
            "Content-Type: message/delivery-status\n\nReporting-MTA: dns; x\n\nFinal-Recipient: rfc822; c@example.org\n"
            "Action: failed\nStatus: 5.1.1",
            "Content-Type: text/rfc822-headers\n\nFrom: Help <help+bb.1@desk.example.com>\nReferences: <r@x>\n"
            "Message-ID: <ours@desk.example.com>",
        ).partition("\n")[2]
    )
    assert message.category is MessageClass.BOUNCE_HARD
    assert message.evidence == (
        "message/delivery-status", "Final-Recipient: c@example.org", "Action: failed", "Status: 5.1.1",
    )  # fmt: skip
    assert message.references == ("r@x", "ours@desk.example.com")
    assert "help+bb.1@desk.example.com" in message.delivered_to


def test_a_bounce_in_prose_names_it_too() -> None:
    message = parse(
        "From: MAILER-DAEMON@mx.example.net\nSubject: failure notice\n\n550 no such user\n\n--- a copy:\n\n"
        "Message-ID: <ours@desk.example.com>\nFrom: help+bb.1@desk.example.com\n",
        Envelope("", ENVELOPE.recipients),
    )
    assert message.category is MessageClass.BOUNCE_HARD
    assert message.references == ("ours@desk.example.com",)
    assert "help+bb.1@desk.example.com" in message.delivered_to


# -- bounds --------------------------------------------------------------------------------------------------------


def test_deep_parts_are_cut_with_a_note_and_their_text_is_shown() -> None:
    nested = "".join(f'Content-Type: multipart/mixed; boundary="b{n}"\n\n--b{n}\n' for n in range(2000))
    message = parse(f"From: a@example.org\n{nested}Content-Type: text/plain\n\nleaf text\n")
    assert "leaf text" in message.text
    assert message.notes[0].startswith("The parts of the mail nest deeper than 30")


def test_many_parts_are_cut_with_a_note() -> None:
    parts = [f"Content-Disposition: attachment; filename=f{n}.txt\n\nx" for n in range(900)]
    message = parse(multipart("mixed", *parts))
    assert 490 < len(message.files) < 500
    assert message.notes == ("The mail has more than 500 parts; the rest is only in the original.",)


def test_a_long_text_is_cut_with_a_note() -> None:
    message = parse("From: a@example.org\n\n" + "word " * 1_000_000)
    assert len(message.text) <= mime.LONGEST_TEXT
    assert message.notes == ("The text is very long and was cut. The original has all of it.",)


def fill(unit: str) -> str:
    return unit * (100_000 // len(unit))


@pytest.mark.parametrize(
    "raw",
    [
        "".join(f"Content-Type: multipart/mixed; boundary=b{n}\n\n--b{n}\n" for n in range(30)) + "\n" * 100_000,
        "".join(f"Content-Type: multipart/mixed; boundary=b{n}\n\n--b{n}\n" for n in range(30)) + fill("\n--b1x"),
        fill("Content-Type: multipart/mixed; boundary=b\n\n--b\n"),
        "Content-Type: multipart/mixed; boundary=b\n\n" + fill("--b"),
        "Content-Type: multipart/mixed; boundary=b\n\n" + fill("--b\n\nx\n"),
        "From: " + fill('"\\'),
        "From: " + fill("<"),
        "From: " + fill("a@"),
        "From: " + fill("=?a?q?"),
        "To: " + fill("(a)"),
        "References: " + fill("<"),
        "Subject: " + fill("=?utf-8?q?a?= "),
        "Content-Type: text/plain" + fill(';a="'),
        fill("a:\n"),
        fill("garbage\nTo: a@b.c\n"),
        "From: mailer-daemon@a.b\nReturn-Path: <>\n\n" + fill("message-id: <a@b>\n"),
    ],
    ids=range(16),
)
def test_a_hundred_kilobytes_of_anything_take_linear_time(raw: str) -> None:
    data = raw.encode()
    began = time.perf_counter()
    parse(data)
    assert time.perf_counter() - began < 0.5  # measured: at most 0.05 s


# -- what others collected -----------------------------------------------------------------------------------------


def hostile() -> ModuleType:
    if not HOSTILE.exists():
        pytest.skip(f"THE HOSTILE MAILS WERE NOT TRIED: {HOSTILE} is not there")
    spec = importlib.util.spec_from_file_location("hostile_generate", HOSTILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True  # the folder is not ours to write to
    try:
        spec.loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = before
    return module


def collected() -> list[tuple[str, bytes]]:
    if not MAILS.exists():
        pytest.skip(f"THE COLLECTED MAILS WERE NOT TRIED: {MAILS} is not there")
    return [(str(path), path.read_bytes()) for path in sorted(MAILS.glob("*/raw/**/*")) if path.is_file()]


def unfit(message: InboundMessage) -> list[str]:
    """The fields that hold what no database can."""
    return [
        field.name
        for field in dataclasses.fields(message)
        if re.search("[\x00\ud800-\udfff]", str(getattr(message, field.name)))
    ]


def complaints(case: Any) -> list[str]:
    """What a hostile mail achieved that it must not."""
    data = case.data()
    began = time.perf_counter()
    message = mime.parse(data, ENVELOPE, Shelf().keep)
    took = time.perf_counter() - began
    expect = case.expect
    found = [f"took {took:.1f} s"] if took > expect["seconds"] else []
    if expect.get("text_has") and expect["text_has"] not in f"{message.subject}\n{message.text}":
        found.append(f"text lacks {expect['text_has']}")
    found += [f"html has {bad}" for bad in expect.get("html_forbid", ()) if re.search(bad, message.html, re.IGNORECASE)]
    if expect.get("filename"):
        found += [f"file {file.name!r}" for file in message.files if not re.match(expect["filename"], file.name)]
    # authres_* and irt_* are exact forgeries of From: that takes a proof, which is not the parser's business.
    exact = case.name.startswith(("authres_", "irt_"))
    if expect.get("agent") is False and message.sender.address == "agent@desk.example.com" and not exact:
        found += [] if message.sender_is_doubtful else ["taken for an agent"]
    return found + unfit(message)


def test_no_hostile_mail_achieves_anything() -> None:
    cases = hostile().mails()
    assert len(cases) == 443
    assert {case.name: found for case in cases if (found := complaints(case))} == {}


def test_hostile_copies_are_told_from_hostile_reuse() -> None:
    digests = {case.name: parse(case.data()).content_hash for case in hostile().mails() if case.name.startswith("dup_")}
    assert digests["dup_a"] == digests["dup_b"] == digests["dup_alias"]
    assert digests["dup_a"] != digests["dup_c"]


def test_no_automatic_answer_goes_to_hostile_machines() -> None:
    # What only the configuration can tell: our own addresses.
    known = {"from_own", "replyto_own"}
    answered = {
        case.name for case in hostile().mails()
        if case.expect.get("autoreply") is False and not parse(case.data()).no_automatic_answer
    }  # fmt: skip
    assert answered == known


def test_every_collected_mail_is_read() -> None:
    mails = collected()
    assert len(mails) > 500
    assert {name: bad for name, raw in mails if (bad := unfit(parse(raw)))} == {}


def test_flipped_bytes_never_raise() -> None:
    chance = random.Random(20261123)
    mails = [raw for _, raw in collected() if 0 < len(raw) < 50_000]
    for _ in range(2000):
        damaged = bytearray(chance.choice(mails))
        for _ in range(chance.randint(1, 30)):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        assert unfit(parse(bytes(damaged))) == []
