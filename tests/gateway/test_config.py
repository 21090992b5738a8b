"""The configuration: what is right loads with few words, what is wrong is named, all of it at once."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from gateway import config, setup
from gateway.addresses import mail_address
from gateway.config import Config, ConfigError, HttpSms, Kannel, MailSms, SmsNumber, SmtpOut, Twilio

EXAMPLE = Path(__file__).parents[2] / "config.example.toml"


def problems_of(table: Mapping[str, Any], environment: Mapping[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        config.parse(table, environment or {})
    return caught.value.problems


def load(folder: Path, text: str, **environment: str) -> Config:
    file = folder / "config.toml"
    file.write_text(text, encoding="utf-8")
    return config.load(file, environment)


# -- the example ---------------------------------------------------------------------------------------------------


def test_the_example_is_the_defaults() -> None:
    assert config.parse(tomllib.loads(EXAMPLE.read_text(encoding="utf-8")), {}) == Config()


def test_the_example_names_every_key_and_nothing_else() -> None:
    example = tomllib.loads(EXAMPLE.read_text(encoding="utf-8"))
    everything = Config().model_dump(by_alias=True, mode="json")
    del everything["smtp"]["out"], everything["sms"]
    assert example == everything


def test_the_example_shows_a_number_and_every_provider_commented_out() -> None:
    block = EXAMPLE.read_text(encoding="utf-8").partition("# [[sms]]\n")[2].partition("\n\n")[0]
    lines = [line.removeprefix("# ") for line in block.splitlines() if re.match(r"# (\w+ = |\[)", line)]
    shown = tomllib.loads("\n".join(["[[sms]]", *lines]))["sms"][0]
    models: dict[str, type[BaseModel]] = {"twilio": Twilio, "kannel": Kannel, "http": HttpSms, "email": MailSms}
    assert set(shown) == set(SmsNumber.model_fields)
    for name, model in models.items():
        assert shown[name].keys() == model.model_fields.keys(), name
    plain = {key: value for key, value in shown.items() if key not in models}
    default = SmsNumber(number=shown["number"], driver="file").model_dump(mode="json", exclude=set(models))
    assert plain | {"driver": "file"} == default


def test_the_example_shows_the_defaults_of_the_mail_server_commented_out() -> None:
    block = EXAMPLE.read_text(encoding="utf-8").partition("# [smtp.out]\n")[2].partition("\n\n")[0]
    lines = [line.removeprefix("# ") for line in block.splitlines() if re.match(r"# \w+ = ", line)]
    shown = tomllib.loads("\n".join(lines))
    assert shown.keys() == SmtpOut.model_fields.keys()
    assert SmtpOut(**shown) == SmtpOut(host=shown["host"])


def test_what_init_writes_is_the_defaults_with_a_secret() -> None:
    written = config.parse(tomllib.loads(setup.fresh("0123abcd")), {})
    assert written.web.secret == "0123abcd"
    assert written == Config().model_copy(update={"web": written.web})
    assert written.web == Config().web.model_copy(update={"secret": "0123abcd"})


def test_the_mail_server_hinted_at_by_init_can_be_uncommented() -> None:
    text = re.sub(r"^# (?=\[smtp\.out\]|\w+ = )", "", setup.fresh("0123abcd"), flags=re.MULTILINE)
    assert config.parse(tomllib.loads(text), {}).smtp.out is not None


# -- every error at once -------------------------------------------------------------------------------------------


def test_every_error_is_told_at_once_each_with_its_section_and_key() -> None:
    table = {
        "firm": {"name": "A[1]", "time_zone": "Mars/Olympus", "administrator": "nobody"},
        "mail": {"domain": "a b", "trusted_networks": ["10.0.0.0/8", "10.300.0.0/16"], "reply_of_agents": "shout"},
        "smtp": {"in": {"port": "high", "require_tls": True}, "out": {"port": 25}},
        "web": {"public_url": "help.example.com", "threads": 1},
        "data": {"database_url": "mysql://x", "queue_url": "amqp://x"},
        "inboxes": [{"address": "support@example.com"}, {"address": "support"}],
        "closing": {"reasons": []},
    }
    assert problems_of(table) == [
        "closing.reasons: needs at least one reason",
        "data.database_url: must begin with sqlite:/// or postgresql://",
        "data.queue_url: must begin with redis://",
        "firm.administrator: not a mail address: nobody",
        "firm.name: must not contain [ ] < > # (it stands in the subject tag)",
        "firm.time_zone: no such time zone: Mars/Olympus",
        "inboxes.2.address: not a mail address: support",
        "mail.domain: not a domain: a b",
        "mail.reply_of_agents: must be 'answer' or 'note'",
        "mail.trusted_networks: '10.300.0.0/16' does not appear to be an IPv4 or IPv6 network",
        "smtp.in.port: must be a whole number",
        "smtp.in.require_tls: needs tls_certificate and tls_key",
        "smtp.out.host: is missing",
        "web.public_url: must begin with http:// or https:// and name a host: help.example.com",
        "web.threads: must be greater than or equal to 4",
    ]


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        ({"smtp": {"in": {"prot": 25}}}, "smtp.in.prot: there is no such key; did you mean port?"),
        ({"fim": {"name": "A"}}, "fim: there is no such key; did you mean firm?"),
        ({"web": {"sekret": "x"}}, "web.sekret: there is no such key; did you mean secret?"),
        (
            {"inboxes": [{"address": "a@b.c", "signatur": ""}]},
            "inboxes.1.signatur: there is no such key; did you mean signature?",
        ),
        ({"undo": {"zebra": 1}}, "undo.zebra: there is no such key"),
    ],
)
def test_an_unknown_key_names_the_nearest(table: dict[str, Any], problem: str) -> None:
    assert problems_of(table) == [problem]


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        ({"web": 5}, "web: must be a section: [web]"),
        ({"inboxes": {"address": "a@b.c"}}, "inboxes: must be a list"),
        ({"inboxes": []}, "inboxes: needs at least one [[inboxes]]"),
        (
            {"inboxes": [{"address": "Help@Example.com"}, {"address": "help@example.COM"}]},
            "inboxes: address: help@example.com stands there twice",
        ),
        ({"smtp": {"in": {"tls_key": "key.pem"}}}, "smtp.in.tls_key: tls_certificate and tls_key: both or none"),
        ({"smtp": {"in": {"tls_certificate": "c.pem"}}}, "smtp.in.tls_key: tls_certificate and tls_key: both or none"),
        ({"web": {"public_url": "https://"}}, "web.public_url: must begin with http:// or https:// and name a host: https://"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_said_in_words(table: dict[str, Any], problem: str) -> None:
    assert problems_of(table) == [problem]


@pytest.mark.parametrize("address", ["Support@Example.COM", "hilfe@münchen.example", "o'brien+x@a-b.example"])
def test_an_inbox_is_spelled_as_received_mail_is(address: str) -> None:
    found = config.parse({"inboxes": [{"address": address}]}, {}).inboxes[0].address
    assert found == mail_address(address)


# -- environment ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "key", "found"),
    [
        ("RINGBACK__SMTP__IN__PORT", "18025", "smtp.in_.port", 18025),
        ("RINGBACK__FIRM__NAME", "ACME", "firm.name", "ACME"),
        ("RINGBACK__MAIL__ACKNOWLEDGE", "false", "mail.acknowledge", False),
        ("RINGBACK__UNDO__MAIL", "2.5", "undo.mail", 2.5),
        ("RINGBACK__CLOSING__REASONS", "done, not ours ,", "closing.reasons", ("done", "not ours")),
        ("RINGBACK__SMTP__OUT__HOST", "mail.example.com", "smtp.out.host", "mail.example.com"),
        ("RINGBACK__SMTP__OUT__CA_FILE", "/etc/ca.pem", "smtp.out.ca_file", "/etc/ca.pem"),
    ],
)
def test_the_environment_overrides_a_key(name: str, value: str, key: str, found: object) -> None:
    value_found: Any = config.parse({"smtp": {"in": {"port": 25}, "out": {"host": "x"}}}, {name: value})
    for part in key.split("."):
        value_found = getattr(value_found, part)
    assert value_found == found


def test_the_environment_leaves_the_other_keys_of_the_section() -> None:
    table = {"smtp": {"in": {"port": 25, "hostname": "mx.example.com"}}}
    found = config.parse(table, {"RINGBACK__SMTP__IN__PORT": "18025"}).smtp.in_
    assert (found.port, found.hostname) == (18025, "mx.example.com")
    assert table == {"smtp": {"in": {"port": 25, "hostname": "mx.example.com"}}}, "the caller's table is not touched"


@pytest.mark.parametrize("name", ["RINGBACK__INBOXES", "RINGBACK__INBOXES__0__ADDRESS"])
def test_a_list_of_tables_is_not_overridden(name: str) -> None:
    assert problems_of({}, {name: "a@b.c"}) == [
        f"{name}: inboxes is a list of tables; the environment cannot override it, edit the file"
    ]


def test_an_unknown_key_in_the_environment_is_an_error_too() -> None:
    environment = {"RINGBACK__SMTP__IN__PROT": "25", "RINGBACK_CONFIG": "x", "RINGBACK_TESTING": "1"}
    assert problems_of({}, environment) == ["smtp.in.prot: there is no such key; did you mean port?"]


def test_a_secret_can_stand_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("hunter2\n")
    environment = {"RINGBACK__SMTP__OUT__PASSWORD_FILE": str(tmp_path / "password")}
    out = config.parse({"smtp": {"out": {"host": "x"}}}, environment).smtp.out
    assert out is not None
    assert out.password == "hunter2"


def test_a_secret_file_that_is_not_there_is_named_beside_the_other_errors(tmp_path: Path) -> None:
    environment = {"RINGBACK__WEB__SECRET_FILE": str(tmp_path / "none")}
    problems = problems_of({"web": {"threads": 1}}, environment)
    assert [problem.partition(":")[0] for problem in problems] == ["RINGBACK__WEB__SECRET_FILE", "web.threads"]
    assert "web.secret cannot be read" in problems[0]


def test_secrets_are_in_no_representation() -> None:
    table = {
        "web": {"secret": "hidden-1"},
        "smtp": {"out": {"host": "x", "password": "hidden-2"}},
        "data": {"database_url": "postgresql://me:hidden-3@db/x", "queue_url": "redis://:hidden-4@r/0"},
    }
    found = config.parse(table, {})
    assert "hidden" not in repr(found) + str(found)


def test_an_error_does_not_repeat_a_secret() -> None:
    problems = problems_of({"data": {"database_url": "mysql://me:hidden@db"}, "web": {"secret": ["hidden"]}})
    assert "hidden" not in "".join(problems)


# -- the file ------------------------------------------------------------------------------------------------------


def test_a_relative_data_folder_is_relative_to_the_file(tmp_path: Path) -> None:
    assert load(tmp_path, "").folder == tmp_path / "data"
    assert load(tmp_path, "[data]\ndir = 'here'").folder == tmp_path / "here"
    assert load(tmp_path, "[data]\ndir = '/var/lib/ringback'").folder == Path("/var/lib/ringback")


def test_the_file_in_force_is_named_by_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RINGBACK_CONFIG", raising=False)
    assert config.config_path() == Path("config.toml")
    monkeypatch.setenv("RINGBACK_CONFIG", "/etc/ringback.toml")
    assert config.config_path() == Path("/etc/ringback.toml")


def test_a_missing_file_says_what_makes_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"config\.toml: there is no such file; `ringback init` writes one"):
        config.load(tmp_path / "config.toml", {})


@pytest.mark.parametrize("content", [b"[web]\nport = = 1", b"[web\n", b"\xff\xfe", b"a = 1\na = 2"])
def test_what_is_not_toml_is_told_with_its_place(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "config.toml").write_bytes(content)
    with pytest.raises(ConfigError, match=r"config\.toml: ") as caught:
        config.load(tmp_path / "config.toml", {})
    assert len(caught.value.problems) == 1


def test_a_byte_order_mark_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_bytes(b"\xef\xbb\xbf[firm]\r\nname = 'ACME'\r\n")
    assert config.load(tmp_path / "config.toml", {}).firm.name == "ACME"


def test_a_folder_is_not_a_config(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        config.load(tmp_path, {})


def test_a_web_secret_that_is_not_in_the_config_is_the_one_in_the_data_folder(tmp_path: Path) -> None:
    assert load(tmp_path, "").web.secret == ""
    (tmp_path / "data").mkdir()
    (tmp_path / "data/web.secret").write_text("0123\n")
    assert load(tmp_path, "").web.secret == "0123"
    assert load(tmp_path, "[web]\nsecret = 'mine'").web.secret == "mine"


def test_the_digest_changes_with_a_setting_and_only_then() -> None:
    first, same, other = Config(), Config(), config.parse({"undo": {"mail": 1}}, {})
    assert first.digest == same.digest != other.digest
    assert re.fullmatch(r"[0-9a-f]{12}", first.digest)


def test_an_inbox_is_found_by_its_address_and_the_first_one_by_none() -> None:
    found = config.parse({"inboxes": [{"address": "a@x.example"}, {"address": "b@x.example", "addressing": "no"}]}, {})
    second = found.inbox("b@x.example")
    assert second is not None
    assert (second.plus, found.inboxes[0].plus) == (False, True)
    assert found.inbox("") == found.inboxes[0]
    assert found.inbox("c@x.example") is None
