"""Is it Twilio who asks? The signature of its webhooks, and what the signature leaves open.

Twilio's page: "Webhooks security". A signature never grows old (the same message again is met by its id), and it says
nothing of where one parameter ends: so what is refused besides a wrong one stands in `genuine` and `_form`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from urllib.parse import parse_qsl

from gateway.config import SmsNumber
from gateway.values import RawRequest

MAX_BODY, MAX_PARAMETERS = 64 * 1024, 200
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_.]*")
# The signed text is name, value, name, value with nothing between: what somebody wrote can be read as parameters, and
# the true ones as the end of a value or as other names (sms.md 1, trap e). So what we read has its form, and stands
# nowhere but under its own name, and in a Body, where people write. Left open: a Body that ends early, where its last
# word could be a name; its MessageSid is known by then.
PARTY = r"[ +0-9][0-9 ().-]{2,23}|[^+\x00-\x1f]{1,11}|[a-z]+:\S+"  # a number, a sender's name, sip: and the like
# name: (how a value begins, what a whole one looks like)
READ = {
    "From": ("[+0-9]", PARTY),
    "To": ("[+0-9]", PARTY),
    "FromCountry": ("[A-Z]{2}", "([A-Z]{2})?"),
    "AccountSid": ("AC", "AC[0-9a-fA-F]{32}"),
    "MessageSid": ("(SM|MM)", "(SM|MM)[0-9a-fA-F]{32}"),
    "CallSid": ("CA", "CA[0-9a-fA-F]{32}"),
    "MessageStatus": ("[a-z]", "[a-z_]*"),
    "ErrorCode": ("[0-9]", "[0-9]*"),
    "OptOutType": ("ST|HE", "STOP|START|HELP"),
    "NumMedia": ("[0-9]", "-?[0-9a-z]{0,9}"),
    "MediaUrl[0-9]": ("http", r"[a-z]+:\S+"),
    "MediaContentType[0-9]": ("[a-z]+/", r"(\w+/\S.*)?"),
}
MISPLACED = re.compile("|".join(f"{name}({begins})" for name, (begins, _) in READ.items()))
IN_PLACE = re.compile("|".join(f"{name}=({whole})" for name, (_, whole) in READ.items()))
OWN_NAME = re.compile("|".join(READ))


class Strange(Exception):
    """Not what Twilio sends, or not meant for us; the words are for the log."""


def genuine(raw: RawRequest, ways: Sequence[SmsNumber]) -> tuple[dict[str, str], list[SmsNumber]]:
    """The parameters of a request that Twilio signed, and our ways of its account. Raises Strange."""
    headers = {name.lower(): value for name, value in raw.headers.items()}
    form = _form(headers.get("content-type", ""), raw.body)
    mine = [way for way in ways if way.twilio and way.twilio.account_sid == form.get("AccountSid")]
    tokens = dict.fromkeys(token for way in mine if way.twilio for token in way.twilio.auth_tokens if token)
    if not any(_signed(raw.public_url, form, headers, token) for token in tokens):
        raise Strange("wrong signature" if mine else "an account that is none of ours")
    if any(_is_misread(name, value) for name, value in form.items() if name != "Body"):
        raise Strange("a parameter within a parameter")
    return form, mine


def _is_misread(name: str, value: str) -> bool:
    if OWN_NAME.fullmatch(name):
        return bool(MISPLACED.search(value)) or not IN_PLACE.fullmatch(f"{name}={value}")
    return bool(MISPLACED.search(value) or MISPLACED.match(name + value))


def _form(content_type: str, body: bytes) -> dict[str, str]:
    """Nothing is trimmed: spaces and empty parameters are signed too."""
    if content_type.partition(";")[0].strip().lower() != "application/x-www-form-urlencoded":
        raise Strange("not a form")  # a validator that is given no parameters would check the address alone
    if len(body) > MAX_BODY:
        raise Strange("too large")
    try:
        pairs = parse_qsl(
            body.decode("utf-8"),
            keep_blank_values=True,
            strict_parsing=True,
            errors="strict",
            max_num_fields=MAX_PARAMETERS,
        )
    except ValueError as error:
        raise Strange("not a form of few parameters in UTF-8") from error
    form = dict(pairs)
    if len(form) != len(pairs) or not all(
        NAME.fullmatch(name) and ("\0" not in value or name == "Body") for name, value in pairs
    ):
        raise Strange("parameters twice, or with strange names or values")
    return form


def _signed(url: str, form: dict[str, str], headers: Mapping[str, str], token: str) -> bool:
    from twilio.request_validator import RequestValidator, get_signature_algorithm

    algorithm = get_signature_algorithm(headers.get("x-twilio-webhooks-signature-settings", ""))
    try:
        signature = headers.get("x-twilio-signature", "")
        return bool(RequestValidator(token).validate(url, form, signature, algorithm))
    except ValueError:  # an address that has no form in UTF-8, or a port that is none
        return False
