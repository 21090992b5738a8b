"""The supervisor with real processes: children are small Python programs that write down what happens to them."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from gateway import supervisor

SETTINGS = {"FIRST_PAUSE": 0.01, "LONGEST_PAUSE": 0.05, "STOP_SECONDS": 20.0}
# What every child begins with: `note` appends one line to the file of events, whole even when several write.
NOTE = """
import os, signal, sys, time
events = os.open({events!r}, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
def note(text): os.write(events, f"{name} {{text}}\\n".encode())
"""
LIVES = "note(f'pid {os.getpid()}'); time.sleep(60)"
DIES = "note('pid'); sys.exit(3)"
STUBBORN = "signal.signal(signal.SIGTERM, signal.SIG_IGN); signal.signal(signal.SIGINT, signal.SIG_IGN); " + LIVES
LISTENS = """
def stop(*_):
    note("TERM"); time.sleep(0.2); note("ended"); sys.exit(0)
signal.signal(signal.SIGTERM, stop)
signal.signal(signal.SIGHUP, lambda *_: note("HUP"))
note("ready")
while True: time.sleep(60)
"""


class Family:
    """A supervisor in a process of its own, and what is seen of it."""

    def __init__(self, folder: Path) -> None:
        self.pid_file = str(folder / "run.pid")
        self._events, self._said = folder / "events", folder / "said"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, children: Mapping[str, str], **settings: float) -> subprocess.Popen[bytes]:
        table = {
            name: [sys.executable, "-I", "-S", "-c", NOTE.format(events=str(self._events), name=name) + code]
            for name, code in children.items()
        }
        lines = [f"supervisor.{name} = {value}" for name, value in {**SETTINGS, **settings}.items()]
        call = f"sys.exit(supervisor.supervise({table!r}, {self.pid_file!r}))"
        program = "\n".join(["import sys", "from gateway import supervisor", *lines, call])
        with self._said.open("ab") as said:
            self.process = subprocess.Popen([sys.executable, "-c", program], stderr=said, start_new_session=True)
        return self.process

    def tell(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def code(self, seconds: float = 10.0) -> int:
        """The exit code, once it has ended."""
        assert self.process is not None
        return self.process.wait(seconds)

    def events(self, name: str = "") -> list[str]:
        text = self._events.read_text() if self._events.exists() else ""
        return [line for line in text.splitlines() if line.startswith(name)]

    def pids(self) -> list[int]:
        return [int(line.split()[2]) for line in self.events() if " pid " in line]

    def said(self) -> str:
        return self._said.read_text()


@pytest.fixture
def family(tmp_path: Path) -> Iterator[Family]:
    family = Family(tmp_path)
    yield family
    if family.process is not None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(family.process.pid, signal.SIGKILL)
        family.process.wait(10)


def until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.01)


def alive(pid: int) -> bool:
    """A zombie that nobody has buried is dead."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


# -- living --------------------------------------------------------------------------------------------------------


def test_a_child_that_was_killed_is_started_again(family: Family) -> None:
    family.start({"worker": LIVES, "web": LIVES})
    until(lambda: len(family.pids()) == 2)
    worker = int(family.events("worker")[0].split()[2])
    os.kill(worker, signal.SIGKILL)
    until(lambda: len(family.events("worker")) == 2)
    assert len(family.events("web")) == 1, "the other one is left alone"
    assert "worker was ended by SIGKILL after " in family.said()


def test_a_child_that_dies_at_once_is_said_loudly_and_still_tried(family: Family) -> None:
    family.start({"web": DIES, "worker": LIVES})
    until(lambda: len(family.events("web")) >= 7)
    assert "web ended with code 3 after" in family.said()
    assert "ATTENTION: web DIED 5 TIMES IN A ROW" in family.said()
    assert len(family.events("worker")) == 1


def test_a_program_that_is_not_there_is_said_and_tried_again(tmp_path: Path) -> None:
    program = (
        "import signal, sys; from gateway import supervisor; supervisor.FIRST_PAUSE = 0.01; signal.alarm(20); "
        f"supervisor.supervise({{'web': ['/no/such/program']}}, {str(tmp_path / 'run.pid')!r})"
    )
    with subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        lines = [process.stderr.readline().decode() for _ in range(6)]
        process.terminate()
    assert sum("/no/such/program: [Errno 2]" in line for line in lines) == 2
    assert any("web ended with code 127" in line for line in lines)
    assert process.returncode == 0


def test_pauses_double_up_to_ten_seconds() -> None:
    pauses = [supervisor.pause_after(deaths) for deaths in range(1, 10)]
    assert pauses == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0]
    assert supervisor.pause_after(10**9) == 10.0


def test_a_long_life_makes_the_next_pause_short_again(family: Family) -> None:
    family.start({"web": "note('pid'); time.sleep(0.3); sys.exit(0)"}, LONG_LIFE=0.2, FIRST_PAUSE=0.02)
    until(lambda: len(family.events("web")) >= 6)
    pauses = set(re.findall(r"started again in (\S+) s", family.said()))
    assert pauses == {"0.0"}, "0.02 rounded: it never doubled"


def test_children_get_signals_as_if_nobody_watched_over_them(family: Family) -> None:
    family.start(
        {
            "web": "names = ('SIGTERM', 'SIGINT', 'SIGHUP', 'SIGCHLD')\n"
            "blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])\n"
            "plain = all(signal.getsignal(getattr(signal, n)) in (signal.SIG_DFL, signal.default_int_handler)"
            " for n in names)\n"
            "note(f'{len(blocked)} {plain}'); time.sleep(60)"
        }
    )
    until(family.events)
    assert family.events() == ["web 0 True"]


