"""The application: neighbours in, Flask out. Who may see a page, and the headers every answer carries.

Without a session only PUBLIC and the providers' `/hooks/` answer; every other path, known or not, leads to the sign-in
page. Pages of people hold their connection for the length of one request.
"""

from __future__ import annotations

import gzip
import logging
import secrets
from collections.abc import Callable
from datetime import datetime
from functools import lru_cache
from urllib.parse import quote, urlsplit

from flask import Flask, Response, g, redirect, request
from flask_wtf.csrf import CSRFError, CSRFProtect
from werkzeug.exceptions import BadRequest, HTTPException, SecurityError
from werkzeug.routing import IntegerConverter
from werkzeug.wrappers import Response as AnyResponse

from gateway import store
from gateway.config import Config
from gateway.store import accounts
from gateway.values import Account, Action, Temporary, Written, utc_now
from webui import events, files, health, hooks, inbox, login, mailroom, phones, sms, tickets, words
from webui.context import Site, bare, icon, site, static_url
from webui.watch import Watch

log = logging.getLogger("ringback.web")

PUBLIC = frozenset({"static", "health.alive", "login.form", "login.sign_in", "login.link", "login.use_link"})
BY_ITSELF = frozenset({"health.ready"})  # decides itself how much a stranger may know
MAX_BYTES = 40 * 1024 * 1024
POLICY = (
    "default-src 'self'; img-src 'self' data:; frame-src 'self'; object-src 'none'; base-uri 'none'; "
    "form-action 'self'; frame-ancestors 'none'"
)
ERRORS = {
    400: (
        "That did not fit",
        "The form was too old or not from here. Go back, load the page again and send it once more.",
    ),
    403: ("Not for you", "Your account may not do this."),
    404: ("Nothing here", "There is no such page, or it is not yours to see."),
    405: ("Not this way", "This address does not take that kind of request."),
    413: ("Too large", "Forms take at most 40 MB with all their files."),
    500: ("Our fault", "Something broke. It is written down; nothing that was received is lost."),
    503: ("Not right now", "The database is busy or away. Try again in a moment; nothing that was received is lost."),
}


class Id(IntegerConverter):
    """A row's number in a path; what no table can hold is no page."""

    def __init__(self, url_map: object) -> None:
        super().__init__(url_map, max=2**53)  # type: ignore[arg-type]


def create_app(
    config: Config,
    perform: Callable[[Action, Account], Written],
    keep: Callable[[bytes], str],
    now: Callable[[], datetime] = utc_now,
    take: hooks.Take = hooks.nobody,
) -> Flask:
    """The pages. `perform` does what one of us asks for, on this thread's connection; `keep` keeps a file's bytes;
    `take` answers a provider."""
    app = Flask(__name__)
    neighbours = Site(config, perform, keep, now, Watch(store.connection))
    app.extensions["ringback"] = neighbours
    app.config.update(_settings(config, neighbours.https))
    app.url_map.converters["id"] = Id
    _templates(app)
    app.before_request(_refuse_strange_requests)
    app.before_request(_sign_in_first)
    tokens = CSRFProtect(app)  # after the session: a stranger is sent to sign in, whatever he sends
    app.after_request(_headers)
    app.after_request(_smaller)
    app.teardown_request(_close)
    for module in (login, inbox, tickets, mailroom, phones, sms, files, health, events):
        app.register_blueprint(module.pages)
    _providers(app, config.web.public_url, take, tokens)
    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(Temporary, _temporary)
    app.register_error_handler(Exception, _broken)
    return app


def _settings(config: Config, https: bool) -> dict[str, object]:
    hosts = [urlsplit(config.web.public_url).hostname or "", "127.0.0.1", "localhost"]
    if config.web.host not in ("", "0.0.0.0", "::"):  # noqa: S104 - "everywhere" names no host
        hosts.append(config.web.host)
    return {
        "SECRET_KEY": config.web.secret or secrets.token_hex(32),
        "SESSION_COOKIE_NAME": "__Host-ringback_form" if https else "ringback_form",  # holds the CSRF secret, no login
        "SESSION_COOKIE_SECURE": https,
        "SESSION_COOKIE_HTTPONLY": True,
        "SESSION_COOKIE_SAMESITE": "Lax",
        "WTF_CSRF_TIME_LIMIT": None,  # a ticket may stay open all day
        "WTF_CSRF_SSL_STRICT": False,  # wants a Referer, which our own policy forbids; see _refuse_strange_requests
        "TRUSTED_HOSTS": list(dict.fromkeys(filter(None, hosts))),  # ports do not matter to it
        "MAX_CONTENT_LENGTH": MAX_BYTES,
        "SEND_FILE_MAX_AGE_DEFAULT": 365 * 24 * 3600,
    }


def _templates(app: Flask) -> None:
    app.jinja_env.trim_blocks = app.jinja_env.lstrip_blocks = True
    app.jinja_env.globals.update(icon=icon, static_url=static_url, site=site)
    words.install(app.jinja_env)


