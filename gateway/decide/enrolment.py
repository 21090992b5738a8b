"""A phone of one of us: enrolled by a code that goes to it and comes back, revoked at once (specs/sms.md 4.5).

The code proves that whoever holds the phone now is the one we wrote to. Ten minutes, five tries, only its hash is kept.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import replace
from datetime import timedelta

from gateway.config import Config
from gateway.decide.notices import works_outside
from gateway.values import (
    Account,
    Ask,
    Asked,
    Count,
    Decision,
    Enrol,
    Enrolment,
    InboundState,
    Medium,
    Notice,
    NoticeKind,
    Permanent,
    QuestionKind,
    Revoke,
    Role,
    Step,
    TextFacts,
    Verify,
)

LIFE = timedelta(minutes=10)
TRIES = 5
DIGITS = 6
CODES_OF_ACCOUNT = 10  # an hour, to whatever phones
CODES_AN_HOUR = 5  # to one phone: each is a fresh chance to guess, and costs money


def digest(phone: str, code: str) -> str:
    """What is kept of a code: bound to its phone."""
    return hashlib.sha256(f"{phone} {code}".encode()).hexdigest()


def right(asked: Asked, code: str) -> bool:
    """Is it the code that was sent? In constant time."""
    return hmac.compare_digest(asked.code, digest(asked.phone, code))


def pending(facts: TextFacts) -> Asked | None:
    """The enrolment that this phone can still finish."""
    return next(iter(facts.open_questions(QuestionKind.ENROL)), None)


# -- by the phone ------------------------------------------------------------------------------------------------


def shown_by_phone(text: str, facts: TextFacts) -> Decision | None:
    """The technician texts his code back. None when it is no code."""
    asked = pending(facts)
    code = "".join(text.split())
    if asked is None or not (code.isdigit() and code.isascii() and len(code) == DIGITS):
        return None
    steps = (Step("enrolment", "the code of an enrolment", hit=True),)
    if not right(asked, code):
        return Decision(InboundState.DONE, "wrong-code", steps, question_changes=_one_try_less(asked), secret=True)
    account = facts.accounts.get(int(asked.command or 0))
    if account is None or not account.active:
        return Decision(InboundState.DONE, "wrong-code", steps, secret=True)
    return _enrolled(Decision(InboundState.DONE, "enrolled", steps, secret=True), asked, account)


def _one_try_less(asked: Asked) -> dict[int, dict[str, object]]:
    left = {"tries": asked.tries + 1}
    return {asked.id: left | ({"state": "over"} if asked.tries + 1 >= TRIES else {})}


def _enrolled(decision: Decision, asked: Asked, account: Account) -> Decision:
    to_phone = Notice(
        NoticeKind.ECHO,
        Medium.SMS,
        asked.phone,
        f"enrolled:{asked.id}",
        account=account.id,
        numbers=(asked.number,),
        data={"say": "enrolled", "name": account.name},
    )
    to_mailbox = Notice(
        NoticeKind.NOTICE,
        Medium.MAIL,
        account.address,
        f"enrolled:{asked.id}:mail",
        account=account.id,
        data={"say": "enrolled-mail", "phone": asked.phone},
    )
    return replace(
        decision,
        enrolments=(Enrolment(account.contact, asked.phone, True),),
        question_changes={asked.id: {"state": "answered"}},
        notices=(to_phone, to_mailbox),
    )


def may(actor: Account, account: Account | None) -> bool:
    """Whose phones may somebody set up? A phone speaks in its owner's name: his own; an agent also those of people
    outside; a supervisor or an administrator everybody's."""
    if account is None or actor.id == account.id or actor.roles & {Role.SUPERVISOR, Role.ADMINISTRATOR}:
        return True
    return Role.AGENT in actor.roles and works_outside(account)


# -- on the page -------------------------------------------------------------------------------------------------


def enrol(action: Enrol, phone: str, facts: TextFacts, config: Config) -> Decision:
    """Sends a fresh code to the phone. `phone` is normalised."""
    if not config.sms:
        raise Permanent("No SMS number is configured ([[sms]] in the config).")
    if facts.phone.account is not None and facts.phone.account.id != action.account:
        raise Permanent(f"This phone is {facts.phone.account.name}'s. Revoke it there first.")
    if config.way(phone):
        raise Permanent("This is our own number.")
    if facts.phone.opted_out:
        raise Permanent("This phone has said STOP. Let it text START first.")
    if action.account not in facts.accounts:
        raise Permanent("There is no such account.")
    if facts.codes_sent >= CODES_AN_HOUR or facts.codes_for_account >= CODES_OF_ACCOUNT:
        raise Permanent("Enough codes were sent for now. Try again in an hour.")
    number = config.sms[0].number
    ask = Ask(
        number,
        phone,
        QuestionKind.ENROL,
        facts.now + LIFE,
        command=str(action.account),
        code=digest(phone, facts.code),
    )
    over = {q.id: {"state": "over"} for q in facts.questions if q.kind is QuestionKind.ENROL and q.state == "open"}
    told = Notice(
        NoticeKind.CODE,
        Medium.SMS,
        phone,
        f"enrol:{digest(phone, facts.code + facts.now.isoformat())[:24]}",
        account=action.account,
        numbers=(number,),
        data={"say": "enrol-code", "code": facts.code},
    )
    return Decision(
        InboundState.DONE,
        "code-sent",
        asks=(ask,),
        question_changes=over,
        notices=(told,),
        counts=(Count("enrol-code", phone), Count("enrol-code", f"account {action.account}")),
    )


def verify(action: Verify, facts: TextFacts) -> Decision:
    """The code typed on the page. A wrong one is counted, which the caller writes before he says so."""
    asked = pending(facts)
    account = facts.accounts.get(action.account)
    if asked is None or account is None or asked.command != str(action.account):
        raise Permanent("There is no code for this phone any more: send a new one.")
    if not right(asked, "".join(action.code.split())):
        return Decision(InboundState.DONE, "wrong-code", question_changes=_one_try_less(asked))
    return _enrolled(Decision(InboundState.DONE, "enrolled"), asked, account)


def revoke(action: Revoke, phone: str, facts: TextFacts) -> Decision:
    """From now on the phone is a stranger's."""
    account = facts.accounts.get(action.account)
    if account is None:
        raise Permanent("There is no such account.")
    asked = pending(facts)
    his = any(person.contact == account.contact for person in facts.phone.people)
    if facts.phone.account is not None:
        his = facts.phone.account.id == account.id
    if not his and not (asked and asked.command == str(account.id)):
        raise Permanent(f"This phone is not {account.name}'s.")
    over = {q.id: {"state": "over"} for q in facts.questions if q.state == "open"}
    return Decision(
        InboundState.DONE,
        "revoked",
        enrolments=(Enrolment(account.contact, phone, False),),
        question_changes=over,
        outbox_changes={id: {"state": "cancelled", "result": "the phone was revoked"} for id in facts.on_its_way},
    )
