"""What an administrator types, beside the running processes or without them, and what it answers."""

from __future__ import annotations

import json
import re
import smtplib
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.servers import find
from tests.walks.service import Service, listens
from tests.walks.test_smarthost import (
    ANN,
    CONFIG,
    FIRST_MAIL,
    SUPPORT,
    configured,
    parsed,
    reasons,
    reply,
)

AUTOMATIC = FIRST_MAIL.replace(b"first@", b"away@").replace(b"Subject: ", b"Auto-Submitted: auto-replied\r\nSubject: ")
WITH_FILE = b"""From: Ben <ben@elsewhere.example>\r
To: support@desk.example\r
Subject: The plan\r
Message-ID: <plan@elsewhere.example>\r
MIME-Version: 1.0\r
Content-Type: multipart/mixed; boundary=x\r
\r
--x\r
Content-Type: text/plain\r
\r
Here it is.\r
--x\r
Content-Type: application/pdf; name=plan.pdf\r
Content-Disposition: attachment; filename=plan.pdf\r
\r
%PDF-1.7\r
--x--\r
"""


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    """Running, and empty."""
    service = configured(tmp_path)
    service.start()
    yield service
    service.stop()


def everything(service: Service) -> dict[str, object]:
    """How many rows each table has, what the outbox says, and which files we keep."""
    tables = [name for (name,) in service.rows("select name from sqlite_master where type = 'table'")]
    counts: dict[str, object] = {
        name: service.rows(f"select count(*) from {name}")[0][0]  # noqa: S608 - the names of our own tables
        for name in tables
    }
    counts["outbox rows"] = service.rows("select id, state, attempts, result from outbox order by id")
    counts["inbound rows"] = service.rows("select id, state, reason, trace, attempts from inbound order by id")
    counts["files"] = sorted(str(p) for name in ("blobs", "outgoing") for p in (service.data / name).rglob("*"))
    return counts


def acknowledgement_of(service: Service, ticket: int) -> bytes:
    """The acknowledgement of a ticket, once it is sent."""
    sent = "select rendered from outbox where kind = 'acknowledgement' and ticket = ? and state = 'sent'"
    return bytes(service.wait_for(lambda: service.rows(sent, ticket), f"the acknowledgement of #{ticket}")[0][0])


def takes(service: Service, recipient: str) -> bool:
    """Does the listener take mail to this address?"""
    with smtplib.SMTP("127.0.0.1", service.smtp_port, timeout=30) as client:
        client.ehlo("test.example")
        client.mail(ANN)
        return client.rcpt(recipient)[0] == 250


def from_(number: int, to: str = SUPPORT) -> bytes:
    """A mail of somebody who never wrote before."""
    mail = FIRST_MAIL.replace(b"first@", b"n%d@" % number).replace(b"ann@", b"guest%d@" % number)
    return mail.replace(SUPPORT.encode(), to.encode())


# ---------------------------------------------------------------- ingest


def test_ingest_takes_a_mail_from_a_pipe_and_the_same_mail_again_makes_no_second_ticket(service: Service) -> None:
    for _ in range(2):
        assert service.command("ingest", stdin=FIRST_MAIL).returncode == 0
    service.wait_for(lambda: reasons(service), "the ticket")
    assert service.command("ingest", "--to", f"{SUPPORT}", stdin=FIRST_MAIL + b"\r\n").returncode == 0
    service.wait_for(lambda: service.rows("select 1 from inbound where state = 'duplicate'"), "the duplicate")
    assert reasons(service) == [(1001, "new")]
    assert service.command("ingest", "--to", "nobody@desk.example", stdin=FIRST_MAIL, check=False).returncode == 67


def test_ingest_without_a_data_folder_that_can_be_written_says_75_so_that_the_mail_comes_again(tmp_path: Path) -> None:
    service = configured(tmp_path)
    assert service.command("ingest", stdin=FIRST_MAIL, check=False).returncode == 75  # nothing is there yet
    service.command("init")
    for path in (service.data, *service.data.iterdir()):
        path.chmod(0o500 if path.is_dir() else 0o400)
    # root, too, without its power over file modes
    powerless = [str(find("setpriv") or "setpriv"), "--bounding-set=-dac_override", "--inh-caps=-dac_override"]
    command = [*powerless, sys.executable, "-m", "gateway.cli", "ingest"]
    done = subprocess.run(
        command, cwd=tmp_path, env=service.environment, input=FIRST_MAIL, capture_output=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr.startswith(b"not taken: ")) == (75, True)
    assert service.rows("select count(*) from inbound") == [(0,)]


def test_ingest_says_75_when_somebody_else_holds_the_database_for_long(tmp_path: Path) -> None:
    service = configured(tmp_path)
    service.command("init")
    with closing(sqlite3.connect(service.data / "ringback.db", isolation_level=None)) as other:
        other.execute("begin immediate")
        done = service.command("ingest", stdin=FIRST_MAIL, check=False)
        assert done.returncode == 75
        assert b"locked" in done.stderr
        other.execute("rollback")
    assert service.command("ingest", stdin=FIRST_MAIL).returncode == 0


