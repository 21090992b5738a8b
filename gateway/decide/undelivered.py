"""What becomes of an SMS that did not arrive, and what a receipt means (sms.md 4.7, 4.8): two tables, read aloud."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from gateway.config import Config
from gateway.decide import notices
from gateway.values import (
    Account,
    Channel,
    Decision,
    Delivery,
    Facts,
    InboundState,
    Kind,
    Medium,
    NewEntry,
    Notice,
    NoticeKind,
    OutboxState,
    Receipt,
    Refusal,
    Role,
    Step,
)

OLD_FAILURE = 3  # attempts after which nobody waits behind a row (the outbox's lanes)
STOPPED = timedelta(minutes=15)  # how long nothing goes by an account that was refused
FOR_STAFF, FOR_CUSTOMERS = timedelta(minutes=30), timedelta(hours=24)  # how long it is worth trying


@dataclass(frozen=True, slots=True)
class SmsRow:
    """An outbox row of an SMS, as far as deciding needs it. `phone` is its recipient, `number` ours."""

    id: int
    ticket: int | None
    entry: int | None
    kind: NoticeKind
    phone: str
    account: int | None
    state: OutboxState
    created: datetime
    number: str = ""
    attempts: int = 0
    resends: int = 0
    status: str = ""
    provider_id: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class UndeliveredFacts:
    """What is known about who should have got it. `mail` is where a person outside can be written to, "" nowhere;
    `known` has the phone's owner, the ticket, the accounts of its assignee and of the recipient, and the staff."""

    known: Facts
    mail: str = ""


class Then(StrEnum):
    """Who is told of an SMS that will not arrive."""

    MAIL = "mail"  # the recipient, by mail; without an address, whoever looks after the ticket
    PERSON = "person"  # whoever looks after the ticket
    ADMINISTRATOR = "administrator"


@dataclass(frozen=True, slots=True)
class What:
    """What a refusal leads to: sent again after each of these waits, then dead; what is noted on the address; who is
    told. `waits_for_a_person`: it stays in the queue, and its transport is stopped."""

    then: Then
    again: tuple[timedelta, ...] = ()
    address: str = ""  # the column that changes
    waits_for_a_person: bool = False


_MINUTE, _HOUR = timedelta(minutes=1), timedelta(hours=1)
ONCE_MORE = (15 * _MINUTE,)

WHAT_HAPPENS: Mapping[Refusal, What] = {
    Refusal.NUMBER: What(Then.MAIL, address="sms_ok"),
    Refusal.OPTED_OUT: What(Then.MAIL, address="opted_out"),
    Refusal.HANDSET: What(Then.MAIL, again=(5 * _MINUTE, 30 * _MINUTE, 2 * _HOUR)),
    Refusal.OVERLOAD: What(Then.MAIL, again=ONCE_MORE),
    Refusal.UNKNOWN: What(Then.MAIL, again=ONCE_MORE),
    Refusal.FILTERED: What(Then.PERSON),
    Refusal.CONFIG: What(Then.ADMINISTRATOR),
    Refusal.ACCOUNT: What(Then.ADMINISTRATOR, waits_for_a_person=True),
}
GIVEN_UP = What(Then.MAIL)  # it was tried until its time was over

# By mail only what makes sense there: a code proves that somebody has the phone, a menu is answered by SMS.
GOES_BY_MAIL = frozenset(
    {
        NoticeKind.ANSWER,
        NoticeKind.ACKNOWLEDGEMENT,
        NoticeKind.CLOSING,
        NoticeKind.NOTICE,
        NoticeKind.JOB,
        NoticeKind.ECHO,
        NoticeKind.ALARM,
    }
)

IN_WORDS: Mapping[Refusal | None, str] = {
    Refusal.NUMBER: "this number takes no SMS",
    Refusal.OPTED_OUT: "this number has opted out of SMS",
    Refusal.HANDSET: "the phone cannot be reached",
    Refusal.OVERLOAD: "the provider is overloaded",
    Refusal.UNKNOWN: "the provider does not say why",
    Refusal.FILTERED: "the network filtered it out",
    Refusal.CONFIG: "the provider refuses what we ask for",
    Refusal.ACCOUNT: "the provider refuses our account",
    None: "it was tried until its time was over",
}


# -- an SMS that did not arrive ----------------------------------------------------------------------------------


def time_to_live(account: int | None) -> timedelta:
    """How long an SMS is tried: to one of us half an hour, to a customer a day."""
    return FOR_CUSTOMERS if account is None else FOR_STAFF


