"""A verb counts where the two tiers allow it, and ordinary words never close a ticket."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.commands import (
    HELP,
    OPT_IN,
    OPT_OUT,
    VERBS,
    WORDS,
    Said,
    SaidKind,
    Verb,
    as_json,
    nearest,
    normalise,
    read,
    read_mail,
    when,
)

SHARED = Path(__file__).parents[2].parent / "shared/data/sms"
BERLIN = ZoneInfo("Europe/Berlin")
FRIDAY = datetime(2026, 3, 27, 10, 0, tzinfo=UTC)  # 11:00 in Berlin, two days before summer time


ODD = ("12", "1234", "#1234", "fri", "2d", "15:30", "99:99", "@ana", "to", *"*’“İıſ²\u200d\ufe0f\u20e3👍")


def shared(name: str) -> str:
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"NOT TESTED: the texts come from ../shared/data/sms/{name}, which is not there")
    return path.read_text()


def short(said: Said) -> str:
    """A `Said` on one line: kind or verb, #number, then what has a value."""
    row = as_json(said)
    kind, verb = row.pop("kind"), row.pop("verb", None)
    number = row.pop("ticket", None)
    words = [verb or f"<{kind}>", f"#{number}" if number else ""]
    return " ".join([*filter(None, words), *(f"{key}={value}" for key, value in row.items())])


# -- the table -----------------------------------------------------------------------------------------------------


def test_the_table_of_verbs_is_complete_and_says_every_word_once() -> None:
    words = [word for use in VERBS.values() for word in use.words]
    assert list(VERBS) == list(Verb)
    assert sorted(words) == sorted(WORDS)
    assert [use.words[0] for use in VERBS.values()] == [verb.value for verb in Verb]
    assert not set(words) & (OPT_OUT | OPT_IN | HELP)
    assert {word for use in VERBS.values() for word in use.strong} == {
        *("done", "close", "fixed", "resolved", "note", "hold", "assign", "reply", "eta", "escalate", "reopen"),
    }


@pytest.mark.parametrize("verb", list(Verb))
def test_every_usage_line_can_be_sent_as_it_is_written(verb: Verb) -> None:
    usage = VERBS[verb].usage
    assert usage.isascii()
    assert read(usage.split(":")[0].split(",")[0]).verb is verb


# -- SMS -----------------------------------------------------------------------------------------------------------


def test_the_sixty_texts_parse_as_listed() -> None:
    rows: list[dict[str, Any]] = json.loads(shared("sms_commands.json"))
    wrong = [(row["sms"], as_json(read(row["sms"])), row["parse"]) for row in rows]
    assert [row for row in wrong if row[1] != row[2]] == []
    assert len(rows) == 60


