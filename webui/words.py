"""How things are said on a page: times, sizes, reasons as sentences. Only the present comes from the request."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from jinja2 import Environment
from markupsafe import Markup, escape

from gateway import phones, segments
from gateway.queries import MANY, SHOWN, Colleague, Delivery, EntryLine, TicketLine, TicketPage
from gateway.store.outbox import TWICE
from gateway.values import Delivery as Receipt
from gateway.values import InboundState, Kind, Medium, MessageClass, NoticeKind, OutboxState, Status
from webui import context, sms

# Why a message waits, is filed or landed where it did, as the mailroom says it. What is not here is said as it is.
REASONS = {
    "unverified-sender": "Nothing proves that the sender is who the From line says",
    "needs-sorting": "It has no usable sender: nobody could be answered",
    "automatic-unmatched": "A machine wrote it, and it answers none of our mails",
    "bounce-unmatched": "A delivery report about a mail that none of our tickets knows",
    "over-limit": "This sender opened too many tickets within an hour",
    "unreadable": "It could not be read; the raw mail is kept",
    "unknown-recipient": "It was sent to an address that is no inbox of ours",
    "our-error": "Our own error stopped it; the trace says where",
    "blocked-sender": "The sender is blocked",
    "duplicate": "The same mail came before",
    "own-mail": "We sent it ourselves and it came back",
    "new": "It named no ticket: a new one",
    "possibly-same": "A new ticket, perhaps the same as another one",
    "closed-long-ago": "Its ticket was closed long ago: a new one",
    "other-subject": "It answers an old ticket about something else: a new one",
    "forwarded": "It was forwarded: a new ticket",
    "reply-token": "The signed reply address names the ticket",
    "message-id": "It answers a mail that we sent",
    "quoted-token": "It quotes our signed address",
    "references": "It answers a mail of the ticket",
    "pseudo-reference": "It answers our mail thread",
    "ancestor": "It belongs to the same thread",
    "subject-tag": "The number in its subject names the ticket",
    "message-id-reused": "Its Message-ID was used before on the ticket",
    "ping-pong": "The sender wrote the same several times within ten minutes",
    "ruling": "One of us said that it belongs here",
    "filed-away": "One of us said that nobody needs it",
    "auto-reply": "An automatic answer to the ticket",
    "ooo": "Out of office: an automatic answer to the ticket",
    "bounce-hard": "Our mail came back: it could not be delivered",
    "bounce-soft": "Our mail is delayed on its way",
    "delayed": "Our mail is delayed on its way",
    "delivered": "A receipt: our mail was delivered",
    "complaint": "The recipient called our mail spam",
    "reference": "It names the number of the ticket",
    "menu": "The sender was asked, and chose this ticket",
    "pool": "It came to the number that carries this conversation",
    "burst": "It goes on where the message before went, at most two minutes earlier",
    "only-one": "It is the only ticket of this phone",
    "recent": "A guess: we wrote to this phone about this ticket last",
    "guessed": "A guess: the sender was asked and did not answer, and this ticket moved last",
    "machine": "A machine wrote it: one ticket a day, and no answer",
    "new-by-word": "One of us wrote NEW: as a customer",
    "thanks": "Thanks and nothing else: a closed ticket stays closed",
    "reaction": "A reaction to one of our messages",
    "opt-out": "STOP: no SMS goes to this phone any more",
    "opt-in": "START: SMS are wanted again",
    "help": "HELP: what we are and how to stop it was answered",
    "status": "It asks how far the requests are",
    "empty": "There is nothing in it",
    "command": "A command of one of us",
    "note": "A note of one of us",
    "undone": "UNDO of one of us",
    "mistyped": "Nearly a command: the nearest words were sent back",
    "bare-ok": "OK, and no job was offered",
    "needs-code": "The command needs a code, which was sent",
    "wrong-code": "A wrong code",
    "commands-off": "Five wrong codes: this phone gives no commands for an hour",
    "enrolled": "The phone showed its code",
    "receipt": "A receipt for an SMS of ours",
    "receipt-unmatched": "A receipt for an SMS that is not ours",
}
SMS_REASONS = {  # where a text message needs other words than a mail
    "needs-sorting": "It may be about more than one ticket, or about none",
    "over-limit": "More came from this phone than is allowed at once",
    "unknown-recipient": "It was sent to a number that is not ours",
    "duplicate": "The same message came before",
    "new": "This phone has no open ticket: a new one",
    "unreadable": "It could not be read; it is kept as it came",
}
MACHINES = {
    MessageClass.AUTO_REPLY: "An automatic answer",
    MessageClass.OUT_OF_OFFICE: "Out of office",
    MessageClass.BOUNCE_HARD: "Came back: could not be delivered",
    MessageClass.BOUNCE_SOFT: "Delayed on its way",
    MessageClass.DELAYED: "Delayed on its way",
    MessageClass.DELIVERED: "Was delivered",
    MessageClass.COMPLAINT: "Called spam by its recipient",
}
STATES = {
    InboundState.NEW: "Being read",
    InboundState.DONE: "Filed",
    InboundState.DUPLICATE: "Duplicate",
    InboundState.LOOP: "Our own",
    InboundState.PARKED: "Parked",
    InboundState.FAILED: "Failed",
}
STATUSES = {Status.NEW: "New", Status.OPEN: "Open", Status.WAITING: "Waiting for an answer", Status.CLOSED: "Closed"}
CHANNELS = {"mail": "mail", "sms": "SMS", "call": "call", "web": "mail", "api": "API", "clock": "clock"}
NOTES = {"thanks": "says thanks", "reaction": "reacts"}  # of a customer: they change nothing
# What happened, as a sentence. `by` is " by Ada" or " by Tom’s SMS", `how` is " by SMS" after a command.
EVENTS = {
    "taken": "{who} took it{how}",
    "dropped": "{who} gave it back{how}",
    "eta": "{who} will be there at {shown}",
    "arrived": "{who} is there",
    "held": "Paused{by} until {shown}",
    "second-visit": "{who} asks for a second visit",
    "reopened": "Opened again{by}",
    "escalated": "Escalated{by} to {to}",
    "taken-back": "An answer was taken back{by}, it was not sent",
    "undone": "{who} took “{verb_undone}” back{how}",
    "opted-out": "{address} said STOP: no SMS goes there any more",
    "opted-in": "{address} wants SMS again",
    "automatic-off": "The phone writes like a machine: nothing goes to it by itself for a day",
    "sms-undelivered": "The SMS to {to} did not arrive: {because}",
    "picture-missing": "A picture is missing: {words}",
    "awake": "The pause is over",
    "moved-in": "A message was moved here from {source}{by}",
    "moved-out": "A message was moved to {target}{by}",
    "status-asked": "{address} asked by SMS how far it is",
}
# How far the provider has got with an SMS, in the words of the line below it.
PROGRESS = {
    Receipt.DELIVERED: "Delivered",
    Receipt.READ: "Read",
}
FAILED = (Receipt.UNDELIVERED, Receipt.FAILED, Receipt.CANCELED)
TO_CUSTOMERS = (NoticeKind.ANSWER, NoticeKind.ACKNOWLEDGEMENT, NoticeKind.CLOSING)
TO_US = (NoticeKind.NOTICE, NoticeKind.ECHO, NoticeKind.JOB)
ICONS = {"mail": "mail", "sms": "sms", "call": "phone-missed", "web": "mail", "api": "link", "clock": "clock"}
NOT_SENT = "not sent: "  # so begins the result that a transport without a server writes
SOON = timedelta(hours=4)
LINKS = re.compile(r"https?://[^\s<>\"']{1,2000}")


def install(environment: Environment) -> None:
    """Makes them filters and names of the templates."""
    for function in (clock, day, ago, iso, size, initials, paragraphs, many, reason, channel, spoken, person):
        environment.filters[function.__name__] = function
    environment.globals.update(
        due=due, due_of=due_of, ICONS=ICONS, STATES=STATES, STATUSES=STATUSES, SHOWN=SHOWN, event=event,
        delivery=delivery, machine=machine, next_step=next_step, seconds_left=seconds_left, told=told, went=went,
        shown_fates=shown_fates, undone=undone, pictures_coming=pictures_coming, why_shut=sms.why_shut, NOTES=NOTES,
    )  # fmt: skip


# -- times -------------------------------------------------------------------------------------------------------


def clock(at: datetime) -> str:
    """today 14:02 · Sun 21:47 · 2 Nov 09:15 · 2 Nov 2025, in the firm's time zone."""
    now = context.now()
    at = at.astimezone(now.tzinfo)
    days = (now.date() - at.date()).days
    if days == 0:
        return f"{at:%H:%M}"
    if abs(days) < 7:
        return f"{at:%a %H:%M}"
    return f"{at.day} {at:%b %H:%M}" if at.year == now.year else f"{at.day} {at:%b %Y}"


