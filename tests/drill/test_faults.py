"""The faults of the plan, small enough for every test run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.drill import faults

SMALL: dict[str, Callable[[Path], str]] = {
    "2 killed after the 250": faults.before_parsing,
    "3 killed inside the transaction": faults.inside_the_transaction,
    "7 disk full": faults.disk_full,
    "7 disk low": faults.disk_low,
    "8 database locked": lambda folder: faults.database_locked(folder, 4),
    "14 smarthost 4xx": faults.smarthost_refuses_for_now,
    "14 smarthost 5xx": faults.smarthost_refuses_for_good,
    "14 smarthost 5xx after the dot": lambda folder: faults.smarthost_refuses_for_good(folder, "550-data"),
    "14 smarthost greylists": faults.smarthost_greylists,
    "14 smarthost silent": faults.smarthost_falls_silent,
    "14 smarthost drops": lambda folder: faults.smarthost_falls_silent(folder, "drop"),
    "16 two workers": faults.two_workers,
    "17 burst": lambda folder: faults.burst(folder, 2000),
    "18 slow clients": faults.slow_clients,
    "20 poison": faults.poison,
}


def test_every_fault_has_a_small_form_or_is_a_fail_point_or_the_kill_drill() -> None:
    elsewhere = {"1 killed before the 250", "4 killed before sending", "5 killed after sending", "6 killed at random"}
    assert set(faults.FAULTS) == set(SMALL) | elsewhere


@pytest.mark.parametrize("name", SMALL)
def test_a_fault_is_observed_as_the_plan_says(name: str, tmp_path: Path) -> None:
    print(SMALL[name](tmp_path))
