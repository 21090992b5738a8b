"""Private instances of real servers for the tests: on free loopback ports, in a temporary folder, gone afterwards.

Each is a context manager that first calls `servers.need`: where the server is not installed, the test that uses one is
skipped, or failed in CI. They start in under a second; share them by a fixture of module or session scope:

    with postgres() as url: ...                       # "postgresql://ringback@127.0.0.1:28411/postgres"
    with redis() as url: ...                          # "redis://127.0.0.1:21077/0"
    with dovecot() as mailbox: ...                    # IMAP, IMAPS, LMTP and SASL for one user
    with postfix() as mta: ...                        # SMTP that keeps whatever it is sent
    with dovecot() as mailbox, postfix(sasl=mailbox, transport=mailbox.transport) as mta: ...   # a whole mail site

Killed tests take their servers with them, but for Postfix: when it changes its user it loses the kernel's signal.
"""

import grp
import os
import pwd
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import trustme

from tests.servers import find, need

HOST = "127.0.0.1"
# Not `postfix start-fg`: that takes seconds, and moves to another session, where we could not end it.
POSTFIX_MASTER = Path("/usr/lib/postfix/sbin/master")
START_SECONDS = 30.0  # generous: CI has two cores and much to do on them
STOP_SECONDS = 10.0


@dataclass(frozen=True)
class Mailbox:
    """What `dovecot` yields: one user's mailbox."""

    user: str  # also the address that LMTP accepts
    password: str
    imap_port: int  # with STARTTLS
    imaps_port: int
    lmtp_port: int
    sasl_port: int  # Dovecot's authentication protocol, for Postfix
    ca: Path  # PEM of the authority that issued its certificate for 127.0.0.1 and localhost
    host: str = HOST

    @property
    def transport(self) -> str:
        """Where Postfix delivers for it (transport(5))."""
        return f"lmtp:inet:[{self.host}]:{self.lmtp_port}"


@dataclass(frozen=True)
class Mta:
    """What `postfix` yields: a smarthost, or the MX in front of Ringback."""

    port: int  # SMTP with STARTTLS
    ca: Path  # PEM of the authority that issued its certificate for 127.0.0.1 and localhost
    maildir: Path  # where its own deliveries end
    log: Path
    host: str = HOST

    def mails(self) -> list[bytes]:
        """All it has delivered itself so far, oldest first."""
        files = sorted((self.maildir / "new").glob("*"), key=lambda file: file.stat().st_mtime_ns)
        return [file.read_bytes() for file in files]

    def wait_for_mails(self, count: int, seconds: float = 10.0) -> list[bytes]:
        """The same once there are at least `count`. Raises TimeoutError."""
        wait_until(lambda: len(self.mails()) >= count, f"{count} mails in {self.maildir}", seconds)
        return self.mails()


@contextmanager
def postgres() -> Iterator[str]:
    """An empty PostgreSQL cluster; yields the URL of its database. Nothing is synced: no test outlives a power cut."""
    server = need("postgres")
    user = "postgres" if os.geteuid() == 0 else None  # it refuses to run as root
    with _folder("postgres", user) as folder:
        data, port = folder / "data", free_port()
        _run(
            [
                *(server.with_name("initdb"), "--pgdata", data, "--username", "ringback", "--auth", "trust"),
                *("--encoding", "UTF8", "--locale", "C.UTF-8", "--no-sync"),
            ],
            folder,
            user,
        )
        settings = {
            "listen_addresses": HOST,
            "port": port,
            "unix_socket_directories": "",
            "fsync": "off",
            "timezone": "UTC",
        }
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        with _running([server, "-D", data, *options], folder, user, stop=signal.SIGINT) as alive:
            # The port answers before recovery is done; this line comes after.
            _wait_for_log(folder / "log", "ready to accept connections", alive)
            yield f"postgresql://ringback@{HOST}:{port}/postgres"


@contextmanager
def redis() -> Iterator[str]:
    """An empty Redis without persistence; yields its URL."""
    server = need("redis")
    with _folder("redis") as folder:
        port = free_port()
        command = [server, "--bind", HOST, "--port", port, "--dir", folder, "--save", "", "--appendonly", "no"]
        with _running(command, folder) as alive:
            _wait_for_ports([port], alive)
            yield f"redis://{HOST}:{port}/0"


