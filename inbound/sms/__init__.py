"""SMS that come in: one file a provider, and the line of each in DRIVERS.

A driver is a module of functions that know no database and no Flask:

    receive(raw, event, ways) -> (values, answer)   a webhook: `event` is the last part of its path (sms, status),
                                                    `ways` are the `[[sms]]` of this driver. Forged or strange: no
                                                    values, and the answer 403 or 405. Never raises on bad input.
    poll(way, since, folder) -> values              optional: what came while we were away, oldest first; may raise
                                                    Temporary
    fetch(way, media) -> (bytes, type)              optional: a picture; Later while it is not there yet, else Permanent
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib import import_module
from pathlib import Path

from gateway.config import SmsNumber
from gateway.values import Media, RawRequest, RawResponse, Receipt, Sms

DRIVERS = ("twilio", "kannel", "http", "file")

Receive = Callable[[RawRequest, str, Sequence[SmsNumber]], tuple[list[Sms | Receipt], RawResponse]]
Poll = Callable[[SmsNumber, datetime, Path], list[Sms | Receipt]]
Fetch = Callable[[SmsNumber, Media], tuple[bytes, str]]


@dataclass(frozen=True, slots=True)
class Driver:
    """What a provider can do for us inwards; None is what it cannot."""

    receive: Receive | None
    poll: Poll | None
    fetch: Fetch | None


def driver(name: str) -> Driver | None:
    """The inward half of a provider, imported at its first use; None when it only sends."""
    if name not in DRIVERS:
        return None
    module = import_module(f"inbound.sms.{name}")
    return Driver(getattr(module, "receive", None), getattr(module, "poll", None), getattr(module, "fetch", None))