def decide_undelivered(
    row: SmsRow, why: Refusal | None, code: str, words: str, facts: UndeliveredFacts, now: datetime, config: Config
) -> Decision:
    """What becomes of an SMS that was refused, or of which a receipt says that it did not arrive; `why` None: it was
    tried until its time was over."""
    what = GIVEN_UP if why is None else WHAT_HAPPENS[why]
    # Taken, charged, and only then refused because of our account: once more would be charged once more.
    charged = what.waits_for_a_person and row.state is not OutboxState.SENDING
    again_at = None if charged else _again_at(row, what, now)
    gives_up = again_at is None
    said = {"to": row.phone, "code": code, "why": why or "given-up", "words": words[:300]}
    event = NewEntry(Kind.EVENT, Channel.CLOCK, public=False, reason="sms-undelivered", data=said)
    told = _told(row, what.then, why, facts, config) if gives_up else ()
    alarms = _alarm(why, code, words, facts.known, now, config) if what.then is Then.ADMINISTRATOR else ()
    # A transport that is stopped stops every message: one alarm, not a line on every ticket.
    told_of = row.ticket is not None and (gives_up or not what.waits_for_a_person)
    return Decision(
        InboundState.DONE,
        "sms-undelivered",
        (Step("undelivered", f"{code or why or 'given up'}: {IN_WORDS[why]}", hit=True),),
        ticket=row.ticket if told_of else None,
        entries=(event,) if told_of else (),
        notices=(*told, *alarms),
        alarms=((alarm_of(row.number, config), f"SMS do not go out: {words}"[:300]),) if why is Refusal.ACCOUNT else (),
        address_changes=_address_changes(row, what, facts, now),
        outbox_changes={row.id: _row_changes(row, what, code, words or IN_WORDS[why], again_at, now)},
    )


def alarm_of(number: str, config: Config) -> str:
    """The name of the alarm about the account that one of our numbers belongs to."""
    way = config.way(number) or next(iter(config.sms), None)
    return f"sms:{way.number if way else number}"


def _again_at(row: SmsRow, what: What, now: datetime) -> datetime | None:
    """When it is sent again by itself; None: never."""
    if what.waits_for_a_person:
        return now + STOPPED if now < row.created + time_to_live(row.account) else None
    return now + what.again[row.resends] if row.resends < len(what.again) else None


def _row_changes(
    row: SmsRow, what: What, code: str, words: str, again_at: datetime | None, now: datetime
) -> dict[str, Any]:
    changes: dict[str, Any] = {"owner": "", "lease_until": None, "code": code, "result": words[:500]}
    if again_at is None:
        return changes | {"state": OutboxState.DEAD, "done_at": now}
    changes |= {"state": OutboxState.READY, "not_before": again_at, "done_at": None}
    if what.waits_for_a_person and row.state is OutboxState.SENDING:
        return changes | {"attempts": max(0, row.attempts - 1)}  # it was not even tried
    return changes | {"attempts": OLD_FAILURE, "resends": row.resends + 1}


def _address_changes(row: SmsRow, what: What, facts: UndeliveredFacts, now: datetime) -> dict[str, Mapping[str, Any]]:
    if what.address == "sms_ok":
        return {row.phone: {"sms_ok": False}}
    if what.address == "opted_out" and not facts.known.sender.opted_out:  # the first day stands on the page
        return {row.phone: {"opted_out": True, "opted_out_at": now}}
    return {}


# -- who is told -------------------------------------------------------------------------------------------------


def _told(row: SmsRow, then: Then, why: Refusal | None, facts: UndeliveredFacts, config: Config) -> tuple[Notice, ...]:
    """The message by mail; where there is no address, or another SMS would fare no better, whoever looks after the
    ticket is told of an answer that did not arrive."""
    address = _mail_of(row, facts)
    by_mail = row.account is not None or then is Then.MAIL
    if by_mail and address and row.kind in GOES_BY_MAIL:
        data = {**row.data, "entry": row.entry}
        return (Notice(row.kind, Medium.MAIL, address, f"fallback:{row.id}", account=row.account, data=data),)
    ticket = facts.known.tickets.get(row.ticket or 0)
    if row.account is not None or row.kind is not NoticeKind.ANSWER or ticket is None:
        return ()
    no_mail = " There is no mail address to write to instead." if then is Then.MAIL else ""
    words = {"words": f"The SMS to {row.phone} did not arrive: {IN_WORDS[why]}.{no_mail}"}
    told = notices.to_assignee(ticket, facts.known, 0, None, config)
    return tuple(replace(notice, data={**notice.data, **words}) for notice in told)


def _mail_of(row: SmsRow, facts: UndeliveredFacts) -> str:
    if row.account is None:
        return facts.mail
    account = facts.known.accounts.get(row.account)
    return account.address if account and account.active and not account.bounced else ""


def _alarm(
    why: Refusal | None, code: str, words: str, known: Facts, now: datetime, config: Config
) -> tuple[Notice, ...]:
    """To the administrators, once a day for each reason."""
    said = {"words": f"SMS do not go out: {IN_WORDS[why]} ({code or 'no code'}: {words[:300]})."}
    key = f"alarm:sms:{why}:{code}:{now:%Y-%m-%d}"
    found = [account for account in known.staff if _is_administrator(account)]
    if not found:
        return (Notice(NoticeKind.ALARM, Medium.MAIL, config.firm.administrator, key, data=said),)
    return tuple(
        Notice(NoticeKind.ALARM, Medium.MAIL, a.address, f"{key}:{a.address}", account=a.id, data=said) for a in found
    )


