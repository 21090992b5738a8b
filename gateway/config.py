"""The configuration: TOML and environment in, typed settings out; every error at once, each naming `section.key`.

`RINGBACK_CONFIG` names the file (default `config.toml`). `RINGBACK__SMTP__IN__PORT=18025` overrides `[smtp.in] port`;
`RINGBACK__SMTP__OUT__PASSWORD_FILE=/run/secrets/x` reads a value from a file. Lists of tables cannot be overridden.
`config.example.toml` holds every key with its default; a test compares the two.
"""

from __future__ import annotations

import difflib
import hashlib
import ipaddress
import logging
import os
import re
import sys
import tomllib
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

PREFIX = "RINGBACK__"
EX_CONFIG = 78  # sysexits(3): the exit code of a program that cannot use its config
WEB_SECRET = "web.secret"  # noqa: S105 - a file's name in the data folder


class ConfigError(Exception):
    """The config cannot be used. `problems` are whole sentences, each naming `section.key`."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def _mail_address(text: str) -> str:
    """One spelling of a mailbox: `addresses.mail_address` must come to the same."""
    local, at, domain = text.lower().rpartition("@")
    if not at or not re.fullmatch(r"[^\s<>,;\"@]{1,64}", local):
        raise ValueError(f"not a mail address: {text}")
    return f"{local}@{_mail_domain(domain)}"


def _mail_domain(text: str) -> str:
    """A domain as it travels: lower case, IDNA."""
    try:
        domain = text.lower() if text.isascii() else text.encode("idna").decode("ascii")
    except UnicodeError:
        domain = ""
    if not re.fullmatch(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*", domain):
        raise ValueError(f"not a domain: {text}")
    return domain


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True)


class Firm(Section):
    """Who we are: the name stands in the subject tag and in every message."""

    name: str = Field("Ringback", min_length=1, max_length=60)
    administrator: str = "admin@ringback.localhost"
    time_zone: str = "UTC"
    language: str = "en"

    @field_validator("name")
    @classmethod
    def _no_brackets(cls, name: str) -> str:
        if set(name) & set("[]<>#\r\n"):
            raise ValueError("must not contain [ ] < > # (it stands in the subject tag)")
        return name

    @field_validator("administrator")
    @classmethod
    def _mailbox(cls, address: str) -> str:
        return _mail_address(address)

    @field_validator("time_zone")
    @classmethod
    def _known_zone(cls, zone: str) -> str:
        from zoneinfo import ZoneInfo

        try:
            ZoneInfo(zone)
        except Exception as error:
            raise ValueError(f"no such time zone: {zone}") from error
        return zone


class Mail(Section):
    domain: str = "ringback.localhost"
    authserv_id: str = ""
    trusted_networks: tuple[str, ...] = ()
    reply_of_agents: Literal["answer", "note"] = "answer"
    reply_of_technicians: Literal["answer", "note"] = "note"
    null_sender: bool = False
    acknowledge: bool = True
    verify_dkim: bool = True

    @field_validator("domain")
    @classmethod
    def _domain(cls, domain: str) -> str:
        return _mail_domain(domain)

    @field_validator("trusted_networks")
    @classmethod
    def _networks(cls, networks: tuple[str, ...]) -> tuple[str, ...]:
        for network in networks:
            ipaddress.ip_network(network)
        return networks


class Inbox(Section):
    """An address people write to."""

    address: str
    name: str = ""
    team: str = ""
    kind: str = "support"
    language: str = "en"
    signature: str = ""
    addressing: Literal["auto", "yes", "no"] = "auto"
    reopen_days: int = Field(30, ge=0, le=3650)
    answer_hours: float = Field(8, gt=0, le=8760)

    @field_validator("address")
    @classmethod
    def _mailbox(cls, address: str) -> str:
        return _mail_address(address)

    @property
    def plus(self) -> bool:
        """Does `support+token@…` reach us? `auto` says yes: our own listener takes it."""
        return self.addressing != "no"


def _secret(value: Any) -> Any:
    """`@/run/secrets/token` stands for what is in that file: the environment cannot reach into a list of tables."""
    if not isinstance(value, str) or not value.startswith("@"):
        return value
    try:
        return Path(value[1:]).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"the file {value[1:]} cannot be read: {error}") from error


Secret = Annotated[str, BeforeValidator(_secret)]


class Twilio(Section):
    """An account at Twilio. `auth_tokens` are tried in turn, so that a new one can be brought in; the first signs us in
    unless there is an API key."""

    account_sid: str = Field(pattern=r"^AC[0-9a-fA-F]{32}$")
    auth_tokens: tuple[Annotated[Secret, Field(min_length=1)], ...] = Field(repr=False, min_length=1)
    api_key_sid: str = ""
    api_key_secret: Secret = Field("", repr=False)
    messaging_service_sid: str = Field("", pattern=r"^(MG[0-9a-fA-F]{32})?$")


class Kannel(Section):
    """A Kannel on our side of the wall: SMPP, CIMD and modems come through it. It asks our two URLs with GET, only from
    `allow_from` and with `secret` in the query."""

    send_url: str = "http://127.0.0.1:13013/cgi-bin/sendsms"
    user: str = "ringback"
    password: Secret = Field("", repr=False)
    secret: Secret = Field(repr=False, min_length=8)
    allow_from: tuple[str, ...] = ("127.0.0.1", "::1")
    smsc: str = ""

    @field_validator("allow_from")
    @classmethod
    def _networks(cls, networks: tuple[str, ...]) -> tuple[str, ...]:
        for network in networks:
            ipaddress.ip_network(network)
        return networks


class HttpSms(Section):
    """Any provider with an HTTP interface: templates out, a mapping of names in. `{to} {from} {text} {id} {callback}`
    are filled into `url` and `body`, encoded as each needs."""

    url: str
    method: Literal["GET", "POST"] = "POST"
    headers: dict[str, str] = Field(default_factory=dict, repr=False)
    body: str = ""
    content_type: str = "application/json"
    id_path: str = "id"  # where the answer names the message: dots go down
    timeout_seconds: float = Field(10, gt=0, le=60)
    # incoming: names of the fields, dots go down; `secret` signs the body (HMAC-SHA256, hex or base64, in `signature`)
    secret: Secret = Field(repr=False, min_length=8)
    signature: str = "X-Signature"
    field_id: str = "id"
    field_from: str = "from"
    field_to: str = "to"
    field_text: str = "text"
    field_status: str = "status"
    field_code: str = "code"
    statuses: dict[str, str] = Field(default_factory=dict)  # the provider's word → ours


class MailSms(Section):
    """Email-to-SMS: a mail to `{number}@domain`. One way, unless the gateway mails replies to an inbox."""

    domain: str
    strip_plus: bool = True


class SmsNumber(Section):
    """A number people text to, or several of one provider (`pool`): each its conversation."""

    number: str
    driver: Literal["twilio", "kannel", "http", "email", "file"] = "file"
    pool: tuple[str, ...] = ()
    inbox: str = ""  # whose team, kind, hours and signature its tickets have: a mail address, "" the first
    region: str = Field("", pattern=r"^([A-Z]{2})?$")  # of numbers written without a country; "" that of `number`
    countries: tuple[str, ...] = ()  # that get automatic SMS; () that of `number`
    acknowledge: bool = True
    reopen_days: int = Field(7, ge=0, le=3650)
    quiet_from: str = Field("21:00", pattern=r"^[0-2][0-9]:[0-5][0-9]$")
    quiet_until: str = Field("08:00", pattern=r"^[0-2][0-9]:[0-5][0-9]$")
    price: float = Field(0, ge=0)  # of a segment, for the estimate on the page
    currency: str = ""
    per_second: float = Field(1, gt=0, le=1000)  # messages from one number
    poll_minutes: float = Field(5, gt=0)
    twilio: Twilio | None = None
    kannel: Kannel | None = None
    http: HttpSms | None = None
    email: MailSms | None = None

    @model_validator(mode="after")
    def _has_its_section(self) -> SmsNumber:
        if self.driver != "file" and getattr(self, self.driver) is None:
            raise ValueError(f"driver {self.driver!r} needs its section [sms.{self.driver}]")
        if self.driver in ("twilio", "kannel", "http") and not all(map(_is_sender, self.numbers)):
            raise ValueError("number and pool: numbers in the international form +447700900999, or a sender's name")
        return self

    @property
    def numbers(self) -> tuple[str, ...]:
        """All numbers of ours behind it, the main one first."""
        return (self.number, *self.pool)

    @property
    def one_way(self) -> bool:
        """A sender's name instead of a number: nobody can answer it, nor say STOP."""
        return not self.number.startswith("+")


