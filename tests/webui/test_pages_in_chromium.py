"""Every page in Debian's chromium: 375 and 1280 px, light and dark, with JavaScript and without.

Nothing may stick out sideways, axe-core may find nothing, and what JavaScript adds must work. axe-core is fetched by
npm into a cache folder outside the tree, never committed.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser as Chromium
from playwright.sync_api import BrowserContext, Page, expect, sync_playwright

from gateway import blobs, store
from gateway.model import execute
from gateway.store import accounts
from gateway.values import Answer, Assign, FilePart, MessageClass, NamedAddress, Remark, Step
from tests.conftest import ADA, ANN, BEN
from tests.servers import need
from tests.webui.conftest import Pages, letter, served
from webui import events

AXE = "axe-core@4.14"
AXE_TAGS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
WIDTHS = {"narrow": (375, 812), "wide": (1280, 800)}
LOOKS = list(product(WIDTHS, ("light", "dark"), (True, False)))
SIGNED_IN = {
    "inbox": "/",
    "empty": "/?view=overdue",
    "closed": "/?view=closed",
    "ticket": "/tickets/1001",
    "new": "/tickets/new",
    "mailroom": "/mailroom",
    "all": "/mailroom?state=all",
    "search": "/search?q=boiler",
    "nothing found": "/search?q=zzz",
    "about": "/about",
    "password": "/account/password",
    "not found": "/nothing",
}

pytestmark = [pytest.mark.xdist_group("chromium"), pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def chromium() -> Iterator[Chromium]:
    program = need("chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(program), args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def axe() -> str:
    """axe-core's source."""
    beside = Path(__file__).parents[1] / "node_modules/axe-core/axe.min.js"
    if beside.exists():
        return beside.read_text()
    folder = Path(tempfile.gettempdir()) / f"ringback-axe-{os.getuid()}"
    source = folder / "node_modules/axe-core/axe.min.js"
    if not source.exists():
        problem = _install(folder)
        if problem and os.environ.get("CI") == "true":
            pytest.fail(problem, pytrace=False)
        if problem:
            pytest.skip(problem)
    return source.read_text()


def _install(folder: Path) -> str:
    """Fetches axe-core; returns what went wrong."""
    npm = shutil.which("npm")
    if npm is None:
        return "npm is not installed: apt-get install npm"
    folder.mkdir(mode=0o700, exist_ok=True)
    command = [npm, "install", "--no-save", "--no-audit", "--no-fund", "--prefix", str(folder), AXE]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    return "" if done.returncode == 0 else f"npm could not fetch {AXE}: {done.stderr.strip()[-300:]}"


@pytest.fixture
def full(pages: Pages, monkeypatch: pytest.MonkeyPatch) -> Pages:
    """A desk in the middle of its day: long subjects, long words, files, notes, things that failed."""
    monkeypatch.setattr(events, "BEAT_SECONDS", 0.2)
    desk, people = pages.desk, pages.desk.people
    png = b"\x89PNG\r\n\x1a\n" + b"0" * 2_000
    sha256 = blobs.put(desk.config.folder / "blobs", png)
    pages.received(
        "No heat in flat 7, the boiler shows F28 and the caretaker is away until Thursday",
        "Good evening,\n\nflat 7 is cold. https://hillcrest.example/" + "long" * 60 + "\n\n" + "W" * 300,
        files=(FilePart(sha256, "a-very-long-file-name-" * 5 + ".png", "image/png", len(png)),),
        quoted="On Monday you wrote:\nhello",
        html="<p>Good <b>evening</b></p><table width=900><tr><td>wide</td></tr></table>",
        cc=(BEN, NamedAddress("", "somebody.with.a.rather.long.address@a-rather-long-domain.example")),
        steps=(Step("reading", "text/plain " * 20, 1.25),),
    )
    desk.perform(Assign(1001, people["ada"].id), people["sue"])
    desk.perform(Remark(1001, "Contract has 4-hour response for loss of heat."), people["sue"])
    desk.perform(Answer(1001, "We are on our way."), people["ada"])
    desk.receive(letter(ANN, "Re: [ACME #1001]", "Thank you."))
    pages.received("An invoice", "See above, the boiler again.", sender=BEN)
    pages.arrived(letter(ADA, "Re: something", "done"))
    pages.arrived(letter(NamedAddress("P", "noreply@p.example"), "Shipment", "x", category=MessageClass.AUTO_REPLY))
    with store.writing():
        execute("update outbox set state = 'dead', result = '550 5.1.1 no such user' where kind = 'acknowledgement'")
        execute(
            "update outbox set state = 'sent', result = 'not sent: no mail server configured' where kind = 'answer'"
        )
        execute("update ticket set next_at = next_at - ?, due_at = due_at - ? where number = 1002", 10**11, 10**11)
    return pages


