"""SMS in Debian's chromium: the count while one is written, and that its pages fit and read in every look."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser as Chromium
from playwright.sync_api import Page, expect

from gateway.values import Answer, Enrol, Medium
from tests.webui.conftest import Clock, Pages, served
from tests.webui.test_pages_in_chromium import LOOKS, axe, chromium, context_of, sideways, violations
from tests.webui.texts import OTHER, PHONE, TOMS, Texts, with_sms

GOLDEN = Path(__file__).parents[2].parent / "shared" / "data" / "sms" / "sms_segments_golden.json"
PATHS = (
    "/",
    "/tickets/1001",
    "/tickets/1001?move=1",
    "/tickets/1002",
    "/tickets/new?to=07700900123",
    "/mailroom?state=sorting",
    "/mailroom?state=all",
    "/settings/phones",
)

__all__ = ["axe", "chromium"]  # fixtures
pytestmark = [pytest.mark.xdist_group("chromium"), pytest.mark.timeout(300)]


@pytest.fixture
def texts(pages: Pages, clock: Clock) -> Texts:
    """A desk that writes SMS: guesses, commands, pictures, what did not arrive, what needs sorting."""
    texts = with_sms(pages, clock)
    desk, people = texts.pages.desk, texts.pages.desk.people
    texts.ann()
    texts.tom()
    texts.came("No heat in flat 7, the boiler shows F28 and the caretaker is away until Thursday", pictures=2)
    texts.came("done 1001 new gas valve fitted", TOMS)
    texts.came("undo", TOMS)
    texts.came("eta 1001 15:30", TOMS)
    desk.perform(Answer(1001, "We come at four — for sure.", by=Medium.SMS), people["ada"])
    texts.settle(state="dead", code="30006", result="this number takes no SMS")
    texts.came("The sink leaks, too", "+447700900777")
    texts.stop("+447700900777")
    texts.pages.received("An invoice")
    texts.pages.clock.forward(hours=100)
    texts.came("Yes please, tomorrow morning is fine for me, ring at the " + "W" * 60)
    texts.came("the part is at the wholesaler", TOMS)
    desk.perform(Enrol(people["sue"].id, OTHER), people["sue"])
    return texts


@pytest.mark.parametrize(("size", "scheme", "script"), LOOKS, ids=lambda value: str(value))
def test_no_page_of_sms_scrolls_sideways_and_axe_finds_nothing(
    texts: Texts, chromium: Chromium, axe: str, size: str, scheme: str, script: bool
) -> None:
    problems = []
    with served(texts.pages) as base:
        context = context_of(chromium, texts.pages, base, size, scheme, script)
        for path in PATHS:
            page = context.new_page()
            page.goto(path)
            for _ in ("as it opens", "everything unfolded"):
                if stuck := sideways(page):
                    problems.append(f"{path}: sticks out: {stuck}")
                if script:
                    problems += [f"{path}: {found}" for found in violations(page, axe)]
                page.evaluate("() => document.querySelectorAll('details').forEach(e => { e.open = true })")
            page.close()
        context.close()
    assert problems == []


# -- the count ---------------------------------------------------------------------------------------------------


def golden() -> list[dict[str, Any]]:
    """Five texts that Twilio's calculator has counted: one SMS and several, in both alphabets."""
    if not GOLDEN.exists():
        pytest.skip(f"{GOLDEN} is not there")
    cases = [case for case in json.loads(GOLDEN.read_text())["cases"] if case["text"].strip() == case["text"]]
    cases = [case for case in cases if "\r" not in case["text"] and "\f" not in case["text"] and case["text"]]
    plain = [case for case in cases if case["encoding"] == "GSM-7"]
    special = [case for case in cases if case["encoding"] != "GSM-7"]
    several = max(plain, key=lambda case: case["segments"])
    return [plain[0], several, special[0], special[1], max(special, key=lambda case: case["segments"])]


def hint(page: Page) -> Any:
    return page.locator("#parts span")


def test_the_hint_counts_as_twilio_does(texts: Texts, chromium: Chromium) -> None:
    cases = golden()
    assert len({case["segments"] for case in cases}) >= 3
    with served(texts.pages) as base:
        page = context_of(chromium, texts.pages, base).new_page()
        page.goto("/tickets/1001")
        page.get_by_label("SMS", exact=True).check(force=True)
        for case in cases:
            page.get_by_label("Your words").fill("")
            expect(hint(page)).to_have_text("")
            page.get_by_label("Your words").fill(case["text"])
            expect(hint(page)).to_contain_text(f"{case['segments']} SMS")
            page.wait_for_timeout(250)
            assert ("special character" in hint(page).inner_text()) is (case["encoding"] != "GSM-7")
        page.context.close()


def test_plain_characters_make_one_sms_of_two(texts: Texts, chromium: Chromium) -> None:
    with served(texts.pages) as base:
        page = context_of(chromium, texts.pages, base).new_page()
        page.goto("/tickets/new")
        page.get_by_label("To: mail address or phone").fill("ann@hillcrest.example")
        page.get_by_label("Words").fill("We’ll come at four. " + "a" * 60)
        page.wait_for_timeout(400)
        expect(hint(page)).to_be_hidden()
        page.get_by_label("To: mail address or phone").fill(PHONE)
        expect(hint(page)).to_have_text("2 SMS (1 special character: ’), about 0.08 GBP")
        page.get_by_role("button", name="Use plain characters").click()
        expect(page.get_by_label("Words")).to_have_value("We'll come at four. " + "a" * 60)
        expect(hint(page)).to_have_text("1 SMS, about 0.04 GBP")
        expect(page.get_by_role("button", name="Use plain characters")).to_be_hidden()
        page.context.close()


def test_r_writes_as_the_customer_last_wrote(texts: Texts, chromium: Chromium) -> None:
    with served(texts.pages) as base:
        page = context_of(chromium, texts.pages, base).new_page()
        texts.came("Hello, I am new", "+447700900888")
        page.goto("/tickets/1004")
        page.keyboard.press("n")
        page.keyboard.press("Escape")
        page.keyboard.press("r")
        expect(page.get_by_label("SMS", exact=True)).to_be_checked()
        page.keyboard.type("On our way.")
        expect(hint(page)).to_have_text("1 SMS, about 0.04 GBP")
        page.keyboard.press("Control+Enter")
        expect(page.locator(".toast")).to_contain_text("goes out in")
        page.context.close()


def test_without_javascript_the_count_stands_below_what_was_sent(texts: Texts, chromium: Chromium) -> None:
    texts.came("Hello, I am new", "+447700900888")
    with served(texts.pages) as base:
        page = context_of(chromium, texts.pages, base, "narrow", script=False).new_page()
        page.goto("/tickets/1004")
        page.get_by_label("Your words").fill("a" * 161)
        expect(hint(page)).to_have_text("")
        expect(page.get_by_role("button", name="Use plain characters")).to_be_hidden()
        page.get_by_role("button", name="Send and wait").click()
        expect(page.locator(".entry").first).to_contain_text("2 SMS, about 0.08 GBP")
        page.context.close()
