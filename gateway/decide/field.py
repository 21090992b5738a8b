"""What people in the field do with a few words, by SMS and by email alike: one function a verb, and a table of them.

specs/sms.md 4.4 and 4.5. Nothing is executed by guess: where the ticket is not clear he is asked, where the word is
not clear he is told the nearest ones. Whatever was executed is echoed to the phone or mailbox on file, so that the
victim of a forger sees it, and UNDO takes it back within ten minutes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from gateway import commands
from gateway.commands import VERBS, Said, SaidKind, Verb
from gateway.config import Config
from gateway.conversation import numbers, quoted
from gateway.decide import notices
from gateway.decide.enrolment import LIFE, TRIES, digest, right
from gateway.decide.pieces import answered, closed, open_again
from gateway.values import (
    Account,
    Ask,
    Asked,
    Channel,
    Count,
    Decision,
    FilePart,
    InboundState,
    Kind,
    Media,
    Medium,
    NewEntry,
    Notice,
    NoticeKind,
    OutboxState,
    QuestionKind,
    Role,
    Ruling,
    Status,
    Step,
    TextFacts,
    TicketFacts,
)

if TYPE_CHECKING:
    from gateway.decide.text import TextCase

DONE, PARKED = InboundState.DONE, InboundState.PARKED
TALKED_ABOUT = timedelta(hours=12)  # a command without a number means the one ticket he was written to about
MENU_LIFE = timedelta(minutes=30)
LIST_LIFE = timedelta(hours=24)
OLD = timedelta(days=30)
COMMANDS_OFF = timedelta(hours=1)
OFFERED, LISTED = 4, 8  # lines of a menu, of a list


@dataclass(frozen=True, slots=True)
class Order:
    """One text of one of us, and all there is to decide on. `default` is the ticket whose notice he answers (email)."""

    said: Said
    text: str  # as written, without a code
    account: Account
    channel: Channel
    facts: TextFacts
    config: Config
    default: int | None = None
    media: tuple[Media, ...] = ()
    media_of: tuple[str, str] = ("", "")
    files: tuple[FilePart, ...] = ()
    message_ids: tuple[str, ...] = ()
    steps: tuple[Step, ...] = ()

    @property
    def name(self) -> str:
        return self.account.name

    @property
    def zone(self) -> ZoneInfo:
        return ZoneInfo(self.account.time_zone or self.config.firm.time_zone)

    def step(self, found: str) -> tuple[Step, ...]:
        return (*self.steps, Step("command", found, hit=True))


# -- the two ways in ---------------------------------------------------------------------------------------------


def by_sms(case: TextCase) -> Decision | None:
    """A text from an enrolled phone. None when it is to be treated as a customer's."""
    account = case.facts.phone.account
    assert account is not None, "only an enrolled phone gives commands"
    if case.ruled == "new":
        return None
    order = Order(
        said=case.said,
        text=commands.without_pin(case.sms.text),
        account=account,
        channel=Channel.SMS,
        facts=case.facts,
        config=case.config,
        media=case.sms.media,
        media_of=(case.sms.driver, case.facts.number),
        message_ids=(case.message.message_id,),
        steps=(Step("sender", f"{account.name}, one of us, by an enrolled phone"),),
    )
    off = case.facts.phone.commands_off_until
    if off is not None and off > case.facts.now:
        return Decision(PARKED, "commands-off", order.step("five wrong codes: no commands from this phone for an hour"))
    if case.facts.commands >= case.config.limits.commands_per_ten_minutes:
        return Decision(PARKED, "over-limit", order.step(f"{case.facts.commands} commands within ten minutes"))
    decision = _ruled(order) if case.ruled else _read(order)
    return replace(decision, counts=(*decision.counts, Count("command", case.phone)))


def by_mail(order: Order) -> Decision:
    """The first line of a mail of one of us, with proof: executed like an SMS; the echo goes to the mailbox on file."""
    return _command(order)


def _ruled(order: Order) -> Decision:
    """He answered which job he meant, or a person sorted it: then the command, or the note, is for that ticket."""
    ruling = order.facts.ruling
    ticket = order.facts.tickets.get(ruling.ticket or 0) if ruling else None
    if ticket is None or ruling is None:
        return _read(order)
    if order.said.kind is SaidKind.COMMAND and ruling.by is None:
        return _command(replace(order, said=replace(order.said, number=ticket.number)))
    return _note_on(order, ticket, order.text)


