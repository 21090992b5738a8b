"""The providers' door: what reaches a driver, what it may cost, and what comes back. The driver here is `http`."""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from werkzeug.test import TestResponse

from gateway import bell, doctor, serve, store
from gateway.config import Config, parse
from gateway.model import database, row, rows
from gateway.store import intake, webhooks
from gateway.values import Account, Action, RawRequest, RawResponse, Temporary, Written, utc_now
from tests.conftest import SETTINGS, DeskDb
from webui.app import create_app

PUBLIC = "https://desk.example.org/help"
OURS, ANN = "+447700900999", "+447700900123"
SECRET = "a secret of the provider"
SMS = {
    "number": OURS,
    "driver": "http",
    "http": {"url": "https://sms.example/send", "secret": SECRET},
}


@dataclass
class Taken:
    """A driver's part that only remembers what it was given."""

    seen: list[tuple[str, str, RawRequest]] = field(default_factory=list)
    answer: RawResponse = field(default_factory=lambda: RawResponse(200, {"Content-Type": "text/xml"}, b"<Response/>"))
    error: Exception | None = None

    def __call__(self, driver: str, event: str, raw: RawRequest) -> RawResponse:
        self.seen.append((driver, event, raw))
        if self.error:
            raise self.error
        return self.answer

    @property
    def raw(self) -> RawRequest:
        return self.seen[-1][2]


def settings(folder: Path, *ways: dict[str, Any]) -> Config:
    web = {"public_url": PUBLIC, "secret": "of this test"}
    return parse(SETTINGS | {"data": {"dir": str(folder)}, "web": web, "sms": list(ways)}, {})


def application(config: Config, take: Any) -> Flask:
    def perform(action: Action, actor: Account) -> Written:
        raise AssertionError("no provider performs anything")

    return create_app(config, perform, lambda content: "", take=take)


@pytest.fixture
def taken() -> Taken:
    return Taken()


@pytest.fixture
def app(tmp_path: Path, taken: Taken) -> Flask:
    """The application of a desk whose database is never opened: opening it would fail."""
    store.connect(settings(tmp_path / "none"))
    return application(settings(tmp_path / "none"), taken)


# -- what the driver is given ------------------------------------------------------------------------------------


def test_the_address_is_the_configured_one_with_the_query_byte_for_byte(app: Flask, taken: Taken) -> None:
    for query in ("", "m=42", "src=pool1&x=a%20b", "a=&b=&a=1", "x=%ED%A0%80&y=+%2B", "a=1&&b;c=?/"):
        app.test_client().post("/hooks/twilio/sms", query_string=query)
        assert taken.raw.public_url == f"{PUBLIC}/hooks/twilio/sms" + ("?" + query if query else "")


@pytest.mark.parametrize("host", ["evil.test", "desk.example.org:8443", "a b", "", "[::1", "ünicode.example"])
def test_host_and_forwarded_headers_mean_nothing(app: Flask, taken: Taken, host: str) -> None:
    strange = {
        "Host": host, "X-Forwarded-Host": "evil.test", "X-Forwarded-Proto": "http", "X-Forwarded-Port": "1",
        "Forwarded": "host=evil.test", "X-Original-Url": "/login", "X-Http-Method-Override": "GET",
    }  # fmt: skip
    answer = app.test_client().post("/hooks/twilio/sms", headers=strange)
    assert (answer.status_code, answer.data) == (200, b"<Response/>")
    assert (taken.raw.public_url, taken.raw.method) == (f"{PUBLIC}/hooks/twilio/sms", "POST")


def test_the_body_comes_whole_with_empty_fields_whatever_it_calls_itself(app: Flask, taken: Taken) -> None:
    body = b"From=%2B447700900123&ToState=&Body=+two+spaces+&Body=again&x=%00%FF"
    for kind in ("application/x-www-form-urlencoded", "application/json", "multipart/form-data; boundary=x", ""):
        app.test_client().post("/hooks/twilio/sms", data=body, content_type=kind)
        assert (taken.raw.body, taken.raw.headers.get("Content-Type", "")) == (body, kind)


