"""What is wrong with this installation, in words and with what to do: `ringback check` (still) and `doctor` (live).

Each check is one function; it looks at one thing and yields findings. `check` opens no connection but the database's.
"""

from __future__ import annotations

import ipaddress
import re
import shutil
import smtplib
import socket
import ssl
import stat
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path
from urllib.parse import urlencode, urlsplit

from gateway import queries, store, supervisor
from gateway.addresses import load_keys
from gateway.config import Config, SmsNumber, SmtpOut, Twilio
from gateway.store import webhooks
from gateway.values import RawRequest

PATIENCE = 5.0  # seconds for a port to answer
RECENT = timedelta(days=1)  # refused webhooks are told for so long
AHEAD = timedelta(minutes=2)  # a clock may differ so much from another machine's


class Level(StrEnum):
    """How bad it is."""

    OK = "OK"
    WARN = "WARN"
    FAIL = "FAIL"


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check found; `fix` says what to do when it is not fine."""

    level: Level
    name: str
    words: str
    fix: str = ""


Findings = Iterator[Finding]


def still(config: Config) -> list[str]:
    """What is wrong with files, schema and the numbers for SMS, in sentences. The store is connected."""
    return [*_files(config), *_schema_problems(), *_sms(config)]


def examine(config: Config, path: Path, now: datetime) -> list[Finding]:
    """Every live check; the database's only when its schema fits. The store is connected."""
    found = [Finding(Level.OK, "config", f"{path}, settings {config.digest}"), *_modes(config, path), *_schema(config)]
    fits = not any(finding.name == "database" and finding.level is Level.FAIL for finding in found)
    for check in LIVE:
        found += check(config)
    if fits:
        running = any(finding.name == "processes" and finding.level is Level.OK for finding in found)
        with store.connection():
            found += _rows(now, running)
    return found


def exit_code(found: list[Finding]) -> int:
    """0 when all is fine, 1 with a warning, 2 with a failure."""
    levels = {finding.level for finding in found}
    return 2 if Level.FAIL in levels else 1 if Level.WARN in levels else 0


# -- still -------------------------------------------------------------------------------------------------------


def _files(config: Config) -> Iterator[str]:
    keys = config.folder / "keys.toml"
    try:
        if not load_keys(keys):
            yield f"{keys}: there is no key in it; `ringback key rotate` adds one"
    except FileNotFoundError:
        yield f"{keys}: there is no such file; `ringback init` makes one"
    except (OSError, ValueError, KeyError, TypeError) as error:
        yield f"{keys}: {error}"
    incoming, out = config.smtp.in_, config.smtp.out
    named = {
        "smtp.in.tls_certificate": incoming.tls_certificate,
        "smtp.in.tls_key": incoming.tls_key,
        "smtp.out.ca_file": out.ca_file if out else "",
    }
    for key, file in named.items():
        if file and (words := _unreadable(Path(file))):
            yield f"{key}: {file}: {words}"


def _unreadable(path: Path) -> str:
    try:
        with path.open("rb") as file:
            file.read(1)
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _schema_problems() -> Iterator[str]:
    if store.is_empty():
        yield "there is no database yet: `ringback init` makes it"
    elif problem := store.schema_problem():
        yield problem


def _sms(config: Config) -> Iterator[str]:
    """What can be sent but never answered, and webhooks that cannot reach us."""
    for way in config.sms:
        for name in (number for number in way.numbers if way.driver != "email" and re.search("[A-Za-z]", number)):
            yield f"sms: {name!r} is a name: nobody can answer it, nor say STOP; a helpdesk needs a number"
    if any(way.driver == "twilio" for way in config.sms) and (why := _unreachable(config.web.public_url)):
        yield f"web.public_url: {why}: Twilio signs and asks the public https:// address, and finds nobody there"


def _unreachable(url: str) -> str:
    """Why a provider cannot ask this address safely, "" when it can as far as its spelling goes."""
    host = urlsplit(url).hostname or ""
    try:
        private = not ipaddress.ip_address(host).is_global
    except ValueError:
        private = host == "localhost" or host.endswith(".localhost")
    if private:
        return f"{url} is only of this machine or network"
    return f"{url} is not https" if not url.startswith("https://") else ""


# -- live --------------------------------------------------------------------------------------------------------


def _schema(config: Config) -> Findings:
    problems = list(_schema_problems())
    for problem in problems:
        yield Finding(Level.FAIL, "database", problem, "do what it says, then look again")
    if not problems:
        engine = config.database_url.partition(":")[0]
        yield Finding(Level.OK, "database", f"{engine}, its schema is this program's")


def _modes(config: Config, path: Path) -> Findings:
    for file, mode in ((path, "0600"), (config.folder, "0700"), (config.folder / "keys.toml", "0600")):
        if file.exists() and file.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            yield Finding(Level.WARN, "secrets", f"others on this machine may read {file}", f"chmod {mode} {file}")