def _is_sender(text: str) -> bool:
    return re.fullmatch(r"\+[1-9][0-9]{6,14}|[A-Za-z0-9 ]{1,11}", text) is not None


class SmtpIn(Section):
    host: str = "127.0.0.1"
    port: int = Field(8025, ge=0, le=65535)
    hostname: str = "ringback.localhost"
    tls_certificate: str = ""
    tls_key: str = Field("", validate_default=True)
    require_tls: bool = False
    max_message_bytes: int = Field(35 * 1024 * 1024, ge=10_000)
    max_recipients: int = Field(100, ge=1)
    max_connections: int = Field(200, ge=1)
    max_connections_per_address: int = Field(20, ge=1)
    idle_seconds: float = Field(120, gt=0)
    data_seconds: float = Field(600, gt=0)
    session_seconds: float = Field(1800, gt=0)
    max_commands: int = Field(1000, ge=10)
    min_free_mb: int = Field(200, ge=0)

    @field_validator("tls_key")
    @classmethod
    def _both(cls, key: str, info: ValidationInfo) -> str:
        if bool(key) != bool(info.data.get("tls_certificate")):
            raise ValueError("tls_certificate and tls_key: both or none")
        return key

    @field_validator("require_tls")
    @classmethod
    def _possible(cls, required: bool, info: ValidationInfo) -> bool:
        if required and not info.data.get("tls_certificate"):
            raise ValueError("needs tls_certificate and tls_key")
        return required