def context_of(
    browser: Chromium, pages: Pages, base: str, size: str = "wide", scheme: Any = "light", script: bool = True
) -> BrowserContext:
    """A browser that is signed in as Ada."""
    width, height = WIDTHS[size]
    context = browser.new_context(
        base_url=base,
        viewport={"width": width, "height": height},
        color_scheme=scheme,
        java_script_enabled=script,
        has_touch=size == "narrow",
    )
    secret = pages.browser("ada").secret
    context.add_cookies(
        [{"name": "ringback_session", "value": secret, "url": base, "httpOnly": True, "sameSite": "Lax"}]
    )
    return context


STICKS_OUT = """() => document.documentElement.scrollWidth <= innerWidth ? [] :
    [...document.querySelectorAll('body *')].filter(e => e.getBoundingClientRect().right > innerWidth + 1)
    .slice(0, 3).map(e => e.outerHTML.slice(0, 120))"""
AXE_RUN = """tags => axe.run(document, { runOnly: tags, resultTypes: ['violations'], iframes: false })
    .then(r => r.violations.map(v => v.id + ': ' + v.nodes.slice(0, 3).map(n => n.html.slice(0, 160)).join(' | ')))"""


def sideways(page: Page) -> str:
    """What sticks out, "" when nothing does."""
    return " ".join(page.evaluate(STICKS_OUT))


@pytest.mark.parametrize(("size", "scheme", "script"), LOOKS, ids=lambda value: str(value))
def test_no_page_scrolls_sideways_and_axe_finds_nothing(
    full: Pages, chromium: Chromium, axe: str, size: str, scheme: str, script: bool
) -> None:
    problems = []
    with served(full) as base:
        context = context_of(chromium, full, base, size, scheme, script)
        stranger = chromium.new_context(
            base_url=base,
            viewport={"width": WIDTHS[size][0], "height": WIDTHS[size][1]},
            color_scheme=scheme,  # type: ignore[arg-type]
            java_script_enabled=script,
        )
        with store.writing():
            link = accounts.create_login_link(1, 24, full.clock())
        looks = [(context, name, path) for name, path in SIGNED_IN.items()]
        looks += [
            (stranger, "login", "/login"),
            (stranger, "link", f"/link/{link}"),
            (stranger, "used link", "/link/x"),
        ]
        for browser, name, path in looks:
            page = browser.new_page()
            page.goto(path)
            for _ in ("as it opens", "everything unfolded"):
                if stuck := sideways(page):
                    problems.append(f"{name}: sticks out: {stuck}")
                if script:  # axe needs the page's clock; without scripts the page is the same
                    problems += [f"{name}: {found}" for found in violations(page, axe)]
                page.evaluate("() => document.querySelectorAll('details.fold').forEach(e => { e.open = true })")
            page.close()
        context.close()
        stranger.close()
    assert problems == []


def violations(page: Page, axe: str) -> list[str]:
    """What axe-core has to say: rule and the elements. `evaluate` works where the page's own scripts are off."""
    page.evaluate(axe)
    return [str(line) for line in page.evaluate(AXE_RUN, AXE_TAGS)]


