"""A claimed outbox row becomes the bytes of a mail. Pure: what it needs comes in as a `Letter`, time as an argument.

RFC 5322 (format, threading), 2045 and 2046 (MIME), 2047 and 2231 (encoded headers and file names), 3834 (automatic
mail), 3461 and 5321 (the envelope sender, to which reports come back). The MIME is written by hand: the standard
library's EmailMessage takes ten times as long for the two small parts that nearly every mail of ours has.

Our own marks, for whoever trims a reply to our mail: the sentence above a quote ends in `[<m token>]`, every other
mail ends in a line `[ACME #1234: <m token>]`; in HTML the quote is a `div` of the class `ringback-quote` with the id
`ringback-<m token>`, and the line a `p` of the class `ringback-mark`.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from email.utils import format_datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote as percent_encoded
from zoneinfo import ZoneInfo

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template, select_autoescape
from markupsafe import Markup, escape

from gateway import addresses
from gateway.addresses import Keys
from gateway.config import Config, Inbox
from gateway.values import FilePart, NamedAddress, NoticeKind, Outgoing, Permanent, Purpose

TEMPLATES = Path(__file__).parent / "templates"
LINE = 76  # columns of a header line (RFC 5322 2.1.1 allows 78)
REFERENCES_BYTES = 1_500
SUBJECT, ACKNOWLEDGED_SUBJECT, NAME = 250, 120, 80  # characters
QUOTED, TOLD = 4_000, 20_000  # characters of a quote, and of a message in a notice: the whole is on the page
ATTACHED_TO_NOTICES = 10 * 1024 * 1024  # bytes; more is named, and lies on the page
SAFE_IN_NOTICES = ("image/", "application/pdf", "text/plain")
LOCAL_PART = 64  # octets (RFC 5321 4.5.3.1.1)

# Which header says that no person wrote it (RFC 3834 5): what answers a message, and what comes by itself.
AUTO_SUBMITTED: dict[NoticeKind, str] = {
    NoticeKind.ACKNOWLEDGEMENT: "auto-replied",
    NoticeKind.ECHO: "auto-replied",
    NoticeKind.NOTICE: "auto-generated",
    NoticeKind.CODE: "auto-generated",
    NoticeKind.ALARM: "auto-generated",
    NoticeKind.CLOSING: "auto-generated",
    NoticeKind.JOB: "auto-generated",
    NoticeKind.MENU: "auto-replied",
    NoticeKind.LIST: "auto-replied",
    NoticeKind.USAGE: "auto-replied",
    NoticeKind.CONSENT: "auto-replied",
}
ANSWERS_SOMETHING = frozenset({NoticeKind.ANSWER, NoticeKind.ACKNOWLEDGEMENT, NoticeKind.ECHO})
# What is meant for a phone goes by mail only where the phone cannot be had; it reads like these.
BY_MAIL = {
    NoticeKind.MENU: NoticeKind.ECHO,
    NoticeKind.LIST: NoticeKind.ECHO,
    NoticeKind.USAGE: NoticeKind.ECHO,
    NoticeKind.CONSENT: NoticeKind.ECHO,
    NoticeKind.JOB: NoticeKind.NOTICE,
}
REPLY_LINES = {
    "answer": "Reply to answer the customer.",
    "note": "Reply to leave an internal note.",
    "": "",
}
SUBJECTS = {
    NoticeKind.CODE: "Your code",
    NoticeKind.ALARM: "Please have a look",
    NoticeKind.ECHO: "Your jobs",
    NoticeKind.NOTICE: "About your account",
}

# What never stands in a header: controls, line and paragraph separators, direction overrides, halves of characters.
UNFIT = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
UNFIT_IN_TEXT = re.compile(r"[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff]")
NEW_LINE = re.compile(r"\r\n|[\r\x0b\x0c\x85\u2028\u2029]")
MAILBOX = re.compile(r"[^\s<>()\[\]\\,;:\"@\x00-\x20\x7f-\x9f\ud800-\udfff]+@[a-z0-9_.:\[\]-]+")
MESSAGE_ID = re.compile(r"[!-;=?-~]{1,400}")
MEDIA_TYPE = re.compile(r"(?!multipart/|message/)[a-z0-9!#$&^_.+-]{1,60}/[a-z0-9!#$&^_.+-]{1,100}")
REPLY_PREFIX = re.compile(r"(?:(?:re|aw|antw|sv|vs|odp|ré|rép|res)\s*(?:\[\d{1,3}\])?\s*[:：]\s*)+", re.IGNORECASE)
URL = re.compile(r"(https?://[^\s<>\"']+)")
LINK = re.compile(r"://|^\W*www\.|\..*/", re.IGNORECASE)
# Our tokens as `addresses.TOKEN` knows them, in any case of letters, with what makes them an address or a Message-ID.
OUR_TOKEN = re.compile(rf"(?P<plus>\+?)(?:{addresses.TOKEN.pattern})(?P<domain>@[\w.-]*)?", re.IGNORECASE)
# `/link/<secret>` of whatever host: ours may be known by several names.
OUR_LINK = re.compile(r"(?:https?://[\w.:\[\]-]{1,255})?/link/[\w.~%=-]{16,}", re.IGNORECASE)


# -- what comes in, what goes out --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Enclosure:
    """A file of the entry; `load` reads its bytes, only when it is attached."""

    part: FilePart
    load: Callable[[], bytes]


@dataclass(frozen=True, slots=True)
class Letter:
    """Everything one mail to one recipient needs. Ids are without angle brackets, `references` oldest first.

    `number` and `entry` are 0 for what belongs to no ticket. `reply_means` says whom the recipient is: "" somebody
    outside, "answer" or "note" one of us whose plain reply means that. `who` and `generation` go into his token.
    """

    outgoing: Outgoing
    text: str = ""  # the entry's words; `outgoing.data["words"]` where there are none
    number: int = 0
    entry: int = 0
    inbox: str = ""  # its address; "" for the first
    ticket_subject: str = ""
    entry_subject: str = ""  # of the entry that is answered
    recipient_name: str = ""
    author_name: str = ""
    quoted: str = ""  # what is answered
    quoted_author: str = ""
    quoted_at: datetime | None = None
    files: tuple[Enclosure, ...] = ()
    to: tuple[NamedAddress, ...] = ()  # as every copy shows it; the recipient alone when there is none
    cc: tuple[NamedAddress, ...] = ()
    in_reply_to: str = ""  # the last mail that this recipient wrote or got
    references: tuple[str, ...] = ()
    reply_means: Literal["", "answer", "note"] = ""
    who: int = 0  # address id of somebody outside, account id of one of us
    generation: int = 0
    thread_index: str = ""  # Outlook's, copied from what is answered
    thread_topic: str = ""


@dataclass(frozen=True, slots=True)
class Rendered:
    """A whole mail with CRLF line ends, its Message-ID without brackets, and its envelope sender ("" for <>)."""

    content: bytes
    message_id: str
    envelope_sender: str


def render(letter: Letter, config: Config, keys: Keys, now: datetime) -> Rendered:
    """The mail for one recipient. Raises Permanent when it cannot be addressed."""
    inbox = config.inbox(letter.inbox) or config.inboxes[0]
    mark = _message_token(letter, keys)
    message_id = f"{mark}@{config.mail.domain}"
    subject = subject_of(letter, clean(config.firm.name, NAME))
    headers = [
        *_people(letter, config, inbox, keys),
        header("Subject", encoded(subject)),
        header("Date", [format_datetime(now)]),
        header("Message-ID", [f"<{message_id}>"]),
        *_threading(letter, config, keys),
        *_machine(letter, keys),
        "MIME-Version: 1.0",
    ]
    files = _attached(letter)
    text, html = _texts(letter, config, inbox, subject, mark if letter.number else "", files)
    body = _body(text, html, files, boundary=mark.rpartition(".")[2])
    content = "\r\n".join(headers).encode("utf-8") + b"\r\n" + body
    return Rendered(content, message_id, envelope_sender(letter, config, inbox, keys))


# -- addresses and tokens ----------------------------------------------------------------------------------------


def _message_token(letter: Letter, keys: Keys) -> str:
    """All copies of an answer are one message. Whatever else is sent about the same entry (an acknowledgement, a
    notice) is another message and must have another id (RFC 5322 3.6.4), or a mail program drops one of them."""
    who = 0 if letter.outgoing.kind is NoticeKind.ANSWER else letter.outgoing.id
    return addresses.sign(keys, Purpose.MESSAGE_ID, letter.number, letter.entry, who)


def reply_address(letter: Letter, inbox: Inbox, keys: Keys) -> str:
    """Where replies go: the inbox with a token that says which ticket, and for one of us what his reply means."""
    if not letter.number:
        return inbox.address
    purpose = {
        "": Purpose.CUSTOMER_REPLY,
        "answer": Purpose.STAFF_ANSWER,
        "note": Purpose.STAFF_NOTE,
    }[letter.reply_means]
    return _plus(inbox, addresses.sign(keys, purpose, letter.number, letter.entry, letter.who, letter.generation))


def envelope_sender(letter: Letter, config: Config, inbox: Inbox, keys: Keys) -> str:
    """Where reports of failure go: they name the outbox row, because their text often names nobody."""
    if config.mail.null_sender and letter.outgoing.kind in AUTO_SUBMITTED:
        return ""
    return _plus(inbox, addresses.sign(keys, Purpose.BOUNCE, letter.number, letter.entry, letter.outgoing.id))


def _plus(inbox: Inbox, token: str) -> str:
    local, _, domain = inbox.address.rpartition("@")
    if not inbox.plus or len(local) + 1 + len(token) > LOCAL_PART:
        return inbox.address
    return f"{local}+{token}@{domain}"


def _people(letter: Letter, config: Config, inbox: Inbox, keys: Keys) -> Iterator[str]:
    recipient = NamedAddress(letter.recipient_name, letter.outgoing.recipient)
    if not MAILBOX.fullmatch(recipient.address):
        raise Permanent("the recipient's address cannot be used")
    yield header("From", _mailboxes([NamedAddress(_sender_name(letter, config, inbox), inbox.address)]))
    yield header("To", _mailboxes(letter.to) or _mailboxes([recipient]))
    if copies := _mailboxes(letter.cc):
        yield header("Cc", copies)
    yield header("Reply-To", [f"<{reply_address(letter, inbox, keys)}>"])


def _sender_name(letter: Letter, config: Config, inbox: Inbox) -> str:
    firm = _house(config, inbox)
    author = clean(letter.author_name, NAME)
    if author and letter.outgoing.kind is NoticeKind.ANSWER:
        return f"{author} ({firm})"
    if author and letter.outgoing.kind is NoticeKind.NOTICE:
        return f"{author} via {firm}"
    return firm


def _house(config: Config, inbox: Inbox) -> str:
    """The firm and the inbox in one name: "ACME Support"."""
    name = inbox.name or config.firm.name
    return clean(name if config.firm.name.lower() in name.lower() else f"{config.firm.name} {name}", NAME)


# -- subject and threading ---------------------------------------------------------------------------------------


def subject_of(letter: Letter, firm: str) -> str:
    """`Re: <subject of what is answered> [ACME #1234]`: one "Re:", one tag of ours, tags of other desks untouched."""
    kind = letter.outgoing.kind
    subject = _bare_subject(letter, firm)
    if kind is NoticeKind.ACKNOWLEDGEMENT:
        # Strangers must not have us carry their advertising: of a subject that we only repeat, links are cut.
        subject = " ".join(word for word in subject.split() if not LINK.search(word))[:ACKNOWLEDGED_SUBJECT].rstrip()
    answers = kind is not NoticeKind.ANSWER or letter.quoted or letter.in_reply_to  # else it is our first word
    if kind in ANSWERS_SOMETHING and answers:
        prefix = REPLY_PREFIX.match(subject)
        subject = "Re: " + (subject[prefix.end() :] if prefix else subject)
    tagged = f"{subject} [{firm} #{letter.number}]" if letter.number else f"{firm}: {subject}"
    return " ".join(tagged.split())


def _bare_subject(letter: Letter, firm: str) -> str:
    said = letter.entry_subject or letter.ticket_subject or str(letter.outgoing.data.get("subject", ""))
    tag = re.compile(rf"\s*\[{re.escape(firm)} #[0-9]{{1,10}}\]", re.IGNORECASE)
    return tag.sub(" ", clean(said, SUBJECT)).strip() or SUBJECTS.get(letter.outgoing.kind, "Your message")


def _threading(letter: Letter, config: Config, keys: Keys) -> Iterator[str]:
    """In-Reply-To and References (RFC 5322 3.6.4), Outlook's two. What belongs to no ticket is not threaded."""
    if not letter.number:
        return
    if MESSAGE_ID.fullmatch(letter.in_reply_to):
        yield header("In-Reply-To", [f"<{letter.in_reply_to}>"])
    pseudo = f"{addresses.sign(keys, Purpose.PSEUDO_REFERENCE, letter.number)}@{config.mail.domain}"
    yield header("References", [f"<{value}>" for value in references(letter, pseudo)])
    if re.fullmatch(r"[A-Za-z0-9+/=]{4,800}", letter.thread_index):
        yield header("Thread-Index", [letter.thread_index])
        if topic := clean(letter.thread_topic, SUBJECT):
            yield header("Thread-Topic", encoded(topic))


