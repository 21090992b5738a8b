"""Rigs for the contract: a Kannel played and a real one, an HTTP provider, a mail gateway, and the file driver."""

from __future__ import annotations

import base64
import hmac
import json
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, quote, urlsplit

import pytest
import requests
from aiosmtpd.controller import Controller

import inbound.sms.file
import inbound.sms.http
import inbound.sms.kannel
import outbound.sms.email
import outbound.sms.kannel
from gateway.config import Config, HttpSms, Kannel, MailSms, SmsNumber, Smtp, SmtpOut
from gateway.values import Delivery, RawRequest, Receipt, Sent
from outbound.sms.http import asker
from tests.loopback import HOST, free_port, wait_until
from tests.sms import kannel_server
from tests.sms.contract import (
    FORGERY,
    INBOUND,
    METHODS,
    OURS,
    PICTURES,
    RECEIPTS,
    SINCE,
    THEIRS,
    Heard,
    MakeRig,
    Outcome,
)

SECRET = "open sesame"
HOOKS = "https://desk.example.org/hooks/sms"
SECONDS = 0.4  # how long a driver waits for a provider that says nothing


class Asked(NamedTuple):
    """A request that a provider got."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


class Said(NamedTuple):
    """Its answer; `reset`: the connection is cut in its place."""

    status: int
    body: str = ""
    headers: Mapping[str, str] = {}
    reset: bool = False


@contextmanager
def provider(answer: Callable[[Asked], Said | None]) -> Iterator[str]:
    """An HTTP server on loopback that answers as it is told, None not at all; yields its URL."""
    over = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def handle_one(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            said = answer(Asked(self.command, self.path, dict(self.headers), body))
            if said is None:
                over.wait(10)
            elif not said.reset:
                content = said.body.encode()
                self.send_response(said.status)
                for name, value in {**said.headers, "Content-Length": str(len(content))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

        do_GET = do_POST = handle_one  # noqa: N815

        def log_message(self, *arguments: object) -> None: ...

    with ThreadingHTTPServer((HOST, 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield f"http://{HOST}:{server.server_port}"
        finally:
            over.set()
            server.shutdown()
            thread.join()


# -- a Kannel, played --------------------------------------------------------------------------------------------

DLR = {Delivery.DELIVERED: "1", Delivery.UNDELIVERED: "2", Delivery.SENT: "8"}
NO_OPT_OUT: dict[str, str] = {Outcome.OPTED_OUT: "it keeps no list of who wants no SMS"}
KANNEL_SAYS = {
    Outcome.RETRY: Said(503, "Temporal failure, try again later."),
    Outcome.UNCERTAIN: None,
    Outcome.NUMBER: Said(400, "Number(s) has/have been denied by white- and/or black-lists."),
    Outcome.CONFIG: Said(403, "Not routable. Do not try again."),
    Outcome.ACCOUNT: Said(403, "Authorization failed for sendsms"),
}


@dataclass
class KannelRig:
    """What it takes it keeps, with the URL for receipts."""

    way: SmsNumber
    name: str = "kannel"
    methods: tuple[str, ...] = ("GET",)
    cannot: Mapping[str, str] = field(default_factory=lambda: NO_OPT_OUT | {PICTURES: "MMS is not SMS"})
    kept: list[dict[str, str]] = field(default_factory=list)
    meets: Outcome = Outcome.TAKEN

    def answer(self, asked: Asked) -> Said | None:
        """As `sendsms` does."""
        meets, self.meets = self.meets, Outcome.TAKEN
        if meets in (Outcome.TAKEN, Outcome.UNCERTAIN):
            self.kept.append(_fields(asked.path))
        return KANNEL_SAYS.get(meets, Said(202, "0: Accepted for delivery"))

    def deliver(self, text: str, number: int = 1, pictures: int = 0, forged: bool = False, method: str = "") -> Heard:
        secret = "guessed" if forged else SECRET
        fields = {"secret": secret, "id": f"uuid-{number}", "from": THEIRS, "to": OURS, "text": text, "coding": "0"}
        return self._ask(f"{HOOKS}/sms?{_query(fields)}", "sms", method or "GET")

    def report(self, sent: Sent, outbox: int, status: Delivery, forged: bool = False) -> Heard:
        (url,) = {kept["dlr-url"] for kept in self.kept if f"m={outbox}&" in kept["dlr-url"]}
        return self._ask(_receipt_of(url, status).replace("sesame", "?" if forged else "sesame"), "status", "GET")

    def next_meets(self, outcome: Outcome) -> None:
        self.meets = outcome

    def taken(self) -> list[tuple[str, str, str]]:
        return [(kept["from"], kept["to"], kept["text"]) for kept in self.kept]

    def _ask(self, url: str, event: str, method: str) -> Heard:
        raw = RawRequest(method, url, {"X-Ringback-Peer": HOST}, b"")
        return Heard(*inbound.sms.kannel.receive(raw, event, [self.way]))


@contextmanager
def kannel(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KannelRig]:
    monkeypatch.setattr(outbound.sms.kannel, "TIMEOUT", SECONDS)
    rig = KannelRig(_kannel_way("http://unset"))
    with provider(rig.answer) as url:
        rig.way = _kannel_way(f"{url}/cgi-bin/sendsms")
        yield rig


def _kannel_way(send_url: str) -> SmsNumber:
    return SmsNumber(number=OURS, driver="kannel", kannel=Kannel(secret=SECRET, send_url=send_url))


def _receipt_of(url: str, status: Delivery) -> str:
    """Kannel's escapes, filled in as it does."""
    return url.replace("%d", DLR[status]).replace("%A", "").replace("%%", "%")


