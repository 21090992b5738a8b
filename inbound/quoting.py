"""What the sender newly wrote, and what was only quoted or signed (email.md G, rules 28-34).

One pass over the lines, no regular expression that can look further than one line of bounded length. Losing text is the
worse error: where the signs are weak, or somebody answered between the quoted lines, all of it stays visible.
"""

from __future__ import annotations

import re

_LONGEST_ATTRIBUTION = 300  # letters of a line that may say "On …, … wrote:"
_LONGEST_SIGNATURE = 15  # lines (email.md 34)

# The verb of "On Monday, Ann wrote:" in the languages of our customers.
_WROTE = re.compile(
    r"(?<!\w)(?:wrote|writes|schrieb|geschrieben|a écrit|écrit|escribió|escribio|ha scritto|scrisse|escreveu|schreef|"
    r"heeft .{0,80}geschreven|skrev|kirjoitti|napisał|napisała|napisał\(a\)|pisze|napsal|napsala|napsal\(a\)|написал|"
    r"написала|написал\(а\)|пишет|писал|писала|пише|написав|написала|yazdı|írta|έγραψε|a scris|schreven|skrifaði|"
    r"书写|작성)(?!\w)|"
    r"写道|寫道|書きました|님이 작성",
    re.IGNORECASE,
)
# How such a line begins where it is wrapped over two.
_OPENER = re.compile(
    r"^(?:on|am|le|el|il|em|op|den|på|dnia|w dniu|dne|pe|ke|в|у|at|tarihinde|於|于|在)\s",
    re.IGNORECASE,
)
_YEAR_OR_TIME = re.compile(r"\b(?:19|20)\d\d\b|\b\d{1,2}[:.h]\d\d\b|\d{1,2}[./-]\d{1,2}[./-]\d{2,4}|年")

_SEPARATOR = re.compile(
    r"^[\s>*_=-]{0,80}(?:original message|original-nachricht|ursprüngliche nachricht|ursprungliche nachricht|"
    r"originalnachricht|message d'origine|message original|message initial|mensaje original|mensagem original|"
    r"messaggio originale|oorspronkelijk bericht|originalmeddelande|ursprungligt meddelande|oprindelig meddelelse|"
    r"opprinnelig melding|alkuperäinen viesti|wiadomość oryginalna|oryginalna wiadomość|původní zpráva|"
    r"исходное сообщение|оригинальное сообщение|原始邮件|原始郵件|元のメッセージ|"
    r"original appointment|eredeti üzenet|orijinal mesaj|reply message|antwort nachricht)[\s*_=:-]{0,80}$",
    re.IGNORECASE,
)
_FORWARD = re.compile(
    r"^[\s>*_=-]{0,80}(?:begin forwarded message|forwarded message|weitergeleitete nachricht|"
    r"anfang der weitergeleiteten (?:nachricht|e-mail)|message transféré|début du message transféré|mensaje reenviado|"
    r"inicio del mensaje reenviado|messaggio inoltrato|inizio messaggio inoltrato|mensagem encaminhada|"
    r"doorgestuurd bericht|begin doorgestuurd bericht|vidarebefordrat meddelande|videresendt (?:melding|meddelelse)|"
    r"vidarebefordrat brev|edelleenlähetetty viesti|przekazana wiadomość|přeposlaná zpráva|"
    r"пересылаемое сообщение|пересланное сообщение|转发的邮件|轉寄的郵件|"
    r"転送されたメッセージ)[\s*_=:-]{0,80}$",
    re.IGNORECASE,
)

_LABELS = {
    "from": "from von de da van från fra od от від lähettäjä kimden feladó expéditeur "
    "发件人 寄件者 差出人 送信者 보낸사람",
    "date": "sent date gesendet datum envoyé fecha enviado inviato data verzonden skickat sendt dato lähetetty wysłano "
    "odesláno отправлено дата надіслано gönderildi tarih küldve elküldve "
    "发送时间 日期 寄件日期 送信日時 日時 날짜",
    "to": "to an à para a aan till til do komu кому vastaanottaja kime címzett 收件人 收件者 宛先 받는사람",
    "subject": "subject betreff objet asunto oggetto assunto onderwerp ämne emne temat předmět тема aihe konu tárgy "
    "主题 主旨 件名 제목",
}
_LABEL_KINDS = {word: kind for kind, words in _LABELS.items() for word in words.split()}

