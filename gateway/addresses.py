"""Mail addresses and phone numbers in one spelling, and the signed tokens of DESIGN.md 7.

A token `<purpose><key>.<number>.<entry>.<who>.<mac16>` says which ticket; the MAC (80 bits of HMAC-SHA256, lower-case
base32) covers everything before its last dot, for staff also the account's token generation.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import re
import secrets
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from gateway.values import Purpose, Token

VERSION = b"ringback-1"
TOKEN = re.compile(
    r"([abcmnrl])([a-z])\.([1-9][0-9]{0,9}|0)\.([1-9][0-9]{0,14}|0)\.([1-9][0-9]{0,14}|0)\.([a-z2-7]{16})", re.ASCII
)
STAFF = frozenset({Purpose.STAFF_ANSWER, Purpose.STAFF_NOTE})
NO_REPLY = re.compile(
    r"^(no-?_?\.?reply|do-?not-?_?\.?reply|noreply.*|mailer-daemon|postmaster|bounces?([+-].*)?|owner-.*|.*-(owner|bounces?|request)|root|daemon|nobody|listserv|majordomo)$"
)


# -- addresses ---------------------------------------------------------------------------------------------------


def mail_address(text: str) -> str:
    """One spelling of a mailbox: lower case, IDNA domain without a final dot. "" for what cannot be one."""
    local, at, domain = text.strip().strip("<>").rpartition("@")
    domain = domain.rstrip(".").lower()
    if not (local and at and domain) or len(local) > 200 or any(c <= " " or c == "\x7f" for c in local + domain):
        return ""
    if not domain.isascii():
        try:
            domain = domain.encode("idna").decode("ascii")
        except UnicodeError:
            return ""
    if len(domain) > 253 or not re.fullmatch(r"[a-z0-9_\-.\[\]:]+", domain) or ".." in domain:
        return ""
    return f"{local.lower()}@{domain}"


def domain_of(address: str) -> str:
    """What stands behind the @."""
    return address.rpartition("@")[2]


def without_plus(address: str) -> str:
    """`support+token@x` → `support@x`."""
    local, _, domain = address.rpartition("@")
    return f"{local.partition('+')[0]}@{domain}"


def plus_part(address: str) -> str:
    """`support+token@x` → `token`."""
    return address.rpartition("@")[0].partition("+")[2]


def is_machine(address: str) -> bool:
    """Is this an address no person reads (email.md 21)?"""
    return bool(NO_REPLY.match(address.rpartition("@")[0]))


# -- keys --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Key:
    letter: str
    secret: bytes


Keys = Sequence[Key]  # oldest first: the last signs, all verify


def load_keys(path: Path) -> tuple[Key, ...]:
    """The signing keys of `data/keys.toml`, oldest first."""
    table = tomllib.loads(path.read_text(encoding="ascii"))
    return tuple(Key(item["letter"], bytes.fromhex(item["secret"])) for item in table["keys"])


def add_key(path: Path) -> tuple[Key, ...]:
    """Adds a fresh key (the file is made when missing, mode 0600) and returns all of them. At most 26 are kept."""
    keys = list(load_keys(path)) if path.exists() else []
    used = [key.letter for key in keys]
    letter = next((c for c in "abcdefghijklmnopqrstuvwxyz" if c not in used), used[0] if used else "a")
    keys = [key for key in keys if key.letter != letter] + [Key(letter, secrets.token_bytes(32))]
    lines = [
        "# Keys that sign reply addresses and Message-IDs. The last one signs, all of them verify. Keep it secret."
    ]
    lines += [f'[[keys]]\nletter = "{key.letter}"\nsecret = "{key.secret.hex()}"' for key in keys]
    temporary = path.with_suffix(".tmp")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="ascii") as file:
        file.write("\n".join(lines) + "\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    return tuple(keys)


# -- tokens ------------------------------------------------------------------------------------------------------


def sign(keys: Keys, purpose: Purpose, number: int, entry: int = 0, who: int = 0, generation: int = 0) -> str:
    """A fresh token, signed with the newest key. `generation` counts for staff purposes only."""
    key = keys[-1]
    head = f"{purpose}{key.letter}.{number}.{entry}.{who}"
    return f"{head}.{_mac(key.secret, purpose, head, generation)}"


def read_tokens(text: str, limit: int = 50) -> list[Token]:
    """Every token-shaped string in a text, in order, unbelieved; letters are folded (some mailers shout)."""
    found = []
    for match in TOKEN.finditer(text.lower()):
        purpose, key, number, entry, who, mac = match.groups()
        found.append(Token(Purpose(purpose), key, int(number), int(entry), int(who), mac, match.group()))
        if len(found) == limit:
            break
    return found


def read_token(text: str) -> Token | None:
    """The token a string consists of, unbelieved; None when it is anything else."""
    match = TOKEN.fullmatch(text.lower()) if text.isascii() else None
    if match is None:
        return None
    purpose, key, number, entry, who, mac = match.groups()
    return Token(Purpose(purpose), key, int(number), int(entry), int(who), mac, match.group())


def genuine(keys: Keys, token: Token, generation: int = 0) -> bool:
    """Did one of our keys sign this token (for staff: with this generation)? Takes the same time either way."""
    head = token.text.rpartition(".")[0]
    return any(
        key.letter == token.key and hmac.compare_digest(_mac(key.secret, token.purpose, head, generation), token.mac)
        for key in keys
    )


def _mac(secret: bytes, purpose: Purpose, head: str, generation: int) -> str:
    said = VERSION + b"|" + head.encode("ascii")
    if purpose in STAFF:
        said += b"|" + str(generation).encode("ascii")
    return base64.b32encode(hmac.digest(secret, said, hashlib.sha256)[:10]).decode("ascii").lower()