def _fields(path: str) -> dict[str, str]:
    return {name: values[-1] for name, values in parse_qs(urlsplit(path).query).items()}


def _query(fields: Mapping[str, str]) -> str:
    return "&".join(f"{name}={quote(value)}" for name, value in fields.items())


# -- a Kannel that runs ------------------------------------------------------------------------------------------

REFUSED_BY = {
    Outcome.NUMBER: {"to": "nobody"},
    Outcome.CONFIG: {"smsc": kannel_server.DENIED},
    Outcome.ACCOUNT: {"password": "guessed"},
}


@dataclass
class RealKannelRig:
    """Customers and handsets are two `fakesmsc`. What it is to refuse it is asked in a way that it does refuse."""

    listener: kannel_server.Desk
    gateway: kannel_server.Gateway
    way: SmsNumber
    silent: str
    name: str = "kannel"
    methods: tuple[str, ...] = ("GET",)
    cannot: Mapping[str, str] = field(
        default_factory=lambda: (
            NO_OPT_OUT | {PICTURES: "MMS is not SMS", FORGERY: "it knows its secret", METHODS: "it only uses GET"}
        )
    )
    meets: Outcome = Outcome.TAKEN
    written: dict[int, str] = field(default_factory=dict)  # number -> Kannel's id
    urls: dict[int, str] = field(default_factory=dict)  # outbox id -> the URL for its receipts
    accepted: int = 0

    def ask(self, request: requests.Request) -> requests.Response:
        """The driver's own client, but for what the next message meets."""
        meets, self.meets = self.meets, Outcome.TAKEN
        assert isinstance(request.params, dict)
        url = str(request.params["dlr-url"])
        self.urls[int(parse_qs(urlsplit(url).query)["m"][0])] = url
        request.params |= REFUSED_BY.get(meets, {})
        if meets in (Outcome.RETRY, Outcome.UNCERTAIN):
            request.url = self.silent if meets is Outcome.UNCERTAIN else f"http://{HOST}:{free_port()}"
        response = asker(SECONDS, directly=True)(request)
        self.accepted += response.status_code == 202
        return response

    def deliver(self, text: str, number: int = 1, pictures: int = 0, forged: bool = False, method: str = "") -> Heard:
        """The first time we are busy, so that Kannel comes again by itself with the same message."""
        if number in self.written:
            id = self.written[number]
            wait_until(lambda: len(self.listener.offers(id)) == 2, "the same message again")
        else:
            known = {sms.id for sms, _ in self.listener.offered}
            self.listener.busy = 1
            self.gateway.customer_writes(text, "text" if text.isascii() and "\n" not in text else "ucs2")
            wait_until(lambda: {sms.id for sms, _ in self.listener.offered} > known, f"the message {text!r}")
            (id,) = {sms.id for sms, _ in self.listener.offered} - known
            self.written[number] = id
        sms, answer = self.listener.offers(id)[-1]
        return Heard([sms], answer)

    def report(self, sent: Sent, outbox: int, status: Delivery, forged: bool = False) -> Heard:
        """What `fakesmsc` never says, that it was not delivered, we say in Kannel's place."""
        if status is Delivery.UNDELIVERED:
            requests.get(_receipt_of(self.urls[outbox], status), timeout=5)

        def said() -> list[Receipt]:
            return [receipt for receipt in self.listener.receipts(outbox) if receipt.status is status]

        wait_until(lambda: bool(said()), f"{status} of {outbox}")
        return Heard([said()[-1]], None)

    def next_meets(self, outcome: Outcome) -> None:
        self.meets = outcome

    def taken(self) -> list[tuple[str, str, str]]:
        return [(sms.sender, sms.recipient, sms.text) for sms in self.gateway.wait_for_arrived(self.accepted)]