def references(letter: Letter, pseudo: str) -> list[str]:
    """The first id, one that all mails of the ticket share, and the newest that fit; oldest first (email.md 38)."""
    said = dict.fromkeys((*letter.references, letter.in_reply_to))
    known = [value for value in said if value != pseudo and MESSAGE_ID.fullmatch(value)]
    if not known:
        return [pseudo]
    first, newest = known[0], []
    room = REFERENCES_BYTES - len(first) - len(pseudo) - 6
    for value in reversed(known[1:]):
        room -= len(value) + 3  # its brackets and the space before it
        if room < 0:
            break
        newest.append(value)
    return [first, pseudo, *reversed(newest)]


def _machine(letter: Letter, keys: Keys) -> Iterator[str]:
    """What tells other machines not to answer (RFC 3834), and us that it is our own mail (email.md 39)."""
    kind = letter.outgoing.kind
    if kind in AUTO_SUBMITTED:
        yield f"Auto-Submitted: {AUTO_SUBMITTED[kind]}"
        yield "X-Auto-Response-Suppress: All"
        yield "Precedence: bulk"
    else:
        yield "X-Auto-Response-Suppress: OOF, AutoReply"
    yield header("X-Ringback-Loop", [addresses.sign(keys, Purpose.LOOP, letter.number, letter.entry)])


