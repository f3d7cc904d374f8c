"""What a splitter returns: the code, the comments and the string literals of a file."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Iterator
from functools import cached_property

# One alternative per delimiter, the triple ones first: where a triple quote is never closed, its first two marks are
# an empty string.
_STRING = re.compile(r"""'''(.*?)'''|\"""(.*?)\"""|'([^']*)'|"([^"]*)\"""", re.DOTALL)
_STRING_IN_LINE = re.compile(r"""'''(.*?)'''|\"""(.*?)\"""|'([^'\n]*)'|"([^"\n]*)\"""", re.DOTALL)


@dataclasses.dataclass(frozen=True)
class Literals:
    """String literals of a file: their contents, each of which ends with an LF, be it an added one."""

    text: str
    characters: int  # without the added LFs

    @classmethod
    def of(cls, contents: Iterable[str]) -> Literals:
        """Those with these contents, empty ones left out."""
        found = [content for content in contents if content]
        return cls("".join(c if c.endswith("\n") else c + "\n" for c in found), sum(map(len, found)))


@dataclasses.dataclass(frozen=True)
class Split:
    """A file taken apart.

    `code` and `comment` are texts to look at by line. `comment_characters` is what the comments take of the file, None
    where the splitter does not know how comments look.
    `literals`: the string literals, where the splitter knows the quoting rules of the language; None leaves it to two
    regular expressions that know neither escapes nor apostrophes.
    """

    code: str
    comment: str
    comment_characters: int | None
    literals: Literals | None = None

    @cached_property
    def strings(self) -> Literals:
        """The string literals, which may span lines."""
        return self.literals or Literals.of(_contents(_STRING, self.code))

    @cached_property
    def strings_in_line(self) -> Literals:
        """The same, but only triple-quoted ones may span lines."""
        return self.literals or Literals.of(_contents(_STRING_IN_LINE, self.code))


def _contents(pattern: re.Pattern[str], code: str) -> Iterator[str]:
    for match in pattern.finditer(code):
        yield match[match.lastindex or 0]