EXECUTED = frozenset({"command", "mine", "show", "commands", "undone"})


def executes(said: Said, decision: Decision) -> bool:
    """Was a command carried out at once: neither asked back, nor refused, nor only a note of free text?"""
    return said.kind is SaidKind.COMMAND and decision.reason in EXECUTED


# -- what kind of text -------------------------------------------------------------------------------------------


def _read(order: Order) -> Decision:
    kind = order.said.kind
    if kind is SaidKind.COMMAND:
        return _command(order)
    if kind is SaidKind.CHOICE:
        return _choice(order)
    if kind is SaidKind.NOTE:
        found = order.facts.tickets.get(order.said.number or 0)
        return _note_on(order, found, order.said.text) if found else _unknown(order, order.said.number or 0)
    if kind is SaidKind.REACTION:
        return _reaction(order)
    if kind is SaidKind.EMPTY:
        return _picture(order)
    return _free_text(order)


def _reaction(order: Order) -> Decision:
    """A thumb under one of our messages: a note on its ticket, and no answer."""
    named = [*numbers(order.said.quoted), *quoted(order.said.quoted, order.facts)]
    ticket = next((order.facts.tickets[n] for n in named if n in order.facts.tickets), None)
    if ticket is None:
        return Decision(DONE, "reaction", order.step("a reaction to nothing that we know"))
    entry = _written(order, Kind.NOTE, "reaction", order.text, public=False, data={})
    return Decision(DONE, "reaction", order.step("a reaction"), ticket=ticket.number, entries=(entry,))


def _picture(order: Order) -> Decision:
    """A picture without words: on the one job there is, else he is asked."""
    if not (order.media or order.files):
        return Decision(DONE, "empty", order.step("there is nothing in it"))
    ticket = _current(order) or _only_job(order)
    return _note_on(order, ticket, "") if ticket else _which(order, list(order.facts.jobs))


def _free_text(order: Order) -> Decision:
    """Never a command by guess: a note on the one job there is, else it waits for a person, and he is told what he
    can write."""
    if near := commands.nearest(order.text):
        words = ", ".join(word.upper() for word in near)
        told = _answer(order, NoticeKind.USAGE, say="nearest", near=words)
        return Decision(PARKED, "needs-sorting", order.step(f"perhaps {words}"), notices=told)
    if order.facts.open_questions(QuestionKind.CODE) and (order.said.pin or re.fullmatch(r"\s*\d{3,8}\s*", order.text)):
        told = _answer(order, NoticeKind.USAGE, say="code-alone")
        return Decision(PARKED, "needs-sorting", order.step("a code without its command"), notices=told, secret=True)
    ticket = _current(order) or _only_job(order)
    if ticket is not None:
        return _note_on(order, ticket, order.text)
    told = _answer(order, NoticeKind.USAGE, say="usage")
    return Decision(PARKED, "needs-sorting", order.step("free text, and no one job it could be about"), notices=told)


def _choice(order: Order) -> Decision:
    """A digit answers the newest menu; where none is newer, 1 takes a job that was offered, and a list's line is
    shown. For a menu that has ended it does nothing."""
    n = order.said.n or 1
    for asked in order.facts.questions:
        open_still = asked.state == "open" and asked.expires_at > order.facts.now
        if asked.kind is QuestionKind.MENU and asked.command and order.facts.now - asked.created_at < TALKED_ABOUT:
            if open_still:
                return _chosen(order, asked, n)
            break
        if asked.kind is QuestionKind.JOB and open_still and n == 1 and not _menu_open(order):
            return _command(replace(order, said=Said(SaidKind.COMMAND, Verb.TAKE, asked.options[0])))
        if asked.kind is QuestionKind.LIST and order.facts.now - asked.created_at < LIST_LIFE and not _menu_open(order):
            return _command(replace(order, said=Said(SaidKind.COMMAND, Verb.SHOW, n)))
    told = _answer(order, NoticeKind.USAGE, say="usage")
    return Decision(PARKED, "needs-sorting", order.step("a digit, and nothing was asked"), notices=told)


def _menu_open(order: Order) -> bool:
    return any(menu.command for menu in order.facts.open_questions(QuestionKind.MENU))