# -- header fields -----------------------------------------------------------------------------------------------


def header(name: str, pieces: Iterable[str]) -> str:
    """One header field, folded between its pieces (RFC 5322 2.2.3). Every value goes through here.

    Raises ValueError for a piece that could end the field: `clean` comes first.
    """
    pieces = list(pieces)
    if UNFIT.search("".join(pieces)):
        raise ValueError(f"{name}: a control character")
    lines, line = [], f"{name}:"
    for number, piece in enumerate(pieces):
        if number and len(line) + 1 + len(piece) > LINE:
            lines.append(line)
            line = ""
        line += f" {piece}"
    return "\r\n".join([*lines, line])


def clean(text: str, limit: int) -> str:
    """Free text on one line, fit for a header: no controls, none of our own tokens or links, single spaces."""
    return " ".join(UNFIT.sub(" ", without_secrets(text[: limit * 10])).split())[:limit].rstrip()


def encoded(text: str) -> list[str]:
    """The pieces of free text in a header: words as they are, from the first that needs it to the last as encoded
    words (RFC 2047), so that our tag stays readable."""
    words = text.split(" ")
    odd = [i for i, word in enumerate(words) if not word.isascii() or "=?" in word]
    if not odd:
        return words
    first, last = odd[0], odd[-1] + 1
    return [*words[:first], *_encoded_words(" ".join(words[first:last])), *words[last:]]


