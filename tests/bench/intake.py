"""Durable intake: how fast mail is accepted (250 only after the sync), against an aiosmtpd that stores nothing.

20 sessions, runs interleaved, medians. Targets of issue 2: at least 0.75 of the null handler's rate with `--only smtp`
and one connection a mail; 0.35 with everything running, no 250 later than 500 ms; on 100 KB mails at most 0.35 of stock
aiosmtpd's CPU time.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from pathlib import Path

from tests.bench import client, setting
from tests.bench.client import Load
from tests.bench.figures import Figure
from tests.bench.machine import cpu_seconds, synced_append_ms
from tests.bench.mails import Mail, generated, padded
from tests.bench.null_smtp import null_server

SESSIONS = 20
ROUNDS = 5


@dataclass(frozen=True, slots=True)
class Run:
    """One run: what the client saw, and the milliseconds of CPU the server spent on a mail."""

    load: Load
    cpu_ms: float


def measure(mails: int = 3000, rounds: int = ROUNDS) -> list[Figure]:
    """All of it."""
    text = generated(mails)
    with setting.folder() as folder:
        sync = Figure("append + fdatasync, median", synced_append_ms(folder), "ms")
        return [
            sync,
            *_alone(folder, text, rounds),
            *_large(folder, list(padded(text[: mails // 6], 100_000)), max(3, rounds - 2)),
            *_everything(folder, text, rounds),
        ]


def measured(port: int, pid: int, path: Path, mails: int, kept: bool = False, sessions: int = SESSIONS) -> Run:
    """One load run against a server process tree. Every mail must be accepted."""
    before = cpu_seconds(pid)
    load = client.run(port, sessions, path, kept)
    assert load.accepted == mails, f"{load.accepted} of {mails} accepted, refused: {load.refused}"
    return Run(load, (cpu_seconds(pid) - before) / mails * 1000)


def _rate(runs: list[Run]) -> float:
    return statistics.median(run.load.rate for run in runs)


def _cpu(runs: list[Run]) -> float:
    return statistics.median(run.cpu_ms for run in runs)


def _pairs(folder: Path, mails: list[Mail], rounds: int, kept: bool, name: str) -> tuple[list[Run], list[Run]]:
    """Runs of ours (`--only smtp`) and of the null handler, by turns."""
    ours: list[Run] = []
    null: list[Run] = []
    with setting.ringback("smtp") as service, null_server() as (port, pid):
        for number in range(rounds):
            # The same mail twice would be dropped as a duplicate: each run stamps its own.
            path = client.write_file(folder / "mails", mails, stamp=f"{name}-{number}")
            ours.append(measured(service.smtp_port, setting.pid(service), path, len(mails), kept))
            null.append(measured(port, pid, path, len(mails), kept))
        kept_rows = service.rows("select count(*) from inbound")
        assert kept_rows == [(rounds * len(mails),)], f"accepted and not kept: {kept_rows}"
    return ours, null


def _alone(folder: Path, mails: list[Mail], rounds: int) -> list[Figure]:
    figures = []
    for name, kept, target in (("one connection a mail", False, 0.75), ("kept connections", True, None)):
        ours, null = _pairs(folder, mails, rounds, kept, name.split()[0])
        figures += [
            Figure(f"only smtp, {name}: ours / null", _rate(ours) / _rate(null), "", target),
            Figure(f"only smtp, {name}: ours", _rate(ours), "mails/s", note=f"{_cpu(ours):.2f} ms CPU a mail"),
            Figure(f"only smtp, {name}: null", _rate(null), "mails/s", note=f"{_cpu(null):.2f} ms CPU a mail"),
            Figure(f"only smtp, {name}: slowest 250", max(run.load.slowest_ms for run in ours), "ms"),
        ]
    return figures


def _large(folder: Path, mails: list[Mail], rounds: int) -> list[Figure]:
    ours, null = _pairs(folder, mails, rounds, False, "large")
    return [
        Figure("100 KB mails: CPU ours / stock", _cpu(ours) / _cpu(null), "", 0.35, at_most=True),
        Figure("100 KB mails: rate ours / stock", _rate(ours) / _rate(null)),
        Figure("100 KB mails: ours", _rate(ours), "mails/s", note=f"{_cpu(ours):.2f} ms CPU a mail"),
        Figure("100 KB mails: stock", _rate(null), "mails/s", note=f"{_cpu(null):.2f} ms CPU a mail"),
    ]


def _everything(folder: Path, mails: list[Mail], rounds: int) -> list[Figure]:
    """Each round on a fresh Ringback, stopped before the null handler runs: its worker would still be busy."""
    ours: list[Run] = []
    null: list[Run] = []
    path = client.write_file(folder / "mails", mails)
    with null_server() as (port, pid):
        for _ in range(rounds):
            with setting.ringback() as service:
                ours.append(measured(service.smtp_port, setting.pid(service), path, len(mails)))
            null.append(measured(port, pid, path, len(mails)))
    return [
        Figure("everything running: ours / null", _rate(ours) / _rate(null), "", 0.35),
        Figure("everything running: ours", _rate(ours), "mails/s"),
        Figure("everything running: slowest 250", max(run.load.slowest_ms for run in ours), "ms", 500, at_most=True),
        Figure("everything running: p95 of a 250", statistics.median(run.load.p95_ms for run in ours), "ms"),
    ]
