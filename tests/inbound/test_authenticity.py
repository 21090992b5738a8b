"""Whose word counts: DKIM of our own checking, the mail server's header, the way a mail came."""

from __future__ import annotations

import base64
from functools import cache

import dkim
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from gateway.config import Config, Inbox, Mail
from gateway.values import Channel, Envelope, InboundMessage, NamedAddress, Proof
from inbound.authenticity import aligned, prove, read_results

TOM = "tom@desk.example"
MAIL = b"From: Tom <tom@desk.example>\r\nTo: support@desk.example\r\nSubject: done\r\n\r\nNew gasket fitted.\r\n"


@cache
def key() -> tuple[bytes, bytes]:
    """A signing key, and what DNS says of it."""
    private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    public = private.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return pem, b"v=DKIM1; k=rsa; p=" + base64.b64encode(public)


def signed(domain: bytes, mail: bytes = MAIL) -> bytes:
    return bytes(dkim.sign(mail, b"s1", domain, key()[0], include_headers=[b"from", b"to", b"subject"])) + mail


def dns(name: bytes) -> bytes | None:
    return key()[1] if name.startswith(b"s1._domainkey.") else None


def proof_of(
    raw: bytes,
    author: str = TOM,
    envelope: Envelope | None = None,
    mail: Mail | None = None,
    headers: tuple[str, ...] = (),
) -> Proof:
    message = InboundMessage(
        Channel.MAIL, NamedAddress("Tom", author), NamedAddress("Tom", author), "done", "New gasket.", "m@x", "h",
        authentication=headers, signed=b"DKIM-Signature" in raw,
    )  # fmt: skip
    config = Config(mail=mail or Mail(), inboxes=(Inbox(address="support@desk.example"),))
    return prove(message, lambda: raw, envelope or Envelope(), config, frozenset({TOM}), dns)


def test_a_signature_of_the_authors_domain_proves_him() -> None:
    assert proof_of(signed(b"desk.example")) is Proof.PASSED


def test_a_changed_word_proves_nothing() -> None:
    assert proof_of(signed(b"desk.example").replace(b"gasket", b"casket")) is Proof.NONE


def test_a_strangers_signature_does_not_prove_somebody_else() -> None:
    assert proof_of(signed(b"evil.example")) is Proof.NONE


def test_garbage_where_the_signature_should_be_proves_nothing() -> None:
    assert proof_of(b"DKIM-Signature: v=1; d=desk.example; b=\xff\x00; bh=;\r\n" + MAIL) is Proof.NONE


def test_a_customers_signature_is_not_even_looked_up() -> None:
    assert proof_of(signed(b"hillcrest.example"), author="ann@hillcrest.example") is Proof.NONE


@pytest.mark.parametrize(
    ("header", "proof"),
    [
        ("mx.desk.example; dmarc=pass header.from=desk.example", Proof.PASSED),
        ("mx.desk.example; dkim=pass header.d=desk.example; dmarc=fail", Proof.FAILED),
        ("mx.desk.example; dkim=pass header.d=desk.example", Proof.PASSED),
        ("mx.desk.example; dkim=pass header.d=evil.example", Proof.NONE),
        ("mx.desk.example; spf=pass smtp.mailfrom=desk.example", Proof.NONE),
        ("mx.desk.example; dmarc=none", Proof.NONE),
        # what a stranger chose stands in the middle of a clause, in quotes, in a comment, or before an @
        (
            "mx.desk.example; spf=pass smtp.mailfrom=dmarc=pass@evil.example; dmarc=fail",
            Proof.FAILED,
        ),
        ("mx.desk.example; spf=pass smtp.mailfrom=dmarc=pass@evil.example; dkim=none", Proof.NONE),
        ('mx.desk.example; spf=pass smtp.mailfrom="x; dmarc=pass "@evil.example', Proof.NONE),
        ("mx.desk.example; spf=pass (a; dmarc=pass (b); dkim=pass header.d=desk.example) smtp.mailfrom=x", Proof.NONE),
        ("mx.desk.example; dkim=pass header.i=desk.example@evil.example; dmarc=none", Proof.NONE),
        ("mx.desk.example; dkim=pass header.i=@desk.example header.s=s1", Proof.PASSED),
        ("mx.desk.example; dmarc=pass; dmarc=fail", Proof.FAILED),
        ("mx.desk.example; dmarc=passed", Proof.NONE),
    ],
)
def test_our_own_mail_servers_header_is_read(header: str, proof: Proof) -> None:
    assert read_results((header,), "desk.example") is proof
    assert proof_of(MAIL, mail=Mail(authserv_id="mx.desk.example"), headers=(header,)) is proof


def test_mail_from_a_trusted_network_is_proved_by_its_way() -> None:
    mail = Mail(trusted_networks=("10.1.0.0/16",))
    assert proof_of(MAIL, envelope=Envelope(peer="10.1.2.3"), mail=mail) is Proof.PASSED
    assert proof_of(MAIL, envelope=Envelope(peer="10.2.2.3"), mail=mail) is Proof.NONE
    assert proof_of(MAIL, envelope=Envelope(peer="unknown"), mail=mail) is Proof.NONE


@pytest.mark.parametrize(
    ("signer", "domain", "fits"),
    [
        ("desk.example", "desk.example", True),
        ("desk.example", "mail.desk.example", True),
        ("mail.desk.example", "desk.example", False),
        ("example", "desk.example", False),
        ("co.uk", "desk.co.uk", False),
        ("sk.example", "desk.example", False),
        ("DESK.example", "desk.example", True),
    ],
)
def test_who_may_sign_for_whom(signer: str, domain: str, fits: bool) -> None:
    assert aligned(signer, domain) is fits