def test_it_is_small(family: Family) -> None:
    process = family.start({"web": LIVES})
    until(family.pids)
    line = next(x for x in Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines() if x.startswith("Pss:"))
    assert int(line.split()[1]) < 12 * 1024, line


# -- signals -------------------------------------------------------------------------------------------------------


def test_sighup_is_passed_on_and_stops_nothing(family: Family) -> None:
    family.start({"intake": LISTENS, "web": LISTENS})
    until(lambda: len(family.events()) == 2)
    family.tell(signal.SIGHUP)
    until(lambda: len(family.events()) == 4)
    assert sorted(family.events()) == ["intake HUP", "intake ready", "web HUP", "web ready"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_told_to_stop_it_lets_the_children_finish_and_ends_with_0(family: Family, number: int) -> None:
    family.start({"intake": LISTENS, "web": LISTENS})
    until(lambda: len(family.events()) == 2)
    family.tell(number)
    assert family.code() == 0
    assert family.events("web") == ["web ready", "web TERM", "web ended"]
    assert family.events("intake") == ["intake ready", "intake TERM", "intake ended"]
    assert supervisor.running(family.pid_file) == 0
    assert family.said().endswith("supervisor: stopped\n")


def test_a_child_that_does_not_stop_is_killed_after_its_time(family: Family) -> None:
    family.start({"worker": STUBBORN, "web": LISTENS}, STOP_SECONDS=0.5)
    until(lambda: len(family.events()) == 2)
    began = time.monotonic()
    family.tell(signal.SIGTERM)
    assert family.code() == 0
    assert 0.4 < time.monotonic() - began < 5
    assert family.events("web")[-1] == "web ended", "who stops in time is not killed"
    assert "worker did not stop and is killed" in family.said()
    assert not alive(family.pids()[0])


def test_a_second_ctrl_c_ends_the_patience(family: Family) -> None:
    family.start({"worker": STUBBORN}, STOP_SECONDS=60)
    until(family.pids)
    family.tell(signal.SIGINT)
    until(lambda: "stopping" in family.said())
    family.tell(signal.SIGINT)
    assert family.code() == 0


def test_a_child_is_not_started_again_while_everything_stops(family: Family) -> None:
    family.start({"web": DIES, "intake": LISTENS}, FIRST_PAUSE=0.1, LONGEST_PAUSE=0.1)
    until(lambda: len(family.events("web")) >= 2 and family.events("intake"))
    family.tell(signal.SIGTERM)
    until(lambda: family.events("intake")[-1] == "intake TERM")
    before = len(family.events("web"))
    assert family.code() == 0
    assert len(family.events("web")) == before


# -- one at a time, and nobody left behind ---------------------------------------------------------------------------


def test_a_second_start_says_that_it_runs_already(family: Family) -> None:
    first = family.start({"web": LIVES})
    until(family.pids)
    assert Path(family.pid_file).read_text() == str(first.pid)
    assert supervisor.running(family.pid_file) == first.pid
    second = family.start({"web": LIVES})
    try:
        assert second.wait(10) == 1
        assert f"Ringback is running already: process {first.pid}" in family.said()
        assert len(family.pids()) == 1
    finally:
        first.terminate()
        assert first.wait(10) == 0


def test_kill_9_takes_the_children_along_and_frees_the_place(family: Family) -> None:
    process = family.start({"worker": STUBBORN, "web": LIVES, "intake": LISTENS})
    until(lambda: len(family.events()) == 3)
    children = [
        int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    ]  # fmt: skip
    assert len(children) == 3
    process.kill()
    process.wait(10)
    until(lambda: not any(alive(pid) for pid in children))
    assert supervisor.running(family.pid_file) == 0
    family.start({"web": LIVES})
    until(lambda: len(family.events("web")) == 2)


def test_a_folder_that_is_not_there_is_said_in_words(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert supervisor.supervise({}, str(tmp_path / "none/run.pid")) == 1
    assert "No such file or directory; `ringback init` makes the data folder" in capfd.readouterr().err


# -- which parts ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("parts", "children"),
    [
        ([], {"intake": "gateway.serve intake", "worker": "gateway.worker", "web": "gateway.serve web"}),
        (["web"], {"web": "gateway.serve web"}),
        (["smtp"], {"intake": "gateway.serve intake smtp"}),
        (["worker", "ami", "imap"], {"intake": "gateway.serve intake ami imap", "worker": "gateway.worker"}),
    ],
)
def test_parts_are_children(parts: list[str], children: dict[str, str]) -> None:
    table = supervisor.children(parts)
    assert {name: " ".join(argv) for name, argv in table.items()} == {
        name: f"{sys.executable} -m {line}" for name, line in children.items()
    }


def test_a_part_alone_has_a_pid_file_of_its_own() -> None:
    assert supervisor.pid_file("data") == "data/run.pid"
    assert supervisor.pid_file("data", ["web"]) == "data/run-web.pid"
    assert supervisor.pid_file("data", ["worker", "smtp"]) == supervisor.pid_file("data", ["smtp", "worker"])


@pytest.mark.parametrize("arguments", [[], ["data", "fax"]])
def test_a_wrong_call_is_refused(arguments: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert supervisor.main(arguments) == 2
    assert "smtp | imap | ami | worker | web" in capfd.readouterr().err
