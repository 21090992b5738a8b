"""Phone numbers in one spelling, and what a provider writes where a sender's number should be (sms.md 1 and 4.2).

Pure. We keep E.164 (`+447700900123`). A number counts when it is possible, valid or not: numbering plans change faster
than the tables of phonenumbers, and a wrong refusal loses a customer.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from phonenumbers import PhoneNumber

E164 = re.compile(r"\+[1-9][0-9]{6,14}", re.ASCII)
TYPED = re.compile(r"\+?[0-9 ().,/-]*[0-9][0-9 ().,/-]*", re.ASCII)  # a number as people write it
SHORT_CODE = re.compile(r"[0-9]{3,8}", re.ASCII)
MACHINE = re.compile(r"[^\s@](?:[^@\t-\r]{0,9}[^\s@])?")
LONGEST_TYPED = 64
LONGEST_NAME = 11  # of an alphanumeric sender
SURELY_SHORT = 6  # digits; seven or eight may be a national number

# What networks and telephone systems send in place of a number: digits spell ANONYMOUS, RESTRICTED, UNAVAILABLE, …
WITHHELD_NUMBERS = frozenset({"+266696687", "+7378742833", "+86282452253", "+2562533", "+8566696"})
WITHHELD_WORDS = frozenset(
    [
        "",
        "anonymous",
        "blocked",
        "no caller id",
        "no number",
        "none",
        "null",
        "number withheld",
        "private",
        "private number",
        "restricted",
        "unavailable",
        "unknown",
        "unknown number",
        "withheld",
        "withheld number",
    ]
)


@lru_cache(maxsize=4096)
def phone(text: str, region: str) -> str:
    """A number as typed, in E.164. One without country code is read as in `region` ("GB"); 00, brackets, "(0)" and
    "tel:" are fine. Raises ValueError in words that a form can show."""
    typed = _typed(text)
    shown = typed[:LONGEST_TYPED]
    if not typed:
        raise ValueError("not a phone number: nothing is there")
    if any(char.isalpha() for char in typed):
        raise ValueError(f"not a phone number: {shown} has letters in it")
    if len(typed) > LONGEST_TYPED or not TYPED.fullmatch(typed):
        raise ValueError(f"not a phone number: {shown}")
    if _digits(typed) in WITHHELD_NUMBERS:
        raise ValueError(f"not a phone number: {shown} stands for a withheld one")
    return _best(_spellings(typed), region, shown)


@lru_cache(maxsize=4096)
def sender(text: str, region: str) -> str:
    """Who sent an SMS or called, as a provider names it: E.164; a short code or an alphanumeric sender in upper case,
    at most 11 characters of it; "" when withheld. `region` is that of our number. Never raises."""
    typed = _typed(text)
    if _withheld(typed):
        return ""
    digits = _digits(typed) if TYPED.fullmatch(typed) and len(typed) <= LONGEST_TYPED else ""
    if digits and not _is_short_code(digits, region):
        spellings = _spellings(typed)
        if not digits.startswith(("+", "0")):
            spellings.append(f"+{digits}")  # some gateways leave the plus out
        try:
            return _best(spellings, region, digits)
        except ValueError:
            pass
    name = " ".join(re.sub(r"[@\x00-\x1f\x7f]", " ", typed).upper().split())
    return name.lstrip("+ ")[:LONGEST_NAME].strip()  # without a plus it is never taken for E.164


def is_phone(value: str) -> bool:
    """Is this a number as we keep them (E.164)?"""
    return E164.fullmatch(value) is not None


def is_machine(value: str) -> bool:
    """Is this a short code or an alphanumeric sender, as `sender` writes them? It is never answered by itself."""
    return not is_phone(value) and MACHINE.fullmatch(value) is not None and value == value.upper()


@lru_cache(maxsize=4096)
def region_of(number: str) -> str:
    """The ISO region of an E.164 number, with which national numbers written to it are read; "" when it has none."""
    import phonenumbers

    parsed = _parsed(number, "") if is_phone(number) else None
    if parsed is None:
        return ""
    region = phonenumbers.region_code_for_number(parsed) or phonenumbers.region_code_for_country_code(
        parsed.country_code or 0
    )
    return region if region.isalpha() and region != phonenumbers.UNKNOWN_REGION else ""


@lru_cache(maxsize=4096)
def masked(value: str) -> str:
    """`+44…123`: enough to tell strangers apart on pages and in logs. A short code or a name stays as it is."""
    if is_phone(value):
        parsed = _parsed(value, "")
        return f"+{parsed.country_code if parsed else ''}…{value[-3:]}"
    return value if is_machine(value) else "…"


@lru_cache(maxsize=4096)
def spoken(value: str) -> str:
    """`+44 7700 900123`: an E.164 number as people read it. Anything else stays as it is."""
    import phonenumbers

    parsed = _parsed(value, "") if is_phone(value) else None
    return phonenumbers.format_number(parsed, phonenumbers.PhoneNumberFormat.INTERNATIONAL) if parsed else value


# -- reading -------------------------------------------------------------------------------------------------------


def _typed(text: str) -> str:
    """A text with plain digits, dashes and spaces, without what an address book pastes along unseen."""
    text = unicodedata.normalize("NFKC", text[: 4 * LONGEST_TYPED])
    typed = " ".join("".join(map(_folded, text)).split())
    return typed[4:].strip() if typed[:4].lower() == "tel:" else typed


def _folded(char: str) -> str:
    category = unicodedata.category(char)
    if category == "Cf":
        return ""
    if category == "Nd":
        return str(unicodedata.decimal(char))
    return "-" if category == "Pd" or char == "−" else char


def _digits(typed: str) -> str:
    """The digits, and the plus before them."""
    return ("+" if typed.startswith("+") else "") + re.sub(r"[^0-9]", "", typed)


def _spellings(typed: str) -> list[str]:
    """What a number as typed may mean, likeliest first. A 0 in brackets belongs to the number in Italy only, and 00 is
    the way out of most countries, though not of all."""
    written = [_digits(typed), _digits(re.sub(r"\(\s*0\s*\)", "", typed))]
    return [*written, *(f"+{digits[2:]}" for digits in written if digits.startswith("00"))]


def _best(spellings: list[str], region: str, shown: str) -> str:
    """The first spelling that is a valid number, else the first that is a possible one, in E.164."""
    import phonenumbers

    possible, reasons = "", []
    for spelling in spellings:
        number = _parsed(spelling, region)
        reason = _reason(number, spelling)
        if number is None or reason:
            reasons.append(reason)
        elif phonenumbers.is_valid_number(number):
            return _e164(number)
        else:
            possible = possible or _e164(number)
    if not possible:
        raise ValueError(f"not a phone number: {shown} ({reasons[-1]})")
    return possible


def _reason(number: PhoneNumber | None, spelling: str) -> str:
    """Why this cannot be a number; "" when it can."""
    import phonenumbers
    from phonenumbers import ValidationResult

    if number is None and len(spelling) > 16:
        return "too long"
    if number is None:
        return "no country has this code" if spelling.startswith("+") else "write it with + and the country code"
    result = phonenumbers.is_possible_number_with_reason(number)
    if result == ValidationResult.IS_POSSIBLE:
        return "" if is_phone(_e164(number)) else "too long"
    return {
        ValidationResult.INVALID_COUNTRY_CODE: "no country has this code",
        ValidationResult.IS_POSSIBLE_LOCAL_ONLY: "the area code is missing",
        ValidationResult.TOO_SHORT: "too short",
        ValidationResult.TOO_LONG: "too long",
    }.get(result, "a wrong number of digits")


def _parsed(text: str, region: str) -> PhoneNumber | None:
    """What phonenumbers makes of it; None when it makes nothing of it."""
    import phonenumbers

    try:
        return phonenumbers.parse(text, region.upper() or None)
    except phonenumbers.NumberParseException:
        return None


def _e164(number: PhoneNumber) -> str:
    import phonenumbers

    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)


def _withheld(typed: str) -> bool:
    """Does this stand for "I do not say who I am"?"""
    words = " ".join(typed.partition("@")[0].strip('<>"() ').replace("-", " ").lower().split())
    return words in WITHHELD_WORDS or _digits(typed) in WITHHELD_NUMBERS


def _is_short_code(digits: str, region: str) -> bool:
    """Is it a short code? In countries with seven or eight digits, those are a number when the plan there has it."""
    import phonenumbers

    if not SHORT_CODE.fullmatch(digits):
        return False
    if len(digits) <= SURELY_SHORT:
        return True
    number = _parsed(digits, region)
    return number is None or not phonenumbers.is_valid_number(number)