def _chosen(order: Order, asked: Asked, n: int) -> Decision:
    if not 1 <= n <= len(asked.options) or asked.held is None:
        told = _answer(order, NoticeKind.USAGE, say="which-digit", most=len(asked.options))
        return Decision(PARKED, "needs-sorting", order.step("there is no such line"), notices=told)
    number = asked.options[n - 1]
    return Decision(
        DONE,
        "menu",
        order.step(f"means #{number}"),
        ticket=number,
        answers=((asked.id, Ruling("ticket", number)),),
        question_changes={asked.id: {"state": "answered"}},
    )


# -- a command ---------------------------------------------------------------------------------------------------


def _command(order: Order) -> Decision:
    said = order.said
    assert said.verb is not None, "a command has a verb"
    if said.verb in ALONE:
        return ALONE[said.verb](order)
    if said.bare_ok and said.number is None:
        return _bare_ok(order)
    found = _target(order)
    if isinstance(found, Decision):
        return found
    why = _needs_code(order, found)
    return _by_code(order, found, why) if why else _carried_out(order, found)


def _carried_out(order: Order, ticket: TicketFacts) -> Decision:
    assert order.said.verb is not None, "a command has a verb"
    decision = ON_A_TICKET[order.said.verb](order, ticket)
    answered = {
        q.id: {"state": "answered"}
        for q in order.facts.questions
        if q.kind is QuestionKind.JOB and q.state == "open" and q.options == (ticket.number,)
    }
    return replace(decision, question_changes={**answered, **decision.question_changes})


def _bare_ok(order: Order) -> Decision:
    """ "Ok" takes a job that was offered within twelve hours and not answered; else it is nothing, and not answered."""
    offered = list(dict.fromkeys(q.options[0] for q in order.facts.open_questions(QuestionKind.JOB)))
    if not offered:
        return Decision(DONE, "bare-ok", order.step("ok, and no job was offered"))
    if len(offered) > 1:
        return _which(order, offered)
    return _command(replace(order, said=replace(order.said, number=offered[0], bare_ok=False)))


def _target(order: Order) -> TicketFacts | Decision:
    """The ticket that is meant: by number, by line of the last list, else the only one he was written to about."""
    n = order.said.number
    if n is None:
        return _current(order) or _which(order, list(order.facts.jobs))
    if n < 100:
        lists = [q for q in order.facts.questions if q.kind in (QuestionKind.LIST, QuestionKind.MENU)]
        last = next((q for q in lists if order.facts.now - q.created_at < LIST_LIFE), None)
        number = last.options[n - 1] if last and n <= len(last.options) else None
        found = order.facts.tickets.get(number or 0)
        return found or _unknown(order, n)
    return order.facts.tickets.get(n) or _unknown(order, n)


def _current(order: Order) -> TicketFacts | None:
    """The ticket whose mail he answers; by SMS the one that he was last written to about, when it was the only one."""
    if order.default is not None:
        return order.facts.tickets.get(order.default)
    sent = [s for s in order.facts.sent if s.ticket and order.facts.now - s.at <= TALKED_ABOUT]
    numbers = dict.fromkeys(s.ticket for s in sent)
    return order.facts.tickets.get(next(iter(numbers)) or 0) if len(numbers) == 1 else None


def _only_job(order: Order) -> TicketFacts | None:
    return order.facts.tickets.get(order.facts.jobs[0]) if len(order.facts.jobs) == 1 else None


def _which(order: Order, numbers: list[int | None]) -> Decision:
    """He is asked which job he means, and the command waits half an hour."""
    options = tuple(n for n in dict.fromkeys(numbers) if n in order.facts.tickets)[:OFFERED]
    if not options:
        told = _answer(order, NoticeKind.USAGE, say="no-job")
        return Decision(PARKED, "needs-sorting", order.step("no number, and he has no job"), notices=told)
    if order.channel is not Channel.SMS:
        told = _answer(order, NoticeKind.USAGE, say="say-number", verb=str(order.said.verb or "note").upper())
        return Decision(DONE, "no-number", order.step("no number, and no one ticket"), notices=told)
    lines = [[n, order.facts.tickets[n].subject] for n in options if n]
    ask = Ask(
        order.facts.number,
        order.facts.phone.number,
        QuestionKind.MENU,
        order.facts.now + MENU_LIFE,
        options,
        command=order.text or "a picture",
        held=True,
    )
    told = _answer(order, NoticeKind.MENU, key="menu:{inbound}", say="which-job", lines=lines)
    return Decision(PARKED, "needs-sorting", order.step("he is asked which job"), notices=told, asks=(ask,))


