"""Mail to the smarthost: SMTP (RFC 5321) with STARTTLS (3207) or TLS, AUTH (4954), SIZE (1870), SMTPUTF8 (6531).

One connection per thread is kept and used again. What an answer means depends on when it came:

    when                                     4xx, time-out, drop      5xx
    connecting, TLS, AUTH                    Temporary                Temporary: our trouble, not the recipient's
    MAIL, RCPT, DATA, the text               Temporary                Permanent, with the server's words
    after the final dot                      4xx Temporary            Permanent
                                             time-out, drop Uncertain
"""

from __future__ import annotations

import re
import smtplib
import ssl
import threading
import time
from collections.abc import Callable

from gateway.config import SmtpOut
from gateway.values import Outgoing, Permanent, Sent, Temporary, Uncertain

KEEP_SECONDS = 60.0  # an idle connection is not trusted for longer: servers and firewalls forget it in silence
AFTER_DOT = 4  # times the time-out: the server scans the mail now (RFC 5321 4.5.3.2.6 even asks for ten minutes)
SLOWEST = 100_000  # bytes/s: a big mail may take longer than the time-out, but not at less than this
OUR_LOGIN = frozenset({530, 534, 535, 538})  # AUTH is wanted or refused (RFC 4954 6): no recipient is to blame
NO_ADDRESS = re.compile(r"[\x00-\x20<>\x7f-\x9f\ud800-\udfff]")
LONE_END = re.compile(rb"\r\n|\r|\n")


class Gone(Temporary):
    """The connection is of no more use."""