def _encoded_words(text: str) -> Iterator[str]:
    """At most 75 characters each, none of which ends inside a character (RFC 2047 2, 5)."""
    chunk = b""
    for character in text:
        said = character.encode("utf-8")
        if len(chunk) + len(said) > 45:
            yield _encoded_word(chunk)
            chunk = b""
        chunk += said
    yield _encoded_word(chunk)


def _encoded_word(chunk: bytes) -> str:
    return f"=?utf-8?b?{binascii.b2a_base64(chunk, newline=False).decode('ascii')}?="


def _mailboxes(people: Sequence[NamedAddress]) -> list[str]:
    """The pieces of an address list. An address that cannot stand in a header is left out."""
    pieces: list[str] = []
    for person in people:
        if not MAILBOX.fullmatch(person.address):
            continue
        if pieces:
            pieces[-1] += ","
        pieces += [*_phrase(person.name), f"<{person.address}>"]
    return pieces


def _phrase(name: str) -> list[str]:
    name = clean(name, NAME * 2)
    if not name.isascii() or "=?" in name:
        return list(_encoded_words(name))
    if not name or re.fullmatch(r"[A-Za-z0-9 _-]+", name):
        return name.split()
    return ['"' + name.replace("\\", "\\\\").replace('"', '\\"') + '"']


