"""The parts of a file that make the value of a signal, for a page to point out.

They show a reader where to look and decide nothing. Where a signal counts what only a parser sees (functions, simple
returns), the lines that look like it are given; signals of a whole file (its length, its name) have no part.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import partial

from data_prep.quality.ngrams import DUPLICATE_SIZES, TOP_SIZES
from data_prep.quality.view import View

Span = tuple[int, int]  # start and end in characters of the view's text
Marker = Callable[[View], Iterable[Span]]

MOST = 2000  # spans of a file
_LONGEST = 400_000  # characters of a file to look at
_WORD = re.compile(r"[^\W_]+")
_BASE64 = re.compile(r"[A-Za-z0-9+/=\n]{64,}")
_BYTES = re.compile(r"(?:(?:0x|\\x)?+[0-9a-fA-F]{2}(?:,\s*+|\s++|\b|(?=\\x))){8,}+|(?:\\u[0-9a-fA-F]{4}){8,}+")
_FUNCTION = r"^\s*(?:async\s+)?(?:def|func|fn)\s|\bfunction\b|=>\s*\{|^[\w<>\[\],*&:~ \t]+\([^;=]*\)[\w \t]*\{?\s*$"
_IMPORT = r"^\s*(?:import|from|using|#\s*include|package)\b|\brequire\("
_NO_LOGIC = rf"{_FUNCTION}|{_IMPORT}|^\s*(?:\w+\s+)*(?:class|struct|interface)\b|^\s*return\s*[\w.\"']*;?\s*$"
_PRINT = r"\bprint\(|\bconsole\.log\(|\bf?printf\(|\bcout\b|\bfmt\.Print|\bSystem\.out\.|\bConsole\.Write"
_LONG_LINE = 1000


def marks(view: View, name: str) -> list[Span]:
    """Spans of the text behind the signal `name`; none where there is nothing to point at or the file is very long."""
    marker = _MARKERS.get(name)
    if marker is None or len(view.text) > _LONGEST:
        return []
    found = []
    for span in marker(view):
        found.append(span)
        if len(found) == MOST:
            break
    return found


def pattern(expression: str, flags: int = 0) -> Marker:
    """Every match in the text."""
    compiled = re.compile(expression, flags)
    return lambda view: (match.span() for match in compiled.finditer(view.text))


def lines(expression: str, flags: int = 0) -> Marker:
    """Every line in which the expression is found."""
    compiled = re.compile(expression, flags)
    return lambda view: _lines(view, lambda line: compiled.search(line) is not None)


def _lines(view: View, chosen: Callable[[str], bool]) -> Iterator[Span]:
    start = 0
    for line in view.lines:
        if chosen(line):
            yield start, start + len(line)
        start += len(line) + 1


def located(text: str, pieces: Iterable[str]) -> Iterator[Span]:
    """Where the pieces stand, each looked for behind the one before; those that are not there are left out."""
    at = 0
    for piece in pieces:
        start = text.find(piece, at) if piece else -1
        if start >= 0:
            at = start + len(piece)
            yield start, at


def _words(view: View) -> tuple[list[str], list[Span]]:
    found = [(match[0].lower(), match.span()) for match in _WORD.finditer(view.text)]
    return [word for word, _ in found], [span for _, span in found]


def _ngrams(view: View, n: int) -> tuple[list[tuple[str, ...]], list[Span]]:
    """The n-grams of words and the stretch of text that each takes."""
    words, spans = _words(view)
    grams = list(zip(*(words[i:] for i in range(n)), strict=False))
    return grams, [(spans[i][0], spans[i + n - 1][1]) for i in range(len(grams))]


def top_ngram(view: View, n: int) -> Iterator[Span]:
    """The most frequent n-gram wherever it stands."""
    grams, spans = _ngrams(view, n)
    top = Counter(grams).most_common(1)
    return (span for gram, span in zip(grams, spans, strict=True) if gram == top[0][0])


def repeated_ngrams(view: View, n: int) -> Iterator[Span]:
    """Every n-gram that stands somewhere else, too."""
    grams, spans = _ngrams(view, n)
    counts = Counter(grams)
    return (span for gram, span in zip(grams, spans, strict=True) if counts[gram] > 1)


def repeated_lines(view: View) -> Iterator[Span]:
    """Lines that stand somewhere else, too, white space aside."""
    counts = Counter("".join(line.split()) for line in view.lines)
    return _lines(view, lambda line: any(map(str.isalnum, line)) and counts["".join(line.split())] > 1)


def comments(view: View, containing: str = "") -> Iterator[Span]:
    """Lines of comments and docstrings, or those of them in which an expression is found."""
    for start, end in located(view.text, map(str.strip, view.split.comment.split("\n"))):
        if re.search(containing, view.text[start:end], re.IGNORECASE):
            yield start, end


def strings(view: View) -> Iterator[Span]:
    """Lines of string literals."""
    return located(view.text, view.split.strings.text.split("\n"))


def long_words_in_strings(view: View) -> Iterator[Span]:
    for start, end in strings(view):
        for match in re.finditer(r"\S{21,}", view.text[start:end]):
            yield start + match.start(), start + match.end()


def encoded(view: View) -> Iterator[Span]:
    for expression in (_BASE64, _BYTES):
        yield from (match.span() for match in expression.finditer(view.text))


def syntax_error(view: View) -> Iterator[Span]:
    """Where Python's parser gave up."""
    if view.language != "python":
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ast.parse(view.text)
    except SyntaxError as error:
        for number, span in enumerate(_lines(view, lambda line: True), start=1):
            if number == error.lineno:
                yield span[0], max(span[1], span[0] + 1)
    except (ValueError, RecursionError, MemoryError):
        pass


