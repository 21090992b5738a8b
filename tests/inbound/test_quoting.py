"""The sender's own words are found; where that is not sure, nothing is cut."""

from __future__ import annotations

import time

import pytest

from inbound import quoting

QUOTE = "> The printer is on fire.\n> Please help."


@pytest.mark.parametrize(
    "line",
    [
        "On Mon, 21 Sep 2026 at 10:33, Support <support@desk.example.com> wrote:",
        "Am 21.09.2026 um 10:33 schrieb Support <support@desk.example.com>:",
        "Le lun. 21 sept. 2026 à 10:33, Support <support@desk.example.com> a écrit :",
        "El lun, 21 sept 2026 a las 10:33, Support (<support@desk.example.com>) escribió:",
        "Il giorno lun 21 set 2026 alle ore 10:33 Support <support@desk.example.com> ha scritto:",
        "Em seg., 21 de set. de 2026 às 10:33, Support <support@desk.example.com> escreveu:",
        "Op ma 21 sep. 2026 om 10:33 schreef Support <support@desk.example.com>:",
        "Den mån 21 sep. 2026 kl 10:33 skrev Support <support@desk.example.com>:",
        "pon., 21 wrz 2026 o 10:33 Support <support@desk.example.com> napisał(a):",
        "po 21. 9. 2026 v 10:33 odesílatel Support <support@desk.example.com> napsal:",
        "ma 21. syysk. 2026 klo 10.33 Support (support@desk.example.com) kirjoitti:",
        "пн, 21 сент. 2026 г. в 10:33, Support <support@desk.example.com>: написал:",
        "Support <support@desk.example.com>, 21 Eyl 2026 Pzt, 10:33 tarihinde şunu yazdı:",
        "2026年9月21日(月) 10:33 Support <support@desk.example.com> 書きました:",
        "Support <support@desk.example.com> 於 2026年9月21日 週一 上午10:33寫道：",
        "On Mon, 21 Sep 2026 at 10:33, Support\n<support@desk.example.com> wrote:",
        "Am Montag, den 21. September 2026 um 10:33 schrieb\nSupport <support@desk.example.com>:",
    ],
)
def test_an_attribution_line_begins_the_quote(line: str) -> None:
    assert quoting.trim(f"My answer.\n\n{line}\n{QUOTE}\n") == ("My answer.", f"{line}\n{QUOTE}", "")


@pytest.mark.parametrize(
    "block",
    [
        "-----Original Message-----\nold",
        "-----Ursprüngliche Nachricht-----\nVon: x\nold",
        "________________________________\nFrom: Ann <a@example.org>\nSent: Monday\nTo: Tom\nSubject: x\n\nold",
        "Von: Ann\nGesendet: Montag\nAn: Tom\nBetreff: x\n\nold",
        "*De :* Ann\n*Envoyé :* lundi\n*À :* Tom\n*Objet :* x\n\nold",
    ],
)
def test_a_block_of_headers_begins_the_quote(block: str) -> None:
    assert quoting.trim(f"My answer.\n\n{block}") == ("My answer.", block, "")


def test_a_signature_is_its_own_span_also_below_the_quote() -> None:
    sign = "-- \nAnn\nExample Ltd"
    assert quoting.trim(f"Hello.\n\n{sign}") == ("Hello.", "", sign)
    assert quoting.trim(f"Hello.\n\nAnn <a@example.org> wrote:\n{QUOTE}\n\n{sign}\n") == (
        "Hello.",
        f"Ann <a@example.org> wrote:\n{QUOTE}",
        sign,
    )
    assert quoting.trim("Hello.\n\nSent from my iPhone") == ("Hello.", "", "Sent from my iPhone")


def test_a_signature_has_at_most_fifteen_lines() -> None:
    text = "Hello.\n-- \n" + "\n".join(f"line {n}" for n in range(16))
    assert quoting.trim(text) == (text, "", "")


@pytest.mark.parametrize(
    "text",
    [
        f"On 21 Sep 2026 Ann wrote:\n{QUOTE}\nI will come.\n> when?\nTomorrow.",  # answers between the lines
        f"{QUOTE}\n\nMy answer stands below.",
        "> everything\n> is quoted",
        "-- \nCarol\n555 0100",
        "On Monday I wrote:\nthe printer is broken",  # nobody is quoted
        "He wrote: it works now",
        "From: the kitchen\nwe need a new fridge",
        "## Please reply above this line ##\nthe real problem is below",
        "---------- Forwarded message ---------\nFrom: Ann <a@example.org>\nSubject: x\nTo: y\n\nthe forwarded text",
        "> -----Original Message-----\n> old\nan answer below the quoted line",
        "",
    ],
)
def test_nothing_is_cut_where_it_might_be_the_senders(text: str) -> None:
    assert quoting.trim(text) == (text, "", "")


def test_a_forwarded_mail_is_recognised() -> None:
    assert quoting.has_forward("see below\n\nBegin forwarded message:\n\nhello")
    assert quoting.has_forward("From: Ann <a@example.org>\nDate: Monday\nSubject: x\n\nhello")
    assert not quoting.has_forward("From: the kitchen\nhello")


@pytest.mark.parametrize(
    "text",
    [
        "On " * 30_000,
        "On Mon\n" * 15_000,
        "On Mon, Nov 2, 2026" + " " * 100_000 + "x",
        ">" * 100_000,
        "> q\n" * 25_000,
        "-" * 100_000,
        "-----Original Message" * 5_000,
        "From: a\n" * 12_000,
        "From: a@b\nTo: x\n" * 6_000,
        "-- \n" * 25_000,
        "\n" * 100_000,
        "Sent from my " * 7_000,
        "a wrote a wrote a:\n" * 5_000,
    ],
    ids=range(13),
)
def test_a_hundred_kilobytes_of_anything_take_linear_time(text: str) -> None:
    began = time.perf_counter()
    visible, quoted, signature = quoting.trim("first line\n" + text)
    quoting.has_forward(text)
    assert time.perf_counter() - began < 0.5  # measured: 0.04 s
    assert "first line" in visible
    assert len(visible) + len(quoted) + len(signature) <= len(text) + 11
