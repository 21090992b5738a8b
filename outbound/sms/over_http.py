"""What providers reached by HTTP have in common: what silence means, and which of our addresses they can call.

RFC 9112 9.6 (a connection that ends before its answer). Errors are those of `requests`.
"""

from __future__ import annotations

import ipaddress
import re
import ssl
from collections.abc import Iterator
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from gateway.values import Later, Temporary, Uncertain

if TYPE_CHECKING:
    from requests import Response

PRIVATE = (".localhost", ".local", ".internal", ".lan", ".home.arpa", ".test", ".invalid")


def heed(answer: Response, *_: object, **__: object) -> None:
    """A hook of `requests`: 429 is Later, by the seconds of its Retry-After (RFC 6585 4), 0 where it has none."""
    if answer.status_code == 429:
        answer.close()
        said = answer.headers.get("Retry-After", "")
        raise Later("too many requests (429)", float(said) if re.fullmatch(r"[0-9]{1,6}", said) else 0.0)


def unheard(error: Exception) -> Temporary:
    """No answer came: Temporary when nothing can have been sent, Uncertain when it may have been."""
    from requests import ConnectTimeout
    from requests.exceptions import ProxyError
    from urllib3.exceptions import NewConnectionError

    name = type(error).__name__
    for cause in _causes(error):
        if isinstance(cause, ConnectTimeout | ProxyError | NewConnectionError) or _in_handshake(cause):
            return Temporary(f"the provider is not reached: {name}")
    return Uncertain(f"the provider did not answer: {name}")


def _in_handshake(cause: BaseException) -> bool:
    """TLS failed before anything was said. An end without a goodbye may come after it."""
    return isinstance(cause, ssl.SSLError) and not isinstance(cause, ssl.SSLEOFError | ssl.SSLZeroReturnError)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error, and the errors that the libraries wrapped in it."""
    seen: set[int] = set()
    waiting: list[object] = [error]
    while waiting:
        cause = waiting.pop()
        if isinstance(cause, BaseException) and id(cause) not in seen:
            seen.add(id(cause))
            yield cause
            waiting += [cause.__cause__, cause.__context__, getattr(cause, "reason", None), *cause.args]


def can_be_called(url: str) -> bool:
    """Can a provider call this address of ours? Not a private host, and none with an underscore (Twilio's 21609)."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        return False
    if parts.scheme not in ("http", "https") or "." not in host or "_" in parts.netloc or not parts.path:
        return False
    if not url.isascii() or any(character <= " " for character in url) or parts.username is not None:
        return False
    try:
        return ipaddress.ip_address(host).is_global
    except ValueError:
        return not host.endswith(PRIVATE)
