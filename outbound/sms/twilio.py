"""SMS through Twilio's REST API: sending, asking whether a message was taken, and what messages cost.

Twilio's pages: "Message resource", "Error and warning dictionary". What an answer means:

    nobody listens, no such host, TLS            Temporary: nothing was sent
    429                                          Later, after Retry-After
    no answer after sending, 5xx, no JSON        Uncertain: Twilio sends again what is posted again
    any other                                    Refused, by the code
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from gateway.config import Config, SmsNumber
from gateway.values import Caps, Delivery, Later, OutSms, Receipt, Refusal, Refused, Sent, Temporary, Uncertain
from outbound.sms.over_http import can_be_called, heed, unheard

CAPS = Caps(media=True, price=True, handles_opt_out=True, can_look_up=True, polls=True)

TIMEOUT = 10.0  # seconds for an answer to begin
CLOCKS_DIFFER = timedelta(minutes=15)
REMEMBERED = 10_000  # messages whose name at Twilio is known to be taken

# Why Twilio does not take a message. Any other code is UNKNOWN.
CODES = {
    Refusal.ACCOUNT: (20003, 30002, 30034),  # wrong password; suspended; not registered for US numbers
    # no such number; no route; no mobile; a landline; nobody's; a landline
    Refusal.NUMBER: (21211, 21612, 21614, 21635, 30005, 30006),
    Refusal.OPTED_OUT: (21610,),
    Refusal.OVERLOAD: (21611,),  # its queue for our number is full
    # From no number; From is To; country off; no From; no To; From not ours; trial account; bad callback; too long
    Refusal.CONFIG: (21212, 21266, 21408, 21603, 21604, 21606, 21608, 21609, 21617),
}
WHY = {str(code): why for why, codes in CODES.items() for code in codes}
TOO_MANY = "20429"
TRIAL = "Sent from your Twilio trial account - "  # which Twilio writes before the text


class Line:
    """Connections to Twilio, one a thread: its client hands an answer on in a field that all callers share."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make, self._mine, self._lock = make, threading.local(), threading.Lock()
        self._taken: dict[str, int] = {}  # Twilio's name → our row

    @property
    def rest(self) -> Any:
        """This thread's `twilio.rest.Client`."""
        if not hasattr(self._mine, "rest"):
            self._mine.rest = self._make()
        return self._mine.rest

    def take(self, sid: str, row: int) -> bool:
        """May this row have that message? The first that asks has it: of two alike no one is taken for the other."""
        with self._lock:
            while len(self._taken) >= REMEMBERED:
                del self._taken[next(iter(self._taken))]
            return self._taken.setdefault(sid, row) == row


def http_client() -> Any:
    """The connection to Twilio, a `TwilioHttpClient`; tests put a double here."""
    from twilio.http.http_client import TwilioHttpClient

    return TwilioHttpClient(timeout=TIMEOUT)


def connect(way: SmsNumber, config: Config) -> Line:
    """Opens nothing yet. The API key signs us in where there is one, else the first token."""
    account = way.twilio
    assert account is not None, "the settings see to it"
    login = account.api_key_sid, account.api_key_secret
    if not account.api_key_sid:
        login = account.account_sid, account.auth_tokens[0]

    def client() -> Any:
        from twilio.rest import Client

        http = http_client()
        http.request_hooks = {"response": [heed]}  # the SDK's own error does not say how long to wait
        return Client(*login, account.account_sid, http_client=http)

    return Line(client)


def send(client: Line, way: SmsNumber, message: OutSms) -> Sent:
    """Hands one SMS to Twilio. Raises Temporary, Later, Uncertain or Refused, as the table above says."""
    from requests import RequestException
    from twilio.base.exceptions import TwilioException

    if not message.text or len(message.text) > CAPS.max_chars:
        raise Refused(f"not 1 to {CAPS.max_chars} characters", "21617", Refusal.CONFIG)
    more = {"status_callback": message.callback} if can_be_called(message.callback) else {}
    try:
        said = client.rest.messages.create(to=message.recipient, body=message.text, **_origin(way, message), **more)
        sent = _sent(said)
    except TwilioException as error:
        raise _meaning(error) from error
    except RequestException as error:
        raise unheard(error) from error
    except UnicodeError as error:
        raise Refused("letters that cannot be sent", "unicode", Refusal.CONFIG) from error
    except (ValueError, AttributeError, TypeError) as error:
        raise Uncertain("Twilio's answer cannot be read") from error
    client.take(sent.provider_id, message.id)
    return sent


