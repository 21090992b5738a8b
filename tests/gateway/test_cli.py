"""The command line as a person and a mail server use it: real processes, exit codes, words, files and their modes."""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import shutil
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.handlers import Message

from gateway import cli, config, doctor, store
from gateway.config import Config
from gateway.store import accounts
from inbound.smtp_in import delivery_key
from tests.loopback import free_port

MAIL = b"""From: Ann Hill <ann@hillcrest.example>\r
To: support@ringback.localhost\r
Subject: No heat in flat 7\r
Message-ID: <first@hillcrest.example>\r
\r
The boiler shows F28.\r
"""
WITH_FILE = b"""From: Ann Hill <ann@hillcrest.example>
To: somebody@else.example
Subject: A picture
Message-ID: <second@hillcrest.example>
Content-Type: multipart/mixed; boundary=x

--x
Content-Type: text/plain

See the picture.
--x
Content-Type: image/png
Content-Disposition: attachment; filename=boiler.png
Content-Transfer-Encoding: base64

iVBORw0KGgo=
--x--
"""


class Place:
    """A folder with Ringback's config and data, and the command in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "data"
        self.config = folder / "config.toml"
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("RINGBACK", "ORIGINAL_"))},
            "RINGBACK_CONFIG": str(self.config),
            "RINGBACK__SMTP__IN__MIN_FREE_MB": "0",
        }

    def run(
        self, *arguments: str, stdin: bytes = b"", environment: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [sys.executable, "-m", "gateway.cli", *arguments],
            cwd=self.folder, env={**self.environment, **(environment or {})}, input=stdin, capture_output=True,
            timeout=60, check=False,
        )  # fmt: skip

    def json(self, *arguments: str) -> Any:
        return json.loads(self.run(*arguments).stdout)

    def rows(self, statement: str) -> list[tuple[Any, ...]]:
        with contextlib.closing(sqlite3.connect(self.data / "ringback.db")) as connection, connection:
            return connection.execute(statement).fetchall()

    def contents(self) -> dict[str, bytes]:
        """Every file that matters, by its name."""
        names = [
            path for path in self.folder.rglob("*") if path.is_file() and path.name not in ("write.gate", "write.lock")
        ]
        return {str(path.relative_to(self.folder)): path.read_bytes() for path in names}


@pytest.fixture
def empty(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = Place(tmp_path_factory.mktemp("made"))
    done = place.run("init")
    assert done.returncode == 0, done.stderr
    return place.folder


@pytest.fixture
def place(made: Path, tmp_path: Path) -> Place:
    """An initialised installation of the test's own."""
    shutil.copytree(made, tmp_path / "here")
    return Place(tmp_path / "here")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def words(done: subprocess.CompletedProcess[bytes]) -> str:
    return (done.stdout + done.stderr).decode()


# -- the commands ----------------------------------------------------------------------------------------------------

COMMANDS = """
check
doctor
ingest
init
key rotate
migrate
parked list
parked retry
parked show
reload
replay
run
send-test
sms costs
tickets list
tickets show
try mail
try sms
user add
user link
user list
version
"""


def names(group: click.Group, before: str = "") -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from names(command, f"{before}{name} ")
        else:
            yield before + name, command


def test_the_commands_are_these() -> None:
    assert sorted(name for name, _ in names(cli.main)) == COMMANDS.split("\n")[1:-1]


def test_every_command_says_what_it_does() -> None:
    assert [name for name, command in names(cli.main) if not command.help] == []


def test_programs_can_read_what_they_may_want_to_know() -> None:
    with_json = {name for name, command in names(cli.main) if any("--json" in p.opts for p in command.params)}
    assert with_json == {
        "check",
        "doctor",
        "parked list",
        "sms costs",
        "tickets list",
        "tickets show",
        "try sms",
        "user list",
        "version",
    }


def test_version_is_quick_and_loads_nothing_it_does_not_need(empty: Place) -> None:
    seconds = []  # of processor time: another test on the same machine is not its fault
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = empty.run("version")
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        assert re.fullmatch(rb"ringback \d\S*\n", done.stdout)
    assert min(seconds) < 0.25, seconds
    program = (
        "import sys; from gateway.cli import main; main(['version'], standalone_mode=False); "
        "print(sorted({'pydantic', 'peewee', 'flask', 'huey', 'aiosmtpd'} & sys.modules.keys()))"
    )
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout
    assert loaded.endswith(b"[]\n")


