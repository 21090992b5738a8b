"""The outbox: rows are claimed, sent by somebody else, and what became of them is written here.

One lane per (medium, recipient): a row is claimable when no older row of its lane is `sending`, `uncertain` or `ready`
with fewer than three attempts, so that messages to one person keep their order and one bad row blocks nobody for long.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from gateway.model import execute, marks, micros, moment, row, rows, update
from gateway.values import FilePart, Medium, NoticeKind, OutboxState, Outgoing, Permanent, Role, Sent

LEASE = timedelta(hours=1)  # longer than the slowest lane may take
COLUMNS = (
    "id, ticket, entry, kind, medium, recipient, account, attempts, created_at, rendered, blob, message_id, "
    "envelope_sender, data"
)
RUN = 25  # rows of one lane that one sender takes in one go, in order
BLOCKING = "(state in ('sending', 'uncertain') or (state = 'ready' and attempts < 3))"  # as the index outbox_lane says
HEADS = (
    "select o.id, o.medium, o.recipient from outbox o where "  # noqa: S608 - the words are ours
    "o.state in ('held', 'ready') and o.state = 'ready' "
    "and o.not_before <= ? and not exists ("
    f"select 1 from outbox where medium = o.medium and recipient = o.recipient and id < o.id and {BLOCKING}"
    ") order by o.not_before, o.id limit ?"
)
FOLLOWERS = (
    "select id, state, attempts, not_before from outbox "  # noqa: S608 - the words are ours
    "where medium = ? and recipient = ? and id > ? "
    f"and {BLOCKING} order by id limit ?"
)
SENDING = (
    "select id, medium from outbox "  # noqa: S608 - the words are ours
    f"where state = 'sending' and {BLOCKING} and lease_until < ?"
)


def claim(owner: str, now: datetime, limit: int) -> list[list[Outgoing]]:
    """Takes what is due from up to `limit` lanes for this owner; each inner list is one lane's run, in its order.

    Held rows whose time has come become ready here. Inside `writing()`.
    """
    at = micros(now)
    execute(
        "update outbox set state = 'ready' where state in ('held', 'ready') and state = 'held' and not_before <= ?", at
    )
    runs: list[list[int]] = []
    taken: set[int] = set()
    for head, medium, recipient in rows(HEADS, at, limit):
        # An old failure that is due again blocks nobody: it and the first fresh row of its lane are both heads.
        run = [id for id in (head, *_followers(head, medium, recipient, at)) if id not in taken]
        runs += [run] if run else []
        taken.update(run)
    if not taken:
        return []
    execute(
        f"update outbox set state = 'sending', owner = ?, lease_until = ?, attempts = attempts + 1, changed = ? "  # noqa: S608
        f"where id in ({marks(taken)})",
        owner,
        micros(now + LEASE),
        at,
        *taken,
    )
    lines = rows(f"select {COLUMNS} from outbox where id in ({marks(taken)})", *taken)  # noqa: S608
    by_id = {line[0]: _outgoing(*line) for line in lines}
    return [[by_id[id] for id in run] for run in runs]


def _followers(head: int, medium: str, recipient: str, at: int) -> list[int]:
    """The rows behind a lane's head that may go with it: up to the first that has to wait and blocks."""
    if medium == Medium.SMS:
        return []  # what a killed worker had claimed would all be "uncertain"
    run = []
    for id, state, attempts, not_before in rows(FOLLOWERS, medium, recipient, head, RUN - 1):
        if state != OutboxState.READY or attempts or not_before > at:
            break
        run.append(id)
    return run


def _outgoing(
    id: int,
    ticket: int | None,
    entry: int | None,
    kind: str,
    medium: str,
    recipient: str,
    account: int | None,
    attempts: int,
    created_at: int,
    rendered: bytes | None,
    blob: str,
    message_id: str,
    envelope_sender: str,
    data: str,
) -> Outgoing:
    return Outgoing(
        id,
        ticket,
        entry,
        NoticeKind(kind),
        Medium(medium),
        recipient,
        account,
        attempts,
        moment(created_at),
        None if rendered is None else bytes(rendered),
        message_id,
        envelope_sender,
        json.loads(data),
        blob,
    )


