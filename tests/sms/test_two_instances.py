"""Two desks that text each other fall silent at once (specs/sms.md 4.6 and 4.9, G9).

What the one sends by itself the other hears as a text, five seconds later, for a whole day. Each may take the other's
number for a stranger's, for a customer's with two open tickets (he is asked by a menu), or for the enrolled phone of a
technician with no, one or two jobs (he is told what he can write; what is done is echoed).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import combinations_with_replacement
from pathlib import Path

import pytest

from gateway.model import Address, Contact, ContactAddress, Ticket, insert, micros, row
from tests.bench.sms import START, Side

A, B = "+447700900111", "+447700900222"
MOST = 3  # automatic texts of both together
BOTH_OUTSIDE = 7  # where each has enrolled the other's number as a technician's: three of each, and the list asked for
FLIES = timedelta(seconds=5)
STEP = timedelta(minutes=15)
DAY = timedelta(hours=24)
ENDLESS = 40  # texts: then it is seen that they do not stop
ROLES = ("a stranger", "a customer with two tickets", *(f"a technician with {n} jobs" for n in (0, 1, 2)))
PAIRS = tuple(combinations_with_replacement(ROLES, 2))
TEXTS = ("Hello, is anybody there?", "1", "STATUS", "HELP", "DONE", "LIST", "NOTE gasket fitted", "STOP")


@pytest.fixture
def sides(tmp_path: Path) -> Iterator[tuple[Side, Side]]:
    """Two desks, each with a number."""
    pair = Side.opened(tmp_path / "a", A), Side.opened(tmp_path / "b", B)
    yield pair
    for side in pair:
        side.here()
        side.closed()


def most(mine: str, yours: str) -> int:
    """What both may say together."""
    return BOTH_OUTSIDE if "technician" in mine and "technician" in yours else MOST


def told(side: Side, number: str, role: str) -> None:
    """Makes the side take this number for that."""
    side.here()
    if role == "a stranger":
        return
    at, works = micros(START - timedelta(days=30)), "technician" in role
    if works:
        contact = row("select contact from account where id = ?", side.db.people["tom"].id)[0]
    else:
        contact = insert(Contact, name="Ann Hill", kind="customer", created_at=at)
    address = insert(Address, medium="sms", value=number)
    insert(ContactAddress, contact=contact, address=address, verified_at=at if works else None, last_seen=at)
    for n in range(int(role.split()[3]) if works else 2):
        insert(
            Ticket,
            number=1001 + n,
            inbox=side.db.config.inboxes[0].address,
            subject=f"Boiler {n + 1}",
            status="open",
            requester=None if works else contact,
            requester_address="+447700900101" if works else number,
            assignee=side.db.people["tom"].id if works else None,
            acquisition="sms",
            next_at=at,
            opened_at=at,
            updated_at=at,
        )


def a_day(a: Side, b: Side, text: str) -> list[tuple[str, datetime, str]]:
    """B hears one text from A; what they said to each other from then on: (whose, when, what), for a day."""
    flying = [(START, B, text)]
    said: list[tuple[str, datetime, str]] = []
    now, heard = START, 0
    while now <= START + DAY and len(said) < ENDLESS:
        for side, other in ((a, b), (b, a)):
            side.here()
            for _, _, words in [one for one in flying if one[0] <= now and one[1] == side.number]:
                heard += 1
                side.hear(f"X{heard}", other.number, words, now)
            flying = [one for one in flying if one[0] > now or one[1] != side.number]
            for outgoing in side.pass_time(now):
                assert outgoing.recipient == other.number, f"a text to {outgoing.recipient}"
                words = (outgoing.rendered or b"").decode()
                said.append(("A" if side is a else "B", now, words))
                flying.append((now + FLIES, other.number, words))
        now = min([at for at, _, _ in flying], default=now + STEP)
    return said


@pytest.mark.parametrize(("mine", "yours"), PAIRS, ids=[f"{mine} and {yours}" for mine, yours in PAIRS])
def test_two_desks_that_text_each_other_fall_silent(mine: str, yours: str, sides: tuple[Side, Side]) -> None:
    a, b = sides
    told(a, B, mine)
    told(b, A, yours)
    said = a_day(a, b, TEXTS[0])
    counts = Counter(who for who, _, _ in said)
    for who, at, words in said[:8]:
        print(f"{at:%H:%M:%S} {who}: {words}")
    print(f"A takes B for {mine}, B takes A for {yours}: A said {counts['A']}, B {counts['B']}")
    assert len(said) <= most(mine, yours), f"{len(said)} automatic texts: {said[:6]}"


@pytest.mark.parametrize("text", TEXTS[1:])
@pytest.mark.parametrize("role", ["a stranger", "a technician with 1 jobs"])
def test_whatever_the_first_text_is(role: str, text: str, sides: tuple[Side, Side]) -> None:
    a, b = sides
    told(a, B, role)
    told(b, A, role)
    said = a_day(a, b, text)
    print(*(f"{at:%H:%M:%S} {who}: {words}" for who, at, words in said[:6]), sep="\n")
    assert len(said) <= most(role, role), f"{len(said)} automatic texts: {said[:6]}"


def test_the_day_would_show_a_conversation_that_goes_on(
    sides: tuple[Side, Side], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The counter-proof: when every text opens a ticket, and every ticket is acknowledged, they go on."""
    monkeypatch.setattr("gateway.conversation.RULES", ())
    monkeypatch.setattr("gateway.decide.text._why_no_acknowledgement", lambda case: "")
    assert len(a_day(*sides, TEXTS[0])) > MOST
