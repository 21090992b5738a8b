"""What becomes of a received SMS: the checks in their order, each a function that decides or passes on.

Rules are those of specs/sms.md 4.3 (T0 to T10) and 4.6 (consent, quiet hours, loops). Commands of people in the field
are `decide.field`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from gateway import conversation, phones
from gateway.commands import Said, SaidKind
from gateway.config import Config, Inbox, SmsNumber
from gateway.conversation import Landing
from gateway.decide import enrolment, field, notices
from gateway.decide.pieces import answer_by, fresh_subject, reopened
from gateway.values import (
    Ask,
    Asked,
    Caps,
    Channel,
    ContactKind,
    Count,
    Decision,
    InboundMessage,
    InboundState,
    Kind,
    Medium,
    NewContact,
    NewEntry,
    NewTicket,
    Notice,
    NoticeKind,
    QuestionKind,
    Ruling,
    Sms,
    Status,
    Step,
    TextFacts,
    TicketFacts,
)

DAY, HOUR = timedelta(hours=24), timedelta(hours=1)
YES_COUNTS = timedelta(hours=48)  # after a question
AT_ONCE = timedelta(minutes=15)  # an answer to his own message disturbs nobody
SAME_AGAIN, MANY_AT_ONCE, A_MOMENT = 3, 10, timedelta(minutes=2)
PASSIVE = frozenset(
    {NoticeKind.ACKNOWLEDGEMENT, NoticeKind.MENU, NoticeKind.USAGE, NoticeKind.LIST, NoticeKind.CONSENT}
)  # what goes by itself; an echo follows a real action, an answer was written by a person
GRATEFUL = {
    "thanks",
    "thank",
    "thankyou",
    "thx",
    "ty",
    "tks",
    "cheers",
    "ta",
    "danke",
    "dank",
    "merci",
    "grazie",
    "gracias",
}
THANKS = GRATEFUL | {
    "you", "u", "so", "very", "much", "many", "great", "super", "perfect", "lovely", "brilliant", "ok", "okay", "good",
    "all", "sorted", "vielen", "bien", "bedankt",
}  # fmt: skip
SMILES = {"👍", "🙏", "😊", "🙂", "❤️", "❤"}


@dataclass(frozen=True, slots=True)
class TextCase:
    """Everything there is to decide on. `received` is when it reached the provider or us."""

    sms: Sms
    said: Said
    message: InboundMessage
    facts: TextFacts
    config: Config
    way: SmsNumber
    caps: Caps
    received: datetime

    @property
    def phone(self) -> str:
        return self.facts.phone.number

    @property
    def inbox(self) -> Inbox:
        return self.config.inbox(self.way.inbox) or self.config.inboxes[0]

    @property
    def ruled(self) -> str:
        """What a person, or the sender's own answer to a menu, said about it; a plain retry says nothing."""
        ruling = self.facts.ruling
        return ruling.word if ruling and ruling.word != "retry" else ""

    @property
    def as_customer(self) -> bool:
        """One of us writes as a customer: "NEW my own tap drips"."""
        return self.said.kind is SaidKind.NEW and self.facts.phone.account is not None

    @property
    def by_machine(self) -> bool:
        """A short code, a sender's name, or one of our own numbers."""
        return phones.is_machine(self.phone) or self.config.way(self.phone) is not None

    @property
    def automatic_off(self) -> bool:
        """Has it behaved like a machine within the day?"""
        off = self.facts.phone.automatic_off_until
        return off is not None and off > self.facts.now

    @property
    def text(self) -> str:
        """The words that go on the ticket."""
        return self.said.text if self.as_customer else self.sms.text

    def step(self, name: str, found: str) -> tuple[Step, ...]:
        facts = self.facts
        people = ", ".join(person.name or person.address for person in facts.phone.people) or "not known yet"
        who = f"{self.phone or 'withheld'}: " + (
            f"{facts.phone.account.name}, one of us" if facts.phone.account else people
        )
        return (
            Step("sender", who),
            Step("candidates", " ".join(f"#{n}" for n in facts.candidates[:10]) or "none"),
            Step(name, found, hit=True),
        )


def decide_text(case: TextCase) -> Decision:
    """The one decision about a received SMS."""
    decision = next((found for check in CHECKS if (found := check(case)) is not None), None) or _customer(case)
    if case.ruled == "allow" and case.phone:
        decision = replace(decision, blocks=((case.phone, False),))
    return _guarded(case, decision)


