"""Proves that nothing was changed behind our back: entries' digests and chains, tickets' last values, the seals."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from gateway import store
from gateway.model import Seal, insert, micros, row, rows
from gateway.store.apply import CHAINED, digest, link, of_file

BATCH = 2_000


def problems() -> list[str]:
    """Whole sentences, one for each thing that does not fit; [] when everything does."""
    with store.snapshot():
        return [*_chains(), *_unfinished(), *_seal()]


def _chains() -> Iterator[str]:
    last: dict[int, str] = {}
    for line in _entries():
        columns = dict(zip(CHAINED, line[1:12], strict=True))
        entry, chain = line[0], line[12]
        ticket = int(line[1])
        if chain != link(last.get(ticket, ""), columns):
            yield f"entry {entry} of #{ticket}: its chain value does not fit its columns or the entry before it"
        salt, *words = line[13:19]
        if salt is None:
            yield f"entry {entry} of #{ticket}: its body is missing"
        elif salt and columns["digest"] != digest(salt, *words, *line[19]):
            yield f"entry {entry} of #{ticket}: its words or files are not those that were written"
        elif not salt and (any(words) or line[19]):
            yield f"entry {entry} of #{ticket}: it was erased, and has words or files again"
        last[ticket] = chain
    for number, chain in rows("select number, chain from ticket"):
        if chain != last.get(number, ""):
            yield f"#{number}: its last entry is missing or was added behind our back"


def _entries() -> Iterator[tuple[Any, ...]]:
    """All entries in the order they were written, each with its files; an erased body has an empty salt."""
    after = 0
    names = ", ".join(f"e.{name}" for name in CHAINED)
    while True:
        lines = rows(
            f"select e.id, {names}, e.chain, b.salt, b.author, b.subject, b.text, b.quoted, b.html "  # noqa: S608
            "from entry e left join body b on b.entry = e.id where e.id > ? order by e.id limit ?",
            after,
            BATCH,
        )
        if not lines:
            return
        files = _files(after, lines[-1][0])
        yield from ((*line, files.get(line[0], [])) for line in lines)
        after = lines[-1][0]


def _files(after: int, last: int) -> dict[int, list[str]]:
    """What the digests of these entries cover of their files."""
    found: dict[int, list[str]] = {}
    for entry, *file in rows(
        "select entry, sha256, type, name from attachment where entry > ? and entry <= ? order by id", after, last
    ):
        found.setdefault(entry, []).append(of_file(*file))
    return found


def _unfinished() -> Iterator[str]:
    for id, ticket in rows(
        "select i.id, i.ticket from inbound i where i.state = 'done' and i.ticket is not null "
        "and not exists (select 1 from ticket t where t.number = i.ticket)"
    ):
        yield f"received message {id} names #{ticket}, which is not there"


def _seal() -> Iterator[str]:
    found = row("select entry, tickets, digest from seal order by at desc limit 1")
    if found is None:
        return
    entry, tickets, said = found
    if seal_value(entry) != (tickets, said):
        yield "the last seal does not fit: something that it covers was changed or is gone"


def seal_value(entry: int) -> tuple[int, str]:
    """How many tickets have entries up to this one, and one hash over the chain value each then had."""
    lines = rows(
        "select ticket, chain from entry where id in (select max(id) from entry where id <= ? group by ticket) "
        "order by ticket",
        entry,
    )
    return len(lines), hashlib.sha256(json.dumps(lines, separators=(",", ":")).encode()).hexdigest()


def fresh_seal() -> tuple[int, int, str]:
    """The newest entry, the tickets and the hash of a seal of this moment. Entries before it cannot change, and a
    smaller id cannot come later: writers take turns. So it needs no write transaction."""
    with store.snapshot():
        entry = int(row("select coalesce(max(id), 0) from entry")[0])
        return (entry, *seal_value(entry))


def write_seal(seal: tuple[int, int, str], now: datetime) -> None:
    """Keeps tonight's seal. Inside `writing()`."""
    entry, tickets, value = seal
    insert(Seal, at=micros(now), entry=entry, tickets=tickets, digest=value)
