"""Which ticket a message belongs to: sources in order, accepted by who the sender is to the ticket (email.md, D).

Pure. `clues` reads what a message says, `choose` meets it with the facts. The two tables below are the policy.
"""

from __future__ import annotations

import difflib
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from gateway import addresses
from gateway.addresses import Keys
from gateway.config import Config
from gateway.values import (
    Clues,
    Envelope,
    Facts,
    InboundMessage,
    Purpose,
    Reference,
    Status,
    TicketFacts,
    Token,
)

MAX_IDS = 50
MAX_NUMBERS = 20
OLD = timedelta(days=14)

# What names a ticket, strongest first. A signed source holds a secret that only people on the ticket were sent.
SOURCES = (
    "reply-token",
    "message-id",
    "quoted-token",
    "references",
    "message-id-reused",
    "pseudo-reference",
    "ancestor",
    "subject-tag",
)
SIGNED = frozenset({"reply-token", "message-id", "quoted-token"})


class Relation(StrEnum):
    """Who the sender is to a ticket."""

    OURS = "one of us"
    PARTICIPANT = "on the ticket"
    HOLDER = "the token was issued to this address"
    COLLEAGUE = "same domain as somebody on the ticket"
    STRANGER = "not on the ticket"


class Welcome(StrEnum):
    """What a source is worth from such a sender."""

    JOIN = "joins"
    GUEST = "joins as a guest"
    LINK = "new ticket, linked"


# Rows: who; columns: a signed source · a known or shared id, or a pseudo reference · a number in the subject.
ACCEPTANCE: dict[Relation, tuple[Welcome, Welcome, Welcome]] = {
    Relation.OURS: (Welcome.JOIN, Welcome.JOIN, Welcome.JOIN),
    Relation.PARTICIPANT: (Welcome.JOIN, Welcome.JOIN, Welcome.JOIN),
    Relation.HOLDER: (Welcome.JOIN, Welcome.JOIN, Welcome.JOIN),
    Relation.COLLEAGUE: (Welcome.GUEST, Welcome.GUEST, Welcome.LINK),
    Relation.STRANGER: (Welcome.GUEST, Welcome.LINK, Welcome.LINK),
}

FREE_MAIL = frozenset(
    [
        "aol.com",
        "bluewin.ch",
        "free.fr",
        "freenet.de",
        "gmail.com",
        "gmx.at",
        "gmx.ch",
        "gmx.de",
        "gmx.net",
        "googlemail.com",
        "hotmail.com",
        "hotmail.co.uk",
        "hotmail.fr",
        "icloud.com",
        "laposte.net",
        "libero.it",
        "live.com",
        "mac.com",
        "mail.com",
        "mail.ru",
        "me.com",
        "msn.com",
        "orange.fr",
        "outlook.com",
        "outlook.de",
        "pm.me",
        "proton.me",
        "protonmail.com",
        "qq.com",
        "sfr.fr",
        "t-online.de",
        "virgilio.it",
        "web.de",
        "yahoo.co.jp",
        "yahoo.co.uk",
        "yahoo.com",
        "yahoo.de",
        "yahoo.fr",
        "yandex.ru",
        "ymail.com",
        "zoho.com",
        "163.com",
        "126.com",
    ]
)

