"""The parser process dies alone, is replaced, and its answers build nothing but values."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from gateway import blobs
from gateway.values import NOBODY, Envelope, MessageClass, Permanent, Temporary
from inbound import parser
from inbound.parser import Parser, Unreadable

ENVELOPE = Envelope("carol@example.org", ("help@desk.example.com",))
MAIL = b"From: Carol <carol@example.org>\nSubject: The printer\nMessage-ID: <a@example.org>\n\nIt is broken.\n"
FILE = (
    b"From: carol@example.org\nContent-Type: application/pdf\nContent-Disposition: attachment; filename=a.pdf\n\n%PDF-1"
)


@pytest.fixture
def handle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Parser]:
    monkeypatch.setenv("RINGBACK_TESTING", "1")
    made = Parser(tmp_path, seconds=10, memory_mb=512, authserv_id="mx.desk.example.com")
    yield made
    made.close()


def poisoned(how: str) -> bytes:
    return f"X-Ringback-Poison: {how}\n".encode() + MAIL


def test_a_mail_goes_in_and_a_message_comes_out(handle: Parser) -> None:
    message = handle.parse(MAIL, ENVELOPE)
    assert (message.sender.address, message.subject, message.text) == (
        "carol@example.org",
        "The printer",
        "It is broken.",
    )
    again = handle.parse(MAIL, ENVELOPE)  # by the same child
    assert replace(again, steps=()) == replace(message, steps=())


def test_attachments_are_in_the_blob_store_when_the_message_comes(handle: Parser, tmp_path: Path) -> None:
    (file,) = handle.parse(FILE, ENVELOPE).files
    assert (file.name, file.type, blobs.get(tmp_path, file.sha256)) == ("a.pdf", "application/pdf", b"%PDF-1")


def test_a_large_mail_is_read_from_its_file(handle: Parser, tmp_path: Path) -> None:
    path = tmp_path / "mail"
    path.write_bytes(MAIL + b"x" * 5_000_000)
    assert "cut" in handle.parse(path, ENVELOPE).notes[0]
    assert handle.parse(path.read_bytes(), ENVELOPE).subject == "The printer"


def test_a_file_that_is_not_there_is_the_disks_fault(handle: Parser, tmp_path: Path) -> None:
    with pytest.raises(Temporary, match="FileNotFoundError"):
        handle.parse(tmp_path / "none", ENVELOPE)
    assert handle.parse(MAIL, ENVELOPE).subject == "The printer"


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("segv", "was killed: SIGSEGV"),
        ("hang", "took longer than 0.5 s"),
        ("oom", "was killed: out of memory (limit 512 MB)"),
    ],
)
def test_after_the_second_death_the_mail_is_unreadable_and_the_next_one_is_read(
    handle: Parser, how: str, words: str
) -> None:
    handle.parse(MAIL, ENVELOPE)
    handle.seconds = 0.5 if how == "hang" else 10
    with pytest.raises(Unreadable) as caught:
        handle.parse(poisoned(how), ENVELOPE)
    assert str(caught.value) == words
    assert isinstance(caught.value, Permanent)
    handle.seconds = 10
    assert handle.parse(MAIL, ENVELOPE).subject == "The printer"


def test_one_death_is_forgiven(handle: Parser) -> None:
    handle.parse(MAIL, ENVELOPE)
    assert handle.child is not None
    first = handle.child.pid
    os.kill(first, signal.SIGKILL)
    assert handle.parse(MAIL, ENVELOPE).subject == "The printer"
    assert handle.child.pid != first


def test_poison_means_nothing_outside_of_tests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RINGBACK_TESTING", raising=False)
    handle = Parser(tmp_path, seconds=10, memory_mb=512, authserv_id="")
    try:
        assert handle.parse(poisoned("segv"), ENVELOPE).subject == "The printer"
    finally:
        handle.close()


def test_the_child_ends_with_its_parent(tmp_path: Path) -> None:
    program = (
        "import os, sys; from pathlib import Path\n"
        "from inbound.parser import Parser; from gateway.values import Envelope\n"
        "p = Parser(Path(sys.argv[1]), 10, 512, ''); p.parse(b'From: a@b.example\\n\\nx', Envelope())\n"
        "print(p.child.pid, flush=True); os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, check=False)
    pid = int(done.stdout)
    until = time.monotonic() + 5
    while time.monotonic() < until and _runs(pid):
        time.sleep(0.02)
    assert not _runs(pid)


def _runs(pid: int) -> bool:
    try:
        return ") Z" not in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False


def test_only_values_and_dates_come_out_of_a_pickle() -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, ("true",)

    with pytest.raises(pickle.UnpicklingError, match="system is not allowed"):
        parser._read_answer(pickle.dumps(Evil()))


def test_the_least_that_can_be_said_of_an_unreadable_mail() -> None:
    message = parser.minimal(MAIL, ENVELOPE)
    assert (message.sender.address, message.subject) == ("carol@example.org", "The printer")
    assert message.message_id == "a@example.org"
    assert message.text == "This mail could not be read. The original is attached."
    assert message.category is MessageClass.HUMAN
    assert message.no_automatic_answer
    assert message.sender_is_doubtful


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\0" * 100_000,
        b"From: nobody\n\nx",
        b"From: a@example.org, b@example.org\n\nx",
        b'From: "agent@desk.example.com" <evil@example.net>\n\nx',
        b"From: a@example.org\nFrom: b@example.org\n\nx",
        b"Subject: x\n\nFrom: a@example.org\n",
    ],
)
def test_an_address_that_is_not_the_only_one_is_none(raw: bytes) -> None:
    assert parser.minimal(raw, ENVELOPE).sender == NOBODY