# -- the checks, in order ----------------------------------------------------------------------------------------


def _filed(case: TextCase) -> Decision | None:
    if case.ruled != "file":
        return None
    return Decision(InboundState.DONE, "filed-away", case.step("ruling", "not needed"))


def _consent(case: TextCase) -> Decision | None:
    """T0: STOP, START and HELP are about the phone, never about a ticket."""
    by_provider = case.sms.opt_out.upper()
    if by_provider == "STOP" or case.said.kind is SaidKind.OPT_OUT:
        return _opted_out(case, by_provider)
    if by_provider == "START" or case.said.kind is SaidKind.OPT_IN:
        return _opted_in(case, by_provider)
    if by_provider == "HELP" or case.said.kind is SaidKind.HELP:
        told = _consent_notice(case, "help", by_provider) if not case.facts.phone.opted_out else ()
        return Decision(InboundState.DONE, "help", case.step("T0", "asks for help"), notices=told)
    return None


def _opted_out(case: TextCase, by_provider: str) -> Decision:
    told = () if case.facts.phone.opted_out else _consent_notice(case, "stopped", by_provider)
    return Decision(
        InboundState.DONE,
        "opt-out",
        case.step("T0", "wants no more SMS from any of our numbers"),
        notices=told,
        address_changes=_phone_changes(case, opted_out=True, opted_out_at=case.facts.now),
        also=_on_every_ticket(case, "opted-out"),
    )


def _opted_in(case: TextCase, by_provider: str) -> Decision | None:
    if case.facts.phone.opted_out:
        return Decision(
            InboundState.DONE,
            "opt-in",
            case.step("T0", "wants SMS again"),
            notices=_consent_notice(case, "started", by_provider),
            address_changes=_phone_changes(case, opted_out=False, opted_out_at=None),
            also=_on_every_ticket(case, "opted-in"),
        )
    if _was_asked(case) or (_says_yes(case) and case.facts.candidates and not case.facts.phone.account):
        return None  # YES answers what we asked; and on an open ticket it is what he says
    return Decision(InboundState.DONE, "opt-in", case.step("T0", "wants SMS, as before"))


def _says_yes(case: TextCase) -> bool:
    return "yes" in case.sms.text.lower()


def _was_asked(case: TextCase) -> bool:
    """Was a customer asked something within two days: by a menu, or by one of us in his own words? For one of us the
    carriers' words are never commands: he takes a job with OK or TAKE."""
    facts = case.facts
    if facts.phone.account is not None:
        return False
    asked = any(q.state == "open" and facts.now - q.created_at <= YES_COUNTS for q in facts.questions)
    answered = any(s.kind is NoticeKind.ANSWER and facts.now - s.at <= YES_COUNTS for s in facts.sent)
    return asked or answered


def _on_every_ticket(case: TextCase, what: str) -> tuple[Decision, ...]:
    """The agent sees it where he works: on each of the phone's tickets."""
    event = NewEntry(Kind.EVENT, Channel.SMS, author_address=case.phone, public=False, reason=what)
    tickets = [case.facts.tickets[n] for n in case.facts.candidates]
    return tuple(
        Decision(InboundState.DONE, what, ticket=ticket.number, entries=(event,))
        for ticket in tickets
        if ticket.status is not Status.CLOSED
    )


def _consent_notice(case: TextCase, say: str, by_provider: str) -> tuple[Notice, ...]:
    """Only where the provider does not answer by itself; written down with the block, and let through by it."""
    if by_provider or case.caps.handles_opt_out or _silent(case, but_opted_out=True):
        return ()
    return (_sms(case, NoticeKind.CONSENT, "consent:{inbound}", None, say=say),)


def _blocked(case: TextCase) -> Decision | None:
    if not case.facts.blocked or case.ruled:
        return None
    return Decision(InboundState.PARKED, "blocked-sender", case.step("parked", "refused"))


def _enrol(case: TextCase) -> Decision | None:
    return enrolment.shown_by_phone(case.sms.text, case.facts)


def _ours(case: TextCase) -> Decision | None:
    """T1: the enrolled phone of one of us gives commands; NEW lets him write as a customer."""
    account = case.facts.phone.account
    if account is None or not account.active or case.as_customer:
        return None
    return field.by_sms(case)


