"""HTML of strangers: to plain text (selectolax), and to HTML that is safe to show (nh3). Linear for any input.

Both parsers build a tree as the HTML standard says, and both are quadratic where it is deep or a tag has thousands of
attributes: 50,000 nested <div> take either of them five seconds. So anything large is first rewritten by `tame`, which
reads tags one after the other, keeps a handful of attributes and lets nothing nest deeper than a page needs.
"""

from __future__ import annotations

import html as entities
import re
from collections import Counter
from functools import cache
from typing import TYPE_CHECKING, NewType

if TYPE_CHECKING:
    import nh3
    from selectolax.lexbor import LexborNode

Bounded = NewType("Bounded", str)  # HTML that no parser needs more than linear time for
LONGEST = 1_000_000  # letters of HTML that are looked at
# Up to here both parsers are quick whatever they get: 16,000 letters hold 4,000 attributes, 1,000 tags nest 1,000 deep.
_SMALL, _FEW_TAGS = 16_000, 1_000
# Formats are what a parser opens again in every paragraph after one that was left open.
_DEEPEST, _DEEPEST_FORMAT = 150, 5

_TAGS = frozenset(
    {
        "a",
        "abbr",
        "address",
        "article",
        "aside",
        "b",
        "bdi",
        "bdo",
        "big",
        "blockquote",
        "br",
        "caption",
        "center",
        "cite",
        "code",
        "col",
        "colgroup",
        "dd",
        "del",
        "dfn",
        "div",
        "dl",
        "dt",
        "em",
        "figcaption",
        "figure",
        "font",
        "footer",
        "h1",
        "h2",
        "h3",
        "h4",
        "h5",
        "h6",
        "header",
        "hr",
        "i",
        "img",
        "ins",
        "kbd",
        "li",
        "main",
        "mark",
        "nav",
        "ol",
        "p",
        "pre",
        "q",
        "s",
        "samp",
        "section",
        "small",
        "span",
        "strike",
        "strong",
        "sub",
        "sup",
        "table",
        "tbody",
        "td",
        "tfoot",
        "th",
        "thead",
        "tr",
        "tt",
        "u",
        "ul",
        "var",
        "wbr",
    }
)
_GONE = frozenset(
    {
        "script",
        "style",
        "title",
        "template",
        "iframe",
        "object",
        "embed",
        "applet",
        "noembed",
        "noframes",
        "frameset",
        "svg",
        "math",
    }
)
_ATTRIBUTES = {
    "*": {"dir", "lang", "align", "valign"},
    "a": {"href", "title"},
    "img": {"src", "alt", "width", "height"},
    "td": {"colspan", "rowspan", "width"},
    "th": {"colspan", "rowspan", "width"},
    "ol": {"start"},
    "font": {"color"},
    "blockquote": {"type"},
}
_KEPT = frozenset().union(*_ATTRIBUTES.values(), {"class", "style"})
_FORMAT = frozenset({"a", "b", "big", "code", "em", "font", "i", "nobr", "s", "small", "strike", "strong", "tt", "u"})
_VOID = frozenset(
    {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "param", "source", "track", "wbr"}
)
# Their content is no markup for the tokenizer; of two of them a browser shows it.
_RAW = frozenset({"script", "style", "title", "textarea", "xmp", "iframe", "noembed", "noframes"})
_RAW_END = {name: re.compile(f"</{name}", re.IGNORECASE) for name in _RAW}
# These end where the next of their kind begins, so they nest only inside what is counted.
_CLOSES_ITSELF = frozenset({"p", "li", "td", "th", "tr", "dt", "dd"})

_TOKEN = re.compile(r"<(?:(!--)|(/?)([a-zA-Z][^\s/>]{0,60})|[!?/])")
_ATTRIBUTE = re.compile(
    r"""[\s/]*([^\s/>][^\s/>=]*)(?:\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s>"'][^\s>]*)?))?""",
)


# -- safe HTML ---------------------------------------------------------------------------------------------------


def safe(html: Bounded) -> str:
    """HTML by allow-list: no script, style, form or frame, and nothing that loads from outside; images only by cid:."""
    return _cleaner().clean(html)


@cache
def _cleaner() -> nh3.Cleaner:
    import nh3  # only the parser process needs it

    return nh3.Cleaner(
        tags=set(_TAGS),
        clean_content_tags=set(_GONE),
        attributes=_ATTRIBUTES,
        attribute_filter=_filter,
        url_schemes={"http", "https", "mailto", "cid"},
        url_relative="deny",
        link_rel="noopener noreferrer nofollow",
    )


