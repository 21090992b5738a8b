"""Files of strangers: downloads that a browser cannot run, pictures it may show, and HTML mail in its own sandbox."""

from __future__ import annotations

import base64
import re
from urllib.parse import quote

from flask import Blueprint, abort, render_template, request
from werkzeug.http import dump_options_header
from werkzeug.wrappers import Response

from gateway import blobs, queries
from gateway.queries import File
from webui.context import site

pages = Blueprint("files", __name__)

SANDBOX = "sandbox; default-src 'none'; frame-ancestors 'none'"
# Links in a mail open a window of their own; nothing runs, nothing is loaded, pictures come inside the page.
MAIL_SANDBOX = (
    "sandbox allow-popups allow-popups-to-escape-sandbox; default-src 'none'; img-src data:; style-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'self'"
)
HARMLESS = ("application/pdf", "text/plain", "application/zip")
PICTURES = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
)
LARGEST_PICTURE = 2_000_000
ALL_PICTURES = 6_000_000
CID = re.compile(r'(<img\b[^>]*?\bsrc=")cid:([^"]{1,500})(")', re.IGNORECASE)


def picture_type(content: bytes) -> str:
    """image/png, image/jpeg or image/gif by the first bytes; "" for everything else, SVG too."""
    return next((kind for start, kind in PICTURES if content.startswith(start)), "")


@pages.get("/attachments/<id:attachment>")
def attachment(attachment: int) -> Response:
    """A file to keep; with `?show` a picture to look at, if its bytes are one."""
    file = queries.attachment(attachment) or abort(404)
    content = _content(file.sha256)
    shown = picture_type(content) if "show" in request.args else ""
    kind = shown or picture_type(content) or (file.type if file.type in HARMLESS else "application/octet-stream")
    return _download(content, kind, file.name, "inline" if shown else "attachment")


@pages.get("/raw/<id:inbound>")
def raw(inbound: int) -> Response:
    """A message exactly as it was received."""
    found = queries.raw(inbound) or abort(404)
    content = _content(found.blob) if found.blob else found.raw
    name = f"message-{inbound}.{'eml' if found.channel == 'mail' else 'json'}"
    return _download(content, "application/octet-stream", name, "attachment")


@pages.get("/outbox/<id:outbox>")
def outgoing(outbox: int) -> Response:
    """A mail of ours to somebody outside, as it went out or would have."""
    return _download(
        queries.rendered(outbox) or abort(404), "application/octet-stream", f"mail-{outbox}.eml", "attachment"
    )


def _content(sha256: str) -> bytes:
    try:
        return blobs.get(site().config.folder / "blobs", sha256)
    except (FileNotFoundError, ValueError):
        abort(404)


def _download(content: bytes, kind: str, name: str, disposition: str) -> Response:
    answer = Response(content, content_type=kind)
    answer.headers["Content-Disposition"] = dump_options_header(disposition, _named(name))
    answer.headers["Content-Security-Policy"] = SANDBOX
    answer.headers["Cross-Origin-Resource-Policy"] = "same-origin"
    answer.headers["Cache-Control"] = "private, max-age=3600"
    return answer


def _named(name: str) -> dict[str, str | None]:
    """A file's name for a header, by RFC 6266: controls and what turns the reading direction are gone."""
    name = "".join(c for c in name if c.isprintable() and c not in "/\\") or "file"
    plain = name.encode("ascii", "replace").decode().replace("?", "_")
    return {"filename": plain} if plain == name else {"filename": plain, "filename*": f"UTF-8''{quote(name)}"}


@pages.get("/tickets/<id:ticket>/html/<id:entry>")
def html(ticket: int, entry: int) -> Response:
    """The document of the frame that shows an HTML mail: cleaned when it was received, sandboxed here again."""
    found = queries.html_of(ticket, entry) or abort(404)
    answer = Response(render_template("tickets/html.html", html=_with_pictures(*found)), mimetype="text/html")
    answer.headers["Content-Security-Policy"] = MAIL_SANDBOX
    answer.headers["Cache-Control"] = "private, max-age=3600"
    return answer


def _with_pictures(text: str, files: tuple[File, ...]) -> str:
    """The mail's own pictures put into the page: a sandboxed frame sends no cookie, so it loads nothing of ours."""
    by_cid = {file.cid: file for file in files if file.cid and file.size <= LARGEST_PICTURE}
    left = ALL_PICTURES

    def picture(match: re.Match[str]) -> str:
        nonlocal left
        file = by_cid.get(match.group(2))
        if file is None or file.size > left:
            return match.group(1) + "data:," + match.group(3)
        left -= file.size
        content = _content(file.sha256)
        kind = picture_type(content)
        data = f"data:{kind};base64,{base64.b64encode(content).decode()}" if kind else "data:,"
        return match.group(1) + data + match.group(3)

    return CID.sub(picture, text)
