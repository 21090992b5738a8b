"""SMS that go out: one file a provider, and the line of each in DRIVERS.

A driver is a module with

    CAPS                                   what the provider can do
    connect(way, config) -> client         made once; anything that is called with a request and has a time-out
    send(client, way, message) -> Sent     raises Later or Temporary (not taken, try again), Uncertain (perhaps taken),
                                           Refused (never; with the provider's code and our reason)
    look_up(client, way, message) -> Sent | None   optional (CAPS.can_look_up): did it take this message? may raise
                                                   Temporary
    prices(client, way, since) -> receipts         optional (CAPS.price): what messages cost
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from gateway.values import Caps

DRIVERS = ("twilio", "kannel", "http", "email", "file")


def driver(name: str) -> ModuleType:
    """The outward half of a provider, imported at its first use."""
    if name not in DRIVERS:
        raise ValueError(f"there is no SMS driver {name!r}: {', '.join(DRIVERS)}")
    return import_module(f"outbound.sms.{name}")


def caps(name: str) -> Caps:
    """What a provider can do."""
    found: Caps = driver(name).CAPS
    return found