def test_a_get_reaches_the_driver_and_so_does_head(app: Flask, taken: Taken) -> None:
    for method in ("GET", "HEAD", "POST"):
        app.test_client().open("/hooks/kannel/sms?secret=x", method=method)
        assert taken.seen[-1][:2] == ("kannel", "sms")
        assert taken.raw.method == method


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "TRACE", "FOO", "OPTIONS"])
def test_other_methods_are_405(app: Flask, taken: Taken, method: str) -> None:
    assert app.test_client().open("/hooks/twilio/sms", method=method).status_code == 405
    assert taken.seen == []


@pytest.mark.parametrize(
    ("peer", "headers", "said"),
    [
        ("192.0.2.7", {}, "192.0.2.7"),
        ("192.0.2.7", {"X-Ringback-Peer": "127.0.0.1"}, "192.0.2.7"),
        ("192.0.2.7", {"x-ringback-PEER": "127.0.0.1"}, "192.0.2.7"),
        ("127.0.0.1", {}, "127.0.0.1"),
        ("127.0.0.1", {"X-Forwarded-For": "203.0.113.9"}, ""),  # behind a proxy all come from this machine
        ("127.0.0.1", {"Forwarded": "for=203.0.113.9"}, ""),
        ("127.0.0.1", {"Via": "1.1 proxy"}, ""),
    ],
)
def test_the_peer_is_who_connected_and_nobody_who_was_passed_on(
    app: Flask, taken: Taken, peer: str, headers: dict[str, str], said: str
) -> None:
    app.test_client().get("/hooks/kannel/sms", headers=headers, environ_base={"REMOTE_ADDR": peer})
    assert [value for name, value in taken.raw.headers.items() if name.lower() == "x-ringback-peer"] == [said]


def test_what_browsers_must_prove_is_not_asked_of_a_provider(app: Flask, taken: Taken) -> None:
    headers = {"Origin": "https://evil.test", "Sec-Fetch-Site": "cross-site", "Cookie": "ringback_session=x"}
    answer = app.test_client().post("/hooks/twilio/sms", data={"Body": "x"}, headers=headers)
    assert answer.status_code == 200
    assert "Set-Cookie" not in answer.headers


# -- what comes back ---------------------------------------------------------------------------------------------


def test_the_answer_is_the_drivers(app: Flask, taken: Taken) -> None:
    taken.answer = RawResponse(418, {"Content-Type": "text/xml", "X-Mine": "1"}, b"<a/>")
    answer = app.test_client().post("/hooks/twilio/sms")
    assert (answer.status_code, answer.data, answer.headers["X-Mine"]) == (418, b"<a/>", "1")
    assert answer.headers.getlist("Content-Type") == ["text/xml"]


def test_an_answer_without_a_type_is_plain_text(app: Flask, taken: Taken) -> None:
    taken.answer = RawResponse(403)
    assert app.test_client().post("/hooks/twilio/sms").content_type == "text/plain; charset=utf-8"


@pytest.mark.parametrize(("size", "status"), [(65536, 200), (65537, 413), (5_000_000, 413)])
def test_more_than_64_kilobytes_are_too_much(app: Flask, taken: Taken, size: int, status: int) -> None:
    answer = app.test_client().post("/hooks/twilio/sms", data=b"x" * size)
    assert answer.status_code == status
    assert len(taken.seen) == (status == 200)
    assert status == 200 or answer.data == b"Request Entity Too Large\n"


def test_what_cannot_be_kept_now_is_503_and_says_when_to_come_again(
    app: Flask, taken: Taken, caplog: pytest.LogCaptureFixture
) -> None:
    taken.error = Temporary("the disk is full")
    answer = app.test_client().post("/hooks/kannel/sms?secret=hush-hush")
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
    assert "the disk is full" in caplog.text
    assert "hush" not in caplog.text


