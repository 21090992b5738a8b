"""The inbox: one view of tickets, sorted by what is due next; and the search."""

from __future__ import annotations

from urllib.parse import urlencode

from flask import Blueprint, redirect, request
from werkzeug.wrappers import Response

from gateway import queries
from gateway.values import Channel
from webui.context import me, now, number, page, site

pages = Blueprint("inbox", __name__)

TITLES = {
    "open": ("All open", "next due first"),
    "mine": ("Mine", "next due first"),
    "unassigned": ("Nobody’s", "next due first"),
    "waiting": ("Waiting", "for an answer from outside"),
    "overdue": ("Overdue", "longest first"),
    "closed": ("Closed", "newest first"),
}


@pages.get("/")
def inbox() -> Response:
    """A page of a view."""
    view = request.args.get("view", "open")
    view = view if view in TITLES else "open"
    filters = _filters()
    shown = queries.inbox(view, me().id, now(), filters, request.args.get("after", ""))
    title, order = TITLES[view]
    return page(
        "inbox/inbox.html",
        view=view,
        title=title,
        order=order,
        shown=shown,
        filters=filters,
        narrowed=_narrowed(view, filters),
        following=_address(view, filters, shown.following) if shown.following else "",
        first=_address(view, filters) if shown.more_before else "",
        colleagues=queries.accounts(),
        channels=(Channel.MAIL, Channel.SMS, Channel.CALL),
        back=request.full_path.rstrip("?"),
        inboxes=site().config.inboxes,
        reasons=site().config.closing.reasons,
        sorting=queries.waiting_to_be_sorted(),
    )


def _filters() -> queries.Filters:
    channel = request.args.get("channel", "")
    return queries.Filters(
        inbox=request.args.get("inbox", "")[:254],
        channel=channel if channel in tuple(Channel) else "",
        assignee=number(request.args.get("to", "")),
    )


def _address(view: str, filters: queries.Filters, after: str = "") -> str:
    """The address of a view with its filters, and of a page in it."""
    wanted = {
        "view": "" if view == "open" else view,
        "inbox": filters.inbox,
        "channel": filters.channel,
        "to": filters.assignee,
        "after": after,
    }
    query = urlencode({name: value for name, value in wanted.items() if value})
    return f"/?{query}" if query else "/"


def _narrowed(view: str, filters: queries.Filters) -> list[tuple[str, str]]:
    """(words, address without it) of every filter in force."""
    names = {colleague.id: colleague.name for colleague in queries.accounts()}
    found = []
    if filters.inbox:
        without = queries.Filters("", filters.channel, filters.assignee)
        found.append((f"Inbox: {filters.inbox}", _address(view, without)))
    if filters.channel:
        without = queries.Filters(filters.inbox, "", filters.assignee)
        found.append((f"Channel: {filters.channel}", _address(view, without)))
    if filters.assignee:
        without = queries.Filters(filters.inbox, filters.channel)
        found.append((f"Assignee: {names.get(filters.assignee, 'unknown')}", _address(view, without)))
    return found


@pages.get("/search")
def search() -> Response:
    """Tickets by number, address, name or words; a number goes straight to its ticket."""
    words = request.args.get("q", "").strip()[:200]
    found = queries.ticket_number(words)
    if found:
        return redirect(f"/tickets/{found}")
    return page("inbox/search.html", q=words, hits=queries.search(words))
