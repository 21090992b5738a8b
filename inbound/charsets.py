"""Bytes to text, and never an exception: charsets, transfer encodings, encoded words (email.md 23, 24).

RFC 2045 (transfer encodings), RFC 2047 (encoded words), RFC 2231 (parameter values). The names of charsets are an
allow-list: Python's own table also knows zlib, rot13 and idna, which a stranger must not be able to call.
"""

from __future__ import annotations

import binascii
import codecs
import re
from collections.abc import Iterator
from urllib.parse import unquote_to_bytes

# What a label means, not what it says: "iso-8859-1" is written by programs that send cp1252, "gb2312" by those that
# send gb18030 (the WHATWG encoding standard made the same choices). Labels are compared without punctuation.
_LABELS = {
    "utf-8": "utf8 utf8mb4 unicode11utf8 usascii ascii ansix341968",
    "cp1252": "iso88591 iso885911987 latin1 l1 windows1252 cp1252 ansi",
    "iso8859-2": "iso88592 latin2",
    "cp1254": "iso88599 latin5 windows1254 cp1254",
    "iso8859-15": "iso885915 latin9",
    "iso8859-6": "iso88596 iso88596i",
    "iso8859-8": "iso88598 iso88598i",
    "cp874": "iso885911 tis620 windows874 cp874",
    "koi8-r": "koi8r koi8",
    "koi8-u": "koi8u koi8ru",
    "mac-roman": "macintosh macroman xmacroman",
    "mac-cyrillic": "maccyrillic xmaccyrillic",
    "gb18030": "gb2312 gbk gb18030 cp936 xgbk gb231280 euccn",
    "big5hkscs": "big5 big5hkscs cnbig5 xxbig5 cp950",
    "cp932": "shiftjis sjis xsjis mskanji cp932 windows31j",
    "euc_jp": "eucjp xeucjp ujis",
    "iso2022_jp_ext": "iso2022jp iso2022jp1 iso2022jp2 csiso2022jp",
    "cp949": "euckr ksc56011987 ksc5601 cp949 uhc windows949",
    "iso2022_kr": "iso2022kr",
    "hz": "hz hzgb2312",
    "utf-7": "utf7",
    **{f"iso8859-{n}": f"iso8859{n}" for n in (3, 4, 5, 7, 10, 13, 14, 16)},
    **{f"cp{n}": f"cp{n} windows{n}" for n in (1250, 1251, 1253, 1255, 1256, 1257, 1258)},
    **{f"cp{n}": f"cp{n} ibm{n}" for n in (437, 850, 852, 858, 862, 866)},
    **{f"utf-{n}": f"utf{n}" for n in (16, 32)},
    **{f"utf-{n}-{end}": f"utf{n}{end}" for n in (16, 32) for end in ("le", "be")},
}
_CODECS = {label: codec for codec, labels in _LABELS.items() for label in labels.split()}
# In these, bytes below 128 do not mean ASCII.
_NOT_ASCII = frozenset({"iso2022_jp_ext", "iso2022_kr", "hz", "utf-7"})
_WIDE = frozenset({"utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"})
# cp1252 with its five holes filled: decodes everything.
_LAST_RESORT = "".join(bytes([n]).decode("cp1252", "ignore") or chr(n) for n in range(256))
_META = re.compile(rb"""<meta[^>]{0,200}charset\s{0,5}=\s{0,5}["']?([A-Za-z0-9_.:\-]{2,40})""", re.IGNORECASE)
_LOOKED_AT = 4096  # bytes the detector is shown: it takes 0.4 to 0.9 ms for these

_WORD = re.compile(r"=\?([^?\s]{1,60})\?([bBqQ])\?([^?]*(?:\?(?!=)[^?]*){0,2})\?=")
_NOT_BASE64 = bytes(set(range(256)) - set(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/="))

# Control characters (tab and line feed stay), C1, non-characters and lone surrogates: no page, no database and no
# header may meet them.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\ufffe\uffff\ud800-\udfff]")
# Also what turns the direction of writing or is not seen at all: in names, subjects and file names it only deceives.
_HIDDEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufffe\uffff\ud800-\udfff]+"
)
_BLANKS = re.compile(r"\s+")


def codec(label: str) -> str:
    """Python's name for a charset's label; "" when the label is unknown or not a charset."""
    return _CODECS.get(re.sub(r"[^a-z0-9]", "", label[:60].lower()), "")


def decode(data: bytes, label: str = "", *, html: bool = False, cut: bool = False, guess: bool = True) -> str:
    """Text from bytes: declared charset, UTF-8, <meta> (of HTML), detector, cp1252 (email.md 23).

    `cut` says that the bytes may end within a letter; without `guess` the detector is not asked. Never raises.
    """
    name = codec(label)
    if name not in _NOT_ASCII and data.isascii() and (name not in _WIDE or b"\0" not in data):
        return data.decode("ascii")
    for candidate in _ladder(data, name, html, guess):
        try:
            text = codecs.getincrementaldecoder(candidate)("strict").decode(data, not cut)
        except (UnicodeError, LookupError):
            continue
        if "\ufffd" in text and "\ufffd".encode() not in data:
            continue
        return text.removeprefix("\ufeff")
    return codecs.charmap_decode(data, "strict", _LAST_RESORT)[0]