# -- what it says ------------------------------------------------------------------------------------------------


def without_secrets(text: str) -> str:
    """A text without our reply tokens, Message-IDs and sign-in links (DESIGN.md 7): whoever quotes a mail of ours
    would hand them on. An ellipsis stays in their place, so that nothing grows together into another token."""
    if "." in text:
        text = OUR_TOKEN.sub(lambda m: m["domain"] if m["plus"] and m["domain"] else "…", text)
    return OUR_LINK.sub("…", text) if "/link/" in text.lower() else text


def plain(text: str, limit: int = 0) -> str:
    """A text as it may leave: lines end in LF, no controls, none of our secrets; cut after `limit` characters."""
    text = without_secrets(UNFIT_IN_TEXT.sub("", NEW_LINE.sub("\n", text)).strip("\n")).rstrip()
    return text[:limit].rstrip() + "\n[…]" if limit and len(text) > limit else text


def _texts(
    letter: Letter, config: Config, inbox: Inbox, subject: str, mark: str, files: Sequence[Enclosure]
) -> tuple[str, str]:
    """The mail's words as text and as HTML."""
    templates = _templates(inbox.language)
    kind = letter.outgoing.kind
    values: dict[str, Any] = {
        "language": inbox.language,
        "firm": config.firm.name,
        "sender": _house(config, inbox),
        "number": letter.number,
        "subject": clean(letter.ticket_subject or letter.entry_subject, SUBJECT) or "(no subject)",
        "author": clean(letter.author_name, NAME) or "Somebody",
        "text": _words(letter),
        "signature": plain(inbox.signature),
        "reply_line": REPLY_LINES[letter.reply_means],
        "files": [_file_line(enclosure, enclosure in files) for enclosure in letter.files],
        "link": config.web.public_url + (f"/tickets/{letter.number}" if letter.number else ""),
        "code": str(letter.outgoing.data.get("code", "")),
        "secret_link": str(letter.outgoing.data.get("link", "")),
        "mark": mark,
        "quoted": "",
    }
    if kind is NoticeKind.ANSWER and letter.quoted and mark:
        values |= {
            "quoted": plain(letter.quoted, QUOTED),
            "quoted_author": clean(letter.quoted_author, NAME) or "you",
            "quoted_when": _when(letter.quoted_at, config.firm.time_zone),
        }
    words = templates[kind].render(values).strip("\n")
    html = templates["html"].render(values | {"words": words, "subject": subject})
    end = templates["end"].render(values).rstrip("\n")
    return f"{words}\n{end}\n" if end else f"{words}\n", html


def _words(letter: Letter) -> str:
    """What is said. A code mail holds a secret of ours on purpose; an acknowledgement repeats nothing."""
    said = letter.text or str(letter.outgoing.data.get("words", ""))
    match letter.outgoing.kind:
        case NoticeKind.ACKNOWLEDGEMENT | NoticeKind.CLOSING:
            return ""
        case NoticeKind.CODE:
            return UNFIT_IN_TEXT.sub("", said)
        case NoticeKind.ECHO | NoticeKind.MENU | NoticeKind.LIST | NoticeKind.USAGE | NoticeKind.CONSENT:
            return plain(str(letter.outgoing.data.get("words", "")) or letter.text, TOLD)
        case NoticeKind.NOTICE | NoticeKind.JOB:
            return plain(
                str(letter.outgoing.data.get("words", "")) + ("\n\n" + letter.text if letter.text else ""), TOLD
            )
        case _:
            return plain(said)


def _when(at: datetime | None, zone: str) -> str:
    if at is None:
        return "Before"
    local = at.astimezone(ZoneInfo(zone))
    return f"On {local.day} {local:%B %Y} at {local:%H:%M}"


def _file_line(enclosure: Enclosure, attached: bool) -> str:
    part = enclosure.part
    size = f"{part.size / 1024 / 1024:.1f} MB" if part.size >= 1024 * 1024 else f"{max(1, part.size // 1024)} KB"
    return f"{clean(part.name, NAME)} ({size}{'' if attached else ', on the page'})"