def _providers(app: Flask, public_url: str, take: hooks.Take, tokens: CSRFProtect) -> None:
    door = hooks.blueprint(public_url, take)
    tokens.exempt(door)
    app.register_blueprint(door)
    app.wsgi_app = hooks.any_host(app.wsgi_app, urlsplit(public_url).netloc)  # type: ignore[method-assign, assignment]


# -- before ------------------------------------------------------------------------------------------------------


def _refuse_strange_requests() -> None:
    """A Host that is not ours, a method no page has, a form from another site."""
    if isinstance(request.routing_exception, SecurityError):
        raise request.routing_exception
    if request.method not in ("GET", "HEAD", "POST", "OPTIONS"):
        raise MethodRefused
    if request.method == "POST" and not _is_provider() and _from_elsewhere():
        raise BadRequest


class MethodRefused(HTTPException):
    """405 before anything else: also where the path is not ours."""

    code = 405


def _is_provider() -> bool:
    """Providers have no session and no form of ours; they answer for themselves (`inbound.sms`)."""
    return request.path.startswith(hooks.PREFIX)


def _from_elsewhere() -> bool:
    """Browsers say where a form came from. `null` is what our own Referrer-Policy makes of Origin."""
    origin = request.headers.get("Origin", "null")
    ours = (
        urlsplit(site().config.web.public_url).hostname,
        request.host.rpartition(":")[0] or request.host,
        request.host,
    )
    return request.headers.get("Sec-Fetch-Site") == "cross-site" or (
        origin != "null" and urlsplit(origin).hostname not in ours
    )


def _sign_in_first() -> AnyResponse | None:
    """Opens the connection and finds the session; without one only PUBLIC goes on."""
    if request.endpoint == "static" or request.endpoint == "health.alive" or _is_provider():
        return None
    store.open_connection()
    found = accounts.session_account(request.cookies.get(login.cookie_name(), ""), site().now())
    if found:
        g.account, g.theme = found
        return None
    if request.endpoint in PUBLIC or request.endpoint in BY_ITSELF:
        return None
    wanted = request.full_path.rstrip("?") if request.method == "GET" and request.path != "/" else ""
    return redirect("/login" + (f"?next={quote(wanted, safe='/')}" if wanted else ""))


# -- after -------------------------------------------------------------------------------------------------------


def _headers(response: Response) -> Response:
    response.headers.setdefault("Content-Security-Policy", POLICY)
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Referrer-Policy"] = "no-referrer"
    if request.endpoint == "static":
        response.headers["Cache-Control"] = "public, max-age=31536000, immutable"
    else:
        response.headers.setdefault("Cache-Control", "no-store")
    if site().https:
        response.headers["Strict-Transport-Security"] = "max-age=31536000"
    return response


def _smaller(response: Response) -> Response:
    """gzip for text. A page's CSRF token is safe with it: our cookies are SameSite=Lax, so nobody else can ask."""
    kinds = ("text/html", "text/css", "text/javascript", "image/svg+xml")
    if (
        response.mimetype not in kinds
        or response.status_code != 200
        or (response.is_streamed and request.endpoint != "static")
    ):
        return response
    response.vary.add("Accept-Encoding")
    if "gzip" not in request.headers.get("Accept-Encoding", ""):
        return response
    response.direct_passthrough = False
    response.set_data(_zipped(response.get_data(), 9 if request.endpoint == "static" else 5))
    response.headers["Content-Encoding"] = "gzip"
    return response


@lru_cache(16)
def _zipped(content: bytes, level: int) -> bytes:
    return gzip.compress(content, level, mtime=0)


def _close(_error: BaseException | None) -> None:
    store.close_connection()


# -- errors ------------------------------------------------------------------------------------------------------


def _http_error(error: HTTPException) -> AnyResponse:
    if error.code is None or error.code < 400:
        return error.get_response()
    code = 400 if isinstance(error, CSRFError) else error.code
    title, sentence = ERRORS.get(code, ("That did not work", ""))
    answer = bare("error.html", code, title=title, sentence=sentence, reference="")
    if code == 405 and (allowed := getattr(error, "valid_methods", None)):
        answer.headers["Allow"] = ", ".join(sorted(allowed))
    return answer


def _temporary(error: Temporary) -> AnyResponse:
    log.warning("%s %s: %s", request.method, request.path, error)
    title, sentence = ERRORS[503]
    answer = bare("error.html", 503, title=title, sentence=sentence, reference="")
    answer.headers["Retry-After"] = "5"
    return answer


def _broken(error: Exception) -> AnyResponse:
    """Our error: the page shows a number, the log has the rest under it."""
    reference = secrets.token_hex(4)
    log.error("error %s at %s %r", reference, request.method, request.path, exc_info=error)
    title, sentence = ERRORS[500]
    return bare("error.html", 500, title=title, sentence=sentence, reference=reference)
