"""SMS from files, to try things without a provider: `<data folder>/incoming/*.txt`.

From: +447700900123
To: +447700900999        (may be left out: our first number)

The boiler is cold.
"""

from __future__ import annotations

import hashlib
import logging
import os
from datetime import UTC, datetime
from pathlib import Path

from gateway.config import SmsNumber
from gateway.values import Receipt, Sms, Temporary

log = logging.getLogger(__name__)

# What an earlier poll of this process gave out, the id it had, and from when on that poll was asked.
_returned: dict[tuple[str, Path], tuple[str, datetime]] = {}


def poll(way: SmsNumber, since: datetime, folder: Path) -> list[Sms | Receipt]:
    """What lies there for this number, oldest first. A file is moved to `done` by a later poll that is asked from a
    later time: only then has the caller kept it. Until then, and after a restart, it is returned again with the same
    id. Raises Temporary when the disk refuses."""
    incoming = folder / "incoming"
    try:
        incoming.mkdir(mode=0o700, parents=True, exist_ok=True)
        paths = sorted(incoming.glob("[!.]*.txt"), key=lambda path: (path.stat().st_mtime_ns, path.name))
        return [sms for path in paths if (sms := _take(path, way, since))]
    except OSError as error:
        raise Temporary(f"{incoming}: {error.strerror or error}") from error


def _take(path: Path, way: SmsNumber, since: datetime) -> Sms | None:
    content = path.read_bytes()
    name = os.fsencode(path.name).decode("utf-8", "replace")
    id = f"{name}-{hashlib.sha256(content).hexdigest()[:16]}"
    before, asked_from = _returned.get((way.number, path), ("", since))
    if before == id and since > asked_from:
        _put_away(path, id)
        del _returned[way.number, path]
        return None
    sms = _read(content, id, way.number, datetime.fromtimestamp(path.stat().st_mtime, UTC))
    if sms is None:
        log.warning("%s: no SMS, it does not begin with From:", path.name)
    elif sms.recipient in way.numbers:
        _returned[way.number, path] = (id, asked_from if before == id else since)
        return sms
    return None


def _put_away(path: Path, id: str) -> None:
    done = path.parent / "done"
    done.mkdir(mode=0o700, exist_ok=True)
    place = done / path.name
    path.rename(done / f"{id}.txt" if place.exists() else place)


def _read(content: bytes, id: str, number: str, at: datetime) -> Sms | None:
    lines = content.decode("utf-8-sig", "replace").replace("\r\n", "\n").replace("\0", "")
    head, _, text = lines.partition("\n\n")
    pairs = (line.partition(":") for line in head.split("\n"))
    fields = {name.strip().lower(): value.strip() for name, _, value in pairs}
    if not fields.get("from"):
        return None
    return Sms("file", id, fields["from"], fields.get("to") or number, text.removesuffix("\n"), at=at)