class SmtpOut(Section):
    host: str
    port: int = Field(587, ge=1, le=65535)
    security: Literal["starttls", "tls", "none"] = "starttls"
    user: str = ""
    password: str = Field("", repr=False)
    timeout_seconds: float = Field(30, gt=0)
    ca_file: str = ""


class Smtp(Section):
    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)
    in_: SmtpIn = Field(default_factory=SmtpIn, alias="in")
    out: SmtpOut | None = None


class Web(Section):
    host: str = "127.0.0.1"
    port: int = Field(8080, ge=0, le=65535)
    public_url: str = "http://127.0.0.1:8080"
    threads: int = Field(96, ge=4, le=512)
    secret: str = Field("", repr=False)
    session_days: int = Field(14, ge=1, le=365)

    @field_validator("public_url")
    @classmethod
    def _url(cls, url: str) -> str:
        if not re.match(r"https?://[^/\s]", url):
            raise ValueError(f"must begin with http:// or https:// and name a host: {url}")
        return url.rstrip("/")


class Data(Section):
    dir: str = "data"
    database_url: str = Field("", repr=False)  # may hold a password
    queue_url: str = Field("", repr=False)

    @field_validator("database_url")
    @classmethod
    def _database(cls, url: str) -> str:
        if url and not url.startswith(("sqlite:///", "postgresql://")):
            raise ValueError("must begin with sqlite:/// or postgresql://")
        return url

    @field_validator("queue_url")
    @classmethod
    def _queue(cls, url: str) -> str:
        if url and not url.startswith("redis://"):
            raise ValueError("must begin with redis://")
        return url


class Limits(Section):
    """How many automatic answers and new tickets one sender may cause (email.md 21, 22)."""

    acknowledgements_per_address_hour: int = Field(3, ge=0)
    acknowledgements_per_address_day: int = Field(10, ge=0)
    acknowledgements_per_domain_hour: int = Field(60, ge=0)
    acknowledgements_per_hour: int = Field(300, ge=0)
    new_tickets_per_address_hour: int = Field(20, ge=1)
    login_tries_per_hour: int = Field(10, ge=1)
    parse_seconds: float = Field(60, gt=0)
    parse_memory_mb: int = Field(1024, ge=128)
    parsers: int = Field(1, ge=1, le=8)
    sms_automatic_per_hour: int = Field(3, ge=0)  # to one phone
    sms_automatic_per_day: int = Field(10, ge=0)
    sms_segments_per_day: int = Field(500, ge=0)  # beyond it automatic SMS wait till tomorrow; people's never wait
    new_sms_tickets_per_hour: int = Field(5, ge=1)
    commands_per_ten_minutes: int = Field(30, ge=1)