@lru_cache(16)
def _templates(language: str) -> dict[str, Template]:
    """The compiled templates of a language, English where it has none."""
    folders = [TEMPLATES / language, TEMPLATES / "en"] if re.fullmatch(r"[a-zA-Z-]{2,12}", language) else []
    environment = Environment(
        loader=FileSystemLoader(folders or [TEMPLATES / "en"]),
        autoescape=select_autoescape(("html",)),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.filters |= {"paragraphs": _paragraphs, "quote": _quote}
    templates: dict[str, Template] = {
        kind: environment.get_template(f"{BY_MAIL.get(kind, kind)}.txt") for kind in NoticeKind
    }
    return templates | {"end": environment.get_template("end.txt"), "html": environment.get_template("mail.html")}


def _quote(text: str) -> str:
    return "\n".join(f"> {line}".rstrip() for line in text.split("\n"))


def _paragraphs(text: str) -> Markup:
    """Plain text as HTML: paragraphs, line breaks, indentation, links."""
    return Markup("\n".join(f"<p>{_line(paragraph)}</p>" for paragraph in re.split("\n\n+", text)))  # noqa: S704 - escaped


def _line(text: str) -> str:
    pieces = URL.split(text)
    for i, piece in enumerate(pieces):
        safe = str(escape(piece))
        pieces[i] = f'<a href="{safe}">{safe}</a>' if i % 2 else safe.replace("  ", "&nbsp; ").replace("\n", "<br>\n")
    return "".join(pieces)


# -- MIME --------------------------------------------------------------------------------------------------------


def _attached(letter: Letter) -> tuple[Enclosure, ...]:
    """An answer carries its files, a notice those that are harmless and small; nothing else carries any."""
    if letter.outgoing.kind is NoticeKind.ANSWER:
        return letter.files
    if letter.outgoing.kind is not NoticeKind.NOTICE:
        return ()
    room, taken = ATTACHED_TO_NOTICES, []
    for enclosure in letter.files:
        if enclosure.part.type.startswith(SAFE_IN_NOTICES) and enclosure.part.size <= room:
            room -= enclosure.part.size
            taken.append(enclosure)
    return tuple(taken)


def _body(text: str, html: str, files: Sequence[Enclosure], boundary: str) -> bytes:
    """The MIME headers of the mail, an empty line, and its parts. `=_` stands in no quoted-printable or base64."""
    alternatives = _multipart("alternative", f"=_{boundary}", [_text("plain", text), _text("html", html)])
    if not files:
        return alternatives
    return _multipart("mixed", f"=-_{boundary}", [alternatives, *map(_file, files)])


def _multipart(subtype: str, boundary: str, parts: Sequence[bytes]) -> bytes:
    line = b"\r\n--" + boundary.encode("ascii")
    pieces = [f'Content-Type: multipart/{subtype}; boundary="{boundary}"\r\n'.encode("ascii")]
    for part in parts:
        pieces += [line, b"\r\n", part]
    return b"".join([*pieces, line, b"--\r\n"])


def _text(subtype: str, text: str) -> bytes:
    said = binascii.b2a_qp(text.replace("\n", "\r\n").encode("utf-8", "replace"))
    head = f"Content-Type: text/{subtype}; charset=utf-8\r\nContent-Transfer-Encoding: quoted-printable\r\n\r\n"
    return head.encode("ascii") + said


def _file(enclosure: Enclosure) -> bytes:
    part = enclosure.part
    kind = part.type.lower() if MEDIA_TYPE.fullmatch(part.type.lower()) else "application/octet-stream"
    head = [
        header("Content-Type", [kind]),
        header("Content-Disposition", [f"attachment; {_file_name(part.name)}"]),
        "Content-Transfer-Encoding: base64",
    ]
    if MESSAGE_ID.fullmatch(part.cid):
        head.append(header("Content-ID", [f"<{part.cid}>"]))
    said = binascii.b2a_base64(enclosure.load(), newline=False)
    lines = b"\r\n".join(said[i : i + LINE] for i in range(0, len(said), LINE))
    return "\r\n".join([*head, "", ""]).encode("ascii") + lines


def _file_name(name: str) -> str:
    """`filename="a.pdf"`, or RFC 2231's form for what is not plain ASCII; never a path."""
    name = clean(name.replace("\\", "/").rpartition("/")[2], NAME * 2).strip(". ") or "file"
    if name.isascii() and not set(name) & set('"%') and "=?" not in name:
        return f'filename="{name}"'
    return f"filename*=utf-8''{percent_encoded(name[:NAME], safe='')}"
