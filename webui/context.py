"""What every page needs: the neighbours the wiring gave us, who is signed in, what time it is, how a page is made."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from flask import current_app, g, render_template, request
from markupsafe import Markup
from werkzeug.wrappers import Response

from gateway import queries
from gateway.config import Config
from gateway.values import Account, Action, Written
from webui.once import Once
from webui.watch import Watch

STATIC = Path(__file__).parent / "static"


@dataclass(frozen=True, slots=True)
class Site:
    """The neighbours: `perform` does what one of us asks for, `keep` keeps a file's bytes and returns their SHA-256."""

    config: Config
    perform: Callable[[Action, Account], Written]
    keep: Callable[[bytes], str]
    now: Callable[[], datetime]
    watch: Watch
    once: Once = field(default_factory=Once)

    @property
    def https(self) -> bool:
        """Do browsers reach us by https?"""
        return self.config.web.public_url.startswith("https://")


def site() -> Site:
    """This application's neighbours."""
    return cast(Site, current_app.extensions["ringback"])


def me() -> Account:
    """Who is signed in. Only on pages that need a session."""
    return cast(Account, g.account)


def now() -> datetime:
    """The present in the firm's time zone, one moment for the whole request."""
    if "now" not in g:
        g.now = site().now().astimezone(ZoneInfo(site().config.firm.time_zone))
    return cast(datetime, g.now)


def perform(action: Action) -> Written:
    """Does it, as whoever is signed in. Raises Permanent with words for the page, or Temporary (the 503 page)."""
    return site().perform(action, me())


def page(template: str, status: int = 200, **context: Any) -> Response:
    """A page for somebody signed in, with the side's counts."""
    context |= {"me": me(), "counts": queries.counts(me().id, now()), "toast": _toast()}
    return Response(render_template(template, **context), status, content_type="text/html; charset=utf-8")


def bare(template: str, status: int = 200, **context: Any) -> Response:
    """A page without the shell: signing in, errors."""
    return Response(render_template(template, **context), status, content_type="text/html; charset=utf-8")


def _toast() -> queries.Held | None:
    """The answer that `?sent=` names, while it can be taken back."""
    entry = number(request.args.get("sent", ""))
    return queries.held(entry, now()) if entry else None


def number(text: str) -> int | None:
    """A number from a form or an address, None for anything else and for what no table holds."""
    text = text.strip().removeprefix("#")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else None


def local_path(text: str, otherwise: str = "/") -> str:
    """Where a form may send the browser: a path of ours, never another site (open redirect)."""
    if not text.startswith("/") or text.startswith("//") or "\\" in text or any(c <= " " or c == "\x7f" for c in text):
        return otherwise
    parts = urlsplit(text)
    return otherwise if parts.scheme or parts.netloc else text


@lru_cache(16)
def static_url(name: str) -> str:
    """The address of a file of ours; its hash lets browsers keep it for a year."""
    digest = hashlib.sha256((STATIC / name).read_bytes()).hexdigest()[:10]
    return f"/static/{name}?v={digest}"


@lru_cache(64)
def icon(name: str) -> Markup:
    """A drawing of the sprite, always beside a word or a hidden one."""
    return Markup('<svg class="i" aria-hidden="true"><use href="{}#{}"/></svg>').format(static_url("icons.svg"), name)