_MARKERS: dict[str, Marker] = {
    **{f"frac_chars_top_{n}grams": partial(top_ngram, n=n) for n in TOP_SIZES},
    **{f"frac_chars_dupe_{n}grams": partial(repeated_ngrams, n=n) for n in DUPLICATE_SIZES},
    "frac_lines_dupe_lines": repeated_lines,
    "frac_chars_dupe_lines": repeated_lines,
    "num_chars_line_max": lambda view: _lines(view, lambda line: len(line) >= _LONG_LINE),
    "num_chars_line_mean": lambda view: _lines(view, lambda line: len(line) > 200),
    "mean_word_length": pattern(r"[^\W_]{18,}"),
    "frac_chars_replacement_symbols": pattern("\ufffd+"),
    "frac_chars_alphabet": pattern(r"[^\sA-Za-z]{2,}"),
    "frac_chars_digital": pattern(r"\d+"),
    "frac_chars_whitespace": pattern(r"[^\S\n]{2,}"),
    "frac_chars_hex_words": pattern(r"\b0[xX][0-9a-fA-F]+\b"),
    "frac_chars_curly_bracket": pattern(r"[{}]+"),
    "cate_encoded_data": encoded,
    "frac_lines_long_string": strings,
    "frac_chars_string_length": strings,
    "frac_chars_long_word_length": long_words_in_strings,
    "frac_lines_string_concat": lines(r"=.*[\"']\s*\+\s*[\"']"),
    "cate_xml_start": pattern(r"\A.{0,86}<\?xml version=[^>]*>?", re.DOTALL),
    "cate_autogen": lambda view: (
        match.span()
        for match in re.finditer(r"[^\n]*(?:generat|autogen|do not edit)[^\n]*", view.text[:200], re.IGNORECASE)
    ),
    "frac_chars_comments": comments,
    "frac_lines_prompt_comments": partial(comments, containing="todo|fixme|your code here"),
    "frac_lines_assert": lines("assert", re.IGNORECASE),
    "cate_ast": syntax_error,
    "frac_lines_func_ratio": lines(_FUNCTION),
    "frac_lines_simplefunc": lines(r"^\s*(?:async\s+)?def\s|^\s*return\b"),
    "score_lines_no_logic": lines(_NO_LOGIC),
    "frac_lines_print": lines(_PRINT),
    "frac_lines_pass": lines(r"\bpass\s*$"),
    "frac_lines_import": lines(_IMPORT),
    "frac_lines_goto": lines(r"\bgoto\b"),
    "frac_lines_preprocessor_directives": lines(r"^\s*#"),
    "nums_lines_main": lines(r"\bmain\s*\("),
    "frac_words_all_caps": pattern(r"\b[A-Z][A-Z0-9_]+\b"),
    "frac_words_full_bracket": pattern("[【】]"),
    "frac_lines_end_with_readmore": lines(r"(?:\.\.\.|…|全文|详情|详细|更多)[\]】)>》\s]*$"),
    "frac_lines_start_with_bullet": lines(r"^\s*[\u2022\u2023\u25a0-\u25ef\u2043]"),
    "frac_chars_hyperlink_html_tag": pattern(r"\(https?://\S+\)|<[^<>\n]*>"),
    "frac_words_text": pattern(r"(?<=>)[^<>]*[^<>\s][^<>]*(?=<)"),
    "num_chars_text": pattern(r"(?<=>)[^<>]*[^<>\s][^<>]*(?=<)"),
}