# -- init ------------------------------------------------------------------------------------------------------------


def test_init_makes_everything_for_its_own_user_only(place: Place) -> None:
    assert mode(place.config) == 0o600
    assert mode(place.data) == 0o700
    for name in ("keys.toml", "ringback.db", "first-login.txt"):
        assert mode(place.data / name) == 0o600, name
    settings = config.load(place.config, {})
    assert re.fullmatch(r"[0-9a-f]{64}", settings.web.secret)
    assert settings.firm.name == "Ringback"
    assert [inbox.address for inbox in settings.inboxes] == ["support@ringback.localhost"]


def test_init_overwrites_nothing(place: Place) -> None:
    before = place.contents()
    done = place.run("init")
    assert done.returncode == 0
    assert done.stdout == b"Everything is there already; nothing was overwritten.\n"
    assert place.contents() == before


def test_init_keeps_a_config_that_was_written_by_hand(empty: Place) -> None:
    empty.config.write_text("[firm]\nname = 'ACME'\nadministrator = 'sue@acme.example'\n[data]\ndir = 'kept'\n")
    done = empty.run("init")
    assert done.returncode == 0, done.stderr
    assert empty.config.read_text().startswith("[firm]\nname = 'ACME'")
    assert b"sue@acme.example is the administrator" in done.stdout
    assert mode(empty.folder / "kept/web.secret") == 0o600, "no secret in the config: one is made"
    assert len(config.load(empty.config, {}).web.secret) == 64


def test_init_goes_on_where_it_was_stopped(place: Place) -> None:
    (place.data / "keys.toml").unlink()
    (place.data / "ringback.db").unlink()
    secret = place.config.read_bytes()
    assert place.run("init").returncode == 0
    assert place.config.read_bytes() == secret
    assert (place.data / "keys.toml").exists()
    assert place.rows("select count(*) from account") == [(1,)]


def test_the_first_link_is_in_its_file_only_and_good_for_the_administrator(empty: Place) -> None:
    done = empty.run("init")
    file = empty.data / "first-login.txt"
    link = re.search(r"http://127\.0\.0\.1:8080/link/(\S+)", file.read_text())
    assert link
    assert link.group(1) not in words(done)
    assert str(file) in words(done)
    store.connect(config.load(empty.config, {}))
    with store.connection(), store.writing():
        assert accounts.use_login_link(link.group(1), datetime.now(UTC)) == 1


def test_a_relative_folder_that_cannot_be_made_is_said_without_a_traceback(empty: Place) -> None:
    (empty.folder / "data").write_text("in the way")
    done = empty.run("init")
    assert done.returncode == 1
    assert "data" in words(done)
    assert "Traceback" not in words(done)


# -- wrong config ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [["tickets", "list"], ["reload"], ["migrate"], ["key", "rotate"], ["check"], ["send-test", "a@b.example"]],
)
def test_without_a_config_the_words_name_init(empty: Place, arguments: list[str]) -> None:
    done = empty.run(*arguments)
    assert done.returncode == 78
    assert done.stderr.decode() == f"{empty.config}: there is no such file; `ringback init` writes one\n"


def test_every_problem_of_the_config_is_a_line(place: Place) -> None:
    place.config.write_text("[web]\nthreads = 1\nprot = 8080\n[undo]\nmail = 'soon'\n")
    problems = [
        "undo.mail: must be a number",
        "web.prot: there is no such key; did you mean port?",
        "web.threads: must be greater than or equal to 4",
    ]
    for arguments in (["run"], ["check"], ["reload"]):
        done = place.run(*arguments)
        assert (done.returncode, done.stderr.decode().splitlines()) == (78, problems), arguments
    assert place.json("check", "--json") == {"problems": problems}


# -- check, doctor, migrate ------------------------------------------------------------------------------------------


def test_a_fresh_installation_has_nothing_to_complain_about(place: Place) -> None:
    done = place.run("check", "--audit")
    assert (done.returncode, done.stdout) == (0, b"nothing to complain about\n"), done.stderr
    assert place.json("check", "--audit", "--json") == {"problems": []}


