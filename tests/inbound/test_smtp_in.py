"""The SMTP listener, spoken to over a real port; `accept` is a double that keeps arrivals in memory."""

import asyncio
import concurrent.futures
import contextlib
import hashlib
import logging
import random
import shutil
import smtplib
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trustme
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.config import Config, ConfigError, parse
from gateway.values import Arrival, Permanent, Temporary
from inbound import smtp_in
from inbound.smtp_in import Listener, delivery_key, listen, path_and_parameters, unstuffed

SUPPORT = "support@desk.example"
SALES = "sales@desk.example"  # without plus addressing
MAIL = b"From: ann@hillcrest.example\r\nSubject: The boiler is cold\r\n\r\nPlease help.\r\n"

Future = concurrent.futures.Future


def done(error: BaseException | None = None) -> "Future[None]":
    future: Future[None] = Future()
    if error is None:
        future.set_result(None)
    else:
        future.set_exception(error)
    return future


def config_with(folder: Path, **smtp: Any) -> Config:
    smtp = {"port": 0, "hostname": "mx.desk.example", "min_free_mb": 0} | smtp
    inboxes = [{"address": SUPPORT}, {"address": SALES, "addressing": "no"}]
    table = {"mail": {"domain": "desk.example"}, "inboxes": inboxes, "smtp": {"in": smtp}, "data": {"dir": str(folder)}}
    return parse(table, {})


class Running:
    """A listener in a loop of its own thread, and what it was given to keep."""

    def __init__(self, config: Config) -> None:
        self.kept: list[Arrival] = []
        self.answer: Callable[[], Future[None]] = done
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self.listener: Listener = self.run(listen(config, self._accept))
        self.port = self.listener.address[1]

    def _accept(self, arrival: Arrival) -> "Future[None]":
        self.kept.append(arrival)
        return self.answer()

    def run(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(20)

    def call(self, function: Callable[[], None]) -> None:
        self._loop.call_soon_threadsafe(function)

    def stop(self) -> None:
        self.run(self.listener.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()

    @property
    def raw(self) -> list[bytes]:
        return [arrival.raw for arrival in self.kept]

    def until_kept(self, count: int, seconds: float = 5) -> None:
        eventually(lambda: len(self.kept) >= count, seconds)


def eventually(true: Callable[[], bool], seconds: float = 5) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.005)


Start = Callable[..., Running]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts listeners with other settings; stops them at the end."""
    running: list[Running] = []

    def one(**smtp: Any) -> Running:
        running.append(Running(config_with(tmp_path, **smtp)))
        return running[-1]

    yield one
    for each in running:
        each.stop()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One listener with the default settings for all tests that only talk."""
    running = Running(config_with(tmp_path_factory.mktemp("data"), max_connections_per_address=200))
    yield running
    running.stop()


@pytest.fixture
def server(shared: Running) -> Iterator[Running]:
    shared.kept.clear()
    yield shared
    shared.answer = done


class Client:
    """A client that says exactly what it is told and tells what it hears."""

    def __init__(self, port: int, hello: bool = True, source: str = "127.0.0.1") -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=5, source_address=(source, 0))
        self.file = self.socket.makefile("rb")
        self.greeting = self.hear()
        if hello:
            self.features = self.say(b"EHLO client.example")

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def hear(self) -> str:
        """One answer, all its lines; "" when the server has closed."""
        lines = []
        try:
            while line := self.file.readline():
                lines.append(line.decode())
                if line[3:4] == b" ":
                    break
        except ConnectionResetError:
            pass
        return "".join(lines).rstrip("\r\n")

    def say(self, line: bytes) -> str:
        self.send(line + b"\r\n")
        return self.hear()

    def begin(self, *recipients: str, sender: str = "ann@hillcrest.example") -> str:
        """MAIL, RCPT and DATA; returns the last answer."""
        assert self.say(f"MAIL FROM:<{sender}>".encode()).startswith("250 2.1.0")
        for recipient in recipients or (SUPPORT,):
            assert self.say(f"RCPT TO:<{recipient}>".encode()).startswith("250 2.1.5")
        return self.say(b"DATA")

    def deliver(self, body: bytes, *recipients: str) -> str:
        """A whole mail; `body` is sent as it stands, and the final dot behind it."""
        assert self.begin(*recipients).startswith("354 ")
        return self.say(body + b".")

    def close(self) -> None:
        self.file.close()
        self.socket.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