def test_a_driver_that_breaks_is_our_fault_and_no_secret_is_logged(
    app: Flask, taken: Taken, caplog: pytest.LogCaptureFixture
) -> None:
    taken.error = ValueError("oh")
    assert app.test_client().post("/hooks/kannel/sms?secret=hush-hush").status_code == 500
    assert "oh" in caplog.text
    assert "hush" not in caplog.text


@pytest.mark.parametrize(
    "path", ["/hooks/", "/hooks/twilio", "/hooks/twilio/", "/hooks/a/b/c", "/hooks//a/b", "/hooks/a//b"]
)
def test_paths_below_hooks_are_not_hidden_behind_the_sign_in_page(app: Flask, taken: Taken, path: str) -> None:
    assert app.test_client().get(path).status_code == 404
    assert taken.seen == []


def test_without_providers_there_is_none(tmp_path: Path) -> None:
    app = create_app(settings(tmp_path), lambda action, actor: Written(None, (), ()), lambda content: "")
    assert app.test_client().post("/hooks/twilio/sms").status_code == 404


# -- the whole door: driver, committer, database -----------------------------------------------------------------


@dataclass
class Provider:
    """A provider of the driver `http`, who signs."""

    app: Flask
    door: serve.Door
    rung: list[str]

    def post(self, secret: str = SECRET, event: str = "sms", **fields: str) -> TestResponse:
        body = json.dumps({"id": "m1", "from": ANN, "to": OURS, "text": "The boiler is cold"} | fields).encode()
        signature = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
        return self.app.test_client().post(f"/hooks/http/{event}", data=body, headers={"X-Signature": signature})


@pytest.fixture
def provider(desk_db: DeskDb, monkeypatch: pytest.MonkeyPatch) -> Iterator[Provider]:
    rung: list[str] = []
    monkeypatch.setattr(bell.Bell, "ring", lambda self, task: rung.append(task))
    config = settings(desk_db.config.folder, SMS)
    door = serve.Door(config)
    yield Provider(serve.application(config, door), door, rung)
    door.close()


def kept_rows() -> list[tuple[Any, ...]]:
    with store.connection():
        return rows("select key, channel, state from inbound order by id")


def test_a_true_webhook_is_kept_before_it_is_answered_and_the_bell_is_rung(provider: Provider) -> None:
    assert provider.post().status_code == 200
    assert kept_rows() == [("http:in:+447700900999:m1", "sms", "new")]
    assert provider.rung == [bell.PROCESS]


def test_the_same_again_gets_the_same_answer_and_is_not_kept_twice(
    provider: Provider, caplog: pytest.LogCaptureFixture
) -> None:
    answers = [provider.post() for _ in range(3)]
    assert {(answer.status_code, answer.data) for answer in answers} == {(200, b"")}
    assert len(kept_rows()) == 1
    assert "other words" not in caplog.text


def test_the_same_id_with_other_words_is_told_in_the_log_and_the_first_stays(
    provider: Provider, caplog: pytest.LogCaptureFixture
) -> None:
    provider.post(text="first")
    assert provider.post(text="second").status_code == 200
    assert "http:in:+447700900999:m1 came again with other words; the first stays" in caplog.text
    with store.connection():
        assert json.loads(row("select raw from inbound")[0])["text"] == "first"


@pytest.mark.parametrize("path", ["/hooks/nobody/sms", "/hooks/twilio/sms", "/hooks/file/sms", "/hooks/email/sms"])
def test_a_driver_that_nobody_uses_is_404(provider: Provider, path: str) -> None:
    assert provider.app.test_client().post(path).status_code == 404


