"""What becomes of a received message: the checks in their order, each a function that decides or passes on.

Rules are those of specs/email.md: 6 duplicates, 7 loops, 14 machines, 15-17 matching, 18-20 senders, 21-22 limits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta

from gateway import addresses, commands, matching
from gateway.addresses import Keys
from gateway.config import Config, Inbox
from gateway.decide import field, notices
from gateway.decide.pieces import answer_by, answered, reopened
from gateway.matching import Match, Relation
from gateway.values import (
    Account,
    Channel,
    Clues,
    ContactKind,
    Count,
    Decision,
    Envelope,
    Facts,
    InboundMessage,
    InboundState,
    Kind,
    MessageClass,
    NewContact,
    NewEntry,
    NewTicket,
    Notice,
    NoticeKind,
    Proof,
    Purpose,
    Role,
    Step,
    TicketFacts,
    Token,
)

STAFF_TOKEN_LIFE = timedelta(days=30)
MAX_PARTICIPANTS = 40
PING_PONG = 3  # the same mail again and again within ten minutes becomes one ticket
UNANSWERED_CLASSES = frozenset({MessageClass.DELAYED, MessageClass.DELIVERED})
BOUNCES = frozenset({MessageClass.BOUNCE_HARD, MessageClass.BOUNCE_SOFT, *UNANSWERED_CLASSES, MessageClass.COMPLAINT})
ROBOTS = frozenset(
    {MessageClass.AUTO_REPLY, MessageClass.OUT_OF_OFFICE, MessageClass.CHALLENGE, MessageClass.UNKNOWN_MACHINE}
)


@dataclass(frozen=True, slots=True)
class Case:
    """Everything there is to decide on; `steps` is the trace so far."""

    message: InboundMessage
    envelope: Envelope
    clues: Clues
    facts: Facts
    proof: Proof
    config: Config
    keys: Keys
    inbox: Inbox
    match: Match
    steps: tuple[Step, ...]

    @property
    def sender(self) -> str:
        return self.message.sender.address

    @property
    def staff(self) -> Account | None:
        """The sender, when one of us; a doubtful From is never staff."""
        account = self.facts.sender.account
        return account if account and account.active and not self.message.sender_is_doubtful else None

    def step(self, name: str, found: str) -> tuple[Step, ...]:
        return (*self.steps, Step(name, found, hit=True))


def decide_message(
    message: InboundMessage, envelope: Envelope, clues: Clues, facts: Facts, proof: Proof, config: Config, keys: Keys
) -> Decision:
    """The one decision about a received message."""
    proved = proof is Proof.PASSED or (facts.ruling is not None and facts.ruling.word == "release")
    match = matching.choose(message, clues, facts, proved, config, keys)
    inbox = config.inbox(clues.inbox) or config.inboxes[0]
    case = Case(message, envelope, clues, facts, proof, config, keys, inbox, match, _first_steps(message, match, facts))
    decision = next((found for check in CHECKS if (found := check(case)) is not None), None) or _person(case)
    if facts.ruling and facts.ruling.word == "allow" and case.sender:
        return replace(decision, blocks=((case.sender, False),))
    return decision


def _first_steps(message: InboundMessage, match: Match, facts: Facts) -> tuple[Step, ...]:
    who = facts.sender.name or message.sender.address or "nobody"
    known = "one of us" if facts.sender.account else "known" if facts.sender.contact else "not known yet"
    steps = [Step("sender", f"{who}, {known}"), Step("class", " ".join((message.category, *message.evidence)))]
    steps += [Step(source, f"names {ticket}") for source, ticket in match.looked[:10]]
    return (*message.steps, *steps)


# -- the checks, in order ----------------------------------------------------------------------------------------


def _filed(case: Case) -> Decision | None:
    """Somebody said that nobody needs it: it stays in the mailroom's list of everything."""
    if _ruled(case) != "file":
        return None
    return Decision(InboundState.DONE, "filed-away", case.step("ruling", "not needed"))