def _origin(way: SmsNumber, message: OutSms) -> dict[str, str]:
    """A messaging service chooses the number itself: it does for the main number, unless each conversation has one."""
    if _service(way) and message.sender == way.number and not way.pool:
        return {"messaging_service_sid": _service(way)}
    return {"from_": message.sender}


def _service(way: SmsNumber) -> str:
    return way.twilio.messaging_service_sid if way.twilio else ""


def _sent(said: Any) -> Sent:
    if not said.sid:
        raise ValueError("a message without a name")
    return Sent(said.sid, str(said.status or ""), int(said.num_segments or 0), said.from_ or "")


def _meaning(error: Any) -> Exception:
    status, code = getattr(error, "status", 0), str(getattr(error, "code", ""))
    words = str(getattr(error, "msg", "") or getattr(error, "title", "") or error)
    if code == TOO_MANY:
        return Later(words)
    if not (isinstance(status, int) and 400 <= status < 500):
        return Uncertain(f"{status}: {words}")
    return Refused(words, code or str(status), Refusal.ACCOUNT if status == 401 else WHY.get(code, Refusal.UNKNOWN))


# -- asking afterwards -------------------------------------------------------------------------------------------


def look_up(client: Line, way: SmsNumber, message: OutSms) -> Sent | None:
    """The newest message of Twilio's that is this one and no other row's; None when there is none. Raises Temporary.

    By To, text, number and time of creation: Twilio's own filter goes by the time of sending, which a message in its
    queue does not have yet.
    """
    since = (message.since or datetime.now(UTC) - timedelta(days=1)) - CLOCKS_DIFFER
    for kept in _kept(client, to=message.recipient, page_size=50):  # newest first
        created = kept.date_created or kept.date_sent
        if created is not None and created < since:
            return None
        if _is_it(kept, way, message) and client.take(kept.sid, message.id):
            return _sent(kept)
    return None


def _kept(client: Line, **only: Any) -> Iterator[Any]:
    from requests import RequestException
    from twilio.base.exceptions import TwilioException

    try:
        yield from client.rest.messages.stream(**only)
    except (TwilioException, RequestException, ValueError) as error:
        raise Temporary(f"Twilio cannot be asked: {type(error).__name__}") from error


def _is_it(kept: Any, way: SmsNumber, message: OutSms) -> bool:
    from_it = "from_" not in _origin(way, message) or kept.from_ == message.sender
    text = (kept.body or "").removeprefix(TRIAL).strip()  # Twilio trims
    return from_it and _is_from_us(kept, way) and text == message.text.strip()


def _is_from_us(kept: Any, way: SmsNumber) -> bool:
    by_service = _service(way) and kept.messaging_service_sid == _service(way)
    return bool(kept.from_ in way.numbers or by_service) and str(kept.direction).startswith("outbound")


def prices(client: Line, way: SmsNumber, since: datetime) -> list[Receipt]:
    """What the messages that we sent after `since` cost, as far as Twilio knows yet. Raises Temporary."""
    asked = [{}] if _service(way) else [{"from_": number} for number in way.numbers]
    after = {"date_sent_after": since.astimezone(UTC), "page_size": 200}
    kept = (one for only in asked for one in _kept(client, **after, **only))
    return [_priced(one) for one in kept if one.price is not None and _is_from_us(one, way)]


def _priced(kept: Any) -> Receipt:
    return Receipt(
        driver="twilio",
        id=kept.sid,
        status=Delivery.PRICED,
        segments=_sent(kept).segments,
        price=str(kept.price).lstrip("-"),
        currency=str(kept.price_unit or "").upper(),
    )
