"""`tests/features.toml` promises which tests prove which wish; a promise names a test that exists."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
ROWS: dict[str, list[str]] = tomllib.loads((ROOT / "tests/features.toml").read_text(encoding="utf-8"))["rows"]
SPECIFICATION = ROOT.parent / "shared/specs/features.md"


def functions_of(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


def test_every_named_test_exists() -> None:
    missing = []
    for row, tests in ROWS.items():
        assert tests, f"{row} names no test"
        for test in tests:
            file, _, function = test.partition("::")
            if not (ROOT / file).exists() or function not in functions_of(ROOT / file):
                missing.append(f"{row}: {test}")
    assert missing == []


def test_every_row_is_one_of_the_specification() -> None:
    if not SPECIFICATION.exists():
        print("../shared is not there: row ids are checked for their form only")
        assert all(re.fullmatch(r"00[0-4]-\d\d", row) for row in ROWS)
        return
    known = set(re.findall(r"^\| (00[0-4]-\d\d) \|", SPECIFICATION.read_text(encoding="utf-8"), re.MULTILINE))
    assert set(ROWS) <= known
