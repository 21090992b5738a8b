"""The mailroom's rows: what was received goes in here, raw, and waits until it is understood."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from gateway import blobs
from gateway.model import Inbound as InboundTable
from gateway.model import execute, insert, micros, moment, row, rows
from gateway.values import Arrival, Envelope, InboundState, Ruling, Step

IN_ROW = 256 * 1024  # larger raw input goes to the blob store


@dataclass(frozen=True, slots=True)
class Waiting:
    """A mailroom row to be processed. `raw` is a path when the bytes lie in the blob store."""

    id: int
    channel: str
    raw: bytes | Path
    envelope: Envelope
    received: datetime
    attempts: int
    ruling: Ruling | None


def place(folder: Path, arrival: Arrival) -> str:
    """Puts a large arrival's bytes into the blob store, durably, before its row is written; "" for a small one."""
    return blobs.put(folder, arrival.raw) if len(arrival.raw) > IN_ROW else ""


def add(arrival: Arrival, blob: str) -> bool:
    """Writes one mailroom row; False when the same delivery is there already. Inside `writing()`."""
    if row("select 1 from inbound where key = ?", arrival.key):
        return False
    insert(
        InboundTable,
        key=arrival.key,
        channel=arrival.channel,
        raw=None if blob else arrival.raw,
        blob=blob,
        size=len(arrival.raw),
        envelope=json.dumps(asdict(arrival.envelope)),
        received_at=micros(arrival.received),
    )
    return True


def waiting(folder: Path, after: int, limit: int) -> list[Waiting]:
    """The next rows in state `new`, oldest first."""
    found = rows(
        "select id, channel, raw, blob, envelope, received_at, attempts, ruling from inbound "
        "where state = 'new' and id > ? order by id limit ?",
        after,
        limit,
    )
    return [_waiting(folder, *line) for line in found]


def one(folder: Path, inbound: int) -> Waiting | None:
    """One mailroom row, whatever its state."""
    found = row(
        "select id, channel, raw, blob, envelope, received_at, attempts, ruling from inbound where id = ?", inbound
    )
    return None if found is None else _waiting(folder, *found)


def still_new(inbound: int) -> bool:
    """Nobody else has done it meanwhile."""
    return row("select 1 from inbound where id = ? and state = 'new'", inbound) is not None


def _waiting(
    folder: Path,
    id: int,
    channel: str,
    raw: bytes | None,
    blob: str,
    envelope: str,
    at: int,
    attempts: int,
    ruling: str,
) -> Waiting:
    said = json.loads(envelope)
    said["recipients"] = tuple(said["recipients"])
    return Waiting(
        id=id,
        channel=channel,
        raw=blobs.path_of(folder, blob) if blob else bytes(raw or b""),
        envelope=Envelope(**said),
        received=moment(at),
        attempts=attempts,
        ruling=Ruling(**json.loads(ruling)) if ruling else None,
    )


def fail(inbound: int, reason: str, words: str, now: datetime) -> None:
    """Parks a row that our own error stopped, with what went wrong. Inside `writing()`."""
    execute(
        "update inbound set state = ?, reason = ?, trace = ?, attempts = attempts + 1, done_at = ? where id = ?",
        InboundState.FAILED,
        reason,
        json.dumps([asdict(Step("failed", words[:20_000], hit=True))]),
        micros(now),
        inbound,
    )


def rule(inbound: int, ruling: Ruling) -> bool:
    """Writes what a person said about a parked or failed row and makes it `new` again. Inside `writing()`."""
    changed = execute(
        "update inbound set state = 'new', ruling = ? where id = ? and state in ('parked', 'failed')",
        json.dumps(asdict(ruling)),
        inbound,
    ).rowcount
    return bool(changed)


def rule_waiting(question: int, ruling: Ruling) -> bool:
    """Makes what waits for the answer to a question `new` again, also what a guess has just made new. Inside
    `writing()`."""
    changed = execute(
        "update inbound set state = 'new', ruling = ? where question = ? "
        "and (state = 'parked' and reason = 'needs-sorting' or state = 'new' and ruling like '%\"guess\"%')",
        json.dumps(asdict(ruling)),
        question,
    ).rowcount
    return bool(changed)


def ticket_of(inbound: int) -> int | None:
    """The ticket a row made or joined already: a failed message has a minimal one."""
    found = row("select ticket from inbound where id = ?", inbound)
    return None if found is None else found[0]


def outcome(inbound: int) -> dict[str, object]:
    """What became of a row."""
    state, reason, ticket = row("select state, reason, ticket from inbound where id = ?", inbound)
    return {"state": state, "reason": reason, "ticket": ticket}
