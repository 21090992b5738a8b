"""Which ticket a text message belongs to (specs/sms.md 4.3, T2 to T8): rules in their order, each finds or passes on.

Pure. An SMS carries no reference, so the rules go from what the writer says over what was last asked of him to what was
last talked about; where two tickets are as likely he is asked, and the message waits where people see it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from gateway.config import SmsNumber
from gateway.values import Asked, NoticeKind, QuestionKind, TextFacts, TicketFacts

BURST = timedelta(seconds=120)
MENU_ANSWERED = timedelta(hours=24)  # as long as a digit answers a menu
MENU_GUESSED = timedelta(hours=1)  # then the messages go where it is most likely
RECENT = timedelta(hours=72)
ALONE = timedelta(hours=24)  # nothing about another ticket was said within it
OFFERED = 3  # tickets in a menu
FIRST_NUMBER = 1001
NUMBER = re.compile(r"#\s?([1-9][0-9]{3,9})\b")
NUMBER_FIRST = re.compile(r"^\s*([1-9][0-9]{3,9})\s?:")
ASKING = frozenset({NoticeKind.MENU, NoticeKind.LIST, NoticeKind.CONSENT, NoticeKind.USAGE})  # about no one ticket


@dataclass(frozen=True, slots=True)
class Landing:
    """Where a text belongs: `ticket`, else `offered` in a menu, else a new ticket. `question` is what it answers, or
    what it waits with: an answered menu without a ticket means something new."""

    reason: str
    ticket: int | None = None
    guessed: bool = False
    question: Asked | None = None
    offered: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Heading:
    """What the rules look at: the words, a digit that stands alone, the facts, and the number's settings."""

    text: str
    choice: int | None
    by_word: bool  # YES, not a digit
    facts: TextFacts
    way: SmsNumber


def choose(text: str, choice: int | None, by_word: bool, facts: TextFacts, way: SmsNumber) -> Landing:
    """The first rule that fires; with the note on numbers that are none of the writer's."""
    heading = Heading(text, choice, by_word, facts, way)
    found = next((landing for rule in RULES if (landing := rule(heading)) is not None), Landing("new"))
    strange = [n for n in numbers(text) if not _his(n, facts)]
    return replace(found, notes=tuple(f"mentions #{n}" for n in strange))


def numbers(text: str) -> tuple[int, ...]:
    """The ticket numbers that a text names: `#1234` anywhere, `1234:` in front."""
    named = [*NUMBER_FIRST.findall(text[:40]), *NUMBER.findall(text[:2_000])]
    return tuple(n for n in dict.fromkeys(map(int, named)) if FIRST_NUMBER <= n < 2**31)[:10]


def quoted(words: str, facts: TextFacts) -> tuple[int, ...]:
    """The tickets of our messages that have these words in them, newest first: what a reaction is about."""
    words = words.rstrip(".… ").lower()
    same = (s for s in facts.sent if words and words in " ".join(s.text.lower().split()))
    return tuple(sent.ticket for sent in same if sent.ticket)


# -- the rules ---------------------------------------------------------------------------------------------------


def _reference(heading: Heading) -> Landing | None:
    """T2: the number of a ticket that is his, or his organisation's."""
    for n in numbers(heading.text):
        if _his(n, heading.facts):
            menu = open_menu(heading.facts)
            return Landing("reference", n, question=menu if menu and n in menu.options else None)
    return None


def _choice(heading: Heading) -> Landing | None:
    """T3: the digit of a menu that was sent within a day."""
    menu = answerable_menu(heading.facts)
    if heading.choice is None or menu is None or not 1 <= heading.choice <= len(menu.options):
        return None
    if heading.by_word and menu.state != "open":
        return None
    return Landing("menu", menu.options[heading.choice - 1], question=menu)


def _pool(heading: Heading) -> Landing | None:
    """T4: the number of ours that he wrote to carries one conversation."""
    if not heading.way.pool:
        return None
    for number, ticket, _ in heading.facts.bindings:
        if number == heading.facts.number and ticket in heading.facts.candidates:
            return Landing("pool", ticket)
    return None


def _waits_already(heading: Heading) -> Landing | None:
    """A menu is open: whatever else he writes waits with the first message, and nothing more is asked."""
    menu = open_menu(heading.facts)
    return Landing("needs-sorting", question=menu) if menu else None


