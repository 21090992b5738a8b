"""Acts out `threading.toml`: each scenario on a database of its own, by the desk's own steps."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from gateway import addresses, store
from gateway.addresses import Key
from gateway.model import Address, Block, Contact, ContactAddress, insert, row, rows, update
from gateway.store import facts
from gateway.values import (
    Answer,
    Assign,
    Close,
    Envelope,
    InboundMessage,
    Medium,
    MessageClass,
    NamedAddress,
    Proof,
    Purpose,
)
from tests.conftest import ANN, BEN, DOMAIN, MAX, SALES, SUPPORT, DeskDb, Result, letter

ALL: list[dict[str, Any]] = tomllib.loads((Path(__file__).parent / "threading.toml").read_text("utf-8"))["scenario"]
LATER = [scenario for scenario in ALL if "later" in scenario]
NOW = [scenario for scenario in ALL if "later" not in scenario]

SUBJECT = "The boiler is cold"
ROOT = "an-id-nobody-here-has-seen@hillcrest.example"
FREE_ANN = NamedAddress("Ann Hill", "ann.hill@gmail.com")
PEOPLE = {
    "requester-second-address": NamedAddress("Ann Hill", "ann@at-home.example"),
    "requester-maybe-address": NamedAddress("Ann Hill", "ann@perhaps.example"),
    "cc": NamedAddress("Eve Cedar", "eve@cedarworks.example"),
    "colleague": BEN,
    "colleague-free-mail": NamedAddress("Bob", "bob@gmail.com"),
    "stranger": MAX,
    "token-holder": NamedAddress("Olga", "olga@old-firm.example"),
    "mailer-daemon": NamedAddress("Mail Delivery System", "mailer-daemon@mx.hillcrest.example"),
    "no-reply": NamedAddress("Shop", "no-reply@shop.example"),
    "own-inbox": NamedAddress("Support", SUPPORT),
}
STAFF = {"agent": "ada", "technician": "tom", "supervisor": "sue"}
PURPOSES = {
    "reply-token-staff-answer": Purpose.STAFF_ANSWER,
    "reply-token-staff-note": Purpose.STAFF_NOTE,
    "bounce-token": Purpose.BOUNCE,
}
CLASSES = {"list": MessageClass.BULK} | {str(c): c for c in MessageClass}


@dataclass(slots=True)
class Case:
    """A scenario with the tickets it needs."""

    scenario: dict[str, Any]
    desk: DeskDb
    requester: NamedAddress = ANN
    given: int = 0
    other: int = 0
    target: int = 0
    openings: dict[int, str] = field(default_factory=dict)  # ticket -> the Message-ID of its first mail

    @property
    def special(self) -> dict[str, Any]:
        return dict(self.scenario.get("with", {}))

    @property
    def sources(self) -> list[str]:
        said = self.scenario["source"]
        return [said] if isinstance(said, str) else list(said)

    @property
    def sender(self) -> NamedAddress:
        who = str(self.scenario["sender"])
        if who == "requester":
            return self.requester
        if staff := STAFF.get(who.partition("-")[0]):
            account = self.desk.people[staff]
            return NamedAddress(account.name, account.address)
        return PEOPLE[who]

    @property
    def proof(self) -> Proof:
        if said := self.special.get("dmarc"):
            return Proof.FAILED if said == "fail" else Proof.PASSED
        trusted = self.scenario["sender"].endswith("-with-proof") or self.special.get("trusted_path", False)
        return Proof.PASSED if trusted else Proof.NONE


# -- what is given -----------------------------------------------------------------------------------------------


def arrange(scenario: dict[str, Any], desk: DeskDb) -> Case:
    """Makes the tickets, by mails and clicks of the past."""
    given = scenario["given"]
    case = Case(scenario, desk, FREE_ANN if given.get("requester_at") == "free-mail" else ANN)
    closed = timedelta(days=given.get("closed_days", 0))
    case.given = open_ticket(case, SUBJECT, closed + timedelta(hours=4))
    if given.get("merged"):
        case.target = open_ticket(case, "No heating at all", timedelta(hours=5))
    if "other" in scenario:
        case.other = open_ticket(case, "An invoice is missing", timedelta(hours=5))
    bring_to(case, given["status"], closed)
    with store.writing():
        if case.target:
            update("ticket", "number", case.given, merged_into=case.target)
        contact = facts.person(case.requester.address).contact
        own_too(contact, PEOPLE["requester-second-address"].address)
        own_too(contact, PEOPLE["requester-maybe-address"].address, "maybe")
        own_too(insert(Contact, name="Olga", created_at=0), PEOPLE["token-holder"].address)
        for value in blocked(case):
            insert(Block, value=value, refused=True, at=0)
    for guest in given.get("guests", []):
        first = letter(PEOPLE[guest], "Re: " + SUBJECT, "I was given this address.")
        message = CLUES["reply-token"](case, first, case.given, {})
        came = desk.receive(message, at=desk.now - timedelta(hours=2))
        assert came.entries[0]["data"] == {"guest": True}
    return case


def open_ticket(case: Case, subject: str, ago: timedelta) -> int:
    on_it = case.scenario["given"].get("on_it", ["requester"])
    message = letter(
        case.requester,
        subject,
        f"{subject}, and I do not know why.",
        cc=tuple(PEOPLE[who] for who in on_it if who != "requester"),
        references=(ROOT,) if "ancestor" in case.sources else (),
    )
    opened = case.desk.receive(message, at=case.desk.now - ago)
    assert opened.ticket is not None
    case.openings[opened.ticket] = message.message_id
    if case.scenario["given"]["status"] != "new":
        ada = case.desk.people["ada"]
        case.desk.perform(Assign(opened.ticket, ada.id), ada, case.desk.now - ago + timedelta(minutes=1))
    return opened.ticket


def bring_to(case: Case, status: str, closed: timedelta) -> None:
    ada, at = case.desk.people["ada"], case.desk.now - closed
    if status == "waiting":
        case.desk.perform(Answer(case.given, "Have you tried the red switch?"), ada, at - timedelta(hours=1))
    if status == "closed":
        case.desk.perform(Close(case.given, "solved"), ada, at)
    assert case.desk.ticket(case.given)["status"] == status


def own_too(contact: int | None, address: str, certainty: str = "known") -> None:
    """One more address of somebody."""
    id = insert(Address, medium=Medium.MAIL, value=address)
    insert(ContactAddress, contact=contact, address=id, certainty=certainty)


def blocked(case: Case) -> list[str]:
    what = case.special.get("blocked")
    address = case.sender.address
    return {"address": [address], "domain": [addresses.domain_of(address)]}.get(str(what), [])


# -- the mail ----------------------------------------------------------------------------------------------------


def reply(case: Case, sender: NamedAddress, sources: list[str], special: dict[str, Any]) -> InboundMessage:
    """A mail from somebody that names the given ticket by these sources."""
    prefix = special.get("prefix", "Fwd: " if special.get("forward") else "Re: ")
    subject = special.get("subject", SUBJECT if sources == ["none"] else prefix + SUBJECT)
    message = letter(sender, subject, f"This is {sender.name} again.")
    for source in sources:
        message = CLUES[source](case, message, case.given, special)
    if other := case.scenario.get("other_source"):
        message = OTHER.get(other, CLUES.get(other, nothing))(case, message, case.other, {})
    return message


def token(case: Case, purpose: Purpose, ticket: int, special: dict[str, Any]) -> str:
    """The token a person was sent, or what a forger makes of it."""
    purpose = Purpose(special.get("purpose", purpose))
    keys = case.desk.keys
    if special.get("forged") == "key":
        keys = (Key(keys[-1].letter, b"another desk's key, 32 bytes long"),)
    entry = int(row("select min(id) from entry where ticket = ?", ticket)[0])
    who, generation = whose(case, purpose, ticket)
    text = addresses.sign(keys, purpose, ticket, entry, who, generation)
    if special.get("forged") == "mac":
        text = forged(text)
    if special.get("forged") == "number":
        text = text.replace(f".{ticket}.", f".{case.other}.", 1)
    return text


def forged(token: str) -> str:
    """The same token with another last letter, whatever it was."""
    return token[:-1] + ("a" if token[-1] != "a" else "b")


def whose(case: Case, purpose: Purpose, ticket: int) -> tuple[int, int]:
    """`who` of a token, and the generation of a staff account: the writer's own, for others Ada's."""
    if purpose in addresses.STAFF:
        account = case.desk.people[token_owner(case)]
        return account.id, account.generation
    if purpose is Purpose.BOUNCE:
        sent = row("select min(id) from outbox where ticket = ? and recipient = ?", ticket, case.requester.address)
        return int(sent[0]), 0
    if purpose is Purpose.CUSTOMER_REPLY:
        holder = case.sender if case.scenario["sender"] == "token-holder" else case.requester
        return facts.person(holder.address).address_id or 0, 0
    return 0, 0


def token_owner(case: Case) -> str:
    who = str(case.scenario["sender"]).partition("-")[0]
    return STAFF[who] if who in ("agent", "technician") else "ada"


Clue = Callable[[Case, InboundMessage, int, dict[str, Any]], InboundMessage]


def nothing(case: Case, message: InboundMessage, ticket: int, special: dict[str, Any]) -> InboundMessage:
    return message


def by_address(purpose: Purpose) -> Clue:
    def clue(case: Case, message: InboundMessage, ticket: int, special: dict[str, Any]) -> InboundMessage:
        address = f"support+{token(case, purpose, ticket, special)}@{DOMAIN}"
        where = special.get("token_in", "to")
        if where in ("delivered-to", "x-original-to", "x-forwarded-to"):
            return replace(message, delivered_to=(address,))
        if where == "envelope":
            return replace(message, notes=(f"envelope {address}",))
        people = (NamedAddress("Support", address),)
        return replace(message, cc=people) if where == "cc" else replace(message, to=people)

    return clue


def by_message_id(case: Case, message: InboundMessage, ticket: int, special: dict[str, Any]) -> InboundMessage:
    domain = "mail.elsewhere.example" if special.get("domain") == "other" else DOMAIN
    ours = f"{token(case, Purpose.MESSAGE_ID, ticket, special)}@{domain}"
    before = ("what-the-first-id-says@hillcrest.example",) if special.get("in_reply_to") == "second" else ()
    lost = ("made-up-by-the-mail-program@hillcrest.example",) if special.get("references") == "overwritten" else ()
    return replace(message, in_reply_to=(*message.in_reply_to, *before, ours), references=(*message.references, *lost))


def by_known_reference(case: Case, message: InboundMessage, ticket: int, special: dict[str, Any]) -> InboundMessage:
    known = case.openings[ticket]
    if special.get("references") == "first of 60":
        return replace(message, references=(known, *unknown_ids(59)))
    return replace(message, references=(*message.references, known))


def by_last_of_60(case: Case, message: InboundMessage, ticket: int, special: dict[str, Any]) -> InboundMessage:
    ours = f"{token(case, Purpose.MESSAGE_ID, ticket, special)}@{DOMAIN}"
    return replace(message, references=(*unknown_ids(59), ours))


def by_earlier_reference(case: Case, message: InboundMessage, ticket: int, special: dict[str, Any]) -> InboundMessage:
    return replace(message, references=(case.openings[ticket], *message.references))


def unknown_ids(count: int) -> list[str]:
    return [f"unknown-{n}@hillcrest.example" for n in range(count)]


def by_quoted_token(case: Case, message: InboundMessage, ticket: int, special: dict[str, Any]) -> InboundMessage:
    marker = token(case, Purpose.MESSAGE_ID, ticket, special)
    return replace(message, quoted=f"> ACME wrote:\n> [{marker}]\n> Try this.")


def by_pseudo_reference(case: Case, message: InboundMessage, ticket: int, special: dict[str, Any]) -> InboundMessage:
    ours = f"{token(case, Purpose.PSEUDO_REFERENCE, ticket, special)}@{DOMAIN}"
    return replace(message, references=(*message.references, ours))


def by_ancestor(case: Case, message: InboundMessage, ticket: int, special: dict[str, Any]) -> InboundMessage:
    return replace(message, references=(*message.references, ROOT))


def by_tag(case: Case, message: InboundMessage, ticket: int, special: dict[str, Any]) -> InboundMessage:
    firm = {"bare": "", "other-firm": "Hillcrest "}.get(special.get("tag", ""), "ACME ")
    after = f" [ACME #{special['tag_after']}]" if "tag_after" in special else ""
    prefix = special.get("prefix", "Re: ")
    return replace(message, subject=f"{prefix}[{firm}#{ticket}] {message.subject.removeprefix(prefix)}{after}")


def by_earlier_tag(case: Case, message: InboundMessage, ticket: int, special: dict[str, Any]) -> InboundMessage:
    return replace(message, subject=f"Re: [ACME #{ticket}] {message.subject}")


CLUES: dict[str, Clue] = {
    "none": nothing,
    "reply-token": by_address(Purpose.CUSTOMER_REPLY),
    "message-id": by_message_id,
    "returned-message-id": by_message_id,  # the parser hands the returned part's ids over like any other
    "references-known": by_known_reference,
    "references-last-of-60": by_last_of_60,
    "quoted-token": by_quoted_token,
    "pseudo-reference": by_pseudo_reference,
    "ancestor": by_ancestor,
    "subject-tag": by_tag,
} | {source: by_address(purpose) for source, purpose in PURPOSES.items()}
OTHER: dict[str, Clue] = {"references-before": by_earlier_reference, "subject-tag-before": by_earlier_tag}


def specialities(case: Case, message: InboundMessage) -> InboundMessage:
    """What is special about the mail, as the parser would say it."""
    special = case.special
    columns: dict[str, Any] = {}
    if cls := special.get("class"):
        columns["category"] = CLASSES[cls]
    if {"All", "OOF", "AutoReply"} & set(str(special.get("suppress", "")).split(", ")):
        columns["no_automatic_answer"] = "the sender asked for none"
    if special.get("own_mail") == "header":
        columns["loop_token"] = case.desk.token(Purpose.LOOP, case.given)
    if special.get("own_mail") == "forged-header":
        columns["loop_token"] = forged(case.desk.token(Purpose.LOOP, case.given))
    if special.get("own_mail") == "message-id":
        columns["message_id"] = f"{case.desk.token(Purpose.MESSAGE_ID, case.given)}@{DOMAIN}"
    if special.get("own_mail") == "forged-message-id":
        columns["message_id"] = f"{forged(case.desk.token(Purpose.MESSAGE_ID, case.given))}@{DOMAIN}"
    if special.get("message_id") == "missing":
        columns["message_id"] = f"{message.content_hash}@local"
    if who := special.get("reply_to"):
        columns["reply_to"] = (case.requester if who == "requester" else PEOPLE[who]).address
    if what := special.get("delivered_to"):
        columns["delivered_to"] = (SUPPORT if what == "rcpt" else "max@another.example",)
    if many := special.get("to_many"):
        columns["cc"] = tuple(NamedAddress("", f"person{n}@many.example") for n in range(many))
    if too := special.get("to_too"):
        columns["cc"] = tuple(PEOPLE[who] for who in too)
    return replace(
        message,
        sender_is_doubtful=special.get("doubtful_from", False),
        forwarded=special.get("forward", False),
        **columns,
    )


def envelope(case: Case, message: InboundMessage) -> Envelope:
    """The envelope: the signed address if the mail went straight to it, else the inbox."""
    special = case.special
    inbox = SALES if special.get("arrives_at") == "sales" else SUPPORT
    hidden = [note.removeprefix("envelope ") for note in message.notes if note.startswith("envelope ")]
    direct = [p.address for p in message.to if "+" in p.address and inbox == SUPPORT]
    bounces = case.scenario["sender"] == "mailer-daemon" or special.get("return_path") == "null"
    sender = "" if bounces else message.sender.address
    return Envelope(sender, tuple(hidden or direct or [inbox]), special.get("by", "smtp"))


# -- the act, and what came of it --------------------------------------------------------------------------------


def act(case: Case) -> tuple[Result, int]:
    """The mail arrives; returns what became of it and the ticket it should have joined."""
    desk, special = case.desk, case.special
    if special.get("key") == "older":
        older = desk.keys
        message = specialities(case, reply(case, case.sender, case.sources, special))
        desk.keys = addresses.add_key(desk.config.folder / "keys.toml")
        assert desk.keys[:-1] == older
    else:
        message = specialities(case, reply(case, case.sender, case.sources, special))
    to = envelope(case, message)
    message = replace(message, notes=())
    for n in range(special.get("earlier", 0)):
        early = letter(case.sender, f"Another thing, number {n}")
        assert desk.receive(early, at=desk.now - timedelta(minutes=30)).ticket is not None
    home = case.target or case.given
    equal: list[int | None] = []
    for n in range(special.get("earlier_equal", 0)):
        same = replace(message, message_id=f"equal-{n}@elsewhere.example")
        equal.append(desk.receive(same, to, case.proof, desk.now - timedelta(minutes=special["minutes"])).ticket)
    if how := special.get("repeat"):
        before = desk.receive(message, to, case.proof, desk.now - timedelta(minutes=20))
        home = before.ticket or 0
        message, to = again(how, message, to)
    result = desk.receive(message, to, case.proof)
    if result.ticket in equal:
        home = result.ticket or 0
    return result, home


def again(how: str, message: InboundMessage, to: Envelope) -> tuple[InboundMessage, Envelope]:
    """The second coming of a mail."""
    if how == "other-inbox":
        return message, replace(to, recipients=(SALES,))
    if how == "other-id":
        return replace(message, message_id="quite-another-id@hillcrest.example"), to
    if how == "other-content":
        return replace(message, text="Something else altogether.", content_hash="another hash"), to
    return message, to


def outcome(case: Case, result: Result, home: int, tickets_before: int, before: dict[str, Any]) -> str:
    """The word for what happened."""
    if result.state != "done":
        return str(result.state)
    if case.desk.count("ticket") > tickets_before:
        return "new"
    if result.ticket is None:
        return "done without a ticket"
    if result.ticket != home:
        return f"joins #{result.ticket} instead of #{home}"
    unchanged = (before["status"], before["unread"]) == tuple(case.desk.ticket(home)[k] for k in ("status", "unread"))
    if result.entries[0]["kind"] == "automatic" and unchanged and not result.sent:
        return "filed"
    return "joins-target" if home == case.target else "joins"


def noted(case: Case, result: Result) -> bool:
    """Does a note name the other ticket, or the reused id?"""
    words = [step.found for step in result.decision.trace if step.name == "note"]
    words += [str(note) for entry in result.entries for note in entry["data"].get("notes", [])]
    if case.special.get("repeat"):
        return result.reason == "message-id-reused" or any("reused" in word for word in words)
    return any(f"#{case.other}" in word for word in words) if case.other else bool(words)


def observed(case: Case, result: Result, home: int, word: str) -> dict[str, Any]:
    """Everything a scenario may expect something of."""
    people = rows("select address from participant where ticket = ? order by address", result.ticket)
    names = {person.address: name for name, person in PEOPLE.items()}
    events = [entry["data"] for entry in result.entries]
    return {
        "outcome": word,
        "reason": result.reason,
        "guest": any(data.get("guest") for data in events),
        "linked": any(data.get("linked") == home for data in events),
        "note": noted(case, result),
        "status_after": case.desk.ticket(home)["status"],
        "acknowledged": bool(result.to("acknowledgement")),
        "staff_told": bool(result.to("notice")),
        "customer_gets_answer": case.requester.address in result.to("answer"),
        "participants": sorted(names.get(address, address) for (address,) in people),
        "seen": len(people),
    }


def people_of(desk: DeskDb) -> list[tuple[Any, ...]]:
    return rows("select number, requester, requester_address from ticket order by number")


@pytest.mark.parametrize("scenario", NOW, ids=[scenario["name"] for scenario in NOW])
def test_a_mail_meets_its_ticket(scenario: dict[str, Any], desk_db: DeskDb) -> None:
    case = arrange(scenario, desk_db)
    special = case.special
    tickets = desk_db.count("ticket") + special.get("earlier", 0)
    tickets += special.get("earlier_equal", 0) + (1 if special.get("repeat") and case.sources == ["none"] else 0)
    requesters = people_of(desk_db)
    before = desk_db.ticket(case.target or case.given)
    result, home = act(case)
    seen = observed(case, result, home, outcome(case, result, home, tickets, before))
    expected = scenario["expect"]
    differs = [
        f"{name}: wanted {expected[name]!r}, got {seen[name]!r}" for name in expected if expected[name] != seen[name]
    ]
    trace = [f"  {step.name}: {step.found}" for step in result.decision.trace]
    assert not differs, "\n".join([*differs, scenario["why"], *trace])
    assert people_of(desk_db)[: len(requesters)] == requesters, "35: the requester never changes by mail"
    if expected.get("guest"):
        assert (case.sender.address,) not in rows("select address from participant where ticket = ?", home)


def test_what_waits_for_a_later_issue_is_named() -> None:
    for scenario in LATER:
        print(f"later, with the issue {scenario['later']!r}: {scenario['name']}")
    assert {scenario["later"] for scenario in LATER} <= {"Understanding mail"}


def test_every_scenario_has_its_own_name_a_rule_and_a_clause() -> None:
    names = [scenario["name"] for scenario in ALL]
    assert len(set(names)) == len(names)
    assert all(scenario["rule"] and scenario["why"] for scenario in ALL)
