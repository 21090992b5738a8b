"""Bytes of a mail to an `InboundMessage`: RFC 5322, 2045-2047, 2231, 3676. Never raises, and is linear for any bytes.

The structure is read here and not by the standard library's parser, for two reasons that were measured: 100 KB of line
ends in 30 nested parts take that one 230 ms and 2,000 nested parts end in RecursionError; here every byte is looked at
once per level, at most 30 levels deep. Who wrote is read by an own parser too: the library's name the wrong person for
`agent@desk.example.com)carol@example.org` (CVE-2023-27043).
"""

from __future__ import annotations

import hashlib
import html as entities
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from gateway.addresses import mail_address
from gateway.values import NOBODY, Channel, Envelope, FilePart, InboundMessage, MessageClass, NamedAddress, Step
from inbound import charsets, machines, markup, quoting

LARGEST = 36 << 20  # bytes: above, only the headers are read
MOST_HEADERS, LONGEST_HEADER = 1_000, 64 << 10
DEEPEST, MOST_PARTS, MOST_GUESSES = 30, 500, 20
LONGEST_TEXT, TEXT_BYTES = 256 << 10, 1 << 20
MOST_ADDRESSES, MOST_REFERENCES = 100, 100

Keep = Callable[[bytes], str]


def parse(raw: bytes, envelope: Envelope, keep: Keep, *, authserv_id: str = "") -> InboundMessage:
    """One mail, understood. `keep` stores an attachment's bytes and returns their SHA-256, and is called for no others.

    `authserv_id` names whose Authentication-Results headers are believed ("" for nobody's; email.md 19).
    """
    began = time.perf_counter()
    notes: list[str] = []
    source = _tidy(raw, notes)
    headers, body = read_headers(source, 0, len(source), notes)
    content = _Content(source, notes)
    if len(source) <= LARGEST:
        content.read(headers, body)
    else:
        notes.append("The mail is too large to be shown here. The original has all of it.")
    subject = charsets.one_line(charsets.decode_words(headers.get("subject")))
    people = _people(headers, envelope)
    text, html = content.text(), content.html()
    files = content.keep_files(keep, html)
    verdict = machines.classify(_for_machines(headers, people, subject, text, content, envelope))
    forwarded = bool(_FORWARD_SUBJECT.match(subject)) and (content.has_mail or quoting.has_forward(text))
    visible, quoted, signature = (
        (text.strip("\n"), "", "") if forwarded or verdict.category in _REPORTS else quoting.trim(text)
    )
    references = ids(headers.tail("references"))
    delivered = _delivered_to(headers)
    reasons = [verdict.no_answer] if verdict.no_answer else []
    if not people.author.address:
        reasons.append("From names nobody")
    if envelope.path in ("smtp", "lmtp") and set(delivered) & set(map(mail_address, envelope.recipients)):
        reasons.append("Delivered-To already names this recipient: a loop")
    if verdict.category in _REPORTS:
        returned_ids, returned_addresses = _returned(content, text)
        references += returned_ids
        delivered += returned_addresses
    digest = content.digest(people.author.address or headers.get("from"), headers.get("date"), subject)
    took = 1000 * (time.perf_counter() - began)
    return InboundMessage(
        channel=Channel.MAIL,
        sender=people.sender,
        author=people.author,
        subject=subject,
        text=visible,
        message_id=_message_id(headers, digest, raw),
        content_hash=digest,
        quoted=quoted,
        signature=signature,
        html=html,
        reply_to=people.reply_to,
        to=_named(headers, "to"),
        cc=_named(headers, "cc"),
        delivered_to=tuple(dict.fromkeys(delivered)),
        in_reply_to=tuple(ids(headers.get("in-reply-to"))[:20]),
        references=tuple(dict.fromkeys(references))[-MOST_REFERENCES:],
        date=_date(headers.get("date")),
        files=files,
        category=verdict.category,
        evidence=verdict.evidence,
        no_automatic_answer="; ".join(reasons),
        loop_token=charsets.one_line(headers.get("x-ringback-loop"), 200),
        sender_is_doubtful=people.doubtful,
        authentication=_authentication(headers, authserv_id),
        signed=bool(headers.raw("dkim-signature")),
        forwarded=forwarded,
        notes=tuple(dict.fromkeys(notes)),
        steps=(Step("parse", f"{len(raw)} bytes, {content.parts} parts, {len(files)} files", round(took, 2)),),
    )


_FORWARD_SUBJECT = re.compile(r"^\s*(?:fwd?|wg|tr|rv|enc|pd|转发|轉寄)\s{0,3}[:：]", re.IGNORECASE)
_REPORTS = frozenset({
    MessageClass.BOUNCE_HARD, MessageClass.BOUNCE_SOFT, MessageClass.DELAYED, MessageClass.DELIVERED,
    MessageClass.COMPLAINT,
})  # fmt: skip


# -- the header block --------------------------------------------------------------------------------------------

