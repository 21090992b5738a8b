"""A private Kannel for the tests: bearerbox, smsbox and two SMS centres played by its own `fakesmsc`, all on loopback.

No SMS leaves the machine: what is sent ends in the log of a `fakesmsc`. Another `fakesmsc` plays the customers.

    with desk() as listener, kannel(listener.url) as gateway:
        gateway.customer_writes("hello")      # and the listener gets Kannel's request
        gateway.arrived()                     # what came to the handsets
"""

import re
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from gateway.config import Kannel as Settings
from gateway.config import SmsNumber
from gateway.values import RawRequest, RawResponse, Receipt, Sms
from inbound.sms import kannel as inward
from tests.loopback import HOST, _folder, _running, _wait_for_log, _wait_for_ports, free_port, wait_until
from tests.servers import find, need

FAKESMSC = "/usr/lib/kannel/test/fakesmsc"
OURS, CUSTOMER = "+447700900999", "+447700900123"
SECRET, PASSWORD = "s3cret of%ours&", "open sesame"
LINE = re.compile(r"Got message \d+: <(.*)>$", re.MULTILINE)
GOT = re.compile(r"(?P<sender>\S+) (?P<to>\S+) (?:udh (?P<udh>\S+) )?(?P<kind>text|data|ucs-2) (?P<text>.*)")
CONTROL = re.compile(r"[\x00-\x09\x0b\x0e-\x1f]")
DENIED = "nobody"  # an SMS centre that no connection leads to


class Arrived(NamedTuple):
    """An SMS on a handset, its parts put together."""

    sender: str
    recipient: str
    text: str
    parts: int


@dataclass
class Desk:
    """What listens for Kannel: each request goes to `inbound.sms.kannel`, and its answer back."""

    port: int
    values: list[Sms | Receipt] = field(default_factory=list)
    offered: list[tuple[Sms, RawResponse]] = field(default_factory=list)  # also when it was busy: the driver's answer
    busy: int = 0  # to how many more messages it answers 503
    refused: list[int] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}/hooks/kannel"

    def way(self, send_url: str = "") -> SmsNumber:
        """Our number behind this Kannel."""
        settings = Settings(
            secret=SECRET, password=PASSWORD, smsc="out", **({"send_url": send_url} if send_url else {})
        )
        return SmsNumber(number=OURS, driver="kannel", kannel=settings)

    def messages(self) -> list[Sms]:
        """The messages so far."""
        with self._lock:
            return [value for value in self.values if isinstance(value, Sms)]

    def receipts(self, outbox: int) -> list[Receipt]:
        """The receipts so far for one outbox row."""
        with self._lock:
            return [value for value in self.values if isinstance(value, Receipt) and value.outbox == outbox]

    def offers(self, id: str) -> list[tuple[Sms, RawResponse]]:
        """Each time that one message came."""
        with self._lock:
            return [(sms, answer) for sms, answer in self.offered if sms.id == id]

    def wait_for_messages(self, count: int, seconds: float = 20.0) -> list[Sms]:
        """The same once there are so many. Raises TimeoutError."""
        wait_until(lambda: len(self.messages()) >= count, f"{count} messages, of {self.values}", seconds)
        return self.messages()

    def wait_for_receipts(self, outbox: int, count: int, seconds: float = 20.0) -> list[Receipt]:
        """The same once there are so many. Raises TimeoutError."""
        wait_until(
            lambda: len(self.receipts(outbox)) >= count, f"{count} receipts of {outbox}, of {self.values}", seconds
        )
        return self.receipts(outbox)

    def answer(self, method: str, path: str, headers: dict[str, str], peer: str) -> tuple[int, dict[str, str], bytes]:
        """As the web server would: the peer is told in a header of ours."""
        raw = RawRequest(method, f"http://{HOST}:{self.port}{path}", {**headers, "X-Ringback-Peer": peer}, b"")
        event = path.partition("?")[0].rpartition("/")[2]
        values, response = inward.receive(raw, event, [self.way()])
        with self._lock:
            self.offered += [(value, response) for value in values if isinstance(value, Sms)]
            if self.busy > 0 and event == "sms":
                self.busy -= 1
                return 503, {}, b"the database is busy"
            self.values += values
            if response.status != 200:
                self.refused.append(response.status)
        return response.status, dict(response.headers), response.body


@dataclass(frozen=True)
class Gateway:
    """A running Kannel."""

    send_url: str
    folder: Path
    ports: tuple[int, ...]  # all that it listens on
    in_port: int

    def customer_writes(self, text: str, kind: str = "text", sender: str = CUSTOMER, to: str = OURS) -> None:
        """A `fakesmsc` comes, hands in one SMS and goes. `kind` is text, or ucs2 for what GSM's letters do not hold."""
        if kind == "ucs2":
            text = "".join(f"%{byte:02X}" for byte in text.encode("utf-16-be"))
        with _fakesmsc(self.folder / f"customer-{free_port()}", self.in_port, 1, f"{sender} {to} {kind} {text}") as log:
            wait_until(lambda: "sent message 1" in log.read_text(errors="replace"), f"the SMS to be handed in: {log}")

    def arrived(self) -> list[Arrived]:
        """What came to the handsets so far."""
        return _put_together((self.folder / "handsets" / "log").read_text(errors="replace"))

    def wait_for_arrived(self, count: int, seconds: float = 20.0) -> list[Arrived]:
        """The same once there are so many. Raises TimeoutError."""
        seen: list[list[Arrived]] = [[]]

        def all_here() -> bool:
            """Twice the same: a text of several lines comes line by line."""
            seen.append(self.arrived())
            return len(seen[-1]) >= count and seen[-1] == seen[-2]

        wait_until(all_here, f"{count} SMS on handsets", seconds)
        return seen[-1]