@contextmanager
def dovecot(user: str = "helpdesk@example.test", password: str = "open-sesame") -> Iterator[Mailbox]:
    """Dovecot with one user and an empty Maildir: IMAP to read, LMTP to deliver, SASL for `postfix`."""
    server = need("dovecot")
    with _folder("dovecot") as folder:
        ports = {name: free_port() for name in ("imap", "imaps", "lmtp", "sasl")}
        certificate = _certificate(folder)
        (folder / "users").write_text(f"{user}:{{PLAIN}}{password}\n")
        mail = folder / "mail"
        mail.mkdir()
        owner = "nobody" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
        shutil.chown(mail, owner)
        config = folder / "dovecot.conf"
        config.write_text(_dovecot_config(folder, ports, certificate, owner))
        # Asked to end, Dovecot first waits for its helpers; nobody wants to.
        with _running([server, "-F", "-c", config], folder, stop=signal.SIGKILL) as alive:
            _wait_for_ports(ports.values(), alive)
            yield Mailbox(
                user, password, ports["imap"], ports["imaps"], ports["lmtp"], ports["sasl"], certificate.authority
            )


@contextmanager
def postfix(
    transport: str = "virtual",
    transports: Mapping[str, str] | None = None,
    sasl: Mailbox | None = None,
    settings: Mapping[str, str] | None = None,
) -> Iterator[Mta]:
    """Postfix (root only) that takes mail for anybody from loopback, with STARTTLS.

    `transport`: where all of it goes (transport(5)): into `Mta.maildir`, or say "smtp:[127.0.0.1]:2525" or
    "lmtp:inet:[127.0.0.1]:2424" for a Ringback that receives.
    `transports`: exceptions by domain or address: {"gone.test": "error:5.1.1 no such mailbox"} makes it write bounces.
    `sasl`: then only who signs in as that mailbox's user, after STARTTLS, may send at all.
    `settings`: more main.cf, say {"message_size_limit": "10000"}.
    """
    need("postfix")
    with _folder("postfix") as folder:
        port = free_port()
        certificate = _certificate(folder)
        config, mail = folder / "config", folder / "mail"
        config.mkdir()
        mail.mkdir()
        shutil.chown(mail, "nobody")
        _make_postfix_folders(folder)
        (config / "master.cf").write_text(_postfix_services(port))
        main = {
            **_postfix_settings(folder, certificate),
            "default_transport": transport,
            "transport_maps": _inline_table(transports or {}),
            **(_postfix_sasl(sasl) if sasl else {}),
            **(settings or {}),
        }
        (config / "main.cf").write_text("".join(f"{name} = {value}\n" for name, value in main.items()))
        os.utime(config / "main.cf", (0, 0))  # what is younger than two seconds Postfix re-reads until it is not
        with _running([POSTFIX_MASTER, "-c", config, "-d"], folder) as alive:
            _wait_for_ports([port], alive)
            yield Mta(port, certificate.authority, mail / "all", folder / "log")


def free_port() -> int:
    """A loopback port that nobody listens on, below those that Linux gives to outgoing connections."""
    for _ in range(100):
        port = random.randrange(20000, 32000)
        with socket.socket() as probe:
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return port
    raise OSError("no free port between 20000 and 32000")


def wait_until(done: Callable[[], bool], what: str, seconds: float = START_SECONDS) -> None:
    """Look every 20 ms until `done()`. Raises TimeoutError that says `what` did not come."""
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds:g} s for {what}")
        time.sleep(0.02)


# ---------------------------------------------------------------- configuration files


@dataclass(frozen=True)
class _Certificate:
    chain: Path
    key: Path
    authority: Path


def _certificate(folder: Path) -> _Certificate:
    """A certificate for loopback by an authority of its own, as files."""
    authority = trustme.CA()
    issued = authority.issue_cert(HOST, "localhost")
    files = _Certificate(folder / "cert.pem", folder / "key.pem", folder / "ca.pem")
    files.chain.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
    files.key.touch(mode=0o600)
    files.key.write_bytes(issued.private_key_pem.bytes())
    authority.cert_pem.write_to_path(str(files.authority))
    return files


