"""The phones from which those of us in the field give commands: enrolled by a code, revoked by one click.

specs/sms.md 4.5. The office sees to everybody's phones, everybody else to his own.
"""

from __future__ import annotations

from flask import Blueprint, abort, flash, redirect, request
from werkzeug.wrappers import Response

from gateway import queries
from gateway.decide.enrolment import LIFE
from gateway.phones import spoken
from gateway.values import Action, Enrol, Permanent, Revoke, Role, Verify
from webui import sms
from webui.context import me, now, number, page, perform, site

pages = Blueprint("phones", __name__)

OFFICE = frozenset({Role.ADMINISTRATOR, Role.SUPERVISOR, Role.AGENT})
MINUTES = int(LIFE.total_seconds() // 60)
PATH = "/settings/phones"


@pages.get(PATH)
def phones() -> Response:
    """Whose phones give commands, and the form for another one."""
    return _page()


def _page(form: str = "", words: str = "", status: int = 200) -> Response:
    """`words` say what is wrong with a form: enrol, or the code of a phone."""
    everybody = _is_office()
    return page(
        "settings/phones.html",
        status,
        people=queries.phones_of_ours(now(), None if everybody else me().id),
        everybody=everybody,
        number=site().config.sms[0].number if site().config.sms else "",
        form=form,
        words=words,
        typed=request.form.get("phone", ""),
        whose=number(request.form.get("account", "")),
        minutes=MINUTES,
    )


def _is_office() -> bool:
    return bool(me().roles & OFFICE)


@pages.post(f"{PATH}/enrol")
def enrol() -> Response:
    """Sends a code to a phone."""
    phone = _phone()
    words = f"Code sent to {spoken(phone)}; it is valid for {MINUTES} minutes."
    return _do(Enrol(_account(), phone), words, "enrol")


@pages.post(f"{PATH}/verify")
def verify() -> Response:
    """The code that came to the phone."""
    phone, code = _phone(), request.form.get("code", "")[:40]
    return _do(Verify(_account(), phone, code), f"{spoken(phone)} is verified: it gives commands now.", phone)


@pages.post(f"{PATH}/revoke")
def revoke() -> Response:
    """From now on the phone gives no commands."""
    phone = _phone()
    return _do(Revoke(_account(), phone), f"{spoken(phone)} is revoked: it gives no commands any more.", "enrol")


def _account() -> int:
    """Whose phone it is. Of others' only the office may speak."""
    account = number(request.form.get("account", "")) or me().id
    if account != me().id and not _is_office():
        abort(403)
    return account


def _phone() -> str:
    """In one spelling, or as typed: then the desk says what is wrong with it."""
    typed = request.form.get("phone", "").strip()[:64]
    try:
        return sms.typed_phone(typed, "")
    except ValueError:
        return typed


def _do(action: Action, words: str, form: str) -> Response:
    try:
        perform(action)
    except Permanent as error:
        return _page(form, str(error), 422)
    flash(words)
    return redirect(PATH)
