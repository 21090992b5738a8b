"""Signing in and out, one-time links, the account menu.

Passwords are argon2 hashes; two are computed at a time, because each takes 64 MB. Failed tries are rows, counted by
account and by network, so that all processes share them. A link's GET shows a button; only its POST uses the link up.
"""

from __future__ import annotations

import ipaddress
import threading
from functools import cache

from argon2 import PasswordHasher
from argon2.exceptions import Argon2Error, InvalidHashError
from flask import Blueprint, flash, redirect, request, session
from werkzeug.exceptions import Unauthorized
from werkzeug.wrappers import Response

from gateway import store
from gateway.addresses import mail_address
from gateway.store import accounts
from gateway.values import Temporary
from webui.context import bare, local_path, me, now, page, site

pages = Blueprint("login", __name__)

LONGEST_PASSWORD = 1_024  # argon2 would hash a megabyte, slowly
SHORTEST_PASSWORD = 10
NETWORK_TRIES = 10  # times what one account may: an office shares an address
THEMES = ("auto", "light", "dark")
WRONG = "The address and the password do not fit together."
TOO_MANY = "Too many tries. Wait an hour, or have an administrator make you a one-time link."

_hasher = PasswordHasher()
_two_at_a_time = threading.Semaphore(2)


def cookie_name() -> str:
    """`__Host-` binds the cookie to https and to this very host."""
    return "__Host-ringback" if site().https else "ringback_session"


# -- signing in --------------------------------------------------------------------------------------------------


@pages.get("/login")
def form() -> Response:
    """The form; `next` is where it leads to afterwards."""
    return bare("login/login.html", next=local_path(request.args.get("next", "")), address="", words="")


@pages.post("/login")
def sign_in() -> Response:
    """Signs in, or says only that it did not fit."""
    typed = request.form.get("email", "").strip()[:300]
    password = request.form.get("password", "")
    onward = local_path(request.form.get("next", request.args.get("next", "")))
    account, words = _recognise(mail_address(typed), typed, password)
    if account is None:
        return bare("login/login.html", Unauthorized.code, next=onward, address=typed, words=words)
    return _signed_in(account, redirect(onward))


def _recognise(address: str, typed: str, password: str) -> tuple[int | None, str]:
    """The account, or the words for the page. A stranger's address takes as long as a wrong password."""
    limit = site().config.limits.login_tries_per_hour
    subject, network = f"account:{address or typed}"[:200], f"network:{_network()}"
    if accounts.failed_tries(subject, now()) >= limit or accounts.failed_tries(network, now()) >= limit * NETWORK_TRIES:
        return None, TOO_MANY
    found = accounts.by_address(address) if address else None
    if _fits(found[1] if found else "", password) and found:
        with store.writing():
            accounts.forget_failed_tries(subject)
        return found[0].id, ""
    with store.writing():
        accounts.note_failed_try(subject, _network(), now())
        accounts.note_failed_try(network, _network(), now())
    return None, WRONG


def _network() -> str:
    """The peer, IPv6 by its /64. X-Forwarded-For is anybody's word, so it is not read."""
    try:
        peer = ipaddress.ip_address(request.remote_addr or "")
    except ValueError:
        return "-"
    return str(ipaddress.ip_network(f"{peer}/64", strict=False)) if peer.version == 6 else str(peer)


def _fits(password_hash: str, password: str) -> bool:
    """Does the password fit? Without a hash the same work is done for nothing."""
    if not password or len(password) > LONGEST_PASSWORD:
        return False
    if not _two_at_a_time.acquire(timeout=10):
        raise Temporary("too many people sign in at once")
    try:
        _hasher.verify(password_hash or _nobodys_hash(), password)
        return bool(password_hash)
    except (Argon2Error, InvalidHashError):
        return False
    finally:
        _two_at_a_time.release()


@cache
def _nobodys_hash() -> str:
    return _hasher.hash("nobody signs in with this")


def _hash(password: str) -> str:
    if not _two_at_a_time.acquire(timeout=10):
        raise Temporary("too many passwords are set at once")
    try:
        return _hasher.hash(password)
    finally:
        _two_at_a_time.release()


def _signed_in(account: int, answer: Response) -> Response:
    """Opens a fresh session: whatever cookie came in is worth nothing (session fixation)."""
    config = site().config.web
    with store.writing():
        secret = accounts.open_session(
            account, config.session_days, request.headers.get("User-Agent", ""), _network(), now()
        )
    session.pop("csrf_token", None)
    answer.set_cookie(
        cookie_name(),
        secret,
        max_age=config.session_days * 86_400,
        secure=site().https,
        httponly=True,
        samesite="Lax",
        path="/",
    )
    return answer


# -- one-time links ----------------------------------------------------------------------------------------------


@pages.get("/link/<secret>")
def link(secret: str) -> Response:
    """A page with one button: mail scanners follow links, so following one does nothing."""
    good = accounts.link_is_good(secret[:200], now())
    return bare("login/link.html", 200 if good else 410, good=good)


@pages.post("/link/<secret>")
def use_link(secret: str) -> Response:
    """Uses the link up and signs in; a password is asked for next."""
    with store.writing():
        account = accounts.use_login_link(secret[:200], now())
    if account is None:
        return bare("login/link.html", 410, good=False)
    session["by_link"] = account
    return _signed_in(account, redirect("/account/password"))


# -- the account -------------------------------------------------------------------------------------------------


@pages.post("/logout")
def sign_out() -> Response:
    """Ends the session in the table, so that a copy of the cookie is worth nothing either."""
    with store.writing():
        accounts.close_session(request.cookies.get(cookie_name(), ""))
    site().watch.end(me().id)
    session.clear()
    answer = redirect("/login")
    answer.delete_cookie(cookie_name(), path="/", secure=site().https, httponly=True, samesite="Lax")
    return answer


@pages.post("/account/theme")
def theme() -> Response:
    """auto, light or dark."""
    wanted = request.form.get("theme", "")
    if wanted in THEMES:
        with store.writing():
            accounts.set_theme(me().id, wanted)
    return redirect(local_path(request.form.get("back", "")))


@pages.get("/account/password")
def password_form() -> Response:
    """The form for a new password."""
    return page("login/password.html", asks_old=_asks_old(), words="", shortest=SHORTEST_PASSWORD)


@pages.post("/account/password")
def set_password() -> Response:
    """Sets it. Every other session of the account ends; this browser gets a new one."""
    new, old = request.form.get("password", ""), request.form.get("old", "")
    problem = _problem(new, old)
    if problem:
        return page("login/password.html", 422, asks_old=_asks_old(), words=problem, shortest=SHORTEST_PASSWORD)
    hashed = _hash(new)
    with store.writing():
        accounts.set_password(me().id, hashed)
    site().watch.end(me().id)
    session.pop("by_link", None)
    flash("Your password is set. Every other browser is signed out.")
    return _signed_in(me().id, redirect("/"))


def _problem(new: str, old: str) -> str:
    if len(new) < SHORTEST_PASSWORD:
        return f"Take at least {SHORTEST_PASSWORD} letters; a few words are easy to remember."
    if len(new) > LONGEST_PASSWORD:
        return f"At most {LONGEST_PASSWORD} letters."
    if _asks_old() and not _fits(_own_hash(), old):
        return "The password so far does not fit."
    return ""


def _asks_old() -> bool:
    """Whoever came by a one-time link, or has no password yet, is not asked for the old one."""
    return bool(_own_hash()) and session.get("by_link") != me().id


def _own_hash() -> str:
    found = accounts.by_address(me().address)
    return found[1] if found else ""
