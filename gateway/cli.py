"""The command `ringback`. Each command is one thin function that imports what it needs when it runs.

Exit codes (sysexits(3) where there is one): 0 done; 1 refused, with words; 2 wrong call, or a failure that `doctor`
found; 75 try again later (EX_TEMPFAIL, what a mail server understands of `ingest`); 78 the config cannot be used
(EX_CONFIG), every problem on a line of its own.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, NoReturn

import click

if TYPE_CHECKING:
    from gateway.addresses import Keys
    from gateway.commands import Said
    from gateway.config import Config, SmsNumber
    from gateway.values import Account, Arrival, Decision, Envelope, InboundMessage, Outgoing

REFUSED, DATA_ERROR, NO_USER, TRY_AGAIN, BAD_CONFIG = 1, 65, 67, 75, 78
TRIED_NUMBER = "+12025550100"  # reserved for fiction
HEAD = 64 * 1024  # bytes of a mail in which recipients are looked for

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")


class Ringback(click.Group):
    """A group whose commands may raise our own errors: they become words on stderr and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:
            words, code = _told(error)
            if not code:
                raise
            click.echo("\n".join(words), err=True)
            ctx.exit(code)


def _told(error: Exception) -> tuple[list[str], int]:
    """What to say of an error, and the exit code; 0 for one that is not ours."""
    from gateway.config import ConfigError
    from gateway.values import Permanent, Temporary

    match error:
        case ConfigError():
            return error.problems, BAD_CONFIG
        case Temporary():
            return [str(error)], TRY_AGAIN
        case Permanent() | OSError():
            return [str(error)], REFUSED
    return [], 0


