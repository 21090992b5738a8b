"""The 443 hostile mails of `../shared/tools/hostile/generate.py` through the SMTP port of one running Ringback.

Each meets an empty system, and must become a ticket or wait in the mailroom as its `expect` says, quickly and in little
memory, and no process may end over it. Where corpus, rules and taste differ, specs/reliability.md 3.1a decides.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.bench.mails import module_of
from tests.hostile.station import Seen, Station, station
from tests.walks.service import SHARED

pytestmark = [pytest.mark.xdist_group("hostile"), pytest.mark.timeout(900)]

GENERATOR = SHARED / "tools/hostile/generate.py"
TICKET, WAITING = "done", ("parked", "failed")

# These wait for the issue named behind them. They are sent and must do no harm; when one of them comes out right, the
# test below says so, and its line goes.
OWED: dict[str, str] = {}


@dataclass(frozen=True, slots=True)
class Verdict:
    """What was wrong with what became of a mail; [] when nothing was."""

    problems: list[str]
    seen: Seen


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Station]:
    with station(tmp_path_factory.mktemp("hostile")) as running:
        yield running


@pytest.fixture(scope="module")
def corpus() -> list[Any]:
    if not GENERATOR.exists():
        pytest.skip("NOT TESTED: the hostile mails come from ../shared/tools/hostile/generate.py, which is not there")
    generator: Any = module_of(GENERATOR)
    return list(generator.mails())


@pytest.fixture(scope="module")
def verdicts(desk: Station, corpus: list[Any]) -> dict[str, Verdict]:
    """Every mail once, against an empty system; what took too long or too much gets a second try."""
    found: dict[str, Verdict] = {}
    for case in corpus:
        if not follows_another(case.name):
            desk.reset()
        verdict = judge(desk, case)
        if any("limit" in problem for problem in verdict.problems):
            desk.reset()
            verdict = judge(desk, case)
        found[case.name] = verdict
    return found


def follows_another(name: str) -> bool:
    """`dup_b`, `dup_c` and `dup_alias` are about what came before."""
    return name.startswith("dup_") and name != "dup_a"


def envelope_of(name: str) -> tuple[str, str]:
    """Sender and recipient for the wire."""
    from_machine = name.startswith(("dsn_", "mdn")) or name in ("auto_returnpath", "arf")
    recipient = "info@desk.example.com" if name == "dup_alias" else "help@desk.example.com"
    return "" if from_machine and name != "mdn_request" else "carol@example.org", recipient


def judge(desk: Station, case: Any) -> Verdict:
    """Sends one mail and compares what became of it with what its author expects."""
    sender, recipient = envelope_of(case.name)
    seen = desk.hand_over(case.data(), sender, recipient, patience=130)
    problems = [*_kept(case, seen), *_limits(case, seen)]
    if seen.answer.startswith("250"):
        problems += [*_said(case, seen), *_harmless(case, seen)]
    return Verdict(problems, seen)


def _kept(case: Any, seen: Seen) -> Iterator[str]:
    """Nothing is refused or dropped, and it makes as many tickets as it should."""
    if not seen.answer.startswith("250"):
        yield f"SMTP answered {seen.answer}"
        return
    expect = case.expect
    waits = seen.state in WAITING
    if case.name == "dup_c":
        if seen.state != TICKET or not seen.entries:
            yield f"another content under a known Message-ID is {seen.state} ({seen.reason}) without an entry"
    elif follows_another(case.name):
        # The exact copy has the same key and makes no row; the one by another way is known by its content.
        if seen.state not in ("duplicate", "gone") or seen.entries:
            yield f"a second copy is {seen.state} ({seen.reason}) with {len(seen.entries)} entries"
    elif not waits and not (seen.state == TICKET and seen.ticket is not None):
        yield f"dropped: {seen.state} ({seen.reason})"
    if waits and not expect.get("quarantine"):
        yield f"{seen.state} ({seen.reason}) instead of a ticket"
    if seen.new_tickets != expect["tickets"] and not (waits and expect.get("quarantine") and not seen.new_tickets):
        yield f"{seen.new_tickets} tickets instead of {expect['tickets']} ({seen.state}, {seen.reason})"


def _limits(case: Any, seen: Seen) -> Iterator[str]:
    if seen.seconds > case.expect["seconds"]:
        yield f"took {seen.seconds:.1f} s, limit {case.expect['seconds']:g}"
    if seen.grown_mb > case.expect["rss_mb"]:
        yield f"took {seen.grown_mb:.0f} MB more, limit {case.expect['rss_mb']}"


def _said(case: Any, seen: Seen) -> Iterator[str]:
    """Text, file names and safe HTML."""
    expect = case.expect
    if (words := expect.get("text_has")) and seen.ticket is not None and words not in seen.text:
        yield f"{words!r} is not in the text: {seen.text[:80]!r}"
    for name in seen.files:
        if "filename" in expect and not re.search(expect["filename"], name):
            yield f"a file is called {name!r}"
    if "filename" in expect and not seen.files:
        yield "the attachment is not there"
    html = "\n".join(entry["html"] for entry in seen.entries)
    for pattern in expect.get("html_forbid", ()):
        if found := re.search(pattern, html, re.IGNORECASE):
            yield f"{found.group()!r} stands in the HTML"
    if seen.page:
        yield f"its page: {seen.page}"


def _harmless(case: Any, seen: Seen) -> Iterator[str]:
    """Nobody is answered who must not be; nobody is taken for one of us."""
    expect = case.expect
    if expect.get("autoreply") is False and seen.to_strangers:
        yield f"answered automatically to {seen.to_strangers}"
    if expect.get("autoreply") is True and not seen.to_strangers:
        yield "not answered"
    if expect.get("agent") is False:
        if any(entry["account"] is not None for entry in seen.entries):
            yield "taken for one of us"
        if seen.status not in ("", "new"):
            yield f"the ticket is {seen.status}"
    if expect.get("join") is False and seen.state == TICKET and not seen.new_tickets:
        yield f"joined #{seen.ticket}"


def test_every_hostile_mail_is_kept_and_does_no_harm(verdicts: dict[str, Verdict]) -> None:
    wrong = {name: verdict.problems for name, verdict in verdicts.items() if verdict.problems and name not in OWED}
    for name, problems in wrong.items():
        print(f"{name}: {'; '.join(problems)}")
    slowest = max(verdicts, key=lambda name: verdicts[name].seen.seconds)
    largest = max(verdicts, key=lambda name: verdicts[name].seen.grown_mb)
    print(
        f"{len(verdicts)} mails, {len(wrong)} wrong, {len(OWED)} owed; slowest {slowest} "
        f"{verdicts[slowest].seen.seconds:.2f} s, largest {largest} {verdicts[largest].seen.grown_mb:.0f} MB"
    )
    assert len(verdicts) == 443
    assert not wrong


def test_what_is_owed_does_no_harm_and_the_table_only_shrinks(verdicts: dict[str, Verdict]) -> None:
    assert set(OWED) <= set(verdicts)
    for name in OWED:
        print(f"{name}: {'; '.join(verdicts[name].problems)}")
        assert verdicts[name].seen.answer.startswith("250")
        assert verdicts[name].seen.state not in ("", "gone")
    assert not [name for name in OWED if not verdicts[name].problems], "these come out right now: strike them from OWED"


def test_twenty_in_a_row_without_a_reset(desk: Station, corpus: list[Any], verdicts: dict[str, Verdict]) -> None:
    desk.reset()
    row = [case for case in corpus if not case.name.startswith("dup_")][:: len(corpus) // 20][:20]
    wrong = {}
    for case in row:
        problems = judge(desk, case).problems
        if problems and case.name not in OWED:
            wrong[case.name] = problems
    assert len(row) == 20
    assert not wrong


def test_no_process_has_ended(desk: Station, verdicts: dict[str, Verdict]) -> None:
    assert desk.living() == desk.pids


def test_the_service_is_as_quick_as_before(desk: Station, verdicts: dict[str, Verdict], tmp_path: Path) -> None:
    desk.reset()
    seen = desk.hand_over(
        b"From: carol@example.org\r\nTo: help@desk.example.com\r\nMessage-ID: <last@example.org>\r\n\r\nHello\r\n",
        "carol@example.org",
        "help@desk.example.com",
        patience=10,
    )
    assert (seen.state, seen.new_tickets, seen.to_strangers) == (TICKET, 1, ["carol@example.org"])
    assert seen.seconds < 1