class Undo(Section):
    """Seconds an answer waits, so that it can be taken back."""

    mail: float = Field(15, ge=0)
    staff_mail: float = Field(60, ge=0)
    sms: float = Field(5, ge=0)
    command: float = Field(600, ge=0)  # how long UNDO takes a technician's command back
    field: float = Field(60, ge=0)  # how long what a technician says to a customer waits


class InField(Section):
    """People in the field: which of their commands need a one-time code besides the phone in the hand."""

    needs_code: tuple[Literal["reply-others", "reopen-old"], ...] = ("reply-others", "reopen-old")
    tell_customer_done: bool = True


class Closing(Section):
    reasons: tuple[str, ...] = ("solved", "answered", "no reply", "duplicate", "not for us")

    @field_validator("reasons")
    @classmethod
    def _some(cls, reasons: tuple[str, ...]) -> tuple[str, ...]:
        if not reasons:
            raise ValueError("needs at least one reason")
        return reasons


class Config(Section):
    """The whole configuration. `digest` names its content: every trace carries it."""

    firm: Firm = Field(default_factory=Firm)
    mail: Mail = Field(default_factory=Mail)
    inboxes: tuple[Inbox, ...] = (Inbox(address="support@ringback.localhost", name="Support"),)
    smtp: Smtp = Field(default_factory=Smtp)
    web: Web = Field(default_factory=Web)
    data: Data = Field(default_factory=Data)
    limits: Limits = Field(default_factory=Limits)
    undo: Undo = Field(default_factory=Undo)
    closing: Closing = Field(default_factory=Closing)
    field: InField = Field(default_factory=InField)
    sms: tuple[SmsNumber, ...] = ()

    @model_validator(mode="after")
    def _sms_numbers_differ(self) -> Config:
        numbers = [number for way in self.sms for number in way.numbers]
        if twice := {n for n in numbers if numbers.count(n) > 1}:
            raise ValueError(f"sms: {', '.join(sorted(twice))} stands there twice")
        for way in self.sms:
            if way.inbox and self.inbox(way.inbox) is None:
                raise ValueError(f"sms: inbox {way.inbox} is none of [[inboxes]]")
        return self

    @field_validator("inboxes")
    @classmethod
    def _inboxes_differ(cls, inboxes: tuple[Inbox, ...]) -> tuple[Inbox, ...]:
        if not inboxes:
            raise ValueError("needs at least one [[inboxes]]")
        addresses = [inbox.address for inbox in inboxes]
        if twice := {a for a in addresses if addresses.count(a) > 1}:
            raise ValueError(f"address: {', '.join(sorted(twice))} stands there twice")
        return inboxes

    @cached_property
    def digest(self) -> str:
        """Twelve hex digits that change when a setting changes."""
        return hashlib.sha256(self.model_dump_json(by_alias=True).encode()).hexdigest()[:12]

    @property
    def folder(self) -> Path:
        """The data folder."""
        return Path(self.data.dir)

    @property
    def database_url(self) -> str:
        return self.data.database_url or f"sqlite:///{self.folder / 'ringback.db'}"

    def inbox(self, address: str) -> Inbox | None:
        """The inbox with this address; the first one for ""."""
        if not address:
            return self.inboxes[0]
        return next((inbox for inbox in self.inboxes if inbox.address == address), None)

    def way(self, number: str) -> SmsNumber | None:
        """The `[[sms]]` that one of our numbers belongs to."""
        return next((way for way in self.sms if number in way.numbers), None)

    def way_of(self, inbox: str) -> SmsNumber | None:
        """How a ticket of this inbox sends SMS: its own number, else the first; None when there is none."""
        own = (way for way in self.sms if (way.inbox or self.inboxes[0].address) == inbox)
        return next(own, self.sms[0] if self.sms else None)


def config_path() -> Path:
    """The file in force: `RINGBACK_CONFIG`, else `config.toml` in the working directory."""
    return Path(os.environ.get("RINGBACK_CONFIG", "config.toml"))