@click.group(cls=Ringback, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Ringback: a helpdesk that lives in email, SMS and missed calls.

    RINGBACK_CONFIG names the config file (default: config.toml).
    """
    os.umask(0o077)  # whatever Ringback writes is for its own user


# -- start and stop ----------------------------------------------------------------------------------------------


@main.command()
def init() -> None:
    """Make what a first start needs: config, data folder, database, administrator. Overwrites nothing."""
    made = list(_initialise())
    click.echo("\n".join(made) or "Everything is there already; nothing was overwritten.")


def _initialise() -> Iterator[str]:
    """Makes what is missing and says what it made."""
    from gateway import setup, store
    from gateway.config import config_path, load
    from gateway.values import Permanent, utc_now

    path = config_path()
    if setup.write_config(path):
        yield f"{path} written: edit it at leisure"
    config = load(path)
    if setup.make_folder(config):
        yield f"{config.folder} made"
    store.connect(config)
    if setup.make_database(utc_now()):
        yield f"{config.database_url.partition(':')[0]} database made"
    if problem := store.schema_problem():
        raise Permanent(problem)
    if file := setup.make_administrator(config, utc_now()):
        yield f"{config.firm.administrator} is the administrator; the one-time link is in {file}"


@main.command()
@click.option("--only", metavar="PARTS", default="", help="Only these parts: smtp,imap,ami,worker,web.")
def run(only: str) -> None:
    """Start Ringback, and stay until SIGTERM or Ctrl-C. Does `init` first where it is needed."""
    from gateway import setup, store, supervisor
    from gateway.config import load
    from gateway.values import Permanent

    parts = [part.strip() for part in only.split(",") if part.strip()]
    if unknown := set(parts) - supervisor.PARTS.keys():
        raise click.BadParameter(f"{', '.join(sorted(unknown))}: known are {', '.join(supervisor.PARTS)}")
    made = list(_initialise())
    store.close_connection()
    config = load()
    if pid := supervisor.running(supervisor.pid_file(config.folder, parts)):
        raise Permanent(f"Ringback is running already: process {pid}. `ringback reload` makes it read its config again")
    setup.note_started(config)
    click.echo("\n".join([*made, *_welcome(config)]))
    sys.stdout.flush()
    # By its file and isolated (-I -S): it needs no library, and is smaller and sooner there without looking for one.
    program = [sys.executable, "-I", "-S", supervisor.__file__, str(config.folder), *parts]
    os.execv(program[0], program)  # noqa: S606 - no shell is wanted


def _welcome(config: Config) -> Iterator[str]:
    from gateway import setup

    served = f"{config.web.host}:{config.web.port}"
    url = config.web.public_url
    yield f"Ringback: {url}" + ("" if url.endswith(f"://{served}") else f" (served on {served})")
    login = config.folder / setup.FIRST_LOGIN
    if login.exists():
        yield f"  first login: the one-time link in {login}"
    yield f"  a first mail: {first_mail(config)}"
    if config.smtp.out is None:
        yield (
            f"  not sent: no mail server configured ([smtp.out]); outgoing mail is written to {config.folder}/outgoing/"
        )


def first_mail(config: Config) -> str:
    """A line for the shell that sends a mail to the first inbox, with nothing but Python."""
    from gateway.doctor import reachable

    incoming, inbox = config.smtp.in_, json.dumps(config.inboxes[0].address)
    head = json.dumps(f"From: Ann <ann@example.com>\r\nTo: {config.inboxes[0].address}\r\nSubject: My first mail\r\n")
    code = (
        f"import smtplib, email.utils as u; s = smtplib.SMTP({json.dumps(reachable(incoming.host))}, {incoming.port}); "
        f"{'s.starttls(); ' if incoming.require_tls else ''}"
        f's.sendmail("ann@example.com", [{inbox}], {head} + "Message-ID: " + u.make_msgid(domain="example.com") + '
        r'"\r\n\r\nHello! Is anybody there?\r\n")'
    )
    return f"python3 -c {shlex.quote(code)}"


@main.command()
def reload() -> None:
    """Make a running Ringback read its config again, after looking it over."""
    from gateway import setup
    from gateway.config import load
    from gateway.values import Permanent

    config = load()
    pids = _tell_supervisors(config, signal.SIGHUP)
    if not pids:
        raise Permanent("Ringback is not running; `ringback run` starts it")
    click.echo(f"told process {', '.join(map(str, pids))} to read the config again")
    for key in setup.needs_restart(config):
        click.echo(f"{key}: changed, but that needs a restart")


def _tell_supervisors(config: Config, number: int) -> list[int]:
    """Sends a signal to every running supervisor of this data folder; returns their process ids."""
    from gateway import supervisor

    pids = [pid for path in sorted(config.folder.glob("run*.pid")) if (pid := supervisor.running(str(path)))]
    for pid in pids:
        os.kill(pid, number)
    return pids


@main.command()
@as_json
def version(as_json: bool) -> None:
    """Print the version."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        number = version("ringback")
    except PackageNotFoundError:
        number = "unknown (not installed)"
    click.echo(json.dumps({"version": number}) if as_json else f"ringback {number}")


# -- looking after it --------------------------------------------------------------------------------------------


@main.command()
@click.option("--audit", is_flag=True, help="Also prove that no entry was changed: chains, seals, orphans.")
@as_json
def check(audit: bool, as_json: bool) -> None:
    """Look over config, files and schema, without any network."""
    from gateway.config import ConfigError, load

    try:
        config = load()
        problems, code = _problems(config, audit), REFUSED
    except ConfigError as error:
        problems, code = error.problems, BAD_CONFIG
    if as_json:
        click.echo(json.dumps({"problems": problems}, indent=2))
    else:
        click.echo("\n".join(problems) or "nothing to complain about", err=bool(problems))
    if problems:
        raise click.exceptions.Exit(code)


def _problems(config: Config, audit: bool) -> list[str]:
    from gateway import doctor, store
    from gateway.store import audit as auditor

    if not config.folder.is_dir():
        return [f"{config.folder}: there is no such folder; `ringback init` makes it"]
    store.connect(config)
    problems = doctor.still(config)
    if audit and not problems:
        with store.connection():
            problems = auditor.problems()
    return problems


@main.command()
@as_json
def doctor(as_json: bool) -> None:
    """Examine the living patient: ports, mail server, disk, clock, what waits. Exit 0 fine, 1 warnings, 2 failures."""
    from gateway import doctor as clinic
    from gateway import store
    from gateway.config import ConfigError, config_path, load
    from gateway.values import utc_now

    try:
        config = load()
    except ConfigError as error:
        found = [clinic.Finding(clinic.Level.FAIL, "config", problem, "edit the file") for problem in error.problems]
    else:
        store.connect(config)
        found = clinic.examine(config, config_path(), utc_now())
    if as_json:
        click.echo(_dumped({"findings": found}))
    else:
        for finding in found:
            click.echo(f"{finding.level:<4}  {finding.name:<12}  {finding.words}")
            if finding.level is not clinic.Level.OK:
                click.echo(f"{'':20}→ {finding.fix}")
    raise click.exceptions.Exit(clinic.exit_code(found))


@main.command()
def migrate() -> None:
    """Bring the database to this program's schema, after a backup."""
    from gateway import store
    from gateway.config import load
    from gateway.values import Permanent, utc_now

    config = load()
    if _tell_supervisors(config, 0):
        raise Permanent("Ringback is running: stop it first")
    store.connect(config)
    click.echo("\n".join(store.migrate(utc_now())) or "nothing to do")


@main.group()
def key() -> None:
    """The keys that sign reply addresses."""


@key.command()
def rotate() -> None:
    """Add a fresh key, which signs from now on; the old ones still verify."""
    from gateway import addresses
    from gateway.config import load

    config = load()
    keys = addresses.add_key(config.folder / "keys.toml")
    told = _tell_supervisors(config, signal.SIGHUP)
    click.echo(f"{len(keys)} keys, {keys[-1].letter} signs{'; the running Ringback knows it' if told else ''}")


# -- mail --------------------------------------------------------------------------------------------------------


@main.command()
@click.argument("files", nargs=-1, type=click.Path(path_type=Path, dir_okay=False))
@click.option("--to", "recipients", multiple=True, metavar="ADDRESS", help="The recipient of the envelope.")
@click.option("--sender", metavar="ADDRESS", help="The sender of the envelope.")
def ingest(files: tuple[Path, ...], recipients: tuple[str, ...], sender: str | None) -> None:
    """Take mails from files, or one from standard input: `|ringback ingest` in a mail server.

    Without --to: what Postfix says (ORIGINAL_RECIPIENT), else whichever of our inboxes stands in the headers, else the
    first one. Exit 75: not taken, try again; 65: too large; 67: none of our addresses.
    """
    sender = os.environ.get("SENDER") if sender is None else sender
    sender = "" if sender is None else sender.strip() or "<>"  # known and empty is the null return path
    recipients = recipients or tuple(filter(None, [os.environ.get("ORIGINAL_RECIPIENT", "")]))
    try:
        taken = _ingest(_raw_mails(files), recipients, sender)
    except click.exceptions.Exit:
        raise
    except Exception as error:  # whatever it is: the mail is still with its sender, who shall come again
        click.echo(f"not taken: {error}", err=True)
        raise click.exceptions.Exit(TRY_AGAIN) from error
    click.echo(f"{taken} taken", err=True)


def _raw_mails(files: Sequence[Path]) -> Iterator[bytes]:
    if not files:
        yield sys.stdin.buffer.read()
    for file in files:
        yield file.read_bytes()


def _ingest(mails: Iterable[bytes], recipients: Sequence[str], sender: str) -> int:
    """Keeps the mails, durably; returns how many."""
    from gateway import bell, desk

    config = _opened()
    committer = desk.Committer(config)
    try:
        waiting = [committer.accept(_arrival(config, raw, recipients, sender)) for raw in mails]
        for future in waiting:
            future.result()
    finally:
        committer.close()
    bell.Bell(config.folder, config.data.queue_url).ring(bell.PROCESS)
    return len(waiting)


def _arrival(config: Config, raw: bytes, recipients: Sequence[str], sender: str) -> Arrival:
    """What is to be kept. Ends the program for what will never be taken; raises Temporary when the disk is low."""
    from gateway.values import Arrival, Channel, Temporary, utc_now
    from inbound.smtp_in import delivery_key

    limits = config.smtp.in_
    if len(raw) > limits.max_message_bytes:
        _refuse(f"too large: {len(raw)} bytes, [smtp.in] max_message_bytes is {limits.max_message_bytes}", DATA_ERROR)
    if shutil.disk_usage(config.folder).free < limits.min_free_mb * 1_000_000:
        raise Temporary("the disk is nearly full")
    envelope = _envelope(config, raw, recipients, sender)
    return Arrival(delivery_key(raw, envelope.recipients), Channel.MAIL, raw, envelope, utc_now())


def _envelope(config: Config, raw: bytes, recipients: Sequence[str], sender: str) -> Envelope:
    """For whom a mail is that came without SMTP: as told, else as its headers say, else the first inbox."""
    from gateway.addresses import mail_address
    from gateway.values import Envelope

    told = [mail_address(recipient) for recipient in recipients]
    if strangers := [given for given, spelled in zip(recipients, told, strict=True) if not _inbox_of(config, spelled)]:
        _refuse(f"none of our addresses: {', '.join(strangers)}", NO_USER)
    found = told or _ours_in_headers(config, raw) or [config.inboxes[0].address]
    return Envelope(mail_address(sender), tuple(dict.fromkeys(found)), "ingest", null=sender == "<>")


def _inbox_of(config: Config, address: str) -> bool:
    from gateway.addresses import without_plus

    return bool(address) and config.inbox(without_plus(address)) is not None


def _ours_in_headers(config: Config, raw: bytes) -> list[str]:
    """Our addresses in the headers that name recipients: those of the delivery before those that the sender wrote."""
    from gateway.addresses import mail_address

    head = re.split(rb"\r?\n\r?\n", raw[:HEAD], maxsplit=1)[0].decode("utf-8", "replace")
    unfolded = re.sub(r"\r?\n[ \t]+", " ", head)
    for names in ("delivered-to|x-original-to|envelope-to", "to|cc"):
        lines = re.findall(rf"^(?:{names})[ \t]*:(.*)$", unfolded, re.IGNORECASE | re.MULTILINE)
        words = [mail_address(word) for line in lines for word in re.findall(r"[^\s<>,;:\"()]+@[^\s<>,;:\"()]+", line)]
        if ours := [word for word in words if _inbox_of(config, word)]:
            return ours
    return []


def _refuse(words: str, code: int) -> NoReturn:
    click.echo(words, err=True)
    raise click.exceptions.Exit(code)


@main.group(name="try")
def try_() -> None:
    """What would become of something, without doing it."""


@try_.command(name="mail")
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path, dir_okay=False))
@click.option("--to", "recipients", multiple=True, metavar="ADDRESS", help="The recipient of the envelope.")
@click.option("--sender", metavar="ADDRESS", default="", help="The sender of the envelope.")
def try_mail(files: tuple[Path, ...], recipients: tuple[str, ...], sender: str) -> None:
    """Read mails and decide on them right now, but write and send nothing: one JSON object a file."""
    from gateway import desk
    from gateway.store import schedule
    from gateway.values import utc_now
    from inbound.authenticity import prove

    config = _opened()
    keys = desk.keys_of(config)
    with _parser(config) as read:
        for file in files:
            raw = file.read_bytes()
            envelope = _envelope(config, raw, recipients, sender)
            message = read(raw, envelope)
            proof = prove(message, partial(bytes, raw), envelope, config, schedule.staff_addresses())
            decision = desk.rehearse(config, keys, message, envelope, proof, utc_now())
            click.echo(_dumped(_verdict(file, message, decision), indent=None))


