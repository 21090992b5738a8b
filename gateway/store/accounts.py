"""Who signs in: accounts, sessions, one-time links, failed tries. Secrets are stored hashed, never as they are."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable
from datetime import datetime, timedelta

from gateway.model import Account as AccountTable
from gateway.model import (
    Address,
    Code,
    Contact,
    ContactAddress,
    LoginAttempt,
    execute,
    insert,
    micros,
    moment,
    row,
    update,
)
from gateway.model import Session as SessionTable
from gateway.store import facts
from gateway.values import Account, ContactKind, Medium, Permanent, Role

LINK = "login-link"


def hashed(secret: str) -> str:
    """How a random secret is stored: SHA-256 is enough for what nobody can guess."""
    return hashlib.sha256(secret.encode()).hexdigest()


def create_account(name: str, address: str, roles: Iterable[Role], now: datetime) -> int:
    """Makes one of us: contact, address, account. Raises Permanent when the address signs in already.
    Inside `writing()`."""
    if row("select 1 from account where address = ?", address):
        raise Permanent(f"{address} has an account already")
    at = micros(now)
    known = facts.person(address)
    contact = known.contact
    if contact is None:
        contact = insert(Contact, name=name, kind=ContactKind.EMPLOYEE, created_at=at)
        address_id = known.address_id or insert(Address, medium=Medium.MAIL, value=address)
        insert(ContactAddress, contact=contact, address=address_id, verified_at=at)
    else:
        update("contact", "id", contact, name=name, kind=ContactKind.EMPLOYEE)
    return insert(AccountTable, contact=contact, address=address, roles=",".join(sorted(roles)), created_at=at)


def by_address(address: str) -> tuple[Account, str] | None:
    """An active account and its password hash, by the address it signs in with."""
    found = row("select id, password from account where address = ? and active = ?", address, True)
    return None if found is None else (facts.accounts_by_id([found[0]])[found[0]], str(found[1]))


def set_password(account: int, password_hash: str) -> None:
    """Sets the password; every session of the account ends. Inside `writing()`."""
    update("account", "id", account, password=password_hash)
    execute("delete from session where account = ?", account)


def set_theme(account: int, theme: str) -> None:
    """auto, light or dark. Inside `writing()`."""
    update("account", "id", account, theme=theme)


# -- sessions ----------------------------------------------------------------------------------------------------


def open_session(account: int, days: int, agent: str, peer: str, now: datetime) -> str:
    """A fresh session; returns the secret for the cookie. Inside `writing()`."""
    secret = secrets.token_urlsafe(32)
    insert(
        SessionTable,
        digest=hashed(secret),
        account=account,
        created_at=micros(now),
        seen_at=micros(now),
        expires_at=micros(now + timedelta(days=days)),
        agent=agent[:200],
        peer=peer,
    )
    return secret


def session_account(secret: str, now: datetime) -> tuple[Account, str] | None:
    """Whose session this is, with the theme; None when it has ended."""
    found = row(
        "select s.account, a.theme from session s join account a on a.id = s.account "
        "where s.digest = ? and s.expires_at > ? and a.active = ?",
        hashed(secret),
        micros(now),
        True,
    )
    return None if found is None else (facts.accounts_by_id([found[0]])[found[0]], str(found[1]))


def close_session(secret: str) -> None:
    """Ends a session for good. Inside `writing()`."""
    execute("delete from session where digest = ?", hashed(secret))


# -- one-time links ----------------------------------------------------------------------------------------------


def create_login_link(account: int, hours: float, now: datetime) -> str:
    """A link that signs this account in once; returns its secret. Inside `writing()`."""
    secret = secrets.token_urlsafe(32)
    insert(
        Code, purpose=LINK, subject=str(account), digest=hashed(secret), expires_at=micros(now + timedelta(hours=hours))
    )
    return secret


def link_is_good(secret: str, now: datetime) -> bool:
    """Would this link sign somebody in? Looks only, uses nothing up."""
    return _link(secret, now) is not None


def use_login_link(secret: str, now: datetime) -> int | None:
    """The account a link signs in, which uses it up; None when it is no good. Inside `writing()`."""
    found = _link(secret, now)
    if found is None:
        return None
    execute("update code set used_at = ? where digest = ? and used_at is null", micros(now), hashed(secret))
    return found


def _link(secret: str, now: datetime) -> int | None:
    found = row(
        "select subject from code where digest = ? and purpose = ? and used_at is null and expires_at > ?",
        hashed(secret),
        LINK,
        micros(now),
    )
    return None if found is None else int(found[0])


# -- failed tries ------------------------------------------------------------------------------------------------


def failed_tries(subject: str, now: datetime) -> int:
    """How often signing in failed for this account or network address in the last hour."""
    found = row(
        "select count(*) from login_attempt where subject = ? and at > ?", subject, micros(now - timedelta(hours=1))
    )
    return int(found[0])


def note_failed_try(subject: str, peer: str, now: datetime) -> None:
    """One more. Inside `writing()`."""
    insert(LoginAttempt, subject=subject[:200], at=micros(now), peer=peer)


def forget_failed_tries(subject: str) -> None:
    """After signing in. Inside `writing()`."""
    execute("delete from login_attempt where subject = ?", subject)


def clean(now: datetime) -> None:
    """Throws away sessions, codes, tries, questions and bindings that have ended. Inside `writing()`."""
    execute("delete from session where expires_at < ?", micros(now))
    execute("delete from code where expires_at < ?", micros(now - timedelta(days=7)))
    execute("delete from question where state <> 'open' and created_at < ?", micros(now - timedelta(days=90)))
    execute("delete from binding where used_at < ?", micros(now - timedelta(days=365)))
    execute("delete from login_attempt where at < ?", micros(now - timedelta(days=1)))
    execute("delete from counter where slot < ?", micros(now - timedelta(days=2)) // facts.SLOT)


def last_seen(account: int) -> datetime | None:
    """When an account was last seen in a browser."""
    found = row("select max(seen_at) from session where account = ?", account)
    return moment(found[0]) if found and found[0] is not None else None