# -- taking a mail -----------------------------------------------------------------------------------------------


def test_a_mail_is_kept_as_it_came_with_its_envelope(server: Running) -> None:
    with Client(server.port) as client:
        assert client.deliver(MAIL, SUPPORT, "SALES@Desk.Example") == "250 2.0.0 Ok: kept"
    [arrival] = server.kept
    assert arrival.raw == MAIL
    assert arrival.envelope.sender == "ann@hillcrest.example"
    assert arrival.envelope.recipients == (SUPPORT, SALES)
    assert (arrival.envelope.path, arrival.envelope.peer) == ("smtp", "127.0.0.1")
    assert arrival.key == delivery_key(MAIL, [SUPPORT, SALES])
    assert arrival.received.utcoffset() is not None


def test_the_key_is_the_same_whatever_the_order_of_recipients() -> None:
    raw, people = hashlib.sha256(b"x").hexdigest(), hashlib.sha256(b"a@b\nc@d").hexdigest()
    assert delivery_key(b"x", ["c@d", "a@b"]) == delivery_key(b"x", ("a@b", "c@d")) == f"mail:{raw}:{people}"


def test_250_comes_only_when_the_mail_is_committed(server: Running) -> None:
    waiting: Future[None] = Future()
    server.answer = lambda: waiting
    with Client(server.port) as client:
        client.begin()
        client.send(MAIL + b".\r\n")
        server.until_kept(1)
        client.socket.settimeout(0.2)
        with pytest.raises(TimeoutError):
            client.socket.recv(1)
        waiting.set_result(None)
        client.socket.settimeout(5)
        assert client.socket.recv(100) == b"250 2.0.0 Ok: kept\r\n"


