"""The outbox: rows are claimed, sent by somebody else, and what became of them is written here.

One lane per (medium, recipient): a row is claimable when no older row of its lane is `sending`, `uncertain` or `ready`
with fewer than three attempts, so that messages to one person keep their order and one bad row blocks nobody for long.

Every SMS passes a gate in its claim: none goes to a phone that has opted out or takes none, and what we send by
ourselves stops at the day's limit (sms.md 4.6).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from gateway.decide.undelivered import SmsRow, UndeliveredFacts, is_of_earlier_attempt, status_after, time_to_live
from gateway.model import execute, marks, micros, moment, row, rows, update
from gateway.store import facts
from gateway.values import (
    BY_ITSELF,
    Delivery,
    FilePart,
    Medium,
    NoticeKind,
    OutboxState,
    Outgoing,
    Permanent,
    Receipt,
    Refusal,
    Role,
    Sent,
)

LEASE = timedelta(hours=1)  # longer than the slowest lane may take
COLUMNS = (
    "id, ticket, entry, kind, medium, recipient, account, attempts, coalesce(released_at, created_at), rendered, blob, "
    "message_id, envelope_sender, data, number"
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

# -- the gate ----------------------------------------------------------------------------------------------------

STOPPED_AT_ONCE = 1000
OVER_LIMIT = "daily limit of SMS"
SHUT = {Refusal.OPTED_OUT: "opted out", Refusal.NUMBER: "no SMS to this number"}
SPENT = (
    "select coalesce(sum(case when segments > 1 then segments else 1 end), 0) from outbox "
    "where changed >= ? and medium = 'sms' and "
    "(state in ('sending', 'uncertain') or (state = 'sent' and done_at >= ?))"
)


@dataclass(frozen=True, slots=True)
class Gate:
    """How many segments may go by themselves on the day that began at `day` and ends at `midnight`."""

    cap: int
    day: datetime
    midnight: datetime


def die(id: int, why: Refusal, now: datetime) -> None:
    """What the gate stops is dead, and nothing else happens. Inside `writing()`."""
    execute(
        "update outbox set state = 'dead', result = ?, done_at = ?, changed = ? where id = ? and state = 'ready'",
        SHUT[why],
        micros(now),
        micros(now),
        id,
    )


def sms_shut(recipient: str, kind: NoticeKind) -> Refusal | None:
    """Why no SMS may go to this number, if so. After STOP one thing still goes: that it was understood."""
    if kind is NoticeKind.CONSENT:
        return None
    found = row("select opted_out, sms_ok from address where value = ?", recipient)
    if found is None or (not found[0] and found[1]):
        return None
    return Refusal.OPTED_OUT if found[0] else Refusal.NUMBER


def claim(
    owner: str,
    now: datetime,
    limit: int,
    gate: Gate | None = None,
    shut: Callable[[int, Refusal, datetime], None] = die,
) -> list[list[Outgoing]]:
    """Takes what is due from up to `limit` lanes for this owner; each inner list is one lane's run, in its order.

    Held rows whose time has come become ready here. An SMS that the gate stops is not taken: `shut` says what becomes
    of it. Without a `gate` there is no limit for the day. Inside `writing()`.
    """
    at = micros(now)
    execute(
        "update outbox set state = 'ready' where state in ('held', 'ready') and state = 'held' and not_before <= ?", at
    )
    runs: list[list[int]] = []
    taken: set[int] = set()
    for head, medium, recipient in _heads(at, limit, now, gate, shut):
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


def _heads(
    at: int, limit: int, now: datetime, gate: Gate | None, shut: Callable[[int, Refusal, datetime], None]
) -> list[tuple[int, str, str]]:
    """The first rows of lanes that may go now. Those that the gate stops make room for others; of a long queue of them
    a part at a time, because everybody else waits for this transaction."""
    spent: list[int] = []
    many = 0
    while many < STOPPED_AT_ONCE:
        found = rows(HEADS, at, limit)
        texts = [id for id, medium, _ in found if medium == Medium.SMS]
        stopped = _stopped(texts, now, gate, shut, spent) if texts else set()
        many += len(stopped)
        if passed := [head for head in found if head[0] not in stopped]:
            return passed
        if not stopped:
            return []
    return []


def _stopped(
    ids: Sequence[int],
    now: datetime,
    gate: Gate | None,
    shut: Callable[[int, Refusal, datetime], None],
    spent: list[int],
) -> set[int]:
    """Which of these SMS do not pass; they are dead or wait for tomorrow now. `spent` holds the day's segments, once
    they were counted."""
    lines = rows(f"select id, kind, recipient, released_at from outbox where id in ({marks(ids)}) order by id", *ids)  # noqa: S608
    stopped: set[int] = set()
    for id, word, recipient, released in lines:
        kind = NoticeKind(word)
        why = sms_shut(recipient, kind)
        if why:
            shut(id, why, now)
            die(id, why, now)  # in any case: or it would come up again and again
            stopped.add(id)
        elif gate is not None and kind in BY_ITSELF and released is None:
            if not spent:
                spent.append(_spent(gate))
            if spent[0] >= gate.cap:
                _put_off(id, gate.midnight, now)
                stopped.add(id)
            else:
                spent[0] += 1
    return stopped


def _spent(gate: Gate) -> int:
    """Segments sent today; what is on its way counts too."""
    return int(row(SPENT, micros(gate.day), micros(gate.day))[0])


def _put_off(id: int, until: datetime, now: datetime) -> None:
    update(
        "outbox",
        "id",
        id,
        state=OutboxState.HELD,
        not_before=micros(until),
        result=OVER_LIMIT,
        changed=micros(now),
    )


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
    number: str,
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
        number,
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
        medium, state, provider_id = row("select medium, state, provider_id from outbox where id = ?", id)
        if medium == Medium.SMS and state not in (OutboxState.SENDING, OutboxState.SENT, OutboxState.UNCERTAIN):
            # A receipt that says it failed overtook the answer: that stands. Later ones must still find the row.
            update("outbox", "id", id, provider_id=provider_id or sent.provider_id)
            continue
        _finish(id, OutboxState.SENT, sent.words, now, **_columns(medium, state, provider_id, sent))


def _columns(medium: str, state: str, provider_id: str, sent: Sent) -> dict[str, Any]:
    """What the provider said. The first word about an attempt ends what was known of the one before; a receipt that
    overtook the answer stands."""
    if medium != Medium.SMS:
        return {"provider_id": sent.provider_id}
    overtaken = state == OutboxState.SENT
    columns: dict[str, Any] = {"provider_id": sent.provider_id or (provider_id if overtaken else "")}
    columns |= {"number": sent.sender} if sent.sender else {}
    columns |= {"segments": sent.segments} if sent.segments else {}
    return columns if overtaken else columns | {"status": "", "code": ""}


def record_failed(id: int, words: str, again_at: datetime | None, now: datetime) -> None:
    """It did not go: again at that time, or never (`None`: dead, a person is shown why). Inside `writing()`."""
    if not _is_being_sent(id):
        return
    if again_at is None:
        _finish(id, OutboxState.DEAD, words, now)
    else:
        _back(id, words, again_at, now)


def record_later(id: int, words: str, again_at: datetime, now: datetime) -> None:
    """It was not tried, and nobody is to blame: again at that time, and this attempt does not count. Inside
    `writing()`."""
    if _is_being_sent(id):
        _back(id, words, again_at, now)
        execute("update outbox set attempts = attempts - 1 where id = ?", id)


def record_uncertain(id: int, words: str, again_at: datetime | None, now: datetime) -> None:
    """It may have arrived. A mail is repeated once at that time, about an SMS the provider is asked; `None`: it is
    shown to a person. Inside `writing()`."""
    if not _is_being_sent(id):
        return
    is_sms = row("select medium from outbox where id = ?", id)[0] == Medium.SMS
    if is_sms:
        _doubt(id, words, again_at, now)
    elif again_at is None:
        _finish(id, OutboxState.UNCERTAIN, words, now)
    else:
        _back(id, words, again_at, now)


def _is_being_sent(id: int) -> bool:
    """A receipt may have overtaken the answer and settled it."""
    return row("select 1 from outbox where id = ? and state = 'sending'", id) is not None


def _finish(id: int, state: OutboxState, words: str, now: datetime, **columns: Any) -> None:
    at = micros(now)
    update(
        "outbox",
        "id",
        id,
        state=state,
        result=_said(id, words),
        owner="",
        lease_until=None,
        done_at=at,
        changed=at,
        **columns,
    )


def _said(id: int, words: str) -> str:
    """The history keeps that a message may have been sent twice, whatever comes after it."""
    before = row("select result from outbox where id = ?", id)[0]
    twice = before.startswith(TWICE) and not words.startswith(TWICE)
    return (f"{TWICE}; {words}" if twice else words)[:500]


def _back(id: int, words: str, again_at: datetime, now: datetime) -> None:
    update(
        "outbox",
        "id",
        id,
        state=OutboxState.READY,
        result=_said(id, words),
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
            _doubt(id, "the sender was stopped while sending", now + FIRST_LOOK, now)
        else:
            _back(id, "the sender was stopped while sending", now, now)
    return len(lines)


def settle_uncertain(now: datetime) -> int:
    """After ten minutes an uncertain row blocks no longer: it "may not have arrived". An SMS that its provider is still
    to be asked about waits for that, but no longer than an hour. Inside `writing()`."""
    return int(
        execute(
            "update outbox set state = 'dead', result = 'may not have arrived: ' || result, changed = ? "
            "where state in ('dead', 'uncertain', 'held') and state = 'uncertain' and done_at < ? "
            "and (medium <> 'sms' or not_before is null or not_before < done_at or done_at < ?)",
            micros(now),
            micros(now - timedelta(minutes=10)),
            micros(now - timedelta(hours=1)),
        ).rowcount
    )


# -- an SMS of which nobody knows --------------------------------------------------------------------------------

FIRST_LOOK, LAST_LOOK = timedelta(seconds=60), timedelta(seconds=300)  # after it became uncertain
TWICE = "may have been sent twice"
DOUBTFUL = (
    f"select {COLUMNS}, lease_until, done_at from outbox "  # noqa: S608 - the words are ours
    "where state in ('dead', 'uncertain', 'held') and state = 'uncertain' and medium = 'sms' and not_before <= ? "
    "order by id limit ?"
)


@dataclass(frozen=True, slots=True)
class Doubtful:
    """An SMS that may have arrived: `since` its attempt began; `last` says that no later look will be taken."""

    outgoing: Outgoing
    since: datetime
    last: bool


def _doubt(id: int, words: str, look_at: datetime | None, now: datetime) -> None:
    """Its lease stays: it tells when the attempt began."""
    lease = row("select lease_until from outbox where id = ?", id)[0]
    _finish(id, OutboxState.UNCERTAIN, words, now, not_before=None if look_at is None else micros(look_at))
    update("outbox", "id", id, lease_until=lease)


def doubtful(now: datetime, limit: int) -> list[Doubtful]:
    """The SMS that a provider should be asked about now, oldest first."""
    found = []
    for *columns, lease, done_at in rows(DOUBTFUL, micros(now), limit):
        found.append(Doubtful(_outgoing(*columns), _began(lease, done_at), now >= moment(done_at) + LAST_LOOK))
    return found


def _began(lease: int | None, done_at: int) -> datetime:
    return moment(lease) - LEASE if lease else moment(done_at)


def doubt_anew(now: datetime) -> None:
    """At start: the time in which providers are asked begins again; nobody asked while no worker ran. Inside
    `writing()`."""
    execute(
        "update outbox set done_at = ? where state in ('dead', 'uncertain', 'held') and state = 'uncertain' "
        "and medium = 'sms' and not_before is not null",
        micros(now),
    )


def record_found(id: int, sent: Sent, now: datetime) -> None:
    """The provider has it: it was sent. Unless that message is known as another of ours, which proves nothing about
    this one: then a person decides. Inside `writing()`."""
    if not _is_uncertain(id):
        return
    another = sent.provider_id and row(
        "select 1 from outbox where provider_id = ? and medium = 'sms' and provider_id <> '' and id <> ?",
        sent.provider_id,
        id,
    )
    if another:
        look_again(id, None, now)
    else:
        record_sent([(id, sent)], now)


def record_absent(doubt: Doubtful, now: datetime) -> bool:
    """The provider does not know it. Asked for the last time, it goes once more, and is asked about once more if need
    be; False when its time is over. Inside `writing()`."""
    outgoing = doubt.outgoing
    if not _is_uncertain(outgoing.id, doubt.since):
        return True
    if not doubt.last:
        done_at = row("select done_at from outbox where id = ?", outgoing.id)[0]
        look_again(outgoing.id, moment(done_at) + LAST_LOOK, now)
    elif now > outgoing.created + time_to_live(outgoing.account):
        return False
    else:
        _back(outgoing.id, TWICE, now, now)
    return True


def look_again(id: int, at: datetime | None, now: datetime) -> None:
    """When the provider is asked again; None: it cannot be, so a person is shown it soon. Inside `writing()`."""
    execute(
        "update outbox set not_before = ?, changed = ? where id = ? and state = 'uncertain'",
        None if at is None else micros(at),
        micros(now),
        id,
    )


def _is_uncertain(id: int, since: datetime | None = None) -> bool:
    """A receipt may have settled it while the provider was asked, or somebody may have sent it once more."""
    found = row("select lease_until, done_at from outbox where id = ? and state = 'uncertain'", id)
    return found is not None and since in (None, _began(*found))


# -- receipts ----------------------------------------------------------------------------------------------------

SMS_COLUMNS = (
    "id, ticket, entry, kind, recipient, account, state, coalesce(released_at, created_at), number, attempts, resends, "
    "status, provider_id, data"
)
SMS = f"select {SMS_COLUMNS} from outbox where medium = 'sms'"  # noqa: S608 - names are ours


def sms_row(receipt: Receipt) -> SmsRow | None:
    """The row a receipt is about: by our id, which it may carry before we know the provider's, else by that."""
    found = sms_by_id(receipt.outbox) if receipt.outbox is not None and 0 < receipt.outbox < 2**63 else None
    if found is not None or not receipt.id:
        return found
    line = row(f"{SMS} and provider_id = ? and provider_id <> '' order by id desc limit 1", receipt.id)
    return None if line is None else _sms(*line)


