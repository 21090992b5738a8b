"""Content-addressed files: whole or not there, one file for the same bytes."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gateway import blobs


@pytest.mark.parametrize("content", [b"", b"hello", bytes(range(256)) * 5000])
def test_what_is_put_is_got_under_its_hash(tmp_path: Path, content: bytes) -> None:
    sha256 = blobs.put(tmp_path / "blobs", content)
    assert sha256 == hashlib.sha256(content).hexdigest()
    assert blobs.get(tmp_path / "blobs", sha256) == content


def test_the_same_bytes_are_one_file(tmp_path: Path) -> None:
    first = blobs.put(tmp_path, b"twice")
    inode = blobs.path_of(tmp_path, first).stat().st_ino
    assert blobs.put(tmp_path, b"twice") == first
    assert blobs.path_of(tmp_path, first).stat().st_ino == inode
    assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 1


def test_many_writers_of_the_same_bytes_do_not_disturb_each_other(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(lambda _: blobs.put(tmp_path, b"x" * 100_000), range(40)))
    assert len(found) == 1
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == list(found)


def test_it_is_synced_before_it_has_its_name_and_the_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    fsync, rename = os.fsync, Path.rename

    def note_fsync(descriptor: int) -> None:
        order.append("sync folder" if Path(f"/proc/self/fd/{descriptor}").resolve().is_dir() else "sync file")
        fsync(descriptor)

    def note_rename(self: Path, target: Path) -> Path:
        order.append("rename")
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(Path, "rename", note_rename)
    blobs.put(tmp_path, b"durable")
    assert order == ["sync file", "rename", "sync folder", "sync folder"]


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        blobs.put(tmp_path, b"too much")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.parametrize("name", ["", "abc", "../../../etc/passwd", "A" * 64, "g" * 64, "a" * 63 + "/", "a" * 65])
def test_what_is_no_hash_is_no_path(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="not a SHA-256"):
        blobs.path_of(tmp_path, name)


def test_what_is_not_there_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        blobs.get(tmp_path, "0" * 64)
