"""The real servers that the tests talk to: what is needed, where it is, and a polite Debian installer.

    python -m tests.servers                      name what is missing and the command that brings it
    python -m tests.servers --install-missing    as root: install it; else the same line
    python -m tests.servers --with faketime ...  also what is only needed by some drills

Ends with 1 when something is still missing under CI=true, else with 0: on a developer's machine the tests that need
a missing server skip themselves and say so (`need`). `tests.loopback` starts private instances of these servers.
Another server is one more row of SERVERS.
"""

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

# Debian keeps daemons off a user's PATH, and PostgreSQL's programs off everybody's.
SEARCH_PATH = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"))
POSTGRES_PROGRAMS = Path("/usr/lib/postgresql")

APT_INSTALL = ("apt-get", "install", "--yes", "--no-install-recommends")
APT_QUIETLY = ("-qq", "-o", "DPkg::Lock::Timeout=120", "-o", "Dpkg::Use-Pty=0")
APT_LISTS = Path("/var/lib/apt/lists")
POLICY = Path("/usr/sbin/policy-rc.d")


@dataclass(frozen=True)
class Server:
    """A server or tool from Debian: it is there when all its programs are."""

    name: str
    programs: tuple[str, ...]
    packages: tuple[str, ...]
    preseed: str = ""  # an answer for debconf, where a package would ask
    only_root: bool = False  # cannot run as anybody else
    on_request: bool = False  # only with `--with NAME`


SERVERS = (
    Server("postgres", ("postgres", "initdb"), ("postgresql",)),
    Server("redis", ("redis-server",), ("redis-server",)),
    Server(
        "dovecot",
        ("dovecot", "/usr/lib/dovecot/imap", "/usr/lib/dovecot/lmtp"),
        ("dovecot-core", "dovecot-imapd", "dovecot-lmtpd"),
    ),
    Server(
        "postfix",
        ("postfix",),
        ("postfix",),
        preseed="postfix postfix/main_mailer_type select No configuration",
        only_root=True,
    ),
    Server("kannel", ("bearerbox", "smsbox", "/usr/lib/kannel/test/fakesmsc"), ("kannel", "kannel-extras")),
    Server("chromium", ("chromium",), ("chromium", "fonts-dejavu-core")),  # no letters without a font
    Server("npm", ("npm",), ("npm",)),  # fetches axe-core, which looks over the pages
    Server("swaks", ("swaks",), ("swaks",)),
    Server("faketime", ("faketime",), ("faketime",), on_request=True),
)


def find(program: str) -> Path | None:
    """The full path of a program by name or path; of several PostgreSQL versions the newest."""
    if found := shutil.which(program, path=SEARCH_PATH):
        return Path(found)
    versions = POSTGRES_PROGRAMS.glob(f"*/bin/{program}") if "/" not in program else ()
    return max(versions, key=lambda path: _version(path.parts[-3]), default=None)


def need(name: str) -> Path:
    """The main program of the server, or the end of the calling test: failed in CI, skipped with the hint elsewhere."""
    import pytest  # here, so that the installer starts without it

    server = next(server for server in SERVERS if server.name == name)
    found = [path for path in map(find, server.programs) if path]
    if server.only_root and os.geteuid() != 0:
        problem = f"{name} runs only as root"
    elif len(found) < len(server.programs):
        problem = f"{name} is not installed: {_command(server.packages)}"
    else:
        return found[0]
    if _in_ci():
        raise pytest.fail.Exception(problem, pytrace=False)
    raise pytest.skip.Exception(problem)


def missing(also: Iterable[str] = ()) -> list[Server]:
    """The servers of the table that are not here; those on request only if named in `also`."""
    asked = set(also)
    wanted = (server for server in SERVERS if not server.on_request or server.name in asked)
    return [server for server in wanted if not all(map(find, server.programs))]


def install(servers: Sequence[Server]) -> None:
    """Install the servers' packages with apt, without starting any daemon. Raises CalledProcessError."""
    packages = [package for server in servers for package in server.packages]
    preseed = "\n".join(server.preseed for server in servers if server.preseed)
    if preseed:
        subprocess.run(["debconf-set-selections"], input=preseed, text=True, check=True)
    if not any(APT_LISTS.glob("*_Packages*")):
        _apt("apt-get", "update")
    with _no_daemon_starts():
        try:
            _apt(*APT_INSTALL, *packages)
        except subprocess.CalledProcessError:  # old lists name packages that the mirror has replaced
            _apt("apt-get", "update")
            _apt(*APT_INSTALL, *packages)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.servers", description="Servers that the tests need.")
    parser.add_argument("--install-missing", action="store_true", help="install them (as root, on Debian)")
    parser.add_argument("--with", dest="also", nargs="+", default=[], metavar="NAME", help="also these")
    options = parser.parse_args(arguments)

    absent = missing(options.also)
    if not absent:
        return 0
    if options.install_missing and os.geteuid() == 0 and shutil.which("apt-get"):
        print(f"installing for the tests: {', '.join(server.name for server in absent)}", flush=True)
        try:
            install(absent)
        except subprocess.CalledProcessError as error:
            print(f"{' '.join(error.cmd)}\n{error.output}")
        absent = missing(options.also)
        if not absent:
            return 0
    packages = [package for server in absent for package in server.packages]
    print(f"missing for the tests: {', '.join(server.name for server in absent)}; as root: {_command(packages)}")
    return 1 if _in_ci() else 0


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".") if part.isdigit())


def _command(packages: Iterable[str]) -> str:
    return " ".join((*APT_INSTALL, *packages))


def _in_ci() -> bool:
    return os.environ.get("CI") == "true"


def _apt(*command: str) -> None:
    """Run apt-get without questions; its many lines are kept for the error, if there is one."""
    subprocess.run(
        [*command, *APT_QUIETLY],
        env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=True,
    )


@contextmanager
def _no_daemon_starts() -> Iterator[None]:
    """Forbid package scripts to start services on their usual ports. A policy that is there already stays in force."""
    if POLICY.exists():
        yield
        return
    POLICY.write_text("#!/bin/sh\nexit 101\n")
    POLICY.chmod(0o755)
    try:
        yield
    finally:
        POLICY.unlink(missing_ok=True)


if __name__ == "__main__":
    sys.exit(main())
