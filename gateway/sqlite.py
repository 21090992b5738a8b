"""What SQLite alone understands: how it is opened, whose turn it is to write, triggers, full-text search.

Measured (specs/reliability.md 0.5): deferred transactions lose 751 of 800 updates to "database is locked", hence
IMMEDIATE; the busy handler is unfair, hence the two files of `turn`.
"""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from peewee import SqliteDatabase
from playhouse.sqlite_ext import FTS5Model

_descriptors = threading.local()

TRIGGERS = (
    (
        "create trigger if not exists entry_is_never_updated before update on entry "
        "begin select raise(abort, 'an entry is never updated'); end"
    ),
    (
        "create trigger if not exists entry_is_never_replaced before insert on entry "
        "when exists (select 1 from entry where id = new.id) "
        "begin select raise(abort, 'an entry is never replaced'); end"
    ),
    (
        "create trigger if not exists entry_is_never_deleted before delete on entry "
        "begin select raise(abort, 'an entry is never deleted'); end"
    ),
)
SEARCH = (
    "create virtual table if not exists body_search using fts5(subject, text, content='body', content_rowid='entry', "
    "tokenize='unicode61 remove_diacritics 2')"
)


def open_database(url: str) -> Any:
    """The database of a `sqlite:///path` URL, not yet connected. Every thread has a connection of its own."""
    path = Path(url.removeprefix("sqlite:///"))
    path.parent.mkdir(parents=True, exist_ok=True)
    pragmas = {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "cache_size": -8000, "temp_store": 2}
    return SqliteDatabase(str(path), timeout=15, lock_type="IMMEDIATE", autoconnect=False, pragmas=pragmas)


def complete_schema(database: Any) -> None:
    """Triggers and the search table."""
    for statement in (*TRIGGERS, SEARCH):
        database.execute_sql(statement)


@contextmanager
def turn(database: Any, folder: Path) -> Iterator[None]:
    """Waits for this writer's turn: gate, then lock, then the gate is let go, so that writers queue fairly.

    The kernel frees both with a killed process.
    """
    gate, lock = _files(folder)
    fcntl.flock(gate, fcntl.LOCK_EX)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
    finally:
        fcntl.flock(gate, fcntl.LOCK_UN)
    try:
        with database.atomic():
            yield
    finally:
        fcntl.flock(lock, fcntl.LOCK_UN)


class _Files:
    """The gate and the lock of one thread: flock excludes open files, not threads. Closed when the thread ends."""

    def __init__(self, folder: Path) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        self.gate, self.lock = (os.open(folder / name, flags, 0o600) for name in ("write.gate", "write.lock"))

    def __del__(self) -> None:
        for descriptor in (self.gate, self.lock):
            os.close(descriptor)


def _files(folder: Path) -> tuple[int, int]:
    known: dict[str, _Files] = _descriptors.__dict__.setdefault("files", {})
    files = known.get(str(folder)) or known.setdefault(str(folder), _Files(folder))
    return files.gate, files.lock


def index_words(database: Any, entry: int, subject: str, text: str) -> None:
    """Makes an entry findable."""
    database.execute_sql("insert into body_search(rowid, subject, text) values (?, ?, ?)", (entry, subject, text))


def find_entries(database: Any, words: str, limit: int) -> list[tuple[int, int]]:
    """(entry, ticket) of the newest entries that hold all the words; any input is safe."""
    query = FTS5Model.web_query(words)
    if not query:
        return []
    statement = (
        "select e.id, e.ticket from body_search s join entry e on e.id = s.rowid "
        "where body_search match ? order by s.rowid desc limit ?"
    )
    return list(database.execute_sql(statement, (query, limit)).fetchall())


def backup(database: Any, target: Path) -> None:
    """A consistent copy while others write."""
    database.execute_sql("vacuum into ?", (str(target),))


@contextmanager
def snapshot(database: Any) -> Iterator[None]:
    """Everything read inside is of one moment; nobody is kept from writing."""
    with database.atomic("DEFERRED"):
        database.execute_sql("select 1 from sqlite_master").fetchone()  # it begins with its first read
        yield


def only_worker(database: Any, folder: Path) -> Any:
    """Waits until no other worker works on this database; the lock lasts as long as what is returned."""
    descriptor = os.open(folder / "worker.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    return os.fdopen(descriptor, "r+b")


def version_of_data(database: Any) -> int:
    """A number that changes when another connection has committed."""
    return int(database.execute_sql("pragma data_version").fetchone()[0])