def _machine(case: TextCase) -> Decision | None:
    """T10: short codes, names and our own numbers: one ticket a day, and never an answer."""
    if not case.by_machine or case.ruled:
        return None
    today = next((h.ticket for h in case.facts.heard if h.ticket and case.facts.now - h.at < DAY), None)
    ticket = case.facts.tickets.get(today or 0)
    return _add(case, ticket, "machine") if ticket else _open(case, "machine", "a machine wrote it")


def _reaction(case: TextCase) -> Decision | None:
    """A thumb under one of our messages: a note on its ticket, no reopening, no answer."""
    if case.said.kind is not SaidKind.REACTION:
        return None
    number = next(iter((*conversation.quoted(case.said.quoted, case.facts), *case.facts.candidates)), None)
    if number is None or number not in case.facts.tickets:
        return Decision(InboundState.DONE, "reaction", case.step("reaction", "to nothing that we know"))
    return _note(case, number, "reaction")


def _status(case: TextCase) -> Decision | None:
    """A customer asks how far his requests are; of others' he learns nothing."""
    facts = case.facts
    if case.said.kind is not SaidKind.STATUS or case.ruled or not (facts.candidates or facts.phone.people):
        return None
    named = facts.tickets.get(case.said.number or 0)
    his = [facts.tickets[n] for n in facts.candidates if facts.tickets[n].status is not Status.CLOSED]
    if case.said.number is not None:
        his = [named] if named and conversation.belongs(named, facts) else []
    lines = [[t.number, t.subject, str(t.status)] for t in his[: conversation.OFFERED]]
    why_not = _silent(case)
    told = () if why_not else (_sms(case, NoticeKind.LIST, "list:{inbound}", None, say="status", lines=lines),)
    steps = case.step("status", f"{len(his)} requests" + (f", not answered: {why_not}" if why_not else ""))
    if case.said.number is None or not his:
        return Decision(InboundState.DONE, "status", steps, notices=told)
    asked = NewEntry(Kind.EVENT, Channel.SMS, author_address=case.phone, public=False, reason="status-asked")
    return Decision(InboundState.DONE, "status", steps, ticket=his[0].number, entries=(asked,), notices=told)


def _empty(case: TextCase) -> Decision | None:
    if case.said.kind is not SaidKind.EMPTY or case.sms.media or case.ruled:
        return None
    return Decision(InboundState.DONE, "empty", case.step("empty", "there is nothing in it"))


CHECKS: tuple[Callable[[TextCase], Decision | None], ...] = (
    _filed,
    _consent,
    _blocked,
    _enrol,
    _ours,
    _machine,
    _reaction,
    _status,
    _empty,
)


# -- a customer --------------------------------------------------------------------------------------------------


def _customer(case: TextCase) -> Decision:
    if (ruled := _by_ruling(case)) is not None:
        return ruled
    if case.as_customer:
        return _open(case, "new-by-word")
    by_word = case.said.kind is SaidKind.OPT_IN
    choice = case.said.n if case.said.kind is SaidKind.CHOICE else 1 if by_word and _was_asked(case) else None
    landing = conversation.choose(case.sms.text, choice, by_word, case.facts, case.way)
    if landing.reason == "menu":
        return _chosen(case, landing)
    if landing.reason == "needs-sorting":
        return _ask(case, landing)
    if landing.ticket is None:
        return _new_or_limited(case, landing)
    ticket = case.facts.tickets[landing.ticket]
    if ticket.status is Status.CLOSED and grateful(case.sms.text) and landing.reason != "reference":
        return _note(case, ticket.number, "thanks")
    added = _add(case, ticket, landing.reason, landing)
    return _answered(added, landing.question, ticket.number) if landing.question else added


def _by_ruling(case: TextCase) -> Decision | None:
    """A person sorted it, the sender answered the menu, or nobody did and it goes where it is most likely."""
    ruling = case.facts.ruling
    if ruling is None:
        return None
    ticket = case.facts.tickets.get(ruling.ticket or 0)
    if ruling.word in ("ticket", "retry") and ticket:
        return _add(case, ticket, "ruling" if ruling.by else "menu")
    if ruling.word == "guess" and ticket:
        return _add(case, ticket, "guessed", Landing("guessed", ticket.number, guessed=True))
    if ruling.word == "new":
        opened = _opened_before(case) if ruling.by is None else None
        if opened:
            return _add(case, opened, "menu")
        return _open(case, "ruling", "it waited for a person") if ruling.by else _new_or_limited(case, Landing("menu"))
    return None


