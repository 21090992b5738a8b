"""Bytes become the text that was meant, and nothing raises."""

from __future__ import annotations

import time

import pytest

from inbound import charsets


@pytest.mark.parametrize(
    ("data", "label", "text"),
    [
        (b"plain", "", "plain"),
        ("Grüße".encode(), "utf-8", "Grüße"),
        ("Grüße".encode("latin-1"), "iso-8859-1", "Grüße"),
        (b"\x93quoted\x94 \x80", "iso-8859-1", "“quoted” €"),  # says Latin-1, is cp1252
        ("打印机坏了".encode("gb18030"), "gb2312", "打印机坏了"),
        ("프린터".encode("cp949"), "ks_c_5601-1987", "프린터"),
        ("プリンタ".encode("cp932"), "Shift_JIS", "プリンタ"),
        ("プリンタ".encode("iso2022_jp"), "iso-2022-jp", "プリンタ"),
        ("Принтер".encode("koi8-r"), "KOI8-R", "Принтер"),
        (b"caf\xc3\xa9", "us-ascii", "café"),
        (b"caf\xc3\xa9", "x-unknown", "café"),
        (b"caf\xe9", "utf-8", "café"),  # the label lies
        (b"\xef\xbb\xbfmark", "utf-8", "mark"),
        (b"+AOQ-", "utf-7", "ä"),
        (b"only ASCII", "utf-16", "only ASCII"),
        (b"hello", "zlib_codec", "hello"),
        (b"hello", "rot13", "hello"),
        (b"", "utf-8", ""),
    ],
)
def test_bytes_are_read_by_what_their_label_means(data: bytes, label: str, text: str) -> None:
    assert charsets.decode(data, label) == text


def test_html_may_name_its_own_charset() -> None:
    data = '<meta charset="windows-1251"><p>Принтер</p>'.encode("cp1251")
    assert "Принтер" in charsets.decode(data, "", html=True)


def test_every_byte_decodes_without_the_replacement_character() -> None:
    text = charsets.decode(bytes(range(256)), "utf-8", guess=False)
    assert len(text) == 256
    assert "\ufffd" not in text


def test_a_text_cut_within_a_letter_keeps_its_charset() -> None:
    assert charsets.decode("Grüß".encode()[:-1], "utf-8", cut=True) == "Grü"


@pytest.mark.parametrize("label", ["idna", "punycode", "undefined", "hex_codec", "unicode_escape", "mbcs", "../", '""'])
def test_only_charsets_are_charsets(label: str) -> None:
    assert charsets.codec(label) == ""


@pytest.mark.parametrize(
    ("data", "encoding", "out"),
    [
        (b"aGVsbG8=", "base64", b"hello"),
        (b"aGVs bG8", "Base64 ", b"hello"),
        (b"aGVsbG8=aGVsbG8=", "base64", b"hellohello"),
        (b"aGV*sb!G8", "base64", b"hello"),
        (b"A", "base64", b""),
        (b"a=C3=BC=\r\nb=ZZ", "quoted-printable", b"a\xc3\xbcb=ZZ"),
        (b"begin 644 x\n#0V%T\n`\nend\n", "x-uuencode", b"Cat"),
        (b"no beginning", "x-uuencode", b"no beginning"),
        (b"hello", "x-evil", b"hello"),
    ],
)
def test_transfer_encodings_give_what_they_can(data: bytes, encoding: str, out: bytes) -> None:
    assert charsets.untransfer(data, encoding) == out


@pytest.mark.parametrize(
    ("header", "text"),
    [
        ("=?utf-8?q?J=C3=BCrgen?=", "Jürgen"),
        ("=?utf-8?b?4pw=?= =?utf-8?b?kw==?=", "✓"),  # one letter in two words
        ("=?utf-8?q?a?==?utf-8?q?b?= c", "ab c"),
        ("Re: =?iso-8859-1?Q?Gr=FC=DFe_aus?= Köln", "Re: Grüße aus Köln"),
        ("=?utf-8?q?a?= =?iso-8859-1?q?=FC?=", "aü"),
        ("=?utf-8?Q?is it ok??=", "is it ok?"),
        ("=?utf-8*en?q?a?=", "a"),
        ("=?iso-8859-1?Q?Frösche?=", "Frösche"),  # a raw letter within a word
        ("=?x-klingon?q?abc?=", "abc"),
        ("=?utf-8?x?abc?=", "=?utf-8?x?abc?="),
        ("plain", "plain"),
    ],
)
def test_encoded_words_are_decoded(header: str, text: str) -> None:
    assert charsets.decode_words(header) == text


def test_an_extended_parameter_is_decoded() -> None:
    assert charsets.decode_parameter("utf-8''R%C3%BCge.pdf") == "Rüge.pdf"
    assert charsets.decode_parameter("x-klingon''%41") == "A"
    assert charsets.decode_parameter("%41") == "A"


def test_one_line_has_no_line_end_and_nothing_hidden() -> None:
    assert charsets.one_line("a\r\nBcc: b\0\x1b[31m \u202efdp.exe\u2066") == "a Bcc: b [31m fdp.exe"
    assert charsets.one_line("x" * 900) == "x" * 500
    assert charsets.one_line("\ud800") == ""


def test_many_lines_end_with_line_feeds_only() -> None:
    assert charsets.many_lines("a\r\nb\rc\0\ud800\td") == "a\nb\nc\td"


@pytest.mark.parametrize("unit", ["=?a?q?", "=?a?q?b ", "=?", "=?utf-8?q?a?= ", "=?a?q?b?c ="])
def test_encoded_words_take_linear_time(unit: str) -> None:
    began = time.perf_counter()
    charsets.decode_words(unit * (100_000 // len(unit)))
    assert time.perf_counter() - began < 0.5
