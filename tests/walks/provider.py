"""A provider of SMS for the walks, on loopback, as the driver `http` knows one: it keeps what it is given to send, and
hands in texts and receipts with its signature (HMAC-SHA256 of the body, RFC 2104).

    with provider() as carrier:
        service = ...                       # its config has `carrier.config()`
        carrier.desk = service
        ann = Phone(carrier, ANN)
        ann.texts("The boiler is cold")
        assert "ref #1001" in ann.hears()
"""

from __future__ import annotations

import hmac
import http.client
import itertools
import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import requests
import trustme
from requests.auth import _basic_auth_str

from tests.loopback import HOST
from tests.sms.twilio_double import Double
from tests.walks.service import Service

OURS = "+447700900999"
SECRET = "open sesame"
PATIENCE = 30.0  # seconds for a text to come
DELIVERED = "arrived"  # the provider's word for it


@dataclass(frozen=True)
class Text:
    """An SMS that the provider was given to send."""

    id: str  # the provider's
    sender: str
    recipient: str
    words: str
    callback: str  # where it tells what became of it


@dataclass
class Provider:
    """What `provider` yields. `desk` is the running service that it works for."""

    port: int
    sent: list[Text] = field(default_factory=list)
    hooks: int = 0  # requests that it made
    desk: Service | None = None
    _ids: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def config(self, more: str = "") -> str:
        """The sections of a config that sends by it. At no hour is it night: a walk has to end by night, too."""
        return f"""
[[sms]]
number = "{OURS}"
driver = "http"
per_second = 50
quiet_from = "00:00"
quiet_until = "00:00"
{more}
[sms.http]
url = "http://{HOST}:{self.port}/messages"
body = '{{"to": "{{to}}", "from": "{{from}}", "text": "{{text}}", "callback": "{{callback}}"}}'
secret = "{SECRET}"
statuses = {{ {DELIVERED} = "delivered" }}
"""

    def to(self, phone: str) -> list[Text]:
        """What it sent to a phone so far, oldest first."""
        with self._lock:
            return [text for text in self.sent if text.recipient == phone]

    def take(self, said: dict[str, str]) -> str:
        """Keeps a message to be sent; its id."""
        with self._lock:
            id = f"out-{next(self._ids)}"
            self.sent.append(Text(id, said["from"], said["to"], said["text"], said["callback"]))
            return id

    def hands_in(self, sender: str, words: str) -> None:
        """A text that somebody wrote to our number."""
        with self._lock:
            id = f"in-{next(self._ids)}"
        self._tells("/hooks/http/sms", {"id": id, "from": sender, "to": OURS, "text": words})

    def reports(self, text: Text, status: str = DELIVERED, code: str = "") -> None:
        """What became of a text."""
        self._tells(text.callback, {"id": text.id, "status": status, "code": code})

    def _tells(self, url: str, body: dict[str, str]) -> None:
        assert self.desk is not None, "it works for nobody"
        content = json.dumps(body).encode()
        signature = hmac.digest(SECRET.encode(), content, "sha256").hex()
        parts = urlsplit(url)
        with closing(http.client.HTTPConnection(HOST, self.desk.web_port, timeout=30)) as connection:
            headers = {"Content-Type": "application/json", "X-Signature": f"sha256={signature}"}
            connection.request("POST", f"{parts.path}?{parts.query}".rstrip("?"), content, headers)
            answer = connection.getresponse()
            assert answer.status == 200, f"{url} answered {answer.status}: {answer.read()!r}"
        self.hooks += 1


@dataclass
class Phone:
    """Somebody's phone: it writes to our number, and gets what the provider sends it, each text once."""

    carrier: Provider
    number: str
    read: int = 0

    def texts(self, words: str) -> None:
        """Writes to us."""
        self.carrier.hands_in(self.number, words)

    def hears(self) -> str:
        """The next text that comes, waiting for it. Raises AssertionError."""
        assert self.carrier.desk is not None, "its provider works for nobody"
        self.carrier.desk.wait_for(lambda: self.got()[self.read :], f"a text to {self.number}", PATIENCE)
        self.read += 1
        return self.got()[self.read - 1].words

    def asks(self, words: str) -> str:
        """Writes to us; what comes back."""
        self.texts(words)
        return self.hears()

    def got(self) -> list[Text]:
        """Everything that came so far."""
        return self.carrier.to(self.number)


@contextmanager
def provider() -> Iterator[Provider]:
    """An HTTP interface to send SMS by, until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            said = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))))
            answer = json.dumps({"id": carrier.take(said)}).encode()
            self.send_response(201)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *arguments: object) -> None:
            """Nothing."""

    with ThreadingHTTPServer((HOST, 0), Handler) as server:
        carrier = Provider(server.server_port)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            yield carrier
        finally:
            server.shutdown()
            thread.join()


# -- Twilio ------------------------------------------------------------------------------------------------------

TWILIO = "api.twilio.com"


@contextmanager
def twilio(double: Double, folder: Path) -> Iterator[dict[str, str]]:
    """Twilio's API for processes of our own: a proxy that takes every connection to it for itself, with a certificate
    that only they trust. Yields their environment.

    A picture is not there when it is first asked for, as it happens just after its webhook.
    """
    authority, ours = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(TWILIO).configure_cert(ours)
    authority.cert_pem.write_to_path(str(folder / "twilio.pem"))
    asked_for: set[str] = set()

    class Proxy(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_CONNECT(self) -> None:
            assert self.path == f"{TWILIO}:443", self.path
            self.send_response(200)
            self.end_headers()
            self.request = ours.wrap_socket(self.connection, server_side=True)
            self.setup()  # what follows on this connection is read through TLS
            self.close_connection = False

        def finish(self) -> None:
            super().finish()
            self.connection.close()

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if "/Media/" in self.path:
                return self._picture()
            url = f"https://{TWILIO}{self.path}"
            asked = requests.Request(self.command, url, headers=dict(self.headers), data=body.decode() or None)
            answer = double.answer(asked.prepare())
            return self._says(answer.status_code, "application/json", answer.content)

        do_GET = do_POST  # noqa: N815 - the base class names it so

        def _picture(self) -> None:
            name = self.path.rpartition("/")[2]
            assert self.headers["Authorization"] == _basic_auth_str(*double.login)
            if name not in asked_for:
                asked_for.add(name)
                return self._says(404, "text/plain", b"")
            return self._says(200, "image/jpeg", double.pictures[name])

        def _says(self, status: int, kind: str, content: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *arguments: object) -> None:
            """Nothing."""

    with ThreadingHTTPServer((HOST, 0), Proxy) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        try:
            here = f"http://{HOST}:{server.server_port}"
            yield {"HTTPS_PROXY": here, "REQUESTS_CA_BUNDLE": str(folder / "twilio.pem")}
        finally:
            server.shutdown()
            thread.join()
