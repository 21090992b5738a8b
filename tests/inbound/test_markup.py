"""HTML becomes the text a person sees, and HTML that harms nobody."""

from __future__ import annotations

import re
import time

import pytest

from inbound import markup


def text_of(html: str) -> str:
    return markup.to_text(markup.bounded(html))


def safe(html: str) -> str:
    return markup.safe(markup.bounded(html))


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("<p>Hello&nbsp;<b>wor</b>ld</p><p>again</p>", "Hello world\n\nagain"),
        ("one<br>two<br><br>three", "one\ntwo\n\nthree"),
        ("<div>a</div><div>b</div>", "a\nb"),
        ("<ul><li>a</li><li>b</li></ul>", "- a\n- b"),
        ("<table><tr><td>1</td><td>2</td></tr><tr><td>3</td></tr></table>", "1 2\n3"),
        ("<pre>a\n  b</pre>", "a\n  b"),
        ('<blockquote type="cite">old<br>older</blockquote>new', "> old\n> older\n\nnew"),
        ("<blockquote>my own words</blockquote>", "my own words"),  # a bare one is no quote
        ('<div style="display: none">#close</div>seen', "seen"),
        ("<style>p{}</style><script>x()</script><title>t</title>text", "text"),
        ("a &lt;b&gt; &amp; c", "a <b> & c"),
        ("", ""),
    ],
)
def test_html_reads_as_a_person_sees_it(html: str, text: str) -> None:
    assert text_of(html) == text
    assert text_of(markup.tame(html)) == text  # also when it had to be rewritten first


@pytest.mark.parametrize(
    ("html", "out"),
    [
        ("<script>alert(1)</script>x", "x"),
        ('<p onclick="x()" style="color:red" class="c" id="i">x</p>', "<p>x</p>"),
        ('<img src="http://evil.test/pixel.gif" alt="a">', '<img alt="a">'),
        ('<img src="cid:logo@x">', '<img src="cid:logo@x">'),
        ('<a href="javascript:alert(1)">x</a>', '<a rel="noopener noreferrer nofollow">x</a>'),
        (
            '<a href="https://example.org/">x</a>',
            '<a href="https://example.org/" rel="noopener noreferrer nofollow">x</a>',
        ),
        ('<a href="//evil.test/">x</a>', '<a rel="noopener noreferrer nofollow">x</a>'),
        ('<form action="x"><input name=p>x</form>', "x"),
        ("<iframe src=x>in</iframe>out", "out"),
    ],
)
def test_only_what_is_harmless_is_left(html: str, out: str) -> None:
    assert safe(html) == out


def test_fifty_thousand_nested_divs_lose_no_text_and_take_no_time() -> None:
    html = "<div>" * 50_000 + "deep" + "</div>" * 50_000 + "after"
    began = time.perf_counter()
    assert text_of(html).split() == ["deep", "after"]
    assert re.sub("<[^>]*>", "", safe(html)) == "deepafter"
    assert time.perf_counter() - began < 2


def test_taming_keeps_the_text_of_comments_raw_text_and_broken_tags_out_or_in_as_a_browser_does() -> None:
    html = "a<!-- </div> -->b<textarea><b>c</textarea><style></p></style>d < e </x> <p title='>'>f<q"
    assert markup.tame(html) == 'ab&lt;b&gt;cd &lt; e  <p title=">">f'


@pytest.mark.parametrize(
    "html",
    [
        "<a " + "a1 " * 30_000,
        "<a b='" * 16_000,
        '<a "' * 25_000,
        "<" * 100_000,
        "<!--" * 25_000,
        "<p>" + "".join(f"<b title={n}>" for n in range(200)) + "</p>" + "<p>x</p>" * 12_000,
        "<table><tr><td>" * 6_000,
        "<blockquote type=cite>x" * 4_000,
        "<style></style>" * 6_000,
        "&amp;" * 20_000,
    ],
    ids=range(10),
)
def test_both_ways_are_linear(html: str) -> None:
    began = time.perf_counter()
    bounded = markup.bounded(html)
    markup.to_text(bounded)
    markup.safe(bounded)
    assert time.perf_counter() - began < 1  # about 0.1 s; quadratic would be ten