def test_check_names_files_that_are_not_there(place: Place) -> None:
    (place.data / "keys.toml").unlink()
    files = {"RINGBACK__SMTP__IN__TLS_CERTIFICATE": "/no/c.pem", "RINGBACK__SMTP__IN__TLS_KEY": "/no/k.pem"}
    done = place.run("check", environment=files)
    assert done.returncode == 1
    assert done.stderr.decode().splitlines() == [
        f"{place.data}/keys.toml: there is no such file; `ringback init` makes one",
        "smtp.in.tls_certificate: /no/c.pem: No such file or directory",
        "smtp.in.tls_key: /no/k.pem: No such file or directory",
    ]


def test_a_database_of_another_version_is_refused_with_the_words_to_type(place: Place) -> None:
    place.rows("update schema_migration set name = '9999_from_the_future'")
    for arguments in (["run"], ["check"], ["tickets", "list"], ["init"]):
        done = place.run(*arguments)
        assert done.returncode == 1, arguments
        assert "9999_from_the_future" in words(done)
        assert "install the newer Ringback" in words(done)


def test_migrate_has_nothing_to_do_on_a_fresh_database(place: Place) -> None:
    done = place.run("migrate")
    assert (done.returncode, done.stdout) == (0, b"nothing to do\n")


def test_doctor_warns_of_what_does_not_run(place: Place) -> None:
    ports = {"RINGBACK__SMTP__IN__PORT": str(free_port()), "RINGBACK__WEB__PORT": str(free_port())}
    done = place.run("doctor", "--json", environment=ports)
    levels = {finding["name"]: finding["level"] for finding in json.loads(done.stdout)["findings"]}
    assert done.returncode == 1
    assert levels == {
        "config": "OK", "database": "OK", "data folder": "OK", "disk": "OK", "processes": "WARN", "smtp.in": "WARN",
        "web": "WARN", "smtp.out": "WARN", "authenticity": "OK", "clock": "OK", "inbound": "OK", "outbox": "OK",
        "worker": "WARN", "mailroom": "OK",
    }  # fmt: skip
    assert all(finding["fix"] for finding in json.loads(done.stdout)["findings"] if finding["level"] != "OK")


def test_doctor_fails_where_something_is_broken(place: Place) -> None:
    place.run("ingest", stdin=MAIL)
    place.rows("update inbound set state = 'parked', received_at = received_at + 3600000000")
    trouble = {
        "RINGBACK__SMTP__OUT__HOST": "127.0.0.1",
        "RINGBACK__SMTP__OUT__PORT": str(free_port()),
        "RINGBACK__SMTP__IN__MIN_FREE_MB": "1000000000",
        "RINGBACK__MAIL__VERIFY_DKIM": "false",
    }
    place.config.chmod(0o644)
    done = place.run("doctor", environment=trouble)
    assert done.returncode == 2
    said = done.stdout.decode()
    for line in (r"FAIL  disk ", r"FAIL  smtp\.out .*Connection refused", r"FAIL  clock ", r"WARN  authenticity "):
        assert re.search(line, said), line
    assert re.search(r"WARN  mailroom +1 in the mailroom", said)
    assert f"chmod 0600 {place.config}" in said


def test_doctor_tells_what_is_wrong_with_the_config(place: Place) -> None:
    place.config.write_text("[web]\nthreads = 1\n")
    done = place.run("doctor")
    assert done.returncode == 2
    assert done.stdout.decode().startswith("FAIL  config        web.threads: must be greater")


