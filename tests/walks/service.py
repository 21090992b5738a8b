"""A Ringback of its own for a test: its folder, its ports, its processes; started, killed, asked."""

from __future__ import annotations

import contextlib
import http.cookiejar
import os
import re
import secrets
import signal
import smtplib
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from tests.loopback import free_port

T = TypeVar("T")
SHARED = Path(__file__).parents[3] / "shared"


class Service:
    """`ringback run` in a temporary folder. `environment` is laid over the config, as an administrator would."""

    def __init__(self, folder: Path, environment: Mapping[str, str] | None = None) -> None:
        self.folder = folder
        self.smtp_port, self.web_port = free_port(), free_port()
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("RINGBACK")},
            "RINGBACK_TESTING": "1",
            "RINGBACK_CONFIG": str(folder / "config.toml"),
            "RINGBACK__SMTP__IN__PORT": str(self.smtp_port),
            "RINGBACK__SMTP__IN__MIN_FREE_MB": "0",
            "RINGBACK__WEB__PORT": str(self.web_port),
            "RINGBACK__WEB__PUBLIC_URL": f"http://127.0.0.1:{self.web_port}",
            **(environment or {}),
        }
        self.process: subprocess.Popen[bytes] | None = None
        self.log = folder / "service.log"

    @property
    def data(self) -> Path:
        return self.folder / "data"

    def command(self, *arguments: str, stdin: bytes = b"", check: bool = True) -> subprocess.CompletedProcess[bytes]:
        """`ringback <arguments>` to its end."""
        return subprocess.run(
            [sys.executable, "-m", "gateway.cli", *arguments],
            cwd=self.folder, env=self.environment, input=stdin, capture_output=True, check=check, timeout=60,
        )  # fmt: skip

    def start(self, *arguments: str, ready: bool = True) -> None:
        """Starts it, and waits until it listens."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "gateway.cli", "run", *arguments],
                cwd=self.folder, env=self.environment, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        if ready:
            self.wait_for(lambda: listens(self.smtp_port), "the SMTP port", seconds=30)
            if not arguments or "web" in " ".join(arguments):
                self.wait_for(lambda: listens(self.web_port), "the web port", seconds=30)

    def stop(self) -> None:
        """As systemd would: SIGTERM, then patience."""
        if self.process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.kill()
        self.process = None

    def kill(self) -> None:
        """kill -9 of everything."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(timeout=20)
            self.process = None

    def children(self, part: str) -> list[int]:
        """Process ids of one part: intake, worker, web, parser."""
        pattern = {"intake": "gateway.serve intake", "web": "gateway.serve web", "worker": "gateway.worker"}
        wanted = pattern.get(part, "inbound.parser")
        return [pid for pid, line in processes_of(self.process.pid if self.process else 0) if wanted in line]

    def wait_for(self, condition: Callable[[], T], what: str, seconds: float = 30) -> T:
        """The condition's first true value; the log's end in the error."""
        end = time.monotonic() + seconds
        while True:
            value = condition()
            if value:
                return value
            if time.monotonic() > end:
                tail = self.log.read_text(errors="replace")[-3000:] if self.log.exists() else ""
                raise AssertionError(f"waited {seconds} s for {what}\n{tail}")
            time.sleep(0.02)

    # -- the outside ---------------------------------------------------------------------------------------------

    def send(self, raw: bytes, sender: str = "ann@hillcrest.example", to: str = "support@ringback.localhost") -> None:
        """One mail through the real socket."""
        with smtplib.SMTP("127.0.0.1", self.smtp_port, timeout=30) as client:
            client.ehlo("test.example")
            client.sendmail(sender, [to], raw)

    def outgoing(self) -> list[Path]:
        """What was "sent" without a mail server, oldest first."""
        return sorted((self.data / "outgoing").glob("*.eml"))

    def rows(self, statement: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """What stands in the database, read beside the running processes."""
        path = self.data / "ringback.db"
        if not path.exists():
            return []
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=10)) as connection:
            return connection.execute(statement, parameters).fetchall()

    def browser(self) -> Browser:
        return Browser(f"http://127.0.0.1:{self.web_port}")

    def signed_in(self) -> Browser:
        """A browser that went through the administrator's one-time link."""
        browser = self.browser()
        link = re.search(r"https?://\S+/link/\S+", (self.data / "first-login.txt").read_text())
        assert link, "no link in first-login.txt"
        path = urllib.parse.urlsplit(link.group()).path
        form = browser.get(path)
        browser.post_form(form, path, password=secrets.token_urlsafe(12))
        return browser


class Browser:
    """A browser without JavaScript: cookies, redirects, forms with their CSRF token."""

    def __init__(self, base: str) -> None:
        self.base = base
        jar = urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar())
        self._opener = urllib.request.build_opener(jar, urllib.request.ProxyHandler({}))
        self.url = ""

    def get(self, path: str) -> str:
        with self._opener.open(self.base + path, timeout=30) as answer:
            self.url = answer.url
            return str(answer.read().decode())

    def opened(self, path: str) -> Any:
        """An answer that goes on, to be closed by the caller."""
        return self._opener.open(self.base + path, timeout=30)

    def post_form(self, page: str, path: str, **fields: str) -> str:
        token = re.search(r'name="csrf_token"[^>]*value="([^"]+)"', page)
        assert token, "the page has no form"
        body = urllib.parse.urlencode({"csrf_token": token.group(1), **fields}).encode()
        request = urllib.request.Request(self.base + path, data=body)
        try:
            with self._opener.open(request, timeout=30) as answer:
                self.url = answer.url
                return str(answer.read().decode())
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{path} answered {error.code}: {error.read()[:500]!r}") from error


def listens(port: int) -> bool:
    """Does anybody listen on this loopback port?"""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def processes_of(root: int) -> Iterator[tuple[int, str]]:
    """(pid, command line) of all living descendants of a process."""
    parents: dict[int, int] = {}
    lines: dict[int, str] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, IndexError):
                stat = (entry / "stat").read_text().rpartition(")")[2].split()
                if stat[0] != "Z":
                    parents[int(entry.name)] = int(stat[1])
                    lines[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
    for pid in list(parents):
        ancestor = pid
        while ancestor in parents and ancestor != root:
            ancestor = parents[ancestor]
        if ancestor == root and pid != root:
            yield pid, lines[pid]
