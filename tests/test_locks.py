"""The lock files: complete, checked by hash, and free of any registry's address."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
RUNTIME, DEV = ROOT / "requirements.lock", ROOT / "requirements-dev.lock"

both_locks = pytest.mark.parametrize("lock", [RUNTIME, DEV], ids=lambda path: path.name)


def requirements(lock: Path) -> dict[str, str]:
    """Name → the whole requirement, markers and hashes included, on one line."""
    lines = lock.read_text().replace("\\\n", " ").splitlines()
    return {re.split(r"[=\[ ;]", line, maxsplit=1)[0]: line for line in lines if line and not line.startswith("#")}


def names(specifiers: list[str]) -> set[str]:
    """The bare names of a list of requirements in pyproject.toml."""
    return {re.split(r"[<>=\[;]", specifier, maxsplit=1)[0] for specifier in specifiers}


@both_locks
def test_names_no_address(lock: Path) -> None:
    text = lock.read_text()
    assert "://" not in text
    assert not re.search(r"^\s*-", text.replace("    --hash=sha256:", ""), re.MULTILINE), "no option but --hash"


@both_locks
def test_pins_each_requirement_with_hashes(lock: Path) -> None:
    for requirement in requirements(lock).values():
        assert re.match(r"[a-z0-9-]+==\S+ .*--hash=sha256:[0-9a-f]{64}", requirement), requirement


def test_runtime_lock_has_what_runs_and_builds_and_nothing_of_the_tests() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    groups = project["dependency-groups"]
    locked = requirements(RUNTIME).keys()
    assert names(project["project"]["dependencies"]) | names(groups["build"]) <= locked
    assert not names(groups["dev"]) & locked


def test_dev_lock_extends_the_runtime_lock_with_the_same_versions() -> None:
    assert requirements(RUNTIME).items() <= requirements(DEV).items()


def test_lock_formats_that_name_registries_are_not_tracked() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False).stdout
    assert not re.search(r"(^|/)(uv\.lock|pylock(\.\w+)?\.toml)$", tracked, re.MULTILINE)