def _duplicate(case: Case) -> Decision | None:
    """Rule 6: the same Message-ID and the same content came before."""
    for twin in case.facts.twins:
        if twin.content_hash == case.message.content_hash:
            steps = case.step("duplicate", f"the same mail came before (mailroom {twin.inbound})")
            return Decision(InboundState.DUPLICATE, "duplicate", steps, ticket=twin.ticket)
    return None


def _loop(case: Case) -> Decision | None:
    """Rule 7: our own mail comes back."""
    token = addresses.read_token(case.message.loop_token)
    signed = token is not None and token.purpose is Purpose.LOOP and addresses.genuine(case.keys, token)
    if signed or matching.own_message_id(case.message.message_id, case.config, case.keys):
        return Decision(InboundState.LOOP, "own-mail", case.step("loop", "we sent this mail ourselves"))
    return None


def _blocked(case: Case) -> Decision | None:
    if case.facts.blocked and not case.facts.allowed and case.staff is None and _ruled(case) is None:
        return _park(case, "blocked-sender", f"refused: {case.facts.blocked}")
    return None


def _unverified(case: Case) -> Decision | None:
    """Rules 18, 19: a trusted dmarc=fail, or one of our own addresses without a proof, waits for a person."""
    if _ruled(case):
        return None
    if case.proof is Proof.FAILED:
        return _park(case, "unverified-sender", "our mail server says that the sender is forged (dmarc=fail)")
    if case.staff and case.proof is not Proof.PASSED and case.message.category not in BOUNCES | ROBOTS:
        return _park(case, "unverified-sender", f"nothing proves that {case.staff.name} wrote this")
    token = case.match.token
    if token and token.purpose in addresses.STAFF and case.match.relation in (Relation.STRANGER, Relation.COLLEAGUE):
        return _park(case, "unverified-sender", "the reply address was made for one of us, and somebody else uses it")
    return None


def _bounce(case: Case) -> Decision | None:
    """Rule 14: what came back from a machine that could not, or could, deliver."""
    if case.message.category not in BOUNCES or _ruled(case):
        return None
    ticket = _bounced_ticket(case)
    if ticket is None:
        return _park(case, "bounce-unmatched", "a delivery report about a mail that none of our tickets knows")
    hard = case.message.category is MessageClass.BOUNCE_HARD
    entry = _entry(case, Kind.AUTOMATIC, str(case.message.category))
    decision = Decision(
        InboundState.DONE,
        str(case.message.category),
        case.step("report", " ".join(case.message.evidence)),
        ticket=ticket.number,
        entries=(entry,),
    )
    if case.message.category is MessageClass.COMPLAINT:
        return replace(decision, address_changes={ticket.requester_address: {"opted_out": True}})
    if not hard:
        return decision
    failed = {id: recipient for id, (_, recipient, _) in case.facts.outbox.items()}
    # Of one of us who cannot be reached nobody is told by mail: it would come back, be told, and so on.
    theirs = not failed or any(account is None for _, _, account in case.facts.outbox.values())
    return replace(
        decision,
        changes=reopened(ticket, case.facts.now, case.config) | {"unread": True} if theirs else {},
        notices=_tell_staff(case, ticket) if theirs else (),
        address_changes={recipient: {"bounced": True} for recipient in failed.values()},
        outbox_changes={
            id: {"state": "dead", "result": "came back: " + " ".join(case.message.evidence)} for id in failed
        },
    )


def _bounced_ticket(case: Case) -> TicketFacts | None:
    """Only a signed address or a signed id names the ticket of a bounce: anybody can forge one."""
    for source, token in case.clues.tokens:
        if token.purpose is Purpose.BOUNCE or source in ("message-id", "reply-token"):
            if token.purpose in addresses.STAFF:
                continue
            if found := case.facts.tickets.get(token.number):
                return found
    return None