def day(at: datetime) -> str:
    """3 Nov, or 3 Nov 2025."""
    now = context.now()
    at = at.astimezone(now.tzinfo)
    return f"{at.day} {at:%b}" if at.year == now.year else f"{at.day} {at:%b %Y}"


def iso(at: datetime) -> str:
    """For `<time datetime>`."""
    return at.strftime("%Y-%m-%dT%H:%MZ")


def span(length: timedelta) -> str:
    """29 min · 2 h 10 · 3 d."""
    minutes = int(length.total_seconds() // 60)
    if minutes < 60:
        return f"{minutes} min"
    if minutes < 24 * 60:
        return f"{minutes // 60} h {minutes % 60:02}" if minutes % 60 else f"{minutes // 60} h"
    return f"{minutes // 1440} d"


def ago(at: datetime) -> str:
    """18 min ago, or the clock for what is longer ago than a day."""
    length = context.now() - at
    if length < timedelta(minutes=1):
        return "just now"
    return f"{span(length)} ago" if length < timedelta(days=1) else clock(at)


def seconds_left(at: datetime) -> int:
    """Whole seconds until then, at least one."""
    return max(1, int((at - context.now()).total_seconds() + 0.999))


@dataclass(frozen=True, slots=True)
class Due:
    """A mark: its class (late, soon, asleep or none), the icon that goes with it, the words."""

    css: str
    icon: str
    words: str


def due_of(at: datetime | None, before: str = "") -> Due:
    """When something is due: late is filled, soon outlined, later plain."""
    if at is None:
        return Due("", "", "")
    now = context.now()
    if at < now:
        return Due("late", "alert", f"{span(now - at)} late")
    return Due("soon" if at - now < SOON else "", "clock" if at - now < SOON else "", f"{before}{clock(at)}")


def due(ticket: TicketLine) -> Due:
    """The mark of a ticket in a list."""
    if ticket.status is Status.CLOSED:
        return Due("", "", clock(ticket.updated_at))
    if ticket.next_at is None:
        return (
            Due("asleep", "snooze", "till a reply") if ticket.status is Status.WAITING else Due("", "", "nothing due")
        )
    return due_of(ticket.next_at)


# -- sizes, names, texts -----------------------------------------------------------------------------------------


def size(count: int) -> str:
    """214 KB, 1.2 MB."""
    if count < 1000:
        return f"{count} B"
    return f"{count / 1000:.0f} KB" if count < 1_000_000 else f"{count / 1_000_000:.1f} MB"


def many(count: int) -> str:
    """A count that stopped counting says so."""
    return f"{MANY - 1}+" if count >= MANY else str(count)


def initials(name: str) -> str:
    """AN for Ada Novak."""
    words = [word for word in re.split(r"[\s.@_-]+", name) if word]
    return "".join(word[0] for word in (words[0], words[-1]))[: len(words)].upper() if words else "–"


def channel(name: str) -> str:
    """How it came, in a word."""
    return CHANNELS.get(name, name)


def spoken(address: str) -> str:
    """+44 7700 900123 for a phone number; a mail address stays as it is."""
    return phones.spoken(address) if address.startswith("+") else address


def person(name: str) -> str:
    """Somebody’s name; whoever is only known by his phone is named by it."""
    return spoken(name.removeprefix("unknown ")) if name.startswith(("+", "unknown +")) else name


def reason(name: str, by: str = "mail") -> str:
    """A reason as a sentence; `by` is the channel."""
    said = SMS_REASONS.get(name) if by == "sms" else None
    return said or REASONS.get(name, name.replace("-", " "))


def paragraphs(text: str) -> Markup:
    """Plain text as paragraphs with its links; line breaks and indentation stay (`white-space: pre-wrap`)."""
    text = text[:SHOWN].strip("\r\n")
    return Markup("").join(
        Markup("<p>{}</p>").format(_linked(part.strip("\n"))) for part in re.split(r"\n[ \t]*\n", text) if part.strip()
    )


def _linked(text: str) -> Markup:
    pieces, end = [], 0
    for found in LINKS.finditer(text):
        url = found.group().rstrip(".,;:!?)]}’”")
        pieces.append(escape(text[end : found.start()]))
        pieces.append(Markup('<a href="{0}" rel="noreferrer nofollow" target="_blank">{0}</a>').format(url))
        end = found.start() + len(url)
    return Markup("").join((*pieces, escape(text[end:])))


# -- what happened -----------------------------------------------------------------------------------------------


def event(entry: EntryLine, colleagues: Sequence[Colleague]) -> Markup:
    """A change on the ticket as a sentence."""
    names = {colleague.id: colleague.name for colleague in colleagues}
    who = names.get(entry.account or 0, "")
    how = {"sms": " by SMS", "mail": " by mail"}.get(entry.channel, "") if "said" in entry.data else ""
    by = f" by {who}{'’s' + how.removeprefix(' by') if how else ''}" if who else ""
    if entry.reason == "assigned":
        return escape(_assigned(entry, names, who, by))
    if entry.reason == "opened":
        return escape(_opened(entry))
    if entry.reason == "closed":
        blocked = ", and the sender blocked" if entry.data.get("blocked") else ""
        return escape(f"Closed{by}: {entry.data.get('reason', '')}{blocked}")
    sentence = EVENTS.get(entry.reason)
    if sentence is None:
        return escape(f"{entry.reason.replace('-', ' ').capitalize()}{by}")
    values: dict[str, Any] = dict.fromkeys(("shown", "words", "verb_undone"), "") | entry.data
    values |= _values(entry, names) | {"who": who or "Somebody", "by": by, "how": how}
    return escape(sentence).format(**values) + _afterwards(entry)


def _values(entry: EntryLine, names: dict[int, str]) -> dict[str, Any]:
    data = entry.data
    to = data.get("to", "")
    told = ", ".join(names.get(one, "a colleague") for one in to) or "nobody" if isinstance(to, list) else spoken(to)
    refusal = " ".join(str(data[name]) for name in ("code", "words") if data.get(name))
    return {
        "to": told,
        "because": refusal or str(data.get("why", "")).replace("-", " "),
        "address": spoken(entry.address) or "A phone",
        "source": ticket_link(data.get("source")),
        "target": ticket_link(data.get("target")),
    }


def _afterwards(entry: EntryLine) -> str:
    """What has to be known besides."""
    if entry.reason == "undone" and entry.data.get("at"):
        at = entry.data["at"]
        return "; the customer was told already" if at == "already" else f"; the customer was told at {at}"
    if entry.reason == "second-visit" and entry.data.get("at"):
        return f", {clock(datetime.fromisoformat(entry.data['at']))}"
    return ""


def ticket_link(number: object) -> Markup:
    """#1001 as a link; "another ticket" for none."""
    if not isinstance(number, int):
        return Markup("another ticket")
    return Markup('<a href="/tickets/{0}">#{0}</a>').format(number)


def _assigned(entry: EntryLine, names: dict[int, str], who: str, by: str) -> str:
    to = entry.data.get("account")
    if to is None:
        return f"Given back by {who}: nobody’s now"
    return f"{who} took it" if to == entry.account else f"Given to {names.get(to, 'a colleague')}{by}"


def undone(entries: Sequence[EntryLine]) -> frozenset[int]:
    """The entries that were taken back: a command's event with its note or answer, or an answer of the page."""
    targets = {e.data.get("entry") for e in entries if e.reason in ("undone", "taken-back") and e.kind is Kind.EVENT}
    causes = {e.inbound for e in entries if e.id in targets and e.inbound}
    return frozenset(e.id for e in entries if e.id in targets or (e.inbound in causes and e.account))


def pictures_coming(entry: EntryLine, entries: Sequence[EntryLine]) -> int:
    """How many pictures of a text message are still on their way to us."""
    missing = sum(1 for e in entries if e.reason == "picture-missing" and e.data.get("entry") == entry.id)
    return max(0, int(entry.data.get("pictures", 0)) - len(entry.files) - missing)


def went(entry: EntryLine) -> Delivery | None:
    """How an answer went to the customer."""
    return next((sent for sent in entry.deliveries if sent.kind == NoticeKind.ANSWER), None)


def _opened(entry: EntryLine) -> str:
    words = "Ticket opened"
    if entry.data.get("acknowledged"):
        words += ". Acknowledged"
    elif why := entry.data.get("why_not"):
        words += f". No acknowledgement: {why}"
    return words + (f". Perhaps the same as #{entry.data['linked']}" if entry.data.get("linked") else "")


def machine(entry: EntryLine) -> str:
    """What kind of machine wrote an automatic entry."""
    return next((words for kind, words in MACHINES.items() if kind == entry.reason), "An automatic message")


@dataclass(frozen=True, slots=True)
class Fate:
    """What became of a message we sent: an icon, words, and whether it needs somebody."""

    icon: str
    words: str
    bad: bool = False
    file: bool = False  # nobody got it: the page offers it


def delivery(sent: Delivery, expected: str = "", text: str = "") -> Fate:
    """Sent 14:02 · Delivered 14:03, 2 SMS, 0.08 GBP · Goes out at 14:03 · Not delivered: … .

    `expected` is whom everybody expects it to go to: he is not named again. `text` is what an SMS says, where known.
    """
    to = "" if sent.recipient == expected else f" to {spoken(sent.recipient)}"
    fate = _fate(sent, to)
    if sent.medium != Medium.SMS:
        return fate
    twice = f", {TWICE}" if sent.result.startswith(TWICE) else ""
    return replace(fate, words=f"{fate.words}{twice}{_cost(sent, text)}", file=False)


def _fate(sent: Delivery, to: str) -> Fate:
    at = clock(sent.done_at) if sent.done_at else ""
    if sent.state is OutboxState.SENT:
        if sent.result.startswith(NOT_SENT):
            return Fate("alert", f"Not sent{to}: {sent.result.removeprefix(NOT_SENT)}", file=True)
        if sent.status in PROGRESS and sent.status_at:
            return Fate("check", f"{PROGRESS[Receipt(sent.status)]}{to} {clock(sent.status_at)}")
        if sent.status in FAILED:
            return Fate("alert", f"Not delivered{to}{_refusal(sent)}", True)
        return Fate("check", f"Sent{to} {at}")
    if sent.state is OutboxState.HELD:
        when = f"Goes out{to} at {clock(sent.not_before)}" if sent.not_before else f"Waits for a release{to}"
        return Fate("clock", when)
    if sent.state is OutboxState.CANCELLED:
        return Fate("undo", f"Taken back{' ' + at if at else ''}, not sent{to}")
    if sent.state in (OutboxState.DEAD, OutboxState.UNCERTAIN):
        words = "May not have arrived" if sent.state is OutboxState.UNCERTAIN else "Not delivered"
        return Fate("alert", f"{words}{to}{_refusal(sent)}", True)
    if sent.attempts and sent.result:
        again = f", again at {clock(sent.not_before)}" if sent.not_before else ""
        said = _unprefixed(sent.result) or "nobody knows whether it arrived"
        return Fate("clock", f"Not yet sent{to} after {_tries(sent.attempts)}: {said}{again}", True)
    return Fate("clock", f"Goes out now{to}")


def _refusal(sent: Delivery) -> str:
    """Why: a mail server's sentence after a colon, a provider's code and words in brackets."""
    said = _unprefixed(sent.result) or "no reason given"
    if sent.medium != Medium.SMS:
        return f": {said}"
    return f" ({sent.code}: {said})" if sent.code else f" ({said})"


def _unprefixed(result: str) -> str:
    return result.removeprefix(TWICE).removeprefix("; ")


def _cost(sent: Delivery, text: str) -> str:
    """2 SMS, 0.08 GBP: what the provider said, else our own count and estimate."""
    count = sent.segments or (segments.count(text.strip()).segments if text.strip() else 0)
    if sent.state in (OutboxState.CANCELLED, OutboxState.DEAD) or not count:
        return ""
    if sent.price:
        return f", {count} SMS, {sms.money(sent.price, sent.currency)}"
    cost = sms.estimate(count, context.site().config.way(sent.number))
    return f", {count} SMS" + (f", {cost}" if cost else "")


def shown_fates(entry: EntryLine) -> list[Delivery]:
    """The deliveries that a page shows: everything to the customer, and what did not arrive."""
    bad = (OutboxState.DEAD, OutboxState.UNCERTAIN)
    return [sent for sent in entry.deliveries if sent.kind in TO_CUSTOMERS or sent.state in bad]


def next_step(ticket: TicketPage, account: int) -> str:
    """What has to happen next, in a sentence."""
    if ticket.status is Status.CLOSED:
        when = f" {clock(ticket.closed_at)}" if ticket.closed_at else ""
        return f"Nothing: closed{when}, {ticket.closing_reason}"
    if ticket.status is Status.WAITING:
        return f"{person(ticket.requester.name)} answers"
    mine = ticket.assignee is not None and ticket.assignee.id == account
    who = (
        "You answer"
        if mine
        else f"{ticket.assignee.name} answers"
        if ticket.assignee
        else "Somebody takes it and answers"
    )
    return who + (f" by {clock(ticket.due_at)}" if ticket.due_at else "")


def told(deliveries: Sequence[Delivery]) -> str:
    """Who of us was told of an entry, in a sentence; "" for nobody."""
    names = [spoken(sent.recipient) for sent in deliveries if sent.kind in TO_US]
    return f"told {', '.join(names)}" if names else ""


def _tries(number: int) -> str:
    return "one try" if number == 1 else f"{number} tries"
