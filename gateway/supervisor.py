"""Starts Ringback's processes and keeps them alive: `python -m gateway.supervisor FOLDER [PART…]`.

`ringback run` checks the config and then `exec`s this. Only the standard library, and little of that: `subprocess`,
`pathlib` and `dataclasses` would make it a third larger for nothing (measured: 13.4 instead of 9.9 MB).

It has one thread, blocks the signals it cares for and takes them one by one with sigtimedwait(2): no handler can come
in between, and fork(2) is safe. A child asks the kernel to be killed with its parent (prctl(2), PR_SET_PDEATHSIG)
before it becomes the program it shall be. SIGKILL and not SIGTERM: everything we promised is committed at any moment,
and a process that is stuck must not keep the port or the worker's lock when somebody starts Ringback again.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence

# Which child does which part's work; `intake` is told which of its parts are wanted.
PARTS = {"smtp": "intake", "imap": "intake", "ami": "intake", "worker": "worker", "web": "web"}
CHILDREN = {
    "intake": ("-m", "gateway.serve", "intake"),
    "worker": ("-m", "gateway.worker"),
    "web": ("-m", "gateway.serve", "web"),
}

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 10.0  # seconds before a dead child is started again; doubles
LONG_LIFE = 30.0  # whoever lived so long starts again from the first pause
STOP_SECONDS = 10.0  # patience with a child that was told to stop
LOUD = 5  # deaths in a row

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
PR_SET_PDEATHSIG = 1
EXEC_FAILED = 127

# Bound here and not in the child: between fork and exec as little as possible should happen.
_libc = ctypes.CDLL(None, use_errno=True)


class Child:
    """A process that is to run always. `pid` is 0 while it does not; then `due` is when it is started again."""

    __slots__ = ("argv", "deaths", "due", "name", "pid", "started")

    def __init__(self, name: str, argv: Sequence[str]) -> None:
        self.name, self.argv = name, argv
        self.pid = 0
        self.started = 0.0
        self.due = 0.0
        self.deaths = 0  # in a row


def main(arguments: Sequence[str]) -> int:
    """Watches over the parts named after the data folder, all of them when none is named; returns the exit code."""
    if not arguments or not set(arguments[1:]) <= PARTS.keys():
        _say(f"python -m gateway.supervisor FOLDER [{' | '.join(PARTS)} …]")
        return 2
    folder, parts = arguments[0], arguments[1:]
    return supervise(children(parts), pid_file(folder, parts))


def children(parts: Sequence[str]) -> dict[str, list[str]]:
    """Name → command line of the children that these parts need; of all when there are none."""
    wanted = {PARTS[part] for part in parts or PARTS}
    table = {name: [sys.executable, *argv] for name, argv in CHILDREN.items() if name in wanted}
    if "intake" in table:
        table["intake"] += [part for part in parts if PARTS[part] == "intake"]
    return table


def pid_file(folder: str | os.PathLike[str], parts: Sequence[str] = ()) -> str:
    """Where the process id stands: `run.pid`, or `run-smtp.pid` for a part that is started on its own."""
    return f"{os.fspath(folder)}/{'-'.join(('run', *sorted(set(parts))))}.pid"


def running(path: str) -> int:
    """The process id of the supervisor that holds this file, 0 when there is none. Asks the lock, not the number."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return 0
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return int(os.read(descriptor, 20) or b"0")
    finally:
        os.close(descriptor)
    return 0


def supervise(table: Mapping[str, Sequence[str]], path: str) -> int:
    """Runs the children until SIGTERM or SIGINT; returns 0 then, 1 when somebody else holds the pid file."""
    lock = _hold(path)
    if lock is None:
        return 1
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # who ignores it inherits no exit codes
    family = [Child(name, argv) for name, argv in table.items()]
    _say(f"started, process {os.getpid()}")
    _keep_alive(family)
    _stop(family)
    os.ftruncate(lock, 0)
    _say("stopped")
    return 0