def _is_administrator(account: Account) -> bool:
    return Role.ADMINISTRATOR in account.roles and account.active and not account.bounced


# -- receipts ----------------------------------------------------------------------------------------------------

# Receipts come in any order: the highest rank is shown, and of one rank the later in the provider's own order.
RANK: Mapping[Delivery, int] = {
    Delivery.ACCEPTED: 1,
    Delivery.QUEUED: 1,
    Delivery.SCHEDULED: 1,
    Delivery.SENDING: 2,
    Delivery.SENT: 3,
    Delivery.UNDELIVERED: 9,
    Delivery.FAILED: 9,
    Delivery.CANCELED: 9,
    Delivery.DELIVERED: 9,
    Delivery.READ: 9,
}
FINAL = 9
# A final word stands, except that it has arrived after all.
OVERRULES: Mapping[Delivery, frozenset[Delivery]] = {
    Delivery.DELIVERED: frozenset({Delivery.UNDELIVERED, Delivery.FAILED}),
    Delivery.READ: frozenset({Delivery.UNDELIVERED, Delivery.FAILED, Delivery.DELIVERED}),
}
ARRIVED = frozenset({Delivery.DELIVERED, Delivery.READ})
ON_ITS_WAY = frozenset({OutboxState.SENDING, OutboxState.UNCERTAIN})
_ORDER = tuple(Delivery)


def shown_status(current: str, new: Delivery) -> str:
    """What is shown after one more receipt; `current` "" before the first."""
    if new not in RANK:
        return current
    if not current:
        return new
    old = Delivery(current)
    if RANK[old] == FINAL:
        return new if old in OVERRULES.get(new, ()) else old
    return max(old, new, key=lambda status: (RANK[status], _ORDER.index(status)))


def is_of_earlier_attempt(receipt: Receipt, row: SmsRow) -> bool:
    """Is it about an attempt that another one has followed, or will follow? Its id tells."""
    if not row.provider_id:
        return False
    same = receipt.id == row.provider_id
    return same if row.state in ON_ITS_WAY | {OutboxState.READY} else not same


def status_after(receipt: Receipt, row: SmsRow) -> str:
    """What is shown of a row after a receipt. The first word about a new attempt replaces the end of the old one."""
    if is_of_earlier_attempt(receipt, row):
        return shown_status(row.status, receipt.status) if receipt.status in ARRIVED else row.status
    return shown_status("" if row.state in ON_ITS_WAY else row.status, receipt.status)


def decide_receipt(
    receipt: Receipt, row: SmsRow | None, facts: UndeliveredFacts | None, now: datetime, config: Config
) -> Decision:
    """What a receipt changes. `facts` are those of the row, None without one."""
    step = Step("receipt", f"{receipt.status} {receipt.code}".strip(), hit=True)
    if row is None or facts is None:
        return Decision(InboundState.DONE, "receipt-unmatched", (step,))
    results = ((row.id, receipt),)
    earlier = is_of_earlier_attempt(receipt, row)
    failed = receipt.status in (Delivery.FAILED, Delivery.UNDELIVERED)
    if failed and not earlier and _is_news(receipt, row):
        why = receipt.why or Refusal.UNKNOWN
        bad = decide_undelivered(row, why, receipt.code, receipt.words, facts, now, config)
        return replace(bad, reason="receipt", trace=(step, *bad.trace), results=results)
    changes = {row.id: _settled(receipt, now)} if _settles(receipt, row, earlier) else {}
    return Decision(InboundState.DONE, "receipt", (step,), outbox_changes=changes, results=results)


def _settles(receipt: Receipt, row: SmsRow, earlier: bool) -> bool:
    """Does it show that the provider took a message that we thought was not sent, or not surely?"""
    if receipt.status not in RANK or row.state in (OutboxState.SENT, OutboxState.CANCELLED):
        return False
    if receipt.status in ARRIVED:
        return row.state is not OutboxState.HELD or bool(row.provider_id)  # put off, and had arrived after all
    if row.state is OutboxState.HELD:
        return False
    given_up = row.state is OutboxState.DEAD and row.status and RANK[Delivery(row.status)] == FINAL
    return not earlier and not given_up


def _is_news(receipt: Receipt, row: SmsRow) -> bool:
    """A second failed, or one after it was delivered, changes nothing."""
    return row.state not in (OutboxState.DEAD, OutboxState.CANCELLED) and (
        row.state in ON_ITS_WAY or status_after(receipt, row) != row.status
    )


def _settled(receipt: Receipt, now: datetime) -> dict[str, Any]:
    words = receipt.words or f"the provider says: {receipt.status}"
    return {"state": OutboxState.SENT, "result": words[:500], "done_at": now, "owner": "", "lease_until": None}
