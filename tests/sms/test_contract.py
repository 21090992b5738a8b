"""The contract of `contract.py`, over every provider we can play."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sms.contract import *  # noqa: F403
from tests.sms.contract import MakeRig, Rig
from tests.sms.rigs_others import OTHERS
from tests.sms.twilio_double import twilio

RIGS: list[MakeRig] = [twilio, *OTHERS]


@pytest.fixture(params=RIGS, ids=lambda make: make.__name__)
def rig(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    """Each provider in turn."""
    with request.param(tmp_path, monkeypatch) as made:
        yield made