_FIELD = re.compile(rb"([!-9;-~]{1,200})[ \t]*:([^\n]*(?:\n[ \t][^\n]*)*)(?:\n|\Z)")
_KNOWN = (
    rb"(?:from|sender|reply-to|to|cc|subject|date|message-id|in-reply-to|references|return-path|delivered-to|"
    rb"x-original-to|envelope-to|x-forwarded-to|mime-version|content-[a-z-]{2,30}|received|auto-submitted|precedence|"
    rb"list-id|list-unsubscribe|x-auto-response-suppress|x-ringback-loop)[ \t]*:"
)
_KNOWN_FIELD = re.compile(_KNOWN, re.IGNORECASE)
_KNOWN_LINE = re.compile(rb"^" + _KNOWN, re.IGNORECASE | re.MULTILINE)
_FROM_LINE = re.compile(rb"^from[ \t]*:", re.IGNORECASE | re.MULTILINE)
_BLANK_LINE = re.compile(rb"\n\r?\n")
_FOLD = re.compile(rb"\r?\n[ \t]*")
_MBOX_LINE = re.compile(rb">?From [^\n]{0,500}\n")


class Headers:
    """The header fields of a mail or a part, kept as bytes: only what is asked for is unfolded and decoded."""

    __slots__ = ("_by_name", "fields", "guess")

    def __init__(self) -> None:
        self.guess = True  # may the charset of raw 8-bit values be guessed? it costs half a millisecond each
        self.fields: list[tuple[str, bytes]] = []  # lower-case name, value as it stands, in order
        self._by_name: dict[str, list[bytes]] = {}

    def add(self, name: bytes, value: bytes) -> None:
        key = name.lower().decode("ascii")
        self.fields.append((key, value))
        self._by_name.setdefault(key, []).append(value)

    def raw(self, name: str) -> list[bytes]:
        """All fields of this (lower-case) name, untouched."""
        return self._by_name.get(name, [])

    def get(self, name: str) -> str:
        """The first field of this name on one line, encoded words not decoded; "" when there is none."""
        values = self._by_name.get(name)
        return _unfolded(values[0][:LONGEST_HEADER], self.guess) if values else ""

    def tail(self, name: str) -> str:
        """Like `get`, but of a field that is too long its end."""
        values = self._by_name.get(name)
        return _unfolded(values[0][-LONGEST_HEADER:], self.guess) if values else ""

    def all(self, name: str) -> list[str]:
        """The first hundred fields of this name, like `get`."""
        values = self._by_name.get(name, [])[:100]
        return [_unfolded(value[:LONGEST_HEADER], self.guess) for value in values]


def _unfolded(value: bytes, guess: bool = False) -> str:
    if b"\n" in value:
        value = _FOLD.sub(b" ", value)
    return charsets.decode(value.strip(), guess=guess)


def read_headers(source: bytes, start: int, end: int, notes: list[str]) -> tuple[Headers, int]:
    """The fields from `start` on, and where the body begins.

    Lines that are no fields end the block, unless a well-known field follows at once, or the From is still to come
    before the first blank line: then they are skipped, with a note.
    """
    headers = Headers()
    at = start
    while at < end:
        found = _FIELD.match(source, at, end)
        if found is not None:
            headers.add(found[1], found[2])
            at = found.end()
            if len(headers.fields) >= MOST_HEADERS:
                return headers, _rest_of_headers(source, at, end, headers, notes)
            continue
        line_end = source.find(b"\n", at, end)
        after = line_end + 1 if line_end >= 0 else end
        if not source[at : min(after, at + 3)].strip(b"\r\n"):
            return headers, after
        if not _KNOWN_FIELD.match(source, after, end):
            after = -1 if start or headers.raw("from") else _next_known(source, at, end)
        if after < 0:
            return headers, at
        notes.append("A line among the headers was no header and was skipped.")
        at = after
    return headers, end


def _next_known(source: bytes, at: int, end: int) -> int:
    """Where the headers go on after lines that are none, if a From comes before the first blank line; else -1."""
    stop = min(end, at + LONGEST_HEADER)
    blank = _BLANK_LINE.search(source, at, stop)
    stop = blank.start() + 1 if blank else stop
    if not _FROM_LINE.search(source, at, stop):
        return -1
    known = _KNOWN_LINE.search(source, at + 1, stop)
    return known.start() if known else -1


def _rest_of_headers(source: bytes, at: int, end: int, headers: Headers, notes: list[str]) -> int:
    """Past the limit only the fields that say who, what and how, up to a thousand more; returns the body's start."""
    notes.append(f"The mail has more than {MOST_HEADERS} headers; most of them were not read.")
    blank = _BLANK_LINE.search(source, at - 1, end)
    stop = min(blank.start() + 1 if blank else end, at + (4 << 20))
    for line in _KNOWN_LINE.finditer(source, at, stop):
        found = _FIELD.match(source, line.start(), stop)
        if found is not None:
            headers.add(found[1], found[2])
        if len(headers.fields) >= 20 * MOST_HEADERS:
            break
    return blank.end() if blank else end


