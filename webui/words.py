"""How things are said on a page: times, sizes, reasons as sentences. Only the present comes from the request."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from jinja2 import Environment
from markupsafe import Markup, escape

from gateway.queries import MANY, SHOWN, Colleague, Delivery, EntryLine, TicketLine, TicketPage
from gateway.values import InboundState, MessageClass, OutboxState, Status
from webui import context

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
ICONS = {"mail": "mail", "sms": "sms", "call": "phone-missed", "web": "mail", "api": "link", "clock": "clock"}
NOT_SENT = "not sent: no mail server configured"  # the result that the transport without a server writes
SOON = timedelta(hours=4)
LINKS = re.compile(r"https?://[^\s<>\"']{1,2000}")


def install(environment: Environment) -> None:
    """Makes them filters and names of the templates."""
    for function in (clock, ago, iso, size, initials, paragraphs, many, reason, channel):
        environment.filters[function.__name__] = function
    environment.globals.update(
        due=due, due_of=due_of, ICONS=ICONS, STATES=STATES, STATUSES=STATUSES, SHOWN=SHOWN, event=event,
        delivery=delivery, machine=machine, next_step=next_step, seconds_left=seconds_left, told=told,
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


def reason(name: str) -> str:
    """A reason as a sentence."""
    return REASONS.get(name, name.replace("-", " "))


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


def event(entry: EntryLine, colleagues: Sequence[Colleague]) -> str:
    """A change on the ticket as a sentence."""
    names = {colleague.id: colleague.name for colleague in colleagues}
    who = names.get(entry.account or 0, "")
    by = f" by {who}" if who else ""
    if entry.reason == "assigned":
        to = entry.data.get("account")
        if to is None:
            return f"Given back by {who}: nobody’s now"
        return f"{who} took it" if to == entry.account else f"Given to {names.get(to, 'a colleague')}{by}"
    if entry.reason == "opened":
        return _opened(entry)
    if entry.reason == "closed":
        blocked = ", and the sender blocked" if entry.data.get("blocked") else ""
        return f"Closed{by}: {entry.data.get('reason', '')}{blocked}"
    plain = {"reopened": f"Opened again{by}", "taken-back": f"An answer was taken back{by}, it was not sent"}
    return plain.get(entry.reason, f"{entry.reason.replace('-', ' ').capitalize()}{by}")


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


def delivery(sent: Delivery, expected: str = "") -> Fate:
    """Sent 14:02 · Not sent: no mail server configured · Goes out at 14:03 · Not delivered: … .

    `expected` is whom everybody expects it to go to: he is not named again.
    """
    at = clock(sent.done_at) if sent.done_at else ""
    to = "" if sent.recipient == expected else f" to {sent.recipient}"
    if sent.state is OutboxState.SENT:
        if sent.result == NOT_SENT:
            return Fate("alert", f"Not sent{to}: no mail server configured", file=True)
        return Fate("check", f"Sent{to} {at}")
    if sent.state is OutboxState.HELD:
        when = f"Goes out{to} at {clock(sent.not_before)}" if sent.not_before else f"Waits for a release{to}"
        return Fate("clock", when)
    if sent.state is OutboxState.CANCELLED:
        return Fate("undo", f"Taken back {at}, not sent{to}")
    if sent.state in (OutboxState.DEAD, OutboxState.UNCERTAIN):
        words = "May not have arrived" if sent.state is OutboxState.UNCERTAIN else "Not delivered"
        return Fate("alert", f"{words}{to}: {sent.result or 'no reason given'}", True)
    if sent.attempts and sent.result:
        again = f", again at {clock(sent.not_before)}" if sent.not_before else ""
        return Fate("clock", f"Not yet sent{to} after {_tries(sent.attempts)}: {sent.result}{again}", True)
    return Fate("clock", f"Goes out now{to}")


def next_step(ticket: TicketPage, account: int) -> str:
    """What has to happen next, in a sentence."""
    if ticket.status is Status.CLOSED:
        when = f" {clock(ticket.closed_at)}" if ticket.closed_at else ""
        return f"Nothing: closed{when}, {ticket.closing_reason}"
    if ticket.status is Status.WAITING:
        return f"{ticket.requester.name} answers"
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
    names = [sent.recipient for sent in deliveries if sent.kind in ("notice", "echo")]
    return f"told {', '.join(names)}" if names else ""


def _tries(number: int) -> str:
    return "one try" if number == 1 else f"{number} tries"