@try_.command(name="sms")
@click.option("--from", "sender", required=True, metavar="NUMBER", help="Who texts.")
@click.option("--to", "recipient", metavar="NUMBER", default="", help="Our number; the first of [[sms]] if not given.")
@click.option("--file", "file", type=click.Path(exists=True, path_type=Path, dir_okay=False), help="A text a line.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object a text.")
@click.argument("text", required=False)
def try_sms(sender: str, recipient: str, file: Path | None, as_json: bool, text: str | None) -> None:
    """Read text messages and decide on each right now, but write and send nothing."""
    from gateway import desk
    from gateway.values import Sms, utc_now
    from outbound.sms import caps

    if (text is None) == (file is None):
        _refuse("ringback: give a text, or a file of texts with --file", 2)
    config, way = _with_number(_opened(), recipient)
    texts = [text] if text is not None else (file.read_text("utf-8").splitlines() if file else [])
    for words in texts:
        sms = Sms(way.driver, "try", sender, recipient or way.number, words)
        decision, said = desk.rehearse_text(config, sms, caps(way.driver), utc_now())
        verdict = _text_verdict(words, said, decision)
        click.echo(_dumped(verdict, indent=None) if as_json else _in_words(verdict))


def _with_number(config: Config, recipient: str) -> tuple[Config, SmsNumber]:
    """The `[[sms]]` that a text is tried at; a number that is not configured is tried as if it were."""
    from gateway.config import SmsNumber

    way = config.way(recipient) if recipient else next(iter(config.sms), None)
    if way is None:
        way = SmsNumber(number=recipient or TRIED_NUMBER, driver="file")
        click.echo(f"ringback: no [[sms]] has the number {way.number}; tried as if one had", err=True)
        config = config.model_copy(update={"sms": (*config.sms, way)})
    return config, way


