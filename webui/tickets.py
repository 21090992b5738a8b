"""One ticket: what was said, what becomes of it, and every action as a form.

A form's errors come back as words on the page, with what was typed. Files are uploaded with the form.
"""

from __future__ import annotations

import mimetypes
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePosixPath

from flask import Blueprint, abort, flash, redirect, request
from werkzeug.wrappers import Response

from gateway import costs, queries, store
from gateway.addresses import mail_address
from gateway.queries import TicketPage
from gateway.values import (
    Action,
    Answer,
    Assign,
    Close,
    FilePart,
    Medium,
    Move,
    Permanent,
    Read,
    Remark,
    Reopen,
    Spam,
    Temporary,
    Undo,
    Write,
)
from webui import sms
from webui.context import local_path, me, number, page, perform, site
from webui.files import picture_type

pages = Blueprint("tickets", __name__)

MOST_FILES = 20
MOST_AT_ONCE = 200


@dataclass(frozen=True, slots=True)
class Typed:
    """What stood in the composer when something did not work, and the words for it. `by` is mail, sms or note; "" as
    the customer last wrote."""

    text: str = ""
    by: str = ""
    reason: str = ""
    words: str = ""
    lost_files: bool = False


# -- looking -----------------------------------------------------------------------------------------------------


@pages.get("/tickets/<id:ticket>")
def show(ticket: int) -> Response:
    """The ticket; `again` puts the words of an answer that was taken back into the composer, with `by=mail` those of
    an SMS that did not arrive. `move` names a message that belongs elsewhere."""
    found = _ticket(ticket)
    answer = _page(found, _again(found))
    if found.unread and request.method == "GET":
        answer.call_on_close(_mark_read(ticket))
    return answer


def _again(ticket: TicketPage) -> Typed:
    again, by = number(request.args.get("again", "")), request.args.get("by", "")
    if not again:
        return Typed()
    if by == Medium.MAIL:
        return Typed(queries.answer_of(ticket.number, again), by)
    went = next((e.deliveries for e in ticket.entries if e.id == again), ())
    return Typed(queries.said(again, me().id), next((str(sent.medium) for sent in went if sent.kind == "answer"), ""))


def _ticket(ticket: int) -> TicketPage:
    before, after = number(request.args.get("before", "")), number(request.args.get("after", ""))
    return queries.ticket(ticket, before or 0, after or 0) or abort(404)


def _page(ticket: TicketPage, typed: Typed, status: int = 200) -> Response:
    config = site().config
    ways = sms.ways_of(ticket.number, config)
    chosen = typed.by or str(ways.preferred)
    return page(
        "tickets/ticket.html",
        status,
        ticket=ticket,
        typed=typed,
        ways=ways,
        chosen=chosen if chosen == "note" or _can(ways, chosen) else str(ways.preferred),
        moving=number(request.args.get("move", "")),
        colleagues=queries.accounts(),
        inbox=config.inbox(ticket.inbox),
        reasons=config.closing.reasons,
        cost=sms.in_words(costs.of_ticket(ticket.number)) if config.sms else "",
        nonce=secrets.token_urlsafe(9),
    )


def _can(ways: sms.Ways, by: str) -> bool:
    way = ways.by(by)
    return way is not None and not way.out


def _mark_read(ticket: int) -> Callable[[], None]:
    """Reading must not wait for writing: the page is out before the mark is set."""
    perform, reader = site().perform, me()

    def mark() -> None:
        try:
            with store.connection():
                perform(Read(ticket), reader)
        except (Permanent, Temporary):
            pass  # it stays unread, which is no harm

    return mark


# -- answering ---------------------------------------------------------------------------------------------------