@contextmanager
def real_kannel(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RealKannelRig]:
    make_url = outbound.sms.kannel.receipt_url
    with (
        kannel_server.desk() as listener,
        kannel_server.kannel(listener.url) as gateway,
        socket.create_server((HOST, 0)) as silent,
    ):
        rig = RealKannelRig(
            listener, gateway, listener.way(gateway.send_url), f"http://{HOST}:{silent.getsockname()[1]}"
        )
        # Nothing leaves this machine: the receipts come to our listener, whatever host the contract names
        monkeypatch.setattr(
            outbound.sms.kannel,
            "receipt_url",
            lambda callback, secret: make_url(callback.replace(HOOKS, listener.url), secret),
        )
        monkeypatch.setattr(outbound.sms.kannel, "connect", lambda way, config: rig.ask)
        yield rig


real_kannel.__name__ = "kannel (real)"


# -- any provider with an HTTP interface -------------------------------------------------------------------------

HTTP_SAYS = {
    Outcome.RETRY: Said(429, "slow down", {"Retry-After": "7"}),
    Outcome.UNCERTAIN: None,
    Outcome.CONFIG: Said(301, "moved", {"Location": "http://192.0.2.1/"}),
    Outcome.ACCOUNT: Said(401, '{"error": {"code": 20003, "text": "no such key"}}'),
}