def _robot(case: Case) -> Decision | None:
    """Rule 14: a vacation or another machine changes nothing; it is filed, folded, with the ticket it answers."""
    if case.message.category not in ROBOTS or _ruled(case):
        return None
    if case.match.ticket is None:
        return _park(case, "automatic-unmatched", "a machine wrote it, and it answers none of our mails")
    return Decision(
        InboundState.DONE,
        str(case.message.category),
        case.step(case.match.reason, f"filed with #{case.match.ticket.number}, nothing else changes"),
        ticket=case.match.ticket.number,
        entries=(_entry(case, Kind.AUTOMATIC, case.match.reason),),
    )


def _nameless(case: Case) -> Decision | None:
    if case.message.author.address or _ruled(case):
        return None
    return _park(case, "needs-sorting", f"no usable From; {case.sender or 'nobody'} handed it over")


def _ours(case: Case) -> Decision | None:
    """One of us writes: an answer or a note on the ticket his signed address names (DESIGN.md 5e)."""
    account = case.staff
    ticket = case.match.ticket if case.match.relation is Relation.OURS else None
    if account is None:
        return None
    if ticket and case.match.token and not _released(case) and _too_old(case.match.token, case):
        return _park(case, "unverified-sender", "the reply address is older than 30 days")
    if (ordered := _command(case, account, ticket)) is not None:
        return ordered
    if ticket is None:
        return None
    if _means_answer(case, account):
        return _staff_answer(case, account, ticket)
    return _staff_note(case, account, ticket)


def _command(case: Case, account: Account, ticket: TicketFacts | None) -> Decision | None:
    """The first line of a mail with proof, read as a command; what is left of an answer still goes to the customer."""
    known = case.facts.orders
    if known is None or _ruled(case) in ("ticket", "new") or not (case.proof is Proof.PASSED or _released(case)):
        return None
    found = commands.read_mail(case.message.text, (account.name,))
    if found is None:
        return None
    said, rest = found
    assert said.verb is not None, "a command has a verb"
    answers = ticket is not None and _means_answer(case, account)
    if answers and not (commands.VERBS[said.verb].strong or said.number):
        return None  # "Here." to a customer is an answer
    remark = rest if rest and not answers and not said.text else ""
    order = field.Order(
        said=replace(said, text=remark) if remark else said,
        text=commands.without_pin(case.message.text.strip().splitlines()[0]),
        account=account,
        channel=Channel.MAIL,
        facts=known,
        config=case.config,
        default=ticket.number if ticket else None,
        files=() if answers else case.message.files,
        message_ids=(case.message.message_id,),
        steps=case.steps,
    )
    ordered = replace(field.by_mail(order), address_changes=_reachable_again(case))
    if not (rest and answers and ticket):
        return ordered
    answer = _staff_answer(replace(case, message=replace(case.message, text=rest)), account, ticket)
    return _both(ordered, answer, field.executes(said, ordered))


def _released(case: Case) -> bool:
    return case.facts.ruling is not None and case.facts.ruling.word == "release"


def _both(ordered: Decision, answer: Decision, executed: bool) -> Decision:
    """A command and an answer in one mail: written once, each sent once, one echo. How the ticket stands afterwards is
    said by the command where it says anything."""
    told = tuple(notice for notice in answer.notices if notice.kind is NoticeKind.ANSWER)
    if not executed:
        return replace(answer, notices=(*answer.notices, *_beside(ordered.notices)))
    if ordered.ticket != answer.ticket:
        return replace(ordered, also=(replace(answer, notices=told),))
    behind = len(ordered.entries)
    return replace(
        ordered,
        entries=(*ordered.entries, *answer.entries),
        changes={**answer.changes, **ordered.changes},
        notices=(*ordered.notices, *(replace(notice, entry=behind) for notice in told)),
    )


