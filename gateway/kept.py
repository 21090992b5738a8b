"""What the mailroom keeps of what is not mail: the frozen value as JSON, with the key that makes it one delivery.

SMS `<driver>:in:<provider id>`, receipts `<driver>:st:<provider id>:<status>` (DESIGN.md 3, Keys).
"""

from __future__ import annotations

import json
import secrets
from dataclasses import asdict, replace
from datetime import datetime
from typing import Any

from gateway.values import Arrival, Channel, Delivery, Envelope, Media, Receipt, Refusal, Sms


def arrival(value: Sms | Receipt, received: datetime) -> Arrival:
    """A received value as `desk.accept` takes it. A NUL, which no database keeps in a text, is left out."""
    if isinstance(value, Sms):
        value = replace(value, text=value.text.replace("\0", ""))
    raw = json.dumps({"value": type(value).__name__, **asdict(value)}, default=_as_text, ensure_ascii=False)
    sender = value.sender if isinstance(value, Sms) else ""
    recipients = (value.recipient,) if isinstance(value, Sms) else ()
    envelope = Envelope(sender, recipients, path="web")
    # Half characters (lone surrogates) are replaced: no database keeps them.
    key = key_of(value).encode("utf-8", "replace").decode()
    return Arrival(key, Channel.SMS, raw.encode("utf-8", "replace"), envelope, received)


def key_of(value: Sms | Receipt) -> str:
    """What counts as the same delivery."""
    if isinstance(value, Sms):
        ours = "" if value.driver == "twilio" else f"{value.recipient}:"  # two gateways may count alike
        return f"{value.driver}:in:{ours}{value.id}"
    code = f":{value.code}" if value.code else ""
    # Kannel's receipts name no message: of two that say the same each may be about another attempt.
    named = value.id or f"outbox-{value.outbox}-{secrets.token_hex(8)}"
    return f"{value.driver}:st:{named}:{value.status}{code}"


def read(raw: bytes) -> Sms | Receipt:
    """The value that was kept. Raises ValueError when it is none of ours."""
    said: dict[str, Any] = json.loads(raw)
    kind = said.pop("value", "")
    if kind == "Sms":
        at = said.pop("at")
        media = tuple(Media(**item) for item in said.pop("media"))
        return Sms(**said, media=media, at=datetime.fromisoformat(at) if at else None)
    if kind == "Receipt":
        why = said.pop("why")
        return Receipt(**said | {"status": Delivery(said["status"]), "why": Refusal(why) if why else None})
    raise ValueError(f"not a kept value: {kind!r}")


def _as_text(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"cannot be kept: {value!r}")