def _unknown(order: Order, number: int) -> Decision:
    told = _answer(order, NoticeKind.USAGE, say="unknown-number", number=number)
    return Decision(PARKED, "needs-sorting", order.step(f"there is no {number}"), notices=told)


# -- codes for what is risky -------------------------------------------------------------------------------------


def _needs_code(order: Order, ticket: TicketFacts) -> str:
    """Why the command needs a one-time code, "" when the phone in the hand is enough (sms.md 4.5). By what it does:
    AGAIN and REPLY open a closed ticket as REOPEN does."""
    if order.channel is not Channel.SMS:
        return ""
    risky = order.config.field.needs_code
    if order.said.verb is Verb.REPLY and "reply-others" in risky and ticket.assignee != order.account.id:
        return "it is not his ticket"
    old = ticket.closed_at is not None and order.facts.now - ticket.closed_at > OLD
    if order.said.verb in (Verb.REOPEN, Verb.AGAIN, Verb.REPLY) and "reopen-old" in risky and old:
        return "it was closed more than 30 days ago"
    return ""


def _by_code(order: Order, ticket: TicketFacts, why: str) -> Decision:
    """A code goes to the phone on file, for this verb on this ticket, once; the command is given again with it."""
    asked = next(
        (
            q
            for q in order.facts.open_questions(QuestionKind.CODE)
            if q.command == str(order.said.verb) and q.options == (ticket.number,)
        ),
        None,
    )
    if not order.said.pin or asked is None:
        return _ask_for_code(order, ticket, why)
    if not right(asked, order.said.pin):
        return _wrong_code(order, ticket, asked)
    decision = _carried_out(order, ticket)
    return replace(decision, question_changes={**decision.question_changes, asked.id: {"state": "answered"}})


def _ask_for_code(order: Order, ticket: TicketFacts, why: str) -> Decision:
    code = order.facts.code[:4]
    verb = str(order.said.verb)
    ask = Ask(
        order.facts.number,
        order.facts.phone.number,
        QuestionKind.CODE,
        order.facts.now + LIFE,
        (ticket.number,),
        command=verb,
        code=digest(order.facts.phone.number, code),
    )
    said: dict[str, Any] = {"number": ticket.number, "code": code, "verb": verb.upper()}
    told = _answer(order, NoticeKind.CODE, key="code:{inbound}", say="needs-code", **said)
    return Decision(
        DONE,
        "needs-code",
        order.step(f"a code is asked for: {why}"),
        ticket=ticket.number,
        notices=told,
        asks=(ask,),
        # An older code for the same ends, so that there is one to guess; its wrong tries still count.
        question_changes={
            q.id: {"state": "replaced"} for q in order.facts.open_questions(QuestionKind.CODE) if q.command == verb
        },
    )


def _wrong_code(order: Order, ticket: TicketFacts, asked: Asked) -> Decision:
    """The fifth within the hour switches the phone's commands off, and the office is told."""
    off = order.facts.wrong_codes + 1 >= TRIES
    told = _answer(order, NoticeKind.CODE, key="code:{inbound}", say="commands-off" if off else "wrong-code")
    words = {"words": f"Five wrong codes came from {order.name}'s phone: it gives no commands for an hour."}
    alarms = [_mail(account, f"codes:{{inbound}}:{account.id}", words) for account in order.facts.staff] if off else []
    until = {order.facts.phone.number: {"commands_off_until": order.facts.now + COMMANDS_OFF}} if off else {}
    return Decision(
        DONE,
        "wrong-code",
        order.step("a wrong code"),
        ticket=ticket.number,
        notices=(*told, *alarms),
        question_changes={asked.id: {"tries": asked.tries + 1, "state": "replaced" if off else "open"}},
        address_changes=until,
        counts=(Count("wrong-code", order.facts.phone.number),),
    )


def _mail(account: Account, key: str, data: Mapping[str, Any]) -> Notice:
    return Notice(NoticeKind.NOTICE, Medium.MAIL, account.address, key, account=account.id, data=data)


# -- the verbs ---------------------------------------------------------------------------------------------------


