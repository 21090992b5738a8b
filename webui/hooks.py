"""The door for providers: `/hooks/<driver>/<event>`. Nobody signs in here; each driver proves itself who asks.

The signed address (Twilio's "Security" page: "the full URL, query string included") is the configured one, never what
Host or X-Forwarded-* say. The body is taken before anything reads it as a form, byte for byte.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from flask import Blueprint, request
from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Response

from gateway.values import RawRequest, RawResponse

PREFIX = "/hooks/"
MOST = 64 * 1024  # bytes of a body; an SMS with all its parameters has two thousand
PEER = "X-Ringback-Peer"
PLAIN = {"Content-Type": "text/plain; charset=utf-8"}

Take = Callable[[str, str, RawRequest], RawResponse]
Wsgi = Callable[[dict[str, Any], Any], Iterable[bytes]]


def blueprint(public_url: str, take: Take) -> Blueprint:
    """The one route. `take(driver, event, request)` answers; what it raises is the application's to say."""
    pages = Blueprint("hooks", __name__)

    @pages.route(
        PREFIX + "<driver>/<event>", methods=["GET", "POST"], provide_automatic_options=False, merge_slashes=False
    )
    def hook(driver: str, event: str) -> Response:
        request.max_content_length = MOST
        body = request.get_data(cache=False)
        answer = take(driver, event, RawRequest(request.method, _asked(public_url), _headers(), body))
        return Response(answer.body, answer.status, PLAIN | dict(answer.headers))

    @pages.errorhandler(HTTPException)
    def refused(error: HTTPException) -> Response:
        return Response(f"{error.name}\n", error.code, PLAIN)

    return pages


def nobody(driver: str, event: str, raw: RawRequest) -> RawResponse:
    """Who answers where no provider is wired."""
    return RawResponse(404, body=b"Not Found\n")


def any_host(application: Wsgi, host: str) -> Wsgi:
    """Whatever proxy a provider comes through, what it wrote into Host is nothing to us: Flask sees our own."""

    def answer(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if environ.get("PATH_INFO", "").startswith(PREFIX):
            environ["HTTP_HOST"] = host
        return application(environ, start_response)

    return answer


def _asked(public_url: str) -> str:
    query = request.query_string.decode("utf-8", "replace")
    return public_url + request.path + (f"?{query}" if query else "")


def _headers() -> dict[str, str]:
    """The client's, with the address of who connected to us. What a proxy passes on comes from nobody we know: with the
    proxy's own address everybody would come from this machine."""
    headers = {name.title(): value for name, value in request.headers.items()}
    passed_on = [name for name in headers if name.startswith(("X-Forwarded", "Forwarded", "Via", "X-Real-Ip"))]
    return headers | {PEER: "" if passed_on else request.remote_addr or ""}