@pytest.mark.parametrize("error", [RuntimeError("db password=hunter2"), Temporary("full"), Permanent("x"), OSError(28)])
def test_a_mail_that_cannot_be_kept_is_answered_451_without_a_reason(
    server: Running, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    server.answer = lambda: done(error)
    with Client(server.port) as client, caplog.at_level(logging.ERROR):
        assert client.deliver(MAIL) == "451 4.3.0 Please try again later"
        server.answer = done
        assert client.deliver(MAIL).startswith("250 "), "and the connection is still good"
    [record] = caplog.records
    assert "was not kept" in record.getMessage()
    assert "\n" not in record.getMessage()
    assert record.exc_info is None


def test_an_accept_that_raises_or_is_called_off_is_451_too(server: Running) -> None:
    def breaks() -> "Future[None]":
        raise ValueError("at once")

    called_off: Future[None] = Future()
    called_off.cancel()
    with Client(server.port) as client:
        for answer in (breaks, lambda: called_off):
            server.answer = answer
            assert client.deliver(MAIL) == "451 4.3.0 Please try again later"


def test_an_error_of_ours_in_a_command_is_451_too(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(_: str) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr(smtp_in, "path_and_parameters", breaks)
    with Client(server.port) as client:
        assert client.say(b"MAIL FROM:<a@b.example>") == "451 4.3.0 Please try again later"
        assert client.say(b"NOOP") == "250 2.0.0 Ok"


def test_a_client_that_leaves_before_the_answer_does_not_stop_the_keeping(server: Running) -> None:
    waiting: Future[None] = Future()
    server.answer = lambda: waiting
    with Client(server.port) as client:
        client.begin()
        client.send(MAIL + b".\r\n")
        server.until_kept(1)
    with Client(server.port) as other:  # by now the first one is known to be gone
        assert other.say(b"NOOP").startswith("250")
    assert not waiting.cancelled()
    waiting.set_result(None)


def test_a_client_that_leaves_before_the_dot_delivers_nothing(server: Running) -> None:
    for end in (b"", b".", b".\r", b"\r\n."):
        with Client(server.port) as client:
            client.begin()
            client.send(MAIL + end)
    with Client(server.port) as client:
        client.deliver(b"the next one\r\n")
    assert server.raw == [b"the next one\r\n"]


def test_a_client_that_closes_its_sending_side_is_answered(server: Running) -> None:
    with Client(server.port) as client:
        client.send(b"MAIL FROM:<>\r\nRCPT TO:<support@desk.example>\r\nDATA\r\n" + MAIL + b".\r\n")
        client.socket.shutdown(socket.SHUT_WR)
        assert [client.hear()[:3] for _ in range(5)] == ["250", "250", "354", "250", ""]
    assert server.raw == [MAIL]


def test_pipelined_mails_are_two_mails(server: Running) -> None:
    one = b"MAIL FROM:<>\r\nRCPT TO:<support@desk.example>\r\nDATA\r\n"
    with Client(server.port) as client:
        client.send(one + b"first\r\n.\r\n" + one + b"second\r\n.\r\nQUIT\r\n")
        assert [client.hear()[:3] for _ in range(9)] == ["250", "250", "354", "250", "250", "250", "354", "250", "221"]
        assert client.hear() == ""
    assert server.raw == [b"first\r\n", b"second\r\n"]


def test_an_empty_mail_is_a_mail(server: Running) -> None:
    with Client(server.port) as client:
        assert client.deliver(b"") == "250 2.0.0 Ok: kept"
    assert server.raw == [b""]


def test_a_line_of_five_million_bytes_is_taken_as_it_is(server: Running) -> None:
    long = b"Subject: " + random.Random(5).randbytes(5_000_000).replace(b"\r", b"").replace(b"\n", b"") + b"\r\n"
    with Client(server.port) as client:
        assert client.deliver(long) == "250 2.0.0 Ok: kept"
    assert server.raw == [long]
    assert server.kept[0].key == delivery_key(long, [SUPPORT])


@pytest.mark.parametrize(
    "end",
    [
        *(b"\n.\n", b"\n.\r\n", b"\r\n.\n", b"\r.\r", b"\r.\r\n", b"\r\n.\r", b"\r\n.\r\r\n", b"\r\r\n.\r\r\n"),
        *(b"\r\n.\0\r\n", b"\r\n\0.\r\n", b"\x85.\x85", b"\n\n.\r\n", b"\r\n.\t\r\n", b"\r\n. \r\n"),
    ],
)
def test_only_crlf_dot_crlf_ends_a_mail(server: Running, end: bytes) -> None:
    smuggled = (
        b"before" + end + b"MAIL FROM:<evil@elsewhere.example>\r\nRCPT TO:<support@desk.example>\r\nDATA\r\nx\r\n"
    )
    with Client(server.port) as client:
        assert client.deliver(smuggled) == "250 2.0.0 Ok: kept"
        assert client.say(b"NOOP") == "250 2.0.0 Ok"
    [raw] = server.raw
    assert raw == smuggled.replace(b"\r\n.", b"\r\n")  # the one dot that the sender would have doubled
    assert b"MAIL FROM:<evil" in raw


def stuffed(body: bytes) -> bytes:
    """What a correct client sends (RFC 5321 4.5.2), independently of how we undo it."""
    return b"\r\n".join(b"." + line if line.startswith(b".") else line for line in body.split(b"\r\n"))


BODIES = st.lists(st.sampled_from([b"\r\n", b"\r", b"\n", b".", b"..", b"a", b"\0", b"\xff"]), max_size=40).map(
    b"".join
)


@given(BODIES)
@settings(max_examples=300)
def test_dots_at_the_start_of_lines_come_back(body: bytes) -> None:
    assert unstuffed(stuffed(body + b"\r\n")) == body + b"\r\n"


@given(BODIES, st.lists(st.integers(1, 6), max_size=30))
@settings(max_examples=60, deadline=None)
def test_a_mail_comes_back_however_it_is_cut_into_packets(body: bytes, cuts: list[int]) -> None:
    class Pieces:
        def __init__(self, data: bytes) -> None:
            self.left, self.cuts = data, iter(cuts)

        async def more(self) -> bytes:
            size = next(self.cuts, 1_000)
            piece, self.left = self.left[:size], self.left[size:]
            return piece

    async def read() -> tuple[bytes, bytes]:
        config = config_with(Path())
        conversation = smtp_in.Conversation(Listener(config, lambda _: done()))
        pieces = Pieces(stuffed(body + b"\r\n") + b".\r\nNOOP\r\n")
        conversation._more = pieces.more  # type: ignore[method-assign]
        parts: list[bytes] = []
        assert await conversation._read_mail(parts) == ""
        conversation._timeout_handle.cancel()  # type: ignore[union-attr]
        return smtp_in.finished(parts, [])[0], bytes(conversation._pending) + pieces.left

    assert asyncio.run(read()) == (body + b"\r\n", b"NOOP\r\n")


# -- size --------------------------------------------------------------------------------------------------------


def test_a_mail_that_says_it_is_too_big_is_refused_at_once(server: Running) -> None:
    with Client(server.port) as client:
        assert client.say(b"MAIL FROM:<a@b.example> SIZE=200000000") == "552 5.3.4 Message too big"
        assert client.say(b"MAIL FROM:<a@b.example> SIZE=36700160 BODY=8BITMIME SMTPUTF8") == "250 2.1.0 Ok"


def test_a_mail_that_is_too_big_is_refused_after_its_dot_and_the_next_one_is_taken(start: Start) -> None:
    server = start(max_message_bytes=100_000)
    dots = b".\r\n" * 33_333  # 99,999 bytes, and a third more on the wire
    with Client(server.port) as client:
        assert client.deliver(b"x" * 99_998 + b"\r\n").startswith("250 ")  # exactly as large as may be
        assert client.deliver(b"x" * 99_999 + b"\r\n") == "552 5.3.4 Message too big"
        assert client.deliver(stuffed(dots)).startswith("250 ")
        assert client.deliver(b"x" * 3_000_000 + b"\r\n") == "552 5.3.4 Message too big"
        assert server.listener.held == 0
        assert client.deliver(MAIL).startswith("250 ")
    assert [len(raw) for raw in server.raw] == [100_000, 99_999, len(MAIL)]


def test_large_mails_wait_while_memory_is_full_and_small_ones_do_not(start: Start) -> None:
    server = start(max_message_bytes=400_000)
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(Client(server.port)) for _ in range(5)]
        for client in slow:
            client.begin()
            client.send(b"x" * 390_000)
        eventually(lambda: server.listener.held > 1_500_000)
        with Client(server.port) as other:
            assert other.deliver(b"x" * 390_000 + b"\r\n") == "452 4.3.1 Insufficient system storage"
            assert other.deliver(MAIL).startswith("250 ")
        assert sorted(client.say(b"\r\n.")[:3] for client in slow) == ["250"] * 4 + ["452"]
    eventually(lambda: server.listener.held == 0)


def test_while_the_disk_is_nearly_full_senders_are_asked_to_come_back(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = start(min_free_mb=1)
    monkeypatch.setattr(smtp_in, "DISK_SECONDS", 0)
    with Client(server.port) as client:
        with monkeypatch.context() as full:
            full.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": 999_999})())
            assert client.say(b"MAIL FROM:<a@b.example>") == "452 4.3.1 Insufficient system storage"
        assert client.say(b"MAIL FROM:<a@b.example>") == "250 2.1.0 Ok"


# -- who may be written to, and by whom --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("recipient", "answer"),
    [
        ("<support@desk.example>", "250 2.1.5"),
        ("support@desk.example", "250 2.1.5"),  # devices leave the brackets out
        (" <SUPPORT@DESK.EXAMPLE.>", "250 2.1.5"),
        ("<@relay.example,@b.example:support@desk.example>", "250 2.1.5"),
        ("<support+ca.1001.7.3.abcdefghijklmnop@desk.example>", "250 2.1.5"),
        ("<support+ba.0.0.9.abcdefghijklmnop@desk.example>", "250 2.1.5"),  # where our bounces go
        ("<sales@desk.example>", "250 2.1.5"),
        ("<postmaster>", "250 2.1.5"),
        ("<Postmaster@desk.example>", "250 2.1.5"),
        ("<sales+token@desk.example>", "550 5.1.1"),  # addressing = "no"
        ("<nobody@desk.example>", "550 5.1.1"),
        ("<support@elsewhere.example>", "550 5.1.1"),
        ("<support%desk.example@elsewhere.example>", "550 5.1.1"),
        ("<v@>", "553 5.1.3"),
        ("<v>", "553 5.1.3"),
        ("<>", "553 5.1.3"),
        ("<support@desk.example", "553 5.1.3"),
        ("<support@desk.example>x", "553 5.1.3"),
        ('<"sup\0port"@desk.example>', "553 5.1.3"),
        ("<" + "x" * 450 + "@desk.example>", "553 5.1.3"),
        ("", "553 5.1.3"),
        ("<support@desk.example> NOTIFY=NEVER", "555 5.5.4"),
    ],
)
def test_recipients(server: Running, recipient: str, answer: str) -> None:
    with Client(server.port) as client:
        client.say(b"MAIL FROM:<a@b.example>")
        assert client.say(f"RCPT TO:{recipient}".encode())[:9] == answer


@pytest.mark.parametrize(
    ("sender", "answer"),
    [
        ("<>", "250 2.1.0"),
        ("<Ann@Hillcrest.example>", "250 2.1.0"),
        ("<root>", "250 2.1.0"),
        ('<"ann hill"@hillcrest.example>', "250 2.1.0"),
        ("<j\xf6rg@b\xfccher.example> SMTPUTF8", "250 2.1.0"),
        ("<a@b.example> BODY=BINARYMIME", "555 5.5.4"),
        ("<a@b.example> SIZE=\xb2", "555 5.5.4"),
        ("<a@b.example> AUTH=<>", "555 5.5.4"),
        ("<a\0@b.example>", "553 5.1.7"),
        ("<a@b.example", "553 5.1.7"),
        ("<" + '"' * 501 + ">", "553 5.1.7"),
    ],
)
def test_senders(server: Running, sender: str, answer: str) -> None:
    with Client(server.port) as client:
        assert client.say(f"MAIL FROM:{sender}".encode())[:9] == answer


def test_bytes_that_are_not_utf8_never_get_into_an_envelope(server: Running) -> None:
    with Client(server.port) as client:
        assert client.say(b"MAIL FROM:<a\xff@b.example>")[:9] == "553 5.1.7"
        client.say(b"MAIL FROM:<>")
        assert client.say(b"RCPT TO:<support+\xff@desk.example>")[:9] == "553 5.1.3"
    assert path_and_parameters("<support+\ufffd@desk.example>") is None


def test_other_inboxes_are_taken_over_while_it_runs(start: Start, tmp_path: Path) -> None:
    server = start()
    settings = {"inboxes": [{"address": "new@desk.example"}], "data": {"dir": str(tmp_path)}}
    with Client(server.port) as client:
        client.say(b"MAIL FROM:<>")
        assert client.say(b"RCPT TO:<new@desk.example>").startswith("550")
        server.call(lambda: setattr(server.listener, "config", parse(settings, {})))
        eventually(lambda: server.listener.config.inboxes[0].address == "new@desk.example")
        assert client.say(b"RCPT TO:<new@desk.example>").startswith("250")


def test_of_ten_thousand_recipients_a_hundred_are_taken_and_then_the_connection_ends(server: Running) -> None:
    answers = []
    with Client(server.port) as client:
        client.say(b"MAIL FROM:<a@b.example>")
        client.send(b"".join(b"RCPT TO:<support+%d@desk.example>\r\n" % n for n in range(10_000)))
        while answer := client.hear():
            answers.append(answer)
    assert [answer[:9] for answer in answers[:101]] == ["250 2.1.5"] * 100 + ["452 4.5.3"]
    assert answers.count("250 2.1.5 Ok") == 100
    assert len(answers) < 1000
    assert server.kept == []


# -- the conversation --------------------------------------------------------------------------------------------


def test_ehlo_says_what_we_can(server: Running) -> None:
    with Client(server.port) as client:
        assert client.greeting == "220 mx.desk.example ESMTP Ringback"
        assert client.features.split("\r\n") == [
            "250-mx.desk.example",
            "250-PIPELINING",
            "250-SIZE 36700160",
            "250-ENHANCEDSTATUSCODES",
            "250-8BITMIME",
            "250 SMTPUTF8",
        ]


@pytest.mark.parametrize(
    ("lines", "answer"),
    [
        (["HELO"], "501 5.5.4"),
        (["HELO client.example"], "250 mx.de"),
        (["NOOP whatever"], "250 2.0.0"),
        (["VRFY support"], "252 2.0.0"),
        (["EXPN staff"], "502 5.5.1"),
        (["AUTH PLAIN AGFubgBzZWNyZXQ="], "502 5.5.1"),
        (["HELP"], "214 2.0.0"),
        (["STARTTLS"], "502 5.5.1"),  # no certificate
        (["BDAT 3 LAST"], "500 5.5.2"),
        ([""], "500 5.5.2"),
        (["\xe9"], "500 5.5.2"),
        (["NOOP " + "x" * 200_000], "500 5.5.2"),
        (["MAIL a@b.example"], "501 5.5.4"),
        (["RCPT TO:<support@desk.example>"], "503 5.5.1"),
        (["DATA"], "503 5.5.1"),
        (["mail from:<>", "MAIL FROM:<>"], "503 5.5.1"),
        (["MAIL FROM:<>", "RCPT support@desk.example"], "501 5.5.4"),
        (["MAIL FROM:<>", "RCPT TO:<nobody@desk.example>", "DATA"], "503 5.5.1"),
        (["MAIL FROM:<>", "RCPT TO:<support@desk.example>", "DATA now"], "501 5.5.4"),
        (["MAIL FROM:<>", "RCPT TO:<support@desk.example>", "RSET", "DATA"], "503 5.5.1"),
        (["MAIL FROM:<>", "RCPT TO:<support@desk.example>", "EHLO again", "DATA"], "503 5.5.1"),
        (["QUIT"], "221 2.0.0"),
    ],
)
def test_commands(server: Running, lines: list[str], answer: str) -> None:
    with Client(server.port) as client:
        assert [client.say(line.encode()) for line in lines][-1][:9] == answer


def test_mail_before_a_greeting_is_refused(server: Running) -> None:
    with Client(server.port, hello=False) as client:
        assert client.say(b"MAIL FROM:<>") == "503 5.5.1 Say EHLO first"


def test_a_browser_is_shown_the_door(server: Running) -> None:
    with Client(server.port, hello=False) as client:
        client.send(b"POST / HTTP/1.1\r\nHost: x\r\nA: b\r\nC: d\r\nE: f\r\nMAIL FROM:<>\r\n")
        answers = [client.hear() for _ in range(6)]
    assert answers[4:] == ["421 4.7.0 Too many errors, closing", ""]


def test_the_standard_librarys_client_gets_through(server: Running) -> None:
    with smtplib.SMTP("127.0.0.1", server.port, timeout=5) as client:
        client.sendmail("ann@hillcrest.example", [SUPPORT], MAIL + b".dot\r\n..two\r\n", ["BODY=8BITMIME"])
    assert server.raw == [MAIL + b".dot\r\n..two\r\n"]


# -- TLS ---------------------------------------------------------------------------------------------------------

AUTHORITY = trustme.CA()


@pytest.fixture
def certificate(tmp_path: Path) -> dict[str, str]:
    pair = AUTHORITY.issue_cert("mx.desk.example", "127.0.0.1")
    chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"
    pair.private_key_pem.write_to_path(str(key))
    for blob in pair.cert_chain_pems:
        blob.write_to_path(str(chain), append=True)
    return {"tls_certificate": str(chain), "tls_key": str(key)}


def trusting() -> ssl.SSLContext:
    context = ssl.create_default_context()
    AUTHORITY.configure_trust(context)
    return context


def test_a_mail_over_tls(start: Start, certificate: dict[str, str]) -> None:
    server = start(**certificate)
    with smtplib.SMTP("127.0.0.1", server.port, timeout=5) as client:
        client.ehlo()
        assert client.has_extn("starttls")
        client.starttls(context=trusting())
        assert client.mail("a@b.example")[0] == 503, "what was said before counts no more (RFC 3207 4.2)"
        client.ehlo()
        assert not client.has_extn("starttls")
        client.sendmail("ann@hillcrest.example", [SUPPORT], MAIL)
        big = b"x" * 1_000_000 + b"\r\n"
        client.sendmail("ann@hillcrest.example", [SUPPORT], big)
    assert server.raw == [MAIL, big]


def test_where_tls_is_required_mail_has_to_wait_for_it(start: Start, certificate: dict[str, str]) -> None:
    server = start(**certificate, require_tls=True)
    with Client(server.port) as client:
        assert client.say(b"MAIL FROM:<>") == "530 5.7.0 Say STARTTLS first"
    with smtplib.SMTP("127.0.0.1", server.port, timeout=5) as tls:
        tls.starttls(context=trusting())
        tls.sendmail("ann@hillcrest.example", [SUPPORT], MAIL)
    assert server.raw == [MAIL]


def test_what_was_pipelined_in_the_clear_is_forgotten(start: Start, certificate: dict[str, str]) -> None:
    server = start(**certificate)
    with Client(server.port) as client:
        client.send(b"STARTTLS\r\nEHLO injected\r\nMAIL FROM:<evil@elsewhere.example>\r\n")
        assert client.hear() == "220 Ready to start TLS"
        secure = trusting().wrap_socket(client.socket, server_hostname="mx.desk.example")
        secure.sendall(b"NOOP\r\nMAIL FROM:<>\r\n")
        heard = b""
        while heard.count(b"\n") < 2:
            heard += secure.recv(1000)
        assert heard == b"250 2.0.0 Ok\r\n503 5.5.1 Say EHLO first\r\n"
        secure.close()


def test_a_client_that_breaks_off_the_handshake_frees_its_place(start: Start, certificate: dict[str, str]) -> None:
    server = start(**certificate, idle_seconds=0.3)
    silent = Client(server.port)
    for data in (b"", b"NOOP\r\n", b"\x16\x03\x01"):
        with Client(server.port) as client:
            assert client.say(b"STARTTLS").startswith("220")
            client.send(data)
    silent.say(b"STARTTLS")
    eventually(lambda: not server.listener._conversations)
    silent.close()


def test_a_certificate_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    config = config_with(tmp_path, tls_certificate="/nowhere.pem", tls_key="/nowhere.key")
    with pytest.raises(ConfigError, match=r"smtp\.in\.tls_certificate: cannot be used"):
        asyncio.run(listen(config, lambda _: done()))


# -- time and number ---------------------------------------------------------------------------------------------


def test_a_slow_sender_is_heard_out_and_an_idle_one_is_not(start: Start) -> None:
    server = start(idle_seconds=0.4)
    with Client(server.port) as idle, Client(server.port) as slow, Client(server.port) as asleep:
        asleep.begin()
        slow.begin()
        for _ in range(8):  # twice the idle time in all
            time.sleep(0.1)
            slow.send(b"another line\r\n")
        assert slow.say(b".") == "250 2.0.0 Ok: kept"
        assert idle.hear() == asleep.hear() == "421 4.4.2 That took too long, closing"
        assert idle.hear() == ""
    assert server.raw == [b"another line\r\n" * 8]


def test_a_mail_byte_by_byte_ends_in_the_end(start: Start) -> None:
    server = start(idle_seconds=0.4, data_seconds=0.5)
    began, heard = time.monotonic(), b""
    with Client(server.port) as client:
        client.begin()
        with contextlib.suppress(OSError):
            while time.monotonic() < began + 3:
                client.send(b"x")
                client.socket.settimeout(0.05)
                with contextlib.suppress(TimeoutError):
                    heard = client.socket.recv(100)
                    break
        assert heard == b"421 4.4.2 That took too long, closing\r\n"
    assert 0.4 < time.monotonic() - began < 2
    assert server.kept == []


def test_a_command_byte_by_byte_is_cut_after_the_idle_time(start: Start) -> None:
    server = start(idle_seconds=0.3)
    with Client(server.port) as client:
        for _ in range(6):
            time.sleep(0.1)
            with contextlib.suppress(OSError):
                client.send(b"N")
        assert client.hear().startswith("421 4.4.2")


def test_a_connection_ends_after_its_time_but_a_mail_is_finished(start: Start) -> None:
    server = start(session_seconds=0.4)
    with Client(server.port) as client:
        client.begin()
        time.sleep(0.6)
        client.send(MAIL + b".\r\nNOOP\r\n")
        assert client.hear() == "250 2.0.0 Ok: kept"
        assert client.hear().startswith("421 4.4.2")


def test_the_idle_time_does_not_run_while_we_are_keeping_a_mail(start: Start) -> None:
    server = start(idle_seconds=0.2)
    waiting: Future[None] = Future()
    server.answer = lambda: waiting
    with Client(server.port) as client:
        client.begin()
        client.send(MAIL + b".\r\n")
        time.sleep(0.5)
        waiting.set_result(None)
        assert client.hear() == "250 2.0.0 Ok: kept"


def greeting(server: Running, source: str = "127.0.0.1") -> str:
    with Client(server.port, hello=False, source=source) as client:
        return client.greeting


def test_more_connections_than_allowed_are_sent_away_at_once(start: Start) -> None:
    server = start(max_connections=3, max_connections_per_address=2)
    with Client(server.port) as first, Client(server.port):
        assert greeting(server) == "421 4.7.0 Too many connections, please come back later"
        with Client(server.port, source="127.0.0.2"):
            assert greeting(server, source="127.0.0.3").startswith("421 4.7.0")
        assert first.say(b"QUIT").startswith("221")
        with Client(server.port) as again:  # a place is free as soon as 221 is said
            assert again.greeting.startswith("220")


def test_a_thousand_idle_connections_do_not_keep_a_good_client_waiting(start: Start) -> None:
    server = start()
    there, source = ("127.0.0.1", server.port), ("127.0.0.9", 0)
    crowd = [socket.create_connection(there, source_address=source) for _ in range(1000)]
    began = time.monotonic()
    with Client(server.port) as good:
        assert good.deliver(MAIL) == "250 2.0.0 Ok: kept"
    assert time.monotonic() - began < 1
    for each in crowd:
        each.close()


def test_more_commands_than_allowed_end_the_connection_but_not_for_who_delivers(start: Start) -> None:
    server = start(max_commands=10)
    with Client(server.port) as client:
        for _ in range(10):
            assert client.deliver(MAIL).startswith("250")
        answers = [client.say(b"NOOP")[:9] for _ in range(11)]
        assert answers == ["250 2.0.0"] * 10 + ["421 4.7.0"]
        assert client.hear() == ""


def test_a_client_that_never_reads_is_dropped(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    server = start(idle_seconds=0.3, max_commands=1_000_000)
    monkeypatch.setattr(smtp_in, "LINGER_SECONDS", 0.1)
    with Client(server.port) as client:
        client.socket.settimeout(0.5)
        with contextlib.suppress(OSError):
            while True:
                client.send(b"EHLO x\r\n" * 1000)
        eventually(lambda: not server.listener._conversations)


def test_closing_lets_a_mail_be_kept_and_says_421_to_the_others(tmp_path: Path) -> None:
    server = Running(config_with(tmp_path))
    waiting: Future[None] = Future()
    server.answer = lambda: waiting
    with Client(server.port) as busy, Client(server.port) as idle, Client(server.port) as writing:
        busy.begin()
        writing.begin()
        busy.send(MAIL + b".\r\n")
        server.until_kept(1)
        threading.Timer(0.3, lambda: waiting.set_result(None)).start()
        server.stop()
        assert busy.hear() == "250 2.0.0 Ok: kept"
        assert busy.hear() == idle.hear() == writing.hear() == "421 4.3.2 Shutting down, please come back"
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", server.port))


# -- noise -------------------------------------------------------------------------------------------------------

WORDS = [
    b"EHLO x",
    b"MAIL FROM:<",
    b"RCPT TO:<support@desk.example>",
    b"DATA",
    b"\r\n",
    b"\n",
    b".",
    b"\r\n.\r\n",
    b"<>",
]
WORDS += [b"RSET", b"STARTTLS", b" SIZE=", b"9" * 400, b'"\\', b"\0", b"\xff\xfe", b"MAIL FROM:<a@b>\r\n", b"x" * 3000]


def test_random_bytes_never_kill_it(
    start: Start, certificate: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    server = start(**certificate, max_connections_per_address=100)
    chance = random.Random(20261125)
    for number in range(300):
        words = chance.choices(WORDS, k=chance.randrange(1, 30))
        noise = b"".join(words) if number % 3 else chance.randbytes(chance.randrange(1, 3000))
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", server.port), timeout=5) as client:
            client.sendall(noise)
            if number % 2:
                client.shutdown(socket.SHUT_WR)
                while client.recv(65536):
                    pass
    with Client(server.port) as good:
        assert good.deliver(MAIL) == "250 2.0.0 Ok: kept"
    eventually(lambda: not server.listener._conversations)
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []
