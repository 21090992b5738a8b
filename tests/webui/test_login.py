"""Signing in and out, one-time links, passwords, the theme."""

from __future__ import annotations

from datetime import timedelta
from types import SimpleNamespace

import pytest

from gateway import store
from gateway.store import accounts
from tests.webui.conftest import ADA, PASSWORD, Browser, Pages, set_password, words_of

WRONG = "The address and the password do not fit together."


def link_for(pages: Pages, who: str = "ada", hours: float = 24) -> str:
    with store.writing():
        return "/link/" + accounts.create_login_link(pages.desk.people[who].id, hours, pages.clock())


def test_the_right_password_leads_to_the_inbox_and_to_nowhere_else(pages: Pages, stranger: Browser) -> None:
    set_password(pages)
    answer = stranger.post("/login", email=ADA.address, password=PASSWORD)
    assert (answer.status_code, answer.location) == (302, "/")
    assert "All open" in stranger.page("/")


def test_sign_in_leads_back_to_the_page_that_was_wanted(pages: Pages, stranger: Browser) -> None:
    set_password(pages)
    sent = stranger.get("/mailroom?state=parked")
    assert sent.location == "/login?next=/mailroom%3Fstate%3Dparked"
    answer = stranger.post("/login", email=ADA.address, password=PASSWORD, next="/mailroom?state=parked")
    assert answer.location == "/mailroom?state=parked"


@pytest.mark.parametrize(
    ("email", "password"),
    [
        (ADA.address, "wrong"),
        ("nobody@desk.example", PASSWORD),
        ("' OR 1=1 --", "x"),
        (ADA.address, ""),
        (ADA.address, PASSWORD + "x" * 2_000),
        ("tom@desk.example", "no password was ever set"),
    ],
)
def test_whatever_does_not_fit_gets_the_same_words(pages: Pages, stranger: Browser, email: str, password: str) -> None:
    set_password(pages)
    answer = stranger.post("/login", email=email, password=password)
    assert answer.status_code == 401
    assert WRONG in words_of(answer.get_data(as_text=True))
    assert not any(name.startswith("ringback_session") for name in answer.headers.getlist("Set-Cookie"))


def test_a_stranger_costs_as_much_work_as_a_wrong_password(
    pages: Pages, stranger: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    from webui import login

    seen: list[str] = []
    real = login._hasher

    def verify(stored: str, password: str) -> bool:
        seen.append(stored)
        return real.verify(stored, password)

    monkeypatch.setattr(login, "_hasher", SimpleNamespace(hash=real.hash, verify=verify))
    login._nobodys_hash.cache_clear()
    set_password(pages)
    stranger.post("/login", email=ADA.address, password="wrong")
    stranger.post("/login", email="nobody@desk.example", password="wrong")
    assert len(seen) == 2
    assert all(stored.startswith("$argon2id$") for stored in seen)


def test_a_megabyte_as_password_is_refused_without_hashing(pages: Pages, stranger: Browser) -> None:
    set_password(pages)
    answer = stranger.post("/login", email=ADA.address, password="x" * 1_000_000)
    assert answer.status_code in (401, 413)


def test_ten_wrong_tries_lock_the_account_for_an_hour_also_for_the_right_password(
    pages: Pages, stranger: Browser
) -> None:
    set_password(pages)
    for _ in range(10):
        stranger.post("/login", email=ADA.address, password="wrong")
    locked = stranger.post("/login", email=ADA.address, password=PASSWORD)
    assert locked.status_code == 401
    assert "Too many tries." in words_of(locked.get_data(as_text=True))
    pages.clock.forward(minutes=61)
    assert stranger.post("/login", email=ADA.address, password=PASSWORD).status_code == 302


def test_an_unknown_account_is_locked_just_like_a_known_one(stranger: Browser) -> None:
    answers = [
        stranger.post("/login", email="nobody@desk.example", password="x").get_data(as_text=True) for _ in range(11)
    ]
    assert "Too many tries." in answers[-1]


def test_a_network_that_tries_many_accounts_is_locked_whatever_x_forwarded_for_says(
    pages: Pages, stranger: Browser
) -> None:
    set_password(pages)
    for n in range(100):
        stranger.post("/login", email=f"a{n}@desk.example", password="x", headers={"X-Forwarded-For": f"10.0.0.{n}"})
    assert stranger.post("/login", email=ADA.address, password=PASSWORD).status_code == 401


def test_signing_in_forgets_the_wrong_tries(pages: Pages, stranger: Browser) -> None:
    set_password(pages)
    for _ in range(9):
        stranger.post("/login", email=ADA.address, password="wrong")
    assert stranger.post("/login", email=ADA.address, password=PASSWORD).status_code == 302
    assert pages.rows("select count(*) from login_attempt where subject = ?", f"account:{ADA.address}") == [(0,)]


def test_a_link_is_not_used_up_by_looking(pages: Pages, stranger: Browser) -> None:
    link = link_for(pages)
    for _ in range(3):
        assert "It works once." in stranger.page(link)
    assert stranger.client.head(link).status_code == 200
    assert stranger.get("/").location == "/login"


def test_a_link_signs_in_once_and_asks_for_a_password(pages: Pages, stranger: Browser) -> None:
    link = link_for(pages)
    answer = stranger.post(link)
    assert (answer.status_code, answer.location) == (302, "/account/password")
    assert "New password" in stranger.page("/account/password")
    assert "Password so far" not in stranger.page("/account/password")
    again = pages.browser("").post(link)
    assert again.status_code == 410
    assert "used up" in again.get_data(as_text=True)


def test_a_link_ends_with_its_time_and_a_made_up_one_never_began(pages: Pages, stranger: Browser) -> None:
    link = link_for(pages, hours=24)
    pages.clock.forward(hours=25)
    assert stranger.get(link).status_code == 410
    assert stranger.post(link).status_code == 410
    assert stranger.get("/link/" + "A" * 43).status_code == 410
    assert stranger.get("/").location == "/login"


def test_the_password_chosen_after_a_link_is_the_one_that_signs_in(pages: Pages, stranger: Browser) -> None:
    stranger.post(link_for(pages))
    answer = stranger.post("/account/password", password="a brand new one")
    assert answer.location == "/"
    assert "Your password is set." in words_of(stranger.page("/"))
    fresh = pages.browser("")
    assert fresh.post("/login", email=ADA.address, password="a brand new one").status_code == 302


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (PASSWORD, "short", "Take at least 10 letters"),
        (PASSWORD, "x" * 1_025, "At most 1024 letters."),
        ("wrong", "long enough now", "The password so far does not fit."),
        ("", "long enough now", "The password so far does not fit."),
    ],
)
def test_a_password_that_will_not_do_is_told_why(pages: Pages, ada: Browser, old: str, new: str, words: str) -> None:
    set_password(pages)
    ada = pages.browser("ada")
    answer = ada.post("/account/password", old=old, password=new)
    assert answer.status_code == 422
    assert words in words_of(answer.get_data(as_text=True))