_TAGLINE = re.compile(
    r"^\s*(?:sent from (?:my|mail|yahoo|outlook|samsung|proton|a |the )|sent (?:via|with|using) |get outlook for |"
    r"von meinem .{0,60}gesendet|gesendet (?:von|mit) |diese nachricht wurde von meinem |"
    r"envoyé (?:de|depuis|à partir) |"
    r"enviado desde |enviado do |enviado a partir |enviado de |inviato da(?:l)? |verzonden (?:vanaf|met|vanuit) |"
    r"skickat från |sendt fra |lähetetty |wysłane (?:z|ze) |wysłano z |odesláno z |отправлено (?:с|из) |"
    r"发自我的|從我的|iphoneから送信|나의 iphone에서)",
    re.IGNORECASE,
)


def trim(text: str) -> tuple[str, str, str]:
    """(what was newly written, what was quoted, the signature); together they are all of the text.

    `text` has line feeds only (charsets.many_lines). Where nothing new would be left, everything is.
    """
    lines = text.split("\n")
    start, end = _quoted_span(lines)
    quoted = lines[start:end]
    above, below = lines[:start], lines[end:]
    visible, signature = _split_signature(above)
    signature += below
    shown = "\n".join(visible).strip("\n")
    if not shown.strip():
        return text.strip("\n"), "", ""
    return shown.rstrip(), "\n".join(quoted).strip("\n"), "\n".join(signature).strip("\n")


def has_forward(text: str) -> bool:
    """Does the text hold another mail: a "Forwarded message" line, or a From/Sent/To/Subject block?"""
    lines = text.split("\n", 2000)[:2000]
    return any(
        (len(line) < 200 and _FORWARD.match(line) is not None) or _is_header_block(lines, number)
        for number, line in enumerate(lines)
        if line
    )


# -- where the quote is --------------------------------------------------------------------------------------------


def _quoted_span(lines: list[str]) -> tuple[int, int]:
    """Where the quote begins and ends: (len, len) when there is none. Behind it stands at most a signature."""
    for number, line in enumerate(lines):
        if not line or line.isspace():
            continue
        if len(line) < 200 and _FORWARD.match(line):
            break  # a forwarded mail is content (email.md 33)
        if _is_separator(line) or _is_header_block(lines, number):
            return _with_rule_above(lines, number), len(lines)
        height = _attribution(lines, number)
        if height:
            return _quote_after_attribution(lines, number, number + height)
    return _trailing_quote(lines)


def _is_separator(line: str) -> bool:
    """-----Original Message-----, in any of the languages."""
    return line[0] in "-*_= " and len(line) < 200 and _SEPARATOR.match(line) is not None


def _with_rule_above(lines: list[str], number: int) -> int:
    """A line of underscores or dashes right above a header block belongs to it (Outlook)."""
    above = number - 1
    while above >= 0 and not lines[above].strip():
        above -= 1
    if above >= 0 and len(lines[above]) < 200 and len(lines[above].strip()) > 4 and not lines[above].strip(" _-*="):
        return above
    return number


def _label_kind(line: str) -> str:
    """from, date, to or subject when the line is "Label: value" of a quoted header block; else ""."""
    colon = line.find(":", 0, 30)
    if colon < 0:
        colon = line.find("：", 0, 30)
    if colon < 0:
        return ""
    return _LABEL_KINDS.get(line[:colon].strip(" \t*_\xa0").replace(" ", "").lower(), "")


def _is_header_block(lines: list[str], number: int) -> bool:
    """From: with a value, and of the four lines at least three different labels, or two and an address."""
    if _label_kind(lines[number]) != "from":
        return False
    block = lines[number : number + 5]
    kinds = {kind for kind in map(_label_kind, block) if kind}
    return len(kinds) >= 3 or (len(kinds) == 2 and "@" in lines[number][:500] and "to" not in kinds)


