"""kill -9 at random moments of intake, worker and parser, under SMTP load, with a smarthost that is slow to answer.

Four sessions send as an MTA does: what got no 250 is sent again. A third of the mails are replies. Afterwards every
accepted mail must be exactly one entry on the right ticket, every outgoing one delivered, repeats only with the same
bytes, and the audit trail whole. How many kills of the sender made a repeat is measured: at most a fifth should.
"""

from __future__ import annotations

import bisect
import itertools
import os
import random
import signal
import smtplib
import threading
import time
from collections import Counter, defaultdict
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.bench import client
from tests.bench.figures import Figure
from tests.bench.mails import plain
from tests.bench.setting import folder, only
from tests.drill.place import RECEIVING, audit, letter, place
from tests.drill.sink import Delivery, Sink, sink
from tests.walks.service import Service

SESSIONS = 4
BETWEEN = 0.12  # seconds between two mails of a session
VICTIMS = {"intake": 3, "worker": 4, "parser": 3, "everything": 1}  # how often each is hit
SENDERS = ("worker", "everything")
SHORT_LIVES = 3  # then everything is killed: the supervisor's pauses begin anew
RECOVERY = 10.0
SHARE = 0.2
SLACK = 0.1


@dataclass(slots=True)
class Result:
    """What happened. `problems` are whole sentences."""

    cuts: Counter[str] = field(default_factory=Counter)
    accepted: int = 0
    tickets: int = 0
    resent: int = 0
    outgoing: int = 0
    repeats: int = 0
    repeating_kills: int = 0
    slowest_recovery: float = 0.0
    empty_outbox: int = 0  # cuts at which nothing was to be sent
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)

    @property
    def sender_kills(self) -> int:
        return sum(self.cuts[victim] for victim in SENDERS)

    @property
    def repeating_share(self) -> float:
        return self.repeating_kills / max(1, self.sender_kills)


def measure(cuts: int = 200) -> list[Figure]:
    """The drill with both kinds of sink: `prompt` shows our own window, `late` also the one that SMTP leaves open."""
    figures = []
    for mode in ("prompt", "late"):
        with folder() as path:
            result = drill(path, cuts, mode)
        figures += _figures(result, mode)
    return figures


def _figures(result: Result, mode: str) -> list[Figure]:
    kills = ", ".join(f"{victim} {count}" for victim, count in sorted(result.cuts.items()))
    for problem in result.problems:
        print(f"  {mode}: {problem}")
    share = Figure(
        f"{mode}: share of the sender's kills that made a repeat",
        result.repeating_share,
        "",
        SHARE,
        at_most=True,
        note=f"{result.repeating_kills} of {result.sender_kills}; {result.repeats} repeats of {result.outgoing} sent",
    )
    return [
        Figure(f"{mode}: cuts", result.cuts.total(), "", note=f"{kills}; {result.seconds:.0f} s"),
        Figure(f"{mode}: problems", len(result.problems), "", 0, at_most=True),
        Figure(f"{mode}: accepted mails", result.accepted, note=f"{result.tickets} tickets, {result.resent} resent"),
        share,
        Figure(f"{mode}: slowest first mail after a kill", result.slowest_recovery, "s", RECOVERY, at_most=True),
        Figure(f"{mode}: cuts with an empty outbox", result.empty_outbox),
    ]


def drill(path: Path, cuts: int, mode: str = "prompt", seed: int = 1, backlog: int = 300) -> Result:
    """One drill in this folder."""
    result, started = Result(), time.monotonic()
    with sink(path / "sink", mode) as smarthost, place(path / "ringback", smarthost.environment) as service:
        service.start(*only(RECEIVING))
        first = plain(backlog, seed=seed)
        load = client.run(service.smtp_port, SESSIONS, client.write_file(path / "mails", first))
        assert load.accepted == backlog, load.refused
        post = Post(service)
        kills = _cut(service, cuts, random.Random(seed), result)
        post.stop()
        _settle(service)
        result.accepted, result.resent = backlog + len(post.accepted), post.resent
        result.tickets = service.rows("select count(*) from ticket")[0][0]
        result.problems += _lost_or_doubled(service, backlog, post)
        result.problems += _outgoing(service, smarthost, kills, result)
        _recovery(service, kills, result)
        result.problems += audit(service)
    result.seconds = time.monotonic() - started
    return result


