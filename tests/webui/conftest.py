"""A desk with its pages: `desk_db` (see tests/conftest.py) behind the application, and browsers that are signed in."""

from __future__ import annotations

import html
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import pytest
from argon2 import PasswordHasher
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.serving import make_server
from werkzeug.test import TestResponse

from gateway import blobs, desk, store
from gateway.model import rows
from gateway.store import accounts
from gateway.values import Account, Action, Written
from tests.conftest import ADA, ANN, DeskDb, Result, letter
from webui import login
from webui.app import create_app

PASSWORD = "correct horse battery"
CHEAP = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)  # the tests sign in often


class Clock:
    """The present of a test: it stands still until it is moved."""

    def __init__(self, start: datetime) -> None:
        self.at = start

    def __call__(self) -> datetime:
        return self.at

    def forward(self, **length: float) -> None:
        self.at += timedelta(**length)


@dataclass(slots=True)
class Pages:
    """The application over a desk. `received` opens tickets, `browser` gives a client."""

    desk: DeskDb
    app: Flask
    clock: Clock
    performed: list[Action] = field(default_factory=list)

    def received(self, subject: str = "The boiler is cold", text: str = "Please help.", **more: Any) -> int:
        """A mail of Ann's, or of whom `sender` names; returns its ticket."""
        sender = more.pop("sender", ANN)
        at = more.pop("at", None) or self.clock()
        result = self.arrived(letter(sender, subject, text, **more), at)
        assert result.ticket is not None
        return result.ticket

    def arrived(self, message: Any, at: datetime | None = None) -> Result:
        return self.desk.receive(message, at=at or self.clock())

    def browser(self, who: str = "ada") -> Browser:
        """A browser that is signed in; "" for one that is not."""
        browser = Browser(self.app.test_client())
        if who:
            with store.writing():
                secret = accounts.open_session(self.desk.people[who].id, 14, "test", "127.0.0.1", self.clock())
            browser.client.set_cookie("ringback_session", secret)
            browser.secret = secret
        return browser

    def rows(self, statement: str, *values: Any) -> list[Any]:
        """What stands in the database."""
        return rows(statement, *values)


class Browser:
    """A browser without JavaScript: it fills in the forms it was shown."""

    def __init__(self, client: FlaskClient) -> None:
        self.client = client
        self.secret = ""

    def get(self, path: str, **more: Any) -> TestResponse:
        answer = self.client.get(path, **more)
        return self._over(answer)

    def _over(self, answer: TestResponse) -> TestResponse:
        """What a page does after it is out is done; its connection is closed, and the test opens its own again."""
        answer.close()
        store.open_connection()
        return answer

    def page(self, path: str) -> str:
        answer = self.get(path)
        assert answer.status_code == 200, f"{path}: {answer.status}"
        return answer.get_data(as_text=True)

    def token(self, path: str = "") -> str:
        """A CSRF token of this browser's."""
        path = path or ("/about" if self.secret else "/login")
        found = re.search(r'name="csrf_token"[^>]*value="([^"]+)"', self.get(path).get_data(as_text=True))
        assert found, f"no form on {path}"
        return found.group(1)

    def post(self, path: str, **fields: Any) -> TestResponse:
        """Sends a form with a good token; `headers` are headers."""
        headers = fields.pop("headers", {})
        return self._over(self.client.post(path, data={"csrf_token": self.token(), **fields}, headers=headers))


def words_of(page: str) -> str:
    """What a person reads: no tags, single spaces."""
    body = re.sub(r"(?s)<(script|style|head)\b.*?</\1>", " ", page)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", body)).split())


@pytest.fixture
def clock(now: datetime) -> Clock:
    return Clock(now)


def make_pages(desk_db: DeskDb, clock: Clock, **web: Any) -> Pages:
    """The application over a desk; `web` are settings of [web]."""
    settings = {"secret": "of this test"} | web
    config = desk_db.config.model_copy(update={"web": desk_db.config.web.model_copy(update=settings)})
    desk_db.config = config
    performed: list[Action] = []

    def perform(action: Action, actor: Account) -> Written:
        performed.append(action)
        return desk.perform(config, action, actor, clock())

    def keep(content: bytes) -> str:
        return blobs.put(config.folder / "blobs", content)

    app = create_app(config, perform, keep, clock)
    return Pages(desk_db, app, clock, performed)


@pytest.fixture
def pages(desk_db: DeskDb, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Pages:
    """The pages over a desk with Ada, Tom and Sue."""
    monkeypatch.setattr(login, "_hasher", CHEAP)
    login._nobodys_hash.cache_clear()
    return make_pages(desk_db, clock)


@pytest.fixture
def ada(pages: Pages) -> Browser:
    return pages.browser("ada")


@pytest.fixture
def stranger(pages: Pages) -> Browser:
    return pages.browser("")


def set_password(pages: Pages, who: str = "ada", password: str = PASSWORD) -> None:
    with store.writing():
        accounts.set_password(pages.desk.people[who].id, CHEAP.hash(password))


@contextmanager
def served(pages: Pages) -> Iterator[str]:
    """A real threaded server on loopback; gives its address."""
    server = make_server("127.0.0.1", 0, pages.app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join(timeout=10)
        server.server_close()


__all__ = [
    "ADA",
    "ANN",
    "PASSWORD",
    "Browser",
    "Clock",
    "Pages",
    "letter",
    "make_pages",
    "served",
    "set_password",
    "words_of",
]
