"""A phone number has one spelling, and what is no number is never taken for one."""

from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.phones import is_machine, is_phone, masked, phone, region_of, sender, spoken

DRAMA = "+447700900123"  # of Ofcom's numbers for films: possible, not valid
SPELLINGS = ["+44 (0)7700 900123", "0044 7700 900123", "07700 900123", "tel:+44-7700-900123", "7700900123"]


# -- as typed ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "region", "kept"),
    [
        *((spelling, "GB", DRAMA) for spelling in SPELLINGS),
        (" 07700/900.123 ", "gb", DRAMA),
        ("07700–900−123", "GB", DRAMA),
        ("０７７００　９００１２３", "GB", DRAMA),
        ("٠٧٧٠٠٩٠٠١٢٣", "GB", DRAMA),
        ("\u202a+44\u00a07700\u00a0900123\u202c", "US", DRAMA),
        ("TEL: 07700 900123", "GB", DRAMA),
        ("(020) 7946 0958", "GB", "+442079460958"),
        ("(0)20 7946 0958", "GB", "+442079460958"),
        # 00 is the way out, also where the telephone network has another one
        ("0044 7700 900123", "US", DRAMA),
        ("0044 (0) 7700 900123", "US", DRAMA),
        ("011 44 7700 900123", "US", DRAMA),
        ("0011 44 7700 900123", "AU", DRAMA),
        ("001 65 6123 4567", "HK", "+6561234567"),
        ("0049 30 123456", "SG", "+4930123456"),
        # a 0 in brackets belongs to the number in Italy, nowhere else
        ("+39 (0)6 6982 0000", "IT", "+390669820000"),
        ("+49 (0)30 123456", "DE", "+4930123456"),
        ("+372 (0)5123456", "EE", "+3725123456"),
        # the region decides what a national number is: a wrong one makes a wrong number
        ("(212) 555-0123", "US", "+12125550123"),
        ("(212) 555-0123", "GB", "+442125550123"),
        ("91234567", "SG", "+6591234567"),
        ("+290 22222", "", "+29022222"),
    ],
)
def test_a_number_as_typed(typed: str, region: str, kept: str) -> None:
    assert phone(typed, region) == kept


@pytest.mark.parametrize(
    ("typed", "region", "said"),
    [
        ("", "GB", "nothing is there"),
        (" \u200b ", "GB", "nothing is there"),
        ("0800 FLOWERS", "GB", "0800 FLOWERS has letters in it"),
        ("020 7946 0958 ext 12", "GB", "020 7946 0958 ext 12 has letters in it"),
        ("ann@hillcrest.example", "GB", "ann@hillcrest.example has letters in it"),
        ("*100#", "GB", "*100#"),
        ("+", "GB", "+"),
        ("07700 +900123", "GB", "07700 +900123"),
        ("112", "GB", "112 (too short)"),
        ("555 0123", "US", "555 0123 (the area code is missing)"),
        ("07700 900123", "", "07700 900123 (write it with + and the country code)"),
        ("07700 900123", "XX", "07700 900123 (write it with + and the country code)"),
        ("+999 1234567", "GB", "+999 1234567 (no country has this code)"),
        ("07700 900123 900123", "GB", "07700 900123 900123 (too long)"),
        ("07700 900123 / 07700 900456", "GB", "07700 900123 / 07700 900456 (too long)"),
        ("+49 30 123456789012", "DE", "+49 30 123456789012 (too long)"),  # for E.164
        ("0099 9123 4567", "GB", "0099 9123 4567 (no country has this code)"),
        ("1" * 70, "GB", "1" * 64),
        ("+266696687", "GB", "+266696687 stands for a withheld one"),
        ("+86 282452253", "GB", "+86 282452253 stands for a withheld one"),
    ],
)
def test_what_is_no_number_is_refused_in_words(typed: str, region: str, said: str) -> None:
    with pytest.raises(ValueError, match="not a phone number: ") as refusal:
        phone(typed, region)
    assert str(refusal.value) == f"not a phone number: {said}"


@given(
    st.text(alphabet="0123456789+() -/.x٣\u202a", max_size=80),
    st.sampled_from(["GB", "US", "DE", "SG", "IT", "BR", ""]),
)
def test_what_is_kept_is_e164_and_read_again_the_same(typed: str, region: str) -> None:
    try:
        kept = phone(typed, region)
    except ValueError:
        return
    assert is_phone(kept)
    assert phone(kept, "US") == kept