def _disk(config: Config) -> Findings:
    wanted = config.smtp.in_.min_free_mb
    try:
        free = shutil.disk_usage(config.folder).free // 1_000_000
    except OSError as error:
        yield Finding(Level.FAIL, "disk", f"{config.folder}: {error.strerror}", "`ringback init`, or mount it")
        return
    words = f"{free:,} MB free in {config.folder}"
    if free < wanted:
        yield Finding(
            Level.FAIL,
            "disk",
            f"{words}: mail is put off (452) below {wanted} MB",
            "make room, or [smtp.in] min_free_mb",
        )
    elif free < 5 * wanted:
        yield Finding(Level.WARN, "disk", f"{words}; mail is put off below {wanted} MB", "make room soon")
    else:
        yield Finding(Level.OK, "disk", words)


def _folder(config: Config) -> Findings:
    try:
        probe = config.folder / ".doctor"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        yield Finding(
            Level.FAIL, "data folder", f"{config.folder}: {error.strerror}", "give it to the user that runs Ringback"
        )
    else:
        yield Finding(Level.OK, "data folder", f"{config.folder} can be written")


def _processes(config: Config) -> Findings:
    pids = [pid for path in sorted(config.folder.glob("run*.pid")) if (pid := supervisor.running(str(path)))]
    if pids:
        yield Finding(Level.OK, "processes", f"running, supervisor {', '.join(map(str, pids))}")
    else:
        yield Finding(Level.WARN, "processes", "Ringback is not running", "`ringback run`, or start its service")
    yield _answers("smtp.in", config.smtp.in_.host, config.smtp.in_.port, _greets, bool(pids))
    yield _answers("web", config.web.host, config.web.port, _serves, bool(pids))


def _answers(name: str, host: str, port: int, ask: Callable[[str, int], str], running: bool) -> Finding:
    where = f"{reachable(host)}:{port}"
    try:
        return Finding(Level.OK, name, f"{where} says {ask(reachable(host), port)}")
    except OSError as error:
        level = Level.FAIL if running else Level.WARN
        fix = "look at Ringback's log; does another program use the port?" if running else "start Ringback"
        return Finding(level, name, f"{where} does not answer as it should: {error}", fix)