def _tidy(raw: bytes, notes: list[str]) -> bytes:
    """Without what may stand before the first header, and with line feeds where a mail has only carriage returns."""
    source = raw[3:] if raw.startswith(b"\xef\xbb\xbf") else raw
    if b"\n" not in source[:4000] and source.count(b"\r", 0, 4000) > 3:
        notes.append("The lines of the mail ended with CR only.")
        source = source.replace(b"\r", b"\n")
    if source[:1] in b"\r\n \t":
        stripped = source.lstrip(b"\r\n")
        if stripped[:1] in b" \t" and b"\n" in stripped[:1000]:
            stripped = stripped[stripped.index(b"\n") + 1 :]  # a continuation of nothing
        if _KNOWN_FIELD.match(stripped):
            source = stripped
    mbox = _MBOX_LINE.match(source)
    return source[mbox.end() :] if mbox else source


# -- addresses ---------------------------------------------------------------------------------------------------

# An encoded word is one atom whatever is in it: some hold a colon or a comma, which must not act as one.
_ATOM = re.compile(r'=\?[^?\s]{1,60}\?[bBqQ]\?[^?\s]*\?=|[^\s()<>,;:"\[\]\\@]+')
_PARENTHESIS = re.compile(r"[()\\]")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_LOCAL = re.compile(r'(?:[^\s()<>,;:"\[\]\\@]+|"(?:[^"\\]|\\.)*")')
_PLAIN_LOCAL = re.compile(r'"([\w.!#$%&\'*+/=?^`{|}~-]+)"')
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]")


@dataclass(slots=True)
class Mailboxes:
    """What an address header says. `defects` are words; with one of them nobody may be recognised by it."""

    found: list[NamedAddress] = field(default_factory=list)
    defects: list[str] = field(default_factory=list)


def read_mailboxes(text: str, limit: int = MOST_ADDRESSES) -> Mailboxes:
    """The mailboxes of an address header (RFC 5322 3.4 and the old forms), in one pass, without recursion.

    Encoded words are decoded afterwards and in names only, so none can turn into an address. A mailbox that can be
    read in two ways has the address "".
    """
    return _AddressReader(text, limit).read()


class _AddressReader:
    """The position in one header, and what has been seen of the mailbox being read."""

    def __init__(self, text: str, limit: int) -> None:
        clean = _CONTROL.sub("", text)
        self.text, self.limit, self.at = clean, limit, 0
        self.result = Mailboxes(defects=["control characters"] if clean != text else [])
        self.quotes_end = True  # is there a closing quote ahead?
        self.clear()

    def clear(self) -> None:
        self.words: list[tuple[str, bool]] = []  # (word as written, stands right behind the one before)
        self.comment, self.angle, self.touching = "", "", False
        self.has_angle = False

    def defect(self, words: str) -> None:
        if words not in self.result.defects:
            self.result.defects.append(words)

    def read(self) -> Mailboxes:
        while self.at < len(self.text) and len(self.result.found) < self.limit:
            atom = _ATOM.match(self.text, self.at)
            if atom is not None:
                self.at = atom.end()
                self.word(atom.group())
            else:
                self.special(self.text[self.at])
        self.finish()
        return self.result

    def word(self, word: str) -> None:
        if self.has_angle:
            self.defect("text after the address")
        self.words.append((word, self.touching))
        self.touching = True

    def special(self, sign: str) -> None:
        """One sign that is no atom; moves on past it and what it begins."""
        self.at += 1
        match sign:
            case "(":
                self.read_comment()
            case '"':
                self.read_quoted()
            case "<":
                self.read_angle()
            case "," | ";":
                self.finish()
            case ":":
                self.defect("group")
                self.clear()
            case "@" | "[" | "]":
                self.word(sign)
            case ")" | ">" | "\\":
                self.defect(f"stray {sign}")
                self.touching = False
            case _:
                self.touching = False

    def read_comment(self) -> None:
        depth, start = 1, self.at
        while depth:
            sign = _PARENTHESIS.search(self.text, self.at)
            if sign is None:
                self.defect("open comment")
                self.at = len(self.text)
                return
            self.at = sign.end() + (sign.group() == "\\")
            depth += {"(": 1, ")": -1}.get(sign.group(), 0)
        self.comment = self.comment or self.text[start : self.at - 1]
        self.touching = False

    def read_quoted(self) -> None:
        quoted = _QUOTED.match(self.text, self.at - 1) if self.quotes_end else None
        if quoted is None:
            self.quotes_end = False
            self.defect("open quote")
            return
        self.at = quoted.end()
        self.word(quoted.group())

    def read_angle(self) -> None:
        if self.has_angle:
            self.defect("two addresses in one mailbox")
        end = self.text.find(">", self.at)
        if end < 0:
            self.defect("open <")
            end = len(self.text)
        self.angle, self.has_angle = self.text[self.at : end].strip(), True
        self.at = end + 1

    def finish(self) -> None:
        """The mailbox is complete: takes it into the result, unless there was nothing."""
        if self.has_angle or self.words:
            name, address = self.with_angle() if self.has_angle else self.without_angle()
            self.result.found.append(NamedAddress(_name(name or self.comment), address))
        self.clear()

    def with_angle(self) -> tuple[str, str]:
        """ "Ann" <ann@example.org>"""
        address = self.angle
        if address.startswith("@") and ":" in address:
            self.defect("source route")
            address = address.rpartition(":")[2].strip()
        normal = self.address(address)
        name = _join(self.words)
        if any(word == "@" for word, _ in self.words) and mail_address(name) != normal:
            self.defect("another address in the name")
        return name, normal

    def without_angle(self) -> tuple[str, str]:
        """ann@example.org, and what people make of it."""
        signs = [number for number, (word, _) in enumerate(self.words) if word == "@"]
        if len(signs) != 1:
            self.defect("no address" if not signs else "more than one @")
            return _join(self.words), ""
        first = last = signs[0]
        while first > 0 and self.words[first][1]:
            first -= 1
        while last + 1 < len(self.words) and self.words[last + 1][1]:
            last += 1
        outside = self.words[:first] + self.words[last + 1 :]
        if outside:
            self.defect("text beside the address")
        return _join(outside), self.address("".join(word for word, _ in self.words[first : last + 1]))

    def address(self, text: str) -> str:
        """Normalised; "" with a defect when it is none."""
        local, at, domain = text.rpartition("@")
        if not text:
            return ""
        if len(text) > 1000 or not at or not _LOCAL.fullmatch(local):
            self.defect("no address")
            return ""
        plain = _PLAIN_LOCAL.fullmatch(local)
        normal = mail_address(f"{plain.group(1) if plain else local}@{domain}")
        if not normal:
            self.defect("no address")
        return normal