@pytest.mark.parametrize(("size", "scheme"), list(product(WIDTHS, ("light", "dark"))))
def test_open_menus_are_readable_too(full: Pages, chromium: Chromium, axe: str, size: str, scheme: str) -> None:
    problems = []
    with served(full) as base:
        context = context_of(chromium, full, base, size, scheme)
        for path in ("/", "/tickets/1001", "/mailroom"):
            page = context.new_page()
            page.goto(path)
            for n in range(page.locator("details.drop").count()):
                page.evaluate("n => { document.querySelectorAll('details.drop')[n].open = true }", n)
                problems += [f"{path} menu {n}: {found}" for found in violations(page, axe)]
                if stuck := sideways(page):
                    problems.append(f"{path} menu {n}: {stuck}")
            page.close()
        context.close()
    assert problems == []


# -- without JavaScript ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("script", [True, False])
def test_an_html_mail_opens_in_its_frame(full: Pages, chromium: Chromium, script: bool) -> None:
    with served(full) as base:
        page = context_of(chromium, full, base, script=script).new_page()
        page.goto("/tickets/1001")
        page.locator("summary", has_text="As it was sent").click()
        frame = page.frame_locator("iframe.mail")
        expect(frame.get_by_text("Good evening")).to_be_visible()
        expect(frame.locator("body")).to_have_css("background-color", "rgb(255, 255, 255)")
        page.context.close()


@pytest.mark.parametrize("size", WIDTHS)
def test_the_whole_work_is_done_without_javascript(full: Pages, chromium: Chromium, size: str) -> None:
    with served(full) as base:
        page = context_of(chromium, full, base, size, script=False).new_page()
        page.goto("/")
        page.get_by_role("link", name="An invoice").click()
        page.get_by_role("button", name="To me").click()
        expect(page.get_by_text("Ada Agent took it")).to_be_visible()

        page.get_by_label("Note", exact=True).check(force=True)
        expect(page.get_by_role("button", name="Send and wait")).to_be_hidden()
        page.get_by_label("Your words").fill("He is right.")
        page.get_by_role("button", name="Keep note").click()
        expect(page.locator(".entry.note")).to_contain_text("He is right.")

        page.get_by_label("Your words").fill("You are right.")
        page.get_by_role("button", name="Send and wait").click()
        page.locator(".toast").get_by_role("button", name="Undo").click()
        expect(page.get_by_label("Your words")).to_have_value("You are right.")

        page.locator("summary", has_text="Close").click()
        page.get_by_role("button", name="Close", exact=True).click()
        expect(page.get_by_text("#1002 is closed.")).to_be_visible()
        page.context.close()


def test_the_bulk_bar_comes_up_and_counts_without_javascript(full: Pages, chromium: Chromium) -> None:
    with served(full) as base:
        page = context_of(chromium, full, base, script=False).new_page()
        page.goto("/")
        expect(page.locator(".bulk")).to_be_hidden()
        page.get_by_label("Select ticket 1002").check()
        expect(page.locator(".bulk")).to_be_visible()
        page.get_by_role("button", name="Assign", exact=True).click()
        expect(page.get_by_text("1 ticket assigned.")).to_be_visible()
        page.context.close()


def test_the_menu_of_a_small_screen_opens_without_javascript(full: Pages, chromium: Chromium) -> None:
    with served(full) as base:
        page = context_of(chromium, full, base, "narrow", script=False).new_page()
        page.goto("/")
        expect(page.get_by_role("link", name="Mailroom")).to_be_hidden()
        page.get_by_role("button", name="Menu", exact=True).click()
        page.get_by_role("link", name="Mailroom").click()
        expect(page).to_have_url(re.compile("/mailroom$"))
        page.context.close()


# -- what JavaScript adds ----------------------------------------------------------------------------------------


def test_news_come_by_themselves_and_nothing_typed_is_lost(full: Pages, chromium: Chromium) -> None:
    with served(full) as base:
        page = context_of(chromium, full, base).new_page()
        page.goto("/tickets/1001")
        wait_for_watch(full)
        page.get_by_label("Your words").fill("Half a sent")
        page.locator("summary", has_text="Why it landed here").first.click()
        full.desk.receive(letter(ANN, "Re: [ACME #1001]", "Are you still there?"))
        expect(page.locator(".entry").first).to_contain_text("Are you still there?")
        expect(page.get_by_label("Your words")).to_have_value("Half a sent")
        expect(page.locator("details[open] .trace")).to_be_visible()
        page.context.close()


