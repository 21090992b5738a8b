"""What an SMS says. Pure: a `Letter` and the firm's name become the text; what goes by itself is one segment.

Words of people go out as they wrote them. Everything else is filled into `templates/<language>/sms.toml`; when it is
too long for one segment, subjects and quoted words are cut, never numbers and never what to do next. The same
sentences, uncut, stand in the mails that answer a command.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from gateway import segments
from gateway.config import Config
from gateway.values import NoticeKind, Permanent
from outbound.render import Letter, Rendered, plain

TEMPLATES = Path(__file__).parent / "templates"
STATES = {"new": "we have it", "open": "we are on it", "waiting": "waiting", "closed": "done"}
SUBJECT = 36  # characters of a subject in an SMS
FIRM = 24  # characters of the firm's name in an SMS
CUT = ("subject", "text", "near", "names", "where", "who", "author", "name")  # what may be shortened


def render_sms(letter: Letter, config: Config) -> Rendered:
    """The text for one phone. Raises Permanent when there is nothing to say."""
    outgoing = letter.outgoing
    if outgoing.kind is NoticeKind.ANSWER:
        words = plain(letter.text).strip()
    elif "say" in outgoing.data:
        words = say(filled(letter), config.firm.name, one_segment=True)
    else:
        words = segments.fit("{text}", {"text": str(outgoing.data.get("words", letter.text))})
    if not words:
        raise Permanent("there are no words to send")
    return Rendered(words.encode(), "", "")


def filled(letter: Letter) -> dict[str, Any]:
    """What a template may name: the data of the decision, and what the ticket's newest words say."""
    news = {
        "number": letter.number,
        "subject": letter.ticket_subject,
        "author": letter.author_name or "the customer",
        "text": " ".join(plain(letter.text).split()) or "a picture",
    }
    data = dict(letter.outgoing.data)
    if data.get("words") and data.get("say") == "news":
        news |= {"text": str(data["words"]), "author": letter.ticket_subject or "news"}
    return {**news, **data}


def say(data: Mapping[str, Any], firm: str, one_segment: bool) -> str:
    """The sentence that a decision named, by SMS in one segment, by mail as long as it is."""
    template, fields = _put_together(templates("en"), {**data, "firm": firm[:FIRM] if one_segment else firm})
    if one_segment:
        fields |= {name: _short(str(words)) for name, words in fields.items() if name.startswith("subject")}
        shorten = [name for name in fields if name.rstrip("0123456789") in CUT]
        try:
            return segments.fit(template, fields, shorten=shorten)
        except ValueError:  # eight lines with ten digits each: the last is cut
            return segments.fit("{text}", {"text": template.format(**fields)})
    return template.format(**fields)


def _put_together(known: Mapping[str, str], data: Mapping[str, Any]) -> tuple[str, dict[str, str | int]]:
    """The template with the lines of a menu or a list in it, each subject a field of its own that can be cut."""
    name = str(data["say"])
    lines: Sequence[Sequence[Any]] = data.get("lines", ())
    if name == "status" and not lines:
        name = "no-status"
    plain_words = {key: " ".join(value.split()) for key, value in data.items() if isinstance(value, str)}
    fields = {key: value for key, value in data.items() if isinstance(value, int)} | plain_words
    parts = []
    for n, (number, subject, *state) in enumerate(lines, 1):
        fields[f"subject{n}"] = " ".join(str(subject).split())
        said = f": {STATES.get(state[0], state[0])}" if state else ""
        parts.append((f"{n} " if not state else "") + f"#{number} {{subject{n}}}{said}")
    digits = [str(n) for n in range(1, len(lines) + (2 if name == "menu" else 1))]
    shown = {
        "{lines}": (", " if name == "menu" else "; ").join(parts),
        "{digits}": " or ".join([", ".join(digits[:-1]), digits[-1]] if len(digits) > 1 else digits),
        "{last}": str(len(lines) + 1),
        "{more}": f"; and {data['more']} more" if data.get("more") else "",
    }
    template = known[name]
    for mark, words in shown.items():
        template = template.replace(mark, words)
    return template, fields


def _short(subject: str) -> str:
    """A subject as it is said in passing: its first words tell enough."""
    subject = subject.rstrip(".… ")
    return subject if len(subject) <= SUBJECT else subject[: SUBJECT - 2].rsplit(" ", 1)[0].rstrip(",;:") + ".."


@lru_cache
def templates(language: str) -> dict[str, str]:
    """The sentences of a language, by name."""
    return {name: str(words) for name, words in tomllib.loads((TEMPLATES / language / "sms.toml").read_text()).items()}