def _take(order: Order, ticket: TicketFacts) -> Decision:
    if ticket.status is Status.CLOSED:
        return _already(order, ticket, "is-closed")
    if ticket.assignee == order.account.id and ticket.status is Status.OPEN and not _offered(order, ticket):
        return _already(order, ticket, "is-yours")
    other = order.facts.accounts.get(ticket.assignee or 0)
    if other is not None and other.id != order.account.id:
        return _already(order, ticket, "is-others", who=other.name)
    return _done_it(order, ticket, "taken", {"assignee": order.account.id, "status": Status.OPEN})


def _offered(order: Order, ticket: TicketFacts) -> bool:
    return any(
        q.kind is QuestionKind.JOB and q.state == "open" and ticket.number in q.options for q in order.facts.questions
    )


def _drop(order: Order, ticket: TicketFacts) -> Decision:
    if ticket.assignee != order.account.id:
        return _already(order, ticket, "is-not-yours")
    told = notices.to_assignee(None, order.facts, 0, but=order.account.id, config=order.config)
    return _done_it(
        order, ticket, "dropped", {"assignee": None, "unread": True}, told=_saying(told, order, "gave back")
    )


def _eta(order: Order, ticket: TicketFacts) -> Decision:
    at = commands.when(order.said, order.facts.at, order.zone)
    if at is None:
        return _misused(order, ticket, Verb.ETA)
    local = at.astimezone(order.zone)
    shown = f"{local:%H:%M}" if local.date() == order.facts.now.astimezone(order.zone).date() else f"{local:%a %H:%M}"
    return _done_it(order, ticket, "eta", {}, data={"at": at.isoformat(), "shown": shown}, at=shown)


def _here(order: Order, ticket: TicketFacts) -> Decision:
    return _done_it(order, ticket, "arrived", {})


def _note(order: Order, ticket: TicketFacts) -> Decision:
    if not (order.said.text or order.media or order.files):
        return _misused(order, ticket, Verb.NOTE)
    return replace(_note_on(order, ticket, order.said.text), reason="command")


def _note_on(order: Order, ticket: TicketFacts, text: str) -> Decision:
    """His words, or his pictures, on the ticket; the customer does not see them."""
    entry = _written(order, Kind.NOTE, "note", text, public=False, data=_spoken(order, Verb.NOTE))
    told = (
        notices.to_assignee(ticket, order.facts, 0, but=order.account.id, config=order.config)
        if ticket.assignee
        else ()
    )
    return Decision(
        DONE,
        "note",
        order.step(f"a note on #{ticket.number}"),
        ticket=ticket.number,
        entries=(entry,),
        remember=True,
        notices=(*_echo(order, ticket, "note"), *told),
    )


def _hold(order: Order, ticket: TicketFacts) -> Decision:
    if ticket.status is Status.CLOSED:
        return _already(order, ticket, "is-closed")
    morning = replace(order.said, until="tomorrow", span=None)
    at = commands.when(order.said, order.facts.at, order.zone) or commands.when(morning, order.facts.at, order.zone)
    assert at is not None, "tomorrow always comes"
    shown = f"{at.astimezone(order.zone):%a %d %b %H:%M}"
    changes = {"status": Status.WAITING, "snoozed_until": at, "next_at": at}
    return _done_it(order, ticket, "held", changes, data={"until": at.isoformat(), "shown": shown}, at=shown)


def _assign(order: Order, ticket: TicketFacts) -> Decision:
    found = colleagues(order.said.to, order.facts.accounts.values(), order.account.id)
    if len(found) != 1:
        others = [a for a in order.facts.accounts.values() if a.active and a.id != order.account.id]
        names = ", ".join(a.name for a in (found or others)[:4])
        told = _answer(order, NoticeKind.USAGE, say="who", number=ticket.number, names=names)
        why = order.step(f"no one colleague is called {order.said.to or 'nothing'}")
        return Decision(DONE, "who", why, ticket=ticket.number, notices=told)
    to = found[0]
    if ticket.assignee == to.id:
        return _already(order, ticket, "is-others", who=to.name)
    opens = ticket.status is Status.NEW and not notices.works_outside(to)
    status = {"status": Status.OPEN} if opens else {}
    given, ask = notices.job(to, ticket, 0, order.name, order.facts.now, order.config)
    decision = _done_it(
        order,
        ticket,
        "assigned",
        {"assignee": to.id} | status,
        told=(given,),
        data={"account": to.id, "before": ticket.assignee},
        who=to.name,
    )
    return replace(decision, asks=(ask,))