def _ladder(data: bytes, declared: str, html: bool, guess: bool) -> Iterator[str]:
    """The codecs to try, in order; the dear step, the detector, only when it is reached."""
    if declared and declared != "utf-8":
        yield declared
    yield "utf-8"
    found = _META.search(data[:2048]) if html else None
    meta = codec(found.group(1).decode("ascii")) if found else ""
    if meta and meta not in _WIDE:
        yield meta
    if not guess:
        return
    import chardet  # 44 MB, so only where a mail is really unlabelled

    detected = codec(str(chardet.detect(data[:_LOOKED_AT]).get("encoding") or ""))
    if detected:
        yield detected


# -- transfer encodings ------------------------------------------------------------------------------------------


def untransfer(data: bytes, encoding: str) -> bytes:
    """Bytes out of a Content-Transfer-Encoding; an unknown or broken one leaves them as they are. Never raises."""
    match encoding.strip().lower():
        case "quoted-printable" | "qp" | "quotedprintable":
            return binascii.a2b_qp(data)
        case "base64":
            return from_base64(data)
        case "x-uuencode" | "uuencode" | "x-uue" | "uue":
            return from_uuencode(data)
    return data


def from_base64(data: bytes) -> bytes:
    """Base64 with anything in between: junk is skipped, padding may be missing or stand in the middle."""
    letters = data.translate(None, _NOT_BASE64)
    try:
        return binascii.a2b_base64(letters, strict_mode=True)
    except binascii.Error:
        pass
    pieces = letters.split(b"=", 1000)
    pieces[-1] = pieces[-1].replace(b"=", b"")
    out = bytearray()
    for piece in pieces:
        whole = piece[:-1] if len(piece) % 4 == 1 else piece
        out += binascii.a2b_base64(whole + b"=" * (-len(whole) % 4))
    return bytes(out)


def from_uuencode(data: bytes) -> bytes:
    """The first file of a uuencoded text; the data itself when there is none."""
    begin = re.search(rb"^begin [0-7]{3,4} [^\n]*\n", data, re.MULTILINE)
    if begin is None:
        return data
    out = bytearray()
    for line in data[begin.end() :].splitlines():
        if line.strip() in (b"", b"`", b"end"):
            break
        try:
            out += binascii.a2b_uu(line)
        except binascii.Error:
            # Some encoders leave a byte too many: take as many letters as the length byte says.
            wanted = (((line[0] - 32) & 63) * 4 + 5) // 3
            try:
                out += binascii.a2b_uu(line[:wanted])
            except binascii.Error:
                return bytes(out) or data
    return bytes(out)


# -- headers -----------------------------------------------------------------------------------------------------


def decode_words(text: str) -> str:
    """RFC 2047 encoded words decoded, also where they must not stand (in quotes, unseparated, with blanks).

    Neighbours of one charset are joined before decoding: many mailers split letters between words.
    """
    if "=?" not in text:
        return text
    out: list[str] = []
    label, joined, end = "", bytearray(), 0
    for word in _WORD.finditer(text):
        charset, kind, payload = word.groups()
        charset = charset.partition("*")[0].lower()  # RFC 2231, 5: a language may follow
        between = text[end : word.start()]
        if charset != label or (between and not between.isspace()):
            out.append(decode(bytes(joined), label))
            # White space between two encoded words is not part of the text.
            out.append("" if joined and between.isspace() else between)
            label, joined = charset, bytearray()
        # Raw 8-bit letters within a word are in the word's charset; here they have been decoded already.
        data = payload.encode((not payload.isascii() and codec(charset)) or "utf-8", "replace")
        joined += from_base64(data) if kind in "bB" else binascii.a2b_qp(data, header=True)
        end = word.end()
    out.append(decode(bytes(joined), label))
    out.append(text[end:])
    return "".join(out)


def decode_parameter(value: str) -> str:
    """An RFC 2231 value: charset'language'percent-encoded."""
    charset, quote, rest = value.partition("'")
    _language, second, escaped = rest.partition("'")
    if not (quote and second):
        charset, escaped = "", value
    return decode(unquote_to_bytes(escaped), charset)


# -- what may be shown -------------------------------------------------------------------------------------------


def one_line(text: str, limit: int = 500) -> str:
    """Fit for a header, a page's line or a log: no controls, no line ends, no hidden letters; at most `limit` long."""
    if not (text.isascii() and text.isprintable()):
        text = _HIDDEN.sub(" ", text[: 4 * limit])
    return _BLANKS.sub(" ", text[: 4 * limit]).strip()[:limit].rstrip()


def many_lines(text: str) -> str:
    """Fit for a text column: lines end with a line feed, no controls, no surrogates."""
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    return _CONTROLS.sub("", text)