def _opened_before(case: TextCase) -> TicketFacts | None:
    """ "Something new": the first message that waited opens the ticket, those that waited with it follow."""
    earlier = [h for h in case.facts.heard if h.question is not None and h.question == case.facts.waits_for and h.entry]
    return next((case.facts.tickets[h.ticket] for h in earlier if h.ticket and h.ticket in case.facts.tickets), None)


def _new_or_limited(case: TextCase, landing: Landing) -> Decision:
    """T9: a new ticket, at most so many an hour; beyond that it goes to the last."""
    limit = case.config.limits.new_sms_tickets_per_hour
    if case.facts.new_tickets >= limit and not case.phone:
        words = f"{case.facts.new_tickets} new tickets of withheld numbers within the hour"
        return Decision(InboundState.PARKED, "over-limit", case.step("parked", words))
    put = (h.ticket for h in case.facts.heard if h.ticket in case.facts.tickets)
    last = next(put, next(iter(case.facts.candidates), None))
    if case.facts.new_tickets >= limit and last is not None:
        return _add(case, case.facts.tickets[last], "over-limit", landing)
    return _open(case, landing.reason, notes=landing.notes)


def _add(case: TextCase, ticket: TicketFacts, reason: str, landing: Landing | None = None) -> Decision:
    guessed = landing is not None and landing.guessed
    data = {"guessed": True} if guessed else {}
    notes = landing.notes if landing else ()
    words = f"goes to #{ticket.number}" + (", a guess" if guessed else "")
    return Decision(
        InboundState.DONE,
        reason,
        (*case.step(reason, words), *(Step("note", note) for note in notes)),
        ticket=ticket.number,
        contact=_contact(case),
        entries=(_entry(case, reason, data | ({"notes": list(notes)} if notes else {})),),
        changes=reopened(ticket, case.facts.now, case.config) | {"unread": True},
        notices=notices.to_assignee(ticket, case.facts, 0, but=None, config=case.config),
    )


def _note(case: TextCase, number: int, reason: str) -> Decision:
    """It is written on the ticket, and changes nothing."""
    entry = replace(_entry(case, reason), kind=Kind.NOTE)
    return Decision(
        InboundState.DONE, reason, case.step(reason, f"a note on #{number}"), ticket=number, entries=(entry,)
    )


def _open(case: TextCase, reason: str, why_silent: str = "", notes: tuple[str, ...] = ()) -> Decision:
    """A new ticket, and "we have it" once a day."""
    why_not = why_silent or _why_no_acknowledgement(case)
    entry = _entry(case, reason, {"notes": list(notes)} if notes else {})
    data = {"acknowledged": not why_not, "why_not": why_not}
    event = NewEntry(Kind.EVENT, Channel.SMS, reason="opened", data=data)
    due = answer_by(case.inbox.address, case.facts.now, case.config)
    told = () if why_not else (_acknowledgement(case),)
    return Decision(
        InboundState.DONE,
        reason,
        (
            *case.step(reason, "new ticket"),
            *(Step("note", note) for note in notes),
            Step("acknowledgement", f"none: {why_not}" if why_not else "sent"),
        ),
        contact=_contact(case),
        new_ticket=NewTicket(
            inbox=case.inbox.address,
            subject=fresh_subject(case.text, bool(case.sms.media)),
            requester_address=case.phone,
            kind=case.inbox.kind,
            team=case.inbox.team,
            acquisition=Channel.SMS,
        ),
        entries=(entry, event),
        changes={"due_at": due, "next_at": due},
        notices=(*told, *notices.to_assignee(None, case.facts, 0, but=None, config=case.config)),
        counts=() if case.phone else (Count("ticket", "withheld"),),
    )


def _acknowledgement(case: TextCase) -> Notice:
    late = case.facts.now - case.received > AT_ONCE
    return replace(
        _sms(case, NoticeKind.ACKNOWLEDGEMENT, "ack:{ticket}", 1, say="acknowledgement"),
        hold_seconds=notices.quiet_seconds(case.facts.now, case.facts.phone.time_zone, case.way, case.config)
        if late
        else 0,
    )


def _why_no_acknowledgement(case: TextCase) -> str:
    facts = case.facts
    if not case.way.acknowledge:
        return "switched off in the config"
    if any(s.kind is NoticeKind.ACKNOWLEDGEMENT and facts.now - s.at < DAY for s in facts.sent):
        return "this number had one today"
    return _silent(case)