@dataclass
class HttpRig:
    """It is asked in JSON and posts JSON."""

    way: SmsNumber
    name: str = "http"
    methods: tuple[str, ...] = ("POST",)
    cannot: Mapping[str, str] = field(
        default_factory=lambda: {
            PICTURES: "the mapping has no field for them",
            Outcome.NUMBER: "what its codes mean nobody told us: unknown",
            Outcome.OPTED_OUT: "what its codes mean nobody told us: unknown",
        }
    )
    kept: list[dict[str, Any]] = field(default_factory=list)
    meets: Outcome = Outcome.TAKEN

    def answer(self, asked: Asked) -> Said | None:
        """As most do: with a name for the message."""
        meets, self.meets = self.meets, Outcome.TAKEN
        if meets in (Outcome.TAKEN, Outcome.UNCERTAIN):
            self.kept.append(json.loads(asked.body))
        return HTTP_SAYS.get(meets, Said(201, json.dumps({"messages": [{"id": f"sent-{len(self.kept)}"}]})))

    def deliver(self, text: str, number: int = 1, pictures: int = 0, forged: bool = False, method: str = "") -> Heard:
        body = {"message": {"id": number, "from": THEIRS, "to": OURS, "text": text}}
        return self._post(body, f"{HOOKS}/sms", forged, method or "POST")

    def report(self, sent: Sent, outbox: int, status: Delivery, forged: bool = False) -> Heard:
        (url,) = {kept["hook"] for kept in self.kept if kept["ref"] == str(outbox)}
        body = {"message": {"id": sent.provider_id, "state": status.upper()}, "error": {"code": 7}}
        return self._post(body, url, forged, "POST")

    def next_meets(self, outcome: Outcome) -> None:
        self.meets = outcome

    def taken(self) -> list[tuple[str, str, str]]:
        return [(kept["from"], kept["to"], kept["text"]) for kept in self.kept]

    def _post(self, body: Any, url: str, forged: bool, method: str) -> Heard:
        content = json.dumps(body).encode()
        mac = hmac.digest(b"guessed" if forged else SECRET.encode(), content, "sha256")
        raw = RawRequest(method, url, {"X-Signature": base64.b64encode(mac).decode()}, content)
        event = url.partition("?")[0].rpartition("/")[2]
        return Heard(*inbound.sms.http.receive(raw, event, [self.way]))


@contextmanager
def http(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HttpRig]:
    rig = HttpRig(_http_way("http://unset"))
    with provider(rig.answer) as url:
        rig.way = _http_way(url)
        yield rig


def _http_way(url: str) -> SmsNumber:
    settings = HttpSms(
        url=f"{url}/send",
        body='{"from": "{from}", "to": "{to}", "text": "{text}", "ref": "{id}", "hook": "{callback}"}',
        id_path="messages.0.id",
        timeout_seconds=SECONDS,
        secret=SECRET,
        field_id="message.id",
        field_from="message.from",
        field_to="message.to",
        field_text="message.text",
        field_status="message.state",
        field_code="error.code",
        statuses={"SENT": "sent", "DELIVERED": "delivered", "UNDELIVERED": "undelivered"},
    )
    return SmsNumber(number=OURS, driver="http", http=settings)


# -- a mail gateway ----------------------------------------------------------------------------------------------

MAIL_SAYS = {Outcome.RETRY: "450 4.2.1 later", Outcome.NUMBER: "550 5.1.1 no such number"}


@dataclass
class MailRig:
    """Takes mail to `<number>@sms.example` and sends it on."""

    way: SmsNumber
    name: str = "email"
    methods: tuple[str, ...] = ()
    cannot: Mapping[str, str] = field(
        default_factory=lambda: {
            INBOUND: "replies come as mail, if at all",
            PICTURES: "it sends text",
            RECEIPTS: "it reports nothing",
            FORGERY: "nothing comes in",
            METHODS: "it has no webhooks",
            Outcome.OPTED_OUT: "it takes the mail and says nothing",
            Outcome.ACCOUNT: "a login that fails is the mail server's trouble: it is tried again",
        }
    )
    kept: list[tuple[str, str, str]] = field(default_factory=list)
    meets: Outcome = Outcome.TAKEN

    async def handle_MAIL(  # noqa: N802
        self, server: Any, session: Any, envelope: Any, address: str, options: list[str]
    ) -> str:
        envelope.mail_from = address
        if self.meets is Outcome.CONFIG:
            self.meets = Outcome.TAKEN
            return "550 5.7.1 you may not send"
        return "250 ok"

    async def handle_RCPT(  # noqa: N802
        self, server: Any, session: Any, envelope: Any, address: str, options: list[str]
    ) -> str:
        if self.meets in MAIL_SAYS:
            meets, self.meets = self.meets, Outcome.TAKEN
            return MAIL_SAYS[meets]
        envelope.rcpt_tos.append(address)
        return "250 ok"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802
        mail = message_from_bytes(envelope.content, policy=policy.default)
        (recipient,) = envelope.rcpt_tos
        text = str(mail.get_content()).replace("\r\n", "\n").removesuffix("\n")
        self.kept.append((OURS, f"+{recipient.partition('@')[0]}", text))
        if self.meets is Outcome.UNCERTAIN:
            self.meets = Outcome.TAKEN
            server.transport.abort()
        return "250 ok"

    def deliver(self, text: str, number: int = 1, pictures: int = 0, forged: bool = False, method: str = "") -> Heard:
        raise NotImplementedError(self.cannot[INBOUND])

    def report(self, sent: Sent, outbox: int, status: Delivery, forged: bool = False) -> Heard:
        raise NotImplementedError(self.cannot[RECEIPTS])

    def next_meets(self, outcome: Outcome) -> None:
        self.meets = outcome

    def taken(self) -> list[tuple[str, str, str]]:
        return list(self.kept)