def _text_verdict(words: str, said: Said, decision: Decision) -> dict[str, Any]:
    """What `try sms` says of one text: `kind`, `verb`, `ticket` and `text` as it is read, `executes` whether a command
    is carried out at once, `lands` where it goes: a ticket's number, "new", or null."""
    from gateway.commands import as_json
    from gateway.decide.field import executes

    return {
        "sms": words,
        "kind": None,
        "verb": None,
        "ticket": None,
        "text": None,
        **as_json(said),
        "executes": executes(said, decision),
        "lands": "new" if decision.new_ticket else decision.ticket,
        "state": decision.state,
        "reason": decision.reason,
        "sends": [notice.kind for notice in decision.notices],
        "trace": decision.trace,
    }


def _in_words(verdict: dict[str, Any]) -> str:
    lines = [f"{verdict['sms']!r}: {verdict['reason']}" + (f", #{verdict['lands']}" if verdict["lands"] else "")]
    lines += [f"  {'>' if step.hit else ' '} {step.name}: {step.found}" for step in verdict["trace"]]
    return "\n".join(lines)


@contextmanager
def _parser(config: Config) -> Iterator[Callable[[bytes, Envelope], InboundMessage]]:
    """Reads mails as the worker does, in a process of its own; their attachments go to a folder that is thrown away."""
    from inbound.parser import Parser, Unreadable, minimal

    limits = config.limits
    with TemporaryDirectory(prefix="ringback-") as folder:
        parser = Parser(Path(folder), limits.parse_seconds, limits.parse_memory_mb, config.mail.authserv_id)

        def read(raw: bytes, envelope: Envelope) -> InboundMessage:
            try:
                return parser.parse(raw, envelope)
            except Unreadable:
                return minimal(raw, envelope)

        try:
            yield read
        finally:
            parser.close()