def _silent(case: TextCase, but_opted_out: bool = False) -> str:
    """Why nothing may go to this phone by itself, "" when it may. What confirms STOP goes although he wants no SMS."""
    facts, limits = case.facts, case.config.limits
    hour, day = passive(facts, HOUR), passive(facts, DAY)
    reasons: tuple[tuple[bool, str], ...] = (
        (not case.phone, "the number is withheld"),
        (case.way.one_way or not case.caps.two_way, "our sender cannot be answered"),
        (case.by_machine, "a machine wrote it"),
        (facts.phone.opted_out and not but_opted_out, "this number wants no SMS"),
        (_far_away(case), "a number of a country that gets no automatic SMS"),
        (case.automatic_off or _loops(case), "it behaves like a machine"),
        (hour >= limits.sms_automatic_per_hour, "this number got enough this hour"),
        (day >= limits.sms_automatic_per_day, "this number got enough today"),
    )
    return next((words for applies, words in reasons if applies), "")


def _far_away(case: TextCase) -> bool:
    """Swindlers have numbers, mostly abroad, that earn by every SMS they get. One of us may be anywhere."""
    home = phones.region_of(case.way.number)
    allowed = case.way.countries or ((home,) if home else ())
    return bool(allowed) and case.facts.phone.account is None and phones.region_of(case.phone) not in allowed


def passive(facts: TextFacts, span: timedelta) -> int:
    """How much went to the phone by itself within the span, since anybody did anything real."""
    count = 0
    for sent in facts.sent:
        if facts.now - sent.at >= span or sent.kind not in PASSIVE:
            break
        count += 1
    return count


def _loops(case: TextCase) -> bool:
    """The same words for the third time within the hour, or ten messages within two minutes."""
    facts = case.facts
    if facts.phone.account is not None:
        return False
    same = [h for h in facts.heard if facts.now - h.at < HOUR and h.content_hash == case.message.content_hash]
    many = [h for h in facts.heard if facts.now - h.at < A_MOMENT]
    return len(same) + 1 >= SAME_AGAIN or len(many) + 1 >= MANY_AT_ONCE


def _guarded(case: TextCase, decision: Decision) -> Decision:
    """What behaves like a machine gets no automatic SMS for a day; the ticket says so, once."""
    if not case.phone or case.automatic_off or not _loops(case):
        return decision
    flag = NewEntry(Kind.EVENT, Channel.SMS, public=False, reason="automatic-off")
    lands = decision.ticket is not None or decision.new_ticket is not None
    changes = _phone_changes(case, automatic_off_until=case.facts.now + DAY)
    return replace(
        decision,
        entries=(*decision.entries, flag) if lands else decision.entries,
        address_changes=_merged(decision.address_changes, changes),
    )


# -- menus -------------------------------------------------------------------------------------------------------


def _ask(case: TextCase, landing: Landing) -> Decision:
    """T8: it waits, in sight, and he is asked once."""
    tickets = [case.facts.tickets[n] for n in landing.offered]
    words = "waits with the message that he was asked about"
    waits_for = landing.question.id if landing.question else None
    ask: tuple[Ask, ...] = ()
    told: tuple[Notice, ...] = ()
    if tickets:
        why_not = _silent(case)
        words = f"may be about {' or '.join(f'#{t.number}' for t in tickets)}; " + (why_not or "he is asked")
        lines = [[t.number, t.subject] for t in tickets]
        told = () if why_not else (_sms(case, NoticeKind.MENU, "menu:{inbound}", None, say="menu", lines=lines),)
        end = case.facts.now + conversation.MENU_GUESSED
        options = (*(t.number for t in tickets), None)
        kind = QuestionKind.UNASKED if why_not else QuestionKind.MENU
        ask = (Ask(case.facts.number, case.phone, kind, end, options, held=True),)
    return Decision(
        InboundState.PARKED,
        "needs-sorting",
        case.step("T8", words),
        contact=_contact(case),
        notices=told,
        asks=ask,
        waits_for=waits_for,
    )


def _chosen(case: TextCase, landing: Landing) -> Decision:
    """T3: what waited goes where he says; what was put by a guess meanwhile moves there."""
    menu = landing.question
    assert menu is not None, "a choice answers a menu"
    steps = case.step("menu", f"chose #{landing.ticket}" if landing.ticket else "chose something new")
    number = landing.ticket
    if menu.state == "guessed":
        return _moved(case, landing, steps)
    if number is not None and number not in case.facts.tickets:
        number = None
    return _answered(Decision(InboundState.DONE, "menu", steps, ticket=number), menu, number)