def sms_by_id(id: int) -> SmsRow | None:
    """The SMS with this outbox id, None when there is none."""
    line = row(f"{SMS} and id = ?", id)
    return None if line is None else _sms(*line)


def _sms(
    id: int,
    ticket: int | None,
    entry: int | None,
    kind: str,
    phone: str,
    account: int | None,
    state: str,
    created_at: int,
    number: str,
    attempts: int,
    resends: int,
    status: str,
    provider_id: str,
    data: str,
) -> SmsRow:
    return SmsRow(
        id,
        ticket,
        entry,
        NoticeKind(kind),
        phone,
        account,
        OutboxState(state),
        moment(created_at),
        number,
        attempts,
        resends,
        status,
        provider_id,
        json.loads(data),
    )


def undelivered_facts(sms: SmsRow, now: datetime) -> UndeliveredFacts:
    """What deciding needs to know about who should have got an SMS."""
    known = facts.for_action([sms.ticket] if sms.ticket else [], sms.phone, now)
    if sms.account is not None:
        known = replace(known, accounts={**known.accounts, **facts.accounts_by_id([sms.account])})
    return UndeliveredFacts(known, "" if sms.account is not None else _mail_of(sms))


def _mail_of(sms: SmsRow) -> str:
    """Where the person with this phone can be written to by mail. Of a phone that several share only the requester's
    address counts, and his only when it is his phone too: nobody gets another's messages."""
    owners = [
        line[0]
        for line in rows(
            "select ca.contact from contact_address ca join address a on a.id = ca.address "
            "where a.value = ? and ca.certainty = 'known'",
            sms.phone,
        )
    ]
    asker = row("select requester from ticket where number = ?", sms.ticket) if sms.ticket else None
    if asker and asker[0] in owners:
        owners = [asker[0]]
    if len(owners) != 1:
        return ""
    found = row(
        "select a.value from contact_address ca join address a on a.id = ca.address "
        "where ca.contact = ? and ca.certainty = 'known' and a.medium = 'mail' and a.bounced = ? and a.opted_out = ? "
        "order by coalesce(ca.last_seen, 0) desc, a.id limit 1",
        owners[0],
        False,
        False,
    )
    return str(found[0]) if found else ""


