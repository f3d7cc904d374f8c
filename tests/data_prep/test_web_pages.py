from __future__ import annotations

import html
import pathlib
from collections.abc import Callable

import pytest
from etils import epath
from hypothesis import given, settings
from hypothesis import strategies as st

from data_prep import documents as docs
from data_prep.engine import LocalEngine
from data_prep.web import urls
from data_prep.web.main_text import main_text
from data_prep.web.pages import web_pages

PROSE = "<p>" + "This paragraph says what the program below does, in words that people read. " * 5 + "</p>"
CODE = "def f(x):\n\tif x < 3 && y:\n\n        return `a`  +  ```b```\n    \n"


def page(*content: str) -> str:
    return "<html><head><title>t</title></head><body><article>" + "".join(content) + "</article></body></html>"


# XML and HTML have no other control characters, and line ends are LF by the time a page is read.
_TEXT = st.text(st.characters(exclude_categories=("Cs", "Cc"), include_characters="\t\n"), min_size=1)


@settings(max_examples=60)
@given(st.lists(_TEXT.filter(str.strip), min_size=1, max_size=4))
def test_any_preformatted_text_survives_exactly_and_in_order(codes: list[str]):
    blocks = [f"<pre>\n{html.escape(code)}</pre>{PROSE}" for code in codes]
    text = main_text(page(PROSE, *blocks))
    assert text is not None
    position = 0
    for code in codes:
        position = text.index(code, position) + len(code)


def test_highlighted_code_line_breaks_and_entities():
    source = '<pre class="x"><span class="k">int</span> a<br>\n  <b>= 1 &lt;&lt; 2;</b> &amp;b &#39;c&#39;</pre>'
    text = main_text(page(PROSE, source, PROSE))
    assert text is not None
    assert "```\nint a\n\n  = 1 << 2; &b 'c'\n```\n" in text


def test_a_fence_is_longer_than_those_in_the_code():
    text = main_text(page(PROSE, f"<pre>{html.escape(CODE)}</pre>", PROSE))
    assert text is not None
    assert f"\n````\n{CODE}````\n" in text


def test_code_in_boilerplate_is_kept_and_other_boilerplate_is_not():
    footer = "<footer>Imprint and cookies<pre>make install</pre></footer>"
    menu = "<nav><ul><li><a href=/>Home</a></li><li><a href=/x>Menu entry</a></li></ul></nav>"
    text = main_text(f"<html><body>{menu}<main>{PROSE * 3}<pre>make</pre></main>{footer}</body></html>")
    assert text is not None
    assert text.index("```\nmake\n```") < text.index("```\nmake install\n```")
    assert "Menu entry" not in text
    assert "This paragraph says" in text


@pytest.mark.parametrize("nothing", ["", " ", "<html></html>", "<!-- -->", "<script>var x = 1</script>"])
def test_a_page_without_text_has_no_main_text(nothing: str):
    assert main_text(nothing) is None


def test_the_stage_notes_domain_and_natural_language(
    write_documents: Callable[..., epath.Path], tmp_path: pathlib.Path
):
    chinese = page("<p>" + "这个函数返回列表中最大的元素，如果列表为空则抛出异常。" * 5 + "</p><pre>max(x)</pre>")
    rows = [
        {"path": "a", "text": page(PROSE), "language": "html", "url": "https://www.Example.com:8080/a?b"},
        {"path": "x/y.html", "text": chinese, "language": "html", "repo": "mirror/docs.example.cn"},
        {"path": "t", "text": "Plain text of a page, which stays as it is.", "language": "text"},
        {"path": "e", "text": "<html></html>", "language": "html"},
    ]
    out = epath.Path(tmp_path / "out")
    out.mkdir()
    result = web_pages(out, documents=write_documents("raw", rows), engine=LocalEngine(workers=1))
    assert (result["files_in"], result["files_kept"]) == (4, 3)
    first, second, third, fourth = docs.read_part(docs.parts(out)[0]).to_pylist()
    assert (first["domain"], first["natural_language"], first["language"]) == ("example.com", "en", "text")
    assert second["url"] == "https://docs.example.cn/x/y.html"
    assert (second["domain"], second["natural_language"]) == ("docs.example.cn", "zh")
    assert second["text"].endswith("```\nmax(x)\n```")
    assert third["text"] == rows[2]["text"]
    assert fourth["reasons"] == ["no_main_text"]


@pytest.mark.parametrize(
    ("pattern", "url", "matches"),
    [
        ("segmentfault.com/q", "https://segmentfault.com/q/10100", True),
        ("segmentfault.com/q", "https://segmentfault.com/q?tag=c", True),
        ("segmentfault.com/q", "https://segmentfault.com/questions", False),
        ("www.cnblogs.com", "http://cnblogs.com/someone/p/1.html", True),
        ("cnblogs.com", "http://q.cnblogs.com/q/1", False),
        ("my.oschina.net%blog", "https://my.oschina.net/u/1/blog/2", True),
        ("my.oschina.net%blog", "https://my.oschina.net/u/1/tweet/2", False),
        ("a.com/x.y", "https://a.com/xzy", False),
    ],
)
def test_patterns(pattern: str, url: str, matches: bool):
    assert urls.Patterns((pattern,)).match(url) is matches


def test_the_shipped_patterns_and_their_errors(tmp_path: pathlib.Path):
    shipped = urls.read_patterns(pathlib.Path(urls.__file__).with_name("code_urls.toml"))
    assert urls.Patterns(tuple(shipped["code"])).match("https://juejin.cn/post/7")
    path = tmp_path / "p.toml"
    for wrong in ('cod = ["a.com"]', "code = [1]", "code = ["):
        path.write_text(wrong)
        with pytest.raises(ValueError, match="p.toml"):
            urls.read_patterns(path)


def test_prefixes():
    assert urls.prefixes("https://www.a.com/x/y/z/page.html") == ["a.com", "a.com/x", "a.com/x/y"]
    assert urls.prefixes("https://a.com") == ["a.com"]
    assert urls.repo_and_path("https://a.com") == ("a.com", "index.html")
