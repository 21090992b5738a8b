"""The process around reading a mail: a child that may die, hang or run out of memory, and the worker's handle on it.

The child is a fresh interpreter (`python -m inbound.parser <blob folder> <memory MB> <authserv id>`), never a fork. It
has no database. Frames on its pipes are a length of eight bytes and that many bytes: in, JSON and then the mail; out, a
pickle that is read back with an allow-list of classes.

The child ends when its standard input does, so with its parent. (Linux can also signal the death of a parent, but means
the thread that started the child: a pool's thread that ends would take the child with it.)

Fail point: with RINGBACK_TESTING=1 a mail with the header `X-Ringback-Poison: segv`, `hang` or `oom` makes the child
die that way. Without that variable the header means nothing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import json
import os
import pickle
import re
import resource
import select
import signal
import struct
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from gateway import blobs, values
from gateway.addresses import mail_address
from gateway.values import NOBODY, Channel, Envelope, InboundMessage, NamedAddress, Permanent, Step, Temporary

_LENGTH = struct.Struct(">Q")
_OUT_OF_MEMORY = 77  # exit code of a child that met its limit
_LONGEST_LIFE = 600  # seconds for one mail, for a child whose parent is gone and cannot kill it any more
_POISON = re.compile(rb"^x-ringback-poison:[ \t]*(segv|hang|oom)", re.IGNORECASE | re.MULTILINE)
_ALLOWED = {("datetime", "datetime"), ("datetime", "timezone"), ("datetime", "timedelta")}


class Unreadable(Permanent):
    """The mail killed two parsers, or its reading failed; the words are for a person."""


# -- the worker's side -------------------------------------------------------------------------------------------


class Parser:
    """One parser process, started when it is first needed and replaced when it dies. Users wait for each other."""

    def __init__(self, blob_folder: Path, seconds: float, memory_mb: int, authserv_id: str) -> None:
        self.seconds, self.memory_mb = seconds, memory_mb
        self.command = [sys.executable, "-m", "inbound.parser", str(blob_folder), str(memory_mb), authserv_id]
        self.child: subprocess.Popen[bytes] | None = None
        self.in_use = threading.Lock()

    def parse(self, raw: bytes | Path, envelope: Envelope) -> InboundMessage:
        """The mail, understood. `raw` is its bytes or the file they lie in.

        Raises Unreadable after the second death, or where our own code failed; Temporary when the disk did.
        """
        head: dict[str, Any] = {"envelope": dataclasses.asdict(envelope)}
        if isinstance(raw, Path):
            head["path"] = str(raw)
        request = _frame(json.dumps(head).encode()) + _frame(b"" if isinstance(raw, Path) else raw)
        words = ""
        with self.in_use:
            for _attempt in range(2):
                try:
                    return _read_answer(self._ask(request))
                except _Died as death:
                    words = str(death)
        raise Unreadable(words)

    def close(self) -> None:
        """Ends the child. The handle can be used again."""
        child, self.child = self.child, None
        if child is not None:
            child.kill()
            child.wait()
            for pipe in (child.stdin, child.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()

    def _ask(self, request: bytes) -> bytes:
        """One exchange. Raises _Died. A child that was interrupted in one is no use for the next: it is ended."""
        if self.child is not None and self.child.poll() is not None:
            self.close()  # it died while it had nothing to do: that is not this mail's fault
        child = self.child or self._start()
        try:
            return self._exchange(child, request)
        except BaseException:
            self.close()
            raise

    def _exchange(self, child: subprocess.Popen[bytes], request: bytes) -> bytes:
        """Writes the request and reads the answer, within the limit; both ends may block, so neither is waited for."""
        assert child.stdin is not None
        assert child.stdout is not None
        deadline = time.monotonic() + self.seconds
        sink, source = child.stdin.fileno(), child.stdout.fileno()
        received = bytearray()
        left = memoryview(request)
        poll = select.poll()
        poll.register(source, select.POLLIN)
        poll.register(sink, select.POLLOUT)
        while True:
            waiting = deadline - time.monotonic()
            ready = dict(poll.poll(1000 * waiting)) if waiting > 0 else {}
            if not ready:
                raise _Died(f"took longer than {self.seconds:g} s")
            if sink in ready and left:
                try:
                    left = left[os.write(sink, left[: 1 << 20]) :]
                except OSError:
                    raise _Died(self._last_words(child)) from None
                if not left:
                    poll.unregister(sink)
            if source in ready:
                chunk = os.read(source, 1 << 20)
                if not chunk:
                    raise _Died(self._last_words(child))
                received += chunk
                if len(received) >= 8 and len(received) >= 8 + _LENGTH.unpack_from(received)[0]:
                    return bytes(received[8:])

    def _start(self) -> subprocess.Popen[bytes]:
        child = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        for pipe in (child.stdin, child.stdout):
            assert pipe is not None
            os.set_blocking(pipe.fileno(), False)
        self.child = child
        return child

    def _last_words(self, child: subprocess.Popen[bytes]) -> str:
        """Why a child that closed its pipe is gone."""
        try:
            code = child.wait(5)
        except subprocess.TimeoutExpired:
            return "closed its pipe"
        if code == _OUT_OF_MEMORY:
            return f"was killed: out of memory (limit {self.memory_mb} MB)"
        if code < 0:
            return f"was killed: {signal.Signals(-code).name}"
        return f"ended with exit code {code}"


class _Died(Exception):
    """The child is gone, or takes too long; the words say how."""


def _frame(data: bytes) -> bytes:
    return _LENGTH.pack(len(data)) + data


def _read_answer(answer: bytes) -> InboundMessage:
    """The message out of a child's answer; an error comes as (can be tried again, words)."""
    result = _Unpickler(io.BytesIO(answer)).load()
    if isinstance(result, InboundMessage):
        return result
    again, words = result
    raise (Temporary if again else Unreadable)(words)