# ---------------------------------------------------------------- looking, trying, replaying


def test_try_mail_says_what_would_become_of_mails_and_writes_nothing(service: Service, tmp_path: Path) -> None:
    service.send(FIRST_MAIL, to=SUPPORT)
    acknowledgement = parsed(acknowledgement_of(service, 1001))
    mails = {
        "new.eml": WITH_FILE,
        "reply.eml": reply(acknowledgement, "Still cold.", "second@hillcrest.example").as_bytes(),
        "machine.eml": AUTOMATIC,
        "rubbish.eml": bytes(range(256)) * 4,
    }
    for name, raw in mails.items():
        (tmp_path / name).write_bytes(raw)
    service.wait_for(lambda: service.rows("select count(*) from outbox where state <> 'sent'") == [(0,)], "the outbox")
    before = everything(service)

    said = service.command("try", "mail", *mails).stdout.decode().splitlines()
    new, answer, machine, rubbish = map(json.loads, said)
    keys = {"file", "class", "from", "subject", "text", "ticket", "reason", "parked", "autoreply"}
    assert all(keys <= verdict.keys() for verdict in (new, answer, machine, rubbish))
    assert (new["file"], new["ticket"], new["reason"], new["autoreply"]) == ("new.eml", "new", "new", True)
    assert (new["from"], new["subject"], new["attachments"]) == ("ben@elsewhere.example", "The plan", ["plan.pdf"])
    # The file has no envelope: the signed address stands in its To.
    assert (answer["ticket"], answer["reason"], answer["text"].strip()) == (1001, "reply-token", "Still cold.")
    assert (machine["class"], machine["parked"], machine["autoreply"]) == ("auto-reply", True, False)
    assert rubbish["parked"] is True
    assert everything(service) == before


def test_tickets_and_what_is_parked_are_listed_for_people_and_for_programs(service: Service) -> None:
    service.send(FIRST_MAIL, to=SUPPORT)
    service.send(AUTOMATIC, to=SUPPORT)
    parked_rows = "select id from inbound where state = 'parked'"
    ((parked,),) = service.wait_for(lambda: service.rows(parked_rows), "the machine's mail to be parked")

    assert b"No heat in flat 7" in service.command("tickets", "list").stdout
    (ticket,) = json.loads(service.command("tickets", "list", "--json").stdout)
    assert (ticket["number"], ticket["address"], ticket["status"]) == (1001, ANN, "new")
    shown = json.loads(service.command("tickets", "show", "1001", "--json").stdout)
    assert [entry["reason"] for entry in shown["entries"] if entry["kind"] == "message"] == ["new"]
    assert b"The boiler shows F28." in service.command("tickets", "show", "1001").stdout
    assert service.command("tickets", "show", "4711", check=False).returncode == 1

    (line,) = json.loads(service.command("parked", "list", "--json").stdout)
    assert (line["id"], line["reason"]) == (str(parked), "automatic-unmatched")
    assert service.command("parked", "show", str(parked), "--raw").stdout == AUTOMATIC
    assert b"tried again" in service.command("parked", "retry", str(parked)).stdout
    tried = "select 1 from inbound where id = ? and state = 'parked' and ruling <> ''"
    service.wait_for(lambda: service.rows(tried, parked), "the second try")
    assert service.command("parked", "retry", "1", check=False).returncode == 1  # it waits for nobody


def test_replaying_everything_finds_no_difference_and_writes_and_sends_nothing(service: Service) -> None:
    service.send(FIRST_MAIL, to=SUPPORT)
    acknowledgement = parsed(acknowledgement_of(service, 1001))
    service.send(reply(acknowledgement, "Still cold.", "second@hillcrest.example").as_bytes(), to=SUPPORT)
    service.send(AUTOMATIC, to=SUPPORT)
    service.send(WITH_FILE, sender="ben@elsewhere.example", to=SUPPORT)
    service.send(FIRST_MAIL + b"\r\n", to=SUPPORT)  # one line more: the same mail by another way
    service.wait_for(lambda: service.rows("select count(*) from inbound where state <> 'new'") == [(5,)], "all five")
    service.wait_for(lambda: service.rows("select count(*) from outbox where state <> 'sent'") == [(0,)], "the outbox")
    before = everything(service)

    for (id,) in [*service.rows("select id from inbound order by id"), (1,)]:  # the first one twice
        replayed = json.loads(service.command("replay", str(id)).stdout)
        assert replayed["before"] == replayed["after"], id
    assert everything(service) == before

    # Under another address of ours the signed one is a stranger's: that is what replay is for.
    (service.folder / "config.toml").write_text(CONFIG.replace('"support@', '"help@'), encoding="utf-8")
    changed = json.loads(service.command("replay", "2").stdout)
    assert (changed["before"]["reason"], changed["after"]["reason"]) == ("reply-token", "message-id")
    assert everything(service) == before


# ---------------------------------------------------------------- keys, people