@contextmanager
def email(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MailRig]:
    rig = MailRig(SmsNumber(number="ACME", driver="email", email=MailSms(domain="sms.example")))
    connect = outbound.sms.email.connect
    posts: list[outbound.sms.email.Post] = []

    def with_server(way: SmsNumber, config: Config) -> outbound.sms.email.Post:
        out = SmtpOut(host=HOST, port=controller.port, security="none", timeout_seconds=SECONDS)
        posts.append(connect(way, config.model_copy(update={"smtp": Smtp(out=out)})))
        return posts[-1]

    monkeypatch.setattr(outbound.sms.email, "connect", with_server)
    controller = Controller(rig, hostname=HOST, port=free_port())
    controller.start()
    try:
        yield rig
    finally:
        for post in posts:
            assert post.smtp is not None
            post.smtp.close()
        controller.stop()


# -- files -------------------------------------------------------------------------------------------------------


@dataclass
class FileRig:
    """The folders of an installation."""

    folder: Path
    way: SmsNumber = field(default_factory=lambda: SmsNumber(number=OURS))
    name: str = "file"
    methods: tuple[str, ...] = ()
    cannot: Mapping[str, str] = field(
        default_factory=lambda: (
            dict.fromkeys(map(str, set(Outcome) - {Outcome.TAKEN}), "a file is always taken")
            | {
                PICTURES: "a file is a text",
                RECEIPTS: "nobody gets it",
                FORGERY: "who may write into the folder may send",
                METHODS: "it has no webhooks",
            }
        )
    )

    def deliver(self, text: str, number: int = 1, pictures: int = 0, forged: bool = False, method: str = "") -> Heard:
        """Somebody writes a file, and takes it away before it is moved: the next time it is a new delivery."""
        path = self.folder / "incoming" / f"{number}.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"From: {THEIRS}\nTo: {OURS}\n\n{text}\n")
        values = inbound.sms.file.poll(self.way, SINCE, self.folder)
        inbound.sms.file._returned.clear()
        path.unlink()
        return Heard(values, None)

    def report(self, sent: Sent, outbox: int, status: Delivery, forged: bool = False) -> Heard:
        raise NotImplementedError(self.cannot[RECEIPTS])

    def next_meets(self, outcome: Outcome) -> None:
        raise NotImplementedError(self.cannot[outcome])

    def taken(self) -> list[tuple[str, str, str]]:
        parts = [path.read_text().split("\n", 3) for path in sorted((self.folder / "outgoing").glob("*.sms.txt"))]
        return [
            (sender.removeprefix("From: "), to.removeprefix("To: "), text.removesuffix("\n"))
            for sender, to, _, text in parts
        ]


@contextmanager
def file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FileRig]:
    monkeypatch.setattr(Config, "folder", folder)
    yield FileRig(folder)
    inbound.sms.file._returned.clear()


OTHERS: list[MakeRig] = [kannel, real_kannel, http, email, file]