def _beside(told: tuple[Notice, ...]) -> tuple[Notice, ...]:
    """Why the command was not carried out, beside the echo of the answer."""
    return tuple(replace(notice, key=f"{notice.key}:command", entry=None) for notice in told)


CHECKS: tuple[Callable[[Case], Decision | None], ...] = (
    _filed,
    _duplicate,
    _loop,
    _blocked,
    _unverified,
    _bounce,
    _robot,
    _nameless,
    _ours,
)


# -- one of us ---------------------------------------------------------------------------------------------------


def _too_old(token: Token, case: Case) -> bool:
    if token.purpose not in addresses.STAFF:
        return False
    at = case.facts.entry_times.get(token.entry)
    return at is None or case.facts.now - at > STAFF_TOKEN_LIFE


def _means_answer(case: Case, account: Account) -> bool:
    token = case.match.token
    if token and token.purpose in addresses.STAFF:
        return token.purpose is Purpose.STAFF_ANSWER and token.who == account.id
    if case.match.reason not in matching.SIGNED:
        return False  # he names the ticket, he does not answer a notice of ours
    field = account.roles & {Role.TECHNICIAN} and not account.roles & {Role.AGENT, Role.ADMINISTRATOR}
    mail = case.config.mail
    return (mail.reply_of_technicians if field else mail.reply_of_agents) == "answer"


def _staff_answer(case: Case, account: Account, ticket: TicketFacts) -> Decision:
    hold = case.config.undo.staff_mail
    short = notices.goes_by_sms(case.message.text, bool(case.message.files))
    answer = notices.to_customer(NoticeKind.ANSWER, ticket, 0, case.config, hold, short=short)
    words = f"Nothing reaches the customer of #{ticket.number}: your answer stands on the ticket and was not sent."
    if answer:
        words = f"Your answer to {answer.recipient} goes out in {hold:.0f} s. To take it back, open the ticket."
    echo = notices.echo(account, 0, words)
    return Decision(
        InboundState.DONE,
        case.match.reason,
        case.step(case.match.reason, f"{account.name} answers #{ticket.number}"),
        ticket=ticket.number,
        entries=(replace(_entry(case, Kind.ANSWER, case.match.reason), account=account.id),),
        changes=answered(case.facts.now) | ({} if ticket.assignee else {"assignee": account.id}),
        address_changes=_reachable_again(case),
        notices=tuple(n for n in (answer, echo) if n),
    )


def _staff_note(case: Case, account: Account, ticket: TicketFacts) -> Decision:
    entry = replace(_entry(case, Kind.NOTE, case.match.reason), account=account.id, public=False)
    echo = notices.echo(account, 0, f"Your note is on #{ticket.number}. The customer does not see it.")
    return Decision(
        InboundState.DONE,
        case.match.reason,
        case.step(case.match.reason, f"{account.name} leaves a note on #{ticket.number}"),
        ticket=ticket.number,
        entries=(entry,),
        notices=(echo, *notices.to_assignee(ticket, case.facts, 0, but=account.id, config=case.config)),
        address_changes=_reachable_again(case),
    )


# -- a person outside --------------------------------------------------------------------------------------------


def _person(case: Case) -> Decision:
    """Somebody wrote: on his ticket, or a new one."""
    ruling = case.facts.ruling
    if ruling and ruling.word in ("ticket", "retry") and (named := case.facts.tickets.get(ruling.ticket or 0)):
        return _add(case, named, "ruling")
    if ruling and ruling.word == "new":
        return _open(case)
    if case.match.ticket is not None:
        return _add(case, case.match.ticket, case.match.reason)
    if len(case.facts.same_again) >= PING_PONG and (same := case.facts.tickets.get(case.facts.same_again[0])):
        return _add(case, same, "ping-pong")
    limit = case.config.limits.new_tickets_per_address_hour
    seen = case.facts.counts.get(("ticket", case.sender, "hour"), 0)
    if seen >= limit and not case.facts.allowed and ruling is None:
        return _park(case, "over-limit", f"{seen} new tickets from this sender within the hour")
    return _open(case)


