"""Mail to a smarthost, against a real one on loopback that misbehaves as it is told."""

import asyncio
import ssl
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, Envelope, LoginPassword
from aiosmtpd.smtp import Session as SmtpSession

from gateway.config import SmtpOut
from gateway.values import Medium, NoticeKind, Outgoing, Permanent, Temporary, Uncertain
from outbound.smtp_out import SmtpSender

MAIL = b"Subject: hello\r\n\r\nfirst\r\n.second\r\n..third\r\n"
TIMEOUT = 0.3  # seconds; four times as long after the final dot


# -- a smarthost -------------------------------------------------------------------------------------------------


@dataclass
class Sink:
    """What the smarthost was given, and how it answers: a reply, "silence" or "drop"."""

    answers: dict[str, str] = field(default_factory=dict)  # by MAIL, RCPT, DATA
    mails: list[tuple[str, list[str], bytes]] = field(default_factory=list)
    connections: int = 0
    logins: list[tuple[bytes, bytes]] = field(default_factory=list)
    transports: list[Any] = field(default_factory=list)
    port: int = 0

    async def handle_EHLO(  # noqa: N802
        self, server: Any, session: SmtpSession, envelope: Envelope, hostname: str, responses: list[str]
    ) -> list[str]:
        session.host_name = hostname
        if server.transport not in self.transports:
            self.transports.append(server.transport)
            self.connections += 1
        return responses

    async def handle_MAIL(  # noqa: N802
        self, server: Any, session: SmtpSession, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        envelope.mail_from = address
        envelope.mail_options.extend(options)
        return await self._answer("MAIL", server)

    async def handle_RCPT(  # noqa: N802
        self, server: Any, session: SmtpSession, envelope: Envelope, address: str, options: list[str]
    ) -> str:
        answer = await self._answer("RCPT", server)
        if answer.startswith("250"):
            envelope.rcpt_tos.append(address)
        return answer

    async def handle_DATA(self, server: Any, session: SmtpSession, envelope: Envelope) -> str:  # noqa: N802
        assert isinstance(envelope.content, bytes)
        sender = (envelope.mail_from or "").strip("<>")  # the null sender is "<>" here
        self.mails.append((sender, envelope.rcpt_tos, envelope.content))
        return await self._answer("DATA", server)

    async def _answer(self, command: str, server: Any) -> str:
        answer = self.answers.get(command, "250 2.0.0 thank you")
        if answer == "drop":
            server.transport.abort()
        if answer == "silence":
            await asyncio.sleep(60)  # ends when the server does
        return answer

    def authenticate(self, server: Any, session: Any, envelope: Any, mechanism: str, data: Any) -> AuthResult:
        assert isinstance(data, LoginPassword)
        self.logins.append((data.login, data.password))
        return AuthResult(success=data.password == b"right", handled=False)


class FreePort(Controller):
    """aiosmtpd's controller on a port that the system chooses."""

    def _trigger_server(self) -> None:
        assert isinstance(self.server, asyncio.base_events.Server)
        self.port = self.server.sockets[0].getsockname()[1]
        super()._trigger_server()  # type: ignore[no-untyped-call]


@contextmanager
def smarthost(**options: Any) -> Iterator[Sink]:
    sink = Sink()
    if options.pop("auth", False):
        options |= {"authenticator": sink.authenticate, "auth_required": True, "require_starttls": True}
    controller = FreePort(sink, hostname="127.0.0.1", port=0, server_hostname="sink", **options)
    controller.start()
    sink.port = controller.port
    try:
        yield sink
    finally:
        controller.stop()


@contextmanager
def sender(sink: Sink, clock: Callable[[], float] | None = None, **settings: Any) -> Iterator[SmtpSender]:
    settings = {"host": "127.0.0.1", "port": sink.port, "security": "none", "timeout_seconds": TIMEOUT} | settings
    made = SmtpSender(SmtpOut(**settings), "acme.example", *([clock] if clock else []))
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def sink() -> Iterator[Sink]:
    with smarthost() as made:
        yield made


@pytest.fixture
def smtp(sink: Sink) -> Iterator[SmtpSender]:
    with sender(sink) as made:
        yield made


# -- what goes well ----------------------------------------------------------------------------------------------


def test_a_mail_arrives_as_it_was_rendered(smtp: SmtpSender, sink: Sink) -> None:
    sent = smtp.send(MAIL, "support+b@acme.example", "ann@example.com")
    assert sent.words == "2.0.0 thank you"
    assert sink.mails == [("support+b@acme.example", ["ann@example.com"], MAIL)]


def test_an_outbox_row_goes_to_its_recipient_from_its_envelope_sender(smtp: SmtpSender, sink: Sink) -> None:
    kind, created = NoticeKind.ANSWER, datetime(2026, 11, 23, tzinfo=UTC)
    row = Outgoing(1, 1, 1, kind, Medium.MAIL, "ann@example.com", None, 1, created, MAIL, "m@x", "b@acme.example", {})
    assert smtp(row).words == "2.0.0 thank you"
    assert sink.mails == [("b@acme.example", ["ann@example.com"], MAIL)]
    with pytest.raises(Permanent):
        smtp(replace(row, rendered=None))


def test_the_null_sender_is_a_sender(smtp: SmtpSender, sink: Sink) -> None:
    smtp.send(MAIL, "", "ann@example.com")
    assert sink.mails[0][0] == ""


@pytest.mark.parametrize(
    ("rendered", "arrives"),
    [
        (b"a: b\n\nlone\n", b"a: b\r\n\r\nlone\r\n"),
        (b"a: b\r\n\r\nno end", b"a: b\r\n\r\nno end\r\n"),
        (b"a: b\r\n\r\nx\n.\nMAIL FROM:<e@vil>\r\n", b"a: b\r\n\r\nx\r\n.\r\nMAIL FROM:<e@vil>\r\n"),
        (b"a: b\r\n\r\nx\r.\r\n", b"a: b\r\n\r\nx\r\n.\r\n"),
        (b".a: b\r\n\r\n", b".a: b\r\n\r\n"),
    ],
)
def test_no_line_end_smuggles_a_second_mail(smtp: SmtpSender, sink: Sink, rendered: bytes, arrives: bytes) -> None:
    smtp.send(rendered, "", "ann@example.com")
    assert [content for _, _, content in sink.mails] == [arrives]


def test_an_address_outside_ascii_goes_where_the_server_takes_it(smtp: SmtpSender, sink: Sink) -> None:
    smtp.send(MAIL, "", "müller@example.com")
    assert sink.mails[0][1] == ["müller@example.com"]


def test_and_is_refused_for_good_where_it_does_not() -> None:
    with (
        smarthost(enable_SMTPUTF8=False) as sink,
        sender(sink) as smtp,
        pytest.raises(Permanent, match="SMTPUTF8"),
    ):
        smtp.send(MAIL, "", "müller@example.com")


@pytest.mark.parametrize("address", ["a@b>\r\nRCPT TO:<c@d", "a b@example.com", "a@b\0", "<a@b>"])
def test_an_address_that_could_be_a_command_is_not_sent(smtp: SmtpSender, sink: Sink, address: str) -> None:
    with pytest.raises(Permanent):
        smtp.send(MAIL, "", address)
    with pytest.raises(Permanent):
        smtp.send(MAIL, address, "ann@example.com")
    assert sink.mails == []


# -- one connection a thread -------------------------------------------------------------------------------------


def test_a_connection_is_used_again(smtp: SmtpSender, sink: Sink) -> None:
    for _ in range(5):
        smtp.send(MAIL, "", "ann@example.com")
    assert (len(sink.mails), sink.connections) == (5, 1)


def test_and_after_a_refusal_too(smtp: SmtpSender, sink: Sink) -> None:
    sink.answers["RCPT"] = "550 no"
    with pytest.raises(Permanent):
        smtp.send(MAIL, "", "nobody@example.com")
    sink.answers.clear()
    smtp.send(MAIL, "", "ann@example.com")
    assert (sink.mails[0][1], sink.connections) == (["ann@example.com"], 1)


def test_a_connection_that_the_server_has_closed_is_made_anew(smtp: SmtpSender, sink: Sink) -> None:
    smtp.send(MAIL, "", "ann@example.com")
    sink.transports[0].abort()
    smtp.send(MAIL, "", "ann@example.com")
    assert (len(sink.mails), sink.connections) == (2, 2)


def test_an_idle_connection_is_not_trusted(sink: Sink) -> None:
    times = [0.0]
    with sender(sink, clock=lambda: times[0]) as smtp:
        smtp.send(MAIL, "", "ann@example.com")
        times[0] = 59.0
        smtp.send(MAIL, "", "ann@example.com")
        assert sink.connections == 1
        times[0] = 59.0 + 61.0
        smtp.send(MAIL, "", "ann@example.com")
        assert sink.connections == 2


def test_threads_do_not_share_one(smtp: SmtpSender, sink: Sink) -> None:
    meet = threading.Barrier(4)

    def work() -> None:
        meet.wait(5)
        for _ in range(5):
            smtp.send(MAIL, "", "ann@example.com")

    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(work) for _ in range(4)]:
            future.result()
    assert (len(sink.mails), sink.connections) == (20, 4)


