"""Every text that goes out by itself is one GSM-7 segment, whatever stands in it (specs/sms.md 4.4 and 4.9, G7).

The fields are seeded and hostile; what is cut are only the fields that may be, never our own words or a number. No
template names a word that phone companies act on (specs/sms.md 1), but for STOP, START and HELP where they are meant.
"""

from __future__ import annotations

import itertools
import random
import re
import string
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from gateway.commands import HELP, OPT_IN, OPT_OUT, VERBS, WORDS, SaidKind, read
from gateway.config import parse
from gateway.segments import GSM7, count, plain
from gateway.values import Medium, NoticeKind, Outgoing
from outbound.render import Letter
from outbound.texts import CUT, STATES, render_sms, say, templates
from tests.conftest import SETTINGS

SEED, ROUNDS = 20261123, 150
TEXTS = templates("en")
LINES = {"menu": 3, "which-job": 4, "status": 3, "mine": 8}  # as many as decisions put there, at most
CONSENT = {"stopped": {"START"}, "started": {"STOP"}, "help": {"STOP", "HELP"}}
OTHERS = {"STATUS", "STOP", "SMS"}  # what else stands in capitals: a customer's words, and an abbreviation
PUT_IN = {"lines", "digits", "last", "more"}  # by `outbound.texts`
CARRIERS = OPT_OUT | OPT_IN | HELP

HOSTILE = (
    "Boiler leak",
    "",
    " ",
    "x" * 300,
    "€" * 300,
    "{" * 80,
    "}{" * 40,
    "{0}{number}{subject.__class__}%s%(x)s",
    "[^]~|\\" * 20,
    "💥" * 80,
    "Котёл не греет " * 20,
    "鍋爐漏水" * 40,
    "it’s “stuck” – really… " * 12,
    "line\nline\r\nline\n" * 12,
    "\t\u200b\u202e\u00a0\ufeff\u0000" * 10,
    "ﬁ ½ ﷺ ™ Ⅷ " * 20,
    "ẞß Łódź Ğğ Çç " * 10,
    "STOP\nEND\nQUIT",
)
NAMES = ("Tom", "T" * 80, "Ł€ó{d}ź " * 10, "Мария Ивановна " * 5, "👷‍♀️" * 20, "O'Neill-{}" * 8, "")
FIRMS = ("ACME", "F" * 60, "€" * 60, "{firm}" * 10, "Müller & Söhne Heizung Sanitär GmbH & Co. KG Ost", "Ж" * 60)
NUMBERS = (1001, 4711, 999_999_999)
TIMES = ("15:30", "Wed 25 Nov 15:30", "Fri 09:00", "already", "")


def hostile(rng: random.Random, name: str) -> dict[str, Any]:
    """Everything that decisions may put into this sentence."""
    words = HOSTILE
    lines = [
        [rng.choice(NUMBERS), rng.choice(words), *([rng.choice([*STATES])] if name == "status" else [])]
        for _ in range(rng.randint(1, LINES.get(name, 1)))
    ]
    return {
        "say": name,
        "number": rng.choice(NUMBERS),
        "subject": rng.choice(words),
        "text": rng.choice(words),
        "author": rng.choice(NAMES),
        "name": rng.choice(NAMES),
        "who": ", ".join(rng.choice(NAMES) for _ in range(rng.randint(1, 6))),
        "names": ", ".join(rng.choice(NAMES) for _ in range(rng.randint(1, 4))),
        "where": ", ".join(rng.choice(["+447700900123", f"{'a' * 200}@{'b' * 50}.example"]) for _ in range(2)),
        "near": ", ".join(word.upper() for word in rng.sample(sorted(WORDS), 3)),
        "verb": rng.choice(sorted(VERBS)).upper(),
        "usage": rng.choice([use.usage for use in VERBS.values()]),
        "at": rng.choice(TIMES),
        "code": rng.choice(["482913", "4829"]),
        "status": rng.choice([*STATES]),
        "most": rng.choice([1, 4]),
        "more": rng.choice([0, 5, 120]),
        "phone": "+447700900123",
        "lines": lines if name in LINES else [],
    }


def own_words(name: str, data: dict[str, Any]) -> list[str]:
    """What must stand in the text uncut, in this order: our own words, the numbers, and of a list its numbers."""
    found = []
    for words, field, _, _ in string.Formatter().parse(TEXTS[name]):
        found.append(words.strip())
        if field == "lines":
            found += [f"#{line[0]}" for line in data["lines"]]
        elif field in ("number", "code", "verb", "usage", "at", "most"):
            found.append(str(data[field]))
    return [words for words in found if words]


