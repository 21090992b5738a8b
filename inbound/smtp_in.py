"""The SMTP listener: takes a mail, has it kept, and only then says 250 (RFC 5321, 1870, 2034, 2920, 3207, 6152, 6531).

It runs in the loop of the process `intake` and never parses, never asks a database and never blocks: `accept` is given
by the wiring and returns a future that is done when the raw mail is committed and synced.

It stands on aiosmtpd's SMTP class (its protocol, its STARTTLS) and replaces what costs time or mail there: the
constructor, the command loop, MAIL and RCPT (stock: the standard library's header parser) and DATA (stock: one await a
line, a permanent 500 for a line of 1,000 bytes, a time-out that runs through the whole mail and its storing).

The mail is kept byte for byte as it came: no Received or Return-Path line is added, so that the same mail sent again
has the same key. Its end is CR LF . CR LF and nothing else: a bare LF or CR before or behind the dot is content (SMTP
smuggling).
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import hashlib
import ipaddress
import logging
import re
import shutil
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, NamedTuple, cast

from aiosmtpd.smtp import SMTP, TLSSetupException

from gateway.addresses import mail_address, without_plus
from gateway.config import Config, ConfigError
from gateway.values import Arrival, Channel, Envelope, utc_now

log = logging.getLogger("ringback.smtp_in")

Accept = Callable[[Arrival], "concurrent.futures.Future[Any]"]

BACKLOG = 1024  # the kernel's queue: a shorter one makes a good client wait a second when many connect at once
READ = 64 * 1024  # bytes taken from a connection at once; the stream stops the client at twice as many
SMALL_MAIL = 256 * 1024  # up to here a mail is hashed in the loop, and taken whatever else is in memory
MAILS_IN_MEMORY = 4  # as many of the largest size may be on their way at once
LONGEST_COMMAND = 2048  # RFC 5321 4.5.3.1.4 wants 512, extensions add to it, and so do long signed addresses
BAD_COMMANDS = 5  # then it is not a mail client (RFC 5321 3.8 allows 421 at any time)
STORE_SECONDS = 600  # RFC 5321 4.5.3.2.6: as long does a client wait for the answer to its final dot
LINGER_SECONDS = 5  # for a last answer to reach a client that reads slowly, and for mails being kept at the end
DISK_SECONDS = 1  # how long a look at the free disk space counts
END = b"\r\n.\r\n"
END_MARK = b".\r\n"  # of END, what is not content

# What we say, in the order of RFC 5321's codes; RFC 2034 wants the second number everywhere but in 220, 250 to HELO
# and 354. Nothing a client sent is ever repeated to it, and no reason of ours is told.
HELP = "214 2.0.0 See RFC 5321; mail for our inboxes is welcome"
BYE = "221 2.0.0 Bye"
OK = "250 2.0.0 Ok"
SENDER_OK = "250 2.1.0 Ok"
RECIPIENT_OK = "250 2.1.5 Ok"
KEPT = "250 2.0.0 Ok: kept"
NO_VRFY = "252 2.0.0 Send it, and it will be seen"
GO_AHEAD = "354 End data with <CR><LF>.<CR><LF>"
STOPPING = "421 4.3.2 Shutting down, please come back"
TOO_SLOW = "421 4.4.2 That took too long, closing"
SESSION_OVER = "421 4.4.2 This connection is old enough, please connect again"
TOO_MANY = "421 4.7.0 Too many connections, please come back later"
TOO_MANY_COMMANDS = "421 4.7.0 Too many commands, closing"
TOO_MANY_ERRORS = "421 4.7.0 Too many errors, closing"
TRY_LATER = "451 4.3.0 Please try again later"
NO_ROOM = "452 4.3.1 Insufficient system storage"
TOO_MANY_RECIPIENTS = "452 4.5.3 Too many recipients"
NOT_UNDERSTOOD = "500 5.5.2 Command not understood"
LINE_TOO_LONG = "500 5.5.2 Command line too long"
NAME_YOURSELF = "501 5.5.4 Say who you are: EHLO name"
MAIL_SYNTAX = "501 5.5.4 Syntax: MAIL FROM:<address>"
RCPT_SYNTAX = "501 5.5.4 Syntax: RCPT TO:<address>"
NO_ARGUMENT = "501 5.5.4 No argument here"
NOT_HERE = "502 5.5.1 Command not implemented"
HELLO_FIRST = "503 5.5.1 Say EHLO first"
MAIL_FIRST = "503 5.5.1 Say MAIL first"
MAIL_TWICE = "503 5.5.1 There is a sender already"
RCPT_FIRST = "503 5.5.1 No valid recipient yet"
TLS_ALREADY = "503 5.5.1 TLS is on already"
TLS_FIRST = "530 5.7.0 Say STARTTLS first"
NO_SUCH_MAILBOX = "550 5.1.1 No such mailbox here"
TOO_BIG = "552 5.3.4 Message too big"
BAD_SENDER = "553 5.1.7 This is not a mail address"
BAD_RECIPIENT = "553 5.1.3 This is not a mail address"
BAD_PARAMETER = "555 5.5.4 Parameter not known"

ALWAYS_THE_SAME = {"NOOP": OK, "VRFY": NO_VRFY, "HELP": HELP, "EXPN": NOT_HERE, "AUTH": NOT_HERE}
BEFORE_TLS = frozenset({"EHLO", "HELO", "STARTTLS", "NOOP", "RSET", "QUIT"})  # RFC 3207 4, and what tells nothing

# RFC 5321 4.1.2: <@route:local@domain>, the route being ignored (appendix C). Many devices leave the brackets out.
PATH = re.compile(r'<(?:@[^<>:"\s]*:)?((?:"(?:[^"\\]|\\.)*"|[^<>"\s])*)>|([^<>"\s]+)')
SIZE = re.compile(r"SIZE=([0-9]{1,20})", re.ASCII | re.IGNORECASE)
HARMLESS = frozenset({"BODY=7BIT", "BODY=8BITMIME", "SMTPUTF8"})


# -- values ------------------------------------------------------------------------------------------------------


def delivery_key(raw: bytes, recipients: Iterable[str]) -> str:
    """What is the same for the same delivery, sent again because our 250 got lost (DESIGN.md 3, Keys)."""
    people = "\n".join(sorted(recipients)).encode()
    return f"mail:{hashlib.sha256(raw).hexdigest()}:{hashlib.sha256(people).hexdigest()}"


def unstuffed(body: bytes) -> bytes:
    """A body without the dots that the client put before its own at the start of lines (RFC 5321 4.5.2).

    A line begins behind CR LF and nowhere else. `replace` goes over it once and copies only when there is a dot.
    """
    return (body[1:] if body[:1] == b"." else body).replace(b"\r\n.", b"\r\n")


class Parsed(NamedTuple):
    address: str
    parameters: list[str]


def path_and_parameters(text: str) -> Parsed | None:
    """What stands behind `MAIL FROM:` or `RCPT TO:`; None when it is not an address (RFC 5321 4.1.2).

    The address is "" for <>. U+FFFD is what invalid UTF-8 was read as: no database takes it back apart.
    """
    text = text.lstrip()
    match = PATH.match(text)
    if match is None:
        return None
    address = match[2] if match[1] is None else match[1]
    rest = text[match.end() :]
    if rest[:1].strip() or "\ufffd" in address or len(address) > 512 or not address.isprintable():
        return None
    return Parsed(address, rest.split())


def finished(parts: list[bytes], recipients: Iterable[str]) -> tuple[bytes, str]:
    """The mail and its key, from the pieces as they came, the final dot included. Empties the list to save memory."""
    body = b"".join(parts)
    parts.clear()
    raw = unstuffed(body[: -len(END_MARK)])
    return raw, delivery_key(raw, recipients)


def _neighbourhood(host: str) -> str:
    """Whom the cap per address counts: an IPv4 address, or an IPv6 /64, which is what one customer gets."""
    if ":" not in host:
        return host
    return ipaddress.IPv6Address(host.partition("%")[0]).exploded[:19]


def _tls_context(config: Config) -> ssl.SSLContext | None:
    settings = config.smtp.in_
    if not settings.tls_certificate:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(settings.tls_certificate, settings.tls_key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError([f"smtp.in.tls_certificate: cannot be used with smtp.in.tls_key: {error}"]) from error
    return context


# -- the listener ------------------------------------------------------------------------------------------------


async def listen(config: Config, accept: Accept) -> Listener:
    """Listens on `[smtp.in]` in the running loop until `close()`. `accept`'s future is done when a mail is synced.

    Raises OSError when the port is taken and ConfigError when the certificate cannot be used.
    """
    listener = Listener(config, accept)
    await listener.start()
    return listener


class Listener:
    """What all connections share: settings, who is connected, the bytes in memory, and the free disk."""

    def __init__(self, config: Config, accept: Accept) -> None:
        self.accept = accept
        self.loop = asyncio.get_running_loop()
        self.tls = _tls_context(config)
        self.closing = False
        self.address = ("", 0)
        self.held = 0  # bytes of mails on their way
        self._conversations: set[Conversation] = set()
        self._from: Counter[str] = Counter()
        self._free = (float("-inf"), True)  # when we looked, and whether there was room
        self._told = float("-inf")
        self._server: asyncio.Server | None = None
        self.config = config

    @property
    def config(self) -> Config:
        """The settings in force. Setting them anew takes over inboxes and limits, not the address and certificate."""
        return self._config

    @config.setter
    def config(self, config: Config) -> None:
        self._config = config
        self.settings = config.smtp.in_
        self._plain = frozenset(inbox.address for inbox in config.inboxes)
        self._plus = frozenset(inbox.address for inbox in config.inboxes if inbox.plus)
        domains = {config.mail.domain} | {address.rpartition("@")[2] for address in self._plain}
        self._postmaster = frozenset({"postmaster"} | {f"postmaster@{domain}" for domain in domains})
        features = ["PIPELINING", f"SIZE {self.settings.max_message_bytes}", "STARTTLS"]
        features += ["ENHANCEDSTATUSCODES", "8BITMIME", "SMTPUTF8"]
        lines = [self.settings.hostname, *features]
        self.hello_secure = _multiline(line for line in lines if line != "STARTTLS")
        self.hello = _multiline(lines) if self.tls else self.hello_secure

    async def start(self) -> None:
        """Opens the port."""
        self._server = await self.loop.create_server(
            lambda: Conversation(self), self.settings.host or None, self.settings.port, backlog=BACKLOG
        )
        host, port = self._server.sockets[0].getsockname()[:2]
        self.address = (str(host), int(port))

    async def close(self) -> None:
        """Stops listening, says 421 to everybody, and lets mails that are being kept finish, for 5 seconds."""
        self.closing = True
        if self._server is not None:
            self._server.close()  # not wait_closed: from Python 3.12 on it would wait for the slowest client
        for conversation in list(self._conversations):
            conversation.leave(STOPPING)
        if running := [conversation.task for conversation in self._conversations if conversation.task]:
            await asyncio.wait(running, timeout=LINGER_SECONDS)
        for conversation in list(self._conversations):
            conversation.give_up(STOPPING)
        await asyncio.sleep(0)  # the loop calls connection_lost in its next two rounds
        await asyncio.sleep(0)

    def is_ours(self, address: str) -> bool:
        """Does mail to this normalised address reach an inbox? RFC 5321 4.5.1 adds postmaster."""
        return address in self._plain or without_plus(address) in self._plus or address in self._postmaster

    async def has_room(self) -> bool:
        """Is there more free disk than `min_free_mb`? Looked up in a thread, since a sick disk may not answer."""
        now = self.loop.time()
        if now - self._free[0] > DISK_SECONDS:
            try:
                free = (await asyncio.to_thread(shutil.disk_usage, self._config.folder)).free
            except OSError as error:
                log.error("the free space of the data folder cannot be read: %s", error)
                free = -1
            self._free = (now, free >= self.settings.min_free_mb * 1_000_000)
        return self._free[1]

    def admit(self, conversation: Conversation, host: str) -> bool:
        """Counts a new connection in, unless there are too many already."""
        settings, place = self.settings, _neighbourhood(host)
        if len(self._conversations) >= settings.max_connections or (
            self._from[place] >= settings.max_connections_per_address
        ):
            if self.loop.time() - self._told > 60:  # once a minute: an attack must not fill the log
                self._told = self.loop.time()
                log.warning("too many connections (%d, here from %s): refused", len(self._conversations), host)
            return False
        self._conversations.add(conversation)
        self._from[place] += 1
        return True

    def forget(self, conversation: Conversation, host: str) -> None:
        """Counts a connection out; doing it twice is doing it once."""
        if conversation in self._conversations:
            self._conversations.remove(conversation)
            place = _neighbourhood(host)
            self._from[place] -= 1
            if not self._from[place]:
                del self._from[place]

    @property
    def is_full(self) -> bool:
        """Is as much in memory as may be?"""
        return self.held > MAILS_IN_MEMORY * self.settings.max_message_bytes


def _multiline(lines: Iterable[str]) -> str:
    """A 250 answer of several lines (RFC 5321 4.2.1)."""
    *first, last = lines
    return "".join(f"250-{line}\r\n" for line in first) + f"250 {last}"


# -- one connection ----------------------------------------------------------------------------------------------


class Conversation(SMTP):
    """One connection, from the greeting to the end."""

    def __init__(self, listener: Listener) -> None:
        # Not SMTP.__init__: it goes through all attributes of itself and its handler (hooks, verbs, AUTH mechanisms)
        # anew for each connection, which costs more than all the rest of a small mail. What the parts we keep of it
        # use (connection_made and smtp_STARTTLS) is set here; the STARTTLS test notices when a release wants more.
        self.loop = listener.loop
        asyncio.StreamReaderProtocol.__init__(
            self, asyncio.StreamReader(READ, self.loop), self._cb_client_connected, self.loop
        )
        self._handle_hooks = {}
        self._tls_handshake_okay = True
        self._tls_protocol = None
        self._original_transport = None
        self._handler_coroutine = None
        self._timeout_handle = None
        self.tls_context = listener.tls
        self.session = None
        self.transport = None

        self.listener = listener
        self.task: asyncio.Task[None] | None = None
        self._host = ""
        self._pending = bytearray()  # read and not yet used: a command's beginning, or what was pipelined
        self._answers: list[str] = []  # said and not yet sent
        self._hello = False
        self._over = False
        self._storing = False
        self._commands = 0
        self._errors = 0
        self._held = 0
        self._deadline = self._session_end = self.loop.time() + listener.settings.session_seconds
        self._forget_mail()

    # -- its life

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client connected, or TLS is ready."""
        if self.transport is not None:  # RFC 3207 4.2: forget everything that was said in the clear
            self._pending.clear()
            self._hello = False
            super().connection_made(transport)
            return
        stream = cast(asyncio.Transport, transport)
        self._host = str((transport.get_extra_info("peername") or ("",))[0])
        if not self.listener.admit(self, self._host):
            stream.write(f"{TOO_MANY}\r\n".encode())
            stream.close()
            return
        self.transport = transport
        asyncio.StreamReaderProtocol.connection_made(self, transport)
        self._set_deadline(self._deadline)
        self.task = self._handler_coroutine = self.loop.create_task(self._handle_client())
        self.task.add_done_callback(self._end)  # not `finally` in it: it may be cancelled before it begins

    def data_received(self, data: bytes) -> None:
        """Into the stream, unless we are through with this client."""
        if not self._over:
            super().data_received(data)

    def eof_received(self) -> bool | None:
        """The client will say no more, but may still listen: what it said is answered (stock cancels it)."""
        asyncio.StreamReaderProtocol.eof_received(self)
        return self.task is not None and self._tls_protocol is None

    def connection_lost(self, error: Exception | None) -> None:
        """The client is gone. A mail that is being kept is kept nevertheless."""
        if self._original_transport is not None:
            self._original_transport.close()
        if self.transport is not None:
            asyncio.StreamReaderProtocol.connection_lost(self, error)
            self.transport = None
        if self.task is not None:
            self.task.cancel()

    def leave(self, answer: str) -> None:
        """Ends the conversation, now or when the mail that is being kept is answered."""
        if not self._storing:
            self.give_up(answer)

    def give_up(self, answer: str) -> None:
        """Ends the conversation, whatever it is doing."""
        if self.transport is not None and not self._over and (self._tls_protocol is None or self._is_secure):
            self._say(answer)
        if self.task is not None:
            self.task.cancel()

    async def _handle_client(self) -> None:
        # Stock: a time-out, three log lines and a regular expression a command.
        try:
            await self._converse()
        except (ConnectionError, TLSSetupException):
            pass  # gone, or not able to speak TLS: there is nobody to tell
        except Exception:  # one connection must not hurt another
            log.exception("a connection from %s broke", self._host)

    def _end(self, _task: asyncio.Task[None]) -> None:
        """Tells the last answers and frees what the connection holds, at once: a client may connect again at once."""
        self._over = True
        self._hold(0)
        self.listener.forget(self, self._host)
        if self._timeout_handle is not None:
            self._timeout_handle.cancel()
        for transport in (self.transport, self._original_transport if not self._is_secure else None):
            stream = cast("asyncio.Transport | None", transport)
            if stream is None or stream.is_closing():
                continue
            if self._answers:
                stream.write(self._spoken())
            stream.close()
            if stream.get_write_buffer_size():  # it does not read: its answers must not stay for ever
                self.loop.call_later(LINGER_SECONDS, stream.abort)

    @property
    def _is_secure(self) -> bool:
        return self.session is not None  # made by connection_made after the handshake

    def _reset_timeout(self, duration: float | None = None) -> None:
        """Called by stock's connection_made; our deadlines are set where we wait."""

    def _set_deadline(self, deadline: float) -> None:
        # One timer a connection that looks again when it is too early: stock makes a new one for each command.
        self._deadline = deadline
        if self._timeout_handle is None or deadline < self._timeout_handle.when():
            if self._timeout_handle is not None:
                self._timeout_handle.cancel()
            self._timeout_handle = self.loop.call_at(deadline, self._timeout_cb)

    def _timeout_cb(self) -> None:
        if self.loop.time() < self._deadline:
            self._timeout_handle = self.loop.call_at(self._deadline, self._timeout_cb)
        else:
            self.give_up(TOO_SLOW)

    # -- listening and speaking

    def _say(self, answer: str) -> None:
        """Answers go out together when the client has nothing more to say for now (RFC 2920 3.2)."""
        self._answers.append(answer)

    def _spoken(self) -> bytes:
        self._answers.append("")
        said = "\r\n".join(self._answers).encode()
        self._answers.clear()
        return said

    async def _flush(self) -> None:
        if self._answers:
            self._writer.write(self._spoken())
            await self._writer.drain()

    async def push(self, status: str | bytes) -> None:
        """Says something at once; the parts of aiosmtpd that we keep use it."""
        self._say(status if isinstance(status, str) else status.decode())
        await self._flush()

    async def _more(self) -> bytes:
        """The next bytes, b"" when the client will say no more."""
        await self._flush()
        return await self._reader.read(READ)

    async def _command(self) -> bytes | None:
        """The next command without its end of line; None when there will be none."""
        now = self.loop.time()
        if self.listener.closing or now >= self._session_end:
            self._say(STOPPING if self.listener.closing else SESSION_OVER)
            return None
        # A whole command has to come within the time: a byte now and then does not help.
        self._set_deadline(min(now + self.listener.settings.idle_seconds, self._session_end))
        pending = self._pending
        while (end := pending.find(b"\n")) < 0:
            del pending[LONGEST_COMMAND + 1 :]  # that it is too long is all that we want to know
            more = await self._more()
            if not more:
                return None
            pending += more
        line = bytes(pending[:end])
        del pending[: end + 1]
        return line.rstrip(b"\r")

    async def _converse(self) -> None:
        self._say(f"220 {self.listener.settings.hostname} ESMTP Ringback")
        while not self._over and (line := await self._command()) is not None:
            try:
                await self._obey(line)
            except (ConnectionError, TLSSetupException):
                raise
            except Exception as error:  # noqa: BLE001 - one command; the client may go on with the next
                self._say(await self.handle_exception(error))

    async def handle_exception(self, error: Exception) -> str:
        """Our fault, so temporary, and without a word on what it was: stock says 500 and the exception's text."""
        log.error("a command from %s failed: %r", self._host, error)
        self._forget_mail()
        return TRY_LATER

    async def _obey(self, line: bytes) -> None:
        settings = self.listener.settings
        verb, _, rest = line.partition(b" ")
        name = verb.decode("ascii", "replace").upper()
        method = VERBS.get(name)
        self._commands += 1
        if self._commands > settings.max_commands:
            self._finish(TOO_MANY_COMMANDS)
        elif len(line) > LONGEST_COMMAND:
            self._complain(LINE_TOO_LONG)
        elif settings.require_tls and self._tls_protocol is None and name not in BEFORE_TLS:
            self._complain(TLS_FIRST)
        elif method is not None:
            await method(self, rest.strip().decode("utf-8", "replace"))
        elif name in ALWAYS_THE_SAME:
            self._say(ALWAYS_THE_SAME[name])
        else:
            self._complain(NOT_UNDERSTOOD)

    def _complain(self, answer: str) -> None:
        self._errors += 1
        if self._errors < BAD_COMMANDS:
            self._say(answer)
        else:
            self._finish(TOO_MANY_ERRORS)

    def _finish(self, answer: str) -> None:
        self._say(answer)
        self._over = True

    # -- the verbs (aiosmtpd's names)

    def _forget_mail(self) -> None:
        self._sender: str | None = None
        self._recipients: list[str] = []

    def _set_rset_state(self) -> None:
        self._forget_mail()

    async def smtp_HELO(self, hostname: str) -> None:  # noqa: N802
        """RFC 5321 4.1.1.1."""
        if not hostname:
            self._say(NAME_YOURSELF)
            return
        self._forget_mail()
        self._hello = True
        self._say(f"250 {self.listener.settings.hostname}")

    async def smtp_EHLO(self, hostname: str) -> None:  # noqa: N802
        """RFC 5321 4.1.1.1. Whatever a client calls itself is fine: devices and containers have odd names."""
        if not hostname:
            self._say(NAME_YOURSELF)
            return
        self._forget_mail()
        self._hello = True
        self._say(self.listener.hello if self._tls_protocol is None else self.listener.hello_secure)

    async def smtp_STARTTLS(self, arg: str) -> None:  # noqa: N802
        """RFC 3207. What was pipelined behind it is thrown away: anybody on the way could have put it there."""
        if arg or self.tls_context is None or self._tls_protocol is not None:
            self._complain(NO_ARGUMENT if arg else NOT_HERE if self.tls_context is None else TLS_ALREADY)
            return
        await self._flush()
        await super().smtp_STARTTLS(arg)
        if not self._is_secure:  # a client that goes away during the handshake does not always raise
            raise TLSSetupException

    async def smtp_MAIL(self, arg: str | None) -> None:  # noqa: N802
        """RFC 5321 4.1.1.2, with SIZE (RFC 1870), BODY (6152) and SMTPUTF8 (6531)."""
        text = arg or ""
        parsed = path_and_parameters(text[5:])
        if not self._hello:
            self._say(HELLO_FIRST)
        elif self._sender is not None:
            self._say(MAIL_TWICE)
        elif text[:5].upper() != "FROM:":
            self._say(MAIL_SYNTAX)
        elif parsed is None:
            self._say(BAD_SENDER)
        elif problem := self._problem_of(parsed.parameters):
            self._say(problem)
        elif not await self.listener.has_room():
            self._say(NO_ROOM)
        else:
            # <root> without a domain is what machines on the local net say: kept as it is.
            self._sender = mail_address(parsed.address) or parsed.address
            self._say(SENDER_OK)

    def _problem_of(self, parameters: list[str]) -> str:
        for parameter in parameters:
            size = SIZE.fullmatch(parameter)
            if size is not None and int(size[1]) > self.listener.settings.max_message_bytes:
                return TOO_BIG
            if size is None and parameter.upper() not in HARMLESS:
                return BAD_PARAMETER
        return ""

    async def smtp_RCPT(self, arg: str | None) -> None:  # noqa: N802
        """RFC 5321 4.1.1.3: our inboxes, their plus addresses and postmaster; never a relay."""
        text = arg or ""
        parsed = path_and_parameters(text[3:])
        if self._sender is None:
            self._say(MAIL_FIRST)
        elif text[:3].upper() != "TO:":
            self._say(RCPT_SYNTAX)
        elif len(self._recipients) >= self.listener.settings.max_recipients:
            self._say(TOO_MANY_RECIPIENTS)
        elif parsed is None:
            self._say(BAD_RECIPIENT)
        elif parsed.parameters:
            self._say(BAD_PARAMETER)
        else:
            address = "postmaster" if parsed.address.lower() == "postmaster" else mail_address(parsed.address)
            if not address:
                self._say(BAD_RECIPIENT)
            elif not self.listener.is_ours(address):
                self._say(NO_SUCH_MAILBOX)
            else:
                self._recipients.append(address)
                self._say(RECIPIENT_OK)

    async def smtp_RSET(self, arg: str) -> None:  # noqa: N802
        """RFC 5321 4.1.1.5."""
        self._forget_mail()
        self._say(OK)

    async def smtp_QUIT(self, arg: str) -> None:  # noqa: N802
        """RFC 5321 4.1.1.10."""
        self._finish(BYE)

    async def smtp_DATA(self, arg: str) -> None:  # noqa: N802
        """RFC 5321 4.1.1.4: 250 when the mail is kept, 451 when it could not be, 552 when it is too big."""
        if arg:
            self._say(NO_ARGUMENT)
        elif not self._recipients:
            self._say(RCPT_FIRST if self._sender is not None else MAIL_FIRST)
        else:
            self._say(GO_AHEAD)
            parts: list[bytes] = []
            problem = await self._read_mail(parts)
            if self._over:
                return
            if not problem:
                problem = await self._keep(parts)
            self._hold(0)
            self._forget_mail()
            self._say(problem or KEPT)

    async def _read_mail(self, parts: list[bytes]) -> str:
        """Collects a mail with its final dot, in pieces; returns why it is refused, "" when it is not.

        What follows the dot stays for the next command. A mail that is refused is read to its end, but not kept.
        """
        settings = self.listener.settings
        most = settings.max_message_bytes * 4 // 3 + len(END)  # at most every third byte brings a dot along
        data_end = self.loop.time() + settings.data_seconds
        last, size, problem = b"\r\n", 0, ""  # the line break of DATA itself may be the first of the end
        chunk = bytes(self._pending)
        self._pending.clear()
        while True:
            if not chunk:
                self._set_deadline(min(self.loop.time() + settings.idle_seconds, data_end))
                chunk = await self._more()
            if not chunk:  # gone before the dot: nothing was delivered
                self._over = True
                return ""
            end = _end_of_mail(last, chunk)
            if end:
                self._pending += chunk[end:]
                chunk = chunk[:end]
            size += len(chunk)
            if not problem:
                parts.append(chunk)
                problem = TOO_BIG if size > most else self._hold(size)
                if problem:
                    parts.clear()
                    self._hold(0)
            if end:
                return problem
            last = (last + chunk[-4:])[-4:]
            chunk = b""

    def _hold(self, size: int) -> str:
        """Says how much of a mail is in memory, and answers why it may not be, "" when it may.

        Small mails always may: a few clients that send large ones slowly must not keep out everybody else.
        """
        self.listener.held += size - self._held
        self._held = size
        return NO_ROOM if size > SMALL_MAIL and self.listener.is_full else ""

    async def _keep(self, parts: list[bytes]) -> str:
        """Hands a mail on and waits until it is committed; returns why it was not kept, "" when it was."""
        recipients = tuple(dict.fromkeys(self._recipients))
        self._storing = True
        self._set_deadline(self.loop.time() + STORE_SECONDS)
        try:
            if self._held > SMALL_MAIL:  # joining and hashing 35 MB takes a tenth of a second
                raw, key = await asyncio.to_thread(finished, parts, recipients)
            else:
                raw, key = finished(parts, recipients)
            if len(raw) > self.listener.settings.max_message_bytes:
                return TOO_BIG
            envelope = Envelope(self._sender or "", recipients, "smtp", self._host)
            await self._committed(Arrival(key, Channel.MAIL, raw, envelope, utc_now()))
        except Exception as error:  # noqa: BLE001 - one mail: the client keeps it and comes again
            log.error("a mail of %d bytes from %s was not kept: %r", self._held, self._host, error)
            return TRY_LATER
        finally:
            self._storing = False
        self._commands = self._errors = 0  # who delivers may stay as long as the connection may
        return ""

    async def _committed(self, arrival: Arrival) -> None:
        """Waits for `accept`. Shielded: a client that goes away must not take back what is half written."""
        kept = asyncio.wrap_future(self.listener.accept(arrival), loop=self.loop)
        try:
            await asyncio.shield(kept)
        except asyncio.CancelledError:
            if kept.cancelled():  # whoever keeps mails was shut down; not we
                raise RuntimeError("it was called off") from None
            raise


def _end_of_mail(last: bytes, chunk: bytes) -> int:
    """Where in `chunk` a mail ends, behind CR LF . CR LF, which may have begun in the `last` bytes; 0: not here."""
    seam = (last + chunk[: len(END) - 1]).find(END)
    if seam >= 0:
        return seam + len(END) - len(last)
    found = chunk.find(END)
    return found + len(END) if found >= 0 else 0


VERBS: dict[str, Callable[[Conversation, str], Awaitable[None]]] = {
    "HELO": Conversation.smtp_HELO,
    "EHLO": Conversation.smtp_EHLO,
    "STARTTLS": Conversation.smtp_STARTTLS,
    "MAIL": Conversation.smtp_MAIL,
    "RCPT": Conversation.smtp_RCPT,
    "DATA": Conversation.smtp_DATA,
    "RSET": Conversation.smtp_RSET,
    "QUIT": Conversation.smtp_QUIT,
}
