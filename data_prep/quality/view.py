"""A file parsed once: whatever two signals share is computed at most once, and only when one asks for it."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any, TypeVar

import numpy as np

from data_prep.quality import tokens
from data_prep.quality.ngrams import NgramStatistics, ngram_statistics
from data_prep.quality.split import Split
from data_prep.quality.words import normalised, spaced

BYTE_ORDER_MARK = "\ufeff"

T = TypeVar("T")


class OverBudgetError(Exception):
    """A step would cost more than a file may: the signals that need it fail with this cause."""


class View:
    """One file.

    Args:
        text: the decoded file; CRLF and CR become LF, since only LF ends a line in every rule.
        language: name of the programming language, as in tables/languages.json.
        size: bytes of the raw file, None where unknown.
        path: with slashes; its last part is the file's name.
        splitter: tells code from comments.
        max_characters: what a file may have for the costly steps; beyond, the signals that need them fail.
        natural_language: of a text, where it is known.
        keep_byte_order_mark: leave a leading U+FEFF in the text, where it counts as a character and breaks parsers.
    """

    def __init__(
        self,
        text: str,
        language: str,
        size: int | None,
        splitter: Callable[[str, str], Split],
        max_characters: int,
        path: str = "",
        natural_language: str | None = None,
        keep_byte_order_mark: bool = False,
    ):
        if not keep_byte_order_mark:
            text = text.removeprefix(BYTE_ORDER_MARK)
        self.text = text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text
        self.language = language
        self.size = size
        self.name = path.rpartition("/")[2]
        self.natural_language = natural_language
        self._splitter = splitter
        self._max_characters = max_characters
        self._computed: dict[Callable[[View], Any], Any] = {}

    @property
    def extension(self) -> str:
        """What follows the last dot of the name, case kept; empty where there is none."""
        return self.name.rpartition(".")[2] if "." in self.name else ""

    def within_budget(self, step: str, most: int | None = None) -> str:
        """The text. Raises OverBudgetError where it has more than `most` or the view's maximum of characters.

        The measure is a size and not a time, so a file fails on every machine or on none.
        """
        budget = self._max_characters if most is None else min(most, self._max_characters)
        if len(self.text) > budget:
            raise OverBudgetError(f"{step}: {len(self.text)} characters, the budget is {budget}")
        return self.text

    @cached_property
    def lines(self) -> list[str]:
        """Lines without their LF; a trailing LF opens no further line."""
        lines = self.text.split("\n")
        return lines[:-1] if not lines[-1] else lines

    @cached_property
    def points(self) -> np.ndarray:
        """Code points of the text: integers [characters]."""
        return tokens.code_points(self.text)

    @cached_property
    def line_lengths(self) -> np.ndarray:
        """Characters of each line, its LF included: int64 [lines]."""
        return tokens.line_lengths(self.points)

    @cached_property
    def stripped_lines(self) -> tokens.Tokens:
        """All lines without leading and trailing white space, blank ones left out."""
        return tokens.stripped_lines(self.points)

    @cached_property
    def _counts(self) -> tuple[int, int, int]:
        return tokens.counts(self.points)

    @property
    def letters(self) -> int:
        """Letters of any script."""
        return self._counts[0]

    @property
    def digits(self) -> int:
        """Digits of any script."""
        return self._counts[1]

    @property
    def visible(self) -> int:
        """Characters that are not white space."""
        return len(self.text) - self._counts[2]

    @cached_property
    def words(self) -> NgramStatistics:
        """Statistics of the normalised words."""
        self.within_budget("words")
        return ngram_statistics(normalised(self.points, self.natural_language))

    @cached_property
    def raw_words(self) -> dict[str, int]:
        """How often each word and run of punctuation occurs as it stands, case kept."""
        text = self.within_budget("words")
        found = tokens.words(tokens.code_points(spaced(text)) if self.natural_language == "zh" else self.points)
        return dict(zip(found.strings(), found.counts.tolist(), strict=True))

    @cached_property
    def split(self) -> Split:
        """Code, comments and string literals."""
        return self._splitter(self.within_budget("code and comments"), self.language)

    @cached_property
    def code_lines(self) -> list[str]:
        """Lines of code that are not blank."""
        return [line for line in self.split.code.split("\n") if line.strip()]

    @cached_property
    def squeezed_lines(self) -> tokens.Tokens:
        """The same without any white space."""
        return tokens.squeezed_lines(tokens.code_points(self.split.code))

    @property
    def num_code_lines(self) -> int:
        """How many lines of code are not blank."""
        return len(self.squeezed_lines)

    def once(self, compute: Callable[[View], T]) -> T:
        """`compute(self)`, computed at most once, be it in vain: for what only the signals of one language share."""
        if compute not in self._computed:
            try:
                self._computed[compute] = compute(self)
            except Exception as error:
                self._computed[compute] = error
        result = self._computed[compute]
        if isinstance(result, Exception):
            raise result
        return result
