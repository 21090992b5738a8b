"""The transport without a server: files that only we may read, whole or not at all."""

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from gateway.values import Medium, NoticeKind, Outgoing, Permanent, Temporary
from outbound.files import FileSender

ROW = Outgoing(
    id=17,
    ticket=1001,
    entry=5,
    kind=NoticeKind.ANSWER,
    medium=Medium.MAIL,
    recipient="ann@example.com",
    account=None,
    attempts=1,
    created=datetime(2026, 11, 23, 14, 5, tzinfo=UTC),
    rendered=b"Subject: hello\r\n\r\nwords\r\n",
    message_id="m@acme.example",
    envelope_sender="",
    data={},
)


def test_a_mail_becomes_a_file_and_says_that_it_was_not_sent(tmp_path: Path) -> None:
    sent = FileSender(tmp_path / "outgoing")(ROW)
    assert sent.words == "not sent: no mail server configured"
    file = tmp_path / "outgoing" / "20261123T140500Z-17.eml"
    assert file.read_bytes() == ROW.rendered
    assert file.stat().st_mode & 0o777 == 0o600, "it holds tokens"


def test_a_repeat_writes_the_same_file_and_leaves_no_other(tmp_path: Path) -> None:
    send = FileSender(tmp_path)
    send(ROW)
    send(replace(ROW, attempts=2))
    assert [file.name for file in tmp_path.iterdir()] == ["20261123T140500Z-17.eml"]


def test_an_sms_is_a_text_file(tmp_path: Path) -> None:
    FileSender(tmp_path)(replace(ROW, medium=Medium.SMS, rendered=b"done"))
    assert (tmp_path / "20261123T140500Z-17.txt").read_bytes() == b"done"


def test_a_disk_that_refuses_is_tried_again(tmp_path: Path) -> None:
    (tmp_path / "outgoing").write_text("a file stands where the folder should be")
    with pytest.raises(Temporary, match="outgoing"):
        FileSender(tmp_path / "outgoing")(ROW)


def test_what_was_not_rendered_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(Permanent):
        FileSender(tmp_path)(replace(ROW, rendered=None))