def test_doctor_asks_the_ports(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        monkeypatch.setattr(doctor, "PATIENCE", 0.2)
        with pytest.raises(OSError, match="timed out"):
            doctor._greets("127.0.0.1", port)
    with smtp_sink() as sink:
        assert doctor._greets("127.0.0.1", sink.port).startswith("220 ")


# -- ingest ----------------------------------------------------------------------------------------------------------


def recipients(place: Place) -> list[list[str]]:
    return [json.loads(line[0])["recipients"] for line in place.rows("select envelope from inbound order by id")]


@pytest.mark.parametrize(
    ("arguments", "environment", "null"),
    [
        ((), {}, False),  # nobody said
        ((), {"SENDER": ""}, True),  # Postfix says <> so
        (("--sender", ""), {}, True),
        ((), {"SENDER": "ann@hillcrest.example"}, False),
    ],
)
def test_a_known_and_empty_sender_is_the_null_return_path(
    place: Place, arguments: tuple[str, ...], environment: dict[str, str], null: bool
) -> None:
    place.run("init")
    assert place.run("ingest", *arguments, stdin=MAIL, environment=environment).returncode == 0
    ((envelope,),) = place.rows("select envelope from inbound")
    assert json.loads(envelope)["null"] is null


def test_a_mail_from_a_pipe_is_kept_byte_for_byte(place: Place) -> None:
    done = place.run("ingest", "--sender", "ann@hillcrest.example", stdin=MAIL)
    assert done.returncode == 0, done.stderr
    key = delivery_key(MAIL, ["support@ringback.localhost"])
    assert place.rows("select key, raw, state, channel from inbound") == [(key, MAIL, "new", "mail")]
    envelope = json.loads(place.rows("select envelope from inbound")[0][0])
    assert (envelope["sender"], envelope["path"]) == ("ann@hillcrest.example", "ingest")
    assert recipients(place) == [["support@ringback.localhost"]]


def test_the_same_mail_again_is_one_delivery(place: Place) -> None:
    (place.folder / "one.eml").write_bytes(MAIL)
    assert place.run("ingest", stdin=MAIL).returncode == 0
    assert place.run("ingest", "one.eml", "one.eml").returncode == 0
    assert place.rows("select count(*) from inbound") == [(1,)]


@pytest.mark.parametrize(
    ("headers", "found"),
    [
        (b"To: x@else.example, Support <SUPPORT+Ab.1@ringback.localhost>", "support+ab.1@ringback.localhost"),
        (
            b"Delivered-To: support+a@ringback.localhost\r\nTo: support+b@ringback.localhost",
            "support+a@ringback.localhost",
        ),
        (b'Cc: "Hill, Ann" <ann@x.example>,\r\n support@ringback.localhost', "support@ringback.localhost"),
        (b"To: undisclosed-recipients:;", "support@ringback.localhost"),
        (b"Subject: x\r\n\r\nTo: support+body@ringback.localhost", "support@ringback.localhost"),
    ],
)
def test_the_recipient_is_one_of_ours_in_the_headers_or_else_the_first_inbox(headers: bytes, found: str) -> None:
    assert cli._envelope(Config(), headers + b"\r\n\r\nHello", (), "").recipients == (found,)


def test_the_mail_server_says_for_whom_it_is(place: Place) -> None:
    postfix = {"ORIGINAL_RECIPIENT": "support+x@ringback.localhost", "SENDER": "ann@x.example"}
    done = place.run("ingest", stdin=MAIL, environment=postfix)
    assert done.returncode == 0
    assert recipients(place) == [["support+x@ringback.localhost"]]


@pytest.mark.parametrize(
    ("arguments", "environment", "code"),
    [
        (["--to", "max@elsewhere.example"], {}, 67),
        ([], {"RINGBACK__SMTP__IN__MAX_MESSAGE_BYTES": "10000"}, 65),
        ([], {"RINGBACK__SMTP__IN__MIN_FREE_MB": "1000000000"}, 75),
        ([], {"RINGBACK__WEB__PORT": "high"}, 75),
        ([], {"RINGBACK_CONFIG": "/no/config.toml"}, 75),
        (["/no/such/file.eml"], {}, 75),
    ],
    ids=["not ours", "too large", "disk low", "wrong config", "no config", "no file"],
)
def test_what_is_not_taken_has_an_exit_code_that_mail_servers_understand(
    place: Place, arguments: list[str], environment: dict[str, str], code: int
) -> None:
    done = place.run("ingest", *arguments, stdin=MAIL + b"x" * 10_000, environment=environment)
    assert done.returncode == code, done.stderr
    assert b"Traceback" not in done.stderr
    assert place.rows("select count(*) from inbound") == [(0,)]


def test_trouble_with_the_database_is_try_again(place: Place) -> None:
    (place.data / "ringback.db").write_bytes(b"this is no database" * 1000)
    done = place.run("ingest", stdin=MAIL)
    assert done.returncode == 75
    assert b"not taken: " in done.stderr


@pytest.mark.parametrize("raw", [b"", b"\0", b"\xff\xfe" * 50, b"\r\n"], ids=["nothing", "zero", "binary", "line"])
def test_whatever_the_bytes_are_they_are_kept(place: Place, raw: bytes) -> None:
    assert place.run("ingest", stdin=raw).returncode == 0
    assert place.rows("select raw from inbound") == [(raw,)]


# -- try, replay -----------------------------------------------------------------------------------------------------


def test_try_mail_tells_what_would_become_of_each_file_and_writes_nothing(place: Place) -> None:
    (place.folder / "one.eml").write_bytes(MAIL)
    (place.folder / "two.eml").write_bytes(WITH_FILE)
    before = place.contents()
    done = place.run("try", "mail", "one.eml", "two.eml")
    assert done.returncode == 0, done.stderr
    first, second = (json.loads(line) for line in done.stdout.splitlines())
    expected = {
        "file": "one.eml", "class": "human", "from": "ann@hillcrest.example", "subject": "No heat in flat 7",
        "text": "The boiler shows F28.", "ticket": "new", "reason": "new", "parked": False, "autoreply": True,
    }  # fmt: skip
    assert {name: first[name] for name in expected} == expected
    assert second["attachments"] == ["boiler.png"]
    assert place.contents() == before
    assert place.rows("select count(*) from inbound") == [(0,)]


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("Boiler is leaking", {"kind": "text", "verb": None, "executes": False, "lands": "new"}),
        (
            "done 1234 new gasket",
            {"kind": "cmd", "verb": "done", "ticket": 1234, "text": "new gasket", "executes": False},
        ),
        ("STOP", {"kind": "optout", "lands": None, "reason": "opt-out"}),
        ("", {"kind": "empty", "lands": None}),
    ],
)
def test_try_sms_tells_how_a_text_is_read_and_where_it_would_land(
    place: Place, text: str, verdict: dict[str, object]
) -> None:
    before = place.rows("select count(*) from inbound")
    done = place.run("try", "sms", "--from", "+447700900123", "--to", "+447700900999", "--json", text)
    (said,) = map(json.loads, done.stdout.splitlines())
    assert verdict.items() <= said.items()
    assert place.rows("select count(*) from inbound") == before


