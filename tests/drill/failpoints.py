"""Every fail point of the code, one after the other: killed, raised and slowed; a mail and an answer must survive it.

The points are found in the source, so that a new one is drilled from its first day.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

from tests.bench.figures import Figure
from tests.bench.setting import folder
from tests.drill.place import answer, audit, drained, hurry, letter, running, send_until_accepted
from tests.drill.sink import Sink, sink
from tests.walks.service import Service

ROOT = Path(__file__).parents[2]
PACKAGES = ("gateway", "inbound", "outbound", "webui")
NAMED = re.compile(r"fail_point\(\s*\"([a-z_.]+)\"")  # fail_point("accept.before"), or only "before" …
PREFIX = re.compile(r"fail_point\(\s*f\"([a-z_]+)\.\{")  # … in what is used under several names: f"accept.{place}"
WHATS = ("kill", "raise", "sleep")
REPEATING = "delivery.sent"  # between the smarthost's 250 and our note of it: here one repeat may be
# These are killed with one message on its way, so that a repeat can only be that one's: no acknowledgement goes out.
SENDING = ("delivery.", "outbox.")
SENDING_TIMES = 3  # rendered, sent, recorded: the outbox's writer is drilled at each


def points() -> list[str]:
    """All fail points, in the order of the files."""
    names: dict[str, None] = {}
    prefixes: dict[str, None] = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            source = path.read_text(encoding="utf-8")
            names |= dict.fromkeys(NAMED.findall(source))
            prefixes |= dict.fromkeys(PREFIX.findall(source))
    shared = [name for name in names if "." not in name]
    return [*(f"{p}.{name}" for p in prefixes for name in shared), *(name for name in names if "." in name)]


def measure() -> list[Figure]:
    """All points with all that can happen at them."""
    failed = Counter[str]()
    for point in points():
        times = SENDING_TIMES if point.startswith("outbox.") else 1
        for number, what in itertools.product(range(1, times + 1), WHATS):
            with folder() as path:
                try:
                    problems = drill(path, point, what, number)
                except (AssertionError, OSError, subprocess.SubprocessError) as error:
                    problems = [str(error)]
            for problem in problems:
                print(f"  {point}:{number}:{what}: {problem}")
            failed[what] += bool(problems)
    return [
        Figure("fail points", len(points())),
        *(Figure(f"{what}: points with a problem", failed[what], "", 0, at_most=True) for what in WHATS),
    ]


def drill(path: Path, point: str, what: str, number: int = 1) -> list[str]:
    """A mail and an answer while this happens when the point is reached so often; returns what went wrong."""
    spent = path / "spent"
    alone = point.startswith(SENDING)
    kinds = ["answer", "notice"] if alone else ["acknowledgement", "answer", "notice"]
    with sink(path / "sink", "prompt") as smarthost:
        environment = {
            **smarthost.environment,
            "RINGBACK__MAIL__ACKNOWLEDGE": "false" if alone else "true",
            "RINGBACK_FAILPOINT": f"{point}:{number}:{what}",
            "RINGBACK_FAILPOINT_ONCE": str(spent),
        }
        with running(path / "ringback", environment) as service:
            send_until_accepted(service, letter("first"))
            settled = "select state from inbound where state <> 'new'"
            if service.wait_for(lambda: service.rows(settled), "the mail to be done", seconds=20) == [("failed",)]:
                service.command("parked", "retry", "1")  # our error: it waits in the mailroom, and Retry makes it good,
                kinds = ["answer", "notice"]  # without an acknowledgement: that would come too late
            service.wait_for(lambda: service.rows("select number from ticket"), "the ticket", seconds=20)
            answer(service, 1001, "We are on our way.")
            service.wait_for(spent.exists, f"{point} to be reached", seconds=20)
            if what == "raise":
                _let_time_pass(service)
            drained(service, seconds=30)
            repeats = 1 if point == REPEATING and what == "kill" else 0
            return [*_wrong(service, kinds), *_wrong_outside(smarthost, len(kinds), repeats), *audit(service)]


def _let_time_pass(service: Service) -> None:
    """What was refused for now waits a minute; a test does not."""
    with contextlib.suppress(AssertionError):
        drained(service, seconds=2)
        return
    hurry(service)


def _wrong(service: Service, kinds: list[str]) -> list[str]:
    """What is lost or doubled inside."""
    must: dict[str, list[tuple[Any, ...]]] = {
        "select state, ticket from inbound": [("done", 1001)],
        "select number from ticket": [(1001,)],
        "select count(*) from entry where kind = 'message'": [(1,)],
        "select count(*) from entry where kind = 'answer'": [(1,)],
        "select kind, count(*), state from outbox group by kind, state": [(kind, 1, "sent") for kind in kinds],
    }
    found = {statement: service.rows(statement) for statement in must}
    return [f"{statement}: {found[statement]}" for statement in must if found[statement] != must[statement]]


def _wrong_outside(smarthost: Sink, count: int, repeats: int) -> list[str]:
    """What did not arrive, or too often."""
    problems = []
    deliveries = smarthost.deliveries()
    keys = {delivery.key for delivery in deliveries}
    if len(keys) != count:
        problems.append(f"{count} messages were to arrive, these did: {keys}")
    if len(deliveries) - len(keys) > repeats:
        problems.append(f"repeated: {smarthost.repeats()}")
    if len({(delivery.key, delivery.sha256) for delivery in deliveries}) != len(keys):
        problems.append("repeated with other bytes")
    return problems