def _filter(tag: str, name: str, value: str) -> str | None:
    """An image comes from the mail itself or not at all; a link never does."""
    if name == "src":
        return value if value[:4].lower() == "cid:" else None
    if name == "href":
        return None if value[:4].lower() == "cid:" else value
    return value


# -- plain text --------------------------------------------------------------------------------------------------

_PARAGRAPH = frozenset({"p", "h1", "h2", "h3", "h4", "h5", "h6", "ul", "ol", "dl", "table", "blockquote", "pre"})
_LINE = frozenset(
    {
        "div",
        "tr",
        "li",
        "dt",
        "dd",
        "address",
        "article",
        "aside",
        "center",
        "figcaption",
        "figure",
        "footer",
        "form",
        "header",
        "main",
        "nav",
        "section",
        "fieldset",
        "caption",
        "body",
    }
)
_UNSEEN = frozenset({"script", "style", "head", "title", "template", "iframe", "object", "embed", "-comment"})
_QUOTE_CLASS = re.compile(r"gmail_quote|quote|cite", re.IGNORECASE)
_NOT_SHOWN = re.compile(r"display\s{0,3}:\s{0,3}none", re.IGNORECASE)
_SPACES = re.compile(r"[ \t\n\r\f\v]+")
_MANY_LINES = re.compile(r"\n{3,}")


class _Writer:
    """Collects words and line ends the way a browser would show them; quoted lines get "> "."""

    def __init__(self) -> None:
        self.out: list[str] = []
        self.prefix = ""
        self.breaks = 2  # line ends since the last word
        self.space = False

    def end_line(self, count: int) -> None:
        """At least `count` line ends stand before what comes next."""
        self.space = False
        while self.breaks < count:
            self.out.append("\n" if self.breaks == 0 else f"{self.prefix}\n")
            self.breaks += 1

    def force_line(self) -> None:
        """<br>: one more line end, whatever stands before."""
        self.end_line(min(self.breaks + 1, 2))

    def words(self, text: str) -> None:
        """Running text: white space collapses, a no-break space is a space."""
        collapsed = _SPACES.sub(" ", text)
        stripped = collapsed.strip(" ")
        if not stripped:
            self.space = self.space or bool(collapsed)
            return
        if self.breaks:
            self.out.append(self.prefix)
        elif self.space or collapsed[0] == " ":
            self.out.append(" ")
        self.out.append(stripped.replace("\xa0", " "))
        self.breaks, self.space = 0, collapsed[-1] == " "

    def verbatim(self, text: str) -> None:
        """Text of <pre>: its line ends stay."""
        lines = text.split("\n")
        for number, line in enumerate(lines):
            if line.strip():
                self.out.append((self.prefix if self.breaks else "") + line.rstrip().replace("\xa0", " "))
                self.breaks = 0
            if number < len(lines) - 1:
                self.force_line()


def to_text(html: Bounded) -> str:
    """What a person would see of this HTML, as lines of text. Bare <blockquote> is not a quote (email.md 31)."""
    from selectolax.lexbor import LexborHTMLParser  # 6 MB, for mails without a text part

    root = LexborHTMLParser(html).root
    writer = _Writer()
    if root is not None:
        _walk(root, writer, bool(_NOT_SHOWN.search(html)))
    return _MANY_LINES.sub("\n\n", "".join(writer.out)).strip()


def _walk(root: LexborNode, writer: _Writer, look_at_style: bool) -> None:
    """Every node in order, without recursion: depth is the sender's choice."""
    node, preformatted = root, 0
    while True:
        tag = node.tag or ""
        child = None
        if tag == "-text":
            (writer.verbatim if preformatted else writer.words)(node.text_content or "")
        elif tag not in _UNSEEN and not (look_at_style and _NOT_SHOWN.search(node.attributes.get("style") or "")):
            preformatted += tag == "pre"
            _enter(node, tag, writer)
            child = node.first_child
            if child is None:
                preformatted -= tag == "pre"
                _leave(node, tag, writer)
        if child is not None:
            node = child
            continue
        while (following := node.next) is None:
            parent = node.parent
            if parent is None or parent.mem_id == root.mem_id:
                return
            node, tag = parent, parent.tag or ""
            preformatted -= tag == "pre"
            _leave(node, tag, writer)
        node = following