# -- what goes wrong ---------------------------------------------------------------------------------------------

TABLE: list[tuple[str, str, type[Exception], str]] = [
    # when, what happens, what it is, what a person reads
    ("MAIL", "451 4.7.1 greylisted", Temporary, "MAIL: 451 4.7.1 greylisted"),
    ("MAIL", "550 5.7.1 not from you", Permanent, "MAIL: 550 5.7.1 not from you"),
    ("MAIL", "530 5.7.0 log in first", Temporary, "MAIL: 530 5.7.0 log in first"),
    ("MAIL", "421 4.3.2 closing", Temporary, "MAIL: 421 4.3.2 closing"),
    ("MAIL", "silence", Temporary, "MAIL"),
    ("MAIL", "drop", Temporary, "MAIL"),
    ("RCPT", "450 4.2.0 busy", Temporary, "RCPT: 450 4.2.0 busy"),
    ("RCPT", "550 5.1.1 no such user", Permanent, "RCPT: 550 5.1.1 no such user"),
    ("RCPT", "silence", Temporary, "RCPT"),
    ("RCPT", "drop", Temporary, "RCPT"),
    ("DATA", "451 4.3.0 try later", Temporary, "after the text: 451 4.3.0 try later"),
    ("DATA", "554 5.7.1 spam", Permanent, "after the text: 554 5.7.1 spam"),
    ("DATA", "silence", Uncertain, "no answer after the final dot"),
    ("DATA", "drop", Uncertain, "no answer after the final dot"),
]


