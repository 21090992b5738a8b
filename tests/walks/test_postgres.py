"""The first path once more, with PostgreSQL instead of the embedded database."""

from __future__ import annotations

import json
from pathlib import Path

from tests import loopback
from tests.walks.service import Service
from tests.walks.test_first_path import OWN_MAIL, reply_to, sent_to


def test_the_first_path_on_postgresql(tmp_path: Path) -> None:
    with loopback.postgres() as url:
        service = Service(tmp_path, {"RINGBACK__DATA__DATABASE_URL": url})
        service.start()
        try:
            service.send(OWN_MAIL)
            sent = service.wait_for(lambda: sent_to(service, "ann@hillcrest.example"), "the acknowledgement")
            acknowledgement = sent[0]
            service.send(reply_to(acknowledgement, "It still shows F28.", "ann@hillcrest.example"))

            def ticket() -> dict[str, object]:
                shown = service.command("tickets", "show", "1001", "--json", check=False).stdout
                return dict(json.loads(shown)) if b"It still shows F28." in shown else {}

            found = service.wait_for(ticket, "the reply", seconds=4)
            assert "reply-token" in json.dumps(found) or "message-id" in json.dumps(found)
            assert json.loads(service.command("check", "--audit", "--json").stdout)["problems"] == []
        finally:
            service.stop()