def keep_rendered(rendered: Sequence[Outgoing], now: datetime) -> None:
    """Keeps what was rendered: every later attempt sends these bytes. What lies in a blob is not kept twice.
    Inside `writing()`."""
    for outgoing in rendered:
        update(
            "outbox",
            "id",
            outgoing.id,
            rendered=None if outgoing.blob else outgoing.rendered,
            blob=outgoing.blob,
            message_id=outgoing.message_id,
            envelope_sender=outgoing.envelope_sender,
            changed=micros(now),
        )


def put_back(id: int, now: datetime) -> None:
    """It was claimed and not tried: another row of its lane failed before it. Inside `writing()`."""
    execute(
        "update outbox set state = 'ready', owner = '', lease_until = null, attempts = attempts - 1, changed = ? "
        "where id = ? and state = 'sending'",
        micros(now),
        id,
    )


def record_sent(taken: Sequence[tuple[int, Sent]], now: datetime) -> None:
    """The other side took these. Inside `writing()`."""
    for id, sent in taken:
        _finish(id, OutboxState.SENT, sent.words, now, provider_id=sent.provider_id)


def record_failed(id: int, words: str, again_at: datetime | None, now: datetime) -> None:
    """It did not go: again at that time, or never (`None`: dead, a person is shown why). Inside `writing()`."""
    if again_at is None:
        _finish(id, OutboxState.DEAD, words, now)
    else:
        _back(id, words, again_at, now)


def record_uncertain(id: int, words: str, again_at: datetime | None, now: datetime) -> None:
    """It may have arrived: repeated once at that time, or (`None`) shown to a person. Inside `writing()`."""
    if again_at is None:
        _finish(id, OutboxState.UNCERTAIN, words, now)
    else:
        _back(id, words, again_at, now)


def _finish(id: int, state: OutboxState, words: str, now: datetime, **columns: Any) -> None:
    at = micros(now)
    update(
        "outbox",
        "id",
        id,
        state=state,
        result=words[:500],
        owner="",
        lease_until=None,
        done_at=at,
        changed=at,
        **columns,
    )


def _back(id: int, words: str, again_at: datetime, now: datetime) -> None:
    update(
        "outbox",
        "id",
        id,
        state=OutboxState.READY,
        result=words[:500],
        owner="",
        lease_until=None,
        not_before=micros(again_at),
        changed=micros(now),
    )


def free(now: datetime, settled: Mapping[int, str], only_expired: bool = False) -> int:
    """Takes back what a dead worker was sending: `settled` are known as sent; other mail is sent again with the same
    bytes and Message-ID, an SMS becomes uncertain. For the only worker there is; `only_expired` while it lives.
    Inside `writing()`."""
    before = micros(now) if only_expired else micros(now + 2 * LEASE)
    lines = rows(SENDING, before)
    for id, medium in lines:
        if id in settled:
            record_sent([(id, Sent(words=settled[id]))], now)
        elif medium == Medium.SMS:
            _finish(id, OutboxState.UNCERTAIN, "the sender was stopped while sending", now)
        else:
            _back(id, "the sender was stopped while sending", now, now)
    return len(lines)


def settle_uncertain(now: datetime) -> int:
    """After ten minutes an uncertain row blocks no longer: it "may not have arrived". Inside `writing()`."""
    return int(
        execute(
            "update outbox set state = 'dead', result = 'may not have arrived: ' || result, changed = ? "
            "where state in ('dead', 'uncertain', 'held') and state = 'uncertain' and done_at < ?",
            micros(now),
            micros(now - timedelta(minutes=10)),
        ).rowcount
    )


def behind(outgoing: Outgoing) -> dict[str, Any]:
    """What rendering needs beside the row: columns by name, as `outbound.letters.Background` takes them."""
    found: dict[str, Any] = {}
    if outgoing.ticket is not None:
        inbox, subject = row("select inbox, subject from ticket where number = ?", outgoing.ticket)
        found |= {"number": outgoing.ticket, "inbox": inbox, "ticket_subject": subject}
        found |= _ids(outgoing.ticket, outgoing.recipient)
    if outgoing.entry is not None:
        found |= _words(outgoing.entry)
        found |= (
            _answered(outgoing.ticket, outgoing.entry, outgoing.recipient) if outgoing.kind is NoticeKind.ANSWER else {}
        )
    address = row(
        "select a.id, c.name from address a left join contact_address ca on ca.address = a.id "
        "left join contact c on c.id = ca.contact where a.value = ? limit 1",
        outgoing.recipient,
    )
    if address:
        found |= {"address_id": address[0], "recipient_name": address[1] or ""}
    if outgoing.account is not None:
        roles, generation = row("select roles, generation from account where id = ?", outgoing.account)
        found |= {"roles": frozenset(Role(r) for r in roles.split(",") if r), "generation": generation}
    return found


