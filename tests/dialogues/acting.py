"""Acts a dialogue out: real facts, decisions and writing on a database of its own, by the dialogue's own clock."""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from gateway import desk, kept, store
from gateway.config import Config
from gateway.model import (
    Account,
    Address,
    Contact,
    ContactAddress,
    Organisation,
    Ticket,
    execute,
    insert,
    micros,
    moment,
    row,
    rows,
)
from gateway.store import facts, intake, outbox
from gateway.values import Answer, Assign, Close, Media, Medium, Outgoing, Sent, Sms
from outbound.letters import Background, compose
from outbound.texts import render_sms
from tests.conftest import DeskDb, close_desk, open_desk

HERE = Path(__file__).parent
OURS = "+447700900999"
START = datetime(2026, 11, 23, 9, 0, tzinfo=UTC)
UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
AUTOMATIC = ("acknowledgement", "menu", "echo", "list", "usage", "code", "consent", "notice", "job")
READS = {"mine": "mine", "show": "show", "commands": "commands", "undone": "undo"}


def folder() -> Path:
    """Where the dialogues are: here, or where RINGBACK_DIALOGUES says."""
    return Path(os.environ.get("RINGBACK_DIALOGUES", str(HERE)))


def dialogues() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every dialogue with its name: file and title. A file holds one, or several as `[[dialogue]]`."""
    for path in sorted(folder().glob("*.toml")):
        said = tomllib.loads(path.read_text("utf-8"))
        for one in said.get("dialogue", [said]):
            yield f"{path.stem}: {one['title']}", one


def span(text: str) -> timedelta:
    """`+5m`, `-3d`, `+1h30m`."""
    sign = -1 if text.startswith("-") else 1
    parts = re.findall(r"(\d+)([smhd])", text)
    assert parts, f"not a time: {text}"
    return sign * sum((timedelta(**{UNITS[unit]: int(n)}) for n, unit in parts), timedelta())


@dataclass(slots=True)
class Heard:
    """One text of the dialogue, and where it landed at once."""

    step: dict[str, Any]
    inbound: int
    lands: str


@dataclass(slots=True)
class Stage:
    """A dialogue on its way. `wrong` are the differences, in words; `menus` how many were sent to customers."""

    db: DeskDb
    script: Mapping[str, Any]
    start: datetime
    accounts: dict[str, int] = field(default_factory=dict)
    tickets: dict[str, int] = field(default_factory=dict)
    heard: list[Heard] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    misplaced: list[str] = field(default_factory=list)  # silently on a wrong ticket
    codes: list[str] = field(default_factory=list)  # that were sent, to whomever
    menus: int = 0
    customers: int = 0

    @property
    def config(self) -> Config:
        return self.db.config

    def key_of(self, number: int | None) -> str:
        return next((key for key, n in self.tickets.items() if n == number), f"#{number}")


def act(script: Mapping[str, Any], tmp: Path) -> Stage:
    """Plays one dialogue from its people to its end."""
    start = datetime.fromisoformat(script["start"].replace("Z", "+00:00")) if "start" in script else START
    numbers = list(script.get("numbers", [OURS]))
    sms = {"driver": "file", "number": numbers[0], "pool": numbers[1:], "region": "GB"}
    settings = {"sms": [sms], "mail": {"domain": "desk.example"}}
    stage = Stage(open_desk(tmp, start - timedelta(days=100), settings), script, start)
    try:
        with store.writing():
            execute("update account set active = ?", False)  # the cast of the other tests stays out of it
            _people(stage)
            _tickets(stage)
        for n, step in enumerate(script["steps"], 1):
            at = start + span(step["at"])
            _pass_time(stage, at)
            _one(stage, n, step, at)
        _end(stage)
    finally:
        close_desk(tmp)
    return stage


# -- before it begins --------------------------------------------------------------------------------------------


def _people(stage: Stage) -> None:
    at = micros(stage.start - timedelta(days=90))
    firms: dict[str, int] = {}
    for person in stage.script.get("people", []):
        role = person.get("role", "customer")
        kind = "customer" if role == "customer" else "employee"
        firm = person.get("organisation", "")
        if firm and firm not in firms:
            firms[firm] = insert(Organisation, name=firm)
        contact = insert(Contact, name=person["name"], kind=kind, organisation=firms.get(firm), created_at=at)
        person["contact"] = contact
        mail = person.get("mail", f"{person['key']}@people.example" if role != "customer" else "")
        if role != "customer":
            account = insert(Account, contact=contact, address=mail, roles=role, created_at=at)
            stage.accounts[person["key"]] = account
        out = bool(person.get("opted_out"))
        for phone in person.get("phones", []):
            verified = at if role != "customer" else None
            _address(contact, Medium.SMS, phone, verified, out, at)
        for phone in person.get("unenrolled", []):
            _address(contact, Medium.SMS, phone, None, out, at)
        if mail:
            _address(contact, Medium.MAIL, mail, None, False, at)


def _address(contact: int, medium: Medium, value: str, verified: int | None, opted_out: bool, at: int) -> None:
    found = row("select id from address where value = ?", value)
    address = (
        found[0]
        if found
        else insert(Address, medium=medium, value=value, opted_out=opted_out, opted_out_at=at if opted_out else None)
    )
    insert(ContactAddress, contact=contact, address=address, verified_at=verified, last_seen=at)


def _tickets(stage: Stage) -> None:
    people = {person["key"]: person for person in stage.script.get("people", [])}
    for number, ticket in enumerate(stage.script.get("tickets", []), 1001):
        owner = people[ticket["of"]]
        opened = stage.start + span(ticket["opened"])
        last = stage.start + span(ticket.get("last", ticket.get("closed", ticket["opened"])))
        closed = stage.start + span(ticket["closed"]) if "closed" in ticket else None
        contact = row("select organisation from contact where id = ?", owner["contact"])
        by_mail = ticket.get("channel", "sms") == "mail"
        address = owner.get("mail", "") if by_mail else (owner.get("phones") or owner.get("unenrolled") or [""])[0]
        insert(
            Ticket,
            number=number,
            inbox=stage.config.inboxes[0].address,
            subject=ticket["subject"],
            status=ticket.get("status", "open"),
            requester=owner["contact"],
            requester_address=address,
            organisation=contact[0],
            assignee=stage.accounts.get(ticket.get("assignee", "")),
            acquisition=ticket.get("channel", "sms"),
            next_at=micros(last),
            opened_at=micros(opened),
            updated_at=micros(max(opened, last)),
            closed_at=None if closed is None else micros(closed),
        )
        stage.tickets[ticket["key"]] = number


# -- time passes -------------------------------------------------------------------------------------------------


def _pass_time(stage: Stage, until: datetime) -> None:
    """The clock ticks whenever a question ends or a pause is over; what is due is sent."""
    for at in [*_alarms(until), until]:
        desk.tick(stage.config, at)
        _process(stage, at)
        _deliver(stage, at)


def _alarms(until: datetime) -> list[datetime]:
    lines = rows(
        "select expires_at from question where state = 'open' and expires_at <= ? "
        "union select snoozed_until from ticket where snoozed_until <= ? "
        "union select not_before from outbox where state in ('held', 'ready') and not_before <= ?",
        *[micros(until)] * 3,
    )
    return sorted(moment(line[0]) for line in lines)


def _process(stage: Stage, at: datetime) -> None:
    with ThreadPoolExecutor(1) as pool:
        desk.process(desk.Desk(stage.config, stage.db.keys, _no_mail, pool, now=lambda: at))


def _no_mail(waiting: Any, staff: Any) -> Any:
    raise AssertionError("a dialogue has no mail")


def _deliver(stage: Stage, at: datetime) -> None:
    """What is due goes out, and every provider takes it at once."""
    while True:
        with store.writing():
            lanes = outbox.claim("test", at, 100)
            stage.codes += [one.data["code"] for lane in lanes for one in lane if "code" in one.data]
            for lane in lanes:
                outbox.record_sent([(one.id, Sent("P" + str(one.id))) for one in lane], at)
                outbox.keep_rendered([_rendered(stage, one) for one in lane if one.medium is Medium.SMS], at)
        if not lanes:
            return


def _rendered(stage: Stage, outgoing: Outgoing) -> Outgoing:
    letter = compose(outgoing, Background(**outbox.behind(outgoing)), stage.config)
    return replace(outgoing, rendered=render_sms(letter, stage.config).content)


# -- a step ------------------------------------------------------------------------------------------------------


def _one(stage: Stage, n: int, step: dict[str, Any], at: datetime) -> None:
    before = stage.db.newest("outbox"), stage.db.newest("entry"), set(_numbers())
    if "from" in step:
        _text(stage, n, step, at)
        _compare_text(stage, n, step, *before)
    elif "answers" in step:
        actor = facts.accounts_by_id([stage.accounts[step["by"]]])[stage.accounts[step["by"]]]
        desk.perform(stage.config, Answer(stage.tickets[step["answers"]], step["text"], by=Medium.SMS), actor, at)
    elif "assigns" in step:
        actor = facts.accounts_by_id([stage.accounts[step["by"]]])[stage.accounts[step["by"]]]
        to = stage.accounts[step["to_person"]]
        desk.perform(stage.config, Assign(stage.tickets[step["assigns"]], to), actor, at)
    elif "closes" in step:
        actor = facts.accounts_by_id([stage.accounts[step["by"]]])[stage.accounts[step["by"]]]
        desk.perform(stage.config, Close(stage.tickets[step["closes"]], stage.config.closing.reasons[0]), actor, at)
    else:
        assert step.get("clock"), f"step {n} does nothing"
    for key, wanted in step.get("after", {}).items():
        _compare_ticket(stage, n, key, wanted)
    _deliver(stage, at)


def _numbers() -> list[int]:
    return [line[0] for line in rows("select number from ticket")]


def _text(stage: Stage, n: int, step: dict[str, Any], at: datetime) -> None:
    text = step.get("text", "")
    if "{code}" in text:
        text = text.replace("{code}", stage.codes[-1])
    media = tuple(Media(f"https://media.example/{n}/{i}", "image/jpeg") for i in range(step.get("media", 0)))
    to = step.get("to", stage.script.get("numbers", [OURS])[0])
    sms = Sms("file", f"T{n}", step["from"], to, text, media, step.get("optout", ""), at=at)
    with store.writing():
        assert intake.add(kept.arrival(sms, at), "")
    stage.heard.append(Heard(step, stage.db.newest("inbound"), ""))
    _process(stage, at)


def _compare_text(stage: Stage, n: int, step: dict[str, Any], sent: int, entry: int, numbers: set[int]) -> None:
    heard = stage.heard[-1]
    state, number, reason = row("select state, ticket, reason from inbound where id = ?", heard.inbound)
    fresh = sorted(set(_numbers()) - numbers)
    heard.lands = _where(stage, step, state, number, reason, fresh)
    told = [
        line[0]
        for line in rows(
            "select kind from outbox where id > ? and recipient = ? and medium = 'sms' order by id", sent, step["from"]
        )
        if line[0] in AUTOMATIC
    ]
    entries = rows("select kind, reason, data, ticket, inbound from entry where id > ? order by id", entry)
    _differ(stage, n, "lands", step["lands"], heard.lands, text=step.get("text", ""), why=reason)
    if heard.lands not in (step["lands"], "parked", "nowhere"):
        stage.misplaced.append(f"step {n}: {step.get('text', '')!r} went to {heard.lands}, not {step['lands']}")
    _differ(stage, n, "sends", list(step.get("sends", [])), told, text=step.get("text", ""), why=reason)
    verbs = [(json.loads(data)["verb"], ticket) for kind, why, data, ticket, _ in entries if "verb" in json.loads(data)]
    if reason in READS:
        verbs.append((READS[reason], number))
    if "verb" in step and step.get("as") != "note":
        found = verbs[0][0] if verbs else ""
        _differ(stage, n, "verb", step["verb"], "" if found == "note" and not step["verb"] else found, why=reason)
    if "on" in step:
        _differ(stage, n, "on", step["on"], stage.key_of(verbs[0][1]) if verbs else "", why=reason)
    if "as" in step:
        own = [kind for kind, _, _, _, inbound in entries if inbound == heard.inbound]
        kinds = own or [kind for kind, *_ in entries]  # a digit says nothing itself: the message that it was about does
        said = next((kind for kind in kinds if kind != "event"), kinds[0] if kinds else "")
        _differ(stage, n, "as", step["as"], said, why=reason)
    guessed = any(json.loads(data).get("guessed") for _, _, data, _, inbound in entries if inbound == heard.inbound)
    if step["lands"] != "parked":
        _differ(stage, n, "guessed", bool(step.get("guessed")), guessed, why=reason)
    role = _role(stage, step["from"])
    stage.customers += role == "customer"
    stage.menus += role == "customer" and "menu" in told


def _role(stage: Stage, phone: str) -> str:
    people = stage.script.get("people", [])
    return str(next((p.get("role", "customer") for p in people if phone in p.get("phones", [])), "customer"))


def _where(stage: Stage, step: dict[str, Any], state: str, number: int | None, reason: str, fresh: list[int]) -> str:
    if state == "parked":
        return "parked"
    if number is None and reason == "menu":  # "something new": where the message went that waited for it
        number = row("select ticket from inbound where ticket is not null order by done_at desc, id desc limit 1")[0]
    if number in fresh:
        if "names" in step:
            stage.tickets[step["names"]] = fresh[0]
        return "new"
    return "nowhere" if number is None else stage.key_of(number)


def _compare_ticket(stage: Stage, n: int, key: str, wanted: Mapping[str, str]) -> None:
    if key not in stage.tickets:
        stage.wrong.append(f"step {n}: there is no ticket {key}")
        return
    status, assignee = row("select status, assignee from ticket where number = ?", stage.tickets[key])
    who = next((name for name, id in stage.accounts.items() if id == assignee), "")
    for name, value in wanted.items():
        _differ(stage, n, f"{key}.{name}", value, {"status": status, "assignee": who}.get(name))


def _end(stage: Stage) -> None:
    """Where every text stands at last."""
    for n, heard in enumerate(stage.heard, 1):
        wanted = heard.step.get("ends", heard.step["lands"])
        state, number, message_id = row("select state, ticket, message_id from inbound where id = ?", heard.inbound)
        if wanted in ("new", "nowhere") or (wanted == "parked" and state == "parked"):
            continue
        moved = row("select ticket from reference where value = ?", message_id)
        if number is None and wanted == heard.lands:
            continue  # the digit for "something new" is on no ticket itself
        stands = "parked" if state == "parked" else stage.key_of(moved[0] if moved else number)
        text = heard.step.get("text", "")
        _differ(stage, n, "ends (text)", wanted, stands, text=text)
        if stands not in (wanted, "parked"):
            stage.misplaced.append(f"text {n}: {text!r} ends on {stands}, not {wanted}")


def _differ(stage: Stage, n: int, what: str, wanted: Any, found: Any, text: str = "", why: str = "") -> None:
    if wanted != found:
        said = f" {text[:60]!r}" if text else ""
        stage.wrong.append(f"step {n}{said}: {what} should be {wanted!r}, is {found!r}" + (f" ({why})" if why else ""))
