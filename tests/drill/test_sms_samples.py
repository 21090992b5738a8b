"""Small samples of the drill and of the bench of SMS: killed here and there, nothing is lost or doubled."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench import sms as bench
from tests.bench.machine import quantile
from tests.drill.sms import at_a_fail_point, drill, steps

pytestmark = [pytest.mark.xdist_group("drill"), pytest.mark.timeout(120)]

SLACK = 3  # times the target: CI shares its two cores with the other tests


def test_six_kills_between_a_webhook_and_its_effect_lose_and_double_nothing(tmp_path: Path) -> None:
    result = drill(tmp_path, cuts=6, seed=3)
    print(result)
    assert not result.problems, "\n".join(result.problems)
    assert result.cuts.total() == 6
    assert result.failed > 0, "nobody noticed that anything was killed: the test shows nothing"
    assert result.texts > result.tickets > 0


@pytest.mark.parametrize("point", ["accept.written", "delivery.sent"])
def test_a_fail_point_on_the_way_loses_and_doubles_nothing(point: str, tmp_path: Path) -> None:
    assert at_a_fail_point(tmp_path, point) == []


def test_every_step_on_the_way_is_drilled() -> None:
    named = {point for point, _, _ in steps()}
    assert {"accept.before", "accept.written", "process.decided", "outbox.committed", "delivery.claimed"} <= named


def test_webhooks_at_a_rate_are_answered_and_acknowledged(tmp_path: Path) -> None:
    with bench.provider() as double, bench.running(tmp_path, double) as service:
        alone = bench.one_by_one(service, double, 3)
        loaded = bench.at_a_rate(service, double, 2)
    assert len(alone) == 3
    assert len(loaded.answered) == 2 * bench.A_SECOND == 2 * len(loaded.acknowledged)
    assert quantile(loaded.answered, 0.95) < bench.HOOK_MS * SLACK


def test_texts_are_decided_faster_than_they_come(tmp_path: Path) -> None:
    assert bench.decided_a_second(tmp_path / "desk", 200) > bench.A_SECOND
