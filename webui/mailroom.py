"""The mailroom: what waits for a person, why, and what he may say to it."""

from __future__ import annotations

from flask import Blueprint, flash, redirect, request
from werkzeug.wrappers import Response

from gateway import queries
from gateway.values import Permanent, Release, Rule, Ruling
from webui.context import local_path, now, number, page, perform

pages = Blueprint("mailroom", __name__)

# What is offered first for a reason; everything else is in the menu beside it.
FIRST = {
    "unverified-sender": (("release", "It is genuine"),),
    "over-limit": (("allow", "Let this sender in"), ("new", "New ticket")),
    "needs-sorting": (("new", "New ticket"),),
    "automatic-unmatched": (("new", "New ticket"),),
    "bounce-unmatched": (("new", "New ticket"),),
    "blocked-sender": (("allow", "Let this sender in"),),
}
DONE = {
    "retry": "It is tried again.",
    "release": "Released: it is taken as genuine.",
    "allow": "Its sender is let in from now on.",
    "new": "It becomes a new ticket.",
    "ticket": "It goes to #{}.",
    "file": "Filed away: nobody needs it. It stays in the list of everything.",
}


@pages.get("/mailroom")
def mailroom() -> Response:
    """What needs a look, or everything of one state."""
    state = request.args.get("state", "look")
    state = state if state in queries.STATES else "look"
    shown = queries.mailroom(state, now(), number(request.args.get("before", "")) or 0)
    return page("mailroom/mailroom.html", shown=shown, state=state, first=FIRST, back=request.full_path.rstrip("?"))


@pages.post("/mailroom/<id:inbound>")
def rule(inbound: int) -> Response:
    """A ruling on a message that waits."""
    word, _, named = request.form.get("do", "").partition(" ")  # "ticket 1001" is a button of one ticket
    ticket = number(named or request.form.get("ticket", ""))
    if word not in DONE:
        flash("There is no such ruling.")
    elif word == "ticket" and not (ticket and queries.ticket(ticket)):
        flash(f"There is no ticket #{request.form.get('ticket', '').strip()[:20]}: write its number, such as 1001.")
    else:
        _perform(Rule(inbound, Ruling(word, ticket if word == "ticket" else None)), DONE[word].format(ticket))
    return _back()


@pages.post("/outbox/<id:outbox>")
def release(outbox: int) -> Response:
    """Sends a held message now, or tries one again that could not be delivered."""
    _perform(Release(outbox), "It is sent now.")
    return _back()


def _perform(action: Rule | Release, words: str) -> None:
    try:
        perform(action)
    except Permanent as error:
        words = str(error)
    flash(words)


def _back() -> Response:
    return redirect(local_path(request.form.get("back", ""), "/mailroom"))
