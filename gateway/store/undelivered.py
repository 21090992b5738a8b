"""An SMS that does not go, or did not arrive: its facts are read, what becomes of it is decided and written."""

from __future__ import annotations

import logging
from datetime import datetime

from peewee import OperationalError

from gateway import store
from gateway.config import Config
from gateway.decide.undelivered import decide_undelivered
from gateway.store import apply as writer
from gateway.store import outbox
from gateway.values import OutboxState, Refusal, Temporary

log = logging.getLogger("ringback.store")


def give_up(
    id: int, state: OutboxState, why: Refusal | None, code: str, words: str, now: datetime, config: Config
) -> None:
    """For an SMS that is still in this state; anything else is left as it is. `why` None: its time is over.

    When nobody can be told it stays as it was, and the caller ends it. Inside `writing()`, whose other work goes on.
    """
    found = outbox.sms_by_id(id)
    if found is None or found.state is not state:
        return
    try:
        with store.savepoint():
            known = outbox.undelivered_facts(found, now)
            writer.apply(decide_undelivered(found, why, code, words, known, now, config), now)
    except (OperationalError, Temporary):
        raise
    except Exception:
        log.exception("SMS %d did not go, and nobody could be told", id)
