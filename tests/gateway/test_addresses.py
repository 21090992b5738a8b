"""Addresses have one spelling, and a token that we did not sign is never believed."""

from __future__ import annotations

import random
import stat
import string
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from gateway import addresses
from gateway.addresses import Key, genuine, read_token, read_tokens, sign
from gateway.values import Purpose, Token

KEYS = (Key("a", b"a" * 32), Key("b", b"b" * 32))
PURPOSES = list(Purpose)
STAFF = [Purpose.STAFF_ANSWER, Purpose.STAFF_NOTE]


def believed(text: str, keys: addresses.Keys = KEYS, generation: int = 0) -> bool:
    token = read_token(text)
    return token is not None and genuine(keys, token, generation)


# -- addresses -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "spelled"),
    [
        ("ann@hillcrest.example", "ann@hillcrest.example"),
        ("  Ann.Hill@HillCrest.Example \r\n", "ann.hill@hillcrest.example"),
        ("<ann@hillcrest.example>", "ann@hillcrest.example"),
        ("ann@hillcrest.example.", "ann@hillcrest.example"),
        ("ann+flat7@hillcrest.example", "ann+flat7@hillcrest.example"),
        ("ann@MÜNCHEN.example", "ann@xn--mnchen-3ya.example"),
        ("ann@xn--mnchen-3ya.example", "ann@xn--mnchen-3ya.example"),
        ("änne@hillcrest.example", "änne@hillcrest.example"),
        ("root@localhost", "root@localhost"),
        ("ann@[192.0.2.7]", "ann@[192.0.2.7]"),
        ("a_b@under_score.example", "a_b@under_score.example"),
        # what cannot be a mailbox
        ("", ""),
        ("<>", ""),
        ("ann", ""),
        ("@hillcrest.example", ""),
        ("ann@", ""),
        ("ann@.", ""),
        ("ann hill@hillcrest.example", ""),
        ("ann@hill crest.example", ""),
        ("ann\r\nBcc: max@x.example@hillcrest.example", ""),
        ("ann\x00@hillcrest.example", ""),
        ("ann@hill..example", ""),
        ("ann@hill,crest.example", ""),
        ("ann@hillcrest.example>, <max@elsewhere.example", ""),
        ("x" * 201 + "@hillcrest.example", ""),
        ("ann@" + "x" * 254, ""),
        ("ann@" + "ü" * 64 + ".example", ""),
    ],
)
def test_a_mailbox_has_one_spelling(written: str, spelled: str) -> None:
    assert addresses.mail_address(written) == spelled
    assert addresses.mail_address(spelled) == spelled


@pytest.mark.parametrize(
    ("address", "bare", "plus"),
    [
        ("support+x.1@desk.example", "support@desk.example", "x.1"),
        ("support@desk.example", "support@desk.example", ""),
        ("support+a+b@desk.example", "support@desk.example", "a+b"),
        ("support+@desk.example", "support@desk.example", ""),
        ("support@desk+x.example", "support@desk+x.example", ""),
    ],
)
def test_what_stands_behind_a_plus_can_be_taken_off(address: str, bare: str, plus: str) -> None:
    assert (addresses.without_plus(address), addresses.plus_part(address)) == (bare, plus)


def test_the_domain_is_what_stands_behind_the_last_at() -> None:
    assert addresses.domain_of("ann@hillcrest.example") == "hillcrest.example"


@pytest.mark.parametrize(
    ("local", "machine"),
    [
        *((local, True) for local in ("no-reply", "noreply", "do-not-reply", "noreply+77", "mailer-daemon", "bounces")),
        *((local, True) for local in ("bounce-123", "owner-list", "list-owner", "list-request", "root", "postmaster")),
        *((local, False) for local in ("ann", "reply", "bouncer", "rootbeer", "owner", "ben.nobody", "support")),
    ],
)
def test_addresses_that_nobody_reads_are_known(local: str, machine: bool) -> None:
    assert addresses.is_machine(f"{local}@hillcrest.example") is machine


# -- tokens --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("purpose", PURPOSES)
def test_what_is_signed_is_read_and_believed(purpose: Purpose) -> None:
    text = sign(KEYS, purpose, 1001, 77, 5, generation=3)
    token = read_token(text)
    assert token is not None
    assert (token.purpose, token.number, token.entry, token.who) == (purpose, 1001, 77, 5)
    assert genuine(KEYS, token, 3)


