"""Signals of HTML as the released filter computes them.

Its parser, BeautifulSoup, accepts anything and is slow. Only the profile ``reference`` needs it:
requirements-reference.txt.
"""

from __future__ import annotations

import warnings

from data_prep.quality.group import Group, Value, fraction
from data_prep.quality.view import View

SIGNALS = Group()

MAX_CHARACTERS = 2_000_000


def page_text(view: View) -> str | None:
    """All strings but those of scripts, styles, templates, comments and ruby annotations; None where parsing fails."""
    import bs4

    source = view.within_budget("HTML tree", MAX_CHARACTERS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", bs4.MarkupResemblesLocatorWarning)
            return bs4.BeautifulSoup(source, "html.parser").get_text()
    except (AssertionError, ValueError, RecursionError, bs4.ParserRejectedMarkup):
        return None


@SIGNALS.signal
def cate_ast(view: View) -> Value:
    """1 where the parser ends without an error, as it does for nearly any text."""
    return float(view.once(page_text) is not None)


@SIGNALS.signal
def frac_words_text(view: View) -> Value:
    """Characters of text among all characters."""
    text = view.once(page_text)
    return None if text is None else fraction(len(text), len(view.text))


@SIGNALS.signal
def num_chars_text(view: View) -> Value:
    """Characters of text."""
    text = view.once(page_text)
    return None if text is None else len(text)