# -- as a provider names it ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("named", "region", "kept"),
    [
        ("+447700900123", "US", DRAMA),
        ("07700900123", "GB", DRAMA),
        ("447700900123", "GB", DRAMA),  # a gateway that leaves the plus out
        ("447700900123", "US", DRAMA),
        ("4915112345678", "GB", "+4915112345678"),
        ("12125550123", "US", "+12125550123"),
        ("9554784807", "GB", "+449554784807"),  # might be either: then it is national
        # short codes: a few digits, and more where the country has no such number
        ("112", "GB", "112"),
        ("60300", "GB", "60300"),
        ("50600", "AT", "50600"),  # might be a number there, and is not
        ("12345678", "GB", "12345678"),
        ("91234567", "SG", "+6591234567"),
        ("12345678", "SG", "12345678"),
        # names
        ("ACME Ltd", "GB", "ACME LTD"),
        (" acme\u00a0 ltd ", "GB", "ACME LTD"),
        ("A very long sender", "GB", "A VERY LONG"),
        ("O2", "GB", "O2"),
        ("bob@x.example", "GB", "BOB X.EXAMP"),
        # looks like a number and is none: never one of ours
        ("+999123456789", "GB", "99912345678"),
        ("+12345", "US", "12345"),
    ],
)
def test_a_sender(named: str, region: str, kept: str) -> None:
    assert sender(named, region) == kept


@pytest.mark.parametrize(
    "named",
    [
        "", " ", "anonymous", "Anonymous", "RESTRICTED", "unavailable", "Unknown", "<unknown>", '"Private Number"',
        "anonymous@anonymous.invalid", "withheld", "no-caller-id",
        "+266696687", "+7378742833", "+86282452253", "+2562533", "+8566696",
    ],
)  # fmt: skip
def test_a_withheld_sender_has_no_name(named: str) -> None:
    assert sender(named, "GB") == ""


@given(st.text(max_size=80) | st.from_regex(r"\+?[0-9]{1,18}", fullmatch=True), st.sampled_from(["GB", "US", "SG", ""]))
def test_any_sender_is_a_phone_or_a_machine_or_withheld(named: str, region: str) -> None:
    kept = sender(named, region)
    assert [kept == "", is_phone(kept), is_machine(kept)].count(True) == 1


# -- what we keep --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "a_phone", "a_machine"),
    [
        (DRAMA, True, False),
        ("+1234567", True, False),
        ("+123456789012345", True, False),
        ("+1234567890123456", False, False),
        ("+123456", False, True),
        ("+0447700900", False, True),
        ("447700900123", False, False),
        ("+44 7700 90", False, True),
        ("+٤٤٧٧٠٠٩٠٠", False, True),
        (f"{DRAMA}\n", False, False),
        ("60300", False, True),
        ("ACME LTD", False, True),
        ("Acme", False, False),
        ("A", False, True),
        (" A", False, False),
        ("A\nB", False, False),
        ("A VERY LONG NAME", False, False),
        ("A@B.EXAMPLE", False, False),
        ("", False, False),
    ],
)
def test_phone_or_machine(value: str, a_phone: bool, a_machine: bool) -> None:
    assert (is_phone(value), is_machine(value)) == (a_phone, a_machine)


@pytest.mark.parametrize(
    ("number", "region"),
    [
        (DRAMA, "GB"),
        ("+12125550123", "US"),
        ("+14165550123", "CA"),
        ("+6591234567", "SG"),
        ("+80012345678", ""),  # no country's
        ("+9991234567", ""),
        ("60300", ""),
        ("", ""),
    ],
)
def test_the_region_of_a_number(number: str, region: str) -> None:
    assert region_of(number) == region


def test_a_national_number_is_read_with_the_region_of_the_number_it_was_sent_to() -> None:
    assert phone("(212) 555-0123", region_of("+12125550999")) == "+12125550123"


@pytest.mark.parametrize(
    ("value", "mask", "speech"),
    [
        (DRAMA, "+44…123", "+44 7700 900123"),
        ("+12125550123", "+1…123", "+1 212-555-0123"),
        ("+35312345678", "+353…678", "+353 1 234 5678"),
        ("+9991234567", "+…567", "+9991234567"),
        ("60300", "60300", "60300"),
        ("ACME LTD", "ACME LTD", "ACME LTD"),
        ("ann@hillcrest.example", "…", "ann@hillcrest.example"),
        ("", "…", ""),
    ],
)
def test_masked_and_spoken(value: str, mask: str, speech: str) -> None:
    assert (masked(value), spoken(value)) == (mask, speech)


def test_phonenumbers_is_loaded_when_it_is_first_needed() -> None:
    script = (
        "import sys; from gateway import phones; print('phonenumbers' in sys.modules);"
        "phones.phone('+447700900123', ''); print('phonenumbers' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert said.split() == ["False", "True"]