def _join(words: list[tuple[str, bool]]) -> str:
    """Words of a display name as one string, quotes and escapes taken away."""
    out: list[str] = []
    for word, touching in words:
        if len(word) > 1 and word[0] == '"':
            word = _ESCAPED.sub(r"\1", word[1:-1])
        out.append(word if touching or not out else f" {word}")
    return "".join(out)


def _name(text: str) -> str:
    return charsets.one_line(charsets.decode_words(text[:4000]), 200) if text else ""


# -- who -----------------------------------------------------------------------------------------------------------

_VIA = re.compile(r"\s(?:via|über|par)\s", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class _People:
    author: NamedAddress
    sender: NamedAddress
    reply_to: str
    doubtful: bool


def _people(headers: Headers, envelope: Envelope) -> _People:
    """Rule 20: From decides; where it names nobody, Sender, Reply-To, Return-Path. One mailbox, or it is doubtful."""
    written = read_mailboxes(headers.get("from"))
    author = written.found[0] if written.found else NOBODY
    doubtful = len(headers.raw("from")) != 1 or len(written.found) != 1 or bool(written.defects)
    reply_to = _first(headers, "reply-to")
    if author.address and not (_VIA.search(author.name) and (headers.raw("list-id") or headers.raw("x-original-from"))):
        return _People(author, author, reply_to.address, doubtful)
    if author.address:
        # A list put its own address into From and the writer's elsewhere; anybody can, so nobody is recognised by it.
        original = _first(headers, "x-original-from")
        sender = next((who for who in (original, reply_to) if who.address), author)
        return _People(author, sender, reply_to.address, True)
    others = (_first(headers, "sender"), reply_to, _first(headers, "return-path"))
    sender = next((who for who in others if who.address), NamedAddress("", mail_address(envelope.sender)))
    if author.name and sender.address:
        sender = NamedAddress(author.name, sender.address)
    return _People(author, sender if sender.address else NOBODY, reply_to.address, True)


def _first(headers: Headers, name: str) -> NamedAddress:
    """The first mailbox of a header that has an address."""
    text = headers.get(name)
    return next((who for who in read_mailboxes(text, 10).found if who.address), NOBODY) if text else NOBODY


def _named(headers: Headers, name: str) -> tuple[NamedAddress, ...]:
    """All mailboxes with an address in all headers of this name, each once, at most a hundred."""
    found: dict[str, NamedAddress] = {}
    for text in headers.all(name):
        for who in read_mailboxes(text).found:
            if who.address and len(found) < MOST_ADDRESSES:
                found.setdefault(who.address, who)
    return tuple(found.values())


def _delivered_to(headers: Headers) -> list[str]:
    """Where the mail was sent on its way, by the headers that mail servers write."""
    found: list[str] = []
    for name in ("delivered-to", "x-original-to", "envelope-to", "x-forwarded-to"):
        for text in headers.all(name)[:20]:
            found += [who.address for who in read_mailboxes(text, 20).found if who.address]
    return found


# -- ids, date, authentication -----------------------------------------------------------------------------------

_ID = re.compile(r"<([^<>]+)>")


def ids(text: str) -> list[str]:
    """The Message-IDs in a header, without brackets, in order; those nobody can store are replaced by a hash."""
    found = _ID.findall(text) if "<" in text else [word for word in text.split() if "@" in word]
    return [normal for each in found if (normal := _id(each))]


def _id(text: str) -> str:
    normal = charsets.one_line("".join(text.split()), 20_000)
    if len(normal) > 250:
        return "sha256:" + hashlib.sha256(normal.encode()).hexdigest()
    return normal.replace(" ", "")


def _message_id(headers: Headers, digest: str, raw: bytes) -> str:
    """The mail's own id; one made of its content when it has none, so that a second copy has the same.

    Without a Date two equal mails may well be two events (a device that reports every day): then all bytes count.
    """
    found = ids(headers.get("message-id"))
    if found:
        return found[0]
    return (digest if headers.raw("date") else hashlib.sha256(raw).hexdigest())[:32] + "@local"


def _date(text: str) -> datetime | None:
    """RFC 5322 3.3, in UTC; None for what is no date or one that no calendar of ours can hold."""
    try:
        stamp = parsedate_to_datetime(text[:100])
        stamp = stamp.replace(tzinfo=UTC) if stamp.tzinfo is None else stamp.astimezone(UTC)
    except (ValueError, TypeError, IndexError, OverflowError, AttributeError):
        return None
    return stamp if 1970 <= stamp.year < 9000 else None


_BY = re.compile(r"\bby\s+([^\s;()]+)", re.IGNORECASE)
_RECEIVED_FROM = re.compile(r"^\s*from\s+([^\s;()]+)", re.IGNORECASE)


def _authentication(headers: Headers, authserv_id: str) -> tuple[str, ...]:
    """Rule 19: results of our own server, above the first Received that another one wrote.

    What stands below the Received of the hop that brought the mail in may have come with the mail. Some servers write
    their results there, so of those the first is taken; to take away forged ones is the server's duty (RFC 8601, 5).
    """
    if not authserv_id or not headers.raw("authentication-results"):
        return ()
    ours = authserv_id.lower()
    domain = ours.partition(".")[2] if ours.count(".") > 1 else ours
    found: list[str] = []
    inside = True  # still among what our own servers wrote to each other
    for name, value in headers.fields:
        if name == "received":
            line = _unfolded(value[:2000])
            if not _is_ours(_BY.search(line), domain):
                break
            inside = inside and _is_ours(_RECEIVED_FROM.search(line), domain)
        elif name == "authentication-results":
            line = charsets.one_line(_unfolded(value[:LONGEST_HEADER]), 4000)
            if line.partition(";")[0].split(" ")[0].lower() == ours and (inside or not found):
                found.append(line)
    return tuple(found[:20])


def _is_ours(host: re.Match[str] | None, domain: str) -> bool:
    """Is the host in a Received header one of ours (or unnamed, as between programs of one machine)?"""
    name = host.group(1).lower().rstrip(".") if host else "localhost"
    return name == "localhost" or name == domain or name.endswith("." + domain)


def _for_machines(
    headers: Headers, people: _People, subject: str, text: str, content: _Content, envelope: Envelope
) -> machines.Mail:
    paths = headers.all("return-path")
    return machines.Mail(
        headers={name: headers.all(name) for name in machines.HEADERS if headers.raw(name)},
        sender=people.sender.address or charsets.one_line(headers.get("from"), 200),
        subject=subject,
        text=text,
        report=content.report(),
        null_sender=(bool(paths) and paths[0] in ("", "<>"))
        or (envelope.path in ("smtp", "lmtp") and not envelope.sender),
        received=len(headers.raw("received")),
        recipients=sum(value.count(b"@") for name in ("to", "cc") for value in headers.raw(name)),
    )


_RETURNED_IDS = re.compile(r"^[>\s]{0,10}(?:message-id|in-reply-to|references)\s?:\s?([^\n]{1,2000})", re.I | re.M)
_RETURNED_PEOPLE = re.compile(r"^[>\s]{0,10}(?:from|reply-to|return-path|sender)\s?:\s?([^\n]{1,500})", re.I | re.M)


def _returned(content: _Content, text: str) -> tuple[list[str], list[str]]:
    """Ids and addresses of the mail that a report is about (rule 15): its own id last, being the nearest."""
    if not content.returned:
        found_ids = [each for match in _RETURNED_IDS.finditer(text) for each in ids(match.group(1))]
        lines = [match.group(1) for match in _RETURNED_PEOPLE.finditer(text)][:50]
        people = [who.address for line in lines for who in read_mailboxes(line, 10).found if who.address]
        return list(reversed(found_ids[:50])), people
    headers, _ = read_headers(content.returned, 0, len(content.returned), [])
    found_ids = ids(headers.tail("references")) + ids(headers.get("in-reply-to")) + ids(headers.get("message-id"))[:1]
    senders = [_first(headers, name).address for name in ("from", "reply-to", "sender", "return-path")]
    return found_ids, list(filter(None, senders))


# -- parameters --------------------------------------------------------------------------------------------------

_PARAMETER = re.compile(r';\s*([^\s=;"]{1,80})\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^;]*))', re.DOTALL)
_TYPE = re.compile(r"\s*([a-z0-9!#$&^_.+-]{1,60}/[a-z0-9!#$&^_.+-]{1,100})", re.IGNORECASE)
_SECTION = re.compile(r"([^*]+)(?:\*(\d{1,4}))?(\*)?$")


def parameters(text: str) -> dict[str, str]:
    """The parameters of a Content-Type or Content-Disposition; RFC 2231 pieces are joined and decoded."""
    plain: dict[str, str] = {}
    pieces: dict[str, list[tuple[int, bool, str]]] = {}
    for number, found in enumerate(_PARAMETER.finditer(text[:20_000])):
        if number >= 100:
            break
        name, quoted, bare = found.groups()
        value = _ESCAPED.sub(r"\1", quoted) if quoted is not None else bare.strip().strip('"')
        section = _SECTION.match(name.lower())
        if section is None or (section.group(2) is None and section.group(3) is None):
            plain.setdefault(name.lower(), value)
        else:
            pieces.setdefault(section.group(1), []).append((int(section.group(2) or 0), bool(section.group(3)), value))
    for name, parts in pieces.items():
        parts.sort(key=lambda piece: piece[0])
        escaped = any(piece[1] for piece in parts)
        joined = "".join(value.replace("%", "%25") if escaped and not coded else value for _, coded, value in parts)
        plain[name] = charsets.decode_parameter(joined) if escaped else joined
    return plain


def _type_of(headers: Headers, default: str) -> tuple[str, dict[str, str]]:
    text = headers.get("content-type")
    found = _TYPE.match(text)
    kind = found.group(1).lower() if found else default
    return kind, parameters(text) if ";" in text else {}


# -- the parts -----------------------------------------------------------------------------------------------------

_SHOWN = frozenset({"text/plain", "text/html", "text/enriched", "text/richtext", "text/markdown", "text/x-markdown"})
_STATUS_TYPES = frozenset({"message/delivery-status", "message/global-delivery-status"})
_MAIL_TYPES = frozenset({"message/rfc822", "message/global", "text/rfc822-headers", "message/global-headers"})
_ENCRYPTED = "The text is encrypted and cannot be read here."
_CUT = "The text is very long and was cut. The original has all of it."
_FIRST_BOUNDARY = re.compile(rb"^--([^\s-][^\s]{0,69})[ \t]*\r?$", re.MULTILINE)
_STUB = re.compile(r"html|browser|e-?mail client|viewer|view (?:it|this)", re.IGNORECASE)


@dataclass(slots=True)
class _Part:
    """One leaf: where its bytes lie and what its headers say of them."""

    headers: Headers
    kind: str
    parameters: dict[str, str]
    start: int
    end: int
    disposition: str = ""
    name: str = ""


@dataclass(slots=True)
class _Piece:
    """Text to show at one place of the mail, in one or both forms."""

    plain: str = ""
    html: list[markup.Bounded] = field(default_factory=list)


class _Content:
    """The body of a mail being read: its texts in order, its files, and what reports say."""

    def __init__(self, source: bytes, notes: list[str]) -> None:
        self.source, self.notes = source, notes
        self.parts = 0
        self.pieces: list[_Piece] = []
        self.files: list[_Part] = []
        self.hashes: list[bytes] = []  # of the texts, then of the files: for the content hash
        self.returned = b""
        self.has_mail = False
        self.kind, self.status, self.feedback, self.disposition, self.calendar = "", "", False, False, ""

    def read(self, headers: Headers, body: int) -> None:
        """Reads the whole body."""
        self.pieces = self._read(headers, body, len(self.source), 0, "text/plain")

    # - structure

    def _read(self, headers: Headers, start: int, end: int, depth: int, default: str) -> list[_Piece]:
        """The texts of one part; its files are noted down on the way. Recursion ends at 30."""
        self.parts += 1
        kind, given = _type_of(headers, default)
        if kind.startswith("multipart/"):
            if depth < DEEPEST:
                children = self._children(given.get("boundary", ""), start, end)
                if children:
                    return self._multipart(kind, given, children, depth)
            else:
                self.notes.append(f"The parts of the mail nest deeper than {DEEPEST}; the rest is shown as it stands.")
            kind, given = "text/plain", {}
        part = _Part(headers, kind, given, start, end)
        if headers.raw("content-disposition"):
            said = headers.get("content-disposition")
            part.disposition = said.partition(";")[0].strip().lower()
            part.name = parameters(said).get("filename", "")
        part.name = part.name or given.get("name", "")
        return self._leaf(part)

    def _children(self, boundary: str, start: int, end: int) -> list[tuple[int, int]]:
        """Where the parts between the boundary's lines begin and end; a boundary that is not told is guessed."""
        mark = boundary.rstrip().encode("utf-8", "replace")[:200]
        spans = list(self._spans(mark, start, end)) if mark else []
        if not spans and (first := _FIRST_BOUNDARY.search(self.source, start, min(end, start + 4000))):
            spans = list(self._spans(first.group(1), start, end))
        return spans

    def _spans(self, boundary: bytes, start: int, end: int) -> Iterator[tuple[int, int]]:
        source, mark = self.source, b"--" + boundary
        begin, at, count = -1, start, self.parts
        while (found := source.find(mark, at, end)) >= 0:
            at = found + len(mark)
            if found > start and source[found - 1] != 10:
                continue
            line_end = source.find(b"\n", at, end)
            line_end = line_end if line_end >= 0 else end
            rest = source[at : min(line_end, at + 200)].strip()
            if rest not in (b"", b"--"):
                continue
            if begin >= 0 and found > begin:
                yield begin, found - 1 - (source[found - 2 : found - 1] == b"\r")
                count += 1
                if count > MOST_PARTS:
                    return
            begin, at = (line_end + 1 if rest == b"" else -1), line_end
        if 0 <= begin < end:
            yield begin, end

    def _multipart(self, kind: str, given: dict[str, str], children: list[tuple[int, int]], depth: int) -> list[_Piece]:
        if kind == "multipart/report":
            self.kind = self.kind or given.get("report-type", "").lower()
        elif kind == "multipart/encrypted":
            self.notes.append(_ENCRYPTED)
        default = "message/rfc822" if kind == "multipart/digest" else "text/plain"
        pieces: list[_Piece] = []
        for start, end in children:
            if self.parts >= MOST_PARTS:
                self.notes.append(f"The mail has more than {MOST_PARTS} parts; the rest is only in the original.")
                break
            headers, body = read_headers(self.source, start, end, self.notes)
            headers.guess = self.parts <= MOST_GUESSES
            pieces += self._read(headers, body, max(body, end), depth + 1, default)
        if kind == "multipart/alternative" and len(pieces) > 1:
            plain = "\n".join(piece.plain for piece in pieces if piece.plain)
            return [_Piece(plain, [fragment for piece in pieces for fragment in piece.html])]
        return pieces

    # - leaves

    def _leaf(self, part: _Part) -> list[_Piece]:
        """The text of a part that is shown; everything else is a file."""
        self._look_at(part)
        first = not self.hashes
        if part.kind in _SHOWN and part.disposition != "attachment" and (first or not part.name):
            return [self._text(part)]
        if part.kind != "text/x-amp-html":
            self.files.append(part)
        return []

    def _look_at(self, part: _Part) -> None:
        """What a report's parts say besides being files."""
        kind = part.kind
        if kind in _STATUS_TYPES:
            self.status += charsets.many_lines(charsets.decode(self._bytes(part)[:100_000])) + "\n"
        elif kind in _MAIL_TYPES:
            self.has_mail = self.has_mail or kind in ("message/rfc822", "message/global")
            self.returned = self.returned or self._bytes(part)[: 256 << 10]
        elif kind == "message/feedback-report":
            self.feedback = True
        elif kind == "message/disposition-notification":
            self.disposition = True
        elif kind == "text/calendar":
            self.calendar = part.parameters.get("method", "").upper()[:20]
        elif kind in ("application/pkcs7-mime", "application/x-pkcs7-mime"):
            signed = "signed" in part.parameters.get("smime-type", "")
            self.notes.append("The text lies in a signed container (S/MIME)." if signed else _ENCRYPTED)

    def _bytes(self, part: _Part) -> bytes:
        data = self.source[part.start : part.end]
        encoding = part.headers.raw("content-transfer-encoding")
        return charsets.untransfer(data, part.headers.get("content-transfer-encoding")) if encoding else data

    def _text(self, part: _Part) -> _Piece:
        data = self._bytes(part)
        self.hashes.append(hashlib.sha256(data.replace(b"\r\n", b"\n").strip()).digest())
        is_html = part.kind == "text/html"
        cut = len(data) > TEXT_BYTES
        if cut:
            self.notes.append(_CUT)
            data = data[:TEXT_BYTES]
        label, guess = part.parameters.get("charset", ""), part.headers.guess
        text = charsets.decode(data, label, html=is_html, cut=cut, guess=guess)
        text = charsets.many_lines(text)
        if part.parameters.get("format", "").lower() == "flowed":
            text = _unflow(text, part.parameters.get("delsp", "").lower() == "yes")
        if part.kind in ("text/enriched", "text/richtext"):
            text, is_html = text.replace("\n\n", "<br>"), True
        if is_html:
            if len(text) > markup.LONGEST:
                self.notes.append(_CUT)
            return _Piece(html=[markup.bounded(text)])
        return _Piece(plain=text)

    # - results

    def text(self) -> str:
        """The plain text: the text parts, or what the HTML says where there is none or only a stub."""
        joined = "\n".join(_plain(piece) for piece in self.pieces)
        if "\n\n\n\n" in joined:
            joined = _MANY_BLANK.sub("\n\n\n", joined)
        if len(joined) > LONGEST_TEXT:
            self.notes.append(_CUT)
            joined = joined[:LONGEST_TEXT]
        return joined

    def html(self) -> str:
        """Safe HTML, "" when no part is HTML."""
        if not any(piece.html for piece in self.pieces):
            return ""
        shown: list[str] = []
        for piece in self.pieces:
            # Each by itself: what one fragment leaves open must not swallow the next.
            shown += map(markup.safe, piece.html)
            if not piece.html:
                shown.append(f"<pre>{entities.escape(piece.plain[:LONGEST_TEXT])}</pre>")
        return "\n".join(shown)

    def report(self) -> machines.Report:
        return machines.Report(self.kind, self.status, self.feedback, self.disposition, self.calendar)

    def digest(self, author: str, date: str, subject: str) -> str:
        """Rule 6: From, Date, Subject, decoded texts, files. Not To, Received or Delivered-To: a copy has others."""
        total = hashlib.sha256("\0".join((author, " ".join(date.split()), subject)).encode("utf-8", "replace"))
        for each in self.hashes:
            total.update(each)
        return total.hexdigest()

    def keep_files(self, keep: Keep, html: str) -> tuple[FilePart, ...]:
        """Stores the files, in order, each under a name of its own."""
        found: list[FilePart] = []
        taken: set[str] = set()
        for part in self.files:
            data = self._bytes(part)
            sha256 = keep(data)
            self.hashes.append(sha256.encode())
            kind = content_type(data, part.kind)
            cid = _cid(part.headers.get("content-id"))
            name = _unique(file_name(part.name) or _own_name(part.kind, data), taken)
            found.append(FilePart(sha256, name, kind, len(data), cid, bool(cid) and f"cid:{cid}" in html))
        return tuple(found)


_MANY_BLANK = re.compile(r"\n{4,}")


def _plain(piece: _Piece) -> str:
    """A piece's text; a text part that only says "this mail is HTML" is none."""
    plain = piece.plain
    if not piece.html:
        return plain
    stripped = plain.strip()
    if stripped and not (len(stripped) < 200 and _STUB.search(stripped)):
        return plain
    shown = "\n".join(map(markup.to_text, piece.html))
    return shown if len(shown) > len(stripped) else plain


def _unflow(text: str, delete_space: bool) -> str:
    """RFC 3676: a line that ends with a blank goes on in the next one of the same quote depth."""
    out: list[str] = []
    open_depth = -1  # quote depth of a line that goes on, -1 for none
    for line in text.split("\n"):
        content = line.lstrip(">")
        depth = len(line) - len(content)
        content = content.removeprefix(" ")
        if depth == open_depth:
            out[-1] += content
        else:
            out.append(">" * depth + (" " if depth else "") + content)
        flows = content.endswith(" ") and content != "-- "
        if flows and delete_space:
            out[-1] = out[-1][:-1]
        open_depth = depth if flows else -1
    return "\n".join(out)


# -- files ---------------------------------------------------------------------------------------------------------

_FORBIDDEN = re.compile(r'[:*?"<>|]')
_DEVICE = re.compile(r"^(?:con|prn|aux|nul|com\d|lpt\d)(?:\.|$)", re.IGNORECASE)
_MAGIC = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"%PDF-", "application/pdf"),
)
_EXTENSIONS = {
    "image/png": "image.png",
    "image/jpeg": "image.jpg",
    "image/gif": "image.gif",
    "application/pdf": "document.pdf",
    "application/zip": "archive.zip",
    "text/calendar": "invitation.ics",
    "text/vcard": "contact.vcf",
    "text/x-vcard": "contact.vcf",
    "text/plain": "text.txt",
    "text/html": "page.html",
    "text/csv": "table.csv",
    "text/rfc822-headers": "returned-headers.txt",
    "message/delivery-status": "delivery-status.txt",
    "message/feedback-report": "feedback-report.txt",
    "application/pgp-signature": "signature.asc",
    "application/pkcs7-signature": "smime.p7s",
    "application/ms-tnef": "winmail.dat",
}


