"""URLs: domains, path prefixes, and the patterns by which a person says which parts of a domain are about code.

A pattern is a host and the beginning of a path, ``segmentfault.com/q``; ``%`` stands for anything, as in the paper's
list (table 14). It is compared without scheme and ``www.``, and ends where a part of the path ends.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import re
import tomllib
from collections.abc import Iterable
from pathlib import Path

MAX_DEPTH = 2  # parts of a path in a proposed pattern


def place(url: str) -> str:
    """``host/path`` of a URL in lower-case host, without scheme, user, port, ``www.``, query and fragment."""
    rest = re.split(r"[?#]", re.sub(r"^[A-Za-z][A-Za-z0-9+.-]*://", "", url.strip()), maxsplit=1)[0]
    host, slash, path = rest.partition("/")
    host = re.sub(r":\d*$", "", host.rpartition("@")[2]).lower().rstrip(".")
    return host.removeprefix("www.") + slash + path


def domain(url: str) -> str:
    """The host of a URL, without ``www.``: ``https://www.cnblogs.com/x`` → ``cnblogs.com``."""
    return place(url).partition("/")[0]


def repo_and_path(url: str) -> tuple[str, str]:
    """What a page is called as a document: its domain, and its path with the query."""
    host, _, path = place(url).partition("/")
    query = re.search(r"\?[^#]*", url)
    return host, (path or "index.html") + (query[0] if query else "")


def prefixes(url: str) -> list[str]:
    """The host, and the host with one, two … directories of the path, `MAX_DEPTH` at most."""
    parts = [part for part in place(url).split("/")[:-1] if part] or [domain(url)]
    return ["/".join(parts[:depth]) for depth in range(1, min(len(parts), 1 + MAX_DEPTH) + 1)]


@dataclasses.dataclass(frozen=True)
class Patterns:
    """A set of patterns."""

    patterns: tuple[str, ...]

    def match(self, url: str) -> bool:
        """Whether one of the patterns is that of `url`."""
        found = place(url)
        return any(expression.match(found) for expression in _by_host(self.patterns).get(found.partition("/")[0], ()))


@functools.lru_cache(8)
def _by_host(patterns: tuple[str, ...]) -> dict[str, list[re.Pattern[str]]]:
    hosts: dict[str, list[re.Pattern[str]]] = {}
    for pattern in patterns:
        plain = place(pattern)
        end = "" if "%" in plain else r"(?:/|$)"
        expression = re.compile(".*".join(map(re.escape, plain.rstrip("/").split("%"))) + end)
        hosts.setdefault(re.split("[/%]", plain, maxsplit=1)[0], []).append(expression)
    return hosts


def read_patterns(path: Path) -> dict[str, list[str]]:
    """The lists of a file of patterns: ``code``, those of code-related pages, and ``rejected``.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is not TOML, or holds something else than the two lists of strings.
    """
    try:
        lists = tomllib.loads(path.read_text("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: {error}") from error
    for name, patterns in lists.items():
        if name not in ("code", "rejected"):
            raise ValueError(f"{path}: {name!r} is neither 'code' nor 'rejected'")
        if not isinstance(patterns, list) or not all(isinstance(pattern, str) for pattern in patterns):
            raise ValueError(f"{path}: {name} must be a list of strings")
    return {"code": lists.get("code", []), "rejected": lists.get("rejected", [])}


def as_toml(name: str, patterns: Iterable[tuple[str, str]]) -> str:
    """One list of a file of patterns, with a remark behind each."""
    lines = [f"  {json.dumps(pattern)},  # {remark}\n" for pattern, remark in patterns]
    return f"{name} = [\n{''.join(lines)}]\n"