def _attribution(lines: list[str], number: int) -> int:
    """How many lines, from this one on, are "On …, … wrote:"; 0 when it is none."""
    line = lines[number].strip()
    if len(line) > _LONGEST_ATTRIBUTION:
        return 0
    if line[-1] in ":：":
        return 1 if _says_wrote(line, lines, number + 1) else 0
    if not _OPENER.match(line):
        return 0
    for height in (2, 3):
        following = lines[number + height - 1].strip() if number + height <= len(lines) else ""
        if not following or len(line) + len(following) > _LONGEST_ATTRIBUTION:
            return 0
        line = f"{line} {following}"
        if following[-1] in ":：":
            return height if _says_wrote(line, lines, number + height) else 0
    return 0


def _says_wrote(line: str, lines: list[str], after: int) -> bool:
    """The verb, and enough around it: quoted lines below, or a date and somebody's address or name."""
    if line[0] == ">" or not _WROTE.search(line):
        return False
    following = next((text for text in lines[after : after + 4] if text.strip()), "")
    if following.lstrip()[:1] in (">", "|"):
        return True
    return _YEAR_OR_TIME.search(line) is not None and ("@" in line or _OPENER.match(line) is not None)


def _quote_after_attribution(lines: list[str], number: int, after: int) -> tuple[int, int]:
    """To the end when the quote is not marked; else to the last ">", unless somebody wrote below it."""
    first = after
    while first < len(lines) and not lines[first].strip():
        first += 1
    if first < len(lines) and lines[first].lstrip()[:1] != ">":
        return number, len(lines)
    end = _end_of_quote(lines, first)
    if end == len(lines) or _only_signature(lines, end):
        return number, end
    return len(lines), len(lines)


def _end_of_quote(lines: list[str], first: int) -> int:
    """The line after the last ">" of an unbroken quote (blank lines do not break it)."""
    end = number = first
    while number < len(lines):
        stripped = lines[number].lstrip()
        if stripped[:1] == ">":
            end = number + 1
        elif stripped and not _continues(lines, number):
            break
        number += 1
    return end


def _continues(lines: list[str], number: int) -> bool:
    """A short rest of a quoted line that some mailer wrapped: quoted above, quoted below, a few words."""
    return (
        number + 1 < len(lines)
        and len(lines[number]) < 40
        and lines[number - 1].lstrip()[:1] == ">"
        and len(lines[number - 1]) > 60
        and lines[number + 1].lstrip()[:1] == ">"
    )


def _only_signature(lines: list[str], start: int) -> bool:
    """Is everything from here on a signature?"""
    rest = [line for line in lines[start : start + _LONGEST_SIGNATURE + 3] if line.strip()]
    if not any(line.strip() for line in lines[start:]):
        return True
    return len(lines) - start <= _LONGEST_SIGNATURE + 3 and (
        rest[0].rstrip() == "--" or (len(rest) == 1 and _TAGLINE.match(rest[0][:100]) is not None)
    )


def _trailing_quote(lines: list[str]) -> tuple[int, int]:
    """A block of ">" lines at the end, without a line that introduces it."""
    end = len(lines)
    while end > 0 and not lines[end - 1].strip():
        end -= 1
    start = end
    while start > 0 and (lines[start - 1].lstrip()[:1] == ">" or not lines[start - 1].strip()):
        start -= 1
    while start < end and not lines[start].strip():
        start += 1
    return (start, end) if start < end else (len(lines), len(lines))


# -- the signature -----------------------------------------------------------------------------------------------


def _split_signature(lines: list[str]) -> tuple[list[str], list[str]]:
    """The lines before and from the last "-- " or tagline on, which may stand at most 15 lines before the end."""
    end = len(lines)
    while end > 0 and not lines[end - 1].strip():
        end -= 1
    for number in range(end - 1, max(end - 1 - _LONGEST_SIGNATURE, -1), -1):
        line = lines[number]
        if line.rstrip() == "--" and line[:2] == "--":
            return lines[:number], lines[number:]
    if end and len(lines[end - 1]) < 150 and _TAGLINE.match(lines[end - 1]):
        return lines[: end - 1], lines[end - 1 :]
    return lines, []