def file_name(text: str) -> str:
    """A name that is safe on every system: no path, no control or hidden letters, no trailing dots; "" for nothing."""
    decoded = charsets.one_line(charsets.decode_words(text[:2000]), 1000)
    base = decoded.replace("\\", "/").rpartition("/")[2]
    name = _FORBIDDEN.sub("_", base).strip(" ").rstrip(". ")
    if len(name) > 120:
        stem, dot, extension = name.rpartition(".")
        name = f"{stem[:100]}{dot}{extension[:15]}" if stem and dot else name[:120]
    while len(name.encode()) > 200:
        stem, dot, extension = name.rpartition(".")
        name = f"{stem[:-10]}{dot}{extension}" if len(stem) > 10 else name[:50]
    return f"_{name}" if _DEVICE.match(name) else name


def _own_name(kind: str, data: bytes) -> str:
    """A name for a file without one, by its type; an attached mail is called by its subject."""
    if kind in ("message/rfc822", "message/global"):
        headers, _ = read_headers(data, 0, min(len(data), LONGEST_HEADER), [])
        return (file_name(headers.get("subject")) or "mail")[:100] + ".eml"
    return _EXTENSIONS.get(kind, "file.bin")


def _unique(name: str, taken: set[str]) -> str:
    """The name, or "name (2).txt": nobody can tell three files of one name apart."""
    stem, dot, extension = name.rpartition(".")
    if not stem:
        stem, dot, extension = name, "", ""
    number, unique = 2, name
    while unique.lower() in taken:
        unique = f"{stem} ({number}){dot}{extension}"
        number += 1
    taken.add(unique.lower())
    return unique


def content_type(data: bytes, claimed: str) -> str:
    """The type by the first bytes; a claimed image that does not begin like one is only bytes."""
    for magic, kind in _MAGIC:
        if data.startswith(magic):
            return kind
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    if claimed in ("image/png", "image/jpeg", "image/jpg", "image/gif", "image/webp", "application/pdf"):
        return "application/octet-stream"
    return claimed


def _cid(text: str) -> str:
    """A Content-ID without brackets, of letters that can stand in an address and in an attribute."""
    return re.sub(r"[^\w.@+$=\-]", "", text[:300])
