"""Content-addressed files: bytes in, SHA-256 out. Written to a temporary name, synced, renamed, the folder synced.

Ours on purpose (DESIGN.md 8): forty lines, and the order of the four steps is the durability we promise.
"""

from __future__ import annotations

import hashlib
import os
import secrets
from pathlib import Path


def path_of(folder: Path, sha256: str) -> Path:
    """Where the bytes with this hash lie. Raises ValueError for what is not a SHA-256 in hex."""
    if len(sha256) != 64 or not set(sha256) <= set("0123456789abcdef"):
        raise ValueError("not a SHA-256")
    return folder / sha256[:2] / sha256


def put(folder: Path, content: bytes) -> str:
    """Keeps the bytes, durably, and returns their SHA-256. Twice the same bytes is one file."""
    sha256 = hashlib.sha256(content).hexdigest()
    path = path_of(folder, sha256)
    if path.exists():
        return sha256
    made = not path.parent.exists()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.parent / f".{secrets.token_hex(8)}"
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)
    if made:
        sync_folder(folder)
    return sha256


def get(folder: Path, sha256: str) -> bytes:
    """The bytes with this hash. Raises FileNotFoundError."""
    return path_of(folder, sha256).read_bytes()


def sync_folder(folder: Path) -> None:
    """Makes a folder's newest names survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