def test_a_token_fits_into_an_address() -> None:
    text = sign(KEYS, Purpose.CUSTOMER_REPLY, 9_999_999, 99_999_999, 99_999_999)
    assert len(f"support+{text}".encode()) <= 64, "RFC 5321 4.5.3.1.1: the local part"
    assert addresses.mail_address(f"support+{text}@desk.example") == f"support+{text}@desk.example"


def test_a_mailer_that_shouts_is_understood() -> None:
    text = sign(KEYS, Purpose.CUSTOMER_REPLY, 1001, 77, 5)
    assert read_token(text.upper()) == read_token(text)
    assert believed(text.upper())


def test_the_newest_key_signs_and_all_verify() -> None:
    old = sign(KEYS[:1], Purpose.MESSAGE_ID, 1001)
    new = sign(KEYS, Purpose.MESSAGE_ID, 1001)
    assert (old[1], new[1]) == ("a", "b")
    assert believed(old)
    assert believed(new)
    assert not believed(new, KEYS[:1]), "a key that is gone verifies no more"
    assert not believed(new, ())


@pytest.mark.parametrize("purpose", PURPOSES)
def test_a_raised_generation_ends_the_tokens_of_staff_and_only_theirs(purpose: Purpose) -> None:
    text = sign(KEYS, purpose, 1001, 77, 5, generation=1)
    assert believed(text, generation=1)
    assert believed(text, generation=2) is (purpose not in STAFF)


@pytest.mark.parametrize("purpose", PURPOSES)
def test_a_token_is_good_for_its_purpose_only(purpose: Purpose) -> None:
    text = sign(KEYS, purpose, 1001, 77, 5)
    assert [other for other in PURPOSES if believed(other + text[1:])] == [purpose]


def test_tokens_are_found_in_a_text_in_their_order() -> None:
    first, second = sign(KEYS, Purpose.MESSAGE_ID, 1), sign(KEYS, Purpose.PSEUDO_REFERENCE, 2, 3)
    text = f"On Monday <{first}@desk.example> wrote:\n> see {second.upper()}, and a1.b2.c3.d4.e5"
    assert [token.text for token in read_tokens(text)] == [first, second]


def test_a_text_full_of_tokens_is_read_to_a_limit() -> None:
    text = " ".join(sign(KEYS, Purpose.MESSAGE_ID, number) for number in range(1, 80))
    assert [token.number for token in read_tokens(text)] == list(range(1, 51))
    assert len(read_tokens(text, limit=3)) == 3


# -- 100,000 tokens that are not ours --------------------------------------------------------------------------------

LETTERS = string.ascii_lowercase + string.digits + ".-_+@ \n\0"
# digits and letters of other scripts that int(), str.isdigit or a careless \d would take
DIGITS = (*range(0x660, 0x66A), *range(0x966, 0x970), *range(0xFF10, 0xFF1A), *range(0x1D7CE, 0x1D7D8), 0xB2, 0xB9)
LOOKALIKES = "".join(map(chr, (*DIGITS, 0x430, 0x435, 0x43E, 0x441, 0x131, 0x17F, 0x212A)))


def replaced(text: str, dice: random.Random) -> str:
    at = dice.randrange(len(text))
    return text[:at] + dice.choice(LETTERS) + text[at + 1 :]


def several_replaced(text: str, dice: random.Random) -> str:
    for _ in range(dice.randint(2, 6)):
        text = replaced(text, dice)
    return text


def removed(text: str, dice: random.Random) -> str:
    at = dice.randrange(len(text))
    return text[:at] + text[at + 1 :]


def inserted(text: str, dice: random.Random) -> str:
    at = dice.randrange(len(text) + 1)
    return text[:at] + dice.choice(LETTERS) + text[at:]


def transposed(text: str, dice: random.Random) -> str:
    at = dice.randrange(len(text) - 1)
    return text[:at] + text[at + 1] + text[at] + text[at + 2 :]


def truncated(text: str, dice: random.Random) -> str:
    return text[: dice.randrange(len(text))]


def parts_swapped(text: str, dice: random.Random) -> str:
    parts = text.split(".")
    one, other = dice.sample(range(len(parts)), 2)
    parts[one], parts[other] = parts[other], parts[one]
    return ".".join(parts)