def colleagues(name: str, accounts: Any, but: int) -> list[Account]:
    """Those of us whom a word may mean: the whole name, the first or last, or what stands before the @."""
    wanted = name.strip().lower().lstrip("@")
    if not wanted:
        return []
    active = [account for account in accounts if account.active and account.id != but]
    whole = [a for a in active if wanted == a.name.lower()]
    return whole or [a for a in active if wanted in (*a.name.lower().split(), a.address.partition("@")[0])]


def _again(order: Order, ticket: TicketFacts) -> Decision:
    at = commands.when(order.said, order.facts.at, order.zone)
    told = notices.to_assignee(None, order.facts, 0, but=order.account.id, config=order.config)
    changes: dict[str, Any] = {"status": Status.OPEN, "closed_at": None, "closing_reason": "", "unread": True}
    data = {"at": at.isoformat()} if at else {}
    return _done_it(
        order, ticket, "second-visit", changes, data=data, told=_saying(told, order, "asks for a second visit on")
    )


def _reply(order: Order, ticket: TicketFacts) -> Decision:
    if not (order.said.text or order.files):
        return _misused(order, ticket, Verb.REPLY)
    hold = order.config.undo.field
    short = notices.goes_by_sms(order.said.text, bool(order.files or order.media))
    answer = notices.to_customer(NoticeKind.ANSWER, ticket, 0, order.config, hold, short=short)
    if answer is None:
        return _already(order, ticket, "unreachable")
    entry = _written(order, Kind.ANSWER, "command", order.said.text, public=True, data=_spoken(order, Verb.REPLY))
    return Decision(
        DONE,
        "command",
        order.step(f"answers the customer of #{ticket.number}"),
        ticket=ticket.number,
        entries=(entry,),
        changes=answered(order.facts.now),
        remember=True,
        notices=(answer, *_echo(order, ticket, "replied")),
    )


def _done(order: Order, ticket: TicketFacts) -> Decision:
    if ticket.status is Status.CLOSED:
        already = _already(order, ticket, "closed-already")
        said = order.said.text or order.media or order.files
        words = _written(order, Kind.NOTE, "command", order.said.text, public=False, data={})
        return replace(already, entries=(words,)) if said else already
    reasons = order.config.closing.reasons
    reason = "solved" if "solved" in reasons else reasons[0]
    changes = closed(reason, order.facts.now) | {"snoozed_until": None}
    if ticket.assignee is None:
        changes["assignee"] = order.account.id
    return _done_it(order, ticket, "closed", changes, data={"reason": reason}, told=_customer_told(order, ticket))


def _customer_told(order: Order, ticket: TicketFacts) -> tuple[Notice, ...]:
    """ "Your request is done", held a minute, by night until the morning."""
    reach = notices.reach_of(ticket, order.config)
    if not order.config.field.tell_customer_done or reach is None:
        return ()
    way = order.config.way_of(ticket.inbox)
    hold = order.config.undo.field
    if reach.medium is Medium.SMS and way is not None:
        hold = max(hold, notices.quiet_seconds(order.facts.now, reach.time_zone, way, order.config))
    data = {"say": "closing", "number": ticket.number, "subject": ticket.subject}
    told = notices.to_customer(NoticeKind.CLOSING, ticket, 0, order.config, hold, data=data)
    return (told,) if told else ()


def _reopen(order: Order, ticket: TicketFacts) -> Decision:
    if ticket.status is not Status.CLOSED:
        return _already(order, ticket, "is-open")
    changes = open_again(ticket, order.facts.now, order.config)
    return _done_it(order, ticket, "reopened", changes)


def _escalate(order: Order, ticket: TicketFacts) -> Decision:
    """To the supervisor, else to the administrators; once, until the ladders come."""
    if ticket.escalation_level:
        return _already(order, ticket, "is-escalated")
    above = _above(order)
    told = tuple(notices.notice(account, 0, order.config) for account in above)
    names = ", ".join(account.name for account in above) or "nobody"
    return _done_it(
        order,
        ticket,
        "escalated",
        {"escalation_level": 1, "unread": True},
        data={"to": [account.id for account in above]},
        told=_saying(told, order, "escalates", order.said.text),
        who=names,
    )


def _above(order: Order) -> list[Account]:
    accounts = [a for a in order.facts.accounts.values() if a.active and a.id != order.account.id]
    chief = next((a for a in accounts if a.id == order.account.supervisor), None)
    supervisors = [a for a in accounts if Role.SUPERVISOR in a.roles]
    return [chief] if chief else supervisors or [a for a in accounts if Role.ADMINISTRATOR in a.roles]