# -- the customers -----------------------------------------------------------------------------------------------


class Post:
    """Four sessions that write and answer until they are stopped, and never give a mail up."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._stop = threading.Event()
        self.accepted: dict[str, str] = {}  # name -> name of the first mail of its thread
        self.resent = 0
        self._threads = [threading.Thread(target=self._session, args=(n,), daemon=True) for n in range(SESSIONS)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Ends when the last mails have got their 250."""
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout=60)
            assert not thread.is_alive(), "a mail is not accepted any more"

    def _session(self, number: int) -> None:
        rng = random.Random(number)
        threads: list[str] = []
        count = 0
        while not self._stop.is_set():
            count += 1
            name = f"post-{number}-{count}"
            first = rng.choice(threads) if threads and rng.random() < 1 / 3 else name
            more = "" if first == name else f"In-Reply-To: <{first}@hillcrest.example>\r\n"
            self._send(letter(name, f"{first}@customer.example", more), f"{first}@customer.example")
            self.accepted[name] = first
            if first == name:
                threads.append(name)
            self._stop.wait(rng.uniform(0, 2 * BETWEEN))

    def _send(self, raw: bytes, sender: str) -> None:
        while True:
            try:
                self._service.send(raw, sender=sender)
            except (OSError, smtplib.SMTPException):
                self.resent += 1
                time.sleep(0.05)
            else:
                return


# -- the killer --------------------------------------------------------------------------------------------------


def _cut(service: Service, cuts: int, rng: random.Random, result: Result) -> list[tuple[float, str]]:
    """Kills at random moments; returns (when, whom)."""
    kills: list[tuple[float, str]] = []
    lives: Counter[str] = Counter()
    last = 0
    for _ in range(cuts):
        victim = rng.choices(list(VICTIMS), list(VICTIMS.values()))[0]
        if lives[victim] >= SHORT_LIVES:
            victim = "everything"
        time.sleep(rng.uniform(0.02, 1.0))
        if victim == "everything":
            kills.append((time.time(), victim))
            service.kill()
            lives.clear()
            service.start(*only(RECEIVING))
        else:
            if victim == "parser":  # a mail that meets two deaths is given up as unreadable, and that is right
                service.wait_for(lambda n=last: _works(service, n), "a mail after the last kill", seconds=20)  # type: ignore[misc]
            pid = service.wait_for(lambda whom=victim: service.children(whom), f"a living {victim}")[0]  # type: ignore[misc]
            last = service.rows("select max(id) from inbound")[0][0]
            lives[victim] += victim != "parser"
            kills.append((time.time(), victim))
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        result.cuts[victim] += 1
        waiting = service.rows("select count(*) from outbox where state in ('ready', 'sending')")[0][0]
        result.empty_outbox += not waiting
    return kills


def _works(service: Service, last: int) -> bool:
    return bool(service.rows("select 1 from inbound where state <> 'new' and id > ?", last))


def _settle(service: Service) -> None:
    """Waits until nothing is left to do."""
    for statement in (
        "select count(*) from inbound where state = 'new'",
        "select count(*) from outbox where state in ('held', 'ready', 'sending')",
    ):
        service.wait_for(lambda s=statement: service.rows(s) == [(0,)], statement, seconds=300)  # type: ignore[misc]


# -- what must hold ----------------------------------------------------------------------------------------------


