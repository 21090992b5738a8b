"""Who wrote: a person or a machine, by evidence that can be shown."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gateway.values import MessageClass
from inbound.machines import Mail, Report, classify

HUMAN = Mail({}, "carol@example.org", "The printer", "It is broken.", Report())
REPLY = {"in-reply-to": ["<x@desk.example.com>"]}


def with_headers(**headers: str) -> Mail:
    return replace(HUMAN, headers={name.replace("_", "-"): [value] for name, value in headers.items()})


def test_a_person_is_a_person() -> None:
    verdict = classify(HUMAN)
    assert (verdict.category, verdict.evidence, verdict.no_answer) == (MessageClass.HUMAN, (), "")


@pytest.mark.parametrize(
    ("mail", "category"),
    [
        (with_headers(auto_submitted="no"), MessageClass.HUMAN),
        (with_headers(auto_submitted="No (a person)"), MessageClass.HUMAN),
        (with_headers(auto_submitted="auto-replied; owner=x"), MessageClass.AUTO_REPLY),
        (with_headers(auto_submitted="(comment) Auto-Notified"), MessageClass.AUTO_REPLY),
        (with_headers(auto_submitted="auto-generated"), MessageClass.UNKNOWN_MACHINE),
        (with_headers(x_autoreply="yes"), MessageClass.AUTO_REPLY),
        (with_headers(x_autoreply="no"), MessageClass.HUMAN),
        (with_headers(precedence="auto_reply"), MessageClass.AUTO_REPLY),
        (with_headers(precedence="JUNK"), MessageClass.BULK),
        (with_headers(list_id="<l.example.org>"), MessageClass.BULK),
        (with_headers(list_unsubscribe="<mailto:u@example.org>"), MessageClass.BULK),
        (with_headers(x_auto_response_suppress="All"), MessageClass.HUMAN),
        (
            with_headers(x_auto_response_suppress="All", x_ms_exchange_inbox_rules_loop="c@example.org"),
            MessageClass.AUTO_REPLY,
        ),
        (replace(HUMAN, subject="Automatic reply: x"), MessageClass.HUMAN),  # the subject alone proves nothing
        (replace(HUMAN, subject="Automatic reply: x", headers=REPLY), MessageClass.OUT_OF_OFFICE),
        (replace(HUMAN, subject="Abwesenheitsnotiz", headers=REPLY), MessageClass.OUT_OF_OFFICE),
        (replace(HUMAN, subject="Réponse automatique : x", headers=REPLY), MessageClass.OUT_OF_OFFICE),
        (replace(HUMAN, subject="Frånvaro: x", headers=REPLY), MessageClass.OUT_OF_OFFICE),
        (replace(HUMAN, subject="Please confirm your email", headers=REPLY), MessageClass.CHALLENGE),
        (replace(HUMAN, report=Report(calendar="REQUEST")), MessageClass.CALENDAR),
        (replace(HUMAN, report=Report(kind="feedback-report")), MessageClass.COMPLAINT),
        (replace(HUMAN, report=Report(kind="disposition-notification")), MessageClass.DELIVERED),
        (replace(HUMAN, sender="mailer-daemon@example.net"), MessageClass.UNKNOWN_MACHINE),
        (replace(HUMAN, sender="no-reply@shop.example.net"), MessageClass.HUMAN),
        (replace(HUMAN, sender="postmaster@example.net"), MessageClass.HUMAN),
        # A customer who writes about a bounce has not bounced.
        (replace(HUMAN, subject="Undelivered Mail Returned to Sender", text="550 5.1.1"), MessageClass.HUMAN),
    ],
)
def test_the_first_rule_that_knows_a_mail_decides(mail: Mail, category: MessageClass) -> None:
    assert classify(mail).category is category


@pytest.mark.parametrize(
    ("status", "category"),
    [
        ("Final-Recipient: rfc822; Carol@Example.org\nAction: failed\nStatus: 5.1.1", MessageClass.BOUNCE_HARD),
        ("Final-Recipient: rfc822; carol@example.org\nAction: failed\nStatus: 4.4.1", MessageClass.BOUNCE_SOFT),
        ("Final-Recipient: rfc822; carol@example.org\nAction: delayed\nStatus: 4.4.1", MessageClass.DELAYED),
        ("Final-Recipient: rfc822; carol@example.org\nAction: delivered\nStatus: 2.0.0", MessageClass.DELIVERED),
        ("Final-Recipient: rfc822; carol@example.org\nAction: failed", MessageClass.BOUNCE_SOFT),
        ("Final-Recipient: rfc822; carol@example.org\nStatus: 5.0.0 (unknown user)", MessageClass.BOUNCE_HARD),
    ],
)
def test_a_delivery_status_is_read_by_action_and_status(status: str, category: MessageClass) -> None:
    verdict = classify(replace(HUMAN, report=Report("delivery-status", status)))
    assert verdict.category is category
    assert "Final-Recipient: carol@example.org" in verdict.evidence
    assert verdict.no_answer


@pytest.mark.parametrize(
    ("subject", "text", "category"),
    [
        ("Mail delivery failed: returning message to sender", "550 5.1.1 no such user", MessageClass.BOUNCE_HARD),
        ("failure notice", "552 mailbox is full", MessageClass.BOUNCE_HARD),
        ("Undelivered Mail", "452 4.2.2 try later", MessageClass.BOUNCE_SOFT),
        ("Delivery delayed", "will retry for 5 days", MessageClass.DELAYED),
    ],
)
def test_a_notice_in_prose_needs_a_daemon(subject: str, text: str, category: MessageClass) -> None:
    daemon = replace(HUMAN, sender="mailer-daemon@mx.example.net", subject=subject, text=text, null_sender=True)
    assert classify(daemon).category is category


@pytest.mark.parametrize(
    ("mail", "why"),
    [
        (with_headers(x_auto_response_suppress="All"), "X-Auto-Response-Suppress: All"),
        (with_headers(x_auto_response_suppress="DR, OOF"), "X-Auto-Response-Suppress: DR, OOF"),
        (with_headers(x_auto_response_suppress="RN"), ""),
        (with_headers(list_id="<l.example.org>"), "List-Id"),
        (with_headers(precedence="bulk"), "Precedence: bulk"),
        (with_headers(x_loop="help@desk.example.com"), "X-Loop"),
        (with_headers(feedback_id="1:x"), "Feedback-ID"),
        (replace(HUMAN, null_sender=True), "null return path"),
        (replace(HUMAN, received=120), "120 Received headers"),
        (replace(HUMAN, received=100), ""),
        (replace(HUMAN, recipients=20_000), "To has 20000 addresses"),
        (replace(HUMAN, sender="no-reply@shop.example.net"), "from no-reply@shop.example.net"),
        (replace(HUMAN, report=Report(calendar="REQUEST")), "text/calendar; method=REQUEST"),
    ],
)
def test_the_reason_against_an_automatic_answer_is_said(mail: Mail, why: str) -> None:
    assert classify(mail).no_answer == why
