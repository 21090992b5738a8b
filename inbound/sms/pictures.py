"""A picture from a provider: with our password where the provider keeps it, and without it where that leads, once.

RFC 9110 15.4 (redirects). What a message names may not lead us into our own network.
"""

from __future__ import annotations

import ipaddress
import socket
import time
from typing import Any
from urllib.parse import urljoin, urlsplit

from gateway.values import Later, Media, Permanent

TIMEOUT = 10.0  # seconds for an answer to begin, and as many again for it to end
LARGEST = 10_000_000  # bytes


def download(session: Any, media: Media, login: tuple[str, str]) -> tuple[bytes, str]:
    """The picture and its type as said, by a `requests.Session`. The caller vouches for `media.url`.

    Later while it is not there yet or nobody answers; Permanent when it is too large, refused, or leads elsewhere than
    to one public address over HTTPS.
    """
    from requests import RequestException
    from urllib3.exceptions import HTTPError

    try:
        with _get(session, media.url, login) as answer:
            if not answer.is_redirect:
                return _read(answer, media)
            elsewhere = _public(urljoin(media.url, answer.headers["Location"]))
        with _get(session, elsewhere, _no_password) as answer:
            return _read(answer, media)
    except ValueError as error:  # requests' own InvalidURL is one, and what urllib says of addresses that are none
        raise Permanent("the picture leads nowhere") from error
    except (RequestException, HTTPError) as error:
        raise Later(f"the picture cannot be had: {type(error).__name__}") from error


def _get(session: Any, url: str, auth: object) -> Any:
    return session.get(url, auth=auth, timeout=TIMEOUT, stream=True, allow_redirects=False)


def _no_password(request: Any) -> Any:
    """With auth=None requests would look into ~/.netrc."""
    return request


def _public(url: str) -> str:
    """The address, when it is a public one over HTTPS. Raises Permanent, or Later when its name is not known now."""
    try:
        parts = urlsplit(url)
        if parts.scheme != "https" or not parts.hostname or parts.username or parts.port not in (None, 443):
            raise ValueError("not HTTPS")
        if not all(ipaddress.ip_address(address).is_global for address in addresses_of(parts.hostname)):
            raise ValueError("not public")
    except OSError as error:
        raise Later("the picture's host is not known") from error
    except ValueError as error:
        raise Permanent("the picture leads to an address that is not public") from error
    return url


def addresses_of(host: str) -> list[str]:
    """The IP addresses of a host. Raises OSError, and ValueError for what can be no host."""
    return [str(found[4][0]).partition("%")[0] for found in socket.getaddrinfo(host, 443, type=socket.SOCK_STREAM)]


def _read(answer: Any, media: Media) -> tuple[bytes, str]:
    if answer.status_code in (404, 429) or answer.status_code >= 500:
        raise Later(f"the picture is not there yet: {answer.status_code}")
    if answer.status_code != 200:
        raise Permanent(f"the picture cannot be had: {answer.status_code}")
    until, data = time.monotonic() + TIMEOUT, bytearray()
    while chunk := answer.raw.read1(16 * 1024, decode_content=True):  # what is there: a full block may never come
        data += chunk
        if len(data) > LARGEST:
            raise Permanent("the picture is larger than 10 MB")
        if time.monotonic() > until:
            raise Later("the picture comes too slowly")
    return bytes(data), answer.headers.get("Content-Type") or media.type