TAG = re.compile(r"\[([^\[\]#]{0,60})#([1-9][0-9]{0,9})\]")
REPLY = frozenset({Purpose.CUSTOMER_REPLY, Purpose.STAFF_ANSWER, Purpose.STAFF_NOTE, Purpose.BOUNCE})
PREFIX = re.compile(
    r"^\s*(re|aw|antw|antwort|sv|vs|odp|ré|rép|res|rif|ref|ynt|atb|回复|答复|回覆|fwd?|wg|tr|rv|enc|doorst|vb|i|fs)"
    r"\s*(\[\d{1,3}\])?\s*[:：]\s*",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Match:
    """The ticket a message belongs to, and why. `guest` marks another sender; `linked` is a new ticket's neighbour."""

    reason: str
    ticket: TicketFacts | None = None
    guest: bool = False
    linked: int | None = None
    token: Token | None = None
    relation: Relation = Relation.STRANGER
    notes: tuple[str, ...] = ()
    looked: tuple[tuple[str, str], ...] = ()  # for the trace: (source, what was found)


@dataclass(frozen=True, slots=True)
class Candidate:
    """One source that names one ticket."""

    source: str
    ticket: TicketFacts
    token: Token | None = None


# -- what the message says ---------------------------------------------------------------------------------------


def clues(message: InboundMessage, envelope: Envelope, config: Config, keys: Keys) -> Clues:
    """Everything in a message that may name a ticket. Staff tokens are not yet believed: their MAC covers the
    account's generation, which is a fact."""
    ours = {inbox.address for inbox in config.inboxes}
    found = [
        ("reply-token", token)
        for address in _recipients(message, envelope)
        if "+" in address and addresses.without_plus(address) in ours
        if (token := addresses.read_token(addresses.plus_part(address))) and token.purpose in REPLY
    ]
    foreign: list[str] = []
    for value in _ids_nearest_first(message):
        token = _own_id(value, config.mail.domain)
        if token is None:
            foreign.append(value)
        elif token.purpose is Purpose.MESSAGE_ID:
            found.append(("message-id", token))
        elif token.purpose is Purpose.PSEUDO_REFERENCE:
            found.append(("pseudo-reference", token))
    found += [("quoted-token", token) for token in addresses.read_tokens(message.quoted[:100_000], limit=5)]
    genuine = [
        (source, token) for source, token in found if token.purpose in addresses.STAFF or addresses.genuine(keys, token)
    ]
    return Clues(
        tokens=tuple(dict.fromkeys(genuine)),
        references=tuple(dict.fromkeys((*foreign, message.message_id))),  # its own: an answer may have come before it
        numbers=_numbers(message.subject, config.firm.name),
        inbox=_inbox(message, envelope, config),
    )


def _inbox(message: InboundMessage, envelope: Envelope, config: Config) -> str:
    """The inbox a message was sent to: by the envelope, else by its headers, else the first."""
    ours = {inbox.address for inbox in config.inboxes}
    named = (addresses.without_plus(address.lower()) for address in _recipients(message, envelope))
    return next((address for address in named if address in ours), config.inboxes[0].address)


def own_message_id(message_id: str, config: Config, keys: Keys) -> bool:
    """Is this the Message-ID of a mail that we sent?"""
    token = _own_id(message_id, config.mail.domain)
    return token is not None and token.purpose is Purpose.MESSAGE_ID and addresses.genuine(keys, token)


def _recipients(message: InboundMessage, envelope: Envelope) -> Iterator[str]:
    yield from envelope.recipients
    yield from message.delivered_to
    for person in (*message.to, *message.cc):
        yield person.address


def _ids_nearest_first(message: InboundMessage) -> list[str]:
    nearest = [*message.in_reply_to, *reversed(message.references)]
    return list(dict.fromkeys(nearest))[:MAX_IDS]


def _own_id(value: str, domain: str) -> Token | None:
    local, at, host = value.rpartition("@")
    return addresses.read_token(local) if at and host.lower() == domain else None


def _numbers(subject: str, firm: str) -> tuple[int, ...]:
    """The numbers in `[ACME #1234]` and `[#1234]`, last first; another firm's number is not ours."""
    ours = ("", firm.lower())
    found = [int(number) for name, number in TAG.findall(subject[:2_000]) if name.strip().lower() in ours]
    return tuple(dict.fromkeys(n for n in reversed(found) if n < 2**31))[:MAX_NUMBERS]


def bare_subject(subject: str) -> str:
    """A subject without Re:, Fwd: and ticket tags, in lower case."""
    subject = TAG.sub(" ", subject[:1_000])
    for _ in range(20):
        shorter = PREFIX.sub("", subject, count=1)
        if shorter == subject:
            break
        subject = shorter
    return " ".join(subject.lower().split())


def likeness(message: InboundMessage) -> str:
    """Sixteen hex digits over a message's words, spelling of Re: and white space aside."""
    words = f"{bare_subject(message.subject)}\n{' '.join(message.text.lower().split())}"
    return hashlib.sha256(words.encode("utf-8", "surrogatepass")).hexdigest()[:16]


# -- which ticket ------------------------------------------------------------------------------------------------


def choose(message: InboundMessage, clues: Clues, facts: Facts, proved: bool, config: Config, keys: Keys) -> Match:
    """The ticket, or none, with the reason; what other sources said is noted. `proved`: the sender is who From says."""
    candidates = _candidates(message.message_id, clues, facts, keys)
    looked = tuple((c.source, f"#{c.ticket.number}") for c in candidates)
    linked: int | None = None
    for candidate in candidates:
        relation = relation_to(candidate.ticket, message, facts, candidate.token, proved)
        welcome = _welcome(candidate.source, relation)
        if welcome is Welcome.LINK:
            linked = linked or candidate.ticket.number
            continue
        ticket = _final(candidate.ticket, facts)
        if relation is not Relation.OURS and (
            why := _starts_anew(candidate, ticket, message, clues.inbox, facts, config)
        ):
            return Match(why, linked=ticket.number, relation=relation, looked=looked)
        return Match(
            candidate.source,
            ticket,
            guest=welcome is Welcome.GUEST,
            token=candidate.token,
            relation=relation,
            notes=_contradictions(candidate, candidates),
            looked=looked,
        )
    reason = "possibly-same" if linked else "new"
    return Match(reason, linked=linked, looked=looked)


def _candidates(own_id: str, clues: Clues, facts: Facts, keys: Keys) -> list[Candidate]:
    """In the order of SOURCES; what names no ticket that exists is left out."""
    named = [
        *((source, t.number, t) for source, t in clues.tokens if _believed(t, facts, keys)),
        *((_source_of(r), r.ticket, None) for r in facts.references if r.ancestor or r.value != own_id),
        *(("message-id-reused", twin.ticket or 0, None) for twin in facts.twins),
        *(("subject-tag", number, None) for number in clues.numbers),
    ]
    named.sort(key=lambda said: SOURCES.index(said[0]))  # stable: nearest first within a source
    return [Candidate(source, facts.tickets[n], token) for source, n, token in named if n in facts.tickets]


def _source_of(reference: Reference) -> str:
    return "ancestor" if reference.ancestor else "references"


def _believed(token: Token, facts: Facts, keys: Keys) -> bool:
    if token.purpose not in addresses.STAFF:
        return True
    account = facts.accounts.get(token.who)
    return account is not None and account.active and addresses.genuine(keys, token, account.generation)


def relation_to(
    ticket: TicketFacts, message: InboundMessage, facts: Facts, token: Token | None, proved: bool
) -> Relation:
    """Who the sender of a message is to a ticket. A doubtful From, and one of ours without a proof, is a stranger's."""
    sender = message.sender.address
    if not sender or message.sender_is_doubtful:
        return Relation.STRANGER
    if facts.sender.account and facts.sender.account.active and sender != ticket.requester_address:
        return Relation.OURS if proved else Relation.STRANGER
    if sender in ticket.participants or (facts.sender.contact is not None and facts.sender.contact == ticket.requester):
        return Relation.PARTICIPANT
    if token and token.purpose is Purpose.CUSTOMER_REPLY and facts.token_addresses.get(token.who) == sender:
        return Relation.HOLDER
    domain = addresses.domain_of(sender)
    if domain not in FREE_MAIL and any(addresses.domain_of(address) == domain for address in ticket.participants):
        return Relation.COLLEAGUE
    return Relation.STRANGER


def _welcome(source: str, relation: Relation) -> Welcome:
    signed, known, number = ACCEPTANCE[relation]
    if source in SIGNED:
        return signed
    return number if source == "subject-tag" else known


def _final(ticket: TicketFacts, facts: Facts) -> TicketFacts:
    for _ in range(3):
        target = facts.tickets.get(ticket.merged_into or 0)
        if target is None:
            break
        ticket = target
    return ticket


def _starts_anew(
    candidate: Candidate,
    ticket: TicketFacts,
    message: InboundMessage,
    inbox_sent_to: str,
    facts: Facts,
    config: Config,
) -> str:
    """Why a message that fits a ticket opens a new one all the same, "" when it does not (email.md 17)."""
    if message.forwarded and inbox_sent_to != ticket.inbox:
        return "forwarded"
    if ticket.status is not Status.CLOSED or ticket.closed_at is None:
        return ""
    closed_for = facts.now - ticket.closed_at
    inbox = config.inbox(ticket.inbox) or config.inboxes[0]
    if closed_for > timedelta(days=inbox.reopen_days):
        return "closed-long-ago"
    if candidate.source == "references" and closed_for > OLD and not similar(message.subject, ticket.subject):
        return "other-subject"
    return ""


def similar(one: str, other: str) -> bool:
    """Are two subjects about the same thing?"""
    one, other = bare_subject(one), bare_subject(other)
    if not one or not other or one in other or other in one:
        return True
    return difflib.SequenceMatcher(None, one[:200], other[:200]).ratio() >= 0.3


def _contradictions(chosen: Candidate, candidates: list[Candidate]) -> tuple[str, ...]:
    others = {c.ticket.number: c.source for c in reversed(candidates) if c.ticket.number != chosen.ticket.number}
    return tuple(f"{source} names #{number}" for number, source in sorted(others.items()))
