"""Files of strangers: kept, never run."""

from __future__ import annotations

import pytest

from gateway import blobs, store
from gateway.store import intake
from gateway.values import Answer, Arrival, Channel, Envelope, FilePart
from tests.webui.conftest import Browser, Pages

PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 20
SANDBOX = "sandbox; default-src 'none'; frame-ancestors 'none'"


def attached(pages: Pages, content: bytes, name: str, kind: str, cid: str = "", html: str = "") -> tuple[int, int]:
    """A mail with one file; returns its ticket and the file's row."""
    sha256 = blobs.put(pages.desk.config.folder / "blobs", content)
    ticket = pages.received(text=name, files=(FilePart(sha256, name, kind, len(content), cid),), html=html)
    return ticket, int(pages.rows("select max(id) from attachment")[0][0])


@pytest.mark.parametrize(
    ("content", "name", "kind", "sent_as"),
    [
        (b"<script>alert(1)</script>", "page.html", "text/html", "application/octet-stream"),
        (b"<svg onload=alert(1)>", "x.svg", "image/svg+xml", "application/octet-stream"),
        (b"<script>", "x.png", "image/png", "application/octet-stream"),
        (PNG, "x.html", "text/html", "image/png"),
        (b"%PDF-1.4", "x.pdf", "application/pdf", "application/pdf"),
        (b"hello", "x.txt", "text/plain", "text/plain"),
    ],
)
def test_a_file_is_a_download_that_no_browser_runs(
    pages: Pages, ada: Browser, content: bytes, name: str, kind: str, sent_as: str
) -> None:
    _, file = attached(pages, content, name, kind)
    answer = ada.get(f"/attachments/{file}")
    assert answer.get_data() == content
    assert answer.headers["Content-Type"] == sent_as
    assert answer.headers["Content-Disposition"] == f"attachment; filename={name}"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["Content-Security-Policy"] == SANDBOX


@pytest.mark.parametrize(
    ("content", "disposition"),
    [
        (PNG, "inline"),
        (b"\xff\xd8\xff\xe0", "inline"),
        (b"GIF89a", "inline"),
        (b"<svg onload=alert(1)>", "attachment"),
        (b"GIF88a", "attachment"),
        (b"", "attachment"),
    ],
)
def test_only_what_is_a_picture_by_its_bytes_is_shown(
    pages: Pages, ada: Browser, content: bytes, disposition: str
) -> None:
    _, file = attached(pages, content, "x.png", "image/png")
    assert ada.get(f"/attachments/{file}?show").headers["Content-Disposition"].startswith(disposition)


@pytest.mark.parametrize("name", ['a"b.txt', "ü.txt", "a\nb.txt", "‮cod.exe", "=1+1.csv"])
def test_no_name_breaks_out_of_its_header(pages: Pages, ada: Browser, name: str) -> None:
    _, file = attached(pages, b"x", name, "text/plain")
    header = ada.get(f"/attachments/{file}").headers["Content-Disposition"]
    assert header.startswith("attachment; filename=")
    assert header.isascii()
    assert "\n" not in header


def test_a_raw_message_comes_as_it_was_received(pages: Pages, ada: Browser) -> None:
    raw = b"From: <script>\r\n\r\n<b>hello</b>\xff"
    with store.writing():
        intake.add(Arrival("k", Channel.MAIL, raw, Envelope(), pages.clock()), "")
    answer = ada.get("/raw/1")
    assert answer.get_data() == raw
    assert answer.headers["Content-Disposition"] == "attachment; filename=message-1.eml"
    assert answer.headers["Content-Security-Policy"] == SANDBOX
    assert answer.headers["Content-Type"] == "application/octet-stream"


def test_a_large_raw_message_comes_from_the_blob_store(pages: Pages, ada: Browser) -> None:
    arrival = Arrival("k", Channel.MAIL, b"x" * 300_000, Envelope(), pages.clock())
    blob = intake.place(pages.desk.config.folder / "blobs", arrival)
    with store.writing():
        intake.add(arrival, blob)
    assert ada.get("/raw/1").get_data() == arrival.raw


