"""What is sent because of a decision: one function a kind, each with its idempotency key (DESIGN.md 3).

One of us who only works in the field, and has enrolled a phone, gets SMS; everybody else of us gets mail. A customer is
written to as he last wrote, where that is wanted and possible.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, time, timedelta
from typing import Any, Protocol
from zoneinfo import ZoneInfo

from gateway.config import Config, SmsNumber
from gateway.values import (
    Account,
    Ask,
    Medium,
    Notice,
    NoticeKind,
    QuestionKind,
    Reach,
    Role,
    TicketFacts,
)

JOB_OFFERED = timedelta(hours=12)  # as long as a bare "ok" takes it


class Staff(Protocol):
    """What facts say of us."""

    @property
    def accounts(self) -> Mapping[int, Account]: ...
    @property
    def staff(self) -> tuple[Account, ...]: ...


# -- to a customer -----------------------------------------------------------------------------------------------


def acknowledgement(address: str, entry: int) -> Notice:
    """ "We have it, #1001": once a ticket."""
    return Notice(NoticeKind.ACKNOWLEDGEMENT, Medium.MAIL, address, "ack:{ticket}", entry)


MOST_SMS = 1600  # characters, as providers take them


def goes_by_sms(text: str, files: bool) -> bool:
    """Can these words be an SMS?"""
    return not files and len(text.strip()) <= MOST_SMS


def reach_of(ticket: TicketFacts, config: Config, by: Medium | None = None, short: bool = True) -> Reach | None:
    """How the requester is written to: by the medium asked for, else as he last wrote where that is possible; what is
    not `short` by mail."""
    ways = [reach for reach in ticket.reach if by in (None, reach.medium)]
    ways = [reach for reach in ways if short or reach.medium is not Medium.SMS]
    ways = [reach for reach in ways if reach.medium is not Medium.SMS or config.way_of(ticket.inbox)]
    return next((reach for reach in ways if reach.usable), None)


def to_customer(
    kind: NoticeKind,
    ticket: TicketFacts,
    entry: int,
    config: Config,
    hold_seconds: float,
    by: Medium | None = None,
    data: Mapping[str, Any] | None = None,
    short: bool = True,
) -> Notice | None:
    """A message to the requester, held so that it can be taken back. None when nothing reaches him."""
    reach = reach_of(ticket, config, by, short)
    if reach is None:
        return None
    way = config.way_of(ticket.inbox)
    return Notice(
        kind,
        reach.medium,
        reach.address,
        f"out:{{entry}}:{reach.address}",
        entry,
        hold_seconds=hold_seconds,
        numbers=way.numbers if way and reach.medium is Medium.SMS else (),
        data=data or {},
    )


def quiet_seconds(now: datetime, time_zone: str, way: SmsNumber, config: Config) -> float:
    """How long an SMS that nobody waits for has to wait for the morning, 0 by day. The zone is the recipient's."""
    zone = ZoneInfo(time_zone or config.firm.time_zone)
    local = now.astimezone(zone)
    begin, end = time.fromisoformat(way.quiet_from), time.fromisoformat(way.quiet_until)
    at = local.time()
    quiet = begin <= at or at < end if begin > end else begin <= at < end
    if not quiet:
        return 0.0
    morning = datetime.combine(local.date(), end, zone)
    if morning <= local:
        morning = datetime.combine(local.date() + timedelta(days=1), end, zone)
    return (morning.astimezone(UTC) - now).total_seconds()  # in UTC: a night may have an hour more or less


# -- to one of us ------------------------------------------------------------------------------------------------


def works_outside(account: Account) -> bool:
    """A technician without a desk in the office: a job is offered to him, and he takes it."""
    office = account.roles & {Role.AGENT, Role.ADMINISTRATOR, Role.SUPERVISOR}
    return Role.TECHNICIAN in account.roles and not office


def in_the_field(account: Account) -> bool:
    """Does SMS reach him where mail does not: he works outside, and has enrolled a phone?"""
    return bool(account.phone) and works_outside(account)


def notice(account: Account, entry: int, config: Config, data: Mapping[str, Any] | None = None) -> Notice:
    """ "Something came in", to one of us."""
    if in_the_field(account) and config.sms:
        return Notice(
            NoticeKind.NOTICE,
            Medium.SMS,
            account.phone,
            f"out:{{entry}}:{account.phone}",
            entry,
            account=account.id,
            numbers=(config.sms[0].number,),
            data={"say": "news", **(data or {})},
        )
    key = f"out:{{entry}}:{account.address}"
    return Notice(NoticeKind.NOTICE, Medium.MAIL, account.address, key, entry, account=account.id, data=data or {})


def to_assignee(
    ticket: TicketFacts | None, facts: Staff, entry: int, but: int | None, config: Config
) -> tuple[Notice, ...]:
    """To the assignee, else to everybody who looks after what nobody owns; `but` is the one who did it himself.

    An address from which mail came back gets none: its bounce would make the next notice.
    """
    assignee = facts.accounts.get(ticket.assignee or 0) if ticket else None
    reachable = assignee is not None and (not assignee.bounced or in_the_field(assignee))
    told = (assignee,) if assignee and assignee.active and reachable else facts.staff
    return tuple(
        notice(account, entry, config)
        for account in told
        if account.id != but and (not account.bounced or in_the_field(account))
    )


def job(
    account: Account, ticket: TicketFacts, entry: int, by: str, now: datetime, config: Config
) -> tuple[Notice, Ask]:
    """A job is given to somebody: by SMS with its code where he is in the field, else by mail; "ok" takes it."""
    by_sms = in_the_field(account) and bool(config.sms)
    number = config.sms[0].number if by_sms else ""
    address = account.phone if by_sms else account.address
    ask = Ask(number, address, QuestionKind.JOB, now + JOB_OFFERED, (ticket.number,))
    if not by_sms:
        words = _job_in_words(ticket, by) if works_outside(account) else f"{by} gave this to you."
        return notice(account, entry, config, {"words": words, "newest": True}), ask
    told = Notice(
        NoticeKind.JOB,
        Medium.SMS,
        address,
        f"out:{{entry}}:{address}",
        entry,
        account=account.id,
        numbers=(number,),
        data={"say": "job", "subject": ticket.subject, "number": ticket.number},
    )
    return told, ask


def _job_in_words(ticket: TicketFacts, by: str) -> str:
    """What a job's mail says before the customer's own words: who, and what can be answered."""
    who = ", ".join(reach.address for reach in ticket.reach) or "no address is known"
    return (
        f"{by} gives you this job. The customer: {who}\n\n"
        "Answer with one of these as the first line: TAKE, DROP, ETA 40m, HERE, NOTE: text, HOLD 2d, REPLY: text to "
        "the customer, DONE: what was done. UNDO takes it back within ten minutes."
    )


def echo(account: Account, entry: int, words: str) -> Notice:
    """ "This is what I did with your message": to the address on file, never to From."""
    return Notice(
        NoticeKind.ECHO,
        Medium.MAIL,
        account.address,
        "echo:{inbound}",
        entry,
        account=account.id,
        data={"words": words},
    )