class SmtpSender:
    """Sends through one smarthost. Each thread has its own connection; `close` ends all of them."""

    def __init__(self, settings: SmtpOut, local_hostname: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._settings, self._local_hostname, self._clock = settings, local_hostname, clock
        self._mine = threading.local()
        self._all: set[smtplib.SMTP] = set()
        self._lock = threading.Lock()
        self._context: ssl.SSLContext | None = None

    def __call__(self, outgoing: Outgoing) -> Sent:
        """Sends a rendered outbox row. Raises as `send` does."""
        if outgoing.rendered is None:
            raise Permanent("nothing was rendered")
        return self.send(outgoing.rendered, outgoing.envelope_sender, outgoing.recipient)

    def send(self, rendered: bytes, envelope_sender: str, recipient: str) -> Sent:
        """Hands one mail to the smarthost and returns its words. Raises Temporary, Uncertain or Permanent."""
        for address in (envelope_sender, recipient):
            if NO_ADDRESS.search(address):
                raise Permanent("an address that SMTP cannot carry")
        content = _canonical(rendered)
        smtp, fresh = self._connection()
        try:
            try:
                self._say(smtp, _mail_from(smtp, envelope_sender, recipient, len(content)))
            except Gone:
                if fresh:
                    raise
                self._drop()  # it went stale while it was idle; nothing of this mail was said yet
                smtp = self._fresh()
                self._say(smtp, _mail_from(smtp, envelope_sender, recipient, len(content)))
            self._say(smtp, f"RCPT TO:<{recipient}>")
            self._say(smtp, "DATA", positive=354)
            words = self._transmit(smtp, content)
        except (Gone, Uncertain):
            self._drop()
            raise
        except (Temporary, Permanent):
            self._reset(smtp)
            raise
        self._mine.used = self._clock()
        return Sent(words=words)

    def close(self) -> None:
        """Closes every thread's connection."""
        with self._lock:
            while self._all:
                self._all.pop().close()
        self._mine = threading.local()

    # -- the connection ------------------------------------------------------------------------------------------

    def _connection(self) -> tuple[smtplib.SMTP, bool]:
        """This thread's connection, and whether it was made just now."""
        smtp: smtplib.SMTP | None = getattr(self._mine, "smtp", None)
        if smtp is not None and smtp.sock is not None and self._clock() - self._mine.used <= KEEP_SECONDS:
            return smtp, False
        self._drop()
        return self._fresh(), True

    def _fresh(self) -> smtplib.SMTP:
        try:
            smtp = self._connect()
        except (OSError, ValueError) as error:  # smtplib's own errors are OSErrors; ValueError: a non-ASCII password
            raise Gone(f"{self._settings.host}:{self._settings.port}: {_words_of(error)}") from error
        with self._lock:
            self._all.add(smtp)
        self._mine.smtp, self._mine.used = smtp, self._clock()
        return smtp

    def _connect(self) -> smtplib.SMTP:
        out = self._settings
        smtp: smtplib.SMTP
        if out.security == "tls":
            smtp = smtplib.SMTP_SSL(
                out.host, out.port, self._local_hostname, timeout=out.timeout_seconds, context=self._tls()
            )
        else:
            smtp = smtplib.SMTP(out.host, out.port, self._local_hostname, timeout=out.timeout_seconds)
        try:
            if out.security == "starttls":
                smtp.starttls(context=self._tls())
            smtp.ehlo_or_helo_if_needed()
            if out.user:
                smtp.login(out.user, out.password)
            smtp.command_encoding = "utf-8"  # letters outside ASCII come only with SMTPUTF8
        except BaseException:
            smtp.close()
            raise
        return smtp

    def _tls(self) -> ssl.SSLContext:
        """Certificates are always verified: against `ca_file` alone where there is one. Raises OSError."""
        if self._context is None:
            self._context = ssl.create_default_context(cafile=self._settings.ca_file or None)
        return self._context

    def _drop(self) -> None:
        smtp: smtplib.SMTP | None = getattr(self._mine, "smtp", None)
        if smtp is not None:
            smtp.close()
            with self._lock:
                self._all.discard(smtp)
        self._mine.smtp = None

    def _reset(self, smtp: smtplib.SMTP) -> None:
        """After a refusal the next mail starts afresh on the same connection."""
        try:
            code, _ = smtp.rset()
        except OSError:
            code = 0
        if code == 250:
            self._mine.used = self._clock()
        else:
            self._drop()

    # -- the conversation ----------------------------------------------------------------------------------------

    def _say(self, smtp: smtplib.SMTP, command: str, positive: int = 0) -> None:
        verb = command.split(maxsplit=1)[0]
        try:
            code, said = smtp.docmd(command)
        except OSError as error:
            raise Gone(f"{verb}: {_words_of(error)}") from error
        if code == positive or (not positive and 200 <= code < 300):
            return
        raise _refusal(verb, code, said)

    def _transmit(self, smtp: smtplib.SMTP, content: bytes) -> str:
        seconds = self._settings.timeout_seconds
        try:
            # In one piece: when this fails, some of it was not even taken by our own machine, so the dot did not go
            _be_patient(smtp, seconds + len(content) / SLOWEST)
            smtp.send(content)
        except OSError as error:
            raise Gone(f"while the text was sent: {_words_of(error)}") from error
        try:
            _be_patient(smtp, seconds * AFTER_DOT)
            code, said = smtp.getreply()
            _be_patient(smtp, seconds)
        except OSError as error:
            raise Uncertain(f"no answer after the final dot: {_words_of(error)}") from error
        if 200 <= code < 300:
            return _words(said)
        if not 400 <= code < 600:
            raise Uncertain(f"after the final dot: {code} {_words(said)}")
        raise _refusal("after the text", code, said)


def _be_patient(smtp: smtplib.SMTP, seconds: float) -> None:
    if smtp.sock is not None:
        smtp.sock.settimeout(seconds)


def _mail_from(smtp: smtplib.SMTP, sender: str, recipient: str, size: int) -> str:
    """The command, with what the server understands: it may then refuse a mail that is too big before it comes."""
    command = f"MAIL FROM:<{sender}>"
    if smtp.has_extn("size"):
        command += f" SIZE={size}"
    if not (sender + recipient).isascii():
        if not smtp.has_extn("smtputf8"):
            raise Permanent("the mail server takes no addresses outside ASCII (SMTPUTF8)")
        command += " SMTPUTF8 BODY=8BITMIME"
    return command


def _refusal(when: str, code: int, said: bytes) -> Temporary | Permanent:
    words = f"{when}: {code} {_words(said)}"
    if code == 421 or not 400 <= code < 600:  # it closes the connection, or what it says is not SMTP
        return Gone(words)
    return Permanent(words) if code >= 500 and code not in OUR_LOGIN else Temporary(words)


def _canonical(content: bytes) -> bytes:
    """Lines end in CRLF and nothing else, dots are doubled, a dot ends it (RFC 5321 4.5.2): a lone CR or LF is what
    smuggles a second mail past a careless server."""
    if not content.count(b"\n") == content.count(b"\r") == content.count(b"\r\n"):
        content = LONE_END.sub(b"\r\n", content)
    if not content.endswith(b"\r\n"):
        content += b"\r\n"
    stuffed = content.replace(b"\r\n.", b"\r\n..")
    return (b"." + stuffed if stuffed.startswith(b".") else stuffed) + b".\r\n"


def _words(said: bytes) -> str:
    return " ".join(said.decode("utf-8", "replace").split())[:400]


def _words_of(error: Exception) -> str:
    if isinstance(error, smtplib.SMTPResponseException):
        said = error.smtp_error
        return f"{error.smtp_code} {_words(said if isinstance(said, bytes) else str(said).encode())}"
    if isinstance(error, TimeoutError):
        return "timed out"
    return " ".join(str(error).split())[:400] or type(error).__name__