def test_try_sms_of_a_file_tries_each_line(place: Place) -> None:
    (place.folder / "texts").write_text("hello\ndone 1001\n")
    done = place.run("try", "sms", "--from", "+447700900123", "--file", "texts", "--json")
    assert [json.loads(line)["kind"] for line in done.stdout.splitlines()] == ["text", "cmd"]


def test_sms_costs_of_a_month_without_any_are_nothing(place: Place) -> None:
    assert words(place.run("sms", "costs", "--month", "2026-11")) == "all: 0 messages, 0 SMS, no price yet\n"
    assert place.json("sms", "costs", "--json")["total"]["segments"] == 0
    assert place.run("sms", "costs", "--month", "November").returncode == 2


def test_try_sms_needs_a_text_or_a_file(place: Place) -> None:
    assert place.run("try", "sms", "--from", "+447700900123").returncode == 2


def test_try_mail_of_a_file_that_is_not_there_is_a_wrong_call(place: Place) -> None:
    assert place.run("try", "mail", "none.eml").returncode == 2


def test_replay_decides_again_and_writes_nothing(place: Place) -> None:
    place.run("ingest", stdin=MAIL)
    before = place.rows("select * from inbound")
    found = place.json("replay", "1")
    assert found["id"] == 1
    assert found["before"]["state"] == "new"
    assert found["after"]["reason"] == "new"
    assert place.rows("select * from inbound") == before
    assert place.rows("select count(*) from ticket") == [(0,)]
    assert place.run("replay", "77").returncode == 1


# -- looking at things -----------------------------------------------------------------------------------------------


def test_lists_of_nothing_are_empty(place: Place) -> None:
    assert place.run("tickets", "list").stdout == b"none\n"
    assert place.run("parked", "list").stdout == b"none\n"
    assert place.json("tickets", "list", "--json") == place.json("parked", "list", "--json") == []
    assert place.run("tickets", "show", "1001").returncode == 1