def _answered(decision: Decision, menu: Asked, number: int | None) -> Decision:
    """The menu is over; the messages that waited for its answer are decided again, by it."""
    ruling = Ruling("ticket", number) if number is not None else Ruling("new")
    return replace(
        decision,
        answers=(*decision.answers, (menu.id, ruling)),
        question_changes={**decision.question_changes, menu.id: {"state": "answered"}},
    )


def _moved(case: TextCase, landing: Landing, steps: tuple[Step, ...]) -> Decision:
    """He answers after the guess: what it brought to another ticket moves, unless a person has moved it meanwhile."""
    menu = landing.question
    assert menu is not None, "a choice answers a menu"
    put = [h for h in reversed(case.facts.heard) if h.question == menu.id and h.reason == "guessed" and h.entry]
    moving = [h for h in put if h.ticket == h.landed and h.ticket != landing.ticket]
    if not moving:
        return _answered(Decision(InboundState.DONE, "menu", steps, ticket=landing.ticket), menu, landing.ticket)
    arrive = tuple(_event("moved-in", entry=h.entry, source=h.ticket) for h in moving)
    leave = tuple(
        Decision(InboundState.DONE, "moved-out", ticket=h.ticket, entries=(_event("moved-out", entry=h.entry),))
        for h in moving
    )
    ticket = case.facts.tickets.get(landing.ticket or 0)
    if ticket is None:
        moved = _open(case, "menu")
        assert moved.new_ticket is not None, "it opens one"
        fresh = replace(moved.new_ticket, subject=moving[0].subject)
        moved = replace(moved, new_ticket=fresh, entries=(*arrive, moved.entries[1]))
    else:
        changes = reopened(ticket, case.facts.now, case.config) | {"unread": True}
        told = notices.to_assignee(ticket, case.facts, 0, but=None, config=case.config)
        moved = Decision(InboundState.DONE, "menu", steps, ticket.number, entries=arrive, changes=changes, notices=told)
    about = {"entry": moving[0].entry}
    moved = replace(
        moved,
        notices=tuple(replace(n, entry=None, data={**n.data, **about}) if n.entry == 0 else n for n in moved.notices),
        moved=tuple(h.entry for h in moving if h.entry),
        also=leave,
    )
    return _answered(moved, menu, landing.ticket)


# -- pieces ------------------------------------------------------------------------------------------------------


def grateful(text: str) -> bool:
    """Thanks and nothing else: at most three words, all of them from a small list."""
    words = [word for word in (word.strip(".,!?;:()-'\"") for word in text.lower().split()) if word]
    known = all(word in THANKS or word in SMILES for word in words)
    return 0 < len(words) <= 3 and known and any(word in GRATEFUL or word in SMILES for word in words)


def _entry(case: TextCase, reason: str, data: Mapping[str, Any] | None = None) -> NewEntry:
    people = case.facts.phone.people
    name = people[0].name if len(people) == 1 else " or ".join(p.name for p in people[:3] if p.name)
    media = {"pictures": len(case.sms.media)} if case.sms.media else {}
    return NewEntry(
        kind=Kind.MESSAGE,
        channel=Channel.SMS,
        author_name=name or case.phone,
        author_address=case.phone,
        reason=reason,
        text=case.text,
        message_ids=(case.message.message_id,),
        media=case.sms.media,
        media_of=(case.sms.driver, case.facts.number),
        data={**(data or {}), **media},
    )


def _event(what: str, **data: Any) -> NewEntry:
    return NewEntry(Kind.EVENT, Channel.SMS, public=False, reason=what, data=data)


def _contact(case: TextCase) -> NewContact | None:
    if case.facts.phone.people or not case.phone:
        return None
    return NewContact(f"unknown {case.phone}", case.phone, medium=Medium.SMS, kind=ContactKind.CUSTOMER)


def _phone_changes(case: TextCase, **columns: Any) -> dict[str, dict[str, Any]]:
    return {case.phone: columns} if case.phone else {}


def _merged(one: Mapping[str, Mapping[str, Any]], other: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    return {key: {**one.get(key, {}), **other.get(key, {})} for key in (*one, *other)}


def _sms(case: TextCase, kind: NoticeKind, key: str, entry: int | None, **data: Any) -> Notice:
    """An SMS to the sender, from the number he wrote to."""
    return Notice(kind, Medium.SMS, case.phone, key, entry, numbers=(case.facts.number,), data=data)