def _lost_or_doubled(service: Service, backlog: int, post: Post) -> list[str]:
    problems = []
    lines = service.rows("select message_id, state, reason, ticket, entry from inbound")
    found: dict[str, list[tuple[str, str, int | None, int | None]]] = defaultdict(list)
    for message_id, state, reason, ticket, entry in lines:
        found[message_id.partition("@")[0]].append((state, reason, ticket, entry))
    for name, first in post.accepted.items():
        mine = found.get(name, [])
        if len(mine) != 1 or mine[0][2] is None:
            problems.append(f"{name} was accepted and is in the mailroom {len(mine)} times: {mine}")
        elif mine[0][0] != "done":
            problems.append(f"{name} is {mine[0][0]}: {mine[0][1]}")
        elif mine[0][2] != found[first][0][2]:
            problems.append(f"{name} is on #{mine[0][2]}, its thread on #{found[first][0][2]}")
    if len(lines) != backlog + len(post.accepted):
        problems.append(f"{backlog + len(post.accepted)} mails were accepted, {len(lines)} are in the mailroom")
    entries = service.rows("select inbound, count(*) from entry where kind = 'message' group by inbound")
    if doubled := [line for line in entries if line[1] != 1]:
        problems.append(f"entries doubled: {doubled[:5]}")
    if len(entries) != len(lines):
        problems.append(f"{len(lines)} mails made {len(entries)} entries")
    threads = backlog + len(set(post.accepted.values()))
    tickets = service.rows("select count(*) from ticket")[0][0]
    if tickets != threads:
        problems.append(f"{threads} threads made {tickets} tickets")
    acknowledgements = service.rows("select count(*) from outbox where kind = 'acknowledgement'")[0][0]
    if acknowledgements != threads:
        problems.append(f"{threads} threads made {acknowledgements} acknowledgements")
    return problems


def _outgoing(service: Service, smarthost: Sink, kills: list[tuple[float, str]], result: Result) -> list[str]:
    problems = []
    by_key: dict[tuple[str, str], list[Delivery]] = defaultdict(list)
    for delivery in smarthost.deliveries():
        by_key[delivery.key].append(delivery)
    rows = service.rows("select id, state, message_id, recipient, result from outbox")
    result.outgoing = len(rows)
    for id, state, message_id, recipient, words in rows:
        if state != "sent":
            problems.append(f"outgoing {id} to {recipient} is {state}: {words}")
        if (f"<{message_id.strip('<>')}>", recipient) not in by_key:
            problems.append(f"outgoing {id} to {recipient} never arrived ({state})")
    if len(by_key) != len(rows):
        problems.append(f"{len(rows)} outgoing, but {len(by_key)} different ones arrived")
    moments = [when for when, victim in kills if victim in SENDERS]
    guilty = set()
    for (message_id, recipient), copies in by_key.items():
        if len({copy.sha256 for copy in copies}) > 1:
            problems.append(f"{message_id} to {recipient} was repeated with other bytes")
        for before, after in itertools.pairwise(copies):
            result.repeats += 1
            kill = bisect.bisect_left(moments, before.at - SLACK)  # the sink may have kept it just after our end
            if kill == len(moments) or moments[kill] > after.at:
                problems.append(f"{message_id} to {recipient} was repeated without a kill")
            guilty.add(kill)
    result.repeating_kills = len(guilty)
    return problems


def _recovery(service: Service, kills: list[tuple[float, str]], result: Result) -> None:
    """From each kill of a worker to the next mail done, where no other kill of it came in between."""
    done = [line[0] / 1e6 for line in service.rows("select done_at from inbound where done_at > 0 order by done_at")]
    moments = [when for when, victim in kills if victim in SENDERS]
    for number, when in enumerate(moments):
        after = bisect.bisect_right(done, when)
        if after == len(done) or (number + 1 < len(moments) and moments[number + 1] < done[after]):
            continue
        result.slowest_recovery = max(result.slowest_recovery, done[after] - when)
    if result.slowest_recovery > RECOVERY:
        result.problems.append(f"the first mail after a kill took {result.slowest_recovery:.1f} s")