def _hold(path: str) -> int | None:
    """Writes our process id into the file and keeps it locked; None (said in words) when another one does."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        _say(f"{path}: {error.strerror}; `ringback init` makes the data folder")
        return None
    if not _locked(descriptor):
        pid = os.read(descriptor, 20).decode()
        _say(f"Ringback is running already: process {pid}, {path}. `kill {pid}` stops it, `ringback reload` reloads it")
        os.close(descriptor)
        return None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, str(os.getpid()).encode(), 0)
    return descriptor


def _locked(descriptor: int) -> bool:
    """Takes the lock. Somebody who only asks (`running`) holds it for a moment: hence more than one try."""
    for pause in (0.02, 0.05, 0.1, None):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if pause:
                time.sleep(pause)
        else:
            return True
    return False


# -- living ------------------------------------------------------------------------------------------------------


def _keep_alive(family: Sequence[Child]) -> None:
    """Starts what is due and buries what has died, until we are told to stop."""
    while True:
        for child in family:
            if not child.pid and child.due <= time.monotonic():
                _start(child)
        waiting = [child.due for child in family if not child.pid]
        number = _next_signal(min(waiting) if waiting else None)
        if number in (signal.SIGTERM, signal.SIGINT):
            _say(f"{signal.Signals(number).name}: stopping")
            return
        if number == signal.SIGHUP:
            _say("SIGHUP: the parts are told to read the config again")
            _tell(family[::-1], signal.SIGHUP)  # who decides first, who takes mail for a new inbox last
        _bury(family)


def _next_signal(until: float | None) -> int:
    """The next of our signals; 0 when there was none until that moment (of the monotonic clock; None: no end)."""
    if until is None:
        return signal.sigwaitinfo(SIGNALS).si_signo
    found = signal.sigtimedwait(SIGNALS, max(0.0, until - time.monotonic()))
    return found.si_signo if found else 0


def _start(child: Child) -> None:
    parent = os.getpid()
    child.started = time.monotonic()
    try:
        child.pid = os.fork()
    except OSError as error:  # too many processes, no memory: like a death
        _say(f"{child.name} cannot be started: {error.strerror}")
        _plan(child)
        return
    if child.pid:
        _say(f"{child.name} started, process {child.pid}")
        return
    try:
        _become(child.argv, parent)
    except BaseException as error:  # noqa: BLE001 - a forked child must never go on as a second supervisor
        _say(f"{child.name}: {child.argv[0]}: {error}")
    finally:
        os._exit(EXEC_FAILED)


def _become(argv: Sequence[str], parent: int) -> None:
    """In the child: tie its life to the parent's, give the signals back, become the program."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # the parent died before we asked
        os._exit(EXEC_FAILED)
    for number in (*SIGNALS, signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    os.execv(argv[0], list(argv))  # noqa: S606 - no shell is wanted


def _bury(family: Sequence[Child]) -> None:
    """Notes who has died and plans the next start. As process 1 of a container we also bury strangers' orphans."""
    for pid, status in _dead():
        for child in family:
            if child.pid == pid:
                child.pid = 0
                _plan(child, _how(status))


def _dead() -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if not pid:
            return found
        found.append((pid, status))


def _plan(child: Child, how: str = "was not started") -> None:
    """When to start it again: soon after a long life, ever later after short ones."""
    now = time.monotonic()
    child.deaths = child.deaths + 1 if now - child.started < LONG_LIFE else 1
    pause = pause_after(child.deaths)
    child.due = now + pause
    _say(f"{child.name} {how} after {now - child.started:.1f} s; started again in {pause:.1f} s")
    if child.deaths % LOUD == 0:
        _say(
            f"ATTENTION: {child.name} DIED {child.deaths} TIMES IN A ROW. This part of Ringback does not work; "
            "the lines above say why, `ringback check` and `ringback doctor` may say more. It is tried on and on"
        )


def pause_after(deaths: int) -> float:
    """Seconds before the next start of a child that died so often in a row (1 or more)."""
    return min(FIRST_PAUSE * 2.0 ** min(deaths - 1, 20), LONGEST_PAUSE)


def _how(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"


# -- dying -------------------------------------------------------------------------------------------------------


def _stop(family: Sequence[Child]) -> None:
    """SIGTERM to all, patience, SIGKILL. A second SIGINT (Ctrl-C again) ends the patience."""
    _tell(family, signal.SIGTERM)
    end, told = time.monotonic() + STOP_SECONDS, False
    while any(child.pid for child in family):
        number = _next_signal(None if told else end)
        if not told and (number == signal.SIGINT or time.monotonic() >= end):
            told = True
            for child in family:
                if child.pid:
                    _say(f"{child.name} did not stop and is killed")
            _tell(family, signal.SIGKILL)
        for pid, status in _dead():
            for child in family:
                if child.pid == pid:
                    child.pid = 0
                    _say(f"{child.name} {_how(status)}")


def _tell(family: Sequence[Child], number: int) -> None:
    for child in family:
        if child.pid:
            os.kill(child.pid, number)  # not yet buried, so the number is still its own


def _say(text: str) -> None:
    """One line to stderr, in one write; a closed terminal is no reason to die."""
    try:
        os.write(2, f"supervisor: {text}\n".encode("utf-8", "replace"))
    except OSError:
        pass


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