def test_a_forged_webhook_opens_no_connection_and_makes_no_thread(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.close_connection()
    monkeypatch.setattr(serve.Refusals, "add", lambda self, driver: None)
    threads = threading.active_count()

    def connect(reuse_if_open: bool = False) -> None:
        raise AssertionError("a connection for somebody who proved nothing")

    monkeypatch.setattr(database.obj, "connect", connect)
    assert provider.post(secret="guessed").status_code == 403
    assert threading.active_count() == threads
    with pytest.raises(AssertionError):
        store.open_connection()


def test_what_the_database_refuses_is_503_and_kept_when_it_comes_again(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr(intake, "add", lambda arrival, blob: (_ for _ in ()).throw(Temporary("disk full")))
        answer = provider.post()
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
        assert kept_rows() == []
    assert provider.post().status_code == 200
    assert len(kept_rows()) == 1


def test_nobody_waits_longer_for_a_commit_than_the_provider_does(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve, "COMMIT_SECONDS", 0.2)
    go_on = threading.Event()
    write = intake.add
    monkeypatch.setattr(intake, "add", lambda arrival, blob: go_on.wait(5) and write(arrival, blob))
    began = time.monotonic()
    answer = provider.post()
    took = time.monotonic() - began
    go_on.set()
    assert (answer.status_code, took < 2) == (503, True)


def test_the_door_keeps_what_is_queued_when_it_closes(provider: Provider) -> None:
    provider.post()
    provider.door.close()
    assert len(kept_rows()) == 1


# -- counting what was refused -----------------------------------------------------------------------------------


def test_a_flood_of_forged_webhooks_is_noted_at_once_and_then_once_a_pause() -> None:
    noted: list[dict[str, int]] = []
    refusals = serve.Refusals(lambda counts: noted.append(dict(counts)), seconds=0.3)
    refusals.add("twilio")
    wait_for(lambda: noted)
    for _ in range(100):
        refusals.add("twilio")
    refusals.add("kannel")
    assert noted == [{"twilio": 1}]
    wait_for(lambda: len(noted) == 2)
    assert noted[1] == {"twilio": 100, "kannel": 1}


def test_what_is_not_noted_yet_is_noted_at_the_end() -> None:
    noted: list[Counter[str]] = []
    refusals = serve.Refusals(noted.append, seconds=60)
    for _ in range(2):
        refusals.add("twilio")
        wait_for(lambda: noted)
    refusals.close()
    refusals.close()
    assert noted == [{"twilio": 1}, {"twilio": 1}]


def test_refusals_are_logged_without_the_request_and_counted_by_day(
    provider: Provider, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    provider.post(secret="guessed")
    provider.door.close()
    assert "1 webhook(s) to /hooks/http/ refused" in caplog.text
    now = utc_now()
    with store.connection():
        assert [(r.driver, r.count) for r in webhooks.refusals(now - timedelta(minutes=1))] == [("http", 1)]


def test_the_count_begins_anew_each_day(desk_db: DeskDb) -> None:
    now = desk_db.now
    for count, at in ((3, now), (4, now + timedelta(hours=1)), (5, now + timedelta(days=1))):
        with store.writing():
            webhooks.refused("twilio", count, at)
        seen = webhooks.refusals(now)
        assert [(r.count, r.last) for r in seen] == [({3: 3, 4: 7, 5: 5}[count], at)]
    assert webhooks.refusals(now + timedelta(days=2)) == ()


def test_doctor_tells_of_them_for_a_day(desk_db: DeskDb) -> None:
    with store.writing():
        webhooks.refused("twilio", 7, desk_db.now)
    told = list(doctor._refused_webhooks(desk_db.now + timedelta(hours=3)))
    assert [(f.level, f.name) for f in told] == [(doctor.Level.WARN, "webhooks")]
    assert "7 webhooks to /hooks/twilio/ were refused on 25 November 2026" in told[0].words
    assert list(doctor._refused_webhooks(desk_db.now + timedelta(days=2))) == []


def wait_for(condition: Any, seconds: float = 5) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)