def test_a_new_password_ends_every_other_session(pages: Pages) -> None:
    set_password(pages)
    here, elsewhere = pages.browser("ada"), pages.browser("ada")
    here.post("/account/password", old=PASSWORD, password="long enough now")
    assert here.get("/").status_code == 200
    assert elsewhere.get("/").location == "/login"


def test_a_copied_cookie_dies_with_the_logout(pages: Pages, ada: Browser) -> None:
    copy = Browser(pages.app.test_client())
    copy.client.set_cookie("ringback_session", ada.secret)
    assert copy.get("/").status_code == 200
    assert ada.post("/logout").location == "/login"
    assert copy.get("/").location == "/login"


def test_a_session_ends_after_its_days(pages: Pages, ada: Browser) -> None:
    pages.clock.forward(days=14, minutes=1)
    assert ada.get("/").location == "/login"


def test_a_cookie_from_before_the_sign_in_is_worth_nothing_after_it(pages: Pages, stranger: Browser) -> None:
    set_password(pages)
    stranger.client.set_cookie("ringback_session", "chosen by somebody else")
    answer = stranger.post("/login", email=ADA.address, password=PASSWORD)
    cookie = next(c for c in answer.headers.getlist("Set-Cookie") if c.startswith("ringback_session="))
    assert "chosen by somebody else" not in cookie
    assert {"HttpOnly", "SameSite=Lax", "Path=/"} <= {part.strip() for part in cookie.split(";")}


def test_the_table_holds_no_secret_only_its_hash(pages: Pages, ada: Browser) -> None:
    assert ada.secret not in {digest for (digest,) in pages.rows("select digest from session")}


@pytest.mark.parametrize("theme", ["auto", "light", "dark", "pink"])
def test_the_theme_is_kept_for_the_account(pages: Pages, ada: Browser, theme: str) -> None:
    ada.post("/account/theme", theme=theme, back="/mailroom")
    page = pages.browser("ada").page("/")
    assert (f'data-theme="{theme}"' in page) == (theme in ("light", "dark"))


def test_the_form_never_shows_what_an_address_says(stranger: Browser) -> None:
    page = stranger.page("/login?error=%3Cscript%3Ealert(1)%3C/script%3E&next=%22%3E%3Cscript%3E")
    assert "<script>alert" not in page
    assert '"><script>' not in page


def test_an_account_that_was_switched_off_is_out_at_once(pages: Pages, ada: Browser) -> None:
    from gateway.model import update

    with store.writing():
        update("account", "id", pages.desk.people["ada"].id, active=False)
    assert ada.get("/").location == "/login"


def test_a_long_idle_session_is_measured_from_its_beginning(pages: Pages, ada: Browser) -> None:
    pages.clock.at += timedelta(days=13)
    assert ada.get("/").status_code == 200