def _verdict(file: Path, message: InboundMessage, decision: Decision) -> dict[str, Any]:
    """What `try mail` says of one file. `ticket` is a number, "new", or null."""
    from gateway.values import InboundState, NoticeKind

    kinds = {notice.kind for notice in decision.notices}
    return {
        "file": str(file),
        "class": message.category,
        "from": message.sender.address,
        "subject": message.subject,
        "text": message.text,
        "ticket": "new" if decision.new_ticket else decision.ticket,
        "reason": decision.reason,
        "parked": decision.state is InboundState.PARKED,
        "autoreply": NoticeKind.ACKNOWLEDGEMENT in kinds,
        "state": decision.state,
        "quoted": message.quoted,
        "attachments": [part.name for part in message.files],
        "notes": message.notes,
        "trace": decision.trace,
    }


@main.command(name="send-test")
@click.argument("address")
def send_test(address: str) -> None:
    """Send a test mail to ADDRESS right now, past the outbox, and print what the mail server says."""
    from gateway import desk
    from gateway.addresses import mail_address
    from gateway.config import load
    from gateway.values import Permanent
    from outbound import files
    from outbound.smtp_out import SmtpSender

    config = load()
    if not mail_address(address):
        raise click.BadParameter(f"not a mail address: {address}")
    outgoing = _test_mail(config, desk.keys_of(config), mail_address(address))
    if config.smtp.out is None:
        path = files.write(config.folder / "outgoing", outgoing)
        raise Permanent(f"not sent: no mail server configured ([smtp.out]); it is in {path}")
    sender = SmtpSender(config.smtp.out, config.mail.domain)
    try:
        click.echo(f"{config.smtp.out.host} took it: {sender(outgoing).words}")
    finally:
        sender.close()


