"""Small samples of every measure: what they measure really happens. The speeds are only looked at from afar."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bench import client, fairness, intake, latency, memory, setting, startup
from tests.bench.figures import Figure, as_json, as_table
from tests.bench.machine import quantile
from tests.bench.mails import plain, wire
from tests.bench.null_smtp import null_server
from tests.walks.service import Service

pytestmark = pytest.mark.xdist_group("bench")

SLACK = 3  # times the target: CI shares its two cores with the other tests


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with setting.ringback() as service:
        yield service


def test_a_figure_knows_whether_its_target_is_reached() -> None:
    figures = [Figure("rate", 3, "mails/s", 2), Figure("memory", 3, "MB", 2, at_most=True), Figure("note", 1)]
    assert [figure.reached for figure in figures] == [True, False, None]
    assert "MISSED" in as_table(figures)
    assert '"reached": true' in as_json("sample", figures)


def test_a_stamp_makes_another_mail_and_dots_are_doubled() -> None:
    mail = plain(1)[0]
    assert wire(mail) != wire(mail, "2")
    assert wire(mail).endswith(b"\r\n.\r\n")


def test_the_load_client_delivers_everything_to_the_null_handler(tmp_path: Path) -> None:
    path = client.write_file(tmp_path / "mails", plain(60))
    with null_server() as (port, pid):
        each = intake.measured(port, pid, path, 60, sessions=5)
        kept = intake.measured(port, pid, path, 60, kept=True, sessions=5)
    assert each.load.refused == kept.load.refused == {}


def test_what_is_accepted_is_stored_answered_and_found(service: Service, tmp_path: Path) -> None:
    mails = plain(100, seed=2)
    before = service.rows("select count(*) from inbound")[0][0]
    load = client.run(service.smtp_port, 10, client.write_file(tmp_path / "mails", mails))
    assert load.accepted == 100
    assert load.slowest_ms < 500 * SLACK
    assert service.rows("select count(*) from inbound")[0][0] == before + 100
    service.wait_for(lambda: setting.backlog(service) == 0, "the mails to be done", seconds=100 / 250 * SLACK + 10)
    named = "select count(*) from {} where {} like 'c%@s2.example'"
    assert service.rows(named.format("ticket", "requester_address")) == [(100,)]
    assert service.rows(named.format("outbox", "recipient")) == [(100,)]
    assert service.rows("select count(*) from body_search where body_search match '\"Trouble\"'")[0][0] >= 100


def test_clicks_and_smtp_go_on_beside_a_busy_worker(tmp_path: Path) -> None:
    with setting.ringback(start=False) as service:
        found = fairness.beside_a_backlog(service, tmp_path, plain(500, seed=4))
    assert quantile(found.clicks, 0.95) < fairness.LIMIT_MS * SLACK
    assert found.load.p95_ms < fairness.LIMIT_MS * SLACK


def test_a_single_mail_is_a_ticket_at_once(service: Service) -> None:
    answered, visible, written = latency.one_by_one(service, plain(10, seed=5))
    assert len(answered) == len(visible) == len(written) == 10
    assert sorted(visible)[5] < 100 * SLACK
    assert sorted(written)[5] < 250 * SLACK


def test_idle_memory_is_counted_for_every_process(service: Service) -> None:
    parts = memory.by_process(service)
    assert {name for name, _ in parts} >= {"supervisor", "intake", "worker", "web", "parser"}
    assert sum(mb for _, mb in parts) < memory.LIMIT_MB * SLACK


def test_the_second_start_is_quick(service: Service) -> None:
    service.stop()
    started = time.perf_counter()
    startup.until_ready(service)
    assert time.perf_counter() - started < startup.LIMIT * SLACK
