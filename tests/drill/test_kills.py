"""A short drill: thirty kills at random moments, nothing lost, nothing doubled."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.drill.kills import drill

pytestmark = [pytest.mark.xdist_group("drill"), pytest.mark.timeout(300)]


def test_thirty_kills_under_load_lose_nothing_and_double_nothing(tmp_path: Path) -> None:
    result = drill(tmp_path, cuts=30, backlog=150)
    print(result)
    assert not result.problems, "\n".join(result.problems)
    assert result.cuts.total() == 30
    assert result.accepted > 150
