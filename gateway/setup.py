"""What a first start makes: config, data folder, keys, database, administrator. Nothing that is there is overwritten.

Each step looks first, so that a start that was interrupted goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
from datetime import datetime, timedelta
from pathlib import Path

from gateway import addresses, store
from gateway.config import WEB_SECRET, Config
from gateway.store import accounts, schedule
from gateway.values import Role

LINK_HOURS = 24
FIRST_LOGIN = "first-login.txt"
STARTED = "started.json"  # what the running processes cannot take over, as hashes
AT_START = ("smtp.in.host", "smtp.in.port", "smtp.in.tls_certificate", "smtp.in.tls_key", "web", "data")
FRESH = """\
# Ringback's configuration. config.example.toml shows every key; what is not here has its default.
# After a change: `ringback check`, then `ringback reload`.

[firm]
# Stands in every subject, "[Ringback #1234]", and in every message.
name = "Ringback"
# The first login.
administrator = "admin@ringback.localhost"

[mail]
# The domain of our Message-IDs: your mail domain or one below it.
domain = "ringback.localhost"

# One table for each address that people write to.
[[inboxes]]
address = "support@ringback.localhost"
name = "Support"

# Your smarthost. While it is not there, outgoing mail is only written to data/outgoing/ and not sent.
# [smtp.out]
# host = "smtp.example.com"
# port = 587
# security = "starttls"
# user = ""
# Better in a file: RINGBACK__SMTP__OUT__PASSWORD_FILE=/run/secrets/smtp
# password = ""

[web]
# What people type, and what links in mails point to.
public_url = "http://127.0.0.1:8080"
# Signs forms and cookies. Keep it to yourself.
secret = "{secret}"
"""


def fresh(secret: str) -> str:
    """The config that `ringback init` writes: TOML, the defaults, and this secret."""
    return FRESH.replace("{secret}", secret)


def write_config(path: Path) -> bool:
    """Writes a fresh config, mode 0600; False when there is a file already. Raises OSError."""
    return write_once(path, fresh(secrets.token_hex(32)))


def write_once(path: Path, text: str) -> bool:
    """Writes a file that only we may read; False when something of this name is there already."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except FileExistsError:
        return False
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    return True


def make_folder(config: Config) -> bool:
    """The data folder, for us alone (0700), with the keys and the secret in it; was there anything to make?"""
    made = not config.folder.exists()
    config.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not config.web.secret:
        made |= write_once(config.folder / WEB_SECRET, secrets.token_hex(32) + "\n")
    keys = config.folder / "keys.toml"
    if not keys.exists():
        addresses.add_key(keys)
        made = True
    return made


def make_database(now: datetime) -> bool:
    """The schema, where there is none yet. The store is connected."""
    if not store.is_empty():
        return False
    store.migrate(now)
    return True


def make_administrator(config: Config, now: datetime) -> Path | None:
    """The first account and the file with its one-time link; None when there are accounts already.

    The file is written before the commit: a start that is stopped in between begins again with both.
    """
    path = config.folder / FIRST_LOGIN
    with store.connection(), store.writing():
        if schedule.staff_addresses():
            return None
        account = accounts.create_account("Administrator", config.firm.administrator, [Role.ADMINISTRATOR], now)
        write_link(config, account, path, now)
    return path


def write_link(config: Config, account: int, path: Path, now: datetime) -> None:
    """Puts a fresh one-time link into a file that only we may read, in place of an older one. It is never printed.

    Inside `writing()`.
    """
    secret = accounts.create_login_link(account, LINK_HOURS, now)
    temporary = path.with_suffix(".new")
    temporary.unlink(missing_ok=True)
    until = f"{now + timedelta(hours=LINK_HOURS):%d %B %Y %H:%M} UTC"
    text = f"Open this address in a browser to sign in. It works once, until {until}."
    write_once(
        temporary, f"{text}\n\n{config.web.public_url}/link/{secret}\n\n`ringback user link ADDRESS` makes another.\n"
    )
    temporary.replace(path)


def link_file(config: Config, address: str) -> Path:
    """Where the one-time link for this address is put; a file's name, whatever the address is."""
    return config.folder / f"login-{re.sub(r'[^a-z0-9.@_+-]', '_', address)}.txt"


# -- what needs a restart ----------------------------------------------------------------------------------------


def note_started(config: Config) -> None:
    """Remembers what the processes are started with, as far as a reload cannot change it."""
    path = config.folder / STARTED
    path.unlink(missing_ok=True)
    write_once(path, json.dumps(_fixed(config), indent=1))


def needs_restart(config: Config) -> list[str]:
    """The sections and keys that have changed since the start and need another one."""
    try:
        before = json.loads((config.folder / STARTED).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    return [key for key, value in _fixed(config).items() if before.get(key) != value]


def _fixed(config: Config) -> dict[str, str]:
    """Hashes, because there are secrets among the values."""
    found = {}
    for key in AT_START:
        value: object = config.model_dump(by_alias=True, mode="json")
        for part in key.split("."):
            value = value[part] if isinstance(value, dict) else value
        found[key] = hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
    return found