@pytest.mark.parametrize(
    "path",
    ["/attachments/1", "/attachments/99999999999999999999", "/raw/1", "/raw/x", "/tickets/1001/html/1", "/outbox/1"],
)
def test_what_is_not_there_is_404(ada: Browser, path: str) -> None:
    assert ada.get(path).status_code == 404


def test_a_file_whose_bytes_are_gone_is_404(pages: Pages, ada: Browser) -> None:
    _, file = attached(pages, b"hello", "x.txt", "text/plain")
    sha256 = pages.rows("select sha256 from attachment")[0][0]
    blobs.path_of(pages.desk.config.folder / "blobs", sha256).unlink()
    assert ada.get(f"/attachments/{file}").status_code == 404


def test_an_html_mail_is_shown_in_a_sandbox_that_runs_and_loads_nothing(pages: Pages, ada: Browser) -> None:
    ticket, _ = attached(pages, PNG, "x.png", "image/png", html="<p>Hello <b>there</b></p>")
    entry = pages.rows("select id from entry where kind = 'message'")[0][0]
    page = ada.page(f"/tickets/{ticket}")
    assert f'src="/tickets/{ticket}/html/{entry}"' in page
    assert 'sandbox="allow-popups allow-popups-to-escape-sandbox"' in page
    answer = ada.get(f"/tickets/{ticket}/html/{entry}")
    policy = answer.headers["Content-Security-Policy"]
    assert "<p>Hello <b>there</b></p>" in answer.get_data(as_text=True)
    assert policy.startswith("sandbox allow-popups")
    assert "allow-scripts" not in policy
    assert "default-src 'none'; img-src data:;" in policy
    assert "frame-ancestors 'self'" in policy


def test_pictures_of_the_mail_itself_stand_in_its_html(pages: Pages, ada: Browser) -> None:
    html = '<img src="cid:logo@x" alt="logo"><img src="cid:missing@x"><img src="cid:../../etc/passwd">'
    ticket, _ = attached(pages, PNG, "x.png", "image/png", cid="logo@x", html=html)
    entry = pages.rows("select id from entry where kind = 'message'")[0][0]
    page = ada.page(f"/tickets/{ticket}/html/{entry}")
    assert '<img src="data:image/png;base64,iVBORw0KGgo' in page
    assert page.count('src="data:,"') == 2
    assert "cid:" not in page


def test_a_picture_that_is_none_stays_out_of_the_html(pages: Pages, ada: Browser) -> None:
    ticket, _ = attached(pages, b"<svg onload=alert(1)>", "x.svg", "image/svg+xml", cid="a", html='<img src="cid:a">')
    entry = pages.rows("select id from entry where kind = 'message'")[0][0]
    assert '<img src="data:,">' in ada.page(f"/tickets/{ticket}/html/{entry}")


def test_the_html_of_one_ticket_is_not_found_under_another(pages: Pages, ada: Browser) -> None:
    first = pages.received("one", html="<p>one</p>")
    second = pages.received("two", html="<p>two</p>")
    entry = pages.rows("select id from entry where ticket = ? and kind = 'message'", first)[0][0]
    assert ada.get(f"/tickets/{second}/html/{entry}").status_code == 404


def test_the_mail_that_was_not_sent_can_be_seen_but_never_one_of_ours_to_each_other(pages: Pages, ada: Browser) -> None:
    from gateway.model import execute

    pages.desk.perform(Answer(pages.received(), "Hello."), pages.desk.people["ada"])
    with store.writing():
        execute("update outbox set rendered = ?", b"From: us\r\n\r\nHello.")
    kinds = dict(pages.rows("select kind, id from outbox"))
    assert ada.get(f"/outbox/{kinds['answer']}").get_data() == b"From: us\r\n\r\nHello."
    assert ada.get(f"/outbox/{kinds['notice']}").status_code == 404
