"""Server-sent events, over a real threaded server."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest

from gateway import store
from gateway.model import Inbound as InboundTable
from gateway.model import insert
from gateway.store import schedule
from gateway.values import Remark
from tests.webui.conftest import Pages, served
from webui import events, watch


class Listener:
    """A browser's EventSource."""

    def __init__(self, base: str, secret: str) -> None:
        self.connection = http.client.HTTPConnection(urlsplit(base).netloc, timeout=10)
        self.connection.request("GET", "/events", headers={"Cookie": f"ringback_session={secret}"})
        self.answer = self.connection.getresponse()

    def line(self) -> str:
        return self.answer.readline().decode().strip()

    def event(self) -> list[int]:
        """The tickets of the next event."""
        while True:
            line = self.line()
            if line.startswith("data: "):
                tickets: list[int] = json.loads(line[6:])["tickets"]
                return tickets

    def close(self) -> None:
        self.answer.close()
        self.connection.close()


@contextmanager
def listening(pages: Pages, base: str, who: str = "ada") -> Iterator[Listener]:
    listener = Listener(base, pages.browser(who).secret)
    assert listener.line() == "retry: 2000"
    wait_until(lambda: watcher(pages).ready.is_set())
    yield listener
    listener.close()


def watcher(pages: Pages) -> watch.Watch:
    found: watch.Watch = pages.app.extensions["ringback"].watch
    return found


def wait_until(condition: Callable[[], bool], seconds: float = 5) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.01)


@pytest.fixture
def base(pages: Pages, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(events, "BEAT_SECONDS", 0.2)
    with served(pages) as address:
        yield address
    for account in pages.desk.people.values():
        watcher(pages).end(account.id)
    wait_until(lambda: len(watcher(pages)) == 0)


def test_a_new_message_is_told_within_a_second(pages: Pages, base: str) -> None:
    with listening(pages, base) as listener:
        started = time.monotonic()
        ticket = pages.received()
        assert listener.event() == [ticket]
        assert time.monotonic() - started < 1


def test_the_stream_is_what_a_browser_expects(pages: Pages, base: str) -> None:
    with listening(pages, base) as listener:
        assert listener.answer.status == 200
        assert listener.answer.headers["Content-Type"].startswith("text/event-stream")
        assert listener.answer.headers["Cache-Control"] == "no-store"


def test_every_stream_is_told(pages: Pages, base: str) -> None:
    ticket = pages.received()
    with listening(pages, base) as first, listening(pages, base, "sue") as second:
        pages.desk.perform(Remark(ticket, "Look."), pages.desk.people["tom"])
        assert first.event() == [ticket]
        assert second.event() == [ticket]


def test_something_new_in_the_mailroom_is_told_without_a_ticket(pages: Pages, base: str) -> None:
    with listening(pages, base) as listener:
        with store.writing():
            insert(InboundTable, key="k", channel="mail", size=1, envelope="{}", received_at=0, state="parked")
        assert listener.event() == []


def test_a_heartbeat_of_the_worker_is_no_news(pages: Pages, base: str) -> None:
    with listening(pages, base) as listener:
        with store.writing():
            schedule.beat("tick", pages.clock())
        ticket = pages.received()
        assert listener.event() == [ticket]  # and nothing came before it


def test_without_a_session_there_is_no_stream(pages: Pages, base: str) -> None:
    assert Listener(base, "made up").answer.status == 302


def test_a_stream_ends_with_the_logout(pages: Pages, base: str) -> None:
    with listening(pages, base) as listener:
        pages.browser("ada").post("/logout")
        wait_until(lambda: len(watcher(pages)) == 0)
        assert "" in {listener.line() for _ in range(5)}


def test_a_closed_stream_vanishes_and_with_the_last_one_the_thread(pages: Pages, base: str) -> None:
    with listening(pages, base):
        assert len(watcher(pages)) == 1
    wait_until(lambda: len(watcher(pages)) == 0)
    wait_until(lambda: watcher(pages)._thread is None)


def test_the_sixty_fifth_stream_is_refused(pages: Pages, base: str) -> None:
    streams = [watcher(pages).join(99) for _ in range(watch.MOST)]
    try:
        assert Listener(base, pages.browser("ada").secret).answer.status == 503
    finally:
        for stream in streams:
            assert stream is not None
            watcher(pages).leave(stream)


def test_a_stream_holds_no_database_connection(pages: Pages, base: str, monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[int] = []
    real = store.close_connection

    def close() -> None:
        closed.append(1)
        real()

    monkeypatch.setattr(store, "close_connection", close)
    with listening(pages, base):
        wait_until(lambda: bool(closed))


def test_a_browser_that_does_not_keep_up_is_told_once_to_look_at_everything() -> None:
    stream = watch.Stream(1)
    for ticket in range(watch.BACKLOG + 1):
        stream.put((ticket,))
    assert stream.next(0) == ()


def test_the_end_reaches_a_browser_that_does_not_keep_up() -> None:
    stream = watch.Stream(1)
    for ticket in range(watch.BACKLOG):
        stream.put((ticket,))
    stream.put(None)
    assert stream.next(0) is None