@pytest.mark.parametrize(
    ("sms", "said"),
    [
        # one command, however a phone or a hand writes it
        ("DONE #1234:", "done #1234"),
        ("done:1234", "done #1234"),
        ("Done.1234.", "done #1234"),
        ("Done1234", "done #1234"),
        ("done#1234", "done #1234"),
        ("done (1234)", "done #1234"),
        ("done/1234", "done #1234"),
        ("1234done", "done #1234"),
        ("#1234 - done", "done #1234"),
        ("1234, done", "done #1234"),
        ("done\n1234", "done #1234"),
        ("\u201cdone 1234\u201d", "done #1234"),
        ("\ufeffdo\u200bn\u200de\u00a01234", "done #1234"),
        ("\uff44\uff4f\uff4e\uff45\u3000\uff03\uff11\uff12\uff13\uff14", "done #1234"),
        ("done ١٢٣٤", "done #1234"),
        ("done 1234 :)", "done #1234"),
        ("DONE - 1234 - new seal", "done #1234 text=new seal"),
        ("done 1234:2 seals", "done #1234 text=2 seals"),
        ("done 1234 1240", "done #1234 text=1240"),
        ("done 1234\r\nnew seal\r\nnew cap", "done #1234 text=new seal\nnew cap"),
        ("done 1234 -5 degrees", "done #1234 text=-5 degrees"),
        ("close 1234", "done #1234"),
        ("Resolved: 1234", "done #1234"),
        # lines of the last list
        ("done 2", "done #2"),
        ("2 done", "done #2"),
        ("done 2 pump", "done #2 text=pump"),
        ("done #2", "done #2"),
        ("done 2 hours labour", "done text=2 hours labour"),
        ("done 2nd floor", "done text=2nd floor"),
        ("done 12:30", "done text=12:30"),
        ("done 50%", "done text=50%"),
        ("note -5 degrees", "note text=-5 degrees"),
        # 100 to 1000 are no tickets unless "#" says so
        ("done 500", "done text=500"),
        ("done 1000", "done text=1000"),
        ("done 1001", "done #1001"),
        ("done #500", "done #500"),
        ("done 99", "done #99"),
        ("done 100", "done text=100"),
        ("done 01234", "done text=01234"),
        ("done 1234567890", "done text=1234567890"),
        # a strong verb stands without a number, as a word of its own
        ("fixed it", "done text=it"),
        ("reply: on my way", "reply text=on my way"),
        ("ESCALATE!", "escalate"),
        ("escalate 1234 too big", "escalate #1234 text=too big"),
        ("reopen", "reopen"),
        ("doneby", "<text>"),
        ("done's", "<text>"),
        ("done2day", "<text>"),
        ("hold-up", "<text>"),
        ("undone 1234", "<text>"),
        ("#done 1234", "<text>"),
        ("lıst", "<text>"),
        ("12:30 done", "<text>"),
        ("500 done", "<text>"),
        # what is said with a verb and means another thing
        ("Hold on a sec", "<text>"),
        ("Close to finishing", "<text>"),
        ("hold 1234 on hand", "hold #1234 text=on hand"),
        ("hold on: 1234", "<text>"),
        # a weak verb needs a ticket's number, or to be all that is said
        ("take", "take"),
        ("accept!", "take"),
        ("Accept 1234", "take #1234"),
        ("take1234", "take #1234"),
        ("ok 1234 will do", "take #1234 text=will do"),
        ("take 2", "take #2"),
        ("take 2 please", "<text>"),
        ("take #2 please", "take #2 text=please"),
        ("2 ok", "take #2"),
        ("2take", "<text>"),
        ("ok2go", "<text>"),
        ("accept the terms", "<text>"),
        ("Ok:-)", "<text>"),
        ("drop", "drop"),
        ("decline 1234 sick", "drop #1234 text=sick"),
        ("here", "here"),
        ("here 4 you", "<text>"),
        ("Arrived 1234", "here #1234"),
        ("wait 2d", "<text>"),
        ("wait 1234 2d", "hold #1234 for=2d"),
        ("open 1234", "reopen #1234"),
        ("tell 1234: on my way", "reply #1234 text=on my way"),
        ("tell: on my way", "<text>"),
        ("Mine.", "mine"),
        ("show 1234", "show #1234"),
        ("show me", "<text>"),
        ("undo 1234", "undo #1234"),
        ("UNDO!", "undo"),
        ("Commands?", "commands"),
        ("second time today", "<text>"),
        # times
        ("hold2d", "hold for=2d"),
        ("hold 4 h", "hold for=4h"),
        ("hold 2", "hold #2"),
        ("hold 2 2 days", "hold #2 for=2d"),
        ("HOLD #1234, 2D, parts", "hold #1234 text=parts for=2d"),
        ("hold 1234 for 3 weeks", "hold #1234 for=3w"),
        ("hold 1234 until Friday", "hold #1234 until=fri"),
        ("hold until fri 14:00 parts", "hold text=parts until=fri 14:00"),
        ("hold 1234 tomorrow", "hold #1234 until=tomorrow"),
        ("hold 1234 until parts come", "hold #1234 text=until parts come"),
        ("hold 1234 monday's part", "hold #1234 text=monday's part"),
        ("hold 1234 2 parts", "hold #1234 text=2 parts"),
        ("hold 1234 3.50 short", "hold #1234 text=3.50 short"),
        ("again 1234 fri new seal", "again #1234 text=new seal until=fri"),
        ("eta 15:30", "eta until=15:30"),
        ("eta 1234 15:30 traffic", "eta #1234 text=traffic until=15:30"),
        ("eta 1234: 15.30", "eta #1234 until=15:30"),
        ("eta 1234 1530", "eta #1234 until=15:30"),
        ("eta 3pm", "eta until=15:00"),
        ("eta 12:15 am", "eta until=00:15"),
        ("eta 40", "eta for=40m"),
        ("eta 2 40m", "eta #2 for=40m"),
        ("eta40m", "eta for=40m"),
        ("ETA in 20 mins", "eta for=20m"),
        ("eta 1h30", "eta for=90m"),
        ("eta 2 hours", "eta for=2h"),
        ("eta today 9:05", "eta until=09:05"),
        ("eta 1234", "eta #1234"),
        # names
        ("assign @Ana", "assign to=ana"),
        ("assign 1234, Ana-Maria. near", "assign #1234 text=near to=ana-maria"),
        ("assign ana 1234 near", "assign #1234 text=near to=ana"),
        ("assign 1234 ana 1240", "assign #1234 text=1240 to=ana"),
        ("assign 1234 to", "assign #1234 error=who"),
        ("assign", "assign error=who"),
        ("pass 1234 to @ana", "assign #1234 to=ana"),
        ("give 2 ana", "<text>"),
        # a ticket without a verb
        ("#1234?", "show #1234"),
        ("#1234: waiting", "<note> #1234 text=waiting"),
        ("#1234 👍", "<note> #1234 text=👍"),
        ("1234: waiting", "<note> #1234 text=waiting"),
        ("1234 waiting", "<text>"),
        ("500: waiting", "<text>"),
        # one-time codes
        ("4711*done1234", "done #1234 pin=4711"),
        ("4711 * DONE #1234: cash", "done #1234 text=cash pin=4711"),
        ("482913*", "<text> pin=482913"),
        ("12* done 1234", "<text>"),
        # choices
        ("2.", "<choice> n=2"),
        ("(2)", "<choice> n=2"),
        ("2️⃣", "<choice> n=2"),
        ("99", "<choice> n=99"),
        ("0", "<text>"),
        ("100", "<text>"),
        # the carriers' words, alone
        ("Stop 🙂", "<optout>"),
        ("'STOPALL'", "<optout>"),
        ("Quit", "<optout>"),
        ("stop it", "<text>"),
        ("UNSTOP", "<optin>"),
        ("info?", "<help>"),
        ("help me", "<text>"),
        # the phone's own words
        ("Reacted 👍 to “Job #1234”", "<reaction>"),
        ("\u200a\u200b👍\u200b to “\u200aJob #1234\u200a”\u200a", "<reaction>"),
        ("Removed a like from “Job #1234”", "<reaction>"),
        ("Loved an image", "<reaction>"),
        ("Loved “Titanic” yesterday", "<text>"),
        # a technician as customer, and what customers ask
        ("NEW printer is broken", "<new> text=printer is broken"),
        ("new: printer is broken", "<new> text=printer is broken"),
        ("New gasket fitted", "<text>"),
        ("Status?", "<status>"),
        ("status #1234", "<status> #1234"),
        ("status 2", "<status> #2"),
        ("status 500", "<text>"),
        ("status of my boiler", "<text>"),
    ],
)
def test_an_sms_is_read(sms: str, said: str) -> None:
    assert short(read(sms)) == said


