"""The transport without a server: a message becomes a file in `data/outgoing/`, and nothing leaves the machine.

In force while there is no `[smtp.out]`: a fresh installation sends nothing by accident, and people see what it would.
"""

from __future__ import annotations

import os
from datetime import UTC
from pathlib import Path

from gateway.values import Medium, Outgoing, Permanent, Sent, Temporary

NOT_SENT = "not sent: no mail server configured"


class FileSender:
    """Writes each message it is given into one folder, which it makes when it is missing."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self, outgoing: Outgoing) -> Sent:
        """Writes a rendered row. Raises Temporary when the disk refuses."""
        try:
            write(self._folder, outgoing)
        except OSError as error:
            raise Temporary(f"{self._folder}: {error.strerror or error}") from error
        return Sent(words=NOT_SENT)

    def close(self) -> None:
        """There is nothing to close: every sender has this."""


def write(folder: Path, outgoing: Outgoing) -> Path:
    """Writes a rendered row to `<utc time>-<outbox id>.eml`, whole or not at all, and returns the path.

    The name comes from the row, so that a repeat overwrites. Only we may read it: it holds tokens. Raises OSError.
    """
    if outgoing.rendered is None:
        raise Permanent("nothing was rendered")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / file_name(outgoing)
    temporary = folder / f".{path.name}.tmp"  # one row is never sent twice at once
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(outgoing.rendered)
    return temporary.rename(path)


def file_name(outgoing: Outgoing) -> str:
    """When it came into being and its number: `20261123T140500Z-17.eml`."""
    suffix = "eml" if outgoing.medium is Medium.MAIL else "txt"
    return f"{outgoing.created.astimezone(UTC):%Y%m%dT%H%M%SZ}-{outgoing.id}.{suffix}"