def _test_mail(config: Config, keys: Keys, address: str) -> Outgoing:
    """A rendered mail that belongs to no ticket. The time is its number, or its second one would be a duplicate."""
    from gateway.values import Medium, NoticeKind, Outgoing, utc_now
    from outbound.render import Letter, render

    now = utc_now()
    bare = Outgoing(
        id=int(now.timestamp()),
        ticket=None,
        entry=None,
        kind=NoticeKind.ALARM,
        medium=Medium.MAIL,
        recipient=address,
        account=None,
        attempts=1,
        created=now,
        rendered=None,
        message_id="",
        envelope_sender="",
        data={"words": "This is a test of Ringback's outgoing mail. If you can read it, it works."},
    )
    made = render(Letter(outgoing=bare), config, keys, now)
    return replace(bare, rendered=made.content, message_id=made.message_id, envelope_sender=made.envelope_sender)


# -- looking at things -------------------------------------------------------------------------------------------


@main.group()
def tickets() -> None:
    """Tickets."""


@tickets.command(name="list")
@click.option("--view", type=click.Choice(["open", "unassigned", "waiting", "overdue", "closed"]), default="open")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True)
@as_json
def list_tickets(view: str, limit: int, as_json: bool) -> None:
    """List tickets: open ones by what is due next, closed ones newest first."""
    from gateway import queries
    from gateway.values import utc_now

    _opened()
    page = queries.inbox(view, 0, utc_now(), limit=limit)
    _print([ticket for group in page.groups for ticket in group.tickets], as_json, _TICKET)


_TICKET = ("number", "status", "next_at", "person", "subject")


@tickets.command(name="show")
@click.argument("number", type=int)
@as_json
def show_ticket(number: int, as_json: bool) -> None:
    """Show one ticket with its newest entries."""
    from gateway import queries
    from gateway.values import Permanent

    _opened()
    page = queries.ticket(number)
    if page is None:
        raise Permanent(f"there is no ticket #{number}")
    if as_json:
        click.echo(_dumped(page))
        return
    click.echo(f"#{page.number} {page.subject}\n{page.status}, {page.requester.name} <{page.requester.address}>")
    for entry in reversed(page.entries):
        click.echo(f"\n{entry.at:%Y-%m-%d %H:%M} {entry.kind} of {entry.author or 'Ringback'} ({entry.reason})")
        if entry.text:
            click.echo(_harmless(entry.text))


@main.group()
def parked() -> None:
    """What waits for a person: parked, failed, not delivered."""


