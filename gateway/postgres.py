"""What PostgreSQL alone understands: how it is opened, whose turn it is to write, triggers, full-text search."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playhouse.db_url import connect

TURN = 0x52494E47  # "RING": the advisory lock every writer takes
WORKER = TURN + 1  # the one the only worker holds

TRIGGERS = (
    (
        "create or replace function entry_is_append_only() returns trigger language plpgsql as "
        "$$ begin raise exception 'an entry is never updated or deleted'; end $$"
    ),
    "drop trigger if exists entry_is_append_only on entry",
    (
        "create trigger entry_is_append_only before update or delete on entry for each row "
        "execute function entry_is_append_only()"
    ),
)
SEARCH = (
    "create table if not exists body_search (entry bigint primary key, words tsvector)",
    "create index if not exists body_search_words on body_search using gin (words)",
)


def open_database(url: str) -> Any:
    """The database of a `postgresql://` URL, not yet connected."""
    return connect(url.replace("postgresql://", "psycopg3://", 1), autoconnect=False)


def complete_schema(database: Any) -> None:
    """Triggers and the search table."""
    for statement in (*TRIGGERS, *SEARCH):
        database.execute_sql(statement)


@contextmanager
def turn(database: Any, folder: Path) -> Iterator[None]:
    """One writer at a time, in the order of their coming; the lock ends with the transaction."""
    with database.atomic():
        database.execute_sql("select pg_advisory_xact_lock(%s)", (TURN,))
        yield


def index_words(database: Any, entry: int, subject: str, text: str) -> None:
    """Makes an entry findable. A tsvector holds at most 1 MB: the words are cut before that."""
    words = f"{subject}\n{text}".encode("utf-8", "replace")[:250_000].decode("utf-8", "ignore")
    database.execute_sql(
        "insert into body_search (entry, words) values (%s, to_tsvector('simple', %s)) on conflict do nothing",
        (entry, words),
    )


def find_entries(database: Any, words: str, limit: int) -> list[tuple[int, int]]:
    """(entry, ticket) of the newest entries that hold all the words; any input is safe."""
    statement = (
        "select e.id, e.ticket from body_search s join entry e on e.id = s.entry "
        "where s.words @@ websearch_to_tsquery('simple', %s) order by s.entry desc limit %s"
    )
    return list(database.execute_sql(statement, (words.replace("\0", " "), limit)).fetchall())


def backup(database: Any, target: Path) -> None:
    """PostgreSQL is backed up with its own tools: this writes down how."""
    target.with_suffix(".txt").write_text("Run pg_dump before you migrate; Ringback does not do it for you.\n")


@contextmanager
def snapshot(database: Any) -> Iterator[None]:
    """Everything read inside is of one moment; nobody is kept from writing."""
    with database.atomic(isolation_level="REPEATABLE READ"):
        yield


def only_worker(database: Any, folder: Path) -> Any:
    """Waits until no other worker works on this database; the lock lasts as long as the connection that is returned."""
    connection = database._connect()
    connection.autocommit = True
    connection.execute("select pg_advisory_lock(%s)", (WORKER,))
    return connection


def version_of_data(database: Any) -> int:
    """A number that changes when anything was committed."""
    return int(database.execute_sql("select txid_snapshot_xmax(txid_current_snapshot())").fetchone()[0])
