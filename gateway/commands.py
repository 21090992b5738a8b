"""What a person in the field says in a few words: the grammar of commands by SMS and email (sms.md 4.4, DESIGN.md 5e).

Pure: it reads words and knows no tickets, phones or people. `read` turns any text into one `Said`; who may do it, on
which ticket, and whether a bare "ok" answers anything is decided by the caller. A wrong guess closes a customer's
ticket, so a verb counts only where the table `VERBS` and the two tiers allow it; everything else stays text.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, time, timedelta
from enum import StrEnum
from typing import Any
from zoneinfo import ZoneInfo


class Verb(StrEnum):
    """What can be asked for."""

    TAKE = "take"
    DROP = "drop"
    ETA = "eta"
    HERE = "here"
    NOTE = "note"
    HOLD = "hold"
    ASSIGN = "assign"
    AGAIN = "again"
    REPLY = "reply"
    DONE = "done"
    REOPEN = "reopen"
    ESCALATE = "escalate"
    MINE = "mine"
    SHOW = "show"
    UNDO = "undo"
    COMMANDS = "commands"


class Takes(StrEnum):
    """What follows a verb and its number."""

    NOTHING = "nothing"
    TEXT = "text"
    TIME = "time"  # then text
    NAME = "name"  # then text


class Risk(StrEnum):
    """What a forged or mistaken command could do (sms.md 4.5)."""

    READ = "read"
    REVERSIBLE = "reversible"
    VISIBLE = "visible"  # somebody else notices


@dataclass(frozen=True, slots=True)
class Use:
    """One row of the table: every word for a verb, which of them are strong, and what it does."""

    words: tuple[str, ...]  # the first is canonical
    strong: frozenset[str]  # may stand without a number and carry text
    takes: Takes
    risk: Risk
    usage: str


def _use(words: str, strong: str, takes: Takes, risk: Risk, usage: str) -> Use:
    return Use(tuple(words.split()), frozenset(strong.split()), takes, risk, usage)


# The one table of verbs. Columns: all words · the strong ones · what it takes · risk · how it is written.
VERBS: dict[Verb, Use] = {
    Verb.TAKE: _use("take accept ok", "", Takes.TEXT, Risk.REVERSIBLE, "TAKE 1234"),
    Verb.DROP: _use("drop decline", "", Takes.TEXT, Risk.REVERSIBLE, "DROP 1234 why"),
    Verb.ETA: _use("eta", "eta", Takes.TIME, Risk.REVERSIBLE, "ETA 1234 15:30, or 40m"),
    Verb.HERE: _use("here arrived", "", Takes.TEXT, Risk.REVERSIBLE, "HERE 1234"),
    Verb.NOTE: _use("note", "note", Takes.TEXT, Risk.REVERSIBLE, "NOTE 1234 text"),
    Verb.HOLD: _use("hold wait", "hold", Takes.TIME, Risk.REVERSIBLE, "HOLD 1234 2d, 4h or fri, then why"),
    Verb.ASSIGN: _use("assign give pass", "assign", Takes.NAME, Risk.VISIBLE, "ASSIGN 1234 @name"),
    Verb.AGAIN: _use("again second", "", Takes.TIME, Risk.REVERSIBLE, "AGAIN 1234 fri: a second visit"),
    Verb.REPLY: _use("reply tell", "reply", Takes.TEXT, Risk.VISIBLE, "REPLY 1234 text to the customer"),
    Verb.DONE: _use(
        "done close fixed resolved", "done close fixed resolved", Takes.TEXT, Risk.VISIBLE, "DONE 1234 text"
    ),
    Verb.REOPEN: _use("reopen open", "reopen", Takes.TEXT, Risk.VISIBLE, "REOPEN 1234"),
    Verb.ESCALATE: _use("escalate", "escalate", Takes.TEXT, Risk.VISIBLE, "ESCALATE 1234 why"),
    Verb.MINE: _use("mine list", "", Takes.NOTHING, Risk.READ, "MINE: my jobs"),
    Verb.SHOW: _use("show", "", Takes.NOTHING, Risk.READ, "SHOW 1234"),
    Verb.UNDO: _use("undo", "", Takes.NOTHING, Risk.REVERSIBLE, "UNDO: take back what I did last"),
    Verb.COMMANDS: _use("commands", "", Takes.NOTHING, Risk.READ, "COMMANDS: this list"),
}
WORDS: dict[str, Verb] = {word: verb for verb, use in VERBS.items() for word in use.words}

# The carriers' words: never a verb, and only when nothing else is said.
OPT_OUT = frozenset({"stop", "stopall", "unsubscribe", "cancel", "end", "quit", "revoke", "optout"})
OPT_IN = frozenset({"start", "yes", "unstop"})
HELP = frozenset({"help", "info"})

# A strong verb and its next word that together mean something else. "Close to finishing" must not close a ticket.
IDIOMS = frozenset({("hold", "on"), ("hold", "up"), ("close", "to"), ("close", "by"), ("close", "enough")})

FIRST_TICKET = 1001
LAST_LINE = 99
MORNING = time(8)  # when a day without an hour begins


class SaidKind(StrEnum):
    """What a text is."""

    COMMAND = "cmd"
    CHOICE = "choice"  # "2"
    OPT_OUT = "optout"
    OPT_IN = "optin"
    HELP = "help"
    REACTION = "reaction"  # a phone's thumb under one of our messages
    NOTE = "note"  # "#1234 text"
    NEW = "new"  # a technician as customer: "NEW text"
    STATUS = "status"  # a customer: "status", "status 1234"
    TEXT = "text"
    EMPTY = "empty"


@dataclass(frozen=True, slots=True)
class Said:
    """One text as it was understood. Of free text (`TEXT`) nothing is repeated here."""

    kind: SaidKind
    verb: Verb | None = None
    number: int | None = None  # the ticket's, or 1..99: a line of the last list
    text: str = ""  # what follows
    n: int | None = None  # of a choice
    pin: str = ""  # "4711*", without the star
    span: timedelta | None = None  # hold 2d, eta 40m
    until: str = ""  # hold fri, eta 15:30: "fri", "tomorrow", "15:30", "fri 15:30"
    to: str = ""  # assign: lower-case, without @
    error: str = ""  # "who": assign names nobody
    bare_ok: bool = False  # counts only after a job was offered
    quoted: str = ""  # of a reaction
    as_written: str = ""  # the span in one word: "2d"


# -- normalising ---------------------------------------------------------------------------------------------------

PLAIN = str.maketrans(
    {
        **dict.fromkeys("‘’‚‛′ʼ´＇", "'"),
        **dict.fromkeys("“”„‟″«»＂", '"'),
        **dict.fromkeys("‐‑‒–—―−﹣－", "-"),
        **dict.fromkeys("\u2028\u2029\x85\x0b\x0c", "\n"),
        "\t": " ",
    }
)
INVISIBLE = re.compile(  # controls, the soft hyphen, zero-width spaces, marks of direction
    r"[\x00-\x09\x0e-\x1f\x7f-\x9f\u00ad\u034f\u061c\u180e\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u2069\ufeff]"
)
JOINERS = re.compile(  # but between two emoji, or two letters of some scripts, a joiner is spelling
    r"(?<![\u200c\u200d])(?:(?<![^\x00-\x7f])[\u200c\u200d]++|[\u200c\u200d]++(?![^\x00-\x7f]))"
)
KEYCAP = re.compile(r"([0-9#*])(?:\ufe0f?\u20e3)+")  # the digits of the emoji keyboard


def normalise(text: str) -> str:
    """The same words in plain characters: NFKC, straight quotes and dashes, nothing invisible, no space at the edges.

    New lines are kept. Doing it twice is doing it once.
    """
    plain = text.replace("\r\n", "\n").replace("\r", "\n").translate(PLAIN)  # NFKC would take "´" for a space
    plain = unicodedata.normalize("NFKC", plain).translate(PLAIN)
    plain = KEYCAP.sub(r"\1", JOINERS.sub("", INVISIBLE.sub("", plain)))
    return unicodedata.normalize("NFKC", plain).strip()


# -- words ---------------------------------------------------------------------------------------------------------

LETTER = r"[^\W\d_]"
HEAD = re.compile(
    # Not "done's", "hold-up", "note@home": there the word is part of another.
    # ASCII: otherwise "lıst" is a word that no table has.
    rf"(?P<word>(?ai:{'|'.join(sorted(WORDS, key=len, reverse=True))}))(?!{LETTER})(?!['@/&_-]{LETTER})",
)
UNIT = r"mins?|minutes?|hrs?|hours?|days?|wks?|weeks?"
NUMBER = re.compile(
    # Not 15:30, 12.50, 2-3 or 50%. Of 1 to 99 without "#" also not "2 min" (MEASURE).
    r"(?P<hash>\#\s?)?(?P<digits>(?!0)\d{4,9}(?![.,/-]\d)|(?!0)\d{1,9}(?![.,:/-]\d))(?![\w%€£$°])"
)
MEASURE = re.compile(rf"\s*(?:[mhdw]|{UNIT}|am|pm|o'?clock|euros?)(?!\w)", re.IGNORECASE)
LEAD = re.compile(r"(?P<hash>\#\s?)?(?P<digits>(?!0)\d{1,9})(?P<gap>[\s:;,.!?)\]_=~/-]*)")
GAP = re.compile(r"[\s:;,.!?(\[*_=~/-]*")  # between verb and number
AFTER = re.compile(r"(?:[\s:;,!?)\]]|[.-](?!\d))*")  # before the text, where "-5" and ".5" are words


@dataclass(frozen=True, slots=True)
class Words:
    """A text that has a verb in the right place: which one, its number, and what is left of it."""

    verb: Verb
    strong: bool
    word: str
    number: int | None
    line: bool  # the number is a line of the last list, written without "#"
    marks: str  # the punctuation before the rest
    rest: str

    @property
    def takes(self) -> Takes:
        """What follows this verb."""
        return VERBS[self.verb].takes

    @property
    def whole(self) -> bool:
        """Whether nothing but an emoji follows. "Ok:-)" is chat."""
        return re.fullmatch(r"[\s.,:;!?'\"-]*[^\x00-\x7f\w]*", self.marks + self.rest) is not None

    @property
    def moment(self) -> Moment | None:
        """The time that follows a verb which takes one."""
        return _time(self.rest, self.verb is Verb.ETA) if self.takes is Takes.TIME else None


def _ticket(match: re.Match[str]) -> int | None:
    """The number of a ticket or a line. 100 to 1000 are numbers of neither, unless "#" says so."""
    number = int(match["digits"])
    return number if match["hash"] or number >= FIRST_TICKET or number <= LAST_LINE else None


def _is_line(match: re.Match[str]) -> bool:
    return not match["hash"] and int(match["digits"]) <= LAST_LINE


def _split(text: str) -> Words | None:
    """Verb and number at the start of a normalised text, in either order, glued or not."""
    if head := HEAD.match(text):
        return _verb_first(text, head)
    lead = LEAD.match(text)
    head = HEAD.match(text, lead.end()) if lead else None
    if lead is None or head is None or (number := _ticket(lead)) is None:
        return None
    if _is_line(lead) and not lead["gap"]:  # "2take"
        return None
    if text[head.end() : head.end() + 1].isdigit():  # "1234 done1240"
        return None
    return _words(text, head, head.end(), number, _is_line(lead))


def _verb_first(text: str, head: re.Match[str]) -> Words | None:
    gap = GAP.match(text, head.end())
    found = NUMBER.match(text, gap.end() if gap else head.end())
    number = _ticket(found) if found else None
    if gap and found and _is_line(found) and re.search(r"\s[-.~]$", gap[0]):  # "note -5 degrees"
        number = None
    if found and number is not None:
        words = _words(text, head, found.end(), number, _is_line(found))
        # "eta 40" says when, not which, and "hold 2 days" for how long
        if not words.line or not (MEASURE.match(text, found.end()) or (words.verb is Verb.ETA and not words.moment)):
            return words
    words = _words(text, head, head.end(), None, False)
    glued = text[head.end() : head.end() + 1].isdigit() and not words.moment  # "done2day"
    return None if glued else words


def _words(text: str, head: re.Match[str], end: int, number: int | None, line: bool) -> Words:
    after = AFTER.match(text, end)
    marks = after[0] if after else ""
    rest = text[end + len(marks) :]
    if rest.isascii() and not re.search(r"[^\W_]", rest):  # the rest of a smile
        marks, rest = marks + rest, ""
    word = head["word"].lower()
    return Words(WORDS[word], word in VERBS[WORDS[word]].strong, word, number, line, marks, rest)


def _counts(words: Words) -> bool:
    """The two tiers: a strong verb always, a weak one with the number of a ticket or as the whole message."""
    if not words.strong:
        return words.whole or (words.number is not None and not words.line)
    if words.number is not None or ":" in words.marks or words.moment:
        return True
    following = re.match(rf"{LETTER}*", words.rest)
    return (words.word, following[0].lower() if following else "") not in IDIOMS


# -- times and names -----------------------------------------------------------------------------------------------

DAYS = {
    **dict.fromkeys(("mon", "monday"), "mon"),
    **dict.fromkeys(("tue", "tues", "tuesday"), "tue"),
    **dict.fromkeys(("wed", "weds", "wednesday"), "wed"),
    **dict.fromkeys(("thu", "thur", "thurs", "thursday"), "thu"),
    **dict.fromkeys(("fri", "friday"), "fri"),
    **dict.fromkeys(("sat", "saturday"), "sat"),
    **dict.fromkeys(("sun", "sunday"), "sun"),
    **dict.fromkeys(("tomorrow", "tmrw", "tmr", "tomoz"), "tomorrow"),
    "today": "today",
}
WEEK = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
UNITS = {
    "m": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
    "w": timedelta(weeks=1),
}
BEFORE = re.compile(
    r"(?:(?:(?:until|till|til|for|to|in|at|by|on|about|around|approx|next)\b\.?|[@~])\s*)*", re.IGNORECASE
)
SPAN = re.compile(rf"(?P<count>\d{{1,3}}(?:\.\d)?)\s?(?P<unit>(?ai:[mhdw]|{UNIT}))(?![\w/])")
HOURS = re.compile(
    r"(?P<hours>\d{1,2})(?:h(?P<glued>[0-5]\d)m?|\s?(?:h|hrs?|hours?)\s?(?P<minutes>\d{1,2})\s?(?:m|mins?|minutes?))(?!\w)",
    re.IGNORECASE,
)
DAY = re.compile(rf"(?P<day>(?ai:{'|'.join(sorted(DAYS, key=len, reverse=True))}))(?!['\w-])\.?,?")
HALF = re.compile(r"(?P<hour>1[0-2]|0?[1-9])(?:[:.](?P<minute>[0-5]\d))?\s?(?P<half>[ap])\.?m\b\.?", re.IGNORECASE)
CLOCK = re.compile(r"(?P<hour>2[0-3]|[01]?\d):(?P<minute>[0-5]\d)(?![\w:]|\.\d)")
LOOSE_CLOCK = re.compile(
    r"(?P<hour>2[0-3]|[01]?\d)[.h](?P<minute>[0-5]\d)(?!\w)|(?P<hh>2[0-3]|[01]\d)(?P<mm>[0-5]\d)(?!\w)"
)
MINUTES = re.compile(r"(?P<count>(?!0)\d{1,3})(?![\w:#%.-])")
NAME = re.compile(rf"@?\s?(?P<name>{LETTER}[\w.'-]*)")


@dataclass(frozen=True, slots=True)
class Moment:
    """A time as it was written: a span or a word, and the text behind it."""

    rest: str
    span: timedelta | None = None
    as_written: str = ""
    until: str = ""


def _rest(text: str, end: int) -> str:
    after = AFTER.match(text, end)
    return text[after.end() if after else end :]


def _time(text: str, loose: bool) -> Moment | None:
    """The time that a text begins with. `loose` also takes "40" as minutes and "15.30", "1530" as hours (ETA)."""
    before = BEFORE.match(text.lstrip())
    text = text.lstrip()[before.end() if before else 0 :]
    if hours := HOURS.match(text):
        span = timedelta(hours=int(hours["hours"]), minutes=int(hours["glued"] or hours["minutes"]))
        return Moment(_rest(text, hours.end()), span, f"{int(span.total_seconds()) // 60}m")
    if match := SPAN.match(text):
        unit = match["unit"].lower()[0]
        return Moment(_rest(text, match.end()), float(match["count"]) * UNITS[unit], f"{match['count']}{unit}")
    if match := DAY.match(text):
        day = DAYS[match["day"].lower()]
        more = BEFORE.match(text[match.end() :].lstrip())
        tail = text[match.end() :].lstrip()[more.end() if more else 0 :]
        if clock := _clock(tail, loose):
            return Moment(clock.rest, until=clock.until if day == "today" else f"{day} {clock.until}")
        return None if day == "today" else Moment(_rest(text, match.end()), until=day)
    if clock := _clock(text, loose):
        return clock
    if loose and (match := MINUTES.match(text)):
        return Moment(_rest(text, match.end()), int(match["count"]) * UNITS["m"], f"{match['count']}m")
    return None


def _clock(text: str, loose: bool) -> Moment | None:
    """An hour of the day, as "15:30" whatever way it was written."""
    if match := HALF.match(text):
        hour = int(match["hour"]) % 12 + (12 if match["half"].lower() == "p" else 0)
        return Moment(_rest(text, match.end()), until=f"{hour:02}:{match['minute'] or '00'}")
    if match := CLOCK.match(text):
        return Moment(_rest(text, match.end()), until=f"{int(match['hour']):02}:{match['minute']}")
    if loose and (match := LOOSE_CLOCK.match(text)):
        hour, minute = int(match["hour"] or match["hh"]), match["minute"] or match["mm"]
        return Moment(_rest(text, match.end()), until=f"{hour:02}:{minute}")
    return None


def _named(words: Words, said: Said) -> Said:
    """ASSIGN with its name: "to Ana she is near", "@ana", "ana 1234"."""
    text = re.sub(r"^to(?!\w)[\s:,]*", "", words.rest, flags=re.IGNORECASE)
    match = NAME.match(text)
    if match is None:
        return replace(said, text=text, error="who")
    said = replace(said, to=match["name"].rstrip(".'-").lower())
    rest = _rest(text, match.end("name"))
    number = NUMBER.match(rest)
    if said.number is None and number and (number["hash"] or int(number["digits"]) >= FIRST_TICKET):
        return replace(said, number=_ticket(number), text=_rest(rest, number.end()))
    return replace(said, text=rest)


def _said(words: Words) -> Said:
    """The command with its typed argument."""
    said = Said(SaidKind.COMMAND, words.verb, words.number, words.rest)
    if words.takes is Takes.NAME:
        return _named(words, said)
    if moment := words.moment:
        return replace(said, text=moment.rest, span=moment.span, until=moment.until, as_written=moment.as_written)
    if not words.strong and words.number is None:  # the whole message, perhaps with a smile
        return replace(said, text="", bare_ok=words.word == "ok")
    return said


# -- reading -------------------------------------------------------------------------------------------------------

PIN = re.compile(r"(?P<pin>\d{4,8})\s?\*\s*")
QUOTED = re.compile(r"(?P<mark>['\"])(?P<text>[^'\"]*\w[^'\"]*)(?P=mark)")  # as our own message printed it: "DONE 1234"
CHOICE = re.compile(r"[(\[]?(?P<n>\d{1,2})[\s.,:;!)\]]*")
STATUS = re.compile(r"status[\s:,]*(?:(?P<hash>\#\s?)?(?P<digits>(?!0)\d{1,9}))?[\s.!?]*", re.IGNORECASE)
NEW = re.compile(r"(?:NEW(?!\w)(?!['-]\w)|[Nn]ew\s?:)[\s:,.-]*")  # "New gasket fitted" is a note
ABOUT = re.compile(r"(?:\#\s?(?P<hashed>(?!0)\d{1,9})(?!\w)|(?P<plain>(?!0)\d{4,9}):)")
REACTION = re.compile(
    r"(?:(?:liked|loved|disliked|laughed at|emphasi[sz]ed|questioned|reacted \S{1,16} to"
    r"|removed an? [\w ]{1,30} from|[^\x00-\x7f]\S{0,15} to) \"(?P<quoted>.*)\"[.\s]*"
    r"|(?:liked|loved|disliked|laughed at|emphasi[sz]ed|questioned) an? (?:image|photo|movie|video|attachment))",
    re.IGNORECASE | re.DOTALL,
)


def read(text: str) -> Said:
    """What an SMS says. Never fails; what is no command is `TEXT`, and nothing is a command by guess."""
    plain = normalise(text)
    if not plain:
        return Said(SaidKind.EMPTY)
    if pin := PIN.match(plain):
        return replace(_read(plain[pin.end() :]), pin=pin["pin"])
    if quoted := QUOTED.fullmatch(plain):
        plain = quoted["text"].strip()
    return _carrier(plain) or _read(plain)


def without_pin(text: str) -> str:
    """The words without a code in front, however that was written: it stands in no list and no history."""
    plain = normalise(text)
    pin = PIN.match(plain)
    return plain[pin.end() :] if pin else text


def _carrier(text: str) -> Said | None:
    """The words that phone companies act on, alone in their message."""
    words = re.findall(r"[^\W_]+", text)
    word = words[0].lower() if len(words) == 1 else ""
    for kind, known in ((SaidKind.OPT_OUT, OPT_OUT), (SaidKind.OPT_IN, OPT_IN), (SaidKind.HELP, HELP)):
        if word in known:
            return Said(kind)
    return None


def _read(text: str) -> Said:
    if reaction := REACTION.fullmatch(text):
        return Said(SaidKind.REACTION, quoted=(reaction["quoted"] or "").strip())
    if (choice := CHOICE.fullmatch(text)) and int(choice["n"]):
        return Said(SaidKind.CHOICE, n=int(choice["n"]))
    if status := STATUS.fullmatch(text):
        number = _ticket(status) if status["digits"] else None
        return Said(SaidKind.STATUS, number=number) if number or not status["digits"] else Said(SaidKind.TEXT)
    if (words := _split(text)) and _counts(words):
        return _said(words)
    if about := ABOUT.match(text):
        return _about(text, about)
    if new := NEW.match(text):
        return Said(SaidKind.NEW, text=text[new.end() :])
    return Said(SaidKind.TEXT)


def _about(text: str, about: re.Match[str]) -> Said:
    """ "#1234 text" and "1234: text" speak about a ticket; "#1234" alone asks to see it."""
    number, rest = int(about["hashed"] or about["plain"]), _rest(text, about.end())
    if re.search(r"[^\x00-\x2f\x3a-\x40\x5b-\x60\x7b-\x7f]", rest):
        return (
            Said(SaidKind.NOTE, number=number, text=rest)
            if number >= FIRST_TICKET or about["hashed"]
            else Said(SaidKind.TEXT)
        )
    return Said(SaidKind.COMMAND, Verb.SHOW, number) if about["hashed"] else Said(SaidKind.TEXT)


def as_json(said: Said) -> dict[str, Any]:
    """A `Said` as the trace keeps it: only what has a value."""
    values = {
        "kind": said.kind.value,
        "verb": said.verb.value if said.verb else None,
        "ticket": said.number,
        "text": said.text,
        "for": said.as_written,
        "until": said.until,
        "to": said.to,
        "pin": said.pin,
        "n": said.n,
        "error": said.error,
    }
    return {key: value for key, value in values.items() if value}


# -- times on the clock --------------------------------------------------------------------------------------------


def when(said: Said, now: datetime, zone: ZoneInfo) -> datetime | None:
    """The moment, in UTC, that a HOLD, ETA or AGAIN means; None when it names no time.

    A span counts from `now`. An hour is today's, or tomorrow's when it has passed. A weekday is the next one, from
    08:00 in `zone`; today's own name means next week, unless an hour that is still to come stands with it.
    """
    if said.span is not None:
        return now.astimezone(UTC) + said.span
    match = re.fullmatch(rf"(?:(?P<day>{'|'.join([*WEEK, 'tomorrow'])}) ?)?(?P<clock>.*)", said.until.strip().lower())
    clock = _clock(match["clock"], True) if match and match["clock"] else None
    if match is None or (not match["day"] and not clock):
        return None
    here = now.astimezone(zone)
    hour = time.fromisoformat(clock.until) if clock else MORNING
    ahead = 0
    if match["day"] == "tomorrow":
        ahead = 1
    elif match["day"]:
        ahead = (WEEK.index(match["day"]) - here.weekday()) % 7
    due = datetime.combine(here.date() + timedelta(days=ahead), hour, zone)
    if ahead == 0 and (due <= here or not clock):
        due = datetime.combine(here.date() + timedelta(days=7 if match["day"] else 1), hour, zone)
    return due.astimezone(UTC)


# -- email ---------------------------------------------------------------------------------------------------------

# What may stand under a command in a mail without being a message of its own.
CLOSINGS = re.compile(
    r"(?:(?:(?:kind|best|warm|with|many|kindest)\s){0,3}(?:regards|thanks|wishes)|thank you|cheers|best"
    r"|yours(?: \w+)?|sincerely|ta|thx|bye|br|kr|rgds|mfg)(?!\w)",
    re.IGNORECASE,
)
DEVICE = re.compile(r"\s*(?:sent (?:from|with|via)|get outlook|von meinem|envoyé de) ", re.IGNORECASE)
COLON_VERBS = frozenset({Verb.REPLY, Verb.NOTE})
TYPED = frozenset({Takes.TIME, Takes.NAME})


def read_mail(text: str, names: Sequence[str] = ()) -> tuple[Said, str] | None:
    """The command in the first line of a mail's trimmed text, and the text without that line; None when there is none.

    `names` are the writer's own, as they may be signed. A sentence that begins with a verb is no command: in a mail
    nobody asks for short words, and a line that was meant for the customer must not close the ticket.
    """
    lines = text.strip().splitlines()
    if not lines:
        return None
    line, rest = normalise(lines[0]), "\n".join(lines[1:]).rstrip()
    pin = PIN.match(line)
    words = _split(line[pin.end() :] if pin else line)
    if words is None or "?" in words.marks:
        return None
    said = replace(_said(words), pin=pin["pin"] if pin else "")
    if words.verb in COLON_VERBS:
        return (replace(said, text=f"{words.rest}\n{rest}".strip()), "") if ":" in words.marks else None
    alone = _counts(words) and _stands_alone(words, said, rest, names)
    return (said, rest.strip()) if alone else None


def _stands_alone(words: Words, said: Said, rest: str, names: Sequence[str]) -> bool:
    """Whether a line is a command and not the beginning of a sentence."""
    ticket = said.number is not None and not words.line
    if words.strong and (ticket or ":" in words.marks):
        return True
    if said.text or (words.rest and words.takes not in TYPED):
        return False
    return words.strong or ticket or _is_closing(rest, names)


def _is_closing(text: str, names: Sequence[str]) -> bool:
    """Whether nothing is said but perhaps a closing word and the writer's own name."""
    own = {part for name in names for part in re.findall(r"\w+", name.lower())}
    own |= {part[0] for part in own}
    for line in normalise(text).lower().splitlines():
        if line.strip() in {"--", "__"}:
            return True
        if not DEVICE.match(line) and not set(re.findall(r"\w+", CLOSINGS.sub(" ", line))) <= own:
            return False
    return True