def outgoing(data: dict[str, Any], kind: NoticeKind = NoticeKind.NOTICE) -> Outgoing:
    """A claimed row that says this."""
    at = datetime(2026, 11, 23, 9, 0, tzinfo=UTC)
    return Outgoing(1, 1001, 1, kind, Medium.SMS, "+447700900123", None, 1, at, None, "", "", data)


@pytest.mark.parametrize("name", TEXTS)
def test_a_text_of_ours_is_one_segment_and_keeps_its_own_words(name: str) -> None:
    rng = random.Random(f"{SEED} {name}")
    longest = ""
    for _ in range(ROUNDS):
        data, firm = hostile(rng, name), rng.choice(FIRMS)
        text = say(data, firm, one_segment=True)
        counted = count(text)
        assert (counted.segments, counted.encoding) == (1, GSM7), f"{data}: {text!r}"
        place = 0
        for words in own_words(name, data):
            assert words in text[place:], f"{words!r} is cut from {text!r}"
            place = text.index(words, place) + len(words)
        longest = max(longest, text, key=lambda one: count(one).units)
    print(f"{name}: at most {count(longest).units} septets, {longest!r}")


def test_the_longest_of_all_when_nothing_has_to_be_cut() -> None:
    """With plain fields, as they are on most days: none of them is near its end."""
    fields = {
        "number": 1234, "subject": "Boiler leak", "text": "Still dripping", "author": "Ann Hill", "name": "Tom",
        "who": "Ana", "names": "Ana, Tom", "where": "+447700900123", "near": "DONE", "verb": "REPLY",
        "usage": "ETA 1234 15:30, or 40m", "at": "15:30", "code": "482913", "status": "open", "most": 4, "more": 0,
        "phone": "+447700900123",
    }  # fmt: skip
    counted = []
    for name in TEXTS:
        lines = [[1234 + n, "Boiler leak", *(["open"] if name == "status" else [])] for n in range(LINES.get(name, 0))]
        text = say({**fields, "say": name, "lines": lines}, "ACME", one_segment=True)
        counted.append((count(text).units, name, text))
        assert count(text).segments == 1
        assert ".." not in text or name == "mine", f"{name} is cut: {text}"
    for units, name, text in sorted(counted, reverse=True)[:5]:
        print(f"{units:3} {name}: {text}")


@pytest.mark.parametrize("words", HOSTILE, ids=range(len(HOSTILE)))
def test_what_is_repeated_of_a_message_is_one_segment_too(words: str, tmp_path: Path) -> None:
    settings = {**SETTINGS, "firm": {**SETTINGS["firm"], "name": FIRMS[4]}, "data": {"dir": str(tmp_path)}}
    config = parse(settings, {})
    for author, data in itertools.product(NAMES, ({"say": "news"}, {"say": "news", "words": words}, {"words": words})):
        if data == {"words": words} and not plain(words).strip():
            continue  # of such words nothing is left to send
        letter = Letter(outgoing(data), text=words, number=999_999_999, ticket_subject=words, author_name=author)
        text = render_sms(letter, config).content.decode()
        assert (count(text).segments, count(text).encoding) == (1, GSM7), repr(text)
        assert "say" not in data or text.startswith("#999999999 "), text


def test_every_field_of_a_template_is_one_that_the_test_fills() -> None:
    filled = {*hostile(random.Random(SEED), "news"), "firm"} | PUT_IN
    asked = {field for text in TEXTS.values() for _, field, _, _ in string.Formatter().parse(text) if field}
    assert asked <= filled
    assert set(CUT) <= asked | {"text"}


def capitals(text: str) -> Iterator[str]:
    """The words in capitals: that is how a template writes what can be texted back."""
    yield from re.findall(r"(?<![A-Za-z{])[A-Z]{3,}(?![a-z}])", text)


@pytest.mark.parametrize("name", TEXTS)
def test_no_text_asks_for_a_word_that_phone_companies_act_on(name: str) -> None:
    told = set(capitals(TEXTS[name])) | {
        word.upper() for word in re.findall(r"(?:[Rr]eply|[Tt]ext|[Ss]end) (\w+)", TEXTS[name])
    }
    carried = {word for word in told if word.lower() in CARRIERS}
    assert carried <= CONSENT.get(name, set()), f"{name} asks for {carried}"


@pytest.mark.parametrize("name", TEXTS)
def test_every_word_that_a_text_asks_for_is_one_that_is_understood(name: str) -> None:
    unknown = [word for word in capitals(TEXTS[name]) if word.lower() not in WORDS and word not in OTHERS]
    assert set(unknown) <= CONSENT.get(name, set()), f"{name} asks for {unknown}"


def test_no_verb_and_no_usage_line_is_a_carriers_word() -> None:
    assert not CARRIERS & set(WORDS)
    for use in VERBS.values():
        assert not {word.lower() for word in capitals(use.usage)} & CARRIERS
    assert read("Stop it: UNDO").kind is SaidKind.TEXT
