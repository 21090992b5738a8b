"""The one writer (DESIGN.md 1): facts are read here, decisions are written here, and nowhere else.

Every write transaction of every process enters through `writing()`. The parts: `facts` reads what deciding needs,
`apply` writes a decision, `intake` the mailroom, `outbox` what is sent, `accounts` who signs in, `audit` the chain.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

from peewee import OperationalError

from gateway import postgres, sqlite
from gateway.config import Config
from gateway.model import database
from gateway.values import Temporary

MIGRATIONS = Path(__file__).parent.parent / "migrations"

_engine: ModuleType = sqlite
_folder = Path()


def connect(config: Config) -> Any:
    """Binds the database of the config for this process and returns it; every thread still opens its own connection."""
    global _engine, _folder
    url = config.database_url
    _engine = sqlite if url.startswith("sqlite:") else postgres
    _folder = config.folder
    _folder.mkdir(parents=True, exist_ok=True)
    database.initialize(_engine.open_database(url))
    return database.obj


def engine() -> ModuleType:
    """`gateway.sqlite` or `gateway.postgres`: the one in use."""
    return _engine


def open_connection() -> None:
    """Opens this thread's connection, if it is not open."""
    database.connect(reuse_if_open=True)


def close_connection() -> None:
    """Closes this thread's connection, if it is open."""
    if not database.is_closed():
        database.close()


@contextmanager
def connection() -> Iterator[None]:
    """A connection for the length of a block."""
    open_connection()
    try:
        yield
    finally:
        close_connection()


@contextmanager
def writing() -> Iterator[None]:
    """A short write transaction, when it is this writer's turn. No network call, no waiting inside.

    Raises Temporary when the database is locked, full or away.
    """
    try:
        with _engine.turn(database.obj, _folder):
            yield
    except OperationalError as error:
        raise Temporary(f"the database says: {error}") from error


@contextmanager
def snapshot() -> Iterator[None]:
    """Everything read inside is of one moment; nobody is kept from writing."""
    with _engine.snapshot(database.obj):
        yield


@contextmanager
def savepoint() -> Iterator[None]:
    """Part of a write transaction that can fail alone."""
    with database.atomic():
        yield


def runner() -> Any:
    """The migrations and what of them was run."""
    from playhouse.migrations import Runner

    return Runner(database.obj, str(MIGRATIONS))


def schema_problem() -> str:
    """ "" when the schema is the one this program knows, else what to type."""
    with connection():
        if not database.table_exists("schema_migration"):
            return "" if not database.get_tables() else "the database is not Ringback's: look at [data] database_url"
        status = runner().status()
    if gone := [step.name for step in status if step.path is None]:
        return f"the database is newer than this program (it knows {gone[-1]}): install the newer Ringback"
    if pending := [step.name for step in status if step.applied is None]:
        return (
            f"the database is older than this program ({len(pending)} step(s)): stop Ringback, then `ringback migrate`"
        )
    return ""


def is_empty() -> bool:
    """Is there no schema yet?"""
    with connection():
        return not database.table_exists("schema_migration")


def migrate(now: datetime) -> list[str]:
    """Runs what is pending, after a backup when there is something to lose; returns the steps' names."""
    with connection():
        pending = runner().status()
        if database.table_exists("schema_migration") and any(step.applied is None for step in pending):
            stamp = now.astimezone(UTC).strftime("%Y%m%d-%H%M%S")
            target = _folder / f"ringback-before-{stamp}.db"
            _engine.backup(database.obj, target)
            if target.exists():
                target.chmod(0o600)
        return list(runner().up())


def only_worker() -> Any:
    """Waits until no other worker works on this database; true for as long as what is returned is kept."""
    return _engine.only_worker(database.obj, _folder)


def is_writable(now: datetime) -> bool:
    """Can something be written and synced right now? A full disk shows only when something is."""
    from gateway.store import schedule

    try:
        with writing():
            schedule.beat("probe", now)
    except Temporary:
        return False
    return True