@pytest.mark.parametrize(
    ("sms", "only_after_an_offer"),
    [
        ("ok", True),
        ("Ok...", True),
        ("ok 👍", True),
        ("ok 2", False),
        ("ok 1234", False),
        ("take", False),
        ("accept", False),
    ],
)
def test_a_bare_ok_counts_only_after_an_offer(sms: str, only_after_an_offer: bool) -> None:
    said = read(sms)
    assert (said.verb, said.bare_ok) == (Verb.TAKE, only_after_an_offer)


def test_a_reaction_names_the_words_it_stands_under() -> None:
    assert read("Liked “Ticket #1234 assigned to you”").quoted == "Ticket #1234 assigned to you"


def test_ordinary_texts_are_hardly_ever_commands() -> None:
    """Raw: everything that is not free text, a choice or a carrier's word. Executed: of these, all but a bare "ok"."""
    texts = shared("ordinary_sms.txt").splitlines()
    free = {SaidKind.TEXT, SaidKind.CHOICE, SaidKind.OPT_IN, SaidKind.OPT_OUT, SaidKind.HELP}
    raw = [(text, said) for text in texts if (said := read(text)).kind not in free]
    executed = [text for text, said in raw if not said.bare_ok]
    assert len(texts) > 2000
    assert len(raw) <= 0.005 * len(texts), raw
    assert len(executed) <= 0.0005 * len(texts), executed


