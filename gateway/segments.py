"""How many SMS a text is, and how to say it in one (sms.md 1 and 4.6; the alphabet is that of 3GPP TS 23.038, 6.2.1).

Pure. A text goes out in GSM-7 when that alphabet has all of its characters, otherwise the whole of it in UCS-2, where
less than half as much fits.
"""

from __future__ import annotations

import unicodedata
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

GSM7 = "GSM-7"
UCS2 = "UCS-2"
ALONE = {GSM7: 160, UCS2: 70}  # units of a text that is one SMS
PART = {GSM7: 153, UCS2: 67}  # units of each part of a longer one: six bytes say how the parts belong together

BASIC = frozenset(
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?"
    "¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà"
)
EXTENSION = frozenset("\f^{}\\[~]|€")  # two units each: an escape goes before them
ALPHABET = BASIC | EXTENSION

CUT = ".."

# What a character is written as when GSM-7 lacks it. The rest loses its accents, or goes.
ALIKE = {
    char: plain
    for chars, plain in (
        ("‘’‚‛′‵`´ʹʻʼˈ‹›", "'"),
        ("“”„‟″‶«»〝〞", '"'),
        ("‐‑‒–—―−⁃•·‧∙", "-"),
        ("\t", " "),
        ("\v\x85\u2028\u2029", "\n"),
        ("…", "..."),
        ("⁄∕", "/"),
        ("×", "x"),
        ("÷", "/"),
        ("±", "+/-"),
        ("→", "->"),
        ("←", "<-"),
        ("©", "(c)"),
        ("®", "(R)"),
        ("µ", "u"),
        ("¢", "c"),
        ("¦", "|"),
        ("ˆ", "^"),
        ("˜", "~"),
        ("ł", "l"),
        ("Ł", "L"),
        ("đð", "d"),
        ("ĐÐ", "D"),
        ("ħ", "h"),
        ("Ħ", "H"),
        ("ŧ", "t"),
        ("Ŧ", "T"),
        ("ŋ", "n"),
        ("Ŋ", "N"),
        ("ı", "i"),
        ("ĸ", "k"),
        ("þ", "th"),
        ("Þ", "Th"),
        ("œ", "oe"),
        ("Œ", "OE"),
        ("ẞ", "SS"),
        ("ς", "Σ"),
    )
    for char in chars
}
# GSM-7 has those Greek capitals that no Latin letter looks like; small Greek letters are written as capitals.
ALIKE |= dict(zip("ΑΒΕΖΗΙΚΜΝΟΡΤΥΧ", "ABEZHIKMNOPTYX", strict=True))
ALIKE |= {char: ALIKE.get(char.upper(), char.upper()) for char in "αβγδεζηθικλμνξοπρστυφχψω"}


@dataclass(frozen=True, slots=True)
class Count:
    """What a text costs. `units` are septets in GSM-7 and 16-bit units in UCS-2, without what is lost where a part ends
    early; `special` are the characters that force UCS-2, in order, each once."""

    segments: int
    encoding: str  # "GSM-7" or "UCS-2"
    units: int
    special: tuple[str, ...] = ()


def count(text: str) -> Count:
    """How many SMS a text is, and why. An empty text is one: it is sent all the same."""
    special = set(text) - ALPHABET
    if special:
        widths = [2 if char > "\uffff" else 1 for char in text]
        ordered = tuple(dict.fromkeys(char for char in text if char in special))
        return Count(_parts(widths, UCS2), UCS2, sum(widths), ordered)
    widths = [2 if char in EXTENSION else 1 for char in text]
    return Count(_parts(widths, GSM7), GSM7, sum(widths))


def fits(text: str) -> bool:
    """Is it one SMS?"""
    return count(text).segments == 1


def plain(text: str) -> str:
    """The text in GSM-7: what that alphabet lacks is replaced by its plain likeness, or goes. A text that is already
    GSM-7 comes back unchanged; of one in an alphabet without a likeness (Cyrillic, Chinese) little is left."""
    if ALPHABET.issuperset(text):
        return text
    return "".join(map(_likeness, unicodedata.normalize("NFC", text)))


def fit(template: str, fields: Mapping[str, str | int], shorten: Sequence[str] = ("subject", "text")) -> str:
    """A format template filled so that it is one SMS in GSM-7. The fields in `shorten` are cut evenly, the longest
    first, and end with ".." then. Raises ValueError when it is longer than one SMS even without them."""
    template = plain(template)
    clean = {name: plain(value) if isinstance(value, str) else value for name, value in fields.items()}

    def filled(room: int) -> str:
        short = {name: _cut(str(clean[name]), room) for name in shorten if name in clean}
        return template.format_map({**clean, **short})

    whole = ALONE[GSM7]
    too_much = bisect_left(range(whole + 1), True, key=lambda room: not fits(filled(room)))
    if not too_much:
        raise ValueError(f"longer than one SMS, whatever is cut: {filled(0)}")
    return filled(too_much - 1)


def _parts(widths: Sequence[int], encoding: str) -> int:
    """Into how many parts characters of these widths go; none is split over two."""
    if sum(widths) <= ALONE[encoding]:
        return 1
    size = PART[encoding]
    parts, used = 1, 0
    for width in widths:
        used += width
        if used > size:
            parts, used = parts + 1, width
    return parts


@lru_cache(maxsize=4096)
def _likeness(char: str) -> str:
    """One character in GSM-7; "" when nothing there is like it."""
    if char in ALPHABET:
        return char
    if char in ALIKE:
        return ALIKE[char]
    if char.isdecimal():
        return str(unicodedata.decimal(char))
    pieces = unicodedata.normalize("NFKD", char)
    return "".join(map(_likeness, pieces)) if pieces != char else ""


def _cut(text: str, room: int) -> str:
    """The beginning of a text, in at most `room` characters together with its ".."."""
    if len(text) <= room:
        return text
    kept = text[: max(0, room - len(CUT))].rstrip()
    return kept + CUT if kept else ""