def number_changed(text: str, dice: random.Random) -> str:
    parts = text.split(".")
    at = dice.randint(1, 3)
    parts[at] = str(max(0, int(parts[at]) + dice.choice((-1000, -10, -1, 1, 10, 1000))))
    return ".".join(parts)


def zero_in_front(text: str, dice: random.Random) -> str:
    parts = text.split(".")
    at = dice.randint(1, 3)
    parts[at] = dice.choice(("0", "00", "+", "-", " ", "0x")) + parts[at]
    return ".".join(parts)


def other_script(text: str, dice: random.Random) -> str:
    at = dice.randrange(len(text))
    return text[:at] + dice.choice(LOOKALIKES) + text[at + 1 :]


def other_purpose(text: str, dice: random.Random) -> str:
    return dice.choice(string.ascii_lowercase) + text[1:]


def other_key_letter(text: str, dice: random.Random) -> str:
    return text[0] + dice.choice(string.ascii_lowercase) + text[2:]


def other_secret(text: str, dice: random.Random) -> str:
    token = read_token(text)
    assert token is not None
    strangers = (Key(token.key, dice.randbytes(32)),)
    return sign(strangers, token.purpose, token.number, token.entry, token.who, dice.randint(0, 2))


def guessed(text: str, dice: random.Random) -> str:
    return text[:-16] + "".join(dice.choices("abcdefghijklmnopqrstuvwxyz234567", k=16))


def mac_of_another(text: str, dice: random.Random) -> str:
    other = sign(KEYS, dice.choice(PURPOSES), dice.randint(1, 9999), dice.randint(0, 999), dice.randint(0, 99))
    return text[:-16] + other[-16:]


MUTATIONS: tuple[Callable[[str, random.Random], str], ...] = (
    replaced, several_replaced, removed, inserted, transposed, truncated, parts_swapped, number_changed,
    zero_in_front, other_script, other_purpose, other_key_letter, other_secret, guessed, mac_of_another,
)  # fmt: skip


def accepted(text: str, original: str) -> Token | None:
    """The token that is believed though it is not the one we made; as an address's part, and as words in a text."""
    alone = read_token(text)
    for token in ([alone] if alone else []) + read_tokens(text):
        if token.text != original and genuine(KEYS, token):
            return token
    return None


def test_of_100_000_mutated_tokens_none_is_accepted() -> None:
    dice = random.Random(20261123)
    tried = 0
    while tried < 100_000:
        original = sign(
            KEYS[: dice.randint(1, 2)],
            dice.choice(PURPOSES),
            dice.randint(1, 99_999),
            dice.randint(0, 999_999),
            dice.randint(0, 9_999),
        )
        assert believed(original)
        mutated = dice.choice(MUTATIONS)(original, dice)
        if mutated.lower() == original:
            continue  # nothing changed, or only the case, which means the same token
        found = accepted(mutated, original)
        assert found is None, f"{original} became {mutated} and was read as {found}"
        assert not believed(mutated)
        tried += 1


# -- the file of keys ------------------------------------------------------------------------------------------------


def test_keys_are_kept_in_a_file_that_only_we_may_read(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    made = addresses.add_key(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert addresses.load_keys(path) == made
    assert len(made[0].secret) == 32
    assert list(tmp_path.iterdir()) == [path], "no temporary file stays behind"
    assert tomllib.loads(path.read_text())["keys"][0]["letter"] == "a"


def test_rotation_adds_a_key_that_signs_while_the_old_ones_verify(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    before = sign(addresses.add_key(path), Purpose.CUSTOMER_REPLY, 1001)
    keys = addresses.add_key(path)
    assert [key.letter for key in keys] == ["a", "b"]
    assert believed(before, keys)
    assert sign(keys, Purpose.CUSTOMER_REPLY, 1001) != before


def test_after_26_keys_the_oldest_goes_and_its_tokens_with_it(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    first = sign(addresses.add_key(path), Purpose.CUSTOMER_REPLY, 1001)
    second = sign(addresses.add_key(path), Purpose.CUSTOMER_REPLY, 1001)
    for _ in range(24):
        addresses.add_key(path)
    assert believed(first, addresses.load_keys(path))
    keys = addresses.add_key(path)
    assert len(keys) == len({key.letter for key in keys}) == 26
    assert not believed(first, keys)
    assert believed(second, keys)
    assert keys[-1].letter == "a", "its letter is free again"