# -- mistyped ------------------------------------------------------------------------------------------------------

# English words that are a slip or two away from a verb.
ENGLISH = frozenset(
    re.findall(
        r"\w+",
        """
        accent access ahold align arrive askin asking ass assist bait bake bass bell bold bone cake carried cell
        chose chow cine clone closer cold command commander commons crop dane dealing decide decking define
        dell dene design dine dive doe dome don dont dose dote doze droop dune ere except fell filed fine fined
        fired fist five fixes fold fone gain gave given gives gold gone hee hehe held hell her herd hero
        hers hire hive hole hols holy how incline ive jake lake last lift line lint lit live lone lose lost
        lust make married mass mere mike mile min mina mind miner mins mint mist mite mixed nine nite nixed node
        noe none nope nose not noted old one oven pads pases past paws pen pine piss pist pone prop rake realy
        reclined record rely removed repay repent replay resign revolved sake scold seconds sell send
        shoe shop shot sign sixed slow snow sold solved stake tale tall tape tare tel tells telly there
        till toke told toll tone tote vote waist wake want wart wat watt well were where wine wit yell zone
        """,
    )
)


SLIPPED = re.compile(
    rf"(?:(?P<before>\#?\d+)[\s:,.-]*)?(?P<word>{LETTER}{{3,12}})[\s:,.!-]*(?P<after>\#?\d+(?!\w))?(?P<rest>.*)",
    re.DOTALL,
)