def test_what_is_parked_is_listed_shown_and_tried_again(place: Place) -> None:
    place.run("ingest", stdin=MAIL)
    place.rows("update inbound set state = 'parked', reason = 'unverified-sender', subject = 'a' || char(27) || '[2Jb'")
    listed = place.run("parked", "list").stdout
    assert b"unverified-sender" in listed
    assert b"\x1b" not in listed, "a stranger's subject does not command the terminal"
    line = place.json("parked", "list", "--json")[0]
    assert (line["id"], line["state"], line["reason"]) == ("1", "parked", "unverified-sender")
    assert place.run("parked", "show", "--raw", "1").stdout == MAIL
    assert place.json("parked", "show", "1")["reason"] == "unverified-sender"
    done = place.run("parked", "retry", "1")
    assert done.returncode == 0, done.stderr
    state, ruling = place.rows("select state, ruling from inbound")[0]
    assert (state, json.loads(ruling)["word"]) == ("new", "retry")
    again = place.run("parked", "retry", "1")
    assert (again.returncode, again.stderr) == (1, b"This message does not wait any more.\n")
    assert place.run("parked", "retry", "x").returncode == 2
    assert place.run("parked", "show", "77").returncode == 1


# -- people, keys ----------------------------------------------------------------------------------------------------


def test_accounts_are_added_listed_and_let_in_by_a_file(place: Place) -> None:
    added = place.run("user", "add", "Ada@Desk.example", "--name", "Ada", "--role", "agent", "--role", "supervisor")
    assert added.returncode == 0, added.stderr
    listed = place.json("user", "list", "--json")
    assert sorted(line["address"] for line in listed) == ["ada@desk.example", "admin@ringback.localhost"]
    assert place.rows("select roles from account where address = 'ada@desk.example'") == [("agent,supervisor",)]
    linked = place.run("user", "link", "ada@desk.example")
    file = place.data / "login-ada@desk.example.txt"
    secret = re.search(r"/link/(\S+)", file.read_text())
    assert mode(file) == 0o600
    assert secret
    assert secret.group(1) not in words(linked)


def test_who_cannot_be_added_is_told_why(place: Place) -> None:
    assert place.run("user", "add", "ada", "--name", "Ada").returncode == 2
    twice = place.run("user", "add", "admin@ringback.localhost", "--name", "Again")
    assert (twice.returncode, twice.stderr) == (1, b"admin@ringback.localhost has an account already\n")
    nobody = place.run("user", "link", "nobody@desk.example")
    assert (nobody.returncode, b"has no account" in nobody.stderr) == (1, True)


def test_an_address_is_no_path(tmp_path: Path) -> None:
    from gateway import setup

    settings = config.parse({"data": {"dir": str(tmp_path)}}, {})
    assert setup.link_file(settings, "../../etc/x@desk.example") == tmp_path / "login-.._.._etc_x@desk.example.txt"


def test_a_rotated_key_is_one_more(place: Place) -> None:
    done = place.run("key", "rotate")
    assert (done.returncode, done.stdout) == (0, b"2 keys, b signs\n")
    assert mode(place.data / "keys.toml") == 0o600


# -- sending a test --------------------------------------------------------------------------------------------------


class Sink(Message):
    """Keeps what it is sent."""

    def __init__(self) -> None:
        super().__init__()
        self.port = free_port()
        self.mails: list[Any] = []

    def handle_message(self, message: Any) -> None:
        self.mails.append(message)


@contextlib.contextmanager
def smtp_sink() -> Iterator[Sink]:
    sink = Sink()
    controller = Controller(sink, hostname="127.0.0.1", port=sink.port)
    controller.start()
    try:
        yield sink
    finally:
        controller.stop()


def test_a_test_mail_goes_to_the_mail_server(place: Place) -> None:
    with smtp_sink() as sink:
        out = {
            "RINGBACK__SMTP__OUT__HOST": "127.0.0.1",
            "RINGBACK__SMTP__OUT__PORT": str(sink.port),
            "RINGBACK__SMTP__OUT__SECURITY": "none",
        }
        done = place.run("send-test", "ann@hillcrest.example", environment=out)
        assert done.returncode == 0, done.stderr
    assert [mail["X-RcptTo"] for mail in sink.mails] == ["ann@hillcrest.example"]
    assert "test of Ringback" in str(sink.mails[0])


