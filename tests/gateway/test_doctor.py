"""What `check` and `doctor` say of SMS: numbers that nobody can answer, webhooks that cannot come, signatures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gateway import doctor
from gateway.config import Config, parse
from gateway.doctor import Level
from gateway.values import RawRequest, RawResponse
from inbound.sms import twilio
from tests.loopback import free_port

TWILIO = {"account_sid": "AC" + "1" * 32, "auth_tokens": ["new token", "old token"]}
HTTP = {"url": "https://sms.example/send", "secret": "a long secret"}


def config(*ways: dict[str, Any], public_url: str = "https://desk.example.org", port: int = 0) -> Config:
    web = {"public_url": public_url, "port": port or free_port()}
    return parse({"web": web, "sms": list(ways)}, {})


def by_twilio(number: str = "+447700900999", **more: Any) -> dict[str, Any]:
    return {"number": number, "driver": "twilio", "twilio": TWILIO} | more


# -- check -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ways", "names"),
    [
        ([by_twilio()], []),
        ([by_twilio("ACME")], ["ACME"]),
        ([by_twilio(pool=["+447700900998", "ACME 24"])], ["ACME 24"]),
        ([{"number": "ACME", "driver": "http", "http": HTTP}], ["ACME"]),
        ([{"number": "60123", "driver": "http", "http": HTTP}], []),  # a short code can be answered
        ([{"number": "ACME", "driver": "email", "email": {"domain": "sms.example"}}], []),  # one way by its nature
    ],
)
def test_a_sender_that_is_a_name_is_named(ways: list[dict[str, Any]], names: list[str]) -> None:
    told = [line for line in doctor._sms(config(*ways)) if "nobody can answer" in line]
    assert [line.split("'")[1] for line in told] == names


@pytest.mark.parametrize(
    ("public_url", "words"),
    [
        ("https://desk.example.org", ""),
        ("https://desk.example.org:8443/help", ""),
        ("http://desk.example.org", "http://desk.example.org is not https"),
        ("http://127.0.0.1:8080", "http://127.0.0.1:8080 is only of this machine or network"),
        ("https://localhost", "https://localhost is only of this machine or network"),
        ("https://desk.localhost", "https://desk.localhost is only of this machine or network"),
        ("https://[::1]", "https://[::1] is only of this machine or network"),
        ("https://192.168.1.20", "https://192.168.1.20 is only of this machine or network"),
    ],
)
def test_twilio_needs_an_address_that_it_can_ask(public_url: str, words: str) -> None:
    told = list(doctor._sms(config(by_twilio(), public_url=public_url)))
    behind = ": Twilio signs and asks the public https:// address, and finds nobody there"
    assert told == ([f"web.public_url: {words}{behind}"] if words else [])


def test_without_twilio_any_address_will_do() -> None:
    way = {"number": "+447700900999", "driver": "http", "http": HTTP}
    assert list(doctor._sms(config(way, public_url="http://127.0.0.1:8080"))) == []


# -- doctor ------------------------------------------------------------------------------------------------------


def test_a_signed_callback_is_judged_though_the_web_does_not_run() -> None:
    (found,) = doctor._twilio(config(by_twilio()))
    assert (found.level, found.name) == (Level.WARN, "twilio +447700900999")
    assert found.words.startswith("a signed callback is taken, a forged one refused; the web at 127.0.0.1:")
    assert "Connection refused" in found.words


def test_every_token_must_sign(monkeypatch: pytest.MonkeyPatch) -> None:
    signatures = []

    def receive(raw: RawRequest, event: str, ways: Any) -> Any:
        signatures.append(raw.headers["X-Twilio-Signature"])
        return [], RawResponse(403)

    monkeypatch.setattr(twilio, "receive", receive)
    (found,) = doctor._twilio(config(by_twilio()))
    assert (found.level, found.words) == (Level.FAIL, "signed callbacks are answered [403, 403], a forged one 403")
    new, old, forged = signatures
    assert new == forged != old


def test_a_driver_that_takes_everything_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(twilio, "receive", lambda raw, event, ways: ([], RawResponse(200)))
    (found,) = doctor._twilio(config(by_twilio()))
    assert (found.level, found.words) == (Level.FAIL, "signed callbacks are answered [200, 200], a forged one 200")


def test_what_the_doctor_asks_brings_nothing() -> None:
    settings = config(by_twilio())
    way = settings.sms[0]
    assert way.twilio
    probe = doctor._callback(settings, way, way.twilio, "new token")
    assert twilio.receive(probe, "status", [way]) == ([], twilio.NOTHING_TO_SAY)
    assert "new token" not in str(probe)


def test_no_provider_no_question(tmp_path: Path) -> None:
    assert list(doctor._twilio(config())) == []
