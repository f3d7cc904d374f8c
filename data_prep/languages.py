"""File name and content → programming language and type of document (paper §2.1).

The tables are those of the reference filter, derived from github-linguist: tables/languages.json names its sources and
what was corrected. Languages have linguist's names in lower case (`cpp` and `csharp` for C++ and C#).
"""

from __future__ import annotations

import json
import re
from pathlib import Path

UNKNOWN = "unknown"

_TABLES = json.loads((Path(__file__).parent / "tables" / "languages.json").read_text("utf-8"))
_FILENAMES = {name: language for language, names in _TABLES["filenames"].items() for name in names}
_EXTENSIONS = {extension: language for language, names in _TABLES["extensions"].items() for extension in names}
_TYPES = {language: kind for kind, languages in _TABLES["types"].items() for language in languages}
_RELEASED = _TABLES["released"]  # entries in which the released filter's tables differ
_INTERPRETERS = {
    "python": "python",
    "pypy": "python",
    "sh": "shell",
    "ash": "shell",
    "bash": "shell",
    "dash": "shell",
    "ksh": "shell",
    "zsh": "shell",
    "perl": "perl",
    "node": "javascript",
    "nodejs": "javascript",
    "ruby": "ruby",
}
_SHEBANG = re.compile(r"#![ \t]*(\S+)(.*)")


def detect(path: str, text: str | None) -> tuple[str, str]:
    """Language and type (code, data, text, excluded or unknown) of a file.

    The file's name is looked up first, then its extension (exactly, then in lower case), then the interpreter that the
    first line of `text` names.
    """
    name = path.rsplit("/", 1)[-1]
    language = _FILENAMES.get(name) or _by_extension(name) or _by_shebang(text or "") or UNKNOWN
    return language, doc_type(language)


def detect_by_name(path: str, text: str | None) -> tuple[str, str]:
    """The same as the released filter has it: by its own tables, exact names and what follows the last dot."""
    name = path.rsplit("/", 1)[-1]
    extension = name.rpartition(".")[2] if "." in name[1:] else ""
    by_extension = _RELEASED["extensions"].get(extension) or _EXTENSIONS.get(extension)
    language = _FILENAMES.get(name) or by_extension or UNKNOWN
    return language, _RELEASED["types"].get(language) or doc_type(language)


def doc_type(language: str) -> str:
    """Type of a language: code, data, text, excluded (the paper's list of low-quality types) or unknown."""
    return _TYPES.get(language, UNKNOWN)


def canonical(name: str | None) -> str:
    """The name these tables use for a language that another data set calls `name`, or "unknown"."""
    lower = (name or "").lower()
    language = {"c++": "cpp", "c#": "csharp"}.get(lower, lower)
    return language if language in _TYPES else UNKNOWN


def _by_extension(name: str) -> str | None:
    pieces = name.split(".")
    for extension in (".".join(pieces[-2:]), pieces[-1]) if len(pieces) > 2 else pieces[1:]:
        language = _EXTENSIONS.get(extension) or _EXTENSIONS.get(extension.lower())
        if language:
            return language
    return None


def _by_shebang(text: str) -> str | None:
    match = _SHEBANG.match(text)
    if not match:
        return None
    command, arguments = match.groups()
    program = command.rsplit("/", 1)[-1]
    if program == "env":
        program = next((word for word in arguments.split() if not word.startswith("-") and "=" not in word), "")
    return _INTERPRETERS.get(program.rsplit("/", 1)[-1].rstrip("0123456789."))
