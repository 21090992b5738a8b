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

from gateway import queries, store
from gateway.addresses import mail_address
from gateway.queries import TicketPage
from gateway.values import (
    Action,
    Answer,
    Assign,
    Close,
    FilePart,
    Permanent,
    Read,
    Remark,
    Reopen,
    Spam,
    Temporary,
    Undo,
    Write,
)
from webui.context import local_path, me, now, number, page, perform, site
from webui.files import picture_type

pages = Blueprint("tickets", __name__)

MOST_FILES = 20
MOST_AT_ONCE = 200


@dataclass(frozen=True, slots=True)
class Typed:
    """What stood in the composer when something did not work, and the words for it."""

    text: str = ""
    by: str = "answer"
    reason: str = ""
    words: str = ""
    lost_files: bool = False


# -- looking -----------------------------------------------------------------------------------------------------


@pages.get("/tickets/<id:ticket>")
def show(ticket: int) -> Response:
    """The ticket; `again` puts the words of an answer that was taken back into the composer."""
    found = _ticket(ticket)
    again = number(request.args.get("again", ""))
    answer = _page(found, Typed(queries.said(again, me().id) if again else ""))
    if found.unread and request.method == "GET":
        answer.call_on_close(_mark_read(ticket))
    return answer


def _ticket(ticket: int) -> TicketPage:
    before, after = number(request.args.get("before", "")), number(request.args.get("after", ""))
    return queries.ticket(ticket, before or 0, after or 0) or abort(404)


def _page(ticket: TicketPage, typed: Typed, status: int = 200) -> Response:
    config = site().config
    return page(
        "tickets/ticket.html",
        status,
        ticket=ticket,
        typed=typed,
        colleagues=queries.accounts(),
        inbox=config.inbox(ticket.inbox),
        reasons=config.closing.reasons,
        undo_seconds=config.undo.mail,
        nonce=secrets.token_urlsafe(9),
    )


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
    typed = Typed(form.get("text", ""), form.get("by", "answer"), form.get("reason", ""))
    if typed.by == "note":
        return note(ticket)
    then = "close" if form.get("do") == "close" else "wait"
    found = _ticket(ticket)

    def do() -> str:
        seen = number(form.get("seen", "")) or 0
        written = perform(Answer(ticket, typed.text, _uploads(), then, typed.reason if then == "close" else "", seen))
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
        lost = any(file.filename for file in request.files.getlist("files"))
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


# -- a new mail --------------------------------------------------------------------------------------------------


@pages.get("/tickets/new")
def compose() -> Response:
    """The form for a mail to somebody, which opens a ticket."""
    return _compose({"to": request.args.get("to", "")[:254], "name": request.args.get("name", "")[:200]})


def _compose(typed: dict[str, str], words: str = "", status: int = 200) -> Response:
    nonce = secrets.token_urlsafe(9)
    return page(
        "tickets/new.html", status, typed=typed, words=words, nonce=nonce, inboxes=site().config.inboxes, now=now()
    )


@pages.post("/tickets/new")
def send() -> Response:
    """Opens a ticket with the mail, which waits for its undo."""
    typed = {name: request.form.get(name, "") for name in ("inbox", "to", "name", "subject", "text")}
    to = mail_address(typed["to"])
    if not to:
        return _compose(typed, "That is no mail address: write somebody@somewhere.example.", 422)
    nonce = request.form.get("nonce", "") or secrets.token_urlsafe(9)

    def do() -> str:
        written = perform(
            Write(
                typed["inbox"],
                to,
                one_line(typed["name"]),
                one_line(typed["subject"]),
                typed["text"],
                _uploads(),
                nonce,
            )
        )
        return f"/tickets/{written.ticket}?sent={written.entries[0]}"

    try:
        return redirect(site().once((me().id, nonce), do))
    except Permanent as error:
        return _compose(typed, str(error), 422)


def one_line(text: str) -> str:
    """What goes into a header: no line breaks, no controls, at most 300 letters."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:300]