@pytest.mark.parametrize(("when", "what", "kind", "words"), TABLE, ids=[f"{row[0]} {row[1]}" for row in TABLE])
def test_what_an_answer_means(smtp: SmtpSender, sink: Sink, when: str, what: str, kind: type, words: str) -> None:
    sink.answers[when] = what
    with pytest.raises((Temporary, Permanent)) as caught:
        smtp.send(MAIL, "", "ann@example.com")
    assert isinstance(caught.value, kind)
    assert isinstance(caught.value, Uncertain) is (kind is Uncertain), "only after the final dot"
    assert words in str(caught.value)
    sink.answers.clear()
    smtp.send(MAIL, "", "bob@example.com")  # and the next mail goes
    assert sink.mails[-1][1] == ["bob@example.com"]


def test_a_mail_that_is_too_big_is_refused_before_it_is_sent() -> None:
    with smarthost(data_size_limit=1_000) as sink, sender(sink) as smtp:
        with pytest.raises(Permanent, match="MAIL: 552"):
            smtp.send(b"a: b\r\n\r\n" + b"x" * 2_000, "", "ann@example.com")
        assert sink.mails == []


def test_nobody_listens(sink: Sink) -> None:
    with sender(sink, port=1) as smtp, pytest.raises(Temporary, match=r"127\.0\.0\.1:1: .*refused"):
        smtp.send(MAIL, "", "ann@example.com")