def _show(order: Order, ticket: TicketFacts) -> Decision:
    """Number and subject to everybody of us; who and where only to whom the job is given."""
    mine = ticket.assignee == order.account.id
    where = ", ".join(reach.address for reach in ticket.reach[:2]) if mine else ""
    told = _answer(
        order,
        NoticeKind.LIST,
        say="show",
        number=ticket.number,
        status=str(ticket.status),
        subject=ticket.subject,
        where=where,
        entry_of=ticket.number,
    )
    return Decision(DONE, "show", order.step(f"shows #{ticket.number}"), ticket=ticket.number, notices=told)


def _mine(order: Order) -> Decision:
    numbers = order.facts.jobs[:LISTED]
    if not numbers:
        told = _answer(order, NoticeKind.LIST, say="no-jobs")
        return Decision(DONE, "mine", order.step("he has no job"), notices=told)
    lines = [[n, order.facts.tickets[n].subject] for n in numbers]
    more = len(order.facts.jobs) - len(numbers)
    told = _answer(order, NoticeKind.LIST, say="mine", lines=lines, more=more)
    ask = Ask(
        order.facts.number, order.facts.phone.number, QuestionKind.LIST, order.facts.now + LIST_LIFE, tuple(numbers)
    )
    return Decision(DONE, "mine", order.step(f"{len(order.facts.jobs)} jobs"), notices=told, asks=(ask,))


def _words(order: Order) -> Decision:
    told = _answer(order, NoticeKind.LIST, say="commands")
    return Decision(DONE, "commands", order.step("the words"), notices=told)


def _undo(order: Order) -> Decision:
    """Takes his last command back, within ten minutes: the ticket is as before, what is held is not sent."""
    named = order.said.number
    meant = [last for last in order.facts.orders if named in (None, last.ticket)]
    last = meant[0] if meant else None
    limit = timedelta(seconds=order.config.undo.command)
    if last is None or last.undone or order.facts.now - last.at > limit or last.ticket not in order.facts.tickets:
        told = _answer(order, NoticeKind.ECHO, say="nothing-to-undo")
        return Decision(DONE, "nothing-to-undo", order.step("nothing to undo"), notices=told)
    ticket = order.facts.tickets[last.ticket]
    held = [t for t in last.told if t.state in (OutboxState.HELD, OutboxState.READY)]
    gone = next(
        (t for t in last.told if t.state in (OutboxState.SENT, OutboxState.SENDING, OutboxState.UNCERTAIN)), None
    )
    customer = gone is not None and gone.kind in (NoticeKind.ANSWER, NoticeKind.CLOSING)
    at = gone.at.astimezone(order.zone) if gone and gone.at else None
    shown: dict[str, Any] = {"at": f"{at:%H:%M}" if at else "already"} if customer else {}
    # What others did since stays; what has not left yet is stopped all the same.
    say = "overtaken" if last.overtaken else "undone-told" if customer else "undone"
    event = _event(order, "undone", {"entry": last.entry, "verb_undone": last.verb} | shown)
    return Decision(
        DONE,
        "undone",
        order.step(f"takes {last.verb} on #{last.ticket} back"),
        ticket=ticket.number,
        entries=(event,),
        changes={} if last.overtaken else dict(last.before),
        outbox_changes={
            t.outbox: {"state": "cancelled", "result": "taken back", "done_at": order.facts.now} for t in held
        },
        notices=_echo(order, ticket, say, verb=last.verb.upper(), **shown),
    )


ON_A_TICKET: dict[Verb, Callable[[Order, TicketFacts], Decision]] = {
    Verb.TAKE: _take,
    Verb.DROP: _drop,
    Verb.ETA: _eta,
    Verb.HERE: _here,
    Verb.NOTE: _note,
    Verb.HOLD: _hold,
    Verb.ASSIGN: _assign,
    Verb.AGAIN: _again,
    Verb.REPLY: _reply,
    Verb.DONE: _done,
    Verb.REOPEN: _reopen,
    Verb.ESCALATE: _escalate,
    Verb.SHOW: _show,
}
ALONE: dict[Verb, Callable[[Order], Decision]] = {Verb.MINE: _mine, Verb.UNDO: _undo, Verb.COMMANDS: _words}


# -- pieces ------------------------------------------------------------------------------------------------------