class _Unpickler(pickle.Unpickler):
    """Builds values and dates, nothing else: the child has read a stranger's bytes."""

    def find_class(self, module: str, name: str) -> Any:
        found = getattr(values, name, None) if module == "gateway.values" else None
        if isinstance(found, type) and found.__module__ == "gateway.values":
            return found
        if (module, name) in _ALLOWED:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} is not allowed")


# -- what is left of a mail that cannot be read ------------------------------------------------------------------

_HEAD_END = re.compile(rb"\r?\n\r?\n")
_FROM = re.compile(rb"^from[ \t]{0,5}:([^\n]{0,1000})", re.IGNORECASE | re.MULTILINE)
_SUBJECT = re.compile(rb"^subject[ \t]{0,5}:([^\n]{0,1000})", re.IGNORECASE | re.MULTILINE)
_MESSAGE_ID = re.compile(rb"^message-id[ \t]{0,5}:[ \t]{0,5}<([!-;=?-~]{3,250})>", re.IGNORECASE | re.MULTILINE)
_ADDRESS = re.compile(r"[^\s<>()\",;:@]{1,200}@[^\s<>()\",;:@]{1,253}")


def minimal(raw: bytes, envelope: Envelope) -> InboundMessage:
    """The least that can be said of a mail, by its first 64 KB: one From address, or none, and the subject.

    Never raises. Only expressions of bounded length: this runs in the worker, on a mail that killed two parsers.
    """
    head = raw[: 64 << 10]
    end = _HEAD_END.search(head)
    head = head[: end.start()] if end else head
    lines = _FROM.findall(head)
    found = _ADDRESS.findall(_printable(lines[0])) if len(lines) == 1 else []
    address = mail_address(found[0]) if len(set(found)) == 1 else ""
    sender = NamedAddress("", address) if address else NOBODY
    subject = _SUBJECT.search(head)
    message_id = _MESSAGE_ID.search(head)
    digest = hashlib.sha256(raw).hexdigest()
    return InboundMessage(
        channel=Channel.MAIL,
        sender=sender,
        author=sender,
        subject=_printable(subject.group(1)) if subject else "",
        text="This mail could not be read. The original is attached.",
        message_id=message_id.group(1).decode("ascii") if message_id else f"{digest[:32]}@local",
        content_hash=digest,
        no_automatic_answer="the mail could not be read",
        sender_is_doubtful=True,
        notes=("The mail could not be read; sender and subject are what its first lines say.",),
        steps=(Step("minimal", f"{len(raw)} bytes"),),
    )


def _printable(value: bytes) -> str:
    text = value.decode("utf-8", "replace")
    return "".join(letter if letter.isprintable() else " " for letter in text).strip()[:500]


# -- the child's side --------------------------------------------------------------------------------------------


def main(arguments: list[str]) -> None:
    """The child: reads mails until its standard input ends."""
    folder, memory_mb, authserv_id = Path(arguments[0]), int(arguments[1]), arguments[2]
    # Whatever prints by mistake must not end up between two frames.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the supervisor, which ends us in order
    from inbound import mime  # before the limit, which is for mails

    resource.setrlimit(resource.RLIMIT_AS, (memory_mb << 20, memory_mb << 20))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for envelope, given in _requests(sys.stdin.buffer):
        signal.alarm(_LONGEST_LIFE)
        answer: InboundMessage | tuple[bool, str]
        try:
            raw = given.read_bytes() if isinstance(given, Path) else given
            _obey_poison(raw)
            answer = mime.parse(raw, envelope, partial(blobs.put, folder), authserv_id=authserv_id)
        except MemoryError:
            os._exit(_OUT_OF_MEMORY)
        except OSError as error:
            answer = (True, f"{type(error).__name__}: {error}")  # the disk, not the mail
        except Exception:  # noqa: BLE001 - around one mail; what happened is the answer
            answer = (False, traceback.format_exc(limit=-8))
        signal.alarm(0)
        answers.write(_frame(pickle.dumps(answer, protocol=4)))
        answers.flush()


def _requests(source: BinaryIO) -> Iterator[tuple[Envelope, bytes | Path]]:
    """(envelope, raw mail or the file it lies in) of each pair of frames; ends where the input ends."""
    while (head := _read_frame(source)) is not None:
        raw = _read_frame(source)
        if raw is None:
            return
        told = json.loads(head)
        told["envelope"]["recipients"] = tuple(told["envelope"]["recipients"])
        yield Envelope(**told["envelope"]), Path(told["path"]) if "path" in told else raw


def _read_frame(source: BinaryIO) -> bytes | None:
    length = source.read(8)
    if len(length) < 8:
        return None
    wanted = _LENGTH.unpack(length)[0]
    data = source.read(wanted)
    return data if len(data) == wanted else None


def _obey_poison(raw: bytes) -> None:
    """The fail point of the module's docstring."""
    if os.environ.get("RINGBACK_TESTING") != "1":
        return
    found = _POISON.search(raw[:8192])
    match found.group(1).lower() if found else b"":
        case b"segv":
            os.kill(os.getpid(), signal.SIGSEGV)
        case b"hang":
            _hang()
        case b"oom":
            hoard = []
            while True:
                hoard.append(bytearray(16 << 20))


def _hang() -> NoReturn:
    while True:
        time.sleep(60)


if __name__ == "__main__":
    main(sys.argv[1:])