@pages.post("/tickets/<id:ticket>/answer")
def answer(ticket: int) -> Response:
    """Sends and waits, or sends and closes."""
    form = request.form
    typed = Typed(form.get("text", ""), form.get("by", ""), form.get("reason", ""))
    if typed.by == "note":
        return note(ticket)
    by = Medium(typed.by) if typed.by in (Medium.MAIL, Medium.SMS) else None
    then = "close" if form.get("do") == "close" else "wait"
    found = _ticket(ticket)

    def do() -> str:
        seen = number(form.get("seen", "")) or 0
        reason = typed.reason if then == "close" else ""
        written = perform(Answer(ticket, typed.text, _uploads(), then, reason, seen, by))
        return f"/?sent={written.entries[0]}" if then == "close" else f"/tickets/{ticket}?sent={written.entries[0]}"

    return _once(found, typed, do)


@pages.post("/tickets/<id:ticket>/note")
def note(ticket: int) -> Response:
    """Keeps an internal note."""
    typed = Typed(request.form.get("text", ""), "note")

    def do() -> str:
        written = perform(Remark(ticket, typed.text, _uploads()))
        return f"/tickets/{ticket}#e{written.entries[0]}"

    return _once(_ticket(ticket), typed, do)


def _once(ticket: TicketPage, typed: Typed, do: Callable[[], str]) -> Response:
    try:
        nonce = request.form.get("nonce", "") or secrets.token_urlsafe(9)
        return redirect(site().once((me().id, nonce), do))
    except Permanent as error:
        lost = typed.by != Medium.SMS and any(file.filename for file in request.files.getlist("files"))
        words = Typed(typed.text, typed.by, typed.reason, str(error), lost)
        return _page(queries.ticket(ticket.number) or ticket, words, 422)


def _uploads() -> tuple[FilePart, ...]:
    """The form's files, kept. A name is only a name: no folders, no controls. Raises Permanent."""
    uploads = [file for file in request.files.getlist("files") if file.filename]
    if len(uploads) > MOST_FILES:
        raise Permanent(f"At most {MOST_FILES} files at once.")
    parts = []
    for upload in uploads:
        content = upload.stream.read()
        name = clean_name(upload.filename or "")
        guessed = picture_type(content) or mimetypes.guess_type(name)[0] or "application/octet-stream"
        parts.append(FilePart(site().keep(content), name, guessed, len(content)))
    return tuple(parts)


def clean_name(name: str) -> str:
    """A file's name without folders and controls, at most 150 letters."""
    name = "".join(c for c in PurePosixPath(name.replace("\\", "/")).name if c.isprintable()).strip(" .")
    stem, dot, ending = name.rpartition(".")
    return (f"{stem[:130]}.{ending[:19]}" if dot else name[:150]) or "file"


# -- everything else ---------------------------------------------------------------------------------------------


@pages.post("/tickets/<id:ticket>/assign")
def assign(ticket: int) -> Response:
    """To a colleague, to me, to nobody."""
    return _do(ticket, Assign(ticket, _assignee()))


def _assignee() -> int | None:
    to = request.form.get("to", "")
    return me().id if to == "me" else number(to)


@pages.post("/tickets/<id:ticket>/close")
def close(ticket: int) -> Response:
    """Closes with a reason."""
    return _do(ticket, Close(ticket, request.form.get("reason", "")), then="/", words=f"#{ticket} is closed.")


@pages.post("/tickets/<id:ticket>/reopen")
def reopen(ticket: int) -> Response:
    """Opens it again."""
    return _do(ticket, Reopen(ticket))


@pages.post("/tickets/<id:ticket>/spam")
def spam(ticket: int) -> Response:
    """Closes it as spam; with `block` its sender is refused from now on."""
    block = bool(request.form.get("block"))
    words = f"#{ticket} is closed as spam" + (", its sender is blocked." if block else ".")
    return _do(ticket, Spam(ticket, block), then="/", words=words)


@pages.post("/tickets/<id:ticket>/undo")
def undo(ticket: int) -> Response:
    """Takes an answer back and puts its words into the composer again."""
    entry = number(request.form.get("entry", "")) or 0
    return _do(ticket, Undo(entry), then=f"/tickets/{ticket}?again={entry}")