def test_ordinary_texts_are_no_commands_by_mail_and_no_slips_of_the_finger() -> None:
    texts = shared("ordinary_sms.txt").splitlines()
    assert [text for text in texts if (found := read_mail(text)) and not found[0].bare_ok] == []
    assert [text for text in texts if nearest(text)] == []


# -- normalising ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "plain"),
    [
        ("it’s “stuck” – really…", 'it\'s "stuck" - really...'),
        ("  a\u00a0b\u2009c\t", "a b c"),
        ("a\r\nb\rc\u2028d", "a\nb\nc\nd"),
        ("do\u200dne\u00ad \x001\u200e2", "done 12"),
        ("ＦＩＸＥＤ ﬁxed", "FIXED fixed"),
        ("👨\u200d👩\u200d👧", "👨\u200d👩\u200d👧"),
        ("", ""),
    ],
)
def test_words_are_made_plain(raw: str, plain: str) -> None:
    assert normalise(raw) == plain


@given(st.lists(st.sampled_from([*WORDS, *ODD, " ", "\n"])))
def test_no_text_is_too_odd_to_be_read(parts: list[str]) -> None:
    text = "".join(parts)
    plain, said = normalise(text), read(text)
    assert normalise(plain) == plain
    assert read(plain) == said
    assert (said.kind is SaidKind.EMPTY) == (plain == "")
    assert (when(said, FRIDAY, BERLIN) is None) == (said.span is None and not said.until)


@pytest.mark.parametrize(
    "text",
    [
        "done " + "-." * 50_000,
        "eta " + "to " * 50_000,
        "take\n" + "best " * 50_000 + "x",
        "é\u200d" * 50_000,
        "\u200d" * 99_999,
        "1" * 99_999,
    ],
)
def test_a_long_text_is_read_in_no_time(text: str) -> None:
    start = time.perf_counter()
    read(text), read_mail(text), nearest(text)
    assert time.perf_counter() - start < 2


# -- times on the clock --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sms", "moment"),
    [
        ("hold 2d", "Sun 29 12:00"),  # 48 hours, one of which the clock skips
        ("hold 4h", "Fri 27 15:00"),
        ("eta 40m", "Fri 27 11:40"),
        ("eta 15:30", "Fri 27 15:30"),
        ("eta 11:00", "Sat 28 11:00"),
        ("eta 09:00", "Sat 28 09:00"),
        ("eta 3pm", "Fri 27 15:00"),
        ("hold sat", "Sat 28 08:00"),
        ("hold sun", "Sun 29 08:00"),
        ("hold thu", "Thu 02 08:00"),
        ("hold fri", "Fri 03 08:00"),
        ("hold fri 14:00", "Fri 27 14:00"),
        ("hold fri 9am", "Fri 03 09:00"),
        ("hold tomorrow", "Sat 28 08:00"),
        ("hold tomorrow 9am", "Sat 28 09:00"),
    ],
)
def test_a_time_is_a_moment(sms: str, moment: str) -> None:
    due = when(read(sms), FRIDAY, BERLIN)
    assert due is not None
    assert due.tzinfo is UTC
    assert f"{due.astimezone(BERLIN):%a %d %H:%M}" == moment


def test_the_name_of_today_means_next_week_even_before_eight() -> None:
    early = datetime(2026, 3, 27, 5, 0, tzinfo=UTC)
    assert when(read("hold fri"), early, BERLIN) == datetime(2026, 4, 3, 8, 0, tzinfo=BERLIN)


@pytest.mark.parametrize("said", [read("hold"), read("done 1234"), Said(SaidKind.COMMAND, Verb.HOLD, until="soon")])
def test_no_time_is_no_moment(said: Said) -> None:
    assert when(said, FRIDAY, BERLIN) is None


def test_a_time_may_stand_as_it_was_written() -> None:
    said = Said(SaidKind.COMMAND, Verb.ETA, until="3pm")
    assert when(said, FRIDAY, BERLIN) == FRIDAY + timedelta(hours=4)


