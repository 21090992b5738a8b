"""Every dialogue ends as it was written down, and taken together they reach the figures of specs/sms.md 4.9."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.dialogues.acting import Stage, act, dialogues

ALL = list(dialogues())
RIGHT, MENUS = 0.99, 0.10
played: dict[str, Stage] = {}


@pytest.mark.parametrize(("name", "script"), ALL, ids=[name for name, _ in ALL])
def test_it_goes_as_it_was_written_down(name: str, script: dict[str, Any], tmp_path: Path) -> None:
    stage = played[name] = act(script, tmp_path / "data")
    assert stage.wrong == [], "\n".join(stage.wrong)


def test_nearly_all_are_right_none_is_silently_wrong_and_few_people_are_asked(tmp_path: Path) -> None:
    """Runs by itself too: what was not played yet is played here."""
    for n, (name, script) in enumerate(ALL):
        played[name] = played.get(name) or act(script, tmp_path / str(n))
    right = sum(not stage.wrong for stage in played.values()) / len(played)
    misplaced = [words for stage in played.values() for words in stage.misplaced]
    menus = sum(stage.menus for stage in played.values()) / max(1, sum(stage.customers for stage in played.values()))
    print(f"\n{len(played)} dialogues: {right:.1%} right, {len(misplaced)} misplaced, {menus:.1%} menus")
    assert right >= RIGHT
    assert misplaced == []
    assert menus <= MENUS