def _burst(heading: Heading) -> Landing | None:
    """T5: it goes on where the last message, at most two minutes ago, went."""
    facts = heading.facts
    if not facts.heard or facts.at - facts.heard[0].at > BURST:
        return None
    if any(sent.kind is NoticeKind.ANSWER and sent.at > facts.heard[0].at for sent in facts.sent):
        return None  # one of us has written meanwhile: he may answer that
    # The answer "something new" is on no ticket itself: the message that waited for it is.
    same = [h for h in facts.heard if h.reason == "menu"] if facts.heard[0].reason == "menu" else facts.heard[:1]
    ticket = next((h.ticket for h in same if h.ticket in facts.tickets), None)
    # What one of us wrote by his phone before it was revoked does not make its ticket his.
    return Landing("burst", ticket) if ticket and (ticket in facts.candidates or _his(ticket, facts)) else None


def _only_one(heading: Heading) -> Landing | None:
    """T6: he has no ticket, or one."""
    candidates = heading.facts.candidates
    if not candidates:
        return Landing("new")
    return Landing("only-one", candidates[0]) if len(candidates) == 1 else None


def _recent(heading: Heading) -> Landing | None:
    """T7: we wrote to him not long ago about one of them, and about no other around that time. A guess, and marked."""
    facts = heading.facts
    ours = [s for s in facts.sent if s.number == facts.number and s.ticket and s.kind not in ASKING]
    if not ours or facts.now - ours[0].at > RECENT or ours[0].ticket not in facts.candidates:
        return None
    last = ours[0]
    if any(sent.ticket != last.ticket and last.at - sent.at <= ALONE for sent in ours[1:]):
        return None
    return Landing("recent", last.ticket, guessed=True)


def _ask(heading: Heading) -> Landing | None:
    """T8: nobody can know; he is asked."""
    return Landing("needs-sorting", offered=heading.facts.candidates[:OFFERED])


RULES: tuple[Callable[[Heading], Landing | None], ...] = (
    _reference,
    _choice,
    _pool,
    _waits_already,
    _burst,
    _only_one,
    _recent,
    _ask,
)


# -- questions ---------------------------------------------------------------------------------------------------


def open_menu(facts: TextFacts) -> Asked | None:
    """The menu that a customer's messages wait for."""
    return next((q for q in _menus(facts) if q.state == "open"), None)


def answerable_menu(facts: TextFacts) -> Asked | None:
    """The newest menu that a digit still answers, although its messages may have been put by a guess meanwhile."""
    menu = next((q for q in _menus(facts) if q.state in ("open", "guessed")), None)
    if menu is None or menu.kind is QuestionKind.UNASKED or facts.now - menu.created_at > MENU_ANSWERED:
        return None
    # Once a person has written to him since, a digit is about what that person said.
    answers = (s for s in facts.sent if s.kind is NoticeKind.ANSWER and s.number == facts.number)
    return None if any(sent.at > menu.created_at for sent in answers) else menu


def _menus(facts: TextFacts) -> Iterable[Asked]:
    kinds = (QuestionKind.MENU, QuestionKind.UNASKED)
    return (q for q in facts.questions if q.kind in kinds and not q.command and q.number == facts.number)


def _his(number: int, facts: TextFacts) -> bool:
    ticket = facts.tickets.get(number)
    return ticket is not None and belongs(ticket, facts)


def belongs(ticket: TicketFacts, facts: TextFacts) -> bool:
    """Is it a ticket of somebody with this phone, or of his organisation?"""
    people, number = facts.phone.people, facts.phone.number
    return (
        (bool(number) and number in (ticket.requester_address, *ticket.participants))
        or any(ticket.requester == person.contact for person in people)
        or any(ticket.organisation == person.organisation for person in people if person.organisation)
    )


# -- which of our numbers ----------------------------------------------------------------------------------------


def number_for(numbers: Sequence[str], ticket: int | None, bindings: Iterable[tuple[str, int, datetime]]) -> str:
    """The number of ours that a message about a ticket goes from: its own, else one that is free for this phone, else
    the one that was used longest ago. `bindings` are those of the recipient's phone."""
    used = {number: (bound, at) for number, bound, at in bindings if number in numbers}
    own = next((number for number, (bound, _) in used.items() if bound == ticket), None)
    free = next((number for number in numbers if number not in used), None)
    return own or free or min(used, key=lambda number: used[number][1])