@contextmanager
def desk() -> Iterator[Desk]:
    """A small web server in front of `inbound.sms.kannel`."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, headers, body = state.answer(self.command, self.path, dict(self.headers), self.client_address[0])
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments: object) -> None: ...

    with ThreadingHTTPServer((HOST, 0), Handler) as server:
        state = Desk(server.server_port)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield state
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def kannel(hooks: str) -> Iterator[Gateway]:
    """Kannel, asking the two URLs below `hooks`. Each box is in a process session of its own; nothing is kept."""
    bearerbox, smsbox = need("kannel"), find("smsbox")
    with _folder("kannel") as folder, ExitStack() as boxes:
        ports = {name: free_port() for name in ("admin", "boxes", "in", "out", "send")}
        config = folder / "kannel.conf"
        config.write_text(_config(ports, hooks))
        for name in ("bearerbox", "smsbox"):
            (folder / name).mkdir()
        alive = boxes.enter_context(_running([bearerbox, config], folder / "bearerbox", stop=signal.SIGKILL))
        _wait_for_log(folder / "bearerbox" / "log", "entering mainloop", alive)
        alive = boxes.enter_context(_running([smsbox, config], folder / "smsbox", stop=signal.SIGKILL))
        _wait_for_log(folder / "smsbox" / "log", "Connected to bearerbox", alive)
        _wait_for_ports([ports["send"]], alive)
        boxes.enter_context(_fakesmsc(folder / "handsets", ports["out"], 0, f"{CUSTOMER} {OURS} text nothing"))
        _wait_for_log(folder / "bearerbox" / "log", "Fakesmsc client connected", alive)
        yield Gateway(f"http://{HOST}:{ports['send']}/cgi-bin/sendsms", folder, tuple(ports.values()), ports["in"])


@contextmanager
def _fakesmsc(folder: Path, port: int, count: int, message: str) -> Iterator[Path]:
    folder.mkdir()
    with _running([FAKESMSC, "-H", HOST, "-r", port, "-i", "0.01", "-m", count, message], folder):
        yield folder / "log"


def _config(ports: dict[str, int], hooks: str) -> str:
    """The configuration that `inbound.sms.kannel` asks for, with two fake SMS centres: customers write to `in`, what we
    send goes to `out`."""
    escaped = "".join(f"%%{byte:02X}" if not chr(byte).isalnum() else chr(byte) for byte in SECRET.encode())
    fields = "id=%I&from=%p&to=%P&text=%b&coding=%c&charset=%C&time=%T"
    return f"""
group = core
admin-port = {ports["admin"]}
admin-interface = {HOST}
admin-password = {PASSWORD}
smsbox-port = {ports["boxes"]}
smsbox-interface = {HOST}
box-allow-ip = {HOST}
dlr-storage = internal

group = smsc
smsc = fake
smsc-id = in
port = {ports["in"]}
our-host = {HOST}
connect-allow-ip = {HOST}
allowed-smsc-id = in

group = smsc
smsc = fake
smsc-id = out
port = {ports["out"]}
our-host = {HOST}
connect-allow-ip = {HOST}
denied-smsc-id = {DENIED}

group = smsbox
bearerbox-host = {HOST}
sendsms-port = {ports["send"]}
sendsms-interface = {HOST}
mo-recode = true
http-request-retry = 3
http-queue-delay = 1

group = sms-service
keyword = default
get-url = "{hooks}/sms?secret={escaped}&{fields}"
max-messages = 0
omit-empty = true

group = sendsms-user
username = ringback
password = {PASSWORD}
concatenation = true
max-messages = 30
"""


def _put_together(log: str) -> list[Arrived]:
    """Reads what a `fakesmsc` got: a part of a long SMS has a header 05 00 03 <reference> <parts> <part> (3GPP 23.040,
    9.2.3.24.1), and comes after the one before it."""
    arrived: list[Arrived] = []
    text = ""
    for line in LINE.findall(log):
        if not (got := GOT.match(line)):  # `fakesmsc` takes what stands behind a line break for another message
            arrived[-1] = arrived[-1]._replace(text=f"{arrived[-1].text}\n{line}")
            continue
        text += got["text"] if got["kind"] == "text" else _decoded(got["text"])
        parts, part = unquote_to_bytes(got["udh"])[4:6] if got["udh"] else (1, 1)
        if part == parts:
            arrived.append(Arrived(got["sender"], got["to"], text, parts))
            text = ""
    return arrived


def _decoded(text: str) -> str:
    """UTF-8 or UTF-16: of a part of a long SMS the log does not say which, but only one has control characters."""
    octets = unquote_to_bytes(text.replace("+", " "))
    try:
        decoded = octets.decode()
    except UnicodeDecodeError:
        return octets.decode("utf-16-be")
    return octets.decode("utf-16-be") if CONTROL.search(decoded) else decoded
