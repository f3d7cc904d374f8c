"""File name and content → programming language and type of document (paper §2.1).

tables/languages.json holds linguist's languages of the types that the paper keeps or excludes (tables/generate.py), in
lower case (`cpp` and `csharp` for C++ and C#). Where several languages share an extension, patterns of
tables/ambiguous.toml decide by the content.
"""

from __future__ import annotations

import functools
import json
import re
import tomllib
from pathlib import Path
from typing import Any

UNKNOWN = "unknown"
HEAD = 16_384  # characters that decide between languages that share an extension

_DIRECTORY = Path(__file__).parent / "tables"
_SHEBANG = re.compile(r"#![ \t]*(\S+)(.*)")
_TABLES = json.loads((_DIRECTORY / "languages.json").read_text("utf-8"))
_AMBIGUOUS = {
    extension: rules
    for extensions, rules in tomllib.loads((_DIRECTORY / "ambiguous.toml").read_text("utf-8")).items()
    for extension in extensions.split()
}


def _inverted(table: dict[str, list[str]]) -> dict[str, str]:
    return {item: key for key, items in table.items() for item in items}


_FILENAMES, _EXTENSIONS, _INTERPRETERS, _TYPES = (
    _inverted(_TABLES[key]) for key in ("filenames", "extensions", "interpreters", "types")
)


def detect(path: str, text: str | None) -> tuple[str, str]:
    """Language and type (code, data, text, excluded or unknown) of a file.

    The file's name is looked up first, then its extension (exactly, then in lower case; `text` decides where languages
    share it), then the interpreter that the first line of `text` names.
    """
    name = path.rsplit("/", 1)[-1]
    language = _FILENAMES.get(name) or _by_extension(name, text or "") or _by_shebang(text or "") or UNKNOWN
    return language, doc_type(language)


def detect_by_name(path: str, text: str | None) -> tuple[str, str]:
    """The same as the released filter has it: by its own tables, exact names and what follows the last dot."""
    filenames, extensions, types = _released()
    name = path.rsplit("/", 1)[-1]
    extension = name.rpartition(".")[2] if "." in name[1:] else ""
    language = filenames.get(name) or extensions.get(extension) or UNKNOWN
    return language, types.get(language, UNKNOWN)


def doc_type(language: str) -> str:
    """Type of a language: code, data, text, excluded (the paper's list of low-quality types) or unknown."""
    return _TYPES.get(language, UNKNOWN)


def canonical(name: str | None) -> str:
    """The name these tables use for a language that another data set calls `name`, or "unknown"."""
    lower = (name or "").lower()
    language = {"c++": "cpp", "c#": "csharp"}.get(lower) or _TABLES["called"].get(lower, lower)
    return language if language in _TYPES else UNKNOWN


@functools.cache
def _released() -> tuple[dict[str, str], dict[str, str], dict[str, str]]:
    tables: dict[str, Any] = json.loads((_DIRECTORY / "released_languages.json").read_text("utf-8"))
    return _inverted(tables["filenames"]), _inverted(tables["extensions"]), _inverted(tables["types"])


def _by_extension(name: str, text: str) -> str | None:
    pieces = name.split(".")
    for extension in (".".join(pieces[-2:]), pieces[-1]) if len(pieces) > 2 else pieces[1:]:
        for spelling in (extension, extension.lower()):
            if language := _EXTENSIONS.get(spelling):
                return language
            if spelling in _AMBIGUOUS:
                return _by_content(spelling, text)
    return None


def _by_content(extension: str, text: str) -> str | None:
    """The language of a file with an extension that several share; None if it shows the marks of none of them."""
    patterns, default = _patterns(extension)
    head = text[:HEAD]
    return next((language for language, pattern in patterns if pattern.search(head)), default)


@functools.cache
def _patterns(extension: str) -> tuple[list[tuple[str, re.Pattern[str]]], str | None]:
    rules = _AMBIGUOUS[extension]
    patterns = [(key, re.compile(rule, re.MULTILINE)) for key, rule in rules.items() if key != "default"]
    return patterns, None if rules["default"] == UNKNOWN else rules["default"]


def _by_shebang(text: str) -> str | None:
    match = _SHEBANG.match(text)
    if not match:
        return None
    command, arguments = match.groups()
    program = command.rsplit("/", 1)[-1]
    if program == "env":
        program = next((word for word in arguments.split() if not word.startswith("-") and "=" not in word), "")
    program = program.rsplit("/", 1)[-1]
    return _INTERPRETERS.get(program) or _INTERPRETERS.get(program.rstrip("0123456789."))