def add_results(results: Sequence[tuple[int, Receipt]], now: datetime) -> None:
    """Keeps receipts, each once, and shows the highest. Before anything else is changed of their rows: which attempt a
    receipt is about depends on the row's state. Inside `writing()`."""
    for id, receipt in results:
        sms = sms_by_id(id)
        if sms is None:
            continue
        if receipt.status is not Delivery.PRICED:
            execute(
                "insert into result (outbox, status, code, words, at) values (?, ?, ?, ?, ?) "
                "on conflict (outbox, status, code) do nothing",
                id,
                receipt.status,
                receipt.code,
                receipt.words[:500],
                micros(now),
            )
        if columns := _shown(sms, receipt):
            update("outbox", "id", id, changed=micros(now), **columns)


def _shown(sms: SmsRow, receipt: Receipt) -> dict[str, Any]:
    """The columns that a receipt changes. What it cost counts whichever attempt it was about."""
    columns: dict[str, Any] = {}
    if receipt.price:
        columns |= {"price": receipt.price, "currency": receipt.currency}
    if receipt.segments:
        columns["segments"] = receipt.segments
    if receipt.status is Delivery.PRICED:
        return columns
    status = status_after(receipt, sms)
    if status != sms.status:
        columns |= {"status": status, "code": receipt.code}
    if receipt.id and not is_of_earlier_attempt(receipt, sms):
        columns["provider_id"] = receipt.id
    return columns