# -- TLS and AUTH ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def ca_file(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ca") / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return path


@pytest.fixture(scope="module")
def server_tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    return context


def test_starttls_with_a_certificate_that_we_trust(server_tls: ssl.SSLContext, ca_file: Path) -> None:
    with (
        smarthost(tls_context=server_tls, require_starttls=True) as sink,
        sender(sink, security="starttls", ca_file=str(ca_file)) as smtp,
    ):
        smtp.send(MAIL, "", "ann@example.com")
        assert len(sink.mails) == 1


def test_tls_from_the_start(server_tls: ssl.SSLContext, ca_file: Path) -> None:
    with (
        smarthost(ssl_context=server_tls) as sink,
        sender(sink, security="tls", ca_file=str(ca_file)) as smtp,
    ):
        smtp.send(MAIL, "", "ann@example.com")
        assert len(sink.mails) == 1


def test_a_certificate_that_nobody_vouches_for_is_refused(server_tls: ssl.SSLContext) -> None:
    with (
        smarthost(tls_context=server_tls) as sink,
        sender(sink, security="starttls") as smtp,
        pytest.raises(Temporary, match="certificate verify failed"),
    ):
        smtp.send(MAIL, "", "ann@example.com")


def test_without_starttls_nothing_goes_in_the_clear(sink: Sink) -> None:
    with sender(sink, security="starttls") as smtp, pytest.raises(Temporary, match="STARTTLS"):
        smtp.send(MAIL, "", "ann@example.com")
    assert sink.mails == []


def test_a_ca_file_that_is_not_there_is_our_trouble(sink: Sink) -> None:
    with sender(sink, security="starttls", ca_file="/nonexistent.pem") as smtp, pytest.raises(Temporary):
        smtp.send(MAIL, "", "ann@example.com")


def test_it_logs_in(server_tls: ssl.SSLContext, ca_file: Path) -> None:
    with (
        smarthost(auth=True, tls_context=server_tls) as sink,
        sender(sink, security="starttls", ca_file=str(ca_file), user="desk", password="right") as smtp,
    ):
        smtp.send(MAIL, "", "ann@example.com")
        assert (len(sink.mails), sink.logins) == (1, [(b"desk", b"right")])


@pytest.mark.parametrize("password", ["wrong", "größer"], ids=["wrong", "outside ASCII"])
def test_a_login_that_fails_is_our_trouble_and_no_mail_dies_of_it(
    server_tls: ssl.SSLContext, ca_file: Path, password: str
) -> None:
    with (
        smarthost(auth=True, tls_context=server_tls) as sink,
        sender(sink, security="starttls", ca_file=str(ca_file), user="desk", password=password) as smtp,
        pytest.raises(Temporary) as caught,
    ):
        smtp.send(MAIL, "", "ann@example.com")
    assert password not in str(caught.value)


def test_a_server_that_wants_a_login_we_do_not_have_is_our_trouble_too(
    server_tls: ssl.SSLContext, ca_file: Path
) -> None:
    with (
        smarthost(auth=True, tls_context=server_tls) as sink,
        sender(sink, security="starttls", ca_file=str(ca_file)) as smtp,
        pytest.raises(Temporary, match="530"),
    ):
        smtp.send(MAIL, "", "ann@example.com")
