"""SMS: how soon a webhook is answered at 50 a second, how many texts a second are decided, how soon the acknowledgement
is at the provider.

The provider is played in this process: it signs as `[sms.http]` says (HMAC-SHA256, RFC 2104) and keeps what it is asked
to send. `Side` is a desk in this process, by a clock that its caller sets.
"""

from __future__ import annotations

import contextlib
import hmac
import http.client
import http.server
import json
import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from gateway import desk, kept, store
from gateway.store import intake, outbox
from gateway.values import Medium, Outgoing, Sent, Sms
from outbound.letters import Background, compose
from outbound.texts import render_sms
from tests.bench import setting
from tests.bench.figures import Figure
from tests.bench.machine import quantile
from tests.conftest import DeskDb, close_desk, open_desk
from tests.walks.service import Service

OURS = "+447700900999"
SECRET = "open sesame"
A_SECOND = 50
HOOK_MS = 250.0
SLOWEST = 0.05  # seconds the provider takes to answer, at most
START = datetime(2026, 11, 23, 9, 0, tzinfo=UTC)
# A number sends as fast as it can, and nobody's day is full.
ENVIRONMENT = {
    "RINGBACK__LIMITS__SMS_SEGMENTS_PER_DAY": "1000000",
    "NO_PROXY": "127.0.0.1",
}


def measure(seconds: int = 20, texts: int = 2000, singles: int = 100) -> list[Figure]:
    """The three measures, the first two of them beside a whole running Ringback."""
    with setting.folder() as folder:
        rate = decided_a_second(folder / "desk", texts)
    with setting.folder() as folder, provider() as double, running(folder, double) as service:
        alone = one_by_one(service, double, singles)
        loaded = at_a_rate(service, double, seconds)
    return [
        Figure(f"a webhook answered at {A_SECOND}/s, p95", quantile(loaded.answered, 0.95), "ms", HOOK_MS, True),
        Figure(f"a webhook answered at {A_SECOND}/s, p50", quantile(loaded.answered, 0.5), "ms"),
        Figure("acknowledgement at the provider at that rate, p95", quantile(loaded.acknowledged, 0.95), "ms"),
        Figure("acknowledgement at the provider at that rate, p50", quantile(loaded.acknowledged, 0.5), "ms"),
        Figure("until the last of them was decided", loaded.behind, "s", note=f"of {len(loaded.answered)}"),
        Figure("acknowledgement of a single text at the provider, p95", quantile(alone, 0.95), "ms"),
        Figure("acknowledgement of a single text at the provider, p50", quantile(alone, 0.5), "ms"),
        Figure("texts decided and written, one process", rate, "texts/s", A_SECOND),
    ]


# -- the provider ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Taken:
    """One SMS that we asked the provider to send. `at`: by `time.perf_counter`."""

    at: float
    id: str  # ours
    recipient: str
    text: str


@dataclass(slots=True)
class Provider:
    """What it took, in the order it came. It keeps first and answers a little later."""

    url: str = ""
    taken: list[Taken] = field(default_factory=list)

    def of(self, recipient: str) -> list[Taken]:
        """What went to one phone."""
        return [one for one in list(self.taken) if one.recipient == recipient]


@contextmanager
def provider(slowest: float = SLOWEST) -> Iterator[Provider]:
    """A provider on loopback that takes at most so many seconds to answer."""
    double = Provider()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            said = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))))
            double.taken.append(Taken(time.perf_counter(), said["id"], said["to"], said["text"]))
            time.sleep(random.uniform(0, slowest))
            content = json.dumps({"id": f"P{said['id']}"}).encode()
            with contextlib.suppress(OSError):  # whoever asked may have been killed
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

        def log_message(self, *arguments: object) -> None: ...

    class Server(http.server.ThreadingHTTPServer):
        request_queue_size = 128
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None: ...  # a killed worker hangs up

    with Server(("127.0.0.1", 0), Handler) as server:
        double.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        yield double
        server.shutdown()
        thread.join()


def configured(double: Provider) -> str:
    """The part of config.toml that sends and takes SMS by it."""
    body = json.dumps({name: f"{{{name}}}" for name in ("id", "to", "from", "text")})
    return (
        f'\n[[sms]]\nnumber = "{OURS}"\ndriver = "http"\nper_second = 1000\n'
        f'[sms.http]\nurl = "{double.url}/send"\nbody = \'{body}\'\nsecret = "{SECRET}"\n'
    )


@contextmanager
def running(folder: Path, double: Provider) -> Iterator[Service]:
    """A whole Ringback that texts by this provider."""
    path = folder / "config.toml"
    path.write_text(configured(double), encoding="utf-8")
    path.chmod(0o600)
    service = Service(folder, {**setting.RAISED, **ENVIRONMENT})
    service.start()
    try:
        yield service
    finally:
        service.stop()


def phone(number: int) -> str:
    """A mobile number for each."""
    return f"+4474{number:08d}"


def post(port: int, id: str, sender: str, text: str) -> int:
    """One signed webhook over a connection of its own, as a provider posts it; the status. Raises OSError and
    HTTPException when no answer came."""
    body = json.dumps({"id": id, "from": sender, "to": OURS, "text": text}).encode()
    signed = {"X-Signature": hmac.digest(SECRET.encode(), body, "sha256").hex(), "Content-Type": "application/json"}
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as connection:
        connection.request("POST", "/hooks/http/sms", body, signed)
        answer = connection.getresponse()
        answer.read()
        return answer.status