def test_without_a_mail_server_a_test_mail_is_shown_as_a_file(place: Place) -> None:
    done = place.run("send-test", "ann@hillcrest.example")
    assert done.returncode == 1
    file = re.search(r"not sent: no mail server configured \(\[smtp\.out\]\); it is in (\S+)", words(done))
    assert file
    assert b"test of Ringback" in Path(file.group(1)).read_bytes()


# -- run -------------------------------------------------------------------------------------------------------------


def test_the_line_for_a_first_mail_works_in_a_shell() -> None:
    with smtp_sink() as sink:
        settings = config.parse(
            {"smtp": {"in": {"host": "0.0.0.0", "port": sink.port}}, "inboxes": [{"address": "o'neill@desk.example"}]},
            {},
        )
        subprocess.run(["sh", "-c", cli.first_mail(settings)], check=True, timeout=20, capture_output=True)
        subprocess.run(["sh", "-c", cli.first_mail(settings)], check=True, timeout=20, capture_output=True)
    first, second = sink.mails
    assert (first["X-RcptTo"], first["Subject"]) == ("o'neill@desk.example", "My first mail")
    assert first["Message-ID"] != second["Message-ID"], "the line can be used twice"


def test_run_makes_what_is_missing_and_says_what_to_do_next(empty: Place) -> None:
    with running(empty, "worker") as (process, said):
        text = said.decode()
        assert "Ringback: http://127.0.0.1:8080" in text
        assert f"first login: the one-time link in {empty.data}/first-login.txt" in text
        assert "a first mail: python3 -c " in text
        assert "not sent: no mail server configured" in text
        assert "/link/" not in text
        assert (empty.data / "run-worker.pid").read_text() == str(process.pid), "the same process, by exec"

        second = empty.run("run", "--only", "worker")
        assert second.returncode == 1
        assert f"Ringback is running already: process {process.pid}" in words(second)

        told = empty.run("reload")
        assert (told.returncode, told.stdout.decode()) == (0, f"told process {process.pid} to read the config again\n")

        moved = empty.run("reload", environment={"RINGBACK__WEB__PORT": "18080"})
        assert b"web: changed, but that needs a restart" in moved.stdout
        refused = empty.run("migrate")
        assert (refused.returncode, refused.stderr) == (1, b"Ringback is running: stop it first\n")
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    assert empty.run("reload").returncode == 1


def test_a_ticket_is_listed_and_shown(place: Place) -> None:
    place.run("ingest", stdin=MAIL.replace(b"F28.", b"F28.\x1b]0;gotcha\x07"))
    with running(place, "worker"):
        end = time.monotonic() + 20
        while not place.rows("select 1 from ticket"):
            assert time.monotonic() < end
            time.sleep(0.05)
    assert re.match(rb"1001 +new .*Ann Hill +No heat in flat 7\n", place.run("tickets", "list").stdout)
    assert [line["number"] for line in place.json("tickets", "list", "--json")] == [1001]
    shown = place.run("tickets", "show", "1001")
    assert shown.returncode == 0, shown.stderr
    assert b"#1001 No heat in flat 7\nnew, Ann Hill <ann@hillcrest.example>" in shown.stdout
    assert b"The boiler shows F28." in shown.stdout
    assert b"\x1b" not in shown.stdout
    assert place.json("tickets", "show", "1001", "--json")["requester"]["address"] == "ann@hillcrest.example"


def test_run_of_an_unknown_part_is_a_wrong_call(place: Place) -> None:
    done = place.run("run", "--only", "fax,worker")
    assert done.returncode == 2
    assert b"fax: known are smtp, imap, ami, worker, web" in done.stderr


@contextlib.contextmanager
def running(place: Place, only: str) -> Iterator[tuple[subprocess.Popen[bytes], bytes]]:
    """`ringback run` once its supervisor has started, and what it printed."""
    with (place.folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "gateway.cli", "run", "--only", only],
            cwd=place.folder, env=place.environment, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    try:
        end = time.monotonic() + 20
        while b"supervisor: worker started" not in (said := (place.folder / "log").read_bytes()):
            assert time.monotonic() < end, said
            time.sleep(0.02)
        yield process, said
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)