# -- what stands behind a row ------------------------------------------------------------------------------------


def behind(outgoing: Outgoing) -> dict[str, Any]:
    """What rendering needs beside the row: columns by name, as `outbound.letters.Background` takes them."""
    found: dict[str, Any] = {}
    if outgoing.ticket is not None:
        inbox, subject, last = row("select inbox, subject, last_entry from ticket where number = ?", outgoing.ticket)
        found |= {"number": outgoing.ticket, "inbox": inbox, "ticket_subject": subject, "last_entry": last}
        found |= _ids(outgoing.ticket, outgoing.recipient)
    entry = outgoing.data.get("entry") if outgoing.entry is None else outgoing.entry  # by mail what an SMS could not
    if outgoing.data.get("newest"):  # a job is given with what the customer last said
        entry = _last_message(outgoing.ticket) or entry
    if entry is not None:
        found |= _words(entry)
        found |= _answered(outgoing.ticket, entry, outgoing.recipient) if outgoing.kind is NoticeKind.ANSWER else {}
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


def _last_message(ticket: int | None) -> int | None:
    found = row("select id from entry where ticket = ? and kind = 'message' order by id desc limit 1", ticket)
    return None if found is None else found[0]


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
    """Cancels what of an entry has not left; returns the ticket, and words when it is too late. Inside `writing()`."""
    lines = rows("select id, ticket, state, done_at, attempts from outbox where entry = ? and kind = 'answer'", entry)
    if not lines:
        return 0, "There is nothing to take back."
    if all(line[2] == OutboxState.CANCELLED for line in lines):
        return 0, "It is taken back already."
    # `ready` and never tried: its time has come, but nobody has taken it yet.
    gone = [
        line
        for line in lines
        if line[2] not in (OutboxState.HELD, OutboxState.CANCELLED)
        and not (line[2] == OutboxState.READY and not line[4])
    ]
    if gone:
        done_at = gone[0][3]
        return 0, f"Too late: already sent {moment(done_at):%H:%M}." if done_at else "Too late: it is being sent."
    for id, *_ in lines:
        execute(
            "update outbox set state = 'cancelled', changed = ?, done_at = ? where id = ? "
            "and (state = 'held' or state = 'ready' and attempts = 0)",
            micros(now),
            micros(now),
            id,
        )
    return int(lines[0][1]), ""


def take_back_closing(ticket: int, at: int) -> None:
    """The ticket is open again: nobody is told any more that it is done. Inside `writing()`."""
    execute(
        "update outbox set state = 'cancelled', result = 'the ticket is open again', changed = ?, done_at = ? "
        "where ticket = ? and kind = 'closing' and state in ('held', 'ready')",
        at,
        at,
        ticket,
    )


def forget_codes(question: int) -> None:
    """A one-time code that counts no more stands nowhere. Inside `writing()`."""
    execute(
        "update outbox set data = '{}', rendered = null, "
        "state = case when state in ('held', 'ready') then 'cancelled' else state end "
        "where medium = 'sms' and kind = 'code' "
        "and recipient in (select phone from question where id = ? and kind in ('code', 'enrol'))",
        question,
    )


def release(id: int, now: datetime) -> None:
    """Sends a held or waiting row now, or tries a dead one again from the start. Inside `writing()`."""
    changed = execute(
        "update outbox set state = 'ready', not_before = ?, released_at = ?, attempts = 0, changed = ? "
        "where id = ? and state in ('held', 'dead', 'uncertain', 'ready')",
        micros(now),
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
