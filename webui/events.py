"""Server-sent events: which tickets moved. The page fetches what it shows again; nothing else travels here."""

from __future__ import annotations

import json
import queue
import time
from collections.abc import Iterator

from flask import Blueprint
from werkzeug.exceptions import ServiceUnavailable
from werkzeug.wrappers import Response

from webui.context import me, site
from webui.watch import Stream, Watch

pages = Blueprint("events", __name__)

BEAT_SECONDS = 10  # a closed connection is noticed at the next beat
LIFE_SECONDS = 300  # then the browser comes back, and its session is looked at again


@pages.get("/events")
def events() -> Response:
    """A stream of `{"tickets": [1001]}`; no tickets means: look at everything."""
    watch = site().watch
    stream = watch.join(me().id)
    if stream is None:
        raise ServiceUnavailable
    answer = Response(_lines(watch, stream), mimetype="text/event-stream")
    answer.headers["X-Accel-Buffering"] = "no"
    answer.call_on_close(lambda: watch.leave(stream))
    return answer


def _lines(watch: Watch, stream: Stream) -> Iterator[str]:
    try:
        yield "retry: 2000\n\n"
        end = time.monotonic() + LIFE_SECONDS
        while time.monotonic() < end:
            try:
                tickets = stream.next(BEAT_SECONDS)
            except queue.Empty:
                yield ": beat\n\n"
                continue
            if tickets is None:
                return
            yield f"data: {json.dumps({'tickets': tickets})}\n\n"
    finally:
        watch.leave(stream)