# -- the whole way -----------------------------------------------------------------------------------------------


def one_by_one(service: Service, double: Provider, texts: int) -> list[float]:
    """Milliseconds from the post of a text to its acknowledgement at the provider, one after the other."""
    found = []
    for n in range(texts):
        sender, started = phone(n), time.perf_counter()
        assert post(service.web_port, f"single-{n}", sender, "The boiler is cold") == 200
        found.append(1000 * (_acknowledged(service, double, sender) - started))
        time.sleep(0.02)
    return found


def _acknowledged(service: Service, double: Provider, sender: str) -> float:
    service.wait_for(lambda: double.of(sender), f"the acknowledgement to {sender}")
    return double.of(sender)[0].at


@dataclass(frozen=True, slots=True)
class Loaded:
    """Milliseconds of each webhook, and to each acknowledgement; seconds from the last webhook to the last decision."""

    answered: list[float]
    acknowledged: list[float]
    behind: float


def at_a_rate(service: Service, double: Provider, seconds: int) -> Loaded:
    """Posts at 50 a second, every second text from a new phone; a late start counts as time that the hook took."""
    count = seconds * A_SECOND
    first = time.perf_counter() + 0.2
    before = len(double.taken)

    def at_its_time(n: int) -> float:
        due = first + n / A_SECOND
        time.sleep(max(0.0, due - time.perf_counter()))
        assert post(service.web_port, f"rate-{n}", phone(50_000 + n // 2), f"Text {n}: still cold") == 200
        return 1000 * (time.perf_counter() - due)

    with ThreadPoolExecutor(A_SECOND) as pool:
        answered = list(pool.map(at_its_time, range(count)))
    last = time.perf_counter()
    service.wait_for(lambda: setting.backlog(service) == 0, "the last text to be decided", seconds=60)
    behind = time.perf_counter() - last
    service.wait_for(lambda: len(double.taken) - before >= count // 2, "the acknowledgements", seconds=60)
    arrived = {taken.recipient: taken.at for taken in double.taken}
    posted = {phone(50_000 + n): first + 2 * n / A_SECOND for n in range(count // 2)}
    return Loaded(answered, [1000 * (arrived[number] - at) for number, at in posted.items()], behind)


# -- a desk in this process --------------------------------------------------------------------------------------


def decided_a_second(folder: Path, texts: int) -> float:
    """How many texts a second `desk.process` understands, decides and writes, half of them from new phones."""
    side = Side.opened(folder)
    for n in range(texts):
        side.hear(f"T{n}", phone(n // 2), f"Text {n}: still cold", START)
    started = time.perf_counter()
    assert side.process(START) == texts
    seconds = time.perf_counter() - started
    assert side.db.count("ticket") == texts // 2
    side.closed()
    return texts / seconds


@dataclass(frozen=True, slots=True)
class Side:
    """A desk with a database of its own, in this process and thread. Only one is bound at a time: see `here`."""

    db: DeskDb
    folder: Path
    number: str = OURS

    @classmethod
    def opened(cls, folder: Path, number: str = OURS, **sms: Any) -> Side:
        """A fresh one, bound. `sms` are further settings of its `[[sms]]`."""
        settings = {"sms": [{"driver": "file", "number": number, "region": "GB", **sms}]}
        return cls(open_desk(folder, START - timedelta(days=100), settings), folder, number)

    def here(self) -> None:
        """Binds its database in the place of another's."""
        store.close_connection()
        store.connect(self.db.config)
        store.open_connection()

    def closed(self) -> None:
        """Ends it."""
        close_desk(self.folder)

    def hear(self, id: str, sender: str, text: str, at: datetime) -> int:
        """Keeps a text that somebody wrote; its mailroom row."""
        with store.writing():
            assert intake.add(kept.arrival(Sms("file", id, sender, self.number, text, at=at), at), "")
        return self.db.newest("inbound")

    def process(self, at: datetime) -> int:
        """Decides what waits; how many."""
        with ThreadPoolExecutor(1) as pool:
            return desk.process(desk.Desk(self.db.config, self.db.keys, _no_mail, pool, now=lambda: at))

    def pass_time(self, at: datetime) -> list[Outgoing]:
        """What the clock brings, what waits, what is due: all of it; the SMS that went out, rendered."""
        desk.tick(self.db.config, at)
        self.process(at)
        return self.deliver(at)

    def deliver(self, at: datetime) -> list[Outgoing]:
        """What is due goes out, and every provider takes it at once. Returns the SMS."""
        gone: list[Outgoing] = []
        while True:
            with store.writing():
                lanes = outbox.claim("test", at, 100)
                texts = [self._rendered(one) for lane in lanes for one in lane if one.medium is Medium.SMS]
                outbox.keep_rendered(texts, at)
                outbox.record_sent([(one.id, Sent(f"P{one.id}")) for lane in lanes for one in lane], at)
            if not lanes:
                return gone
            gone += texts

    def _rendered(self, outgoing: Outgoing) -> Outgoing:
        letter = compose(outgoing, Background(**outbox.behind(outgoing)), self.db.config)
        return replace(outgoing, rendered=render_sms(letter, self.db.config).content)


def _no_mail(waiting: Any, staff: Any) -> Any:
    raise AssertionError("only texts are heard here")