def load(path: Path | None = None, environment: Mapping[str, str] | None = None) -> Config:
    """The settings of a file with the environment laid over it. A relative `data.dir` is relative to the file.

    Raises ConfigError with every problem at once.
    """
    path = path or config_path()
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8-sig"))  # some editors put a byte order mark
    except FileNotFoundError as error:
        raise ConfigError([f"{path}: there is no such file; `ringback init` writes one"]) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise ConfigError([f"{path}: {error}"]) from error
    config = parse(table, os.environ if environment is None else environment)
    folder = Path(config.data.dir)
    if not folder.is_absolute():
        folder = path.resolve().parent / folder
    changes: dict[str, Section] = {"data": config.data.model_copy(update={"dir": str(folder)})}
    if not config.web.secret:
        changes["web"] = config.web.model_copy(update={"secret": _kept_secret(folder / WEB_SECRET)})
    return config.model_copy(update=changes)


def _kept_secret(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError([f"web.secret: {path} cannot be read: {error}"]) from error


def begin_child(log: logging.Logger) -> Config:
    """How every child of the supervisor begins: it logs to stderr and loads the settings; it ends with EX_CONFIG, and
    the problems said, when they cannot be used."""
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s", stream=sys.stderr)
    try:
        return load()
    except ConfigError as error:
        log.error("%s", error)
        sys.exit(EX_CONFIG)


def parse(table: Mapping[str, Any], environment: Mapping[str, str]) -> Config:
    """Typed settings of a TOML table with the environment laid over it. Raises ConfigError."""
    merged, problems = _overlay(dict(table), environment)
    config = None
    try:
        config = Config.model_validate(merged)
    except ValidationError as error:
        problems += [_sentence(item) for item in error.errors(include_url=False)]
    if problems or config is None:
        raise ConfigError(sorted(set(problems)))
    return config


def _overlay(table: dict[str, Any], environment: Mapping[str, str]) -> tuple[dict[str, Any], list[str]]:
    problems: list[str] = []
    for name in sorted(environment):
        if not name.startswith(PREFIX):
            continue
        path = name[len(PREFIX) :].lower().split("__")
        value: str = environment[name]
        if _is_list(path[:1]):
            problems.append(f"{name}: {path[0]} is a list of tables; the environment cannot override it, edit the file")
            continue
        if path[-1].endswith("_file") and _lookup_model(path) is None:
            path[-1] = path[-1].removesuffix("_file")
            try:
                value = Path(value).read_text(encoding="utf-8").strip()
            except (OSError, UnicodeDecodeError) as error:
                problems.append(f"{name}: {'.'.join(path)} cannot be read: {error}")
                continue
        _put(table, path, value if not _is_list(path) else [v.strip() for v in value.split(",") if v.strip()])
    return table, problems


def _put(table: dict[str, Any], path: list[str], value: Any) -> None:
    for key in path[:-1]:
        inner = table.get(key)
        table[key] = dict(inner) if isinstance(inner, dict) else {}
        table = table[key]
    table[path[-1]] = value


def _fields(model: type[BaseModel]) -> dict[str, Any]:
    return {(info.alias or name): info.annotation for name, info in model.model_fields.items()}


def _model_of(annotation: Any) -> type[BaseModel] | None:
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate
    return None


def _lookup_model(path: list[str]) -> Any:
    """The annotation of `section.key`, None where there is no such key."""
    model: type[BaseModel] | None = Config
    annotation: Any = None
    for key in path:
        if model is None or key not in _fields(model):
            return None
        annotation = _fields(model)[key]
        model = _model_of(annotation)
    return annotation


def _is_list(path: list[str]) -> bool:
    return getattr(_lookup_model(path), "__origin__", None) is tuple


WORDS = {
    "missing": "is missing",
    "model_type": "must be a section: [{where}]",
    "tuple_type": "must be a list",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_parsing": "must be a number",
    "bool_parsing": "must be true or false",
}


def _sentence(item: Any) -> str:
    where = ".".join(str(part + 1) if isinstance(part, int) else str(part) for part in item["loc"])
    if item["type"] == "extra_forbidden":
        model: type[BaseModel] | None = Config
        for part in item["loc"][:-1]:
            model = model if isinstance(part, int) else _model_of(_fields(model)[str(part)]) if model else None
        near = difflib.get_close_matches(str(item["loc"][-1]), _fields(model) if model else [], n=1)
        return f"{where}: there is no such key" + (f"; did you mean {near[0]}?" if near else "")
    words = item["msg"].removeprefix("Value error, ").replace("Input should be", "must be")
    if item["type"] in WORDS:
        words = WORDS[item["type"]].format(where=where)
    return f"{where}: {words}" if where else str(words)
