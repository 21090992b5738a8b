"""The driver without a provider: SMS as files, in and out."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from gateway.config import Config, Data, SmsNumber
from gateway.values import OutSms, Sms, Temporary
from inbound.sms import file as inward
from outbound.sms import file as outward

WAY = SmsNumber(number="+447700900999", pool=("+447700900998",))
polls = itertools.count(1)
NOW = datetime(2026, 11, 25, 10, 0, 5, tzinfo=UTC)
TEXT = "From: +447700900123\n\nThe boiler is cold.\n"


@pytest.fixture(autouse=True)
def _nothing_seen() -> Iterator[None]:
    inward._returned.clear()
    yield
    inward._returned.clear()


def put(folder: Path, name: str, content: str | bytes, minute: int = 0) -> Path:
    path = folder / "incoming" / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    at = NOW.timestamp() + 60 * minute
    os.utime(path, (at, at))
    return path


def poll(folder: Path, way: SmsNumber = WAY, kept: bool = True) -> list[Sms]:
    """What is new; `kept` says that what the poll before returned has been kept, from which time on this one asks."""
    since = NOW + timedelta(seconds=next(polls) if kept else 0)
    return [sms for sms in inward.poll(way, since, folder) if isinstance(sms, Sms)]


# -- in ------------------------------------------------------------------------------------------------------------


def test_a_file_is_a_message(tmp_path: Path) -> None:
    put(tmp_path, "one.txt", TEXT)
    (sms,) = poll(tmp_path)
    assert (sms.driver, sms.sender, sms.recipient, sms.text) == (
        "file",
        "+447700900123",
        WAY.number,
        "The boiler is cold.",
    )
    assert sms.id.startswith("one.txt-")
    assert sms.at == NOW


@pytest.mark.parametrize(
    ("content", "recipient", "text"),
    [
        ("From: +44\nTo: +447700900998\n\nhi\n", "+447700900998", "hi"),
        ("FROM:+44\r\nto:  +447700900999 \r\n\r\na\r\nb\r\n", WAY.number, "a\nb"),
        ("From: +44\n\na\n\nb: c  \n\n", WAY.number, "a\n\nb: c  \n"),
        ("\ufeffFrom: +44\n\nhi", WAY.number, "hi"),
        (b"From: +44\n\ncaf\xe9\x00\n", WAY.number, "caf\ufffd"),
        ("From: +44", WAY.number, ""),
    ],
)
def test_its_head_ends_with_the_first_empty_line(
    tmp_path: Path, content: str | bytes, recipient: str, text: str
) -> None:
    put(tmp_path, "one.txt", content)
    (sms,) = poll(tmp_path)
    assert (sms.sender, sms.recipient, sms.text) == ("+44", recipient, text)


def test_they_come_oldest_first(tmp_path: Path) -> None:
    for minute, name in enumerate(("c.txt", "a.txt", "b.txt")):
        put(tmp_path, name, f"From: +44\n\n{name}", minute)
    assert [sms.text for sms in poll(tmp_path)] == ["c.txt", "a.txt", "b.txt"]


def test_it_is_moved_only_by_the_poll_after_the_one_that_returned_it(tmp_path: Path) -> None:
    path = put(tmp_path, "one.txt", TEXT)
    assert len(poll(tmp_path)) == 1
    assert path.exists()
    other = put(tmp_path, "two.txt", "From: +44\n\nhi")
    assert [sms.text for sms in poll(tmp_path)] == ["hi"]
    assert not path.exists()
    assert other.exists()
    assert (tmp_path / "incoming" / "done" / "one.txt").read_text() == TEXT
    assert poll(tmp_path) == []
    assert not other.exists()


def test_after_a_crash_it_comes_again_with_the_same_id(tmp_path: Path) -> None:
    put(tmp_path, "one.txt", TEXT)
    (first,) = poll(tmp_path)
    assert poll(tmp_path, kept=False) == [first], "what could not be kept comes again"
    inward._returned.clear()  # as in a new process
    assert poll(tmp_path) == [first]


def test_the_same_name_with_another_text_is_another_message_and_both_are_kept(tmp_path: Path) -> None:
    put(tmp_path, "one.txt", "From: +44\n\none")
    (first,) = poll(tmp_path)
    put(tmp_path, "one.txt", "From: +44\n\ntwo")
    (second,) = poll(tmp_path)
    assert first.id != second.id
    poll(tmp_path)
    put(tmp_path, "one.txt", "From: +44\n\nthree")
    poll(tmp_path)
    poll(tmp_path)
    done = sorted(path.read_text()[-5:].strip() for path in (tmp_path / "incoming" / "done").iterdir())
    assert done == ["three", "two"]


def test_what_is_none_stays_where_it_is(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name, content in (("a.txt", "hi"), ("b.txt", "From:\n\nhi"), (".c.txt", TEXT), ("d.eml", TEXT), ("e.txt", "")):
        put(tmp_path, name, content)
    assert poll(tmp_path) == poll(tmp_path) == []
    assert sorted(path.name for path in (tmp_path / "incoming").iterdir()) == [
        ".c.txt",
        "a.txt",
        "b.txt",
        "d.eml",
        "e.txt",
    ]
    assert "a.txt: no SMS" in caplog.text
    assert ".c.txt" not in caplog.text


def test_a_message_to_another_number_is_left_to_it(tmp_path: Path) -> None:
    put(tmp_path, "one.txt", "From: +44\nTo: +447700900997\n\nhi")
    assert poll(tmp_path) == []
    (sms,) = poll(tmp_path, SmsNumber(number="+447700900997"))
    assert sms.recipient == "+447700900997"


def test_no_folder_is_an_empty_one_and_a_bad_one_is_temporary(tmp_path: Path) -> None:
    assert poll(tmp_path) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(Temporary):
        poll(tmp_path / "file")


# -- out -----------------------------------------------------------------------------------------------------------


def send(folder: Path, text: str = "On our way.\nAda", id: int = 17) -> None:
    way, config = WAY, Config(data=Data(dir=str(folder)))
    message = OutSms(id, WAY.number, "+447700900123", text, since=NOW)
    sent = outward.send(outward.connect(way, config), way, message)
    assert sent.words == "not sent: no SMS provider configured"


def test_a_message_becomes_a_file_that_only_we_may_read(tmp_path: Path) -> None:
    send(tmp_path)
    (path,) = (tmp_path / "outgoing").iterdir()
    assert path.name == "20261125T100005Z-17.sms.txt"
    assert path.read_text() == "From: +447700900999\nTo: +447700900123\n\nOn our way.\nAda\n"
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700


def test_a_repeat_overwrites_and_another_row_does_not(tmp_path: Path) -> None:
    send(tmp_path, "old")
    send(tmp_path, "new \ud800")
    send(tmp_path, "other", id=18)
    assert [path.read_text().splitlines()[-1] for path in sorted((tmp_path / "outgoing").iterdir())] == [
        "new ?",
        "other",
    ]


def test_what_is_sent_could_be_read_again_as_what_came_in(tmp_path: Path) -> None:
    send(tmp_path, "a\n\nb")
    (path,) = (tmp_path / "outgoing").iterdir()
    put(tmp_path, "back.txt", path.read_text())
    (sms,) = poll(tmp_path, SmsNumber(number="+447700900123"))
    assert (sms.sender, sms.recipient, sms.text) == (WAY.number, "+447700900123", "a\n\nb")


def test_a_disk_that_refuses_is_temporary_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "outgoing").write_text("")
    with pytest.raises(Temporary, match="outgoing"):
        send(tmp_path)
