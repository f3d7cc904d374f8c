"""The main text of a web page by trafilatura, with preformatted blocks as they are on the page.

An extractor for prose joins lines and drops indentation, so every ``<pre>`` is lifted out first, a word that stands
nowhere else takes its place, and what comes back between fences is the text that a browser would show.
"""

from __future__ import annotations

import hashlib
import re
from typing import Any

import lxml.etree
import lxml.html
import trafilatura


def main_text(html: str) -> str | None:
    """Main text of a page, None if it has none; each ``<pre>`` is in it as a fenced block, exactly, and in order.

    A block in a part of the page that the extractor takes for boilerplate is kept behind the block before it.
    """
    marker = "codeblock" + hashlib.sha256(html.encode()).hexdigest()[:16]
    try:
        tree = lxml.html.document_fromstring(html.encode(), parser=lxml.html.HTMLParser(encoding="utf-8"))
        blocks = _lift(tree, marker)
        prose = trafilatura.extract(tree, fast=True, favor_recall=True, include_comments=False) or ""
    except (lxml.etree.LxmlError, ValueError, RecursionError):
        return None
    return _put_back(prose, blocks, marker).strip("\n") or None


def _lift(tree: Any, marker: str) -> list[str]:
    """Texts of the preformatted blocks, in order; paragraphs with a marker and a number stand for them in `tree`."""
    blocks: list[str] = []
    for element in list(tree.iter("pre")):
        if next(element.iterancestors("pre"), None) is not None:
            continue
        for line_break in element.iter("br"):
            line_break.tail = "\n" + (line_break.tail or "")
        text = element.text_content().removeprefix("\n")  # the line end behind the tag belongs to the tag
        if text.strip():
            paragraph = lxml.etree.Element("p")
            paragraph.text, paragraph.tail = f"{marker}x{len(blocks)}x", element.tail
            element.getparent().replace(element, paragraph)
            blocks.append(text)
    return blocks


def _put_back(prose: str, blocks: list[str], marker: str) -> str:
    pieces = re.split(rf"[ \t]*{marker}x(\d+)x[ \t]*\n?", prose)  # text, number, text, … number, text
    found = set(map(int, pieces[1::2]))
    waiting = 0
    text = pieces[0]
    for number, rest in zip(map(int, pieces[1::2]), pieces[2::2], strict=True):
        while waiting <= number:
            if waiting == number or waiting not in found:
                text = _with_block(text, blocks[waiting])
            waiting += 1
        text += rest
    for number in range(len(blocks)):
        if number not in found and number >= waiting:
            text = _with_block(text, blocks[number])
    return text


def _with_block(text: str, block: str) -> str:
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", block)), default=0))
    before = text + ("\n" if text and not text.endswith("\n") else "")
    return f"{before}{fence}\n{block}{'' if block.endswith(chr(10)) else chr(10)}{fence}\n"