def _words(entry: int) -> dict[str, Any]:
    subject, text, author = row(
        "select b.subject, b.text, coalesce(nullif(b.author, ''), c.name, '') from entry e "
        "join body b on b.entry = e.id left join account a on a.id = e.account "
        "left join contact c on c.id = a.contact where e.id = ?",
        entry,
    )
    files = rows("select sha256, name, type, size, cid from attachment where entry = ? order by id", entry)
    return {
        "subject": subject,
        "text": text,
        "author": author,
        "files": tuple(FilePart(*line) for line in files),
    }


def _answered(ticket: int | None, entry: int, recipient: str) -> dict[str, Any]:
    """The newest message before this entry that the recipient himself wrote: a guest's words are not his to read."""
    found = row(
        "select e.at, b.author, b.subject, b.text from entry e join body b on b.entry = e.id "
        "join address a on a.id = e.author "
        "where e.ticket = ? and e.id < ? and e.kind = 'message' and a.value = ? order by e.id desc limit 1",
        ticket,
        entry,
        recipient,
    )
    if found is None:
        return {}
    at, author, subject, text = found
    return {
        "answered_at": moment(at),
        "answered_author": author,
        "answered_subject": subject,
        "answered_text": text,
    }


def _ids(ticket: int, recipient: str) -> dict[str, tuple[str, ...]]:
    """The Message-IDs of what somebody wrote on a ticket and of what we sent him, the newest twenty, oldest first."""
    theirs = rows(
        "select r.value from reference r join entry e on e.id = r.entry join address a on a.id = e.author "
        "where r.ticket = ? and a.value = ? order by r.entry desc limit 20",
        ticket,
        recipient,
    )
    ours = rows(
        "select message_id from outbox where ticket = ? and recipient = ? and message_id <> '' "
        "order by id desc limit 20",
        ticket,
        recipient,
    )
    return {
        "theirs": tuple(line[0] for line in reversed(theirs)),
        "ours": tuple(line[0] for line in reversed(ours)),
    }


def take_back(entry: int, now: datetime) -> tuple[int, str]:
    """Cancels what of an entry is still held; returns the ticket, and words when it is too late. Inside `writing()`."""
    lines = rows("select id, ticket, state, done_at from outbox where entry = ? and kind = 'answer'", entry)
    if not lines:
        return 0, "There is nothing to take back."
    if all(line[2] == OutboxState.CANCELLED for line in lines):
        return 0, "It is taken back already."
    gone = [line for line in lines if line[2] not in (OutboxState.HELD, OutboxState.CANCELLED)]
    if gone:
        done_at = gone[0][3]
        return 0, f"Too late: already sent {moment(done_at):%H:%M}." if done_at else "Too late: it is being sent."
    for id, _, _, _ in lines:
        execute(
            "update outbox set state = 'cancelled', changed = ?, done_at = ? where id = ? and state = 'held'",
            micros(now),
            micros(now),
            id,
        )
    return int(lines[0][1]), ""


def release(id: int, now: datetime) -> None:
    """Sends a held or waiting row now, or tries a dead one again from the start. Inside `writing()`."""
    changed = execute(
        "update outbox set state = 'ready', not_before = ?, attempts = 0, changed = ? "
        "where id = ? and state in ('held', 'dead', 'uncertain', 'ready')",
        micros(now),
        micros(now),
        id,
    ).rowcount
    if not changed:
        raise Permanent("This message does not wait any more.")


def next_due(now: datetime) -> datetime | None:
    """When the next row that waits falls due, after now; None when none waits."""
    found = row("select min(not_before) from outbox where state in ('held', 'ready') and not_before > ?", micros(now))
    return None if found is None or found[0] is None else moment(found[0])


def any_due(now: datetime) -> bool:
    """Is there anything to claim? Looked at before a write transaction is opened."""
    return (
        row("select 1 from outbox where state in ('held', 'ready') and not_before <= ? limit 1", micros(now))
        is not None
    )