def _dovecot_config(folder: Path, ports: Mapping[str, int], certificate: _Certificate, owner: str) -> str:
    """dovecot.conf (2.3). As root it drops to Debian's two users; as anybody else all of it runs as that one."""
    internal, login = ("dovecot", "dovenull") if os.geteuid() == 0 else (owner, owner)
    group = grp.getgrgid(pwd.getpwnam(internal).pw_gid).gr_name
    chroot = "" if os.geteuid() == 0 else "chroot ="
    owner_id = pwd.getpwnam(owner)
    return f"""
base_dir = {folder}/run
state_dir = {folder}/state
log_path = {folder}/dovecot.log
auth_verbose = yes
default_internal_user = {internal}
default_internal_group = {group}
default_login_user = {login}
protocols = imap lmtp
listen = {HOST}
ssl = yes
ssl_cert = <{certificate.chain}
ssl_key = <{certificate.key}
disable_plaintext_auth = no
auth_mechanisms = plain login
mail_location = maildir:{folder}/mail/%u
first_valid_uid = 0
passdb {{
  driver = passwd-file
  args = username_format=%u {folder}/users
}}
userdb {{
  driver = static
  args = uid={owner_id.pw_uid} gid={owner_id.pw_gid} home={folder}/mail/%u
}}
service imap-login {{
  {chroot}
  inet_listener imap {{
    port = {ports["imap"]}
  }}
  inet_listener imaps {{
    port = {ports["imaps"]}
    ssl = yes
  }}
}}
service lmtp {{
  inet_listener lmtp {{
    port = {ports["lmtp"]}
  }}
}}
service auth {{
  inet_listener {{
    port = {ports["sasl"]}
  }}
}}
service anvil {{
  {chroot}
}}
service stats {{
  {chroot}
}}
"""


def _make_postfix_folders(folder: Path) -> None:
    """What `postfix check` would make in 1.7 seconds."""
    (folder / "spool" / "pid").mkdir(parents=True)
    queues = "active bounce corrupt defer deferred flush hold incoming maildrop private public saved trace"
    for part in ("data", *(f"spool/{name}" for name in queues.split())):
        (folder / part).mkdir()
        shutil.chown(folder / part, "postfix")


def _postfix_settings(folder: Path, certificate: _Certificate) -> dict[str, str]:
    """main.cf of an instance that knows no local users, asks no DNS and retries at once."""
    nobody = pwd.getpwnam("nobody")
    return {
        "compatibility_level": "3.6",
        "queue_directory": f"{folder}/spool",
        "data_directory": f"{folder}/data",
        "maillog_file": f"{folder}/log",
        "maillog_file_prefixes": str(folder),
        "myhostname": "mx.example.test",
        "mydestination": "",
        "mynetworks": f"{HOST}/32",
        "inet_interfaces": HOST,
        "inet_protocols": "ipv4",
        "alias_maps": "",
        "in_flow_delay": "0s",
        "smtp_dns_support_level": "disabled",
        "lmtp_dns_support_level": "disabled",
        "smtputf8_enable": "yes",
        "smtpd_tls_security_level": "may",
        "smtpd_tls_chain_files": f"{certificate.key}, {certificate.chain}",
        "smtpd_relay_restrictions": "permit_mynetworks, reject",
        "smtpd_peername_lookup": "no",
        "smtpd_reject_unlisted_recipient": "no",  # what `transports` refuse is to bounce
        "virtual_mailbox_domains": "",
        "virtual_mailbox_base": f"{folder}/mail",
        "virtual_mailbox_maps": "static:all/",
        "virtual_uid_maps": f"static:{nobody.pw_uid}",
        "virtual_gid_maps": f"static:{nobody.pw_gid}",
        "minimal_backoff_time": "1s",
        "maximal_backoff_time": "1s",
        "queue_run_delay": "1s",
    }


def _postfix_sasl(mailbox: Mailbox) -> dict[str, str]:
    """main.cf: nobody sends without signing in, nobody signs in without TLS."""
    return {
        "smtpd_sasl_auth_enable": "yes",
        "smtpd_sasl_type": "dovecot",
        "smtpd_sasl_path": f"inet:{mailbox.host}:{mailbox.sasl_port}",
        "smtpd_tls_auth_only": "yes",
        "smtpd_relay_restrictions": "permit_sasl_authenticated, reject",
    }