def test_reply_addresses_signed_with_an_old_key_are_good_after_a_rotation(service: Service) -> None:
    service.send(FIRST_MAIL, to=SUPPORT)
    old = parsed(acknowledgement_of(service, 1001))
    assert old["Reply-To"].addresses[0].addr_spec.startswith("support+ca.")

    assert b"the running Ringback knows it" in service.command("key", "rotate").stdout
    signed_anew = "select 1 from outbox where kind = 'acknowledgement' and cast(rendered as text) like '%support+cb.%'"

    def new_key_signs() -> bool:  # the worker takes it over between two messages
        service.send(from_(service.rows("select count(*) from inbound")[0][0]), to=SUPPORT)
        return bool(service.rows(signed_anew))

    service.wait_for(new_key_signs, "the new key")
    address = old["Reply-To"].addresses[0].addr_spec
    service.send(reply(old, "Still cold.", "second@hillcrest.example").as_bytes(), to=address)
    service.wait_for(lambda: (1001, "reply-token") in reasons(service), "the reply to the old address")


def test_a_link_for_a_colleague_is_put_into_a_file_and_signs_in_once(service: Service) -> None:
    service.command("user", "add", "Sue@Desk.example", "--name", "Sue")
    said = service.command("user", "link", "sue@desk.example").stdout.decode()
    path = service.data / "login-sue@desk.example.txt"
    assert str(path) in said
    assert "/link/" not in said
    assert path.stat().st_mode & 0o777 == 0o600

    link = re.search(r"/link/\S+", path.read_text())
    assert link, "no link in the file"
    browser = service.browser()
    browser.post_form(browser.get(link[0]), link[0], password="correct horse battery")
    assert "Sue" in browser.get("/")
    again = service.browser()
    with pytest.raises(OSError, match=r"410|404|403"):
        again.get(link[0])
    assert json.loads(service.command("user", "list", "--json").stdout)[1]["address"] == "sue@desk.example"


# ---------------------------------------------------------------- reload, check, version


def test_a_reload_takes_over_a_new_inbox_and_loses_no_mail_that_comes_meanwhile(service: Service) -> None:
    sales = "sales@desk.example"
    assert not takes(service, sales)
    config = service.folder / "config.toml"
    config.write_text(CONFIG + f'[[inboxes]]\naddress = "{sales}"\nname = "Sales"\n', encoding="utf-8")

    stop = threading.Event()
    taken: list[int] = []

    def keep_sending() -> None:
        while not stop.is_set():
            service.send(from_(len(taken)), to=SUPPORT)
            taken.append(1)

    sending = threading.Thread(target=keep_sending)
    sending.start()
    try:
        service.wait_for(lambda: len(taken) > 5, "some mail")
        told = service.command("reload").stdout.decode()
        assert "told process" in told
        assert "restart" not in told
        service.wait_for(lambda: takes(service, sales), "the new inbox")
        service.wait_for(lambda: listens(service.web_port), "the pages")
    finally:
        stop.set()
        sending.join()

    service.send(from_(1_000_000, to=sales), to=sales)
    kept = "select count(*) from ticket"
    service.wait_for(lambda: service.rows(kept) == [(len(taken) + 1,)], "every mail's ticket", seconds=30)
    inbox = "select inbox from ticket where requester_address = 'guest1000000@hillcrest.example'"
    assert service.rows(inbox) == [(sales,)]


def test_a_reload_refuses_a_broken_config_as_a_whole(service: Service) -> None:
    # The worker reads the file when it starts, which may be after the ports are open.
    service.wait_for(lambda: service.rows("select 1 from alarm where name = 'tick'"), "the worker")
    broken = CONFIG.replace("mail = 0", "mail = -1\nmial = 0") + '[[inboxes]]\naddress = "sales@desk.example"\n'
    (service.folder / "config.toml").write_text(broken, encoding="utf-8")
    refused = service.command("reload", check=False)
    assert refused.returncode == 78
    assert {line.partition(":")[0] for line in refused.stderr.decode().splitlines()} == {"undo.mail", "undo.mial"}
    assert service.command("check", check=False).returncode == 78

    assert takes(service, SUPPORT)
    assert not takes(service, "sales@desk.example")
    service.send(FIRST_MAIL, to=SUPPORT)
    service.wait_for(lambda: reasons(service), "the ticket")


def test_check_audit_finds_what_was_changed_behind_our_back(service: Service) -> None:
    service.send(FIRST_MAIL, to=SUPPORT)
    service.wait_for(lambda: reasons(service), "the ticket")
    assert service.command("check", "--audit").stdout == b"nothing to complain about\n"
    with closing(sqlite3.connect(service.data / "ringback.db", timeout=15)) as other, other:
        other.execute("update body set text = 'I owe you 1,000' where entry = 1")
    found = service.command("check", "--audit", "--json", check=False)
    assert found.returncode == 1
    assert "1001" in " ".join(json.loads(found.stdout)["problems"])


def test_version_needs_no_config(tmp_path: Path) -> None:
    service = Service(tmp_path)
    assert re.fullmatch(r"ringback \d+\.\d+\.\d+\S*\n", service.command("version").stdout.decode())
    assert json.loads(service.command("version", "--json").stdout)["version"]
    assert service.command("tickets", "list", check=False).returncode == 78  # and this one says so