@parked.command(name="list")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True)
@as_json
def list_parked(limit: int, as_json: bool) -> None:
    """List the mailroom: received messages by number, outgoing ones as out-<number>."""
    from gateway import queries
    from gateway.values import utc_now

    _opened()
    page = queries.mailroom("look", utc_now(), limit=limit)
    lines = [
        {"id": str(line.id), "at": line.at, "state": line.state, "reason": line.reason}
        | {"who": line.sender, "subject": line.subject, "ticket": line.ticket}
        for line in page.received
    ]
    lines += [
        {"id": f"out-{line.id}", "at": line.at, "state": line.delivery.state, "reason": line.delivery.result}
        | {"who": line.delivery.recipient, "subject": line.subject, "ticket": line.ticket}
        for line in page.unsent
    ]
    _print(lines, as_json, ("id", "at", "state", "reason", "who", "subject"))


@parked.command(name="show")
@click.argument("number", type=int)
@click.option("--raw", is_flag=True, help="The bytes as they came.")
def show_parked(number: int, raw: bool) -> None:
    """Show one received message: what was found, step by step (JSON); or with --raw its bytes."""
    from gateway import blobs, queries
    from gateway.values import Permanent, utc_now

    config = _opened()
    found = queries.raw(number)
    page = queries.mailroom("all", utc_now(), before=number + 1, limit=1)
    if found is None or not page.received:
        raise Permanent(f"there is no received message {number}")
    if raw:
        content = blobs.get(config.folder / "blobs", found.blob) if found.blob else found.raw
        click.echo(content, nl=False)
    else:
        click.echo(_dumped(page.received[0]))


@parked.command()
@click.argument("ids", nargs=-1, required=True, metavar="ID…")
@click.option("--as", "address", metavar="ADDRESS", default="", help="Who says so; the administrator by default.")
def retry(ids: tuple[str, ...], address: str) -> None:
    """Try parked or failed messages (ID) or dead outgoing ones (out-ID) again."""
    from gateway import bell, desk
    from gateway.values import Release, Rule, Ruling, utc_now

    config = _opened()
    actor = _account(address or config.firm.administrator)
    for id in ids:
        number = id.removeprefix("out-")
        if not (number.isascii() and number.isdigit()):
            raise click.BadParameter(f"{id} is no number as `ringback parked list` shows it")
        action = Release(int(number)) if id.startswith("out-") else Rule(int(number), Ruling("retry"))
        desk.perform(config, action, actor, utc_now())
        click.echo(f"{id}: will be tried again")
    doorbell = bell.Bell(config.folder, config.data.queue_url)
    doorbell.ring(bell.PROCESS)
    doorbell.ring(bell.DELIVER)


@main.command()
@click.argument("number", type=int, metavar="ID")
def replay(number: int) -> None:
    """Decide a received message again and print, as JSON, what would be different. Writes and sends nothing."""
    from gateway import desk
    from gateway.values import utc_now
    from gateway.worker import Reader
    from outbound.sms import caps

    config = _opened()
    reader = Reader(config)
    try:
        click.echo(_dumped(desk.replay(config, desk.keys_of(config), number, reader.understand, utc_now(), caps)))
    finally:
        reader.close()


@main.group()
def sms() -> None:
    """What texts cost."""


@sms.command(name="costs")
@click.option("--month", metavar="YYYY-MM", help="Which month; this one if not given.")
@as_json
def sms_costs(month: str | None, as_json: bool) -> None:
    """Sums of a month: all, and by technician and ticket, the dearest first."""
    from zoneinfo import ZoneInfo

    from gateway import costs
    from gateway.values import utc_now

    config = _opened()
    zone = ZoneInfo(config.firm.time_zone)
    try:
        begin = datetime.fromisoformat(f"{month}-01") if month else utc_now().astimezone(zone)
    except ValueError:
        _refuse(f"ringback: not a month: {month}; write it like 2026-11", 2)
    begin = begin.replace(day=1, hour=0, minute=0, second=0, microsecond=0, tzinfo=zone)
    found = costs.between(begin, (begin + timedelta(days=32)).replace(day=1))
    if as_json:
        click.echo(_dumped(asdict(found)))
        return
    lines = [("all", found.total), *found.technicians, *((f"#{number}", cost) for number, cost in found.tickets)]
    for name, cost in lines:
        money = ", ".join(f"{amount} {currency}".strip() for currency, amount in cost.money) or "no price yet"
        click.echo(f"{name}: {cost.messages} messages, {cost.segments} SMS, {money}")


