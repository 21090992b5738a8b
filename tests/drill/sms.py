"""kill -9 at every step between a provider's webhook and its effect: web, worker and intake at random moments,
then every fail point on the way, while each text is posted one to sixty times at once and again until it is taken.

Afterwards every text must be exactly one entry on the right ticket, each new phone have one acknowledgement, and the
provider never two. It cannot be asked what it took: an acknowledgement of which nobody knows waits for a person.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import os
import random
import signal
import sqlite3
import subprocess
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.bench.figures import Figure
from tests.bench.setting import folder
from tests.bench.sms import ENVIRONMENT, Provider, configured, phone, post, provider
from tests.drill.failpoints import points
from tests.drill.place import audit, drained, place
from tests.walks.service import Service

SESSIONS = 4
BETWEEN = 0.2  # seconds between two texts of a session
COPIES = 60  # of one text, at most
AT_ONCE = 120  # connections
SLOW = 0.4  # seconds the provider takes to answer, at most: many are on their way when the sender is killed
AGAIN = 0.25  # seconds until a copy that was not taken is posted again
PATIENCE = 180  # seconds until a text counts as lost: the web is killed again and again while it starts
VICTIMS = {"web": 4, "worker": 4, "intake": 1, "everything": 1}  # how often each is hit
SENDERS = ("worker", "everything")
PLACES = 8  # that a worker sends from at once
SHORT_LIVES = 3  # then everything is killed: the supervisor's pauses begin anew
ON_THE_WAY = ("accept.", "process.", "outbox.", "delivery.")
WHATS = ("kill", "raise")
SENDING_TIMES = 3  # rendered, sent, recorded: the outbox's writer is drilled at each


@dataclass(slots=True)
class Result:
    """What happened. `problems` are whole sentences."""

    cuts: Counter[str] = field(default_factory=Counter)
    texts: int = 0
    posts: int = 0
    failed: int = 0  # of them: not answered, or by 503
    slowest: float = 0.0  # seconds until a text was taken
    tickets: int = 0
    acknowledged: int = 0
    unknown: int = 0  # acknowledgements that wait for a person
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)


def measure(cuts: int = 200) -> list[Figure]:
    """The random kills, then every fail point."""
    with folder() as path:
        result = drill(path, cuts)
    for problem in result.problems:
        print(f"  random: {problem}")
    failed, spent = Counter[str](), 0
    for point, number, what in steps():
        spent += 1
        with folder() as path:
            try:
                problems = at_a_fail_point(path, point, what, number)
            except (AssertionError, OSError, subprocess.SubprocessError) as error:
                problems = [str(error)]
        for problem in problems:
            print(f"  {point}:{number}:{what}: {problem}")
        failed[what] += bool(problems)
    return [*_figures(result), *_figures_of_points(failed, spent)]


def _figures(result: Result) -> list[Figure]:
    kills = ", ".join(f"{victim} {count}" for victim, count in sorted(result.cuts.items()))
    lives = result.cuts["web"] + result.cuts["everything"]
    posts = f"{result.posts} posts, {result.failed} of them not taken"
    return [
        Figure("kills at random", result.cuts.total(), "", note=f"{kills}; {result.seconds:.0f} s"),
        Figure("problems", len(result.problems), "", 0, at_most=True),
        Figure("texts", result.texts, "", note=f"{posts}; {result.tickets} tickets"),
        Figure("the longest until a text was taken", result.slowest, "s", note=f"{lives} deaths of the web meanwhile"),
        Figure("acknowledgements sent", result.acknowledged, "", note="none twice"),
        Figure("acknowledgements of which nobody knows", result.unknown, "", note="a person decides"),
    ]


def _figures_of_points(failed: Counter[str], spent: int) -> list[Figure]:
    return [
        Figure("fail points on the way", len({point for point, _, _ in steps()}), "", note=f"{spent} runs"),
        *(Figure(f"{what}: steps with a problem", failed[what], "", 0, at_most=True) for what in WHATS),
    ]


def steps() -> list[tuple[str, int, str]]:
    """Each fail point between a webhook and its effect, how many times it is reached before it fires, and how."""
    found = []
    for point in (point for point in points() if point.startswith(ON_THE_WAY)):
        times = SENDING_TIMES if point.startswith("outbox.") else 1
        found += [(point, number, what) for number, what in itertools.product(range(1, times + 1), WHATS)]
    return found


# -- kills at random ---------------------------------------------------------------------------------------------


def drill(path: Path, cuts: int, seed: int = 1) -> Result:
    """One drill in this folder."""
    result, started = Result(), time.monotonic()
    with provider(SLOW) as double, texting(path, double) as service:
        service.start()
        senders = Senders(service, random.Random(seed))
        _cut(service, cuts, random.Random(seed), result)
        senders.stop()
        _look(service, double, senders, result)
        kills = sum(result.cuts[victim] for victim in SENDERS)
        if result.unknown > PLACES * kills:
            result.problems.append(f"{kills} kills of the sender left {result.unknown} unknown")
    result.seconds = time.monotonic() - started
    return result


def _cut(service: Service, cuts: int, rng: random.Random, result: Result) -> None:
    """Kills at random moments."""
    lives: Counter[str] = Counter()
    for _ in range(cuts):
        victim = rng.choices(list(VICTIMS), list(VICTIMS.values()))[0]
        if lives[victim] >= SHORT_LIVES:
            victim = "everything"
        time.sleep(rng.uniform(0.02, 1.0))
        if victim == "everything":
            service.kill()
            lives.clear()
            service.start()
        else:
            pid = service.wait_for(lambda whom=victim: service.children(whom), f"a living {victim}")[0]  # type: ignore[misc]
            lives[victim] += 1
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        result.cuts[victim] += 1


# -- fail points -------------------------------------------------------------------------------------------------


def at_a_fail_point(path: Path, point: str, what: str = "kill", number: int = 1) -> list[str]:
    """Some texts, and one more of the first phone, while this happens when the point is reached so often; returns what
    went wrong."""
    spent = path / "spent"
    environment = {"RINGBACK_FAILPOINT": f"{point}:{number}:{what}", "RINGBACK_FAILPOINT_ONCE": str(spent)}
    result = Result()
    with provider() as double, texting(path / "ringback", double, environment) as service:
        service.start()
        senders = Senders(service, random.Random(point), sessions=0)
        for name, copies in (("one", 1), ("two", 5), ("three", 5)):
            senders.send(name, name, copies)
        senders.send("again", "one", 5)
        service.wait_for(spent.exists, f"{point} to be reached", seconds=20)
        senders.stop()
        _look(service, double, senders, result)
    if result.unknown and what != "kill":
        result.problems.append(f"nobody was killed, and {result.unknown} are unknown")
    return result.problems


# -- the customers, and their provider ---------------------------------------------------------------------------


@contextmanager
def texting(path: Path, double: Provider, environment: dict[str, str] | None = None) -> Iterator[Service]:
    """A stopped Ringback that texts by this provider. Nobody of us is told of anything: only SMS go out, and what is
    killed on its way is one."""
    with place(path, {**ENVIRONMENT, **(environment or {})}) as service:
        with (path / "config.toml").open("a", encoding="utf-8") as config:
            config.write(configured(double))
        with contextlib.closing(sqlite3.connect(service.data / "ringback.db")) as connection, connection:
            connection.execute("update account set roles = 'supervisor'")
        yield service


class Senders:
    """Sessions that text until they are stopped; a third of the texts are further ones of a phone that wrote before.
    A text is posted again until one of its copies is taken, and never after: what was answered must be kept."""

    def __init__(self, service: Service, rng: random.Random, sessions: int = SESSIONS) -> None:
        self._service, self._rng = service, rng
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(AT_ONCE)
        self.first: dict[str, str] = {}  # text -> the first text of its phone
        self.phones: dict[str, str] = {}  # first text -> phone
        self.posts, self.slowest = 0, 0.0
        self.statuses: Counter[int] = Counter()  # of all posts; 0: no answer
        self._taken: set[str] = set()
        self._threads = [threading.Thread(target=self._session, args=(n,), daemon=True) for n in range(sessions)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Ends when the last texts are taken."""
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=PATIENCE)
            assert not thread.is_alive(), "a text is not taken any more"
        self._pool.shutdown()

    def send(self, name: str, first: str, copies: int) -> None:
        """One text, so many times at once; returns when it is taken and no copy is on its way any more."""
        with self._lock:
            number = self.phones.setdefault(first, phone(len(self.phones)))
            self.first[name] = first
        list(self._pool.map(lambda _: self._until_taken(name, number), range(copies)))

    def _session(self, number: int) -> None:
        rng = random.Random(self._rng.random())
        mine: list[str] = []
        for count in itertools.count(1):
            if self._stop.is_set():
                return
            name = f"text-{number}-{count}"
            first = rng.choice(mine[-20:]) if mine and rng.random() < 1 / 3 else name
            self.send(name, first, round(COPIES ** (rng.random() ** 2)))
            if first == name:
                mine.append(name)
            self._stop.wait(rng.uniform(0, 2 * BETWEEN))

    def _until_taken(self, name: str, number: str) -> None:
        started, failures = time.monotonic(), 0
        while not (failures and name in self._taken):
            status = 0
            with contextlib.suppress(OSError, http.client.HTTPException):
                status = post(self._service.web_port, name, number, f"The boiler shows {name}")
            with self._lock:
                self.posts += 1
                self.statuses[status] += 1
                if status == 200:
                    self._taken.add(name)
                    self.slowest = max(self.slowest, time.monotonic() - started)
                    return
            failures += 1
            assert time.monotonic() - started < PATIENCE, f"{name} is not taken: {status}"
            time.sleep(AGAIN)


