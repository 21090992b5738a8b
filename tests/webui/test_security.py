"""What strangers and hostile pages get: the sign-in page, refusals, and headers that leave nothing open."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from flask import Flask

from gateway.values import NamedAddress
from tests.conftest import ADA, DeskDb
from tests.webui.conftest import PASSWORD, Browser, Clock, Pages, make_pages, set_password, words_of
from webui.app import PUBLIC

# Every route that answers somebody without a session, and why.
ALLOWED = {
    "hooks.hook": "providers prove themselves by a signature",
    "static": "the style sheet of the sign-in page",
    "health.alive": "says ok",
    "health.ready": "says ok or not, and more only to us",
    "login.form": "how to get in",
    "login.sign_in": "how to get in",
    "login.link": "the one-time link's button",
    "login.use_link": "the one-time link's use",
}
POLICY = (
    "default-src 'self'; img-src 'self' data:; frame-src 'self'; object-src 'none'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'"
)


def paths_of(app: Flask) -> list[tuple[str, str, str]]:
    """(endpoint, method, a path) of every route."""
    found = []
    for rule in app.url_map.iter_rules():
        path = re.sub(r"<[^>]*>", "1", rule.rule)
        found += [(rule.endpoint, method, path) for method in sorted(rule.methods or ()) if method in ("GET", "POST")]
    return found


# -- without a session -------------------------------------------------------------------------------------------


def test_without_a_session_every_route_leads_to_the_sign_in_page_but_the_few_that_are_listed(
    pages: Pages, stranger: Browser
) -> None:
    pages.received()
    assert set(ALLOWED) >= PUBLIC
    for endpoint, method, path in paths_of(pages.app):
        if endpoint in ALLOWED:
            continue
        answer = stranger.client.open(path, method=method)
        assert answer.status_code == 302, (endpoint, method)
        assert answer.location.startswith("/login"), (endpoint, method)
        assert len(answer.get_data()) < 500, (endpoint, method)


@pytest.mark.parametrize(
    "path",
    ["/nothing", "/admin/users", "/tickets/", "/console?__debugger__=yes&cmd=resource", "/.env", "/tickets/1/close"],
)
def test_a_stranger_cannot_tell_paths_that_exist_from_those_that_do_not(stranger: Browser, path: str) -> None:
    assert stranger.get(path).status_code == 302


def test_nothing_of_a_ticket_stands_on_any_page_a_stranger_sees(pages: Pages, stranger: Browser) -> None:
    pages.received("Very secret subject", "very secret words")
    for _, method, path in paths_of(pages.app):
        assert b"very secret" not in stranger.client.open(path, method=method).get_data().lower()


@pytest.mark.parametrize(
    "path",
    [
        "/static/..%2f..%2fapp.py",
        "/static/....//....//etc/passwd",
        "/static/%2fetc%2fpasswd",
        "/static/1%00.png",
        "/static/%252e%252e%252f",
    ],
)
def test_no_path_leads_out_of_the_static_files(stranger: Browser, path: str) -> None:
    assert stranger.get(path).status_code in (302, 404)


@pytest.mark.parametrize("cookie", ["", "x", "eyJ1aWQiOjF9.AAAA.BBBB", "' or 1=1", "A" * 4000])
def test_a_made_up_cookie_is_nobody(stranger: Browser, cookie: str) -> None:
    stranger.client.set_cookie("ringback_session", cookie)
    assert stranger.get("/").location == "/login"


@pytest.mark.parametrize("method", ["TRACE", "PUT", "DELETE", "PATCH", "FOO"])
def test_other_methods_are_405(stranger: Browser, method: str) -> None:
    assert stranger.client.open("/", method=method).status_code == 405


# -- forms from elsewhere ----------------------------------------------------------------------------------------


def test_every_form_needs_a_token(pages: Pages, ada: Browser) -> None:
    pages.received()
    for endpoint, method, path in paths_of(pages.app):
        if method == "POST" and endpoint != "hooks.hook":
            assert ada.client.post(path, data={"do": "close"}).status_code == 400, endpoint
    assert pages.performed == []


def test_the_sign_in_form_needs_a_token_too(pages: Pages, stranger: Browser) -> None:
    set_password(pages)
    assert stranger.client.post("/login", data={"email": ADA.address, "password": PASSWORD}).status_code == 400


def test_another_browsers_token_is_no_token(pages: Pages, ada: Browser) -> None:
    ticket = pages.received()
    foreign = pages.browser("sue").token()
    answer = ada.client.post(f"/tickets/{ticket}/close", data={"csrf_token": foreign, "reason": "solved"})
    assert answer.status_code == 400


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "https://evil.test"}, 400),
        ({"Origin": "http://localhost.evil.test"}, 400),
        ({"Sec-Fetch-Site": "cross-site"}, 400),
        ({"Origin": "http://localhost"}, 302),
        ({"Origin": "http://127.0.0.1:8080"}, 302),
        ({"Origin": "null", "Sec-Fetch-Site": "same-origin"}, 302),  # what our Referrer-Policy makes of a form
        ({}, 302),
    ],
)
def test_a_form_from_another_site_is_refused_even_with_a_good_token(
    pages: Pages, ada: Browser, headers: dict[str, str], status: int
) -> None:
    ticket = pages.received()
    assert ada.post(f"/tickets/{ticket}/close", reason="solved", headers=headers).status_code == status


def test_nothing_changes_by_get(pages: Pages, ada: Browser) -> None:
    ticket = pages.received()
    for action in ("answer", "note", "assign", "close", "reopen", "spam", "undo"):
        assert ada.get(f"/tickets/{ticket}/{action}").status_code == 405
    assert ada.get("/logout").status_code == 405


def test_a_form_may_stay_open_all_day(pages: Pages, ada: Browser) -> None:
    assert pages.app.config["WTF_CSRF_TIME_LIMIT"] is None


def test_method_override_headers_mean_nothing(pages: Pages, ada: Browser) -> None:
    answer = ada.post(f"/tickets/{pages.received()}/assign", to="me", headers={"X-HTTP-Method-Override": "DELETE"})
    assert answer.status_code == 302


@pytest.mark.parametrize("body", [b'{"x":1}', b"--x\r\n" * 3])
def test_a_body_that_is_no_form_is_refused(pages: Pages, ada: Browser, body: bytes) -> None:
    assert (
        ada.client.post(f"/tickets/{pages.received()}/close", data=body, content_type="text/plain").status_code == 400
    )


def test_ten_thousand_form_parts_are_refused(pages: Pages, ada: Browser) -> None:
    part = b'--b\r\nContent-Disposition: form-data; name="t"\r\n\r\n1\r\n'
    answer = ada.client.post(
        "/tickets/bulk", data=part * 10_000 + b"--b--\r\n", content_type="multipart/form-data; boundary=b"
    )
    assert answer.status_code in (400, 413)


def test_a_form_of_more_than_forty_megabytes_is_refused_before_it_is_read(pages: Pages, ada: Browser) -> None:
    headers = {"Content-Length": str(200 * 1024 * 1024), "Content-Type": "multipart/form-data; boundary=b"}
    answer = ada.client.post(f"/tickets/{pages.received()}/answer", data=b"--b", headers=headers)
    assert answer.status_code in (400, 413)


# -- where the browser is sent -----------------------------------------------------------------------------------

ELSEWHERE = [
    "https://evil.test/", "//evil.test/", "/\\evil.test/", "javascript:alert(1)", "/\t/evil.test",
    "https://desk.example.com@evil.test", "/x\r\nSet-Cookie: a=b", "///evil.test", "https:evil.test",
    "\\\\evil.test", " /x", "",
]  # fmt: skip


@pytest.mark.parametrize("onward", ELSEWHERE)
def test_signing_in_leads_only_to_paths_of_ours(pages: Pages, stranger: Browser, onward: str) -> None:
    set_password(pages)
    answer = stranger.post("/login", email=ADA.address, password=PASSWORD, next=onward)
    assert (answer.status_code, answer.location) == (302, "/")
    assert "a=b" not in str(answer.headers)


@pytest.mark.parametrize("onward", ELSEWHERE)
def test_no_form_leads_elsewhere(pages: Pages, ada: Browser, onward: str) -> None:
    assert ada.post("/account/theme", theme="dark", back=onward).location == "/"


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1", 200),
        ("127.0.0.1:8080", 200),
        ("localhost:9999", 200),
        ("evil.test", 400),
        ("127.0.0.1.evil.test", 400),
        ("evil.test:8080", 400),
        ("127.0.0.1@evil.test", 400),
    ],
)
def test_only_our_own_host_names_are_answered(stranger: Browser, host: str, status: int) -> None:
    for path in ("/login", "/nothing"):
        expected = 302 if path == "/nothing" and status == 200 else status
        assert stranger.get(path, headers={"Host": host}).status_code == expected


def test_forwarded_host_headers_are_not_read(stranger: Browser) -> None:
    page = stranger.get("/login", headers={"X-Forwarded-Host": "evil.test", "Forwarded": "host=evil.test"})
    assert "evil.test" not in page.get_data(as_text=True)


def test_the_public_url_names_our_host_and_makes_the_cookies_strict(desk_db: DeskDb, clock: Clock) -> None:
    pages = make_pages(desk_db, clock, public_url="https://help.acme.example")
    set_password(pages)
    browser = pages.app.test_client()
    base = "https://help.acme.example"
    token = re.search(r'csrf_token" value="([^"]+)"', browser.get("/login", base_url=base).get_data(as_text=True))
    assert token
    form = {"csrf_token": token.group(1), "email": ADA.address, "password": PASSWORD}
    answer = browser.post("/login", base_url=base, data=form, headers={"Origin": base})
    cookie = next(c for c in answer.headers.getlist("Set-Cookie") if c.startswith("__Host-ringback="))
    assert {"Secure", "HttpOnly", "SameSite=Lax", "Path=/"} <= {part.strip() for part in cookie.split(";")}
    assert "Domain" not in cookie
    assert answer.headers["Strict-Transport-Security"]


# -- headers -----------------------------------------------------------------------------------------------------


def test_every_page_carries_the_headers(pages: Pages, ada: Browser) -> None:
    ticket = pages.received()
    paths = [
        "/",
        f"/tickets/{ticket}",
        "/mailroom",
        "/search?q=x",
        "/about",
        "/account/password",
        "/tickets/new",
        "/nothing",
    ]
    for path in paths:
        headers = ada.get(path).headers
        assert headers["Content-Security-Policy"] == POLICY, path
        assert headers["X-Content-Type-Options"] == "nosniff", path
        assert headers["Referrer-Policy"] == "no-referrer", path
        assert headers["Cache-Control"] == "no-store", path


def test_no_page_holds_a_script_or_a_style_of_its_own(pages: Pages, ada: Browser) -> None:
    ticket = pages.received(html="<p>x</p>", quoted="x")
    for path in (
        "/",
        f"/tickets/{ticket}",
        "/mailroom?state=all",
        "/search?q=x",
        "/about",
        "/account/password",
        "/tickets/new",
    ):
        page = ada.page(path)
        assert not re.search(r"<script(?![^>]*\bsrc=)", page), path
        assert not re.search(r"<style|\sstyle=|\son[a-z]+=", page), path


def test_static_files_stay_in_the_cache_for_a_year_because_their_address_is_their_hash(ada: Browser) -> None:
    found = re.search(r'href="(/static/style\.css\?v=[0-9a-f]{10})"', ada.page("/"))
    assert found
    answer = ada.get(found.group(1))
    assert answer.headers["Cache-Control"] == "public, max-age=31536000, immutable"


def test_the_first_visit_is_at_most_30_kb_and_a_later_page_at_most_15(pages: Pages, ada: Browser) -> None:
    for n in range(50):
        pages.received(
            f"The boiler in flat {n} is cold",
            "Can somebody come, please? " * 5,
            sender=NamedAddress(f"Person {n}", f"p{n}@x.example"),
        )
    gzip = {"Accept-Encoding": "gzip"}
    inbox = len(ada.get("/", headers=gzip).get_data())
    ticket = len(ada.get("/tickets/1001", headers=gzip).get_data())
    assets = ["style.css", "app.js", "icons.svg"]
    shared = sum(len(ada.get(f"/static/{name}", headers=gzip).get_data()) for name in assets)
    print(f"inbox {inbox}, ticket {ticket}, assets {shared}")
    assert max(inbox, ticket) <= 15_000
    assert shared + max(inbox, ticket) <= 30_000


def test_our_own_script_is_small_enough_to_be_read() -> None:
    lines = (Path(__file__).parents[2] / "webui/static/app.js").read_text().splitlines()
    assert len(lines) <= 250


# -- health ------------------------------------------------------------------------------------------------------


def test_healthz_says_ok_and_nothing_else(stranger: Browser) -> None:
    answer = stranger.get("/healthz")
    assert (answer.status_code, answer.get_data()) == (200, b"ok\n")


def test_readyz_tells_a_stranger_only_whether_it_is_well(pages: Pages, stranger: Browser, ada: Browser) -> None:
    outside = {"environ_base": {"REMOTE_ADDR": "203.0.113.7"}}
    assert stranger.get("/readyz", **outside).get_json() == {"ok": False}
    assert stranger.get("/readyz", headers={"X-Forwarded-For": "203.0.113.7"}).get_json() == {"ok": False}
    for answer in (stranger.get("/readyz"), ada.get("/readyz", **outside)):
        assert answer.status_code == 503
        assert answer.get_json()["issues"] == [
            {"name": "worker", "words": "The worker has given no sign of life yet.", "blocks": True}
        ]


def test_readyz_is_200_when_everything_works(pages: Pages, stranger: Browser) -> None:
    from gateway import store
    from gateway.store import schedule

    with store.writing():
        schedule.beat("tick", pages.clock())
    answer = stranger.get("/readyz")
    assert (answer.status_code, answer.get_json()) == (200, {"ok": True, "issues": []})


def test_about_tells_one_of_us_what_is_wrong(ada: Browser) -> None:
    assert "The worker has given no sign of life yet." in words_of(ada.page("/about"))
