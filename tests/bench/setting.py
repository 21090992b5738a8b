"""The Ringback that is measured: a real one in a temporary folder, whose limits do not get in the way of a load."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.walks.service import Service

# What keeps a single stranger within bounds would stop a load that comes from one address.
RAISED = {
    "RINGBACK__SMTP__IN__MAX_CONNECTIONS": "400",
    "RINGBACK__SMTP__IN__MAX_CONNECTIONS_PER_ADDRESS": "400",
    "RINGBACK__SMTP__IN__MAX_COMMANDS": "1000000",
    "RINGBACK__LIMITS__ACKNOWLEDGEMENTS_PER_ADDRESS_HOUR": "1000000",
    "RINGBACK__LIMITS__ACKNOWLEDGEMENTS_PER_ADDRESS_DAY": "1000000",
    "RINGBACK__LIMITS__ACKNOWLEDGEMENTS_PER_DOMAIN_HOUR": "1000000",
    "RINGBACK__LIMITS__ACKNOWLEDGEMENTS_PER_HOUR": "1000000",
    "RINGBACK__LIMITS__NEW_TICKETS_PER_ADDRESS_HOUR": "1000000",
}


@contextmanager
def folder() -> Iterator[Path]:
    """A temporary folder on the disk that /tmp is on."""
    path = Path(tempfile.mkdtemp(prefix="ringback-"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def ringback(*parts: str, environment: Mapping[str, str] | None = None, start: bool = True) -> Iterator[Service]:
    """A Ringback with raised limits, started (with `--only parts`, when some are named), stopped afterwards."""
    with folder() as path:
        service = Service(path, {**RAISED, **(environment or {})})
        try:
            if start:
                service.start(*only(parts))
            yield service
        finally:
            service.stop()


def only(parts: tuple[str, ...]) -> tuple[str, ...]:
    """The words behind `ringback run` that start these parts, none for everything."""
    return ("--only", ",".join(parts)) if parts else ()


def backlog(service: Service) -> int:
    """How many received messages wait to be understood."""
    found = service.rows("select count(*) from inbound where state = 'new'")
    return int(found[0][0]) if found else 0


def pid(service: Service) -> int:
    """The supervisor's process id."""
    assert service.process is not None
    return service.process.pid