# -- email ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mail", "said", "rest"),
    [
        # a strong verb alone on its line, with number, with number and text, with colon and text
        ("Done", "done", ""),
        ("\n  Done.\n\nNew seal.\n\nTom", "done", "New seal.\n\nTom"),
        ("done 1234\nNew seal.", "done #1234", "New seal."),
        ("DONE #1234: new seal\nmore", "done #1234 text=new seal", "more"),
        ("1234 done", "done #1234", ""),
        ("done 2", "done #2", ""),
        ("done: new seal", "done text=new seal", ""),
        ("escalate 1234 too big", "escalate #1234 text=too big", ""),
        ("hold 2d\nparts", "hold for=2d", "parts"),
        ("hold 1234 fri parts", "hold #1234 text=parts until=fri", ""),
        ("eta 15:30", "eta until=15:30", ""),
        ("assign ana\nshe is near", "assign to=ana", "she is near"),
        ("4711* done 1234", "done #1234 pin=4711", ""),
        # what is written after the colon, and all below, goes with it
        ("reply: Dear Ann,\n\nI’ll come at 3.\n", "reply text=Dear Ann,\n\nI’ll come at 3.", ""),
        ("Reply 1234:\nDear Ann", "reply #1234 text=Dear Ann", ""),
        ("Tell: on my way", "reply text=on my way", ""),
        ("note: valve stuck\nneeds part", "note text=valve stuck\nneeds part", ""),
        # a weak verb with its number alone on the line, or alone in the mail
        ("take 1234\nI am near", "take #1234", "I am near"),
        ("pass 1234 @ana", "assign #1234 to=ana", ""),
        ("again 1234 fri", "again #1234 until=fri", ""),
        ("take", "take", ""),
        ("Mine\n\nKind regards,\nTom Baker", "mine", "Kind regards,\nTom Baker"),
        ("ok\nThanks, Tom B.", "take", "Thanks, Tom B."),
        ("undo\nSent from my iPhone", "undo", "Sent from my iPhone"),
        ("take\n--\nBaker Heating Ltd", "take", "--\nBaker Heating Ltd"),
        ("take 2", "take #2", ""),
    ],
)
def test_the_first_line_of_a_mail_is_a_command(mail: str, said: str, rest: str) -> None:
    found = read_mail(mail, ["Tom Baker"])
    assert found is not None
    assert (short(found[0]), found[1]) == (said, rest)


@pytest.mark.parametrize(
    "mail",
    [
        "",
        "Done it but the internet is off",
        "Done with the pump, will call",
        "Done, thanks",
        "Done?",
        "Close to finishing, will call",
        "Done 2 of the pumps",
        "Hold on",
        "hold fri for me",
        "assign ana please",
        "escalate to bob",
        "reply on my way",
        "note 1234 stuck",
        "take 1234 please",
        "take 2\nof the pumps",
        "Take\nthe key under the mat",
        "Here\nis the picture",
        "open 1234?",
        "ok\nThanks, Max",
        "#done 1234",
        "#1234 waiting",
        "#1234",
        "> done 1234",
        "Hello\ndone 1234",
        "STOP",
        "2",
        "NEW printer",
    ],
)
def test_a_sentence_in_a_mail_is_no_command(mail: str) -> None:
    assert read_mail(mail, ["Tom Baker"]) is None


# -- mistyped ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("dnoe 1234", ("done",)),
        ("1234 dnoe", ("done",)),
        ("dnoe1234", ("done",)),
        ("Dnoe #1234: new pump", ("done",)),
        ("doen", ("done",)),
        ("aceppt 1234", ("accept",)),
        ("tkae 2", ("take",)),
        ("closed 1234", ("close",)),
        ("resolve 1234", ("resolved",)),
        ("escallate!", ("escalate",)),
        ("asign 1234 ana", ("assign",)),
        ("hoke 1234", ()),
        ("dnoe the pump", ()),
        ("dnoe 500", ()),
        ("tkae 2 please", ()),
        ("done 1234", ()),
        ("one", ()),
        ("come 1234", ()),
        ("where", ()),
        ("thanks", ()),
        ("", ()),
    ],
)
def test_a_slip_of_the_finger_is_answered_with_the_nearest_word(text: str, words: tuple[str, ...]) -> None:
    assert nearest(text) == words


def test_several_words_may_be_meant_the_nearest_first() -> None:
    assert list(WORDS).index("assign") < list(WORDS).index("again")
    assert nearest("asain 1234") == ("again", "assign")
