"""What is sent because of a decision: one function a kind, each with its idempotency key (DESIGN.md 3)."""

from __future__ import annotations

from datetime import timedelta

from gateway.values import Account, Facts, Medium, Notice, NoticeKind, TicketFacts

LATER = timedelta(days=3650)  # nothing is due: such tickets stand at the end of the list


def acknowledgement(address: str, entry: int) -> Notice:
    """ "We have it, #1001": once a ticket."""
    return Notice(NoticeKind.ACKNOWLEDGEMENT, Medium.MAIL, address, "ack:{ticket}", entry)


def answer(ticket: TicketFacts, entry: int, hold_seconds: float) -> Notice:
    """An answer to the requester, held so that it can be taken back."""
    address = ticket.requester_address
    return Notice(NoticeKind.ANSWER, Medium.MAIL, address, f"out:{{entry}}:{address}", entry, hold_seconds=hold_seconds)


def notice(account: Account, entry: int) -> Notice:
    """ "Something came in", to one of us."""
    key = f"out:{{entry}}:{account.address}"
    return Notice(NoticeKind.NOTICE, Medium.MAIL, account.address, key, entry, account=account.id)


def to_assignee(ticket: TicketFacts | None, facts: Facts, entry: int, but: int | None) -> tuple[Notice, ...]:
    """To the assignee, else to everybody who looks after what nobody owns; `but` is the one who did it himself.

    An address from which mail came back gets none: its bounce would make the next notice.
    """
    assignee = facts.accounts.get(ticket.assignee or 0) if ticket else None
    told = (assignee,) if assignee and assignee.active and not assignee.bounced else facts.staff
    return tuple(notice(account, entry) for account in told if account.id != but and not account.bounced)


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
