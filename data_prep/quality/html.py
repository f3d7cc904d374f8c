"""Signals of HTML pages: how much of a page is text to read."""

from __future__ import annotations

import html
import re

from data_prep.quality.group import Group, Value, fraction
from data_prep.quality.view import View

SIGNALS = Group()

_HIDDEN = re.compile(r"<(!--|script\b|style\b|template\b)", re.IGNORECASE)
_CLOSERS = {
    "!--": re.compile("-->"),
    **{name: re.compile(rf"</{name}\b[^>]*+>", re.IGNORECASE) for name in ("script", "style", "template")},
}
_TAG = re.compile(r"<[/!?]?+[a-zA-Z][^<>]*+>")


def page(view: View) -> tuple[str, int, int]:
    """The text between tags, entities decoded; its characters with the tags; and how many tags there are.

    Scripts, styles, templates and comments count as neither. Linear time: each closer is searched in vain only once.
    """
    source = view.text
    shown: list[str] = []
    missing: set[str] = set()
    done = position = 0
    while opener := _HIDDEN.search(source, position):
        name, position = opener[1].lower(), opener.end()
        closer = None if name in missing else _CLOSERS[name].search(source, position)
        if closer:
            shown.append(source[done : opener.start()])
            done = position = closer.end()
        else:
            missing.add(name)
    marked_up = "".join([*shown, source[done:]])
    text, tags = _TAG.subn("", marked_up)
    return html.unescape(text), len(marked_up), tags


@SIGNALS.signal
def cate_ast(view: View) -> Value:
    """1 where there is a tag."""
    return float(view.once(page)[2] > 0)


@SIGNALS.signal
def frac_words_text(view: View) -> Value:
    """Text among all characters of the page but scripts, styles and comments."""
    text, marked_up, _ = view.once(page)
    return fraction(len(text), marked_up)


@SIGNALS.signal
def num_chars_text(view: View) -> Value:
    """Characters of text."""
    return len(view.once(page)[0])
