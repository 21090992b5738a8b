"""Did the person in From really send this? DKIM (RFC 6376), DMARC (RFC 7489), Authentication-Results (RFC 8601).

With `[mail] authserv_id` the mail server's own header is read; without it the signature is verified here, and only
where it can matter: when From is one of us. No answer is not a refusal.
"""

from __future__ import annotations

import ipaddress
import logging
import re
import time
from collections.abc import Callable, Iterable

from gateway.addresses import domain_of
from gateway.config import Config
from gateway.values import Envelope, InboundMessage, Proof

log = logging.getLogger("ringback.authenticity")

Resolve = Callable[[bytes], bytes | None]  # a DNS name → its TXT record

DNS_SECONDS = 3
KEPT_SECONDS, ASKED_AGAIN_SECONDS = 3600, 60
MAX_SIGNATURES = 5
RESULT = re.compile(r"\s*(dmarc|dkim)\s*=\s*([a-z]+)(?=\s|$)", re.IGNORECASE)
SIGNED_BY = re.compile(r"\sheader\.[di]\s*=\s*(\S+)", re.IGNORECASE)
DOMAIN_TAG = re.compile(rb"(?:^|;)\s*d\s*=\s*([A-Za-z0-9.\-_]+)")

_known_keys: dict[bytes, tuple[float, bytes | None]] = {}


def prove(
    message: InboundMessage,
    raw: Callable[[], bytes],
    envelope: Envelope,
    config: Config,
    staff: frozenset[str],
    resolve: Resolve | None = None,
) -> Proof:
    """How sure we are of the sender. `raw` is called only when a signature has to be verified."""
    if envelope.authenticated or _trusted(envelope.peer, config.mail.trusted_networks):
        return Proof.PASSED
    if config.mail.authserv_id:
        return read_results(message.authentication, domain_of(message.author.address))
    claims_to_be_ours = message.author.address in staff or message.sender.address in staff
    if not (config.mail.verify_dkim and message.signed and claims_to_be_ours):
        return Proof.NONE
    return verify(raw(), domain_of(message.author.address), resolve or lookup)


def _trusted(peer: str, networks: Iterable[str]) -> bool:
    try:
        address = ipaddress.ip_address(peer)
    except ValueError:
        return False
    return any(address in ipaddress.ip_network(network) for network in networks)


def read_results(headers: Iterable[str], domain: str) -> Proof:
    """What our own mail server says: dmarc decides, else a DKIM pass of the author's own domain.

    Method and result stand at the beginning of a clause; whatever else a header holds (the envelope sender, for one)
    was chosen by a stranger.
    """
    proof = Proof.NONE
    for clause in (clause for header in headers for clause in _clauses(header)):
        said = RESULT.match(clause)
        if said is None:
            continue
        method, result = said.group(1).lower(), said.group(2).lower()
        if method == "dmarc" and result == "fail":
            return Proof.FAILED
        signers = [value.rpartition("@")[2] for value in SIGNED_BY.findall(clause)]
        if result == "pass" and (method == "dmarc" or any(aligned(signer, domain) for signer in signers)):
            proof = Proof.PASSED
    return proof


def _clauses(header: str) -> list[str]:
    """The parts between semicolons, without comments (which nest) and quoted strings; what does not end is left out."""
    kept, depth, quoted, escaped = [], 0, False, False
    for character in header[:20_000]:
        if escaped or character == "\\":
            escaped = not escaped and character == "\\"
        elif character == '"' and not depth:
            quoted = not quoted
        elif quoted:
            continue
        elif character == "(":
            depth += 1
        elif character == ")":
            depth = max(0, depth - 1)
        elif not depth:
            kept.append(character)
    return "".join(kept).split(";")


def aligned(signer: str, domain: str) -> bool:
    """Relaxed alignment without a public suffix list: the same domain, or one a label or more above the author's
    that has a dot of its own."""
    signer, domain = signer.lower().rstrip("."), domain.lower()
    return bool(domain) and (
        signer == domain or ("." in signer and domain.endswith("." + signer) and _registrable(signer))
    )


def _registrable(domain: str) -> bool:
    """`co.uk` signs for nobody below it: a second level of two or three letters under a country is a registry."""
    labels = domain.split(".")
    return len(labels) > 2 or not (len(labels[-1]) == 2 and len(labels[0]) <= 3)


def verify(raw: bytes, domain: str, resolve: Resolve) -> Proof:
    """Verifies the DKIM signatures of the author's domain ourselves. Never raises: what cannot be verified proves
    nothing."""
    import dkim

    end = time.monotonic() + DNS_SECONDS  # for all of them: a mail with many signatures must not hold up the others
    signatures = re.findall(rb"(?im)^dkim-signature:((?:[^\n]*\n)(?:[ \t][^\n]*\n)*)", raw[:200_000])[:MAX_SIGNATURES]
    for index, signature in enumerate(signatures):
        tag = DOMAIN_TAG.search(re.sub(rb"\s+", b"", signature))
        if tag is None or not aligned(tag.group(1).decode("ascii", "replace"), domain) or time.monotonic() > end:
            continue
        try:
            if dkim.DKIM(raw, minkey=1024).verify(idx=index, dnsfunc=lambda name, timeout=DNS_SECONDS: resolve(name)):
                return Proof.PASSED
        except Exception as error:  # noqa: BLE001 - dkimpy raises many kinds for broken signatures and keys
            log.info("a DKIM signature could not be verified: %s", error)
    return Proof.NONE


def lookup(name: bytes) -> bytes | None:
    """A TXT record from DNS, kept for an hour; None when there is none or nobody answers within 3 s."""
    kept = _known_keys.get(name)
    if kept and kept[0] > time.monotonic():
        return kept[1]
    from dkim.dnsplug import get_txt

    try:
        record: bytes | None = get_txt(name, timeout=DNS_SECONDS)
    except Exception as error:  # noqa: BLE001 - each DNS library has errors of its own
        log.info("DNS has no answer for %s: %s", name.decode("ascii", "replace"), error)
        record = None
    if len(_known_keys) > 1000:
        _known_keys.clear()
    _known_keys[name] = (time.monotonic() + (KEPT_SECONDS if record else ASKED_AGAIN_SECONDS), record)
    return record