def nearest(text: str) -> tuple[str, ...]:
    """Up to three words of the table that a mistyped first word may have meant, nearest first.

    () unless the word is the whole message or the number of a ticket stands beside it.
    """
    match = SLIPPED.fullmatch(normalise(text))
    if match is None or match["word"].lower() in ENGLISH or match["word"].lower() in WORDS:
        return ()
    beside = match["before"] or match["after"]
    whole = re.search(r"\w", match["rest"]) is None
    if beside:
        number = NUMBER.fullmatch(beside)
        if number is None or _ticket(number) is None or (_is_line(number) and not whole):
            return ()
    return _near(match["word"].lower()) if beside or whole else ()


def _near(word: str) -> tuple[str, ...]:
    found: dict[Verb, tuple[int, str]] = {}
    for known, verb in WORDS.items():
        slips = _slips(word, known)
        if len(known) >= 4 and slips <= (2 if len(known) >= 6 else 1) and slips < found.get(verb, (9, ""))[0]:
            found[verb] = (slips, known)
    return tuple(known for _, known in sorted(found.values(), key=lambda near: near[0])[:3])


def _slips(one: str, other: str) -> int:
    """The edit distance that counts two swapped neighbours as one slip (Damerau, optimal string alignment)."""
    before, last = list[int](), list(range(len(other) + 1))
    for i, a in enumerate(one, 1):
        row = [i]
        for j, b in enumerate(other, 1):
            cost = min(last[j] + 1, row[j - 1] + 1, last[j - 1] + (a != b))
            if i > 1 and j > 1 and a == other[j - 2] and one[i - 2] == b:
                cost = min(cost, before[j - 2] + 1)
            row.append(cost)
        before, last = last, row
    return last[-1]