def _enter(node: LexborNode, tag: str, writer: _Writer) -> None:
    if tag == "br":
        writer.force_line()
    elif tag == "li":
        writer.end_line(1)
        writer.words("- ")
    elif tag in ("td", "th"):
        writer.space = True
    elif tag == "hr":
        writer.end_line(1)
        writer.words("---")
        writer.end_line(1)
    elif tag in _LINE:
        writer.end_line(1)
    elif tag in _PARAGRAPH:
        writer.end_line(2)
        if tag == "blockquote" and _is_quote(node):
            writer.prefix = ("> " + writer.prefix)[:20]


def _leave(node: LexborNode, tag: str, writer: _Writer) -> None:
    if tag in _LINE:
        writer.end_line(1)
    elif tag in _PARAGRAPH:
        if tag == "blockquote" and _is_quote(node):
            writer.prefix = writer.prefix[2:]
            writer.breaks = min(writer.breaks, 1)
        writer.end_line(2)


def _is_quote(node: LexborNode) -> bool:
    """Does a mail program mark this <blockquote> as what was answered?"""
    attributes = node.attributes
    return attributes.get("type") == "cite" or bool(_QUOTE_CLASS.search(attributes.get("class") or ""))


# -- bounds ------------------------------------------------------------------------------------------------------


def bounded(html: str) -> Bounded:
    """The same HTML where it is small; otherwise rewritten so that no parser needs more than linear time."""
    if len(html) <= _SMALL and html.count("<") <= _FEW_TAGS:
        return Bounded(html)
    return Bounded(tame(html[:LONGEST]))


def tame(html: str) -> str:
    """HTML with few attributes, no comments, no raw-text elements and bounded nesting; the text stays, all of it.

    One pass over the tags, read as the tokenizer of the HTML standard reads them (13.2.5).
    """
    out: list[str] = []
    nesting = _Nesting()
    position, end = 0, len(html)
    while position < end:
        token = _TOKEN.search(html, position)
        if token is None:
            out.append(html[position:].replace("<", "&lt;"))
            break
        out.append(html[position : token.start()].replace("<", "&lt;"))
        comment, closing, name = token.groups()
        if comment:
            stop = html.find("-->", token.start() + 2)
            position = stop + 3 if stop >= 0 else end
        elif not name or closing:
            if name:
                out.append(nesting.close(name.lower()))
            stop = html.find(">", token.end())
            position = stop + 1 if stop >= 0 else end
        else:
            position = _open(html, token.end(), name.lower(), nesting, out)
    return "".join(out)


def _open(html: str, position: int, name: str, nesting: _Nesting, out: list[str]) -> int:
    """Writes one opening tag; returns where to read on."""
    attributes: list[str] = []
    seen: set[str] = set()
    while (found := _ATTRIBUTE.match(html, position)) is not None and found.end() > position:
        position = found.end()
        key = found.group(1).lower()
        if key in _KEPT and key not in seen:
            seen.add(key)
            value = found.group(2) or found.group(3) or found.group(4) or ""
            attributes.append(f' {key}="{_quoted(value)}"')
    stop = html.find(">", position)
    if stop < 0:
        return len(html)  # the standard drops a tag that never ends
    position = stop + 1
    if name in _RAW:
        ending = _RAW_END[name].search(html, position)
        stop = ending.start() if ending else len(html)
        if name in ("textarea", "xmp"):
            out.append(entities.escape(html[position:stop], quote=False))
        return stop
    if name in _TAGS:
        out.append(nesting.open(name, "".join(attributes)))
    return position


def _quoted(value: str) -> str:
    return value.replace('"', "&quot;").replace("<", "&lt;") if len(value) <= 4000 else ""


class _Nesting:
    """Which tags are open in what has been written. Past the limit a block becomes a line end, a format nothing."""

    def __init__(self) -> None:
        self.written: Counter[str] = Counter()
        self.skipped: Counter[str] = Counter()
        self.depth = self.formats = 0

    def open(self, name: str, attributes: str) -> str:
        if name not in _VOID and name not in _CLOSES_ITSELF:
            if self.depth >= _DEEPEST or (name in _FORMAT and self.formats >= _DEEPEST_FORMAT):
                self.skipped[name] += 1
                return "" if name in _FORMAT else "<br>"
            self.depth += 1
            self.formats += name in _FORMAT
            self.written[name] += 1
        return f"<{name}{attributes}>"

    def close(self, name: str) -> str:
        if self.skipped[name]:
            self.skipped[name] -= 1
            return "" if name in _FORMAT else "<br>"
        if name in _CLOSES_ITSELF:
            return f"</{name}>"
        if not self.written[name]:
            return ""
        self.written[name] -= 1
        self.depth -= 1
        self.formats -= name in _FORMAT
        return f"</{name}>"