def _postfix_services(port: int) -> str:
    """master.cf: the usual services, none chrooted, SMTP on our port."""
    services = [(f"{HOST}:{port}", "inet", "n", "-", "smtpd"), ("postlog", "unix-dgram", "n", "1", "postlogd")]
    for name, limit, program in (
        ("anvil", "1", "anvil"),
        ("bounce", "0", "bounce"),
        ("cleanup", "0", "cleanup"),
        ("defer", "0", "bounce"),
        ("discard", "-", "discard"),
        ("error", "-", "error"),
        ("flush", "0", "flush"),
        ("lmtp", "-", "lmtp"),
        ("proxymap", "-", "proxymap"),
        ("qmgr", "1", "qmgr"),
        ("relay", "-", "smtp"),
        ("retry", "-", "error"),
        ("rewrite", "-", "trivial-rewrite"),
        ("scache", "1", "scache"),
        ("smtp", "-", "smtp"),
        ("tlsmgr", "1", "tlsmgr"),
        ("trace", "0", "bounce"),
        ("verify", "1", "verify"),
        ("virtual", "-", "virtual"),
    ):
        private = "n" if program in ("cleanup", "flush", "qmgr") else "-"
        services.append((name, "unix", private, limit, program))
    unprivileged = {"virtual": "n"}  # writes mail as its owner
    return "".join(
        f"{name} {kind} {private} {unprivileged.get(name, '-')} n - {limit} {program}\n"
        for name, kind, private, limit, program in services
    )


def _inline_table(table: Mapping[str, str]) -> str:
    """DATABASE_README's inline: table."""
    return "inline:{" + ", ".join(f"{{{key} = {value}}}" for key, value in table.items()) + "}" if table else ""


# ---------------------------------------------------------------- folders and processes


@contextmanager
def _folder(name: str, user: str | None = None) -> Iterator[Path]:
    """A temporary folder that servers of other users can reach, whatever TMPDIR says; owned by `user`, if given."""
    folder = Path(tempfile.mkdtemp(prefix=f"ringback-{name}-", dir=_reachable_base()))
    try:
        folder.chmod(0o755)
        if user:
            shutil.chown(folder, user)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _reachable_base() -> Path | None:
    if os.geteuid() != 0:
        return None
    for base in (Path(tempfile.gettempdir()).resolve(), Path("/tmp"), Path("/var/tmp")):  # noqa: S108 - the names inside are random
        if all(folder.stat().st_mode & 0o001 for folder in (base, *base.parents)):
            return base
    raise OSError("no temporary folder that other users can reach")


def _as_user(command: Sequence[object], user: str | None) -> list[str]:
    """The command as `user`, dying with the process that starts it."""
    identity = ["--reuid", user, "--regid", str(pwd.getpwnam(user).pw_gid), "--init-groups"] if user else []
    return [str(find("setpriv") or "setpriv"), *identity, "--pdeathsig", "TERM", *map(str, command)]


def _run(command: Sequence[object], folder: Path, user: str | None = None) -> None:
    """Run to the end. Raises RuntimeError with all the output if it fails."""
    done = subprocess.run(
        _as_user(command, user), cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{command[0]} ended with {done.returncode}:\n{done.stdout}{done.stderr}")


@contextmanager
def _running(
    command: Sequence[object], folder: Path, user: str | None = None, stop: signal.Signals = signal.SIGTERM
) -> Iterator[Callable[[], None]]:
    """Run a server in the foreground with its output in `folder/log`; yields a check that raises once it has ended."""
    log = folder / "log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            _as_user(command, user),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C is the tests' own; and its children end with it
        )

    def alive() -> None:
        if process.poll() is not None:
            logs = "\n".join(file.read_text(errors="replace") for file in sorted(folder.glob("*log")))
            raise RuntimeError(f"{command[0]} ended with {process.returncode}:\n{logs}")

    try:
        yield alive
    finally:
        process.send_signal(stop)
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # what is left of it
        process.wait()


def _wait_for_ports(ports: Iterable[int], alive: Callable[[], None]) -> None:
    for port in ports:

        def answers(port: int = port) -> bool:
            alive()
            with socket.socket() as probe:
                return probe.connect_ex((HOST, port)) == 0

        wait_until(answers, f"port {port}")


def _wait_for_log(log: Path, text: str, alive: Callable[[], None]) -> None:
    def written() -> bool:
        alive()
        return text in log.read_text(errors="replace")

    wait_until(written, f"{text!r} in {log}")