# -- what must hold ----------------------------------------------------------------------------------------------


def _look(service: Service, double: Provider, senders: Senders, result: Result) -> None:
    """Waits until nothing is left to do, and compares."""
    new = "select count(*) from inbound where state = 'new'"
    service.wait_for(lambda: service.rows(new) == [(0,)], "the last text to be decided", seconds=60)
    drained(service, seconds=60)
    result.texts, result.posts, result.slowest = len(senders.first), senders.posts, senders.slowest
    result.failed = senders.posts - senders.statuses[200]
    result.tickets = service.rows("select count(*) from ticket")[0][0]
    if strange := {status for status in senders.statuses if status not in (0, 200, 503)}:
        result.problems.append(f"true webhooks were answered {strange}")
    result.problems += _lost_or_doubled(service, senders)
    result.problems += _acknowledged(service, double, senders, result)
    result.problems += audit(service)


def _lost_or_doubled(service: Service, senders: Senders) -> list[str]:
    problems = []
    lines = service.rows("select key, state, reason, ticket, id from inbound")
    found: dict[str, list[tuple[Any, ...]]] = defaultdict(list)
    for key, *line in lines:
        found[key.rpartition(":")[2]].append(tuple(line))  # http:in:<our number>:<id>
    for name, first in senders.first.items():
        mine = found[name]
        if len(mine) != 1 or mine[0][0] != "done" or mine[0][2] is None:
            problems.append(f"{name} was taken and is in the mailroom {len(mine)} times: {mine}")
        elif not found[first] or mine[0][2] != found[first][0][2]:
            problems.append(f"{name} is on #{mine[0][2]}, the first of its phone elsewhere: {found[first]}")
    if len(lines) != len(senders.first):
        problems.append(f"{len(senders.first)} texts were taken, {len(lines)} are in the mailroom")
    entries = dict(service.rows("select inbound, count(*) from entry where kind = 'message' group by inbound"))
    if wrong := {id: entries.get(id, 0) for _, _, _, _, id in lines if entries.get(id, 0) != 1}:
        problems.append(f"entries of a text, not one: {wrong}")
    tickets = service.rows("select count(*) from ticket")[0][0]
    if tickets != len(senders.phones):
        problems.append(f"{len(senders.phones)} phones made {tickets} tickets")
    return problems


def _acknowledged(service: Service, double: Provider, senders: Senders, result: Result) -> list[str]:
    """One row for each phone; sent once, or unknown (shown to a person at last) and at the provider at most once."""
    problems = []
    arrived = Counter(taken.recipient for taken in double.taken)
    rows = service.rows("select recipient, state, result from outbox where kind = 'acknowledgement' and medium = 'sms'")
    if Counter(recipient for recipient, _, _ in rows) != Counter(senders.phones.values()):
        problems.append(f"{len(senders.phones)} phones have {len(rows)} acknowledgements")
    for recipient, state, words in rows:
        count = arrived[recipient]
        known = state == "sent"
        unknown = state == "uncertain" or words.startswith("may not have arrived")
        result.acknowledged, result.unknown = result.acknowledged + known, result.unknown + unknown
        if not (known or unknown) or count > 1 or (known and count != 1):
            problems.append(f"the acknowledgement to {recipient} is {state} ({words}); the provider has {count}")
    if others := [taken for taken in double.taken if "we have your message" not in taken.text]:
        problems.append(f"something else went out: {others[:3]}")
    return problems
