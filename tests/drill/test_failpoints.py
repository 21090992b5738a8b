"""Each fail point once with kill -9: the mail and the answer survive, nothing is doubled."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.drill.failpoints import drill, points


def test_every_step_between_the_world_and_the_commit_has_a_fail_point() -> None:
    assert {"accept.before", "accept.committed", "process.applied", "perform.written", "delivery.sent"} <= set(points())


@pytest.mark.parametrize("point", points())
def test_kill_9_at_a_fail_point_loses_and_doubles_nothing(point: str, tmp_path: Path) -> None:
    assert drill(tmp_path, point, "kill") == []


@pytest.mark.parametrize(("point", "what"), [("accept.written", "raise"), ("delivery.claimed", "sleep")])
def test_an_error_or_a_pause_there_loses_nothing_either(point: str, what: str, tmp_path: Path) -> None:
    assert drill(tmp_path, point, what) == []