# -- people ------------------------------------------------------------------------------------------------------


@main.group()
def user() -> None:
    """Who signs in."""


@user.command(name="add")
@click.argument("address")
@click.option("--name", required=True)
@click.option(
    "--role", "roles", multiple=True, default=["agent"], show_default=True,
    type=click.Choice(["administrator", "agent", "technician", "supervisor", "sales"]),
)  # fmt: skip
def add_user(address: str, name: str, roles: tuple[str, ...]) -> None:
    """Make an account for ADDRESS."""
    from gateway import store
    from gateway.addresses import mail_address
    from gateway.store import accounts
    from gateway.values import Role, utc_now

    _opened()
    spelled = mail_address(address)
    if not spelled:
        raise click.BadParameter(f"not a mail address: {address}")
    with store.writing():
        accounts.create_account(name, spelled, [Role(role) for role in roles], utc_now())
    click.echo(f"{spelled} added; `ringback user link {spelled}` makes the link for the first login")


@user.command(name="list")
@as_json
def list_users(as_json: bool) -> None:
    """List all accounts."""
    from gateway import queries

    _opened()
    _print(list(queries.accounts()), as_json, ("id", "address", "name", "active"))


@user.command()
@click.argument("address")
def link(address: str) -> None:
    """Make a one-time link that signs ADDRESS in. It is put into a file and never printed."""
    from gateway import setup, store
    from gateway.values import utc_now

    config = _opened()
    account = _account(address)
    path = setup.link_file(config, account.address)
    with store.writing():
        setup.write_link(config, account.id, path, utc_now())
    click.echo(f"the link is in {path}; it works once, for {setup.LINK_HOURS} hours")


# -- helpers -----------------------------------------------------------------------------------------------------


def _opened() -> Config:
    """The config, with its database open for this command. Raises Permanent with what to type when it cannot be."""
    from gateway import store
    from gateway.config import load
    from gateway.values import Permanent

    config = load()
    if not config.folder.is_dir():
        raise Permanent(f"{config.folder}: there is no such folder; `ringback init` makes it")
    store.connect(config)
    problem = "there is no database yet: `ringback init` makes it" if store.is_empty() else store.schema_problem()
    if problem:
        raise Permanent(problem)
    store.open_connection()
    click.get_current_context().call_on_close(store.close_connection)
    return config


def _account(address: str) -> Account:
    from gateway.addresses import mail_address
    from gateway.store import accounts
    from gateway.values import Permanent

    found = accounts.by_address(mail_address(address))
    if found is None:
        raise Permanent(f"{address} has no account; `ringback user list` shows all")
    return found[0]


def _dumped(value: object, indent: int | None = 2) -> str:
    """JSON of values as they are: dataclasses, times, sets."""
    return json.dumps(value, default=_simple, indent=indent, ensure_ascii=False)


def _simple(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, set | frozenset):
        return sorted(value)
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def _print(lines: Sequence[Any], as_json: bool, columns: Sequence[str]) -> None:
    """All of it as JSON, or some columns as a table."""
    if as_json:
        click.echo(_dumped(list(lines)))
        return
    table = [
        [_cell(line[name] if isinstance(line, dict) else getattr(line, name)) for name in columns] for line in lines
    ]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    for row in table:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    if not table:
        click.echo("none")


def _harmless(text: str) -> str:
    """A stranger's words without what a terminal would obey."""
    return "".join(letter if letter.isprintable() or letter == "\n" else " " for letter in text)


def _cell(value: Any) -> str:
    """One cell of a table, on one line."""
    text = f"{value:%Y-%m-%d %H:%M}" if hasattr(value, "isoformat") else "" if value is None else str(value)
    return _harmless(text.replace("\n", " "))[:60]


if __name__ == "__main__":
    main()
