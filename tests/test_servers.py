"""The servers under the other tests: found or asked for politely, started, talked to, stopped."""

import os
import smtplib
import socket
import ssl
from email.message import EmailMessage

import imapclient
import psycopg
import pytest
import redis

from tests import loopback, servers


def mail(to: str, subject: str = "The printer is on fire") -> EmailMessage:
    """A small mail from Ann."""
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "ann@customer.test", to, subject
    message.set_content("It is. Please come.\n")
    return message


def subjects(mailbox: loopback.Mailbox) -> list[bytes]:
    """Read the mailbox over IMAP with TLS."""
    trust = ssl.create_default_context(cafile=mailbox.ca)
    with imapclient.IMAPClient(mailbox.host, mailbox.imaps_port, ssl_context=trust) as client:
        client.login(mailbox.user, mailbox.password)
        client.select_folder("INBOX")
        fetched = client.fetch(client.search(), ["ENVELOPE"])
        return [fetched[uid][b"ENVELOPE"].subject for uid in sorted(fetched)]


def test_postgres_answers() -> None:
    with loopback.postgres() as url, psycopg.connect(url) as connection:
        assert connection.execute("select current_setting('server_encoding')").fetchone() == ("UTF8",)


def test_two_postgres_stand_side_by_side() -> None:
    with loopback.postgres() as one, loopback.postgres() as other:
        with psycopg.connect(one) as connection:
            connection.execute("create table only_here (id int)")
        with psycopg.connect(other) as connection:
            assert connection.execute("select to_regclass('only_here')").fetchone() == (None,)


def test_redis_answers() -> None:
    with loopback.redis() as url, redis.Redis.from_url(url) as client:
        assert client.ping()


def test_dovecot_gives_back_over_imap_what_lmtp_delivered() -> None:
    with loopback.dovecot() as mailbox:
        with smtplib.LMTP(mailbox.host, mailbox.lmtp_port) as lmtp:
            lmtp.send_message(mail(mailbox.user))
        assert subjects(mailbox) == [b"The printer is on fire"]


def test_postfix_keeps_what_it_is_sent() -> None:
    with loopback.postfix() as mta:
        with smtplib.SMTP(mta.host, mta.port) as smtp:
            smtp.starttls(context=ssl.create_default_context(cafile=mta.ca))
            smtp.send_message(mail("anybody@anywhere.test"))
        (kept,) = mta.wait_for_mails(1)
        assert b"Delivered-To: anybody@anywhere.test" in kept
        assert b"It is. Please come." in kept


def test_postfix_bounces_where_told_to() -> None:
    with loopback.postfix(transports={"gone.test": "error:5.1.1 no such mailbox"}) as mta:
        with smtplib.SMTP(mta.host, mta.port) as smtp:
            smtp.send_message(mail("max@gone.test"))
        (bounce,) = mta.wait_for_mails(1)
        assert b"Delivered-To: ann@customer.test" in bounce
        assert b"Status: 5.1.1" in bounce


def test_a_mail_site_takes_mail_only_from_who_signs_in_and_shows_it_over_imap() -> None:
    with loopback.dovecot() as mailbox, loopback.postfix(mailbox.transport, sasl=mailbox) as mta:
        with smtplib.SMTP(mta.host, mta.port) as smtp:
            smtp.ehlo()
            assert not smtp.has_extn("auth"), "no password without TLS"
            with pytest.raises(smtplib.SMTPRecipientsRefused):
                smtp.send_message(mail(mailbox.user))
            smtp.starttls(context=ssl.create_default_context(cafile=mta.ca))
            smtp.login(mailbox.user, mailbox.password)
            smtp.send_message(mail(mailbox.user, "Signed in"))
        loopback.wait_until(lambda: bool(subjects(mailbox)), "the mail in the mailbox")
        assert subjects(mailbox) == [b"Signed in"]


def test_a_server_that_does_not_start_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind((loopback.HOST, 0))
        monkeypatch.setattr(loopback, "free_port", lambda: taken.getsockname()[1])
        with pytest.raises(RuntimeError, match="Address already in use"), loopback.redis():
            pass


def test_find_knows_programs_off_the_path() -> None:
    assert servers.find("sh") is not None
    assert servers.find("no-such-program") is None


@pytest.fixture
def nothing_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "find", lambda program: None)


@pytest.mark.usefixtures("nothing_installed")
def test_a_missing_server_skips_the_test_with_the_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CI", raising=False)
    with pytest.raises(pytest.skip.Exception, match=r"apt-get install .* redis-server"):
        servers.need("redis")


@pytest.mark.usefixtures("nothing_installed")
def test_a_missing_server_fails_the_test_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    with pytest.raises(pytest.fail.Exception, match="redis is not installed"):
        servers.need("redis")


@pytest.mark.parametrize(("ci", "code"), [("true", 1), ("", 0)])
@pytest.mark.usefixtures("nothing_installed")
def test_who_may_not_install_is_told_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], ci: str, code: int
) -> None:
    monkeypatch.setenv("CI", ci)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert servers.main(["--install-missing"]) == code
    (line,) = capsys.readouterr().out.splitlines()
    assert line.endswith("chromium fonts-dejavu-core npm swaks")
    assert "faketime" not in line


@pytest.mark.usefixtures("nothing_installed")
def test_what_only_drills_need_is_asked_for_by_name() -> None:
    assert "faketime" not in [server.name for server in servers.missing()]
    assert "faketime" in [server.name for server in servers.missing(["faketime"])]