def test_the_inbox_fills_itself_and_keeps_what_is_ticked(full: Pages, chromium: Chromium) -> None:
    with served(full) as base:
        page = context_of(chromium, full, base).new_page()
        page.goto("/")
        wait_for_watch(full)
        page.get_by_label("Select ticket 1001").check()
        full.received("Brand new", "Hello.", sender=NamedAddress("New", "new@x.example"))
        expect(page.get_by_role("link", name="Brand new")).to_be_visible()
        expect(page.get_by_label("Select ticket 1001")).to_be_checked()
        page.context.close()


def wait_for_watch(pages: Pages) -> None:
    assert pages.app.extensions["ringback"].watch.ready.wait(5)


def test_the_keys_work(full: Pages, chromium: Chromium) -> None:
    with served(full) as base:
        page = context_of(chromium, full, base).new_page()
        page.goto("/")
        page.keyboard.press("j")
        page.keyboard.press("j")
        page.keyboard.press("k")
        page.keyboard.press("o")
        expect(page).to_have_url(re.compile("/tickets/1002$"))
        page.keyboard.press("a")
        expect(page.get_by_text("Ada Agent took it")).to_be_visible()
        page.keyboard.press("n")
        page.keyboard.type("A note with every key: jkoeranug/?")
        expect(page.get_by_label("Your words")).to_have_value("A note with every key: jkoeranug/?")
        page.keyboard.press("Control+Enter")
        expect(page.locator(".entry.note")).to_contain_text("A note with every key")
        page.keyboard.press("r")
        page.keyboard.type("On our way.")
        page.keyboard.press("Control+Enter")
        expect(page.locator(".toast")).to_contain_text("goes out in")
        page.keyboard.press("u")
        expect(page.get_by_label("Your words")).to_have_value("On our way.")
        page.keyboard.press("e")
        page.keyboard.press("Enter")
        expect(page.get_by_text("#1002 is closed.")).to_be_visible()
        page.keyboard.press("?")
        expect(page.get_by_role("dialog")).to_be_visible()
        page.keyboard.press("Escape")
        page.keyboard.press("/")
        page.keyboard.type("boiler")
        page.keyboard.press("Enter")
        expect(page).to_have_url(re.compile("/search"))
        page.keyboard.press("g")
        page.keyboard.press("i")
        expect(page).to_have_url(re.compile("/$"))
        page.context.close()


def test_a_on_a_row_of_the_inbox_takes_that_ticket(full: Pages, chromium: Chromium) -> None:
    with served(full) as base:
        page = context_of(chromium, full, base).new_page()
        page.goto("/?view=unassigned")
        page.keyboard.press("j")
        page.keyboard.press("a")
        expect(page.get_by_text("1 ticket assigned.")).to_be_visible()
        page.context.close()


def test_the_toast_counts_down(full: Pages, chromium: Chromium) -> None:
    with served(full) as base:
        page = context_of(chromium, full, base).new_page()
        page.goto("/tickets/1002")
        page.get_by_label("Your words").fill("On our way.")
        page.get_by_role("button", name="Send and wait").click()
        expect(page.locator("[data-left]")).to_have_text("13", timeout=5_000)
        page.context.close()


def test_no_page_says_anything_in_the_console(full: Pages, chromium: Chromium) -> None:
    said: list[str] = []
    with served(full) as base:
        context = context_of(chromium, full, base)
        context.on("console", lambda message: said.append(f"{message.page}: {message.text}"))
        page = context.new_page()
        page.on("pageerror", lambda error: said.append(str(error)))
        for path in (
            "/",
            "/tickets/1001",
            "/mailroom",
            "/search?q=boiler",
            "/about",
            "/tickets/new",
            "/account/password",
        ):
            page.goto(path)
            page.evaluate("() => document.querySelectorAll('details').forEach(e => { e.open = true })")
            page.wait_for_timeout(200)
        context.close()
    assert said == []
