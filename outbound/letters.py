"""From what the database knows of a claimed row to the `Letter` that is rendered. Pure but for the reading of files."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import Literal

from gateway import blobs
from gateway.config import Config
from gateway.values import FilePart, Medium, NoticeKind, Outgoing, Role
from outbound.render import Enclosure, Letter
from outbound.texts import say


@dataclass(frozen=True, slots=True)
class Background:
    """What stands behind an outbox row. Ids are Message-IDs without brackets, oldest first.

    `theirs` are the mails the recipient wrote on this ticket, `ours` those we sent him.
    """

    number: int = 0
    last_entry: int = 0
    inbox: str = ""
    ticket_subject: str = ""
    subject: str = ""
    text: str = ""
    author: str = ""
    answered_subject: str = ""
    answered_text: str = ""
    answered_author: str = ""
    answered_at: datetime | None = None
    files: tuple[FilePart, ...] = ()
    recipient_name: str = ""
    address_id: int = 0
    roles: frozenset[Role] = frozenset()
    generation: int = 0
    theirs: tuple[str, ...] = ()
    ours: tuple[str, ...] = ()


def compose(outgoing: Outgoing, behind: Background, config: Config) -> Letter:
    """The letter of one outbox row."""
    answers = outgoing.kind is NoticeKind.ANSWER
    outgoing = _in_words(outgoing, behind, config)
    chain = (*behind.theirs, *behind.ours) if outgoing.account is None else behind.ours
    return Letter(
        outgoing=outgoing,
        text=behind.text,
        number=behind.number,
        entry=outgoing.entry or behind.last_entry,
        inbox=behind.inbox,
        ticket_subject=behind.ticket_subject,
        entry_subject=(behind.answered_subject or behind.subject) if answers else behind.subject,
        recipient_name=behind.recipient_name,
        author_name=behind.author,
        quoted=behind.answered_text if answers else "",
        quoted_author=behind.answered_author,
        quoted_at=behind.answered_at,
        files=tuple(Enclosure(part, partial(blobs.get, config.folder / "blobs", part.sha256)) for part in behind.files),
        in_reply_to=_last(behind, outgoing),
        references=chain,
        reply_means=_reply_means(behind, outgoing, config),
        who=outgoing.account or behind.address_id,
        generation=behind.generation,
    )


def _in_words(outgoing: Outgoing, behind: Background, config: Config) -> Outgoing:
    """A mail says in words what a decision named for a phone; "news" are the entry itself."""
    name = outgoing.data.get("say")
    if outgoing.medium is not Medium.MAIL or not name or name == "news":
        return outgoing
    data = {"number": behind.number, "subject": behind.ticket_subject, **outgoing.data}
    return replace(outgoing, data={**data, "words": say(data, config.firm.name, one_segment=False)})


def _last(behind: Background, outgoing: Outgoing) -> str:
    """The last mail of the recipient; one of us has only what we sent him."""
    mine = behind.theirs if outgoing.account is None and behind.theirs else behind.ours
    return mine[-1] if mine else ""


def _reply_means(behind: Background, outgoing: Outgoing, config: Config) -> Literal["", "answer", "note"]:
    if outgoing.account is None:
        return ""
    office = behind.roles & {Role.AGENT, Role.ADMINISTRATOR, Role.SUPERVISOR}
    field = Role.TECHNICIAN in behind.roles and not office
    return config.mail.reply_of_technicians if field else config.mail.reply_of_agents