@pages.post("/tickets/<id:ticket>/move")
def move(ticket: int) -> Response:
    """A message goes to the ticket it is about: one of the customer's, another by its number, or a new one."""
    form = request.form
    entry, to = number(form.get("entry", "")) or 0, form.get("to", "")
    target = None if to == "new" else number(form.get("number", "") if to == "number" else to)
    if target is None and to != "new":
        words = f"There is no ticket #{form.get('number', '').strip()[:20]}: write its number, such as 1001."
        return _page(_ticket(ticket), Typed(words=words), 422)
    try:
        written = perform(Move(entry, target, ticket))
    except Permanent as error:
        return _page(_ticket(ticket), Typed(words=str(error)), 422)
    flash(f"The message is on #{written.ticket} now.")
    return redirect(local_path(form.get("back", ""), f"/tickets/{ticket}"))


def _do(ticket: int, action: Action, then: str = "", words: str = "") -> Response:
    found = _ticket(ticket)
    try:
        perform(action)
    except Permanent as error:
        return _page(found, Typed(words=str(error)), 422)
    if words:
        flash(words)
    return redirect(local_path(request.form.get("back", ""), then or f"/tickets/{ticket}"))


@pages.post("/tickets/bulk")
def bulk() -> Response:
    """The same for every ticket that is ticked, one after the other; what did not work is said."""
    form = request.form
    numbers = [n for n in map(number, form.getlist("t")) if n is not None][:MOST_AT_ONCE]
    closing = form.get("do") == "close"
    to = _assignee()
    refused = []
    for ticket in numbers:
        try:
            perform(Close(ticket, form.get("reason", "")) if closing else Assign(ticket, to))
        except Permanent as error:
            refused.append(f"#{ticket}: {error}")
    done = len(numbers) - len(refused)
    if done:
        flash(f"{done} {'ticket' if done == 1 else 'tickets'} {'closed' if closing else 'assigned'}.")
    for words in refused[:5]:
        flash(words)
    return redirect(local_path(form.get("back", "")))


# -- a new message -----------------------------------------------------------------------------------------------


@pages.get("/tickets/new")
def compose() -> Response:
    """The form for a mail or an SMS to somebody, which opens a ticket."""
    return _compose({"to": request.args.get("to", "")[:254], "name": request.args.get("name", "")[:200]})


def _compose(typed: dict[str, str], words: str = "", field: str = "", status: int = 200) -> Response:
    """`words` say what is wrong, at the field if it is known which."""
    config = site().config
    return page(
        "tickets/new.html",
        status,
        typed=typed,
        words=words,
        field=field,
        nonce=secrets.token_urlsafe(9),
        inboxes=config.inboxes,
        by_sms=bool(config.sms),
    )


@pages.post("/tickets/new")
def send() -> Response:
    """Opens a ticket with the mail or SMS, which waits for its undo."""
    typed = {name: request.form.get(name, "") for name in ("inbox", "to", "name", "subject", "text")}
    to, wrong = _recipient(typed["to"], typed["inbox"])
    if wrong:
        return _compose(typed, wrong, "to", 422)
    nonce = request.form.get("nonce", "") or secrets.token_urlsafe(9)

    def do() -> str:
        subject = one_line(typed["subject"])
        written = perform(Write(typed["inbox"], to, one_line(typed["name"]), subject, typed["text"], _uploads(), nonce))
        return f"/tickets/{written.ticket}?sent={written.entries[0]}"

    try:
        return redirect(site().once((me().id, nonce), do))
    except Permanent as error:
        return _compose(typed, str(error), status=422)


def _recipient(typed: str, inbox: str) -> tuple[str, str]:
    """A mail address or a phone number in one spelling, or words for the field."""
    if "@" in typed or not any(char.isdigit() for char in typed):
        to = mail_address(typed)
        words = "That is no mail address: write somebody@somewhere.example, or a phone number."
        return (to, "") if to else ("", words)
    if not site().config.sms:
        return "", "No SMS number is configured ([[sms]] in the config): write to a mail address."
    try:
        return sms.typed_phone(typed, inbox), ""
    except ValueError as error:
        return "", f"{str(error)[:1].upper()}{str(error)[1:]}."


def one_line(text: str) -> str:
    """What goes into a header: no line breaks, no controls, at most 300 letters."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:300]
