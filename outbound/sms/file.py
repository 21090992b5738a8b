"""SMS into files: nothing leaves the machine. `<data folder>/outgoing/<utc time>-<outbox id>.sms.txt`.

In force for a `[[sms]]` without a provider, so that people see what would be sent.
"""

from __future__ import annotations

import os
from datetime import UTC
from pathlib import Path

from gateway.config import Config, SmsNumber
from gateway.values import Caps, OutSms, Sent, Temporary, utc_now

CAPS = Caps(receipts=False, polls=True)
NOT_SENT = "not sent: no SMS provider configured"


def connect(way: SmsNumber, config: Config) -> Path:
    """The data folder."""
    return config.folder


def send(client: Path, way: SmsNumber, message: OutSms) -> Sent:
    """Writes it, whole or not at all, for our eyes only: it may hold a code. A repeat overwrites. Raises Temporary when
    the disk refuses."""
    folder = client / "outgoing"
    name = f"{(message.since or utc_now()).astimezone(UTC):%Y%m%dT%H%M%SZ}-{message.id}.sms.txt"
    temporary = folder / f".{name}.tmp"
    content = f"From: {message.sender}\nTo: {message.recipient}\n\n{message.text}\n"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(content.encode("utf-8", "replace"))
        temporary.rename(folder / name)
    except OSError as error:
        raise Temporary(f"{folder}: {error.strerror or error}") from error
    return Sent(words=NOT_SENT)