def reachable(host: str) -> str:
    """Where a program on this machine finds what listens on this address."""
    return {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound


def _greets(host: str, port: int) -> str:
    with socket.create_connection((host, port), PATIENCE) as connection:
        line = connection.recv(500).decode("ascii", "replace").partition("\r\n")[0]
    if not line.startswith("220"):
        raise OSError(f"it says {line!r}")
    return line


def _serves(host: str, port: int) -> str:
    name = f"[{host}]" if ":" in host else host
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://{name}:{port}/healthz", timeout=PATIENCE) as answer:
        return f"{answer.status} to /healthz"


def _mail_server(config: Config) -> Findings:
    out = config.smtp.out
    if out is None:
        words = f"no mail server configured: outgoing mail is only written to {config.folder / 'outgoing'}"
        yield Finding(Level.WARN, "smtp.out", words, "fill in [smtp.out]")
        return
    where = f"{out.host}:{out.port}"
    try:
        _sign_in(out, config.mail.domain)
    except (OSError, smtplib.SMTPException) as error:
        yield Finding(Level.FAIL, "smtp.out", f"{where}: {error}", "compare [smtp.out] with what your provider says")
    else:
        yield Finding(Level.OK, "smtp.out", f"{where}, {out.security}, {'signed in' if out.user else 'no login'}")
    if out.security == "none" and reachable(out.host) not in ("127.0.0.1", "::1", "localhost"):
        yield Finding(Level.WARN, "smtp.out", "mail and password travel in the clear", 'security = "starttls"')


def _sign_in(out: SmtpOut, name: str) -> None:
    context = ssl.create_default_context(cafile=out.ca_file or None)
    if out.security == "tls":
        client: smtplib.SMTP = smtplib.SMTP_SSL(out.host, out.port, name, timeout=PATIENCE, context=context)
    else:
        client = smtplib.SMTP(out.host, out.port, name, timeout=PATIENCE)
    with client:
        if out.security == "starttls":
            client.starttls(context=context)
        if out.user:
            client.login(out.user, out.password)
        client.noop()


def _authenticity(config: Config) -> Findings:
    mail = config.mail
    if mail.authserv_id:
        words = f"the Authentication-Results of {mail.authserv_id} are believed"
        yield Finding(Level.OK, "authenticity", words)
    elif mail.verify_dkim:
        yield Finding(Level.OK, "authenticity", "Ringback verifies DKIM signatures itself")
    else:
        yield Finding(
            Level.WARN,
            "authenticity",
            "nothing proves who sent a mail: what staff answers by mail waits in the mailroom",
            "[mail] authserv_id, or verify_dkim = true",
        )
    if mail.trusted_networks:
        words = f"mail from {', '.join(mail.trusted_networks)} is believed without a signature"
        yield Finding(Level.OK, "authenticity", words)


def _twilio(config: Config) -> Findings:
    """Signs a status callback that says nothing, and has it judged: here, and by the web that runs. Nothing is kept."""
    for way in config.sms:
        if way.twilio:
            yield _judged(config, way, way.twilio)


def _judged(config: Config, way: SmsNumber, twilio: Twilio) -> Finding:
    from inbound.sms.twilio import receive

    name = f"twilio {way.number}"
    probes = [_callback(config, way, twilio, token) for token in twilio.auth_tokens]
    forged = replace(probes[0], body=probes[0].body + b"0")
    answers = [receive(probe, "status", [way])[1].status for probe in (*probes, forged)]
    if answers != [200] * len(probes) + [403]:
        words = f"signed callbacks are answered {answers[:-1]}, a forged one {answers[-1]}"
        return Finding(Level.FAIL, name, words, "compare account_sid and auth_tokens with Twilio's console")
    where = f"{reachable(config.web.host)}:{config.web.port}"
    try:
        status = _asked(reachable(config.web.host), config.web.port, probes[0])
    except OSError as error:
        words = f"a signed callback is taken, a forged one refused; the web at {where} was not asked: {error}"
        return Finding(Level.WARN, name, words, "start Ringback")
    if status != 200:
        words = f"the web at {where} answers {status} to a callback signed for {config.web.public_url}"
        return Finding(Level.FAIL, name, words, "`ringback reload`: it may run with an older config")
    words = f"a callback signed for {config.web.public_url} is taken, a forged one refused"
    return Finding(Level.OK, name, words)


def _callback(config: Config, way: SmsNumber, twilio: Twilio, token: str) -> RawRequest:
    """A status callback as Twilio signs it. Its status is none, so that it changes nothing."""
    from twilio.request_validator import RequestValidator

    url = f"{config.web.public_url}/hooks/twilio/status"
    form = {"AccountSid": twilio.account_sid, "From": way.number, "MessageSid": f"SM{0:032}", "MessageStatus": "doctor"}
    headers = {
        "X-Twilio-Signature": RequestValidator(token).compute_signature(url, form),
        "Content-Type": "application/x-www-form-urlencoded",
    }
    return RawRequest("POST", url, headers, urlencode(form).encode())


def _asked(host: str, port: int, probe: RawRequest) -> int:
    """The status with which our own web answers."""
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}/hooks/twilio/status"
    request = urllib.request.Request(address, probe.body, dict(probe.headers))
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=PATIENCE) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


LIVE: tuple[Callable[[Config], Findings], ...] = (_folder, _disk, _processes, _mail_server, _authenticity, _twilio)


WATCHED = {  # names of `queries.health`: what is said when all is well, what to do when it is not
    "inbound": ("everything received was read", "look at the worker's log"),
    "outbox": ("everything due has left", "`ringback parked list` shows what the mail server said"),
    "worker": ("it gives signs of life", "look at its log"),
    "mailroom": ("nothing waits for a person", "`ringback parked list`, or the page /mailroom"),
}


def _rows(now: datetime, running: bool) -> Findings:
    """What the database says of the state of things. While nothing runs, nothing can be expected to go on."""
    newest = next((line.at for line in queries.mailroom("all", now, limit=1).received), None)
    if newest and newest > now + AHEAD:
        words = f"it is {now:%d %B %Y %H:%M} UTC here, but the newest message is of {newest:%d %B %Y %H:%M}"
        yield Finding(Level.FAIL, "clock", words, "set this machine's clock (`timedatectl`)")
    else:
        yield Finding(Level.OK, "clock", f"{now:%d %B %Y %H:%M} UTC, nothing came from the future")
    yield from _refused_webhooks(now)
    issues = {issue.name: issue for issue in queries.health(now)}
    for name, (fine, fix) in WATCHED.items():
        issue = issues.get(name)
        if issue is None:
            yield Finding(Level.OK, name, fine)
        else:
            yield Finding(Level.FAIL if issue.blocks and running else Level.WARN, name, issue.words, fix)


def _refused_webhooks(now: datetime) -> Findings:
    for found in webhooks.refusals(now - RECENT):
        words = (
            f"{found.count:,} webhooks to /hooks/{found.driver}/ were refused on {found.last:%d %B %Y}, "
            f"the last at {found.last:%H:%M} UTC"
        )
        fix = "yours? Then compare secrets and [web] public_url with what the provider has; else they were forged"
        yield Finding(Level.WARN, "webhooks", words, fix)