def _add(case: Case, ticket: TicketFacts, reason: str) -> Decision:
    entry = _entry(case, Kind.MESSAGE, reason)
    words = f"goes to #{ticket.number}" + (", from another sender" if case.match.guest else "")
    steps = (*case.step(reason, words), *(Step("note", note) for note in case.match.notes))
    joins = not case.match.guest and case.match.relation in (Relation.HOLDER, Relation.PARTICIPANT)
    return Decision(
        InboundState.DONE,
        reason,
        steps,
        ticket=ticket.number,
        contact=_contact(case),
        entries=(replace(entry, data={**entry.data, "guest": True}) if case.match.guest else entry,),
        changes=reopened(ticket, case.facts.now, case.config) | {"unread": True},
        notices=_tell_staff(case, ticket),
        participants=_participants(case, ticket.participants) if joins else (),
        address_changes=_reachable_again(case),
    )


def _open(case: Case) -> Decision:
    acknowledge, why_not = may_acknowledge(case)
    linked = case.match.linked
    entry = _entry(case, Kind.MESSAGE, case.match.reason)
    opened = NewEntry(
        Kind.EVENT,
        Channel.MAIL,
        reason="opened",
        data={"acknowledged": acknowledge, "why_not": why_not} | ({"linked": linked} if linked else {}),
    )
    steps = [*case.step(case.match.reason, "new ticket" + (f", perhaps the same as #{linked}" if linked else ""))]
    steps.append(Step("acknowledgement", "sent" if acknowledge else f"none: {why_not}"))
    due = answer_by(case.inbox.address, case.facts.now, case.config)
    return Decision(
        InboundState.DONE,
        case.match.reason,
        tuple(steps),
        contact=_contact(case),
        new_ticket=NewTicket(
            inbox=case.inbox.address,
            subject=matching.TAG.sub("", case.message.subject).strip()[:300] or "(no subject)",
            requester_address=case.sender,
            kind=case.inbox.kind,
            team=case.inbox.team,
            acquisition=case.message.channel,
        ),
        entries=(entry, opened),
        changes={"due_at": due, "next_at": due},
        notices=((notices.acknowledgement(case.sender, 1),) if acknowledge else ()) + _tell_staff(case, None),
        participants=_participants(case, frozenset({case.sender})),
        address_changes=_reachable_again(case),
        counts=(Count("ticket", case.sender), *(_acknowledged(case.sender) if acknowledge else ())),
    )


def may_acknowledge(case: Case) -> tuple[bool, str]:
    """May we answer by ourselves, and if not, why not (rule 21)? The page shows the words."""
    message, facts, limits = case.message, case.facts, case.config.limits
    domain = addresses.domain_of(case.sender)

    def seen(subject: str, span: str) -> int:
        return facts.counts.get(("acknowledgement", subject, span), 0)

    reasons: tuple[tuple[bool, str], ...] = (
        (not case.config.mail.acknowledge, "switched off in the config"),
        (not case.sender, "no usable sender"),
        (bool(message.no_automatic_answer), message.no_automatic_answer),
        (message.category is not MessageClass.HUMAN, f"a machine wrote it ({message.category})"),
        (message.sender_is_doubtful, "the From line is doubtful"),
        (addresses.is_machine(case.sender), "nobody reads the sender's address"),
        (case.envelope.is_null, "null return path"),
        (case.config.inbox(addresses.without_plus(case.sender) or "-") is not None, "the sender is one of our inboxes"),
        (_came_round(case), "it was delivered to this address before: a loop"),
        (
            addresses.without_plus(message.reply_to) in {i.address for i in case.config.inboxes},
            "Reply-To is our own address",
        ),
        (facts.sender.bounced, "mail to this address came back"),
        (facts.sender.opted_out, "the address wants no mail"),
        (case.proof is Proof.FAILED, "unverified sender"),
        (_ruled(case) is not None, "it waited in the mailroom"),
        (seen(case.sender, "hour") >= limits.acknowledgements_per_address_hour, "this address got enough this hour"),
        (seen(case.sender, "day") >= limits.acknowledgements_per_address_day, "this address got enough today"),
        (seen(domain, "hour") >= limits.acknowledgements_per_domain_hour, "this domain got enough this hour"),
        (seen("*", "hour") >= limits.acknowledgements_per_hour, "enough acknowledgements this hour"),
    )
    why_not = next((words for applies, words in reasons if applies), "")
    return not why_not, why_not