def _done_it(
    order: Order,
    ticket: TicketFacts,
    what: str,
    changes: Mapping[str, Any],
    data: Mapping[str, Any] | None = None,
    told: tuple[Notice, ...] = (),
    **say: Any,
) -> Decision:
    """A command was executed: the event with what was before, his words as a note, the echo."""
    event = _event(order, what, {**_spoken(order, order.said.verb), **(data or {})})
    words = order.said.text
    remark = (
        (_written(order, Kind.NOTE, what, words, public=False, data={}),) if words or order.media or order.files else ()
    )
    return Decision(
        DONE,
        "command",
        order.step(f"{order.said.verb} #{ticket.number}"),
        ticket=ticket.number,
        entries=(event, *remark),
        changes=changes,
        remember=True,
        notices=(*told, *_echo(order, ticket, what, **say)),
    )


def _already(order: Order, ticket: TicketFacts, say: str, **data: Any) -> Decision:
    """It is so already, or cannot be: nothing changes, and he is told how it stands."""
    closed = ticket.closed_at.astimezone(order.zone) if ticket.closed_at else None
    told = _echo(order, ticket, say, entry=None, at=f"{closed:%H:%M}" if closed else "", **data)
    return Decision(DONE, say, order.step(f"#{ticket.number}: {say}"), ticket=ticket.number, notices=told)


def _misused(order: Order, ticket: TicketFacts, verb: Verb) -> Decision:
    told = _answer(order, NoticeKind.USAGE, say="misused", usage=VERBS[verb].usage)
    return Decision(DONE, "misused", order.step(f"{verb} needs more"), ticket=ticket.number, notices=told)


def _saying(told: tuple[Notice, ...], order: Order, what: str, why: str = "") -> tuple[Notice, ...]:
    """Notices with a first line that says who did what, and in his words why."""
    words = f"{order.name} {what} this" + (f": {why}" if why else ".")
    return tuple(replace(one, data={**one.data, "words": words}) for one in told)


def _echo(order: Order, ticket: TicketFacts, say: str, entry: int | None = 0, **data: Any) -> tuple[Notice, ...]:
    return _answer(
        order,
        NoticeKind.ECHO,
        entry,
        key="echo:{inbound}",
        say=say,
        number=ticket.number,
        subject=ticket.subject,
        **data,
    )


def _answer(order: Order, kind: NoticeKind, entry: int | None = None, key: str = "", **data: Any) -> tuple[Notice, ...]:
    """To the phone or the mailbox on file, by the way he wrote. Nothing when what he writes is no command, again and
    again: it may be a machine that answers ours."""
    if (
        order.said.kind is not SaidKind.COMMAND
        and _no_command_lately(order) >= order.config.limits.sms_automatic_per_hour
    ):
        return ()
    key = key or f"{kind}:{{inbound}}"
    if order.channel is not Channel.SMS or order.facts.phone.opted_out:
        shown = NoticeKind.ECHO
        return (Notice(shown, Medium.MAIL, order.account.address, key, entry, account=order.account.id, data=data),)
    return (
        Notice(
            kind,
            Medium.SMS,
            order.facts.phone.number,
            key,
            entry,
            account=order.account.id,
            numbers=(order.facts.number,),
            data=data,
        ),
    )


def _no_command_lately(order: Order) -> int:
    """How many texts in a row, within the hour, were no commands."""
    count = 0
    for heard in order.facts.heard:
        if heard.reason in EXECUTED or order.facts.now - heard.at > COMMANDS_OFF:
            break
        count += 1
    return count


def _spoken(order: Order, verb: Verb | None) -> dict[str, Any]:
    """What the history keeps of a command."""
    return {"verb": str(verb), "said": order.text[:500]}


def _event(order: Order, what: str, data: Mapping[str, Any]) -> NewEntry:
    return NewEntry(
        Kind.EVENT, order.channel, order.name, account=order.account.id, public=False, reason=what, data=data
    )


def _written(order: Order, kind: Kind, reason: str, text: str, public: bool, data: Mapping[str, Any]) -> NewEntry:
    pictures = {"pictures": len(order.media)} if order.media else {}
    return NewEntry(
        kind,
        order.channel,
        order.name,
        account=order.account.id,
        public=public,
        reason=reason,
        text=text,
        files=order.files,
        message_ids=order.message_ids,
        media=order.media,
        media_of=order.media_of,
        data={**data, **pictures},
    )