def _came_round(case: Case) -> bool:
    """Our address in Delivered-To is a loop sign only where it equals this delivery's recipient (not for IMAP)."""
    if case.envelope.path not in ("smtp", "lmtp"):
        return False
    return bool(set(case.message.delivered_to) & {address.lower() for address in case.envelope.recipients})


def _acknowledged(sender: str) -> tuple[Count, ...]:
    return tuple(Count("acknowledgement", subject) for subject in (sender, addresses.domain_of(sender), "*"))


# -- pieces ------------------------------------------------------------------------------------------------------


def _ruled(case: Case) -> str | None:
    ruling = case.facts.ruling
    return ruling.word if ruling and ruling.word != "retry" else None


def _park(case: Case, reason: str, words: str) -> Decision:
    return Decision(InboundState.PARKED, reason, case.step("parked", words))


def _entry(case: Case, kind: Kind, reason: str) -> NewEntry:
    message = case.message
    notes = list(message.notes)
    if reason == "message-id-reused":
        notes.append("Another mail came with the same Message-ID.")
    unseen = [i for i in (*message.in_reply_to, *message.references) if i not in case.facts.known_ids]
    foreign = [i for i in unseen if not i.endswith("@" + case.config.mail.domain)]
    return NewEntry(
        kind=kind,
        channel=message.channel,
        author_name=message.sender.name or case.facts.sender.name,
        author_address=case.sender,
        reason=reason,
        subject=message.subject,
        text=message.text,
        quoted="\n".join(part for part in (message.quoted, message.signature) if part),
        html=message.html,
        files=message.files,
        message_ids=(message.message_id,),
        ancestors=tuple(dict.fromkeys(foreign))[-20:],
        data={"notes": notes} if notes else {},
    )


def _contact(case: Case) -> NewContact | None:
    """A person seen for the first time; a doubtful From makes nobody known."""
    if case.facts.sender.contact is not None or not case.sender or case.message.sender_is_doubtful:
        return None
    return NewContact(case.message.sender.name, case.sender, kind=ContactKind.CUSTOMER)


def _reachable_again(case: Case) -> dict[str, dict[str, object]]:
    """A person writes from it: mail to the address may be tried again (rule 14)."""
    return {case.sender: {"bounced": False}} if case.facts.sender.bounced else {}


def _participants(case: Case, known: frozenset[str]) -> tuple[tuple[str, str], ...]:
    """Rule 35: whom the mail names beside us, "seen in mail"."""
    ours = {inbox.address for inbox in case.config.inboxes}
    seen = [person.address for person in (*case.message.to, *case.message.cc)]
    fresh = [
        address
        for address in dict.fromkeys(seen)
        if address and address not in known and addresses.without_plus(address) not in ours
        and not addresses.is_machine(address)
    ]  # fmt: skip
    return tuple((address, "cc") for address in fresh[:MAX_PARTICIPANTS])


def _tell_staff(case: Case, ticket: TicketFacts | None) -> tuple[Notice, ...]:
    """The assignee, else everybody who looks after what nobody owns; never the writer himself."""
    return notices.to_assignee(ticket, case.facts, 0, but=case.staff.id if case.staff else None, config=case.config)
